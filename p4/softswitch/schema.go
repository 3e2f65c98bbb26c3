// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"fmt"
	"slices"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// A schema joins a P4Info with the program that it describes: what the ids of
// P4Runtime messages stand for. It is immutable.
type schema struct {
	tables   []*tableSchema // in the order of the P4Info
	counters []*counterSchema
	tableIDs map[uint32]*tableSchema
	ctrIDs   map[uint32]*counterSchema

	packetIn, packetOut *packetHeader // nil: the program has none
}

type tableSchema struct {
	id   uint32
	name string
	def  *bmv2.Table
	// fields are in the order of the program's key.
	fields   []*fieldSchema
	fieldIDs map[uint32]int
	actions  map[uint32]*actionSchema
	byName   map[string]*actionSchema

	priority     bool // entries must have one
	directCtr    uint32
	constDefault bool
	constEntries bool
}

type fieldSchema struct {
	id    uint32
	name  string
	width int
	kind  p4config.MatchField_MatchType
}

type actionSchema struct {
	id     uint32
	name   string
	scope  p4config.ActionRef_Scope
	params []*paramSchema // in the order of the program
	ids    map[uint32]int
}

type paramSchema struct {
	id    uint32
	name  string
	width int
}

type counterSchema struct {
	id   uint32
	name string
	size int
}

// A packetHeader is the header that stands in front of a packet from or to the
// controller.
type packetHeader struct {
	fields []packetField
	bytes  int
}

type packetField struct {
	id    uint32
	name  string
	width int
}

// newSchema checks that info and prog describe the same program.
func newSchema(info *p4config.P4Info, prog *bmv2.Program) (*schema, error) {
	s := &schema{tableIDs: map[uint32]*tableSchema{}, ctrIDs: map[uint32]*counterSchema{}}
	if a := info.GetPkgInfo().GetArch(); a != "" && a != "v1model" {
		return nil, fmt.Errorf("P4Info: architecture %q, this switch has v1model", a)
	}
	if err := refuseUnknown(info); err != nil {
		return nil, err
	}
	for _, t := range info.GetTables() {
		ts, err := newTableSchema(info, prog, t)
		if err != nil {
			return nil, fmt.Errorf("P4Info: table %q: %w", t.GetPreamble().GetName(), err)
		}
		if s.tableIDs[ts.id] != nil {
			return nil, fmt.Errorf("P4Info: two tables with id %d", ts.id)
		}
		s.tables = append(s.tables, ts)
		s.tableIDs[ts.id] = ts
	}
	for _, c := range info.GetCounters() {
		cs, err := newCounterSchema(prog, c)
		if err != nil {
			return nil, fmt.Errorf("P4Info: counter %q: %w", c.GetPreamble().GetName(), err)
		}
		if s.ctrIDs[cs.id] != nil {
			return nil, fmt.Errorf("P4Info: two counters with id %d", cs.id)
		}
		s.counters = append(s.counters, cs)
		s.ctrIDs[cs.id] = cs
	}
	for _, c := range info.GetDirectCounters() {
		ts := s.tableIDs[c.GetDirectTableId()]
		if ts == nil {
			return nil, fmt.Errorf("P4Info: direct counter %q: no table with id %d", c.GetPreamble().GetName(), c.GetDirectTableId())
		}
		if ts.directCtr != c.GetPreamble().GetId() || !ts.def.WithCounters {
			return nil, fmt.Errorf("P4Info: direct counter %q is not that of table %q", c.GetPreamble().GetName(), ts.name)
		}
	}
	for _, m := range info.GetControllerPacketMetadata() {
		h, err := newPacketHeader(m)
		if err != nil {
			return nil, fmt.Errorf("P4Info: controller header %q: %w", m.GetPreamble().GetName(), err)
		}
		switch m.GetPreamble().GetName() {
		case "packet_in":
			s.packetIn = h
		case "packet_out":
			s.packetOut = h
		default:
			return nil, fmt.Errorf("P4Info: controller header %q is %w", m.GetPreamble().GetName(), bmv2.ErrUnsupported)
		}
	}
	return s, nil
}

