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
	"testing"
	"time"

	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/bpf/bpftest"
	"github.com/understudy-net/understudy/agent/conn"
)

const port = 8080

// A rig is one connection to two servers.
type rig struct {
	*bpftest.Lab
	t      testing.TB
	tuple  bpf.Tuple
	client *net.TCPConn
	ends   [2]*net.TCPConn
	progs  [2]*bpf.Programs
	inj    [2]*conn.Injector
}

func newRig(t testing.TB, o bpftest.Options) *rig {
	t.Helper()
	r := &rig{Lab: bpftest.New(t, o), t: t}
	dir := bpftest.BPFFS(t)
	var lns [2]*net.TCPListener
	for i, h := range r.Servers {
		pin := fmt.Sprint(dir, i)
		check(t, h.Do(func() (err error) {
			if r.progs[i], err = bpf.Load(bpf.Config{Interface: bpftest.Interface, PinDir: pin}); err != nil {
				return err
			}
			r.inj[i], err = conn.NewInjector(r.progs[i])
			return err
		}))
		t.Cleanup(func() {
			r.inj[i].Close()
			r.progs[i].Close()
			check(t, bpf.Detach(pin))
		})
		check(t, r.progs[i].SetService(bpf.Service{VIP: bpftest.VIP, Port: port}, bpf.ServiceConfig{
			Secret: [16]byte{1}, Align: true, Guard: true,
		}))
		ln, err := h.Listen(port)
		check(t, err)
		t.Cleanup(func() { ln.Close() })
		lns[i] = ln
	}
	var err error
	r.client, err = r.Dial(context.Background(), port)
	check(t, err)
	r.client.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() {
		r.client.SetLinger(0)
		r.client.Close()
	})
	for i, ln := range lns {
		ln.SetDeadline(time.Now().Add(3 * time.Second))
		r.ends[i], err = ln.AcceptTCP()
		check(t, err)
		r.ends[i].SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { r.ends[i].Close() })
	}
	r.tuple = bpf.Tuple{Client: r.client.LocalAddr().(*net.TCPAddr).AddrPort(), VIP: netip.AddrPortFrom(bpftest.VIP, port)}
	return r
}

func (r *rig) look(n int) (s bpf.SocketState) {
	r.t.Helper()
	check(r.t, r.Servers[n].Do(func() (err error) {
		s, err = r.progs[n].Look(r.tuple)
		return err
	}))
	return s
}

func (r *rig) kick(n int) {
	r.t.Helper()
	check(r.t, r.Servers[n].Do(func() error { return r.inj[n].Kick(r.tuple) }))
}

