// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	faultv1 "github.com/understudy-net/understudy/api/switchfault/v1"
	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

func TestConfigErrors(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer lis.Close()
	link := softswitch.NewMemLink(nil)
	for _, tc := range []struct {
		name string
		cfg  softswitch.Config
		want string
	}{
		{"no listener", softswitch.Config{}, "no listener"},
		{"port twice", softswitch.Config{Listener: lis, Ports: []softswitch.Port{{Number: 1, Link: link}, {Number: 1, Link: link}}}, "port 1 is given twice"},
		{"port too high", softswitch.Config{Listener: lis, Ports: []softswitch.Port{{Number: 512, Link: link}}}, "port 512, the largest is 511"},
		{"no link", softswitch.Config{Listener: lis, Ports: []softswitch.Port{{Number: 1}}}, "port 1 has no link"},
		{"drop port", softswitch.Config{Listener: lis, Ports: []softswitch.Port{{Number: 511, Link: link}}}, "port 511 is the drop port"},
		{"CPU port", softswitch.Config{Listener: lis, CPUPort: 5, Ports: []softswitch.Port{{Number: 5, Link: link}}}, "port 5 is the CPU port"},
		{"CPU is drop port", softswitch.Config{Listener: lis, CPUPort: 511}, "port 511 cannot be both"},
		{"CPU port too high", softswitch.Config{Listener: lis, CPUPort: 600}, "CPU port 600"},
		{"pipeline", softswitch.Config{Listener: lis, Pipeline: &p4v1.ForwardingPipelineConfig{}}, "no P4Info"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := softswitch.New(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// TestRunEndsEverything counts goroutines before and after a switch with a
// connected controller.
func TestRunEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("switch", func(t *testing.T) {
		js, info := testProgram(t)
		h := switchtest.New(t, js, info)
		h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "punt", nil)
		h.Send(1, query(1, 1, 1, ""))
		h.PacketIn()
	})
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n := runtime.NumGoroutine()
		if n <= before {
			return
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, n, buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestHealthAndReflection(t *testing.T) {
	h := switchtest.Start(t, softswitch.Config{})
	r, err := healthpb.NewHealthClient(h.Conn).Check(context.Background(), &healthpb.HealthCheckRequest{Service: "p4.v1.P4Runtime"})
	if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
	stream, err := reflectionpb.NewServerReflectionClient(h.Conn).ServerReflectionInfo(context.Background())
	check(t, err)
	check(t, stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}))
	m, err := stream.Recv()
	check(t, err)
	var names []string
	for _, s := range m.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if got := strings.Join(names, " "); !strings.Contains(got, "p4.v1.P4Runtime") || strings.Contains(got, "Faults") {
		t.Errorf("services: %s", got)
	}
	check(t, stream.CloseSend())
}

// TestFaults loses copies toward one port.
func TestFaults(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.Start(t, softswitch.Config{FaultInjection: true, Pipeline: loadConfig(t, js, info)})
	h.Info = loadConfig(t, js, info).GetP4Info()
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "copies", args{"group": 1})
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 2}, "answer", args{"port": 3})
	h.InsertGroup(1, [2]uint32{2, 1}, [2]uint32{3, 2})
	faults := faultv1.NewFaultsClient(h.Conn)
	ctx := context.Background()
	set := func(r *faultv1.SetDropRequest) {
		t.Helper()
		_, err := faults.SetDrop(ctx, r)
		check(t, err)
	}
	// run sends n packets and returns which of the copies to port 3 were lost.
	run := func(n int, frame []byte) (lost []int) {
		for i := range n {
			there := false
			for _, f := range h.Send(1, frame) {
				there = there || f.Port == 3
			}
			if !there {
				lost = append(lost, i)
			}
		}
		return lost
	}
	copies := query(1, 1, 1, "")
	if lost := run(20, copies); lost != nil {
		t.Errorf("lost %v before a fault was set", lost)
	}
	set(&faultv1.SetDropRequest{Port: 3, OneIn: 7, EveryNth: true})
	if diff := cmp.Diff([]int{6, 13, 20}, run(22, copies)); diff != "" {
		t.Errorf("every 7th, -want +got:\n%s", diff)
	}
	if lost := run(20, query(1, 1, 2, "")); lost != nil {
		t.Errorf("lost %v that are no copies", lost)
	}
	set(&faultv1.SetDropRequest{Port: 3, OneIn: 4, Seed: 9})
	first := run(200, copies)
	set(&faultv1.SetDropRequest{Port: 3, OneIn: 4, Seed: 9})
	if diff := cmp.Diff(first, run(200, copies)); diff != "" {
		t.Errorf("the same seed, -first +second:\n%s", diff)
	}
	if len(first) < 20 || len(first) > 90 {
		t.Errorf("%d of 200 lost, one in 4 wanted", len(first))
	}
	set(&faultv1.SetDropRequest{Port: 3, OneIn: 1})
	if lost := run(5, copies); len(lost) != 5 {
		t.Errorf("lost %v, all wanted", lost)
	}
	set(&faultv1.SetDropRequest{Port: 3})
	if lost := run(20, copies); lost != nil {
		t.Errorf("lost %v after the fault was taken back", lost)
	}
	r, err := faults.GetDrops(ctx, &faultv1.GetDropsRequest{})
	check(t, err)
	if diff := cmp.Diff(map[uint32]uint64{3: uint64(3 + 2*len(first) + 5)}, r.GetDropped()); diff != "" {
		t.Errorf("drops, -want +got:\n%s", diff)
	}
	if _, err := faults.SetDrop(ctx, &faultv1.SetDropRequest{Port: 512}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("port 512: %v", err)
	}
}

