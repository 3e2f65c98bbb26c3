// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

const (
	insert = p4v1.Update_INSERT
	modify = p4v1.Update_MODIFY
	del    = p4v1.Update_DELETE
)

// Kinds of packets of testdata/objects.p4.
const (
	askNothing  = 0
	askIndirect = 1 + iota - 1
	askGroup
	askSmallGroup
	askMetered
	askInitial
	askPacketMeter
	askByteMeter
	askRegister
	askDigest
	askClone
	askMulticast
)

func objectsProgram(t testing.TB) *p4v1.ForwardingPipelineConfig {
	t.Helper()
	js, err := os.ReadFile("testdata/objects.json")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile("testdata/objects.p4info.txtpb")
	if err != nil {
		t.Fatal(err)
	}
	return loadConfig(t, js, info)
}

// objects is a switch with testdata/objects.p4.
type objects struct {
	*switchtest.Harness
	t testing.TB
}

func startObjects(t testing.TB, edit ...func(*p4config.P4Info)) objects {
	t.Helper()
	c := objectsProgram(t)
	for _, f := range edit {
		f(c.GetP4Info())
	}
	h := switchtest.Start(t, softswitch.Config{})
	h.Info = c.GetP4Info()
	_, err := h.Client.SetForwardingPipelineConfig(context.Background(), &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(),
		Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT, Config: c})
	if err != nil {
		t.Fatal(err)
	}
	return objects{h, t}
}

// id finds an object that is no table by the end of its name.
func (o objects) id(name string) uint32 {
	o.t.Helper()
	var all []*p4config.Preamble
	for _, x := range o.Info.GetActionProfiles() {
		all = append(all, x.GetPreamble())
	}
	for _, x := range o.Info.GetMeters() {
		all = append(all, x.GetPreamble())
	}
	for _, x := range o.Info.GetValueSets() {
		all = append(all, x.GetPreamble())
	}
	for _, x := range o.Info.GetRegisters() {
		all = append(all, x.GetPreamble())
	}
	for _, x := range o.Info.GetDigests() {
		all = append(all, x.GetPreamble())
	}
	for _, p := range all {
		if p.GetName() == name || strings.HasSuffix(p.GetName(), "."+name) {
			return p.GetId()
		}
	}
	o.t.Fatalf("the program has no object %q", name)
	return 0
}

// ask builds a packet of testdata/objects.p4.
func ask(kind, index byte, key uint16, word uint32) []byte {
	b := make([]byte, 10)
	b[0], b[1] = kind, index
	binary.BigEndian.PutUint16(b[2:], key)
	binary.BigEndian.PutUint32(b[4:], word)
	return b
}

// answer sends a packet and describes what comes out: "port result", or "dropped".
func (o objects) answer(frame []byte) string {
	o.t.Helper()
	var s []string
	for _, f := range o.Send(3, frame) {
		s = append(s, fmt.Sprintf("%d %d", f.Port, binary.BigEndian.Uint16(f.Data[8:])))
	}
	if s == nil {
		return "dropped"
	}
	return strings.Join(s, ", ")
}

// code is that of the one update of a Write.
func (o objects) code(typ p4v1.Update_Type, e *p4v1.Entity) codes.Code {
	o.t.Helper()
	err := o.TryWrite(typ, e)
	if err == nil {
		return codes.OK
	}
	o.t.Log(err)
	return updateErrors(o.t.(*testing.T), err)[0]
}

func (o objects) wantCode(what string, typ p4v1.Update_Type, e *p4v1.Entity, want codes.Code) {
	o.t.Helper()
	if got := o.code(typ, e); got != want {
		o.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// wantRead compares what a query finds.
func (o objects) wantRead(what string, q *p4v1.Entity, want ...*p4v1.Entity) {
	o.t.Helper()
	got, err := o.Read(q)
	if err != nil {
		o.t.Errorf("%s: %v", what, err)
		return
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		o.t.Errorf("%s, -want +got:\n%s", what, diff)
	}
}

func (o objects) member(profile string, id uint32, port, result int) *p4v1.Entity {
	o.t.Helper()
	return profileMember(&p4v1.ActionProfileMember{ActionProfileId: o.id(profile), MemberId: id,
		Action: o.Action("indirect", "answer", args{"port": port, "result": result})})
}

func profileMember(m *p4v1.ActionProfileMember) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_ActionProfileMember{ActionProfileMember: m}}
}

func profileGroup(g *p4v1.ActionProfileGroup) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_ActionProfileGroup{ActionProfileGroup: g}}
}

func weighted(id uint32, weight int32, watch ...byte) *p4v1.ActionProfileGroup_Member {
	m := &p4v1.ActionProfileGroup_Member{MemberId: id, Weight: weight}
	if len(watch) > 0 {
		m.WatchKind = &p4v1.ActionProfileGroup_Member_WatchPort{WatchPort: watch}
	}
	return m
}

// to is an entry of an indirect table with the key 7.
func (o objects) to(table string, a *p4v1.TableAction) *p4v1.Entity {
	e := o.Entry(table, match{"hdr.ask.key": 7}, 0, "", nil)
	e.Action = a
	return switchtest.TableEntity(e)
}

func toMember(id uint32) *p4v1.TableAction {
	return &p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileMemberId{ActionProfileMemberId: id}}
}

func toGroup(id uint32) *p4v1.TableAction {
	return &p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileGroupId{ActionProfileGroupId: id}}
}

