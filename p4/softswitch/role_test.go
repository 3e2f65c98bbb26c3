// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

func roleConfig(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	check(t, err)
	return a
}

// P4Runtime 1.5, section 5.2: what a role's configuration allows, and who hears of
// it (section 5.4).
func TestRoleConfig(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	entry := func(word int) *p4v1.Entity {
		return switchtest.TableEntity(h.Entry("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": word}, 0, "answer", args{"port": 2, "result": 1}))
	}
	other := switchtest.TableEntity(h.Entry("lpm_table", match{"hdr.query.narrow": 1}, 0, "answer", args{"port": 2, "result": 1}))
	table := entry(1).GetTableEntry().GetTableId()
	h.Write(p4v1.Update_INSERT, other)

	a, b := newController(t, h.Client, "a"), newController(t, h.Client, "b")
	update := func(election uint64, config *anypb.Any) *p4v1.MasterArbitrationUpdate {
		return &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, ElectionId: &p4v1.Uint128{Low: election},
			Role: &p4v1.Role{Name: "tables", Config: config}}
	}
	a.arbitrate(update(10, roleConfig(t, &switchv1.RoleConfig{P4Ids: []uint32{table}})))
	told(t, "a: OK, highest 10 role tables configured", a)
	b.arbitrate(update(5, nil))
	told(t, "b: AlreadyExists, highest 10 role tables configured", b)

	ctx := context.Background()
	write := func(e ...*p4v1.Entity) error {
		r := &p4v1.WriteRequest{DeviceId: switchtest.DeviceID, Role: "tables", ElectionId: &p4v1.Uint128{Low: 10}}
		for _, e := range e {
			r.Updates = append(r.Updates, &p4v1.Update{Type: p4v1.Update_INSERT, Entity: e})
		}
		_, err := h.Client.Write(ctx, r)
		return err
	}
	group := &p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{PacketReplicationEngineEntry: &p4v1.PacketReplicationEngineEntry{
		Type: &p4v1.PacketReplicationEngineEntry_MulticastGroupEntry{MulticastGroupEntry: &p4v1.MulticastGroupEntry{MulticastGroupId: 1}}}}}
	got := updateErrors(t, write(entry(1), other, group))
	if got[0] != codes.OK || got[1] != codes.PermissionDenied || got[2] != codes.PermissionDenied {
		t.Errorf("updates: %v", got)
	}
	// A Read that names the role tells what is the role's; one that does not, all.
	all := &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: &p4v1.TableEntry{}}}
	for role, want := range map[string]int{"": 2, "tables": 1} {
		stream, err := h.Client.Read(ctx, &p4v1.ReadRequest{DeviceId: switchtest.DeviceID, Role: role, Entities: []*p4v1.Entity{all}})
		check(t, err)
		n := 0
		for {
			m, err := stream.Recv()
			if err != nil {
				break
			}
			for _, e := range m.GetEntities() {
				if !e.GetTableEntry().GetIsConst() {
					n++
				}
			}
		}
		if n != want {
			t.Errorf("role %q reads %d entries, want %d", role, n, want)
		}
	}
	_, err := h.Client.SetForwardingPipelineConfig(ctx, &p4v1.SetForwardingPipelineConfigRequest{DeviceId: switchtest.DeviceID, Role: "tables",
		ElectionId: &p4v1.Uint128{Low: 10}, Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY, Config: loadConfig(t, js, info)})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("SetForwardingPipelineConfig: %v", err)
	}
	check(t, a.stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Packet{Packet: &p4v1.PacketOut{}}}))
	told(t, "a: error PermissionDenied", a)

	// The primary changes the configuration: all are told, and it counts at once.
	a.arbitrate(update(10, nil))
	told(t, "a: OK, highest 10 role tables", a)
	told(t, "b: AlreadyExists, highest 10 role tables", b)
	check(t, write(group))

	// What was not agreed upon is refused (section 5.3, cases 1.3 and 2.3).
	a.arbitrate(update(10, roleConfig(t, wrapperspb.String("everything"))))
	told(t, "InvalidArgument", a)
	c := newController(t, h.Client, "c")
	c.arbitrate(&p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, Role: &p4v1.Role{Config: roleConfig(t, &switchv1.RoleConfig{})}})
	told(t, "InvalidArgument", c)
}
