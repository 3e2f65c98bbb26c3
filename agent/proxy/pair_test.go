// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

var vip = netip.MustParseAddrPort("198.51.100.10:80")

// fakeKernel knows every connection, by the client's port.
type fakeKernel struct {
	mu     sync.Mutex
	acked  map[netip.AddrPort]uint32 // reply bytes that the client has read
	gated  bool
	marked map[netip.AddrPort]bool
	kicked int
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{acked: map[netip.AddrPort]uint32{}, marked: map[netip.AddrPort]bool{}}
}

func isn(client netip.AddrPort) uint32 { return 0xfffffff0 + uint32(client.Port()) } // wraps

func (k *fakeKernel) Conn(client, _ netip.AddrPort) (ConnRecord, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return ConnRecord{ISN: isn(client), Acked: isn(client) + 1 + k.acked[client], Gated: k.gated}, nil
}

func (k *fakeKernel) MarkClosing(client, _ netip.AddrPort) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.marked[client] = true
	return nil
}
func (k *fakeKernel) Ungate(_, _ netip.AddrPort) error { return nil }
func (k *fakeKernel) Kick(_, _ netip.AddrPort) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kicked++
	return nil
}

// fakeApp is alive unless told otherwise. It may be dying: then it seems alive to so
// many who ask.
type fakeApp struct {
	dead  atomic.Bool
	dying atomic.Int32
}

func (a *fakeApp) Suspect(context.Context, error) bool {
	return !a.dead.Load() || a.dying.Add(-1) >= 0
}

// pipe is a Stream that calls the other Server.
type pipe struct {
	to     *Server
	back   *pipe
	mu     sync.Mutex
	cut    bool
	frames chan *replicationv1.Frame
	// before, if set, is called with each frame before it arrives.
	before atomic.Pointer[func(*replicationv1.Frame)]
}

var errCut = errors.New("cut")

func newPipes(a, b *Server) (toB, toA *pipe) {
	toB = &pipe{to: b, frames: make(chan *replicationv1.Frame, 10000)}
	toA = &pipe{to: a, frames: make(chan *replicationv1.Frame, 10000)}
	toA.back, toB.back = toB, toA
	for _, p := range []*pipe{toA, toB} {
		go func() {
			for f := range p.frames {
				if before := p.before.Load(); before != nil {
					(*before)(f)
				}
				p.to.Handle(p.back, f)
			}
		}()
	}
	return toB, toA
}

func (p *pipe) Send(frames ...*replicationv1.Frame) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return errCut
	}
	for _, f := range frames {
		p.frames <- f
	}
	return nil
}

func (p *pipe) close() {
	for _, q := range []*pipe{p, p.back} {
		q.mu.Lock()
		if !q.cut {
			q.cut = true
			close(q.frames)
		}
		q.mu.Unlock()
	}
}

// node is one server of the pair.
type node struct {
	name   string
	app    *httptest.Server
	health fakeApp
	kernel *fakeKernel
	proxy  *Server
	addr   string
	stop   func()
	runs   atomic.Int64
	seq    atomic.Int64
	hold   chan struct{} // a request to /hold waits for it
	letGo  func()        // closes hold
	replay atomic.Int64
	// handler, if set, is the application instead of serve.
	handler atomic.Pointer[http.HandlerFunc]
}

// handle gives both servers another application.
func (p *pair) handle(h http.HandlerFunc) {
	p.a.handler.Store(&h)
	p.b.handler.Store(&h)
}

// state returns a copy of what a server knows of its only connection.
func (n *node) state() (in requestStream, out replyLog, c *conn) {
	for _, c := range n.proxy.all() {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.in, c.out, c
	}
	return in, out, nil
}

