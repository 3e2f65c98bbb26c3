// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
)

// Schema translates between the names of a P4 program and its ids, as its P4Info
// has them. It is immutable.
type Schema struct {
	tables   map[string]*tableInfo
	byID     map[uint32]*tableInfo
	actions  map[uint32]*actionInfo
	byName   map[string]*actionInfo
	counters map[string]uint32
	// Of the metadata of a packet-in, those that hold its ingress port, and whom the
	// switch has released by itself in which epoch.
	inPort, inReleased, inEpoch uint32
}

type tableInfo struct {
	id      uint32
	name    string
	size    int64
	fields  []argInfo
	actions []uint32
}

type actionInfo struct {
	id     uint32
	name   string
	params []argInfo
}

type argInfo struct {
	id       uint32
	name     string
	bitwidth int
	lpm      bool
}

// NewSchema reads a P4Info. Only exact and longest-prefix matches are known:
// there are no others in the program.
func NewSchema(info *p4configv1.P4Info) (*Schema, error) {
	s := &Schema{
		tables:   map[string]*tableInfo{},
		byID:     map[uint32]*tableInfo{},
		actions:  map[uint32]*actionInfo{},
		byName:   map[string]*actionInfo{},
		counters: map[string]uint32{},
	}
	for _, a := range info.GetActions() {
		ai := &actionInfo{id: a.GetPreamble().GetId(), name: a.GetPreamble().GetAlias()}
		for _, p := range a.GetParams() {
			ai.params = append(ai.params, argInfo{id: p.GetId(), name: p.GetName(), bitwidth: int(p.GetBitwidth())})
		}
		s.actions[ai.id] = ai
		s.byName[ai.name] = ai
	}
	for _, t := range info.GetTables() {
		ti := &tableInfo{id: t.GetPreamble().GetId(), name: t.GetPreamble().GetAlias(), size: t.GetSize()}
		for _, f := range t.GetMatchFields() {
			ai := argInfo{id: f.GetId(), name: f.GetName(), bitwidth: int(f.GetBitwidth())}
			switch f.GetMatchType() {
			case p4configv1.MatchField_EXACT:
			case p4configv1.MatchField_LPM:
				ai.lpm = true
			default:
				return nil, fmt.Errorf("p4info: table %s: field %s is matched %v, which is not supported", ti.name, ai.name, f.GetMatchType())
			}
			ti.fields = append(ti.fields, ai)
		}
		for _, r := range t.GetActionRefs() {
			ti.actions = append(ti.actions, r.GetId())
		}
		s.tables[ti.name] = ti
		s.byID[ti.id] = ti
	}
	for _, c := range info.GetCounters() {
		s.counters[c.GetPreamble().GetAlias()] = c.GetPreamble().GetId()
	}
	for _, m := range info.GetControllerPacketMetadata() {
		if m.GetPreamble().GetName() != "packet_in" {
			continue
		}
		for _, f := range m.GetMetadata() {
			switch f.GetName() {
			case "ingress_port":
				s.inPort = f.GetId()
			case "released":
				s.inReleased = f.GetId()
			case "epoch":
				s.inEpoch = f.GetId()
			}
		}
	}
	if s.inPort == 0 || s.inReleased == 0 || s.inEpoch == 0 {
		return nil, errors.New("p4info: packet_in has not all of ingress_port, released and epoch; use the P4 program that belongs to this controller")
	}
	return s, nil
}

// Check says whether an entry can be written to a switch that runs the program.
func (s *Schema) Check(e Entry) error {
	_, err := s.encode(e)
	return err
}

// Room says whether the program's tables have room for all of the entries, with spare
// ones left in each of the tables that reserve names. The error names each table that
// has not.
func (s *Schema) Room(entries []Entry, reserve map[string]int) error {
	need := maps.Clone(reserve)
	if need == nil {
		need = map[string]int{}
	}
	for _, e := range entries {
		need[e.Table]++
	}
	var full []error
	for _, name := range slices.Sorted(maps.Keys(need)) {
		if t := s.tables[name]; t != nil && int64(need[name]) > t.size {
			full = append(full, fmt.Errorf("table %s needs %d entries, and the switch has room for %d", name, need[name], t.size))
		}
	}
	return errors.Join(full...)
}

func (s *Schema) encode(e Entry) (*p4v1.TableEntry, error) {
	t, ok := s.tables[e.Table]
	if !ok {
		return nil, fmt.Errorf("no table %q in the P4 program", e.Table)
	}
	out := &p4v1.TableEntry{TableId: t.id}
	if len(e.Key) != len(t.fields) {
		return nil, fmt.Errorf("table %s: %d fields in the key, want %d", e.Table, len(e.Key), len(t.fields))
	}
	for _, f := range t.fields {
		i := slices.IndexFunc(e.Key, func(a Arg) bool { return a.Name == f.name })
		if i < 0 {
			return nil, fmt.Errorf("table %s: field %s is missing", e.Table, f.name)
		}
		a := e.Key[i]
		if err := f.fits(a.Value); err != nil {
			return nil, fmt.Errorf("table %s: %w", e.Table, err)
		}
		m := &p4v1.FieldMatch{FieldId: f.id}
		switch {
		case f.lpm && a.PrefixLen == 0:
			// P4Runtime 1.5, section 9.1.1: a match on nothing is left out.
			continue
		case f.lpm && a.PrefixLen > f.bitwidth, !f.lpm && a.PrefixLen != 0:
			return nil, fmt.Errorf("table %s: field %s cannot have a prefix of length %d", e.Table, f.name, a.PrefixLen)
		case f.lpm:
			m.FieldMatchType = &p4v1.FieldMatch_Lpm{Lpm: &p4v1.FieldMatch_LPM{Value: []byte(a.Value), PrefixLen: int32(a.PrefixLen)}}
		default:
			m.FieldMatchType = &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: []byte(a.Value)}}
		}
		out.Match = append(out.Match, m)
	}
	action, err := s.encodeAction(t, e)
	if err != nil {
		return nil, err
	}
	out.Action = &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: action}}
	return out, nil
}

