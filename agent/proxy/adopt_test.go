// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

// fakeAdopter is the kernels of both servers for one client that has connected to
// server a before b was there.
type fakeAdopter struct {
	t  *testing.T
	on *node // server a

	mu      sync.Mutex
	fail    int    // so many times no socket can be built
	written uint64 // by the client
	end     net.Conn
	next    uint64 // how much has arrived on b
	base    uint64 // where b's replies begin
	early   map[uint64][]byte
}

func (f *fakeAdopter) Describe(client, _ netip.AddrPort) (*replicationv1.Socket, error) {
	return &replicationv1.Socket{ClientIsn: 1, Mss: 1460}, nil
}

func (f *fakeAdopter) Arm(_, _ netip.AddrPort) error { return nil }

func (f *fakeAdopter) Adopt(id ID, _ *replicationv1.Socket, received, written uint64, _ time.Duration) (*net.TCPConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail > 0 {
		f.fail--
		return nil, errors.New("no socket today")
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	end, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return nil, err
	}
	end.SetDeadline(time.Now().Add(20 * time.Second))
	f.end = newSponge(end)
	f.t.Cleanup(func() { f.end.Close() })
	s, err := l.Accept()
	if err != nil {
		return nil, err
	}
	f.next, f.base = received, written
	f.caughtUp()
	return s.(*net.TCPConn), nil
}

func (f *fakeAdopter) Inject(_ ID, offset uint64, data []byte, eof bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deliver(offset, data)
	return nil
}

// deliver is b's kernel: what comes too early waits.
func (f *fakeAdopter) deliver(offset uint64, data []byte) {
	if f.end == nil {
		return // no socket
	}
	if offset > f.next {
		f.early[offset] = bytes.Clone(data)
		return
	}
	if skip := f.next - offset; skip < uint64(len(data)) {
		f.end.Write(data[skip:])
		f.next += uint64(len(data)) - skip
	}
	for at, b := range f.early {
		if at <= f.next {
			delete(f.early, at)
			f.deliver(at, b)
			return
		}
	}
	f.caughtUp()
}

// caughtUp is the gate: it closes when b has all that a has.
func (f *fakeAdopter) caughtUp() {
	f.on.kernel.mu.Lock()
	defer f.on.kernel.mu.Unlock()
	f.on.kernel.gated = f.next == f.written
}

// sponge is a connection that never makes its peer wait, as the kernel of a backup
// does not.
type sponge struct {
	net.Conn
	mu   sync.Mutex
	cond sync.Cond
	b    []byte
	err  error
}

func newSponge(c net.Conn) *sponge {
	s := &sponge{Conn: c}
	s.cond.L = &s.mu
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			s.mu.Lock()
			s.b, s.err = append(s.b, buf[:n]...), err
			s.cond.Broadcast()
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *sponge) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.b) == 0 && s.err == nil {
		s.cond.Wait()
	}
	if len(s.b) == 0 {
		return 0, s.err
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}

// write sends bytes to both servers; those for b are lost if it has no socket.
func (f *fakeAdopter) write(c *twin, b []byte) {
	f.mu.Lock()
	at := f.written
	f.written += uint64(len(b))
	f.deliver(at, b)
	f.mu.Unlock()
	c.socks[0].Write(b)
}

// late is a pair of which b has not joined yet, and a client.
type late struct {
	*pair
	*fakeAdopter
	c *twin
}

func newLate(t *testing.T, cfg Config) *late {
	t.Helper()
	f := &fakeAdopter{t: t, early: map[uint64][]byte{}}
	cfg.Adopter = f
	l := &late{fakeAdopter: f, pair: &pair{a: newNode(t, "a", "127.0.0.1", cfg), b: newNode(t, "b", "127.0.0.2", cfg)}}
	f.on = l.a
	l.a.proxy.Lead(true)
	l.c = dialTwin(t, l.a)
	l.c.nodes = []*node{l.a, l.b}
	l.toB, l.toA = newPipes(l.a.proxy, l.b.proxy)
	t.Cleanup(func() { l.toB.close() })
	return l
}

func get(id int, path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: x\r\nRequest: " + string(rune('0'+id)) + "\r\n\r\n")
}

// join makes b the backup, before the gate.
func (l *late) join() {
	l.b.proxy.Follow(l.toA)
	if err := l.a.proxy.Replicate(l.toB, func() error { return nil }); err != nil {
		l.t.Fatal(err)
	}
}

