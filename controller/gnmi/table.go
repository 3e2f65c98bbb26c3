// SPDX-License-Identifier: Apache-2.0

package gnmi

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"

	pb "github.com/openconfig/gnmi/proto/gnmi"
)

// A Port is a port of a switch, as the switch describes it.
type Port struct {
	// Number is what P4Runtime calls it.
	Number uint32
	// Interface is what OpenConfig calls it.
	Interface string
	// Oper is its oper-status (openconfig-interfaces), such as "UP" or "DOWN"; empty
	// if it is not known, or no more.
	Oper string
}

// Down says that nothing gets through the port. A status that says nothing, UNKNOWN
// among them, is no word against it.
func (p Port) Down() bool {
	switch p.Oper {
	case "DOWN", "LOWER_LAYER_DOWN", "NOT_PRESENT", "TESTING", "DORMANT": // ifOperStatus, RFC 2863
		return true
	}
	return false
}

func (p Port) String() string {
	return fmt.Sprintf("port %d, %s: %s", p.Number, p.Interface, cmp.Or(p.Oper, "not known"))
}

// maxInterfaces bounds what is kept of one switch.
const maxInterfaces = 16384

var errInterfaces = fmt.Errorf("more than %d interfaces", maxInterfaces)

// table is what a switch has said of its interfaces, by name. The zero table is
// empty.
type table struct {
	interfaces map[string]*iface
	// strange: there is a status of an interface whose number is to be asked for.
	strange bool
}

type iface struct {
	number uint32
	// asked: the switch was asked for the number; it may have none.
	asked, numbered bool
	oper            string
	told            string // the status that was told, of a numbered one
}

// get returns an interface, a new one if there is none of that name.
func (t *table) get(name string) (*iface, error) {
	if i := t.interfaces[name]; i != nil {
		return i, nil
	}
	if len(t.interfaces) >= maxInterfaces {
		return nil, errInterfaces
	}
	if t.interfaces == nil {
		t.interfaces = map[string]*iface{}
	}
	i := &iface{}
	t.interfaces[name] = i
	return i, nil
}

// numbers takes what the switch was asked for: an interface that is not among them
// has no number. It returns the ports that can be told now.
func (t *table) numbers(n map[string]uint32) ([]Port, error) {
	for name, number := range n {
		i, err := t.get(name)
		if err != nil {
			return nil, err
		}
		i.number, i.numbered = number, true
	}
	for _, i := range t.interfaces {
		i.asked = true
	}
	t.strange = false
	return t.changes(maps.Keys(t.interfaces)), nil
}

// apply takes a notification of states, and returns the ports that have changed by
// it.
func (t *table) apply(n *pb.Notification) ([]Port, error) {
	var touched []string
	for _, p := range n.GetDelete() {
		// Values that are taken back say nothing of a link.
		path := join(n.GetPrefix(), p)
		for name, i := range t.interfaces {
			if covers(path, name, leafOper) {
				i.oper = ""
				touched = append(touched, name)
			}
		}
	}
	for _, u := range n.GetUpdate() {
		name, ok := interfaceOf(join(n.GetPrefix(), u.GetPath()), leafOper)
		if !ok {
			continue
		}
		oper, err := text(u.GetVal())
		if err != nil {
			return nil, fmt.Errorf("oper-status of %s: %w", name, err)
		}
		i, err := t.get(name)
		if err != nil {
			return nil, err
		}
		i.oper = oper
		t.strange = t.strange || !i.asked
		touched = append(touched, name)
	}
	return t.changes(slices.Values(touched)), nil
}

// changes returns which of these interfaces are not as it was told, in the order of
// the ports' numbers.
func (t *table) changes(names iter.Seq[string]) []Port {
	var list []Port
	for name := range names {
		i := t.interfaces[name]
		if i.numbered && i.oper != i.told {
			i.told = i.oper
			list = append(list, Port{Number: i.number, Interface: name, Oper: i.oper})
		}
	}
	slices.SortFunc(list, func(a, b Port) int { return cmp.Compare(a.Number, b.Number) })
	return list
}

// lost forgets everything, and returns the ports of which nothing is known any more.
func (t *table) lost() []Port {
	for _, i := range t.interfaces {
		i.oper = ""
	}
	list := t.changes(maps.Keys(t.interfaces))
	*t = table{}
	return list
}

// Leaves below /interfaces/interface/state.
const (
	leafOper    = "oper-status"
	leafID      = "id"      // openconfig-p4rt: the number that P4Runtime has for it
	leafIfindex = "ifindex" // likewise with Stratum, which has no id
)

// leafPath is the path of a leaf of every interface.
func leafPath(leaf string) *pb.Path {
	return &pb.Path{Elem: []*pb.PathElem{
		{Name: "interfaces"}, {Name: "interface", Key: map[string]string{"name": "*"}}, {Name: "state"}, {Name: leaf},
	}}
}

func join(prefix, path *pb.Path) []*pb.PathElem {
	return slices.Concat(prefix.GetElem(), path.GetElem())
}

// interfaceOf returns the interface that a path is a certain leaf of.
func interfaceOf(path []*pb.PathElem, leaf string) (string, bool) {
	if len(path) != 4 || path[0].GetName() != "interfaces" || path[1].GetName() != "interface" ||
		path[2].GetName() != "state" || path[3].GetName() != leaf {
		return "", false
	}
	name, ok := path[1].GetKey()["name"]
	return name, ok && name != ""
}

// covers says that the leaf of an interface lies at or below a path, which may leave
// the interface's name open.
func covers(path []*pb.PathElem, name, leaf string) bool {
	for i, want := range []string{"interfaces", "interface", "state", leaf} {
		if i == len(path) {
			return true
		}
		if got := path[i].GetName(); got != want && got != "*" {
			return false
		}
		if k := path[i].GetKey()["name"]; k != "" && k != "*" && k != name {
			return false
		}
	}
	return len(path) == 4
}

var errValue = errors.New("a value of a kind that it cannot have")

// text reads an enumeration, in any encoding.
func text(v *pb.TypedValue) (string, error) {
	switch v := v.GetValue().(type) {
	case *pb.TypedValue_StringVal:
		return v.StringVal, nil
	case *pb.TypedValue_AsciiVal:
		return v.AsciiVal, nil
	case *pb.TypedValue_JsonVal:
		return fromJSON(v.JsonVal)
	case *pb.TypedValue_JsonIetfVal:
		return fromJSON(v.JsonIetfVal)
	}
	return "", errValue
}

// number reads a port's number, in any encoding: RFC 7951 has those of 64 bits as
// strings.
func number(v *pb.TypedValue) (uint32, error) {
	var n uint64
	switch v := v.GetValue().(type) {
	case *pb.TypedValue_UintVal:
		n = v.UintVal
	case *pb.TypedValue_IntVal:
		n = uint64(v.IntVal)
	case *pb.TypedValue_JsonVal, *pb.TypedValue_JsonIetfVal, *pb.TypedValue_StringVal:
		s, err := text(&pb.TypedValue{Value: v})
		if err == nil {
			n, err = strconv.ParseUint(s, 10, 32)
		}
		if err != nil {
			return 0, errValue
		}
	default:
		return 0, errValue
	}
	if n > math.MaxUint32 {
		return 0, errValue
	}
	return uint32(n), nil
}

// fromJSON returns a scalar as it is written, without quotes.
func fromJSON(b []byte) (string, error) {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		return s, nil
	}
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil {
		return "", errValue
	}
	return n.String(), nil
}
