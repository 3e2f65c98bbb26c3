// SPDX-License-Identifier: Apache-2.0

// Package p4rt keeps one P4Runtime session and makes a switch have a desired
// state. It is the only room of the controller that knows P4Runtime messages;
// the others describe table entries and multicast groups by the names of the P4
// program.
package p4rt

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Value is a field or parameter in P4Runtime's canonical form: big endian, as
// short as possible, at least one byte (P4Runtime 1.5, section 8.4).
type Value string

// Uint returns a number as a Value.
func Uint[T ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uint](n T) Value {
	var b [8]byte
	for i := range b {
		b[7-i] = byte(uint64(n) >> (8 * i))
	}
	return canonical(b[:])
}

// Addr returns an IPv4 or IPv6 address as a Value.
func Addr(a netip.Addr) Value { return canonical(a.AsSlice()) }

// MAC returns an Ethernet address as a Value.
func MAC(m [6]byte) Value { return canonical(m[:]) }

func canonical(b []byte) Value {
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) == 0 {
		return "\x00"
	}
	return Value(b)
}

// Uint64 is the number that v stands for; ok is false when it is longer than 8
// bytes.
func (v Value) Uint64() (n uint64, ok bool) {
	if len(v) > 8 {
		return 0, false
	}
	for i := range len(v) {
		n = n<<8 | uint64(v[i])
	}
	return n, true
}

// pad returns v with leading zeros, n bytes long.
func (v Value) pad(n int) []byte {
	b := make([]byte, max(n, len(v)))
	copy(b[len(b)-len(v):], v)
	return b
}

// Arg is a named field of a key, or a named parameter of an action.
type Arg struct {
	Name  string
	Value Value
	// PrefixLen is the length of the prefix for a longest-prefix match, 0 else.
	PrefixLen int
}

// Exact is a field that is matched exactly; it also serves for parameters.
func Exact(name string, v Value) Arg { return Arg{Name: name, Value: v} }

// Prefix is a field that is matched by longest prefix.
func Prefix(name string, p netip.Prefix) Arg {
	return Arg{Name: name, Value: Addr(p.Masked().Addr()), PrefixLen: p.Bits()}
}

// Entry is one table entry, by the names (P4Info aliases) of the program.
type Entry struct {
	Table  string
	Key    []Arg
	Action string
	Params []Arg
}

// Find returns the value of a field of the key, or of a parameter.
func (e Entry) Find(name string) (Value, bool) {
	for _, list := range [][]Arg{e.Key, e.Params} {
		for _, a := range list {
			if a.Name == name {
				return a.Value, true
			}
		}
	}
	return "", false
}

// id identifies an entry within its switch.
func (e Entry) id() string {
	args := slices.SortedFunc(slices.Values(e.Key), func(a, b Arg) int { return cmp.Compare(a.Name, b.Name) })
	var b strings.Builder
	b.WriteString(e.Table)
	for _, a := range args {
		fmt.Fprintf(&b, "|%s=%d/%x", a.Name, a.PrefixLen, string(a.Value))
	}
	return b.String()
}

func (e Entry) same(o Entry) bool {
	if e.Action != o.Action || len(e.Params) != len(o.Params) {
		return false
	}
	for _, a := range e.Params {
		if v, ok := o.param(a.Name); !ok || v != a.Value {
			return false
		}
	}
	return true
}

func (e Entry) param(name string) (Value, bool) {
	for _, a := range e.Params {
		if a.Name == name {
			return a.Value, true
		}
	}
	return "", false
}

func (e Entry) String() string {
	return e.keyString() + " " + e.Action + argsString(e.Params, "(", ")")
}

func (e Entry) keyString() string { return e.Table + argsString(e.Key, "[", "]") }

func argsString(args []Arg, open, end string) string {
	parts := make([]string, len(args))
	for i, a := range args {
		parts[i] = a.Name + "=" + a.text()
	}
	return open + strings.Join(parts, ", ") + end
}

