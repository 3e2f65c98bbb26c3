// SPDX-License-Identifier: Apache-2.0

package bmv2

import (
	"encoding/json"
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
	case "register_array", "counter_array", "calculation", "string", "parameters_vector":
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
		if string(v.Value) != "{}" { // p4c writes this for no elements
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
	if left.Type() != operand || right.Type() != operand || operand == Object {
		return nil, at.errorf("operator %q: %v and %v", j.Op, left.Type(), right.Type())
	}
	switch op {
	case TwoCompMod, SatCast, UsatCast:
		w, ok := right.(*Const)
		if !ok || !w.Value.IsInt64() || w.Value.Int64() < 1 || w.Value.Int64() > maxFieldBits {
			return nil, at.errorf("operator %q: the width must be a number from 1 to %d", j.Op, maxFieldBits)
		}
	case Eq, Ne:
		if lh, ok := left.(*HeaderExpr); ok && lh.Header.Type != right.(*HeaderExpr).Header.Type {
			return nil, at.errorf("operator %q: headers of different types", j.Op)
		}
	}
	return &Binary{op, left, right}, nil
}
