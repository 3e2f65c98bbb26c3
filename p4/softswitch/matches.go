// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// Matches are section 9.1.1 of P4Runtime 1.5.

// A matchSchema is the key of a table or of a value set.
type matchSchema struct {
	fields   []*fieldSchema // in the order of the program
	fieldIDs map[uint32]int
}

type fieldSchema struct {
	id    uint32
	name  string
	width int
	kind  p4config.MatchField_MatchType
	match bmv2.MatchKind
	typ   *p4config.P4NamedType // nil: none that the P4 program has named
}

func newFieldSchema(f *p4config.MatchField) (*fieldSchema, error) {
	fs := &fieldSchema{id: f.GetId(), name: f.GetName(), width: int(f.GetBitwidth()), kind: f.GetMatchType(), typ: f.GetTypeName()}
	var ok bool
	if fs.match, ok = matchKinds[fs.kind]; !ok {
		return nil, fmt.Errorf("match type %v is %w", f.GetMatch(), bmv2.ErrUnsupported)
	}
	return fs, nil
}

// matchKinds says how the program matches what P4Runtime calls so.
var matchKinds = map[p4config.MatchField_MatchType]bmv2.MatchKind{
	p4config.MatchField_EXACT: bmv2.Exact, p4config.MatchField_LPM: bmv2.LPM,
	p4config.MatchField_TERNARY: bmv2.Ternary, p4config.MatchField_OPTIONAL: bmv2.Ternary,
	p4config.MatchField_RANGE: bmv2.Range,
}

// sameAs checks that the field is a key element of the program.
func (f *fieldSchema) sameAs(k *bmv2.KeyElement, info *p4config.P4TypeInfo) error {
	if k.Name != "" && k.Name != f.name {
		return fmt.Errorf("the program calls it %q", k.Name)
	}
	var err error
	if f.width, err = programWidth(f.width, k.Width, f.typ, info); err != nil {
		return err
	}
	switch {
	case f.match != k.Kind:
		return fmt.Errorf("match type %v, the program has %v", f.kind, k.Kind)
	}
	return nil
}

// add appends a field to the key.
func (m *matchSchema) add(f *fieldSchema) error {
	if _, dup := m.fieldIDs[f.id]; dup || f.id == 0 {
		return fmt.Errorf("its id %d is not its own", f.id)
	}
	if m.fieldIDs == nil {
		m.fieldIDs = map[uint32]int{}
	}
	m.fieldIDs[f.id] = len(m.fields)
	m.fields = append(m.fields, f)
	return nil
}

// parse reads the fields of an entry. What is left out matches everything.
func (m *matchSchema) parse(list []*p4v1.FieldMatch) ([]bmv2.Match, error) {
	match := make([]bmv2.Match, len(m.fields))
	given := make([]bool, len(m.fields))
	for _, fm := range list {
		i, ok := m.fieldIDs[fm.GetFieldId()]
		if !ok {
			return nil, errorf(codes.InvalidArgument, "no match field %d", fm.GetFieldId())
		}
		if given[i] {
			return nil, errorf(codes.InvalidArgument, "match field %q is given twice", m.fields[i].name)
		}
		given[i] = true
		if err := m.fields[i].parse(fm, &match[i]); err != nil {
			return nil, &placedError{fmt.Sprintf("match field %q", m.fields[i].name), err}
		}
	}
	for i, f := range m.fields {
		if given[i] {
			continue
		}
		zero := make([]byte, (f.width+7)/8)
		switch f.kind {
		case p4config.MatchField_EXACT:
			return nil, errorf(codes.InvalidArgument, "match field %q is missing", f.name)
		case p4config.MatchField_RANGE:
			match[i] = bmv2.Match{Value: zero, High: ones(f.width)}
		default:
			match[i] = bmv2.Match{Value: zero, Mask: zero}
		}
	}
	return match, nil
}

// messages makes the canonical fields of an entry: those that match everything are left
// out.
func (m *matchSchema) messages(match []bmv2.Match) []*p4v1.FieldMatch {
	var out []*p4v1.FieldMatch
	for i, f := range m.fields {
		if fm := f.message(&match[i]); fm != nil {
			out = append(out, fm)
		}
	}
	return out
}

