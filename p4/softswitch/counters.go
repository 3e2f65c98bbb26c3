// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"errors"
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
)

// Counters, direct and indirect, are section 9.3 of P4Runtime 1.5.

type counterSchema struct {
	id uint32
	array
}

func newCounterSchema(prog *bmv2.Program, c *p4config.Counter) (*counterSchema, error) {
	cs := &counterSchema{c.GetPreamble().GetId(), array{"counter", c.GetPreamble().GetName(), int(c.GetSize())}}
	for _, d := range prog.Counters {
		if d.Name != cs.name {
			continue
		}
		if d.Direct {
			return nil, errors.New("in the program it is direct")
		}
		if d.Size != cs.size {
			return nil, fmt.Errorf("size %d, the program has %d", cs.size, d.Size)
		}
		return cs, nil
	}
	return nil, errors.New("the program has no such counter")
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

// writeCounter is section 9.3.2.
func (p *pipeline) writeCounter(typ p4v1.Update_Type, e *p4v1.CounterEntry) error {
	if err := onlyModify(typ, "counter"); err != nil {
		return err
	}
	cs, err := p.schema.counters.get(e.GetCounterId())
	if err != nil {
		return err
	}
	from, to, err := cs.span(e.GetIndex())
	if err != nil {
		return err
	}
	if v := countOf(e.GetData()); v != nil {
		c := p.sw.Engine().Counter(cs.name)
		for i := from; i < to; i++ {
			c.Set(i, *v)
		}
	}
	return nil
}

// readCounters is section 9.3.2.
func (p *pipeline) readCounters(q *p4v1.CounterEntry, out func(part)) error {
	list, err := p.schema.counters.some(q.GetCounterId())
	if err != nil {
		return err
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

// writeDirectCounter is section 9.3.1.
func (p *pipeline) writeDirectCounter(typ p4v1.Update_Type, e *p4v1.DirectCounterEntry) error {
	if err := onlyModify(typ, "direct counter"); err != nil {
		return err
	}
	return p.writeDirect(e.GetTableEntry(), counterResource, dataplane.Direct{Count: countOf(e.GetData())})
}

// readDirectCounters is section 9.3.1.
func (p *pipeline) readDirectCounters(q *p4v1.DirectCounterEntry, out func(part)) error {
	return p.readDirect(q.GetTableEntry(), counterResource, out, func(s *snapshot, key *p4v1.TableEntry) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{
			DirectCounterEntry: &p4v1.DirectCounterEntry{TableEntry: key, Data: counterData(s.count)}}}
	})
}

// A directResource is a kind of object that each entry of a table may have.
type directResource struct {
	kind string
	has  func(*tableSchema) bool
}

var (
	counterResource = directResource{"direct counter", func(ts *tableSchema) bool { return ts.directCtr != 0 }}
	meterResource   = directResource{"direct meter", func(ts *tableSchema) bool { return ts.directMtr != nil }}
)

// owner returns the table that an entry of a direct resource names.
func (p *pipeline) owner(e *p4v1.TableEntry, r directResource) (*tableSchema, string, error) {
	ts, err := p.tableSchema(e.GetTableId())
	if err != nil {
		return nil, "", err
	}
	place := fmt.Sprintf("table %q", ts.name)
	if !r.has(ts) {
		return nil, "", errorf(codes.InvalidArgument, "%s has no %s", place, r.kind)
	}
	return ts, place, nil
}

// writeDirect changes what belongs to an entry beside its action.
func (p *pipeline) writeDirect(e *p4v1.TableEntry, r directResource, d dataplane.Direct) error {
	ts, place, err := p.owner(e, r)
	if err != nil {
		return err
	}
	if e.GetIsDefaultAction() {
		if err := defaultKey(e); err != nil {
			return &placedError{place, err}
		}
		return p.table(ts).ModifyDefault(d)
	}
	match, prio, err := ts.match(e)
	if err != nil {
		return &placedError{place, err}
	}
	if err := p.table(ts).ModifyWith(match, prio, nil, d); err != nil {
		return &placedError{place, err}
	}
	return nil
}

// readDirect answers a query for a direct resource: of one entry, of a table, or of
// all tables that have it. message makes the answer for one entry with this key.
func (p *pipeline) readDirect(te *p4v1.TableEntry, r directResource, out func(part), message func(*snapshot, *p4v1.TableEntry) *p4v1.Entity) error {
	emit := func(ts *tableSchema, list []snapshot) {
		out(part{len(list), func(i int) *p4v1.Entity { return message(&list[i], ts.key(&list[i])) }})
	}
	if te.GetTableId() == 0 {
		for _, ts := range p.schema.tables {
			if r.has(ts) {
				emit(ts, snapshots(p.table(ts)))
			}
		}
		return nil
	}
	ts, place, err := p.owner(te, r)
	if err != nil {
		return err
	}
	t := p.table(ts)
	if te.GetIsDefaultAction() {
		if err := defaultKey(te); err != nil {
			return &placedError{place, err}
		}
		emit(ts, []snapshot{defaultSnapshot(t)})
		return nil
	}
	if len(te.GetMatch()) == 0 {
		list := snapshots(t)
		if te.GetPriority() != 0 {
			list = withPriority(list, int(te.GetPriority()))
		}
		emit(ts, list)
		return nil
	}
	match, prio, err := ts.match(te)
	if err != nil {
		return &placedError{place, err}
	}
	e, err := t.Find(match, prio)
	if err != nil {
		return &placedError{place, err}
	}
	emit(ts, []snapshot{entrySnapshot(t, e)})
	return nil
}
