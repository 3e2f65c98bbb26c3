// SPDX-License-Identifier: Apache-2.0

package bmv2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
)

// Limits of what Load accepts, so that a hostile file cannot make it, or the
// engine that runs the program, use memory without bound.
const (
	maxFieldBits   = 1 << 14 // of one field
	maxHeaderBits  = 1 << 17 // of one header type
	maxTableSize   = 1 << 24
	maxArraySize   = 1 << 24 // counters, registers, and all of them together
	maxObjects     = 1 << 16 // of one kind
	maxExprDepth   = 128
	maxTotalLayout = 1 << 22 // bits of all header instances together
)

// An Error says what Load refused and where it stands in the file.
type Error struct {
	Place string // such as `pipeline "ingress": table "MyIngress.vip"`
	Err   error
}

func (e *Error) Error() string {
	if e.Place == "" {
		return e.Err.Error()
	}
	return e.Place + ": " + e.Err.Error()
}

// Unwrap returns the reason without the place.
func (e *Error) Unwrap() error { return e.Err }

// ErrUnsupported is wrapped by the errors that Load returns for a construct that
// the format knows but this package does not.
var ErrUnsupported = errors.New("not supported")

// Load reads a program. The error is an *Error.
func Load(data []byte) (*Program, error) {
	l := &loader{p: &Program{Aliases: map[string]FieldRef{}}}
	if err := l.load(data); err != nil {
		return nil, err
	}
	return l.p, nil
}

type loader struct {
	p           *Program
	types       map[string]*HeaderType
	headers     map[string]*Header
	headerIDs   map[int]*Header
	stacks      map[string]*Stack
	unionTypes  map[string]*UnionType
	unions      map[string]*Union
	unionIDs    map[int]*Union
	unionStacks map[string]*UnionStack
	valueSets   map[string]*ValueSet
	meters      map[string]*MeterArray
	profiles    map[string]*ActionProfile
	calcs       map[string]*Calculation
	counters    map[string]*CounterArray
	registers   map[string]*RegisterArray
	actions     map[int]*Action
	layoutTotal int
	arrayTotal  int
}

// A scope is a place in the file, for messages.
type scope string

func (s scope) in(kind, name string) scope {
	sub := scope(fmt.Sprintf("%s %q", kind, name))
	if s == "" {
		return sub
	}
	return s + ": " + sub
}

func (s scope) at(kind string, i int) scope {
	sub := scope(fmt.Sprintf("%s %d", kind, i))
	if s == "" {
		return sub
	}
	return s + ": " + sub
}

func (s scope) errorf(format string, args ...any) error {
	return &Error{Place: string(s), Err: fmt.Errorf(format, args...)}
}

func (s scope) unsupported(format string, args ...any) error {
	return &Error{Place: string(s), Err: fmt.Errorf(format+" %w", append(args, ErrUnsupported)...)}
}

// decode fills dst and refuses members that dst does not have.
func (s scope) decode(raw []byte, dst any) error {
	if len(raw) == 0 {
		return s.errorf("missing")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(dst); err != nil {
		return s.errorf("%w", err)
	}
	return nil
}

func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || string(bytes.TrimSpace(raw)) == "null"
}

