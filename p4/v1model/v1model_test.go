// SPDX-License-Identifier: Apache-2.0

package v1model_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/v1model"
)

// arch loads testdata/arch.p4, with two multicast groups, under a clock that moves
// by a millisecond whenever it is looked at.
func arch(t testing.TB) *v1model.Switch {
	t.Helper()
	js, err := os.ReadFile("testdata/arch.json")
	if err != nil {
		t.Fatal(err)
	}
	p, err := bmv2.Load(js)
	if err != nil {
		t.Fatal(err)
	}
	var ticks atomic.Int64
	s, err := v1model.New(p, v1model.Options{Seed: 1, Now: func() time.Time {
		return time.Unix(1000, 0).Add(time.Duration(ticks.Add(1)) * time.Millisecond)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []*v1model.Group{
		{ID: 1, Replicas: []v1model.Replica{{Port: 2, RID: 1}, {Port: 3, RID: 2}, {Port: 3, RID: 3}}},
		{ID: 2},
	} {
		if err := s.InsertGroup(g); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// What arch.p4 can be asked for.
const (
	unicast = 1 + iota
	multicast
	drop
	dropAfterMulticast
	multicastAfterDrop
	cutInIngress
	cutInEgress
	dropInEgress
	leaveEarly
	grow
	shrink
	cutInIngressMulticast
)

const seenLen = 39

// ask builds a packet.
func ask(what, flags byte, arg uint16, rest string) []byte {
	sum := packet.Checksum([]byte{byte(arg >> 8), byte(arg)}, 0)
	return append([]byte{what, flags, byte(arg >> 8), byte(arg), byte(sum >> 8), byte(sum)}, rest...)
}

// describe turns a frame of arch.p4 into text.
func describe(port uint16, b []byte) string {
	if len(b) < seenLen {
		return fmt.Sprintf("port %d: %x", port, b)
	}
	be := binary.BigEndian
	s := fmt.Sprintf("port %d: in %d out %d rid %d type %d length %d then %d", port,
		be.Uint16(b), be.Uint16(b[2:]), be.Uint16(b[4:]), be.Uint32(b[6:]), be.Uint32(b[10:]), be.Uint32(b[14:]))
	if e := be.Uint32(b[18:]); e != 0 {
		s += fmt.Sprintf(" parser error %d", e)
	}
	if b[22] != 0 {
		s += " checksum error"
	}
	rest := b[seenLen:]
	if len(rest) > 6 {
		s += fmt.Sprintf(" %+q", rest[6:])
	}
	return s
}

// TestArchitecture follows docs/simple_switch.md: what happens at the end of
// ingress and of egress, and what the metadata say.
func TestArchitecture(t *testing.T) {
	for _, tc := range []struct {
		name  string
		frame []byte
		want  []string
	}{
		{"unicast", ask(unicast, 0, 0, "payload"), []string{`port 1: in 5 out 1 rid 0 type 0 length 13 then 13 "payload"`}},
		{"multicast", ask(multicast, 0, 1, "payload"), []string{
			`port 2: in 5 out 2 rid 1 type 5 length 13 then 13 "payload"`,
			`port 3: in 5 out 3 rid 2 type 5 length 13 then 13 "payload"`,
			`port 3: in 5 out 3 rid 3 type 5 length 13 then 13 "payload"`}},
		{"multicast to an empty group", ask(multicast, 0, 2, "payload"), nil},
		{"multicast to no group", ask(multicast, 0, 3, "payload"), nil},
		{"group 0 is no multicast", ask(multicast, 0, 0, ""), []string{`port 1: in 5 out 1 rid 0 type 0 length 6 then 6`}},
		{"drop", ask(drop, 0, 0, "payload"), nil},
		{"mark_to_drop takes the group away", ask(dropAfterMulticast, 0, 1, "payload"), nil},
		{"a group set later wins over the drop port", ask(multicastAfterDrop, 0, 1, ""), []string{
			`port 2: in 5 out 2 rid 1 type 5 length 6 then 6`,
			`port 3: in 5 out 3 rid 2 type 5 length 6 then 6`,
			`port 3: in 5 out 3 rid 3 type 5 length 6 then 6`}},
		{"truncate in ingress", ask(cutInIngress, 0, seenLen+6+3, "payload"), []string{`port 1: in 5 out 1 rid 0 type 0 length 13 then 13 "pay"`}},
		{"truncate in ingress is forgotten by copies", ask(cutInIngressMulticast, 0, seenLen+6+3, "payload"), []string{
			`port 2: in 5 out 2 rid 1 type 5 length 13 then 13 "payload"`,
			`port 3: in 5 out 3 rid 2 type 5 length 13 then 13 "payload"`,
			`port 3: in 5 out 3 rid 3 type 5 length 13 then 13 "payload"`}},
		{"truncate in egress", ask(cutInEgress, 0, seenLen+6+1, "payload"), []string{`port 1: in 5 out 1 rid 0 type 0 length 13 then 13 "p"`}},
		{"truncate into the headers", ask(cutInEgress, 0, 4, "payload"), []string{`port 1: 00050001`}},
		{"truncate to more than there is", ask(cutInEgress, 0, 1000, "payload"), []string{`port 1: in 5 out 1 rid 0 type 0 length 13 then 13 "payload"`}},
		{"drop one copy in egress", ask(dropInEgress, 0, 1, ""), []string{
			`port 2: in 5 out 2 rid 1 type 5 length 6 then 6`,
			`port 3: in 5 out 3 rid 3 type 5 length 6 then 6`}},
		{"drop in egress", ask(dropInEgress, 0, 0, ""), nil},
		{"exit ends ingress only", ask(leaveEarly, 0, 0, ""), []string{`port 7: in 5 out 7 rid 0 type 0 length 6 then 6`}},
		{"a header added in ingress", ask(grow, 0, 0, "x"), []string{`port 1: in 5 out 1 rid 0 type 0 length 7 then 11 "\u07ad\xbe\xefx"`}},
		{"a header removed in ingress", ask(shrink, 1, 0, "abcdx"), []string{`port 1: in 5 out 1 rid 0 type 0 length 11 then 7 "x"`}},
		{"parser error, too short", ask(unicast, 1, 0, "abc"), []string{`port 1: in 5 out 1 rid 0 type 0 length 9 then 9 parser error 1 "abc"`}},
		{"parser error, verify", ask(unicast, 2, 0, "abc"), []string{`port 1: in 5 out 1 rid 0 type 0 length 9 then 9 parser error 2 "abc"`}},
		{"checksum right", ask(unicast, 4, 0x1234, ""), []string{`port 1: in 5 out 1 rid 0 type 0 length 6 then 6`}},
		{"checksum wrong", append(ask(unicast, 4, 0x1234, "")[:4], 1, 2), []string{`port 1: in 5 out 1 rid 0 type 0 length 6 then 6 checksum error`}},
		{"shorter than its first header", []byte{1, 2}, []string{`port 1: in 5 out 1 rid 0 type 0 length 2 then 2 parser error 1`}},
		{"empty", nil, []string{`port 1: in 5 out 1 rid 0 type 0 length 0 then 0 parser error 1`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := arch(t)
			var got []string
			s.Process(5, tc.frame, func(port uint16, data []byte) { got = append(got, describe(port, data)) })
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestUpdateChecksumWithPayload covers what verify_checksum in P4 cannot: the sum
// over fields and the payload, of even and odd length.
func TestUpdateChecksumWithPayload(t *testing.T) {
	for _, payload := range []string{"", "x", "xy", "a payload of odd lengt"} {
		s := arch(t)
		s.Process(5, ask(grow, 0, 0, payload), func(_ uint16, data []byte) {
			b := data[seenLen:]
			sum := packet.Checksum(append(append([]byte(nil), b[:4]...), b[6:]...), 0)
			if got := binary.BigEndian.Uint16(b[4:]); got != sum {
				t.Errorf("payload %q: checksum %#04x, want %#04x", payload, got, sum)
			}
		})
	}
}

// Timestamps are microseconds since the switch was made.
func TestTimestamps(t *testing.T) {
	s := arch(t)
	s.Process(5, ask(unicast, 0, 0, ""), func(_ uint16, data []byte) {
		in, out := binary.BigEndian.Uint64(data[23:]), binary.BigEndian.Uint64(data[31:])
		if in != 1000 || out != 2000 {
			t.Errorf("ingress at %d, egress at %d, want 1000 and 2000", in, out)
		}
	})
}

func TestFrameDescription(t *testing.T) {
	s := arch(t)
	w := s.NewWorker()
	var got []v1model.Frame
	emit := func(f *v1model.Frame) {
		c := *f
		c.Data = nil
		got = append(got, c)
	}
	for _, f := range [][]byte{ask(unicast, 0, 0, "payload"), ask(cutInEgress, 0, seenLen+8, "payload"), ask(cutInEgress, 0, 7, "payload"), ask(multicast, 1, 1, "abcdpay")} {
		w.Begin()
		w.Process(5, f, emit)
		w.End()
	}
	want := []v1model.Frame{
		{Port: 1, Headers: seenLen + 6, Payload: 7},
		{Port: 1, Headers: seenLen + 6, Payload: 7, Truncated: true},
		{Port: 1, Headers: 7, Payload: 7, Truncated: true},
		{Port: 2, RID: 1, Replica: true, Headers: seenLen + 10, Payload: 3},
		{Port: 3, RID: 2, Replica: true, Headers: seenLen + 10, Payload: 3},
		{Port: 3, RID: 3, Replica: true, Headers: seenLen + 10, Payload: 3},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestGroups(t *testing.T) {
	s := arch(t)
	for _, tc := range []struct {
		name string
		err  error
		want error
	}{
		{"insert what is there", s.InsertGroup(&v1model.Group{ID: 1}), v1model.ErrExists},
		{"modify what is not there", s.ModifyGroup(&v1model.Group{ID: 9}), v1model.ErrNotFound},
		{"delete what is not there", s.DeleteGroup(9), v1model.ErrNotFound},
		{"group 0", s.InsertGroup(&v1model.Group{ID: 0}), v1model.ErrArgument},
		{"group too high", s.InsertGroup(&v1model.Group{ID: 1 << 16}), v1model.ErrArgument},
		{"port too high", s.InsertGroup(&v1model.Group{ID: 9, Replicas: []v1model.Replica{{Port: 512}}}), v1model.ErrArgument},
		{"instance too high", s.InsertGroup(&v1model.Group{ID: 9, Replicas: []v1model.Replica{{RID: 1 << 16}}}), v1model.ErrArgument},
		{"copy twice", s.InsertGroup(&v1model.Group{ID: 9, Replicas: []v1model.Replica{{Port: 1}, {Port: 1}}}), v1model.ErrArgument},
	} {
		if !errors.Is(tc.err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, tc.err, tc.want)
		}
	}
}

// TestBarrier changes what a packet in work would do, and checks that nothing of it
// is emitted once Barrier has returned.
func TestBarrier(t *testing.T) {
	s := arch(t)
	var inWork, after atomic.Bool
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			w := s.NewWorker()
			// Group 9 exists or not; a copy of it may leave only before the barrier.
			frame := ask(multicast, 0, 9, "")
			for {
				select {
				case <-stop:
					return
				default:
				}
				w.Begin()
				w.Process(1, frame, func(*v1model.Frame) {
					inWork.Store(true)
					if after.Load() {
						t.Error("a copy left after the barrier")
					}
				})
				w.End()
				runtime.Gosched()
			}
		}()
	}
	for range 50 {
		after.Store(false)
		inWork.Store(false)
		if err := s.InsertGroup(&v1model.Group{ID: 9, Replicas: []v1model.Replica{{Port: 1}}}); err != nil {
			t.Fatal(err)
		}
		for !inWork.Load() {
			time.Sleep(time.Microsecond)
		}
		if err := s.DeleteGroup(9); err != nil {
			t.Fatal(err)
		}
		s.Barrier()
		after.Store(true)
	}
	close(stop)
	wg.Wait()
}

// TestCloseWorker closes a worker with a packet in work, which is wrong, but shows
// that the switch has forgotten it: Barrier does not wait for that packet.
func TestCloseWorker(t *testing.T) {
	s := arch(t)
	w, other := s.NewWorker(), s.NewWorker()
	w.Begin()
	w.Close()
	done := make(chan struct{})
	go func() {
		s.Barrier()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the barrier waits for a closed worker")
	}
	other.Begin()
	other.Process(1, ask(unicast, 0, 4, ""), func(*v1model.Frame) {})
	other.End()
	other.Close()
}

// What New refuses, by name.
func TestRefused(t *testing.T) {
	js, err := os.ReadFile("testdata/arch.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ old, new, want string }{
		"unknown primitive": {`"op" : "mark_to_drop"`, `"op" : "beam_up"`, `primitive 0 "beam_up": not supported`},
		"resubmit":          {`"op" : "mark_to_drop"`, `"op" : "resubmit"`, `primitive 0 "resubmit": want a number, have a header`},
		"clone":             {`"op" : "truncate"`, `"op" : "clone_ingress_pkt_to_egress"`, `"clone_ingress_pkt_to_egress": 1 arguments, want 2`},
		"no egress":         {`"name" : "egress"`, `"name" : "other"`, `no pipeline "egress"`},
		"no parser":         {`"name" : "parser"`, `"name" : "other"`, `no parser "parser"`},
		"no metadata":       {`"egress_port"`, `"outgoing_port"`, `no field standard_metadata.egress_port`},
		"mark_to_drop(hdr)": {`"value" : "standard_metadata"`, `"value" : "ask"`, `the argument is not standard_metadata`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := bmv2.Load([]byte(strings.ReplaceAll(string(js), tc.old, tc.new)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err = v1model.New(p, v1model.Options{}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// objects loads the P4Runtime server's test program, with a group and a session.
func objects(f *testing.F) *v1model.Switch {
	js, err := os.ReadFile("../softswitch/testdata/objects.json")
	if err != nil {
		f.Fatal(err)
	}
	p, err := bmv2.Load(js)
	if err != nil {
		f.Fatal(err)
	}
	s, err := v1model.New(p, v1model.Options{Seed: 1, Digest: func(d *v1model.Digest) { d.Values() }})
	if err != nil {
		f.Fatal(err)
	}
	replicas := []v1model.Replica{{Port: 2, RID: 1}, {Port: 3}}
	if err := s.InsertGroup(&v1model.Group{ID: 7, Replicas: replicas}); err != nil {
		f.Fatal(err)
	}
	if err := s.InsertCloneSession(&v1model.CloneSession{ID: 1, Replicas: replicas, Length: 5}); err != nil {
		f.Fatal(err)
	}
	return s
}

// FuzzProcess sends packets through the programs of this tree.
func FuzzProcess(f *testing.F) {
	f.Add(uint16(1), request(20))
	f.Add(uint16(2), reply(20))
	f.Add(uint16(5), ask(multicast, 1, 1, "payload"))
	f.Add(uint16(510), append([]byte{0, 0x80}, request(1)...))
	programs := []*v1model.Switch{arch(f)}
	if _, err := os.Stat("../build/understudy.json"); err == nil {
		programs = append(programs, oneService(f))
	}
	for kind := range byte(12) {
		f.Add(uint16(3), []byte{kind, 1, 0, 7, 0, 0, 0, 1, 0, 0})
	}
	programs = append(programs, objects(f))
	f.Fuzz(func(t *testing.T, port uint16, frame []byte) {
		emit := func(port uint16, data []byte) {
			if port > v1model.MaxPort || len(data) > len(frame)+256 {
				t.Errorf("port %d, %d bytes", port, len(data))
			}
		}
		for _, s := range programs {
			s.Process(port%512, frame, emit)
			s.Trace(port%512, frame, emit)
		}
	})
}
