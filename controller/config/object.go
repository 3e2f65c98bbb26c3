// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Object is one thing that was made through the API: what an element of a list in
// the file would be. It is checked together with the file, by the same rules.
type Object struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	// Body is a mapping, in YAML or JSON, with the keys of an element of the list
	// that Kind is, its name among them.
	Body string `json:"body"`
}

func (o Object) String() string { return string(o.Kind) + "/" + o.Name }

// Kind is the list that an object belongs to, by its path in the file.
type Kind string

// The kinds that the API can make.
const (
	Pairs    Kind = "pairs"
	Services Kind = "services"
	Peers    Kind = "bgp.peers"
	// Servers are elements of the list of a pair, which their own key "pair" names.
	Servers Kind = "servers"
)

// objectLine is where the lines of objects begin: that of the first is this, that
// of the next one more. No file has as many.
const objectLine = 1 << 30

// ParseWith checks a configuration together with objects that were made through
// the API. Faults that are about an object name it in place of a line.
func ParseWith(file string, text []byte, objects []Object) (*Config, error) {
	return (&reader{file: file, objects: objects}).parse(text)
}

// merge appends the objects to the lists that they belong to.
func (r *reader) merge(root *yaml.Node) {
	if root.Kind != yaml.MappingNode {
		return
	}
	for i, o := range r.objects {
		line := objectLine + i
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(o.Body), &doc); err != nil || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
			r.fault(line, "it is not a mapping", "delete it, and make it anew")
			continue
		}
		body := doc.Content[0]
		setLine(body, line)
		list := root
		path := strings.Split(string(o.Kind), ".")
		if o.Kind == Servers {
			pair := take(body, "pair")
			pairs := child(root, "pairs", yaml.SequenceNode)
			at := -1
			if pairs != nil && pair != nil {
				at = slices.IndexFunc(pairs.Content, func(p *yaml.Node) bool {
					n := child(p, "name", 0)
					return n != nil && n.Value == pair.Value
				})
			}
			if at < 0 {
				r.fault(line, "there is no such pair", "name one that exists, or make it first")
				continue
			}
			list, path = pairs.Content[at], []string{"servers"}
		}
		for _, key := range path[:len(path)-1] {
			if list = child(list, key, 0); list == nil {
				r.fault(line, fmt.Sprintf("the configuration has no %s", key), "add the section to the file first")
				break
			}
		}
		if list == nil {
			continue
		}
		if list = child(list, path[len(path)-1], yaml.SequenceNode); list == nil {
			continue // what is there is no list, which is told
		}
		list.Content = append(list.Content, body)
	}
}

// child returns the value of a key. With a kind, it is made if it is absent, and nil
// if it is of another kind.
func child(m *yaml.Node, key string, kind yaml.Kind) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			if kind != 0 && m.Content[i+1].Kind != kind {
				return nil
			}
			return m.Content[i+1]
		}
	}
	if kind == 0 {
		return nil
	}
	v := &yaml.Node{Kind: kind, Line: m.Line}
	m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key, Line: m.Line}, v)
	return v
}

// take removes a key, and returns its value.
func take(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			v := m.Content[i+1]
			m.Content = slices.Delete(m.Content, i, i+2)
			return v
		}
	}
	return nil
}

func setLine(n *yaml.Node, line int) {
	n.Line = line
	for _, c := range n.Content {
		setLine(c, line)
	}
}
