// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"hash/crc32"
	"math/bits"

	"github.com/understudy-net/understudy/p4/bmv2"
)

type checksum struct {
	name   string   // of the field
	cond   evalBool // nil: always
	valid  int      // slot: whether the target's header is valid
	target Field
	calc   evalUint
}

func (b *Builder) checksum(c *bmv2.Checksum) (*checksum, error) {
	h := b.e.layout.headers[c.Target.Header.Index]
	l := b.loc(c.Target)
	k := &checksum{name: c.Target.String(), valid: h.valid, target: Field{slot: l.slot + 1, mask: l.mask()}}
	var err error
	if c.Cond != nil {
		if k.cond, err = b.boolean(c.Cond); err != nil {
			return nil, err
		}
	}
	k.calc, err = b.calculation(c.Calc)
	return k, err
}

// VerifyChecksums sets ChecksumError if one of the checksums to verify is wrong.
func (e *Engine) VerifyChecksums(c *Context) {
	for _, k := range e.verify {
		if c.v[k.valid] == 0 || k.cond != nil && !k.cond(c) {
			continue
		}
		if k.calc(c)&k.target.mask != k.target.Get(c) {
			c.ChecksumError = true
			if c.tracer != nil {
				c.Trace(&Step{Kind: StepChecksum, Name: k.name})
			}
		}
	}
}

// UpdateChecksums computes the checksums to update.
func (e *Engine) UpdateChecksums(c *Context) {
	for _, k := range e.update {
		if k.cond != nil && !k.cond(c) {
			continue
		}
		k.target.Set(c, k.calc(c))
	}
}

// visiblePayload is the payload that a calculation covers: like bmv2, no more than
// what truncate leaves.
func (c *Context) visiblePayload() []byte {
	if c.Truncate >= 0 && c.Truncate < len(c.payload) {
		return c.payload[:c.Truncate]
	}
	return c.payload
}

func (b *Builder) calculation(calc *bmv2.Calculation) (evalUint, error) {
	pieces := b.pieces(calc)
	if calc.Algo == "csum16" {
		return func(c *Context) uint64 {
			var s sum16
			for i := range pieces {
				pieces[i].sum(c, &s)
			}
			return uint64(s.checksum())
		}, nil
	}
	var f func([]byte) uint64
	switch calc.Algo {
	case "crc32":
		f = func(p []byte) uint64 { return uint64(crc32.ChecksumIEEE(p)) }
	case "crc16":
		f = func(p []byte) uint64 { return uint64(crc16(p)) }
	case "xor16":
		f = func(p []byte) uint64 {
			var x uint64
			for i, v := range p {
				x ^= uint64(v) << (8 * (1 - i%2))
			}
			return x
		}
	case "identity":
		f = func(p []byte) uint64 { return loadBE(p, min(8, len(p))) }
	default:
		return nil, fmt.Errorf("calculation %q: algorithm %q is %w", calc.Name, calc.Algo, bmv2.ErrUnsupported)
	}
	return func(c *Context) uint64 {
		w := bitWriter{buf: c.scratch[:0]}
		for i := range pieces {
			pieces[i].write(c, &w)
		}
		c.scratch = w.buf
		return f(w.buf)
	}, nil
}