// refuseUnknown names the first kind of object that this switch does not have.
func refuseUnknown(info *p4config.P4Info) error {
	for _, k := range []struct {
		kind string
		n    int
	}{
		{"action profile", len(info.GetActionProfiles())},
		{"meter", len(info.GetMeters())}, {"direct meter", len(info.GetDirectMeters())},
		{"value set", len(info.GetValueSets())}, {"digest", len(info.GetDigests())},
		{"extern", len(info.GetExterns())},
	} {
		if k.n > 0 {
			return fmt.Errorf("P4Info: a %s is %w", k.kind, bmv2.ErrUnsupported)
		}
	}
	return nil
}

func newTableSchema(info *p4config.P4Info, prog *bmv2.Program, t *p4config.Table) (*tableSchema, error) {
	ts := &tableSchema{
		id: t.GetPreamble().GetId(), name: t.GetPreamble().GetName(),
		fieldIDs: map[uint32]int{}, actions: map[uint32]*actionSchema{}, byName: map[string]*actionSchema{},
		constEntries: t.GetIsConstTable(),
	}
	if ts.id == 0 {
		return nil, fmt.Errorf("its id is 0")
	}
	for _, p := range prog.Pipelines {
		for _, d := range p.Tables {
			if d.Name == ts.name {
				ts.def = d
			}
		}
	}
	if ts.def == nil {
		return nil, fmt.Errorf("the program has no such table")
	}
	if t.GetImplementationId() != 0 {
		return nil, fmt.Errorf("an action profile is %w", bmv2.ErrUnsupported)
	}
	if len(t.GetMatchFields()) != len(ts.def.Key) {
		return nil, fmt.Errorf("%d match fields, the program has %d", len(t.GetMatchFields()), len(ts.def.Key))
	}
	for i, f := range t.GetMatchFields() {
		fs, err := newFieldSchema(f, &ts.def.Key[i])
		if err != nil {
			return nil, fmt.Errorf("match field %q: %w", f.GetName(), err)
		}
		if _, dup := ts.fieldIDs[fs.id]; dup || fs.id == 0 {
			return nil, fmt.Errorf("match field %q: its id %d is not its own", fs.name, fs.id)
		}
		ts.fieldIDs[fs.id] = i
		ts.fields = append(ts.fields, fs)
		switch fs.kind {
		case p4config.MatchField_TERNARY, p4config.MatchField_RANGE, p4config.MatchField_OPTIONAL:
			ts.priority = true
		}
	}
	if ts.priority != (ts.def.Kind >= bmv2.Ternary) {
		return nil, fmt.Errorf("the program matches it as %v", ts.def.Kind)
	}
	for _, ref := range t.GetActionRefs() {
		a, err := newActionSchema(info, ts.def, ref)
		if err != nil {
			return nil, fmt.Errorf("action with id %d: %w", ref.GetId(), err)
		}
		ts.actions[a.id] = a
		ts.byName[a.name] = a
	}
	if len(ts.actions) != len(ts.def.Actions) {
		return nil, fmt.Errorf("%d actions, the program has %d", len(ts.actions), len(ts.def.Actions))
	}
	if id := t.GetConstDefaultActionId(); id != 0 {
		a := ts.actions[id]
		if a == nil {
			return nil, fmt.Errorf("const default action %d is none of its actions", id)
		}
		if d := ts.def.Default; d == nil || !d.Const || d.Call.Action.Action.Name != a.name {
			return nil, fmt.Errorf("const default action %q is not that of the program", a.name)
		}
		ts.constDefault = true
	}
	if d := ts.def.Default; d != nil && d.Const && !ts.constDefault {
		ts.constDefault = true
	}
	if ts.constEntries && !ts.def.ConstEntries && len(ts.def.Entries) > 0 {
		return nil, fmt.Errorf("it is constant, in the program it is not")
	}
	ts.constEntries = ts.constEntries || ts.def.ConstEntries
	for _, id := range t.GetDirectResourceIds() {
		if !slices.ContainsFunc(info.GetDirectCounters(), func(c *p4config.DirectCounter) bool { return c.GetPreamble().GetId() == id }) {
			return nil, fmt.Errorf("direct resource %d is %w", id, bmv2.ErrUnsupported)
		}
		ts.directCtr = id
	}
	return ts, nil
}

