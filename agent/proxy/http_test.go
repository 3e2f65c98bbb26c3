// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// read reads one reply to a request with the given method.
func (c *twin) readReply(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.reply, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("body of %s: %v", resp.Status, err)
	}
	return resp, string(body)
}

// drain takes what the backup's copy of the connection is given, as the egress program
// of a real server does.
func (c *twin) drain() { go io.Copy(io.Discard, c.socks[1]) }

func TestBodylessReplies(t *testing.T) {
	p := newPair(t, Config{})
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "hello")
		}
	})
	c := dialTwin(t, p.a, p.b)
	c.write([]byte("HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /204 HTTP/1.1\r\nHost: x\r\n\r\n" +
		"GET /304 HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	if resp, body := c.readReply("HEAD"); resp.ContentLength != 5 || body != "" {
		t.Errorf("HEAD: %d, %q", resp.ContentLength, body)
	}
	if resp, body := c.readReply("GET"); resp.StatusCode != 204 || body != "" {
		t.Errorf("%s, %q", resp.Status, body)
	}
	if resp, body := c.readReply("GET"); resp.StatusCode != 304 || body != "" || resp.Header.Get("ETag") != `"x"` {
		t.Errorf("%s, %q", resp.Status, body)
	}
	if _, body := c.readReply("GET"); body != "hello" {
		t.Errorf("%q", body)
	}
}

func TestTrailersAndEarlyHints(t *testing.T) {
	p := newPair(t, Config{})
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "Sum")
		fmt.Fprintf(w, "%s %s", body, r.Trailer.Get("Check"))
		w.(http.Flusher).Flush()
		w.Header().Set("Sum", "7")
	})
	c := dialTwin(t, p.a, p.b)
	c.write([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Check\r\n\r\n" +
		"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nCheck: yes\r\n\r\n"))
	if resp, _ := c.readReply("GET"); resp.StatusCode != 103 || resp.Header.Get("Link") == "" {
		t.Errorf("first %s", resp.Status)
	}
	resp, body := c.readReply("GET")
	if body != "abcde yes" || resp.Trailer.Get("Sum") != "7" {
		t.Errorf("%q, trailer %v", body, resp.Trailer)
	}
}

