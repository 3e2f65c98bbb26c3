// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The files of an authority, in its folder.
const (
	AuthorityCert = "ca.crt"
	AuthorityKey  = "ca.key"
)

// How long certificates are good for. Programs renew theirs without a restart; what
// people carry around is worth less for long.
const (
	AuthorityLife = 10 * 365 * 24 * time.Hour
	ProgramLife   = 365 * 24 * time.Hour
	PersonLife    = 90 * 24 * time.Hour
	// skew is how far clocks may be behind.
	skew = 5 * time.Minute
)

// Life is how long a certificate of this kind is good for unless it is said
// otherwise.
func (k Kind) Life() time.Duration {
	if k == Operator || k == Viewer {
		return PersonLife
	}
	return ProgramLife
}

// Authority signs certificates: ECDSA on P-256, which every TLS stack has. Its
// methods may be called from any goroutine.
type Authority struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time
}

// CreateAuthority makes a new authority in a folder, which it makes as well. It
// never replaces one that is there.
func CreateAuthority(dir, name string, now func() time.Time) (*Authority, error) {
	if _, err := os.Lstat(filepath.Join(dir, AuthorityKey)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has an authority already; use it, or name another folder", dir)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	at := now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: at.Add(-skew), NotAfter: at.Add(AuthorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("authority: %w; name a folder that can be made", err)
	}
	if err := writePair(filepath.Join(dir, "ca"), key, der); err != nil {
		return nil, err
	}
	return OpenAuthority(dir, now)
}

// OpenAuthority reads the authority in a folder.
func OpenAuthority(dir string, now func() time.Time) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, AuthorityCert), filepath.Join(dir, AuthorityKey)
	certs, err := readCerts(certFile)
	if err != nil {
		return nil, fmt.Errorf("authority: %w; make one with understudy certs init", err)
	}
	der, err := readPEM(keyFile, "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("authority: %w; make one with understudy certs init", err)
	}
	any, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; restore it, or make a new authority", keyFile, err)
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s; restore the one that is, or make a new authority", keyFile, certFile)
	}
	return &Authority{Cert: certs[0], key: key, now: now}, nil
}

// Request asks for a certificate.
type Request struct {
	Identity Identity
	// Hosts are the names and addresses that a controller is reached by. Others are
	// not reached, and have none.
	Hosts []string
	// Life is how long it is good for; 0 means Kind.Life. The authority's own end
	// bounds it.
	Life time.Duration
}

// Issue makes a key and a certificate for it, and writes them to BASE.key (readable
// by its owner alone) and BASE.crt, over what may be there, each at once and whole.
func (a *Authority) Issue(r Request, base string) (*x509.Certificate, error) {
	if err := r.Identity.check(); err != nil {
		return nil, err
	}
	controller := r.Identity.Kind == Controller
	switch {
	case controller && len(r.Hosts) == 0:
		return nil, errors.New("a controller's certificate names what it is reached by; give its host names and addresses")
	case !controller && len(r.Hosts) > 0:
		return nil, fmt.Errorf("%s is not reached under a name; only controllers are", r.Identity)
	case r.Life < 0:
		return nil, errors.New("a certificate cannot end before it begins; give a time to live")
	}
	life := r.Life
	if life == 0 {
		life = r.Identity.Kind.Life()
	}
	at := a.now()
	if at.After(a.Cert.NotAfter) {
		return nil, fmt.Errorf("the authority ended at %s; make a new one with understudy certs init", a.Cert.NotAfter.Format(time.RFC3339))
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: r.Identity.Name},
		NotBefore:   at.Add(-skew),
		NotAfter:    at.Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{r.Identity.URI()},
	}
	if template.NotAfter.After(a.Cert.NotAfter) {
		template.NotAfter = a.Cert.NotAfter
	}
	if controller {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		for _, h := range r.Hosts {
			if ip := net.ParseIP(h); ip != nil {
				template.IPAddresses = append(template.IPAddresses, ip)
			} else if strings.Trim(h, nameRunes) == "" && h != "" {
				template.DNSNames = append(template.DNSNames, h)
			} else {
				return nil, fmt.Errorf("%q is neither a host name nor an address; leave out its port", h)
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	if err := writePair(base, key, der); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// writePair writes BASE.key and BASE.crt. A reader that comes between sees a key that
// does not belong to the certificate, and keeps what it has (see Source).
func writePair(base string, key *ecdsa.PrivateKey, der []byte) error {
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(base+".key", "PRIVATE KEY", text, 0o600); err != nil {
		return err
	}
	return writePEM(base+".crt", "CERTIFICATE", der, 0o644)
}

func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	err := func() error {
		f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // of mode 0600
		if err != nil {
			return err
		}
		defer os.Remove(f.Name()) // fails once it is renamed
		err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
		if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
			return err
		}
		return os.Rename(f.Name(), path)
	}()
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// maxPEM bounds what is read of a file, in bytes.
const maxPEM = 1 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPEM))
}

// readPEM returns the first block of a kind.
func readPEM(path, kind string) ([]byte, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, fmt.Errorf("%s has no %s in PEM form", path, kind)
		}
		if block.Type == kind {
			return block.Bytes, nil
		}
	}
}

// ReadCertificate returns the first certificate of a file.
func ReadCertificate(path string) (*x509.Certificate, error) {
	certs, err := readCerts(path)
	if err != nil {
		return nil, err
	}
	return certs[0], nil
}

// readCerts returns all certificates of a file, at least one.
func readCerts(path string) ([]*x509.Certificate, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s has no certificate in PEM form", path)
	}
	return certs, nil
}