func newFieldSchema(f *p4config.MatchField, k *bmv2.KeyElement) (*fieldSchema, error) {
	fs := &fieldSchema{id: f.GetId(), name: f.GetName(), width: int(f.GetBitwidth()), kind: f.GetMatchType()}
	if k.Name != "" && k.Name != fs.name {
		return nil, fmt.Errorf("the program calls it %q", k.Name)
	}
	if fs.width != k.Width {
		return nil, fmt.Errorf("%d bits, the program has %d", fs.width, k.Width)
	}
	want, ok := map[p4config.MatchField_MatchType]bmv2.MatchKind{
		p4config.MatchField_EXACT: bmv2.Exact, p4config.MatchField_LPM: bmv2.LPM,
		p4config.MatchField_TERNARY: bmv2.Ternary, p4config.MatchField_OPTIONAL: bmv2.Ternary,
		p4config.MatchField_RANGE: bmv2.Range,
	}[fs.kind]
	if !ok {
		return nil, fmt.Errorf("match type %v is %w", f.GetMatch(), bmv2.ErrUnsupported)
	}
	if want != k.Kind {
		return nil, fmt.Errorf("match type %v, the program has %v", fs.kind, k.Kind)
	}
	return fs, nil
}

func newActionSchema(info *p4config.P4Info, def *bmv2.Table, ref *p4config.ActionRef) (*actionSchema, error) {
	i := slices.IndexFunc(info.GetActions(), func(a *p4config.Action) bool { return a.GetPreamble().GetId() == ref.GetId() })
	if i < 0 || ref.GetId() == 0 {
		return nil, fmt.Errorf("there is none")
	}
	a := info.GetActions()[i]
	as := &actionSchema{id: ref.GetId(), name: a.GetPreamble().GetName(), scope: ref.GetScope(), ids: map[uint32]int{}}
	ta := def.Action(as.name)
	if ta == nil {
		return nil, fmt.Errorf("%q is none of the program's for this table", as.name)
	}
	if len(a.GetParams()) != len(ta.Action.Params) {
		return nil, fmt.Errorf("%q has %d parameters, the program's has %d", as.name, len(a.GetParams()), len(ta.Action.Params))
	}
	for j, p := range a.GetParams() {
		d := ta.Action.Params[j]
		if p.GetName() != d.Name || int(p.GetBitwidth()) != d.Width {
			return nil, fmt.Errorf("%q: parameter %q of %d bits, the program has %q of %d",
				as.name, p.GetName(), p.GetBitwidth(), d.Name, d.Width)
		}
		if _, dup := as.ids[p.GetId()]; dup || p.GetId() == 0 {
			return nil, fmt.Errorf("%q: id %d of parameter %q is not its own", as.name, p.GetId(), p.GetName())
		}
		as.ids[p.GetId()] = j
		as.params = append(as.params, &paramSchema{p.GetId(), p.GetName(), d.Width})
	}
	return as, nil
}

func newCounterSchema(prog *bmv2.Program, c *p4config.Counter) (*counterSchema, error) {
	cs := &counterSchema{id: c.GetPreamble().GetId(), name: c.GetPreamble().GetName(), size: int(c.GetSize())}
	if cs.id == 0 {
		return nil, fmt.Errorf("its id is 0")
	}
	for _, d := range prog.Counters {
		if d.Name != cs.name {
			continue
		}
		if d.Direct {
			return nil, fmt.Errorf("in the program it is direct")
		}
		if d.Size != cs.size {
			return nil, fmt.Errorf("size %d, the program has %d", cs.size, d.Size)
		}
		return cs, nil
	}
	return nil, fmt.Errorf("the program has no such counter")
}

func newPacketHeader(m *p4config.ControllerPacketMetadata) (*packetHeader, error) {
	h := &packetHeader{}
	bits := 0
	seen := map[uint32]bool{}
	for _, f := range m.GetMetadata() {
		pf := packetField{id: f.GetId(), name: f.GetName(), width: int(f.GetBitwidth())}
		if pf.width < 1 || pf.width > 1<<12 {
			return nil, fmt.Errorf("field %q of %d bits is %w", pf.name, pf.width, bmv2.ErrUnsupported)
		}
		if seen[pf.id] || pf.id == 0 {
			return nil, fmt.Errorf("id %d of field %q is not its own", pf.id, pf.name)
		}
		seen[pf.id] = true
		bits += pf.width
		h.fields = append(h.fields, pf)
	}
	if bits%8 != 0 {
		return nil, fmt.Errorf("%d bits, which is no whole number of bytes", bits)
	}
	h.bytes = bits / 8
	return h, nil
}