func TestHTTP10(t *testing.T) {
	p := newPair(t, Config{})
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", "5")
		}
		io.WriteString(w, "hello")
		w.(http.Flusher).Flush()
	})
	c := dialTwin(t, p.a, p.b)
	c.write([]byte("GET /known HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))
	if resp, body := c.readReply("GET"); body != "hello" || resp.Header.Get("Connection") != "keep-alive" {
		t.Errorf("%q, %v", body, resp.Header)
	}
	c.write([]byte("GET /unknown HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))
	resp, body := c.readReply("GET") // ended by the close
	if body != "hello" || len(resp.TransferEncoding) > 0 || !resp.Close {
		t.Errorf("%q, %v", body, resp)
	}
}

// A reply can come before the request has been read: a short rest is skipped, a long
// one ends the connection after the reply.
func TestEarlyReply(t *testing.T) {
	p := newPair(t, Config{BufferedBody: 10, DrainBytes: 50000})
	p.handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	c := dialTwin(t, p.a, p.b)
	for range 2 {
		c.write(append([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n"), make([]byte, 40000)...))
		if resp, _ := c.readReply("POST"); resp.StatusCode != http.StatusForbidden || resp.Close {
			t.Fatalf("%s, closes %v", resp.Status, resp.Close)
		}
	}
	c.write([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\nabc"))
	if resp, _ := c.readReply("POST"); resp.StatusCode != http.StatusForbidden {
		t.Fatal(resp.Status)
	}
	if _, err := c.reply.ReadByte(); err != io.EOF {
		t.Errorf("after the reply: %v, not a close", err)
	}
}

func TestIdleTimeout(t *testing.T) {
	p := newPair(t, Config{IdleTimeout: 100 * time.Millisecond})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/?size=10", nil)
	c.expect(1)
	if _, err := c.reply.ReadByte(); err != io.EOF {
		t.Errorf("%v, not a close", err)
	}
}

// The application says nothing: 504; it is not there: 502.
func TestApplicationFails(t *testing.T) {
	p := newPair(t, Config{UpstreamTimeout: 100 * time.Millisecond, UpstreamPatience: 10 * time.Millisecond})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/hold", nil)
	if resp, _ := c.readReply("GET"); resp.StatusCode != http.StatusGatewayTimeout {
		t.Error(resp.Status)
	}
	p.a.letGo()
	p.a.app.Close()
	c = dialTwin(t, p.a, p.b)
	c.send(1, "/", nil)
	if resp, _ := c.readReply("GET"); resp.StatusCode != http.StatusBadGateway {
		t.Error(resp.Status)
	}
}

// A client that has closed its side still gets its reply.
func TestHalfClose(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/?size=100000", nil)
	for _, s := range c.socks {
		s.(interface{ CloseWrite() error }).CloseWrite()
	}
	c.expect(1)
	if _, err := c.reply.ReadByte(); err != io.EOF {
		t.Errorf("%v, not a close", err)
	}
}

// A large upload is passed on as it comes: neither server holds much of it.
func TestUploadIsNotHeld(t *testing.T) {
	cfg := Config{ReplayBytes: 100 << 10, ReadAhead: 200 << 10}
	p := newPair(t, cfg)
	read, goOn := make(chan int64), make(chan bool)
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.CopyN(io.Discard, r.Body, 1<<20)
		read <- n
		<-goOn
		m, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n+m)
	})
	const size = 32 << 20
	c := dialTwin(t, p.a, p.b)
	sent := make(chan bool)
	go func() {
		defer close(sent)
		b := bytes.Repeat([]byte("x"), 1<<16)
		c.write([]byte("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"))
		for range size / len(b) {
			c.write(append(fmt.Appendf(nil, "%x\r\n", len(b)), append(b, "\r\n"...)...))
		}
		c.write([]byte("0\r\n\r\n"))
	}()
	<-read
	held := func() int {
		in, _, _ := p.a.state()
		return len(in.data)
	}
	// The application does not read on: what is held grows to its bound, and the
	// client cannot go on.
	eventually(t, "the active server reads ahead as far as it may", func() bool { return held() >= cfg.ReadAhead })
	if n := held(); n > cfg.ReadAhead+cfg.ReplayBytes+64<<10 {
		t.Errorf("%d bytes are held", n)
	}
	select {
	case <-sent:
		t.Error("the client could send everything")
	default:
	}
	goOn <- true
	if _, body := c.readReply("POST"); body != fmt.Sprint(size) {
		t.Errorf("the application read %s bytes", body)
	}
	<-sent
}

// Server-sent events are shown when they happen, and held twice before.
func TestEventsAreShownAtOnce(t *testing.T) {
	p := newPair(t, Config{StreamAfter: time.Hour})
	next := make(chan bool)
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		w.(http.Flusher).Flush()
		for i := 0; ; i++ {
			select {
			case <-next:
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	c := dialTwin(t, p.a, p.b)
	c.drain()
	c.write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	resp, err := http.ReadResponse(c.reply, nil) // before there is an event
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	for i := range 20 {
		next <- true
		if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("event %d: %q, %v", i, line, err)
		}
		r.ReadString('\n')
		if _, out, _ := p.b.state(); out.sealed < uint64(c.read.n) {
			t.Fatalf("%d bytes were shown, the backup holds %d", c.read.n, out.sealed)
		}
	}
}

// An application that takes its time over a reply of unknown length.
func TestSlowReplyIsStreamed(t *testing.T) {
	p := newPair(t, Config{StreamAfter: 50 * time.Millisecond})
	next := make(chan bool)
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			io.WriteString(w, "part ")
			w.(http.Flusher).Flush()
			<-next
		}
	})
	c := dialTwin(t, p.a, p.b)
	c.write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	resp, err := http.ReadResponse(c.reply, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "part " {
			t.Fatalf("%q, %v", b, err)
		}
		next <- true
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("then %v", err)
	}
}

// A client that stops reading makes neither server hold more than its bound, and gets
// everything once it reads again.
func TestSlowReader(t *testing.T) {
	cfg := Config{WholeReply: 100 << 10, StreamBuffer: 200 << 10}
	p := newPair(t, cfg)
	const size = 64 << 20
	c := dialTwin(t, p.a, p.b)
	c.drain()
	c.send(1, fmt.Sprintf("/?size=%d", size), nil)
	var a, b int
	held := func() (int, int) {
		_, out, _ := p.a.state()
		_, out2, _ := p.b.state()
		return out.held(), out2.held()
	}
	eventually(t, "the active server holds what it may, and no more comes", func() bool {
		a0, b0 := a, b
		a, b = held()
		time.Sleep(50 * time.Millisecond)
		return a >= cfg.StreamBuffer && a == a0 && b == b0
	})
	if limit := cfg.StreamBuffer + piece; a > limit {
		t.Errorf("the active server holds %d bytes, more than %d", a, limit)
	}
	if limit := cfg.WholeReply + 2*(cfg.StreamBuffer+piece); b > limit {
		t.Errorf("the backup holds %d bytes, more than %d", b, limit)
	}
	resp := c.expect(1)
	if resp.ContentLength != size {
		t.Errorf("%d bytes", resp.ContentLength)
	}
	c.send(2, "/?size=10", nil)
	c.expect(2)
	eventually(t, "both logs are empty", func() bool {
		return p.a.proxy.held.Load() == 0 && p.b.proxy.held.Load() == 0
	})
}

// Many replies in the making at once, more than all may hold together: each is then
// shown in pieces.
func TestBacklog(t *testing.T) {
	p := newPair(t, Config{Backlog: 1 << 20})
	const n, size = 8, 1 << 20
	var twins []*twin
	for range n {
		c := dialTwin(t, p.a, p.b)
		c.drain()
		c.send(1, fmt.Sprintf("/?size=%d", size), nil)
		twins = append(twins, c)
	}
	for _, c := range twins {
		c.expect(1)
	}
	eventually(t, "nothing is held", func() bool {
		return p.a.proxy.held.Load() == 0 && p.b.proxy.held.Load() == 0
	})
}

func TestPipelined(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "GET /?size=%d HTTP/1.1\r\nHost: x\r\nRequest: %d\r\n\r\n", i*1000, i)
	}
	c.write([]byte(b.String()))
	for i := range 100 {
		c.expect(i)
	}
}
