// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/bpf/bpftest"
	"golang.org/x/sys/unix"
)

// gone tells whether a server has no socket for the connection any more, or
// only one in TIME_WAIT.
func (s *server) gone(c *client) bool {
	st, err := s.tryLook(c)
	return err != nil || st.State == bpf.TimeWait
}

// A connection ends on both servers, whoever begins.
func TestEnd(t *testing.T) {
	for _, gate := range []bool{false, true} {
		t.Run(fmt.Sprintf("client first, gate=%v", gate), func(t *testing.T) {
			l := newLab(t, options{gate: gate})
			c := l.dial()
			check(t, c.get(100000))
			for _, s := range l.servers {
				eventually(t, "both have the request", func() bool { return s.look(c).CopiedSeq == l.servers[0].look(c).RcvNxt })
			}
			check(t, c.CloseWrite())
			for i, s := range l.servers {
				eventually(t, fmt.Sprintf("server %d is in CLOSE_WAIT", i), func() bool { return s.look(c).State == bpf.CloseWait })
				check(t, s.progs.MarkClosing(c.tuple()))
				check(t, s.conn(c).Close())
			}
			if _, err := c.r.Peek(1); err != io.EOF {
				t.Errorf("client reads %v, want EOF", err)
			}
			for i, s := range l.servers {
				eventually(t, fmt.Sprintf("server %d has ended", i), func() bool { return s.gone(c) })
			}
			if e := l.Emitted(0); e.RST > 0 {
				t.Errorf("%d RST", e.RST)
			}
		})
		t.Run(fmt.Sprintf("server first, gate=%v", gate), func(t *testing.T) {
			l := newLab(t, options{gate: gate})
			c := l.dial()
			check(t, c.get(100000))
			for i, s := range l.servers {
				// The backup is late: the client has acknowledged this FIN.
				time.Sleep(20 * time.Millisecond)
				check(t, s.progs.MarkClosing(c.tuple()))
				check(t, s.conn(c).CloseWrite())
				eventually(t, fmt.Sprintf("the FIN of server %d is acknowledged", i), func() bool { return s.look(c).State == bpf.FinWait2 })
			}
			if _, err := c.r.Peek(1); err != io.EOF {
				t.Errorf("client reads %v, want EOF", err)
			}
			check(t, c.Close())
			for i, s := range l.servers {
				eventually(t, fmt.Sprintf("server %d has ended", i), func() bool { return s.gone(c) })
			}
			if e := l.Emitted(0); e.RST > 0 {
				t.Errorf("%d RST", e.RST)
			}
		})
	}
}

// The backup writes its last reply and its FIN when the client has seen those
// of the primary, in one segment.
func TestLateFIN(t *testing.T) {
	for _, size := range []int{100, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			l := newLab(t, options{noApp: true})
			c, ends := l.pair()
			_, err := c.Write([]byte("request\n"))
			check(t, err)
			reply := pattern(size)
			read := make(chan error, 1)
			go func() {
				b, err := io.ReadAll(c.r)
				if err == nil && string(b) != string(reply) {
					err = fmt.Errorf("got %d bytes, not what was sent", len(b))
				}
				read <- err
			}()
			for i, s := range l.servers {
				_, err := bufio.NewReader(ends[i]).ReadString('\n')
				check(t, err)
				check(t, s.progs.MarkClosing(c.tuple()))
				raw, err := ends[i].SyscallConn()
				check(t, err)
				// Corked, so that the FIN rides on the last data.
				check(t, raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1) }))
				_, err = ends[i].Write(reply)
				check(t, err)
				check(t, ends[i].CloseWrite())
				if i == 0 {
					check(t, <-read)
				}
				begin := time.Now()
				eventually(t, fmt.Sprintf("the FIN of server %d is acknowledged", i), func() bool { return s.look(c).State == bpf.FinWait2 })
				if d := time.Since(begin); i == 1 && d > 100*time.Millisecond {
					t.Errorf("it took the backup %v", d)
				}
			}
			check(t, c.Close())
			for i, s := range l.servers {
				eventually(t, fmt.Sprintf("server %d has ended", i), func() bool { return s.gone(c) })
			}
		})
	}
}

// pair returns a connection and the servers' ends of it, without the
// application.
func (l *lab) pair() (*client, [2]*net.TCPConn) {
	l.t.Helper()
	var lns [2]*net.TCPListener
	for i, s := range l.servers {
		ln, err := s.Listen(port)
		check(l.t, err)
		lns[i] = ln
		defer ln.Close()
	}
	c := l.dial()
	var ends [2]*net.TCPConn
	for i, ln := range lns {
		ln.SetDeadline(time.Now().Add(2 * time.Second))
		e, err := ln.AcceptTCP()
		check(l.t, err)
		e.SetDeadline(time.Now().Add(10 * time.Second))
		l.t.Cleanup(func() { e.Close() })
		ends[i] = e
	}
	return c, ends
}

