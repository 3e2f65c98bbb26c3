// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"math/big"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// Expressions have unlimited precision. Almost all that p4c emits can be
// computed in 64 bits all the same, because it masks what arithmetic yields; the
// compiler proves it per expression with the interval that the value lies in, and
// falls back to math/big where it cannot.

type (
	evalUint func(*Context) uint64
	evalBool func(*Context) bool
	evalBig  func(*Context) *big.Int
)

// A value is a compiled data expression.
type value struct {
	lo, hi *big.Int // bounds; nil: unknown
	// u yields the value modulo 2^64; nil if that cannot be told in 64 bits.
	u   evalUint
	big evalBig // always there; must not be modified by the caller
	// What it is, if it is simple.
	konst *big.Int
	field *loc
	slot  int                   // of a narrow unsigned field, else -1
	raw   func(*Context) []byte // a wide field, parameter: its (width+7)/8 bytes
	width int                   // of raw
}

// exact tells whether u is the value itself.
func (v *value) exact() bool {
	return v.u != nil && v.lo != nil && v.lo.Sign() >= 0 && v.hi.BitLen() <= 64
}

// exactSigned tells whether int64(u) is the value itself.
func (v *value) exactSigned() bool {
	return v.u != nil && v.lo != nil && fitsInt64(v.lo) && fitsInt64(v.hi)
}

func fitsInt64(x *big.Int) bool { return x.IsInt64() }

func low64(x *big.Int) uint64 {
	if x.Sign() >= 0 {
		if x.BitLen() <= 64 {
			return x.Uint64()
		}
		return new(big.Int).And(x, bigMask(64)).Uint64()
	}
	return new(big.Int).And(x, bigMask(64)).Uint64() // And is two's complement
}

func constant(k *big.Int) *value {
	u := low64(k)
	return &value{lo: k, hi: k, konst: k, slot: -1,
		u:   func(*Context) uint64 { return u },
		big: func(*Context) *big.Int { return k },
	}
}

func (b *Builder) fieldValue(l *loc) (*value, error) {
	v := &value{lo: bigZero, hi: bigMask(l.width), field: l, slot: -1, width: l.width}
	slot, off, n := l.slot, l.off, l.bytes
	switch {
	case l.kind == varbit:
		return nil, fmt.Errorf("a varbit field in an expression is %w", bmv2.ErrUnsupported)
	case l.signed:
		if l.kind == wide {
			wideValue(v, func(c *Context) []byte { return c.w[off : off+n] }, true)
			break
		}
		v.hi = bigMask(l.width - 1)
		v.lo = new(big.Int).Not(v.hi)
		shift := 64 - l.width
		v.u = func(c *Context) uint64 { return uint64(int64(c.v[slot]<<shift) >> shift) }
		v.big = func(c *Context) *big.Int { return big.NewInt(int64(c.v[slot]<<shift) >> shift) }
	case l.kind == narrow:
		v.slot = slot
		v.u = func(c *Context) uint64 { return c.v[slot] }
		v.big = func(c *Context) *big.Int { return new(big.Int).SetUint64(c.v[slot]) }
	default:
		v.u = func(c *Context) uint64 { return loadBE(c.w[off+n-8:], 8) }
		v.raw = func(c *Context) []byte { return c.w[off : off+n] }
		v.big = func(c *Context) *big.Int { return new(big.Int).SetBytes(c.w[off : off+n]) }
	}
	return v, nil
}

func boolMax() (lo, hi *big.Int) { return bigZero, bigOne }

