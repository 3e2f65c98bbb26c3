// SPDX-License-Identifier: Apache-2.0

package bmv2

import (
	"encoding/json"
)

type jsonPipeline struct {
	Name         string            `json:"name"`
	ID           int               `json:"id"`
	Init         *string           `json:"init_table"`
	Tables       []json.RawMessage `json:"tables"`
	Profiles     []jsonProfile     `json:"action_profiles"`
	Conditionals []jsonConditional `json:"conditionals"`
	ActionCalls  []jsonActionCall  `json:"action_calls"`
	Source       *jsonSource       `json:"source_info"`
}

type jsonConditional struct {
	Name   string          `json:"name"`
	ID     int             `json:"id"`
	Expr   json.RawMessage `json:"expression"`
	True   *string         `json:"true_next"`
	False  *string         `json:"false_next"`
	Source *jsonSource     `json:"source_info"`
}

type jsonActionCall struct {
	Name     string      `json:"name"`
	ID       int         `json:"id"`
	ActionID int         `json:"action_id"`
	Next     *string     `json:"next_node"`
	Source   *jsonSource `json:"source_info"`
}

type jsonTable struct {
	Name         string             `json:"name"`
	ID           int                `json:"id"`
	MatchType    string             `json:"match_type"`
	Type         string             `json:"type"`
	Profile      string             `json:"action_profile"`
	MaxSize      *int               `json:"max_size"`
	WithCounters bool               `json:"with_counters"`
	Timeout      bool               `json:"support_timeout"`
	Key          []jsonKey          `json:"key"`
	ActionIDs    []int              `json:"action_ids"`
	Actions      []string           `json:"actions"`
	Next         map[string]*string `json:"next_tables"`
	DefaultNext  *string            `json:"base_default_next"`
	DirectMeters *string            `json:"direct_meters"`
	Default      *jsonDefault       `json:"default_entry"`
	Entries      *[]jsonEntry       `json:"entries"`
	Source       *jsonSource        `json:"source_info"`
}

type jsonKey struct {
	MatchType string          `json:"match_type"`
	Target    json.RawMessage `json:"target"`
	Mask      json.RawMessage `json:"mask"`
	Name      string          `json:"name"`
}

type jsonDefault struct {
	ActionID    *int              `json:"action_id"`
	ActionConst bool              `json:"action_const"`
	ActionData  []json.RawMessage `json:"action_data"`
	EntryConst  bool              `json:"action_entry_const"`
}

type jsonEntry struct {
	Source      *jsonSource `json:"source_info"`
	Match       []jsonMatch `json:"match_key"`
	ActionEntry jsonDefault `json:"action_entry"`
	Priority    int         `json:"priority"`
}

type jsonMatch struct {
	MatchType string          `json:"match_type"`
	Key       json.RawMessage `json:"key"`
	Mask      json.RawMessage `json:"mask"`
	PrefixLen int             `json:"prefix_length"`
	Start     json.RawMessage `json:"start"`
	End       json.RawMessage `json:"end"`
}

