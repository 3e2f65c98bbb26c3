// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// Files are what one program has: its certificate (with intermediates behind it, if
// there are any), the key to it, and the authorities that it trusts, all PEM.
type Files struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
}

// Source holds what Files have, and reads them again when they change: a renewed
// certificate or another authority needs no restart. What cannot be read, or does not
// fit together, leaves the last good ones in force, and is logged once. It is safe for
// concurrent use.
type Source struct {
	files Files
	log   *slog.Logger

	mu     sync.Mutex
	stamps [3]stamp
	last   *material
}

// material is immutable.
type material struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

// stamp is how it is seen that a file has changed; nil for one that cannot be seen.
type stamp struct{ fs.FileInfo }

func (s stamp) same(other stamp) bool {
	if s.FileInfo == nil || other.FileInfo == nil {
		return s == other
	}
	// Files that are renamed into their places within one tick of the clock differ by
	// which they are.
	return os.SameFile(s.FileInfo, other.FileInfo) && s.ModTime().Equal(other.ModTime()) && s.Size() == other.Size()
}

// Open reads the files. log may be nil.
func Open(files Files, log *slog.Logger) (*Source, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Source{files: files, log: log, stamps: files.stamps()}
	var err error
	s.last, err = files.load()
	return s, err
}

func (f Files) paths() [3]string { return [3]string{f.Cert, f.Key, f.CA} }

func (f Files) stamps() (list [3]stamp) {
	for i, path := range f.paths() {
		if info, err := os.Stat(path); err == nil {
			list[i] = stamp{info}
		}
	}
	return list
}

func (f Files) load() (*material, error) {
	certs, err := readFile(f.Cert)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w; see understudy certs", err)
	}
	key, err := readFile(f.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w; see understudy certs", err)
	}
	m := &material{roots: x509.NewCertPool()}
	if m.cert, err = tls.X509KeyPair(certs, key); err != nil {
		return nil, fmt.Errorf("%s and %s: %w; name a certificate and the key that belongs to it", f.Cert, f.Key, err)
	}
	authorities, err := readCerts(f.CA)
	if err != nil {
		return nil, fmt.Errorf("authority: %w; name the certificates of those to trust", err)
	}
	for _, c := range authorities {
		m.roots.AddCert(c)
	}
	return m, nil
}

// current returns what is in force now.
func (s *Source) current() *material {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.files.stamps()
	if slices.EqualFunc(now[:], s.stamps[:], stamp.same) {
		return s.last
	}
	s.stamps = now
	m, err := s.files.load()
	if err != nil {
		s.log.Error("certificates have changed and are not good; those before stay in force", "error", err)
		return s.last
	}
	s.log.Info("certificates have changed", "cert", s.files.Cert, "not_after", m.cert.Leaf.NotAfter)
	s.last = m
	return m
}

// NotAfter is when the own certificate ends.
func (s *Source) NotAfter() time.Time { return s.current().cert.Leaf.NotAfter }
