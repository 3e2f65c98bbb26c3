// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const pass = `{"Action":"pass","Package":"x/agent/bpf","Test":"TestA"}` + "\n"
	const skip = `{"Action":"output","Package":"x/agent/bpf","Test":"TestB","Output":"    a_test.go:3: needs root\n"}` + "\n" +
		`{"Action":"skip","Package":"x/agent/bpf","Test":"TestB"}` + "\n"
	const fail = `{"Action":"output","Package":"x/p4","Test":"TestC","Output":"wrong\n"}` + "\n" +
		`{"Action":"fail","Package":"x/p4","Test":"TestC"}` + "\n"
	for name, c := range map[string]struct {
		in, must, want string
		ok             bool
	}{
		"passed":        {in: pass, want: "1 passed, 0 failed, 0 skipped", ok: true},
		"skip is named": {in: pass + skip, want: "bpf.TestB: needs root", ok: true},
		"failed":        {in: pass + fail, want: "wrong", ok: false},
		"nothing":       {in: "", want: "no test ran", ok: false},
		"all skipped":   {in: skip + strings.ReplaceAll(pass, "agent/bpf", "p4"), must: "agent/bpf", want: "no test of agent/bpf ran", ok: false},
		"must and did":  {in: pass + skip, must: "agent/bpf", want: "1 passed", ok: true},
		"build error":   {in: pass + "# x\nundefined: y\n" + `{"Action":"fail","Package":"x"}` + "\n", want: "undefined: y", ok: false},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			r, err := read(strings.NewReader(c.in), &b)
			if err != nil {
				t.Fatal(err)
			}
			var must []string
			if c.must != "" {
				must = []string{c.must}
			}
			if ok := r.report(&b, must); ok != c.ok {
				t.Errorf("report says %v:\n%s", ok, &b)
			}
			if !strings.Contains(b.String(), c.want) {
				t.Errorf("%q is not in:\n%s", c.want, &b)
			}
		})
	}
}