// Section 9.2.1.
func TestActionProfileMembers(t *testing.T) {
	o := startObjects(t)
	m := func(id uint32, result int) *p4v1.Entity { return o.member("profile", id, 2, result) }
	o.wantCode("entry before its member (9.1.2)", insert, o.to("indirect", toMember(1)), codes.NotFound)
	o.wantCode("member 0", insert, m(0, 0), codes.InvalidArgument)
	o.wantCode("no such profile", insert, profileMember(&p4v1.ActionProfileMember{ActionProfileId: 99, MemberId: 1}), codes.NotFound)
	o.wantCode("no profile", insert, profileMember(&p4v1.ActionProfileMember{MemberId: 1}), codes.InvalidArgument)
	o.wantCode("no action", insert, profileMember(&p4v1.ActionProfileMember{ActionProfileId: o.id("profile"), MemberId: 1}), codes.InvalidArgument)
	o.wantCode("MODIFY what is not there", modify, m(1, 1), codes.NotFound)
	o.wantCode("DELETE what is not there", del, m(1, 1), codes.NotFound)
	o.Write(insert, m(1, 11), m(2, 22), m(3, 33), m(4, 44))
	o.wantCode("INSERT again", insert, m(1, 1), codes.AlreadyExists)
	o.wantCode("more than its size", insert, m(5, 55), codes.ResourceExhausted)

	direct := o.Entry("indirect", match{"hdr.ask.key": 7}, 0, "answer", args{"port": 1})
	o.wantCode("an action in an indirect table", insert, switchtest.TableEntity(direct), codes.InvalidArgument)
	o.wantCode("a group in a table without a selector", insert, o.to("indirect", toGroup(1)), codes.InvalidArgument)
	o.wantCode("a one-shot set in a table without a selector", insert, o.to("indirect", o.set(1)), codes.InvalidArgument)
	entry := o.to("indirect", toMember(1))
	entry.GetTableEntry().Metadata = []byte("mine")
	o.Write(insert, entry)
	expect(t, "member 1", o.answer(ask(askIndirect, 0, 7, 0)), "2 11")
	o.wantRead("entry", switchtest.TableEntity(&p4v1.TableEntry{TableId: o.TableID("indirect")}), entry)
	o.wantCode("DELETE what an entry refers to", del, m(1, 0), codes.FailedPrecondition)
	o.Write(modify, m(1, 12))
	expect(t, "member 1 modified", o.answer(ask(askIndirect, 0, 7, 0)), "2 12")
	o.Write(modify, o.to("indirect", toMember(2)))
	expect(t, "entry modified", o.answer(ask(askIndirect, 0, 7, 0)), "2 22")
	// Every field but the ids is ignored.
	o.Write(del, profileMember(&p4v1.ActionProfileMember{ActionProfileId: o.id("profile"), MemberId: 1, Action: &p4v1.Action{ActionId: 1}}))

	q := func(profile, id uint32) *p4v1.Entity {
		return profileMember(&p4v1.ActionProfileMember{ActionProfileId: profile, MemberId: id})
	}
	o.wantRead("all of all", q(0, 0), m(2, 22), m(3, 33), m(4, 44))
	o.wantRead("all of one", q(o.id("profile"), 0), m(2, 22), m(3, 33), m(4, 44))
	o.wantRead("one", q(o.id("profile"), 3), m(3, 33))
	o.wantRead("one that is not there", q(o.id("profile"), 1))
	o.wantCode("the default entry is constant (9.1.3)", modify, switchtest.TableEntity(&p4v1.TableEntry{
		TableId: o.TableID("indirect"), IsDefaultAction: true}), codes.PermissionDenied)
}

// Section 9.2.2. The selector of the program hashes to the word itself.
func TestActionProfileGroups(t *testing.T) {
	o := startObjects(t)
	for id := uint32(1); id <= 3; id++ {
		o.Write(insert, o.member("hash_selector", id, 2, int(id)))
	}
	selector := o.id("hash_selector")
	g := func(id uint32, maxSize int32, members ...*p4v1.ActionProfileGroup_Member) *p4v1.Entity {
		return profileGroup(&p4v1.ActionProfileGroup{ActionProfileId: selector, GroupId: id, MaxSize: maxSize, Members: members})
	}
	o.wantCode("group 0", insert, g(0, 8), codes.InvalidArgument)
	o.wantCode("a profile without a selector", insert, profileGroup(&p4v1.ActionProfileGroup{ActionProfileId: o.id("profile"), GroupId: 1}), codes.InvalidArgument)
	o.wantCode("no such member", insert, g(1, 8, weighted(9, 1)), codes.NotFound)
	o.wantCode("member twice", insert, g(1, 8, weighted(1, 1), weighted(1, 1)), codes.InvalidArgument)
	o.wantCode("weight 0", insert, g(1, 8, weighted(1, 0)), codes.InvalidArgument)
	o.wantCode("max_size 0 where max_group_size is set", insert, g(1, 0), codes.InvalidArgument)
	o.wantCode("max_size beyond max_group_size", insert, g(1, 9), codes.InvalidArgument)
	o.wantCode("weights beyond max_size", insert, g(1, 3, weighted(1, 2), weighted(2, 2)), codes.ResourceExhausted)
	o.wantCode("watch a port that does not exist", insert, g(1, 8, weighted(1, 1, 99)), codes.InvalidArgument)
	o.wantCode("MODIFY what is not there", modify, g(1, 8), codes.NotFound)
	o.wantCode("DELETE what is not there", del, g(1, 8), codes.NotFound)
	o.wantCode("entry before its group", insert, o.to("group", toGroup(1)), codes.NotFound)

	first := g(1, 8, weighted(1, 1), weighted(2, 3))
	o.Write(insert, first)
	o.wantCode("INSERT again", insert, first, codes.AlreadyExists)
	o.wantCode("MODIFY of max_size", modify, g(1, 7), codes.InvalidArgument)
	// The size of all groups together is 16.
	o.Write(insert, g(2, 8, weighted(1, 8)))
	o.wantCode("more than the selector's size", insert, g(3, 8, weighted(1, 5)), codes.ResourceExhausted)
	o.Write(insert, o.to("group", toGroup(1)))
	choice := func() string {
		var s []string
		for word := uint32(0); word < 4; word++ {
			s = append(s, o.answer(ask(askGroup, 0, 7, word)))
		}
		return strings.Join(s, "; ")
	}
	expect(t, "weights 1 and 3", choice(), "2 1; 2 2; 2 2; 2 2")
	o.wantCode("DELETE a member of a group", del, o.member("hash_selector", 1, 0, 0), codes.FailedPrecondition)
	o.wantCode("DELETE what an entry refers to", del, first, codes.FailedPrecondition)
	o.Write(modify, o.member("hash_selector", 2, 2, 5))
	expect(t, "member modified", choice(), "2 1; 2 5; 2 5; 2 5")
	o.Write(modify, g(1, 8, weighted(3, 1), weighted(1, 1)))
	expect(t, "group modified", choice(), "2 1; 2 3; 2 1; 2 3")
	o.Write(modify, g(1, 8))
	expect(t, "an empty group does nothing (9.2.4)", choice(), "1 0; 1 0; 1 0; 1 0")

	// Members that watch ports.
	watching := g(1, 8, weighted(1, 1, 4), weighted(2, 1, 0, 5))
	o.Write(modify, watching)
	watching.GetActionProfileGroup().Members[1].WatchKind = &p4v1.ActionProfileGroup_Member_WatchPort{WatchPort: []byte{5}}
	q := profileGroup(&p4v1.ActionProfileGroup{})
	o.wantRead("all groups of all selectors", q, watching, g(2, 8, weighted(1, 8)))
	o.wantRead("one group", g(2, 0), g(2, 8, weighted(1, 8)))
	expect(t, "both up", choice(), "2 1; 2 5; 2 1; 2 5")
	o.SetDown(4, true)
	o.eventually("port 4 down", choice, "2 5; 2 5; 2 5; 2 5")
	o.SetDown(5, true)
	o.eventually("both down", choice, "1 0; 1 0; 1 0; 1 0")
	o.SetDown(4, false)
	o.eventually("port 4 up again", choice, "2 1; 2 1; 2 1; 2 1")
	o.wantRead("what is read does not depend on ports (8.2.1)", g(1, 0), watching)
}

// eventually waits for what follows from another goroutine's work.
func (o objects) eventually(what string, get func() string, want string) {
	o.t.Helper()
	got := get()
	for end := time.Now().Add(10 * time.Second); got != want && time.Now().Before(end); got = get() {
		time.Sleep(time.Millisecond)
	}
	expect(o.t.(*testing.T), what, got, want)
}