type jsonSource struct {
	Filename string `json:"filename"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Fragment string `json:"source_fragment"`
}

// String returns file, line and statement, or nothing if they are not known.
func (s *jsonSource) String() string {
	if s == nil || s.Fragment == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d: %s", s.Filename, s.Line, s.Fragment)
}

type jsonRoot struct {
	Program     string            `json:"program"`
	Meta        *jsonMeta         `json:"__meta__"`
	HeaderTypes []json.RawMessage `json:"header_types"`
	Headers     []json.RawMessage `json:"headers"`
	Stacks      []json.RawMessage `json:"header_stacks"`
	UnionTypes  []json.RawMessage `json:"header_union_types"`
	Unions      []json.RawMessage `json:"header_unions"`
	UnionStacks []json.RawMessage `json:"header_union_stacks"`
	FieldLists  []json.RawMessage `json:"field_lists"`
	Errors      []json.RawMessage `json:"errors"`
	Enums       []json.RawMessage `json:"enums"`
	Parsers     []json.RawMessage `json:"parsers"`
	ParseVsets  []json.RawMessage `json:"parse_vsets"`
	Deparsers   []json.RawMessage `json:"deparsers"`
	Meters      []json.RawMessage `json:"meter_arrays"`
	Counters    []json.RawMessage `json:"counter_arrays"`
	Registers   []json.RawMessage `json:"register_arrays"`
	Calcs       []json.RawMessage `json:"calculations"`
	LearnLists  []json.RawMessage `json:"learn_lists"`
	Actions     []json.RawMessage `json:"actions"`
	Pipelines   []json.RawMessage `json:"pipelines"`
	Checksums   []json.RawMessage `json:"checksums"`
	ForceArith  json.RawMessage   `json:"force_arith"` // a hint for bmv2
	Externs     []jsonNamed       `json:"extern_instances"`
	Aliases     []json.RawMessage `json:"field_aliases"`
	Options     json.RawMessage   `json:"config_options"`
}

type jsonMeta struct {
	Version  []int  `json:"version"`
	Compiler string `json:"compiler"`
}

// jsonNamed is an object of a kind that is refused, by its name.
type jsonNamed struct{ Name string }

func (n *jsonNamed) UnmarshalJSON(b []byte) error {
	var v struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	n.Name = v.Name
	return nil
}

func (l *loader) load(data []byte) error {
	var root jsonRoot
	var top scope
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&root); err != nil {
		return top.errorf("not a bmv2 JSON program: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return top.errorf("not a bmv2 JSON program: data after the program")
	}
	if root.Meta == nil || len(root.Meta.Version) != 2 {
		return top.errorf(`not a bmv2 JSON program: "__meta__" has no version`)
	}
	p := l.p
	p.Name, p.Compiler = root.Program, root.Meta.Compiler
	p.Version = [2]int{root.Meta.Version[0], root.Meta.Version[1]}
	if p.Version[0] != MajorVersion || p.Version[1] > MinorVersion || p.Version[1] < 0 {
		return top.unsupported("format version %d.%d (newest known is %d.%d)",
			p.Version[0], p.Version[1], MajorVersion, MinorVersion)
	}
	if len(root.Externs) > 0 {
		return top.unsupported("extern %q", root.Externs[0].Name)
	}
	for _, step := range []struct {
		kind string
		list []json.RawMessage
		load func(scope, json.RawMessage) error
	}{
		{"header_types", root.HeaderTypes, l.headerType},
		{"headers", root.Headers, l.header},
		{"header_stacks", root.Stacks, l.stack},
		{"header_union_types", root.UnionTypes, l.unionType},
		{"header_unions", root.Unions, l.union},
		{"header_union_stacks", root.UnionStacks, l.unionStack},
		{"errors", root.Errors, l.errorCode},
		{"field_aliases", root.Aliases, l.alias},
		{"calculations", root.Calcs, l.calculation},
		{"counter_arrays", root.Counters, l.counter},
		{"meter_arrays", root.Meters, l.meter},
		{"register_arrays", root.Registers, l.register},
		{"field_lists", root.FieldLists, l.fieldList},
		{"learn_lists", root.LearnLists, l.learnList},
		{"parse_vsets", root.ParseVsets, l.valueSet},
		{"actions", root.Actions, l.action},
		{"parsers", root.Parsers, l.parser},
		{"deparsers", root.Deparsers, l.deparser},
		{"pipelines", root.Pipelines, l.pipeline},
		{"checksums", root.Checksums, l.checksum},
	} {
		if len(step.list) > maxObjects {
			return top.errorf("%d %s, at most %d", len(step.list), step.kind, maxObjects)
		}
		for i, raw := range step.list {
			if err := step.load(top.at(step.kind, i), raw); err != nil {
				return err
			}
		}
	}
	if err := l.directCounters(); err != nil {
		return err
	}
	return l.directMeters()
}

// put adds a named object and refuses a second one of the same name.
func put[K comparable, V any](at scope, m *map[K]V, kind string, k K, v V) error {
	if *m == nil {
		*m = map[K]V{}
	}
	if _, dup := (*m)[k]; dup {
		return at.errorf("second %s %v", kind, k)
	}
	(*m)[k] = v
	return nil
}

func (l *loader) headerType(at scope, raw json.RawMessage) error {
	var j struct {
		Name      string              `json:"name"`
		ID        int                 `json:"id"`
		Fields    [][]json.RawMessage `json:"fields"`
		LengthExp json.RawMessage     `json:"length_exp"`
		MaxLength *int                `json:"max_length"`
		Source    *jsonSource         `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("header type", j.Name)
	if !isNull(j.LengthExp) {
		return at.unsupported("a length that is an expression of the type (length_exp)")
	}
	t := &HeaderType{Name: j.Name, Varbit: -1}
	for i, f := range j.Fields {
		if len(f) < 2 || len(f) > 4 {
			return at.errorf("field %d: want name, width and perhaps a sign", i)
		}
		var fd Field
		if err := at.decode(f[0], &fd.Name); err != nil {
			return err
		}
		fat := at.in("field", fd.Name)
		if t.field(fd.Name) >= 0 || fd.Name == validField {
			return fat.errorf("second field of that name")
		}
		var star string
		if json.Unmarshal(f[1], &star) == nil {
			if star != "*" {
				return fat.errorf("width %q", star)
			}
			if t.Varbit >= 0 {
				return fat.errorf("second varbit field")
			}
			fd.Varbit, t.Varbit = true, i
		} else if err := fat.decode(f[1], &fd.Width); err != nil {
			return err
		}
		if !fd.Varbit && (fd.Width < 1 || fd.Width > maxFieldBits) {
			return fat.errorf("width %d, want 1 to %d", fd.Width, maxFieldBits)
		}
		var err error
		if fd.Signed, err = flag(fat, f, 2); err != nil {
			return err
		}
		if saturating, err := flag(fat, f, 3); err != nil {
			return err
		} else if saturating {
			return fat.unsupported("a saturating field")
		}
		if fd.Signed && (fd.Width < 2 || fd.Varbit) {
			return fat.errorf("signed with a width of %d", fd.Width)
		}
		t.FixedBits += fd.Width
		t.Fields = append(t.Fields, fd)
		if t.FixedBits > maxHeaderBits {
			return at.errorf("wider than %d bits", maxHeaderBits)
		}
	}
	if t.FixedBits%8 != 0 {
		return at.errorf("%d bits wide, which is no whole number of bytes", t.FixedBits)
	}
	if t.Varbit >= 0 {
		if j.MaxLength == nil {
			return at.errorf("a varbit field needs max_length")
		}
		w := *j.MaxLength*8 - t.FixedBits
		if *j.MaxLength > maxHeaderBits/8 || w < 8 || w > maxHeaderBits {
			return at.errorf("max_length %d", *j.MaxLength)
		}
		t.Fields[t.Varbit].Width = w
	}
	if err := put(at, &l.types, "header type", j.Name, t); err != nil {
		return err
	}
	l.p.HeaderTypes = append(l.p.HeaderTypes, t)
	return nil
}

