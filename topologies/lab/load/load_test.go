// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/understudy-net/understudy/topologies/lab/app"
)

// dialer returns a Config.Dial.
func dialer(address string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func TestCleanOverLoopback(t *testing.T) {
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- app.Serve(ctx, ln, "server1") }()

	begun := time.Now()
	l := Start(t.Context(), Config{Dial: dialer(ln.Addr().String()), Host: "test", Connections: 50, Think: 20 * time.Millisecond, Seed: 1})
	ready, done := context.WithTimeout(t.Context(), 10*time.Second)
	defer done()
	if err := l.Ready(ready); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	r := l.Stop()
	if !r.Clean() || r.Unclosed != 0 {
		t.Errorf("%v %v", r, r.Events)
	}
	if r.Requests < 500 || r.Replies != r.Requests || len(r.Latencies) != r.Requests {
		t.Errorf("%d requests, %d replies, %d latencies", r.Requests, r.Replies, len(r.Latencies))
	}
	if l.InProgress() != 0 {
		t.Errorf("%d in progress", l.InProgress())
	}
	if d := r.LongestStall(begun, time.Now()); d == 0 || d > 5*time.Second {
		t.Errorf("longest stall %v", d)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestServerDies(t *testing.T) {
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- app.Serve(ctx, ln, "server1") }()
	l := Start(t.Context(), Config{Dial: dialer(ln.Addr().String()), Connections: 10, Think: 10 * time.Millisecond})
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-served
	time.Sleep(200 * time.Millisecond)
	r := l.Stop()
	// Every connection breaks, then every attempt to connect again is refused.
	if r.Reset < 10 || r.Failed < 10 || r.Corrupt != 0 {
		t.Errorf("%v %v", r, r.Events)
	}
	if len(r.Events) != keptReasons {
		t.Errorf("%d events", len(r.Events))
	}
}

var oneSmall = Uniform(5000)

// A server that answers request n of a connection as it likes.
func misbehaving(t *testing.T, answer func(w *bufio.Writer, n int, right []byte)) net.Listener {
	ln := listen(t)
	h := app.Handler("bad")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
				for n := 0; ; n++ {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, req)
					var b bytes.Buffer
					res := rec.Result()
					res.ContentLength = int64(rec.Body.Len())
					res.Write(&b)
					answer(out, n, b.Bytes())
					if out.Flush() != nil {
						return
					}
				}
			}()
		}
	}()
	return ln
}

func TestMisbehavingServers(t *testing.T) {
	var before []byte
	for _, tc := range []struct {
		name   string
		answer func(w *bufio.Writer, n int, right []byte)
		want   Class
	}{
		{"duplicate", func(w *bufio.Writer, n int, right []byte) {
			w.Write(right)
			if n == 3 {
				w.Write(right)
			}
		}, Corrupt},
		{"old reply", func(w *bufio.Writer, n int, right []byte) {
			if n == 4 {
				right = before
			}
			before = right
			w.Write(right)
		}, Corrupt},
		{"stitched", func(w *bufio.Writer, n int, right []byte) {
			if n == 3 {
				tail := len(right) - 50
				right = append(right[:tail:tail], before[len(before)-50:]...)
			}
			before = right
			w.Write(right)
		}, Corrupt},
		{"altered", func(w *bufio.Writer, n int, right []byte) {
			if n == 3 {
				right[len(right)-1] ^= 0x80
			}
			w.Write(right)
		}, Corrupt},
		{"502", func(w *bufio.Writer, n int, right []byte) {
			if n == 3 {
				right = []byte("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
			}
			w.Write(right)
		}, Failed},
		{"silence", func(w *bufio.Writer, n int, right []byte) {
			if n < 3 {
				w.Write(right)
			}
		}, Failed},
		{"stray bytes while idle", func(w *bufio.Writer, n int, right []byte) {
			w.Write(right)
			if n == 3 {
				w.Flush()
				time.Sleep(2 * time.Millisecond)
				w.WriteString("HTTP/1.1 408 Request Timeout\r\n\r\n")
			}
		}, Corrupt},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ln := misbehaving(t, tc.answer)
			l := Start(t.Context(), Config{
				Dial: dialer(ln.Addr().String()), Connections: 1, Think: 10 * time.Millisecond, Timeout: 300 * time.Millisecond,
				Mix: oneSmall,
			})
			deadline := time.Now().Add(5 * time.Second)
			for l.failures() == 0 && time.Now().Before(deadline) {
				time.Sleep(5 * time.Millisecond)
			}
			r := l.Stop()
			if len(r.Events) == 0 {
				t.Fatalf("not noticed: %v", r)
			}
			if got := r.Events[0]; got.Class != tc.want {
				t.Errorf("got %v", &got.Failure)
			}
			if r.Clean() || r.Replies >= r.Requests && tc.name != "duplicate" && tc.name != "stray bytes while idle" {
				t.Errorf("%v", r)
			}
		})
	}
}

