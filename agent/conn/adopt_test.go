// SPDX-License-Identifier: Apache-2.0

package conn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/bpf/bpftest"
	"github.com/understudy-net/understudy/agent/conn"
)

// A handover is a service on server 0 that server 1 has never heard of. The two
// kernels open connections by themselves: nothing is aligned.
type handover struct {
	*bpftest.Lab
	t     testing.TB
	vip   netip.AddrPort
	progs [2]*bpf.Programs
	inj   [2]*conn.Injector
	ln    *net.TCPListener
}

func newHandover(t testing.TB, vip netip.Addr, o bpftest.Options) *handover {
	t.Helper()
	h := &handover{Lab: bpftest.New(t, o), t: t, vip: netip.AddrPortFrom(vip, port)}
	dir := bpftest.BPFFS(t)
	for i, s := range h.Servers {
		pin := fmt.Sprint(dir, i)
		check(t, s.Do(func() (err error) {
			if h.progs[i], err = bpf.Load(bpf.Config{Interface: bpftest.Interface, PinDir: pin}); err != nil {
				return err
			}
			h.inj[i], err = conn.NewInjector(h.progs[i])
			return err
		}))
		t.Cleanup(func() {
			h.inj[i].Close()
			h.progs[i].Close()
			check(t, bpf.Detach(pin))
		})
	}
	h.Cut(1, true)
	var err error
	h.ln, err = h.Servers[0].ListenOn(h.vip)
	check(t, err)
	t.Cleanup(func() { h.ln.Close() })
	// The newcomer's agent has its listener before it adopts.
	ln, err := h.Servers[1].ListenOn(h.vip)
	check(t, err)
	t.Cleanup(func() { ln.Close() })
	return h
}

// open makes a connection to server 0.
func (h *handover) open() (client, server *net.TCPConn, t bpf.Tuple) {
	h.t.Helper()
	client, err := h.DialTo(context.Background(), h.vip)
	check(h.t, err)
	server, err = h.ln.AcceptTCP()
	check(h.t, err)
	for _, c := range []*net.TCPConn{client, server} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		h.t.Cleanup(func() {
			c.SetLinger(0)
			c.Close()
		})
	}
	return client, server, bpf.Tuple{Client: client.LocalAddr().(*net.TCPAddr).AddrPort(), VIP: h.vip}
}

func (h *handover) describe(t bpf.Tuple) (d conn.State, err error) {
	err = h.Servers[0].Do(func() (err error) {
		d, err = conn.Describe(h.progs[0], t)
		return err
	})
	return d, err
}

func (h *handover) adopt(d conn.State) (c *net.TCPConn, err error) {
	err = h.Servers[1].Do(func() (err error) {
		c, err = conn.Adopt(d, 0)
		return err
	})
	if err == nil {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		h.t.Cleanup(func() {
			c.SetLinger(0)
			c.Close()
		})
	}
	return c, err
}

// flip takes server 0 away and lets server 1 speak.
func (h *handover) flip() {
	h.Cut(0, true)
	h.Activate(1)
	h.Cut(1, false)
}