// flag reads element i of a field's tuple, which p4c writes as a bool or a number.
func flag(at scope, tuple []json.RawMessage, i int) (bool, error) {
	if i >= len(tuple) {
		return false, nil
	}
	switch s := string(bytes.TrimSpace(tuple[i])); s {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	default:
		return false, at.errorf("flag %s", s)
	}
}

func (l *loader) header(at scope, raw json.RawMessage) error {
	var j struct {
		Name     string      `json:"name"`
		ID       int         `json:"id"`
		Type     string      `json:"header_type"`
		Metadata bool        `json:"metadata"`
		PIOmit   bool        `json:"pi_omit"`
		Initial  any         `json:"initial_values"`
		Source   *jsonSource `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("header", j.Name)
	if j.Initial != nil {
		return at.unsupported("initial_values")
	}
	t := l.types[j.Type]
	if t == nil {
		return at.errorf("no header type %q", j.Type)
	}
	l.layoutTotal += t.FixedBits + 64*len(t.Fields)
	if t.Varbit >= 0 {
		l.layoutTotal += t.Fields[t.Varbit].Width
	}
	if l.layoutTotal > maxTotalLayout {
		return at.errorf("all headers together are wider than %d bits", maxTotalLayout)
	}
	h := &Header{Name: j.Name, Index: len(l.p.Headers), Type: t, Metadata: j.Metadata}
	if err := put(at, &l.headers, "header", j.Name, h); err != nil {
		return err
	}
	if err := put(at, &l.headerIDs, "header with id", j.ID, h); err != nil {
		return err
	}
	l.p.Headers = append(l.p.Headers, h)
	return nil
}

func (l *loader) errorCode(at scope, raw json.RawMessage) error {
	var j []any
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	if len(j) == 2 {
		name, ok := j[0].(string)
		v, okv := j[1].(float64)
		if ok && okv && v >= 0 && v < 1<<31-1 && v == float64(uint32(v)) {
			l.p.Errors = append(l.p.Errors, ErrorCode{name, uint32(v)})
			return nil
		}
	}
	return at.errorf("want a name and a number below 2^31-1")
}

func (l *loader) alias(at scope, raw json.RawMessage) error {
	var j []json.RawMessage
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	if len(j) != 2 {
		return at.errorf("want a name and a field")
	}
	var name string
	if err := at.decode(j[0], &name); err != nil {
		return err
	}
	at = scope("").in("field alias", name)
	ref, err := l.fieldRef(at, j[1])
	if err != nil {
		return err
	}
	if old, ok := l.p.Aliases[name]; ok && old == ref {
		return nil // p4c repeats aliases of a type that is used twice
	}
	return put(at, &l.p.Aliases, "alias", name, ref)
}

const validField = "$valid$"

// names decodes a tuple of strings.
func names(at scope, raw json.RawMessage, n int) ([]string, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, at.unsupported("something that is computed, where %d names are wanted,", n)
	}
	for _, x := range list {
		if !bytes.HasPrefix(x, []byte{'"'}) {
			return nil, at.unsupported("something that is computed, where %d names are wanted,", n)
		}
	}
	var v []string
	if err := at.decode(raw, &v); err != nil {
		return nil, err
	}
	if len(v) != n {
		return nil, at.errorf("want %d names, have %d", n, len(v))
	}
	return v, nil
}

func (l *loader) headerNamed(at scope, name string) (*Header, error) {
	if h := l.headers[name]; h != nil {
		return h, nil
	}
	return nil, at.errorf("no header %q", name)
}

func (l *loader) fieldRef(at scope, raw json.RawMessage) (FieldRef, error) {
	e, err := l.fieldExpr(at, raw)
	if err != nil {
		return FieldRef{}, err
	}
	f, ok := e.(*FieldExpr)
	if !ok {
		return FieldRef{}, at.errorf("field %s cannot be used here", validField)
	}
	return f.FieldRef, nil
}

// fieldExpr reads ["header", "field"], the field being perhaps $valid$.
func (l *loader) fieldExpr(at scope, raw json.RawMessage) (Expr, error) {
	v, err := names(at, raw, 2)
	if err != nil {
		return nil, err
	}
	h, err := l.headerNamed(at, v[0])
	if err != nil {
		return nil, err
	}
	if v[1] == validField {
		return &ValidExpr{h}, nil
	}
	i := h.Type.field(v[1])
	if i < 0 {
		return nil, at.errorf("header %q has no field %q", v[0], v[1])
	}
	return &FieldExpr{FieldRef{h, i}}, nil
}

func (l *loader) calculation(at scope, raw json.RawMessage) error {
	var j struct {
		Name   string            `json:"name"`
		ID     int               `json:"id"`
		Algo   string            `json:"algo"`
		Input  []json.RawMessage `json:"input"`
		Source *jsonSource       `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("calculation", j.Name)
	c := &Calculation{Name: j.Name, Algo: j.Algo}
	for i, raw := range j.Input {
		iat := at.at("input", i)
		in, err := l.calcInput(iat, raw)
		if err != nil {
			return err
		}
		if in.Payload && i != len(j.Input)-1 {
			return iat.errorf("the payload must come last")
		}
		c.Input = append(c.Input, in)
	}
	if err := put(at, &l.calcs, "calculation", j.Name, c); err != nil {
		return err
	}
	l.p.Calculations = append(l.p.Calculations, c)
	return nil
}

// calcInput reads one piece of what a calculation covers.
func (l *loader) calcInput(at scope, raw json.RawMessage) (CalcInput, error) {
	var in struct {
		typeValue
		Bitwidth *int `json:"bitwidth"`
	}
	if err := at.decode(raw, &in); err != nil {
		return CalcInput{}, err
	}
	switch in.Type {
	case "field":
		ref, err := l.fieldRef(at, in.Value)
		return CalcInput{Field: &ref}, err
	case "header":
		var name string
		if err := at.decode(in.Value, &name); err != nil {
			return CalcInput{}, err
		}
		h, err := l.headerNamed(at, name)
		return CalcInput{Header: h}, err
	case "hexstr":
		c, width, err := sizedConst(at, in.Value, in.Bitwidth)
		return CalcInput{Const: c, Width: width}, err
	case "payload":
		return CalcInput{Payload: true}, nil
	}
	return CalcInput{}, at.unsupported("type %q", in.Type)
}

func (l *loader) counter(at scope, raw json.RawMessage) error {
	var j struct {
		Name    string      `json:"name"`
		ID      int         `json:"id"`
		Size    int         `json:"size"`
		Direct  bool        `json:"is_direct"`
		Binding string      `json:"binding"`
		Source  *jsonSource `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("counter", j.Name)
	c := &CounterArray{Name: j.Name, Index: len(l.p.Counters), Size: j.Size, Direct: j.Direct, Table: j.Binding}
	switch {
	case c.Direct && c.Table == "":
		return at.errorf("direct, but bound to no table")
	case c.Direct:
		c.Size = 0
	case c.Size < 1 || c.Size > maxArraySize:
		return at.errorf("size %d, want 1 to %d", c.Size, maxArraySize)
	}
	if err := l.addArray(at, c.Size); err != nil {
		return err
	}
	if err := put(at, &l.counters, "counter", j.Name, c); err != nil {
		return err
	}
	l.p.Counters = append(l.p.Counters, c)
	return nil
}

// addArray bounds what all arrays take together.
func (l *loader) addArray(at scope, size int) error {
	if l.arrayTotal += size; l.arrayTotal > maxArraySize {
		return at.errorf("all counters, meters and registers together have more than %d cells", maxArraySize)
	}
	return nil
}

func (l *loader) register(at scope, raw json.RawMessage) error {
	var j struct {
		Name   string      `json:"name"`
		ID     int         `json:"id"`
		Size   int         `json:"size"`
		Width  int         `json:"bitwidth"`
		Source *jsonSource `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("register", j.Name)
	if j.Size < 1 || j.Size > maxArraySize {
		return at.errorf("size %d, want 1 to %d", j.Size, maxArraySize)
	}
	if j.Width < 1 || j.Width > maxFieldBits {
		return at.errorf("bitwidth %d, want 1 to %d", j.Width, maxFieldBits)
	}
	if err := l.addArray(at, j.Size); err != nil {
		return err
	}
	r := &RegisterArray{Name: j.Name, Index: len(l.p.Registers), Size: j.Size, Width: j.Width}
	if err := put(at, &l.registers, "register", j.Name, r); err != nil {
		return err
	}
	l.p.Registers = append(l.p.Registers, r)
	return nil
}

func (l *loader) action(at scope, raw json.RawMessage) error {
	var j struct {
		Name       string            `json:"name"`
		ID         int               `json:"id"`
		Params     []jsonParam       `json:"runtime_data"`
		Primitives []json.RawMessage `json:"primitives"`
		Source     *jsonSource       `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("action", j.Name)
	a := &Action{Name: j.Name, ID: j.ID}
	for _, p := range j.Params {
		if p.Width < 1 || p.Width > maxFieldBits {
			return at.in("parameter", p.Name).errorf("bitwidth %d, want 1 to %d", p.Width, maxFieldBits)
		}
		a.Params = append(a.Params, Param{p.Name, p.Width})
	}
	for i, rawPrim := range j.Primitives {
		prim, err := l.primitive(at.at("primitive", i), rawPrim, a)
		if err != nil {
			return err
		}
		a.Primitives = append(a.Primitives, prim)
	}
	if err := put(at, &l.actions, "action with id", j.ID, a); err != nil {
		return err
	}
	l.p.Actions = append(l.p.Actions, a)
	return nil
}

type jsonParam struct {
	Name  string `json:"name"`
	Width int    `json:"bitwidth"`
}

// primitive reads one call. a is the action that it stands in, or nil.
func (l *loader) primitive(at scope, raw json.RawMessage, a *Action) (*Primitive, error) {
	var j struct {
		Op         string            `json:"op"`
		Parameters []json.RawMessage `json:"parameters"`
		Source     *jsonSource       `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return nil, err
	}
	at = at.in("op", j.Op)
	p := &Primitive{Op: j.Op}
	p.Source = j.Source.String()
	for i, rawArg := range j.Parameters {
		e, err := l.expr(at.at("argument", i), rawArg, exprContext{action: a, objects: true}, 0)
		if err != nil {
			return nil, err
		}
		p.Args = append(p.Args, e)
	}
	return p, nil
}

func (l *loader) checksum(at scope, raw json.RawMessage) error {
	var j struct {
		Name   string          `json:"name"`
		ID     int             `json:"id"`
		Target json.RawMessage `json:"target"`
		Type   string          `json:"type"`
		Calc   string          `json:"calculation"`
		Cond   json.RawMessage `json:"if_cond"`
		Verify *bool           `json:"verify"`
		Update *bool           `json:"update"`
		Source *jsonSource     `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("checksum", j.Name)
	if j.Type != "generic" {
		return at.unsupported("type %q", j.Type)
	}
	target, err := l.fieldRef(at, j.Target)
	if err != nil {
		return err
	}
	if d := target.Def(); d.Varbit || d.Width > 64 {
		return at.errorf("target %s is wider than 64 bits", target)
	}
	c := &Checksum{Name: j.Name, Target: target, Calc: l.calcs[j.Calc],
		Verify: j.Verify == nil || *j.Verify, Update: j.Update == nil || *j.Update}
	if c.Calc == nil {
		return at.errorf("no calculation %q", j.Calc)
	}
	if !isNull(j.Cond) {
		if c.Cond, err = l.typed(at.in("condition", "if_cond"), j.Cond, Bool, exprContext{}); err != nil {
			return err
		}
	}
	l.p.Checksums = append(l.p.Checksums, c)
	return nil
}

func (l *loader) deparser(at scope, raw json.RawMessage) error {
	var j struct {
		Name       string            `json:"name"`
		ID         int               `json:"id"`
		Order      []string          `json:"order"`
		Primitives []json.RawMessage `json:"primitives"`
		Source     *jsonSource       `json:"source_info"`
	}
	if err := at.decode(raw, &j); err != nil {
		return err
	}
	at = scope("").in("deparser", j.Name)
	d := &Deparser{Name: j.Name}
	for _, name := range j.Order {
		h, err := l.headerNamed(at, name)
		if err != nil {
			return err
		}
		if h.Metadata {
			return at.errorf("%q is metadata", name)
		}
		d.Order = append(d.Order, h)
	}
	for i, rawPrim := range j.Primitives {
		p, err := l.primitive(at.at("primitive", i), rawPrim, nil)
		if err != nil {
			return err
		}
		d.Primitives = append(d.Primitives, p)
	}
	if l.p.Deparser(j.Name) != nil {
		return at.errorf("second deparser of that name")
	}
	l.p.Deparsers = append(l.p.Deparsers, d)
	return nil
}

// directCounters checks that each direct counter belongs to a table that counts.
func (l *loader) directCounters() error {
	for _, c := range l.p.Counters {
		if !c.Direct {
			continue
		}
		at := scope("").in("counter", c.Name)
		t := l.table(c.Table)
		if t == nil {
			return at.errorf("bound to table %q, which does not exist", c.Table)
		}
		if !t.WithCounters {
			return at.errorf("bound to table %q, which has no counters", c.Table)
		}
	}
	return nil
}

func (l *loader) table(name string) *Table {
	for _, p := range l.p.Pipelines {
		for _, t := range p.Tables {
			if t.Name == name {
				return t
			}
		}
	}
	return nil
}

// hexConst reads "0x12", "-0x12" or digits without a prefix.
func hexConst(at scope, raw json.RawMessage) (*big.Int, error) {
	var s string
	if err := at.decode(raw, &s); err != nil {
		return nil, err
	}
	digits, neg := strings.CutPrefix(s, "-")
	digits = strings.TrimPrefix(digits, "0x")
	if digits == "" || len(digits) > maxHeaderBits/4 || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return nil, at.errorf("%q is no hexadecimal number", clip(s))
	}
	v, ok := new(big.Int).SetString(digits, 16)
	if !ok {
		return nil, at.errorf("%q is no hexadecimal number", clip(s))
	}
	if neg {
		v.Neg(v)
	}
	return v, nil
}

// hexBytes reads an unsigned number as n bytes.
func hexBytes(at scope, raw json.RawMessage, n int) ([]byte, error) {
	v, err := hexConst(at, raw)
	if err != nil {
		return nil, err
	}
	if v.Sign() < 0 || v.BitLen() > n*8 {
		return nil, at.errorf("%s does not fit into %d bytes", clip(v.String()), n)
	}
	return v.FillBytes(make([]byte, n)), nil
}

// hexBits reads an unsigned number of at most width bits as whole bytes.
func hexBits(at scope, raw json.RawMessage, width int) ([]byte, error) {
	v, err := hexConst(at, raw)
	if err != nil {
		return nil, err
	}
	if v.Sign() < 0 || v.BitLen() > width {
		return nil, at.errorf("%s does not fit into %d bits", clip(v.String()), width)
	}
	return v.FillBytes(make([]byte, (width+7)/8)), nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
