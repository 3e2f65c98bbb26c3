// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/bpf/bpftest"
)

// A restarted agent takes over what its predecessor has pinned, while the
// connections go on.
func TestReload(t *testing.T) {
	for _, test := range []struct {
		name string
		max  int
	}{{"same size", 4096}, {"larger", 8192}, {"smaller", 1024}} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, options{gate: true})
			cs := l.dialN(10)
			checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
			stop := make(chan struct{})
			done := make(chan []error)
			go func() {
				done <- all(cs, func(_ int, c *client) error {
					for {
						select {
						case <-stop:
							return nil
						default:
						}
						if err := c.put(random(1, 100000)); err != nil {
							return err
						}
					}
				})
			}()
			s := l.servers[0]
			for range 3 {
				time.Sleep(20 * time.Millisecond)
				check(t, s.progs.Close())
				check(t, s.Do(func() (err error) {
					s.progs, err = bpf.Load(bpf.Config{Interface: bpftest.Interface, PinDir: s.pin, MaxConnections: test.max})
					return err
				}))
			}
			close(stop)
			checkAll(t, <-done)
			got, err := s.progs.Services()
			check(t, err)
			if !slices.Equal(got, []bpf.Service{service}) {
				t.Errorf("services: %v", got)
			}
			for _, c := range cs {
				if r, err := s.progs.Conn(c.tuple()); err != nil || !r.Known || !r.Gated {
					t.Errorf("%v: %+v, %v", c.tuple(), r, err)
				}
			}
			l.Cut(0, true)
			l.Activate(1)
			l.servers[1].kick(cs...)
			checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("after the flip") }))
		})
	}
}

func TestDetach(t *testing.T) {
	l := bpftest.New(t, bpftest.Options{})
	dir := bpftest.BPFFS(t)
	if err := bpf.Detach(dir); err != nil {
		t.Errorf("with nothing there: %v", err)
	}
	check(t, l.Servers[0].Do(func() error {
		p, err := bpf.Load(bpf.Config{Interface: bpftest.Interface, PinDir: dir})
		if err != nil {
			return err
		}
		return p.Close()
	}))
	if n := attached(t, l.Servers[0]); n != 2 {
		t.Errorf("%d programs are attached, want 2", n)
	}
	check(t, bpf.Detach(dir))
	if n := attached(t, l.Servers[0]); n != 0 {
		t.Errorf("%d programs are attached, want none", n)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is there: %v", err)
	}
}

// Another interface, or the same name on another one, takes the programs along.
func TestLoadElsewhere(t *testing.T) {
	l := bpftest.New(t, bpftest.Options{})
	dir := bpftest.BPFFS(t)
	for i, h := range l.Servers {
		check(t, h.Do(func() error {
			p, err := bpf.Load(bpf.Config{Interface: bpftest.Interface, PinDir: dir})
			if err != nil {
				return err
			}
			return p.Close()
		}))
		if n := attached(t, h); n != 2 {
			t.Errorf("host %d: %d programs are attached, want 2", i, n)
		}
	}
	check(t, bpf.Detach(dir))
}

func TestLoadErrors(t *testing.T) {
	l := bpftest.New(t, bpftest.Options{})
	h := l.Servers[0]
	load := func(c bpf.Config) error {
		return h.Do(func() error {
			p, err := bpf.Load(c)
			if err == nil {
				p.Close()
			}
			return err
		})
	}
	if err := load(bpf.Config{Interface: "nosuch0", PinDir: bpftest.BPFFS(t)}); err == nil {
		t.Error("loaded on an interface that is not there")
	}
	if err := load(bpf.Config{Interface: "lo", PinDir: bpftest.BPFFS(t)}); err == nil {
		t.Error("loaded on lo")
	}
	if err := load(bpf.Config{Interface: bpftest.Interface, PinDir: t.TempDir()}); err == nil {
		t.Error("pinned outside of a BPF file system")
	}
	check(t, h.Sysctl("net/ipv4/tcp_syncookies", "0"))
	err := load(bpf.Config{Interface: bpftest.Interface, PinDir: bpftest.BPFFS(t)})
	var fe *bpf.FeatureError
	if !errors.As(err, &fe) || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without SYN cookies: %v", err)
	}
}

func TestServiceErrors(t *testing.T) {
	l := newLab(t, options{noApp: true})
	p := l.servers[0].progs
	other := bpf.Service{VIP: bpftest.VIP, Port: 81}
	for name, c := range map[string]bpf.ServiceConfig{
		"no secret":    {Align: true},
		"tiny MSS":     {MSS: 100},
		"large window": {WindowScale: 15},
		"reserved":     {Generation: 0xffffffff},
	} {
		if err := p.SetService(other, c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := p.Service(other); !errors.Is(err, bpf.ErrNotFound) {
		t.Errorf("a service that is not there: %v", err)
	}
	want := bpf.ServiceConfig{Secret: [16]byte{1, 2, 3}, OtherSecret: [16]byte{4}, Align: true, Guard: true, Gate: true, Generation: 7, MSS: 1400, WindowScale: 9}
	check(t, p.SetService(other, want))
	got, err := p.Service(other)
	check(t, err)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	check(t, p.RemoveService(other))
	check(t, p.RemoveService(other))
	all, err := p.Services()
	check(t, err)
	if !slices.Equal(all, []bpf.Service{service}) {
		t.Errorf("services: %v", all)
	}
}

// attached counts the programs on a host's interface.
func attached(t *testing.T, h *bpftest.Host) (n int) {
	t.Helper()
	check(t, h.Do(func() error {
		ifi, err := net.InterfaceByName(bpftest.Interface)
		if err != nil {
			return err
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			r, err := link.QueryPrograms(link.QueryOptions{Target: ifi.Index, Attach: at})
			if err != nil {
				return err
			}
			n += len(r.Programs)
		}
		return nil
	}))
	return n
}