// pass sends data from one end to the other.
func pass(t testing.TB, from, to *net.TCPConn, data []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	if n, err := io.ReadFull(to, got); err != nil {
		t.Fatalf("%d of %d bytes: %v", n, len(data), err)
	}
	check(t, <-sent)
	if !bytes.Equal(got, data) {
		t.Fatal("the bytes differ")
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

// A connection goes on with a server that has never seen a packet of it, whatever
// options client and server have agreed on.
func TestAdopt(t *testing.T) {
	vips := []netip.Addr{bpftest.VIP}
	if bpftest.HasIPv6() {
		vips = append(vips, bpftest.VIP6)
	} else {
		t.Log("this kernel has no IPv6")
	}
	for _, vip := range vips {
		for n := range 8 {
			sysctls := map[string]string{}
			name := vip.String()
			for i, o := range []string{"timestamps", "sack", "window_scaling"} {
				value := fmt.Sprint(n >> i & 1)
				sysctls["net/ipv4/tcp_"+o] = value
				name += " " + o + "=" + value
			}
			t.Run(name, func(t *testing.T) {
				h := newHandover(t, vip, bpftest.Options{ClientSysctls: sysctls})
				client, server, tuple := h.open()
				data := noise(300_000)
				for range 3 {
					pass(t, client, server, data[:3000])
					pass(t, server, client, data)
				}
				eventually(t, "all is acknowledged", func() bool {
					s := h.look(0, tuple)
					return s.SndUna == s.WriteSeq
				})
				was := h.look(0, tuple)
				d, err := h.describe(tuple)
				check(t, err)
				adopted, err := h.adopt(d)
				check(t, err)
				is := h.look(1, tuple)
				if age := int32(is.TSClock - was.TSClock); is.Timestamps && (age < 0 || age > 1000) {
					t.Errorf("the clock is %d ms ahead", age)
				}
				same(t, was, is)

				h.flip()
				for range 3 {
					pass(t, adopted, client, data)
					pass(t, client, adopted, data)
				}
				check(t, client.CloseWrite())
				if n, err := io.Copy(io.Discard, adopted); n != 0 || err != nil {
					t.Errorf("the client's end: %d bytes, %v", n, err)
				}
				check(t, adopted.Close())
				if n, err := io.Copy(io.Discard, client); n != 0 || err != nil {
					t.Errorf("the server's end: %d bytes, %v", n, err)
				}
			})
		}
	}
}

func (h *handover) look(n int, t bpf.Tuple) (s bpf.SocketState) {
	h.t.Helper()
	check(h.t, h.Servers[n].Do(func() (err error) {
		s, err = h.progs[n].Look(t)
		return err
	}))
	return s
}

// same compares what two sockets must have in common.
func same(t testing.TB, a, b bpf.SocketState) {
	t.Helper()
	type agreed struct {
		state                                          bpf.TCPState
		rcvNxt, sndUna, sndNxt, writeSeq, rcvEdge, snd uint32
		ts, sack                                       bool
		sndScale, rcvScale                             uint8
		clamp                                          uint16
	}
	of := func(s bpf.SocketState) agreed {
		return agreed{s.State, s.RcvNxt, s.SndUna, s.SndNxt, s.WriteSeq, s.RcvWup + s.RcvWnd, s.SndUna + s.SndWnd,
			s.Timestamps, s.Sack, s.SndWscale, s.RcvWscale, s.MSSClamp}
	}
	if of(a) != of(b) {
		t.Errorf("described:\n%+v\nadopted:\n%+v", of(a), of(b))
	}
}

// A listener can be opened while adopted sockets live, and the other way round.
func TestAdoptBesideListener(t *testing.T) {
	h := newHandover(t, bpftest.VIP, bpftest.Options{})
	_, _, tuple := h.open()
	d, err := h.describe(tuple)
	check(t, err)
	// newHandover has a listener on server 1 already; here is one for its successor.
	d.Tuple.VIP = netip.AddrPortFrom(bpftest.VIP, port+1)
	_, err = h.adopt(d)
	check(t, err)
	ln, err := h.Servers[1].ListenOn(d.Tuple.VIP)
	check(t, err)
	check(t, ln.Close())
}

// An orphan of a process that died is in the way until it is removed.
func TestRemove(t *testing.T) {
	h := newHandover(t, bpftest.VIP, bpftest.Options{})
	_, _, tuple := h.open()
	d, err := h.describe(tuple)
	check(t, err)
	old, err := h.adopt(d)
	check(t, err)
	check(t, old.Close()) // its FIN is lost: server 1 is cut off
	if _, err = h.adopt(d); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Fatalf("with the orphan in the way: %v", err)
	}
	remove := func() error { return h.inj[1].Remove(tuple) }
	check(t, h.Servers[1].Do(remove))
	_, err = h.adopt(d)
	check(t, err)
	tuple.Client = netip.MustParseAddrPort("10.9.0.1:1")
	check(t, h.Servers[1].Do(remove)) // there is none
}

func TestDescribeClosing(t *testing.T) {
	h := newHandover(t, bpftest.VIP, bpftest.Options{})
	client, _, tuple := h.open()
	check(t, client.CloseWrite())
	eventually(t, "the FIN is there", func() bool { return h.look(0, tuple).State == bpf.CloseWait })
	if _, err := h.describe(tuple); !errors.Is(err, conn.ErrNotEstablished) {
		t.Errorf("a connection that is being closed: %v", err)
	}
	tuple.Client = netip.MustParseAddrPort("10.9.0.1:1")
	if _, err := h.describe(tuple); !errors.Is(err, bpf.ErrNotFound) {
		t.Errorf("a connection that is not there: %v", err)
	}
}

// 1,000 idle connections move.
func TestAdoptMany(t *testing.T) {
	h := newHandover(t, bpftest.VIP, bpftest.Options{})
	const n = 1000
	var clients, adopted [n]*net.TCPConn
	for i := range n {
		client, server, tuple := h.open()
		pass(t, client, server, []byte("ping"))
		pass(t, server, client, []byte("pong"))
		eventually(t, "all is acknowledged", func() bool {
			s := h.look(0, tuple)
			return s.SndUna == s.WriteSeq
		})
		d, err := h.describe(tuple)
		check(t, err)
		clients[i] = client
		adopted[i], err = h.adopt(d)
		check(t, err)
	}
	h.flip()
	for i := range n {
		pass(t, clients[i], adopted[i], []byte("again"))
		pass(t, adopted[i], clients[i], []byte("fine"))
	}
}

func BenchmarkDescribe(b *testing.B) {
	h := newHandover(b, bpftest.VIP, bpftest.Options{})
	_, _, tuple := h.open()
	check(b, h.Servers[0].Do(func() error {
		for b.Loop() {
			if _, err := conn.Describe(h.progs[0], tuple); err != nil {
				return err
			}
		}
		return nil
	}))
}

// One socket is built and closed, beside others of the same port.
func BenchmarkAdopt(b *testing.B) {
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			h := newHandover(b, bpftest.VIP, bpftest.Options{})
			_, _, tuple := h.open()
			d, err := h.describe(tuple)
			check(b, err)
			nth := func(i int) conn.State {
				d := d
				d.Tuple.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 0, 2}), uint16(1024+i))
				return d
			}
			check(b, h.Servers[1].Do(func() error {
				for i := range others {
					c, err := conn.Adopt(nth(i), 0)
					if err != nil {
						return err
					}
					c.SetLinger(0)
					defer c.Close()
				}
				for b.Loop() {
					c, err := conn.Adopt(nth(others), 0)
					if err != nil {
						return err
					}
					c.SetLinger(0)
					c.Close()
				}
				return nil
			}))
		})
	}
}

