// SPDX-License-Identifier: Apache-2.0

// Package dataplane executes a compiled P4 program: it parses packets, applies
// pipelines of tables and actions to them, keeps counters and registers, and
// writes packets out again. It does no I/O and knows no architecture; what a
// packet goes through between two pipelines, and what a target's own primitives
// do, is for the package around it (see v1model).
//
// New turns a bmv2.Program into closures over a Context, once. Executing them
// allocates nothing for values of up to 64 bits and for plain uses of wider ones.
//
// # Concurrency
//
// An Engine is used by any number of goroutines, each with a Context of its own,
// while a control plane changes its tables. Lookups take no lock: every entry is
// published with one atomic store. A packet sees an entry before a change or
// after it, never a mixture, and every lookup that begins after a change has
// returned sees it.
package dataplane

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// An Engine is a program with its state: table entries, counters and registers.
type Engine struct {
	prog      *bmv2.Program
	layout    *layout
	parser    *parser
	deparser  *deparser
	verify    []*checksum
	update    []*checksum
	pipelines map[string]*Pipeline
	tables    map[string]*Table
	tableList []*Table
	counters  []*Counter
	meters    []*Meter
	registers []*Register
	shared    sync.Mutex // over registers that several actions use
	profiles  []*Profile
	valueSets []*ValueSet
	now       func() int64
	noError   uint32
	maxKey    int
	read      map[int]bool // slots that the program reads
	seeds     atomic.Uint64
}

// A Primitive compiles one call of a primitive. Its errors need not name the
// primitive or its place.
type Primitive func(b *Builder, args []bmv2.Expr) (func(*Context), error)

// Options says what an architecture adds to and expects of a program.
type Options struct {
	// Parser and Deparser name the ones that Parse and Deparse run. A program
	// must have them.
	Parser, Deparser string
	// Primitives are the architecture's own. Those that every bmv2 target has
	// are built in.
	Primitives map[string]Primitive
	// Seed seeds random(); 0 takes the time.
	Seed uint64
	// Now is the clock of meters and idle timeouts, in nanoseconds since some moment
	// before New, never backwards; nil is the real one.
	Now func() int64
	// Log is called with what log_msg and failed assertions say, by the goroutine that
	// works on the packet; nil is silence.
	Log func(string)
}

// New compiles a program. The error names what it does not support, and where.
func New(p *bmv2.Program, opts Options) (*Engine, error) {
	e := &Engine{
		prog:      p,
		layout:    newLayout(p),
		pipelines: map[string]*Pipeline{},
		tables:    map[string]*Table{},
		read:      map[int]bool{},
	}
	if e.now = opts.Now; e.now == nil {
		start := time.Now().Add(-time.Second)
		e.now = func() int64 { return int64(time.Since(start)) }
	}
	e.seeds.Store(opts.Seed)
	if opts.Seed == 0 {
		e.seeds.Store(uint64(time.Now().UnixNano()))
	}
	e.noError, _ = p.ErrorCode("NoError")
	for _, c := range p.Counters {
		ctr := &Counter{def: c}
		if !c.Direct {
			ctr.cells = make([]cell, c.Size)
		}
		e.counters = append(e.counters, ctr)
	}
	for _, m := range p.Meters {
		e.meters = append(e.meters, &Meter{def: m, cells: make([]MeterCell, m.Size), e: e})
	}
	for _, r := range p.Registers {
		e.registers = append(e.registers, newRegister(r))
	}
	for _, v := range p.ValueSets {
		e.valueSets = append(e.valueSets, newValueSet(v))
	}
	b := &Builder{e: e, opts: &opts, actions: map[*bmv2.Action]*action{}}
	for i, a := range p.Actions {
		act, err := b.action(a)
		if err != nil {
			return nil, err
		}
		act.index = i
		b.actions[a] = act
	}
	pr := p.Parser(opts.Parser)
	if pr == nil {
		return nil, fmt.Errorf("the program has no parser %q", opts.Parser)
	}
	var err error
	if e.parser, err = b.parser(pr); err != nil {
		return nil, fmt.Errorf("parser %q: %w", pr.Name, err)
	}
	dp := p.Deparser(opts.Deparser)
	if dp == nil {
		return nil, fmt.Errorf("the program has no deparser %q", opts.Deparser)
	}
	if e.deparser, err = b.deparser(dp); err != nil {
		return nil, fmt.Errorf("deparser %q: %w", dp.Name, err)
	}
	for _, c := range p.Checksums {
		k, err := b.checksum(c)
		if err != nil {
			return nil, fmt.Errorf("checksum %q: %w", c.Name, err)
		}
		if c.Verify {
			e.verify = append(e.verify, k)
		}
		if c.Update {
			e.update = append(e.update, k)
		}
	}
	for _, def := range p.ActionProfiles {
		pr, err := b.profile(def)
		if err != nil {
			return nil, err
		}
		e.profiles = append(e.profiles, pr)
	}
	for _, pl := range p.Pipelines {
		rt, err := b.pipeline(pl)
		if err != nil {
			return nil, fmt.Errorf("pipeline %q: %w", pl.Name, err)
		}
		e.pipelines[pl.Name] = rt
	}
	b.lockRegisters()
	return e, nil
}