// data compiles an expression whose type is data.
func (b *Builder) data(e bmv2.Expr) (*value, error) {
	switch e := e.(type) {
	case *bmv2.Const:
		return constant(e.Value), nil
	case *bmv2.FieldExpr:
		l := b.loc(e.FieldRef)
		b.e.noteRead(l)
		return b.fieldValue(l)
	case *bmv2.ValidExpr:
		slot := b.e.layout.headers[e.Header.Index].valid
		lo, hi := boolMax()
		return &value{lo: lo, hi: hi, slot: slot,
			u:   func(c *Context) uint64 { return c.v[slot] },
			big: func(c *Context) *big.Int { return new(big.Int).SetUint64(c.v[slot]) },
		}, nil
	case *bmv2.Local:
		i, w := e.Index, e.Width
		v := &value{lo: bigZero, hi: bigMask(w), slot: -1, width: w}
		if w <= 64 {
			v.u = func(c *Context) uint64 { return c.args.narrow[i] }
			v.big = func(c *Context) *big.Int { return new(big.Int).SetUint64(c.args.narrow[i]) }
			return v, nil
		}
		v.u = func(c *Context) uint64 { a := c.args.wide[i]; return loadBE(a[len(a)-8:], 8) }
		v.raw = func(c *Context) []byte { return c.args.wide[i] }
		v.big = func(c *Context) *big.Int { return new(big.Int).SetBytes(c.args.wide[i]) }
		return v, nil
	case *bmv2.RegisterExpr:
		return b.registerValue(e)
	case *bmv2.MemberExpr:
		return b.memberValue(e)
	case *bmv2.Select:
		return b.selectData(e)
	case *bmv2.Unary:
		return b.unaryData(e)
	case *bmv2.Binary:
		return b.binaryData(e)
	}
	return nil, fmt.Errorf("%T as a number is %w", e, bmv2.ErrUnsupported)
}

func (b *Builder) selectData(e *bmv2.Select) (*value, error) {
	cond, err := b.boolean(e.Cond)
	if err != nil {
		return nil, err
	}
	l, err := b.data(e.L)
	if err != nil {
		return nil, err
	}
	r, err := b.data(e.R)
	if err != nil {
		return nil, err
	}
	v := &value{slot: -1, big: func(c *Context) *big.Int {
		if cond(c) {
			return l.big(c)
		}
		return r.big(c)
	}}
	if l.lo != nil && r.lo != nil {
		v.lo, v.hi = smaller(l.lo, r.lo), larger(l.hi, r.hi)
	}
	if l.u != nil && r.u != nil {
		v.u = func(c *Context) uint64 {
			if cond(c) {
				return l.u(c)
			}
			return r.u(c)
		}
	}
	return v, nil
}

