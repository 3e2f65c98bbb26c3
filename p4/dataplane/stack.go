// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"math/big"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// stackLayout is where a stack of headers is. Next is how many were extracted or
// pushed, as bmv2 counts them.
type stackLayout struct {
	next  int // slot
	elems []*headerLayout
	// void stands for a header outside of the stack.
	void *headerLayout
}

// unionStackLayout is a stack of unions; each element, and void, is the members.
type unionStackLayout struct {
	next  int
	elems [][]*headerLayout
	void  []*headerLayout
}

func (l *layout) addStacks(p *bmv2.Program) {
	slot := func() int {
		l.slots++
		return l.slots - 1
	}
	void := func(t *bmv2.HeaderType) *headerLayout {
		return l.place(&bmv2.Header{Name: "outside of a stack", Index: -1, Type: t})
	}
	for _, s := range p.Stacks {
		sl := &stackLayout{next: slot(), void: void(s.Type)}
		for _, h := range s.Headers {
			sl.elems = append(sl.elems, l.headers[h.Index])
		}
		l.stacks = append(l.stacks, sl)
	}
	for _, u := range p.Unions {
		members := make([]*headerLayout, len(u.Headers))
		for i, h := range u.Headers {
			members[i] = l.headers[h.Index]
		}
		for i, h := range members {
			for j, other := range members {
				if i != j {
					h.others = append(h.others, other.valid)
				}
			}
		}
		l.unions = append(l.unions, members)
	}
	for _, s := range p.UnionStacks {
		sl := &unionStackLayout{next: slot()}
		for _, m := range s.Type.Members {
			sl.void = append(sl.void, void(m.Type))
		}
		for _, u := range s.Unions {
			sl.elems = append(sl.elems, l.unions[u.Index])
		}
		l.unionStacks = append(l.unionStacks, sl)
	}
}

// setValid makes the header valid, and the other members of its union invalid.
func (h *headerLayout) setValid(c *Context) {
	c.v[h.valid] = 1
	for _, s := range h.others {
		c.v[s] = 0
	}
}

// assign makes h a copy of src: fields only if that is valid.
func (h *headerLayout) assign(c *Context, src *headerLayout) {
	if c.v[src.valid] == 0 {
		c.v[h.valid] = 0
		return
	}
	h.setValid(c)
	copy(c.v[h.firstSlot:h.endSlot], c.v[src.firstSlot:src.endSlot])
	copy(c.w[h.firstByte:h.endByte], c.w[src.firstByte:src.endByte])
}

// empty makes a header that stands for none read as such.
func (h *headerLayout) empty(c *Context) *headerLayout {
	h.reset(c)
	c.v[h.valid] = 0
	return h
}

func (s *stackLayout) at(c *Context, i uint64) *headerLayout {
	if i < uint64(len(s.elems)) {
		return s.elems[i]
	}
	return s.void.empty(c)
}

func (s *stackLayout) last(c *Context) *headerLayout { return s.at(c, c.v[s.next]-1) }

func (s *unionStackLayout) at(c *Context, i uint64) []*headerLayout {
	if i < uint64(len(s.elems)) {
		return s.elems[i]
	}
	for _, h := range s.void {
		h.empty(c)
	}
	return s.void
}

func (s *unionStackLayout) last(c *Context) []*headerLayout { return s.at(c, c.v[s.next]-1) }

// shift moves the elements of a stack by n towards the end, or towards the front if n
// is negative, and makes what is uncovered invalid (P4_16 section 8.18). next follows
// as in bmv2.
func shift(c *Context, next, size, n int, move func(c *Context, dst, src int), clear func(c *Context, i int)) {
	if n >= 0 {
		n = min(n, size)
		for i := size - 1; i >= n; i-- {
			move(c, i, i-n)
		}
		for i := range n {
			clear(c, i)
		}
		c.v[next] = min(uint64(size), c.v[next]+uint64(n))
		return
	}
	n = min(-n, size)
	for i := 0; i < size-n; i++ {
		move(c, i, i+n)
	}
	for i := size - n; i < size; i++ {
		clear(c, i)
	}
	c.v[next] -= min(c.v[next], uint64(n))
}

func (s *stackLayout) shift(c *Context, n int) {
	shift(c, s.next, len(s.elems), n,
		func(c *Context, dst, src int) { s.elems[dst].assign(c, s.elems[src]) },
		func(c *Context, i int) { c.v[s.elems[i].valid] = 0 })
}

