// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/dataplane"
)

// A part is some of the entities of an answer: what they were when the query was
// made, without the form that they take in a message. at makes the message of one of
// the n. So writers wait only while values are copied.
type part struct {
	n  int
	at func(i int) *p4v1.Entity
}

// query answers one element of a read request. It is called while no write is in
// work; the parts may be used later.
func (p *pipeline) query(e *p4v1.Entity, out func(part)) error {
	switch e := e.GetEntity().(type) {
	case *p4v1.Entity_TableEntry:
		return p.readTableEntries(e.TableEntry, out)
	case *p4v1.Entity_ActionProfileMember:
		return p.readMembers(e.ActionProfileMember, out)
	case *p4v1.Entity_ActionProfileGroup:
		return p.readGroups(e.ActionProfileGroup, out)
	case *p4v1.Entity_MeterEntry:
		return p.readMeters(e.MeterEntry, out)
	case *p4v1.Entity_DirectMeterEntry:
		return p.readDirectMeters(e.DirectMeterEntry, out)
	case *p4v1.Entity_CounterEntry:
		return p.readCounters(e.CounterEntry, out)
	case *p4v1.Entity_DirectCounterEntry:
		return p.readDirectCounters(e.DirectCounterEntry, out)
	case *p4v1.Entity_PacketReplicationEngineEntry:
		return p.readReplication(e.PacketReplicationEngineEntry, out)
	case *p4v1.Entity_ValueSetEntry:
		return p.readValueSets(e.ValueSetEntry, out)
	case *p4v1.Entity_RegisterEntry:
		return p.readRegisters(e.RegisterEntry, out)
	case *p4v1.Entity_DigestEntry:
		return p.readDigests(e.DigestEntry, out)
	case *p4v1.Entity_ExternEntry:
		if e.ExternEntry.GetExternTypeId() == 0 {
			return nil // all there are
		}
		return errorf(codes.NotFound, "no extern type %#x", e.ExternEntry.GetExternTypeId())
	case nil:
		return errorf(codes.InvalidArgument, "a query without an entity")
	}
	return errorf(codes.Unimplemented, "%s is not supported", entityName(e))
}

// A snapshot is an entry as it was at one moment.
type snapshot struct {
	entry   *dataplane.Entry // nil: the default entry
	bound   *dataplane.Bound
	count   dataplane.Count
	meter   *dataplane.MeterConfig
	colours [3]dataplane.Count
	timeout time.Duration
	since   time.Duration // the last hit
}

func entrySnapshot(t *dataplane.Table, e *dataplane.Entry) snapshot {
	s := snapshot{entry: e, bound: e.Bound(), count: e.Counter(), timeout: e.IdleTimeout(), since: t.SinceHit(e)}
	if m := e.Meter(); m != nil {
		s.meter, s.colours = m.Config(), m.Counts()
	}
	return s
}

func defaultSnapshot(t *dataplane.Table) snapshot {
	s := snapshot{bound: t.Default(), count: t.DefaultCounter()}
	if m := t.DefaultMeter(); m != nil {
		s.meter, s.colours = m.Config(), m.Counts()
	}
	return s
}

// snapshots returns all entries of a table but the default one.
func snapshots(t *dataplane.Table) []snapshot {
	entries := t.Entries()
	list := make([]snapshot, len(entries))
	for i, e := range entries {
		list[i] = entrySnapshot(t, e)
	}
	return list
}

func withPriority(list []snapshot, priority int) []snapshot {
	return slices.DeleteFunc(list, func(s snapshot) bool { return s.entry.Priority != priority })
}