// set is a one-shot set of answers, with their weights.
func (o objects) set(weights ...int32) *p4v1.TableAction {
	s := &p4v1.ActionProfileActionSet{}
	for i, w := range weights {
		s.ActionProfileActions = append(s.ActionProfileActions, &p4v1.ActionProfileAction{
			Action: o.Action("group", "answer", args{"port": 2, "result": i + 1}), Weight: w})
	}
	return oneShot(s)
}

func oneShot(s *p4v1.ActionProfileActionSet) *p4v1.TableAction {
	return &p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileActionSet{ActionProfileActionSet: s}}
}

// Section 9.2.3.
func TestOneShot(t *testing.T) {
	o := startObjects(t)
	choice := func() string {
		return o.answer(ask(askGroup, 0, 7, 0)) + "; " + o.answer(ask(askGroup, 0, 7, 1)) + "; " + o.answer(ask(askGroup, 0, 7, 2))
	}
	entry := o.to("group", o.set(1, 2))
	o.Write(insert, entry)
	expect(t, "weights 1 and 2", choice(), "2 1; 2 2; 2 2")
	o.wantRead("as it was written", switchtest.TableEntity(&p4v1.TableEntry{TableId: o.TableID("group")}), entry)
	o.wantRead("no members appear", profileMember(&p4v1.ActionProfileMember{}))
	o.wantRead("no groups appear", profileGroup(&p4v1.ActionProfileGroup{}))
	o.wantCode("weight 0", modify, o.to("group", o.set(0)), codes.InvalidArgument)
	o.wantCode("beyond max_group_size", modify, o.to("group", o.set(5, 4)), codes.InvalidArgument)
	o.wantCode("members beside sets", insert, o.member("hash_selector", 1, 2, 1), codes.InvalidArgument)
	o.wantCode("groups beside sets", insert, profileGroup(&p4v1.ActionProfileGroup{ActionProfileId: o.id("hash_selector"), GroupId: 1, MaxSize: 8}), codes.InvalidArgument)
	bad := o.set(1)
	bad.GetActionProfileActionSet().ActionSelectionMode = 9
	o.wantCode("unknown mode", modify, o.to("group", bad), codes.InvalidArgument)

	// The same action twice is two members, and is read so.
	twice := o.set(1, 1)
	twice.GetActionProfileActionSet().ActionProfileActions[1] = proto.CloneOf(twice.GetActionProfileActionSet().ActionProfileActions[0])
	o.Write(modify, o.to("group", twice))
	o.wantRead("not merged", switchtest.TableEntity(&p4v1.TableEntry{TableId: o.TableID("group")}), o.to("group", twice))

	// At random the word does not matter.
	random := o.set(1, 1)
	random.GetActionProfileActionSet().ActionSelectionMode = p4v1.ActionProfileActionSet_RANDOM
	o.Write(modify, o.to("group", random))
	seen := map[string]bool{}
	for i := 0; i < 1000 && len(seen) < 2; i++ {
		seen[o.answer(ask(askGroup, 0, 7, 0))] = true
	}
	if !seen["2 1"] || !seen["2 2"] {
		t.Errorf("at random: only %v", seen)
	}

	watching := o.set(1, 1)
	watching.GetActionProfileActionSet().ActionProfileActions[0].WatchKind = &p4v1.ActionProfileAction_WatchPort{WatchPort: []byte{4}}
	o.Write(modify, o.to("group", watching))
	expect(t, "port 4 up", choice(), "2 1; 2 2; 2 1")
	o.SetDown(4, true)
	o.eventually("port 4 down", choice, "2 2; 2 2; 2 2")
	o.wantRead("read all the same", switchtest.TableEntity(&p4v1.TableEntry{TableId: o.TableID("group")}), o.to("group", watching))

	o.Write(modify, o.to("group", o.set()))
	expect(t, "empty", choice(), "1 0; 1 0; 1 0")
	o.Write(del, o.to("group", nil))
	o.Write(insert, o.member("hash_selector", 1, 2, 1))
	o.wantCode("sets beside members", insert, o.to("group", o.set(1)), codes.InvalidArgument)

	// Of the other selector sizes are numbers of members, two at most, of a weight of at
	// most ten.
	o.Write(insert, o.to("small_group", o.set(10, 10)))
	o.wantCode("three members", modify, o.to("small_group", o.set(1, 1, 1)), codes.InvalidArgument)
	o.wantCode("weight 11", modify, o.to("small_group", o.set(11)), codes.InvalidArgument)
	byWeights := o.set(1, 2)
	byWeights.GetActionProfileActionSet().SizeSemantics = p4v1.ActionProfileActionSet_SUM_OF_WEIGHTS
	o.wantCode("three by weights", modify, o.to("small_group", byWeights), codes.InvalidArgument)
	other := o.to("small_group", o.set(1, 1))
	other.GetTableEntry().Match[0].GetExact().Value = []byte{8}
	o.Write(insert, other)
	third := o.to("small_group", o.set(1))
	third.GetTableEntry().Match[0].GetExact().Value = []byte{9}
	o.wantCode("more than the selector's size", insert, third, codes.ResourceExhausted)
}

// A selector without weights (weights_disallowed).
func TestWeightsDisallowed(t *testing.T) {
	o := startObjects(t, func(i *p4config.P4Info) {
		for _, p := range i.ActionProfiles {
			p.WeightsDisallowed = p.WithSelector
		}
	})
	o.wantCode("with weights", insert, o.to("group", o.set(1, 1)), codes.InvalidArgument)
	entry := o.to("group", o.set(0, 0))
	o.Write(insert, entry)
	expect(t, "word 0", o.answer(ask(askGroup, 0, 7, 0)), "2 1")
	expect(t, "word 1", o.answer(ask(askGroup, 0, 7, 1)), "2 2")
	o.wantRead("entry", switchtest.TableEntity(&p4v1.TableEntry{TableId: o.TableID("group")}), entry)
}

func meter(m *p4v1.MeterEntry) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_MeterEntry{MeterEntry: m}}
}

// rates configures a meter that never fills up while a test runs: so many are green,
// then so many yellow.
func rates(green, yellow int64) *p4v1.MeterConfig {
	return &p4v1.MeterConfig{Cburst: green, Pburst: green + yellow}
}

