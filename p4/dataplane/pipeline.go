// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// A Pipeline is a compiled control.
type Pipeline struct {
	name  string
	start *node
}

// A node is a table, a condition or an action call.
type node struct {
	name    string
	source  string // of a condition
	table   *Table
	cond    evalBool
	yes, no *node
	act     *action // followed by yes
}

// Apply sends the packet through the pipeline, until its end or an exit.
func (p *Pipeline) Apply(c *Context) {
	c.Exit = false
	if c.tracer != nil {
		p.applyTraced(c)
	} else {
		for n := p.start; n != nil && !c.Exit; {
			n = n.run(c)
		}
	}
	c.Exit = false
	c.release()
}

// run executes the node and returns the one that follows.
func (n *node) run(c *Context) *node {
	switch {
	case n.table != nil:
		return n.table.apply(c)
	case n.cond != nil:
		if n.cond(c) {
			return n.yes
		}
		return n.no
	}
	c.args = &noArgs
	n.act.run(c)
	return n.yes
}

func (b *Builder) pipeline(p *bmv2.Pipeline) (*Pipeline, error) {
	nodes := map[bmv2.Node]*node{}
	for _, t := range p.Tables {
		nodes[t] = &node{name: t.Name}
	}
	for _, c := range p.Conditionals {
		nodes[c] = &node{name: c.Name, source: c.Source}
	}
	for _, c := range p.ActionCalls {
		nodes[c] = &node{name: c.Name}
	}
	find := func(n bmv2.Node) *node {
		if n == nil {
			return nil
		}
		return nodes[n]
	}
	for _, t := range p.Tables {
		rt, err := b.table(t, find)
		if err != nil {
			return nil, fmt.Errorf("table %q: %w", t.Name, err)
		}
		nodes[t].table = rt
		b.e.tables[t.Name] = rt
		b.e.tableList = append(b.e.tableList, rt)
	}
	for _, c := range p.Conditionals {
		cond, err := b.boolean(c.Cond)
		if err != nil {
			return nil, fmt.Errorf("condition %q: %w", c.Name, err)
		}
		n := nodes[c]
		n.cond, n.yes, n.no = cond, find(c.True), find(c.False)
	}
	for _, c := range p.ActionCalls {
		n := nodes[c]
		n.act, n.yes = b.actions[c.Action], find(c.Next)
	}
	return &Pipeline{name: p.Name, start: find(p.Start)}, nil
}

func (b *Builder) table(def *bmv2.Table, find func(bmv2.Node) *node) (*Table, error) {
	t := &Table{
		def:      def,
		accounts: def.WithCounters || def.WithTimeout || def.Meter != nil,
		hitMiss:  def.HitMiss,
		nextHit:  find(def.NextHit),
		nextMiss: find(def.NextMiss),
		noAction: &Bound{next: find(def.DefaultNext)},
		entries:  map[string]*Entry{},
		exact:    newIndex(),
		e:        b.e,
	}
	t.levels.Store(&[]lpmLevel{})
	t.ternary.Store(&[]*ternEntry{})
	for i := range def.Key {
		k := &def.Key[i]
		part := keyPart{def: k, at: t.keyBytes, n: (k.Width + 7) / 8, valid: -1, mask: lowMask(k.Width)}
		switch e := k.Target.(type) {
		case *bmv2.ValidExpr:
			part.slot = b.e.layout.headers[e.Header.Index].valid
		case *bmv2.FieldExpr:
			part.l = b.loc(e.FieldRef)
			b.e.noteRead(part.l)
			part.slot = part.l.slot
			if !e.Header.Metadata {
				part.valid = b.e.layout.headers[e.Header.Index].valid
			}
		}
		if k.Kind == bmv2.LPM {
			t.lpm = i
		}
		if k.Mask != nil {
			if k.Width <= 64 {
				part.mask = loadBE(k.Mask, part.n)
			} else {
				part.wmask = k.Mask
			}
		}
		t.keys = append(t.keys, part)
		t.keyBytes += part.n
	}
	b.e.maxKey = max(b.e.maxKey, t.keyBytes)
	for _, a := range def.Actions {
		t.actions = append(t.actions, &boundAction{def: a, act: b.actions[a.Action], next: find(a.Next)})
	}
	if def.Profile != nil {
		t.profile = b.e.profiles[def.Profile.Index]
		t.nextOf = make([]*node, len(b.e.prog.Actions))
		for _, a := range t.actions {
			t.profile.actions[a.def.Action.Name] = a.act
			t.nextOf[a.act.index] = a.next
		}
	}
	if def.Meter != nil {
		l := b.loc(def.Meter.Target)
		t.meterTarget = Field{slot: l.slot + 1, mask: l.mask()}
		t.missMeter = &MeterCell{}
	}
	t.original = t.noAction
	if d := def.Default; d != nil {
		bound, err := t.Bind(d.Call.Action.Action.Name, d.Call.Args, nil)
		if err != nil {
			return nil, fmt.Errorf("default entry: %w", err)
		}
		t.original = bound
	}
	t.fallback.Store(t.original)
	highest := 0
	for _, e := range def.Entries {
		highest = max(highest, e.Priority)
	}
	for i, e := range def.Entries {
		bound, err := t.Bind(e.Call.Action.Action.Name, e.Call.Args, nil)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		prio := 0
		if def.Kind >= bmv2.Ternary {
			// In the program the lowest number wins, here, as in P4Runtime, the highest.
			prio = highest - e.Priority + 1
		}
		if err := t.insert(e.Match, prio, bound, &Direct{}, def.ConstEntries); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return t, nil
}
