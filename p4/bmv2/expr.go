// SPDX-License-Identifier: Apache-2.0

package bmv2

import (
	"encoding/json"
	"strings"
)

// typeValue is the pair of which the format builds everything that can be
// referred to.
type typeValue struct {
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
}

// exprContext says which references an expression may make.
type exprContext struct {
	action  *Action // parameters of
	parser  bool    // lookahead
	objects bool    // counters, registers, calculations, strings
}

// typed reads an expression that must have the type t.
func (l *loader) typed(at scope, raw json.RawMessage, t Type, ctx exprContext) (Expr, error) {
	e, err := l.expr(at, raw, ctx, 0)
	if err != nil {
		return nil, err
	}
	if e.Type() != t {
		return nil, at.errorf("want a %v expression, have a %v one", t, e.Type())
	}
	return e, nil
}

func (l *loader) expr(at scope, raw json.RawMessage, ctx exprContext, depth int) (Expr, error) {
	if depth > maxExprDepth {
		return nil, at.errorf("expression nested more than %d deep", maxExprDepth)
	}
	var j struct {
		typeValue
		Bitwidth *int `json:"bitwidth"` // of a constant; not needed
	}
	if err := at.decode(raw, &j); err != nil {
		return nil, err
	}
	name := func() (string, error) {
		var s string
		err := at.decode(j.Value, &s)
		return s, err
	}
	switch j.Type {
	case "expression":
		// p4c wraps some expressions twice.
		var probe struct {
			Op *string `json:"op"`
		}
		if err := json.Unmarshal(j.Value, &probe); err != nil {
			return nil, at.errorf("%w", err)
		}
		if probe.Op == nil {
			return l.expr(at, j.Value, ctx, depth+1)
		}
		return l.operation(at, j.Value, ctx, depth)
	case "hexstr":
		v, err := hexConst(at, j.Value)
		if err != nil {
			return nil, err
		}
		return &Const{v}, nil
	case "bool":
		var b bool
		if err := at.decode(j.Value, &b); err != nil {
			return nil, err
		}
		return &BoolConst{b}, nil
	case "field":
		return l.fieldExpr(at, j.Value)
	case "header":
		n, err := name()
		if err != nil {
			return nil, err
		}
		h, err := l.headerNamed(at, n)
		if err != nil {
			return nil, err
		}
		return &HeaderExpr{h}, nil
	case "local", "runtime_data":
		var i int
		if err := at.decode(j.Value, &i); err != nil {
			return nil, err
		}
		if ctx.action == nil {
			return nil, at.errorf("a parameter outside an action")
		}
		if i < 0 || i >= len(ctx.action.Params) {
			return nil, at.errorf("parameter %d of action %q, which has %d", i, ctx.action.Name, len(ctx.action.Params))
		}
		return &Local{i, ctx.action.Params[i].Width}, nil
	case "lookahead":
		var v []int
		if err := at.decode(j.Value, &v); err != nil {
			return nil, err
		}
		if !ctx.parser {
			return nil, at.errorf("lookahead outside a parser")
		}
		if len(v) != 2 || v[0] < 0 || v[0] > maxHeaderBits || v[1] < 1 || v[1] > maxFieldBits {
			return nil, at.errorf("lookahead %v", v)
		}
		return &Lookahead{v[0], v[1]}, nil
	case "register":
		var v []json.RawMessage
		if err := at.decode(j.Value, &v); err != nil {
			return nil, err
		}
		if len(v) != 2 {
			return nil, at.errorf("want a register and an index")
		}
		var n string
		if err := at.decode(v[0], &n); err != nil {
			return nil, err
		}
		r := l.registers[n]
		if r == nil {
			return nil, at.errorf("no register %q", n)
		}
		idx, err := l.expr(at, v[1], ctx, depth+1)
		if err != nil {
			return nil, err
		}
		if idx.Type() != Data {
			return nil, at.errorf("index of register %q is a %v", n, idx.Type())
		}
		return &RegisterExpr{r, idx}, nil
	case "header_stack":
		n, err := name()
		if err != nil {
			return nil, err
		}
		if st := l.stacks[n]; st != nil {
			return &StackExpr{st}, nil
		}
		return nil, at.errorf("no header stack %q", n)
	case "header_union":
		n, err := name()
		if err != nil {
			return nil, err
		}
		if u := l.unions[n]; u != nil {
			return &UnionExpr{u}, nil
		}
		return nil, at.errorf("no header union %q", n)
	case "header_union_stack":
		n, err := name()
		if err != nil {
			return nil, err
		}
		if st := l.unionStacks[n]; st != nil {
			return &UnionStackExpr{st}, nil
		}
		return nil, at.errorf("no header union stack %q", n)
	case "stack_field":
		v, err := names(at, j.Value, 2)
		if err != nil {
			return nil, err
		}
		st := l.stacks[v[0]]
		if st == nil {
			return nil, at.errorf("no header stack %q", v[0])
		}
		return memberNamed(at, &StackLast{st}, st.Type, v[1])
	case "union_stack_field":
		v, err := names(at, j.Value, 3)
		if err != nil {
			return nil, err
		}
		st := l.unionStacks[v[0]]
		if st == nil {
			return nil, at.errorf("no header union stack %q", v[0])
		}
		i := st.Type.member(v[1])
		if i < 0 {
			return nil, at.errorf("union type %q has no member %q", st.Type.Name, v[1])
		}
		return memberNamed(at, &UnionHeader{&UnionLast{st}, i}, st.Type.Members[i].Type, v[2])
	case "register_array", "counter_array", "meter_array", "calculation", "string", "parameters_vector":
		if ctx.objects {
			return l.object(at, j.typeValue, ctx, depth)
		}
	}
	return nil, at.unsupported("value of type %q", j.Type)
}