// crc16 is CRC-16/ARC, bmv2's crc16: polynomial 0x8005, reflected, initially 0.
func crc16(p []byte) uint16 {
	var crc uint16
	for _, b := range p {
		crc ^= uint16(b)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

// A piece is one input of a calculation: a field, a constant or the payload.
type piece struct {
	valid   int // slot that must be 1; -1: none
	field   *loc
	konst   []byte
	width   int // bits of konst
	payload bool
}

func (b *Builder) pieces(calc *bmv2.Calculation) []piece {
	var out []piece
	defer func() {
		for i := range out {
			if out[i].field != nil {
				b.e.noteRead(out[i].field)
			}
		}
	}()
	for i := range calc.Input {
		in := &calc.Input[i]
		switch {
		case in.Payload:
			out = append(out, piece{valid: -1, payload: true})
		case in.Field != nil:
			h := b.e.layout.headers[in.Field.Header.Index]
			out = append(out, piece{valid: h.valid, field: &h.fields[in.Field.Index]})
		case in.Header != nil:
			h := b.e.layout.headers[in.Header.Index]
			for i := range h.fields {
				out = append(out, piece{valid: h.valid, field: &h.fields[i]})
			}
		default:
			out = append(out, piece{valid: -1, konst: in.Const, width: in.Width})
		}
	}
	return out
}

// bytesOf returns what the piece contributes as whole bytes, whose first skip bits
// do not count; ok is false for a narrow field.
func (p *piece) bytesOf(c *Context) (data []byte, skip int, ok bool) {
	switch {
	case p.payload:
		return c.visiblePayload(), 0, true
	case p.konst != nil:
		return p.konst, len(p.konst)*8 - p.width, true
	case p.field.kind == varbit:
		return c.w[p.field.off : p.field.off+int(c.v[p.field.slot])/8], 0, true
	case p.field.kind == wide:
		return c.w[p.field.off : p.field.off+p.field.bytes], p.field.bytes*8 - p.field.width, true
	}
	return nil, 0, false
}

func (p *piece) sum(c *Context, s *sum16) {
	if p.valid >= 0 && c.v[p.valid] == 0 {
		return
	}
	if data, skip, ok := p.bytesOf(c); ok {
		s.bytes(data, skip)
		return
	}
	s.bits(c.v[p.field.slot], p.field.width)
}

func (p *piece) write(c *Context, w *bitWriter) {
	if p.valid >= 0 && c.v[p.valid] == 0 {
		return
	}
	if data, skip, ok := p.bytesOf(c); ok {
		w.bytes(data, skip)
		return
	}
	w.bits(c.v[p.field.slot], p.field.width)
}

// sum16 adds a stream of bits as 16-bit words, RFC 1071.
type sum16 struct {
	sum uint64
	acc uint64 // the low n bits are not yet added
	n   int    // < 16
}

func (s *sum16) bits(v uint64, width int) {
	if width > 48 {
		s.bits(v>>48, width-48)
		width = 48
	}
	s.acc = s.acc<<width | v&lowMask(width)
	s.n += width
	for s.n >= 16 {
		s.n -= 16
		s.sum += s.acc >> s.n & 0xffff
	}
}

func (s *sum16) bytes(b []byte, skip int) {
	if skip > 0 {
		s.bits(uint64(b[0]), 8-skip)
		b = b[1:]
	}
	if s.n != 0 && s.n != 8 {
		for _, v := range b {
			s.bits(uint64(v), 8)
		}
		return
	}
	if s.n == 8 && len(b) > 0 {
		s.bits(uint64(b[0]), 8)
		b = b[1:]
	}
	var carry uint64
	for ; len(b) >= 8; b = b[8:] {
		s.sum, carry = bits.Add64(s.sum, loadBE(b, 8), carry)
	}
	s.sum, carry = bits.Add64(s.sum, 0, carry)
	s.sum += carry
	s.fold()
	for ; len(b) >= 2; b = b[2:] {
		s.sum += loadBE(b, 2)
	}
	if len(b) == 1 {
		s.bits(uint64(b[0]), 8)
	}
}

// fold brings the sum below 2^33, so that additions cannot overflow.
func (s *sum16) fold() { s.sum = s.sum>>32 + s.sum&0xffffffff }

func (s *sum16) checksum() uint16 {
	if s.n > 0 {
		s.sum += s.acc << (16 - s.n) & 0xffff
	}
	x := s.sum
	for x > 0xffff {
		x = x>>16 + x&0xffff
	}
	return ^uint16(x)
}

// bitWriter appends a stream of bits.
type bitWriter struct {
	buf []byte
	n   int // bits used of the last byte; 0: all
}

func (w *bitWriter) bits(v uint64, width int) {
	for width > 0 {
		if w.n == 0 {
			w.buf = append(w.buf, 0)
		}
		room := 8 - w.n
		put := min(room, width)
		w.buf[len(w.buf)-1] |= byte(v>>(width-put)&(1<<put-1)) << (room - put)
		w.n = (w.n + put) % 8
		width -= put
	}
}

func (w *bitWriter) bytes(b []byte, skip int) {
	if skip > 0 {
		w.bits(uint64(b[0]), 8-skip)
		b = b[1:]
	}
	if w.n == 0 {
		w.buf = append(w.buf, b...)
		return
	}
	for _, v := range b {
		w.bits(uint64(v), 8)
	}
}