func (s *unionStackLayout) shift(c *Context, n int) {
	shift(c, s.next, len(s.elems), n,
		func(c *Context, dst, src int) { assignUnion(c, s.elems[dst], s.elems[src]) },
		func(c *Context, i int) {
			for _, h := range s.elems[i] {
				c.v[h.valid] = 0
			}
		})
}

func assignUnion(c *Context, dst, src []*headerLayout) {
	for i := range dst {
		dst[i].assign(c, src[i])
	}
}

// A headerRef yields a header, a unionRef the members of a union.
type (
	headerRef func(*Context) *headerLayout
	unionRef  func(*Context) []*headerLayout
)

// header compiles a reference to a header. static is the header if it is known
// already.
func (b *Builder) header(e bmv2.Expr) (ref headerRef, static *headerLayout, err error) {
	switch e := e.(type) {
	case *bmv2.HeaderExpr:
		h := b.e.layout.headers[e.Header.Index]
		return func(*Context) *headerLayout { return h }, h, nil
	case *bmv2.StackElem:
		idx, err := b.Index(e.Index)
		if err != nil {
			return nil, nil, err
		}
		s := b.e.layout.stacks[e.Stack.Index]
		return func(c *Context) *headerLayout { return s.at(c, idx(c)) }, nil, nil
	case *bmv2.StackLast:
		return b.e.layout.stacks[e.Stack.Index].last, nil, nil
	case *bmv2.UnionHeader:
		u, err := b.union(e.Union)
		if err != nil {
			return nil, nil, err
		}
		i := e.Index
		return func(c *Context) *headerLayout { return u(c)[i] }, nil, nil
	}
	return nil, nil, fmt.Errorf("a header given as %T is %w", e, bmv2.ErrUnsupported)
}

func (b *Builder) union(e bmv2.Expr) (unionRef, error) {
	switch e := e.(type) {
	case *bmv2.UnionExpr:
		u := b.e.layout.unions[e.Union.Index]
		return func(*Context) []*headerLayout { return u }, nil
	case *bmv2.UnionElem:
		idx, err := b.Index(e.Index)
		if err != nil {
			return nil, err
		}
		s := b.e.layout.unionStacks[e.Stack.Index]
		return func(c *Context) []*headerLayout { return s.at(c, idx(c)) }, nil
	case *bmv2.UnionLast:
		return b.e.layout.unionStacks[e.Stack.Index].last, nil
	}
	return nil, fmt.Errorf("a header union given as %T is %w", e, bmv2.ErrUnsupported)
}

// memberValue compiles a field of a header that is known only at run time.
func (b *Builder) memberValue(e *bmv2.MemberExpr) (*value, error) {
	ref, _, err := b.header(e.Header)
	if err != nil {
		return nil, err
	}
	i, def := e.Index, e.Def()
	at := func(c *Context) *loc { return &ref(c).fields[i] }
	v := &value{lo: bigZero, hi: bigMask(def.Width), slot: -1, width: def.Width}
	switch {
	case def.Varbit:
		return nil, fmt.Errorf("a varbit field in an expression is %w", bmv2.ErrUnsupported)
	case def.Width > 64:
		raw := func(c *Context) []byte { l := at(c); return c.w[l.off : l.off+l.bytes] }
		wideValue(v, raw, def.Signed)
	case def.Signed:
		shift := 64 - def.Width
		v.hi = bigMask(def.Width - 1)
		v.lo = new(big.Int).Not(v.hi)
		v.u = func(c *Context) uint64 { return uint64(int64(c.v[at(c).slot]<<shift) >> shift) }
		v.big = func(c *Context) *big.Int { return big.NewInt(int64(v.u(c))) }
	default:
		v.u = func(c *Context) uint64 { return c.v[at(c).slot] }
		v.big = func(c *Context) *big.Int { return new(big.Int).SetUint64(v.u(c)) }
	}
	return v, nil
}

// wideValue completes v, a number of v.width bits in raw bytes.
func wideValue(v *value, raw func(*Context) []byte, signed bool) {
	v.u = func(c *Context) uint64 { r := raw(c); return loadBE(r[len(r)-8:], 8) }
	if !signed {
		v.raw = raw
		v.big = func(c *Context) *big.Int { return new(big.Int).SetBytes(raw(c)) }
		return
	}
	v.hi = bigMask(v.width - 1)
	v.lo = new(big.Int).Not(v.hi)
	width := v.width
	over := new(big.Int).Lsh(bigOne, uint(width))
	v.big = func(c *Context) *big.Int {
		x := new(big.Int).SetBytes(raw(c))
		if x.Bit(width-1) == 1 {
			x.Sub(x, over)
		}
		return x
	}
}