// text prints a value by what its name says that it is.
func (a Arg) text() string {
	var s string
	switch n, ok := a.Value.Uint64(); {
	case strings.HasSuffix(a.Name, "mac") && len(a.Value) <= 6:
		s = net.HardwareAddr(a.Value.pad(6)).String()
	case (strings.HasSuffix(a.Name, "addr") || strings.HasSuffix(a.Name, "_ip")) && len(a.Value) <= 4:
		addr, _ := netip.AddrFromSlice(a.Value.pad(4))
		s = addr.String()
	case len(a.Value) > 8 && len(a.Value) <= 16:
		addr, _ := netip.AddrFromSlice(a.Value.pad(16))
		s = addr.String()
	case ok:
		s = strconv.FormatUint(n, 10)
	default:
		s = fmt.Sprintf("0x%x", string(a.Value))
	}
	if a.PrefixLen > 0 {
		s += "/" + strconv.Itoa(a.PrefixLen)
	}
	return s
}

// Replica is one copy of a packet that a group makes.
type Replica struct {
	Port     uint32
	Instance uint32
}

// Group is a multicast group.
type Group struct {
	ID       uint32
	Replicas []Replica
}

func (g Group) sorted() []Replica {
	return slices.SortedFunc(slices.Values(g.Replicas), func(a, b Replica) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Port, b.Port))
	})
}

func (g Group) same(o Group) bool { return slices.Equal(g.sorted(), o.sorted()) }

func (g Group) String() string {
	parts := make([]string, len(g.Replicas))
	for i, r := range g.sorted() {
		parts[i] = fmt.Sprintf("%d@%d", r.Instance, r.Port)
	}
	return fmt.Sprintf("group[%d] (%s)", g.ID, strings.Join(parts, ", "))
}

// State is everything that a switch has, or shall have.
type State struct {
	Entries []Entry
	Groups  []Group
}

// String prints one line for each entry and group, sorted.
func (s State) String() string {
	var lines []string
	for _, g := range s.Groups {
		lines = append(lines, g.String())
	}
	for _, e := range s.Entries {
		lines = append(lines, e.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Op is what an update does.
type Op uint8

// The operations.
const (
	Insert Op = iota + 1
	Modify
	Delete
)

func (o Op) String() string {
	switch o {
	case Insert:
		return "insert"
	case Modify:
		return "modify"
	case Delete:
		return "delete"
	}
	return "no operation"
}

// Update changes one entry or one group.
type Update struct {
	Op    Op
	Entry *Entry
	Group *Group
}

func (u Update) String() string {
	switch {
	case u.Entry != nil && u.Op == Delete:
		return u.Op.String() + " " + u.Entry.keyString()
	case u.Entry != nil:
		return u.Op.String() + " " + u.Entry.String()
	case u.Group != nil:
		return u.Op.String() + " " + u.Group.String()
	}
	return u.Op.String()
}

// Diff returns the updates that lead from have to want, fewest and in an order
// in which nothing refers to what is not there yet: groups, then entries, then
// what is no longer wanted.
func Diff(have, want State) []Update {
	var updates, last []Update

	groups := map[uint32]Group{}
	for _, g := range have.Groups {
		groups[g.ID] = g
	}
	for _, g := range want.Groups {
		old, ok := groups[g.ID]
		switch {
		case !ok:
			updates = append(updates, Update{Op: Insert, Group: &g})
		case !old.same(g):
			updates = append(updates, Update{Op: Modify, Group: &g})
		}
		delete(groups, g.ID)
	}

	entries := map[string]Entry{}
	for _, e := range have.Entries {
		entries[e.id()] = e
	}
	for _, e := range want.Entries {
		id := e.id()
		old, ok := entries[id]
		switch {
		case !ok:
			updates = append(updates, Update{Op: Insert, Entry: &e})
		case !old.same(e):
			updates = append(updates, Update{Op: Modify, Entry: &e})
		}
		delete(entries, id)
	}

	for _, id := range slices.Sorted(maps.Keys(entries)) {
		e := entries[id]
		last = append(last, Update{Op: Delete, Entry: &e})
	}
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		g := groups[id]
		last = append(last, Update{Op: Delete, Group: &g})
	}
	return append(updates, last...)
}