func (r *rig) inject(n int, seq uint32, data []byte, fin bool) (done int, err error) {
	err = r.Servers[n].Do(func() (err error) {
		done, err = r.inj[n].InjectData(r.tuple, seq, data, fin)
		return err
	})
	return done, err
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func everything(bpftest.Segment) bool { return true }

// What one server missed is put into its kernel, in pieces of many sizes, with
// the client's FIN at last.
func TestInjectData(t *testing.T) {
	for _, fin := range []bool{false, true} {
		t.Run(fmt.Sprintf("fin=%v", fin), func(t *testing.T) {
			r := newRig(t, bpftest.Options{})
			data := make([]byte, 200000)
			rand.NewChaCha8([32]byte{}).Read(data)
			begin := r.look(1).RcvNxt

			r.Lose(1, everything)
			got := make(chan []byte)
			for _, e := range r.ends {
				go func() {
					b := make([]byte, len(data))
					n, _ := io.ReadFull(e, b)
					got <- b[:n]
				}()
			}
			_, err := r.client.Write(data)
			check(t, err)
			if fin {
				check(t, r.client.CloseWrite())
			}
			if b := <-got; !bytes.Equal(b, data) {
				t.Fatalf("server 0 got %d bytes", len(b))
			}

			if _, err := r.inject(1, begin+10, data[10:20], false); !errors.Is(err, conn.ErrGap) {
				t.Errorf("behind a hole: %v", err)
			}
			sizes := []int{1, 1448, 1449, 30000, 64000, 65496, 100000, len(data)}
			for at, i := 0, 0; at < len(data); i++ {
				end := min(at+sizes[i%len(sizes)], len(data))
				n, err := r.inject(1, begin+uint32(at), data[at:end], fin && end == len(data))
				if err != nil && !errors.Is(err, conn.ErrWindow) {
					t.Fatal(err)
				}
				at += n
			}
			if b := <-got; !bytes.Equal(b, data) {
				t.Fatalf("server 1 got %d bytes", len(b))
			}
			// Once more changes nothing.
			n, err := r.inject(1, begin, data, fin)
			if n != len(data) || err != nil {
				t.Errorf("again: %d, %v", n, err)
			}
			if fin {
				for i := range r.ends {
					eventually(t, fmt.Sprintf("server %d has the FIN", i), func() bool { return r.look(i).State == bpf.CloseWait })
				}
			}
			a, b := r.look(0), r.look(1)
			if a.RcvNxt != b.RcvNxt {
				t.Errorf("rcv_nxt: %d and %d", a.RcvNxt, b.RcvNxt)
			}
		})
	}
}

func TestInjectDataWindow(t *testing.T) {
	r := newRig(t, bpftest.Options{})
	begin := r.look(1).RcvNxt
	n, err := r.inject(1, begin, make([]byte, 10<<20), false)
	if !errors.Is(err, conn.ErrWindow) {
		t.Errorf("10 MB that nobody reads: %v", err)
	}
	if s := r.look(1); int(s.RcvNxt-begin) != n {
		t.Errorf("%d bytes are in, %d were reported", s.RcvNxt-begin, n)
	}
}

func TestInjectNobody(t *testing.T) {
	r := newRig(t, bpftest.Options{})
	r.tuple.Client = netip.MustParseAddrPort("10.9.0.1:1")
	if _, err := r.inject(0, 0, []byte("x"), false); !errors.Is(err, bpf.ErrNotFound) {
		t.Errorf("InjectData: %v", err)
	}
	r.kick(0)
}

// A kick makes the kernel acknowledge at once, at any rate, with its SACK
// blocks, and leaves the socket as it was.
func TestKickAcknowledges(t *testing.T) {
	for _, ts := range []string{"1", "0"} {
		t.Run("timestamps="+ts, func(t *testing.T) {
			r := newRig(t, bpftest.Options{ClientSysctls: map[string]string{"net/ipv4/tcp_timestamps": ts}})
			acks := make(chan bpftest.Segment, 1000)
			const n = 50
			begin := func() {
				r.Watch(func(server int, g bpftest.Segment) {
					if server == 0 {
						acks <- g
					}
				})
			}
			// Also before the client has sent anything.
			for _, sent := range []string{"", "hello"} {
				r.Watch(nil)
				_, err := r.client.Write([]byte(sent))
				check(t, err)
				if sent != "" {
					_, err := io.ReadFull(r.ends[0], make([]byte, len(sent)))
					check(t, err)
				}
				time.Sleep(60 * time.Millisecond) // delayed ACKs
				begin()
				before := r.look(0)
				for range n {
					r.kick(0)
				}
				for i := range n {
					select {
					case g := <-acks:
						if g.Ack != before.RcvNxt || g.Payload != 0 || g.Seq != before.SndNxt {
							t.Errorf("%d: ack %d seq %d, %d bytes", i, g.Ack, g.Seq, g.Payload)
						}
					case <-time.After(time.Second):
						t.Fatalf("%d kicks, %d ACKs", n, i)
					}
				}
				after := r.look(0)
				before.TSClock, before.RcvWup = after.TSClock, after.RcvWup
				before.RcvWnd, before.SndWl1 = after.RcvWnd, after.SndWl1
				if before != after {
					t.Errorf("the socket changed:\n%+v\n%+v", before, after)
				}
			}
			_, err := r.ends[0].Write([]byte("fine"))
			check(t, err)
			_, err = io.ReadFull(r.client, make([]byte, 4))
			check(t, err)
		})
	}
}

// A backup that has sent what nobody let out has backed off its timer. A kick
// after the flip takes the doublings back: what is left to wait is less than one
// undoubled timeout, for which the servers have a low limit.
func TestKickUndoesBackoff(t *testing.T) {
	for _, kick := range []bool{true, false} {
		t.Run(fmt.Sprintf("kick=%v", kick), func(t *testing.T) {
			r := newRig(t, bpftest.Options{ServerSysctls: map[string]string{"net/ipv4/tcp_rto_min_us": "20000"}})
			for i := range 5 { // so that the timer has a measure
				for _, e := range r.ends {
					_, err := fmt.Fprintf(e, "round %d\n", i)
					check(t, err)
				}
				_, err := io.ReadFull(r.client, make([]byte, len("round 0\n")))
				check(t, err)
			}
			r.Cut(0, true)
			_, err := fmt.Fprint(r.ends[1], "push\n")
			check(t, err)
			eventually(t, "the backup has backed off", func() bool { return r.look(1).Backoff >= 5 })
			time.Sleep(30 * time.Millisecond)
			r.Activate(1)
			begin := time.Now()
			if kick {
				r.kick(1)
			}
			_, err = io.ReadFull(r.client, make([]byte, len("push\n")))
			check(t, err)
			d := time.Since(begin)
			t.Logf("push after the flip: %v", d)
			if kick && d > 30*time.Millisecond {
				t.Errorf("it took %v: %+v", d, r.look(1))
			}
			if !kick && d < 200*time.Millisecond {
				t.Errorf("it took %v only: this test proves nothing", d)
			}
		})
	}
}

func BenchmarkKick(b *testing.B) {
	r := newRig(b, bpftest.Options{})
	check(b, r.Servers[0].Do(func() error {
		for b.Loop() {
			if err := r.inj[0].Kick(r.tuple); err != nil {
				return err
			}
		}
		return nil
	}))
}

func BenchmarkLook(b *testing.B) {
	r := newRig(b, bpftest.Options{})
	check(b, r.Servers[0].Do(func() error {
		for b.Loop() {
			if _, err := r.progs[0].Look(r.tuple); err != nil {
				return err
			}
		}
		return nil
	}))
}

func BenchmarkInjectData(b *testing.B) {
	for _, size := range []int{1448, 65000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := newRig(b, bpftest.Options{})
			go io.Copy(io.Discard, r.ends[0])
			data := make([]byte, size)
			seq := r.look(0).RcvNxt
			b.SetBytes(int64(size))
			check(b, r.Servers[0].Do(func() error {
				for b.Loop() {
					for done := 0; done < size; {
						n, err := r.inj[0].InjectData(r.tuple, seq+uint32(done), data[done:], false)
						if err != nil && !errors.Is(err, conn.ErrWindow) && !errors.Is(err, conn.ErrRefused) {
							return err
						}
						done += n
					}
					seq += uint32(size)
				}
				return nil
			}))
		})
	}
}