// seed returns another seed each time.
func (e *Engine) seed() uint64 { return e.seeds.Add(0x632be59bd9b4e019) }

// Program returns what the engine executes.
func (e *Engine) Program() *bmv2.Program { return e.prog }

// Pipeline returns the pipeline of that name, or nil.
func (e *Engine) Pipeline(name string) *Pipeline { return e.pipelines[name] }

// Table returns the table of that name, or nil.
func (e *Engine) Table(name string) *Table { return e.tables[name] }

// Tables returns all tables in the order of the program.
func (e *Engine) Tables() []*Table { return e.tableList }

// Counter returns the indirect counter of that name, or nil.
func (e *Engine) Counter(name string) *Counter {
	for _, c := range e.counters {
		if c.def.Name == name && !c.def.Direct {
			return c
		}
	}
	return nil
}

// Counters returns all indirect counters in the order of the program.
func (e *Engine) Counters() []*Counter {
	var out []*Counter
	for _, c := range e.counters {
		if !c.def.Direct {
			out = append(out, c)
		}
	}
	return out
}

// Meters returns all indirect meters in the order of the program.
func (e *Engine) Meters() []*Meter {
	var out []*Meter
	for _, m := range e.meters {
		if !m.def.Direct {
			out = append(out, m)
		}
	}
	return out
}

// Meter returns the indirect meter of that name, or nil.
func (e *Engine) Meter(name string) *Meter {
	for _, m := range e.meters {
		if m.def.Name == name && !m.def.Direct {
			return m
		}
	}
	return nil
}

// Registers returns all registers in the order of the program.
func (e *Engine) Registers() []*Register { return e.registers }

// Register returns the register of that name, or nil.
func (e *Engine) Register(name string) *Register {
	for _, r := range e.registers {
		if r.def.Name == name {
			return r
		}
	}
	return nil
}

// Profiles returns all action profiles in the order of the program.
func (e *Engine) Profiles() []*Profile { return e.profiles }

// Profile returns the action profile of that name, or nil.
func (e *Engine) Profile(name string) *Profile {
	for _, p := range e.profiles {
		if p.def.Name == name {
			return p
		}
	}
	return nil
}

// ValueSets returns all parser value sets in the order of the program.
func (e *Engine) ValueSets() []*ValueSet { return e.valueSets }

// ValueSet returns the parser value set of that name, or nil.
func (e *Engine) ValueSet(name string) *ValueSet {
	for _, v := range e.valueSets {
		if v.def.Name == name {
			return v
		}
	}
	return nil
}

// Field returns a handle for a field of at most 64 bits, following the program's
// aliases. Without such a field it returns one that does nothing.
func (e *Engine) Field(header, field string) Field {
	ref, ok := e.prog.Field(header, field)
	if !ok {
		return Field{}
	}
	l := &e.layout.headers[ref.Header.Index].fields[ref.Index]
	if l.kind != narrow {
		return Field{}
	}
	return Field{slot: l.slot + 1, mask: l.mask()}
}

// Reads tells whether the program can see the value of a field. What it cannot see
// need not be computed.
func (e *Engine) Reads(f Field) bool { return f.slot != 0 && e.read[f.slot-1] }