func (l *loader) pipeline(at scope, raw json.RawMessage) error {
	var j jsonPipeline
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("pipeline", j.Name)
	if l.p.Pipeline(j.Name) != nil {
		return at.errorf("second pipeline of that name")
	}
	if len(j.Tables)+len(j.Conditionals)+len(j.ActionCalls) > maxObjects {
		return at.errorf("more than %d nodes", maxObjects)
	}
	if len(j.Profiles) > maxObjects {
		return at.errorf("%d action profiles", len(j.Profiles))
	}
	for i := range j.Profiles {
		if err := l.profile(at, &j.Profiles[i]); err != nil {
			return err
		}
	}
	p := &Pipeline{Name: j.Name}
	var nodes map[string]Node
	tables := make([]jsonTable, len(j.Tables))
	for i, raw := range j.Tables {
		if err := at.at("table", i).decode(raw, &tables[i]); err != nil {
			return err
		}
		t := &Table{Name: tables[i].Name}
		if l.table(t.Name) != nil {
			return at.errorf("second table %q", t.Name)
		}
		p.Tables = append(p.Tables, t)
		if err := put(at, &nodes, "node", t.Name, Node(t)); err != nil {
			return err
		}
	}
	for i := range j.Conditionals {
		c := &Conditional{Name: j.Conditionals[i].Name, Source: j.Conditionals[i].Source.String()}
		p.Conditionals = append(p.Conditionals, c)
		if err := put(at, &nodes, "node", c.Name, Node(c)); err != nil {
			return err
		}
	}
	for i := range j.ActionCalls {
		c := &ActionCall{Name: j.ActionCalls[i].Name}
		p.ActionCalls = append(p.ActionCalls, c)
		if err := put(at, &nodes, "node", c.Name, Node(c)); err != nil {
			return err
		}
	}
	next := func(at scope, name *string) (Node, error) {
		if name == nil {
			return nil, nil
		}
		n := nodes[*name]
		if n == nil {
			return nil, at.errorf("no table or condition %q", *name)
		}
		return n, nil
	}
	var err error
	if p.Start, err = next(at, j.Init); err != nil {
		return err
	}
	for i := range tables {
		if err := l.fillTable(at.in("table", tables[i].Name), &tables[i], p.Tables[i], next); err != nil {
			return err
		}
	}
	for i, c := range p.Conditionals {
		cat := at.in("condition", c.Name)
		jc := &j.Conditionals[i]
		if c.Cond, err = l.typed(cat, jc.Expr, Bool, exprContext{}); err != nil {
			return err
		}
		if c.True, err = next(cat, jc.True); err != nil {
			return err
		}
		if c.False, err = next(cat, jc.False); err != nil {
			return err
		}
	}
	for i, c := range p.ActionCalls {
		cat := at.in("action call", c.Name)
		jc := &j.ActionCalls[i]
		if c.Action = l.actions[jc.ActionID]; c.Action == nil {
			return cat.errorf("no action with id %d", jc.ActionID)
		}
		if len(c.Action.Params) > 0 {
			return cat.errorf("action %q has parameters", c.Action.Name)
		}
		if c.Next, err = next(cat, jc.Next); err != nil {
			return err
		}
	}
	if err := acyclic(at, p); err != nil {
		return err
	}
	l.p.Pipelines = append(l.p.Pipelines, p)
	return nil
}

// Successors returns the nodes that may follow n.
func Successors(n Node) []Node {
	switch n := n.(type) {
	case *Conditional:
		return []Node{n.True, n.False}
	case *ActionCall:
		return []Node{n.Next}
	case *Table:
		out := []Node{n.DefaultNext, n.NextHit, n.NextMiss}
		for _, a := range n.Actions {
			out = append(out, a.Next)
		}
		return out
	}
	return nil
}

// acyclic refuses a pipeline in which a packet could turn round for ever.
func acyclic(at scope, p *Pipeline) error {
	const open, done = 1, 2
	state := map[Node]int{}
	// An explicit stack: the graph may be deep.
	type frame struct {
		n    Node
		next []Node
	}
	var stack []frame
	push := func(n Node) error {
		if n == nil || state[n] == done {
			return nil
		}
		if state[n] == open {
			return at.errorf("%q can be reached from itself", n.NodeName())
		}
		state[n] = open
		stack = append(stack, frame{n, Successors(n)})
		return nil
	}
	if err := push(p.Start); err != nil {
		return err
	}
	for len(stack) > 0 {
		f := &stack[len(stack)-1]
		if len(f.next) == 0 {
			state[f.n] = done
			stack = stack[:len(stack)-1]
			continue
		}
		n := f.next[0]
		f.next = f.next[1:]
		if err := push(n); err != nil {
			return err
		}
	}
	return nil
}

func matchKind(at scope, s string) (MatchKind, error) {
	for _, k := range []MatchKind{Exact, LPM, Ternary, Range} {
		if k.String() == s {
			return k, nil
		}
	}
	return 0, at.unsupported("match kind %q", s)
}