// parse reads one match field; values that a mask does not cover must be zero.
func (f *fieldSchema) parse(m *p4v1.FieldMatch, out *bmv2.Match) error {
	value := func(b []byte) ([]byte, error) { return parseBits(b, f.width) }
	var err error
	wrong := func() error {
		return errorf(codes.InvalidArgument, "want a match of type %v, have %T", f.kind, m.GetFieldMatchType())
	}
	switch f.kind {
	case p4config.MatchField_EXACT:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Exact_)
		if !ok {
			return wrong()
		}
		out.Value, err = value(x.Exact.GetValue())
	case p4config.MatchField_OPTIONAL:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Optional_)
		if !ok {
			return wrong()
		}
		out.Value, err = value(x.Optional.GetValue())
		out.Mask = ones(f.width)
	case p4config.MatchField_LPM:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Lpm)
		if !ok {
			return wrong()
		}
		if out.Value, err = value(x.Lpm.GetValue()); err != nil {
			return err
		}
		out.PrefixLen = int(x.Lpm.GetPrefixLen())
		if out.PrefixLen < 1 || out.PrefixLen > f.width {
			return errorf(codes.InvalidArgument, "prefix length %d, want 1 to %d", out.PrefixLen, f.width)
		}
		if !zeroAfter(out.Value, f.width, out.PrefixLen) {
			return errorf(codes.InvalidArgument, "%#x has bits behind its prefix of %d", out.Value, out.PrefixLen)
		}
	case p4config.MatchField_TERNARY:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Ternary_)
		if !ok {
			return wrong()
		}
		if out.Value, err = value(x.Ternary.GetValue()); err != nil {
			return err
		}
		if out.Mask, err = value(x.Ternary.GetMask()); err != nil {
			return err
		}
		if isZero(out.Mask) {
			return errorf(codes.InvalidArgument, "a mask of zeros: leave the field out")
		}
		for i := range out.Value {
			if out.Value[i]&^out.Mask[i] != 0 {
				return errorf(codes.InvalidArgument, "%#x has bits outside its mask %#x", out.Value, out.Mask)
			}
		}
	case p4config.MatchField_RANGE:
		x, ok := m.GetFieldMatchType().(*p4v1.FieldMatch_Range_)
		if !ok {
			return wrong()
		}
		if out.Value, err = value(x.Range.GetLow()); err != nil {
			return err
		}
		if out.High, err = value(x.Range.GetHigh()); err != nil {
			return err
		}
		if isZero(out.Value) && string(out.High) == string(ones(f.width)) {
			return errorf(codes.InvalidArgument, "a range of everything: leave the field out")
		}
		if string(out.Value) > string(out.High) {
			return errorf(codes.InvalidArgument, "the range %#x to %#x is empty", out.Value, out.High)
		}
	}
	return err
}

// message returns a match field, or nil if it is one that does not care.
func (f *fieldSchema) message(m *bmv2.Match) *p4v1.FieldMatch {
	fm := &p4v1.FieldMatch{FieldId: f.id}
	switch f.kind {
	case p4config.MatchField_EXACT:
		fm.FieldMatchType = &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: canonical(m.Value)}}
	case p4config.MatchField_LPM:
		if m.PrefixLen == 0 {
			return nil
		}
		fm.FieldMatchType = &p4v1.FieldMatch_Lpm{Lpm: &p4v1.FieldMatch_LPM{Value: canonical(m.Value), PrefixLen: int32(m.PrefixLen)}}
	case p4config.MatchField_TERNARY:
		if isZero(m.Mask) {
			return nil
		}
		fm.FieldMatchType = &p4v1.FieldMatch_Ternary_{Ternary: &p4v1.FieldMatch_Ternary{Value: canonical(m.Value), Mask: canonical(m.Mask)}}
	case p4config.MatchField_OPTIONAL:
		if isZero(m.Mask) {
			return nil
		}
		fm.FieldMatchType = &p4v1.FieldMatch_Optional_{Optional: &p4v1.FieldMatch_Optional{Value: canonical(m.Value)}}
	case p4config.MatchField_RANGE:
		if isZero(m.Value) && bytes.Equal(m.High, ones(f.width)) {
			return nil
		}
		fm.FieldMatchType = &p4v1.FieldMatch_Range_{Range: &p4v1.FieldMatch_Range{Low: canonical(m.Value), High: canonical(m.High)}}
	}
	return fm
}

// zeroAfter tells whether all bits of a number of width bits are zero but the
// first n.
func zeroAfter(b []byte, width, n int) bool {
	skip := len(b)*8 - width + n
	for i, v := range b {
		switch bit := skip - 8*i; {
		case bit >= 8:
		case bit <= 0:
			if v != 0 {
				return false
			}
		case v<<bit != 0:
			return false
		}
	}
	return true
}
