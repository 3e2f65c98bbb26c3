// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

// content is the same on both servers, other differs where the client has read.
func content(seed byte) []byte {
	b := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// Replies of which the client has seen the beginning when the server dies.
func TestPartialReplyAtFailover(t *testing.T) {
	same := content(1)
	other := bytes.Clone(same)
	other[50<<10] ^= 1
	// plain writes b without regard to ranges.
	plain := func(w http.ResponseWriter, b []byte) {
		for len(b) > 0 {
			n := min(len(b), 32<<10)
			if _, err := w.Write(b[:n]); err != nil {
				return
			}
			b = b[n:]
		}
	}
	serve := func(tag string, b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", tag)
			http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(b))
		}
	}
	simple := func(tag string, length bool, b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if tag != "" {
				w.Header().Set("ETag", tag)
			}
			if length {
				w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			}
			w.Header().Set("Content-Type", "a/b")
			plain(w, b)
		}
	}
	const get = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		request   string
		a, b      http.HandlerFunc
		goesOn    bool
		fromRange bool // b's application was asked for a part only
		reset     bool // else, if the reply ends early, it is by a close in order
		want      []byte
	}{
		"a strong validator and ranges":   {get, serve(`"1"`, same), serve(`"1"`, same), true, true, false, same},
		"a range of the client's own":     {"GET /x HTTP/1.1\r\nHost: x\r\nRange: bytes=1000-3000000\r\n\r\n", serve(`"1"`, same), serve(`"1"`, same), true, true, false, same[1000:3000001]},
		"a strong validator, no ranges":   {get, simple(`"1"`, true, same), simple(`"1"`, true, same), true, true, false, same},
		"validator says another":          {get, serve(`"1"`, same), serve(`"2"`, same), false, false, false, same},
		"same bytes, weak validator":      {get, simple(`W/"1"`, true, same), simple(`W/"2"`, true, same), true, false, false, same},
		"same bytes, chunked":             {get, simple("", false, same), simple("", false, same), true, false, false, same},
		"same bytes, chunked and length":  {get, simple("", false, same), simple("", true, same), true, false, false, same},
		"same bytes, after a POST":        {"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", simple("", true, same), simple("", true, same), true, false, false, same},
		"same bytes, HTTP/1.0":            {"GET /x HTTP/1.0\r\n\r\n", simple("", false, same), simple("", false, same), true, false, false, same},
		"other bytes":                     {get, simple("", false, same), simple("", false, other), false, false, false, same},
		"other bytes, ended by the close": {"GET /x HTTP/1.0\r\n\r\n", simple("", false, same), simple("", false, other), false, false, true, same},
		"another length":                  {get, simple("", true, same), simple("", true, same[:2<<20]), false, false, false, same},
		"too short":                       {get, simple("", false, same), simple("", false, same[:50<<10]), false, false, false, same},
		"an error":                        {get, serve(`"1"`, same), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, false, false, false, same},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{WholeReply: 100 << 10, StreamBuffer: 256 << 10})
			var asked atomic.Bool
			watched := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Store(r.Header.Get("If-Range") != "")
				if r.Header.Get(ReplayHeader) == "" {
					t.Error("the second run is not marked")
				}
				c.b(w, r)
			})
			p.a.handler.Store(&c.a)
			p.b.handler.Store(&watched)
			cl := dialTwin(t, p.a, p.b)
			cl.write([]byte(c.request))
			part := make([]byte, 4<<20)
			// The fake kernel has it that nothing is acknowledged: b repeats everything.
			// Its window then is soon full.
			n, _ := io.ReadAtLeast(cl.socks[0], part, 100<<10)
			p.kill(cl)
			again := make([]byte, n)
			if _, err := io.ReadFull(cl.socks[1], again); err != nil || !bytes.Equal(again, part[:n]) {
				t.Fatalf("the two servers' bytes differ (%v)", err)
			}
			raw := bufio.NewReader(io.MultiReader(bytes.NewReader(again), cl.socks[1]))
			resp, err := http.ReadResponse(raw, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if !bytes.HasPrefix(c.want, body) {
				t.Error("bytes that do not belong there were shown")
			}
			if c.goesOn && (err != nil || len(body) != len(c.want)) {
				t.Errorf("%d of %d bytes, %v", len(body), len(c.want), err)
			}
			if !c.goesOn && err == nil {
				t.Error("the reply seems to be complete")
			}
			if reset := errors.Is(err, syscall.ECONNRESET); reset != c.reset {
				t.Errorf("reset: %v, want %v (%v)", reset, c.reset, err)
			}
			want := uint64(0)
			if !c.goesOn {
				want = 1
			}
			eventually(t, "what cannot go on is counted", func() bool { return p.b.proxy.Stats().Ended.Load() == want })
			if got := p.b.proxy.Stats().Continued.Load(); got > 1-want {
				t.Errorf("%d replies are counted as continued", got)
			}
			if asked.Load() != c.fromRange && c.goesOn {
				t.Errorf("asked for a range: %v", asked.Load())
			}
		})
	}
}