// A client comes back with the address and port of a connection that the
// servers still remember.
func TestReplace(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(t *testing.T, l *lab, c *client)
		want string
	}{
		{"TIME_WAIT", func(t *testing.T, l *lab, c *client) {
			for _, s := range l.servers {
				check(t, s.progs.MarkClosing(c.tuple()))
				check(t, s.conn(c).Close())
			}
			if _, err := c.r.Peek(1); err != io.EOF {
				t.Errorf("client reads %v, want EOF", err)
			}
			check(t, c.Close())
			for _, s := range l.servers {
				eventually(t, "TIME_WAIT", func() bool { st, err := s.tryLook(c); return err == nil && st.State == bpf.TimeWait })
			}
		}, "replaced"},
		{"orphan", func(t *testing.T, l *lab, c *client) {
			for _, s := range l.servers {
				check(t, s.conn(c).Close()) // not marked: the FIN is held back
				eventually(t, "FIN_WAIT1", func() bool { return s.look(c).State == bpf.FinWait1 })
			}
			l.forget(c)
		}, "replaced"},
		{"established", func(t *testing.T, l *lab, c *client) { l.forget(c) }, "replaced"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, options{})
			c := l.dial()
			local := c.LocalAddr().(*net.TCPAddr)
			check(t, c.echo("hello"))
			for _, s := range l.servers {
				eventually(t, "both have the request", func() bool { return s.look(c).CopiedSeq == l.servers[0].look(c).RcvNxt })
			}
			test.end(t, l, c)
			time.Sleep(10 * time.Millisecond)

			var k net.Conn
			check(t, l.Client.Do(func() (err error) {
				d := net.Dialer{LocalAddr: local, Timeout: 3 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
					return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
				}}
				d.SetMultipathTCP(false)
				k, err = d.Dial("tcp4", fmt.Sprintf("%v:%d", bpftest.VIP, port))
				return err
			}))
			again := l.wrap(k.(*net.TCPConn))
			again.SetDeadline(time.Now().Add(3 * time.Second))
			if err := again.echo("hello again"); err != nil {
				t.Fatalf("%v\n%sserver 0:%s; server 1:%s", err, l.explain(again), l.servers[0].nonzero(), l.servers[1].nonzero())
			}
			for i, s := range l.servers {
				if s.stats()[test.want] == 0 {
					t.Errorf("server %d:%s", i, s.nonzero())
				}
			}
			l.Cut(0, true)
			l.Activate(1)
			check(t, again.echo("after the flip"))
		})
	}
}

// forget makes the client lose a connection without a word.
func (l *lab) forget(c *client) {
	l.t.Helper()
	lose := func(bpftest.Segment) bool { return true }
	l.Lose(0, lose)
	l.Lose(1, lose)
	c.SetLinger(0)
	check(l.t, c.Close())
	time.Sleep(10 * time.Millisecond)
	l.Lose(0, nil)
	l.Lose(1, nil)
}

// The record of a connection ends with it, and a late copy of its first segment
// does not begin it again.
func TestForget(t *testing.T) {
	for _, gate := range []bool{false, true} {
		for _, first := range []string{"client", "server"} {
			t.Run(fmt.Sprintf("%s closes first, gate=%v", first, gate), func(t *testing.T) {
				l := newLab(t, options{gate: gate})
				var request []byte
				l.Lose(0, func(g bpftest.Segment) bool {
					if g.Payload > 0 && request == nil {
						request = append(request, g.Frame...)
					}
					return false
				})
				c := l.dial()
				check(t, c.echo("hello"))
				l.Lose(0, nil)
				for _, s := range l.servers {
					eventually(t, "replied", func() bool { st := s.look(c); return st.SndUna == l.servers[0].look(c).SndNxt })
				}
				if first == "client" {
					check(t, c.CloseWrite())
				}
				for _, s := range l.servers {
					if first == "client" {
						eventually(t, "CLOSE_WAIT", func() bool { return s.look(c).State == bpf.CloseWait })
					}
					check(t, s.progs.MarkClosing(c.tuple()))
					check(t, s.conn(c).CloseWrite())
				}
				if _, err := c.r.Peek(1); err != io.EOF {
					t.Errorf("client reads %v, want EOF", err)
				}
				check(t, c.Close())
				for i, s := range l.servers {
					eventually(t, fmt.Sprintf("server %d has forgotten", i), func() bool {
						_, err := s.progs.Conn(c.tuple())
						return errors.Is(err, bpf.ErrNotFound) && (s.gone(c))
					})
				}
				if first == "client" { // no TIME_WAIT in between
					l.Replay(0, request)
					l.Replay(1, request)
					for i, s := range l.servers {
						eventually(t, "refused", func() bool { return s.stats()["bad_cookie"] > 0 })
						if s.stats()["assigned"] != 1 {
							t.Errorf("server %d:%s", i, s.nonzero())
						}
					}
				}
			})
		}
	}
}

// A backup that ends before it has written its reply has not ended the
// connection: the client has acknowledged more than that.
func TestEarlyFIN(t *testing.T) {
	l := newLab(t, options{})
	backup := l.servers[1]
	backup.delay.Store(int64(100 * time.Millisecond))
	c := l.dial()
	check(t, c.echo("hello"))
	eventually(t, "the request is read", func() bool { return backup.look(c).CopiedSeq == l.servers[0].look(c).RcvNxt })
	check(t, backup.conn(c).Close())
	eventually(t, "closed", func() bool { return backup.look(c).State != bpf.Established })
	time.Sleep(20 * time.Millisecond)
	if st := backup.look(c).State; st != bpf.FinWait1 {
		t.Errorf("%v, want FIN_WAIT1: the FIN was acknowledged", st)
	}
	if e := l.Emitted(1); e.FIN != 0 {
		t.Errorf("%d FIN left", e.FIN)
	}
	check(t, c.echo("still there"))
}
