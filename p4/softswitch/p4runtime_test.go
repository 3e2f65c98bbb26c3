// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

type (
	match = switchtest.Match
	args  = switchtest.Args
)

func testProgram(t testing.TB) (js, info []byte) {
	t.Helper()
	js, err := os.ReadFile("testdata/kinds.json")
	if err != nil {
		t.Fatal(err)
	}
	info, err = os.ReadFile("testdata/kinds.p4info.txtpb")
	if err != nil {
		t.Fatal(err)
	}
	return js, info
}

func loadConfig(t testing.TB, js, info []byte) *p4v1.ForwardingPipelineConfig {
	t.Helper()
	c, err := softswitch.LoadConfig(js, info)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// query builds a packet of testdata/kinds.p4.
func query(kind byte, narrow uint16, word uint32, wide string) []byte {
	b := make([]byte, 25)
	b[0], b[1], b[2] = kind, byte(narrow>>4), byte(narrow<<4)
	b[3], b[4], b[5], b[6] = byte(word>>24), byte(word>>16), byte(word>>8), byte(word)
	copy(b[7:], wide)
	return b
}

// answer describes what came out: "port result", or "dropped".
func answer(out []switchtest.Frame) string {
	var s []string
	for _, f := range out {
		s = append(s, fmt.Sprintf("%d %#x", f.Port, f.Data[23:25]))
	}
	if s == nil {
		return "dropped"
	}
	return strings.Join(s, ", ")
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// updateErrors returns the codes of a batch (section 12.3).
func updateErrors(t *testing.T, err error) []codes.Code {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != codes.Unknown {
		t.Fatalf("%v, want UNKNOWN", err)
	}
	var out []codes.Code
	for _, d := range st.Details() {
		e, ok := d.(*p4v1.Error)
		if !ok {
			t.Fatalf("a detail of type %T", d)
		}
		out = append(out, codes.Code(e.GetCanonicalCode()))
	}
	return out
}

func TestMatchKinds(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	add := func(table string, m match, prio int, port, result int) {
		t.Helper()
		h.Write(p4v1.Update_INSERT, switchtest.TableEntity(h.Entry(table, m, prio, "answer", args{"port": port, "result": result})))
	}
	add("exact_table", match{"hdr.query.narrow": 0xabc, "hdr.query.word": 7}, 0, 2, 0x11)

	wide := func(s string) switchtest.LPM {
		return switchtest.LPM{Value: []byte(s + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")[:16], Len: 8 * len(s)}
	}
	add("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": wide("ab")}, 0, 2, 0x21)
	add("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": wide("abcd")}, 0, 3, 0x22)
	add("lpm_table", match{"hdr.query.narrow": 1}, 0, 4, 0x23)
	add("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": switchtest.LPM{Value: []byte("abcdefghijklmnop"), Len: 128}}, 0, 5, 0x24)

	add("ternary_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 0x100, Mask: 0xf00}}, 10, 2, 0x31)
	add("ternary_table", match{"hdr.query.wide": switchtest.Ternary{Value: []byte("a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), Mask: []byte("\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}}, 20, 3, 0x32)

	add("range_table", match{"hdr.query.narrow": switchtest.Range{Low: 100, High: 200}, "hdr.query.word": 1}, 5, 2, 0x41)
	add("range_table", match{"hdr.query.narrow": switchtest.Range{Low: 150, High: 160}, "hdr.query.word": 1}, 6, 3, 0x42)
	add("range_table", match{"hdr.query.word": 2}, 6, 4, 0x43)

	add("optional_table", match{"hdr.query.narrow": 5}, 1, 2, 0x51)
	add("optional_table", match{"hdr.query.narrow": 5, "hdr.query.word": 6}, 2, 3, 0x52)

	for _, tc := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"exact hit", query(1, 0xabc, 7, ""), "2 0x0011"},
		{"exact miss", query(1, 0xabc, 8, ""), "dropped"},
		{"lpm 16 bits", query(2, 1, 0, "abxx"), "2 0x0021"},
		{"lpm 32 bits", query(2, 1, 0, "abcd"), "3 0x0022"},
		{"lpm 128 bits", query(2, 1, 0, "abcdefghijklmnop"), "5 0x0024"},
		{"lpm 0 bits", query(2, 1, 0, "zz"), "4 0x0023"},
		{"lpm miss in the exact part", query(2, 2, 0, "abcd"), "dropped"},
		{"ternary", query(3, 0x1ff, 0, ""), "2 0x0031"},
		{"ternary, higher priority wins", query(3, 0x1ff, 0, "a"), "3 0x0032"},
		{"ternary, default action does nothing: port 0", query(3, 0x2ff, 0, ""), "dropped"},
		{"range low end", query(4, 100, 1, ""), "2 0x0041"},
		{"range high end", query(4, 200, 1, ""), "2 0x0041"},
		{"range, higher priority wins", query(4, 155, 1, ""), "3 0x0042"},
		{"range left out", query(4, 4095, 2, ""), "4 0x0043"},
		{"range miss, default action", query(4, 201, 1, ""), "3 0xdead"},
		{"optional left out", query(5, 5, 7, ""), "2 0x0051"},
		{"optional given", query(5, 5, 6, ""), "3 0x0052"},
		{"optional miss", query(5, 6, 6, ""), "dropped"},
		{"const, first of two", query(6, 1, 7, ""), "2 0x0001"},
		{"const, second", query(6, 0x123, 7, ""), "3 0x0002"},
		{"const, third", query(6, 0x223, 7, ""), "4 0x0003"},
		{"keyless", query(7, 0, 0, ""), "dropped"},
	} {
		t.Run(tc.name, func(t *testing.T) { expect(t, tc.name, answer(h.Send(1, tc.frame)), tc.want) })
	}
}

// Section 9.1 and its subsections, and section 8.3 on bytestrings.
func TestWriteErrors(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	exact := func(edit func(*p4v1.TableEntry)) *p4v1.Entity {
		e := h.Entry("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 2}, 0, "answer", args{"port": 1, "result": 2})
		edit(e)
		return switchtest.TableEntity(e)
	}
	entity := func(table string, m match, prio int, action string, a args, edit func(*p4v1.TableEntry)) *p4v1.Entity {
		e := h.Entry(table, m, prio, action, a)
		if edit != nil {
			edit(e)
		}
		return switchtest.TableEntity(e)
	}
	value := func(b string) func(*p4v1.TableEntry) {
		return func(e *p4v1.TableEntry) { e.Match[0].GetExact().Value = []byte(b) }
	}
	ins, mod, del := p4v1.Update_INSERT, p4v1.Update_MODIFY, p4v1.Update_DELETE
	counter := h.Info.GetCounters()[0].GetPreamble().GetId()
	counterEntry := func(id uint32, index int64) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{
			CounterId: id, Index: &p4v1.Index{Index: index}, Data: &p4v1.CounterData{}}}}
	}
	group := func(edit func(*p4v1.MulticastGroupEntry)) *p4v1.Entity {
		e := switchtest.Group(5, [2]uint32{1, 1}, [2]uint32{2, 2})
		edit(e.GetPacketReplicationEngineEntry().GetMulticastGroupEntry())
		return e
	}
	direct := func(e *p4v1.TableEntry) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: &p4v1.DirectCounterEntry{TableEntry: e, Data: &p4v1.CounterData{}}}}
	}
	keyed := h.Entry("exact_table", match{"hdr.query.narrow": 9, "hdr.query.word": 9}, 0, "", nil)
	for _, tc := range []struct {
		name   string
		typ    p4v1.Update_Type
		entity *p4v1.Entity
		want   codes.Code
	}{
		{"no type", p4v1.Update_UNSPECIFIED, exact(func(*p4v1.TableEntry) {}), codes.InvalidArgument},
		{"no entity", ins, &p4v1.Entity{}, codes.InvalidArgument},
		{"table id 0", ins, exact(func(e *p4v1.TableEntry) { e.TableId = 0 }), codes.InvalidArgument},
		{"unknown table", ins, exact(func(e *p4v1.TableEntry) { e.TableId = 0x02ffffff }), codes.NotFound},
		{"modify what is not there", mod, exact(func(*p4v1.TableEntry) {}), codes.NotFound},
		{"delete what is not there", del, exact(func(*p4v1.TableEntry) {}), codes.NotFound},
		{"is_const", ins, exact(func(e *p4v1.TableEntry) { e.IsConst = true }), codes.InvalidArgument},
		{"idle timeout", ins, exact(func(e *p4v1.TableEntry) { e.IdleTimeoutNs = 1 }), codes.InvalidArgument},
		{"meter", ins, exact(func(e *p4v1.TableEntry) { e.MeterConfig = &p4v1.MeterConfig{} }), codes.InvalidArgument},

		{"9.1.1 field missing", ins, exact(func(e *p4v1.TableEntry) { e.Match = e.Match[:1] }), codes.InvalidArgument},
		{"9.1.1 field twice", ins, exact(func(e *p4v1.TableEntry) { e.Match = append(e.Match, e.Match[0]) }), codes.InvalidArgument},
		{"9.1.1 unknown field", ins, exact(func(e *p4v1.TableEntry) { e.Match[0].FieldId = 9 }), codes.InvalidArgument},
		{"9.1.1 wrong kind", ins, exact(func(e *p4v1.TableEntry) {
			e.Match[0].FieldMatchType = &p4v1.FieldMatch_Lpm{Lpm: &p4v1.FieldMatch_LPM{Value: []byte{1}, PrefixLen: 1}}
		}), codes.InvalidArgument},
		{"9.1.1 no kind", ins, exact(func(e *p4v1.TableEntry) { e.Match[0].FieldMatchType = nil }), codes.InvalidArgument},
		{"9.1 priority where there is none", ins, exact(func(e *p4v1.TableEntry) { e.Priority = 1 }), codes.InvalidArgument},
		{"9.1 no priority where there is one", ins, entity("optional_table", match{"hdr.query.narrow": 1}, 0, "drop", nil, nil), codes.InvalidArgument},
		{"9.1 negative priority", ins, entity("optional_table", match{"hdr.query.narrow": 1}, -1, "drop", nil, nil), codes.InvalidArgument},
		{"9.1.1 lpm without a prefix", ins, entity("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": switchtest.LPM{Value: 0, Len: 1}}, 0, "drop", nil,
			func(e *p4v1.TableEntry) { e.Match[1].GetLpm().PrefixLen = 0 }), codes.InvalidArgument},
		{"9.1.1 lpm prefix too long", ins, entity("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": switchtest.LPM{Value: 0, Len: 129}}, 0, "drop", nil, nil), codes.InvalidArgument},
		{"9.1.1 lpm bits behind the prefix", ins, entity("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": switchtest.LPM{Value: 1, Len: 127}}, 0, "drop", nil, nil), codes.InvalidArgument},
		{"9.1.1 ternary bits outside the mask", ins, entity("ternary_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 3, Mask: 2}}, 1, "drop", nil, nil), codes.InvalidArgument},
		{"9.1.1 ternary do not care", ins, entity("ternary_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 0, Mask: 0}}, 1, "drop", nil, nil), codes.InvalidArgument},
		{"9.1.1 range upside down", ins, entity("range_table", match{"hdr.query.word": 1, "hdr.query.narrow": switchtest.Range{Low: 2, High: 1}}, 1, "drop", nil, nil), codes.InvalidArgument},
		{"9.1.1 range of everything", ins, entity("range_table", match{"hdr.query.word": 1, "hdr.query.narrow": switchtest.Range{Low: 0, High: 4095}}, 1, "drop", nil, nil), codes.InvalidArgument},

		{"8.3 empty", ins, exact(value("")), codes.OutOfRange},
		{"8.3 13 bits in 12", ins, exact(value("\x10\x00")), codes.OutOfRange},
		{"8.3 three bytes in 12 bits", ins, exact(value("\x01\x00\x63")), codes.OutOfRange},
		{"8.3 mask too wide", ins, entity("ternary_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 0, Mask: 0x1000}}, 1, "drop", nil, nil), codes.OutOfRange},
		{"8.3 parameter too wide", ins, exact(func(e *p4v1.TableEntry) { e.Action.GetAction().Params[0].Value = []byte{2, 0} }), codes.OutOfRange},

		{"9.1.2 no action", ins, exact(func(e *p4v1.TableEntry) { e.Action = nil }), codes.InvalidArgument},
		{"9.1.2 member of a profile", ins, exact(func(e *p4v1.TableEntry) {
			e.Action = &p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileMemberId{ActionProfileMemberId: 1}}
		}), codes.InvalidArgument},
		{"9.1.2 action of another table", ins, exact(func(e *p4v1.TableEntry) { e.Action.GetAction().ActionId = 0x01ffffff }), codes.InvalidArgument},
		{"9.1.2 parameter missing", ins, exact(func(e *p4v1.TableEntry) { e.Action.GetAction().Params = e.Action.GetAction().Params[:1] }), codes.InvalidArgument},
		{"9.1.2 parameter twice", ins, exact(func(e *p4v1.TableEntry) { e.Action.GetAction().Params[1].ParamId = 1 }), codes.InvalidArgument},
		{"9.1.2 parameter unknown", ins, exact(func(e *p4v1.TableEntry) { e.Action.GetAction().Params[1].ParamId = 7 }), codes.InvalidArgument},
		{"9.1.2 scope default only", ins, entity("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 2}, 0, "NoAction", nil, nil), codes.PermissionDenied},
		{"9.1.2 scope table only", mod, entity("ternary_table", nil, 0, "drop", nil, func(e *p4v1.TableEntry) { e.IsDefaultAction = true }), codes.PermissionDenied},

		{"9.1.3 insert a default entry", ins, entity("ternary_table", nil, 0, "NoAction", nil, func(e *p4v1.TableEntry) { e.IsDefaultAction = true }), codes.InvalidArgument},
		{"9.1.3 delete a default entry", del, entity("ternary_table", nil, 0, "NoAction", nil, func(e *p4v1.TableEntry) { e.IsDefaultAction = true }), codes.InvalidArgument},
		{"9.1.3 default entry with a match", mod, exact(func(e *p4v1.TableEntry) { e.IsDefaultAction = true }), codes.InvalidArgument},
		{"9.1.3 const default", mod, exact(func(e *p4v1.TableEntry) { e.IsDefaultAction, e.Match = true, nil }), codes.PermissionDenied},

		{"9.1.4 insert into a const table", ins, entity("const_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 9, Mask: 0xfff}}, 9, "drop", nil, nil), codes.PermissionDenied},
		{"9.1.4 delete from a const table", del, entity("const_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 1, Mask: 0xfff}}, 3, "", nil, nil), codes.PermissionDenied},
		{"9.1.4 modify in a const table", mod, entity("const_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 1, Mask: 0xfff}}, 3, "drop", nil, nil), codes.PermissionDenied},
		{"keyless table", ins, entity("keyless_table", nil, 0, "drop", nil, nil), codes.InvalidArgument},

		{"9.3.1 insert a direct counter", ins, direct(keyed), codes.InvalidArgument},
		{"9.3.1 direct counter of no entry", mod, direct(keyed), codes.NotFound},
		{"9.3.1 direct counter of a table without", mod, direct(h.Entry("lpm_table", match{"hdr.query.narrow": 1}, 0, "", nil)), codes.InvalidArgument},
		{"9.3.2 insert a counter", ins, counterEntry(counter, 0), codes.InvalidArgument},
		{"9.3.2 unknown counter", mod, counterEntry(0x12ffffff, 0), codes.NotFound},
		{"9.3.2 negative index", mod, counterEntry(counter, -1), codes.InvalidArgument},
		{"9.3.2 index too high", mod, counterEntry(counter, 8), codes.OutOfRange},

		{"9.5.1 group 0", ins, group(func(g *p4v1.MulticastGroupEntry) { g.MulticastGroupId = 0 }), codes.InvalidArgument},
		{"9.5.1 group too high", ins, group(func(g *p4v1.MulticastGroupEntry) { g.MulticastGroupId = 1 << 16 }), codes.InvalidArgument},
		{"9.5.1 replica twice", ins, group(func(g *p4v1.MulticastGroupEntry) { g.Replicas[1] = g.Replicas[0] }), codes.InvalidArgument},
		{"9.5.1 instance too high", ins, group(func(g *p4v1.MulticastGroupEntry) { g.Replicas[0].Instance = 1 << 16 }), codes.InvalidArgument},
		{"9.5.1 no port", ins, group(func(g *p4v1.MulticastGroupEntry) { g.Replicas[0].PortKind = nil }), codes.InvalidArgument},
		{"9.5.1 port too high", ins, group(func(g *p4v1.MulticastGroupEntry) { g.Replicas[0].PortKind = &p4v1.Replica_EgressPort{EgressPort: 512} }), codes.InvalidArgument},
		{"9.5.1 modify what is not there", mod, group(func(*p4v1.MulticastGroupEntry) {}), codes.NotFound},
		{"9.5.1 delete what is not there", del, group(func(*p4v1.MulticastGroupEntry) {}), codes.NotFound},
		{"9.9 extern", ins, &p4v1.Entity{Entity: &p4v1.Entity_ExternEntry{ExternEntry: &p4v1.ExternEntry{ExternTypeId: 1}}}, codes.Unimplemented},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := h.TryWrite(tc.typ, tc.entity)
			if diff := cmp.Diff([]codes.Code{tc.want}, updateErrors(t, err)); diff != "" {
				t.Errorf("-want +got:\n%s%v", diff, err)
			}
		})
	}
}

// Section 12: a batch goes on after an error and reports all of them in order.
func TestBatch(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	e := func(word int) *p4v1.Entity {
		return switchtest.TableEntity(h.Entry("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": word}, 0, "answer", args{"port": 2, "result": word}))
	}
	bad := e(0)
	bad.GetTableEntry().TableId = 99
	err := h.TryWrite(p4v1.Update_INSERT, e(1), e(1), bad, e(2), e(3), e(4), e(5))
	want := []codes.Code{codes.OK, codes.AlreadyExists, codes.NotFound, codes.OK, codes.OK, codes.OK, codes.ResourceExhausted}
	if diff := cmp.Diff(want, updateErrors(t, err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	expect(t, "after the batch", answer(h.Send(1, query(1, 1, 4, ""))), "2 0x0004")
	expect(t, "after the batch", answer(h.Send(1, query(1, 1, 5, ""))), "dropped")

	for _, a := range []p4v1.WriteRequest_Atomicity{p4v1.WriteRequest_DATAPLANE_ATOMIC, 9} {
		_, err := h.Client.Write(context.Background(), &p4v1.WriteRequest{DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(), Atomicity: a})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%v: %v, want UNIMPLEMENTED", a, err)
		}
	}
	h.Delete("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 4})
	h.Write(p4v1.Update_INSERT, e(5))
	expect(t, "after a deletion made room", answer(h.Send(1, query(1, 1, 5, ""))), "2 0x0005")
}

// Section 8.2: what is read is what was written, in canonical form (section 8.3).
func TestReadWriteSymmetry(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	written := []*p4v1.Entity{
		switchtest.TableEntity(h.Entry("exact_table", match{"hdr.query.narrow": 0, "hdr.query.word": 0x00ff0000}, 0, "answer_wide", args{"value": 1})),
		switchtest.TableEntity(h.Entry("exact_table", match{"hdr.query.narrow": 0xfff, "hdr.query.word": 1}, 0, "drop", nil)),
		switchtest.TableEntity(h.Entry("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": switchtest.LPM{Value: []byte("abcdefghijklmnop"), Len: 128}}, 0, "answer", args{"port": 511, "result": 0})),
		switchtest.TableEntity(h.Entry("lpm_table", match{"hdr.query.narrow": 1}, 0, "drop", nil)),
		switchtest.TableEntity(h.Entry("ternary_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 0, Mask: 1}}, 7, "drop", nil)),
		switchtest.TableEntity(h.Entry("ternary_table", nil, 1, "drop", nil)),
		switchtest.TableEntity(h.Entry("range_table", match{"hdr.query.narrow": switchtest.Range{Low: 0, High: 4094}, "hdr.query.word": 1}, 1, "drop", nil)),
		switchtest.TableEntity(h.Entry("optional_table", match{"hdr.query.word": 0}, 1, "drop", nil)),
		switchtest.Group(7, [2]uint32{1, 0}, [2]uint32{511, 65535}),
	}
	written[0].GetTableEntry().Metadata = []byte("mine")
	written[0].GetTableEntry().ControllerMetadata = 99
	written[0].GetTableEntry().CounterData = &p4v1.CounterData{PacketCount: 3, ByteCount: 4}
	written[8].GetPacketReplicationEngineEntry().GetMulticastGroupEntry().Metadata = []byte("group")
	h.Write(p4v1.Update_INSERT, written...)

	// Not canonical, but the same key: exists.
	padded := proto.CloneOf(written[1])
	padded.GetTableEntry().Match[0].GetExact().Value = []byte{0, 0, 0x0f, 0xff}
	if diff := cmp.Diff([]codes.Code{codes.AlreadyExists}, updateErrors(t, h.TryWrite(p4v1.Update_INSERT, padded))); diff != "" {
		t.Errorf("with leading zeros, -want +got:\n%s", diff)
	}

	tables := &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: &p4v1.TableEntry{CounterData: &p4v1.CounterData{}}}}
	groups := switchtest.Group(0)
	got, err := h.Read(tables, groups)
	check(t, err)
	want := make([]*p4v1.Entity, 0, len(written))
	for _, e := range written {
		e = proto.CloneOf(e)
		if te := e.GetTableEntry(); te != nil && te.TableId == h.TableID("exact_table") && te.CounterData == nil {
			te.CounterData = &p4v1.CounterData{}
		}
		want = append(want, e)
	}
	var dynamic []*p4v1.Entity
	consts := 0
	for _, e := range got {
		if e.GetTableEntry().GetIsConst() {
			consts++
			continue
		}
		dynamic = append(dynamic, e)
	}
	if diff := cmp.Diff(want, dynamic, protocmp.Transform()); diff != "" {
		t.Errorf("-written +read:\n%s", diff)
	}
	if consts != 3 {
		t.Errorf("%d constant entries, want 3", consts)
	}
	// Section 9.1.4: priorities count down from the number of entries.
	entries, err := h.Read(switchtest.TableEntity(&p4v1.TableEntry{TableId: h.TableID("const_table")}))
	check(t, err)
	var prios []int32
	for _, e := range entries {
		prios = append(prios, e.GetTableEntry().GetPriority())
	}
	if diff := cmp.Diff([]int32{3, 2, 1}, prios); diff != "" {
		t.Errorf("priorities of the constant entries, -want +got:\n%s", diff)
	}
}

// Section 9.1.6: filters of a read.
func TestReadFilters(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	for i := 1; i <= 3; i++ {
		e := h.Entry("optional_table", match{"hdr.query.narrow": i}, i, []string{"", "drop", "answer", "answer"}[i], nil)
		e.Metadata = []byte{byte('a' + i)}
		e.ControllerMetadata = uint64(i)
		h.Write(p4v1.Update_INSERT, switchtest.TableEntity(e))
	}
	id := h.TableID("optional_table")
	for _, tc := range []struct {
		name string
		q    *p4v1.TableEntry
		want []int32 // priorities
	}{
		{"all", &p4v1.TableEntry{TableId: id}, []int32{1, 2, 3}},
		{"priority", &p4v1.TableEntry{TableId: id, Priority: 2}, []int32{2}},
		{"metadata", &p4v1.TableEntry{TableId: id, Metadata: []byte("d")}, []int32{3}},
		{"controller metadata", &p4v1.TableEntry{TableId: id, ControllerMetadata: 1}, []int32{1}},
		{"action", &p4v1.TableEntry{TableId: id, Action: &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: h.Action("optional_table", "answer", nil)}}}, []int32{2, 3}},
		{"key", h.Entry("optional_table", match{"hdr.query.narrow": 3}, 3, "", nil), []int32{3}},
		{"key that is not there", h.Entry("optional_table", match{"hdr.query.narrow": 4}, 3, "", nil), nil},
		{"default entry", &p4v1.TableEntry{TableId: id, IsDefaultAction: true}, []int32{0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := h.Read(switchtest.TableEntity(tc.q))
			check(t, err)
			var prios []int32
			for _, e := range got {
				prios = append(prios, e.GetTableEntry().GetPriority())
			}
			if diff := cmp.Diff(tc.want, prios); diff != "" {
				t.Errorf("priorities, -want +got:\n%s", diff)
			}
		})
	}
	// Section 13.3: what can be read is, and errors are reported in order.
	got, err := h.Read(&p4v1.Entity{}, switchtest.TableEntity(&p4v1.TableEntry{TableId: id, Priority: 2}), switchtest.TableEntity(&p4v1.TableEntry{TableId: 99}))
	if len(got) != 1 {
		t.Errorf("%d entities, want 1", len(got))
	}
	if diff := cmp.Diff([]codes.Code{codes.InvalidArgument, codes.OK, codes.NotFound}, updateErrors(t, err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestReadTooMuch asks for more than the switch is willing to collect.
func TestReadTooMuch(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	all := &p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{}}}
	got, err := h.Read(all)
	check(t, err)
	if len(got) == 0 {
		t.Fatal("the program has no counters")
	}
	h.Switch.SetMaxRead(2 * len(got))
	again, err := h.Read(all, all)
	check(t, err)
	if len(again) != 2*len(got) {
		t.Errorf("%d entities, want %d", len(again), 2*len(got))
	}
	if _, err = h.Read(all, all, all); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
}

// Section 9.1.3.
func TestDefaultAction(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	frame := query(4, 1, 1, "")
	expect(t, "as compiled", answer(h.Send(1, frame)), "3 0xdead")
	e := h.Entry("range_table", nil, 0, "answer", args{"port": 4, "result": 9})
	e.IsDefaultAction = true
	e.Metadata = []byte("default")
	h.Write(p4v1.Update_MODIFY, switchtest.TableEntity(e))
	expect(t, "modified", answer(h.Send(1, frame)), "4 0x0009")
	got, err := h.Read(switchtest.TableEntity(&p4v1.TableEntry{TableId: e.TableId, IsDefaultAction: true}))
	check(t, err)
	if diff := cmp.Diff([]*p4v1.Entity{switchtest.TableEntity(e)}, got, protocmp.Transform()); diff != "" {
		t.Errorf("-written +read:\n%s", diff)
	}
	h.Write(p4v1.Update_MODIFY, switchtest.TableEntity(&p4v1.TableEntry{TableId: e.TableId, IsDefaultAction: true}))
	expect(t, "reset", answer(h.Send(1, frame)), "3 0xdead")
}

// Sections 9.1.7 and 9.3.
func TestCounters(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	m := match{"hdr.query.narrow": 1, "hdr.query.word": 2}
	h.Insert("exact_table", m, "answer", args{"port": 1, "result": 1})
	frame := query(1, 1, 2, "")
	h.Send(1, frame)
	h.Send(1, frame)
	h.Modify("exact_table", m, "answer", args{"port": 1, "result": 2}) // leaves the count
	h.Send(1, frame)
	read := func(q *p4v1.Entity) []*p4v1.Entity {
		t.Helper()
		got, err := h.Read(q)
		check(t, err)
		return got
	}
	direct := func(e *p4v1.TableEntry) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: &p4v1.DirectCounterEntry{TableEntry: e}}}
	}
	key := h.Entry("exact_table", m, 0, "", nil)
	want := &p4v1.CounterData{PacketCount: 3, ByteCount: int64(3 * len(frame))}
	for _, tc := range []struct {
		name string
		q    *p4v1.Entity
	}{
		{"by key", direct(key)},
		{"of the table", direct(&p4v1.TableEntry{TableId: key.TableId})},
		{"of all tables", direct(&p4v1.TableEntry{})},
	} {
		got := read(tc.q)
		if len(got) != 1 || !proto.Equal(got[0].GetDirectCounterEntry().GetData(), want) || !proto.Equal(got[0].GetDirectCounterEntry().GetTableEntry(), key) {
			t.Errorf("direct counter %s: %v, want %v", tc.name, got, want)
		}
	}
	set := direct(key)
	set.GetDirectCounterEntry().Data = &p4v1.CounterData{PacketCount: 100}
	h.Write(p4v1.Update_MODIFY, set)
	h.Send(1, frame)
	if got := read(direct(key))[0].GetDirectCounterEntry().GetData(); got.GetPacketCount() != 101 || got.GetByteCount() != int64(len(frame)) {
		t.Errorf("after setting it: %v", got)
	}
	if p, b := h.Counter("indirect_counter", 1); p != 4 || b != int64(4*len(frame)) {
		t.Errorf("indirect counter: %d packets, %d bytes", p, b)
	}
	id := h.Info.GetCounters()[0].GetPreamble().GetId()
	if got := read(&p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{}}}); len(got) != 8 {
		t.Errorf("%d counts of all counters, want 8", len(got))
	}
	h.Write(p4v1.Update_MODIFY, &p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{CounterId: id, Data: &p4v1.CounterData{PacketCount: 5}}}})
	if p, _ := h.Counter("indirect_counter", 7); p != 5 {
		t.Errorf("after setting all: %d", p)
	}
	h.Send(1, query(200, 0, 0, "")) // index out of range: not counted, no harm
}

// Section 9.5.1.
func TestMulticast(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "copies", args{"group": 9})
	frame := query(1, 1, 1, "")
	expect(t, "no such group", answer(h.Send(1, frame)), "dropped")
	h.InsertGroup(9, [2]uint32{2, 11}, [2]uint32{3, 12}, [2]uint32{2, 13})
	expect(t, "group", answer(h.Send(1, frame)), "2 0x000b, 3 0x000c, 2 0x000d")
	// The number of the port as it was spelled before 1.4.0.
	old := &p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{PacketReplicationEngineEntry: &p4v1.PacketReplicationEngineEntry{
		Type: &p4v1.PacketReplicationEngineEntry_MulticastGroupEntry{MulticastGroupEntry: &p4v1.MulticastGroupEntry{MulticastGroupId: 9,
			Replicas: []*p4v1.Replica{{PortKind: &p4v1.Replica_EgressPort{EgressPort: 5}, Instance: 1}}}}}}}
	h.Write(p4v1.Update_MODIFY, old)
	expect(t, "modified", answer(h.Send(1, frame)), "5 0x0001")
	// Ports are read in the shortest form (section 8.3), whatever was written.
	padded := switchtest.Group(9, [2]uint32{6, 1})
	replica := padded.GetPacketReplicationEngineEntry().GetMulticastGroupEntry().GetReplicas()[0]
	replica.PortKind = &p4v1.Replica_Port{Port: []byte{0, 0, 6}}
	h.Write(p4v1.Update_MODIFY, padded)
	expect(t, "padded", answer(h.Send(1, frame)), "6 0x0001")
	replica.PortKind = &p4v1.Replica_Port{Port: []byte{6}}
	got, err := h.Read(switchtest.Group(9))
	check(t, err)
	if diff := cmp.Diff([]*p4v1.Entity{padded}, got, protocmp.Transform()); diff != "" {
		t.Errorf("read, -want +got:\n%s", diff)
	}
	h.Write(p4v1.Update_DELETE, switchtest.Group(9))
	expect(t, "deleted", answer(h.Send(1, frame)), "dropped")
}

