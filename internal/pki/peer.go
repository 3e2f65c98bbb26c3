// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// PeerConfig is for a connection between two of one kind, each of which may have dialled:
// both show their certificates, and both must be of that kind, from an authority that
// is trusted at that moment. What name the other has, PeerName tells.
func PeerConfig(s *Source, kind Kind) *tls.Config {
	m := s.current()
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{m.cert},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		// Not to be verified as a host that was dialled, but by VerifyConnection, which
		// runs on both sides.
		InsecureSkipVerify: true,
		VerifyConnection: func(st tls.ConnectionState) error {
			opts := x509.VerifyOptions{
				Roots: m.roots, Intermediates: x509.NewCertPool(),
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}
			for _, c := range st.PeerCertificates[1:] {
				opts.Intermediates.AddCert(c)
			}
			if _, err := st.PeerCertificates[0].Verify(opts); err != nil {
				return fmt.Errorf("the other side's certificate: %w", err)
			}
			id, err := Of(st.PeerCertificates[0])
			if err == nil && id.Kind != kind {
				err = fmt.Errorf("the other side is %s, not a %s", id, kind)
			}
			return err
		},
	}
}

// PeerName returns the name in the certificate at the other end of a connection that
// PeerConfig was for, after its handshake.
func PeerName(c *tls.Conn) (string, error) {
	certs := c.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return "", errors.New("the handshake is not complete")
	}
	id, err := Of(certs[0])
	return id.Name, err
}