// object reads what only the argument of a primitive can be.
func (l *loader) object(at scope, v typeValue, ctx exprContext, depth int) (Expr, error) {
	if v.Type == "parameters_vector" {
		var elems []json.RawMessage
		if strings.Join(strings.Fields(string(v.Value)), "") != "{}" { // p4c writes this for no elements
			if err := at.decode(v.Value, &elems); err != nil {
				return nil, err
			}
		}
		vec := &Vector{}
		for i, raw := range elems {
			e, err := l.expr(at.at("element", i), raw, exprContext{action: ctx.action}, depth+1)
			if err != nil {
				return nil, err
			}
			vec.Elems = append(vec.Elems, e)
		}
		return vec, nil
	}
	var n string
	if err := at.decode(v.Value, &n); err != nil {
		return nil, err
	}
	switch v.Type {
	case "string":
		return &StringConst{n}, nil
	case "counter_array":
		c := l.counters[n]
		if c == nil {
			return nil, at.errorf("no counter %q", n)
		}
		if c.Direct {
			return nil, at.errorf("counter %q is direct and cannot be named", n)
		}
		return &CounterRef{c}, nil
	case "meter_array":
		m := l.meters[n]
		if m == nil {
			return nil, at.errorf("no meter %q", n)
		}
		if m.Direct {
			return nil, at.errorf("meter %q is direct and cannot be named", n)
		}
		return &MeterRef{m}, nil
	case "register_array":
		r := l.registers[n]
		if r == nil {
			return nil, at.errorf("no register %q", n)
		}
		return &RegisterRef{r}, nil
	default:
		c := l.calcs[n]
		if c == nil {
			return nil, at.errorf("no calculation %q", n)
		}
		return &CalcRef{c}, nil
	}
}

func (l *loader) operation(at scope, raw json.RawMessage, ctx exprContext, depth int) (Expr, error) {
	var j struct {
		Op    string          `json:"op"`
		Left  json.RawMessage `json:"left"`
		Right json.RawMessage `json:"right"`
		Cond  json.RawMessage `json:"cond"`
	}
	if err := at.decode(raw, &j); err != nil {
		return nil, err
	}
	ctx.objects = false
	switch j.Op {
	case "dereference_header_stack", "dereference_stack", "dereference_union_stack", "access_field", "access_union_header":
		return l.access(at, j.Op, j.Left, j.Right, ctx, depth)
	}
	sub := func(side string, raw json.RawMessage) (Expr, error) {
		if isNull(raw) {
			return nil, at.errorf("operator %q has no %s side", j.Op, side)
		}
		return l.expr(at, raw, ctx, depth+1)
	}
	right, err := sub("right", j.Right)
	if err != nil {
		return nil, err
	}
	if j.Op == "?" {
		cond, err := sub("condition", j.Cond)
		if err != nil {
			return nil, err
		}
		left, err := sub("left", j.Left)
		if err != nil {
			return nil, err
		}
		if cond.Type() != Bool || left.Type() != right.Type() || left.Type() > Bool {
			return nil, at.errorf(`operator "?": %v ? %v : %v`, cond.Type(), left.Type(), right.Type())
		}
		return &Select{cond, left, right}, nil
	}
	op, ok := opByName[j.Op]
	if !ok {
		return nil, at.unsupported("operator %q", j.Op)
	}
	if (op == Sub || op == Add) && isNull(j.Left) { // a sign
		if right.Type() != Data {
			return nil, at.errorf("operator %q: %v", j.Op, right.Type())
		}
		if op == Add {
			return right, nil
		}
		return &Unary{Neg, right}, nil
	}
	info := &ops[op]
	if info.unary {
		if !isNull(j.Left) {
			return nil, at.errorf("operator %q has a left side", j.Op)
		}
		if right.Type() != info.operand {
			return nil, at.errorf("operator %q: %v", j.Op, right.Type())
		}
		return &Unary{op, right}, nil
	}
	left, err := sub("left", j.Left)
	if err != nil {
		return nil, err
	}
	operand := info.operand
	if op == Eq || op == Ne {
		operand = left.Type()
	}
	if left.Type() != operand || right.Type() != operand ||
		operand == Object || operand == StackRef || operand == UnionStackRef {
		return nil, at.errorf("operator %q: %v and %v", j.Op, left.Type(), right.Type())
	}
	switch op {
	case TwoCompMod, SatCast, UsatCast:
		w, ok := right.(*Const)
		if !ok || !w.Value.IsInt64() || w.Value.Int64() < 1 || w.Value.Int64() > maxFieldBits {
			return nil, at.errorf("operator %q: the width must be a number from 1 to %d", j.Op, maxFieldBits)
		}
	case Eq, Ne:
		if operand == HeaderRef && HeaderTypeOf(left) != HeaderTypeOf(right) {
			return nil, at.errorf("operator %q: headers of different types", j.Op)
		}
		if operand == UnionRef && UnionTypeOf(left) != UnionTypeOf(right) {
			return nil, at.errorf("operator %q: unions of different types", j.Op)
		}
	}
	return &Binary{op, left, right}, nil
}