// A server that inherits such a reply goes on gathering the proof.
func TestPartialInherited(t *testing.T) {
	head := "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 9\r\n\r\n"
	one, two := &partialReply{}, &partialReply{}
	for _, p := range []*partialReply{one, two} {
		p.add([]byte(head+"abc"), span{head: len(head), at: len(head), body: 3})
	}
	two = inheritPartial(two.describe())
	for _, p := range []*partialReply{one, two} {
		p.add([]byte("0003\r\ndef\r\n"), span{at: 6, body: 3})
	}
	if one.shown != 6 || two.shown != 6 || !bytes.Equal(one.sum.Sum(nil), two.sum.Sum(nil)) || one.kind != two.kind || two.rest() != 3 {
		t.Errorf("%+v became %+v", one, two)
	}
	if inheritPartial((*partialReply)(nil).describe()) != nil {
		t.Error("nothing became something")
	}
	for name, d := range map[string]*replicationv1.Partial{
		"beyond its length": {Length: 3, Shown: 4},
		"unknown framing":   {Length: -3},
		"broken sum":        {Length: 3, Sum: []byte("x")},
	} {
		if !inheritPartial(d).endless {
			t.Errorf("%s: taken", name)
		}
	}
}

// The application breaks off in the middle of a reply that is shown in pieces; the same
// server's next run continues it.
func TestBrokenPartialReply(t *testing.T) {
	p := newPair(t, Config{WholeReply: 100 << 10})
	same := content(1)[:2<<20]
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get(ReplayHeader) != "" {
			http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(same))
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(same)))
		w.Write(same[:len(same)/2])
		panic(http.ErrAbortHandler)
	})
	c := dialTwin(t, p.a, p.b)
	c.drain()
	for range 3 {
		c.write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		if _, body := c.readReply("GET"); body != string(same) {
			t.Fatalf("%d bytes", len(body))
		}
	}
	if n := p.a.proxy.Stats().Continued.Load(); n != 3 {
		t.Errorf("%d replies continued", n)
	}
}

// echo switches protocols and sends back what it gets, with a greeting first.
func echo(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		io.WriteString(w, "no upgrade: "+r.Header.Get("Upgrade"))
		return
	}
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello\n")
	io.Copy(c, rw)
	io.WriteString(c, "bye\n")
}

const upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

// dialTunnel opens a tunnel and reads the greeting.
func dialTunnel(t *testing.T, p *pair) *twin {
	t.Helper()
	c := dialTwin(t, p.a, p.b)
	c.drain()
	c.write([]byte(upgrade))
	resp, err := http.ReadResponse(c.reply, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-WebSocket-Accept") != "x" {
		t.Fatal(resp, err)
	}
	if line, _ := c.reply.ReadString('\n'); line != "hello\n" {
		t.Fatalf("%q", line)
	}
	return c
}