func smaller(a, b *big.Int) *big.Int {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

func larger(a, b *big.Int) *big.Int {
	if a.Cmp(b) > 0 {
		return a
	}
	return b
}

func (b *Builder) unaryData(e *bmv2.Unary) (*value, error) {
	if e.Op == bmv2.BoolToData {
		x, err := b.boolean(e.X)
		if err != nil {
			return nil, err
		}
		lo, hi := boolMax()
		return &value{lo: lo, hi: hi, slot: -1,
			u: func(c *Context) uint64 {
				if x(c) {
					return 1
				}
				return 0
			},
			big: func(c *Context) *big.Int {
				if x(c) {
					return bigOne
				}
				return bigZero
			},
		}, nil
	}
	if e.Op == bmv2.StackSize || e.Op == bmv2.LastIndex {
		return b.stackData(e)
	}
	x, err := b.data(e.X)
	if err != nil {
		return nil, err
	}
	v := &value{slot: -1}
	switch e.Op {
	case bmv2.Neg:
		if x.lo != nil {
			v.lo, v.hi = new(big.Int).Neg(x.hi), new(big.Int).Neg(x.lo)
		}
		if x.u != nil {
			v.u = func(c *Context) uint64 { return -x.u(c) }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Neg(x.big(c)) }
	case bmv2.BitNot:
		if x.lo != nil {
			v.lo, v.hi = new(big.Int).Not(x.hi), new(big.Int).Not(x.lo)
		}
		if x.u != nil {
			v.u = func(c *Context) uint64 { return ^x.u(c) }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Not(x.big(c)) }
	default:
		return nil, fmt.Errorf("operator %q as a number is %w", e.Op, bmv2.ErrUnsupported)
	}
	return v, nil
}

// maxShift bounds how far a number is shifted to the left. No field is as wide, so
// that what lies beyond is cut off at once.
const maxShift = 1 << 18

// maxBound is how many bits the bounds of a value may have before they are given up.
const maxBound = 1 << 12

func (b *Builder) binaryData(e *bmv2.Binary) (*value, error) {
	l, err := b.data(e.L)
	if err != nil {
		return nil, err
	}
	r, err := b.data(e.R)
	if err != nil {
		return nil, err
	}
	v := &value{slot: -1}
	v.lo, v.hi = bounds(e.Op, l, r)
	if v.lo != nil && (v.lo.BitLen() > maxBound || v.hi.BitLen() > maxBound) {
		v.lo, v.hi = nil, nil
	}
	lu, ru := l.u, r.u
	both := lu != nil && ru != nil
	switch e.Op {
	case bmv2.Add:
		if both {
			v.u = func(c *Context) uint64 { return lu(c) + ru(c) }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Add(l.big(c), r.big(c)) }
	case bmv2.Sub:
		if both {
			v.u = func(c *Context) uint64 { return lu(c) - ru(c) }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Sub(l.big(c), r.big(c)) }
	case bmv2.Mul:
		if both {
			v.u = func(c *Context) uint64 { return lu(c) * ru(c) }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Mul(l.big(c), r.big(c)) }
	case bmv2.BitAnd:
		if both {
			v.u = andUint(l, r)
		} else if m := r; lu == nil && m.konst != nil && m.konst.Sign() == 0 {
			v.u = func(*Context) uint64 { return 0 }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).And(l.big(c), r.big(c)) }
	case bmv2.BitOr:
		if both {
			v.u = func(c *Context) uint64 { return lu(c) | ru(c) }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Or(l.big(c), r.big(c)) }
	case bmv2.BitXor:
		if both {
			v.u = func(c *Context) uint64 { return lu(c) ^ ru(c) }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Xor(l.big(c), r.big(c)) }
	case bmv2.Shl:
		if lu != nil && r.exact() {
			v.u = func(c *Context) uint64 { return lu(c) << ru(c) } // 0 from 64 on
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Lsh(l.big(c), shiftAmount(r.big(c))) }
	case bmv2.Shr:
		switch {
		case l.exact() && r.exact():
			v.u = func(c *Context) uint64 { return lu(c) >> ru(c) }
		case l.exactSigned() && r.exact():
			v.u = func(c *Context) uint64 { return uint64(int64(lu(c)) >> ru(c)) }
		}
		v.big = func(c *Context) *big.Int { return new(big.Int).Rsh(l.big(c), shiftAmount(r.big(c))) }
	case bmv2.Div:
		if l.exact() && r.exact() {
			v.u = func(c *Context) uint64 {
				d := ru(c)
				if d == 0 {
					return 0
				}
				return lu(c) / d
			}
		}
		v.big = func(c *Context) *big.Int {
			d := r.big(c)
			if d.Sign() == 0 {
				return bigZero
			}
			return new(big.Int).Quo(l.big(c), d)
		}
	case bmv2.Mod:
		if l.exact() && r.exact() {
			v.u = func(c *Context) uint64 {
				d := ru(c)
				if d == 0 {
					return 0
				}
				return lu(c) % d
			}
		}
		v.big = func(c *Context) *big.Int {
			d := r.big(c)
			if d.Sign() == 0 {
				return bigZero
			}
			return new(big.Int).Rem(l.big(c), d)
		}
	case bmv2.TwoCompMod:
		w := int(e.R.(*bmv2.Const).Value.Int64())
		if lu != nil && w <= 64 {
			shift := 64 - w
			v.u = func(c *Context) uint64 { return uint64(int64(lu(c)<<shift) >> shift) }
		}
		mask, sign := bigMask(w), new(big.Int).Lsh(bigOne, uint(w-1))
		v.big = func(c *Context) *big.Int {
			x := new(big.Int).And(l.big(c), mask)
			if x.Cmp(sign) >= 0 {
				x.Sub(x, mask).Sub(x, bigOne)
			}
			return x
		}
	case bmv2.SatCast, bmv2.UsatCast:
		saturate(v, l)
	default:
		return nil, fmt.Errorf("operator %q as a number is %w", e.Op, bmv2.ErrUnsupported)
	}
	return v, nil
}

// andUint prefers forms with fewer calls.
func andUint(l, r *value) evalUint {
	if l.konst != nil {
		l, r = r, l
	}
	lu, ru := l.u, r.u
	if r.konst != nil {
		k := low64(r.konst)
		if l.slot >= 0 {
			slot := l.slot
			return func(c *Context) uint64 { return c.v[slot] & k }
		}
		if l.lo != nil && l.lo.Sign() >= 0 && l.hi.BitLen() <= 64 && l.hi.Uint64()&^k == 0 && isMask(k) {
			return lu // the mask takes nothing away
		}
		return func(c *Context) uint64 { return lu(c) & k }
	}
	return func(c *Context) uint64 { return lu(c) & ru(c) }
}

