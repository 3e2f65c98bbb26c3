// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// secretSize is that of the key of the initial sequence numbers.
const secretSize = 16

// loadSecret reads the key of the initial sequence numbers, which both servers
// of a pair must share, and which must outlive every controller: connections
// that were opened with it are still there.
func loadSecret(dir string) ([]byte, error) {
	path := filepath.Join(dir, "isn-secret")
	secret, err := os.ReadFile(path)
	switch {
	case err == nil && len(secret) != secretSize:
		return nil, fmt.Errorf("%s has %d bytes, not %d; restore it, or remove it and restart every agent", path, len(secret), secretSize)
	case err == nil:
		return secret, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the secret of the sequence numbers: %w; make it readable for the controller", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state_dir: %w; create it, or name another one", err)
	}
	secret = make([]byte, secretSize)
	rand.Read(secret) // never fails
	if err := replaceFile(path, secret, 0o600); err != nil {
		return nil, fmt.Errorf("state_dir: %w; make it writable for the controller, or name another one", err)
	}
	return secret, nil
}

// replaceFile writes a file as a whole or not at all, and for good.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	if _, err := f.Write(content); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
