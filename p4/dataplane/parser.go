// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// A parser is a compiled bmv2.Parser.
type parser struct {
	start  *state
	errors parserErrors
}

// parserErrors are the codes of the core library's errors in this program.
type parserErrors struct {
	none, packetTooShort, headerTooShort, stackOutOfBounds, invalidArgument, timeout uint32
}

type state struct {
	name string
	ops  []parserOp
	// key yields the transition key if it has at most 8 bytes.
	key  evalUint
	wide func(c *Context, key []byte) []byte
	// need is how many bytes lookahead in the key needs.
	need  int
	cases []transition
	sets  bool   // a case has a value set
	keyed int    // bytes of the key
	next  *state // if no case matches
}

type transition struct {
	value, mask  uint64
	wideV, wideM []byte
	set          *ValueSet
	next         *state
}

// A parserOp returns false to end parsing; it has set ParserError then.
type parserOp func(c *Context) bool

// maxParserSteps bounds how many states one packet may pass. A program that goes
// on for longer has a loop that consumes nothing.
const maxParserSteps = 4096

// Parse reads headers from frame into c. It keeps a reference to frame, which must
// not change until the packet has been deparsed. ParserError tells how it ended.
func (e *Engine) Parse(c *Context, frame []byte) {
	c.frame, c.payload = frame, frame
	c.ParserError, c.ChecksumError = e.parser.errors.none, false
	if c.tracer != nil {
		e.parseTraced(c)
		return
	}
	s := e.parser.start
	for n := 0; s != nil; n++ {
		if n == maxParserSteps {
			c.ParserError = e.parser.errors.timeout
			return
		}
		if s = s.run(c, &e.parser.errors); s == nil {
			return
		}
	}
}

// run executes the state and returns the next one.
func (s *state) run(c *Context, errs *parserErrors) *state {
	for _, op := range s.ops {
		if !op(c) {
			return nil
		}
	}
	if len(s.cases) == 0 {
		return s.next
	}
	if len(c.payload) < s.need {
		c.ParserError = errs.packetTooShort
		return nil
	}
	if s.sets {
		return s.choose(c)
	}
	if s.key != nil {
		k := s.key(c)
		for i := range s.cases {
			if t := &s.cases[i]; k&t.mask == t.value {
				return t.next
			}
		}
		return s.next
	}
	k := s.wide(c, c.key[:0])
	for i := range s.cases {
		if s.cases[i].matchWide(k) {
			return s.cases[i].next
		}
	}
	return s.next
}

// choose is for states that look into value sets: it has the key as a number, if it
// is short, and as bytes.
func (s *state) choose(c *Context) *state {
	var k uint64
	var key []byte
	if s.key != nil {
		k = s.key(c)
		key = c.key[:s.keyed]
		storeBE(key, k, s.keyed)
	} else {
		key = s.wide(c, c.key[:0])
	}
	for i := range s.cases {
		t := &s.cases[i]
		switch {
		case t.set != nil:
			if t.set.contains(key) {
				return t.next
			}
		case s.key != nil:
			if k&t.mask == t.value {
				return t.next
			}
		case t.matchWide(key):
			return t.next
		}
	}
	return s.next
}

func (t *transition) matchWide(k []byte) bool {
	if t.wideM == nil {
		return bytes.Equal(k, t.wideV)
	}
	for i := range k {
		if k[i]&t.wideM[i] != t.wideV[i] {
			return false
		}
	}
	return true
}