func isMask(k uint64) bool { return k&(k+1) == 0 }

// saturate clamps x to the bounds of v, which are those of the cast.
func saturate(v, x *value) {
	lo, hi := v.lo, v.hi
	v.big = func(c *Context) *big.Int { return larger(lo, smaller(hi, x.big(c))) }
	switch {
	case x.exactSigned() && fitsInt64(lo) && fitsInt64(hi):
		xu, l, h := x.u, lo.Int64(), hi.Int64()
		v.u = func(c *Context) uint64 { return uint64(max(l, min(h, int64(xu(c))))) }
	case x.exact() && hi.BitLen() <= 64:
		xu, h := x.u, hi.Uint64()
		v.u = func(c *Context) uint64 { return min(h, xu(c)) }
	case hi.BitLen() <= 64:
		v.u = func(c *Context) uint64 { return low64(v.big(c)) }
	}
}

func shiftAmount(x *big.Int) uint {
	if x.Sign() < 0 {
		return 0
	}
	if !x.IsUint64() || x.Uint64() > maxShift {
		return maxShift
	}
	return uint(x.Uint64())
}

// bounds returns what l op r lies between, or nils.
func bounds(op bmv2.Op, l, r *value) (lo, hi *big.Int) {
	switch op { // these need no bounds of l
	case bmv2.TwoCompMod, bmv2.SatCast:
		hi = bigMask(int(r.konst.Int64()) - 1)
		return new(big.Int).Not(hi), hi
	case bmv2.UsatCast:
		return bigZero, bigMask(int(r.konst.Int64()))
	case bmv2.BitAnd:
		switch {
		case l.lo != nil && l.lo.Sign() >= 0 && r.lo != nil && r.lo.Sign() >= 0:
			return bigZero, smaller(l.hi, r.hi)
		case l.lo != nil && l.lo.Sign() >= 0:
			return bigZero, l.hi
		case r.lo != nil && r.lo.Sign() >= 0:
			return bigZero, r.hi
		}
	}
	if l.lo == nil || r.lo == nil {
		return nil, nil
	}
	i := func() *big.Int { return new(big.Int) }
	switch op {
	case bmv2.Add:
		return i().Add(l.lo, r.lo), i().Add(l.hi, r.hi)
	case bmv2.Sub:
		return i().Sub(l.lo, r.hi), i().Sub(l.hi, r.lo)
	case bmv2.Mul:
		p := []*big.Int{i().Mul(l.lo, r.lo), i().Mul(l.lo, r.hi), i().Mul(l.hi, r.lo), i().Mul(l.hi, r.hi)}
		lo, hi = p[0], p[0]
		for _, x := range p[1:] {
			lo, hi = smaller(lo, x), larger(hi, x)
		}
		return lo, hi
	case bmv2.BitAnd, bmv2.BitOr, bmv2.BitXor:
		n := 0
		for _, x := range []*big.Int{l.lo, l.hi, r.lo, r.hi} {
			n = max(n, x.BitLen()+1)
		}
		if l.lo.Sign() >= 0 && r.lo.Sign() >= 0 {
			return bigZero, bigMask(n - 1)
		}
		hi = bigMask(n)
		return i().Not(hi), hi
	case bmv2.Shl:
		if r.lo.Sign() < 0 || !r.hi.IsInt64() || r.hi.Int64() > maxBound {
			return nil, nil
		}
		n := uint(r.hi.Int64())
		lo, hi = i().Lsh(l.lo, n), i().Lsh(l.hi, n)
		return smaller(lo, l.lo), larger(hi, l.hi)
	case bmv2.Shr:
		return smaller(l.lo, bigZero), larger(l.hi, bigZero)
	case bmv2.Div, bmv2.Mod:
		m := larger(i().Abs(l.lo), i().Abs(l.hi))
		if l.lo.Sign() >= 0 && r.lo.Sign() >= 0 {
			return bigZero, m
		}
		return i().Neg(m), m
	}
	return nil, nil
}

