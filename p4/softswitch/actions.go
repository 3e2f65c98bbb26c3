// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"fmt"
	"slices"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// Actions are section 9.1.2 of P4Runtime 1.5.

// An actionSet is the actions of a table.
type actionSet struct {
	ids   map[uint32]*actionSchema
	names map[string]*actionSchema
}

type actionSchema struct {
	id     uint32
	name   string
	scope  p4config.ActionRef_Scope
	params []*paramSchema // in the order of the program
	// paramIDs finds a parameter in params.
	paramIDs map[uint32]int
}

type paramSchema struct {
	id    uint32
	name  string
	width int
}

func newActionSchema(info *p4config.P4Info, def *bmv2.Table, ref *p4config.ActionRef) (*actionSchema, error) {
	i := slices.IndexFunc(info.GetActions(), func(a *p4config.Action) bool { return a.GetPreamble().GetId() == ref.GetId() })
	if i < 0 || ref.GetId() == 0 {
		return nil, fmt.Errorf("there is none")
	}
	a := info.GetActions()[i]
	as := &actionSchema{id: ref.GetId(), name: a.GetPreamble().GetName(), scope: ref.GetScope(), paramIDs: map[uint32]int{}}
	ta := def.Action(as.name)
	if ta == nil {
		return nil, fmt.Errorf("%q is none of the program's for this table", as.name)
	}
	if len(a.GetParams()) != len(ta.Action.Params) {
		return nil, fmt.Errorf("%q has %d parameters, the program's has %d", as.name, len(a.GetParams()), len(ta.Action.Params))
	}
	for j, p := range a.GetParams() {
		d := ta.Action.Params[j]
		_, err := programWidth(int(p.GetBitwidth()), d.Width, p.GetTypeName(), info.GetTypeInfo())
		if p.GetName() != d.Name || err != nil {
			return nil, fmt.Errorf("%q: parameter %q of %d bits, the program has %q of %d",
				as.name, p.GetName(), p.GetBitwidth(), d.Name, d.Width)
		}
		if _, dup := as.paramIDs[p.GetId()]; dup || p.GetId() == 0 {
			return nil, fmt.Errorf("%q: id %d of parameter %q is not its own", as.name, p.GetId(), p.GetName())
		}
		as.paramIDs[p.GetId()] = j
		as.params = append(as.params, &paramSchema{p.GetId(), p.GetName(), d.Width})
	}
	return as, nil
}

// parse reads an action with its arguments, each of (width+7)/8 bytes.
func (s *actionSet) parse(x *p4v1.Action, isDefault bool) (name string, args [][]byte, err error) {
	a := s.ids[x.GetActionId()]
	if a == nil {
		return "", nil, errorf(codes.InvalidArgument, "action %#x is none of the table's", x.GetActionId())
	}
	if a.scope == p4config.ActionRef_TABLE_ONLY && isDefault || a.scope == p4config.ActionRef_DEFAULT_ONLY && !isDefault {
		return "", nil, errorf(codes.PermissionDenied, "action %q has the scope %v", a.name, a.scope)
	}
	args = make([][]byte, len(a.params))
	for _, param := range x.GetParams() {
		i, ok := a.paramIDs[param.GetParamId()]
		if !ok {
			return "", nil, errorf(codes.InvalidArgument, "action %q has no parameter %d", a.name, param.GetParamId())
		}
		if args[i] != nil {
			return "", nil, errorf(codes.InvalidArgument, "action %q: parameter %q is given twice", a.name, a.params[i].name)
		}
		v, err := parseBits(param.GetValue(), a.params[i].width)
		if err != nil {
			return "", nil, &placedError{fmt.Sprintf("action %q: parameter %q", a.name, a.params[i].name), err}
		}
		args[i] = v
	}
	for i := range args {
		if args[i] == nil {
			return "", nil, errorf(codes.InvalidArgument, "action %q: parameter %q is missing", a.name, a.params[i].name)
		}
	}
	return a.name, args, nil
}

// message makes the canonical message of an action; nil if the P4Info has none of that
// name.
func (s *actionSet) message(name string, args [][]byte) *p4v1.Action {
	a := s.names[name]
	if a == nil {
		return nil
	}
	out := &p4v1.Action{ActionId: a.id}
	for i, p := range a.params {
		out.Params = append(out.Params, &p4v1.Action_Param{ParamId: p.id, Value: canonical(args[i])})
	}
	return out
}
