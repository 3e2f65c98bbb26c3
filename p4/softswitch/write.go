// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
	"github.com/understudy-net/understudy/p4/v1model"
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
	case *p4v1.Entity_CounterEntry:
		return p.writeCounter(u.GetType(), e.CounterEntry)
	case *p4v1.Entity_DirectCounterEntry:
		return p.writeDirectCounter(u.GetType(), e.DirectCounterEntry)
	case *p4v1.Entity_PacketReplicationEngineEntry:
		switch t := e.PacketReplicationEngineEntry.GetType().(type) {
		case *p4v1.PacketReplicationEngineEntry_MulticastGroupEntry:
			return p.writeGroup(u.GetType(), t.MulticastGroupEntry)
		case *p4v1.PacketReplicationEngineEntry_CloneSessionEntry:
			return errorf(codes.Unimplemented, "clone sessions are not supported")
		}
		return errorf(codes.InvalidArgument, "a packet replication engine entry of no type")
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
	if typ != p4v1.Update_DELETE {
		switch {
		case e.GetMeterConfig() != nil || e.GetMeterCounterData() != nil:
			return errorf(codes.InvalidArgument, "the table has no direct meter")
		case e.GetIdleTimeoutNs() != 0:
			return errorf(codes.Unimplemented, "idle timeouts are not supported")
		case e.GetTimeSinceLastHit() != nil:
			return errorf(codes.InvalidArgument, "time_since_last_hit cannot be written")
		case e.GetCounterData() != nil && ts.directCtr == 0:
			return errorf(codes.InvalidArgument, "the table has no direct counter")
		}
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
	count := countOf(e.GetCounterData())
	switch typ {
	case p4v1.Update_INSERT:
		if e.GetAction() == nil {
			return errorf(codes.InvalidArgument, "no action")
		}
		b, err := p.bind(ts, t, e, false)
		if err != nil {
			return err
		}
		if count == nil {
			count = &dataplane.Count{}
		}
		return t.Insert(match, prio, b, *count)
	case p4v1.Update_MODIFY:
		var b *dataplane.Bound
		if e.GetAction() != nil {
			if b, err = p.bind(ts, t, e, false); err != nil {
				return err
			}
		}
		return t.Modify(match, prio, b, count)
	default:
		return t.Delete(match, prio)
	}
}

// writeDefault is section 9.1.3.
func (p *pipeline) writeDefault(typ p4v1.Update_Type, e *p4v1.TableEntry, ts *tableSchema) error {
	if typ != p4v1.Update_MODIFY {
		return errorf(codes.InvalidArgument, "the default entry can only be modified")
	}
	if len(e.GetMatch()) > 0 || e.GetPriority() != 0 {
		return errorf(codes.InvalidArgument, "the default entry has neither match nor priority")
	}
	if e.GetCounterData() != nil {
		return errorf(codes.Unimplemented, "misses are not counted")
	}
	if ts.constDefault {
		return errorf(codes.PermissionDenied, "its default action is constant")
	}
	t := p.table(ts)
	if e.GetAction() == nil {
		return t.SetDefault(nil)
	}
	b, err := p.bind(ts, t, e, true)
	if err != nil {
		return err
	}
	return t.SetDefault(b)
}

func countOf(c *p4v1.CounterData) *dataplane.Count {
	if c == nil {
		return nil
	}
	return &dataplane.Count{Packets: uint64(c.GetPacketCount()), Bytes: uint64(c.GetByteCount())}
}

func counterData(c dataplane.Count) *p4v1.CounterData {
	return &p4v1.CounterData{PacketCount: int64(c.Packets), ByteCount: int64(c.Bytes)}
}

// bind reads the action of an entry (section 9.1.2).
func (p *pipeline) bind(ts *tableSchema, t *dataplane.Table, e *p4v1.TableEntry, isDefault bool) (*dataplane.Bound, error) {
	ta, ok := e.GetAction().GetType().(*p4v1.TableAction_Action)
	if !ok {
		return nil, errorf(codes.InvalidArgument, "the table takes an action, not %T", e.GetAction().GetType())
	}
	a := ts.actions[ta.Action.GetActionId()]
	if a == nil {
		return nil, errorf(codes.InvalidArgument, "action %#x is none of the table's", ta.Action.GetActionId())
	}
	if a.scope == p4config.ActionRef_TABLE_ONLY && isDefault || a.scope == p4config.ActionRef_DEFAULT_ONLY && !isDefault {
		return nil, errorf(codes.PermissionDenied, "action %q has the scope %v", a.name, a.scope)
	}
	args := make([][]byte, len(a.params))
	for _, param := range ta.Action.GetParams() {
		i, ok := a.ids[param.GetParamId()]
		if !ok {
			return nil, errorf(codes.InvalidArgument, "action %q has no parameter %d", a.name, param.GetParamId())
		}
		if args[i] != nil {
			return nil, errorf(codes.InvalidArgument, "action %q: parameter %q is given twice", a.name, a.params[i].name)
		}
		v, err := parseBits(param.GetValue(), a.params[i].width)
		if err != nil {
			return nil, &placedError{fmt.Sprintf("action %q: parameter %q", a.name, a.params[i].name), err}
		}
		args[i] = v
	}
	for i := range args {
		if args[i] == nil {
			return nil, errorf(codes.InvalidArgument, "action %q: parameter %q is missing", a.name, a.params[i].name)
		}
	}
	return t.Bind(a.name, args, opaque{e.GetMetadata(), e.GetControllerMetadata()})
}

