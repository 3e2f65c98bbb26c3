// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"math/big"
	"sort"
	"sync"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// A Register is an array of numbers that packets and the control plane read and
// write.
//
// Packets run on several cores. A register that one action alone uses is locked
// while that action runs, so that it reads and writes it in one go. Registers that
// several actions use are locked all together, from the first such action that a
// packet meets to the end of the pipeline: what one packet reads in one action and
// writes in another is never changed in between by another packet. That is what
// programs expect of bmv2, which has one thread for ingress.
type Register struct {
	def *bmv2.RegisterArray
	mu  *sync.Mutex // its own, or Engine.shared
	own sync.Mutex
	// Cells of up to 64 bits are numbers, wider ones bytes.
	cells  []uint64
	wide   []byte
	size   int // bytes of a cell
	mask   uint64
	users  int
	shared bool
}

func newRegister(def *bmv2.RegisterArray) *Register {
	r := &Register{def: def, size: (def.Width + 7) / 8, mask: lowMask(def.Width)}
	r.mu = &r.own
	if def.Width <= 64 {
		r.cells = make([]uint64, def.Size)
	} else {
		r.wide = make([]byte, def.Size*r.size)
	}
	return r
}

// Def returns the declaration of the register.
func (r *Register) Def() *bmv2.RegisterArray { return r.def }

// Len returns how many cells there are.
func (r *Register) Len() int { return r.def.Size }

// Read returns the cell at i, which must be less than Len, as (width+7)/8 bytes.
func (r *Register) Read(i int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]byte, r.size)
	if r.wide != nil {
		copy(out, r.wide[i*r.size:])
	} else {
		storeBE(out, r.cells[i], r.size)
	}
	return out
}

// Write overwrites the cell at i, which must be less than Len, with a number of
// (width+7)/8 bytes.
func (r *Register) Write(i int, v []byte) error {
	if err := checkWidth(v, r.def.Width); err != nil {
		return fmt.Errorf("register %q: %w", r.def.Name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wide != nil {
		copy(r.wide[i*r.size:], v)
	} else {
		r.cells[i] = loadBE(v, r.size)
	}
	return nil
}

// Reset makes all cells zero.
func (r *Register) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.cells)
	clear(r.wide)
}

// cell returns a wide cell; nil if the index is out of range.
func (r *Register) cell(i uint64) []byte {
	if i >= uint64(r.def.Size) {
		return nil
	}
	return r.wide[int(i)*r.size : (int(i)+1)*r.size]
}

// useRegister notes that what is being compiled uses r, and returns it. loose is
// set outside an action, where no lock is held.
func (b *Builder) useRegister(a *bmv2.RegisterArray) (r *Register, loose bool) {
	r = b.e.registers[a.Index]
	if b.used == nil {
		r.users += 2 // a use that no action's lock covers
		return r, true
	}
	if !b.used[r] {
		b.used[r] = true
		r.users++
	}
	return r, false
}

// lockRegisters decides which lock protects which register, when all is compiled.
func (b *Builder) lockRegisters() {
	for _, r := range b.e.registers {
		if r.users > 1 {
			r.shared, r.mu = true, &b.e.shared
		}
	}
	for _, a := range b.actions {
		var own []*Register
		for _, r := range a.registers {
			if r.shared {
				a.shared = true
			} else {
				own = append(own, r)
			}
		}
		sort.Slice(own, func(i, j int) bool { return own[i].def.Index < own[j].def.Index })
		a.registers = own
	}
}

// hold takes the lock over all shared registers, until release.
func (c *Context) hold() {
	if !c.holds {
		c.e.shared.Lock()
		c.holds = true
	}
}

func (c *Context) release() {
	if c.holds {
		c.holds = false
		c.e.shared.Unlock()
	}
}

