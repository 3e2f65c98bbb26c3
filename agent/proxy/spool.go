// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A spool gives room on disk for requests that a backup must be able to run again and
// that are too long for memory: files without a name, which go with the process.
type spool struct {
	dir   string
	limit int64 // bytes of all files together
	used  atomic.Int64
	log   *slog.Logger
	told  sync.Once
}

var errSpoolFull = errors.New("the spool is full")

// open makes a file. It is for one goroutine at a time.
func (s *spool) open() (spillFile, error) {
	fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		s.told.Do(func() {
			s.log.Warn("long requests cannot be run again: no file for them; name another spool_dir", "error", fmt.Errorf("%s: %w", s.dir, err))
		})
		return nil, err
	}
	return &spoolFile{File: os.NewFile(uintptr(fd), s.dir), spool: s}, nil
}

type spoolFile struct {
	*os.File
	spool *spool
	size  int64
}

// WriteAt refuses what is beyond the spool's limit.
func (f *spoolFile) WriteAt(b []byte, at int64) (int, error) {
	if grow := at + int64(len(b)) - f.size; grow > 0 {
		if f.spool.used.Add(grow) > f.spool.limit {
			f.spool.used.Add(-grow)
			return 0, errSpoolFull
		}
		f.size += grow
	}
	return f.File.WriteAt(b, at)
}

// Close gives the room back.
func (f *spoolFile) Close() error {
	f.spool.used.Add(-f.size)
	f.size = 0
	return f.File.Close()
}
