// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/understudy-net/understudy/p4"
	"github.com/understudy-net/understudy/p4/softswitch"
)

const deadline = 20 * time.Second

// checkLeaks fails the test if goroutines of gRPC or of this module are left at
// its end. It must be called first.
func checkLeaks(t testing.TB) {
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			buf := make([]byte, 1<<20)
			buf = buf[:runtime.Stack(buf, true)]
			left = left[:0]
			for g := range strings.SplitSeq(string(buf), "\n\n") {
				if !strings.Contains(g, "checkLeaks") && !strings.Contains(g, "testing.tRunner") &&
					(strings.Contains(g, "understudy-net") || strings.Contains(g, "google.golang.org/grpc")) {
					left = append(left, g)
				}
			}
			if len(left) == 0 {
				return
			}
		}
		t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
	})
}

// device is an embedded switch behind a proxy that takes down what is asked of
// it, and can refuse.
type device struct {
	t       testing.TB
	address string              // of the proxy
	direct  string              // of the switch itself
	link    *softswitch.MemLink // port 2
	stop    func()

	upstream p4v1.P4RuntimeClient

	mu        sync.Mutex
	writes    []*p4v1.WriteRequest
	pipelines int
	refuse    func(*p4v1.WriteRequest) error
	cut       context.CancelFunc // ends the latest stream, and nothing else
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(5 * time.Millisecond) {
		l, err := net.Listen("tcp", address)
		if err == nil {
			return l
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func newDevice(t testing.TB, address string) *device {
	t.Helper()
	inner := listen(t, "127.0.0.1:0")
	d := &device{t: t, direct: inner.Addr().String(), link: softswitch.NewMemLink(nil)}
	sw, err := softswitch.New(softswitch.Config{
		DeviceID: 1, CPUPort: p4.CPUPort, DropPort: p4.DropPort, Listener: inner,
		Ports: []softswitch.Port{{Number: 2, Link: d.link}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sw.Run(ctx) }()
	conn, err := grpc.NewClient("passthrough:///"+inner.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	d.upstream = p4v1.NewP4RuntimeClient(conn)

	outer := listen(t, address)
	d.address = outer.Addr().String()
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	p4v1.RegisterP4RuntimeServer(srv, &proxy{d: d})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(outer) }()
	d.stop = sync.OnceFunc(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Errorf("proxy: %v", err)
		}
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("switch: %v", err)
		}
	})
	t.Cleanup(d.stop)
	return d
}

// taken returns what was written since it was last asked.
func (d *device) taken() []*p4v1.WriteRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.writes
	d.writes = nil
	return w
}

func (d *device) refuseWrites(f func(*p4v1.WriteRequest) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse = f
}

type proxy struct {
	p4v1.UnimplementedP4RuntimeServer
	d *device
}

func (p *proxy) Write(ctx context.Context, r *p4v1.WriteRequest) (*p4v1.WriteResponse, error) {
	p.d.mu.Lock()
	p.d.writes = append(p.d.writes, r)
	refuse := p.d.refuse
	p.d.mu.Unlock()
	if refuse != nil {
		if err := refuse(r); err != nil {
			return nil, err
		}
	}
	return p.d.upstream.Write(ctx, r)
}

func (p *proxy) SetForwardingPipelineConfig(ctx context.Context, r *p4v1.SetForwardingPipelineConfigRequest) (*p4v1.SetForwardingPipelineConfigResponse, error) {
	p.d.mu.Lock()
	p.d.pipelines++
	p.d.mu.Unlock()
	return p.d.upstream.SetForwardingPipelineConfig(ctx, r)
}

func (p *proxy) GetForwardingPipelineConfig(ctx context.Context, r *p4v1.GetForwardingPipelineConfigRequest) (*p4v1.GetForwardingPipelineConfigResponse, error) {
	return p.d.upstream.GetForwardingPipelineConfig(ctx, r)
}

func (p *proxy) Read(r *p4v1.ReadRequest, down p4v1.P4Runtime_ReadServer) error {
	up, err := p.d.upstream.Read(down.Context(), r)
	if err != nil {
		return err
	}
	for {
		m, err := up.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := down.Send(m); err != nil {
			return err
		}
	}
}

func (p *proxy) StreamChannel(down p4v1.P4Runtime_StreamChannelServer) error {
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	p.d.mu.Lock()
	p.d.cut = cancel
	p.d.mu.Unlock()
	up, err := p.d.upstream.StreamChannel(ctx)
	if err != nil {
		return err
	}
	go func() {
		for {
			m, err := down.Recv()
			if err != nil {
				return
			}
			if up.Send(m) != nil {
				return
			}
		}
	}()
	for {
		m, err := up.Recv()
		if err != nil {
			return err
		}
		if err := down.Send(m); err != nil {
			return err
		}
	}
}

// open is a session that runs.
type open struct {
	*Session
	statuses chan Status
	stop     func()

	mu   sync.Mutex
	want State
	have []State // as it was read, each time
}

func run(t testing.TB, d *device, want State, adjust ...func(*Options)) *open {
	t.Helper()
	o := &open{want: want, statuses: make(chan Status, 1000)}
	opts := Options{
		Address: d.address, DeviceID: 1,
		Pipeline: Pipeline{Info: p4.Info(), Device: p4.JSON()},
		Wanted: func(_ context.Context, have State) (State, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.have = append(o.have, have)
			return o.want, nil
		},
		Changed:    func(s Status) { o.statuses <- s },
		Rand:       rand.New(rand.NewPCG(1, 2)),
		MaxBackoff: 50 * time.Millisecond,
		TakeOver:   20 * time.Millisecond,
		Audit:      time.Hour,
	}
	for _, f := range adjust {
		f(&opts)
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	o.Session = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	o.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(o.stop)
	return o
}

func (o *open) await(t testing.TB, want Status) {
	t.Helper()
	timeout := time.After(deadline)
	for {
		select {
		case s := <-o.statuses:
			if s == want {
				return
			}
		case <-timeout:
			t.Fatalf("the session did not become %v, it is %v", want, o.Status())
		}
	}
}

func (o *open) wants(s State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.want = s
}

func (o *open) read(t testing.TB) string {
	t.Helper()
	s, err := o.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

func example() State {
	return State{
		Entries: []Entry{activeOf(1, 1, 7), routeTo("192.0.2.0/24", 1), routeTo("::/0", 3), puntOf("10.0.1.1", 9401)},
		Groups:  []Group{{ID: 1, Replicas: []Replica{{2, 1}, {3, 2}}}},
	}
}

func TestFirstConnection(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	o := run(t, d, example())
	o.await(t, Ready)
	if diff := cmp.Diff(example().String(), o.read(t)); diff != "" {
		t.Errorf("what the switch has (-want +got):\n%s", diff)
	}
	if d.pipelines != 1 {
		t.Errorf("the pipeline was set %d times, want once", d.pipelines)
	}
}

// A controller that restarts changes nothing that is right.
func TestNothingIsRewritten(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	first := run(t, d, example())
	first.await(t, Ready)
	first.stop()
	d.taken()
	second := run(t, d, example())
	second.await(t, Ready)
	if w := d.taken(); len(w) != 0 {
		t.Errorf("written again: %v", w)
	}
	if d.pipelines != 1 {
		t.Errorf("the pipeline was set %d times, want once", d.pipelines)
	}
	if diff := cmp.Diff(example().String(), second.have[0].String()); diff != "" {
		t.Errorf("what was read (-want +got):\n%s", diff)
	}
}

func TestOnlyDifferencesAreWritten(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	first := run(t, d, example())
	first.await(t, Ready)
	first.stop()
	d.taken()
	want := example()
	want.Entries = append(want.Entries[:1], activeOf(2, 1, 1))
	second := run(t, d, want)
	second.await(t, Ready)
	w := d.taken()
	if len(w) != 1 || len(w[0].GetUpdates()) != 4 {
		t.Errorf("written: %v; want one insertion and three deletions", w)
	}
	if diff := cmp.Diff(want.String(), second.read(t)); diff != "" {
		t.Errorf("what the switch has (-want +got):\n%s", diff)
	}
}

func TestFlipIsOneModification(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	o := run(t, d, example())
	o.await(t, Ready)
	d.taken()
	if err := o.Put(t.Context(), []Entry{activeOf(1, 2, 8)}, nil); err != nil {
		t.Fatal(err)
	}
	w := d.taken()
	if len(w) != 1 || len(w[0].GetUpdates()) != 1 || w[0].GetUpdates()[0].GetType() != p4v1.Update_MODIFY {
		t.Errorf("written: %v; want one MODIFY", w)
	}
	if err := o.Put(t.Context(), []Entry{activeOf(1, 2, 8)}, nil); err != nil {
		t.Fatal(err)
	}
	if w := d.taken(); len(w) != 0 {
		t.Errorf("what is there was written again: %v", w)
	}
	want := example()
	want.Entries[0] = activeOf(1, 2, 8)
	if diff := cmp.Diff(want.String(), o.read(t)); diff != "" {
		t.Errorf("what the switch has (-want +got):\n%s", diff)
	}
}

func TestPutFailsAndIsRepeated(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	o := run(t, d, example())
	o.await(t, Ready)
	d.refuseWrites(func(*p4v1.WriteRequest) error { return status.Error(codes.ResourceExhausted, "no room") })
	err := o.Put(t.Context(), []Entry{activeOf(1, 2, 8)}, nil)
	if err == nil || !strings.Contains(err.Error(), "active[pair=1]") || !strings.Contains(err.Error(), "no room") {
		t.Errorf("error %v; want one that names the entry and the reason", err)
	}
	// It may have been written after all: it is not taken for granted.
	d.refuseWrites(nil)
	if err := o.Put(t.Context(), []Entry{activeOf(1, 1, 7)}, nil); err != nil {
		t.Fatal(err)
	}
	if err := o.Put(t.Context(), []Entry{activeOf(1, 2, 8)}, []Group{{ID: 1, Replicas: []Replica{{3, 2}}}}); err != nil {
		t.Fatal(err)
	}
	want := example()
	want.Entries[0] = activeOf(1, 2, 8)
	want.Groups[0].Replicas = []Replica{{3, 2}}
	if diff := cmp.Diff(want.String(), o.read(t)); diff != "" {
		t.Errorf("what the switch has (-want +got):\n%s", diff)
	}
}

// A write that the switch does not answer does not keep the session from being
// opened anew when its stream ends.
func TestStreamEndsDuringAWrite(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	o := run(t, d, example(), func(o *Options) { o.WriteTimeout = deadline })
	o.await(t, Ready)
	arrived, release := make(chan struct{}), make(chan struct{})
	t.Cleanup(sync.OnceFunc(func() { close(release) }))
	d.refuseWrites(func(*p4v1.WriteRequest) error {
		close(arrived)
		<-release
		return status.Error(codes.Aborted, "too late")
	})
	put := make(chan error, 1)
	go func() { put <- o.Put(t.Context(), []Entry{activeOf(1, 2, 8)}, nil) }()
	<-arrived
	d.refuseWrites(nil)
	began := time.Now()
	d.mu.Lock()
	d.cut()
	d.mu.Unlock()
	if err := <-put; err == nil {
		t.Error("a write that was not answered is said to be done")
	}
	o.await(t, Ready)
	if took := time.Since(began); took > deadline/2 {
		t.Errorf("ready again after %v", took)
	}
	if err := o.Put(t.Context(), []Entry{activeOf(1, 2, 8)}, nil); err != nil {
		t.Error(err)
	}
}

// An entry that has vanished is noticed by the write that misses it, and
// everything is put right.
func TestWriteFindsDrift(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	o := run(t, d, example())
	o.await(t, Ready)
	d.remove(t, o.Session, activeOf(1, 1, 7))
	next := example()
	next.Entries[0] = activeOf(1, 2, 8)
	o.wants(next)
	var w *WriteError
	if err := o.Put(t.Context(), []Entry{activeOf(1, 2, 8)}, nil); !errors.As(err, &w) || w.Failed[0].Code != codes.NotFound {
		t.Fatalf("error %v, want NotFound", err)
	}
	o.await(t, Ready)
	if diff := cmp.Diff(next.String(), o.read(t)); diff != "" {
		t.Errorf("what the switch has (-want +got):\n%s", diff)
	}
}

// change makes updates behind the session's back.
func (d *device) change(t testing.TB, s *Session, updates ...Update) {
	t.Helper()
	req := &p4v1.WriteRequest{DeviceId: 1, ElectionId: s.election.Load()}
	for _, u := range updates {
		encoded, err := s.schema.encodeUpdate(u)
		if err != nil {
			t.Fatal(err)
		}
		req.Updates = append(req.Updates, encoded)
	}
	if _, err := d.upstream.Write(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// remove takes an entry away behind the session's back.
func (d *device) remove(t testing.TB, s *Session, e Entry) {
	t.Helper()
	d.change(t, s, Update{Op: Delete, Entry: &e})
}

// P4Runtime 1.5, section 5: who comes later takes over; when it leaves, the one
// that stands by does.
func TestArbitration(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	first := run(t, d, example())
	first.await(t, Ready)
	want := example()
	want.Entries[0] = activeOf(1, 2, 8)
	second := run(t, d, want)
	second.await(t, Ready)
	first.await(t, Standby)
	if err := first.Put(t.Context(), []Entry{activeOf(1, 1, 9)}, nil); !errors.Is(err, ErrNotReady) {
		t.Errorf("a session that stands by wrote: %v", err)
	}
	first.wants(want)
	second.stop()
	first.await(t, Ready)
	if diff := cmp.Diff(want.String(), first.have[1].String()); diff != "" {
		t.Errorf("what was read on taking over (-want +got):\n%s", diff)
	}
	if err := first.Put(t.Context(), []Entry{activeOf(1, 1, 9)}, nil); err != nil {
		t.Errorf("after taking over: %v", err)
	}
}

// A session that stands by leaves the one in charge alone, and takes over when that
// is gone; and it gives way to whom it stands by for.
func TestStandBy(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	standBy := func(o *Options) { o.StandBy = true }
	first := run(t, d, example())
	first.await(t, Ready)
	second := run(t, d, example(), standBy)
	second.await(t, Standby)
	if got := first.Status(); got != Ready {
		t.Errorf("the one in charge is %v", got)
	}
	d.taken()
	first.stop()
	second.await(t, Ready)
	if w := d.taken(); len(w) > 0 {
		t.Errorf("on taking over %d writes", len(w))
	}
	first = run(t, d, example())
	first.await(t, Ready)
	second.await(t, Standby)
}

// A clock that has gone back does not keep a controller out for ever.
func TestElectionIDBehind(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	first := run(t, d, example(), func(o *Options) { o.ElectionID = func() ElectionID { return ElectionID{High: 5, Low: 1<<64 - 1} } })
	first.await(t, Ready)
	second := run(t, d, example())
	second.await(t, Standby)
	first.stop()
	second.await(t, Ready)
}

func TestSwitchRestarts(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	o := run(t, d, example())
	o.await(t, Ready)
	d.stop()
	o.await(t, Connecting)
	if err := o.Put(t.Context(), []Entry{activeOf(1, 2, 8)}, nil); !errors.Is(err, ErrNotReady) {
		t.Errorf("without a switch: %v, want ErrNotReady", err)
	}
	d = newDevice(t, d.address)
	o.await(t, Ready)
	if diff := cmp.Diff(example().String(), o.read(t)); diff != "" {
		t.Errorf("what the switch has (-want +got):\n%s", diff)
	}
}

// A switch that refuses the wanted state is tried again.
func TestSyncFails(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	d.refuseWrites(func(*p4v1.WriteRequest) error { return status.Error(codes.Internal, "not today") })
	o := run(t, d, example())
	o.await(t, Syncing)
	o.await(t, Connecting)
	d.refuseWrites(nil)
	o.await(t, Ready)
}

// heartbeatFrame is what the example has the switch punt.
var heartbeatFrame = []byte{
	2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 8, 0, // Ethernet
	0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0x64, 0xcd, 10, 0, 1, 2, 10, 0, 1, 1, // IPv4
	0x24, 0xb9, 0x24, 0xb9, 0, 10, 0, 0, 'h', 'i', // UDP
}

func TestPacketInAndCounters(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	type packet struct {
		Port uint32
		Data []byte
	}
	packets := make(chan packet, 1)
	o := run(t, d, example(), func(opts *Options) {
		opts.PacketIn = func(m Metadata, data []byte) { packets <- packet{m.Port, append([]byte(nil), data...)} }
	})
	o.await(t, Ready)
	frame := heartbeatFrame
	if err := d.link.Inject(t.Context(), frame); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-packets:
		if diff := cmp.Diff(packet{2, frame}, got); diff != "" {
			t.Errorf("packet in (-want +got):\n%s", diff)
		}
	case <-time.After(deadline):
		t.Error("no packet came up")
	}

	if err := d.link.Inject(t.Context(), []byte{2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 0x88, 0xcc, 0}); err != nil {
		t.Fatal(err)
	}
	counts, err := o.Counters(t.Context(), "drop_counter")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int64]Count{6: {1, 15}}, counts); diff != "" {
		t.Errorf("drop_counter (-want +got):\n%s", diff)
	}
	if _, err := o.Counters(t.Context(), "dorp_counter"); err == nil {
		t.Error("a counter that is not there was read")
	}
}

// countingConn counts what is written to it.
type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// Packets from the switch are taken without an answer of any kind: heartbeats are
// hundreds per second.
func TestPacketInIsNotAnswered(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	packets := make(chan struct{}, 1)
	var writes atomic.Int64
	o := run(t, d, example(), func(opts *Options) {
		opts.PacketIn = func(Metadata, []byte) { packets <- struct{}{} }
		opts.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			c, err := dialTCP(ctx, address)
			return countingConn{c, &writes}, err
		}
	})
	o.await(t, Ready)
	before := writes.Load()
	const n = 50
	for range n {
		if err := d.link.Inject(t.Context(), heartbeatFrame); err != nil {
			t.Fatal(err)
		}
		select {
		case <-packets:
		case <-time.After(deadline):
			t.Fatal("no packet came up")
		}
	}
	if w := writes.Load() - before; w > n/10 {
		t.Errorf("%d writes for %d packets", w, n)
	}
}

func TestCanceledWhileConnecting(t *testing.T) {
	checkLeaks(t)
	l := listen(t, "127.0.0.1:0") // accepts, and says nothing
	defer l.Close()
	o := run(t, &device{address: l.Addr().String()}, example())
	time.Sleep(10 * time.Millisecond)
	o.stop()
}

// How long a flip takes, from the call to the switch's confirmation. It must not
// grow with what else the switch has.
func BenchmarkFlip(b *testing.B) {
	for _, services := range []int{1, 1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			d := newDevice(b, "127.0.0.1:0")
			want := example()
			for i := range services {
				want.Entries = append(want.Entries, Entry{
					Table: "vip",
					Key: []Arg{
						Exact("dst_addr", Addr(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))),
						Exact("protocol", Uint[uint8](6)), Exact("dst_port", Uint[uint16](80)),
					},
					Action: "duplicate", Params: []Arg{Exact("group", Uint[uint16](1))},
				})
			}
			o := run(b, d, want, func(opts *Options) { opts.Address = d.direct })
			o.await(b, Ready)
			epoch := uint32(7)
			for b.Loop() {
				epoch++
				if err := o.Put(b.Context(), []Entry{activeOf(1, uint8(epoch%2)+1, epoch)}, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