func (b *Builder) parser(p *bmv2.Parser) (*parser, error) {
	out := &parser{}
	code := func(name string) uint32 {
		v, ok := b.e.prog.ErrorCode(name)
		if !ok {
			v = 1<<31 - 1
		}
		return v
	}
	out.errors = parserErrors{b.e.noError, code("PacketTooShort"), code("HeaderTooShort"),
		code("StackOutOfBounds"), code("ParserInvalidArgument"), code("ParserTimeout")}
	states := make([]*state, len(p.States))
	for i := range states {
		states[i] = &state{name: p.States[i].Name}
	}
	find := func(s *bmv2.ParseState) *state {
		if s == nil {
			return nil
		}
		return states[s.Index]
	}
	for i, s := range p.States {
		st := states[i]
		for j, op := range s.Ops {
			f, err := b.parserOp(op, &out.errors)
			if err != nil {
				return nil, fmt.Errorf("state %q: operation %d: %w", s.Name, j, err)
			}
			st.ops = append(st.ops, f)
		}
		st.next = find(s.Default)
		if len(s.Transitions) == 0 {
			continue
		}
		st.keyed = s.KeyBytes
		if err := b.transitionKey(st, s); err != nil {
			return nil, fmt.Errorf("state %q: transition key: %w", s.Name, err)
		}
		for _, t := range s.Transitions {
			tr := transition{next: find(t.Next), mask: ^uint64(0)}
			if t.Set != nil {
				tr.set = b.e.valueSets[t.Set.Index]
				st.sets = true
			} else if st.key != nil {
				if t.Mask != nil {
					tr.mask = loadBE(t.Mask, len(t.Mask))
				}
				tr.value = loadBE(t.Value, len(t.Value)) & tr.mask
			} else {
				tr.wideV, tr.wideM = bytes.Clone(t.Value), t.Mask
				for k := range tr.wideM {
					tr.wideV[k] &= tr.wideM[k]
				}
			}
			st.cases = append(st.cases, tr)
		}
	}
	out.start = find(p.Start)
	return out, nil
}

func (b *Builder) transitionKey(st *state, s *bmv2.ParseState) error {
	type elem struct {
		raw  func(*Context) []byte
		u    evalUint
		look *bmv2.Lookahead
		n    int
	}
	var elems []elem
	for _, e := range s.Key {
		switch e := e.(type) {
		case *bmv2.FieldExpr:
			l := b.loc(e.FieldRef)
			b.e.noteRead(l)
			x := elem{n: l.bytes}
			if l.kind == narrow {
				slot := l.slot
				x.u = func(c *Context) uint64 { return c.v[slot] }
			} else {
				x.raw = func(c *Context) []byte { return c.w[l.off : l.off+l.bytes] }
			}
			elems = append(elems, x)
		case *bmv2.MemberExpr:
			ref, _, err := b.header(e.Header)
			if err != nil {
				return err
			}
			i := e.Index
			x := elem{n: (e.Def().Width + 7) / 8}
			if e.Def().Width <= 64 {
				x.u = func(c *Context) uint64 { return c.v[ref(c).fields[i].slot] }
			} else {
				x.raw = func(c *Context) []byte { l := &ref(c).fields[i]; return c.w[l.off : l.off+l.bytes] }
			}
			elems = append(elems, x)
		case *bmv2.ValidExpr:
			v, err := b.data(e)
			if err != nil {
				return err
			}
			elems = append(elems, elem{u: v.u, n: 1})
		case *bmv2.Lookahead:
			st.need = max(st.need, (e.Offset+e.Width+7)/8)
			x := elem{look: e, n: (e.Width + 7) / 8}
			if e.Width <= 64 {
				off, w := e.Offset, e.Width
				x.u = func(c *Context) uint64 { return readBits(c.payload, off, w) }
			}
			elems = append(elems, x)
		default:
			return fmt.Errorf("%T is %w", e, bmv2.ErrUnsupported)
		}
	}
	b.e.maxKey = max(b.e.maxKey, s.KeyBytes)
	if s.KeyBytes > 8 {
		st.wide = func(c *Context, key []byte) []byte {
			for i := range elems {
				e := &elems[i]
				at := len(key)
				key = key[:at+e.n]
				switch {
				case e.u != nil:
					storeBE(key[at:], e.u(c), e.n)
				case e.look != nil:
					copyBits(key[at:], c.payload, e.look.Offset, e.look.Width)
				default:
					copy(key[at:], e.raw(c))
				}
			}
			return key
		}
		return nil
	}
	if len(elems) == 1 {
		st.key = elems[0].u
		return nil
	}
	st.key = func(c *Context) uint64 {
		var k uint64
		for i := range elems {
			k = k<<(8*elems[i].n) | elems[i].u(c)
		}
		return k
	}
	return nil
}

