// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"errors"
	"fmt"
	"slices"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// A schema joins a P4Info with the program that it describes: what the ids of
// P4Runtime messages stand for. It is immutable.
type schema struct {
	tables    []*tableSchema // in the order of the P4Info
	tableIDs  map[uint32]*tableSchema
	profiles  index[*profileSchema]
	counters  index[*counterSchema]
	meters    index[*meterSchema]
	registers index[*registerSchema]
	valueSets index[*valueSetSchema]
	digests   index[*digestSchema]

	packetIn, packetOut *packetHeader // nil: the program has none
}

// An index holds the objects of one kind of a P4Info.
type index[T any] struct {
	kind  string // such as "counter"
	field string // the field of a message that names one, such as "counter_id"
	list  []T    // in the order of the P4Info
	ids   map[uint32]T
}

// add reads one object more.
func (x *index[T]) add(p *p4config.Preamble, read func() (T, error)) error {
	at := func(err error) error { return fmt.Errorf("P4Info: %s %q: %w", x.kind, p.GetName(), err) }
	if p.GetId() == 0 {
		return at(errors.New("its id is 0"))
	}
	if _, twice := x.ids[p.GetId()]; twice {
		return at(fmt.Errorf("another one has the id %d too", p.GetId()))
	}
	v, err := read()
	if err != nil {
		return at(err)
	}
	if x.ids == nil {
		x.ids = map[uint32]T{}
	}
	x.ids[p.GetId()] = v
	x.list = append(x.list, v)
	return nil
}

// get returns the object with an id, as an update names it.
func (x *index[T]) get(id uint32) (T, error) {
	v, ok := x.ids[id]
	switch {
	case ok:
		return v, nil
	case id == 0:
		return v, errorf(codes.InvalidArgument, "no %s", x.field)
	}
	return v, errorf(codes.NotFound, "no %s with id %#x", x.kind, id)
}

// some returns the object with an id, or all of them for 0, as a query names them.
func (x *index[T]) some(id uint32) ([]T, error) {
	if id == 0 {
		return x.list, nil
	}
	v, err := x.get(id)
	return []T{v}, err
}

