// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-net/understudy/agent/bpf/bpftest"
)

const helperEnv = "UNDERSTUDY_TEST_HELPER"

// TestMain lets the test binary be the server's process that is killed.
func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper(os.Getenv(helperEnv))
		return
	}
	os.Exit(m.Run())
}

// helper listens on the VIP and echoes lines, until it is killed. It does not
// read the line "stall", nor what follows it.
func helper(mode string) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp4", fmt.Sprintf("%v:%d", bpftest.VIP, port))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			r := bufio.NewReader(io.LimitReader(c, 1<<20))
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				var n int
				if _, err := fmt.Sscanf(line, "get %d", &n); err == nil {
					c.Write(pattern(n))
					continue
				}
				c.Write([]byte("echo " + line))
				if mode == "stall" {
					time.Sleep(time.Hour)
				}
			}
		}()
	}
}

// spawn starts the helper on a server.
func (s *server) spawn(mode string) (kill func()) {
	s.t.Helper()
	var kid *exec.Cmd
	check(s.t, s.Do(func() error {
		kid = exec.Command("/proc/self/exe")
		kid.Env = append(os.Environ(), helperEnv+"="+mode)
		out, err := kid.StdoutPipe()
		if err != nil {
			return err
		}
		kid.Stderr = os.Stderr
		if err := kid.Start(); err != nil {
			return err
		}
		if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
			return fmt.Errorf("helper says %q", line)
		}
		return nil
	}))
	kill = func() {
		kid.Process.Signal(syscall.SIGKILL)
		kid.Wait()
	}
	s.t.Cleanup(kill)
	return kill
}

// The server's process is killed; its kernel wants to end its connections.
func TestGuard(t *testing.T) {
	const n = 20
	tests := []struct {
		name   string
		mode   string
		unread bool // data is waiting in the killed process' sockets: RST, not FIN
		wants  string
	}{
		{"idle", "echo", false, "guarded_fin"},
		{"unread data", "stall", true, "guarded_rst"},
	}
	for _, test := range tests {
		for _, on := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, guard=%v", test.name, on), func(t *testing.T) {
				config := align
				config.Guard = on
				l := newLab(t, options{config: &config, noApp: true})
				ln, err := l.servers[1].Listen(port)
				check(t, err)
				l.servers[1].run(ln)
				kill := l.servers[0].spawn(test.mode)
				cs := l.dialN(n)
				checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
				if test.unread {
					checkAll(t, all(cs, func(_ int, c *client) error { _, err := c.Write([]byte("unread\n")); return err }))
					time.Sleep(20 * time.Millisecond)
				}
				kill()
				time.Sleep(50 * time.Millisecond)
				broken := 0
				for _, c := range cs {
					if c.broken() {
						broken++
					}
				}
				if !on {
					if broken != n {
						t.Errorf("%d of %d connections broke, want all", broken, n)
					}
					return
				}
				if broken != 0 {
					t.Errorf("%d of %d connections broke", broken, n)
				}
				if l.servers[0].stats()[test.wants] < n {
					t.Errorf("%s did not happen:%s", test.wants, l.servers[0].nonzero())
				}
				if e := l.Emitted(0); e.FIN+e.RST > 0 {
					t.Errorf("%d FIN and %d RST left", e.FIN, e.RST)
				}
				// A connection that begins while nobody listens.
				late := l.dial()
				l.Activate(1)
				l.servers[1].kick(cs...)
				if test.unread {
					checkAll(t, all(cs, func(_ int, c *client) error { return c.expect("echo unread\n") }))
				}
				checkAll(t, all(append(cs, late), func(_ int, c *client) error { return c.echo("after the flip") }))
			})
		}
	}
}

// The FIN of a killed process rides on its last data. The data reaches the
// client, the FIN does not.
func TestGuardStripsFIN(t *testing.T) {
	for _, gso := range []bool{false, true} {
		t.Run(fmt.Sprintf("gso=%v", gso), func(t *testing.T) {
			const n, size = 5, 40000
			o := options{noApp: true}
			o.GSO = gso
			l := newLab(t, o)
			ln, err := l.servers[1].Listen(port)
			check(t, err)
			l.servers[1].run(ln)
			kill := l.servers[0].spawn("echo")
			cs := l.dialN(n)
			for _, c := range cs {
				check(t, c.echo("hello"))
				c.SetReadBuffer(4096)
				_, err := fmt.Fprintf(c, "get %d\n", size)
				check(t, err)
			}
			time.Sleep(100 * time.Millisecond) // the reply is in the kernel, the client does not read
			kill()
			got := make([][]byte, n)
			checkAll(t, all(cs, func(i int, c *client) error {
				got[i] = make([]byte, size)
				_, err := io.ReadFull(c.r, got[i])
				return err
			}))
			for i := range got {
				if string(got[i]) != string(pattern(size)) {
					t.Errorf("client %d got something else", i)
				}
			}
			if l.servers[0].stats()["stripped_fin"] == 0 {
				t.Errorf("no FIN was stripped:%s", l.servers[0].nonzero())
			}
			l.Activate(1)
			checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("after the flip") }))
		})
	}
}

// Who closes a connection announces it.
func TestClose(t *testing.T) {
	closers := []struct {
		name  string
		close func(*net.TCPConn) error
	}{
		{"close", (*net.TCPConn).Close},
		{"shutdown", (*net.TCPConn).CloseWrite},
		{"reset", func(c *net.TCPConn) error { c.SetLinger(0); return c.Close() }},
	}
	for _, how := range closers {
		for _, mark := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, marked=%v", how.name, mark), func(t *testing.T) {
				l := newLab(t, options{})
				c := l.dial()
				check(t, c.echo("hello"))
				s := l.servers[0]
				if mark {
					check(t, s.progs.MarkClosing(c.tuple()))
				}
				check(t, how.close(s.conn(c)))
				time.Sleep(20 * time.Millisecond)
				if got := c.broken(); got != mark {
					t.Errorf("client sees the end: %v, want %v;%s", got, mark, s.nonzero())
				}
			})
		}
	}
}