// Section 9.4.2.
func TestMeters(t *testing.T) {
	o := startObjects(t)
	id := o.id("packet_meter")
	at := func(i int64, c *p4v1.MeterConfig) *p4v1.MeterEntry {
		return &p4v1.MeterEntry{MeterId: id, Index: &p4v1.Index{Index: i}, Config: c}
	}
	o.wantCode("INSERT", insert, meter(at(1, rates(1, 1))), codes.InvalidArgument)
	o.wantCode("DELETE", del, meter(at(1, nil)), codes.InvalidArgument)
	o.wantCode("no id", modify, meter(&p4v1.MeterEntry{}), codes.InvalidArgument)
	o.wantCode("unknown", modify, meter(&p4v1.MeterEntry{MeterId: 99}), codes.NotFound)
	o.wantCode("negative index", modify, meter(at(-1, nil)), codes.InvalidArgument)
	o.wantCode("index too high", modify, meter(at(4, nil)), codes.OutOfRange)
	o.wantCode("negative rate", modify, meter(at(1, &p4v1.MeterConfig{Cir: -1})), codes.InvalidArgument)
	o.wantCode("peak below committed", modify, meter(at(1, &p4v1.MeterConfig{Cir: 2, Pir: 1})), codes.InvalidArgument)
	o.wantCode("eburst of a two-rate meter", modify, meter(at(1, &p4v1.MeterConfig{Eburst: 1})), codes.InvalidArgument)

	colours := func(n int) string {
		s := ""
		for range n {
			a := o.answer(ask(askPacketMeter, 1, 0, 0))
			s += a[len(a)-1:]
		}
		return s
	}
	expect(t, "as it begins", colours(3), "000")
	o.Write(modify, meter(at(1, rates(2, 1))))
	expect(t, "configured", colours(4), "0012")
	counts := at(1, rates(2, 1))
	data := func(packets int64) *p4v1.CounterData {
		return &p4v1.CounterData{PacketCount: packets, ByteCount: 10 * packets}
	}
	counts.CounterData = &p4v1.MeterCounterData{Green: data(5), Yellow: data(1), Red: data(1)}
	o.wantRead("with counts", meter(&p4v1.MeterEntry{MeterId: id, Index: &p4v1.Index{Index: 1}, CounterData: &p4v1.MeterCounterData{}}), meter(counts))
	o.wantRead("without", meter(at(1, nil)), meter(at(1, rates(2, 1))))
	o.Write(modify, meter(at(1, rates(1, 0))))
	counts.Config = rates(1, 0)
	o.wantRead("configured again, counts stay", meter(&p4v1.MeterEntry{MeterId: id, Index: &p4v1.Index{Index: 1}, CounterData: &p4v1.MeterCounterData{}}), meter(counts))
	set := at(1, nil)
	set.CounterData = &p4v1.MeterCounterData{Green: data(1)}
	o.wantCode("counts that are not 0", modify, meter(set), codes.InvalidArgument)
	set.CounterData = &p4v1.MeterCounterData{Green: data(0)}
	o.Write(modify, meter(set))
	expect(t, "back to the default", colours(3), "000")

	o.Write(modify, meter(&p4v1.MeterEntry{MeterId: id, Config: rates(9, 9)}))
	all := []*p4v1.Entity{meter(at(0, rates(9, 9))), meter(at(1, rates(9, 9))), meter(at(2, rates(9, 9))), meter(at(3, rates(9, 9)))}
	o.wantRead("all of one", meter(&p4v1.MeterEntry{MeterId: id}), all...)
	bytesID := o.id("byte_meter")
	o.wantRead("all", meter(&p4v1.MeterEntry{}), append(all, meter(&p4v1.MeterEntry{MeterId: bytesID, Index: &p4v1.Index{}}),
		meter(&p4v1.MeterEntry{MeterId: bytesID, Index: &p4v1.Index{Index: 1}}))...)
	o.Write(modify, meter(&p4v1.MeterEntry{MeterId: bytesID, Index: &p4v1.Index{}, Config: rates(25, 10)}))
	expect(t, "of bytes", o.answer(ask(askByteMeter, 0, 0, 0))+o.answer(ask(askByteMeter, 0, 0, 0))+o.answer(ask(askByteMeter, 0, 0, 0))+
		o.answer(ask(askByteMeter, 0, 0, 0)), "1 01 01 11 2")
}

// A single-rate meter of two colours has one bucket in two places.
func TestSingleRateMeter(t *testing.T) {
	o := startObjects(t, func(i *p4config.P4Info) {
		for _, m := range i.Meters {
			m.Spec.Type = p4config.MeterSpec_SINGLE_RATE_TWO_COLOR
		}
	})
	e := &p4v1.MeterEntry{MeterId: o.id("packet_meter"), Index: &p4v1.Index{}, Config: &p4v1.MeterConfig{Cburst: 1, Pburst: 2}}
	o.wantCode("pburst is not cburst", modify, meter(e), codes.InvalidArgument)
	e.Config.Pburst = 1
	o.Write(modify, meter(e))
	expect(t, "colours", o.answer(ask(askPacketMeter, 0, 0, 0))+"; "+o.answer(ask(askPacketMeter, 0, 0, 0)), "1 0; 1 2")
}

// Sections 9.1.7 and 9.4.1.
func TestDirectMeters(t *testing.T) {
	o := startObjects(t)
	entry := o.Entry("metered", match{"hdr.ask.key": 7}, 0, "colour", args{"port": 2})
	key := o.Entry("metered", match{"hdr.ask.key": 7}, 0, "", nil)
	colours := func(n int) string {
		s := ""
		for range n {
			a := o.answer(ask(askMetered, 0, 7, 0))
			s += a[len(a)-1:]
		}
		return s
	}
	direct := func(e *p4v1.TableEntry, c *p4v1.MeterConfig, counts *p4v1.MeterCounterData) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_DirectMeterEntry{DirectMeterEntry: &p4v1.DirectMeterEntry{TableEntry: e, Config: c, CounterData: counts}}}
	}
	with := func(c *p4v1.MeterConfig) *p4v1.Entity {
		e := proto.CloneOf(entry)
		e.MeterConfig = c
		return switchtest.TableEntity(e)
	}
	o.wantCode("of no entry", modify, direct(key, nil, nil), codes.NotFound)
	o.wantCode("of a table without", modify, direct(o.Entry("indirect", match{"hdr.ask.key": 7}, 0, "", nil), nil, nil), codes.InvalidArgument)
	o.wantCode("INSERT", insert, direct(key, nil, nil), codes.InvalidArgument)
	counted := with(rates(1, 1))
	counted.GetTableEntry().MeterCounterData = &p4v1.MeterCounterData{Red: &p4v1.CounterData{PacketCount: 1}}
	o.wantCode("meter_counter_data that is not 0", insert, counted, codes.InvalidArgument)
	o.Write(insert, with(rates(1, 1)))
	expect(t, "with the entry", colours(3), "012")
	want := with(rates(1, 1)).GetTableEntry()
	query := &p4v1.TableEntry{TableId: key.TableId, MeterConfig: &p4v1.MeterConfig{}}
	o.wantRead("with the entry", switchtest.TableEntity(query), switchtest.TableEntity(want))
	query.MeterCounterData, query.CounterData = &p4v1.MeterCounterData{}, &p4v1.CounterData{}
	one := &p4v1.CounterData{PacketCount: 1, ByteCount: 10}
	counts := &p4v1.MeterCounterData{Green: one, Yellow: one, Red: one}
	want.MeterCounterData, want.CounterData = counts, &p4v1.CounterData{PacketCount: 3, ByteCount: 30}
	o.wantRead("with all counts", switchtest.TableEntity(query), switchtest.TableEntity(want))
	o.wantRead("by itself", direct(key, nil, &p4v1.MeterCounterData{}), direct(key, rates(1, 1), counts))
	o.wantRead("of all tables", direct(&p4v1.TableEntry{}, nil, nil), direct(key, rates(1, 1), nil))

	// Configured again it keeps its counts.
	o.Write(modify, direct(key, rates(2, 0), nil))
	o.wantRead("configured again", direct(key, nil, &p4v1.MeterCounterData{}), direct(key, rates(2, 0), counts))
	expect(t, "configured again", colours(3), "002")
	o.Write(modify, direct(key, rates(2, 0), &p4v1.MeterCounterData{}))
	zero := &p4v1.CounterData{}
	o.wantRead("counts cleared", direct(key, nil, &p4v1.MeterCounterData{}), direct(key, rates(2, 0), &p4v1.MeterCounterData{Green: zero, Yellow: zero, Red: zero}))
	o.Write(modify, with(nil))
	expect(t, "MODIFY without meter_config: the default", colours(3), "000")
	o.wantRead("the default one is not told", switchtest.TableEntity(&p4v1.TableEntry{TableId: key.TableId, MeterConfig: &p4v1.MeterConfig{}}), with(nil))

	// The default entry has one too.
	o.Write(del, with(nil))
	def := &p4v1.TableEntry{TableId: key.TableId, IsDefaultAction: true}
	o.Write(modify, direct(def, rates(1, 1), nil))
	expect(t, "of misses", colours(3), "012")
	o.wantRead("of the default entry", direct(def, nil, &p4v1.MeterCounterData{}), direct(def, rates(1, 1), counts))
	o.Write(modify, switchtest.TableEntity(def))
	o.wantRead("reset with the default entry", direct(def, nil, nil), direct(def, nil, nil))
}

