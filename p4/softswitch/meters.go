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

// Meters, direct and indirect, are section 9.4 of P4Runtime 1.5.

// A meterSchema is a meter. That of a direct one has no size.
type meterSchema struct {
	id uint32
	array
	typ p4config.MeterSpec_Type
}

// newMeterType checks what direct and indirect meters have in common.
func newMeterType(def *bmv2.MeterArray, p *p4config.Preamble, spec *p4config.MeterSpec) (*meterSchema, error) {
	ms := &meterSchema{id: p.GetId(), array: array{kind: "meter", name: p.GetName()}, typ: spec.GetType()}
	if (spec.GetUnit() == p4config.MeterSpec_BYTES) != def.Bytes || spec.GetUnit() == p4config.MeterSpec_UNSPECIFIED {
		unit := "packets"
		if def.Bytes {
			unit = "bytes"
		}
		return nil, fmt.Errorf("its unit is %v, the program's %s", spec.GetUnit(), unit)
	}
	switch ms.typ {
	case p4config.MeterSpec_TWO_RATE_THREE_COLOR, p4config.MeterSpec_SINGLE_RATE_TWO_COLOR:
	default:
		return nil, fmt.Errorf("type %v is %w", ms.typ, bmv2.ErrUnsupported)
	}
	return ms, nil
}

func newMeterSchema(prog *bmv2.Program, m *p4config.Meter) (*meterSchema, error) {
	for _, d := range prog.Meters {
		if d.Name != m.GetPreamble().GetName() {
			continue
		}
		if d.Direct {
			return nil, errors.New("in the program it is direct")
		}
		if int64(d.Size) != m.GetSize() {
			return nil, fmt.Errorf("size %d, the program has %d", m.GetSize(), d.Size)
		}
		ms, err := newMeterType(d, m.GetPreamble(), m.GetSpec())
		if err != nil {
			return nil, err
		}
		ms.size = d.Size
		return ms, nil
	}
	return nil, errors.New("the program has no such meter")
}

// config reads a configuration; nil is the default one, with which all is green.
func (ms *meterSchema) config(c *p4v1.MeterConfig) (*dataplane.MeterConfig, error) {
	if c == nil {
		return nil, nil
	}
	if c.GetCir() < 0 || c.GetCburst() < 0 || c.GetPir() < 0 || c.GetPburst() < 0 {
		return nil, errorf(codes.InvalidArgument, "a meter's rate or burst is negative")
	}
	if c.GetEburst() != 0 {
		return nil, errorf(codes.InvalidArgument, "eburst is for meters of type SINGLE_RATE_THREE_COLOR")
	}
	if ms.typ == p4config.MeterSpec_SINGLE_RATE_TWO_COLOR && (c.GetPir() != c.GetCir() || c.GetPburst() != c.GetCburst()) {
		return nil, errorf(codes.InvalidArgument, "a meter of type %v needs a pir and pburst that are its cir and cburst", ms.typ)
	}
	return &dataplane.MeterConfig{CIR: uint64(c.GetCir()), CBurst: uint64(c.GetCburst()),
		PIR: uint64(c.GetPir()), PBurst: uint64(c.GetPburst())}, nil
}

func meterConfig(c *dataplane.MeterConfig) *p4v1.MeterConfig {
	if c == nil {
		return nil
	}
	return &p4v1.MeterConfig{Cir: int64(c.CIR), Cburst: int64(c.CBurst), Pir: int64(c.PIR), Pburst: int64(c.PBurst)}
}

// clearing reads counter_data of a write: it can clear the counts of all colours, and
// nothing else. Unset it leaves them: then the result is nil.
func clearing(d *p4v1.MeterCounterData) (*[3]dataplane.Count, error) {
	if d == nil {
		return nil, nil
	}
	for _, c := range []*p4v1.CounterData{d.GetGreen(), d.GetYellow(), d.GetRed()} {
		if c.GetPacketCount() != 0 || c.GetByteCount() != 0 {
			return nil, errorf(codes.InvalidArgument, "the counts of a meter can only be set to 0")
		}
	}
	return &[3]dataplane.Count{}, nil
}