func (l *loader) fillTable(at scope, j *jsonTable, t *Table, next func(scope, *string) (Node, error)) error {
	switch j.Type {
	case "simple":
	case "indirect", "indirect_ws":
		if t.Profile = l.profiles[j.Profile]; t.Profile == nil {
			return at.errorf("no action profile %q", j.Profile)
		}
		if t.Selector = j.Type == "indirect_ws"; t.Selector && t.Profile.Selector == nil {
			return at.errorf("type %q, but action profile %q has no selector", j.Type, j.Profile)
		}
		if j.Entries != nil {
			return at.unsupported("entries of a table with an action profile")
		}
	default:
		return at.unsupported("table type %q", j.Type)
	}
	if j.DirectMeters != nil {
		m := l.meters[*j.DirectMeters]
		if m == nil || !m.Direct || m.Table != t.Name {
			return at.errorf("no direct meter %q of this table", *j.DirectMeters)
		}
		t.Meter = m
	}
	var err error
	if t.Kind, err = matchKind(at, j.MatchType); err != nil {
		return err
	}
	t.WithCounters, t.WithTimeout = j.WithCounters, j.Timeout
	strongest, lpm := Exact, 0
	for i, jk := range j.Key {
		kat := at.in("key", jk.Name)
		if jk.Name == "" {
			kat = at.at("key", i)
		}
		k := KeyElement{Name: jk.Name}
		if k.Kind, err = matchKind(kat, jk.MatchType); err != nil {
			return err
		}
		if k.Target, err = l.fieldExpr(kat, jk.Target); err != nil {
			return err
		}
		k.Width = 1
		if f, ok := k.Target.(*FieldExpr); ok {
			if f.Def().Varbit {
				return kat.errorf("field %s is a varbit", f)
			}
			k.Width = f.Def().Width
		}
		if !isNull(jk.Mask) {
			if k.Mask, err = hexBits(kat, jk.Mask, k.Width); err != nil {
				return err
			}
		}
		strongest = max(strongest, k.Kind)
		if k.Kind == LPM {
			lpm++
		}
		t.Key = append(t.Key, k)
	}
	if strongest != t.Kind && !(t.Kind > LPM && strongest < t.Kind) {
		return at.errorf("match type %v, but a key element is %v", t.Kind, strongest)
	}
	if lpm > 1 {
		return at.errorf("%d lpm key elements, at most one is possible", lpm)
	}
	if t.Kind == LPM && lpm == 0 {
		return at.errorf("match type lpm, but no key element is")
	}
	if len(t.Key) == 0 && t.Kind != Exact {
		return at.errorf("match type %v without a key", t.Kind)
	}
	switch {
	case j.MaxSize != nil:
		t.Size = *j.MaxSize
	case j.Entries != nil:
		t.Size = len(*j.Entries)
	default:
		return at.errorf("neither max_size nor entries")
	}
	if t.Size < 0 || t.Size > maxTableSize {
		return at.errorf("size %d, want 0 to %d", t.Size, maxTableSize)
	}
	if err := l.tableActions(at, j, t, next); err != nil {
		return err
	}
	if t.DefaultNext, err = next(at, j.DefaultNext); err != nil {
		return err
	}
	if j.Default != nil {
		dat := at.in("entry", "default")
		t.Default = &DefaultEntry{Const: j.Default.EntryConst}
		if t.Default.Call, err = l.call(dat, t, j.Default); err != nil {
			return err
		}
	}
	if j.Entries != nil {
		t.ConstEntries = true
		t.Size = max(t.Size, len(*j.Entries))
		for i := range *j.Entries {
			e, err := l.entry(at.at("entry", i), t, &(*j.Entries)[i])
			if err != nil {
				return err
			}
			t.Entries = append(t.Entries, e)
		}
	}
	return nil
}