func (e *Engine) noteRead(fields ...*loc) {
	for _, l := range fields {
		if l.kind == narrow {
			e.read[l.slot] = true
		}
	}
}

// A Builder compiles expressions for primitives.
type Builder struct {
	e       *Engine
	opts    *Options
	actions map[*bmv2.Action]*action
	// registers used by what is being compiled.
	used map[*Register]bool
}

// Engine returns the engine that is being built. Only its fields and program may
// be asked for.
func (b *Builder) Engine() *Engine { return b.e }

func (b *Builder) loc(r bmv2.FieldRef) *loc {
	return &b.e.layout.headers[r.Header.Index].fields[r.Index]
}

// Uint compiles an argument to a number of 64 bits; what does not fit is cut off.
func (b *Builder) Uint(e bmv2.Expr) (func(*Context) uint64, error) {
	if e.Type() != bmv2.Data {
		return nil, fmt.Errorf("want a number, have a %v", e.Type())
	}
	v, err := b.data(e)
	if err != nil {
		return nil, err
	}
	if v.u != nil {
		return v.u, nil
	}
	return func(c *Context) uint64 { return low64(v.big(c)) }, nil
}

// Index is Uint for an array index or a length: what does not fit into 64 bits
// becomes the largest number.
func (b *Builder) Index(e bmv2.Expr) (func(*Context) uint64, error) {
	if e.Type() != bmv2.Data {
		return nil, fmt.Errorf("want a number, have a %v", e.Type())
	}
	v, err := b.data(e)
	if err != nil {
		return nil, err
	}
	if v.exact() {
		return v.u, nil
	}
	return func(c *Context) uint64 {
		x := v.big(c)
		if x.Sign() < 0 || x.BitLen() > 64 {
			return ^uint64(0)
		}
		return x.Uint64()
	}, nil
}

// Assign compiles an assignment of up to 64 bits to the field that e names.
func (b *Builder) Assign(e bmv2.Expr) (func(*Context, uint64), error) {
	var at func(c *Context) *loc
	var width int
	switch f := e.(type) {
	case *bmv2.FieldExpr:
		l := b.loc(f.FieldRef)
		if l.kind == narrow {
			slot, mask := l.slot, l.mask()
			return func(c *Context, v uint64) { c.v[slot] = v & mask }, nil
		}
		at, width = func(*Context) *loc { return l }, l.width
		if l.kind == varbit {
			return nil, fmt.Errorf("assigning a number to varbit field %s is %w", f, bmv2.ErrUnsupported)
		}
	case *bmv2.MemberExpr:
		ref, _, err := b.header(f.Header)
		if err != nil {
			return nil, err
		}
		i := f.Index
		at, width = func(c *Context) *loc { return &ref(c).fields[i] }, f.Def().Width
		if f.Def().Varbit {
			return nil, fmt.Errorf("assigning a number to varbit field %s is %w", f.Def().Name, bmv2.ErrUnsupported)
		}
	default:
		return nil, fmt.Errorf("want a field, have %T", e)
	}
	if width <= 64 {
		mask := lowMask(width)
		return func(c *Context, v uint64) { c.v[at(c).slot] = v & mask }, nil
	}
	return func(c *Context, v uint64) {
		l := at(c)
		clear(c.w[l.off : l.off+l.bytes-8])
		storeBE(c.w[l.off+l.bytes-8:], v, 8)
	}, nil
}

// FieldOf returns a handle for a field of the header that e names, and whether the
// header has it.
func (b *Builder) FieldOf(e bmv2.Expr, field string) (Field, bool) {
	h, ok := e.(*bmv2.HeaderExpr)
	if !ok {
		return Field{}, false
	}
	for i := range h.Header.Type.Fields {
		if h.Header.Type.Fields[i].Name == field {
			l := &b.e.layout.headers[h.Header.Index].fields[i]
			if l.kind == narrow {
				return Field{slot: l.slot + 1, mask: l.mask()}, true
			}
		}
	}
	return Field{}, false
}

// ErrArgument is wrapped by errors about values that the control plane supplied.
var ErrArgument = errors.New("invalid argument")