func meterCounts(c [3]dataplane.Count) *p4v1.MeterCounterData {
	return &p4v1.MeterCounterData{Green: counterData(c[dataplane.Green]),
		Yellow: counterData(c[dataplane.Yellow]), Red: counterData(c[dataplane.Red])}
}

// writeMeter is section 9.4.2.
func (p *pipeline) writeMeter(typ p4v1.Update_Type, e *p4v1.MeterEntry) error {
	if err := onlyModify(typ, "meter"); err != nil {
		return err
	}
	ms, err := p.schema.meters.get(e.GetMeterId())
	if err != nil {
		return err
	}
	from, to, err := ms.span(e.GetIndex())
	if err != nil {
		return err
	}
	place := fmt.Sprintf("meter %q", ms.name)
	config, err := ms.config(e.GetConfig())
	if err != nil {
		return &placedError{place, err}
	}
	counts, err := clearing(e.GetCounterData())
	if err != nil {
		return &placedError{place, err}
	}
	m := p.sw.Engine().Meter(ms.name)
	for i := from; i < to; i++ {
		if err := m.Set(i, config); err != nil {
			return &placedError{place, err}
		}
		if counts != nil {
			m.Cell(i).SetCounts(*counts)
		}
	}
	return nil
}

// readMeters is section 9.4.2. The counts of colours are told if they are asked for.
func (p *pipeline) readMeters(q *p4v1.MeterEntry, out func(part)) error {
	list, err := p.schema.meters.some(q.GetMeterId())
	if err != nil {
		return err
	}
	for _, ms := range list {
		index := q.GetIndex()
		if q.GetMeterId() == 0 {
			index = nil
		}
		from, to, err := ms.span(index)
		if err != nil {
			return err
		}
		m := p.sw.Engine().Meter(ms.name)
		entries := make([]*p4v1.MeterEntry, to-from)
		for i := range entries {
			cell := m.Cell(from + i)
			e := &p4v1.MeterEntry{MeterId: ms.id, Index: &p4v1.Index{Index: int64(from + i)}, Config: meterConfig(cell.Config())}
			if q.GetCounterData() != nil {
				e.CounterData = meterCounts(cell.Counts())
			}
			entries[i] = e
		}
		out(part{len(entries), func(i int) *p4v1.Entity {
			return &p4v1.Entity{Entity: &p4v1.Entity_MeterEntry{MeterEntry: entries[i]}}
		}})
	}
	return nil
}

// writeDirectMeter is section 9.4.1.
func (p *pipeline) writeDirectMeter(typ p4v1.Update_Type, e *p4v1.DirectMeterEntry) error {
	if err := onlyModify(typ, "direct meter"); err != nil {
		return err
	}
	ts, place, err := p.owner(e.GetTableEntry(), meterResource)
	if err != nil {
		return err
	}
	d := dataplane.Direct{SetMeter: true}
	if d.Meter, err = ts.directMtr.config(e.GetConfig()); err != nil {
		return &placedError{place, err}
	}
	if d.MeterCounts, err = clearing(e.GetCounterData()); err != nil {
		return &placedError{place, err}
	}
	return p.writeDirect(e.GetTableEntry(), meterResource, d)
}

// readDirectMeters is section 9.4.1.
func (p *pipeline) readDirectMeters(q *p4v1.DirectMeterEntry, out func(part)) error {
	return p.readDirect(q.GetTableEntry(), meterResource, out, func(s *snapshot, key *p4v1.TableEntry) *p4v1.Entity {
		e := &p4v1.DirectMeterEntry{TableEntry: key, Config: meterConfig(s.meter)}
		if q.GetCounterData() != nil {
			e.CounterData = meterCounts(s.colours)
		}
		return &p4v1.Entity{Entity: &p4v1.Entity_DirectMeterEntry{DirectMeterEntry: e}}
	})
}
