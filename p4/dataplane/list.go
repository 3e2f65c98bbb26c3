// SPDX-License-Identifier: Apache-2.0

package dataplane

import "github.com/understudy-net/understudy/p4/bmv2"

// A List is a compiled field list: what a copy of a packet keeps, or what a digest
// holds.
type List struct {
	def    *bmv2.FieldList
	fields []listField
	size   int
}

type listField struct {
	l     *loc // nil: a constant
	konst []byte
	at, n int
}

// List compiles a field list of the program. Its fields count as read.
func (e *Engine) List(def *bmv2.FieldList) *List {
	out := &List{def: def}
	for i := range def.Elements {
		el := &def.Elements[i]
		f := listField{konst: el.Const, at: out.size, n: (el.Width + 7) / 8}
		if el.Field != nil {
			f.l = &e.layout.headers[el.Field.Header.Index].fields[el.Field.Index]
			e.noteRead(f.l)
		}
		out.fields = append(out.fields, f)
		out.size += f.n
	}
	return out
}

// Def returns the declaration of the list.
func (l *List) Def() *bmv2.FieldList { return l.def }

// Size is how many bytes Append appends: of each element (width+7)/8.
func (l *List) Size() int { return l.size }

// Copy gives dst the values that src has for the fields of the list.
func (l *List) Copy(dst, src *Context) {
	for i := range l.fields {
		f := l.fields[i].l
		if f == nil {
			continue
		}
		if f.kind != wide {
			dst.v[f.slot] = src.v[f.slot]
		}
		if f.kind != narrow {
			copy(dst.w[f.off:f.off+f.bytes], src.w[f.off:f.off+f.bytes])
		}
	}
}

// Append appends the values of the list to buf, one after the other.
func (l *List) Append(c *Context, buf []byte) []byte {
	for i := range l.fields {
		f := &l.fields[i]
		switch {
		case f.l == nil:
			buf = append(buf, f.konst...)
		case f.l.kind == narrow:
			n := len(buf)
			buf = append(buf, make([]byte, f.n)...)
			storeNarrow(buf[n:], c.v[f.l.slot])
		default:
			buf = append(buf, c.w[f.l.off:f.l.off+f.l.bytes]...)
		}
	}
	return buf
}

func storeNarrow(b []byte, x uint64) { storeBE(b, x, len(b)) }

// ClearMetadata makes all metadata zero.
func (c *Context) ClearMetadata() {
	for _, h := range c.e.layout.headers {
		if h.def.Metadata {
			h.reset(c)
		}
	}
}
