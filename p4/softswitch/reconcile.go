// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"fmt"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
)

// preserve gives p, which is new, the forwarding state of old (P4Runtime 1.5, section
// 14, RECONCILE_AND_COMMIT): what was written, as if it were written again, what packets
// wrote to registers, and, where the new program has them, the counts. Objects are found
// again by their ids. The error says what the new program cannot have. What packets
// change meanwhile in the old state is lost, and idle entries begin to wait anew.
func (p *pipeline) preserve(old *pipeline) error {
	for _, ts := range old.schema.tables {
		if next := p.schema.tableIDs[ts.id]; next != nil && !next.constEntries {
			p.clear(next)
		}
	}
	// Each kind after those that it refers to.
	for _, q := range []*p4v1.Entity{
		{Entity: &p4v1.Entity_ActionProfileMember{ActionProfileMember: &p4v1.ActionProfileMember{}}},
		{Entity: &p4v1.Entity_ActionProfileGroup{ActionProfileGroup: &p4v1.ActionProfileGroup{}}},
		{Entity: &p4v1.Entity_TableEntry{TableEntry: &p4v1.TableEntry{CounterData: &p4v1.CounterData{}, MeterConfig: &p4v1.MeterConfig{}}}},
		replicationEntity(&p4v1.PacketReplicationEngineEntry{Type: &p4v1.PacketReplicationEngineEntry_MulticastGroupEntry{MulticastGroupEntry: &p4v1.MulticastGroupEntry{}}}),
		replicationEntity(&p4v1.PacketReplicationEngineEntry{Type: &p4v1.PacketReplicationEngineEntry_CloneSessionEntry{CloneSessionEntry: &p4v1.CloneSessionEntry{}}}),
		{Entity: &p4v1.Entity_DigestEntry{DigestEntry: &p4v1.DigestEntry{}}},
		{Entity: &p4v1.Entity_ValueSetEntry{ValueSetEntry: &p4v1.ValueSetEntry{}}},
		{Entity: &p4v1.Entity_MeterEntry{MeterEntry: &p4v1.MeterEntry{}}},
		{Entity: &p4v1.Entity_RegisterEntry{RegisterEntry: &p4v1.RegisterEntry{}}},
		{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{}}},
	} {
		if err := p.copyAll(old, q); err != nil {
			return err
		}
	}
	for _, ts := range old.schema.tables {
		if !old.table(ts).DefaultChanged() {
			continue
		}
		q := &p4v1.TableEntry{TableId: ts.id, IsDefaultAction: true, CounterData: &p4v1.CounterData{}, MeterConfig: &p4v1.MeterConfig{}}
		if err := p.copyAll(old, &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: q}}); err != nil {
			return err
		}
	}
	return nil
}

// clear takes the program's own entries out of a table.
func (p *pipeline) clear(ts *tableSchema) {
	t := p.table(ts)
	for _, e := range t.Entries() {
		t.Delete(e.Match, e.Priority)
	}
}

// copyAll writes to p what a query finds in old.
func (p *pipeline) copyAll(old *pipeline, q *p4v1.Entity) (err error) {
	failed := old.query(q, func(found part) {
		for i := 0; i < found.n && err == nil; i++ {
			e := found.at(i)
			if typ, ok := p.copied(e); ok {
				if err = p.update(&p4v1.Update{Type: typ, Entity: e}); err != nil {
					err = fmt.Errorf("the state cannot be preserved: %s: %w", entityName(e), err)
				}
			}
		}
	})
	if err == nil {
		err = failed
	}
	return err
}

// copied tells how an entity is written again, or that it is not to be: it is the
// program's, or what it would be without.
func (p *pipeline) copied(e *p4v1.Entity) (typ p4v1.Update_Type, ok bool) {
	switch e := e.GetEntity().(type) {
	case *p4v1.Entity_TableEntry:
		te := e.TableEntry
		if ts := p.schema.tableIDs[te.GetTableId()]; ts != nil && ts.directCtr == 0 {
			te.CounterData = nil
		}
		if te.GetIsDefaultAction() {
			return p4v1.Update_MODIFY, true
		}
		return p4v1.Update_INSERT, !te.GetIsConst()
	case *p4v1.Entity_ValueSetEntry:
		return p4v1.Update_MODIFY, len(e.ValueSetEntry.GetMembers()) > 0
	case *p4v1.Entity_MeterEntry:
		return p4v1.Update_MODIFY, e.MeterEntry.GetConfig() != nil
	case *p4v1.Entity_RegisterEntry:
		return p4v1.Update_MODIFY, !zeroData(e.RegisterEntry.GetData())
	case *p4v1.Entity_CounterEntry:
		d := e.CounterEntry.GetData()
		c := p.schema.counters.ids[e.CounterEntry.GetCounterId()]
		return p4v1.Update_MODIFY, c != nil && e.CounterEntry.GetIndex().GetIndex() < int64(c.size) &&
			(d.GetPacketCount() != 0 || d.GetByteCount() != 0)
	}
	return p4v1.Update_INSERT, true
}

// zeroData tells whether a register's cell is what it is at first.
func zeroData(d *p4v1.P4Data) bool {
	switch d := d.GetData().(type) {
	case *p4v1.P4Data_Bitstring:
		return isZero(d.Bitstring)
	case *p4v1.P4Data_EnumValue:
		return isZero(d.EnumValue)
	case *p4v1.P4Data_Bool:
		return !d.Bool
	}
	return false
}