// TestPacketInOverflow lets a controller not read: its queue is bounded, what is
// too much is lost, and the switch goes on.
func TestPacketInOverflow(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.Start(t, softswitch.Config{Pipeline: loadConfig(t, js, info)})
	h.Info = loadConfig(t, js, info).GetP4Info()
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "punt", args{"reason": 1})
	// A second controller takes over and never reads.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := h.Client.StreamChannel(ctx)
	check(t, err)
	check(t, stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{
		Arbitration: &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, ElectionId: &p4v1.Uint128{High: 1}}}}))
	if a := h.Stream().GetArbitration(); a.GetStatus().GetCode() != int32(codes.AlreadyExists) {
		t.Fatalf("still primary: %v", a)
	}
	frame := append(query(1, 1, 1, ""), make([]byte, 1000)...)
	for i := range 5000 {
		binary.BigEndian.PutUint32(frame[30:], uint32(i))
		h.Send(1, frame)
	}
	// In order, without a gap as far as it got, and not all of it. A last packet
	// ends the wait.
	const end = 1 << 31
	next := uint32(0)
	var arbitrated bool
	sent := false
	for {
		if next == 1024 && !sent { // there is room again
			binary.BigEndian.PutUint32(frame[30:], end)
			h.Send(1, frame)
			sent = true
		}
		m, err := stream.Recv()
		check(t, err)
		p := m.GetPacket()
		if p == nil {
			arbitrated = true
			continue
		}
		n := binary.BigEndian.Uint32(p.GetPayload()[30:])
		if n != next {
			break
		}
		if next++; next == 5000 {
			t.Fatal("nothing was lost: the queue is not bounded")
		}
	}
	if !arbitrated || next < 1024 {
		t.Errorf("%d packets before the first loss, arbitration told: %v", next, arbitrated)
	}
}

// TestStopWithDeafController stops a switch whose primary controller does not read
// what it is sent, so that the stream's sender is stuck.
func TestStopWithDeafController(t *testing.T) {
	js, info := testProgram(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	link := softswitch.NewMemLink(nil)
	sw, err := softswitch.New(softswitch.Config{DeviceID: switchtest.DeviceID, CPUPort: switchtest.CPUPort, Listener: lis,
		Pipeline: loadConfig(t, js, info), Ports: []softswitch.Port{{Number: 1, Link: link}}})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- sw.Run(ctx) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer conn.Close()
	client := p4v1.NewP4RuntimeClient(conn)
	h := switchtest.Connect(t, client, loadConfig(t, js, info).GetP4Info())
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "punt", args{"reason": 1})
	stream, err := client.StreamChannel(context.Background())
	check(t, err)
	check(t, stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{
		Arbitration: &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, ElectionId: &p4v1.Uint128{High: 1}}}}))
	if a := h.Stream().GetArbitration(); a.GetStatus().GetCode() != int32(codes.AlreadyExists) {
		t.Fatalf("still primary: %v", a)
	}
	// More than the queue and all windows hold.
	frame := append(query(1, 1, 1, ""), make([]byte, 1400)...)
	for range 3000 {
		check(t, link.Inject(ctx, frame))
	}
	cancel()
	select {
	case err := <-done:
		check(t, err)
	case <-time.After(10 * time.Second):
		t.Error("the switch did not stop")
	}
}

