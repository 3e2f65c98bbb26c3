// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// reader walks a YAML tree and gathers faults. Every method may be called with a
// nil node, which stands for a key that is not there; what is not there, or is
// wrong, reads as the zero value.
type reader struct {
	file   string
	faults Faults
	// objects were made through the API, and are read as parts of the file.
	objects []Object
	// note, if not nil, is told what each key may be: the schema is made of that.
	note func(path string, f field)
}

func (r *reader) fault(line int, what, do string) {
	f := Fault{File: r.file, Line: line, What: what, Do: do}
	if i := line - objectLine; i >= 0 && i < len(r.objects) {
		f.File, f.Line, f.Object = "", 0, &r.objects[i]
	}
	r.faults = append(r.faults, f)
}

// document parses text into its root mapping, nil when there is none.
func (r *reader) document(text []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			r.fault(1, "it is empty", "write a configuration into it")
			return nil
		}
		line, what := yamlError(err)
		r.fault(line, "not YAML: "+what, "correct the line")
		return nil
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		r.fault(more.Line, "a second document in the same file", "keep everything in one document")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		r.fault(1, "it is empty", "write a configuration into it")
		return nil
	}
	r.merge(doc.Content[0])
	return doc.Content[0]
}

// yamlError takes the line out of an error of the parser: "yaml: line 3: ...".
func yamlError(err error) (int, string) {
	what := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(what, "line "); ok {
		if number, text, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(number); err == nil {
				// Its scanner counts lines from 1, what is above it from 0.
				if strings.HasPrefix(text, "did not find expected") {
					line++
				}
				return line, text
			}
		}
	}
	return 1, what
}

// mapping is a mapping whose keys are all known.
type mapping struct {
	r    *reader
	name string // how faults call it: "switch", "pairs[1]", "" for the whole
	line int
	keys map[string]*yaml.Node
	// spoilt keys are there, and were told to be wrong; "" is the whole mapping.
	spoilt map[string]bool
}

func (r *reader) mapping(n *yaml.Node, name string, known ...string) mapping {
	m := mapping{r: r, name: name, keys: map[string]*yaml.Node{}, spoilt: map[string]bool{}}
	m.describe("", field{Type: "object", Keys: known})
	if n == nil {
		return m
	}
	m.line = n.Line
	if !r.plain(n, name) {
		m.spoilt[""] = true
		return m
	}
	if n.Kind != yaml.MappingNode {
		m.spoilt[""] = true
		r.fault(n.Line, fmt.Sprintf("%s is %s, not a mapping", called(name), kind(n)),
			"write it as \"key: value\" lines with the keys "+strings.Join(known, ", "))
		return m
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode || !slices.Contains(known, k.Value):
			r.fault(k.Line, fmt.Sprintf("unknown key %q in %s", k.Value, called(name)),
				"use one of "+strings.Join(known, ", "))
		case seen[k.Value]:
			r.fault(k.Line, fmt.Sprintf("%q stands twice in %s", k.Value, called(name)), "keep one of them")
		default:
			seen[k.Value] = true
			if r.plain(v, m.path(k.Value)) {
				m.keys[k.Value] = v
			} else {
				m.spoilt[k.Value] = true
			}
		}
	}
	return m
}

// plain refuses anchors, aliases and explicit tags: the file shall mean what it
// shows.
func (r *reader) plain(n *yaml.Node, name string) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		r.fault(n.Line, called(name)+" uses a YAML anchor or alias", "write the value out")
		return false
	}
	return true
}

func called(name string) string {
	if name == "" {
		return "the configuration"
	}
	return name
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.ShortTag() == "!!null" {
			return "empty"
		}
		return fmt.Sprintf("%q", n.Value)
	}
	return "something else"
}

// describe notes what a key may be; "" is the mapping itself. Whether a key is
// required, and an example, come from scalar and require.
func (m mapping) describe(key string, f field) {
	if m.r.note == nil {
		return
	}
	path := m.name
	if key != "" {
		path = m.path(key)
	}
	m.r.note(path, f)
}

func (m mapping) path(key string) string {
	if m.name == "" {
		return key
	}
	if key == "" {
		return m.name // an element of a list
	}
	return m.name + "." + key
}

// at is the line of a key, or that of its mapping.
func (m mapping) at(key string) int {
	if n := m.keys[key]; n != nil {
		return n.Line
	}
	return m.line
}

// list returns the elements of a list, none when the key is absent.
func (m mapping) list(key string) []*yaml.Node {
	m.describe(key, field{Type: "array"})
	n := m.keys[key]
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		m.r.fault(n.Line, fmt.Sprintf("%s is %s, not a list", m.path(key), kind(n)), "begin each element with \"- \"")
		return nil
	}
	return n.Content
}

// scalar returns the text of a key; ok is false when it is absent (a fault if it
// is required) or not a scalar.
func (m mapping) scalar(key string, required bool, example string) (string, bool) {
	m.describe(key, field{Required: required, Example: strings.Trim(example, `"`)})
	n := m.keys[key]
	if n == nil {
		if required && !m.spoilt[key] && !m.spoilt[""] {
			m.r.fault(m.line, fmt.Sprintf("%s is missing", m.path(key)), "add \""+key+": "+example+"\"")
		}
		return "", false
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" || n.Value == "" {
		m.r.fault(n.Line, fmt.Sprintf("%s is %s", m.path(key), kind(n)), "write a value such as "+example)
		return "", false
	}
	return n.Value, true
}