// readTableEntries is section 9.1.6.
func (p *pipeline) readTableEntries(q *p4v1.TableEntry, out func(part)) error {
	emit := func(ts *tableSchema, list []snapshot) {
		out(part{len(list), func(i int) *p4v1.Entity {
			return &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: ts.entry(&list[i], q)}}
		}})
	}
	if q.GetTableId() == 0 {
		if len(q.GetMatch()) > 0 || q.GetAction() != nil || q.GetPriority() != 0 || q.GetControllerMetadata() != 0 ||
			len(q.GetMetadata()) > 0 || q.GetIsDefaultAction() {
			return errorf(codes.InvalidArgument, "a query for all tables cannot have other filters")
		}
		for _, ts := range p.schema.tables {
			emit(ts, snapshots(p.table(ts)))
		}
		return nil
	}
	ts, err := p.tableSchema(q.GetTableId())
	if err != nil {
		return err
	}
	place := fmt.Sprintf("table %q", ts.name)
	if q.GetTimeSinceLastHit() != nil && (!ts.timeouts || q.GetIsDefaultAction()) {
		return errorf(codes.InvalidArgument, "%s: there is no time_since_last_hit", place)
	}
	t := p.table(ts)
	if q.GetIsDefaultAction() {
		if err := defaultKey(q); err != nil {
			return &placedError{place, err}
		}
		emit(ts, []snapshot{defaultSnapshot(t)})
		return nil
	}
	var list []snapshot
	if len(q.GetMatch()) > 0 {
		match, prio, err := ts.match(q)
		if err != nil {
			return &placedError{place, err}
		}
		if e, err := t.Find(match, prio); err == nil {
			list = append(list, entrySnapshot(t, e))
		}
	} else {
		list = snapshots(t)
	}
	emit(ts, slices.DeleteFunc(list, func(s snapshot) bool { return !ts.selected(q, &s) }))
	return nil
}

// selected applies the filters of a query that are not the key.
func (ts *tableSchema) selected(q *p4v1.TableEntry, s *snapshot) bool {
	if q.GetPriority() != 0 && int(q.GetPriority()) != s.entry.Priority {
		return false
	}
	o := opaqueOf(s.bound)
	if q.GetControllerMetadata() != 0 && q.GetControllerMetadata() != o.controller {
		return false
	}
	if len(q.GetMetadata()) > 0 && !bytes.Equal(q.GetMetadata(), o.metadata) {
		return false
	}
	id := q.GetAction().GetAction().GetActionId()
	return id == 0 || id == ts.actionID(s.bound)
}

// key returns what identifies an entry.
func (ts *tableSchema) key(s *snapshot) *p4v1.TableEntry {
	if s.entry == nil {
		return &p4v1.TableEntry{TableId: ts.id, IsDefaultAction: true}
	}
	return &p4v1.TableEntry{TableId: ts.id, Match: ts.messages(s.entry.Match), Priority: int32(s.entry.Priority)}
}

// entry returns an entry as a client would have written it, with what the query wants
// of its direct resources.
func (ts *tableSchema) entry(s *snapshot, q *p4v1.TableEntry) *p4v1.TableEntry {
	te := ts.key(s)
	te.IsConst = s.entry != nil && s.entry.Const
	te.IdleTimeoutNs = int64(s.timeout)
	o := opaqueOf(s.bound)
	te.Metadata, te.ControllerMetadata = o.metadata, o.controller
	te.Action = ts.action(s.bound)
	if q.GetCounterData() != nil && ts.directCtr != 0 {
		te.CounterData = counterData(s.count)
	}
	if ts.directMtr != nil {
		if q.GetMeterConfig() != nil {
			te.MeterConfig = meterConfig(s.meter)
		}
		if q.GetMeterCounterData() != nil {
			te.MeterCounterData = meterCounts(s.colours)
		}
	}
	if q.GetTimeSinceLastHit() != nil && ts.timeouts && s.entry != nil {
		te.TimeSinceLastHit = &p4v1.TableEntry_IdleTimeout{ElapsedNs: int64(s.since)}
	}
	return te
}

// actionID returns the id of the action of an entry, or 0.
func (ts *tableSchema) actionID(b *dataplane.Bound) uint32 {
	if b.Action == nil {
		return 0
	}
	if a := ts.actions.names[b.Action.Action.Name]; a != nil {
		return a.id
	}
	return 0
}

// action returns what an entry runs, or nil.
func (ts *tableSchema) action(b *dataplane.Bound) *p4v1.TableAction {
	switch {
	case b.Member != nil:
		return &p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileMemberId{ActionProfileMemberId: b.Member.ID}}
	case b.IsGroup():
		return &p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileGroupId{ActionProfileGroupId: b.GroupID}}
	case b.IsSet():
		return &p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileActionSet{ActionProfileActionSet: opaqueOf(b).set}}
	}
	name := "NoAction" // of a table for which the program has no default action
	if b.Action != nil {
		name = b.Action.Action.Name
	}
	if a := ts.actions.message(name, b.Args); a != nil {
		return &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: a}}
	}
	return nil
}
