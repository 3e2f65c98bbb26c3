// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/p4"
)

// The constants must be those of the P4Info that is compiled in, and of the source.
func TestNamesBelongToInfo(t *testing.T) {
	ids, err := os.ReadFile("../../" + idsFile)
	if err != nil {
		t.Fatal(err)
	}
	want, err := names(p4.Info(), string(ids))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../names.go")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("p4/names.go is stale: run `go generate ./p4`\n-want +got:\n%s", diff)
	}
}