// Section 16.1.
func TestPacketIO(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "punt", args{"reason": 0x1234})
	frame := query(1, 1, 1, "payload")
	if out := h.Send(5, frame); len(out) != 0 {
		t.Errorf("a punted packet also left: %v", out)
	}
	payload, meta := h.PacketIn()
	if !bytes.Equal(payload, frame) {
		t.Errorf("PacketIn payload %x, want %x", payload, frame)
	}
	if diff := cmp.Diff(map[string]uint64{"ingress_port": 5, "reason": 0x1234, "pad": 0}, meta); diff != "" {
		t.Errorf("PacketIn metadata, -want +got:\n%s", diff)
	}
	out := h.PacketOut(frame, args{"egress_port": 6})
	if out.Port != 6 || !bytes.Equal(out.Data, frame) {
		t.Errorf("PacketOut left at port %d: %x", out.Port, out.Data)
	}
	for name, md := range map[string][]*p4v1.PacketMetadata{
		"missing":   {{MetadataId: 7, Value: []byte{1}}},
		"unknown":   {{MetadataId: 7, Value: []byte{1}}, {MetadataId: 9, Value: []byte{1}}},
		"too wide":  {{MetadataId: 7, Value: []byte{2, 0}}, {MetadataId: 8, Value: []byte{0}}},
		"no value":  {{MetadataId: 7}, {MetadataId: 8, Value: []byte{0}}},
		"duplicate": {{MetadataId: 7, Value: []byte{1}}, {MetadataId: 7, Value: []byte{1}}, {MetadataId: 8, Value: []byte{0}}},
	} {
		po := &p4v1.PacketOut{Payload: frame, Metadata: md}
		h.SendStream(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Packet{Packet: po}})
		e := h.Stream().GetError()
		if c := codes.Code(e.GetCanonicalCode()); c != codes.InvalidArgument && c != codes.OutOfRange {
			t.Errorf("%s: %v", name, e)
		}
		if !proto.Equal(e.GetPacketOut().GetPacketOut(), po) {
			t.Errorf("%s: the error does not carry the packet: %v", name, e)
		}
	}
}

