// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
)

// ROLLBACK_ON_ERROR (P4Runtime 1.5, section 12.2): what a batch has done is undone, last
// update first, when one of it fails. Packets see each step. The counts of a meter's
// colours, the time since an entry was hit and the digests that wait do not come back.

// rollback executes updates with one until one fails; then it undoes those before it
// and returns an error for each.
func (p *pipeline) rollback(updates []*p4v1.Update, one func(*p4v1.Update) error) []error {
	errs := make([]error, len(updates))
	var done [][]*p4v1.Update // what undoes each update
	for i, u := range updates {
		undo := p.undo(u)
		err := one(u)
		if err == nil {
			done = append(done, undo)
			continue
		}
		for j := range errs {
			errs[j] = errorf(codes.Aborted, "update %d of the batch has failed", i)
		}
		errs[i] = err
		for j := len(done) - 1; j >= 0; j-- {
			for _, u := range done[j] {
				if err := p.update(u); err != nil {
					errs[j] = errorf(codes.Internal, "update %d of the batch has failed, and this one cannot be undone: %v", i, err)
				}
			}
		}
		break
	}
	return errs
}

// undo returns the updates that undo u, which is not yet executed. If u cannot be
// executed it does not matter what they are.
func (p *pipeline) undo(u *p4v1.Update) []*p4v1.Update {
	if u.GetType() == p4v1.Update_INSERT {
		return []*p4v1.Update{{Type: p4v1.Update_DELETE, Entity: u.GetEntity()}}
	}
	typ := p4v1.Update_MODIFY
	if u.GetType() == p4v1.Update_DELETE {
		typ = p4v1.Update_INSERT
	}
	var out []*p4v1.Update
	for _, e := range p.current(u.GetEntity()) {
		out = append(out, &p4v1.Update{Type: typ, Entity: e})
	}
	return out
}

// current returns what an entity, named by its key, is now, in the order in which it
// can be written.
func (p *pipeline) current(e *p4v1.Entity) (out []*p4v1.Entity) {
	if te := e.GetTableEntry(); te != nil {
		return p.currentEntry(te)
	}
	if wildcard(e) {
		return nil
	}
	p.query(e, func(found part) {
		for i := range found.n {
			out = append(out, found.at(i))
		}
	})
	return out
}

// wildcard tells whether an entity, as a query, would name more than it does as an
// update.
func wildcard(e *p4v1.Entity) bool {
	switch e := e.GetEntity().(type) {
	case *p4v1.Entity_ActionProfileMember:
		return e.ActionProfileMember.GetActionProfileId() == 0 || e.ActionProfileMember.GetMemberId() == 0
	case *p4v1.Entity_ActionProfileGroup:
		return e.ActionProfileGroup.GetActionProfileId() == 0 || e.ActionProfileGroup.GetGroupId() == 0
	case *p4v1.Entity_MeterEntry:
		return e.MeterEntry.GetMeterId() == 0
	case *p4v1.Entity_CounterEntry:
		return e.CounterEntry.GetCounterId() == 0
	case *p4v1.Entity_RegisterEntry:
		return e.RegisterEntry.GetRegisterId() == 0
	case *p4v1.Entity_ValueSetEntry:
		return e.ValueSetEntry.GetValueSetId() == 0
	case *p4v1.Entity_DigestEntry:
		return e.DigestEntry.GetDigestId() == 0
	case *p4v1.Entity_DirectMeterEntry:
		return wildcardKey(e.DirectMeterEntry.GetTableEntry())
	case *p4v1.Entity_DirectCounterEntry:
		return wildcardKey(e.DirectCounterEntry.GetTableEntry())
	case *p4v1.Entity_PacketReplicationEngineEntry:
		x := e.PacketReplicationEngineEntry
		return x.GetMulticastGroupEntry().GetMulticastGroupId() == 0 && x.GetCloneSessionEntry().GetSessionId() == 0
	}
	return true
}

// wildcardKey is about the key of a direct resource. One of an entry that matches
// everything cannot be told from all of its table (section 9.1.6), which is as good.
func wildcardKey(e *p4v1.TableEntry) bool { return e.GetTableId() == 0 }

// currentEntry is current for an entry of a table.
func (p *pipeline) currentEntry(te *p4v1.TableEntry) []*p4v1.Entity {
	ts := p.schema.tableIDs[te.GetTableId()]
	if ts == nil {
		return nil
	}
	t := p.table(ts)
	all := &p4v1.TableEntry{CounterData: &p4v1.CounterData{}, MeterConfig: &p4v1.MeterConfig{}}
	entity := func(e *p4v1.TableEntry) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: e}}
	}
	if !te.GetIsDefaultAction() {
		match, prio, err := ts.match(te)
		if err != nil {
			return nil
		}
		e, err := t.Find(match, prio)
		if err != nil {
			return nil
		}
		s := entrySnapshot(t, e)
		out := ts.entry(&s, all)
		if s.entry.Const {
			out.Action, out.IsConst = nil, false // can neither have been changed nor be written
		}
		return []*p4v1.Entity{entity(out)}
	}
	s := defaultSnapshot(t)
	out := ts.entry(&s, all)
	if t.DefaultChanged() {
		return []*p4v1.Entity{entity(out)}
	}
	// The program's own is what there is without an action; what belongs to it is set
	// afterwards.
	list := []*p4v1.Entity{entity(ts.key(&s))}
	if ts.directCtr != 0 {
		list = append(list, &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: &p4v1.DirectCounterEntry{
			TableEntry: ts.key(&s), Data: counterData(s.count)}}})
	}
	if ts.directMtr != nil {
		list = append(list, &p4v1.Entity{Entity: &p4v1.Entity_DirectMeterEntry{DirectMeterEntry: &p4v1.DirectMeterEntry{
			TableEntry: ts.key(&s), Config: meterConfig(s.meter)}}})
	}
	return list
}
