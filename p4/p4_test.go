// SPDX-License-Identifier: Apache-2.0

package p4

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/p4/internal/digest"
)

// What is compiled in must have been made of the source that stands here, and be as
// p4c wrote it.
func TestBuildBelongsToSource(t *testing.T) {
	want, err := os.ReadFile(digest.File)
	if err != nil {
		t.Fatal(err)
	}
	got, err := digest.Record(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("p4/src or p4/build has changed since p4c ran: run `make p4` where p4c is installed, and commit the result\n-recorded +found:\n%s", diff)
	}
}

// Where p4c is installed, compiling again must give the same bytes, without a
// warning.
func TestBuildIsReproducible(t *testing.T) {
	p4c, err := exec.LookPath("p4c-bm2-ss")
	if err != nil {
		t.Skip("p4c-bm2-ss is not on PATH")
	}
	dir := t.TempDir()
	jsonFile, infoFile := filepath.Join(dir, "out.json"), filepath.Join(dir, "out.p4info.txtpb")
	cmd := exec.Command(p4c, "--std", "p4-16", "-o", jsonFile, "--p4runtime-files", infoFile, "understudy_v1model.p4")
	cmd.Dir = "src"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("p4c: %v\n%s", err, out)
	}
	if len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("p4c is not silent:\n%s", out)
	}
	for file, want := range map[string][]byte{jsonFile: JSON(), infoFile: p4Info} {
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what is committed: run `make p4`", filepath.Base(file))
		}
	}
}

func TestJSONAndInfoAgree(t *testing.T) {
	var prog struct {
		Pipelines []struct {
			Tables []struct {
				Name string `json:"name"`
				Size int64  `json:"max_size"`
			} `json:"tables"`
		} `json:"pipelines"`
	}
	if err := json.Unmarshal(JSON(), &prog); err != nil {
		t.Fatal(err)
	}
	size := map[string]int64{}
	for _, p := range prog.Pipelines {
		for _, tbl := range p.Tables {
			size[tbl.Name] = tbl.Size
		}
	}
	for _, tbl := range Info().GetTables() {
		name := tbl.GetPreamble().GetName()
		if size[name] != tbl.GetSize() {
			t.Errorf("table %s: P4Info says %d entries, the JSON %d", name, tbl.GetSize(), size[name])
		}
	}
	if len(Info().GetTables()) < 14 {
		t.Errorf("P4Info has only %d tables", len(Info().GetTables()))
	}
}

func TestIdsAreStable(t *testing.T) {
	// Other programs (and old controllers) know these numbers.
	for name, ids := range map[string][2]uint32{
		"vip":        {TableVIP, 0x02000010},
		"replica":    {TableReplica, 0x02000020},
		"active":     {TableActive, 0x02000030},
		"set_active": {ActionSetActive, 0x01000030},
		"route":      {TableRoute, 0x02000050},
	} {
		if ids[0] != ids[1] {
			t.Errorf("%s has id %#x, not %#x", name, ids[0], ids[1])
		}
	}
}