// A packet that no port could send is refused, and not sent back as a whole.
func TestPacketOutTooLong(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	md := []*p4v1.PacketMetadata{{MetadataId: 7, Value: []byte{1}}, {MetadataId: 8, Value: []byte{0}}}
	po := &p4v1.PacketOut{Payload: make([]byte, softswitch.MaxFrame+1), Metadata: md}
	h.SendStream(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Packet{Packet: po}})
	e := h.Stream().GetError()
	if c := codes.Code(e.GetCanonicalCode()); c != codes.InvalidArgument || !strings.Contains(e.GetMessage(), "at most 65599") {
		t.Errorf("%v", e)
	}
	if diff := cmp.Diff(md, e.GetPacketOut().GetPacketOut().GetMetadata(), protocmp.Transform()); diff != "" {
		t.Errorf("metadata, -want +got:\n%s", diff)
	}
	if n := len(e.GetPacketOut().GetPacketOut().GetPayload()); n != 0 {
		t.Errorf("%d bytes came back", n)
	}
}

// Section 14 and 15.
func TestPipelineConfig(t *testing.T) {
	js, info := testProgram(t)
	config := loadConfig(t, js, info)
	config.Cookie = &p4v1.ForwardingPipelineConfig_Cookie{Cookie: 42}
	h := switchtest.Start(t, softswitch.Config{})
	h.Info = config.GetP4Info()
	ctx := context.Background()
	set := func(a p4v1.SetForwardingPipelineConfigRequest_Action, c *p4v1.ForwardingPipelineConfig) codes.Code {
		t.Helper()
		_, err := h.Client.SetForwardingPipelineConfig(ctx, &p4v1.SetForwardingPipelineConfigRequest{
			DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(), Action: a, Config: c})
		if err != nil {
			t.Logf("%v: %v", a, err)
		}
		return status.Code(err)
	}
	get := func(rt p4v1.GetForwardingPipelineConfigRequest_ResponseType) *p4v1.ForwardingPipelineConfig {
		t.Helper()
		r, err := h.Client.GetForwardingPipelineConfig(ctx, &p4v1.GetForwardingPipelineConfigRequest{DeviceId: switchtest.DeviceID, ResponseType: rt})
		check(t, err)
		return r.GetConfig()
	}
	const (
		verify    = p4v1.SetForwardingPipelineConfigRequest_VERIFY
		save      = p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_SAVE
		commit    = p4v1.SetForwardingPipelineConfigRequest_COMMIT
		both      = p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT
		reconcile = p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT
	)
	wantCode := func(what string, got, want codes.Code) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	if c := get(p4v1.GetForwardingPipelineConfigRequest_ALL); c != nil {
		t.Errorf("a configuration before one was set: %v", c)
	}
	wantCode("Write without a pipeline", status.Code(h.TryWrite(p4v1.Update_INSERT, switchtest.Group(1))), codes.FailedPrecondition)
	_, err := h.Read(switchtest.Group(0))
	wantCode("Read without a pipeline", status.Code(err), codes.FailedPrecondition)
	wantCode("no action", set(p4v1.SetForwardingPipelineConfigRequest_UNSPECIFIED, config), codes.InvalidArgument)
	wantCode("VERIFY nothing", set(verify, nil), codes.InvalidArgument)
	wantCode("COMMIT before SAVE", set(commit, nil), codes.NotFound)
	wantCode("RECONCILE with nothing", set(reconcile, nil), codes.InvalidArgument)
	wantCode("VERIFY", set(verify, config), codes.OK)
	if c := get(p4v1.GetForwardingPipelineConfigRequest_ALL); c != nil {
		t.Errorf("VERIFY has set a configuration")
	}

	// Saved: written to, but not yet forwarding.
	wantCode("VERIFY_AND_SAVE", set(save, config), codes.OK)
	m := match{"hdr.query.narrow": 1, "hdr.query.word": 1}
	h.Insert("exact_table", m, "answer", args{"port": 2, "result": 1})
	expect(t, "saved", answer(h.Send(1, query(1, 1, 1, ""))), "dropped")
	wantCode("COMMIT with a configuration", set(commit, config), codes.InvalidArgument)
	wantCode("COMMIT", set(commit, nil), codes.OK)
	expect(t, "committed", answer(h.Send(1, query(1, 1, 1, ""))), "2 0x0001")
	wantCode("COMMIT again", set(commit, nil), codes.NotFound)

	if diff := cmp.Diff(config, get(p4v1.GetForwardingPipelineConfigRequest_ALL), protocmp.Transform()); diff != "" {
		t.Errorf("ALL, -want +got:\n%s", diff)
	}
	for rt, want := range map[p4v1.GetForwardingPipelineConfigRequest_ResponseType][3]bool{
		p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY:              {true, false, false},
		p4v1.GetForwardingPipelineConfigRequest_P4INFO_AND_COOKIE:        {true, true, false},
		p4v1.GetForwardingPipelineConfigRequest_DEVICE_CONFIG_AND_COOKIE: {true, false, true},
	} {
		c := get(rt)
		if got := [3]bool{c.GetCookie().GetCookie() == 42, c.GetP4Info() != nil, len(c.GetP4DeviceConfig()) > 0}; got != want {
			t.Errorf("%v: cookie, P4Info, device config %v, want %v", rt, got, want)
		}
	}
	same := proto.CloneOf(config)
	same.Cookie.Cookie = 43
	wantCode("RECONCILE with the same", set(reconcile, same), codes.OK)
	expect(t, "reconciled", answer(h.Send(1, query(1, 1, 1, ""))), "2 0x0001")
	if c := get(p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY); c.GetCookie().GetCookie() != 43 {
		t.Errorf("the cookie is %v", c.GetCookie())
	}
	wantCode("VERIFY_AND_COMMIT", set(both, config), codes.OK)
	expect(t, "set anew: state is cleared", answer(h.Send(1, query(1, 1, 1, ""))), "dropped")

	// The device configuration as an old P4DeviceConfig message.
	old := proto.CloneOf(config)
	old.P4DeviceConfig = protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	old.P4DeviceConfig = protowire.AppendBytes(protowire.AppendTag(old.P4DeviceConfig, 3, protowire.BytesType), js)
	wantCode("wrapped", set(verify, old), codes.OK)
}