// boolean compiles an expression whose type is bool.
func (b *Builder) boolean(e bmv2.Expr) (evalBool, error) {
	switch e := e.(type) {
	case *bmv2.BoolConst:
		k := e.Value
		return func(*Context) bool { return k }, nil
	case *bmv2.Select:
		cond, err := b.boolean(e.Cond)
		if err != nil {
			return nil, err
		}
		l, err := b.boolean(e.L)
		if err != nil {
			return nil, err
		}
		r, err := b.boolean(e.R)
		if err != nil {
			return nil, err
		}
		return func(c *Context) bool {
			if cond(c) {
				return l(c)
			}
			return r(c)
		}, nil
	case *bmv2.Unary:
		switch e.Op {
		case bmv2.Not:
			x, err := b.boolean(e.X)
			if err != nil {
				return nil, err
			}
			return func(c *Context) bool { return !x(c) }, nil
		case bmv2.Valid:
			ref, static, err := b.header(e.X)
			if err != nil {
				return nil, err
			}
			if static != nil {
				slot := static.valid
				return func(c *Context) bool { return c.v[slot] != 0 }, nil
			}
			return func(c *Context) bool { return c.v[ref(c).valid] != 0 }, nil
		case bmv2.ValidUnion:
			u, err := b.union(e.X)
			if err != nil {
				return nil, err
			}
			return func(c *Context) bool {
				for _, h := range u(c) {
					if c.v[h.valid] != 0 {
						return true
					}
				}
				return false
			}, nil
		case bmv2.DataToBool:
			x, err := b.data(e.X)
			if err != nil {
				return nil, err
			}
			switch {
			case x.slot >= 0:
				slot := x.slot
				return func(c *Context) bool { return c.v[slot] != 0 }, nil
			case x.exact() || x.exactSigned():
				u := x.u
				return func(c *Context) bool { return u(c) != 0 }, nil
			}
			return func(c *Context) bool { return x.big(c).Sign() != 0 }, nil
		}
	case *bmv2.Binary:
		return b.binaryBool(e)
	}
	return nil, fmt.Errorf("%T as a condition is %w", e, bmv2.ErrUnsupported)
}

func (b *Builder) binaryBool(e *bmv2.Binary) (evalBool, error) {
	switch e.L.Type() {
	case bmv2.Bool:
		l, err := b.boolean(e.L)
		if err != nil {
			return nil, err
		}
		r, err := b.boolean(e.R)
		if err != nil {
			return nil, err
		}
		switch e.Op {
		case bmv2.And:
			return func(c *Context) bool { return l(c) && r(c) }, nil
		case bmv2.Or:
			return func(c *Context) bool { return l(c) || r(c) }, nil
		case bmv2.Eq:
			return func(c *Context) bool { return l(c) == r(c) }, nil
		case bmv2.Ne:
			return func(c *Context) bool { return l(c) != r(c) }, nil
		}
	case bmv2.HeaderRef, bmv2.UnionRef:
		compile := b.headersEqual
		if e.L.Type() == bmv2.UnionRef {
			compile = b.unionsEqual
		}
		equal, err := compile(e.L, e.R)
		if err != nil {
			return nil, err
		}
		switch e.Op {
		case bmv2.Eq:
			return equal, nil
		case bmv2.Ne:
			return func(c *Context) bool { return !equal(c) }, nil
		}
	case bmv2.Data:
		if isVarbit(e.L) && isVarbit(e.R) {
			return b.varbitsEqual(e)
		}
		l, err := b.data(e.L)
		if err != nil {
			return nil, err
		}
		r, err := b.data(e.R)
		if err != nil {
			return nil, err
		}
		return compare(e.Op, l, r)
	}
	return nil, fmt.Errorf("operator %q as a condition is %w", e.Op, bmv2.ErrUnsupported)
}

