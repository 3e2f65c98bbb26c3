// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-net/understudy/agent/proxy/http1"
)

// application runs serve for each connection, with the requests read from it.
func application(t *testing.T, serve func(net.Conn, *bufio.Reader)) (u *upstream, connections *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			go func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	u = &upstream{address: l.Addr().String(), timeout: 2 * time.Second}
	t.Cleanup(func() { u.close(); l.Close(); <-done })
	return u, connections
}

// answer reads requests and sends reply for each, until the connection ends.
func answer(reply string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, reply)
		}
	}
}

func request(body io.Reader, length int64) *outgoing {
	r := &http1.Request{Method: "POST", Target: "/", Host: "application", Length: length}
	f := &forward{}
	return &outgoing{method: r.Method, head: f.head(r), length: length, body: body}
}

// ask sends a request and returns what the reply's body is.
func ask(u *upstream, req *outgoing) (string, error) {
	resp, err := u.roundTrip(context.Background(), req)
	if err != nil {
		return "", err
	}
	defer resp.body.Close()
	b, err := io.ReadAll(resp.body)
	return string(b), err
}

func TestUpstreamReuse(t *testing.T) {
	for name, test := range map[string]struct {
		reply, body string
		connections int32
	}{
		"length":         {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 1},
		"chunked":        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello", 1},
		"no content":     {"HTTP/1.1 204 No Content\r\n\r\n", "", 1},
		"interim":        {"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", 1},
		"asked to close": {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", "hello", 3},
		"says too much":  {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", "hello", 3},
	} {
		t.Run(name, func(t *testing.T) {
			u, connections := application(t, answer(test.reply))
			for range 3 {
				got, err := ask(u, request(strings.NewReader("body"), 4))
				if err != nil || got != test.body {
					t.Fatalf("%q, %v", got, err)
				}
				time.Sleep(5 * time.Millisecond) // for the bytes too many
			}
			if n := connections.Load(); n != test.connections {
				t.Errorf("%d connections, want %d", n, test.connections)
			}
		})
	}
}

// An application that closes idle connections, as all do, costs no request.
func TestUpstreamStale(t *testing.T) {
	u, connections := application(t, func(c net.Conn, r *bufio.Reader) {
		if req, err := http.ReadRequest(r); err == nil {
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	for range 5 {
		if _, err := ask(u, request(nil, 0)); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			u.mu.Lock()
			gone := len(u.idle) == 1 && !u.idle[0].usable()
			u.mu.Unlock()
			if gone {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the connection is not seen to be closed")
			}
		}
	}
	if n := connections.Load(); n != 5 {
		t.Errorf("%d connections", n)
	}
}

// An application may answer without reading the request.
func TestUpstreamEarlyReply(t *testing.T) {
	u, connections := application(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
		io.Copy(io.Discard, c)
	})
	for range 2 {
		r, w := io.Pipe() // a client that never sends its body
		done := make(chan struct{})
		got, err := ask(u, request(readerFunc(func(p []byte) (int, error) {
			n, err := r.Read(p)
			close(done)
			return n, err
		}), http1.Chunked))
		if err != nil || got != "no" {
			t.Fatalf("%q, %v", got, err)
		}
		w.Close()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatal("the request's body is not let go")
		}
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections: one with half a request was used again", n)
	}
}

// The head of the reply is due when the request has been sent, not before.
func TestUpstreamTimeout(t *testing.T) {
	u, _ := application(t, func(_ net.Conn, r *bufio.Reader) {
		io.Copy(io.Discard, r)
	})
	u.timeout = 100 * time.Millisecond
	r, w := io.Pipe()
	sent := make(chan time.Time, 1)
	go func() {
		w.Write([]byte("slow"))
		time.Sleep(3 * u.timeout)
		sent <- time.Now()
		w.Close()
	}()
	_, err := ask(u, request(r, http1.Chunked))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a timeout", err)
	}
	select {
	case at := <-sent:
		if d := time.Since(at); d < u.timeout {
			t.Errorf("timed out %v after the request's end", d)
		}
	default:
		t.Error("timed out before the request's end")
	}
}

func TestUpstreamCanceled(t *testing.T) {
	u, _ := application(t, func(c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		io.Copy(io.Discard, r)
	})
	ctx, cancel := context.WithCancel(context.Background())
	resp, err := u.roundTrip(ctx, request(nil, 0))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if b, err := io.ReadAll(resp.body); err == nil {
		t.Errorf("read %q without an error", b)
	}
	if len(u.idle) != 0 {
		t.Error("the connection is kept")
	}
}

func TestUpstreamErrors(t *testing.T) {
	for name, test := range map[string]struct{ reply, want string }{
		"no HTTP":   {"hello\r\n\r\n", "does not begin with HTTP"},
		"nothing":   {"", "EOF"},
		"long head": {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", replyHeaderBytes) + "\r\n\r\n", "more than 1048576 bytes"},
		"switched":  {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "switched protocols"},
		"chatty":    {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 20), "interim"},
	} {
		t.Run(name, func(t *testing.T) {
			u, _ := application(t, func(c net.Conn, r *bufio.Reader) {
				http.ReadRequest(r)
				io.WriteString(c, test.reply)
			})
			if _, err := ask(u, request(nil, 0)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// The client's failing is not the application's: the exchange ends with it.
func TestUpstreamBodyFails(t *testing.T) {
	broken := errors.New("broken")
	for _, length := range []int64{5, 100000, http1.Chunked} {
		u, _ := application(t, answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
		n := 0
		_, err := ask(u, request(readerFunc(func(p []byte) (int, error) {
			if n++; n > 1 {
				return 0, broken
			}
			return copy(p, "abc"), nil
		}), length))
		if err == nil {
			t.Errorf("length %d: answered", length)
		}
		if len(u.idle) != 0 {
			t.Errorf("length %d: the connection is kept", length)
		}
	}
}

func BenchmarkUpstream(b *testing.B) {
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1000)) })}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	u := &upstream{address: l.Addr().String(), timeout: time.Minute}
	defer u.close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	b.Run("upstream", func(b *testing.B) {
		for b.Loop() {
			if _, err := ask(u, request(nil, 0)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("transport", func(b *testing.B) {
		for b.Loop() {
			req, _ := http.NewRequest(http.MethodGet, "http://"+l.Addr().String()+"/", http.NoBody)
			resp, err := transport.RoundTrip(req)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}
