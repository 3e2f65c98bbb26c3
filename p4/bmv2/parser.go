// SPDX-License-Identifier: Apache-2.0

package bmv2

import (
	"encoding/json"
	"math/big"
)

type jsonState struct {
	Name        string            `json:"name"`
	ID          int               `json:"id"`
	Ops         []json.RawMessage `json:"parser_ops"`
	Key         []typeValue       `json:"transition_key"`
	Transitions []jsonTransition  `json:"transitions"`
	Source      *jsonSource       `json:"source_info"`
}

type jsonTransition struct {
	Type  *string         `json:"type"`
	Value json.RawMessage `json:"value"`
	Mask  json.RawMessage `json:"mask"`
	Next  *string         `json:"next_state"`
}

func (l *loader) parser(at scope, raw json.RawMessage) error {
	var j struct {
		Name   string      `json:"name"`
		ID     int         `json:"id"`
		Init   *string     `json:"init_state"`
		States []jsonState `json:"parse_states"`
		Source *jsonSource `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("parser", j.Name)
	p := &Parser{Name: j.Name}
	var states map[string]*ParseState
	for i := range j.States {
		s := &ParseState{Name: j.States[i].Name, Index: i}
		if err := put(at, &states, "state", s.Name, s); err != nil {
			return err
		}
		p.States = append(p.States, s)
	}
	next := func(at scope, name *string) (*ParseState, error) {
		if name == nil {
			return nil, nil
		}
		s := states[*name]
		if s == nil {
			return nil, at.errorf("no state %q", *name)
		}
		return s, nil
	}
	var err error
	if p.Start, err = next(at, j.Init); err != nil {
		return err
	}
	for i := range j.States {
		if err := l.state(at.in("state", j.States[i].Name), &j.States[i], p.States[i], next); err != nil {
			return err
		}
	}
	if l.p.Parser(j.Name) != nil {
		return at.errorf("second parser of that name")
	}
	l.p.Parsers = append(l.p.Parsers, p)
	return nil
}

func (l *loader) state(at scope, j *jsonState, s *ParseState, next func(scope, *string) (*ParseState, error)) error {
	for i, raw := range j.Ops {
		op, err := l.parserOp(at.at("op", i), raw)
		if err != nil {
			return err
		}
		s.Ops = append(s.Ops, op)
	}
	for i, k := range j.Key {
		kat := at.at("transition key", i)
		raw, err := json.Marshal(k)
		if err != nil {
			return kat.errorf("%w", err)
		}
		e, err := l.expr(kat, raw, exprContext{parser: true}, 0)
		if err != nil {
			return err
		}
		width := 1
		switch e := e.(type) {
		case *FieldExpr:
			if e.Def().Varbit {
				return kat.errorf("field %s is a varbit", e)
			}
			width = e.Def().Width
		case *MemberExpr:
			if e.Def().Varbit {
				return kat.errorf("field %q is a varbit", e.Def().Name)
			}
			width = e.Def().Width
		case *ValidExpr:
		case *Lookahead:
			width = e.Width
		default:
			return kat.unsupported("value of type %q", k.Type)
		}
		s.Key = append(s.Key, e)
		s.KeyWidths = append(s.KeyWidths, width)
		s.KeyBytes += (width + 7) / 8
	}
	for i, t := range j.Transitions {
		tat := at.at("transition", i)
		n, err := next(tat, t.Next)
		if err != nil {
			return err
		}
		kind := "hexstr"
		if t.Type != nil {
			kind = *t.Type
		}
		var text string
		if kind == "hexstr" && json.Unmarshal(t.Value, &text) == nil && text == "default" {
			kind = "default" // the spelling of older versions
		}
		switch kind {
		case "default":
			s.Default = n
			// Whatever is written after it cannot be reached: bmv2 tries it last,
			// and p4c writes it last.
		case "hexstr":
			if len(s.Key) == 0 {
				return tat.errorf("a value, but the state has no key")
			}
			tr := Transition{Next: n}
			if tr.Value, err = hexBytes(tat, t.Value, s.KeyBytes); err != nil {
				return err
			}
			if !isNull(t.Mask) {
				if tr.Mask, err = hexBytes(tat, t.Mask, s.KeyBytes); err != nil {
					return err
				}
			}
			s.Transitions = append(s.Transitions, tr)
		case "parse_vset":
			var name string
			if err := tat.decode(t.Value, &name); err != nil {
				return err
			}
			tr := Transition{Next: n, Set: l.valueSets[name]}
			if tr.Set == nil {
				return tat.errorf("no parser value set %q", name)
			}
			if !isNull(t.Mask) {
				return tat.unsupported("a mask over a parser value set")
			}
			if err := tr.Set.use(tat.in("parser value set", name), s.KeyWidths); err != nil {
				return err
			}
			s.Transitions = append(s.Transitions, tr)
		default:
			return tat.unsupported("type %q", kind)
		}
	}
	return nil
}

func (l *loader) parserOp(at scope, raw json.RawMessage) (ParserOp, error) {
	var j struct {
		Op     string            `json:"op"`
		Params []json.RawMessage `json:"parameters"`
		Source *jsonSource       `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return nil, err
	}
	at = at.in("operation", j.Op)
	want := map[string]int{"extract": 1, "extract_VL": 2, "set": 2, "verify": 2, "advance": 1, "shift": 1, "primitive": 1}
	n, ok := want[j.Op]
	if !ok {
		return nil, at.unsupported("parser operation")
	}
	if len(j.Params) != n {
		return nil, at.errorf("%d parameters, want %d", len(j.Params), n)
	}
	ctx := exprContext{parser: true}
	switch j.Op {
	case "extract", "extract_VL":
		x, typ, err := l.extractTarget(at, j.Params[0])
		if err != nil {
			return nil, err
		}
		if j.Op == "extract" {
			if typ.Varbit >= 0 {
				return nil, at.errorf("a header of type %q has a varbit field, which needs extract_VL", typ.Name)
			}
			return x, nil
		}
		if typ.Varbit < 0 {
			return nil, at.errorf("a header of type %q has no varbit field", typ.Name)
		}
		x.Length, err = l.typed(at, j.Params[1], Data, ctx)
		return x, err
	case "set":
		var target typeValue
		if err := at.decode(j.Params[0], &target); err != nil {
			return nil, err
		}
		if target.Type != "field" {
			return nil, at.unsupported("destination of type %q", target.Type)
		}
		dst, err := l.fieldRef(at, target.Value)
		if err != nil {
			return nil, err
		}
		src, err := l.typed(at, j.Params[1], Data, ctx)
		return &ParserSet{dst, src}, err
	case "verify":
		cond, err := l.typed(at, j.Params[0], Bool, ctx)
		if err != nil {
			return nil, err
		}
		code, err := l.typed(at, j.Params[1], Data, ctx)
		return &Verify{cond, code}, err
	case "advance":
		bits, err := l.typed(at, j.Params[0], Data, ctx)
		return &Advance{bits}, err
	case "shift":
		var n int
		if err := at.decode(j.Params[0], &n); err != nil {
			return nil, err
		}
		if n < 0 || n > maxHeaderBits/8 {
			return nil, at.errorf("shift by %d bytes", n)
		}
		return &Advance{&Const{big.NewInt(int64(n) * 8)}}, nil
	default:
		return l.primitive(at, j.Params[0], nil)
	}
}

