// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"sort"
	"sync"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// An action is a compiled bmv2.Action.
type action struct {
	def *bmv2.Action
	ops []func(*Context)
	// steps is used instead of ops if the action has jumps.
	steps []step
	// registers are locked, in this order, while the action runs, so that it
	// reads and writes them in one go.
	registers []*register
}

type step struct {
	run    func(*Context)
	skip   evalBool // nil: always; a jump is taken if it is false
	target int      // -1: no jump
}

// maxSteps bounds what an action with a loop may do for one packet.
const maxSteps = 1 << 16

func (a *action) run(c *Context) {
	if a.registers != nil {
		for _, r := range a.registers {
			r.mu.Lock()
		}
		a.exec(c)
		for _, r := range a.registers {
			r.mu.Unlock()
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
	b.used = map[*register]bool{}
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
	sort.Slice(act.registers, func(i, j int) bool { return act.registers[i].index < act.registers[j].index })
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
		"assign":        assign,
		"assign_VL":     assignVL,
		"assign_header": assignHeader,
		"add_header":    addHeader,
		"remove_header": removeHeader,
		"exit":          exit,
		"count":         count,
		"register_read": registerRead, "register_write": registerWrite,
		"modify_field_with_hash_based_offset": hash,
		"modify_field_rng_uniform":            random,
		"no_op":                               func(*Builder, []bmv2.Expr) (func(*Context), error) { return func(*Context) {}, nil },
		"log_msg":                             func(*Builder, []bmv2.Expr) (func(*Context), error) { return func(*Context) {}, nil },
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
	dst, ok := args[0].(*bmv2.FieldExpr)
	if !ok {
		return nil, fmt.Errorf("a destination of type %T is %w", args[0], bmv2.ErrUnsupported)
	}
	return b.assign(b.loc(dst.FieldRef), args[1])
}

func assignVL(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	dst, ok1 := args[0].(*bmv2.FieldExpr)
	src, ok2 := args[1].(*bmv2.FieldExpr)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("want two varbit fields")
	}
	d, s := b.loc(dst.FieldRef), b.loc(src.FieldRef)
	if d.kind != varbit || s.kind != varbit || d.bytes < s.bytes {
		return nil, fmt.Errorf("want two varbit fields, the first at least as wide")
	}
	return func(c *Context) {
		c.v[d.slot] = c.v[s.slot]
		copy(c.w[d.off:], c.w[s.off:s.off+int(c.v[s.slot])/8])
	}, nil
}

func (b *Builder) header(e bmv2.Expr) (*headerLayout, error) {
	h, ok := e.(*bmv2.HeaderExpr)
	if !ok {
		return nil, fmt.Errorf("a header given as %T is %w", e, bmv2.ErrUnsupported)
	}
	return b.e.layout.headers[h.Header.Index], nil
}

func assignHeader(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	d, err := b.header(args[0])
	if err != nil {
		return nil, err
	}
	s, err := b.header(args[1])
	if err != nil {
		return nil, err
	}
	if d.def.Type != s.def.Type {
		return nil, fmt.Errorf("headers %q and %q have different types", d.def.Name, s.def.Name)
	}
	b.e.noteRead(s.pointers()...)
	return func(c *Context) {
		c.v[d.valid] = c.v[s.valid]
		if c.v[s.valid] == 0 {
			return
		}
		copy(c.v[d.firstSlot:d.endSlot], c.v[s.firstSlot:s.endSlot])
		copy(c.w[d.firstByte:d.endByte], c.w[s.firstByte:s.endByte])
	}, nil
}

func addHeader(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 1); err != nil {
		return nil, err
	}
	h, err := b.header(args[0])
	if err != nil {
		return nil, err
	}
	return func(c *Context) {
		if c.v[h.valid] == 0 {
			h.reset(c)
			c.v[h.valid] = 1
			c.Length += h.fixedBytes
		}
	}, nil
}

func removeHeader(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 1); err != nil {
		return nil, err
	}
	h, err := b.header(args[0])
	if err != nil {
		return nil, err
	}
	if h.def.Metadata {
		return nil, fmt.Errorf("%q is metadata", h.def.Name)
	}
	return func(c *Context) {
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
	return func(c *Context) { ctr.count(idx(c), c.IngressLength) }, nil
}

// A register is an array whose accesses an action locks as a whole.
type register struct {
	mu    sync.Mutex
	cells []uint64
	mask  uint64
	index int
}

// read returns 0 for an index out of range.
func (r *register) read(i uint64) uint64 {
	if i >= uint64(len(r.cells)) {
		return 0
	}
	return r.cells[i]
}

func registerRead(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 3); err != nil {
		return nil, err
	}
	set, err := b.Assign(args[0])
	if err != nil {
		return nil, err
	}
	ref, ok := args[1].(*bmv2.RegisterRef)
	if !ok {
		return nil, fmt.Errorf("want a register, have %T", args[1])
	}
	r := b.useRegister(ref.Array)
	idx, err := b.Index(args[2])
	if err != nil {
		return nil, err
	}
	return func(c *Context) {
		// Like bmv2, leave the field alone if the index is out of range.
		if i := idx(c); i < uint64(len(r.cells)) {
			set(c, r.cells[i])
		}
	}, nil
}

func registerWrite(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 3); err != nil {
		return nil, err
	}
	ref, ok := args[0].(*bmv2.RegisterRef)
	if !ok {
		return nil, fmt.Errorf("want a register, have %T", args[0])
	}
	r := b.useRegister(ref.Array)
	idx, err := b.Index(args[1])
	if err != nil {
		return nil, err
	}
	v, err := b.Uint(args[2])
	if err != nil {
		return nil, err
	}
	return func(c *Context) {
		if i := idx(c); i < uint64(len(r.cells)) {
			r.cells[i] = v(c) & r.mask
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