// loosely makes an access outside an action safe.
func loosely(f func(*Context)) func(*Context) {
	return func(c *Context) {
		if c.holds {
			f(c)
			return
		}
		c.hold()
		f(c)
		c.release()
	}
}

// registerValue compiles an element of a register as a number; out of range it is 0.
func (b *Builder) registerValue(e *bmv2.RegisterExpr) (*value, error) {
	idx, err := b.Index(e.Index)
	if err != nil {
		return nil, err
	}
	r, loose := b.useRegister(e.Array)
	if loose {
		return nil, fmt.Errorf("register %q in an expression outside an action is %w", e.Array.Name, bmv2.ErrUnsupported)
	}
	v := &value{lo: bigZero, hi: bigMask(e.Array.Width), slot: -1}
	if r.wide != nil {
		v.u = func(c *Context) uint64 {
			if w := r.cell(idx(c)); w != nil {
				return loadBE(w[r.size-8:], 8)
			}
			return 0
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).SetBytes(r.cell(idx(c))) }
		return v, nil
	}
	v.u = func(c *Context) uint64 {
		if i := idx(c); i < uint64(len(r.cells)) {
			return r.cells[i]
		}
		return 0
	}
	v.big = func(c *Context) *big.Int { return new(big.Int).SetUint64(v.u(c)) }
	return v, nil
}

func registerRead(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 3); err != nil {
		return nil, err
	}
	ref, ok := args[1].(*bmv2.RegisterRef)
	if !ok {
		return nil, fmt.Errorf("want a register, have %T", args[1])
	}
	r, loose := b.useRegister(ref.Array)
	idx, err := b.Index(args[2])
	if err != nil {
		return nil, err
	}
	// Like bmv2, leave the field alone if the index is out of range.
	var op func(c *Context)
	if r.wide != nil {
		// The bytes of the cell that idx names, in an assignment like any other.
		v := &value{lo: bigZero, hi: bigMask(r.def.Width), slot: -1, width: r.def.Width}
		v.raw = func(c *Context) []byte { return r.cell(idx(c)) }
		v.u = func(c *Context) uint64 { return loadBE(r.cell(idx(c))[r.size-8:], 8) }
		v.big = func(c *Context) *big.Int { return new(big.Int).SetBytes(r.cell(idx(c))) }
		set, err := b.assignTo(args[0], v)
		if err != nil {
			return nil, err
		}
		op = func(c *Context) {
			if idx(c) < uint64(r.def.Size) {
				set(c)
			}
		}
	} else {
		set, err := b.Assign(args[0])
		if err != nil {
			return nil, err
		}
		op = func(c *Context) {
			if i := idx(c); i < uint64(len(r.cells)) {
				set(c, r.cells[i])
			}
		}
	}
	if loose {
		return loosely(op), nil
	}
	return op, nil
}

func registerWrite(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 3); err != nil {
		return nil, err
	}
	ref, ok := args[0].(*bmv2.RegisterRef)
	if !ok {
		return nil, fmt.Errorf("want a register, have %T", args[0])
	}
	r, loose := b.useRegister(ref.Array)
	idx, err := b.Index(args[1])
	if err != nil {
		return nil, err
	}
	var op func(c *Context)
	if r.wide != nil {
		if args[2].Type() != bmv2.Data {
			return nil, fmt.Errorf("want a number, have a %v", args[2].Type())
		}
		v, err := b.data(args[2])
		if err != nil {
			return nil, err
		}
		put := storeWide(r.def.Width, v)
		op = func(c *Context) {
			if w := r.cell(idx(c)); w != nil && !c.dry {
				put(c, w)
			}
		}
	} else {
		v, err := b.Uint(args[2])
		if err != nil {
			return nil, err
		}
		op = func(c *Context) {
			if i := idx(c); i < uint64(len(r.cells)) && !c.dry {
				r.cells[i] = v(c) & r.mask
			}
		}
	}
	if loose {
		return loosely(op), nil
	}
	return op, nil
}
