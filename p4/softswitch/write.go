// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"fmt"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
)

// validUpdate refuses updates that say nothing.
func validUpdate(u *p4v1.Update) error {
	if u.GetType() < p4v1.Update_INSERT || u.GetType() > p4v1.Update_DELETE {
		return errorf(codes.InvalidArgument, "update type %v", u.GetType())
	}
	if u.GetEntity().GetEntity() == nil {
		return errorf(codes.InvalidArgument, "an update without an entity")
	}
	return nil
}

// update executes one valid update of a batch.
func (p *pipeline) update(u *p4v1.Update) error {
	switch e := u.GetEntity().GetEntity().(type) {
	case *p4v1.Entity_TableEntry:
		return p.writeTableEntry(u.GetType(), e.TableEntry)
	case *p4v1.Entity_ActionProfileMember:
		return p.writeMember(u.GetType(), e.ActionProfileMember)
	case *p4v1.Entity_ActionProfileGroup:
		return p.writeGroup(u.GetType(), e.ActionProfileGroup)
	case *p4v1.Entity_MeterEntry:
		return p.writeMeter(u.GetType(), e.MeterEntry)
	case *p4v1.Entity_DirectMeterEntry:
		return p.writeDirectMeter(u.GetType(), e.DirectMeterEntry)
	case *p4v1.Entity_CounterEntry:
		return p.writeCounter(u.GetType(), e.CounterEntry)
	case *p4v1.Entity_DirectCounterEntry:
		return p.writeDirectCounter(u.GetType(), e.DirectCounterEntry)
	case *p4v1.Entity_PacketReplicationEngineEntry:
		return p.writeReplication(u.GetType(), e.PacketReplicationEngineEntry)
	case *p4v1.Entity_ValueSetEntry:
		return p.writeValueSet(u.GetType(), e.ValueSetEntry)
	case *p4v1.Entity_RegisterEntry:
		return p.writeRegister(u.GetType(), e.RegisterEntry)
	case *p4v1.Entity_DigestEntry:
		return p.writeDigest(u.GetType(), e.DigestEntry)
	}
	return errorf(codes.Unimplemented, "%s is not supported", entityName(u.GetEntity()))
}

// entityName returns the name of the field that is set, such as "meter_entry".
func entityName(e *p4v1.Entity) string {
	m := e.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("entity")); f != nil {
		return string(f.Name())
	}
	return "no entity"
}

// opaque is what the controller stores with an entry for itself.
type opaque struct {
	metadata   []byte
	controller uint64
	set        *p4v1.ActionProfileActionSet // as it was written, in canonical form
}

func opaqueOf(b *dataplane.Bound) opaque {
	o, _ := b.Opaque.(opaque)
	return o
}

func (p *pipeline) tableSchema(id uint32) (*tableSchema, error) {
	if ts := p.schema.tableIDs[id]; ts != nil {
		return ts, nil
	}
	if id == 0 {
		return nil, errorf(codes.InvalidArgument, "no table_id")
	}
	return nil, errorf(codes.NotFound, "no table with id %#x", id)
}

// writeTableEntry is section 9.1 of P4Runtime 1.5.
func (p *pipeline) writeTableEntry(typ p4v1.Update_Type, e *p4v1.TableEntry) error {
	ts, err := p.tableSchema(e.GetTableId())
	if err != nil {
		return err
	}
	if err := p.tableEntry(typ, e, ts); err != nil {
		return &placedError{fmt.Sprintf("table %q", ts.name), err}
	}
	return nil
}

// A placedError says where an error belongs.
type placedError struct {
	place string
	err   error
}

func (e *placedError) Error() string { return e.place + ": " + e.err.Error() }
func (e *placedError) Unwrap() error { return e.err }

func (p *pipeline) tableEntry(typ p4v1.Update_Type, e *p4v1.TableEntry, ts *tableSchema) error {
	if e.GetIsConst() {
		return errorf(codes.InvalidArgument, "is_const cannot be written")
	}
	if e.GetIsDefaultAction() {
		return p.writeDefault(typ, e, ts)
	}
	match, prio, err := ts.match(e)
	if err != nil {
		return err
	}
	t := p.table(ts)
	if ts.constEntries {
		// Section 9.1.4: nothing but MODIFY of direct resources.
		if typ != p4v1.Update_MODIFY || e.GetAction() != nil {
			return errorf(codes.PermissionDenied, "its entries are constant")
		}
	}
	if len(ts.fields) == 0 {
		return errorf(codes.InvalidArgument, "it has no key and takes no entry")
	}
	if typ == p4v1.Update_DELETE {
		return t.Delete(match, prio)
	}
	d, err := ts.directOf(e)
	if err != nil {
		return err
	}
	if typ == p4v1.Update_INSERT {
		if e.GetAction() == nil {
			return errorf(codes.InvalidArgument, "no action")
		}
		b, err := p.bind(ts, e, nil)
		if err != nil {
			return err
		}
		return t.InsertWith(match, prio, b, d)
	}
	if e.GetAction() == nil {
		return t.ModifyWith(match, prio, nil, d)
	}
	old, err := t.Find(match, prio)
	if err != nil {
		return err
	}
	b, err := p.bind(ts, e, old.Bound())
	if err != nil {
		return err
	}
	return t.ModifyWith(match, prio, b, d)
}

