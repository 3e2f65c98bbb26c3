// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// everything is a query for all that there is.
func everything() []*p4v1.Entity {
	return []*p4v1.Entity{
		switchtest.TableEntity(&p4v1.TableEntry{CounterData: &p4v1.CounterData{}, MeterConfig: &p4v1.MeterConfig{}}),
		profileMember(&p4v1.ActionProfileMember{}), profileGroup(&p4v1.ActionProfileGroup{}),
		switchtest.Group(0), cloneSession(&p4v1.CloneSessionEntry{}), digest(0, nil), meter(&p4v1.MeterEntry{}),
		register(0, -1, nil), {Entity: &p4v1.Entity_ValueSetEntry{ValueSetEntry: &p4v1.ValueSetEntry{}}},
		{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{}}},
	}
}

func (o objects) setPipeline(a p4v1.SetForwardingPipelineConfigRequest_Action, c *p4v1.ForwardingPipelineConfig) error {
	_, err := o.Client.SetForwardingPipelineConfig(context.Background(), &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(), Action: a, Config: c})
	return err
}

// Section 14: RECONCILE_AND_COMMIT keeps the forwarding state for another program.
func TestReconcile(t *testing.T) {
	const reconcile = p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT
	config := objectsProgram(t)
	h := switchtest.Start(t, softswitch.Config{})
	h.Info = config.GetP4Info()
	o := objects{h, t}
	// With no state it is as good as VERIFY_AND_COMMIT.
	check(t, o.setPipeline(reconcile, config))

	timed := o.Entry("metered", match{"hdr.ask.key": 7}, 0, "colour", args{"port": 2})
	timed.MeterConfig, timed.IdleTimeoutNs, timed.Metadata = rates(1, 1), int64(time.Hour), []byte("mine")
	inTable := o.Entry("initial", match{"hdr.ask.key": switchtest.Ternary{Value: 1, Mask: 0xffff}}, 3, "answer", args{"port": 2})
	o.Write(del, switchtest.TableEntity(inTable)) // the program has it, the controller does not want it
	o.Write(insert, o.member("profile", 1, 2, 11), o.member("hash_selector", 1, 2, 22))
	o.Write(insert, profileGroup(&p4v1.ActionProfileGroup{ActionProfileId: o.id("hash_selector"), GroupId: 3, MaxSize: 8,
		Members: []*p4v1.ActionProfileGroup_Member{weighted(1, 2)}}))
	o.Write(insert, o.to("indirect", toMember(1)), o.to("group", toGroup(3)), o.to("small_group", o.set(1, 2)),
		switchtest.TableEntity(timed), switchtest.Group(9, [2]uint32{4, 5}),
		cloneSession(&p4v1.CloneSessionEntry{SessionId: 5, PacketLengthBytes: 4}), digest(o.id("learned_t"), &p4v1.DigestEntry_Config{MaxListSize: 7}))
	def := &p4v1.TableEntry{TableId: inTable.TableId, IsDefaultAction: true, Action: &p4v1.TableAction{Type: &p4v1.TableAction_Action{
		Action: o.Action("initial", "answer", args{"port": 5, "result": 55})}}}
	o.Write(modify, switchtest.TableEntity(def), meter(&p4v1.MeterEntry{MeterId: o.id("packet_meter"), Index: &p4v1.Index{Index: 2}, Config: rates(3, 4)}),
		register(o.id("ObjectsIngress.words"), 1, []byte{9}), &p4v1.Entity{Entity: &p4v1.Entity_ValueSetEntry{ValueSetEntry: &p4v1.ValueSetEntry{
			ValueSetId: o.id("keys"), Members: []*p4v1.ValueSetMember{{Match: []*p4v1.FieldMatch{{FieldId: 1, FieldMatchType: &p4v1.FieldMatch_Exact_{
				Exact: &p4v1.FieldMatch_Exact{Value: []byte{3}}}}}}}}}})
	o.Send(3, ask(askMetered, 0, 7, 0))
	o.Send(3, ask(askRegister, 0, 0, 77))
	before, err := o.Read(everything()...)
	check(t, err)

	// Another program: the bytes differ, and the meaning of nothing that is asked.
	next := proto.CloneOf(config)
	next.P4DeviceConfig = bytes.Replace(next.P4DeviceConfig, []byte(`"program"`), []byte(` "program"`), 1)
	if bytes.Equal(next.P4DeviceConfig, config.P4DeviceConfig) {
		t.Fatal("the program is the same")
	}
	next.Cookie = &p4v1.ForwardingPipelineConfig_Cookie{Cookie: 5}
	check(t, o.setPipeline(reconcile, next))
	after, err := o.Read(everything()...)
	check(t, err)
	if diff := cmp.Diff(before, after, protocmp.Transform()); diff != "" {
		t.Errorf("the state, -before +after:\n%s", diff)
	}
	expect(t, "member", o.answer(ask(askIndirect, 0, 7, 0)), "2 11")
	expect(t, "group", o.answer(ask(askGroup, 0, 7, 1)), "2 22")
	expect(t, "one-shot set", o.answer(ask(askSmallGroup, 0, 7, 1)), "2 2")
	expect(t, "multicast group", o.answer(ask(askMulticast, 0, 9, 0)), "4 5")
	expect(t, "default entry", o.answer(ask(askInitial, 0, 1, 0)), "5 55")
	expect(t, "value set", o.answer(ask(askNothing, 0, 3, 0)), "1 1")
	r, err := o.Client.GetForwardingPipelineConfig(context.Background(), &p4v1.GetForwardingPipelineConfigRequest{DeviceId: switchtest.DeviceID})
	check(t, err)
	if diff := cmp.Diff(next, r.GetConfig(), protocmp.Transform()); diff != "" {
		t.Errorf("the configuration, -want +got:\n%s", diff)
	}

	// A program that cannot have the state is refused, and nothing has changed.
	js, info := testProgram(t)
	err = o.setPipeline(reconcile, loadConfig(t, js, info))
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "cannot be preserved") {
		t.Errorf("another program: %v", err)
	}
	expect(t, "member", o.answer(ask(askIndirect, 0, 7, 0)), "2 11")
	o.wantCode("a packet's member is still there", insert, o.member("profile", 1, 2, 11), codes.AlreadyExists)
}
