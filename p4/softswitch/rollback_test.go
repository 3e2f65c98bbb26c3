// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// Section 12.2: ROLLBACK_ON_ERROR with updates of every kind, of which the last one
// fails.
func TestRollback(t *testing.T) {
	o := startObjects(t)
	entry := func(key int, result int) *p4v1.Entity {
		e := o.Entry("metered", match{"hdr.ask.key": key}, 0, "colour", args{"port": result})
		e.MeterConfig, e.IdleTimeoutNs, e.Metadata = rates(int64(result), 1), int64(time.Hour), []byte{byte(result)}
		return switchtest.TableEntity(e)
	}
	group := func(id uint32, weight int32) *p4v1.Entity {
		return profileGroup(&p4v1.ActionProfileGroup{ActionProfileId: o.id("hash_selector"), GroupId: id, MaxSize: 8,
			Members: []*p4v1.ActionProfileGroup_Member{weighted(1, weight)}})
	}
	session := func(id uint32, length int32) *p4v1.Entity {
		return cloneSession(&p4v1.CloneSessionEntry{SessionId: id, PacketLengthBytes: length})
	}
	learned := func(size int32) *p4v1.Entity {
		return digest(o.id("learned_t"), &p4v1.DigestEntry_Config{MaxListSize: size})
	}
	valueSet := func(v byte) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_ValueSetEntry{ValueSetEntry: &p4v1.ValueSetEntry{ValueSetId: o.id("keys"),
			Members: []*p4v1.ValueSetMember{{Match: []*p4v1.FieldMatch{{FieldId: 1, FieldMatchType: &p4v1.FieldMatch_Exact_{
				Exact: &p4v1.FieldMatch_Exact{Value: []byte{v}}}}}}}}}}
	}
	metered := &p4v1.TableEntry{TableId: o.TableID("metered"), IsDefaultAction: true}
	direct := func(key *p4v1.TableEntry, n int64) []*p4v1.Entity {
		return []*p4v1.Entity{
			{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: &p4v1.DirectCounterEntry{TableEntry: key, Data: &p4v1.CounterData{PacketCount: n}}}},
			{Entity: &p4v1.Entity_DirectMeterEntry{DirectMeterEntry: &p4v1.DirectMeterEntry{TableEntry: key, Config: rates(n, n)}}},
		}
	}
	def := func(port int) *p4v1.Entity {
		return switchtest.TableEntity(&p4v1.TableEntry{TableId: o.TableID("initial"), IsDefaultAction: true, Action: &p4v1.TableAction{
			Type: &p4v1.TableAction_Action{Action: o.Action("initial", "answer", args{"port": port, "result": 5})}}})
	}
	initial := func(result int) *p4v1.Entity {
		return switchtest.TableEntity(o.Entry("initial", match{"hdr.ask.key": switchtest.Ternary{Value: 2, Mask: 0xffff}}, 2, "answer", args{"port": 2, "result": result}))
	}
	defaults := []*p4v1.Entity{def(0), {Entity: &p4v1.Entity_TableEntry{TableEntry: proto.CloneOf(metered)}}}
	defaults[1].GetTableEntry().CounterData, defaults[1].GetTableEntry().MeterConfig = &p4v1.CounterData{}, &p4v1.MeterConfig{}
	state := func() []*p4v1.Entity {
		t.Helper()
		got, err := o.Read(append(everything(), defaults...)...)
		check(t, err)
		return got
	}

	o.Write(insert, o.member("profile", 1, 2, 1), o.member("profile", 2, 2, 2), o.member("hash_selector", 1, 2, 3))
	o.Write(insert, group(1, 1), group(2, 2), entry(1, 1), entry(2, 2), switchtest.Group(1, [2]uint32{1, 1}), switchtest.Group(2), session(1, 1), session(2, 2), learned(3))
	o.Write(modify, register(o.id("wide"), 1, []byte{1, 2, 3}), meter(&p4v1.MeterEntry{MeterId: o.id("packet_meter"), Index: &p4v1.Index{}, Config: rates(1, 2)}), valueSet(9))
	o.Write(modify, direct(metered, 7)...)
	for range 3 {
		o.Send(3, ask(askMetered, 0, 1, 0))
	}
	before := state()

	var batch []*p4v1.Update
	add := func(typ p4v1.Update_Type, list ...*p4v1.Entity) {
		for _, e := range list {
			batch = append(batch, &p4v1.Update{Type: typ, Entity: e})
		}
	}
	add(insert, o.member("profile", 3, 2, 9), group(3, 1), entry(3, 3), switchtest.Group(3), session(3, 3),
		o.to("indirect", toMember(3)), o.to("small_group", o.set(1)))
	add(modify, o.member("profile", 1, 3, 10), group(1, 3), entry(1, 4), switchtest.Group(1, [2]uint32{3, 3}), session(1, 9), learned(4),
		register(o.id("wide"), -1, []byte{5}), meter(&p4v1.MeterEntry{MeterId: o.id("packet_meter"), Config: rates(5, 5)}), valueSet(8),
		def(4), def(5), initial(7))
	add(modify, direct(metered, 8)...)
	add(modify, direct(o.Entry("metered", match{"hdr.ask.key": 2}, 0, "", nil), 9)...)
	add(modify, switchtest.TableEntity(metered))
	add(del, o.member("profile", 2, 0, 0), group(2, 0), entry(2, 0), switchtest.Group(2), session(2, 0), learned(0), initial(0))
	write := func() error {
		_, err := o.Client.Write(context.Background(), &p4v1.WriteRequest{DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(),
			Atomicity: p4v1.WriteRequest_ROLLBACK_ON_ERROR, Updates: batch})
		return err
	}
	add(insert, switchtest.Group(1)) // is there already
	failing := len(batch) - 1
	got := updateErrors(t, write())
	for i, c := range got {
		if want := map[bool]codes.Code{true: codes.AlreadyExists, false: codes.Aborted}[i == failing]; c != want {
			t.Errorf("update %d: %v, want %v", i, c, want)
		}
	}
	if len(got) != len(batch) {
		t.Errorf("%d errors, want %d", len(got), len(batch))
	}
	// What was deleted and inserted again comes last in its table.
	sorted := cmpopts.SortSlices(func(a, b *p4v1.Entity) bool { return a.String() < b.String() })
	if diff := cmp.Diff(before, state(), protocmp.Transform(), sorted); diff != "" {
		t.Errorf("the state, -before +after:\n%s", diff)
	}
	expect(t, "forwarding", o.answer(ask(askMetered, 0, 1, 0))[:1], "1")

	batch = batch[:failing]
	check(t, write())
	expect(t, "without the bad one", o.answer(ask(askMetered, 0, 3, 0))[:1], "3")
	expect(t, "without the bad one", o.answer(ask(askInitial, 0, 2, 0)), "5 5")
}