// match reads the match fields and the priority of an entry (section 9.1.1).
func (ts *tableSchema) match(e *p4v1.TableEntry) ([]bmv2.Match, int, error) {
	match := make([]bmv2.Match, len(ts.fields))
	given := make([]bool, len(ts.fields))
	for _, m := range e.GetMatch() {
		i, ok := ts.fieldIDs[m.GetFieldId()]
		if !ok {
			return nil, 0, errorf(codes.InvalidArgument, "no match field %d", m.GetFieldId())
		}
		if given[i] {
			return nil, 0, errorf(codes.InvalidArgument, "match field %q is given twice", ts.fields[i].name)
		}
		given[i] = true
		if err := ts.fields[i].parse(m, &match[i]); err != nil {
			return nil, 0, &placedError{fmt.Sprintf("match field %q", ts.fields[i].name), err}
		}
	}
	for i, f := range ts.fields {
		if given[i] {
			continue
		}
		zero := make([]byte, (f.width+7)/8)
		switch f.kind {
		case p4config.MatchField_EXACT:
			return nil, 0, errorf(codes.InvalidArgument, "match field %q is missing", f.name)
		case p4config.MatchField_RANGE:
			match[i] = bmv2.Match{Value: zero, High: ones(f.width)}
		default: // do not care
			match[i] = bmv2.Match{Value: zero, Mask: zero}
		}
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

// parse reads one match field; values that a mask does not cover must be zero.
func (f *fieldSchema) parse(m *p4v1.FieldMatch, out *bmv2.Match) error {
	value := func(b []byte) ([]byte, error) { return parseBits(b, f.width) }
	var err error
	wrong := func() error {
		return errorf(codes.InvalidArgument, "want a match of type %v, have %T", f.kind, m.GetFieldMatchType())
	}
	switch f.kind {
	case p4config.MatchField_EXACT:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Exact_)
		if !ok {
			return wrong()
		}
		out.Value, err = value(x.Exact.GetValue())
	case p4config.MatchField_OPTIONAL:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Optional_)
		if !ok {
			return wrong()
		}
		out.Value, err = value(x.Optional.GetValue())
		out.Mask = ones(f.width)
	case p4config.MatchField_LPM:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Lpm)
		if !ok {
			return wrong()
		}
		if out.Value, err = value(x.Lpm.GetValue()); err != nil {
			return err
		}
		out.PrefixLen = int(x.Lpm.GetPrefixLen())
		if out.PrefixLen < 1 || out.PrefixLen > f.width {
			return errorf(codes.InvalidArgument, "prefix length %d, want 1 to %d", out.PrefixLen, f.width)
		}
		if !zeroAfter(out.Value, f.width, out.PrefixLen) {
			return errorf(codes.InvalidArgument, "%#x has bits behind its prefix of %d", out.Value, out.PrefixLen)
		}
	case p4config.MatchField_TERNARY:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Ternary_)
		if !ok {
			return wrong()
		}
		if out.Value, err = value(x.Ternary.GetValue()); err != nil {
			return err
		}
		if out.Mask, err = value(x.Ternary.GetMask()); err != nil {
			return err
		}
		if isZero(out.Mask) {
			return errorf(codes.InvalidArgument, "a mask of zeros: leave the field out")
		}
		for i := range out.Value {
			if out.Value[i]&^out.Mask[i] != 0 {
				return errorf(codes.InvalidArgument, "%#x has bits outside its mask %#x", out.Value, out.Mask)
			}
		}
	case p4config.MatchField_RANGE:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Range_)
		if !ok {
			return wrong()
		}
		if out.Value, err = value(x.Range.GetLow()); err != nil {
			return err
		}
		if out.High, err = value(x.Range.GetHigh()); err != nil {
			return err
		}
		if isZero(out.Value) && string(out.High) == string(ones(f.width)) {
			return errorf(codes.InvalidArgument, "a range of everything: leave the field out")
		}
		if string(out.Value) > string(out.High) {
			return errorf(codes.InvalidArgument, "the range %#x to %#x is empty", out.Value, out.High)
		}
	}
	return err
}

// zeroAfter tells whether all bits of a number of width bits are zero but the
// first n.
func zeroAfter(b []byte, width, n int) bool {
	skip := len(b)*8 - width + n
	for i, v := range b {
		switch bit := skip - 8*i; {
		case bit >= 8:
		case bit <= 0:
			if v != 0 {
				return false
			}
		case v<<bit != 0:
			return false
		}
	}
	return true
}