// Section 9.3: the default entry has a direct counter as any other.
func TestDefaultEntryCounter(t *testing.T) {
	o := startObjects(t)
	def := &p4v1.TableEntry{TableId: o.TableID("metered"), IsDefaultAction: true}
	direct := func(d *p4v1.CounterData) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: &p4v1.DirectCounterEntry{TableEntry: def, Data: d}}}
	}
	o.Send(1, ask(askMetered, 0, 9, 0))
	o.wantRead("one miss", direct(nil), direct(&p4v1.CounterData{PacketCount: 1, ByteCount: 10}))
	o.Write(modify, direct(&p4v1.CounterData{PacketCount: 41}))
	o.Send(1, ask(askMetered, 0, 9, 0))
	o.wantRead("set", direct(nil), direct(&p4v1.CounterData{PacketCount: 42, ByteCount: 10}))
}

func register(id uint32, index int64, data []byte) *p4v1.Entity {
	e := &p4v1.RegisterEntry{RegisterId: id}
	if index >= 0 {
		e.Index = &p4v1.Index{Index: index}
	}
	if data != nil {
		e.Data = &p4v1.P4Data{Data: &p4v1.P4Data_Bitstring{Bitstring: data}}
	}
	return &p4v1.Entity{Entity: &p4v1.Entity_RegisterEntry{RegisterEntry: e}}
}