func (b *Builder) parserOp(op bmv2.ParserOp, errs *parserErrors) (parserOp, error) {
	switch op := op.(type) {
	case *bmv2.Extract:
		return b.extract(op, errs)
	case *bmv2.ParserSet:
		dst := b.loc(op.Dst)
		if look, ok := op.Src.(*bmv2.Lookahead); ok {
			return setLookahead(dst, look, errs)
		}
		if src, ok := op.Src.(*bmv2.FieldExpr); ok && src.Def().Varbit {
			f, err := assignVL(b, []bmv2.Expr{&bmv2.FieldExpr{FieldRef: op.Dst}, src})
			return always(f), err
		}
		f, err := b.assign(dst, op.Src)
		return always(f), err
	case *bmv2.Verify:
		cond, err := b.boolean(op.Cond)
		if err != nil {
			return nil, err
		}
		code, err := b.Uint(op.Code)
		if err != nil {
			return nil, err
		}
		return func(c *Context) bool {
			if cond(c) {
				return true
			}
			c.ParserError = uint32(code(c))
			return false
		}, nil
	case *bmv2.Advance:
		bits, err := b.Index(op.Bits)
		if err != nil {
			return nil, err
		}
		return func(c *Context) bool {
			n := bits(c)
			switch {
			case n%8 != 0:
				c.ParserError = errs.invalidArgument
				return false
			case n/8 > uint64(len(c.payload)):
				c.ParserError = errs.packetTooShort
				return false
			}
			c.payload = c.payload[n/8:]
			return true
		}, nil
	case *bmv2.Primitive:
		f, err := b.primitive(op)
		if err != nil {
			return nil, fmt.Errorf("primitive %q: %w", op.Op, err)
		}
		return always(f), nil
	}
	return nil, fmt.Errorf("%T is %w", op, bmv2.ErrUnsupported)
}

func always(f func(*Context)) parserOp {
	return func(c *Context) bool {
		f(c)
		return true
	}
}

func (b *Builder) extract(op *bmv2.Extract, errs *parserErrors) (parserOp, error) {
	if op.Header != nil && op.Length == nil {
		h := b.e.layout.headers[op.Header.Index]
		n := h.fixedBytes
		return func(c *Context) bool {
			if len(c.payload) < n {
				c.ParserError = errs.packetTooShort
				return false
			}
			h.extract(c, c.payload, 0)
			c.payload = c.payload[n:]
			return true
		}, nil
	}
	length := func(*Context) uint64 { return 0 }
	if op.Length != nil {
		var err error
		if length, err = b.Index(op.Length); err != nil {
			return nil, err
		}
	}
	switch {
	case op.Header != nil:
		h := b.e.layout.headers[op.Header.Index]
		return func(c *Context) bool { return h.extractVar(c, length(c), errs) }, nil
	case op.Stack != nil:
		s := b.e.layout.stacks[op.Stack.Index]
		return func(c *Context) bool {
			n := c.v[s.next]
			if n >= uint64(len(s.elems)) {
				c.ParserError = errs.stackOutOfBounds
				return false
			}
			if !s.elems[n].extractVar(c, length(c), errs) {
				return false
			}
			c.v[s.next]++
			return true
		}, nil
	}
	s, i := b.e.layout.unionStacks[op.UnionStack.Index], op.Member
	return func(c *Context) bool {
		n := c.v[s.next]
		if n >= uint64(len(s.elems)) {
			c.ParserError = errs.stackOutOfBounds
			return false
		}
		if !s.elems[n][i].extractVar(c, length(c), errs) {
			return false
		}
		c.v[s.next]++
		return true
	}, nil
}