func (l *late) protected() bool {
	n, m := l.a.proxy.Counts()
	return n == 1 && m == 1 && l.a.proxy.Stats().Adopted.Load() == 1
}

// flip lets a vanish and b take over; the client hears b from now on.
func (l *late) flip() (ended int) {
	l.toB.close()
	l.c.socks[0].(*net.TCPConn).SetLinger(0)
	go l.a.proxy.Fence()
	ended = l.b.proxy.Lead(false)
	l.c.socks = append(l.c.socks, l.end)
	l.c.heard = 1
	l.b.proxy.Release()
	if ended == 0 {
		// What the client has had from the other server.
		if _, err := io.CopyN(io.Discard, l.end, int64(uint64(l.c.read.n)-l.base)); err != nil {
			l.t.Fatal(err)
		}
	}
	return ended
}

// An idle connection is adopted, and goes on where it was when the other server dies.
func TestAdoptIdle(t *testing.T) {
	l := newLate(t, Config{})
	for id := 1; id <= 3; id++ {
		l.write(l.c, get(id, "/?size=1000"))
		l.c.expect(id)
	}
	l.join()
	eventually(t, "protected", l.protected)
	if n, m := l.b.proxy.Counts(); n != 1 || m != 1 {
		t.Errorf("the backup has %d connections, %d whole", n, m)
	}
	l.write(l.c, get(4, "/?size=1000"))
	l.c.expect(4)
	l.write(l.c, get(5, "/hold?size=1000"))
	eventually(t, "the request is in hand", func() bool { return l.a.runs.Load() == 5 })
	if ended := l.flip(); ended != 0 {
		t.Fatalf("%d connections ended", ended)
	}
	l.b.letGo()
	if got := l.c.expect(5).Header.Get("Server-Name"); got != "b" {
		t.Errorf("answered by %s", got)
	}
	l.end.Write(get(6, "/?size=10"))
	l.c.expect(6)
}

// A connection is adopted in the middle of a request, of which a part arrives between
// its description and the moment at which the backup has a socket.
func TestAdoptInUpload(t *testing.T) {
	l := newLate(t, Config{})
	body := bytes.Repeat([]byte("0123456789"), 30_000)
	head := []byte("POST /?size=100 HTTP/1.1\r\nHost: x\r\nRequest: 1\r\nContent-Length: 300000\r\n\r\n")
	l.write(l.c, append(head, body[:100_000]...))
	described, goOn := make(chan bool), make(chan bool)
	var once sync.Once
	before := func(f *replicationv1.Frame) {
		if f.GetAdopt().GetStanding() != nil {
			once.Do(func() { close(described); <-goOn })
		}
	}
	l.toB.before.Store(&before)
	l.join()
	<-described
	l.write(l.c, body[100_000:150_000])
	close(goOn)
	eventually(t, "protected", l.protected)
	l.write(l.c, body[150_000:200_000])
	if ended := l.flip(); ended != 0 {
		t.Fatalf("%d connections ended", ended)
	}
	l.end.Write(body[200_000:])
	if got := l.c.expect(1).Header.Get("Echo-Length"); got != "300000" {
		t.Errorf("the application got %s bytes", got)
	}
	if n := l.b.replay.Load(); n != 1 {
		t.Errorf("%d requests were marked as run again", n)
	}
}

// A connection is adopted while its reply is being made, and while it is written.
func TestAdoptInReply(t *testing.T) {
	for _, path := range []string{"/hold?size=1000", "/?size=30000000"} {
		t.Run(path, func(t *testing.T) {
			l := newLate(t, Config{})
			l.write(l.c, get(1, path))
			eventually(t, "the request is in hand", func() bool { return l.a.runs.Load() == 1 })
			l.join()
			if strings.HasPrefix(path, "/hold") {
				eventually(t, "protected", l.protected)
			} else {
				eventually(t, "the backup has the socket", func() bool { n, _ := l.b.proxy.Counts(); return n == 1 })
			}
			l.a.letGo()
			l.c.expect(1)
			eventually(t, "protected", l.protected)
			l.write(l.c, get(2, "/hold?size=1000"))
			if ended := l.flip(); ended != 0 {
				t.Fatalf("%d connections ended", ended)
			}
			l.b.letGo()
			l.c.expect(2)
		})
	}
}

