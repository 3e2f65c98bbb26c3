// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/bpf/bpftest"
	"github.com/understudy-net/understudy/agent/conn"
	"golang.org/x/sys/unix"
)

const port = 8080

var (
	service = bpf.Service{VIP: bpftest.VIP, Port: port}
	align   = bpf.ServiceConfig{Secret: [16]byte([]byte("sixteen letters!")), Align: true, Guard: true}
)

// A lab is a bpftest.Lab with programs and an application on both servers.
type lab struct {
	*bpftest.Lab
	t       *testing.T
	servers [2]*server
}

type options struct {
	bpftest.Options
	config  *bpf.ServiceConfig // align if nil
	noApp   bool
	gate    bool // on server 0, with shadows
	noAlign bool
}

func newLab(t *testing.T, o options) *lab {
	t.Helper()
	l := &lab{Lab: bpftest.New(t, o.Options), t: t}
	fs := bpftest.BPFFS(t)
	for i, h := range l.Lab.Servers {
		s := &server{Host: h, t: t, conns: map[netip.AddrPort]*net.TCPConn{}, pin: fmt.Sprintf("%s%d", fs, i)}
		l.servers[i] = s
		config := align
		if o.config != nil {
			config = *o.config
		}
		if i == 0 && o.gate {
			config.Gate = true
		}
		s.load()
		t.Cleanup(func() { s.detach() })
		check(t, s.progs.SetService(service, config))
		if !o.noApp {
			ln, err := h.Listen(port)
			check(t, err)
			s.run(ln)
		}
	}
	l.Shadow(o.gate)
	return l
}

// A server holds the service's connections, as an agent does.
type server struct {
	*bpftest.Host
	t     *testing.T
	pin   string
	progs *bpf.Programs
	inj   *conn.Injector
	delay atomic.Int64 // before each reply

	mu    sync.Mutex
	conns map[netip.AddrPort]*net.TCPConn
}

func (s *server) load() {
	s.t.Helper()
	check(s.t, s.Do(func() (err error) {
		if s.progs, err = bpf.Load(bpf.Config{Interface: bpftest.Interface, PinDir: s.pin, MaxConnections: 4096}); err != nil {
			return err
		}
		s.inj, err = conn.NewInjector(s.progs)
		return err
	}))
}

func (s *server) detach() {
	s.inj.Close()
	s.progs.Close()
	if err := bpf.Detach(s.pin); err != nil {
		s.t.Error(err)
	}
}

func (s *server) run(ln *net.TCPListener) {
	var wg sync.WaitGroup
	s.t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c.RemoteAddr().(*net.TCPAddr).AddrPort()] = c
			s.mu.Unlock()
			wg.Go(func() { s.serve(c) })
		}
	})
}

