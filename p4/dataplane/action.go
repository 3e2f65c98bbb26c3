// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// An action is a compiled bmv2.Action.
type action struct {
	def   *bmv2.Action
	index int // in Program.Actions
	ops   []func(*Context)
	// steps is used instead of ops if the action has jumps.
	steps []step
	// registers are locked, in this order, while the action runs; shared tells that it
	// uses others too, see Register.
	registers []*Register
	shared    bool
}

type step struct {
	run    func(*Context)
	skip   evalBool // nil: always; a jump is taken if it is false
	target int      // -1: no jump
}

// maxSteps bounds what an action with a loop may do for one packet.
const maxSteps = 1 << 16

func (a *action) run(c *Context) {
	if a.shared {
		c.hold()
	}
	if a.registers != nil {
		for _, r := range a.registers {
			r.own.Lock()
		}
		a.exec(c)
		for _, r := range a.registers {
			r.own.Unlock()
		}
		return
	}
	a.exec(c)
}

func (a *action) exec(c *Context) {
	if a.steps == nil {
		for _, op := range a.ops {
			op(c)
		}
		return
	}
	for pc, n := 0, 0; pc < len(a.steps) && n < maxSteps; n++ {
		s := &a.steps[pc]
		switch {
		case s.target < 0:
			s.run(c)
			pc++
		case s.skip != nil && s.skip(c):
			pc++
		default:
			pc = s.target
		}
	}
}

func (b *Builder) action(a *bmv2.Action) (*action, error) {
	act := &action{def: a}
	b.used = map[*Register]bool{}
	defer func() { b.used = nil }()
	jumps := false
	for i, p := range a.Primitives {
		at := func(err error) error {
			return fmt.Errorf("action %q: primitive %d %q: %w", a.Name, i, p.Op, err)
		}
		switch p.Op {
		case "_jump", "_jump_if_zero":
			jumps = true
			s, err := b.jump(p, len(a.Primitives))
			if err != nil {
				return nil, at(err)
			}
			act.steps = append(act.steps, s)
		default:
			op, err := b.primitive(p)
			if err != nil {
				return nil, at(err)
			}
			act.ops = append(act.ops, op)
			act.steps = append(act.steps, step{run: op, target: -1})
		}
	}
	if !jumps {
		act.steps = nil
	}
	for r := range b.used {
		act.registers = append(act.registers, r)
	}
	return act, nil
}

func (b *Builder) jump(p *bmv2.Primitive, n int) (step, error) {
	s := step{}
	args := p.Args
	if p.Op == "_jump_if_zero" {
		if len(args) != 2 {
			return s, fmt.Errorf("%d arguments, want 2", len(args))
		}
		if args[0].Type() != bmv2.Data {
			return s, fmt.Errorf("want a number, have a %v", args[0].Type())
		}
		nonZero, err := b.boolean(&bmv2.Unary{Op: bmv2.DataToBool, X: args[0]})
		if err != nil {
			return s, err
		}
		s.skip, args = nonZero, args[1:]
	}
	if len(args) != 1 {
		return s, fmt.Errorf("%d arguments", len(p.Args))
	}
	k, ok := args[0].(*bmv2.Const)
	if !ok || !k.Value.IsInt64() || k.Value.Int64() < 0 || k.Value.Int64() > int64(n) {
		return s, fmt.Errorf("the target must be a number from 0 to %d", n)
	}
	s.target = int(k.Value.Int64())
	return s, nil
}

// primitive compiles a call that is no jump.
func (b *Builder) primitive(p *bmv2.Primitive) (func(*Context), error) {
	if f := b.opts.Primitives[p.Op]; f != nil {
		return f(b, p.Args)
	}
	if f := corePrimitives[p.Op]; f != nil {
		return f(b, p.Args)
	}
	return nil, bmv2.ErrUnsupported
}

// corePrimitives are those of every bmv2 target and those of simple_switch that
// need nothing of the architecture.
var corePrimitives map[string]Primitive

func init() {
	corePrimitives = map[string]Primitive{
		"assign":              assign,
		"assign_VL":           assignVL,
		"assign_header":       assignHeader,
		"assign_union":        assignUnions,
		"assign_header_stack": assignStack,
		"assign_union_stack":  assignUnionStack,
		"push":                push,
		"pop":                 pop,
		"add_header":          addHeader,
		"remove_header":       removeHeader,
		"exit":                exit,
		"count":               count,
		"register_read":       registerRead, "register_write": registerWrite,
		"execute_meter":                       executeMeter,
		"modify_field_with_hash_based_offset": hash,
		"modify_field_rng_uniform":            random,
		"no_op":                               func(*Builder, []bmv2.Expr) (func(*Context), error) { return func(*Context) {}, nil },
		"log_msg":                             logMsg,
		"assert":                              assertion("assert"),
		"assume":                              assertion("assume"),
	}
}

