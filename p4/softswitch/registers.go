// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"errors"
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// Registers are section 9.7 of P4Runtime 1.5.

type registerSchema struct {
	id uint32
	array
	typ *dataType
}

func newRegisterSchema(prog *bmv2.Program, info *p4config.P4Info, r *p4config.Register) (*registerSchema, error) {
	rs := &registerSchema{id: r.GetPreamble().GetId(), array: array{"register", r.GetPreamble().GetName(), int(r.GetSize())}}
	for _, d := range prog.Registers {
		if d.Name != rs.name {
			continue
		}
		if d.Size != rs.size {
			return nil, fmt.Errorf("size %d, the program has %d", rs.size, d.Size)
		}
		var err error
		if rs.typ, err = newDataType(r.GetTypeSpec(), info.GetTypeInfo()); err != nil {
			return nil, err
		}
		if got := rs.typ.widths(nil); len(got) != 1 || got[0] != 0 && got[0] != d.Width {
			return nil, fmt.Errorf("values of %v bits, the program has %d", got, d.Width)
		}
		rs.typ.resolve([]int{d.Width})
		return rs, nil
	}
	return nil, errors.New("the program has no such register")
}

// writeRegister is section 9.7.
func (p *pipeline) writeRegister(typ p4v1.Update_Type, e *p4v1.RegisterEntry) error {
	if err := onlyModify(typ, "register"); err != nil {
		return err
	}
	rs, err := p.schema.registers.get(e.GetRegisterId())
	if err != nil {
		return err
	}
	from, to, err := rs.span(e.GetIndex())
	if err != nil {
		return err
	}
	place := fmt.Sprintf("register %q", rs.name)
	if e.GetData() == nil {
		return &placedError{place, errorf(codes.InvalidArgument, "no data")}
	}
	r := p.sw.Engine().Register(rs.name)
	values, err := rs.typ.parse(e.GetData(), nil)
	if err != nil {
		return &placedError{place, err}
	}
	v := resize(values[0], (r.Def().Width+7)/8)
	for i := from; i < to; i++ {
		if err := r.Write(i, v); err != nil {
			return err
		}
	}
	return nil
}

// readRegisters is section 9.7.
func (p *pipeline) readRegisters(q *p4v1.RegisterEntry, out func(part)) error {
	list, err := p.schema.registers.some(q.GetRegisterId())
	if err != nil {
		return err
	}
	for _, rs := range list {
		index := q.GetIndex()
		if q.GetRegisterId() == 0 {
			index = nil
		}
		from, to, err := rs.span(index)
		if err != nil {
			return err
		}
		r := p.sw.Engine().Register(rs.name)
		values := make([][]byte, to-from)
		for i := range values {
			values[i] = r.Read(from + i)
		}
		out(part{len(values), func(i int) *p4v1.Entity {
			data, _ := rs.typ.message(values[i : i+1])
			return &p4v1.Entity{Entity: &p4v1.Entity_RegisterEntry{RegisterEntry: &p4v1.RegisterEntry{
				RegisterId: rs.id, Index: &p4v1.Index{Index: int64(from + i)}, Data: data}}}
		}})
	}
	return nil
}
