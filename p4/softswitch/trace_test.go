// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// traceText asks what would happen to a frame, without the line about the frame.
func (o objects) traceText(port uint32, frame []byte) string {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p, err := switchv1.NewTracesClient(o.Conn).Trace(ctx, &switchv1.TraceRequest{Port: port, Frame: frame})
	if err != nil {
		o.t.Fatal(err)
	}
	_, text, _ := strings.Cut(softswitch.FormatTrace(p), "\n")
	return text
}

// wantLines wants all of these in the text, in this order.
func wantLines(t *testing.T, what, text string, lines ...string) {
	t.Helper()
	rest := text
	for _, l := range lines {
		_, after, ok := strings.Cut(rest, l)
		if !ok {
			t.Errorf("%s: no %q in\n%s", what, l, text)
			return
		}
		rest = after
	}
}

// TestTraceText asks for packets of all fates.
func TestTraceText(t *testing.T) {
	o := startObjects(t)
	o.Write(insert, o.member("hash_selector", 1, 2, 11), o.member("hash_selector", 2, 77, 22))
	o.Write(insert, profileGroup(&p4v1.ActionProfileGroup{ActionProfileId: o.id("hash_selector"), GroupId: 3, MaxSize: 8,
		Members: []*p4v1.ActionProfileGroup_Member{weighted(1, 1), weighted(2, 1)}}))
	o.Write(insert, o.to("group", toGroup(3)), switchtest.Group(9, [2]uint32{4, 5}, [2]uint32{6, 7}), switchtest.Group(8),
		cloneSession(&p4v1.CloneSessionEntry{SessionId: 5, Replicas: []*p4v1.Replica{{PortKind: &p4v1.Replica_Port{Port: []byte{4}}}}}))
	for _, tc := range []struct {
		name  string
		frame []byte
		lines []string
	}{
		{"a member of a group", ask(askGroup, 0, 7, 0), []string{"ingress   port 3", "parser    start, look_at_words: 10 bytes",
			"table     ObjectsIngress.group hdr.ask.key=0x07 -> entry 0x07: ObjectsIngress.answer(port=0x02, result=0x0b) by its action profile",
			"egress    port 2", "out       port 2, 10 bytes"}},
		{"a port that is not there", ask(askGroup, 0, 7, 1), []string{"answer(port=0x4d", "out       port 77", "DROP      there is no port 77"}},
		{"the program's own entry", ask(askInitial, 0, 0x12, 0), []string{"ObjectsIngress.initial hdr.ask.key=0x12 -> entry 0x10&&&0xf0 priority 1: ObjectsIngress.answer(", "out"}},
		{"a miss", ask(askInitial, 0, 3, 0), []string{"ObjectsIngress.initial hdr.ask.key=0x03 -> no entry: ObjectsIngress.refuse()",
			"DROP      egress_spec is the drop port at the end of ingress, set by action ObjectsIngress.refuse of table ObjectsIngress.initial"}},
		{"conditions", ask(askNothing, 0, 0, 0), []string{"do        objects.p4:13", "if        objects.p4:137: hdr.ask.kind == 1: false", "hdr.ask.kind == 11: false"}},
		{"copies", ask(askMulticast, 0, 9, 0), []string{"copy      multicast, to port 4", "egress    port 4", "out       port 4", "copy      multicast, to port 6", "out       port 6"}},
		{"a group without replicas", ask(askMulticast, 0, 8, 0), []string{"DROP      multicast group 8 has no replicas"}},
		{"no such group", ask(askMulticast, 0, 10, 0), []string{"DROP      there is no multicast group 10"}},
		{"a clone", ask(askClone, 5, 0, 0), []string{"copy      ingress clone, to port 4", "out       port 4", "out       port 1"}},
		{"no clone session", ask(askClone, 6, 0, 0), []string{"copy      none: no clone session 6"}},
		{"a digest", ask(askDigest, 5, 0, 0), []string{"digest    learned_t"}},
		{"a short packet", []byte{1, 2, 3}, []string{"parser    start: 0 bytes, error PacketTooShort"}},
	} {
		t.Run(tc.name, func(t *testing.T) { wantLines(t, tc.name, o.traceText(3, tc.frame), tc.lines...) })
	}
	o.SetDown(2, true)
	o.eventually("a port that is down", func() string {
		if strings.Contains(o.traceText(3, ask(askGroup, 0, 7, 0)), "DROP      port 2 is down") {
			return "told"
		}
		return "not told"
	}, "told")
}

// TestTraceChecksum sends an IPv4 packet with a wrong header checksum.
func TestTraceChecksum(t *testing.T) {
	js, info := switchtest.Build(t, "understudy")
	h := switchtest.New(t, js, info)
	frame := append(make([]byte, 12), 8, 0, 0x45, 0, 0, 20, 0, 1, 0, 0, 64, 17, 0, 1, 10, 0, 0, 1, 10, 0, 0, 2)
	wantLines(t, "checksum", objects{h, t}.traceText(1, frame), "checksum  ipv4.", "is wrong", "DROP")
}

