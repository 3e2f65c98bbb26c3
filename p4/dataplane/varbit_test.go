// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"testing"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// TestVarbitsEqual compares two headers' varbit fields of several lengths.
func TestVarbitsEqual(t *testing.T) {
	p := program(bmv2.Field{Name: "kind", Width: 8}, bmv2.Field{Name: "v", Width: 32, Varbit: true})
	other := &bmv2.Header{Name: "g", Index: 2, Type: p.Headers[0].Type}
	p.Headers = append(p.Headers, other)
	v := func(h *bmv2.Header) bmv2.Expr { return &bmv2.FieldExpr{FieldRef: bmv2.FieldRef{Header: h, Index: 1}} }
	e := engine(t, p)
	b := &Builder{e: e, opts: &Options{}}
	compile := func(op bmv2.Op) evalBool {
		f, err := b.boolean(&bmv2.Binary{Op: op, L: v(p.Headers[0]), R: v(other)})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	equal, differ := compile(bmv2.Eq), compile(bmv2.Ne)
	c := e.NewContext()
	set := func(h int, s string) {
		l := &e.layout.headers[h].fields[1]
		c.v[l.slot] = uint64(8 * len(s))
		copy(c.w[l.off:], s)
	}
	for _, tc := range []struct {
		x, y string
		want bool
	}{
		{"", "", true}, {"abcd", "abcd", true}, {"abcd", "abce", false},
		{"ab", "abcd", false}, {"", "a", false}, {"\x00a", "a", false},
	} {
		set(0, tc.x)
		set(2, tc.y)
		if equal(c) != tc.want || differ(c) == tc.want {
			t.Errorf("%q == %q: %v, %q != %q: %v", tc.x, tc.y, equal(c), tc.x, tc.y, differ(c))
		}
	}
	// What lies behind the end of a field does not matter.
	set(0, "abcd")
	set(2, "abxx")
	set(0, "ab")
	set(2, "ab")
	if !equal(c) {
		t.Error("bytes behind the end were compared")
	}
	if _, err := b.boolean(&bmv2.Binary{Op: bmv2.Lt, L: v(p.Headers[0]), R: v(other)}); err == nil {
		t.Error("< between varbit fields was accepted")
	}
}