func (m mapping) bad(key, text, want, example string) {
	m.r.fault(m.at(key), fmt.Sprintf("%s: %q is not %s", m.path(key), text, want), "write a value such as "+example)
}

func (m mapping) number(key string, required bool, low, high, def uint64) uint64 {
	example := strconv.FormatUint(max(low, 1), 10)
	f := field{Type: "integer", Minimum: &low, Maximum: &high}
	if !required {
		f.Default = def
	}
	m.describe(key, f)
	text, ok := m.scalar(key, required, example)
	if !ok {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < low || n > high {
		m.bad(key, text, fmt.Sprintf("a number from %d to %d", low, high), example)
		return def
	}
	return n
}

func (m mapping) duration(key string, low, high, def time.Duration) time.Duration {
	m.describe(key, field{Type: "string", Pattern: `^[0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h)([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))*$`, Default: def.String()})
	text, ok := m.scalar(key, false, def.String())
	if !ok {
		return def
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < low || d > high {
		m.bad(key, text, fmt.Sprintf("a duration from %v to %v", low, high), def.String())
		return def
	}
	return d
}

const nameRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

func (m mapping) text(key, example string) string {
	m.describe(key, field{Type: "string", Pattern: "^[A-Za-z0-9._-]{1,63}$"})
	text, ok := m.scalar(key, true, example)
	if !ok {
		return ""
	}
	if len(text) > 63 || strings.Trim(text, nameRunes) != "" {
		m.bad(key, text, "a name of at most 63 letters, digits, '-', '_' and '.'", example)
		return ""
	}
	return text
}

func (m mapping) mac(key string, required bool) (MAC, bool) {
	const example = "\"02:00:00:00:01:01\""
	m.describe(key, field{Type: "string", Pattern: "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"})
	text, ok := m.scalar(key, required, example)
	if !ok {
		return MAC{}, false
	}
	hw, err := net.ParseMAC(text)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || MAC(hw) == (MAC{}) {
		m.bad(key, text, "the MAC address of one host", example)
		return MAC{}, false
	}
	return MAC(hw), true
}

func (m mapping) addr(key, example string) (netip.Addr, bool) {
	m.describe(key, field{Type: "string", Pattern: "^[0-9A-Fa-f.:]+$"})
	text, ok := m.scalar(key, true, example)
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		m.bad(key, text, "the IP address of one host", example)
		return netip.Addr{}, false
	}
	return a, true
}

func (m mapping) prefix(key, example string) (netip.Prefix, bool) {
	m.describe(key, field{Type: "string", Pattern: "^[0-9A-Fa-f.:]+/[0-9]{1,3}$"})
	text, ok := m.scalar(key, true, example)
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		m.bad(key, text, "a prefix", example)
		return netip.Prefix{}, false
	}
	if p != p.Masked() {
		m.r.fault(m.at(key), fmt.Sprintf("%s: %s has host bits set", m.path(key), text), "write "+p.Masked().String())
		return netip.Prefix{}, false
	}
	return p, true
}

// choice reads one of several words.
func (m mapping) choice(key string, required bool, def string, words ...string) string {
	f := field{Type: "string", Enum: words}
	if !required {
		f.Default = def
	}
	m.describe(key, f)
	text, ok := m.scalar(key, required, words[0])
	if !ok {
		return def
	}
	if !slices.Contains(words, text) {
		m.bad(key, text, oneOf(words), words[0])
		return def
	}
	return text
}

// oneOf is "a, b or c".
func oneOf(words []string) string {
	n := len(words) - 1
	if n == 0 {
		return words[0]
	}
	return strings.Join(words[:n], ", ") + " or " + words[n]
}

// boolean reads true or false.
func (m mapping) boolean(key string, def bool) bool {
	m.describe(key, field{Type: "boolean", Default: def})
	text, ok := m.scalar(key, false, "true")
	if !ok {
		return def
	}
	if text != "true" && text != "false" {
		m.bad(key, text, "true or false", "true")
		return def
	}
	return text == "true"
}

// filePath reads an absolute path, "" when it is absent.
func (m mapping) filePath(key string, required bool, example string) string {
	m.describe(key, field{Type: "string", Pattern: "^/"})
	text, ok := m.scalar(key, required, example)
	if !ok {
		return ""
	}
	if !filepath.IsAbs(text) || strings.ContainsFunc(text, unicode.IsControl) {
		m.bad(key, text, "an absolute path", example)
		return ""
	}
	return filepath.Clean(text)
}

// hostPort reads "host:port". A host may be left out where anyHost is true.
func (m mapping) hostPort(key, example string, anyHost, anyPort bool) string {
	return m.hostPortIf(key, true, example, anyHost, anyPort)
}

// hostPortIf is hostPort for a key that may be left out, unless it is required.
func (m mapping) hostPortIf(key string, required bool, example string, anyHost, anyPort bool) string {
	m.describe(key, field{Type: "string", Pattern: "^[^ \t/]*:[0-9]+$"})
	text, ok := m.scalar(key, required, example)
	if !ok {
		return ""
	}
	if !validHostPort(text, anyHost, anyPort) {
		m.bad(key, text, "host:port", example)
		return ""
	}
	return text
}

func validHostPort(text string, anyHost, anyPort bool) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || strings.ContainsAny(host, " \t/") || host == "" && !anyHost {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && (n != 0 || anyPort)
}
