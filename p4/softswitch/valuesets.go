// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"errors"
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// Parser value sets are section 9.6 of P4Runtime 1.5.

type valueSetSchema struct {
	id   uint32
	name string
	size int
	key  matchSchema
}

func newValueSetSchema(prog *bmv2.Program, info *p4config.P4Info, x *p4config.ValueSet) (*valueSetSchema, error) {
	vs := &valueSetSchema{id: x.GetPreamble().GetId(), name: x.GetPreamble().GetName(), size: int(x.GetSize())}
	var def *bmv2.ValueSet
	for _, d := range prog.ValueSets {
		if d.Name == vs.name {
			def = d
		}
	}
	if def == nil {
		return nil, errors.New("the program has no such value set")
	}
	bits := 0
	for i, f := range x.GetMatch() {
		fs, err := newFieldSchema(f)
		if err == nil && i < len(def.Widths) {
			fs.width, err = programWidth(fs.width, def.Widths[i], fs.typ, info.GetTypeInfo())
		}
		if err == nil {
			err = vs.key.add(fs)
		}
		if err != nil {
			return nil, fmt.Errorf("match field %q: %w", f.GetName(), err)
		}
		if fs.width < 1 {
			return nil, fmt.Errorf("match field %q: %d bits", f.GetName(), fs.width)
		}
		bits += fs.width
	}
	if bits != def.Width || def.Widths != nil && len(def.Widths) != len(vs.key.fields) {
		return nil, fmt.Errorf("%d match fields of %d bits, the program's key is %v of %d", len(vs.key.fields), bits, def.Widths, def.Width)
	}
	for i, w := range def.Widths {
		if f := vs.key.fields[i]; f.width != w {
			return nil, fmt.Errorf("match field %q: %d bits, the program has %d", f.name, f.width, w)
		}
	}
	return vs, nil
}

// writeValueSet is section 9.6.
func (p *pipeline) writeValueSet(typ p4v1.Update_Type, e *p4v1.ValueSetEntry) error {
	if err := onlyModify(typ, "value set"); err != nil {
		return err
	}
	vs, err := p.schema.valueSets.get(e.GetValueSetId())
	if err != nil {
		return err
	}
	place := fmt.Sprintf("value set %q", vs.name)
	if len(e.GetMembers()) > vs.size {
		return errorf(codes.ResourceExhausted, "%s: %d members, its size is %d", place, len(e.GetMembers()), vs.size)
	}
	kinds := make([]bmv2.MatchKind, len(vs.key.fields))
	for i, f := range vs.key.fields {
		kinds[i] = f.match
	}
	members := make([][]bmv2.Match, len(e.GetMembers()))
	for i, m := range e.GetMembers() {
		if members[i], err = vs.key.parse(m.GetMatch()); err != nil {
			return &placedError{fmt.Sprintf("%s: member %d", place, i), err}
		}
	}
	return p.sw.Engine().ValueSet(vs.name).Replace(members, kinds)
}

// readValueSets is section 9.6.
func (p *pipeline) readValueSets(q *p4v1.ValueSetEntry, out func(part)) error {
	list, err := p.schema.valueSets.some(q.GetValueSetId())
	if err != nil {
		return err
	}
	entries := make([]*p4v1.ValueSetEntry, len(list))
	for i, vs := range list {
		entries[i] = &p4v1.ValueSetEntry{ValueSetId: vs.id}
		for _, m := range p.sw.Engine().ValueSet(vs.name).Members() {
			entries[i].Members = append(entries[i].Members, &p4v1.ValueSetMember{Match: vs.key.messages(m)})
		}
	}
	out(part{len(entries), func(i int) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_ValueSetEntry{ValueSetEntry: entries[i]}}
	}})
	return nil
}