// extractTarget reads what is extracted, and its type.
func (l *loader) extractTarget(at scope, raw json.RawMessage) (*Extract, *HeaderType, error) {
	var target typeValue
	if err := at.decode(raw, &target); err != nil {
		return nil, nil, err
	}
	if target.Type == "union_stack" {
		v, err := names(at, target.Value, 2)
		if err != nil {
			return nil, nil, err
		}
		s := l.unionStacks[v[0]]
		if s == nil {
			return nil, nil, at.errorf("no header union stack %q", v[0])
		}
		i := s.Type.member(v[1])
		if i < 0 {
			return nil, nil, at.errorf("union type %q has no member %q", s.Type.Name, v[1])
		}
		return &Extract{UnionStack: s, Member: i}, s.Type.Members[i].Type, nil
	}
	var name string
	if err := at.decode(target.Value, &name); err != nil {
		return nil, nil, err
	}
	switch target.Type {
	case "regular":
		h, err := l.headerNamed(at, name)
		if err != nil {
			return nil, nil, err
		}
		return &Extract{Header: h}, h.Type, nil
	case "stack":
		s := l.stacks[name]
		if s == nil {
			return nil, nil, at.errorf("no header stack %q", name)
		}
		return &Extract{Stack: s}, s.Type, nil
	}
	return nil, nil, at.unsupported("extraction to a %q", target.Type)
}
