// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Example is a configuration that has everything a configuration may have, with
// comments that say what it is.
//
//go:embed example.yaml
var Example []byte

// Schema is the JSON schema (draft 7, which editors know best) of a
// configuration, for completion and for checks without the controller. It says
// what keys there are and what their values look like; what only the whole file
// can tell, the check tells.
//
//go:embed schema.json
var Schema []byte

// field is what a key may be. Several notes of one key add up.
type field struct {
	Type             string // of JSON; "" in a note that does not say
	Keys             []string
	Required         bool
	Minimum, Maximum *uint64
	Default          any
	Enum             []string
	Pattern          string
	Example          string
}

func (f *field) add(more field) {
	pick := func(have *string, more string) {
		if more != "" {
			*have = more
		}
	}
	pick(&f.Type, more.Type)
	pick(&f.Pattern, more.Pattern)
	pick(&f.Example, more.Example)
	f.Required = f.Required || more.Required
	if more.Minimum != nil {
		f.Minimum, f.Maximum = more.Minimum, more.Maximum
	}
	if more.Default != nil {
		f.Default = more.Default
	}
	if more.Enum != nil {
		f.Enum = more.Enum
	}
	if more.Keys != nil {
		f.Keys = more.Keys
	}
}

// makeSchema reads an example that has every key, notes what the reader says of
// each, and takes the comments for descriptions.
func makeSchema(example []byte) ([]byte, error) {
	fields := map[string]*field{}
	r := &reader{file: "example.yaml", note: func(path string, more field) {
		path = index.ReplaceAllString(path, "[]")
		if fields[path] == nil {
			fields[path] = &field{}
		}
		fields[path].add(more)
	}}
	r.config(example)
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(example, &doc); err != nil {
		return nil, err
	}
	described := map[string]string{}
	describe(described, doc.Content[0], "")
	s, err := schemaOf(fields, described, "")
	if err != nil {
		return nil, err
	}
	s.Schema = "http://json-schema.org/draft-07/schema#"
	s.Title = "Configuration of understudy-controller"
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(s)
	return out.Bytes(), err
}

var index = regexp.MustCompile(`\[[0-9]+\]`)

// schema is the part of JSON schema that is needed here.
type schema struct {
	Schema               string             `json:"$schema,omitempty"`
	Title                string             `json:"title,omitempty"`
	Description          string             `json:"description,omitempty"`
	Type                 string             `json:"type"`
	Properties           map[string]*schema `json:"properties,omitempty"`
	Required             []string           `json:"required,omitempty"`
	AdditionalProperties *bool              `json:"additionalProperties,omitempty"`
	Items                *schema            `json:"items,omitempty"`
	Minimum              *uint64            `json:"minimum,omitempty"`
	Maximum              *uint64            `json:"maximum,omitempty"`
	Pattern              string             `json:"pattern,omitempty"`
	Enum                 []string           `json:"enum,omitempty"`
	Default              any                `json:"default,omitempty"`
	Examples             []string           `json:"examples,omitempty"`
}

func schemaOf(fields map[string]*field, described map[string]string, path string) (*schema, error) {
	f := fields[path]
	if f == nil || f.Type == "" {
		return nil, fmt.Errorf("example.yaml does not show %q; add it, with a comment that says what it is", path)
	}
	s := &schema{
		Type: f.Type, Description: described[path], Minimum: f.Minimum, Maximum: f.Maximum,
		Pattern: f.Pattern, Enum: f.Enum, Default: f.Default,
	}
	if f.Type == "string" && f.Example != "" && f.Enum == nil {
		s.Examples = []string{f.Example}
	}
	switch f.Type {
	case "object":
		closed := false
		s.AdditionalProperties = &closed
		s.Properties = map[string]*schema{}
		for _, key := range f.Keys {
			at := strings.TrimPrefix(path+"."+key, ".")
			p, err := schemaOf(fields, described, at)
			if err != nil {
				return nil, err
			}
			s.Properties[key] = p
			if fields[at].Required {
				s.Required = append(s.Required, key)
			}
		}
	case "array":
		if fields[path+"[]"] == nil {
			return nil, fmt.Errorf("example.yaml does not show an element of %q; add one", path)
		}
		items, err := schemaOf(fields, described, path+"[]")
		if err != nil {
			return nil, err
		}
		s.Items = items
	}
	return s, nil
}

// describe gathers the comments of each path, the first that there is.
func describe(found map[string]string, n *yaml.Node, path string) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			at := strings.TrimPrefix(path+"."+k.Value, ".")
			if text := comment(k.HeadComment, k.LineComment, v.LineComment); found[at] == "" {
				found[at] = text
			}
			describe(found, v, at)
		}
	case yaml.SequenceNode:
		for _, v := range n.Content {
			describe(found, v, path+"[]")
		}
	}
}

// comment makes one text of comments. Only the last paragraph of a head comment
// is about its key.
func comment(parts ...string) string {
	var words []string
	for _, p := range parts {
		paragraphs := strings.Split(strings.TrimSpace(p), "\n\n")
		for line := range strings.Lines(paragraphs[len(paragraphs)-1]) {
			words = append(words, strings.Fields(strings.TrimLeft(line, "# "))...)
		}
	}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}