// storeWide compiles what writes v as a number of width bits, more than 64, to
// (width+7)/8 bytes.
func storeWide(width int, v *value) func(c *Context, dst []byte) {
	n := (width + 7) / 8
	switch {
	case v.konst != nil:
		k := new(big.Int).And(v.konst, bigMask(width)).FillBytes(make([]byte, n))
		return func(_ *Context, dst []byte) { copy(dst, k) }
	case v.raw != nil && (v.width+7)/8 == n && v.width <= width:
		from := v.raw
		return func(c *Context, dst []byte) { copy(dst, from(c)) }
	case v.exact():
		u := v.u
		return func(c *Context, dst []byte) {
			x := u(c)
			clear(dst[:n-8])
			storeBE(dst[n-8:], x, 8)
		}
	}
	mask := bigMask(width)
	return func(c *Context, dst []byte) { new(big.Int).And(v.big(c), mask).FillBytes(dst) }
}

// assignTo compiles the assignment of v to the field that e names.
func (b *Builder) assignTo(e bmv2.Expr, v *value) (func(*Context), error) {
	switch e := e.(type) {
	case *bmv2.FieldExpr:
		return assignValue(b.loc(e.FieldRef), v)
	case *bmv2.MemberExpr:
		ref, _, err := b.header(e.Header)
		if err != nil {
			return nil, err
		}
		i, def := e.Index, e.Def()
		switch {
		case def.Varbit:
			return nil, fmt.Errorf("assigning a number to a varbit field is %w", bmv2.ErrUnsupported)
		case def.Width > 64:
			put := storeWide(def.Width, v)
			return func(c *Context) { l := &ref(c).fields[i]; put(c, c.w[l.off:l.off+l.bytes]) }, nil
		}
		u := v.u
		if u == nil {
			u = func(c *Context) uint64 { return low64(v.big(c)) }
		}
		mask := lowMask(def.Width)
		return func(c *Context) {
			x := u(c) & mask // before the header is looked up: it may be void, and read too
			c.v[ref(c).fields[i].slot] = x
		}, nil
	case *bmv2.Unary:
		// The validity of a header that is known only at run time.
		if h, ok := validityOf(e); ok {
			ref, _, err := b.header(h)
			if err != nil {
				return nil, err
			}
			if v.u == nil {
				return nil, fmt.Errorf("the validity of a header set to this is %w", bmv2.ErrUnsupported)
			}
			return func(c *Context) {
				if v.u(c)&1 != 0 {
					ref(c).setValid(c)
				} else {
					c.v[ref(c).valid] = 0
				}
			}, nil
		}
	}
	return nil, fmt.Errorf("a destination of type %T is %w", e, bmv2.ErrUnsupported)
}

func validityOf(e *bmv2.Unary) (bmv2.Expr, bool) {
	if x, ok := e.X.(*bmv2.Unary); ok && e.Op == bmv2.BoolToData && x.Op == bmv2.Valid {
		return x.X, true
	}
	return nil, false
}

// stackData compiles the operators that ask a stack for its size.
func (b *Builder) stackData(e *bmv2.Unary) (*value, error) {
	s, ok := e.X.(*bmv2.StackExpr)
	if !ok {
		return nil, fmt.Errorf("operator %q of a %T is %w", e.Op, e.X, bmv2.ErrUnsupported)
	}
	next := b.e.layout.stacks[s.Stack.Index].next
	v := &value{slot: -1}
	if e.Op == bmv2.StackSize {
		v.lo, v.hi = bigZero, big.NewInt(int64(len(s.Stack.Headers)))
		v.u = func(c *Context) uint64 { return c.v[next] }
	} else { // of an empty stack 2^64-1, as in bmv2
		v.lo, v.hi = bigZero, bigMask(64)
		v.u = func(c *Context) uint64 { return c.v[next] - 1 }
	}
	v.big = func(c *Context) *big.Int { return new(big.Int).SetUint64(v.u(c)) }
	return v, nil
}

