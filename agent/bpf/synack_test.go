// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/bpf/bpftest"
)

// The backup writes what the client has long acknowledged. Its kernel must not
// notice.
func TestLateWriter(t *testing.T) {
	for _, gso := range []bool{false, true} {
		for _, sysctl := range []string{"", "tcp_timestamps", "tcp_window_scaling", "tcp_sack"} {
			for _, size := range []int{100, 3 << 20} {
				name := fmt.Sprintf("gso=%v, %d bytes", gso, size)
				var o options
				o.GSO = gso
				if sysctl != "" {
					if !gso {
						continue
					}
					name += ", no " + sysctl
					o.ClientSysctls = map[string]string{"net/ipv4/" + sysctl: "0"}
				}
				t.Run(name, func(t *testing.T) {
					l := newLab(t, o)
					backup := l.servers[1]
					backup.delay.Store(int64(50 * time.Millisecond))
					c := l.dial()
					for range 3 {
						check(t, c.get(size))
						a := l.servers[0].look(c)
						begin := time.Now()
						eventually(t, "the backup's data is acknowledged", func() bool {
							b := backup.look(c)
							return b.SndUna == a.SndNxt && b.SndUna == b.SndNxt && b.WriteSeq == b.SndUna
						})
						if d := time.Since(begin); d > 150*time.Millisecond {
							t.Errorf("it took the backup %v to get rid of its data", d)
						}
					}
					b := backup.look(c)
					// A reply that takes longer than the delay may
					// well be ahead of the client, and be probed.
					if b.TotalRetrans > 5 || b.Backoff > 0 {
						t.Errorf("backup: %d retransmissions, back-off %d;%s", b.TotalRetrans, b.Backoff, backup.nonzero())
					}
					t.Logf("backup: srtt %v, cwnd %d, sent window %d;%s", b.SRTT, b.Cwnd, b.SndWnd, backup.nonzero())
					backup.delay.Store(0)
					l.Cut(0, true)
					l.Activate(1)
					begin := time.Now()
					_, err := backup.conn(c).Write([]byte("push\n"))
					check(t, err)
					check(t, c.expect("push\n"))
					if d := time.Since(begin); d > 20*time.Millisecond {
						t.Errorf("push after the flip took %v", d)
					}
					check(t, c.get(size))
				})
			}
		}
	}
}

// A client whose window is full for the active server's data is not full for
// the backup's copy of it.
func TestLateWriterZeroWindow(t *testing.T) {
	const size = 1 << 20
	l := newLab(t, options{})
	backup := l.servers[1]
	backup.delay.Store(int64(300 * time.Millisecond))
	c := l.dial()
	check(t, c.echo("hello"))
	c.SetReadBuffer(8192)
	_, err := fmt.Fprintf(c, "get %d\n", size)
	check(t, err)
	var a, b bpf.SocketState
	eventually(t, "the client's window is full", func() bool {
		a = l.servers[0].look(c)
		return a.SndWnd < 5000 && a.SndUna == a.SndNxt || a.SndWnd == 0
	})
	eventually(t, "the backup has followed", func() bool {
		a, b = l.servers[0].look(c), backup.look(c)
		return b.SndUna == a.SndUna
	})
	check(t, c.expect(string(pattern(size))))
	_ = b
}

// The acknowledgement that rides on a swallowed reply leaves as a pure one.
func TestSwallowedNews(t *testing.T) {
	l := newLab(t, options{})
	backup := l.servers[1]
	backup.delay.Store(int64(20 * time.Millisecond))
	c := l.dial()
	for i := range 100 {
		check(t, c.echo(fmt.Sprint(i)))
		var acks [2]uint32
		eventually(t, "both servers have acknowledged the request", func() bool {
			for i, s := range l.servers {
				r, err := s.progs.Conn(c.tuple())
				check(t, err)
				acks[i] = r.OwnAck
			}
			return acks[0] == acks[1]
		})
		if i == 0 {
			l.Watch(func(n int, g bpftest.Segment) {
				if n == 1 && g.Payload > 0 {
					t.Errorf("%d bytes left the backup", g.Payload)
				}
			})
		}
	}
	if backup.stats()["synack_news"] == 0 {
		t.Errorf("no news:%s", backup.nonzero())
	}
}

// A backup that becomes active has sent less than the client has. Its ACKs
// must be taken all the same.
func TestLaggingActive(t *testing.T) {
	l := newLab(t, options{})
	backup := l.servers[1]
	c := l.dial()
	check(t, c.echo("hello"))
	eventually(t, "the backup has replied", func() bool { b := backup.look(c); return b.SndUna == l.servers[0].look(c).SndNxt })
	backup.delay.Store(int64(500 * time.Millisecond))
	check(t, c.get(100000))
	l.Cut(0, true)
	l.Activate(1)
	begin := time.Now()
	_, err := c.Write([]byte("more\n"))
	check(t, err)
	eventually(t, "acknowledged", func() bool { return c.unacked() == 0 })
	if d := time.Since(begin); d > 150*time.Millisecond {
		t.Errorf("acknowledged after %v", d)
	}
	if backup.stats()["seqfixed"] == 0 {
		t.Errorf("no sequence number was fixed:%s", backup.nonzero())
	}
	check(t, c.expect("echo more\n"))
}

// Keepalive probes have an old sequence number on purpose: the client answers
// nothing else.
func TestKeepalive(t *testing.T) {
	l := newLab(t, options{})
	c := l.dial()
	check(t, c.echo("hello"))
	k := l.servers[0].conn(c)
	check(t, k.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}))
	time.Sleep(2500 * time.Millisecond)
	check(t, c.echo("still there"))
}

// A server that has not seen the beginning of a connection does not take one
// of its later segments for it.
func TestMidstream(t *testing.T) {
	for _, sysctl := range []string{"1", "0"} {
		t.Run("timestamps="+sysctl, func(t *testing.T) {
			var o options
			o.ClientSysctls = map[string]string{"net/ipv4/tcp_timestamps": sysctl}
			l := newLab(t, o)
			l.Lose(1, func(bpftest.Segment) bool { return true })
			c := l.dial()
			check(t, c.echo("hello"))
			l.Lose(1, nil)
			for range 100 {
				check(t, c.echo("hello"))
			}
			stats := l.servers[1].stats()
			if stats["assigned"] != 0 || stats["bad_cookie"] < 100 {
				t.Errorf("server 1:%s", l.servers[1].nonzero())
			}
			if e := l.Emitted(1); e.RST != 0 {
				t.Errorf("%d RST left", e.RST)
			}
		})
	}
}