type tableSchema struct {
	id   uint32
	name string
	def  *bmv2.Table
	matchSchema
	actions actionSet

	priority     bool     // entries must have one
	direct       []uint32 // ids of its direct resources
	directCtr    uint32
	directMtr    *meterSchema   // nil: the table has none
	profile      *profileSchema // nil: its entries have the actions themselves
	timeouts     bool           // entries may have an idle timeout
	constDefault bool
	constEntries bool
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
	s := &schema{
		tableIDs:  map[uint32]*tableSchema{},
		profiles:  index[*profileSchema]{kind: "action profile", field: "action_profile_id"},
		counters:  index[*counterSchema]{kind: "counter", field: "counter_id"},
		meters:    index[*meterSchema]{kind: "meter", field: "meter_id"},
		registers: index[*registerSchema]{kind: "register", field: "register_id"},
		valueSets: index[*valueSetSchema]{kind: "value set", field: "value_set_id"},
		digests:   index[*digestSchema]{kind: "digest", field: "digest_id"},
	}
	if a := info.GetPkgInfo().GetArch(); a != "" && a != "v1model" {
		return nil, fmt.Errorf("P4Info: architecture %q, this switch has v1model", a)
	}
	if len(info.GetExterns()) > 0 {
		return nil, fmt.Errorf("P4Info: an extern is %w", bmv2.ErrUnsupported)
	}
	for _, t := range info.GetTables() {
		if len(t.GetMatchFields()) == 0 && tableNamed(prog, t.GetPreamble().GetName()) == nil {
			continue // p4c has found that it does nothing
		}
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
	if err := s.objects(info, prog); err != nil {
		return nil, err
	}
	if err := s.direct(info); err != nil {
		return nil, err
	}
	for _, m := range info.GetControllerPacketMetadata() {
		h, err := newPacketHeader(prog, info, m)
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

// objects reads what is no table and belongs to no table alone.
func (s *schema) objects(info *p4config.P4Info, prog *bmv2.Program) error {
	for _, x := range info.GetActionProfiles() {
		if len(x.GetTableIds()) == 0 {
			continue // no table has it, nor does the program then
		}
		if err := s.profiles.add(x.GetPreamble(), func() (*profileSchema, error) { return s.newProfileSchema(prog, x) }); err != nil {
			return err
		}
	}
	for _, x := range info.GetCounters() {
		if err := s.counters.add(x.GetPreamble(), func() (*counterSchema, error) { return newCounterSchema(prog, x) }); err != nil {
			return err
		}
	}
	for _, x := range info.GetMeters() {
		if err := s.meters.add(x.GetPreamble(), func() (*meterSchema, error) { return newMeterSchema(prog, x) }); err != nil {
			return err
		}
	}
	for _, x := range info.GetRegisters() {
		if err := s.registers.add(x.GetPreamble(), func() (*registerSchema, error) { return newRegisterSchema(prog, info, x) }); err != nil {
			return err
		}
	}
	for _, x := range info.GetValueSets() {
		if err := s.valueSets.add(x.GetPreamble(), func() (*valueSetSchema, error) { return newValueSetSchema(prog, info, x) }); err != nil {
			return err
		}
	}
	for _, x := range info.GetDigests() {
		if err := s.digests.add(x.GetPreamble(), func() (*digestSchema, error) { return newDigestSchema(prog, info, x) }); err != nil {
			return err
		}
	}
	for _, ts := range s.tables {
		if ts.def.Profile != nil && ts.profile == nil {
			return fmt.Errorf("P4Info: table %q has the action profile %q in the program, but in no action profile's table_ids", ts.name, ts.def.Profile.Name)
		}
	}
	return nil
}

// direct joins direct counters and meters with their tables.
func (s *schema) direct(info *p4config.P4Info) error {
	owned := map[uint32]bool{}
	owner := func(kind string, p *p4config.Preamble, table uint32) (*tableSchema, error) {
		ts := s.tableIDs[table]
		if ts == nil {
			return nil, fmt.Errorf("P4Info: direct %s %q: no table with id %d", kind, p.GetName(), table)
		}
		if !slices.Contains(ts.direct, p.GetId()) || owned[p.GetId()] {
			return nil, fmt.Errorf("P4Info: direct %s %q is not that of table %q", kind, p.GetName(), ts.name)
		}
		owned[p.GetId()] = true
		return ts, nil
	}
	for _, c := range info.GetDirectCounters() {
		ts, err := owner("counter", c.GetPreamble(), c.GetDirectTableId())
		if err != nil {
			return err
		}
		if ts.directCtr != 0 || !ts.def.WithCounters {
			return fmt.Errorf("P4Info: direct counter %q is not that of table %q", c.GetPreamble().GetName(), ts.name)
		}
		ts.directCtr = c.GetPreamble().GetId()
	}
	for _, m := range info.GetDirectMeters() {
		ts, err := owner("meter", m.GetPreamble(), m.GetDirectTableId())
		if err != nil {
			return err
		}
		if ts.directMtr != nil || ts.def.Meter == nil || ts.def.Meter.Name != m.GetPreamble().GetName() {
			return fmt.Errorf("P4Info: direct meter %q is not that of table %q", m.GetPreamble().GetName(), ts.name)
		}
		if ts.directMtr, err = newMeterType(ts.def.Meter, m.GetPreamble(), m.GetSpec()); err != nil {
			return fmt.Errorf("P4Info: direct meter %q: %w", m.GetPreamble().GetName(), err)
		}
	}
	for _, ts := range s.tables {
		for _, id := range ts.direct {
			if !owned[id] {
				return fmt.Errorf("P4Info: table %q: direct resource %d is %w", ts.name, id, bmv2.ErrUnsupported)
			}
		}
	}
	return nil
}

// tableNamed returns the program's table of that name, or nil.
func tableNamed(prog *bmv2.Program, name string) *bmv2.Table {
	for _, p := range prog.Pipelines {
		for _, d := range p.Tables {
			if d.Name == name {
				return d
			}
		}
	}
	return nil
}

func newTableSchema(info *p4config.P4Info, prog *bmv2.Program, t *p4config.Table) (*tableSchema, error) {
	ts := &tableSchema{
		id: t.GetPreamble().GetId(), name: t.GetPreamble().GetName(),
		actions:      actionSet{map[uint32]*actionSchema{}, map[string]*actionSchema{}},
		constEntries: t.GetIsConstTable(),
	}
	if ts.id == 0 {
		return nil, fmt.Errorf("its id is 0")
	}
	if ts.def = tableNamed(prog, ts.name); ts.def == nil {
		return nil, fmt.Errorf("the program has no such table")
	}
	if len(t.GetMatchFields()) != len(ts.def.Key) {
		return nil, fmt.Errorf("%d match fields, the program has %d", len(t.GetMatchFields()), len(ts.def.Key))
	}
	for i, f := range t.GetMatchFields() {
		k := &ts.def.Key[i]
		fs, err := newFieldSchema(f)
		if err == nil {
			err = fs.sameAs(k, info.GetTypeInfo())
		}
		if err != nil {
			return nil, fmt.Errorf("match field %q: %w", f.GetName(), err)
		}
		if err := ts.add(fs); err != nil {
			return nil, fmt.Errorf("match field %q: %w", fs.name, err)
		}
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
		ts.actions.ids[a.id] = a
		ts.actions.names[a.name] = a
	}
	if len(ts.actions.ids) != len(ts.def.Actions) {
		return nil, fmt.Errorf("%d actions, the program has %d", len(ts.actions.ids), len(ts.def.Actions))
	}
	if id := t.GetConstDefaultActionId(); id != 0 {
		a := ts.actions.ids[id]
		if a == nil {
			return nil, fmt.Errorf("const default action %d is none of its actions", id)
		}
		// The program has none for tables with an action profile.
		d := ts.def.Default
		if none := d == nil && ts.def.Profile != nil && a.name == "NoAction"; !none && (d == nil || !d.Const || d.Call.Action.Action.Name != a.name) {
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
	if !ts.constEntries && ts.def.ConstEntries && t.GetHasInitialEntries() {
		// Section 9.1.5. The program's JSON cannot tell these from constant ones, nor
		// those among them that are declared const, and has no room for others.
		ts.def.ConstEntries = false
		ts.def.Size = max(ts.def.Size, int(t.GetSize()))
	}
	ts.constEntries = ts.constEntries || ts.def.ConstEntries
	ts.direct = t.GetDirectResourceIds()
	if t.GetIdleTimeoutBehavior() != p4config.Table_NO_TIMEOUT {
		if ts.timeouts = ts.def.WithTimeout; !ts.timeouts {
			return nil, fmt.Errorf("it has idle timeouts, in the program it has none")
		}
	}
	return ts, nil
}

func newPacketHeader(prog *bmv2.Program, info *p4config.P4Info, m *p4config.ControllerPacketMetadata) (*packetHeader, error) {
	h := &packetHeader{}
	bits := 0
	seen := map[uint32]bool{}
	for _, f := range m.GetMetadata() {
		pf := packetField{id: f.GetId(), name: f.GetName(), width: int(f.GetBitwidth())}
		if translated(f.GetTypeName(), info.GetTypeInfo()) != nil {
			have, err := headerField(prog, m, pf.name)
			if err == nil {
				pf.width, err = programWidth(pf.width, have, f.GetTypeName(), info.GetTypeInfo())
			}
			if err != nil {
				return nil, fmt.Errorf("field %q: %w", pf.name, err)
			}
		}
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

// headerField finds the width that the program has for a field of a controller header:
// that of the only header type with fields of these names.
func headerField(prog *bmv2.Program, m *p4config.ControllerPacketMetadata, name string) (int, error) {
	var names []string
	for _, f := range m.GetMetadata() {
		names = append(names, f.GetName())
	}
	width := 0
	for _, t := range prog.HeaderTypes {
		if len(t.Fields) != len(names) {
			continue
		}
		found := 0
		for i := range t.Fields {
			if t.Fields[i].Name != names[i] {
				break
			}
			if names[i] == name {
				found = t.Fields[i].Width
			}
			if i == len(names)-1 {
				if width != 0 && width != found {
					return 0, fmt.Errorf("there are several header types with its fields: %w", bmv2.ErrUnsupported)
				}
				width = found
			}
		}
	}
	if width == 0 {
		return 0, errors.New("the program has no header with these fields")
	}
	return width, nil
}
