// SPDX-License-Identifier: Apache-2.0

package bmv2

import "encoding/json"

// What the control plane reads and writes beside tables.

func (l *loader) meter(at scope, raw json.RawMessage) error {
	var j struct {
		Name    string          `json:"name"`
		ID      int             `json:"id"`
		Type    string          `json:"type"`
		Rates   int             `json:"rate_count"`
		Size    int             `json:"size"`
		Direct  bool            `json:"is_direct"`
		Binding string          `json:"binding"`
		Target  json.RawMessage `json:"result_target"`
		Source  *jsonSource     `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("meter", j.Name)
	m := &MeterArray{Name: j.Name, Index: len(l.p.Meters), Size: j.Size, Direct: j.Direct, Table: j.Binding}
	switch j.Type {
	case "bytes":
		m.Bytes = true
	case "packets":
	default:
		return at.unsupported("type %q", j.Type)
	}
	if j.Rates != 2 {
		return at.unsupported("rate_count %d (two rates are)", j.Rates)
	}
	switch {
	case m.Direct && m.Table == "":
		return at.errorf("direct, but bound to no table")
	case m.Direct:
		var err error
		if m.Target, err = l.fieldRef(at, j.Target); err != nil {
			return err
		}
		if d := m.Target.Def(); d.Varbit || d.Width > 64 || d.Width < 2 {
			return at.errorf("target %s of %d bits", m.Target, d.Width)
		}
		m.Size = 0
	case m.Size < 1 || m.Size > maxArraySize:
		return at.errorf("size %d, want 1 to %d", m.Size, maxArraySize)
	}
	if err := l.addArray(at, m.Size); err != nil {
		return err
	}
	if err := put(at, &l.meters, "meter", j.Name, m); err != nil {
		return err
	}
	l.p.Meters = append(l.p.Meters, m)
	return nil
}

// directMeters checks that each direct meter belongs to a table that has it.
func (l *loader) directMeters() error {
	for _, m := range l.p.Meters {
		if !m.Direct {
			continue
		}
		at := scope("").in("meter", m.Name)
		t := l.table(m.Table)
		if t == nil {
			return at.errorf("bound to table %q, which does not exist", m.Table)
		}
		if t.Meter != m {
			return at.errorf("bound to table %q, which does not name it", m.Table)
		}
	}
	return nil
}

func (l *loader) valueSet(at scope, raw json.RawMessage) error {
	var j struct {
		Name   string      `json:"name"`
		ID     int         `json:"id"`
		Width  int         `json:"compressed_bitwidth"`
		Size   *int        `json:"max_size"`
		Source *jsonSource `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("parser value set", j.Name)
	v := &ValueSet{Name: j.Name, Index: len(l.p.ValueSets), Width: j.Width, Size: maxArraySize}
	if v.Width < 1 || v.Width > maxFieldBits {
		return at.errorf("compressed_bitwidth %d, want 1 to %d", v.Width, maxFieldBits)
	}
	if j.Size != nil {
		if v.Size = *j.Size; v.Size < 0 || v.Size > maxArraySize {
			return at.errorf("max_size %d, want 0 to %d", v.Size, maxArraySize)
		}
	}
	if err := put(at, &l.valueSets, "parser value set", j.Name, v); err != nil {
		return err
	}
	l.p.ValueSets = append(l.p.ValueSets, v)
	return nil
}

// useValueSet says that a key of these widths is compared with v.
func (v *ValueSet) use(at scope, widths []int) error {
	total := 0
	for _, w := range widths {
		total += w
	}
	if total != v.Width {
		return at.errorf("a key of %d bits, but the value set has %d", total, v.Width)
	}
	if v.Widths == nil {
		v.Widths = widths
		return nil
	}
	if len(v.Widths) != len(widths) {
		return at.unsupported("a value set for keys of different widths")
	}
	for i := range widths {
		if widths[i] != v.Widths[i] {
			return at.unsupported("a value set for keys of different widths")
		}
	}
	return nil
}

func (l *loader) fieldList(at scope, raw json.RawMessage) error {
	return l.list(at, raw, "field list", &l.p.FieldLists)
}

func (l *loader) learnList(at scope, raw json.RawMessage) error {
	return l.list(at, raw, "learn list", &l.p.LearnLists)
}

func (l *loader) list(at scope, raw json.RawMessage, kind string, dst *[]*FieldList) error {
	var j struct {
		Name     string            `json:"name"`
		ID       int               `json:"id"`
		Elements []json.RawMessage `json:"elements"`
		Source   *jsonSource       `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in(kind, j.Name)
	if listByID(*dst, j.ID) != nil {
		return at.errorf("second %s with id %d", kind, j.ID)
	}
	fl := &FieldList{Name: j.Name, ID: j.ID}
	for i, raw := range j.Elements {
		eat := at.at("element", i)
		var e struct {
			typeValue
			Bitwidth *int `json:"bitwidth"`
		}
		if err := eat.decode(raw, &e); err != nil {
			return err
		}
		switch e.Type {
		case "field":
			ref, err := l.fieldRef(eat, e.Value)
			if err != nil {
				return err
			}
			fl.Elements = append(fl.Elements, ListElement{Field: &ref, Width: ref.Def().Width})
		case "hexstr":
			c, width, err := sizedConst(eat, e.Value, e.Bitwidth)
			if err != nil {
				return err
			}
			fl.Elements = append(fl.Elements, ListElement{Const: c, Width: width})
		default:
			return eat.unsupported("type %q", e.Type)
		}
	}
	*dst = append(*dst, fl)
	return nil
}

// sizedConst reads a constant that says how many bits it has.
func sizedConst(at scope, raw json.RawMessage, width *int) ([]byte, int, error) {
	if width == nil || *width < 1 || *width > maxFieldBits {
		return nil, 0, at.errorf("a constant needs a bitwidth from 1 to %d", maxFieldBits)
	}
	v, err := hexConst(at, raw)
	if err != nil {
		return nil, 0, err
	}
	if v.Sign() < 0 || v.BitLen() > *width {
		return nil, 0, at.errorf("%s does not fit into %d bits", v, *width)
	}
	return v.FillBytes(make([]byte, (*width+7)/8)), *width, nil
}

type jsonProfile struct {
	Name     string        `json:"name"`
	ID       int           `json:"id"`
	Size     int           `json:"max_size"`
	Selector *jsonSelector `json:"selector"`
	Source   *jsonSource   `json:"source_info"`
}

type jsonSelector struct {
	Algo  string            `json:"algo"`
	Input []json.RawMessage `json:"input"`
}

func (l *loader) profile(at scope, j *jsonProfile) error {
	at = at.in("action profile", j.Name)
	p := &ActionProfile{Name: j.Name, Index: len(l.p.ActionProfiles), Size: j.Size}
	if p.Size < 0 || p.Size > maxTableSize {
		return at.errorf("max_size %d, want 0 to %d", p.Size, maxTableSize)
	}
	if s := j.Selector; s != nil {
		p.Selector = &Calculation{Name: j.Name, Algo: s.Algo}
		for i, raw := range s.Input {
			in, err := l.calcInput(at.at("selector input", i), raw)
			if err != nil {
				return err
			}
			p.Selector.Input = append(p.Selector.Input, in)
		}
	}
	if err := put(at, &l.profiles, "action profile", j.Name, p); err != nil {
		return err
	}
	l.p.ActionProfiles = append(l.p.ActionProfiles, p)
	return nil
}