// TestOffload covers what a switch must know about unfinished frames.
func TestOffload(t *testing.T) {
	whole := packet.Build(&packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway},
		&packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP}, &packet.UDPLayer{SrcPort: 1, DstPort: 2}, packet.Bytes("odd"))
	unfinished := append([]byte(nil), whole...)
	udp := packet.Parse(unfinished).UDP
	// What the kernel leaves: the sum of the pseudo-header, not complemented.
	binary.BigEndian.PutUint16(udp[6:], ^packet.Checksum(nil, packet.PseudoHeader(cmpClient, cmpVIP, packet.ProtocolUDP, len(udp))))
	for _, tc := range []struct {
		name  string
		front string // headers that the pipeline put in front
		shift int
		want  bool
	}{
		{"as it came", "", 0, true},
		{"two bytes more", "xx", 2, true},
		{"shifted out of the frame", "", 100, false},
		{"shifted before the frame", "", -100, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			off := softswitch.NewOffload(14+20, 6)
			frame := append([]byte(tc.front), unfinished...)
			if ok := off.Shift(tc.shift, len(frame)); ok != tc.want {
				t.Fatalf("shift: %v, want %v", ok, tc.want)
			}
			if !tc.want {
				return
			}
			off.Complete(frame)
			if diff := cmp.Diff(whole, frame[len(tc.front):]); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	js, info := testProgram(b)
	h := switchtest.New(b, js, info)
	m := match{"hdr.query.narrow": 1, "hdr.query.word": 1}
	h.Insert("exact_table", m, "answer", args{"port": 1, "result": 0})
	e := switchtest.TableEntity(h.Entry("exact_table", m, 0, "answer", args{"port": 2, "result": 1}))
	for b.Loop() {
		if err := h.TryWrite(p4v1.Update_MODIFY, e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteDuringReads changes one entry again and again while another client
// reads all of a large configuration.
func BenchmarkWriteDuringReads(b *testing.B) {
	js, info := switchtest.Build(b, "understudy")
	h := switchtest.New(b, js, info)
	var services []*p4v1.Entity
	for i := range 16384 {
		services = append(services, switchtest.TableEntity(h.Entry("vip", match{"dst_addr": netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
			"protocol": 6, "dst_port": 80}, 0, "duplicate", args{"group": 1})))
	}
	h.Write(p4v1.Update_INSERT, services...)
	h.Insert("active", match{"pair": 1}, "set_active", args{"replica": 1, "epoch": 1})
	e := switchtest.TableEntity(h.Entry("active", match{"pair": 1}, 0, "set_active", args{"replica": 2, "epoch": 2}))
	stop, stopped := make(chan struct{}), make(chan struct{})
	reads := 0
	go func() {
		defer close(stopped)
		for ; ; reads++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := h.Read(&p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: &p4v1.TableEntry{}}},
				&p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{}}}); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	var longest time.Duration
	for b.Loop() {
		start := time.Now()
		h.Write(p4v1.Update_MODIFY, e)
		longest = max(longest, time.Since(start))
	}
	close(stop)
	<-stopped
	b.ReportMetric(float64(longest.Microseconds())/1000, "longest-ms")
	b.ReportMetric(float64(reads)/b.Elapsed().Seconds(), "reads/s")
}

// TestWritesUnderPacketsAndElections has packets on their way to the controller,
// writes that wait for them, and elections, all at once. None may wait for another
// in a circle.
func TestWritesUnderPacketsAndElections(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "punt", args{"reason": 1})
	e := switchtest.TableEntity(h.Entry("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, 0, "punt", args{"reason": 2}))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for port := uint16(1); port <= 2; port++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
					h.Send(port, query(1, 1, 1, ""))
				}
			}
		}()
	}
	other := newController(t, h.Client, "other")
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			case <-other.got:
			default:
				other.elect(50)
			}
		}
	}()
	wg.Add(1)
	go func() { // the harness's own stream must be read
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			default:
				h.Pending()
			}
		}
	}()
	for range 300 {
		h.Write(p4v1.Update_MODIFY, e)
	}
	close(stop)
	wg.Wait()
}