func (l *Load) failures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.report.Failed + l.report.Reset + l.report.Corrupt
}

// What comes after the client's last reply is noticed too.
func TestLeftOverAtTheEnd(t *testing.T) {
	ln := listen(t)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		h := app.Handler("bad")
		for {
			req, err := http.ReadRequest(in)
			if err != nil { // the client's end
				io.WriteString(conn, "late")
				return
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, req)
			res := rec.Result()
			res.ContentLength = int64(rec.Body.Len())
			res.Write(conn)
		}
	}()
	l := Start(t.Context(), Config{Dial: dialer(ln.Addr().String()), Connections: 1, Think: 5 * time.Millisecond})
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := l.Stop(); r.Corrupt != 1 {
		t.Errorf("%v %v", r, r.Events)
	}
}

// The end of the context is not a failure of the server.
func TestHardEnd(t *testing.T) {
	ln := misbehaving(t, func(*bufio.Writer, int, []byte) {})
	ctx, cancel := context.WithCancel(t.Context())
	l := Start(ctx, Config{Dial: dialer(ln.Addr().String()), Connections: 5, Think: time.Millisecond, Mix: oneSmall})
	for l.InProgress() < 5 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	begun := time.Now()
	if r := l.Stop(); !r.Clean() || r.Requests != 5 || r.Replies != 0 {
		t.Errorf("%v %v", r, r.Events)
	}
	if d := time.Since(begun); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestStalls(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	var s stalls
	s.progress(at(0)) // nothing outstanding
	s.begin(at(100))
	s.progress(at(105))
	s.progress(at(106))
	s.progress(at(150))
	s.end(at(150))
	s.progress(at(300)) // thinking is no stall
	s.begin(at(400))
	s.end(at(600)) // failed without progress
	for _, tc := range []struct{ from, to, want int }{
		{0, 1000, 200}, {0, 390, 44}, {0, 104, 5}, {120, 130, 44}, {149, 151, 44}, {150, 400, 0}, {599, 700, 200}, {601, 700, 0},
	} {
		if got, want := longest(s.kept, at(tc.from), at(tc.to)), time.Duration(tc.want)*time.Millisecond; got != want {
			t.Errorf("from %d to %d: got %v, want %v", tc.from, tc.to, got, want)
		}
	}
}

func TestDefaultMix(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const draws = 20000
	var posts, pipelined, delayed, chunked, down, up int
	smallest, largest := 1<<30, 0
	for range draws {
		qs := DefaultMix(r)
		if len(qs) > 1 {
			pipelined++
		}
		for _, q := range qs {
			if q.Upload >= 0 {
				posts++
				up += q.Upload
			}
			down += q.Reply.Size
			smallest, largest = min(smallest, q.Reply.Size), max(largest, q.Reply.Size)
			if q.Reply.Delay > 0 {
				delayed++
			}
			if q.Reply.Chunked {
				chunked++
			}
			total := time.Duration(q.Reply.Pieces) * q.Reply.Delay
			if total > 2*time.Millisecond {
				t.Fatalf("%+v takes %v", q.Reply, total)
			}
		}
	}
	t.Logf("%d posts, %d pipelined, %d delayed, %d chunked; mean reply %d, mean upload %d", posts, pipelined, delayed, chunked, down/draws, up/max(1, posts))
	if smallest < 200 || smallest > 210 || largest > 1_000_000 || largest < 900_000 {
		t.Errorf("replies from %d to %d bytes", smallest, largest)
	}
	for name, n := range map[string]int{"posts": posts, "pipelined": pipelined, "delayed": delayed, "chunked": chunked} {
		if n < draws/100 {
			t.Errorf("only %d %s", n, name)
		}
	}
	if a, b := fmt.Sprint(DefaultMix(rand.New(rand.NewPCG(3, 4)))), fmt.Sprint(DefaultMix(rand.New(rand.NewPCG(3, 4)))); a != b {
		t.Errorf("not repeatable: %s, %s", a, b)
	}
}

func TestReportString(t *testing.T) {
	r := &Report{Connections: 2, Requests: 3, Failed: 1, Unclosed: 1}
	if got := r.String(); !strings.Contains(got, "3 requests on 2 connections: 1 failed, 0 reset, 0 corrupt, 1 not closed") {
		t.Error(got)
	}
}
