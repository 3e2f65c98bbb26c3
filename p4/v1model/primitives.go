// SPDX-License-Identifier: Apache-2.0

package v1model

import (
	"errors"
	"fmt"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
)

// What primitives leave in a packet's dataplane.ArchRegisters for the end of the
// pipeline. Each but archList is 0 if nothing was asked for, and of several calls the
// last one counts.
const (
	archClone  = iota // session, with cloneSet
	archList          // field list of the clone
	archDigest        // learn list, plus 1
	archAgain         // field list of resubmit or recirculate, plus 1
)

// cloneSet tells a clone to session 0 from none (RegisterAccess of simple_switch).
const cloneSet = 1 << 15

func sessionOf(x uint64) uint32 { return uint32(x &^ cloneSet) }

// primitives are those of simple_switch that touch the architecture.
func (s *Switch) primitives(p *bmv2.Program) map[string]dataplane.Primitive {
	return map[string]dataplane.Primitive{
		"mark_to_drop":                s.markToDrop,
		"drop":                        s.drop,
		"truncate":                    truncate,
		"clone_ingress_pkt_to_egress": clone(p),
		"clone_egress_pkt_to_egress":  clone(p),
		"resubmit":                    again(p),
		"recirculate":                 again(p),
		"generate_digest":             digest(p),
	}
}

// listID compiles an argument that is the id of a list, which must be there if it is a
// constant.
func listID(b *dataplane.Builder, e bmv2.Expr, kind string, find func(int) *bmv2.FieldList) (func(*dataplane.Context) uint64, error) {
	if k, ok := e.(*bmv2.Const); ok && (!k.Value.IsInt64() || find(int(k.Value.Int64())) == nil) {
		return nil, fmt.Errorf("there is no %s with id %s", kind, k.Value)
	}
	id, err := b.Uint(e)
	if err != nil {
		return nil, err
	}
	return func(c *dataplane.Context) uint64 { return id(c) & 0xffff }, nil
}

func clone(p *bmv2.Program) dataplane.Primitive {
	return func(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
		if len(args) != 2 {
			return nil, fmt.Errorf("%d arguments, want 2", len(args))
		}
		session, err := b.Uint(args[0])
		if err != nil {
			return nil, err
		}
		list, err := listID(b, args[1], "field list", p.FieldList)
		if err != nil {
			return nil, err
		}
		return func(c *dataplane.Context) {
			c.Arch[archClone] = session(c)&0xffff | cloneSet
			c.Arch[archList] = list(c)
		}, nil
	}
}

func again(p *bmv2.Program) dataplane.Primitive {
	return func(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
		if len(args) != 1 {
			return nil, fmt.Errorf("%d arguments, want 1", len(args))
		}
		list, err := listID(b, args[0], "field list", p.FieldList)
		if err != nil {
			return nil, err
		}
		return func(c *dataplane.Context) { c.Arch[archAgain] = list(c) + 1 }, nil
	}
}

// digest ignores the receiver, as simple_switch does.
func digest(p *bmv2.Program) dataplane.Primitive {
	return func(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
		if len(args) != 2 {
			return nil, fmt.Errorf("%d arguments, want 2", len(args))
		}
		list, err := listID(b, args[1], "learn list", p.LearnList)
		if err != nil {
			return nil, err
		}
		return func(c *dataplane.Context) { c.Arch[archDigest] = list(c) + 1 }, nil
	}
}

func (s *Switch) markToDrop(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%d arguments, want 1", len(args))
	}
	spec, ok := b.FieldOf(args[0], "egress_spec")
	if !ok {
		return nil, errors.New("the argument is not standard_metadata")
	}
	group, _ := b.FieldOf(args[0], "mcast_grp")
	port := s.dropPort
	return func(c *dataplane.Context) {
		spec.Set(c, port)
		group.Set(c, 0)
	}, nil
}

func (s *Switch) drop(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
	if len(args) != 0 {
		return nil, fmt.Errorf("%d arguments, want none", len(args))
	}
	spec := b.Engine().Field("standard_metadata", "egress_spec")
	group := b.Engine().Field("intrinsic_metadata", "mcast_grp")
	port := s.dropPort
	return func(c *dataplane.Context) {
		spec.Set(c, port)
		group.Set(c, 0)
	}, nil
}

func truncate(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%d arguments, want 1", len(args))
	}
	length, err := b.Index(args[0])
	if err != nil {
		return nil, err
	}
	return func(c *dataplane.Context) {
		n := int(min(length(c), 1<<30))
		if c.Truncate < 0 || n < c.Truncate {
			c.Truncate = n
		}
	}, nil
}