// extractVar extracts a header whose varbit field, if it has one, has so many bits. It
// returns false, with the error set, if that cannot be done.
func (h *headerLayout) extractVar(c *Context, bits uint64, errs *parserErrors) bool {
	if bits%8 != 0 {
		c.ParserError = errs.invalidArgument
		return false
	}
	// In this order, as bmv2 does.
	if have := len(c.payload) - h.fixedBytes; have < 0 || bits/8 > uint64(have) {
		c.ParserError = errs.packetTooShort
		return false
	}
	if h.varbit != nil && bits > uint64(h.varbit.width) {
		c.ParserError = errs.headerTooShort
		return false
	}
	h.extract(c, c.payload, int(bits))
	c.payload = c.payload[h.fixedBytes+int(bits)/8:]
	return true
}

func setLookahead(dst *loc, look *bmv2.Lookahead, errs *parserErrors) (parserOp, error) {
	off, w := look.Offset, look.Width
	need := (off + w + 7) / 8
	n := (w + 7) / 8
	slot, mask, at := dst.slot, dst.mask(), dst.off
	var set func(c *Context)
	switch {
	case dst.kind == narrow && w <= 64:
		set = func(c *Context) { c.v[slot] = readBits(c.payload, off, w) & mask }
	case dst.kind == narrow: // the low bits
		set = func(c *Context) { c.v[slot] = readBits(c.payload, off+w-64, 64) & mask }
	case dst.kind == wide && w <= dst.width:
		set = func(c *Context) {
			clear(c.w[at : at+dst.bytes])
			copyBits(c.w[at+dst.bytes-n:at+dst.bytes], c.payload, off, w)
		}
	case dst.kind == wide: // the low bits
		set = func(c *Context) { copyBits(c.w[at:at+dst.bytes], c.payload, off+w-dst.width, dst.width) }
	default:
		return nil, fmt.Errorf("lookahead into a varbit field is %w", bmv2.ErrUnsupported)
	}
	return func(c *Context) bool {
		if len(c.payload) < need {
			c.ParserError = errs.packetTooShort
			return false
		}
		set(c)
		return true
	}, nil
}

// A deparser is a compiled bmv2.Deparser.
type deparser struct {
	order []*headerLayout
	ops   []func(*Context)
}

func (b *Builder) deparser(d *bmv2.Deparser) (*deparser, error) {
	out := &deparser{}
	for _, h := range d.Order {
		out.order = append(out.order, b.e.layout.headers[h.Index])
		b.e.noteRead(b.e.layout.headers[h.Index].pointers()...)
	}
	for i, p := range d.Primitives {
		op, err := b.primitive(p)
		if err != nil {
			return nil, fmt.Errorf("primitive %d %q: %w", i, p.Op, err)
		}
		out.ops = append(out.ops, op)
	}
	return out, nil
}

// Deparse writes the packet into buf, which it grows if it must, and returns it.
// headers is how many bytes the headers take, before truncation. The update
// checksums are not computed here, see UpdateChecksums.
func (e *Engine) Deparse(c *Context, buf []byte) (out []byte, headers int) {
	for _, op := range e.deparser.ops {
		op(c)
	}
	n := 0
	for _, h := range e.deparser.order {
		if c.v[h.valid] != 0 {
			n += h.size(c)
		}
	}
	total := n + len(c.payload)
	if cap(buf) < total {
		buf = make([]byte, total)
	}
	buf = buf[:total]
	at := 0
	for _, h := range e.deparser.order {
		if c.v[h.valid] != 0 {
			at += h.deparse(c, buf[at:])
		}
	}
	payload := c.payload
	if c.Truncate >= 0 && c.Truncate < total {
		payload = payload[:max(0, min(len(payload), c.Truncate-n))]
		buf = buf[:c.Truncate]
	}
	if n < len(buf) {
		copy(buf[n:], payload)
	}
	return buf, n
}
