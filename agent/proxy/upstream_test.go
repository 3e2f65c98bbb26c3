// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
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

func request(t *testing.T, body io.Reader, length int64) *http.Request {
	t.Helper()
	if body == nil {
		body = http.NoBody
	}
	req, err := http.NewRequest(http.MethodPost, "http://application/", body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = length
	return req
}

// ask sends a request and returns what the reply's body is.
func ask(u *upstream, req *http.Request) (string, error) {
	resp, err := u.roundTrip(req.Context(), req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
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
				got, err := ask(u, request(t, strings.NewReader("body"), 4))
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
		if _, err := ask(u, request(t, nil, 0)); err != nil {
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
		body := newWatchedBody(r)
		got, err := ask(u, request(t, body, -1))
		if err != nil || got != "no" {
			t.Fatalf("%q, %v", got, err)
		}
		w.Close()
		select {
		case <-body.closed:
		case <-time.After(5 * time.Second):
			t.Fatal("the request's body is not closed")
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
	_, err := ask(u, request(t, r, -1))
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
	req := request(t, nil, 0)
	resp, err := u.roundTrip(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("read %q without an error", b)
	}
	if len(u.idle) != 0 {
		t.Error("the connection is kept")
	}
}

func TestUpstreamErrors(t *testing.T) {
	for name, test := range map[string]struct{ reply, want string }{
		"no HTTP":   {"hello\r\n\r\n", "malformed HTTP"},
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
			if _, err := ask(u, request(t, nil, 0)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// What is run anew is not read by the attempt that failed.
func TestWatchedBodyAbandoned(t *testing.T) {
	b := newWatchedBody(io.NopCloser(bytes.NewReader([]byte("body"))))
	if !b.abandon() {
		t.Error("not abandoned")
	}
	if n, err := b.Read(make([]byte, 4)); n != 0 || !errors.Is(err, errAbandoned) {
		t.Errorf("read %d, %v", n, err)
	}
	b = newWatchedBody(io.NopCloser(bytes.NewReader([]byte("body"))))
	b.Read(make([]byte, 1))
	if b.abandon() {
		t.Error("abandoned after it was read")
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
	for name, roundTrip := range map[string]func(*http.Request) (*http.Response, error){
		"upstream":  func(r *http.Request) (*http.Response, error) { return u.roundTrip(r.Context(), r) },
		"transport": transport.RoundTrip,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				req, _ := http.NewRequest(http.MethodGet, "http://"+l.Addr().String()+"/", http.NoBody)
				resp, err := roundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}
