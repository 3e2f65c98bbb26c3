// SPDX-License-Identifier: Apache-2.0

// Package digest tells one state of the P4 program from another: of its sources and
// of what p4c made of them.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// File is where the record is kept, in the folder p4.
const File = "build/sha256"

// built are the files that p4c writes.
var built = []string{"build/understudy.json", "build/understudy.p4info.txtpb"}

// Record returns what File should say: a line for the sources and one for each file
// that was made of them. fsys is the folder p4.
func Record(fsys fs.FS) (string, error) {
	sum, err := sources(fsys)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  src\n", sum)
	for _, name := range built {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(data), name)
	}
	return b.String(), nil
}

// Older tells whether a file that p4c writes is older than one of the sources.
func Older(fsys fs.FS) (bool, error) {
	var newest time.Time
	err := fs.WalkDir(fsys, "src", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		return err
	})
	if err != nil {
		return false, err
	}
	for _, name := range built {
		info, err := fs.Stat(fsys, name)
		if err != nil {
			return false, err
		}
		if info.ModTime().Before(newest) {
			return true, nil
		}
	}
	return false, nil
}

// sources returns the SHA-256 over the names and contents of src/**/*.p4 in
// fsys, in lexical order, as hexadecimal digits.
func sources(fsys fs.FS) (string, error) {
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