// serveBoth sets the service on both servers, as agents do; the active one's gate
// as given.
func (h *handover) serveBoth(gate bool) {
	h.t.Helper()
	for i := range h.progs {
		check(h.t, h.progs[i].SetService(bpf.Service{VIP: h.vip.Addr(), Port: h.vip.Port()}, bpf.ServiceConfig{
			Secret: [16]byte{1}, Align: true, Guard: true, Gate: gate && i == 0, Generation: 7,
		}))
	}
}

// received collects what arrives on a connection.
type received struct {
	mu sync.Mutex
	b  []byte
}

func (r *received) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b = append(r.b, p...)
	return len(p), nil
}

func (r *received) from(n int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.b[min(n, len(r.b)):])
}

// A newcomer adopts a connection in the middle of an upload: what has arrived
// between description and adoption is put into its kernel, then the gate keeps
// both equal although copies are lost, and then the old server dies.
func TestAdoptInUpload(t *testing.T) {
	for _, arm := range []bool{true, false} {
		t.Run(fmt.Sprintf("gate=%v", arm), func(t *testing.T) {
			h := newHandover(t, bpftest.VIP, bpftest.Options{})
			h.serveBoth(false)
			client, server, tuple := h.open()
			// Or the first data segment would open the connection on server 1 too.
			pass(t, client, server, []byte("ping"))
			h.Shadow(true)
			h.Cut(1, false) // joins the fan-out
			h.serveBoth(true)

			const size = 24 << 20
			data := noise(size)
			sent := make(chan error, 1)
			go func() {
				if !arm {
					client.SetDeadline(time.Now().Add(3 * time.Second))
				}
				_, err := client.Write(data)
				sent <- err
			}()
			got := received{b: []byte("ping")}
			go io.Copy(&got, server)
			eventually(t, "the upload is under way", func() bool { return len(got.from(0)) > 1<<20 })

			record, err := h.progs[0].Conn(tuple)
			check(t, err)
			if arm {
				check(t, h.progs[0].Arm(tuple))
			}
			d, err := h.describe(tuple)
			check(t, err)
			begin := int(d.RcvNxt - record.IRS - 1)
			eventually(t, "there is a gap", func() bool { return len(got.from(0)) > begin+200_000 })
			check(t, h.progs[1].Adopt(tuple, d.Record(record.IRS, record.ISS, record.ClientAck)))
			adopted, err := h.adopt(d)
			check(t, err)
			var rest received
			all := make(chan error, 1)
			go func() {
				_, err := io.CopyN(&rest, adopted, int64(4+size-begin))
				all <- err
			}()
			repair := func() {
				at := begin + int(h.look(1, tuple).RcvNxt-d.RcvNxt)
				err := h.Servers[1].Do(func() error {
					_, err := h.inj[1].InjectData(tuple, d.RcvNxt+uint32(at-begin), got.from(at), false)
					return err
				})
				if err != nil && !errors.Is(err, conn.ErrWindow) && !errors.Is(err, conn.ErrRefused) {
					t.Fatal(err)
				}
			}
			repair()
			if arm {
				eventually(t, "the gate is armed", func() bool {
					repair()
					r, err := h.progs[0].Conn(tuple)
					check(t, err)
					return r.Gated
				})
			}
			t.Logf("adopted at %d, equal at %d", begin, len(got.from(0)))
			h.Lose(1, bpftest.EveryNth(7))
			more := len(got.from(0)) + 2<<20
			eventually(t, "more has arrived", func() bool { return len(got.from(0)) > more })
			h.Cut(0, true)
			h.Lose(1, nil)
			h.Activate(1)
			check(t, h.Servers[1].Do(func() error { return h.inj[1].Kick(tuple) }))
			err = <-sent
			if !arm {
				if err == nil {
					t.Error("without the gate nothing is lost: this test proves nothing")
				}
				return
			}
			check(t, err)
			check(t, <-all)
			if !bytes.Equal(rest.from(0), data[begin-4:]) {
				t.Error("the newcomer has other bytes")
			}
		})
	}
}

