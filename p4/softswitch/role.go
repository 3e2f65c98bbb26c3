// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
)

// An access is what a role may do (P4Runtime 1.5, section 5.2). A nil one is full
// access. It is immutable.
type access struct {
	config      *anypb.Any // as it was given
	ids         map[uint32]bool
	replication bool
	packetIn    bool
	packetOut   bool
	pipeline    bool
}

// maxRoleIDs bounds what a controller can make the switch remember of a role.
const maxRoleIDs = 1 << 16

// newAccess reads a role's configuration; without one it returns nil.
func newAccess(r *p4v1.Role) (*access, error) {
	if r.GetConfig() == nil {
		return nil, nil
	}
	if r.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "the default role has full access and takes no configuration")
	}
	m := &switchv1.RoleConfig{}
	if err := r.GetConfig().UnmarshalTo(m); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "role configuration: want a message of type %s: %v", m.ProtoReflect().Descriptor().FullName(), err)
	}
	if n := len(m.GetP4Ids()); n > maxRoleIDs {
		return nil, status.Errorf(codes.InvalidArgument, "role configuration: %d ids, at most %d are possible", n, maxRoleIDs)
	}
	a := &access{config: r.GetConfig(), ids: map[uint32]bool{}, replication: m.GetPacketReplication(),
		packetIn: m.GetPacketIn(), packetOut: m.GetPacketOut(), pipeline: m.GetPipeline()}
	for _, id := range m.GetP4Ids() {
		a.ids[id] = true
	}
	return a, nil
}

func (a *access) role() *anypb.Any {
	if a == nil {
		return nil
	}
	return a.config
}

// owns tells whether the role has the object with a P4 id.
func (a *access) owns(id uint32) bool { return a == nil || a.ids[id] }

func (a *access) packetIns() bool  { return a == nil || a.packetIn }
func (a *access) packetOuts() bool { return a == nil || a.packetOut }
func (a *access) pipelines() bool  { return a == nil || a.pipeline }

// allows tells whether the role may write an entity, and so whether it is the
// role's.
func (a *access) allows(e *p4v1.Entity) bool {
	if a == nil {
		return true
	}
	switch e := e.GetEntity().(type) {
	case *p4v1.Entity_PacketReplicationEngineEntry:
		return a.replication
	case *p4v1.Entity_TableEntry:
		return a.ids[e.TableEntry.GetTableId()]
	case *p4v1.Entity_DirectCounterEntry:
		return a.ids[e.DirectCounterEntry.GetTableEntry().GetTableId()]
	case *p4v1.Entity_DirectMeterEntry:
		return a.ids[e.DirectMeterEntry.GetTableEntry().GetTableId()]
	case *p4v1.Entity_ActionProfileMember:
		return a.ids[e.ActionProfileMember.GetActionProfileId()]
	case *p4v1.Entity_ActionProfileGroup:
		return a.ids[e.ActionProfileGroup.GetActionProfileId()]
	case *p4v1.Entity_CounterEntry:
		return a.ids[e.CounterEntry.GetCounterId()]
	case *p4v1.Entity_MeterEntry:
		return a.ids[e.MeterEntry.GetMeterId()]
	case *p4v1.Entity_RegisterEntry:
		return a.ids[e.RegisterEntry.GetRegisterId()]
	case *p4v1.Entity_ValueSetEntry:
		return a.ids[e.ValueSetEntry.GetValueSetId()]
	case *p4v1.Entity_DigestEntry:
		return a.ids[e.DigestEntry.GetDigestId()]
	}
	return false
}