// writeCounter is section 9.3.2.
func (p *pipeline) writeCounter(typ p4v1.Update_Type, e *p4v1.CounterEntry) error {
	if typ != p4v1.Update_MODIFY {
		return errorf(codes.InvalidArgument, "a counter can only be modified")
	}
	cs, err := p.counterSchema(e.GetCounterId())
	if err != nil {
		return err
	}
	c := p.sw.Engine().Counter(cs.name)
	from, to, err := cs.span(e.GetIndex())
	if err != nil {
		return err
	}
	if v := countOf(e.GetData()); v != nil {
		for i := from; i < to; i++ {
			c.Set(i, *v)
		}
	}
	return nil
}

func (p *pipeline) counterSchema(id uint32) (*counterSchema, error) {
	if cs := p.schema.ctrIDs[id]; cs != nil {
		return cs, nil
	}
	if id == 0 {
		return nil, errorf(codes.InvalidArgument, "no counter_id")
	}
	return nil, errorf(codes.NotFound, "no counter with id %#x", id)
}

// span returns the counts that an index names; no index names all of them.
func (cs *counterSchema) span(x *p4v1.Index) (from, to int, err error) {
	if x == nil {
		return 0, cs.size, nil
	}
	i := x.GetIndex()
	switch {
	case i < 0:
		return 0, 0, errorf(codes.InvalidArgument, "counter %q: index %d", cs.name, i)
	case i >= int64(cs.size):
		return 0, 0, errorf(codes.OutOfRange, "counter %q: index %d, the last one is %d", cs.name, i, cs.size-1)
	}
	return int(i), int(i) + 1, nil
}

// writeDirectCounter is section 9.3.1.
func (p *pipeline) writeDirectCounter(typ p4v1.Update_Type, e *p4v1.DirectCounterEntry) error {
	if typ != p4v1.Update_MODIFY {
		return errorf(codes.InvalidArgument, "a direct counter can only be modified")
	}
	ts, err := p.tableSchema(e.GetTableEntry().GetTableId())
	if err != nil {
		return err
	}
	place := fmt.Sprintf("table %q", ts.name)
	if ts.directCtr == 0 {
		return errorf(codes.InvalidArgument, "%s has no direct counter", place)
	}
	if e.GetTableEntry().GetIsDefaultAction() {
		return errorf(codes.Unimplemented, "%s: misses are not counted", place)
	}
	match, prio, err := ts.match(e.GetTableEntry())
	if err != nil {
		return &placedError{place, err}
	}
	if err := p.table(ts).Modify(match, prio, nil, countOf(e.GetData())); err != nil {
		return &placedError{place, err}
	}
	return nil
}

// writeGroup is section 9.5.1.
func (p *pipeline) writeGroup(typ p4v1.Update_Type, e *p4v1.MulticastGroupEntry) error {
	id := e.GetMulticastGroupId()
	if id == 0 {
		return errorf(codes.InvalidArgument, "no multicast_group_id")
	}
	if typ == p4v1.Update_DELETE {
		return p.sw.DeleteGroup(id)
	}
	// It is read back as it was written, but for the form of the ports.
	e = proto.CloneOf(e)
	g := &v1model.Group{ID: id, Opaque: e}
	for i, r := range e.GetReplicas() {
		port, err := replicaPort(r)
		if err != nil {
			return &placedError{fmt.Sprintf("multicast group %d: replica %d", id, i), err}
		}
		if len(r.GetBackupReplicas()) > 0 {
			return errorf(codes.Unimplemented, "multicast group %d: backup replicas are not supported", id)
		}
		if k, ok := r.GetPortKind().(*p4v1.Replica_Port); ok {
			k.Port = canonical(k.Port)
		}
		g.Replicas = append(g.Replicas, v1model.Replica{Port: port, RID: r.GetInstance()})
	}
	if typ == p4v1.Update_INSERT {
		return p.sw.InsertGroup(g)
	}
	return p.sw.ModifyGroup(g)
}

// replicaPort reads the port as bytes or, as before 1.4.0, as a number.
func replicaPort(r *p4v1.Replica) (uint16, error) {
	switch k := r.GetPortKind().(type) {
	case *p4v1.Replica_Port:
		b, err := parseBits(k.Port, 9)
		if err != nil {
			return 0, err
		}
		return uint16(b[0])<<8 | uint16(b[1]), nil
	case *p4v1.Replica_EgressPort:
		if k.EgressPort > v1model.MaxPort {
			return 0, errorf(codes.InvalidArgument, "port %d, the largest is %d", k.EgressPort, v1model.MaxPort)
		}
		return uint16(k.EgressPort), nil
	}
	return 0, errorf(codes.InvalidArgument, "no port")
}