// A P4Info that does not belong to the program is refused, by name.
func TestConfigMismatch(t *testing.T) {
	js, info := testProgram(t)
	for _, tc := range []struct {
		name string
		edit func(*p4v1.ForwardingPipelineConfig, *p4config.P4Info)
		want string
	}{
		{"no P4Info", func(c *p4v1.ForwardingPipelineConfig, _ *p4config.P4Info) { c.P4Info = nil }, "no P4Info"},
		{"no JSON", func(c *p4v1.ForwardingPipelineConfig, _ *p4config.P4Info) { c.P4DeviceConfig = []byte("hello") }, "not a bmv2 JSON program"},
		{"architecture", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) { i.PkgInfo.Arch = "psa" }, `architecture "psa"`},
		{"unknown table", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) { i.Tables[0].Preamble.Name = "no.such" }, `table "no.such"`},
		{"width", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) { i.Tables[0].MatchFields[0].Bitwidth = 13 }, `match field "hdr.query.narrow": 13 bits, the program has 12`},
		{"kind", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) {
			i.Tables[0].MatchFields[0].Match = &p4config.MatchField_MatchType_{MatchType: p4config.MatchField_LPM}
		}, "match type LPM, the program has exact"},
		{"field missing", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) {
			i.Tables[0].MatchFields = i.Tables[0].MatchFields[:1]
		}, "1 match fields, the program has 2"},
		{"action missing", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) {
			i.Tables[1].ActionRefs = i.Tables[1].ActionRefs[:1]
		}, "1 actions, the program has 2"},
		{"parameter", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) {
			for _, a := range i.Actions {
				if len(a.Params) == 2 {
					a.Params[0].Bitwidth = 10
				}
			}
		}, `parameter "port" of 10 bits`},
		{"counter size", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) { i.Counters[0].Size = 9 }, "size 9, the program has 8"},
		{"direct counter", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) { i.DirectCounters[0].DirectTableId = 1 }, "no table with id 1"},
		{"const default", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) {
			i.Tables[1].ConstDefaultActionId = i.Tables[1].ActionRefs[0].Id
		}, "const default action"},
		{"meter", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) {
			i.Meters = append(i.Meters, &p4config.Meter{Preamble: &p4config.Preamble{Id: 1, Name: "m"}})
		}, `meter "m": the program has no such meter`},
		{"extern", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) {
			i.Externs = append(i.Externs, &p4config.Extern{})
		}, "an extern is not supported"},
		{"header of odd bits", func(_ *p4v1.ForwardingPipelineConfig, i *p4config.P4Info) {
			i.ControllerPacketMetadata[0].Metadata[0].Bitwidth = 8
		}, "no whole number of bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := loadConfig(t, js, info)
			tc.edit(c, c.P4Info)
			h := switchtest.Start(t, softswitch.Config{})
			_, err := h.Client.SetForwardingPipelineConfig(context.Background(), &p4v1.SetForwardingPipelineConfigRequest{
				DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(), Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY, Config: c})
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want INVALID_ARGUMENT with %q", err, tc.want)
			}
		})
	}
}

// Section 17.
func TestCapabilities(t *testing.T) {
	h := switchtest.Start(t, softswitch.Config{})
	r, err := h.Client.Capabilities(context.Background(), &p4v1.CapabilitiesRequest{})
	check(t, err)
	expect(t, "version", r.GetP4RuntimeApiVersion(), "1.5.0")
}
