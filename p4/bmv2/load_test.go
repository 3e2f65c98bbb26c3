// SPDX-License-Identifier: Apache-2.0

package bmv2_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/v1model"
)

func small(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/small.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLoad(t *testing.T) {
	p, err := bmv2.Load(small(t))
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "small.p4" || p.Version != [2]int{2, 23} {
		t.Errorf("name %q, version %v", p.Name, p.Version)
	}
	start := p.Parser("parser").Start
	if len(start.Ops) != 3 || start.KeyBytes != 2 || len(start.Transitions) != 2 || start.Default.Name != "opt" {
		t.Errorf("state start: %d ops, key of %d bytes, %d transitions", len(start.Ops), start.KeyBytes, len(start.Transitions))
	}
	if diff := cmp.Diff([]byte{0xff, 0x0f}, start.Transitions[1].Mask); diff != "" {
		t.Errorf("mask, -want +got:\n%s", diff)
	}
	if f := p.Header("opt").Type.Fields[0]; !f.Varbit || f.Width != 64 {
		t.Errorf("varbit field %+v, want 64 bits", f)
	}
	ref, ok := p.Field("intrinsic_metadata", "mcast_grp")
	if !ok || ref.String() != "standard_metadata.mcast_grp" {
		t.Errorf("alias: %v, %v", ref, ok)
	}
	ingress := p.Pipeline("ingress")
	cond := ingress.Start.(*bmv2.Conditional)
	k := cond.True.(*bmv2.Table)
	if !k.HitMiss || k.NextHit != nil || k.NextMiss != bmv2.Node(ingress.Tables[0]) || !k.ConstEntries {
		t.Errorf("table k: %+v", k)
	}
	if diff := cmp.Diff([]bmv2.Match{{Value: []byte{0x12, 0}, PrefixLen: 8}}, k.Entries[0].Match); diff != "" {
		t.Errorf("entry, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([][]byte{{0, 5}}, k.Entries[0].Call.Args); diff != "" {
		t.Errorf("arguments, -want +got:\n%s", diff)
	}
	if src := p.Actions[1].Primitives[0].Source; src != "small.p4:7: mark_to_drop(std)" {
		t.Errorf("source %q", src)
	}
}

// edit changes one thing in the program: path leads to it, value replaces it;
// remove takes it out.
func edit(t *testing.T, data []byte, value any, path ...any) []byte {
	t.Helper()
	var root any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	at := root
	for _, p := range path[:len(path)-1] {
		switch p := p.(type) {
		case string:
			at = at.(map[string]any)[p]
		case int:
			at = at.([]any)[p]
		}
	}
	switch p := path[len(path)-1].(type) {
	case string:
		if value == (remove{}) {
			delete(at.(map[string]any), p)
		} else {
			at.(map[string]any)[p] = value
		}
	case int:
		at.([]any)[p] = value
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type remove struct{}

type obj = map[string]any

// TestLoadRefuses names what is wrong, and where.
func TestLoadRefuses(t *testing.T) {
	good := small(t)
	table := func(i int, rest ...any) []any { return append([]any{"pipelines", 0, "tables", i}, rest...) }
	named := []any{obj{"name": "bad"}}
	for _, tc := range []struct {
		name        string
		value       any
		path        []any
		want        string
		unsupported bool
	}{
		{"member", 1, []any{"surprise"}, `not a bmv2 JSON program: json: unknown field "surprise"`, false},
		{"no version", remove{}, []any{"__meta__"}, `"__meta__" has no version`, false},
		{"version", []any{3, 0}, []any{"__meta__", "version"}, `format version 3.0 (newest known is 2.24) not supported`, true},
		{"minor version", []any{2, 99}, []any{"__meta__", "version"}, `format version 2.99 (newest known is 2.24) not supported`, true},
		{"stack", named, []any{"header_stacks"}, `header stack "bad": no header type ""`, false},
		{"union", named, []any{"header_unions"}, `header union "bad": no header union type ""`, false},
		{"value set", named, []any{"parse_vsets"}, `parser value set "bad": compressed_bitwidth 0`, false},
		{"meter", named, []any{"meter_arrays"}, `meter "bad": type "" not supported`, true},
		{"meter rates", []any{obj{"name": "bad", "type": "bytes", "rate_count": 3}}, []any{"meter_arrays"}, `meter "bad": rate_count 3`, true},
		{"direct meter", []any{obj{"name": "bad", "type": "bytes", "rate_count": 2, "is_direct": true, "binding": "t", "result_target": []any{"head", "x"}}},
			[]any{"meter_arrays"}, `meter "bad": bound to table "t", which does not name it`, false},
		{"digest", []any{obj{"name": "bad", "elements": []any{obj{"type": "header", "value": "head"}}}}, []any{"learn_lists"}, `learn list "bad": element 0: type "header" not supported`, true},
		{"stack of two types", []any{obj{"name": "bad", "header_type": "head_t", "header_ids": []any{2, 3}}}, []any{"header_stacks"},
			`header stack "bad": header "opt" is of type "opt_t", not "head_t"`, false},
		{"header twice in a stack", []any{obj{"name": "bad", "header_type": "head_t", "header_ids": []any{2, 2}}}, []any{"header_stacks"},
			`header stack "bad": header "head" stands twice`, false},
		{"extern", named, []any{"extern_instances"}, `extern "bad" not supported`, true},

		{"field width", []any{"len", 0, false}, []any{"header_types", 2, "fields", 0}, `header type "head_t": field "len": width 0, want 1 to 16384`, false},
		{"odd header", []any{"len", 9, false}, []any{"header_types", 2, "fields", 0}, `header type "head_t": 33 bits wide, which is no whole number of bytes`, false},
		{"saturating", []any{"len", 8, false, true}, []any{"header_types", 2, "fields", 0}, `field "len": a saturating field not supported`, true},
		{"varbit without maximum", remove{}, []any{"header_types", 3, "max_length"}, `header type "opt_t": a varbit field needs max_length`, false},
		{"same field twice", []any{"x", 8, false}, []any{"header_types", 2, "fields", 0}, `header type "head_t": field "x": second field of that name`, false},
		{"header type", "nope", []any{"headers", 2, "header_type"}, `header "head": no header type "nope"`, false},
		{"header twice", "head", []any{"headers", 3, "name"}, `header "head": second header head`, false},

		{"start state", "nope", []any{"parsers", 0, "init_state"}, `parser "parser": no state "nope"`, false},
		{"next state", "nope", []any{"parsers", 0, "parse_states", 0, "transitions", 2, "next_state"}, `state "start": transition 2: no state "nope"`, false},
		{"value too wide", "0x010000", []any{"parsers", 0, "parse_states", 0, "transitions", 0, "value"}, `transition 0: 65536 does not fit into 2 bytes`, false},
		{"value set transition", "parse_vset", []any{"parsers", 0, "parse_states", 0, "transitions", 0, "type"}, `transition 0: no parser value set "0x0000"`, false},
		{"parser operation", "jump", []any{"parsers", 0, "parse_states", 0, "parser_ops", 0, "op"}, `state "start": op 0: operation "jump": parser operation not supported`, true},
		{"extract to a stack", "stack", []any{"parsers", 0, "parse_states", 0, "parser_ops", 0, "parameters", 0, "type"}, `operation "extract": no header stack "head"`, false},
		{"extract varbit", "opt", []any{"parsers", 0, "parse_states", 0, "parser_ops", 0, "parameters", 0, "value"}, `a header of type "opt_t" has a varbit field, which needs extract_VL`, false},
		{"extract_VL of a fixed header", "head", []any{"parsers", 0, "parse_states", 2, "parser_ops", 0, "parameters", 0, "value"}, `a header of type "head_t" has no varbit field`, false},
		{"verify a number", obj{"type": "hexstr", "value": "0x1"}, []any{"parsers", 0, "parse_states", 0, "parser_ops", 2, "parameters", 0}, `want a bool expression, have a data one`, false},
		{"lookahead in a control", obj{"type": "expression", "value": obj{"op": "==", "left": obj{"type": "lookahead", "value": []any{0, 8}}, "right": obj{"type": "hexstr", "value": "0x1"}}},
			[]any{"pipelines", 0, "conditionals", 0, "expression"}, `condition "cond": lookahead outside a parser`, false},

		{"deparsed metadata", []any{"scalars"}, []any{"deparsers", 0, "order"}, `deparser "deparser": "scalars" is metadata`, false},
		{"counter size", 0, []any{"counter_arrays", 0, "size"}, `counter "c": size 0, want 1 to 16777216`, false},
		{"direct counter", "nope", []any{"counter_arrays", 1, "binding"}, `counter "d": bound to table "nope", which does not exist`, false},
		{"direct counter without counting", false, table(0, "with_counters"), `counter "d": bound to table "t", which has no counters`, false},
		{"payload first", obj{"type": "payload", "value": nil}, []any{"calculations", 0, "input", 0}, `calculation "calc": input 0: the payload must come last`, false},
		{"constant without width", obj{"type": "hexstr", "value": "0x1"}, []any{"calculations", 0, "input", 0}, `a constant needs a bitwidth`, false},
		{"checksum", "nope", []any{"checksums", 0, "calculation"}, `checksum "ck": no calculation "nope"`, false},
		{"checksum type", "ipv4", []any{"checksums", 0, "type"}, `checksum "ck": type "ipv4" not supported`, true},

		{"parameter", obj{"type": "runtime_data", "value": 1}, []any{"actions", 0, "primitives", 0, "parameters", 1}, `action "fwd": primitive 0: op "assign": argument 1: parameter 1 of action "fwd", which has 1`, false},
		{"field", obj{"type": "field", "value": []any{"head", "nope"}}, []any{"actions", 0, "primitives", 0, "parameters", 1}, `header "head" has no field "nope"`, false},
		{"operator", "**", []any{"actions", 0, "primitives", 1, "parameters", 1, "value", "op"}, `argument 1: operator "**" not supported`, true},
		{"operand", "and", []any{"actions", 0, "primitives", 1, "parameters", 1, "value", "op"}, `operator "and": data and data`, false},
		{"value type", obj{"type": "stack_field", "value": []any{"h", "f"}}, []any{"actions", 0, "primitives", 0, "parameters", 1}, `no header stack "h"`, false},
		{"extern", obj{"type": "extern", "value": "x"}, []any{"actions", 0, "primitives", 0, "parameters", 1}, `value of type "extern" not supported`, true},
		{"counter", "nope", []any{"actions", 0, "primitives", 1, "parameters", 0, "value"}, `no counter "nope"`, false},
		{"direct counter named", "d", []any{"actions", 0, "primitives", 1, "parameters", 0, "value"}, `counter "d" is direct and cannot be named`, false},
		{"hex", obj{"type": "hexstr", "value": "0xg"}, []any{"actions", 0, "primitives", 0, "parameters", 1}, `"0xg" is no hexadecimal number`, false},

		{"table type", "indirect", table(0, "type"), `pipeline "ingress": table "t": no action profile ""`, false},
		{"unknown table type", "other", table(0, "type"), `pipeline "ingress": table "t": table type "other" not supported`, true},
		{"match kind", "valid", table(0, "key", 0, "match_type"), `pipeline "ingress": table "t": key "x": match kind "valid" not supported`, true},
		{"table kind", "exact", table(0, "match_type"), `table "t": match type exact, but a key element is ternary`, false},
		{"lpm without a key", "lpm", table(0, "match_type"), `table "t": match type lpm, but a key element is ternary`, false},
		{"varbit key", []any{"opt", "bytes"}, table(0, "key", 0, "target"), `key "x": field opt.bytes is a varbit`, false},
		{"mask", "0x1f", table(0, "key", 0, "mask"), `key "x": 31 does not fit into 4 bits`, false},
		{"size", -1, table(0, "max_size"), `table "t": size -1`, false},
		{"action id", []any{0, 9}, table(0, "action_ids"), `table "t": no action with id 9`, false},
		{"action name", []any{"fwd", "pass"}, table(0, "actions"), `action "drop": id 1 is called "pass" here`, false},
		{"next tables", obj{"fwd": nil}, table(0, "next_tables"), `action "drop": next_tables does not name it`, false},
		{"half of hit and miss", obj{"__HIT__": nil}, table(1, "next_tables"), `must have both __HIT__ and __MISS__`, false},
		{"default action", 7, table(0, "default_entry", "action_id"), `entry "default": action with id 7 is none of the table's`, false},
		{"argument count", []any{"0x1"}, table(0, "default_entry", "action_data"), `action "drop": 1 arguments, want 0`, false},
		{"argument width", "0x200", table(1, "entries", 0, "action_entry", "action_data", 0), `argument "port": 512 does not fit into 9 bits`, false},
		{"entry kind", "exact", table(1, "entries", 0, "match_key", 0, "match_type"), `match kind "exact", want "lpm"`, false},
		{"prefix", 17, table(1, "entries", 0, "match_key", 0, "prefix_length"), `prefix length 17 of a field of 16 bits`, false},
		{"circle", "cond", table(0, "next_tables", "fwd"), `pipeline "ingress": "cond" can be reached from itself`, false},
		{"action profile", []any{obj{"name": "bad", "max_size": -1}}, []any{"pipelines", 0, "action_profiles"}, `pipeline "ingress": action profile "bad": max_size -1`, false},
		{"meter of a table", "m", table(0, "direct_meters"), `table "t": no direct meter "m" of this table`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := bmv2.Load(edit(t, good, tc.value, tc.path...))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v\nwant %s", err, tc.want)
			}
			var e *bmv2.Error
			if !errors.As(err, &e) {
				t.Errorf("%T is no *bmv2.Error", err)
			}
			if got := errors.Is(err, bmv2.ErrUnsupported); got != tc.unsupported {
				t.Errorf("ErrUnsupported %v, want %v", got, tc.unsupported)
			}
		})
	}
}

func TestLoadRefusesGarbage(t *testing.T) {
	for name, data := range map[string]string{
		"empty":       "",
		"no object":   "[]",
		"null":        "null",
		"trailing":    string(small(t)) + "{}",
		"deep":        strings.Replace(string(small(t)), `"tmp"`, strings.Repeat("[", 100), 1),
		"expressions": deepExpression(t),
	} {
		if _, err := bmv2.Load([]byte(data)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// deepExpression nests an expression without end.
func deepExpression(t *testing.T) string {
	var e any = obj{"type": "bool", "value": true}
	for range 1000 {
		e = obj{"type": "expression", "value": obj{"op": "not", "left": nil, "right": e}}
	}
	return string(edit(t, small(t), e, "pipelines", 0, "conditionals", 0, "expression"))
}

// FuzzLoad feeds the loader, and what it accepts to the engine with one packet.
// Nothing may panic, hang, or take memory without bound. With edits, the input is
// not data but one of our programs with some of its nodes replaced, which gets much
// deeper than bytes that are mostly no JSON.
func FuzzLoad(f *testing.F) {
	programs := [][]byte{small(f)}
	for _, name := range []string{"../v1model/testdata/arch.json", "../softswitch/testdata/objects.json"} {
		js, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		programs = append(programs, js)
	}
	f.Add(programs[0], []byte{}, uint8(0), []byte("\x01\x50\x12\x00payload"))
	f.Add([]byte(`{"__meta__":{"version":[2,23]}}`), []byte{}, uint8(0), []byte{})
	f.Add([]byte{}, []byte{0, 10, 3, 1, 0, 40}, uint8(0), []byte("\x02\x50\x12\x00payload"))
	f.Add([]byte{}, []byte{2, 10, 3, 5, 0, 40}, uint8(1), []byte("\x02\x00\x00\x01\xff\xfe payload"))
	for kind := range byte(12) {
		f.Add([]byte{}, []byte{kind, 77 * kind, 3, 5, kind, 40}, uint8(2), []byte{kind, 1, 0, 7, 0, 0, 0, 1, 0, 0})
	}
	f.Fuzz(func(t *testing.T, data, edits []byte, base uint8, frame []byte) {
		if len(edits) > 0 {
			data = mutate(t, programs[int(base)%len(programs)], edits)
		}
		p, err := bmv2.Load(data)
		if err != nil {
			return
		}
		// Arrays are allocated when a switch is made; leave out the large ones.
		for _, c := range p.Counters {
			if c.Size > 1<<16 {
				return
			}
		}
		for _, r := range p.Registers {
			if r.Size > 1<<16 {
				return
			}
		}
		for _, m := range p.Meters {
			if m.Size > 1<<14 {
				return
			}
		}
		s, err := v1model.New(p, v1model.Options{Seed: 1})
		if err != nil {
			return
		}
		if s.InsertGroup(&v1model.Group{ID: 1, Replicas: []v1model.Replica{{Port: 1, RID: 1}, {Port: 2}}}) != nil {
			t.Error("a good group is refused")
		}
		s.Process(1, frame, func(uint16, []byte) {})
	})
}

// mutate replaces nodes of a JSON document: each three bytes of edits choose a node
// and what comes in its place, a value of a list or a copy of another node.
func mutate(t *testing.T, doc, edits []byte) []byte {
	var root any
	if err := json.Unmarshal(doc, &root); err != nil {
		t.Fatal(err)
	}
	type place struct {
		get func() any
		set func(any)
	}
	for n := 0; len(edits) >= 3 && n < 16; n, edits = n+1, edits[3:] {
		var places []place
		var walk func(any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				keys := slices.Sorted(maps.Keys(v))
				for _, k := range keys {
					places = append(places, place{func() any { return v[k] }, func(x any) { v[k] = x }})
					walk(v[k])
				}
			case []any:
				for i := range v {
					places = append(places, place{func() any { return v[i] }, func(x any) { v[i] = x }})
					walk(v[i])
				}
			}
		}
		walk(root)
		if len(places) == 0 {
			break
		}
		values := []any{nil, true, 0, 1, -1, 8, 9, 64, 65, 1 << 20, "", "0x0", "-0x1", "0xffffffffffffffffff", "*", "start", "scalars",
			"head", "opt", "expression", "field", "hexstr", "+", "-", "<<", ">>", "/", "%", "~", "==", ">=", "?", "not", "and",
			"two_comp_mod", "usat_cast", "d2b", "b2d", "valid", "assign", "assign_VL", "assign_header", "add_header",
			"remove_header", "exit", "_jump", "_jump_if_zero", "truncate", "register_read", "modify_field_rng_uniform",
			"header_stack", "header_union", "stack_field", "union_stack", "dereference_header_stack", "last_stack_index", "push", "pop",
			"lookahead", "advance", "extract_VL", "parse_vset", "verify", "shift", "primitive", "clone_ingress_pkt_to_egress",
			"resubmit", "recirculate", "generate_digest", "execute_meter", "meter_array", "count", "log_msg", "assert", "indirect",
			"indirect_ws", "crc32", "identity", "lpm", "exact", "ternary", "range", []any{}, map[string]any{}, []any{"opt", "bytes"}, []any{"head", "$valid$"}}
		at := places[(int(edits[0])<<8|int(edits[1]))%len(places)]
		if c := int(edits[2]); c < len(values) {
			at.set(values[c])
			continue
		}
		b, err := json.Marshal(places[(int(edits[1])<<8|int(edits[2]))%len(places)].get())
		if err != nil || len(b) > 1<<12 {
			continue
		}
		var clone any
		if json.Unmarshal(b, &clone) == nil {
			at.set(clone)
		}
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
