// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// The committed schema is what the reader knows. `go test -update` rewrites it.
func TestSchemaIsCurrent(t *testing.T) {
	want, err := makeSchema(Example)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(want), string(Schema)); diff != "" {
		t.Errorf("schema.json is not what the reader knows; run go test ./controller/config -update (-want +got):\n%s", diff)
	}
}

// Every key of the example is described: editors show it.
func TestSchemaDescribesEveryKey(t *testing.T) {
	s, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, node map[string]any)
	walk = func(path string, node map[string]any) {
		if items, ok := node["items"].(map[string]any); ok {
			walk(path+"[]", items)
		}
		properties, _ := node["properties"].(map[string]any)
		for key, p := range properties {
			p := p.(map[string]any)
			if p["description"] == nil {
				t.Errorf("%s.%s has no comment in example.yaml", path, key)
			}
			walk(path+"."+key, p)
		}
	}
	walk("", s.(map[string]any))
}

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What an editor would mark, and what it must not.
func TestSchemaAgrees(t *testing.T) {
	s := compile(t)
	valid := func(text []byte) error {
		var v any
		if err := yaml.Unmarshal(text, &v); err != nil {
			return err
		}
		return s.Validate(v)
	}
	for name, text := range map[string][]byte{"example.yaml": Example, "the smallest": []byte(small)} {
		if err := valid(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	files, err := filepath.Glob("testdata/wrong/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// What a schema can see; anchors and what counts once resolved it cannot.
	shape := regexp.MustCompile(`unknown key|is missing; add|is not a number from|is a list;|not a mapping;|is empty; write a value|is not tcp or udp|is not a name of`)
	refused := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text, want, _ := strings.Cut(string(content), "#= ")
		if !shape.MatchString(want) || strings.Contains(want, "anchor") || strings.Contains(text, "<<:") {
			continue
		}
		if valid([]byte(text)) == nil {
			t.Errorf("%s: the schema finds nothing wrong", file)
		}
		refused++
	}
	if refused < 30 {
		t.Errorf("%d files tried", refused)
	}
}

// A key that the reader knows and the example does not show is found.
func TestSchemaNeedsTheWholeExample(t *testing.T) {
	without := bytes.Replace(Example, []byte(`  - address: 10.0.1.1            # what servers have as their gateway
    mac: "02:00:00:00:01:01"     # the source of frames to them
`), nil, 1)
	without = bytes.ReplaceAll(without, []byte("routes:"), []byte("# routes:"))
	without = regexp.MustCompile(`(?m)^  (- prefix|- \{prefix|  port: 1 |  next_hop_mac|  source_mac).*\n`).ReplaceAll(without, nil)
	without = bytes.ReplaceAll(without, []byte("gateway: 10.0.1.1"), []byte("gateway: 10.0.2.1"))
	if _, err := makeSchema(without); err == nil || !strings.Contains(err.Error(), "routes") {
		t.Errorf("error %v", err)
	}
}
