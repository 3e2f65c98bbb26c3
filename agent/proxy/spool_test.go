// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"
)

func TestSpool(t *testing.T) {
	s := &spool{dir: t.TempDir(), limit: 10, log: slog.New(slog.DiscardHandler)}
	one, err := s.open()
	if err != nil {
		t.Skipf("no O_TMPFILE in %s: %v", s.dir, err)
	}
	two, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.WriteAt([]byte("12345678"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := two.WriteAt([]byte("123"), 0); !errors.Is(err, errSpoolFull) {
		t.Errorf("beyond the limit: %v", err)
	}
	one.Close()
	if _, err := two.WriteAt([]byte("123"), 0); err != nil {
		t.Errorf("room was not given back: %v", err)
	}
	b := make([]byte, 2)
	if _, err := two.ReadAt(b, 1); err != nil || string(b) != "23" {
		t.Errorf("%q, %v", b, err)
	}
	two.Close()
	if n := s.used.Load(); n != 0 {
		t.Errorf("%d bytes are counted", n)
	}
	s.dir = "/nowhere"
	if _, err := s.open(); err == nil {
		t.Error("opened nowhere")
	}
}

// The application dies in the middle of an upload of which the active server has no
// beginning any more: the client is not told, the other server answers. So it is when
// the application still seems alive, for its listener is closed last.
func TestDeadApplicationInUpload(t *testing.T) {
	for name, dying := range map[string]int32{"dead": 0, "dying": 1} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{SpoolDir: t.TempDir(), ReplayBytes: 100 << 10, UpstreamPatience: 20 * time.Second})
			p.handle(func(w http.ResponseWriter, r *http.Request) {
				io.CopyN(io.Discard, r.Body, 1<<20)
				if r.Header.Get(ReplayHeader) == "" {
					p.a.health.dying.Store(dying)
					p.a.health.dead.Store(true)
					panic(http.ErrAbortHandler)
				}
				n, _ := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n+1<<20)
			})
			c := dialTwin(t, p.a, p.b)
			c.write([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3145728\r\n\r\n"))
			c.write(make([]byte, 2<<20))
			eventually(t, "the application is known to be dead", func() bool {
				return p.a.proxy.Stats().UpstreamErrors.Load() == 1 && p.a.health.dying.Load() <= 0
			})
			c.write(make([]byte, 1<<20))
			p.kill(c)
			if resp, body := c.readReply("POST"); body != "3145728" {
				t.Errorf("%s: %s", resp.Status, body)
			}
		})
	}
}

// The server dies in the middle of a long upload: the backup, which holds little of it
// in memory, runs it from its beginning.
func TestUploadAtFailover(t *testing.T) {
	const size = 24 << 20
	for name, c := range map[string]struct {
		chunked bool
		room    int64
		ended   uint64
	}{
		"length":     {false, 1 << 30, 0},
		"chunked":    {true, 1 << 30, 0},
		"spool full": {false, 4 << 20, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{SpoolDir: t.TempDir(), SpoolBytes: c.room, SpoolAbove: 200 << 10})
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, rest := 0, bytes.Repeat([]byte("x"), 64<<10)
				b := make([]byte, len(rest))
				for {
					k, err := r.Body.Read(b)
					if !bytes.Equal(b[:k], rest[:k]) {
						http.Error(w, "other bytes", http.StatusBadRequest)
						return
					}
					if n += k; err != nil {
						break
					}
				}
				fmt.Fprint(w, n)
			})
			p.handle(h)
			cl := dialTwin(t, p.a, p.b)
			piece := bytes.Repeat([]byte("x"), 1<<20)
			if c.chunked {
				cl.write([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"))
			} else {
				cl.write(fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size))
			}
			send := func() {
				if c.chunked {
					cl.write(append(fmt.Appendf(nil, "%x\r\n", len(piece)), append(piece, "\r\n"...)...))
				} else {
					cl.write(piece)
				}
			}
			for range 12 {
				send()
			}
			eventually(t, "the backup has received it", func() bool {
				in, _, _ := p.b.state()
				return in.received() >= 12<<20
			})
			if in, _, _ := p.b.state(); len(in.data) > 300<<10 {
				t.Errorf("the backup holds %d bytes in memory", len(in.data))
			}
			p.kill(cl)
			if c.ended > 0 {
				if n := p.b.proxy.Stats().Ended.Load(); n != c.ended {
					t.Errorf("%d ended", n)
				}
				if _, err := cl.reply.ReadByte(); err == nil || err == io.EOF {
					t.Errorf("%v, not a reset", err)
				}
				return
			}
			for range 12 {
				send()
			}
			if c.chunked {
				cl.write([]byte("0\r\n\r\n"))
			}
			if resp, body := cl.readReply("POST"); body != fmt.Sprint(size) {
				t.Errorf("%s: %s", resp.Status, body)
			}
			eventually(t, "the spool is empty", func() bool { return p.b.proxy.spool.used.Load() == 0 })
		})
	}
}