// Section 9.7, and section 8.3 about signed numbers.
func TestRegisters(t *testing.T) {
	o := startObjects(t)
	words, numbers, wide := o.id("ObjectsIngress.words"), o.id("numbers"), o.id("wide")
	o.wantCode("INSERT", insert, register(words, 0, []byte{1}), codes.InvalidArgument)
	o.wantCode("no data", modify, register(words, 0, nil), codes.InvalidArgument)
	o.wantCode("unknown", modify, register(99, 0, []byte{1}), codes.NotFound)
	o.wantCode("index too high", modify, register(words, 4, []byte{1}), codes.OutOfRange)
	negative := register(words, 0, []byte{1})
	negative.GetRegisterEntry().Index.Index = -1
	o.wantCode("negative index", modify, negative, codes.InvalidArgument)
	o.wantCode("33 bits in 32", modify, register(words, 0, []byte{1, 0, 0, 0, 0}), codes.OutOfRange)
	other := register(words, 0, nil)
	other.GetRegisterEntry().Data = &p4v1.P4Data{Data: &p4v1.P4Data_Bool{Bool: true}}
	o.wantCode("of another type", modify, other, codes.InvalidArgument)

	o.Write(modify, register(words, 2, []byte{0, 0x12, 0x34}))
	o.wantRead("one", register(words, 2, nil), register(words, 2, []byte{0x12, 0x34}))
	out := o.Send(1, ask(askRegister, 2, 0, 0xabcdef))
	if got := binary.BigEndian.Uint32(out[0].Data[4:]); got != 0x1234 {
		t.Errorf("the packet read %#x", got)
	}
	o.wantRead("what the packet wrote", register(words, -1, nil), register(words, 0, []byte{0}), register(words, 1, []byte{0}),
		register(words, 2, []byte{0xab, 0xcd, 0xef}), register(words, 3, []byte{0}))
	o.Write(modify, register(words, -1, []byte{9}))
	o.wantRead("all written at once", register(words, 3, nil), register(words, 3, []byte{9}))

	for _, tc := range []struct {
		in, out string
		result  uint16
	}{
		{"\x63", "\x63", 99}, {"\x00\x63", "\x63", 99}, {"\x9d", "\x9d", 0xff9d}, {"\xff\xff\xff\x9d", "\x9d", 0xff9d},
		{"\x00\x9d", "\x00\x9d", 0x9d}, {"\x80\x00", "\x80\x00", 0x8000}, {"\xff", "\xff", 0xffff}, {"\x00\x00", "\x00", 0},
	} {
		o.Write(modify, register(numbers, 0, []byte(tc.in)))
		o.wantRead(fmt.Sprintf("%q", tc.in), register(numbers, 0, nil), register(numbers, 0, []byte(tc.out)))
		expect(t, fmt.Sprintf("%q in a packet", tc.in), o.answer(ask(askRegister, 0, 0, 0)), fmt.Sprintf("1 %d", tc.result))
	}
	for _, bad := range []string{"", "\x00\x80\x00", "\xff\x7f\xff", "\x01\x00\x00"} {
		o.wantCode(fmt.Sprintf("%q", bad), modify, register(numbers, 0, []byte(bad)), codes.OutOfRange)
	}

	o.Write(modify, register(wide, 0, []byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff")))
	o.Send(1, ask(askRegister, 0, 0, 0))
	o.wantRead("128 bits", register(wide, 1, nil), register(wide, 1, []byte("\x02\x00\x00\x00\x00\x00\x00\x00\x00")))
	all, err := o.Read(register(0, -1, nil))
	check(t, err)
	if len(all) != 8 {
		t.Errorf("%d cells of all registers, want 8", len(all))
	}
}

// Section 9.6.
func TestValueSets(t *testing.T) {
	o := startObjects(t)
	exact := func(id uint32, v ...byte) *p4v1.FieldMatch {
		return &p4v1.FieldMatch{FieldId: id, FieldMatchType: &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: v}}}
	}
	set := func(name string, members ...[]*p4v1.FieldMatch) *p4v1.Entity {
		e := &p4v1.ValueSetEntry{ValueSetId: o.id(name)}
		for _, m := range members {
			e.Members = append(e.Members, &p4v1.ValueSetMember{Match: m})
		}
		return &p4v1.Entity{Entity: &p4v1.Entity_ValueSetEntry{ValueSetEntry: e}}
	}
	one := func(v ...byte) []*p4v1.FieldMatch { return []*p4v1.FieldMatch{exact(1, v...)} }
	o.wantCode("INSERT", insert, set("keys", one(1)), codes.InvalidArgument)
	o.wantCode("DELETE", del, set("keys"), codes.InvalidArgument)
	o.wantCode("more than its size", modify, set("keys", one(1), one(2), one(3), one(4), one(5)), codes.ResourceExhausted)
	o.wantCode("twice the same", modify, set("keys", one(1), one(0, 1)), codes.AlreadyExists)
	o.wantCode("no such field", modify, set("keys", []*p4v1.FieldMatch{exact(2, 1)}), codes.InvalidArgument)
	o.wantCode("a field left out", modify, set("keys", nil), codes.InvalidArgument)
	o.wantCode("too wide", modify, set("keys", one(1, 0, 0)), codes.OutOfRange)

	expect(t, "empty", o.answer(ask(askNothing, 0, 7, 0)), "1 0")
	o.Write(modify, set("keys", one(7), one(1, 0)))
	expect(t, "in it", o.answer(ask(askNothing, 0, 7, 0)), "1 1")
	expect(t, "in it", o.answer(ask(askNothing, 0, 0x100, 0)), "1 1")
	expect(t, "not in it", o.answer(ask(askNothing, 0, 8, 0)), "1 0")
	o.wantRead("as it was written", set("keys"), set("keys", one(7), one(1, 0)))
	o.Write(modify, set("keys"))
	expect(t, "emptied", o.answer(ask(askNothing, 0, 7, 0)), "1 0")

	// A key of several elements, each with a match of its own kind.
	o.Write(modify, set("words", []*p4v1.FieldMatch{exact(1, 5),
		{FieldId: 2, FieldMatchType: &p4v1.FieldMatch_Ternary_{Ternary: &p4v1.FieldMatch_Ternary{Value: []byte{1}, Mask: []byte{0xf}}}},
		{FieldId: 3, FieldMatchType: &p4v1.FieldMatch_Range_{Range: &p4v1.FieldMatch_Range{Low: []byte{10}, High: []byte{20}}}}}, []*p4v1.FieldMatch{exact(1, 6)}))
	for _, tc := range []struct {
		index byte
		key   uint16
		word  uint32
		want  string
	}{
		{5, 0x11, 10, "1 2"}, {5, 0x21, 20, "1 2"}, {5, 0x12, 15, "1 0"}, {5, 1, 21, "1 0"}, {4, 1, 15, "1 0"}, {6, 9, 9, "1 2"},
	} {
		expect(t, fmt.Sprint(tc), o.answer(ask(askNothing, tc.index, tc.key, tc.word)), tc.want)
	}
	all, err := o.Read(&p4v1.Entity{Entity: &p4v1.Entity_ValueSetEntry{ValueSetEntry: &p4v1.ValueSetEntry{}}})
	check(t, err)
	if len(all) != 2 {
		t.Errorf("%d value sets, want 2", len(all))
	}
}

func cloneSession(e *p4v1.CloneSessionEntry) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{PacketReplicationEngineEntry: &p4v1.PacketReplicationEngineEntry{
		Type: &p4v1.PacketReplicationEngineEntry_CloneSessionEntry{CloneSessionEntry: e}}}}
}

// Section 9.5.2.
func TestCloneSessions(t *testing.T) {
	o := startObjects(t)
	replica := func(port byte, instance uint32) *p4v1.Replica {
		return &p4v1.Replica{PortKind: &p4v1.Replica_Port{Port: []byte{port}}, Instance: instance}
	}
	session := func(id uint32, replicas ...*p4v1.Replica) *p4v1.CloneSessionEntry {
		return &p4v1.CloneSessionEntry{SessionId: id, Replicas: replicas}
	}
	edit := func(f func(*p4v1.CloneSessionEntry)) *p4v1.Entity {
		e := session(5, replica(4, 1))
		f(e)
		return cloneSession(e)
	}
	o.wantCode("session 0", insert, cloneSession(session(0)), codes.InvalidArgument)
	o.wantCode("session too high", insert, cloneSession(session(1<<15)), codes.InvalidArgument)
	o.wantCode("MODIFY what is not there", modify, cloneSession(session(5)), codes.NotFound)
	o.wantCode("DELETE what is not there", del, cloneSession(session(5)), codes.NotFound)
	o.wantCode("class of service", insert, edit(func(e *p4v1.CloneSessionEntry) { e.ClassOfService = 8 }), codes.InvalidArgument)
	o.wantCode("negative length", insert, edit(func(e *p4v1.CloneSessionEntry) { e.PacketLengthBytes = -1 }), codes.InvalidArgument)
	o.wantCode("instance too high", insert, edit(func(e *p4v1.CloneSessionEntry) { e.Replicas[0].Instance = 1 << 16 }), codes.InvalidArgument)
	o.wantCode("replica twice", insert, edit(func(e *p4v1.CloneSessionEntry) { e.Replicas = append(e.Replicas, e.Replicas[0]) }), codes.InvalidArgument)

	frame := ask(askClone, 5, 40, 0)
	expect(t, "no session", o.answer(frame), "1 0")
	e := session(5, replica(4, 0), replica(6, 9))
	e.ClassOfService = 2
	o.Write(insert, cloneSession(e))
	o.wantCode("INSERT again", insert, cloneSession(e), codes.AlreadyExists)
	out := o.Send(3, frame)
	slices.SortFunc(out, func(a, b switchtest.Frame) int { return int(a.Port) - int(b.Port) })
	var got []string
	for _, f := range out {
		got = append(got, fmt.Sprintf("%d %d %d", f.Port, binary.BigEndian.Uint16(f.Data[2:]), binary.BigEndian.Uint16(f.Data[8:])))
	}
	// A clone keeps meta.seen, which is the key, and writes it plus one.
	if diff := cmp.Diff([]string{"1 40 0", "4 41 0", "6 41 9"}, got); diff != "" {
		t.Errorf("port, key and result, -want +got:\n%s", diff)
	}
	o.wantRead("as it was written", cloneSession(session(5)), cloneSession(e))
	e.PacketLengthBytes = 4
	o.Write(modify, cloneSession(e))
	for _, f := range o.Send(3, frame) {
		if want := map[uint16]int{1: 10, 4: 4, 6: 4}[f.Port]; len(f.Data) != want {
			t.Errorf("port %d: %d bytes, want %d", f.Port, len(f.Data), want)
		}
	}
	o.Write(insert, cloneSession(session(6)))
	o.wantRead("all", cloneSession(session(0)), cloneSession(e), cloneSession(session(6)))
	o.Write(del, cloneSession(session(5)))
	expect(t, "deleted", o.answer(frame), "1 0")
}