// TestTraceLeavesNothing compares all state before and after.
func TestTraceLeavesNothing(t *testing.T) {
	o := startObjects(t)
	e := o.Entry("metered", match{"hdr.ask.key": 7}, 0, "colour", args{"port": 2})
	e.MeterConfig = rates(1, 0)
	o.Write(insert, switchtest.TableEntity(e), digest(o.id("learned_t"), nil))
	o.Write(modify, meter(&p4v1.MeterEntry{MeterId: o.id("packet_meter"), Config: rates(1, 0)}), register(o.id("ObjectsIngress.words"), 1, []byte{5}))
	before, err := o.Read(everything()...)
	check(t, err)
	for range 3 {
		wantLines(t, "metered", o.traceText(3, ask(askMetered, 0, 7, 0)), "ObjectsIngress.colour(port=0x02)", "out       port 2")
		o.traceText(3, ask(askMetered, 0, 8, 0))
		o.traceText(3, ask(askPacketMeter, 1, 0, 0))
		o.traceText(3, ask(askRegister, 1, 0, 9))
		o.traceText(3, ask(askDigest, 0, 0, 9))
	}
	after, err := o.Read(everything()...)
	check(t, err)
	if diff := cmp.Diff(before, after, protocmp.Transform()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	o.NoPacketIn() // no digest
	if out := o.Send(3, ask(askMetered, 0, 7, 0)); len(out) != 1 || out[0].Data[9] != 0 {
		t.Errorf("the first packet is not green, or other frames have left: %v", out)
	}
}

func TestTraceErrors(t *testing.T) {
	o := startObjects(t)
	c := switchv1.NewTracesClient(o.Conn)
	for _, r := range []*switchv1.TraceRequest{{Port: 512, Frame: []byte{1}}, {Port: 1, Frame: make([]byte, softswitch.MaxFrame+1)}} {
		if _, err := c.Trace(context.Background(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("port %d, %d bytes: %v", r.Port, len(r.Frame), err)
		}
	}
	h := switchtest.Start(t, softswitch.Config{})
	if _, err := switchv1.NewTracesClient(h.Conn).Trace(context.Background(), &switchv1.TraceRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without a pipeline: %v", err)
	}
}

// TestWatchTraces follows packets that really come in.
func TestWatchTraces(t *testing.T) {
	o := startObjects(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	watch := func(r *switchv1.WatchRequest) func() *switchv1.PacketTrace {
		t.Helper()
		stream, err := switchv1.NewTracesClient(o.Conn).Watch(ctx, r)
		check(t, err)
		_, err = stream.Header()
		check(t, err)
		return func() *switchv1.PacketTrace {
			p, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			check(t, err)
			return p
		}
	}
	all := watch(&switchv1.WatchRequest{Limit: 3})
	dropped := watch(&switchv1.WatchRequest{Ports: []uint32{4, 5}, Dropped: true, Limit: 1})
	o.Send(3, ask(askNothing, 0, 0, 1))
	o.Send(3, ask(askInitial, 0, 3, 2)) // is dropped, at another port
	o.Send(4, ask(askNothing, 0, 0, 3)) // is not dropped
	o.Send(5, ask(askInitial, 0, 3, 4))
	for _, want := range [][]byte{ask(askNothing, 0, 0, 1), ask(askInitial, 0, 3, 2), ask(askNothing, 0, 0, 3)} {
		if p := all(); string(p.GetFrame()) != string(want) || len(p.GetSteps()) == 0 || p.GetMissed() != 0 {
			t.Errorf("%v, want one of %x", p, want)
		}
	}
	if p := all(); p != nil {
		t.Errorf("beyond the limit: %v", p)
	}
	if p := dropped(); p.GetPort() != 5 || p.GetFrame()[7] != 4 {
		t.Errorf("the dropped one: %v", p)
	}
	// As many clients as there may be, and one.
	for range 16 {
		watch(&switchv1.WatchRequest{})
	}
	stream, err := switchv1.NewTracesClient(o.Conn).Watch(ctx, &switchv1.WatchRequest{})
	check(t, err)
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one client too many: %v", err)
	}
}

// TestTraceAll is what --trace does.
func TestTraceAll(t *testing.T) {
	traces := make(chan string, 10)
	config := objectsProgram(t)
	h := switchtest.Start(t, softswitch.Config{Pipeline: config, Trace: func(p *switchv1.PacketTrace) { traces <- softswitch.FormatTrace(p) }})
	h.Send(3, ask(askInitial, 0, 3, 0))
	select {
	case text := <-traces:
		wantLines(t, "trace", text, "port 3, 10 bytes: 05000003000000000000", "DROP")
	case <-time.After(10 * time.Second):
		t.Error("nothing was told")
	}
}