// access reads an operator that reaches into something. What is known when the
// program is loaded becomes a plain reference.
func (l *loader) access(at scope, op string, left, right json.RawMessage, ctx exprContext, depth int) (Expr, error) {
	if isNull(left) || isNull(right) {
		return nil, at.errorf("operator %q wants two sides", op)
	}
	x, err := l.expr(at, left, ctx, depth+1)
	if err != nil {
		return nil, err
	}
	wrong := func() error { return at.errorf("operator %q: a %v on the left", op, x.Type()) }
	switch op {
	case "dereference_header_stack", "dereference_stack", "dereference_union_stack":
		idx, err := l.expr(at, right, ctx, depth+1)
		if err != nil {
			return nil, err
		}
		if idx.Type() != Data {
			return nil, at.errorf("operator %q: a %v as index", op, idx.Type())
		}
		n := -1
		if k, ok := idx.(*Const); ok && k.Value.IsInt64() && k.Value.Sign() >= 0 && k.Value.Int64() < maxObjects {
			n = int(k.Value.Int64())
		}
		switch x := x.(type) {
		case *StackExpr:
			if n >= 0 && n < len(x.Stack.Headers) {
				return &HeaderExpr{x.Stack.Headers[n]}, nil
			}
			return &StackElem{x.Stack, idx}, nil
		case *UnionStackExpr:
			if n >= 0 && n < len(x.Stack.Unions) {
				return &UnionExpr{x.Stack.Unions[n]}, nil
			}
			return &UnionElem{x.Stack, idx}, nil
		}
		return nil, wrong()
	}
	var i int
	if err := at.decode(right, &i); err != nil {
		return nil, err
	}
	if op == "access_union_header" {
		if x.Type() != UnionRef {
			return nil, wrong()
		}
		if n := len(UnionTypeOf(x).Members); i < 0 || i >= n {
			return nil, at.errorf("operator %q: member %d of a union of %d", op, i, n)
		}
		if u, ok := x.(*UnionExpr); ok {
			return &HeaderExpr{u.Union.Headers[i]}, nil
		}
		return &UnionHeader{x, i}, nil
	}
	if x.Type() != HeaderRef {
		return nil, wrong()
	}
	t := HeaderTypeOf(x)
	if i < 0 || i > len(t.Fields) {
		return nil, at.errorf("operator %q: field %d of a header of %d", op, i, len(t.Fields))
	}
	if i == len(t.Fields) { // the hidden field comes last
		return member(x, t, -1), nil
	}
	return member(x, t, i), nil
}

func memberNamed(at scope, h Expr, t *HeaderType, name string) (Expr, error) {
	i := t.field(name)
	if i < 0 && name != validField {
		return nil, at.errorf("header type %q has no field %q", t.Name, name)
	}
	return member(h, t, i), nil
}

// member returns field i of a header; i is -1 for its validity.
func member(h Expr, t *HeaderType, i int) Expr {
	if x, ok := h.(*HeaderExpr); ok {
		if i < 0 {
			return &ValidExpr{x.Header}
		}
		return &FieldExpr{FieldRef{x.Header, i}}
	}
	if i < 0 {
		return &Unary{BoolToData, &Unary{Valid, h}}
	}
	return &MemberExpr{h, t, i}
}

// HeaderTypeOf returns the type of the header that an expression refers to, or nil.
func HeaderTypeOf(e Expr) *HeaderType {
	switch e := e.(type) {
	case *HeaderExpr:
		return e.Header.Type
	case *StackElem:
		return e.Stack.Type
	case *StackLast:
		return e.Stack.Type
	case *UnionHeader:
		return UnionTypeOf(e.Union).Members[e.Index].Type
	}
	return nil
}

// UnionTypeOf returns the type of the union that an expression refers to, or nil.
func UnionTypeOf(e Expr) *UnionType {
	switch e := e.(type) {
	case *UnionExpr:
		return e.Union.Type
	case *UnionElem:
		return e.Stack.Type
	case *UnionLast:
		return e.Stack.Type
	}
	return nil
}
