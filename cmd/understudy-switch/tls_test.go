// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue writes a certificate and its key into a directory.
func (a *authority) issue(dir, name string, notAfter time.Time) (certFile, keyFile string) {
	a.t.Helper()
	key := newKey(a.t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	b, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writePEM(a.t, certFile, "CERTIFICATE", der)
	writePEM(a.t, keyFile, "EC PRIVATE KEY", b)
	return certFile, keyFile
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLSFlags(t *testing.T) {
	dir := t.TempDir()
	cert, key := newAuthority(t, "ca").issue(dir, "switch", time.Now().Add(time.Hour))
	for _, tc := range []struct {
		name string
		o    tlsOptions
		want string // "" is right
	}{
		{"off", tlsOptions{}, ""},
		{"on", tlsOptions{on: true, cert: cert, key: key}, ""},
		{"without certificate", tlsOptions{on: true}, "give --grpc-server-cert FILE and --grpc-server-key FILE"},
		{"certificate, but off", tlsOptions{cert: cert, key: key}, "give --grpc-server-ssl as well"},
		{"clients without authority", tlsOptions{on: true, cert: cert, key: key, clients: true}, "give --grpc-server-cacert FILE"},
		{"no such file", tlsOptions{on: true, cert: "nowhere", key: key}, "no such file"},
		{"no authority in the file", tlsOptions{on: true, cert: cert, key: key, ca: key}, "no certificate in PEM form"},
	} {
		c, err := tc.o.config()
		if (c != nil) != (tc.want == "" && tc.o.on) || (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestTLS lets in who may come in, and nobody else.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ours, foreign := newAuthority(t, "ours"), newAuthority(t, "foreign")
	later := time.Now().Add(time.Hour)
	o := options{addr: "unix:" + filepath.Join(dir, "p4rt"), cpuPort: 510, dropPort: 511, logLevel: "error", tls: tlsOptions{on: true, clients: true, ca: filepath.Join(dir, "ca.pem")}}
	o.tls.cert, o.tls.key = ours.issue(dir, "switch", later)
	writePEM(t, o.tls.ca, "CERTIFICATE", ours.cert.Raw)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, o, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	client := func(files ...string) credentials.TransportCredentials {
		c := &tls.Config{RootCAs: roots, ServerName: "switch"}
		if len(files) == 2 {
			pair, err := tls.LoadX509KeyPair(files[0], files[1])
			if err != nil {
				t.Fatal(err)
			}
			// Whatever the server would like to see.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		return credentials.NewTLS(c)
	}
	pair := func(a *authority, name string, notAfter time.Time) []string {
		cert, key := a.issue(dir, name, notAfter)
		return []string{cert, key}
	}
	for _, tc := range []struct {
		name  string
		creds credentials.TransportCredentials
		ok    bool
	}{
		{"our client", client(pair(ours, "controller", later)...), true},
		{"a client without a certificate", client(), false},
		{"a client of another authority", client(pair(foreign, "stranger", later)...), false},
		{"an expired client", client(pair(ours, "late", time.Now().Add(-time.Minute))...), false},
		{"a client in the clear", insecure.NewCredentials(), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, err := grpc.NewClient(o.addr, grpc.WithTransportCredentials(tc.creds))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			_, err = p4v1.NewP4RuntimeClient(conn).Capabilities(ctx, &p4v1.CapabilitiesRequest{}, grpc.WaitForReady(tc.ok))
			if (err == nil) != tc.ok {
				t.Errorf("Capabilities: %v", err)
			}
		})
	}
}
