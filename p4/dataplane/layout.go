// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"math/big"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// kind says how a field is stored in a Context.
type kind uint8

const (
	narrow kind = iota // up to 64 bits: v[slot]
	wide               // more: w[off:off+bytes], big-endian
	varbit             // w[off:off+bytes] is room, v[slot] the length in bits
)

// loc is where a field is stored.
type loc struct {
	kind   kind
	signed bool
	width  int // bits; of a varbit the largest
	bytes  int // (width+7)/8
	slot   int // in Context.v; unused for a wide field
	off    int // in Context.w; unused for a narrow field
}

func (l *loc) mask() uint64 { return lowMask(l.width) }

func lowMask(width int) uint64 {
	if width >= 64 {
		return ^uint64(0)
	}
	return 1<<width - 1
}

// headerLayout says where a header instance is stored and how it is read from
// and written to the wire.
type headerLayout struct {
	def    *bmv2.Header
	valid  int // slot: 1 if the header is valid
	fields []loc
	others []int // validity of the other members of its union
	// What the header occupies: v[firstSlot:endSlot] and w[firstByte:endByte],
	// the validity slot not included.
	firstSlot, endSlot int
	firstByte, endByte int

	fixedBytes int
	varbit     *loc // nil if there is none
	// groups is how the wire is read and written; nil if the fields do not fall
	// into whole bytes well, and then each is read and written bit by bit.
	groups []group
}

// A group is a run of adjacent fields that ends on a byte boundary: narrow fields
// of at most 64 bits together, or one wide or varbit field.
type group struct {
	field *loc // wide or varbit; nil for narrow ones
	bytes int
	parts []part
}

type part struct {
	slot  int
	shift int // from the group's least significant bit
	mask  uint64
}

type layout struct {
	headers     []*headerLayout // as bmv2.Program.Headers
	stacks      []*stackLayout
	unions      [][]*headerLayout // the members of each
	unionStacks []*unionStackLayout

	slots int
	bytes int
	// metadata lists validity slots that are 1 from the start.
	metadata []int
}

func newLayout(p *bmv2.Program) *layout {
	l := &layout{}
	for _, h := range p.Headers {
		hl := l.place(h)
		if h.Metadata {
			l.metadata = append(l.metadata, hl.valid)
		}
		l.headers = append(l.headers, hl)
	}
	l.addStacks(p)
	return l
}

// place finds room for a header.
func (l *layout) place(h *bmv2.Header) *headerLayout {
	hl := &headerLayout{def: h, valid: l.slots, fixedBytes: h.Type.FixedBits / 8}
	l.slots++
	hl.firstSlot, hl.firstByte = l.slots, l.bytes
	for i := range h.Type.Fields {
		f := &h.Type.Fields[i]
		fl := loc{width: f.Width, bytes: (f.Width + 7) / 8, signed: f.Signed, slot: -1}
		switch {
		case f.Varbit:
			fl.kind = varbit
		case f.Width > 64:
			fl.kind = wide
		}
		if fl.kind != wide {
			fl.slot = l.slots
			l.slots++
		}
		if fl.kind != narrow {
			fl.off = l.bytes
			l.bytes += fl.bytes
		}
		hl.fields = append(hl.fields, fl)
	}
	hl.endSlot, hl.endByte = l.slots, l.bytes
	if h.Type.Varbit >= 0 {
		hl.varbit = &hl.fields[h.Type.Varbit]
	}
	hl.groups = grouping(hl.fields)
	return hl
}

// grouping cuts the fields into groups, or returns nil if that cannot be done.
func grouping(fields []loc) []group {
	groups := []group{}
	for i := 0; i < len(fields); {
		if fields[i].kind != narrow {
			if fields[i].width%8 != 0 {
				return nil
			}
			groups = append(groups, group{field: &fields[i], bytes: fields[i].bytes})
			i++
			continue
		}
		// The longest run of narrow fields that fits into 64 bits and ends on a
		// byte boundary.
		end, bits, total := 0, 0, 0
		for j := i; j < len(fields) && fields[j].kind == narrow && total+fields[j].width <= 64; j++ {
			total += fields[j].width
			if total%8 == 0 {
				end, bits = j+1, total
			}
		}
		if end == 0 {
			return nil
		}
		g := group{bytes: bits / 8}
		for ; i < end; i++ {
			bits -= fields[i].width
			g.parts = append(g.parts, part{slot: fields[i].slot, shift: bits, mask: fields[i].mask()})
		}
		groups = append(groups, g)
	}
	return groups
}

// extract fills the header from data, which is long enough, and marks it valid.
// varBits is the length of the varbit field.
func (h *headerLayout) extract(c *Context, data []byte, varBits int) {
	if h.varbit != nil {
		c.v[h.varbit.slot] = uint64(varBits)
	}
	h.setValid(c)
	if h.groups == nil {
		h.extractSlow(c, data)
		return
	}
	for i := range h.groups {
		g := &h.groups[i]
		if g.field != nil {
			n := g.bytes
			if g.field.kind == varbit {
				n = varBits / 8
			}
			copy(c.w[g.field.off:], data[:n])
			data = data[n:]
			continue
		}
		x := loadBE(data, g.bytes)
		for _, p := range g.parts {
			c.v[p.slot] = x >> p.shift & p.mask
		}
		data = data[g.bytes:]
	}
}

