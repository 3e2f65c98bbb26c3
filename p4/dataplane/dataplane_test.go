// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	oldrand "math/rand"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/packet"
)

// newRand returns a generator and prints its seed.
func newRand(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// program builds a bmv2.Program of one header "h", which is valid when it was
// parsed, and one metadata struct "m", both with the fields given.
func program(fields ...bmv2.Field) *bmv2.Program {
	ht := &bmv2.HeaderType{Name: "t", Fields: fields, Varbit: -1}
	for i, f := range fields {
		if f.Varbit {
			ht.Varbit = i
		} else {
			ht.FixedBits += f.Width
		}
	}
	p := &bmv2.Program{HeaderTypes: []*bmv2.HeaderType{ht}, Aliases: map[string]bmv2.FieldRef{}}
	h := &bmv2.Header{Name: "h", Type: ht}
	m := &bmv2.Header{Name: "m", Index: 1, Type: ht, Metadata: true}
	p.Headers = []*bmv2.Header{h, m}
	x := &bmv2.Extract{Header: h}
	if ht.Varbit >= 0 {
		x.Length = &bmv2.Const{Value: big.NewInt(int64(fields[ht.Varbit].Width))}
	}
	start := &bmv2.ParseState{Name: "start", Ops: []bmv2.ParserOp{x}}
	p.Parsers = []*bmv2.Parser{{Name: "parser", Start: start, States: []*bmv2.ParseState{start}}}
	p.Deparsers = []*bmv2.Deparser{{Name: "deparser", Order: []*bmv2.Header{h}}}
	p.Errors = []bmv2.ErrorCode{{Name: "NoError", Value: 0}, {Name: "PacketTooShort", Value: 1}, {Name: "HeaderTooShort", Value: 2}, {Name: "ParserTimeout", Value: 3}, {Name: "ParserInvalidArgument", Value: 4}}
	return p
}

func engine(t testing.TB, p *bmv2.Program) *Engine {
	t.Helper()
	e, err := New(p, Options{Parser: "parser", Deparser: "deparser", Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestHeadersRoundTrip extracts headers of random shape, compares each field with
// the bits of the packet, and writes them back.
func TestHeadersRoundTrip(t *testing.T) {
	rng := newRand(t)
	for range 2000 {
		var fields []bmv2.Field
		bits := 0
		for i := range 1 + rng.IntN(8) {
			w := 1 + rng.IntN([]int{8, 32, 64, 64, 200}[rng.IntN(5)])
			if rng.IntN(3) > 0 {
				w = (w + 7) / 8 * 8
			}
			fields = append(fields, bmv2.Field{Name: fmt.Sprint("f", i), Width: w})
			bits += w
		}
		if bits%8 != 0 {
			fields = append(fields, bmv2.Field{Name: "pad", Width: 8 - bits%8})
			bits += 8 - bits%8
		}
		at := -1
		if rng.IntN(4) == 0 {
			at = rng.IntN(len(fields) + 1)
			fields = append(fields[:at:at], append([]bmv2.Field{{Name: "var", Width: 8 * (1 + rng.IntN(20)), Varbit: true}}, fields[at:]...)...)
			bits += fields[at].Width
		}
		p := program(fields...)
		e := engine(t, p)
		c := e.NewContext()
		frame := make([]byte, bits/8+rng.IntN(10))
		for i := range frame {
			frame[i] = byte(rng.Uint32())
		}
		e.Parse(c, frame)
		if c.ParserError != 0 {
			t.Fatalf("fields %v: parser error %d", fields, c.ParserError)
		}
		all := new(big.Int).SetBytes(frame[:bits/8])
		pos := 0
		for i, f := range fields {
			pos += f.Width
			want := new(big.Int).And(new(big.Int).Rsh(all, uint(bits-pos)), bigMask(f.Width))
			l := &e.layout.headers[0].fields[i]
			got := new(big.Int)
			if l.kind == narrow {
				got.SetUint64(c.v[l.slot])
			} else {
				got.SetBytes(c.w[l.off : l.off+l.bytes])
			}
			if got.Cmp(want) != 0 {
				t.Fatalf("fields %v: %s is %x, want %x", fields, f.Name, got, want)
			}
		}
		out, n := e.Deparse(c, nil)
		if n != bits/8 || !bytes.Equal(out, frame) {
			t.Fatalf("fields %v: wrote\n%x, want\n%x", fields, out, frame)
		}
		if len(frame) > 0 {
			e.Parse(c, frame[:bits/8-1])
			if c.ParserError != 1 {
				t.Fatalf("one byte too short: parser error %d", c.ParserError)
			}
		}
	}
}

// expressions of random shape.
type exprGen struct {
	rng    *rand.Rand
	p      *bmv2.Program
	params []bmv2.Param
}

func (g *exprGen) data(depth int) bmv2.Expr {
	if depth == 0 || g.rng.IntN(6) == 0 {
		switch g.rng.IntN(4) {
		case 0:
			v := new(big.Int).Rand(randSource(g.rng), new(big.Int).Lsh(bigOne, uint(1+g.rng.IntN(130))))
			if g.rng.IntN(5) == 0 {
				v.Neg(v)
			}
			return &bmv2.Const{Value: v}
		case 1:
			i := g.rng.IntN(len(g.params))
			return &bmv2.Local{Index: i, Width: g.params[i].Width}
		default:
			return &bmv2.FieldExpr{FieldRef: bmv2.FieldRef{Header: g.p.Headers[1], Index: g.rng.IntN(len(g.p.HeaderTypes[0].Fields))}}
		}
	}
	switch op := bmv2.Op(g.rng.IntN(int(bmv2.BoolToData) + 1)); op {
	case bmv2.BitNot, bmv2.Neg:
		return &bmv2.Unary{Op: op, X: g.data(depth - 1)}
	case bmv2.BoolToData:
		return &bmv2.Unary{Op: op, X: g.boolean(depth - 1)}
	case bmv2.TwoCompMod, bmv2.SatCast, bmv2.UsatCast:
		return &bmv2.Binary{Op: op, L: g.data(depth - 1), R: &bmv2.Const{Value: big.NewInt(int64(1 + g.rng.IntN(100)))}}
	case bmv2.Shl, bmv2.Shr:
		// Like P4's: by a small number, or by an unsigned one.
		var by bmv2.Expr = &bmv2.Const{Value: big.NewInt(int64(g.rng.IntN(140)))}
		if g.rng.IntN(2) == 0 {
			by = &bmv2.Binary{Op: bmv2.BitAnd, L: g.data(depth - 1), R: &bmv2.Const{Value: big.NewInt(127)}}
		}
		return &bmv2.Binary{Op: op, L: g.data(depth - 1), R: by}
	case bmv2.Add, bmv2.Sub, bmv2.Mul, bmv2.Div, bmv2.Mod, bmv2.BitAnd, bmv2.BitOr, bmv2.BitXor:
		return &bmv2.Binary{Op: op, L: g.data(depth - 1), R: g.data(depth - 1)}
	default:
		if g.rng.IntN(3) == 0 {
			return &bmv2.Select{Cond: g.boolean(depth - 1), L: g.data(depth - 1), R: g.data(depth - 1)}
		}
		// What p4c emits around nearly all arithmetic.
		return &bmv2.Binary{Op: bmv2.BitAnd, L: g.data(depth - 1), R: &bmv2.Const{Value: bigMask(1 + g.rng.IntN(64))}}
	}
}

func (g *exprGen) boolean(depth int) bmv2.Expr {
	if depth <= 0 {
		return &bmv2.BoolConst{Value: g.rng.IntN(2) == 0}
	}
	switch g.rng.IntN(5) {
	case 0:
		return &bmv2.Unary{Op: bmv2.Not, X: g.boolean(depth - 1)}
	case 1:
		return &bmv2.Unary{Op: bmv2.DataToBool, X: g.data(depth - 1)}
	case 2:
		op := []bmv2.Op{bmv2.And, bmv2.Or, bmv2.Eq, bmv2.Ne}[g.rng.IntN(4)]
		return &bmv2.Binary{Op: op, L: g.boolean(depth - 1), R: g.boolean(depth - 1)}
	default:
		op := []bmv2.Op{bmv2.Eq, bmv2.Ne, bmv2.Gt, bmv2.Lt, bmv2.Ge, bmv2.Le}[g.rng.IntN(6)]
		return &bmv2.Binary{Op: op, L: g.data(depth - 1), R: g.data(depth - 1)}
	}
}

// randSource adapts a generator to math/big.
func randSource(r *rand.Rand) *oldrand.Rand { return oldrand.New(oldrand.NewSource(r.Int64())) }

// reference evaluates an expression with big integers only.
type reference struct {
	fields func(*bmv2.FieldExpr) *big.Int
	args   []*big.Int
}

func (r *reference) data(e bmv2.Expr) *big.Int {
	z := new(big.Int)
	switch e := e.(type) {
	case *bmv2.Const:
		return e.Value
	case *bmv2.Local:
		return r.args[e.Index]
	case *bmv2.FieldExpr:
		return r.fields(e)
	case *bmv2.Select:
		if r.boolean(e.Cond) {
			return r.data(e.L)
		}
		return r.data(e.R)
	case *bmv2.Unary:
		switch e.Op {
		case bmv2.Neg:
			return z.Neg(r.data(e.X))
		case bmv2.BitNot:
			return z.Not(r.data(e.X))
		}
		if r.boolean(e.X) {
			return bigOne
		}
		return bigZero
	}
	b := e.(*bmv2.Binary)
	x, y := r.data(b.L), r.data(b.R)
	switch b.Op {
	case bmv2.Add:
		return z.Add(x, y)
	case bmv2.Sub:
		return z.Sub(x, y)
	case bmv2.Mul:
		return z.Mul(x, y)
	case bmv2.Div:
		if y.Sign() == 0 {
			return z
		}
		return z.Quo(x, y)
	case bmv2.Mod:
		if y.Sign() == 0 {
			return z
		}
		return z.Rem(x, y)
	case bmv2.BitAnd:
		return z.And(x, y)
	case bmv2.BitOr:
		return z.Or(x, y)
	case bmv2.BitXor:
		return z.Xor(x, y)
	case bmv2.Shl:
		return z.Lsh(x, uint(y.Uint64()))
	case bmv2.Shr:
		return z.Rsh(x, uint(y.Uint64()))
	}
	w := uint(y.Uint64())
	limit := new(big.Int).Lsh(bigOne, w-1)
	switch b.Op {
	case bmv2.TwoCompMod:
		m := new(big.Int).Lsh(bigOne, w)
		z.Mod(x, m)
		if z.Cmp(limit) >= 0 {
			z.Sub(z, m)
		}
		return z
	case bmv2.SatCast:
		lo := new(big.Int).Neg(limit)
		return larger(lo, smaller(z.Sub(limit, bigOne), x))
	default:
		return larger(bigZero, smaller(bigMask(int(w)), x))
	}
}

func (r *reference) boolean(e bmv2.Expr) bool {
	switch e := e.(type) {
	case *bmv2.BoolConst:
		return e.Value
	case *bmv2.Unary:
		if e.Op == bmv2.Not {
			return !r.boolean(e.X)
		}
		return r.data(e.X).Sign() != 0
	}
	b := e.(*bmv2.Binary)
	if b.L.Type() == bmv2.Bool {
		x, y := r.boolean(b.L), r.boolean(b.R)
		switch b.Op {
		case bmv2.And:
			return x && y
		case bmv2.Or:
			return x || y
		case bmv2.Eq:
			return x == y
		}
		return x != y
	}
	c := r.data(b.L).Cmp(r.data(b.R))
	switch b.Op {
	case bmv2.Eq:
		return c == 0
	case bmv2.Ne:
		return c != 0
	case bmv2.Gt:
		return c > 0
	case bmv2.Lt:
		return c < 0
	case bmv2.Ge:
		return c >= 0
	}
	return c <= 0
}

// TestExpressions compares compiled expressions of random shape, on random values,
// with plain arithmetic of unlimited precision, and checks that most of what looks
// like p4c's needs no big integers.
func TestExpressions(t *testing.T) {
	rng := newRand(t)
	p := program(bmv2.Field{Name: "a", Width: 8}, bmv2.Field{Name: "b", Width: 16}, bmv2.Field{Name: "c", Width: 64},
		bmv2.Field{Name: "d", Width: 48}, bmv2.Field{Name: "e", Width: 128}, bmv2.Field{Name: "s", Width: 8, Signed: true},
		bmv2.Field{Name: "u", Width: 64, Signed: true}, bmv2.Field{Name: "w", Width: 72}, bmv2.Field{Name: "i", Width: 1}, bmv2.Field{Name: "j", Width: 7})
	e := engine(t, p)
	b := &Builder{e: e, opts: &Options{}, actions: map[*bmv2.Action]*action{}}
	params := []bmv2.Param{{Name: "p", Width: 9}, {Name: "q", Width: 64}, {Name: "r", Width: 100}}
	g := &exprGen{rng, p, params}
	c := e.NewContext()
	bound := &arguments{}
	ref := &reference{}
	for _, prm := range params {
		v := new(big.Int).Rand(randSource(rng), new(big.Int).Lsh(bigOne, uint(prm.Width)))
		ref.args = append(ref.args, v)
		bound.wide = append(bound.wide, v.FillBytes(make([]byte, (prm.Width+7)/8)))
		bound.narrow = append(bound.narrow, low64(v))
	}
	fields := e.layout.headers[1].fields
	values := make([]*big.Int, len(fields))
	randomize := func() {
		for i := range fields {
			l := &fields[i]
			v := new(big.Int).Rand(randSource(rng), new(big.Int).Lsh(bigOne, uint(l.width)))
			if rng.IntN(4) == 0 {
				v = []*big.Int{bigZero, bigMask(l.width), bigMask(l.width - 1)}[rng.IntN(3)]
			}
			if l.kind == narrow {
				c.v[l.slot] = v.Uint64()
			} else {
				v.FillBytes(c.w[l.off : l.off+l.bytes])
			}
			if l.signed && v.Bit(l.width-1) == 1 {
				v = new(big.Int).Sub(v, new(big.Int).Lsh(bigOne, uint(l.width)))
			}
			values[i] = v
		}
	}
	ref.fields = func(f *bmv2.FieldExpr) *big.Int { return values[f.Index] }
	fast := 0
	const rounds = 1500
	for range rounds {
		x := g.data(4)
		v, err := b.data(x)
		if err != nil {
			t.Fatal(err)
		}
		cond := g.boolean(4)
		test, err := b.boolean(cond)
		if err != nil {
			t.Fatal(err)
		}
		dst := &e.layout.headers[0].fields[rng.IntN(len(fields))]
		assign, err := assignValue(dst, v)
		if err != nil {
			t.Fatal(err)
		}
		if v.u != nil {
			fast++
		}
		for range 4 {
			randomize()
			c.args = bound
			want := ref.data(x)
			if got := v.big(c); got.Cmp(want) != 0 {
				t.Fatalf("%s\nas a big integer: %v, want %v", show(x), got, want)
			}
			if v.u != nil && v.u(c) != low64(want) {
				t.Fatalf("%s\nin 64 bits: %#x, want %#x", show(x), v.u(c), low64(want))
			}
			if v.lo != nil && (want.Cmp(v.lo) < 0 || want.Cmp(v.hi) > 0) {
				t.Fatalf("%s\nis %v, outside its bounds %v to %v", show(x), want, v.lo, v.hi)
			}
			if got, want := test(c), ref.boolean(cond); got != want {
				t.Fatalf("%s: %v, want %v", show(cond), got, want)
			}
			assign(c)
			got := new(big.Int)
			if dst.kind == narrow {
				got.SetUint64(c.v[dst.slot])
			} else {
				got.SetBytes(c.w[dst.off : dst.off+dst.bytes])
			}
			if w := new(big.Int).And(want, bigMask(dst.width)); got.Cmp(w) != 0 {
				t.Fatalf("%s\nassigned to %d bits: %x, want %x", show(x), dst.width, got, w)
			}
		}
	}
	t.Logf("%d of %d in 64 bits", fast, rounds)
}

func show(e bmv2.Expr) string {
	switch e := e.(type) {
	case *bmv2.Const:
		return e.Value.String()
	case *bmv2.BoolConst:
		return fmt.Sprint(e.Value)
	case *bmv2.FieldExpr:
		return e.Def().Name
	case *bmv2.Local:
		return fmt.Sprint("$", e.Index)
	case *bmv2.Unary:
		return fmt.Sprintf("%v(%s)", e.Op, show(e.X))
	case *bmv2.Binary:
		return fmt.Sprintf("(%s %v %s)", show(e.L), e.Op, show(e.R))
	case *bmv2.Select:
		return fmt.Sprintf("(%s ? %s : %s)", show(e.Cond), show(e.L), show(e.R))
	}
	return fmt.Sprintf("%T", e)
}

// TestChecksumMatchesRFC1071 compares csum16 over bits that begin and end anywhere
// with the checksum of the bytes that they make up.
func TestChecksumMatchesRFC1071(t *testing.T) {
	rng := newRand(t)
	for range 2000 {
		var s sum16
		w := bitWriter{}
		for range 1 + rng.IntN(12) {
			if rng.IntN(3) == 0 {
				b := make([]byte, 1+rng.IntN(40))
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				skip := rng.IntN(8)
				b[0] &= 0xff >> skip
				s.bytes(b, skip)
				w.bytes(b, skip)
				continue
			}
			width := 1 + rng.IntN(64)
			v := rng.Uint64() & lowMask(width)
			s.bits(v, width)
			w.bits(v, width)
		}
		if got, want := s.checksum(), packet.Checksum(w.buf, 0); got != want {
			t.Fatalf("%x: %#04x, want %#04x", w.buf, got, want)
		}
	}
	var s sum16
	big := bytes.Repeat([]byte{0xff}, 1<<16+3)
	s.bytes(big, 0)
	if got, want := s.checksum(), packet.Checksum(big, 0); got != want {
		t.Errorf("64 kB of ones: %#04x, want %#04x", got, want)
	}
}

func TestHashes(t *testing.T) {
	// The check values of the CRC catalogue.
	if got := crc16([]byte("123456789")); got != 0xbb3d {
		t.Errorf("crc16: %#04x, want 0xbb3d (CRC-16/ARC)", got)
	}
}

// tableProgram is a program whose pipeline "ingress" is one table over the fields
// of metadata m; the action stores its parameter in the field "out".
func tableProgram(kind bmv2.MatchKind, size int, keys ...bmv2.KeyElement) *bmv2.Program {
	var fields []bmv2.Field
	for i, k := range keys {
		fields = append(fields, bmv2.Field{Name: fmt.Sprint("k", i), Width: k.Width})
	}
	fields = append(fields, bmv2.Field{Name: "out", Width: 32})
	p := program(fields...)
	out := bmv2.FieldRef{Header: p.Headers[1], Index: len(keys)}
	a := &bmv2.Action{Name: "set", Params: []bmv2.Param{{Name: "v", Width: 32}}, Primitives: []*bmv2.Primitive{
		{Op: "assign", Args: []bmv2.Expr{&bmv2.FieldExpr{FieldRef: out}, &bmv2.Local{Index: 0, Width: 32}}}}}
	p.Actions = []*bmv2.Action{a}
	ta := &bmv2.TableAction{Action: a}
	tbl := &bmv2.Table{Name: "t", Kind: kind, Size: size, Actions: []*bmv2.TableAction{ta}, WithCounters: true,
		Default: &bmv2.DefaultEntry{Call: bmv2.Call{Action: ta, Args: [][]byte{{0, 0, 0, 0}}}}}
	for i, k := range keys {
		k.Name = fmt.Sprint("k", i)
		k.Target = &bmv2.FieldExpr{FieldRef: bmv2.FieldRef{Header: p.Headers[1], Index: i}}
		tbl.Key = append(tbl.Key, k)
	}
	p.Pipelines = []*bmv2.Pipeline{{Name: "ingress", Start: tbl, Tables: []*bmv2.Table{tbl}}}
	return p
}

// model is a table as a list.
type model []modelEntry

type modelEntry struct {
	match []bmv2.Match
	prio  int
	val   uint32
}

func (m model) index(match []bmv2.Match, prio int) int {
	for i := range m {
		if m[i].prio == prio && slices.EqualFunc(m[i].match, match, sameMatch) {
			return i
		}
	}
	return -1
}

func sameMatch(a, b bmv2.Match) bool {
	return a.PrefixLen == b.PrefixLen && bytes.Equal(a.Value, b.Value) && bytes.Equal(a.Mask, b.Mask) && bytes.Equal(a.High, b.High)
}

func (m model) lookup(kind bmv2.MatchKind, keys []bmv2.KeyElement, vals [][]byte) map[uint32]bool {
	best, found := -1, map[uint32]bool{}
	for _, e := range m {
		rank := e.prio
		ok := true
		for i, k := range keys {
			x, v := &e.match[i], new(big.Int).SetBytes(vals[i])
			want := new(big.Int).SetBytes(x.Value)
			switch k.Kind {
			case bmv2.Exact:
				ok = ok && v.Cmp(want) == 0
			case bmv2.LPM:
				shift := uint(k.Width - x.PrefixLen)
				ok = ok && new(big.Int).Rsh(v, shift).Cmp(new(big.Int).Rsh(want, shift)) == 0
				if kind == bmv2.LPM {
					rank = x.PrefixLen
				}
			case bmv2.Ternary:
				mask := new(big.Int).SetBytes(x.Mask)
				ok = ok && new(big.Int).And(v, mask).Cmp(new(big.Int).And(want, mask)) == 0
			case bmv2.Range:
				ok = ok && v.Cmp(want) >= 0 && v.Cmp(new(big.Int).SetBytes(x.High)) <= 0
			}
		}
		if !ok || rank < best {
			continue
		}
		if rank > best {
			best, found = rank, map[uint32]bool{}
		}
		found[e.val] = true
	}
	if best < 0 {
		found[0] = true
	}
	return found
}

// TestTablesAgainstModel changes tables of all kinds at random and compares what
// they find with a plain list.
func TestTablesAgainstModel(t *testing.T) {
	for _, tc := range []struct {
		name string
		kind bmv2.MatchKind
		keys []bmv2.KeyElement
	}{
		{"exact", bmv2.Exact, []bmv2.KeyElement{{Width: 3}, {Width: 9}}},
		{"exact wide", bmv2.Exact, []bmv2.KeyElement{{Width: 128}, {Width: 8}}},
		{"lpm", bmv2.LPM, []bmv2.KeyElement{{Kind: bmv2.LPM, Width: 32}}},
		{"lpm odd", bmv2.LPM, []bmv2.KeyElement{{Width: 2}, {Kind: bmv2.LPM, Width: 13}, {Width: 1}}},
		{"lpm wide", bmv2.LPM, []bmv2.KeyElement{{Kind: bmv2.LPM, Width: 128}}},
		{"ternary", bmv2.Ternary, []bmv2.KeyElement{{Kind: bmv2.Ternary, Width: 7}, {Width: 2}, {Kind: bmv2.LPM, Width: 5}}},
		{"range", bmv2.Range, []bmv2.KeyElement{{Kind: bmv2.Range, Width: 11}, {Kind: bmv2.Ternary, Width: 3}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rng := newRand(t)
			const size = 60
			e := engine(t, tableProgram(tc.kind, size, tc.keys...))
			tbl := e.Table("t")
			c := e.NewContext()
			var m model
			// Values with few differences, so that entries meet and overlap.
			value := func(w int) []byte {
				v := big.NewInt(int64(rng.IntN(8)))
				if rng.IntN(2) == 0 {
					v.Lsh(v, uint(max(0, w-3)))
				}
				return v.And(v, bigMask(w)).FillBytes(make([]byte, (w+7)/8))
			}
			randomMatch := func() ([]bmv2.Match, int) {
				out := make([]bmv2.Match, len(tc.keys))
				for i, k := range tc.keys {
					out[i].Value = value(k.Width)
					switch k.Kind {
					case bmv2.LPM:
						out[i].PrefixLen = rng.IntN(k.Width + 1)
					case bmv2.Ternary:
						out[i].Mask = value(k.Width)
					case bmv2.Range:
						out[i].High = value(k.Width)
						if bytes.Compare(out[i].Value, out[i].High) > 0 {
							out[i].Value, out[i].High = out[i].High, out[i].Value
						}
					}
				}
				if tc.kind >= bmv2.Ternary {
					return out, 1 + rng.IntN(4)
				}
				return out, 0
			}
			for step := range 4000 {
				match, prio := randomMatch()
				canon, _, err := tbl.canonical(match, prio)
				if err != nil {
					t.Fatal(err)
				}
				at := m.index(canon, prio)
				val := rng.Uint32() | 1
				b, err := tbl.Bind("set", [][]byte{{byte(val >> 24), byte(val >> 16), byte(val >> 8), byte(val)}}, nil)
				if err != nil {
					t.Fatal(err)
				}
				var want error
				switch rng.IntN(4) {
				case 0, 1:
					err = tbl.Insert(match, prio, b, Count{})
					switch {
					case at >= 0:
						want = ErrExists
					case len(m) == size:
						want = ErrFull
					default:
						m = append(m, modelEntry{canon, prio, val})
					}
				case 2:
					err = tbl.Modify(match, prio, b, nil)
					if at < 0 {
						want = ErrNotFound
					} else {
						m[at].val = val
					}
				case 3:
					if len(m) > 0 && rng.IntN(2) == 0 {
						at = rng.IntN(len(m))
						match, prio = m[at].match, m[at].prio
					}
					err = tbl.Delete(match, prio)
					if at < 0 {
						want = ErrNotFound
					} else {
						m = append(m[:at:at], m[at+1:]...)
					}
				}
				if !errors.Is(err, want) {
					t.Fatalf("step %d: %v, want %v", step, err, want)
				}
				if tbl.Len() != len(m) {
					t.Fatalf("step %d: %d entries, want %d", step, tbl.Len(), len(m))
				}
				for range 3 {
					vals := make([][]byte, len(tc.keys))
					c.Reset()
					for i := range tc.keys {
						vals[i] = value(tc.keys[i].Width)
						l := &e.layout.headers[1].fields[i]
						if l.kind == narrow {
							c.v[l.slot] = loadBE(vals[i], l.bytes)
						} else {
							copy(c.w[l.off:], vals[i])
						}
					}
					e.Pipeline("ingress").Apply(c)
					got := uint32(e.Field("m", "out").Get(c))
					if want := m.lookup(tc.kind, tc.keys, vals); !want[got] {
						t.Fatalf("step %d: key %x finds %d, want one of %v", step, vals, got, want)
					}
				}
			}
		})
	}
}

// TestModifyIsAtomic changes an entry while packets meet it: each sees one of the
// two actions as a whole, and the new one from the moment at which Modify returns.
func TestModifyIsAtomic(t *testing.T) {
	p := program(bmv2.Field{Name: "k", Width: 8}, bmv2.Field{Name: "x", Width: 64}, bmv2.Field{Name: "y", Width: 128})
	field := func(i int) *bmv2.FieldExpr {
		return &bmv2.FieldExpr{FieldRef: bmv2.FieldRef{Header: p.Headers[1], Index: i}}
	}
	a := &bmv2.Action{Name: "set", Params: []bmv2.Param{{Name: "x", Width: 64}, {Name: "y", Width: 128}}, Primitives: []*bmv2.Primitive{
		{Op: "assign", Args: []bmv2.Expr{field(1), &bmv2.Local{Index: 0, Width: 64}}},
		{Op: "assign", Args: []bmv2.Expr{field(2), &bmv2.Local{Index: 1, Width: 128}}}}}
	p.Actions = []*bmv2.Action{a}
	def := &bmv2.Table{Name: "t", Size: 1000, Key: []bmv2.KeyElement{{Name: "k", Width: 8, Target: field(0)}}, Actions: []*bmv2.TableAction{{Action: a}}}
	p.Pipelines = []*bmv2.Pipeline{{Name: "ingress", Start: def, Tables: []*bmv2.Table{def}}}
	e := engine(t, p)
	tbl := e.Table("t")
	bind := func(n uint64) *Bound {
		x := make([]byte, 8)
		storeBE(x, n, 8)
		b, err := tbl.Bind("set", [][]byte{x, append(bytes.Clone(x), x...)}, nil)
		if err != nil {
			t.Error(err)
		}
		return b
	}
	key := func(n byte) []bmv2.Match { return []bmv2.Match{{Value: []byte{n}}} }
	if err := tbl.Insert(key(0), 0, bind(0), Count{}); err != nil {
		t.Fatal(err)
	}
	// seen runs one packet and returns what it saw.
	seen := func(c *Context) uint64 {
		c.Reset()
		e.Pipeline("ingress").Apply(c)
		y := e.layout.headers[1].fields[2]
		x := e.Field("m", "x").Get(c)
		if loadBE(c.w[y.off:], 8) != x || loadBE(c.w[y.off+8:], 8) != x {
			t.Errorf("a mixture: %d and %x", x, c.w[y.off:y.off+16])
		}
		return x
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c := e.NewContext()
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				x := seen(c)
				if x < last {
					t.Errorf("went back from %d to %d", last, x)
					return
				}
				last = x
			}
		}()
	}
	c := e.NewContext()
	for n := uint64(1); n <= 30000; n++ {
		if err := tbl.Modify(key(0), 0, bind(n), nil); err != nil {
			t.Fatal(err)
		}
		if x := seen(c); x != n {
			t.Fatalf("after Modify to %d a packet saw %d", n, x)
		}
		if n%10 == 0 { // other entries come and go; the index grows and is rebuilt
			k := key(byte(1 + n/10%200))
			if err := tbl.Insert(k, 0, bind(0), Count{}); errors.Is(err, ErrExists) {
				if err := tbl.Delete(k, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	close(stop)
	wg.Wait()
}

// TestActions covers jumps, registers and what is refused.
func TestActions(t *testing.T) {
	p := program(bmv2.Field{Name: "x", Width: 32}, bmv2.Field{Name: "y", Width: 32})
	fx := &bmv2.FieldExpr{FieldRef: bmv2.FieldRef{Header: p.Headers[1], Index: 0}}
	fy := &bmv2.FieldExpr{FieldRef: bmv2.FieldRef{Header: p.Headers[1], Index: 1}}
	num := func(n int64) bmv2.Expr { return &bmv2.Const{Value: big.NewInt(n)} }
	prim := func(op string, args ...bmv2.Expr) *bmv2.Primitive { return &bmv2.Primitive{Op: op, Args: args} }
	add := func(a bmv2.Expr, n int64) bmv2.Expr { return &bmv2.Binary{Op: bmv2.Add, L: a, R: num(n)} }
	less := func(a bmv2.Expr, n int64) bmv2.Expr {
		return &bmv2.Unary{Op: bmv2.BoolToData, X: &bmv2.Binary{Op: bmv2.Lt, L: a, R: num(n)}}
	}
	reg := &bmv2.RegisterArray{Name: "r", Size: 2, Width: 16}
	p.Registers = []*bmv2.RegisterArray{reg}
	rr := &bmv2.RegisterRef{Array: reg}
	for _, tc := range []struct {
		name  string
		prims []*bmv2.Primitive
		want  [2]uint64
	}{
		{"if else", []*bmv2.Primitive{
			prim("_jump_if_zero", less(fx, 5), num(3)),
			prim("assign", fy, num(1)),
			prim("_jump", num(4)),
			prim("assign", fy, num(2)),
		}, [2]uint64{0, 1}},
		{"loop", []*bmv2.Primitive{
			prim("_jump_if_zero", less(fx, 10), num(4)),
			prim("assign", fx, add(fx, 1)),
			prim("assign", fy, add(fy, 3)),
			prim("_jump", num(0)),
		}, [2]uint64{10, 30}},
		{"loop without end is cut", []*bmv2.Primitive{prim("assign", fx, num(7)), prim("_jump", num(0))}, [2]uint64{7, 0}},
		{"registers", []*bmv2.Primitive{
			prim("register_write", rr, num(1), num(0x12345)),
			prim("register_read", fx, rr, num(1)),
			prim("register_write", rr, num(2), num(1)), // out of range
			prim("assign", fy, num(5)),
			prim("register_read", fy, rr, num(2)), // out of range: stays
		}, [2]uint64{0x2345, 5}},
		{"assignment cuts", []*bmv2.Primitive{prim("assign", fx, num(-1)), prim("assign", fy, num(1<<33+4))}, [2]uint64{1<<32 - 1, 4}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &bmv2.Action{Name: "a", Primitives: tc.prims}
			p.Actions = []*bmv2.Action{a}
			call := &bmv2.ActionCall{Name: "call", Action: a}
			p.Pipelines = []*bmv2.Pipeline{{Name: "ingress", Start: call, ActionCalls: []*bmv2.ActionCall{call}}}
			e := engine(t, p)
			c := e.NewContext()
			e.Pipeline("ingress").Apply(c)
			got := [2]uint64{e.Field("m", "x").Get(c), e.Field("m", "y").Get(c)}
			if got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	for _, tc := range []struct {
		name string
		prim *bmv2.Primitive
		want string
	}{
		{"unknown", prim("frobnicate"), `action "a": primitive 0 "frobnicate": not supported`},
		{"arguments", prim("assign", fx), `action "a": primitive 0 "assign": 1 arguments, want 2`},
		{"target", prim("_jump", num(9)), `action "a": primitive 0 "_jump": the target must be a number from 0 to 1`},
		{"hash", prim("modify_field_with_hash_based_offset", fx, num(0), &bmv2.CalcRef{Calc: &bmv2.Calculation{Name: "c", Algo: "md5"}}, num(1)),
			`action "a": primitive 0 "modify_field_with_hash_based_offset": calculation "c": algorithm "md5" is not supported`},
		{"metadata", prim("remove_header", &bmv2.HeaderExpr{Header: p.Headers[1]}), `action "a": primitive 0 "remove_header": "m" is metadata`},
	} {
		t.Run("refused/"+tc.name, func(t *testing.T) {
			p.Actions = []*bmv2.Action{{Name: "a", Primitives: []*bmv2.Primitive{tc.prim}}}
			p.Pipelines = nil
			_, err := New(p, Options{Parser: "parser", Deparser: "deparser"})
			if err == nil || err.Error() != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// TestTruncate cuts packets in their payload and in their headers.
func TestTruncate(t *testing.T) {
	e := engine(t, program(bmv2.Field{Name: "a", Width: 32}))
	c := e.NewContext()
	frame := []byte("headpayload")
	for n, want := range map[int]string{-1: "headpayload", 0: "", 3: "hea", 4: "head", 6: "headpa", 11: "headpayload", 99: "headpayload"} {
		c.Reset()
		e.Parse(c, frame)
		c.Truncate = n
		out, headers := e.Deparse(c, nil)
		if string(out) != want || headers != 4 {
			t.Errorf("truncated to %d: %q with %d bytes of headers, want %q", n, out, headers, want)
		}
	}
}