func want(args []bmv2.Expr, n int) error {
	if len(args) != n {
		return fmt.Errorf("%d arguments, want %d", len(args), n)
	}
	return nil
}

func assign(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	if args[1].Type() != bmv2.Data {
		return nil, fmt.Errorf("want a number, have a %v", args[1].Type())
	}
	v, err := b.data(args[1])
	if err != nil {
		return nil, err
	}
	return b.assignTo(args[0], v)
}

func assignVL(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	d, err := b.varbit(args[0])
	if err != nil {
		return nil, err
	}
	s, err := b.varbit(args[1])
	if err != nil {
		return nil, err
	}
	if d.width < s.width {
		return nil, fmt.Errorf("a varbit field of up to %d bits into one of %d", s.width, d.width)
	}
	return func(c *Context) {
		to, from := d.at(c), s.at(c)
		c.v[to.slot] = c.v[from.slot]
		copy(c.w[to.off:], c.w[from.off:from.off+int(c.v[from.slot])/8])
	}, nil
}

type varbitRef struct {
	at    func(*Context) *loc
	width int
}

// varbit compiles a reference to a varbit field.
func (b *Builder) varbit(e bmv2.Expr) (varbitRef, error) {
	switch e := e.(type) {
	case *bmv2.FieldExpr:
		if l := b.loc(e.FieldRef); l.kind == varbit {
			return varbitRef{func(*Context) *loc { return l }, l.width}, nil
		}
	case *bmv2.MemberExpr:
		if e.Def().Varbit {
			ref, _, err := b.header(e.Header)
			i := e.Index
			return varbitRef{func(c *Context) *loc { return &ref(c).fields[i] }, e.Def().Width}, err
		}
	}
	return varbitRef{}, fmt.Errorf("want a varbit field, have %T", e)
}

func isVarbit(e bmv2.Expr) bool {
	switch e := e.(type) {
	case *bmv2.FieldExpr:
		return e.Def().Varbit
	case *bmv2.MemberExpr:
		return e.Def().Varbit
	}
	return false
}

// varbitsEqual compares two varbit fields: they are equal if their lengths are and all
// their bits, as P4_16 has it. It is all that can be done with them in expressions.
func (b *Builder) varbitsEqual(e *bmv2.Binary) (evalBool, error) {
	l, err := b.varbit(e.L)
	if err != nil {
		return nil, err
	}
	r, err := b.varbit(e.R)
	if err != nil {
		return nil, err
	}
	equal := func(c *Context) bool {
		x, y := l.at(c), r.at(c)
		n := int(c.v[x.slot]) / 8
		return c.v[x.slot] == c.v[y.slot] && bytes.Equal(c.w[x.off:x.off+n], c.w[y.off:y.off+n])
	}
	switch e.Op {
	case bmv2.Eq:
		return equal, nil
	case bmv2.Ne:
		return func(c *Context) bool { return !equal(c) }, nil
	}
	return nil, fmt.Errorf("operator %q between varbit fields is %w", e.Op, bmv2.ErrUnsupported)
}

func assignHeader(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	d, _, err := b.header(args[0])
	if err != nil {
		return nil, err
	}
	s, src, err := b.header(args[1])
	if err != nil {
		return nil, err
	}
	if bmv2.HeaderTypeOf(args[0]) != bmv2.HeaderTypeOf(args[1]) {
		return nil, fmt.Errorf("two headers of different types")
	}
	if src != nil {
		b.e.noteRead(src.pointers()...)
	}
	return func(c *Context) { d(c).assign(c, s(c)) }, nil
}

func addHeader(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 1); err != nil {
		return nil, err
	}
	ref, _, err := b.header(args[0])
	if err != nil {
		return nil, err
	}
	return func(c *Context) {
		h := ref(c)
		if c.v[h.valid] == 0 {
			h.reset(c)
			h.setValid(c)
			c.Length += h.fixedBytes
		}
	}, nil
}

func removeHeader(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 1); err != nil {
		return nil, err
	}
	ref, static, err := b.header(args[0])
	if err != nil {
		return nil, err
	}
	if static != nil && static.def.Metadata {
		return nil, fmt.Errorf("%q is metadata", static.def.Name)
	}
	return func(c *Context) {
		h := ref(c)
		if c.v[h.valid] != 0 {
			c.Length -= h.size(c)
			c.v[h.valid] = 0
		}
	}, nil
}