func (s *Schema) encodeAction(t *tableInfo, e Entry) (*p4v1.Action, error) {
	a, ok := s.byName[e.Action]
	if !ok || !slices.Contains(t.actions, a.id) {
		return nil, fmt.Errorf("table %s: no action %q", e.Table, e.Action)
	}
	if len(e.Params) != len(a.params) {
		return nil, fmt.Errorf("action %s: %d parameters, want %d", e.Action, len(e.Params), len(a.params))
	}
	out := &p4v1.Action{ActionId: a.id}
	for _, p := range a.params {
		v, ok := e.param(p.name)
		if !ok {
			return nil, fmt.Errorf("action %s: parameter %s is missing", e.Action, p.name)
		}
		if err := p.fits(v); err != nil {
			return nil, fmt.Errorf("action %s: %w", e.Action, err)
		}
		out.Params = append(out.Params, &p4v1.Action_Param{ParamId: p.id, Value: []byte(v)})
	}
	return out, nil
}

func (a argInfo) fits(v Value) error {
	if len(v) == 0 || 8*(len(v)-1)+bits.Len8(v[0]) > a.bitwidth {
		return fmt.Errorf("%s: 0x%x does not fit into %d bits", a.name, string(v), a.bitwidth)
	}
	return nil
}

// decode is lenient about padding: older targets send values at full width.
func (s *Schema) decode(te *p4v1.TableEntry) (Entry, error) {
	t, ok := s.byID[te.GetTableId()]
	if !ok {
		return Entry{}, fmt.Errorf("the switch has an entry of an unknown table, id %#x", te.GetTableId())
	}
	e := Entry{Table: t.name}
	for _, f := range t.fields {
		i := slices.IndexFunc(te.GetMatch(), func(m *p4v1.FieldMatch) bool { return m.GetFieldId() == f.id })
		switch {
		case i < 0 && f.lpm:
			e.Key = append(e.Key, Arg{Name: f.name, Value: "\x00"})
		case i < 0:
			return Entry{}, fmt.Errorf("the switch has an entry of table %s without field %s", t.name, f.name)
		case f.lpm:
			m := te.GetMatch()[i].GetLpm()
			e.Key = append(e.Key, Arg{Name: f.name, Value: canonical(m.GetValue()), PrefixLen: int(m.GetPrefixLen())})
		default:
			e.Key = append(e.Key, Arg{Name: f.name, Value: canonical(te.GetMatch()[i].GetExact().GetValue())})
		}
	}
	action := te.GetAction().GetAction()
	a, ok := s.actions[action.GetActionId()]
	if !ok {
		return Entry{}, fmt.Errorf("the switch has an entry of table %s with an unknown action, id %#x", t.name, action.GetActionId())
	}
	e.Action = a.name
	for _, p := range a.params {
		i := slices.IndexFunc(action.GetParams(), func(x *p4v1.Action_Param) bool { return x.GetParamId() == p.id })
		if i < 0 {
			return Entry{}, fmt.Errorf("the switch has an entry of table %s without parameter %s", t.name, p.name)
		}
		e.Params = append(e.Params, Arg{Name: p.name, Value: canonical(action.GetParams()[i].GetValue())})
	}
	return e, nil
}

func encodeGroup(g Group) *p4v1.Entity {
	entry := &p4v1.MulticastGroupEntry{MulticastGroupId: g.ID}
	for _, r := range g.Replicas {
		entry.Replicas = append(entry.Replicas, &p4v1.Replica{
			// The older of the two ways to name a port, which every target knows.
			PortKind: &p4v1.Replica_EgressPort{EgressPort: r.Port},
			Instance: r.Instance,
		})
	}
	return &p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{
		PacketReplicationEngineEntry: &p4v1.PacketReplicationEngineEntry{
			Type: &p4v1.PacketReplicationEngineEntry_MulticastGroupEntry{MulticastGroupEntry: entry},
		},
	}}
}

func decodeGroup(entry *p4v1.MulticastGroupEntry) Group {
	g := Group{ID: entry.GetMulticastGroupId()}
	for _, r := range entry.GetReplicas() {
		port := uint64(r.GetEgressPort())
		if b := r.GetPort(); len(b) > 0 {
			port, _ = canonical(b).Uint64()
		}
		g.Replicas = append(g.Replicas, Replica{Port: uint32(port), Instance: r.GetInstance()})
	}
	return g
}

func (s *Schema) encodeUpdate(u Update) (*p4v1.Update, error) {
	types := map[Op]p4v1.Update_Type{Insert: p4v1.Update_INSERT, Modify: p4v1.Update_MODIFY, Delete: p4v1.Update_DELETE}
	out := &p4v1.Update{Type: types[u.Op]}
	if u.Group != nil {
		out.Entity = encodeGroup(*u.Group)
		return out, nil
	}
	te, err := s.encode(*u.Entry)
	if err != nil {
		return nil, err
	}
	if u.Op == Delete {
		te.Action = nil
	}
	out.Entity = &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: te}}
	return out, nil
}