func newNode(t *testing.T, name, ip string, cfg Config) *node {
	t.Helper()
	n := &node{name: name, kernel: newFakeKernel(), hold: make(chan struct{})}
	n.letGo = sync.OnceFunc(func() { close(n.hold) })
	n.app = httptest.NewServer(http.HandlerFunc(n.serve))
	t.Cleanup(n.app.Close)
	t.Cleanup(n.letGo)
	cfg.Upstream, cfg.VIP = n.app.Listener.Addr().String(), vip
	n.proxy = New(cfg, n.kernel, &n.health, slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp4", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.proxy.Serve(ctx, l) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	t.Cleanup(n.stop)
	return n
}

// serve is the application: it answers differently on every run.
func (n *node) serve(w http.ResponseWriter, r *http.Request) {
	n.runs.Add(1)
	if r.Header.Get(ReplayHeader) != "" {
		n.replay.Add(1)
	}
	if h := n.handler.Load(); h != nil {
		(*h)(w, r)
		return
	}
	if r.URL.Path == "/hold" {
		select {
		case <-n.hold:
		case <-r.Context().Done():
			return
		}
	}
	body, _ := io.ReadAll(r.Body)
	var token [16]byte
	rand.Read(token[:])
	size, _ := strconv.Atoi(r.URL.Query().Get("size"))
	w.Header().Set("Server-Name", n.name)
	w.Header().Set("Echo-Length", strconv.Itoa(len(body)))
	w.Header().Set("Request", r.Header.Get("Request"))
	w.Header().Set("Token", hex.EncodeToString(token[:]))
	out := bytes.Repeat([]byte(hex.EncodeToString(token[:])), size/32+1)[:size]
	if r.URL.Query().Get("chunked") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(size))
	}
	if r.URL.Query().Get("break") != "" && n.runs.Load() == 1 {
		w.Write(out[:size/2])
		panic(http.ErrAbortHandler)
	}
	w.Write(out)
}

// twin is a client whose packets reach both servers, and who hears only the
// active one, as the switch has it.
type twin struct {
	t      *testing.T
	client netip.AddrPort
	nodes  []*node
	socks  []net.Conn
	heard  int
	reply  *bufio.Reader
	read   *countingReader
}

type countingReader struct {
	twin *twin
	n    uint32
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.twin.socks[c.twin.heard].Read(p)
	c.n += uint32(n)
	for _, s := range c.twin.nodes {
		s.kernel.mu.Lock()
		s.kernel.acked[c.twin.client] = c.n
		s.kernel.mu.Unlock()
	}
	return n, err
}

func dialTwin(t *testing.T, nodes ...*node) *twin {
	t.Helper()
	c := &twin{t: t, nodes: nodes}
	var local *net.TCPAddr
	for i, n := range nodes {
		d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, rc syscall.RawConn) error {
			return rc.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
		}}
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
		if i > 0 {
			d.LocalAddr = local
		}
		s, err := d.Dial("tcp4", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		local = s.LocalAddr().(*net.TCPAddr)
		s.SetDeadline(time.Now().Add(20 * time.Second))
		c.socks = append(c.socks, s)
		t.Cleanup(func() { s.Close() })
	}
	c.client = local.AddrPort()
	c.read = &countingReader{twin: c}
	c.reply = bufio.NewReader(c.read)
	return c
}

// write sends bytes to every server that is still there.
func (c *twin) write(b []byte) {
	for _, s := range c.socks {
		s.Write(b)
	}
}

