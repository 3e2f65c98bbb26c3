// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// Change is one difference between two configurations.
type Change struct {
	Op ChangeOp
	// Path says what changes: "service web", "service web upstream", "heartbeat missed".
	Path string
	// Old and New are as a person would write them; one is empty for what is added
	// or removed.
	Old, New string
	// Restart says that a running controller cannot make the change.
	Restart bool
}

// ChangeOp is what happens.
type ChangeOp string

// What can happen.
const (
	Add    ChangeOp = "+"
	Remove ChangeOp = "-"
	Modify ChangeOp = "~"
)

// String is a line of a plan.
func (c Change) String() string {
	line := string(c.Op) + " " + c.Path
	switch c.Op {
	case Add:
		line += ": " + c.New
	case Remove:
		line += ": " + c.Old
	default:
		line += ": " + c.Old + " -> " + c.New
	}
	if c.Restart {
		line += "   (needs a restart of the controller)"
	}
	return line
}

// Version identifies what a configuration says: equal ones have equal versions,
// however they are written. It does not depend on numbers.
func (c *Config) Version() string {
	h := sha256.New()
	for _, l := range leaves("", reflect.ValueOf(*c), true) {
		fmt.Fprintf(h, "%s\x00%s\n", l.path, l.text)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Diff returns what has to change to get from one configuration to the other, in
// the order of the sections: what is removed before what is added. Lists are
// compared by name, not by place.
//
// Fields of Config with the tag apply:"restart" cannot be changed while a
// controller runs; those with diff:"-" follow from others. Lists of structs are
// known by their field Name, or else by their first one; a field with diff:"secret"
// is not shown.
func Diff(from, to *Config) []Change {
	return diffFields("", reflect.ValueOf(*from), reflect.ValueOf(*to))
}

// leaf is a value at a path.
type leaf struct{ path, text string }

// isText says whether a type is compared by its text, whatever it is made of.
func isText(t reflect.Type) bool { return t.Implements(reflect.TypeFor[fmt.Stringer]()) }

// isTable says whether a type is a list of things that have names.
func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && t.Elem().NumField() > 0 && t.Elem().Field(0).IsExported()
}

const secret = "(secret)"

// leaves is a value as text, part by part; secrets are shown only to hash them.
func leaves(path string, v reflect.Value, secrets bool) []leaf {
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return leaves(path, v.Elem(), secrets)
	case isText(t):
	case t.Kind() == reflect.Struct:
		return fieldLeaves(path, v, secrets)
	case isTable(t):
		var list []leaf
		for _, e := range sortedElements(v) {
			list = append(list, fieldLeaves(join(path, name(e)), e, secrets)...)
		}
		return list
	}
	return []leaf{{path, text(v)}}
}

func fieldLeaves(path string, v reflect.Value, secrets bool) []leaf {
	var list []leaf
	for i := range v.NumField() {
		f := v.Type().Field(i)
		switch at := join(path, key(f)); {
		case f.Tag.Get("diff") == "-":
		case f.Tag.Get("diff") == "secret" && !secrets:
			if !v.Field(i).IsZero() {
				list = append(list, leaf{at, secret})
			}
		default:
			list = append(list, leaves(at, v.Field(i), secrets)...)
		}
	}
	return list
}

func diffValue(path string, a, b reflect.Value) []Change {
	t := a.Type()
	switch {
	case t.Kind() == reflect.Pointer:
		switch {
		case a.IsNil() && b.IsNil():
			return nil
		case a.IsNil():
			return []Change{{Op: Add, Path: path, New: describeValue(b.Elem())}}
		case b.IsNil():
			return []Change{{Op: Remove, Path: path, Old: describeValue(a.Elem())}}
		}
		return diffValue(path, a.Elem(), b.Elem())
	case isText(t):
	case t.Kind() == reflect.Struct:
		return diffFields(path, a, b)
	case isTable(t):
		return diffTable(singular(path), a, b)
	}
	if x, y := text(a), text(b); x != y {
		return []Change{{Op: Modify, Path: path, Old: orNothing(x), New: orNothing(y)}}
	}
	return nil
}

func diffFields(path string, a, b reflect.Value) []Change {
	var list []Change
	for i := range a.NumField() {
		f := a.Type().Field(i)
		at := join(path, key(f))
		var more []Change
		switch f.Tag.Get("diff") {
		case "-":
		case "secret":
			if text(a.Field(i)) != text(b.Field(i)) {
				more = []Change{{Op: Modify, Path: at, Old: secret, New: secret}}
			}
		default:
			more = diffValue(at, a.Field(i), b.Field(i))
		}
		for _, c := range more {
			c.Restart = c.Restart || f.Tag.Get("apply") == "restart"
			list = append(list, c)
		}
	}
	return list
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// diffTable compares lists of structs by the names of their elements.
func diffTable(path string, a, b reflect.Value) []Change {
	var list []Change
	have := map[string]reflect.Value{}
	for i := range a.Len() {
		have[name(a.Index(i))] = a.Index(i)
	}
	want := map[string]bool{}
	for i := range b.Len() {
		want[name(b.Index(i))] = true
	}
	for i := range a.Len() {
		if e := a.Index(i); !want[name(e)] {
			list = append(list, Change{Op: Remove, Path: join(path, name(e)), Old: describeValue(e)})
		}
	}
	for i := range b.Len() {
		e := b.Index(i)
		at := join(path, name(e))
		if old, ok := have[name(e)]; ok {
			list = append(list, diffFields(at, old, e)...)
		} else {
			list = append(list, Change{Op: Add, Path: at, New: describeValue(e)})
		}
	}
	return list
}

func sortedElements(v reflect.Value) []reflect.Value {
	list := make([]reflect.Value, v.Len())
	for i := range list {
		list[i] = v.Index(i)
	}
	slices.SortStableFunc(list, func(a, b reflect.Value) int { return strings.Compare(name(a), name(b)) })
	return list
}

// name is what an element of a list is known by: its field Name, or else its first.
func name(v reflect.Value) string {
	if f := v.FieldByName("Name"); f.IsValid() {
		return text(f)
	}
	return text(v.Field(0))
}

// describeValue is a value in one line, without the name of an element of a list.
func describeValue(v reflect.Value) string {
	var list []leaf
	known := ""
	if v.Kind() == reflect.Struct && (!isText(v.Type()) || v.Type().Field(0).IsExported()) {
		list, known = fieldLeaves("", v, false), name(v)
	} else {
		list = leaves("", v, false)
	}
	var parts []string
	for i, l := range list {
		if l.text == "" || l.text == known && (l.path == "name" || i == 0) {
			continue
		}
		parts = append(parts, join(l.path, l.text))
	}
	return strings.Join(parts, ", ")
}

// text is a value as a person would write it, "" for what was not given.
func text(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Invalid:
		return ""
	case reflect.Pointer:
		return text(v.Elem())
	case reflect.Slice:
		if v.Len() == 0 {
			return ""
		}
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = text(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Struct, reflect.String:
		if v.IsZero() {
			return ""
		}
	}
	return fmt.Sprint(v.Interface())
}

func join(path, more string) string { return strings.TrimSpace(path + " " + more) }

// key is a field's name as the file has it: DeviceID is device_id.
func key(f reflect.StructField) string {
	if k := f.Tag.Get("yaml"); k != "" {
		return k
	}
	var b strings.Builder
	runes := []rune(f.Name)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 && (unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// singular is one of a list: "services" is "service", in the last word of a path.
func singular(path string) string {
	if stem, ok := strings.CutSuffix(path, "ches"); ok {
		return stem + "ch"
	}
	return strings.TrimSuffix(path, "s")
}
