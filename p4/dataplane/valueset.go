// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// A ValueSet is a set of values of which the parser asks whether its key is one. Its
// methods may be called from any goroutine, while packets are parsed.
type ValueSet struct {
	def   *bmv2.ValueSet
	bytes int // of a key

	mu      sync.Mutex
	members atomic.Pointer[[]valueSetMember]
}

type valueSetMember struct {
	match  []bmv2.Match
	value  []byte
	mask   []byte
	ranges []rangeMatch
}

func newValueSet(def *bmv2.ValueSet) *ValueSet {
	v := &ValueSet{def: def}
	for _, w := range def.Widths {
		v.bytes += (w + 7) / 8
	}
	v.members.Store(&[]valueSetMember{})
	return v
}

// Def returns the declaration of the value set.
func (v *ValueSet) Def() *bmv2.ValueSet { return v.def }

// Members returns the members: of each a match per element of the key.
func (v *ValueSet) Members() [][]bmv2.Match {
	list := *v.members.Load()
	out := make([][]bmv2.Match, len(list))
	for i := range list {
		out[i] = list[i].match
	}
	return out
}

// Replace makes members all that the set has, in one step for packets. Each member
// has one match per element of the key; kinds says how each is to be read, nil stands
// for exact matches. Mask of a ternary match, High of a range and PrefixLen of an LPM
// are as in a table's entry. A member that stands twice is ErrExists.
func (v *ValueSet) Replace(members [][]bmv2.Match, kinds []bmv2.MatchKind) error {
	if len(members) > v.def.Size {
		return fmt.Errorf("value set %q: %d members: %w: its size is %d", v.def.Name, len(members), ErrFull, v.def.Size)
	}
	list := make([]valueSetMember, len(members))
	seen := make(map[string]bool, len(members))
	for i, m := range members {
		if err := v.compile(m, kinds, &list[i]); err != nil {
			return fmt.Errorf("value set %q: member %d: %w", v.def.Name, i, err)
		}
		id := list[i].id()
		if seen[id] && v.def.Widths != nil {
			return fmt.Errorf("value set %q: member %d: %w", v.def.Name, i, ErrExists)
		}
		seen[id] = true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.members.Store(&list)
	return nil
}

func (v *ValueSet) compile(match []bmv2.Match, kinds []bmv2.MatchKind, out *valueSetMember) error {
	if v.def.Widths == nil {
		out.match = slices.Clone(match) // no state looks
		return nil
	}
	if len(match) != len(v.def.Widths) {
		return fmt.Errorf("%d elements, want %d: %w", len(match), len(v.def.Widths), ErrArgument)
	}
	out.match = slices.Clone(match)
	out.value, out.mask = make([]byte, v.bytes), make([]byte, v.bytes)
	at := 0
	for i, width := range v.def.Widths {
		n, m := (width+7)/8, &match[i]
		kind := bmv2.Exact
		if kinds != nil {
			kind = kinds[i]
		}
		if err := checkWidth(m.Value, width); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		value, mask := out.value[at:at+n], out.mask[at:at+n]
		copy(value, m.Value)
		for j := range mask {
			mask[j] = 0xff
		}
		switch kind {
		case bmv2.Ternary:
			if err := checkWidth(m.Mask, width); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
			copy(mask, m.Mask)
		case bmv2.LPM:
			if m.PrefixLen < 0 || m.PrefixLen > width {
				return fmt.Errorf("element %d: prefix length %d of %d bits: %w", i, m.PrefixLen, width, ErrArgument)
			}
			clearTail(mask, width, m.PrefixLen)
		case bmv2.Range:
			if err := checkWidth(m.High, width); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
			out.ranges = append(out.ranges, rangeMatch{at, n, bytes.Clone(m.Value), bytes.Clone(m.High)})
			clear(mask)
		}
		for j := range value {
			value[j] &= mask[j]
		}
		at += n
	}
	return nil
}

// id is the same for members that match the same.
func (m *valueSetMember) id() string {
	id := append(bytes.Clone(m.value), m.mask...)
	for _, r := range m.ranges {
		id = append(append(id, r.low...), r.hig...)
	}
	return string(id)
}

// contains tells whether a key is in the set.
func (v *ValueSet) contains(key []byte) bool {
	list := *v.members.Load()
	for i := range list {
		if list[i].matches(key) {
			return true
		}
	}
	return false
}

func (m *valueSetMember) matches(key []byte) bool {
	for i, b := range m.mask {
		if key[i]&b != m.value[i] {
			return false
		}
	}
	return inRanges(m.ranges, key)
}