func (c *twin) send(id int, path string, body []byte) {
	if body == nil {
		c.write(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: x\r\nRequest: %d\r\n\r\n", path, id))
		return
	}
	c.write(fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nRequest: %d\r\nContent-Length: %d\r\n\r\n", path, id, len(body)))
	c.write(body)
}

// expect reads one reply and checks every byte of it.
func (c *twin) expect(id int) *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.reply, &http.Request{Method: "GET"})
	if err != nil {
		c.t.Fatalf("reply to request %d: %v", id, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("body of reply %d: %v", id, err)
	}
	if resp.StatusCode != 200 {
		c.t.Fatalf("reply %d: %s", id, resp.Status)
	}
	if got := resp.Header.Get("Request"); got != strconv.Itoa(id) {
		c.t.Fatalf("reply to request %s where %d was due", got, id)
	}
	token := resp.Header.Get("Token")
	if want := strings.Repeat(token, len(body)/32+1)[:len(body)]; string(body) != want {
		c.t.Fatalf("reply %d is not of one piece", id)
	}
	return resp
}

// pair is two nodes, a active and b following.
type pair struct {
	a, b     *node
	toB, toA *pipe
}

func newPair(t *testing.T, cfg Config) *pair {
	t.Helper()
	p := &pair{a: newNode(t, "a", "127.0.0.1", cfg), b: newNode(t, "b", "127.0.0.2", cfg)}
	p.toB, p.toA = newPipes(p.a.proxy, p.b.proxy)
	p.b.proxy.Follow(nil)
	p.a.proxy.Lead(true)
	p.b.proxy.Follow(p.toA)
	if err := p.a.proxy.Replicate(p.toB, func() error {
		p.a.kernel.mu.Lock()
		p.a.kernel.gated = true
		p.a.kernel.mu.Unlock()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.toB.close() })
	return p
}

// kill lets a vanish in the midst of whatever it does, and b take over.
func (p *pair) kill(c ...*twin) {
	p.toB.close()
	for _, c := range c {
		c.socks[0].(*net.TCPConn).SetLinger(0)
		c.heard = 1
	}
	go p.a.proxy.Fence()
	p.b.proxy.Lead(false)
	p.b.proxy.Release()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

func TestPairServesWithoutFault(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	for i := range 50 {
		c.send(i, fmt.Sprintf("/?size=%d", i*4000), bytes.Repeat([]byte("x"), i*100))
		if name := c.expect(i).Header.Get("Server-Name"); name != "a" {
			t.Fatalf("answered by %s", name)
		}
	}
	if n := p.b.runs.Load(); n != 0 {
		t.Errorf("the backup's application ran %d requests", n)
	}
	if n, m := p.a.proxy.Counts(); n != 1 || m != 1 {
		t.Errorf("%d connections, %d protected", n, m)
	}
}

// The backup's kernel is given what the client has acknowledged, in time.
func TestBackupWritesWhatIsAcknowledged(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/?size=100000", nil)
	c.expect(1)
	got := make([]byte, c.read.n)
	c.socks[1].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c.socks[1], got); err != nil {
		t.Fatalf("the backup's copy: %v", err)
	}
}

func TestIdleConnectionGoesOn(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/?size=5000", nil)
	c.expect(1)
	eventually(t, "the backup writes the first reply", func() bool {
		n, _ := p.b.proxy.Counts()
		for _, k := range p.b.proxy.all() {
			k.mu.Lock()
			w := k.out.written
			k.mu.Unlock()
			return n == 1 && w == uint64(c.read.n)
		}
		return false
	})
	io.ReadFull(c.socks[1], make([]byte, c.read.n)) // what the real kernel swallows
	p.kill(c)
	c.send(2, "/?size=5000", nil)
	if name := c.expect(2).Header.Get("Server-Name"); name != "b" {
		t.Errorf("answered by %s", name)
	}
	c.send(3, "/?size=5000", nil)
	c.expect(3)
	// The dead server might have run the first one; nobody else the second.
	if n := p.b.replay.Load(); n != 1 {
		t.Errorf("%d requests were marked as replays", n)
	}
}

func TestRequestInHandIsRunAgain(t *testing.T) {
	for _, body := range []int{0, 10, 300000, 3 << 20} {
		t.Run(strconv.Itoa(body), func(t *testing.T) {
			p := newPair(t, Config{SpoolDir: t.TempDir()})
			c := dialTwin(t, p.a, p.b)
			var b []byte
			if body > 0 {
				b = bytes.Repeat([]byte("y"), body)
			}
			c.send(1, "/hold?size=70000", b)
			eventually(t, "the active server's application runs it", func() bool { return p.a.runs.Load() == 1 })
			p.b.letGo()
			p.kill(c)
			r := c.expect(1)
			if r.Header.Get("Server-Name") != "b" || r.Header.Get("Echo-Length") != strconv.Itoa(body) {
				t.Errorf("answered by %s with %s bytes", r.Header.Get("Server-Name"), r.Header.Get("Echo-Length"))
			}
			if n := p.b.replay.Load(); n != 1 {
				t.Errorf("%d requests were marked as replays", n)
			}
		})
	}
}

// A reply that the backup has logged, and of which the client has seen nothing
// or a part, is finished from the log; the request is not run again.
func TestLoggedReplyIsFinished(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/?size=1000000", nil)
	eventually(t, "the backup has logged the reply", func() bool {
		for _, k := range p.b.proxy.all() {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.answered == 1
		}
		return false
	})
	// The client has read 100,000 bytes when the server dies.
	part := make([]byte, 100000)
	if _, err := io.ReadFull(c.socks[0], part); err != nil {
		t.Fatal(err)
	}
	p.kill(c)
	// Its kernel drops what the other server repeats; here it is compared.
	again := make([]byte, len(part))
	if _, err := io.ReadFull(c.socks[1], again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(part, again) {
		t.Fatal("the two servers' bytes differ")
	}
	rest := io.MultiReader(bytes.NewReader(part), c.socks[1])
	c.reply = bufio.NewReader(rest)
	if name := c.expect(1).Header.Get("Server-Name"); name != "a" {
		t.Errorf("answered by %s", name)
	}
	if n := p.b.runs.Load(); n != 0 {
		t.Errorf("the request ran again, %d times", n)
	}
}

func TestNothingIsShownThatTheBackupDoesNotHold(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	// The request reaches the active server only.
	c.socks[0].Write([]byte("GET /?size=100 HTTP/1.1\r\nHost: x\r\nRequest: 1\r\n\r\n"))
	eventually(t, "the backup has logged the reply", func() bool {
		for _, k := range p.b.proxy.all() {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.answered == 1
		}
		return false
	})
	c.socks[0].SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := c.socks[0].Read(make([]byte, 1)); err == nil {
		t.Fatalf("%d bytes were shown although the backup lacks the request", n)
	}
	c.socks[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	c.socks[1].Write([]byte("GET /?size=100 HTTP/1.1\r\nHost: x\r\nRequest: 1\r\n\r\n"))
	c.expect(1)
}

func TestAloneReleasesWhatWasWithheld(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	c.socks[0].Write([]byte("GET /?size=100 HTTP/1.1\r\nHost: x\r\nRequest: 1\r\n\r\n"))
	eventually(t, "the application answers", func() bool { return p.a.runs.Load() == 1 })
	p.toB.close()
	p.a.proxy.Alone()
	c.expect(1)
	if p.a.kernel.kicked == 0 {
		t.Error("no connection was kicked")
	}
}

// The application breaks off in the middle of a reply: the client sees one whole
// reply, of another run.
func TestBrokenReplyIsNotShown(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/?size=500000&break=1", nil)
	c.expect(1)
	if n := p.a.runs.Load(); n != 2 {
		t.Errorf("%d runs", n)
	}
	if n := p.a.replay.Load(); n != 1 {
		t.Errorf("%d of them marked as replays", n)
	}
	c.send(2, "/?size=10", nil)
	c.expect(2)
}

// The application is dead: the request waits for the other server.
func TestDeadApplicationWithholds(t *testing.T) {
	p := newPair(t, Config{UpstreamPatience: 20 * time.Second})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/?size=10", nil)
	c.expect(1)
	p.a.health.dead.Store(true)
	p.a.app.CloseClientConnections()
	p.a.app.Listener.Close()
	c.send(2, "/?size=10", nil)
	time.Sleep(20 * time.Millisecond)
	// What b was given of the first reply is what its kernel would swallow.
	n := c.read.n
	p.kill(c)
	io.ReadFull(c.socks[1], make([]byte, n))
	if name := c.expect(2).Header.Get("Server-Name"); name != "b" {
		t.Errorf("answered by %s", name)
	}
}

// A reply that the backup holds in part only must not be shown, not even the part
// that it holds: it would be thrown away.
func TestNoPartOfAReplyIsShownBeforeItsEnd(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	// The last frame of the reply is held back on its way.
	hold := make(chan struct{})
	before := func(f *replicationv1.Frame) {
		if f.GetReply().GetEnd() {
			<-hold
		}
	}
	p.toB.before.Store(&before)
	c.send(1, "/?size=300000", nil)
	eventually(t, "the active server has the whole reply, the backup most of it", func() bool {
		whole, most := false, false
		for _, k := range p.a.proxy.all() {
			k.mu.Lock()
			whole = k.answered == 1
			k.mu.Unlock()
		}
		for _, k := range p.b.proxy.all() {
			k.mu.Lock()
			most = k.out.end >= 4*piece
			k.mu.Unlock()
		}
		return whole && most
	})
	c.socks[0].SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := c.socks[0].Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes were shown", n)
	}
	c.socks[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	close(hold)
	c.expect(1)
}

func TestUnprotectedConnectionsAreNotContinued(t *testing.T) {
	a := newNode(t, "a", "127.0.0.1", Config{})
	b := newNode(t, "b", "127.0.0.2", Config{})
	a.proxy.Lead(true)
	b.proxy.Follow(nil)
	c := dialTwin(t, a, b) // before there is a backup
	c.send(1, "/?size=10", nil)
	c.expect(1)
	toB, toA := newPipes(a.proxy, b.proxy)
	defer toB.close()
	b.proxy.Follow(toA)
	a.proxy.Replicate(toB, func() error { return nil })
	eventually(t, "the backup drops its copy", func() bool { n, _ := b.proxy.Counts(); return n == 0 })
	c.send(2, "/?size=10", nil)
	c.expect(2)
	if n, m := a.proxy.Counts(); n != 1 || m != 0 {
		t.Errorf("%d connections, %d protected", n, m)
	}
	// Should b take over, the client gets an RST instead of silence.
	toB.close()
	if ended := b.proxy.Lead(true); ended != 1 {
		t.Errorf("%d connections ended", ended)
	}
	if !b.kernel.marked[c.client] {
		t.Error("the crash guard would stop the RST")
	}
}

func TestMisshapenRequests(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: x\r\n"
	for name, misshapen := range map[string]struct {
		text   string
		status int
	}{
		"not http":           {"hello\r\n\r\n", 400},
		"no version":         {"GET /\r\n\r\n", 400},
		"bad length":         {post + "Content-Length: x\r\n\r\n", 400},
		"two lengths":        {post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
		"length and chunked": {post + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"LF alone":           {"GET / HTTP/1.1\nHost: x\n\n", 400},
		"endless header":     {"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 200000) + "\r\n\r\n", 431},
		"endless target":     {"GET /" + strings.Repeat("a", 200000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
		"connect":            {"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501},
		"binary, no line":    {"\x16\x03\x01\x02\x00\x01", 400},
		"HTTP/2":             {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		"unknown coding":     {post + "Transfer-Encoding: gzip\r\n\r\n", 501},
		"too large":          {post + "Content-Length: 2000000\r\n\r\n", 413},
		"bad chunk":          {post + "Transfer-Encoding: chunked\r\n\r\nx\r\n", 400},
		"slow head":          {"GET / HTTP/1.1\r\nHost:", 408},
		"slow body":          {post + "Content-Length: 5\r\n\r\nab", 408},
		"slow chunks":        {post + "Transfer-Encoding: chunked\r\n\r\n2\r\nab", 408},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{MaxBody: 1000000, HeadTimeout: 100 * time.Millisecond, BodyTimeout: 100 * time.Millisecond})
			c := dialTwin(t, p.a, p.b)
			c.write([]byte(misshapen.text))
			resp, err := http.ReadResponse(c.reply, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != misshapen.status {
				t.Errorf("answered %s, want %d", resp.Status, misshapen.status)
			}
			if !resp.Close {
				t.Error("does not say that it closes")
			}
			io.Copy(io.Discard, resp.Body)
			if _, err := c.reply.ReadByte(); err != io.EOF {
				t.Errorf("after the reply: %v, not a close", err)
			}
			if n := p.b.runs.Load(); n != 0 {
				t.Errorf("the backup's application saw it")
			}
		})
	}
}

func TestKeepAliveAndClose(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	// Three requests at once, the last of which closes.
	c.write([]byte("GET /?size=10 HTTP/1.1\r\nHost: x\r\nRequest: 1\r\n\r\n" +
		"POST /?size=20&chunked=1 HTTP/1.1\r\nHost: x\r\nRequest: 2\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" +
		"GET /?size=30 HTTP/1.1\r\nHost: x\r\nRequest: 3\r\nConnection: close\r\n\r\n"))
	for i := range 3 {
		c.expect(i + 1)
	}
	if _, err := c.reply.ReadByte(); err != io.EOF {
		t.Errorf("after the last reply: %v, not a close", err)
	}
	if !p.a.kernel.marked[c.client] {
		t.Error("the close is not marked")
	}
	eventually(t, "both copies are gone", func() bool {
		n, _ := p.a.proxy.Counts()
		m, _ := p.b.proxy.Counts()
		return n == 0 && m == 0
	})
}

func TestClientGoesAway(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	c.send(1, "/?size=10", nil)
	c.expect(1)
	for _, s := range c.socks {
		s.Close()
	}
	eventually(t, "both copies are gone", func() bool {
		n, _ := p.a.proxy.Counts()
		m, _ := p.b.proxy.Counts()
		return n == 0 && m == 0 && len(p.a.proxy.all()) == 0 && len(p.b.proxy.all()) == 0
	})
}

func TestExpectContinue(t *testing.T) {
	p := newPair(t, Config{})
	c := dialTwin(t, p.a, p.b)
	c.write([]byte("POST /?size=10 HTTP/1.1\r\nHost: x\r\nRequest: 1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"))
	line, err := c.reply.ReadString('\n')
	if err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v", line, err)
	}
	c.reply.ReadString('\n')
	c.write([]byte("abc"))
	if got := c.expect(1).Header.Get("Echo-Length"); got != "3" {
		t.Errorf("the application read %s bytes", got)
	}
}
