// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// tlsOptions are the flags about TLS, which are simple_switch_grpc's.
type tlsOptions struct {
	on, clients   bool
	cert, key, ca string
}

// config returns nil if TLS is off. Certificate and key are read again for each
// connection, so that renewed ones need no restart.
func (o *tlsOptions) config() (*tls.Config, error) {
	switch {
	case !o.on && (o.clients || o.cert != "" || o.key != "" || o.ca != ""):
		return nil, errors.New("certificates are given, but TLS is off: give --grpc-server-ssl as well")
	case !o.on:
		return nil, nil
	case o.cert == "" || o.key == "":
		return nil, errors.New("--grpc-server-ssl needs a certificate: give --grpc-server-cert FILE and --grpc-server-key FILE")
	case o.clients && o.ca == "":
		return nil, errors.New("--grpc-server-with-client-auth needs to know whom to trust: give --grpc-server-cacert FILE")
	}
	load := func() (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, fmt.Errorf("--grpc-server-cert %s, --grpc-server-key %s: %w", o.cert, o.key, err)
		}
		return &c, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
	}
	if o.ca != "" {
		pem, err := readFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("--grpc-server-cacert: %w", err)
		}
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--grpc-server-cacert %s: no certificate in PEM form", o.ca)
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if o.clients {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}
