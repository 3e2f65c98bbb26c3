// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/bpf/bpftest"
	"golang.org/x/sys/unix"
)

// Uploads, while one packet in seven is lost on its way to the backup.
func TestGateUpload(t *testing.T) {
	for _, test := range []struct {
		name  string
		gate  bool
		every [2]int // lost towards each server
		gso   bool
	}{
		{"no gate, no loss", false, [2]int{}, false},
		{"no loss", true, [2]int{}, true},
		{"1 in 7 lost", true, [2]int{0, 7}, false},
		{"1 in 7 lost, GSO", true, [2]int{0, 7}, true},
		{"both lose", true, [2]int{11, 7}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			const n, size = 20, 1 << 20
			o := options{gate: test.gate}
			o.GSO = test.gso
			l := newLab(t, o)
			cs := l.dialN(n)
			checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
			for i, n := range test.every {
				if n > 0 {
					l.Lose(i, bpftest.EveryNth(n))
				}
			}
			data := random(0, size)
			begin := time.Now()
			checkAll(t, all(cs, func(_ int, c *client) error {
				err := c.put(data)
				if err != nil {
					t.Log(l.explain(c))
				}
				return err
			}))
			took := time.Since(begin)
			l.Lose(0, nil)
			l.Lose(1, nil)
			var lost []string
			for _, name := range []string{"Tcp:RetransSegs", "TcpExt:TCPTimeouts", "TcpExt:TCPSACKReneging", "TcpExt:TCPFastRetrans", "TcpExt:TCPDSACKRecv", "TcpExt:TCPLossProbes"} {
				v, err := l.Client.Counter(name)
				check(t, err)
				lost = append(lost, fmt.Sprint(name, "=", v))
			}
			t.Logf("%d x %d bytes in %v, %d frames lost\nclient: %v\nserver 0:%s\nserver 1:%s", n, size, took, l.Emitted(0).Lost+l.Emitted(1).Lost, lost,
				l.servers[0].nonzero(), l.servers[1].nonzero())
			if !test.gate {
				return
			}
			eventually(t, "the backup has all", func() bool {
				for _, c := range cs {
					if l.servers[1].look(c).RcvNxt != l.servers[0].look(c).RcvNxt {
						return false
					}
				}
				return true
			})
			l.Cut(0, true)
			l.Activate(1)
			l.servers[1].kick(cs...)
			checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("after the flip") }))
		})
	}
}

// The primary vanishes in the middle of uploads, with one packet in seven lost
// towards the backup. The clients have been told of nothing that the backup
// does not have.
func TestGatePrimaryDies(t *testing.T) {
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprintf("gate=%v", on), func(t *testing.T) {
			const n, size = 20, 4 << 20
			l := newLab(t, options{gate: on})
			cs := l.dialN(n)
			checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
			l.Lose(1, bpftest.EveryNth(7))
			data := random(0, size)
			done := make(chan []error)
			begin := time.Now()
			go func() {
				done <- all(cs, func(_ int, c *client) error {
					if !on {
						c.SetDeadline(time.Now().Add(3 * time.Second))
					}
					return c.put(data)
				})
			}()
			time.Sleep(300 * time.Millisecond)
			eventually(t, "every upload is under way", func() bool {
				for _, c := range cs {
					r, err := l.servers[0].progs.Conn(c.tuple())
					check(t, err)
					if r.OwnAck-r.IRS < 100_000 {
						return false
					}
				}
				return true
			})
			l.Cut(0, true)
			var held []int
			for _, c := range cs {
				r, err := l.servers[1].progs.Conn(c.tuple())
				check(t, err)
				held = append(held, int(r.OwnAck-r.IRS-1))
			}
			l.Activate(1)
			l.Lose(1, nil)
			flip := time.Since(begin)
			l.servers[1].kick(cs...)
			errs := <-done
			t.Logf("flip after %v, with %d to %d bytes on the backup, done after %v, %d of %d failed\nserver 0:%s\nserver 1:%s", flip,
				slices.Min(held), slices.Max(held), time.Since(begin), len(errs), n, l.servers[0].nonzero(), l.servers[1].nonzero())
			if on {
				checkAll(t, errs)
			} else if len(errs) < n/2 {
				t.Errorf("%d of %d connections broke, want most", len(errs), n)
			}
		})
	}
}

// The backup dies: clients wait until the gate is lifted, by one update.
func TestGateLifted(t *testing.T) {
	const n, size = 20, 2 << 20
	l := newLab(t, options{gate: true})
	cs := l.dialN(n)
	checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
	data := random(0, size)
	done := make(chan []error)
	go func() { done <- all(cs, func(_ int, c *client) error { return c.put(data) }) }()
	time.Sleep(50 * time.Millisecond)
	l.Cut(1, true)
	progress := func() (sum uint32) {
		for _, c := range cs {
			r, err := l.servers[0].progs.Conn(c.tuple())
			check(t, err)
			if !r.Gated {
				t.Errorf("%v is not gated", c.tuple())
			}
			sum += r.ShownAck
		}
		return sum
	}
	time.Sleep(50 * time.Millisecond)
	before := progress()
	time.Sleep(100 * time.Millisecond)
	if after := progress(); after != before {
		t.Errorf("the clients were told of %d bytes that the backup never got", after-before)
	}
	begin := time.Now()
	check(t, l.servers[0].progs.SetService(service, align))
	l.servers[0].kick(cs...)
	checkAll(t, <-done)
	t.Logf("the rest took %v", time.Since(begin))
}

