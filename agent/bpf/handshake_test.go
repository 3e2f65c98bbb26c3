// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/bpf/bpftest"
	"golang.org/x/sys/unix"
)

// Both servers answer a SYN in the same way, and make the same socket of the
// ACK, whatever options the client has.
func TestHandshake(t *testing.T) {
	type socket struct {
		Timestamps, Sack, WindowScaling bool
		SndWscale, RcvWscale            uint8
		MSSClamp                        uint16
	}
	tests := []struct {
		name    string
		sysctls map[string]string
		mss     int
		want    socket
	}{
		{"everything", nil, 0, socket{true, true, true, 10, 7, 1460}},
		{"no timestamps", map[string]string{"tcp_timestamps": "0"}, 0, socket{false, true, true, 10, 7, 1460}},
		{"no SACK", map[string]string{"tcp_sack": "0"}, 0, socket{true, false, true, 10, 7, 1460}},
		{"no window scaling", map[string]string{"tcp_window_scaling": "0"}, 0, socket{true, true, false, 0, 0, 1460}},
		{"nothing", map[string]string{"tcp_timestamps": "0", "tcp_sack": "0", "tcp_window_scaling": "0"}, 0, socket{MSSClamp: 1460}},
		{"small MSS", nil, 1310, socket{true, true, true, 10, 7, 1300}},
		{"small MSS, no timestamps", map[string]string{"tcp_timestamps": "0"}, 700, socket{false, true, true, 10, 7, 536}},
		{"ECN asked for", map[string]string{"tcp_ecn": "1"}, 0, socket{true, true, true, 10, 7, 1460}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var o options
			// So that the scale that the client asks for is known.
			o.ClientSysctls = map[string]string{"net/ipv4/tcp_rmem": "4096 131072 33554432"}
			for k, v := range test.sysctls {
				o.ClientSysctls["net/ipv4/"+k] = v
			}
			l := newLab(t, o)
			var mu sync.Mutex
			var answers [2]bpftest.Segment
			l.Watch(func(n int, g bpftest.Segment) {
				if g.Flags&bpftest.SYN != 0 {
					mu.Lock()
					defer mu.Unlock()
					g.Frame = append([]byte(nil), g.Frame...)
					answers[n] = g
				}
			})
			c := l.dialMSS(test.mss)
			check(t, c.echo("hello"))
			eventually(t, "both servers have answered", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return answers[0].Frame != nil && answers[1].Frame != nil
			})
			for i := range answers {
				blank(answers[i].Frame)
			}
			if d := cmp.Diff(answers[0], answers[1]); d != "" {
				t.Errorf("SYN-ACKs differ:\n%s", d)
			}
			for i, s := range l.servers {
				var st bpf.SocketState
				eventually(t, "established", func() bool {
					var err error
					st, err = s.tryLook(c)
					return err == nil && st.RcvNxt == st.CopiedSeq && st.ClientAck == st.SndNxt
				})
				got := socket{st.Timestamps, st.Sack, st.WindowScaling, st.SndWscale, st.RcvWscale, st.MSSClamp}
				if d := cmp.Diff(test.want, got); d != "" {
					t.Errorf("server %d: -want +got:\n%s", i, d)
				}
				r, err := s.progs.Conn(c.tuple())
				check(t, err)
				if want := answers[0].Seq; r.ISS != want || !r.Known {
					t.Errorf("server %d: iss %d, known %v, want %d", i, r.ISS, r.Known, want)
				}
				if want := answers[0].Ack - 1; r.IRS != want {
					t.Errorf("server %d: irs %d, want %d", i, r.IRS, want)
				}
			}
			a, b := l.servers[0].look(c), l.servers[1].look(c)
			if d := int32(a.TSClock - b.TSClock); a.Timestamps && (d < -5 || d > 5) {
				t.Errorf("timestamp clocks are %d ms apart", d)
			}
			l.Cut(0, true)
			l.Activate(1)
			check(t, c.echo("after the flip"))
			check(t, c.get(1<<20))
			check(t, c.put(random(1, 1<<20)))
		})
	}
}

// blank zeroes what may differ: the time in TSval, the MAC addresses and the
// checksum.
func blank(frame []byte) {
	clear(frame[:12])
	clear(frame[14+20+16:][:2])
	for o := frame[14+20+20:]; len(o) > 1; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		if o[0] == 8 {
			binary.BigEndian.PutUint32(o[2:], binary.BigEndian.Uint32(o[2:])&0x1f)
		}
		o = o[o[1]:]
	}
}

func (l *lab) dialMSS(mss int) *client {
	l.t.Helper()
	if mss == 0 {
		return l.dial()
	}
	var c net.Conn
	check(l.t, l.Client.Do(func() (err error) {
		d := net.Dialer{Timeout: 3 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, mss) })
		}}
		d.SetMultipathTCP(false)
		c, err = d.Dial("tcp4", fmt.Sprintf("%v:%d", bpftest.VIP, port))
		return err
	}))
	return l.wrap(c.(*net.TCPConn))
}

// The first packets of a connection are lost on their way to one server. It
// learns of the connection from a later one.
func TestHandshakeLost(t *testing.T) {
	for _, test := range []struct {
		name string
		lose bpftest.Filter
		ts   string
	}{
		{"SYN", func(g bpftest.Segment) bool { return g.Flags&bpftest.SYN != 0 }, "1"},
		{"SYN, no timestamps", func(g bpftest.Segment) bool { return g.Flags&bpftest.SYN != 0 }, "0"},
		{"ACK", func(g bpftest.Segment) bool { return g.Flags&bpftest.SYN == 0 && g.Payload == 0 }, "1"},
		{"SYN and ACK", func(g bpftest.Segment) bool { return g.Payload == 0 }, "1"},
	} {
		for n := range 2 {
			t.Run(fmt.Sprintf("%s to server %d", test.name, n), func(t *testing.T) {
				var o options
				o.ClientSysctls = map[string]string{"net/ipv4/tcp_timestamps": test.ts}
				l := newLab(t, o)
				l.Lose(n, test.lose)
				if n == 0 && test.name != "ACK" {
					l.Activate(1) // somebody must answer
				}
				c := l.dial()
				time.Sleep(100 * time.Millisecond)
				check(t, c.echo("hello"))
				l.Lose(n, nil)
				check(t, c.echo("hello again"))
				// The clock must not be behind the other's. Without the SYN
				// it is known to 32 ms, as it is in the cookie.
				late, other := l.servers[n].look(c), l.servers[1-n].look(c)
				if d := int32(late.TSClock - other.TSClock); d < -5 || d > 37 {
					t.Errorf("timestamp clock is %d ms ahead of the other", d)
				}
				l.Activate(n)
				l.Cut(1-n, true)
				l.servers[n].kick(c)
				check(t, c.echo("after the flip"))
			})
		}
	}
}

// Without alignment the two kernels have nothing in common.
func TestNoAlign(t *testing.T) {
	config := align
	config.Align = false
	l := newLab(t, options{config: &config})
	cs := l.dialN(5)
	checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
	l.Cut(0, true)
	l.Activate(1)
	errs := all(cs, func(_ int, c *client) error {
		c.SetDeadline(time.Now().Add(time.Second))
		return c.echo("after the flip")
	})
	if len(errs) != len(cs) {
		t.Errorf("%d of %d connections broke, want all", len(errs), len(cs))
	}
}