// The active server dies before the backup has everything: the connection ends, and
// is counted. It must not go on as if nothing were missing.
func TestAdoptUnfinished(t *testing.T) {
	l := newLate(t, Config{})
	l.write(l.c, get(1, "/?size=1000"))
	l.c.expect(1)
	held := make(chan bool)
	var once sync.Once
	before := func(f *replicationv1.Frame) {
		if f.GetHeld() != nil {
			once.Do(func() { close(held) })
			f.Reset()
		}
	}
	l.toB.before.Store(&before)
	l.join()
	<-held
	if n, m := l.a.proxy.Counts(); n != 1 || m != 0 {
		t.Errorf("%d of %d connections count as protected", m, n)
	}
	if ended := l.flip(); ended != 1 {
		t.Errorf("%d connections ended", ended)
	}
	if _, err := l.end.Read(make([]byte, 1)); err == nil {
		t.Error("the client hears more")
	}
}

// The same before the backup has a socket: its kernel must answer the client's next
// packet with an RST, or the client would wait in vain.
func TestAdoptWithoutSocket(t *testing.T) {
	l := newLate(t, Config{})
	l.write(l.c, get(1, "/?size=1000"))
	l.c.expect(1)
	standing := make(chan bool)
	var once sync.Once
	before := func(f *replicationv1.Frame) {
		if a := f.GetAdopt(); a.GetStanding() != nil {
			a.Standing = nil
			once.Do(func() { close(standing) })
		}
	}
	l.toB.before.Store(&before)
	l.join()
	<-standing
	eventually(t, "it is here in part", func() bool {
		l.b.proxy.mu.Lock()
		defer l.b.proxy.mu.Unlock()
		return len(l.b.proxy.conns) == 1
	})
	l.toB.close()
	if ended := l.b.proxy.Lead(false); ended != 1 {
		t.Errorf("%d connections ended", ended)
	}
	l.b.kernel.mu.Lock()
	defer l.b.kernel.mu.Unlock()
	if !l.b.kernel.marked[l.c.client] {
		t.Error("the client is not told")
	}
}

// What cannot be adopted goes on as it is, and is tried again.
func TestAdoptFails(t *testing.T) {
	l := newLate(t, Config{})
	l.fail = 3
	l.write(l.c, get(1, "/?size=1000"))
	l.c.expect(1)
	l.join()
	eventually(t, "it was tried", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.fail < 3 })
	l.write(l.c, get(2, "/?size=1000"))
	l.c.expect(2)
	eventually(t, "protected", l.protected)
	l.write(l.c, get(3, "/?size=1000"))
	l.c.expect(3)
	if ended := l.flip(); ended != 0 {
		t.Errorf("%d connections ended", ended)
	}
}

// A backup that goes while it adopts takes nothing along.
func TestAdoptBackupDies(t *testing.T) {
	l := newLate(t, Config{})
	l.write(l.c, get(1, "/?size=1000"))
	l.c.expect(1)
	adopting := make(chan bool)
	var once sync.Once
	before := func(f *replicationv1.Frame) {
		if f.GetAdopt() != nil {
			once.Do(func() { close(adopting) })
			f.Reset()
		}
	}
	l.toB.before.Store(&before)
	l.join()
	<-adopting
	l.toB.close()
	l.a.proxy.Alone()
	l.write(l.c, get(2, "/?size=1000"))
	l.c.expect(2)
}

func TestAge(t *testing.T) {
	s := New(Config{}, newFakeKernel(), &fakeApp{}, nil)
	one, two := &pipe{}, &pipe{}
	at := func(stream Stream, ago time.Duration) time.Duration {
		return s.age(stream, sinceStart()-int64(ago)).Round(10 * time.Millisecond)
	}
	for _, test := range []struct {
		stream    *pipe
		ago, want time.Duration
	}{
		{one, time.Hour, 0}, {one, time.Hour + time.Second, time.Second},
		{one, time.Hour - time.Minute, 0}, {one, time.Hour, time.Minute},
		{two, -time.Hour, 0}, {two, 0, time.Hour},
	} {
		if got := at(test.stream, test.ago); got != test.want {
			t.Errorf("%v ago: %v, want %v", test.ago, got, test.want)
		}
	}
}