func (l *loader) tableActions(at scope, j *jsonTable, t *Table, next func(scope, *string) (Node, error)) error {
	if len(j.ActionIDs) != len(j.Actions) {
		return at.errorf("%d action ids for %d actions", len(j.ActionIDs), len(j.Actions))
	}
	if len(j.ActionIDs) > maxObjects {
		return at.errorf("%d actions", len(j.ActionIDs))
	}
	var err error
	hit, okHit := j.Next["__HIT__"]
	miss, okMiss := j.Next["__MISS__"]
	if okHit || okMiss {
		if !okHit || !okMiss || len(j.Next) != 2 {
			return at.errorf("next_tables must have both __HIT__ and __MISS__ and nothing else")
		}
		t.HitMiss = true
		if t.NextHit, err = next(at, hit); err != nil {
			return err
		}
		if t.NextMiss, err = next(at, miss); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for i, id := range j.ActionIDs {
		a := l.actions[id]
		if a == nil {
			return at.errorf("no action with id %d", id)
		}
		aat := at.in("action", a.Name)
		if a.Name != j.Actions[i] {
			return aat.errorf("id %d is called %q here", id, j.Actions[i])
		}
		if seen[a.Name] {
			return aat.errorf("second action of that name")
		}
		seen[a.Name] = true
		ta := &TableAction{Action: a}
		if !t.HitMiss {
			name, ok := j.Next[a.Name]
			if !ok {
				return aat.errorf("next_tables does not name it")
			}
			if ta.Next, err = next(aat, name); err != nil {
				return err
			}
		}
		t.Actions = append(t.Actions, ta)
	}
	if !t.HitMiss && len(j.Next) != len(t.Actions) {
		return at.errorf("next_tables has %d names for %d actions", len(j.Next), len(t.Actions))
	}
	return nil
}

func (l *loader) call(at scope, t *Table, j *jsonDefault) (Call, error) {
	if j.ActionID == nil {
		return Call{}, at.errorf("no action_id")
	}
	for _, ta := range t.Actions {
		if ta.Action.ID != *j.ActionID {
			continue
		}
		params := ta.Action.Params
		at = at.in("action", ta.Action.Name)
		if len(j.ActionData) != len(params) {
			return Call{}, at.errorf("%d arguments, want %d", len(j.ActionData), len(params))
		}
		c := Call{Action: ta}
		for i, raw := range j.ActionData {
			b, err := hexBits(at.in("argument", params[i].Name), raw, params[i].Width)
			if err != nil {
				return Call{}, err
			}
			c.Args = append(c.Args, b)
		}
		return c, nil
	}
	return Call{}, at.errorf("action with id %d is none of the table's", *j.ActionID)
}

func (l *loader) entry(at scope, t *Table, j *jsonEntry) (Entry, error) {
	if len(j.Match) != len(t.Key) {
		return Entry{}, at.errorf("%d key elements, want %d", len(j.Match), len(t.Key))
	}
	e := Entry{Priority: j.Priority}
	for i := range j.Match {
		k, jm := &t.Key[i], &j.Match[i]
		kat := at.in("key", k.Name)
		if jm.MatchType != k.Kind.String() {
			return Entry{}, kat.errorf("match kind %q, want %q", jm.MatchType, k.Kind)
		}
		var m Match
		var err error
		read := func(dst *[]byte, raw json.RawMessage) {
			if err == nil {
				*dst, err = hexBits(kat, raw, k.Width)
			}
		}
		switch k.Kind {
		case Exact:
			read(&m.Value, jm.Key)
		case LPM:
			read(&m.Value, jm.Key)
			m.PrefixLen = jm.PrefixLen
			if m.PrefixLen < 0 || m.PrefixLen > k.Width {
				err = kat.errorf("prefix length %d of a field of %d bits", m.PrefixLen, k.Width)
			}
		case Ternary:
			read(&m.Value, jm.Key)
			read(&m.Mask, jm.Mask)
		case Range:
			read(&m.Value, jm.Start)
			read(&m.High, jm.End)
		}
		if err != nil {
			return Entry{}, err
		}
		e.Match = append(e.Match, m)
	}
	var err error
	e.Call, err = l.call(at, t, &j.ActionEntry)
	return e, err
}