// The crash guard knows an adopted connection, and so does the fix of what it
// writes after the client has acknowledged it.
func TestAdoptedIsGuarded(t *testing.T) {
	h := newHandover(t, bpftest.VIP, bpftest.Options{})
	h.serveBoth(false)
	client, server, tuple := h.open()
	pass(t, client, server, []byte("ping"))
	pass(t, server, client, []byte("pong"))
	eventually(t, "all is acknowledged", func() bool {
		s := h.look(0, tuple)
		return s.SndUna == s.WriteSeq
	})
	h.Cut(1, false)
	record, err := h.progs[0].Conn(tuple)
	check(t, err)
	d, err := h.describe(tuple)
	check(t, err)
	// Of an earlier connection of the same addresses.
	check(t, h.progs[1].MarkClosing(tuple))
	check(t, h.progs[1].Adopt(tuple, d.Record(record.IRS, record.ISS, record.ClientAck)))
	adopted, err := h.adopt(d)
	check(t, err)
	if r, err := h.progs[1].Conn(tuple); err != nil || !r.Known || r.ISS != record.ISS || r.IRS != record.IRS {
		t.Errorf("record: %+v, %v; of the other server %+v", r, err, record)
	}
	pass(t, client, adopted, []byte("both hear it"))
	pass(t, server, client, []byte("one says it"))
	eventually(t, "the newcomer hears of the acknowledgement", func() bool {
		r, err := h.progs[1].Conn(tuple)
		check(t, err)
		return r.ClientAck == d.SndNxt+uint32(len("one says it"))
	})
	_, err = adopted.Write([]byte("one says it"))
	check(t, err)
	eventually(t, "its kernel takes it for acknowledged", func() bool {
		s := h.look(1, tuple)
		return s.SndUna == d.SndNxt+uint32(len("one says it"))
	})
	stats, err := h.progs[1].Stats()
	check(t, err)
	if stats["synacked"] != 1 {
		t.Errorf("synacked %d segments", stats["synacked"])
	}
	adopted.Close()
	eventually(t, "the FIN is held back", func() bool {
		stats, err := h.progs[1].Stats()
		check(t, err)
		return stats["guarded_fin"] > 0
	})
	if n := h.Emitted(1).FIN; n != 0 {
		t.Errorf("%d FINs left", n)
	}
}