func compare(op bmv2.Op, l, r *value) (evalBool, error) {
	if (op == bmv2.Eq || op == bmv2.Ne) && (l.raw != nil || r.raw != nil) {
		if f := equalWide(l, r); f != nil {
			if op == bmv2.Ne {
				return func(c *Context) bool { return !f(c) }, nil
			}
			return f, nil
		}
	}
	if l.slot >= 0 && r.konst != nil && r.exact() {
		slot, k := l.slot, low64(r.konst)
		switch op {
		case bmv2.Eq:
			return func(c *Context) bool { return c.v[slot] == k }, nil
		case bmv2.Ne:
			return func(c *Context) bool { return c.v[slot] != k }, nil
		case bmv2.Gt:
			return func(c *Context) bool { return c.v[slot] > k }, nil
		case bmv2.Lt:
			return func(c *Context) bool { return c.v[slot] < k }, nil
		}
	}
	if l.exact() && r.exact() {
		x, y := l.u, r.u
		switch op {
		case bmv2.Eq:
			return func(c *Context) bool { return x(c) == y(c) }, nil
		case bmv2.Ne:
			return func(c *Context) bool { return x(c) != y(c) }, nil
		case bmv2.Gt:
			return func(c *Context) bool { return x(c) > y(c) }, nil
		case bmv2.Lt:
			return func(c *Context) bool { return x(c) < y(c) }, nil
		case bmv2.Ge:
			return func(c *Context) bool { return x(c) >= y(c) }, nil
		case bmv2.Le:
			return func(c *Context) bool { return x(c) <= y(c) }, nil
		}
	}
	var cmp func(*Context) int
	if l.exactSigned() && r.exactSigned() {
		x, y := l.u, r.u
		cmp = func(c *Context) int {
			a, b := int64(x(c)), int64(y(c))
			switch {
			case a < b:
				return -1
			case a > b:
				return 1
			}
			return 0
		}
	} else {
		cmp = func(c *Context) int { return l.big(c).Cmp(r.big(c)) }
	}
	switch op {
	case bmv2.Eq:
		return func(c *Context) bool { return cmp(c) == 0 }, nil
	case bmv2.Ne:
		return func(c *Context) bool { return cmp(c) != 0 }, nil
	case bmv2.Gt:
		return func(c *Context) bool { return cmp(c) > 0 }, nil
	case bmv2.Lt:
		return func(c *Context) bool { return cmp(c) < 0 }, nil
	case bmv2.Ge:
		return func(c *Context) bool { return cmp(c) >= 0 }, nil
	case bmv2.Le:
		return func(c *Context) bool { return cmp(c) <= 0 }, nil
	}
	return nil, fmt.Errorf("operator %q between numbers is %w", op, bmv2.ErrUnsupported)
}

// equalWide compares two wide values of the same width byte by byte, or returns nil.
func equalWide(l, r *value) evalBool {
	if l.raw == nil {
		l, r = r, l
	}
	n := (l.width + 7) / 8
	switch {
	case r.raw != nil && (r.width+7)/8 == n:
		x, y := l.raw, r.raw
		return func(c *Context) bool { return bytes.Equal(x(c), y(c)) }
	case r.konst != nil && r.konst.Sign() >= 0 && r.konst.BitLen() <= l.width:
		k := r.konst.FillBytes(make([]byte, n))
		x := l.raw
		return func(c *Context) bool { return bytes.Equal(x(c), k) }
	}
	return nil
}

// assign compiles dst = src.
func (b *Builder) assign(dst *loc, src bmv2.Expr) (func(*Context), error) {
	v, err := b.data(src)
	if err != nil {
		return nil, err
	}
	return assignValue(dst, v)
}

func assignValue(dst *loc, v *value) (func(*Context), error) {
	slot, off, n := dst.slot, dst.off, dst.bytes
	switch dst.kind {
	case varbit:
		return nil, fmt.Errorf("assigning a number to a varbit field is %w", bmv2.ErrUnsupported)
	case narrow:
		mask := dst.mask()
		switch {
		case v.konst != nil:
			k := low64(v.konst) & mask
			return func(c *Context) { c.v[slot] = k }, nil
		case v.slot >= 0 && v.hi.BitLen() <= dst.width:
			from := v.slot
			return func(c *Context) { c.v[slot] = c.v[from] }, nil
		case v.exact() && v.hi.BitLen() <= dst.width:
			u := v.u
			return func(c *Context) { c.v[slot] = u(c) }, nil
		case v.u != nil:
			u := v.u
			return func(c *Context) { c.v[slot] = u(c) & mask }, nil
		}
		return func(c *Context) { c.v[slot] = low64(v.big(c)) & mask }, nil
	}
	put := storeWide(dst.width, v)
	return func(c *Context) { put(c, c.w[off:off+n]) }, nil
}
