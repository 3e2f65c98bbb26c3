// SPDX-License-Identifier: Apache-2.0

package gnmiserver

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	pb "github.com/openconfig/gnmi/proto/gnmi"
)

// ParsePath reads a path in the form of the gNMI path conventions, such as
//
//	/interfaces/interface[name=eth0]/state/oper-status
//
// In the value of a key, "]" and "\" are written with a "\" in front; in a name,
// "/", "[" and "\" are.
func ParsePath(s string) (*pb.Path, error) {
	p := &pb.Path{}
	bad := func(what string) (*pb.Path, error) {
		return nil, fmt.Errorf("path %q: %s, want the form /name/name[key=value]/name", s, what)
	}
	rest := strings.TrimPrefix(s, "/")
	for rest != "" {
		name, n := unescape(rest, "/[")
		if name == "" {
			return bad("an element without a name")
		}
		e := &pb.PathElem{Name: name}
		rest = rest[n:]
		for strings.HasPrefix(rest, "[") {
			key, value, ok := strings.Cut(rest[1:], "=")
			if !ok || key == "" || strings.ContainsAny(key, "[]/") {
				return bad("a key without a name or a value")
			}
			value, n := unescape(value, "]")
			rest = rest[1+len(key)+1+n:]
			if !strings.HasPrefix(rest, "]") {
				return bad(`a key that no "]" ends`)
			}
			rest = rest[1:]
			if e.Key == nil {
				e.Key = map[string]string{}
			}
			if _, twice := e.Key[key]; twice {
				return bad("a key that is given twice")
			}
			e.Key[key] = value
		}
		p.Elem = append(p.Elem, e)
		if rest == "" {
			break
		}
		if rest[0] != '/' {
			return bad(`something behind "]"`)
		}
		rest = rest[1:]
	}
	return p, nil
}

// unescape reads up to one of the characters in end, which a "\" protects, and
// returns how many bytes it has read.
func unescape(s, end string) (string, int) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			out.WriteByte(s[i])
		case strings.IndexByte(end, c) >= 0:
			return out.String(), i
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), len(s)
}

var (
	escapeName  = strings.NewReplacer(`\`, `\\`, `/`, `\/`, `[`, `\[`)
	escapeValue = strings.NewReplacer(`\`, `\\`, `]`, `\]`)
)

// PathString is the inverse of ParsePath. Keys are in alphabetical order, so that
// equal paths have equal strings.
func PathString(p *pb.Path) string {
	if len(p.GetElem()) == 0 {
		return "/"
	}
	var b strings.Builder
	for _, e := range p.GetElem() {
		b.WriteByte('/')
		b.WriteString(escapeName.Replace(e.GetName()))
		for _, k := range slices.Sorted(maps.Keys(e.GetKey())) {
			fmt.Fprintf(&b, "[%s=%s]", k, escapeValue.Replace(e.GetKey()[k]))
		}
	}
	return b.String()
}

// matches tells whether path lies at or below what query names. In a query an
// element "*" stands for any one, "..." for any number of them; a key that is left
// out or has the value "*" stands for every value (gNMI path conventions, wildcards
// in paths).
func matches(query, path []*pb.PathElem) bool {
	for i, q := range query {
		if q.GetName() == "..." {
			for skip := range len(path) - i + 1 {
				if matches(query[i+1:], path[i+skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(path) {
			return false
		}
		p := path[i]
		if q.GetName() != "*" && q.GetName() != p.GetName() {
			return false
		}
		for k, v := range q.GetKey() {
			if have, ok := p.GetKey()[k]; !ok || v != "*" && v != have {
				return false
			}
		}
	}
	return true
}

// wild tells whether a query can name more than one node by a wildcard.
func wild(query []*pb.PathElem) bool {
	return slices.ContainsFunc(query, func(e *pb.PathElem) bool {
		if e.GetName() == "*" || e.GetName() == "..." {
			return true
		}
		for _, v := range e.GetKey() {
			if v == "*" {
				return true
			}
		}
		return false
	})
}
