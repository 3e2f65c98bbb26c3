// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

// Peer is what a server's call knows of the other side: the AuthInfo of its peer. A
// client without a certificate, or with a bad one, gets as far as its first call, so
// that it can be told what is wrong; whoever serves calls must ask Identity before it
// does anything.
type Peer struct {
	credentials.TLSInfo
	source *Source
}

// Why a Peer is nobody. Errors of Identity wrap one of these, or ErrNobody.
var (
	// ErrNoCertificate: it has shown none.
	ErrNoCertificate = errors.New("no client certificate")
	// ErrExpired: its certificate is over, or has not begun.
	ErrExpired = errors.New("the client certificate is not valid now")
	// ErrUntrusted: no authority vouches for it.
	ErrUntrusted = errors.New("the client certificate is not from an authority that is trusted here")
)

// Identity verifies the certificate once more, against the authorities of this
// moment: a long connection does not outlive its certificate.
func (p Peer) Identity(now time.Time) (Identity, error) {
	certs := p.State.PeerCertificates
	if len(certs) == 0 {
		return Identity{}, fmt.Errorf("%w; give one, and its key (see understudy certs)", ErrNoCertificate)
	}
	leaf := certs[0]
	who := leaf.Subject.CommonName
	if id, err := Of(leaf); err == nil {
		who = id.String()
	}
	opts := x509.VerifyOptions{
		Roots: p.source.current().roots, Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(opts)
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Identity{}, fmt.Errorf("%w: that of %s is good from %s to %s; renew it, or set the clock", ErrExpired, who,
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
	case err != nil:
		return Identity{}, fmt.Errorf("%w: that of %s: %v; use one that was issued for this controller", ErrUntrusted, who, err)
	}
	return Of(leaf)
}

// server are credentials for a gRPC server.
type server struct {
	credentials.TransportCredentials
	source *Source
}

// ServerCredentials show the source's certificate, and ask clients for theirs: see
// Peer.
func ServerCredentials(s *Source) credentials.TransportCredentials {
	return server{credentials.NewTLS(&tls.Config{}), s}
}

func (c server) Clone() credentials.TransportCredentials { return c }

// ServerHandshake implements credentials.TransportCredentials.
func (c server) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	m := c.source.current()
	conn, info, err := credentials.NewTLS(&tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.cert},
		// Peer verifies: what is refused here could not be told why.
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
	}).ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	return conn, Peer{info.(credentials.TLSInfo), c.source}, nil
}

// client are credentials for a gRPC client.
type client struct {
	credentials.TransportCredentials
	source *Source
	want   Kind
}

// ClientCredentials show the source's certificate to a server, which must be of a
// kind, and must have the name that is dialled in its certificate.
func ClientCredentials(s *Source, want Kind) credentials.TransportCredentials {
	return client{credentials.NewTLS(&tls.Config{}), s, want}
}

func (c client) Clone() credentials.TransportCredentials { return c }

// ClientHandshake implements credentials.TransportCredentials.
func (c client) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	m := c.source.current()
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    m.roots,
		// Whatever the server would like to see: it says what is wrong with it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &m.cert, nil },
		VerifyConnection: func(st tls.ConnectionState) error {
			id, err := Of(st.PeerCertificates[0])
			if err == nil && id.Kind != c.want {
				err = fmt.Errorf("%s answers, not a %s; correct the address", id, c.want)
			}
			return err
		},
	}).ClientHandshake(ctx, authority, raw)
}
