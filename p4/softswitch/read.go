// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
	"github.com/understudy-net/understudy/p4/v1model"
)

// query answers one element of a read request.
func (p *pipeline) query(e *p4v1.Entity, out func(*p4v1.Entity)) error {
	switch e := e.GetEntity().(type) {
	case *p4v1.Entity_TableEntry:
		return p.readTableEntries(e.TableEntry, func(t *p4v1.TableEntry) {
			out(&p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: t}})
		})
	case *p4v1.Entity_CounterEntry:
		return p.readCounters(e.CounterEntry, func(c *p4v1.CounterEntry) {
			out(&p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: c}})
		})
	case *p4v1.Entity_DirectCounterEntry:
		return p.readDirectCounters(e.DirectCounterEntry, func(c *p4v1.DirectCounterEntry) {
			out(&p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: c}})
		})
	case *p4v1.Entity_PacketReplicationEngineEntry:
		switch t := e.PacketReplicationEngineEntry.GetType().(type) {
		case *p4v1.PacketReplicationEngineEntry_MulticastGroupEntry:
			p.readGroups(t.MulticastGroupEntry, func(g *p4v1.MulticastGroupEntry) {
				out(&p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{
					PacketReplicationEngineEntry: &p4v1.PacketReplicationEngineEntry{
						Type: &p4v1.PacketReplicationEngineEntry_MulticastGroupEntry{MulticastGroupEntry: g}}}})
			})
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

// readTableEntries is section 9.1.6.
func (p *pipeline) readTableEntries(q *p4v1.TableEntry, out func(*p4v1.TableEntry)) error {
	withCount := q.GetCounterData() != nil
	if q.GetTableId() == 0 {
		for _, ts := range p.schema.tables {
			for _, e := range p.table(ts).Entries() {
				out(ts.entry(e, withCount))
			}
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
		e := &p4v1.TableEntry{TableId: ts.id, IsDefaultAction: true}
		ts.action(e, t.Default())
		out(e)
		return nil
	}
	entries := t.Entries()
	if len(q.GetMatch()) > 0 {
		match, prio, err := ts.match(q)
		if err != nil {
			return &placedError{fmt.Sprintf("table %q", ts.name), err}
		}
		entries = nil
		if e, err := t.Find(match, prio); err == nil {
			entries = append(entries, e)
		}
	}
	for _, e := range entries {
		te := ts.entry(e, withCount)
		if selected(q, te) {
			out(te)
		}
	}
	return nil
}

// selected applies the filters of a query that are not the key.
func selected(q, e *p4v1.TableEntry) bool {
	if q.GetPriority() != 0 && q.GetPriority() != e.GetPriority() {
		return false
	}
	if q.GetControllerMetadata() != 0 && q.GetControllerMetadata() != e.GetControllerMetadata() {
		return false
	}
	if len(q.GetMetadata()) > 0 && !bytes.Equal(q.GetMetadata(), e.GetMetadata()) {
		return false
	}
	id := q.GetAction().GetAction().GetActionId()
	return id == 0 || id == e.GetAction().GetAction().GetActionId()
}

// entry returns an entry as a client would have written it.
func (ts *tableSchema) entry(e *dataplane.Entry, withCount bool) *p4v1.TableEntry {
	te := &p4v1.TableEntry{TableId: ts.id, Priority: int32(e.Priority), IsConst: e.Const}
	for i, f := range ts.fields {
		if m := f.message(&e.Match[i]); m != nil {
			te.Match = append(te.Match, m)
		}
	}
	ts.action(te, e.Bound())
	if withCount && ts.directCtr != 0 {
		te.CounterData = counterData(e.Counter())
	}
	return te
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
func (p *pipeline) readCounters(q *p4v1.CounterEntry, out func(*p4v1.CounterEntry)) error {
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
		for i := from; i < to; i++ {
			out(&p4v1.CounterEntry{CounterId: cs.id, Index: &p4v1.Index{Index: int64(i)}, Data: counterData(c.Get(i))})
		}
	}
	return nil
}

// readDirectCounters is section 9.3.1.
func (p *pipeline) readDirectCounters(q *p4v1.DirectCounterEntry, out func(*p4v1.DirectCounterEntry)) error {
	emit := func(ts *tableSchema, e *dataplane.Entry) {
		te := ts.entry(e, false)
		te = &p4v1.TableEntry{TableId: te.TableId, Match: te.Match, Priority: te.Priority}
		out(&p4v1.DirectCounterEntry{TableEntry: te, Data: counterData(e.Counter())})
	}
	te := q.GetTableEntry()
	if te.GetTableId() == 0 {
		for _, ts := range p.schema.tables {
			if ts.directCtr == 0 {
				continue
			}
			for _, e := range p.table(ts).Entries() {
				emit(ts, e)
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
		for _, e := range p.table(ts).Entries() {
			if te.GetPriority() == 0 || int(te.GetPriority()) == e.Priority {
				emit(ts, e)
			}
		}
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
	emit(ts, e)
	return nil
}

// readGroups is section 9.5.1.
func (p *pipeline) readGroups(q *p4v1.MulticastGroupEntry, out func(*p4v1.MulticastGroupEntry)) {
	emit := func(g *v1model.Group) {
		if m, ok := g.Opaque.(*p4v1.MulticastGroupEntry); ok {
			out(m)
		}
	}
	if id := q.GetMulticastGroupId(); id != 0 {
		if g := p.sw.Group(id); g != nil {
			emit(g)
		}
		return
	}
	for _, g := range p.sw.Groups() {
		emit(g)
	}
}