// Section 9.5.1 about backup replicas.
func TestBackupReplicas(t *testing.T) {
	o := startObjects(t)
	backup := func(port byte, instance uint32) *p4v1.BackupReplica {
		return &p4v1.BackupReplica{Port: []byte{port}, Instance: instance}
	}
	g := switchtest.Group(7, [2]uint32{4, 1}, [2]uint32{5, 2})
	r := g.GetPacketReplicationEngineEntry().GetMulticastGroupEntry().GetReplicas()[0]
	r.BackupReplicas = []*p4v1.BackupReplica{backup(4, 9)}
	o.wantCode("a backup with its replica's port", insert, g, codes.InvalidArgument)
	r.BackupReplicas = []*p4v1.BackupReplica{backup(5, 2)}
	o.wantCode("a backup that is another's replica", insert, g, codes.InvalidArgument)
	r.BackupReplicas = []*p4v1.BackupReplica{backup(6, 11), backup(7, 12)}
	o.Write(insert, g)
	o.wantRead("in order", switchtest.Group(7), g)
	copies := func() string { return o.answer(ask(askMulticast, 0, 7, 0)) }
	expect(t, "all up", copies(), "4 1, 5 2")
	o.SetDown(4, true)
	o.eventually("port 4 down", copies, "6 11, 5 2")
	o.SetDown(6, true)
	o.eventually("ports 4 and 6 down", copies, "7 12, 5 2")
	o.SetDown(7, true)
	o.eventually("all down", copies, "4 1, 5 2")
	o.SetDown(6, false)
	o.eventually("port 6 up again", copies, "6 11, 5 2")
	o.SetDown(4, false)
	o.eventually("port 4 up again", copies, "4 1, 5 2")
	o.wantRead("what is read does not depend on ports (8.2.1)", switchtest.Group(7), g)
}

// Section 9.1.5.
func TestInitialEntries(t *testing.T) {
	o := startObjects(t)
	read := func() string {
		got, err := o.Read(switchtest.TableEntity(&p4v1.TableEntry{TableId: o.TableID("initial")}))
		check(t, err)
		var s []string
		for _, e := range got {
			s = append(s, fmt.Sprintf("%x/%d", e.GetTableEntry().GetMatch()[0].GetTernary().GetValue(), e.GetTableEntry().GetPriority()))
		}
		return strings.Join(s, " ")
	}
	key := func(v int, prio int) (match, int) {
		return match{"hdr.ask.key": switchtest.Ternary{Value: v, Mask: 0xffff}}, prio
	}
	entry := func(v, prio, result int) *p4v1.Entity {
		m, p := key(v, prio)
		return switchtest.TableEntity(o.Entry("initial", m, p, "answer", args{"port": 2, "result": result}))
	}
	expect(t, "as compiled", read(), "01/3 02/2 10/1")
	expect(t, "as compiled", o.answer(ask(askInitial, 0, 2, 0)), "2 2")
	o.Write(modify, entry(2, 2, 9))
	expect(t, "modified", o.answer(ask(askInitial, 0, 2, 0)), "2 9")
	o.Write(del, entry(2, 2, 0))
	expect(t, "deleted", o.answer(ask(askInitial, 0, 2, 0)), "dropped")
	for i := 20; i < 26; i++ { // its size is 8, and 2 are left
		o.Write(insert, entry(i, 5, i))
	}
	o.wantCode("full", insert, entry(26, 5, 0), codes.ResourceExhausted)
	expect(t, "inserted", o.answer(ask(askInitial, 0, 25, 0)), "2 25")
}

func digest(id uint32, c *p4v1.DigestEntry_Config) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_DigestEntry{DigestEntry: &p4v1.DigestEntry{DigestId: id, Config: c}}}
}

// Sections 9.8 and 16.3.
func TestDigests(t *testing.T) {
	o := startObjects(t)
	id := o.id("learned_t")
	send := func(word uint32) { o.Send(3, ask(askDigest, 0, 0xfffe, word)) }
	list := func() *p4v1.DigestList {
		t.Helper()
		l := o.Stream().GetDigest()
		if l.GetDigestId() != id || l.GetTimestamp() == 0 {
			t.Fatalf("not a list of the digest: %v", l)
		}
		return l
	}
	wantWords := func(what string, l *p4v1.DigestList, words ...byte) {
		t.Helper()
		var got []byte
		for _, d := range l.GetData() {
			got = append(got, d.GetStruct().GetMembers()[1].GetBitstring()...)
		}
		if diff := cmp.Diff(words, got); diff != "" {
			t.Errorf("%s: words, -want +got:\n%s", what, diff)
		}
	}
	ack := func(digest uint32, list uint64) {
		o.SendStream(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_DigestAck{DigestAck: &p4v1.DigestListAck{DigestId: digest, ListId: list}}})
	}
	const hour = int64(time.Hour)

	o.wantCode("digest 0", insert, digest(0, nil), codes.InvalidArgument)
	o.wantCode("unknown", insert, digest(99, nil), codes.NotFound)
	o.wantCode("MODIFY before INSERT", modify, digest(id, nil), codes.NotFound)
	o.wantCode("DELETE before INSERT", del, digest(id, nil), codes.NotFound)
	o.wantCode("negative", insert, digest(id, &p4v1.DigestEntry_Config{MaxTimeoutNs: -1}), codes.InvalidArgument)
	send(1) // nothing is enabled
	o.Write(insert, digest(id, &p4v1.DigestEntry_Config{}))
	o.wantCode("INSERT again", insert, digest(id, nil), codes.AlreadyExists)
	send(2)
	l := list()
	bits := func(b ...byte) *p4v1.P4Data { return &p4v1.P4Data{Data: &p4v1.P4Data_Bitstring{Bitstring: b}} }
	want := []*p4v1.P4Data{{Data: &p4v1.P4Data_Struct{Struct: &p4v1.P4StructLike{Members: []*p4v1.P4Data{bits(3), bits(2), bits(0xfe)}}}}}
	if diff := cmp.Diff(want, l.GetData(), protocmp.Transform()); diff != "" {
		t.Errorf("data, -want +got:\n%s", diff)
	}
	send(2)
	wantWords("without ack_timeout_ns nothing is remembered", list(), 2)

	// Lists of two, and what is not acknowledged is not sent again.
	c := &p4v1.DigestEntry_Config{MaxTimeoutNs: hour, MaxListSize: 2, AckTimeoutNs: hour}
	o.Write(modify, digest(id, c))
	o.wantRead("one", digest(id, nil), digest(id, c))
	o.wantRead("all", digest(0, nil), digest(id, c))
	send(3)
	send(3)
	send(4)
	first := list()
	wantWords("two distinct ones", first, 3, 4)
	send(3)
	send(5)
	send(4)
	send(6)
	second := list()
	wantWords("what is new", second, 5, 6)
	if second.GetListId() == first.GetListId() {
		t.Error("two lists with the same id")
	}
	ack(id, first.GetListId())
	ack(id, 12345) // no such list: ignored
	ack(99, 1)
	if e := o.Stream().GetError(); codes.Code(e.GetCanonicalCode()) != codes.InvalidArgument || e.GetDigestListAck().GetDigestListAck().GetDigestId() != 99 {
		t.Errorf("an ack of an unknown digest (16.6): %v", e)
	}
	send(5)
	send(3)
	send(4)
	wantWords("acknowledged ones can come again", list(), 3, 4)

	// By time.
	o.Write(modify, digest(id, &p4v1.DigestEntry_Config{MaxTimeoutNs: int64(5 * time.Millisecond), MaxListSize: 100}))
	send(7)
	wantWords("when max_timeout_ns is over", list(), 7)
	o.Write(modify, digest(id, &p4v1.DigestEntry_Config{AckTimeoutNs: 1}))
	send(8)
	wantWords("first", list(), 8)
	for end := time.Now().Add(10 * time.Second); ; {
		send(8) // until the clock has moved by a nanosecond
		if p := o.Pending(); len(p) > 0 {
			wantWords("when ack_timeout_ns is over", p[0].GetDigest(), 8)
			break
		}
		if time.Now().After(end) {
			t.Fatal("an unacknowledged digest never came again")
		}
	}
	o.Write(del, digest(id, nil))
	o.wantRead("disabled", digest(id, nil))
	o.Pending()
	send(9)
	o.NoPacketIn()
}

