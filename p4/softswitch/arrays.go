// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
)

// An array is an indexed object: a counter, a meter or a register.
type array struct {
	kind string // such as "counter"
	name string
	size int
}

// span returns the cells that an index names: from, and up to but not to. No index
// names all of them (P4Runtime 1.5, sections 9.3.2, 9.4.2 and 9.7).
func (a *array) span(x *p4v1.Index) (from, to int, err error) {
	if x == nil {
		return 0, a.size, nil
	}
	i := x.GetIndex()
	switch {
	case i < 0:
		return 0, 0, errorf(codes.InvalidArgument, "%s %q: index %d", a.kind, a.name, i)
	case i >= int64(a.size):
		return 0, 0, errorf(codes.OutOfRange, "%s %q: index %d, the last one is %d", a.kind, a.name, i, a.size-1)
	}
	return int(i), int(i) + 1, nil
}

// onlyModify refuses what may neither be inserted nor deleted.
func onlyModify(typ p4v1.Update_Type, kind string) error {
	if typ != p4v1.Update_MODIFY {
		return errorf(codes.InvalidArgument, "a %s can only be modified", kind)
	}
	return nil
}
