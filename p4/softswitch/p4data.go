// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"fmt"
	"slices"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// A dataType is a type of the P4 program as P4Runtime 1.5, section 8.4 describes it,
// for values of type P4Data. The engine has such a value as its leaves, one after the
// other: numbers of (width+7)/8 bytes, signed ones in two's complement.
type dataType struct {
	kind    dataKind
	name    string      // of a struct or an enumeration
	width   int         // of a leaf; 0: whatever the program has, see resolve
	signed  bool        // of kindBits
	members []*dataType // of a struct or tuple
	names   []string    // of a safe enumeration or of errors, in the order of their numbers
}

type dataKind uint8

const (
	kindBits       dataKind = iota // bit<W> or int<W>
	kindBool                       // one bit
	kindTuple                      // members without names
	kindStruct                     // members
	kindSerialEnum                 // a serializable enumeration: its underlying bit<W>
	kindEnum                       // a safe enumeration: the number of a name
	kindError                      // an error: the number of its name
)

// maxTypeDepth bounds how deep a P4Info may nest types.
const maxTypeDepth = 16

// newDataType reads a type. The error names what is not supported.
func newDataType(spec *p4config.P4DataTypeSpec, info *p4config.P4TypeInfo) (*dataType, error) {
	return readType(spec, info, 0)
}

func readType(spec *p4config.P4DataTypeSpec, info *p4config.P4TypeInfo, depth int) (*dataType, error) {
	if depth > maxTypeDepth {
		return nil, fmt.Errorf("a type that is nested more than %d deep is %w", maxTypeDepth, bmv2.ErrUnsupported)
	}
	switch t := spec.GetTypeSpec().(type) {
	case *p4config.P4DataTypeSpec_Bitstring:
		switch b := t.Bitstring.GetTypeSpec().(type) {
		case *p4config.P4BitstringLikeTypeSpec_Bit:
			return leaf(dataType{kind: kindBits, width: int(b.Bit.GetBitwidth())})
		case *p4config.P4BitstringLikeTypeSpec_Int:
			return leaf(dataType{kind: kindBits, width: int(b.Int.GetBitwidth()), signed: true})
		}
		return nil, fmt.Errorf("type %T is %w", t.Bitstring.GetTypeSpec(), bmv2.ErrUnsupported)
	case *p4config.P4DataTypeSpec_Bool:
		return &dataType{kind: kindBool, width: 1}, nil
	case *p4config.P4DataTypeSpec_Tuple:
		d := &dataType{kind: kindTuple, name: "tuple"}
		for _, m := range t.Tuple.GetMembers() {
			if err := d.add(m, info, depth); err != nil {
				return nil, err
			}
		}
		return d, nil
	case *p4config.P4DataTypeSpec_Struct:
		def := info.GetStructs()[t.Struct.GetName()]
		if def == nil {
			return nil, fmt.Errorf("struct %q is not in type_info", t.Struct.GetName())
		}
		d := &dataType{kind: kindStruct, name: t.Struct.GetName()}
		for _, m := range def.GetMembers() {
			if err := d.add(m.GetTypeSpec(), info, depth); err != nil {
				return nil, fmt.Errorf("struct %q: member %q: %w", d.name, m.GetName(), err)
			}
		}
		return d, nil
	case *p4config.P4DataTypeSpec_SerializableEnum:
		def := info.GetSerializableEnums()[t.SerializableEnum.GetName()]
		if def == nil {
			return nil, fmt.Errorf("enum %q is not in type_info", t.SerializableEnum.GetName())
		}
		return leaf(dataType{kind: kindSerialEnum, name: t.SerializableEnum.GetName(), width: int(def.GetUnderlyingType().GetBitwidth())})
	case *p4config.P4DataTypeSpec_Enum:
		def := info.GetEnums()[t.Enum.GetName()]
		if def == nil {
			return nil, fmt.Errorf("enum %q is not in type_info", t.Enum.GetName())
		}
		d := &dataType{kind: kindEnum, name: t.Enum.GetName()}
		for _, m := range def.GetMembers() {
			d.names = append(d.names, m.GetName())
		}
		return d, nil
	case *p4config.P4DataTypeSpec_Error:
		return &dataType{kind: kindError, name: "error", names: info.GetError().GetMembers()}, nil
	case *p4config.P4DataTypeSpec_NewType:
		def := info.GetNewTypes()[t.NewType.GetName()]
		if x := def.GetTranslatedType(); x.GetSdnBitwidth() > 0 {
			return &dataType{kind: kindBits}, nil
		}
		if def.GetOriginalType() == nil {
			return nil, fmt.Errorf("the translated type %q is %w", t.NewType.GetName(), bmv2.ErrUnsupported)
		}
		return readType(def.GetOriginalType(), info, depth+1)
	}
	return nil, fmt.Errorf("type %T is %w", spec.GetTypeSpec(), bmv2.ErrUnsupported)
}

func leaf(d dataType) (*dataType, error) {
	if d.width < 1 || d.width > 1<<12 {
		return nil, fmt.Errorf("a value of %d bits is %w", d.width, bmv2.ErrUnsupported)
	}
	return &d, nil
}