// What the gate swallows must not look like a congested device to TCP, which
// would send less then.
func TestSwallowedIsNotLost(t *testing.T) {
	l := newLab(t, options{gate: true})
	c := l.dial()
	check(t, c.echo("hello"))
	eventually(t, "the hello is acknowledged", func() bool { return c.unacked() == 0 })
	l.Cut(1, true)
	for range 10 {
		_, err := c.Write([]byte("x"))
		check(t, err)
		time.Sleep(time.Millisecond)
	}
	s := l.servers[0]
	eventually(t, "ACKs are swallowed", func() bool { return s.stats()["gate_swallowed"] >= 3 })
	if c.unacked() == 0 {
		t.Error("swallowed ACKs have left")
	}
	raw, err := s.conn(c).SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) {
		ti, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || ti.Ca_state != 0 {
			t.Errorf("congestion state %d, %v", ti.Ca_state, err)
		}
	}))
}

// Of two connections, one is let through the gate.
func TestUngate(t *testing.T) {
	l := newLab(t, options{gate: true})
	cs := l.dialN(2)
	checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
	for _, c := range cs {
		eventually(t, "the hello is acknowledged", func() bool { return c.unacked() == 0 })
	}
	l.Cut(1, true)
	checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("the reply passes, the acknowledgement does not") }))
	s := l.servers[0]
	check(t, s.progs.Ungate(cs[0].tuple()))
	s.kick(cs...)
	eventually(t, "the ungated one is acknowledged", func() bool { return cs[0].unacked() == 0 })
	time.Sleep(20 * time.Millisecond)
	if cs[1].unacked() == 0 {
		t.Error("the gated one is acknowledged")
	}
	for i, want := range []bool{false, true} {
		r, err := s.progs.Conn(cs[i].tuple())
		check(t, err)
		if r.Gated != want {
			t.Errorf("connection %d: gated is %v, want %v", i, r.Gated, want)
		}
	}
	nobody := bpf.Tuple{Client: cs[0].tuple().VIP, VIP: cs[0].tuple().VIP}
	if err := s.progs.Ungate(nobody); !errors.Is(err, bpf.ErrNotFound) {
		t.Errorf("ungate what is not there: %v", err)
	}
}

// Connections that began under an older gate are not gated by the next, until
// they are armed and the backup has caught up.
func TestGateGenerations(t *testing.T) {
	l := newLab(t, options{gate: true})
	s := l.servers[0]
	gated := func(c *client) bool {
		r, err := s.progs.Conn(c.tuple())
		check(t, err)
		return r.Gated
	}
	old := l.dial()
	check(t, old.echo("hello"))
	check(t, s.progs.SetService(service, align)) // open
	if gated(old) {
		t.Error("gated while the gate is open")
	}
	between := l.dial()
	check(t, between.echo("hello"))
	config := align
	config.Gate, config.Generation = true, 2
	check(t, s.progs.SetService(service, config))
	late := l.dial()
	checkAll(t, all([]*client{old, between, late}, func(_ int, c *client) error { return c.echo("hello") }))
	for _, test := range []struct {
		name string
		c    *client
		want bool
	}{{"old", old, false}, {"between", between, false}, {"late", late, true}} {
		if got := gated(test.c); got != test.want {
			t.Errorf("%s: gated is %v, want %v", test.name, got, test.want)
		}
	}
	l.Lose(1, func(bpftest.Segment) bool { return true })
	check(t, old.echo("the backup does not hear this"))
	check(t, s.progs.Arm(old.tuple()))
	if gated(old) {
		t.Error("gated before the backup has caught up")
	}
	r, err := s.progs.Conn(old.tuple())
	check(t, err)
	if !r.Armed {
		t.Error("not armed")
	}
	l.Lose(1, nil)
	at := r.OwnAck
	data := []byte("echo the backup does not hear this\n")
	check(t, l.servers[1].Do(func() error {
		_, err := l.servers[1].inj.InjectData(old.tuple(), at-uint32(len(data)-len("echo ")), data[len("echo "):], false)
		return err
	}))
	eventually(t, "gated", func() bool { return gated(old) })
	check(t, old.echo("and now it does"))
	checkAll(t, all([]*client{old, between, late}, func(_ int, c *client) error { return c.put(random(1, 100000)) }))
}

// Downloads, while half of the requests are lost on their way to the backup and
// some of the replies on their way to the client. The backup replies late.
func TestGateDownload(t *testing.T) {
	const n, size = 5, 500000
	l := newLab(t, options{gate: true})
	backup := l.servers[1]
	backup.delay.Store(int64(20 * time.Millisecond))
	cs := l.dialN(n)
	checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
	l.Lose(1, bpftest.EveryNth(2))
	l.LoseOut(bpftest.EveryNth(50))
	begin := time.Now()
	for range 3 {
		checkAll(t, all(cs, func(_ int, c *client) error { return c.get(size) }))
	}
	t.Logf("%v\nserver 0:%s\nserver 1:%s", time.Since(begin), l.servers[0].nonzero(), backup.nonzero())
	l.Lose(1, nil)
	l.LoseOut(nil)
	eventually(t, "the backup has all, and has sent all", func() bool {
		for _, c := range cs {
			a, b := l.servers[0].look(c), backup.look(c)
			if a.RcvNxt != b.RcvNxt || a.SndNxt != b.SndUna {
				return false
			}
		}
		return true
	})
	l.Cut(0, true)
	l.Activate(1)
	backup.kick(cs...)
	checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("after the flip") }))
}
