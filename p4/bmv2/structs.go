// SPDX-License-Identifier: Apache-2.0

package bmv2

import "encoding/json"

// Stacks and unions of headers. The format refers to their members by id.

func (l *loader) stack(at scope, raw json.RawMessage) error {
	var j struct {
		Name    string      `json:"name"`
		ID      int         `json:"id"`
		Type    string      `json:"header_type"`
		Size    *int        `json:"size"`
		Headers []int       `json:"header_ids"`
		PIOmit  bool        `json:"pi_omit"`
		Source  *jsonSource `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("header stack", j.Name)
	t := l.types[j.Type]
	if t == nil {
		return at.errorf("no header type %q", j.Type)
	}
	s := &Stack{Name: j.Name, Index: len(l.p.Stacks), Type: t}
	headers, err := l.headersByID(at, j.Headers)
	if err != nil {
		return err
	}
	for _, h := range headers {
		if h.Type != t {
			return at.errorf("header %q is of type %q, not %q", h.Name, h.Type.Name, t.Name)
		}
	}
	if s.Headers = headers; len(headers) == 0 {
		return at.errorf("no headers")
	}
	// A header beside the stack stands for elements outside of it.
	if l.layoutTotal += t.FixedBits + 64*len(t.Fields); l.layoutTotal > maxTotalLayout {
		return at.errorf("all headers together are wider than %d bits", maxTotalLayout)
	}
	if err := put(at, &l.stacks, "header stack", j.Name, s); err != nil {
		return err
	}
	l.p.Stacks = append(l.p.Stacks, s)
	return nil
}

func (l *loader) headersByID(at scope, ids []int) ([]*Header, error) {
	seen := map[int]bool{}
	var out []*Header
	for _, id := range ids {
		h := l.headerIDs[id]
		switch {
		case h == nil:
			return nil, at.errorf("no header with id %d", id)
		case h.Metadata:
			return nil, at.errorf("header %q is metadata", h.Name)
		case seen[id]:
			return nil, at.errorf("header %q stands twice", h.Name)
		}
		seen[id] = true
		out = append(out, h)
	}
	return out, nil
}

func (l *loader) unionType(at scope, raw json.RawMessage) error {
	var j struct {
		Name    string              `json:"name"`
		ID      int                 `json:"id"`
		Headers [][]json.RawMessage `json:"headers"`
		Source  *jsonSource         `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("header union type", j.Name)
	t := &UnionType{Name: j.Name}
	for i, h := range j.Headers {
		mat := at.at("member", i)
		if len(h) != 2 {
			return mat.errorf("want a name and a header type")
		}
		var name, typ string
		if err := mat.decode(h[0], &name); err != nil {
			return err
		}
		if err := mat.decode(h[1], &typ); err != nil {
			return err
		}
		ht := l.types[typ]
		if ht == nil {
			return mat.errorf("no header type %q", typ)
		}
		t.Members = append(t.Members, UnionMember{name, ht})
	}
	return put(at, &l.unionTypes, "header union type", j.Name, t)
}

func (l *loader) union(at scope, raw json.RawMessage) error {
	var j struct {
		Name    string      `json:"name"`
		ID      int         `json:"id"`
		Type    string      `json:"union_type"`
		Headers []int       `json:"header_ids"`
		PIOmit  bool        `json:"pi_omit"`
		Source  *jsonSource `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("header union", j.Name)
	u := &Union{Name: j.Name, Index: len(l.p.Unions), Type: l.unionTypes[j.Type]}
	if u.Type == nil {
		return at.errorf("no header union type %q", j.Type)
	}
	var err error
	if u.Headers, err = l.headersByID(at, j.Headers); err != nil {
		return err
	}
	if len(u.Headers) != len(u.Type.Members) {
		return at.errorf("%d headers for %d members", len(u.Headers), len(u.Type.Members))
	}
	for i, h := range u.Headers {
		if h.Type != u.Type.Members[i].Type {
			return at.errorf("header %q is of type %q, not %q", h.Name, h.Type.Name, u.Type.Members[i].Type.Name)
		}
		if h.Union != nil {
			return at.errorf("header %q is in union %q too", h.Name, h.Union.Name)
		}
		h.Union = u
	}
	if err := put(at, &l.unions, "header union", j.Name, u); err != nil {
		return err
	}
	if err := put(at, &l.unionIDs, "header union with id", j.ID, u); err != nil {
		return err
	}
	l.p.Unions = append(l.p.Unions, u)
	return nil
}

func (l *loader) unionStack(at scope, raw json.RawMessage) error {
	var j struct {
		Name   string      `json:"name"`
		ID     int         `json:"id"`
		Type   string      `json:"union_type"`
		Size   *int        `json:"size"`
		Unions []int       `json:"header_union_ids"`
		PIOmit bool        `json:"pi_omit"`
		Source *jsonSource `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("header union stack", j.Name)
	s := &UnionStack{Name: j.Name, Index: len(l.p.UnionStacks), Type: l.unionTypes[j.Type]}
	if s.Type == nil {
		return at.errorf("no header union type %q", j.Type)
	}
	for _, m := range s.Type.Members {
		if l.layoutTotal += m.Type.FixedBits + 64*len(m.Type.Fields); l.layoutTotal > maxTotalLayout {
			return at.errorf("all headers together are wider than %d bits", maxTotalLayout)
		}
	}
	for _, id := range j.Unions {
		u := l.unionIDs[id]
		if u == nil {
			return at.errorf("no header union with id %d", id)
		}
		if u.Type != s.Type {
			return at.errorf("union %q is of type %q, not %q", u.Name, u.Type.Name, s.Type.Name)
		}
		s.Unions = append(s.Unions, u)
	}
	if len(s.Unions) == 0 {
		return at.errorf("no unions")
	}
	if err := put(at, &l.unionStacks, "header union stack", j.Name, s); err != nil {
		return err
	}
	l.p.UnionStacks = append(l.p.UnionStacks, s)
	return nil
}