func TestTunnel(t *testing.T) {
	p := newPair(t, Config{ReplayBytes: 100 << 10, BodyTimeout: 50 * time.Millisecond, UpstreamTimeout: 50 * time.Millisecond})
	p.handle(echo)
	c := dialTunnel(t, p)
	line := strings.Repeat("x", 10000) + "\n"
	for range 100 {
		c.write([]byte(line))
		if got, err := c.reply.ReadString('\n'); got != line {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	for _, n := range []*node{p.a, p.b} {
		eventually(t, "nothing is kept of what the client said", func() bool {
			in, _, _ := n.state()
			return len(in.data) == 0 && in.received() > 1000000
		})
	}
	// Longer than any timeout.
	time.Sleep(200 * time.Millisecond)
	for _, s := range c.socks {
		s.(*net.TCPConn).CloseWrite()
	}
	if got, err := io.ReadAll(c.reply); string(got) != "bye\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	eventually(t, "both copies are gone", func() bool { return len(p.a.proxy.all()) == 0 && len(p.b.proxy.all()) == 0 })
}

// At a failover a tunnel is closed in order, and counted; so is a stream of events.
func TestTunnelAtFailover(t *testing.T) {
	p := newPair(t, Config{})
	p.handle(echo)
	c := dialTwin(t, p.a, p.b)
	c.write([]byte(upgrade + "one\n"))
	want := "hello\none\n"
	b := make([]byte, 1000)
	n := 0
	for !strings.HasSuffix(string(b[:n]), want) {
		k, err := c.socks[0].Read(b[n:])
		if n += k; err != nil {
			t.Fatal(err)
		}
	}
	p.kill(c)
	got, err := io.ReadAll(c.socks[1])
	if err != nil || string(got) != string(b[:n]) {
		t.Errorf("%q, %v", got, err)
	}
	if ended := p.b.proxy.Stats().Ended.Load(); ended != 1 {
		t.Errorf("%d ended", ended)
	}
	p.b.kernel.mu.Lock()
	defer p.b.kernel.mu.Unlock()
	if !p.b.kernel.marked[c.client] {
		t.Error("the crash guard would stop the close")
	}
}

func TestEventsAtFailover(t *testing.T) {
	p := newPair(t, Config{})
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := dialTwin(t, p.a, p.b)
	c.write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	first := bufio.NewReader(c.socks[0])
	for line := ""; line != "data: 1\n"; {
		var err error
		if line, err = first.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	p.kill(c)
	resp, err := http.ReadResponse(bufio.NewReader(c.socks[1]), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); string(body) != "data: 1\n\n" || err != io.ErrUnexpectedEOF {
		t.Errorf("%q, %v", body, err)
	}
	if n := p.b.proxy.Stats().Ended.Load(); n != 1 {
		t.Errorf("%d ended", n)
	}
}

// Whatever frames come, a backup neither fails nor confirms more than it has.
func FuzzHandle(f *testing.F) {
	id := ID{netip.MustParseAddrPort("192.0.2.2:40000"), vip, 7}
	add := func(frames ...*replicationv1.Reply) {
		var b bytes.Buffer
		for _, r := range frames {
			r.Conn = id.bytes()
			protodelim.MarshalTo(&b, &replicationv1.Frame{Frame: &replicationv1.Frame_Reply{Reply: r}})
		}
		f.Add(b.Bytes())
	}
	head := []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n")
	n := uint32(len(head))
	add(&replicationv1.Reply{Request: 1, Begin: true, Data: head, Head: n - 11, BodyAt: n - 5, Body: 3, Streamed: true},
		&replicationv1.Reply{Request: 1, Data: []byte("0\r\n\r\n"), End: true, RequestEnd: 100, Close: true})
	add(&replicationv1.Reply{Data: []byte("HTTP/1.1 103 X\r\n\r\n"), Interim: true}, &replicationv1.Reply{Streamed: true, Data: head, Head: 1 << 31, Body: 1 << 31})
	add(&replicationv1.Reply{Begin: true, Streamed: true, Head: n, Data: []byte("HTTP/1.1 101 X\r\n\r\n")})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := New(Config{VIP: vip}, newFakeKernel(), &fakeApp{}, nil)
		stream := &confirmations{}
		s.Follow(stream)
		r := bytes.NewReader(in)
		sent := uint64(0)
		for range 100 {
			f := new(replicationv1.Frame)
			if protodelim.UnmarshalFrom(r, f) != nil {
				break
			}
			sent += uint64(len(f.GetReply().GetData()))
			s.Handle(stream, f)
			if stream.highest > sent {
				t.Fatalf("confirms %d bytes of %d", stream.highest, sent)
			}
		}
		s.Lead(true)
		s.Fence()
		s.wg.Wait()
		if n := s.held.Load(); n != 0 {
			t.Fatalf("counts %d bytes that nobody holds", n)
		}
	})
}

// confirmations is a Stream that remembers the highest.
type confirmations struct{ highest uint64 }

func (c *confirmations) Send(frames ...*replicationv1.Frame) error {
	for _, f := range frames {
		c.highest = max(c.highest, f.GetLogged().GetReplied())
	}
	return nil
}

// HTTP/2 is not tunnelled.
func TestNoUpgradeToHTTP2(t *testing.T) {
	p := newPair(t, Config{})
	p.handle(echo)
	c := dialTwin(t, p.a, p.b)
	c.write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n"))
	if _, body := c.readReply("GET"); body != "no upgrade: " {
		t.Errorf("%q", body)
	}
}
