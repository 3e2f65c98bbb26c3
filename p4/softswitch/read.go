// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"fmt"
	"slices"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
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
	case *p4v1.Entity_CounterEntry:
		return p.readCounters(e.CounterEntry, out)
	case *p4v1.Entity_DirectCounterEntry:
		return p.readDirectCounters(e.DirectCounterEntry, out)
	case *p4v1.Entity_PacketReplicationEngineEntry:
		switch t := e.PacketReplicationEngineEntry.GetType().(type) {
		case *p4v1.PacketReplicationEngineEntry_MulticastGroupEntry:
			p.readGroups(t.MulticastGroupEntry, out)
			return nil
		case *p4v1.PacketReplicationEngineEntry_CloneSessionEntry:
			return nil // there can be none
		}
		return errorf(codes.InvalidArgument, "a packet replication engine entry of no type")
	case nil:
		return errorf(codes.InvalidArgument, "a query without an entity")
	}
	return errorf(codes.Unimplemented, "%s is not supported", entityName(e))
}

// A snapshot is an entry as it was at one moment.
type snapshot struct {
	entry *dataplane.Entry
	bound *dataplane.Bound
	count dataplane.Count
}

func snapshots(entries []*dataplane.Entry) []snapshot {
	list := make([]snapshot, len(entries))
	for i, e := range entries {
		list[i] = snapshot{e, e.Bound(), e.Counter()}
	}
	return list
}

// readTableEntries is section 9.1.6.
func (p *pipeline) readTableEntries(q *p4v1.TableEntry, out func(part)) error {
	withCount := q.GetCounterData() != nil
	emit := func(ts *tableSchema, list []snapshot) {
		out(part{len(list), func(i int) *p4v1.Entity {
			return &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: ts.entry(&list[i], withCount)}}
		}})
	}
	if q.GetTableId() == 0 {
		for _, ts := range p.schema.tables {
			emit(ts, snapshots(p.table(ts).Entries()))
		}
		return nil
	}
	ts, err := p.tableSchema(q.GetTableId())
	if err != nil {
		return err
	}
	t := p.table(ts)
	if q.GetIsDefaultAction() {
		if len(q.GetMatch()) > 0 || q.GetPriority() != 0 {
			return errorf(codes.InvalidArgument, "table %q: the default entry has neither match nor priority", ts.name)
		}
		b := t.Default()
		out(part{1, func(int) *p4v1.Entity {
			e := &p4v1.TableEntry{TableId: ts.id, IsDefaultAction: true}
			ts.action(e, b)
			return &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: e}}
		}})
		return nil
	}
	var entries []*dataplane.Entry
	if len(q.GetMatch()) > 0 {
		match, prio, err := ts.match(q)
		if err != nil {
			return &placedError{fmt.Sprintf("table %q", ts.name), err}
		}
		if e, err := t.Find(match, prio); err == nil {
			entries = append(entries, e)
		}
	} else {
		entries = t.Entries()
	}
	emit(ts, slices.DeleteFunc(snapshots(entries), func(s snapshot) bool { return !ts.selected(q, &s) }))
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

// entry returns an entry as a client would have written it.
func (ts *tableSchema) entry(s *snapshot, withCount bool) *p4v1.TableEntry {
	te := &p4v1.TableEntry{TableId: ts.id, Priority: int32(s.entry.Priority), IsConst: s.entry.Const}
	for i, f := range ts.fields {
		if m := f.message(&s.entry.Match[i]); m != nil {
			te.Match = append(te.Match, m)
		}
	}
	ts.action(te, s.bound)
	if withCount && ts.directCtr != 0 {
		te.CounterData = counterData(s.count)
	}
	return te
}

// actionID returns the id of the action of an entry, or 0.
func (ts *tableSchema) actionID(b *dataplane.Bound) uint32 {
	if b.Action == nil {
		return 0
	}
	if a := ts.byName[b.Action.Action.Name]; a != nil {
		return a.id
	}
	return 0
}

func (ts *tableSchema) action(te *p4v1.TableEntry, b *dataplane.Bound) {
	if b.Action == nil {
		return
	}
	o := opaqueOf(b)
	te.Metadata, te.ControllerMetadata = o.metadata, o.controller
	a := ts.byName[b.Action.Action.Name]
	if a == nil {
		return
	}
	act := &p4v1.Action{ActionId: a.id}
	for i, p := range a.params {
		act.Params = append(act.Params, &p4v1.Action_Param{ParamId: p.id, Value: canonical(b.Args[i])})
	}
	te.Action = &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: act}}
}