// serve answers "put N" and N bytes with their hash, "get N" with N bytes, and
// every other line with itself.
func (s *server) serve(c *net.TCPConn) {
	r := bufio.NewReaderSize(c, 1<<16)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		var reply []byte
		var n int
		if _, err := fmt.Sscanf(line, "put %d", &n); err == nil {
			h := sha256.New()
			if _, err := io.CopyN(h, r, int64(n)); err != nil {
				return
			}
			reply = fmt.Appendf(nil, "hash %x\n", h.Sum(nil))
		} else if _, err := fmt.Sscanf(line, "get %d", &n); err == nil {
			reply = pattern(n)
		} else {
			reply = []byte("echo " + line)
		}
		time.Sleep(time.Duration(s.delay.Load()))
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

func (s *server) conn(c *client) *net.TCPConn {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.conns[c.tuple().Client]
	if k == nil {
		s.t.Fatalf("%s does not have %v", s.Name, c.tuple())
	}
	return k
}

func (s *server) look(c *client) bpf.SocketState {
	s.t.Helper()
	st, err := s.tryLook(c)
	check(s.t, err)
	return st
}

func (s *server) tryLook(c *client) (st bpf.SocketState, err error) {
	err = s.Do(func() (err error) {
		st, err = s.progs.Look(c.tuple())
		return err
	})
	return st, err
}

func (s *server) kick(cs ...*client) {
	s.t.Helper()
	check(s.t, s.Do(func() error {
		for _, c := range cs {
			if err := s.inj.Kick(c.tuple()); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (s *server) stats() map[string]uint64 {
	s.t.Helper()
	m, err := s.progs.Stats()
	check(s.t, err)
	return m
}

// nonzero is for messages.
func (s *server) nonzero() string {
	var b strings.Builder
	for _, n := range bpf.CounterNames() {
		if v := s.stats()[n]; v != 0 {
			fmt.Fprintf(&b, " %s=%d", n, v)
		}
	}
	return b.String()
}

// A client is one connection.
type client struct {
	*net.TCPConn
	r *bufio.Reader
}

func (l *lab) dial() *client {
	l.t.Helper()
	c, err := l.tryDial()
	check(l.t, err)
	return c
}

func (l *lab) tryDial() (*client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := l.Dial(ctx, port)
	if err != nil {
		return nil, err
	}
	return l.wrap(c), nil
}

func (l *lab) wrap(c *net.TCPConn) *client {
	l.t.Cleanup(func() {
		c.SetLinger(0)
		c.Close()
	})
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{c, bufio.NewReaderSize(c, 1<<16)}
}

func (l *lab) dialN(n int) []*client {
	l.t.Helper()
	cs := make([]*client, n)
	for i := range cs {
		cs[i] = l.dial()
	}
	return cs
}

func (c *client) tuple() bpf.Tuple {
	return bpf.Tuple{
		Client: c.LocalAddr().(*net.TCPAddr).AddrPort(),
		VIP:    netip.AddrPortFrom(bpftest.VIP, port),
	}
}

func (c *client) echo(s string) error {
	if _, err := c.Write([]byte(s + "\n")); err != nil {
		return err
	}
	return c.expect("echo " + s + "\n")
}

func (c *client) expect(want string) error {
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c.r, b); err != nil {
		return fmt.Errorf("after %q: %w", b[:n], err)
	}
	if string(b) != want {
		return fmt.Errorf("got %q, want %q", b, want)
	}
	return nil
}

func (c *client) put(data []byte) error {
	if _, err := fmt.Fprintf(c, "put %d\n%s", len(data), data); err != nil {
		return err
	}
	return c.expect(fmt.Sprintf("hash %x\n", sha256.Sum256(data)))
}

func (c *client) get(n int) error {
	if _, err := fmt.Fprintf(c, "get %d\n", n); err != nil {
		return err
	}
	return c.expect(string(pattern(n)))
}

// broken tells whether the connection has ended, without waiting.
func (c *client) broken() bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	defer c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := c.r.Peek(1)
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// explain is for messages: all that is known of a connection.
func (l *lab) explain(c *client) string {
	var b strings.Builder
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if ti, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				fmt.Fprintf(&b, "client: %+v\n", *ti)
			}
		})
	}
	for i, s := range l.servers {
		r, err := s.progs.Conn(c.tuple())
		fmt.Fprintf(&b, "server %d: %+v %v\n", i, r, err)
		st, err := s.tryLook(c)
		fmt.Fprintf(&b, "server %d: %+v %v\n", i, st, err)
	}
	return b.String()
}

// unacked is how many segments the client has in flight.
func (c *client) unacked() (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1
	}
	raw.Control(func(fd uintptr) {
		n = -1
		if ti, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(ti.Unacked)
		}
	})
	return n
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte((i*7+i>>8)%26)
	}
	return b
}

func random(seed, n int) []byte {
	b := make([]byte, n)
	g := rand.NewChaCha8([32]byte{byte(seed)})
	g.Read(b)
	return b
}

// all runs f for every client at once and returns the first error of each that
// had one.
func all(cs []*client, f func(i int, c *client) error) (errs []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, c := range cs {
		wg.Go(func() {
			if err := f(i, c); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("client %d: %w", i, err))
			}
		})
	}
	wg.Wait()
	return errs
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func checkAll(t testing.TB, errs []error) {
	t.Helper()
	if len(errs) > 0 {
		t.Fatalf("%d failed, the first: %v", len(errs), errs[0])
	}
}

// eventually waits for a condition that a packet on its way will bring.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}