// Sections 9.1.8 and 16.4.
func TestIdleTimeouts(t *testing.T) {
	o := startObjects(t)
	timed := func(key int, ns time.Duration) *p4v1.TableEntry {
		e := o.Entry("metered", match{"hdr.ask.key": key}, 0, "colour", args{"port": 2})
		e.IdleTimeoutNs, e.Metadata, e.ControllerMetadata = int64(ns), []byte("mine"), uint64(key)
		return e
	}
	since := timed(1, 0)
	since.TimeSinceLastHit = &p4v1.TableEntry_IdleTimeout{}
	o.wantCode("time_since_last_hit in a write", insert, switchtest.TableEntity(since), codes.InvalidArgument)
	o.wantCode("negative", insert, switchtest.TableEntity(timed(1, -1)), codes.InvalidArgument)
	o.wantCode("of the default entry", modify, switchtest.TableEntity(&p4v1.TableEntry{TableId: since.TableId, IsDefaultAction: true, IdleTimeoutNs: 1}), codes.InvalidArgument)
	elsewhere := o.to("indirect", toMember(1))
	elsewhere.GetTableEntry().IdleTimeoutNs = 1
	o.wantCode("of a table without", insert, elsewhere, codes.InvalidArgument)
	_, err := o.Read(switchtest.TableEntity(&p4v1.TableEntry{TableId: o.TableID("indirect"), TimeSinceLastHit: &p4v1.TableEntry_IdleTimeout{}}))
	if got := updateErrors(t, err); got[0] != codes.InvalidArgument {
		t.Errorf("time_since_last_hit of a table without: %v", got)
	}

	const ttl = 15 * time.Millisecond
	o.Write(insert, switchtest.TableEntity(timed(1, ttl)), switchtest.TableEntity(timed(2, time.Hour)), switchtest.TableEntity(timed(3, 0)))
	began := time.Now()
	notice := func() {
		t.Helper()
		n := o.Stream().GetIdleTimeoutNotification()
		want := timed(1, ttl)
		want.Action = nil
		if diff := cmp.Diff([]*p4v1.TableEntry{want}, n.GetTableEntry(), protocmp.Transform()); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
		if n.GetTimestamp() < began.UnixNano() {
			t.Errorf("timestamp %d", n.GetTimestamp())
		}
	}
	notice()
	notice() // again after another TTL
	query := &p4v1.TableEntry{TableId: since.TableId, TimeSinceLastHit: &p4v1.TableEntry_IdleTimeout{}}
	got, err := o.Read(switchtest.TableEntity(query))
	check(t, err)
	if len(got) != 3 {
		t.Fatalf("%d entries, want 3", len(got))
	}
	for i, e := range got {
		if e.GetTableEntry().GetTimeSinceLastHit().GetElapsedNs() < int64(2*ttl) {
			t.Errorf("entry %d: %v", i, e)
		}
		e.GetTableEntry().TimeSinceLastHit = nil
	}
	if diff := cmp.Diff(switchtest.TableEntity(timed(2, time.Hour)), got[1], protocmp.Transform()); diff != "" {
		t.Errorf("-written +read:\n%s", diff)
	}
	o.Send(3, ask(askMetered, 0, 3, 0))
	query.Match = timed(3, 0).Match
	got, err = o.Read(switchtest.TableEntity(query))
	check(t, err)
	if e := got[0].GetTableEntry().GetTimeSinceLastHit(); e == nil || e.GetElapsedNs() > int64(time.Since(began)) {
		t.Errorf("after a hit: %v", e)
	}
	// Without a timeout nothing is told any more.
	o.Write(modify, switchtest.TableEntity(timed(1, 0)))
	o.Pending()
	time.Sleep(2 * ttl)
	o.NoPacketIn()
}

// Section 16.6.
func TestStreamErrors(t *testing.T) {
	o := startObjects(t)
	o.SendStream(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Other{}})
	if e := o.Stream().GetError(); e.GetOther() == nil || codes.Code(e.GetCanonicalCode()) != codes.Unimplemented {
		t.Errorf("other: %v", e)
	}
	o.SendStream(&p4v1.StreamMessageRequest{})
	if e := o.Stream().GetError(); e.GetOther() == nil {
		t.Errorf("nothing: %v", e)
	}
}

// Section 9.9: there are no externs to read.
func TestReadExterns(t *testing.T) {
	o := startObjects(t)
	o.wantRead("all", &p4v1.Entity{Entity: &p4v1.Entity_ExternEntry{ExternEntry: &p4v1.ExternEntry{}}})
	_, err := o.Read(&p4v1.Entity{Entity: &p4v1.Entity_ExternEntry{ExternEntry: &p4v1.ExternEntry{ExternTypeId: 5}}})
	if status.Code(err) != codes.Unknown {
		t.Errorf("%v", err)
	}
	_, err = o.Read(switchtest.TableEntity(&p4v1.TableEntry{Priority: 1}))
	if got := updateErrors(t, err); got[0] != codes.InvalidArgument {
		t.Errorf("all tables and a filter (9.1.6): %v", got)
	}
}