// headersEqual is bmv2's comparison: both valid and all fields equal.
func (b *Builder) headersEqual(l, r bmv2.Expr) (evalBool, error) {
	x, hx, err := b.header(l)
	if err != nil {
		return nil, err
	}
	y, hy, err := b.header(r)
	if err != nil {
		return nil, err
	}
	for _, h := range []*headerLayout{hx, hy} {
		if h != nil {
			b.e.noteRead(h.pointers()...)
		}
	}
	return func(c *Context) bool { return equalHeaders(c, x(c), y(c)) }, nil
}

func equalHeaders(c *Context, x, y *headerLayout) bool {
	if c.v[x.valid] == 0 || c.v[y.valid] == 0 {
		return false
	}
	for i := range x.fields {
		f, g := &x.fields[i], &y.fields[i]
		if f.kind != wide && c.v[f.slot] != c.v[g.slot] {
			return false
		}
		n := f.bytes
		if f.kind == varbit {
			n = int(c.v[f.slot]) / 8
		}
		if f.kind != narrow && !bytes.Equal(c.w[f.off:f.off+n], c.w[g.off:g.off+n]) {
			return false
		}
	}
	return true
}

// unionsEqual wants the same member to be valid in both, and equal.
func (b *Builder) unionsEqual(l, r bmv2.Expr) (evalBool, error) {
	x, err := b.union(l)
	if err != nil {
		return nil, err
	}
	y, err := b.union(r)
	if err != nil {
		return nil, err
	}
	return func(c *Context) bool {
		us, vs := x(c), y(c)
		for i := range us {
			if c.v[us[i].valid] != 0 {
				return equalHeaders(c, us[i], vs[i])
			}
		}
		return false
	}, nil
}

func push(b *Builder, args []bmv2.Expr) (func(*Context), error) { return shiftStack(b, args, 1) }
func pop(b *Builder, args []bmv2.Expr) (func(*Context), error)  { return shiftStack(b, args, -1) }

func shiftStack(b *Builder, args []bmv2.Expr, sign int) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	n, err := b.Index(args[1])
	if err != nil {
		return nil, err
	}
	const most = 1 << 20 // no stack is as large
	switch s := args[0].(type) {
	case *bmv2.StackExpr:
		st := b.e.layout.stacks[s.Stack.Index]
		return func(c *Context) { st.shift(c, sign*int(min(n(c), most))) }, nil
	case *bmv2.UnionStackExpr:
		st := b.e.layout.unionStacks[s.Stack.Index]
		return func(c *Context) { st.shift(c, sign*int(min(n(c), most))) }, nil
	}
	return nil, fmt.Errorf("want a stack, have %T", args[0])
}

func assignUnions(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	if t := bmv2.UnionTypeOf(args[0]); t == nil || t != bmv2.UnionTypeOf(args[1]) {
		return nil, fmt.Errorf("want two header unions of one type")
	}
	d, err := b.union(args[0])
	if err != nil {
		return nil, err
	}
	s, err := b.union(args[1])
	if err != nil {
		return nil, err
	}
	return func(c *Context) { assignUnion(c, d(c), s(c)) }, nil
}

func assignStack(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	x, ok1 := args[0].(*bmv2.StackExpr)
	y, ok2 := args[1].(*bmv2.StackExpr)
	if !ok1 || !ok2 || x.Stack.Type != y.Stack.Type || len(x.Stack.Headers) != len(y.Stack.Headers) {
		return nil, fmt.Errorf("want two header stacks of one type and size")
	}
	d, s := b.e.layout.stacks[x.Stack.Index], b.e.layout.stacks[y.Stack.Index]
	return func(c *Context) {
		c.v[d.next] = c.v[s.next]
		for i := range d.elems {
			d.elems[i].assign(c, s.elems[i])
		}
	}, nil
}

func assignUnionStack(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 2); err != nil {
		return nil, err
	}
	x, ok1 := args[0].(*bmv2.UnionStackExpr)
	y, ok2 := args[1].(*bmv2.UnionStackExpr)
	if !ok1 || !ok2 || x.Stack.Type != y.Stack.Type || len(x.Stack.Unions) != len(y.Stack.Unions) {
		return nil, fmt.Errorf("want two header union stacks of one type and size")
	}
	d, s := b.e.layout.unionStacks[x.Stack.Index], b.e.layout.unionStacks[y.Stack.Index]
	return func(c *Context) {
		c.v[d.next] = c.v[s.next]
		for i := range d.elems {
			assignUnion(c, d.elems[i], s.elems[i])
		}
	}, nil
}
