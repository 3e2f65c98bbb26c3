// SPDX-License-Identifier: Apache-2.0

// Package digest tells one state of the P4 sources from another.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

// Sources returns the SHA-256 over the names and contents of src/**/*.p4 in
// fsys, in lexical order, as hexadecimal digits.
func Sources(fsys fs.FS) (string, error) {
	h := sha256.New()
	err := fs.WalkDir(fsys, "src", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".p4") {
			return err
		}
		b, err := fs.ReadFile(fsys, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", path, len(b))
		h.Write(b)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}