func exit(_ *Builder, args []bmv2.Expr) (func(*Context), error) {
	return func(c *Context) { c.Exit = true }, want(args, 0)
}

func count(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	ref, ok := args[0].(*bmv2.CounterRef)
	if !ok {
		return nil, fmt.Errorf("want a counter, have %T", args[0])
	}
	ctr := b.e.counters[ref.Array.Index]
	idx, err := b.Index(args[1])
	if err != nil {
		return nil, err
	}
	return func(c *Context) {
		if !c.dry {
			ctr.count(idx(c), c.IngressLength)
		}
	}, nil
}

func hash(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 4); err != nil {
		return nil, err
	}
	set, err := b.Assign(args[0])
	if err != nil {
		return nil, err
	}
	base, err := b.Uint(args[1])
	if err != nil {
		return nil, err
	}
	ref, ok := args[2].(*bmv2.CalcRef)
	if !ok {
		return nil, fmt.Errorf("want a calculation, have %T", args[2])
	}
	calc, err := b.calculation(ref.Calc)
	if err != nil {
		return nil, err
	}
	size, err := b.Uint(args[3])
	if err != nil {
		return nil, err
	}
	return func(c *Context) { set(c, calc(c)%max(1, size(c))+base(c)) }, nil
}

func random(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 3); err != nil {
		return nil, err
	}
	set, err := b.Assign(args[0])
	if err != nil {
		return nil, err
	}
	lo, err := b.Uint(args[1])
	if err != nil {
		return nil, err
	}
	hi, err := b.Uint(args[2])
	if err != nil {
		return nil, err
	}
	return func(c *Context) {
		l, h := lo(c), hi(c)
		if l > h {
			return
		}
		r := c.random()
		if n := h - l + 1; n != 0 {
			r %= n
		}
		set(c, l+r)
	}, nil
}

// assertion ends the packet if its argument is zero, where bmv2 ends itself.
func assertion(name string) Primitive {
	return func(b *Builder, args []bmv2.Expr) (func(*Context), error) {
		if err := want(args, 1); err != nil {
			return nil, err
		}
		var cond evalBool
		var err error
		if args[0].Type() == bmv2.Bool {
			cond, err = b.boolean(args[0])
		} else {
			cond, err = b.boolean(&bmv2.Unary{Op: bmv2.DataToBool, X: args[0]})
		}
		if err != nil {
			return nil, err
		}
		log := b.opts.Log
		return func(c *Context) {
			if !cond(c) {
				c.Exit, c.Failed = true, true
				if log != nil && !c.dry {
					log(name + " failed")
				}
			}
		}, nil
	}
}

// logMsg compiles log_msg(format, values): each {} of the format stands for a value,
// in decimal; \\{ is a brace.
func logMsg(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	format, ok1 := args[0].(*bmv2.StringConst)
	vec, ok2 := args[1].(*bmv2.Vector)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("want a string and a list of values, have %T and %T", args[0], args[1])
	}
	var vals []func(*Context) string
	for _, e := range vec.Elems {
		if e.Type() == bmv2.Bool {
			x, err := b.boolean(e)
			if err != nil {
				return nil, err
			}
			vals = append(vals, func(c *Context) string { return strconv.FormatBool(x(c)) })
			continue
		}
		x, err := b.data(e)
		if err != nil {
			return nil, err
		}
		vals = append(vals, func(c *Context) string { return x.big(c).String() })
	}
	pieces, err := splitFormat(format.Value)
	if err != nil {
		return nil, err
	}
	if len(pieces) != len(vals)+1 {
		return nil, fmt.Errorf("%q takes %d values, but there are %d", format.Value, len(pieces)-1, len(vals))
	}
	log := b.opts.Log
	if log == nil {
		return func(*Context) {}, nil
	}
	return func(c *Context) {
		if c.dry {
			return
		}
		var s strings.Builder
		for i, p := range pieces {
			s.WriteString(p)
			if i < len(vals) {
				s.WriteString(vals[i](c))
			}
		}
		log(s.String())
	}, nil
}

// splitFormat cuts a format at its {}.
func splitFormat(f string) ([]string, error) {
	var out []string
	var cur strings.Builder
	for i := 0; i < len(f); i++ {
		switch {
		case f[i] == '\\' && i+1 < len(f) && (f[i+1] == '{' || f[i+1] == '}'):
			i++
			cur.WriteByte(f[i])
		case f[i] == '{':
			end := strings.IndexByte(f[i:], '}')
			if end < 0 {
				return nil, fmt.Errorf("%q has a { without a }", f)
			}
			i += end
			out = append(out, cur.String())
			cur.Reset()
		default:
			cur.WriteByte(f[i])
		}
	}
	return append(out, cur.String()), nil
}