func (d *dataType) add(m *p4config.P4DataTypeSpec, info *p4config.P4TypeInfo, depth int) error {
	t, err := readType(m, info, depth+1)
	if err == nil {
		d.members = append(d.members, t)
	}
	return err
}

// widths appends the width of each leaf; 0 is one of any width.
func (d *dataType) widths(list []int) []int {
	if d.kind != kindStruct && d.kind != kindTuple {
		return append(list, d.width)
	}
	for _, m := range d.members {
		list = m.widths(list)
	}
	return list
}

// resolve gives the numbers among the leaves whose width is not known that of the
// program, and returns the widths that remain. It may be called once.
func (d *dataType) resolve(widths []int) []int {
	if d.kind == kindStruct || d.kind == kindTuple {
		for _, m := range d.members {
			widths = m.resolve(widths)
		}
		return widths
	}
	if d.kind == kindBits && d.width == 0 {
		d.width = widths[0]
	}
	return widths[1:]
}

// message makes the canonical message of a value from its leaves, and returns those
// that remain.
func (d *dataType) message(leaves [][]byte) (*p4v1.P4Data, [][]byte) {
	if d.kind == kindStruct || d.kind == kindTuple {
		like := &p4v1.P4StructLike{}
		for _, m := range d.members {
			var v *p4v1.P4Data
			v, leaves = m.message(leaves)
			like.Members = append(like.Members, v)
		}
		if d.kind == kindTuple {
			return &p4v1.P4Data{Data: &p4v1.P4Data_Tuple{Tuple: like}}, leaves
		}
		return &p4v1.P4Data{Data: &p4v1.P4Data_Struct{Struct: like}}, leaves
	}
	b := leaves[0]
	out := &p4v1.P4Data{}
	switch d.kind {
	case kindBool:
		out.Data = &p4v1.P4Data_Bool{Bool: !isZero(b)}
	case kindSerialEnum:
		out.Data = &p4v1.P4Data_EnumValue{EnumValue: canonical(b)}
	case kindEnum:
		out.Data = &p4v1.P4Data_Enum{Enum: d.nameOf(b)}
	case kindError:
		out.Data = &p4v1.P4Data_Error{Error: d.nameOf(b)}
	default:
		if d.signed {
			b = canonicalSigned(b, d.width)
		} else {
			b = canonical(b)
		}
		out.Data = &p4v1.P4Data_Bitstring{Bitstring: b}
	}
	return out, leaves[1:]
}

// nameOf returns the name with a number, or the number.
func (d *dataType) nameOf(b []byte) string {
	n := 0
	for _, x := range b {
		if n = n<<8 | int(x); n >= len(d.names) {
			return fmt.Sprintf("%#x", b)
		}
	}
	return d.names[n]
}

// parse reads a message and appends its leaves. Those of enumerations and errors have
// four bytes.
func (d *dataType) parse(m *p4v1.P4Data, leaves [][]byte) ([][]byte, error) {
	wrong := func() ([][]byte, error) {
		return nil, errorf(codes.InvalidArgument, "data of type %T, which is not what the P4Info says", m.GetData())
	}
	structLike := func(s *p4v1.P4StructLike) ([][]byte, error) {
		if len(s.GetMembers()) != len(d.members) {
			return nil, errorf(codes.InvalidArgument, "%s: %d members, want %d", d.name, len(s.GetMembers()), len(d.members))
		}
		var err error
		for i, t := range d.members {
			if leaves, err = t.parse(s.GetMembers()[i], leaves); err != nil {
				return nil, err
			}
		}
		return leaves, nil
	}
	named := func(name string) ([][]byte, error) {
		n := slices.Index(d.names, name)
		if n < 0 {
			return nil, errorf(codes.InvalidArgument, "%s has no member %q", d.name, name)
		}
		return append(leaves, []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), nil
	}
	switch x := m.GetData().(type) {
	case *p4v1.P4Data_Tuple:
		if d.kind == kindTuple {
			return structLike(x.Tuple)
		}
	case *p4v1.P4Data_Struct:
		if d.kind == kindStruct {
			return structLike(x.Struct)
		}
	case *p4v1.P4Data_Enum:
		if d.kind == kindEnum {
			return named(x.Enum)
		}
	case *p4v1.P4Data_Error:
		if d.kind == kindError {
			return named(x.Error)
		}
	case *p4v1.P4Data_Bool:
		if d.kind == kindBool {
			if x.Bool {
				return append(leaves, []byte{1}), nil
			}
			return append(leaves, []byte{0}), nil
		}
	case *p4v1.P4Data_EnumValue:
		if d.kind == kindSerialEnum {
			v, err := parseBits(x.EnumValue, d.width)
			return append(leaves, v), err
		}
	case *p4v1.P4Data_Bitstring:
		if d.kind == kindBits {
			read := parseBits
			if d.signed {
				read = parseSigned
			}
			v, err := read(x.Bitstring, d.width)
			return append(leaves, v), err
		}
	}
	return wrong()
}

// resize makes a number n bytes long; what is cut off must be zero.
func resize(b []byte, n int) []byte {
	if len(b) >= n {
		return b[len(b)-n:]
	}
	return append(bytes.Repeat([]byte{0}, n-len(b)), b...)
}