// directOf reads what an entry has beside its action (sections 9.1.7 and 9.1.8). The
// configuration of a direct meter that is left out is the default one. An idle timeout
// that is left out is none, but in a MODIFY without an action.
func (ts *tableSchema) directOf(e *p4v1.TableEntry) (dataplane.Direct, error) {
	d := dataplane.Direct{Count: countOf(e.GetCounterData()), SetMeter: ts.directMtr != nil}
	switch {
	case d.Count != nil && ts.directCtr == 0:
		return d, errorf(codes.InvalidArgument, "the table has no direct counter")
	case ts.directMtr == nil && (e.GetMeterConfig() != nil || e.GetMeterCounterData() != nil):
		return d, errorf(codes.InvalidArgument, "the table has no direct meter")
	case e.GetTimeSinceLastHit() != nil:
		return d, errorf(codes.InvalidArgument, "time_since_last_hit cannot be written")
	case e.GetIdleTimeoutNs() < 0:
		return d, errorf(codes.InvalidArgument, "idle_timeout_ns %d", e.GetIdleTimeoutNs())
	case e.GetIdleTimeoutNs() != 0 && !ts.timeouts:
		return d, errorf(codes.InvalidArgument, "the table has no idle timeouts")
	case e.GetIdleTimeoutNs() != 0 && (e.GetIsDefaultAction() || ts.constEntries):
		return d, errorf(codes.InvalidArgument, "default and constant entries have no idle timeout")
	}
	if ts.directMtr != nil {
		var err error
		if d.Meter, err = ts.directMtr.config(e.GetMeterConfig()); err != nil {
			return d, err
		}
		if d.MeterCounts, err = clearing(e.GetMeterCounterData()); err != nil {
			return d, err
		}
	}
	if ts.timeouts && (e.GetAction() != nil || e.GetIdleTimeoutNs() != 0) {
		timeout := time.Duration(e.GetIdleTimeoutNs())
		d.IdleTimeout = &timeout
	}
	return d, nil
}

// defaultKey checks the key of a default entry.
func defaultKey(e *p4v1.TableEntry) error {
	if len(e.GetMatch()) > 0 || e.GetPriority() != 0 {
		return errorf(codes.InvalidArgument, "the default entry has neither match nor priority")
	}
	return nil
}

// writeDefault is section 9.1.3.
func (p *pipeline) writeDefault(typ p4v1.Update_Type, e *p4v1.TableEntry, ts *tableSchema) error {
	if typ != p4v1.Update_MODIFY {
		return errorf(codes.InvalidArgument, "the default entry can only be modified")
	}
	if err := defaultKey(e); err != nil {
		return err
	}
	d, err := ts.directOf(e)
	if err != nil {
		return err
	}
	if ts.constDefault {
		return errorf(codes.PermissionDenied, "its default action is constant")
	}
	t := p.table(ts)
	if e.GetAction() == nil {
		// What belongs to the entry becomes what it was, too.
		if err := t.SetDefault(nil); err != nil {
			return err
		}
		d.Count = &dataplane.Count{}
		return t.ModifyDefault(d)
	}
	b, err := p.bindAction(ts, e, true)
	if err != nil {
		return err
	}
	if err := t.SetDefault(b); err != nil {
		return err
	}
	return t.ModifyDefault(d)
}

// bind reads what an entry runs (sections 9.1.2 and 9.2.3); old is what it runs so far,
// or nil.
func (p *pipeline) bind(ts *tableSchema, e *p4v1.TableEntry, old *dataplane.Bound) (*dataplane.Bound, error) {
	if ts.profile == nil {
		return p.bindAction(ts, e, false)
	}
	t, o := p.table(ts), opaque{metadata: e.GetMetadata(), controller: e.GetControllerMetadata()}
	switch a := e.GetAction().GetType().(type) {
	case *p4v1.TableAction_ActionProfileMemberId:
		if p.profile(ts.profile).Sets() > 0 {
			return nil, mixed()
		}
		return t.BindMember(a.ActionProfileMemberId, o)
	case *p4v1.TableAction_ActionProfileGroupId:
		if p.profile(ts.profile).Sets() > 0 {
			return nil, mixed()
		}
		return t.BindGroup(a.ActionProfileGroupId, o)
	case *p4v1.TableAction_ActionProfileActionSet:
		return p.oneShot(ts, a.ActionProfileActionSet, old, o)
	}
	return nil, errorf(codes.InvalidArgument, "the table has action profile %q and takes no %T", ts.profile.name, e.GetAction().GetType())
}

// bindAction reads the action of an entry, or default entry, of a direct table.
func (p *pipeline) bindAction(ts *tableSchema, e *p4v1.TableEntry, isDefault bool) (*dataplane.Bound, error) {
	a, ok := e.GetAction().GetType().(*p4v1.TableAction_Action)
	if !ok {
		return nil, errorf(codes.InvalidArgument, "the table takes an action, not %T", e.GetAction().GetType())
	}
	name, args, err := ts.actions.parse(a.Action, isDefault)
	if err != nil {
		return nil, err
	}
	return p.table(ts).Bind(name, args, opaque{metadata: e.GetMetadata(), controller: e.GetControllerMetadata()})
}

// match reads the match fields and the priority of an entry (section 9.1.1).
func (ts *tableSchema) match(e *p4v1.TableEntry) ([]bmv2.Match, int, error) {
	match, err := ts.parse(e.GetMatch())
	if err != nil {
		return nil, 0, err
	}
	prio := int(e.GetPriority())
	if ts.priority && prio <= 0 {
		return nil, 0, errorf(codes.InvalidArgument, "priority %d, want more than 0", prio)
	}
	if !ts.priority && prio != 0 {
		return nil, 0, errorf(codes.InvalidArgument, "priority %d in a table without priorities", prio)
	}
	return match, prio, nil
}