// message returns a match field, or nil if it is one that does not care.
func (f *fieldSchema) message(m *bmv2.Match) *p4v1.FieldMatch {
	fm := &p4v1.FieldMatch{FieldId: f.id}
	switch f.kind {
	case p4config.MatchField_EXACT:
		fm.FieldMatchType = &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: canonical(m.Value)}}
	case p4config.MatchField_LPM:
		if m.PrefixLen == 0 {
			return nil
		}
		fm.FieldMatchType = &p4v1.FieldMatch_Lpm{Lpm: &p4v1.FieldMatch_LPM{Value: canonical(m.Value), PrefixLen: int32(m.PrefixLen)}}
	case p4config.MatchField_TERNARY:
		if isZero(m.Mask) {
			return nil
		}
		fm.FieldMatchType = &p4v1.FieldMatch_Ternary_{Ternary: &p4v1.FieldMatch_Ternary{Value: canonical(m.Value), Mask: canonical(m.Mask)}}
	case p4config.MatchField_OPTIONAL:
		if isZero(m.Mask) {
			return nil
		}
		fm.FieldMatchType = &p4v1.FieldMatch_Optional_{Optional: &p4v1.FieldMatch_Optional{Value: canonical(m.Value)}}
	case p4config.MatchField_RANGE:
		if isZero(m.Value) && bytes.Equal(m.High, ones(f.width)) {
			return nil
		}
		fm.FieldMatchType = &p4v1.FieldMatch_Range_{Range: &p4v1.FieldMatch_Range{Low: canonical(m.Value), High: canonical(m.High)}}
	}
	return fm
}

// readCounters is section 9.3.2.
func (p *pipeline) readCounters(q *p4v1.CounterEntry, out func(part)) error {
	list := p.schema.counters
	if q.GetCounterId() != 0 {
		cs, err := p.counterSchema(q.GetCounterId())
		if err != nil {
			return err
		}
		list = []*counterSchema{cs}
	}
	for _, cs := range list {
		index := q.GetIndex()
		if q.GetCounterId() == 0 {
			index = nil
		}
		from, to, err := cs.span(index)
		if err != nil {
			return err
		}
		c := p.sw.Engine().Counter(cs.name)
		counts := make([]dataplane.Count, to-from)
		for i := range counts {
			counts[i] = c.Get(from + i)
		}
		out(part{len(counts), func(i int) *p4v1.Entity {
			return &p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{
				CounterId: cs.id, Index: &p4v1.Index{Index: int64(from + i)}, Data: counterData(counts[i])}}}
		}})
	}
	return nil
}

// readDirectCounters is section 9.3.1.
func (p *pipeline) readDirectCounters(q *p4v1.DirectCounterEntry, out func(part)) error {
	emit := func(ts *tableSchema, list []snapshot) {
		out(part{len(list), func(i int) *p4v1.Entity {
			te := ts.entry(&list[i], false)
			te = &p4v1.TableEntry{TableId: te.TableId, Match: te.Match, Priority: te.Priority}
			return &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{
				DirectCounterEntry: &p4v1.DirectCounterEntry{TableEntry: te, Data: counterData(list[i].count)}}}
		}})
	}
	te := q.GetTableEntry()
	if te.GetTableId() == 0 {
		for _, ts := range p.schema.tables {
			if ts.directCtr != 0 {
				emit(ts, snapshots(p.table(ts).Entries()))
			}
		}
		return nil
	}
	ts, err := p.tableSchema(te.GetTableId())
	if err != nil {
		return err
	}
	place := fmt.Sprintf("table %q", ts.name)
	switch {
	case ts.directCtr == 0:
		return errorf(codes.InvalidArgument, "%s has no direct counter", place)
	case te.GetIsDefaultAction():
		return errorf(codes.Unimplemented, "%s: misses are not counted", place)
	case len(te.GetMatch()) == 0:
		emit(ts, slices.DeleteFunc(snapshots(p.table(ts).Entries()), func(s snapshot) bool {
			return te.GetPriority() != 0 && int(te.GetPriority()) != s.entry.Priority
		}))
		return nil
	}
	match, prio, err := ts.match(te)
	if err != nil {
		return &placedError{place, err}
	}
	e, err := p.table(ts).Find(match, prio)
	if err != nil {
		return &placedError{place, err}
	}
	emit(ts, snapshots([]*dataplane.Entry{e}))
	return nil
}

// readGroups is section 9.5.1.
func (p *pipeline) readGroups(q *p4v1.MulticastGroupEntry, out func(part)) {
	list := p.sw.Groups()
	if id := q.GetMulticastGroupId(); id != 0 {
		list = nil
		if g := p.sw.Group(id); g != nil {
			list = append(list, g)
		}
	}
	out(part{len(list), func(i int) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{
			PacketReplicationEngineEntry: &p4v1.PacketReplicationEngineEntry{
				Type: &p4v1.PacketReplicationEngineEntry_MulticastGroupEntry{MulticastGroupEntry: list[i].Opaque.(*p4v1.MulticastGroupEntry)}}}}
	}})
}