func (h *headerLayout) extractSlow(c *Context, data []byte) {
	bit := 0
	for i := range h.fields {
		f := &h.fields[i]
		n := f.width
		if f.kind == varbit {
			n = int(c.v[f.slot])
		}
		if f.kind == narrow {
			c.v[f.slot] = readBits(data, bit, n)
		} else {
			copyBits(c.w[f.off:f.off+(n+7)/8], data, bit, n)
		}
		bit += n
	}
}

// size returns the bytes that the header takes on the wire now.
func (h *headerLayout) size(c *Context) int {
	if h.varbit == nil {
		return h.fixedBytes
	}
	return h.fixedBytes + int(c.v[h.varbit.slot])/8
}

// deparse writes the header to dst and returns what it wrote.
func (h *headerLayout) deparse(c *Context, dst []byte) int {
	if h.groups == nil {
		return h.deparseSlow(c, dst)
	}
	n := 0
	for i := range h.groups {
		g := &h.groups[i]
		if g.field != nil {
			size := g.bytes
			if g.field.kind == varbit {
				size = int(c.v[g.field.slot]) / 8
			}
			n += copy(dst[n:n+size], c.w[g.field.off:])
			continue
		}
		var x uint64
		for _, p := range g.parts {
			x |= (c.v[p.slot] & p.mask) << p.shift
		}
		storeBE(dst[n:], x, g.bytes)
		n += g.bytes
	}
	return n
}

func (h *headerLayout) deparseSlow(c *Context, dst []byte) int {
	n := h.size(c)
	clear(dst[:n])
	bit := 0
	for i := range h.fields {
		f := &h.fields[i]
		width := f.width
		if f.kind == varbit {
			width = int(c.v[f.slot])
		}
		if f.kind == narrow {
			writeBits(dst, bit, width, c.v[f.slot])
		} else {
			size := (width + 7) / 8
			skip := size*8 - width
			for j := range width { // rare: a wide field off the byte boundary
				src := skip + j
				b := c.w[f.off+src/8] >> (7 - src%8) & 1
				dst[(bit+j)/8] |= b << (7 - (bit+j)%8)
			}
		}
		bit += width
	}
	return n
}

// pointers returns all fields.
func (h *headerLayout) pointers() []*loc {
	out := make([]*loc, len(h.fields))
	for i := range h.fields {
		out[i] = &h.fields[i]
	}
	return out
}

// reset makes the header zero; its validity stays.
func (h *headerLayout) reset(c *Context) {
	clear(c.v[h.firstSlot:h.endSlot])
	clear(c.w[h.firstByte:h.endByte])
}

// loadBE reads n bytes, at most 8, as a big-endian number.
func loadBE(b []byte, n int) uint64 {
	switch n {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	case 6:
		return uint64(binary.BigEndian.Uint32(b))<<16 | uint64(binary.BigEndian.Uint16(b[4:6]))
	case 8:
		return binary.BigEndian.Uint64(b)
	}
	var x uint64
	for _, v := range b[:n] {
		x = x<<8 | uint64(v)
	}
	return x
}

// storeBE writes the low n bytes, at most 8, of x.
func storeBE(b []byte, x uint64, n int) {
	switch n {
	case 1:
		b[0] = byte(x)
	case 2:
		binary.BigEndian.PutUint16(b, uint16(x))
	case 4:
		binary.BigEndian.PutUint32(b, uint32(x))
	case 8:
		binary.BigEndian.PutUint64(b, x)
	default:
		_ = b[:n]
		for i := n - 1; i >= 0; i-- {
			b[i] = byte(x)
			x >>= 8
		}
	}
}

// readBits reads width bits, at most 64, that begin bit bits into b.
func readBits(b []byte, bit, width int) uint64 {
	var x uint64
	for width > 0 {
		have := 8 - bit%8
		take := min(have, width)
		x = x<<take | uint64(b[bit/8]>>(have-take))&(1<<take-1)
		bit += take
		width -= take
	}
	return x
}

// writeBits writes the low width bits of x; the bits of b that it writes are 0.
func writeBits(b []byte, bit, width int, x uint64) {
	for width > 0 {
		room := 8 - bit%8
		put := min(room, width)
		b[bit/8] |= byte(x>>(width-put)&(1<<put-1)) << (room - put)
		bit += put
		width -= put
	}
}

// copyBits reads width bits that begin bit bits into src as the big-endian number
// dst of (width+7)/8 bytes.
func copyBits(dst, src []byte, bit, width int) {
	head := width % 8
	if head > 0 {
		dst[0] = byte(readBits(src, bit, head))
		dst, bit = dst[1:], bit+head
	}
	for i := range dst {
		dst[i] = byte(readBits(src, bit+8*i, 8))
	}
}

var (
	bigOne  = big.NewInt(1)
	bigZero = new(big.Int)
)

// bigMask returns 2^width-1.
func bigMask(width int) *big.Int {
	m := new(big.Int).Lsh(bigOne, uint(width))
	return m.Sub(m, bigOne)
}
