// SPDX-License-Identifier: Apache-2.0

package p4

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The build for TNA is well typed: p4c's front end finds nothing in it. What its back
// end for Tofino says is another matter (docs/tofino.md): here it is bmv2's that stops,
// at the package that it does not know.
func TestTNATypes(t *testing.T) {
	p4c, err := exec.LookPath("p4c-bm2-ss")
	if err != nil {
		t.Skip("p4c-bm2-ss is not on the PATH")
	}
	include := os.Getenv("P4C_TNA_INCLUDE")
	if include == "" {
		t.Skip("P4C_TNA_INCLUDE does not say where tna.p4 is (p4c: backends/tofino/bf-p4c/p4include)")
	}
	cmd := exec.Command(p4c, "--std", "p4-16", "-I", include, "-D__TARGET_TOFINO__=1",
		"-o", filepath.Join(t.TempDir(), "out.json"), "understudy_tna.p4")
	cmd.Dir = "src"
	out, err := cmd.CombinedOutput()
	reached := false
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.Contains(line, "error: package Switch: main package"):
			reached = true
		case strings.Contains(line, "warning: Switch: the main package should be called V1Switch"):
		case strings.Contains(line, "warning:"), strings.Contains(line, "error:"):
			t.Error(strings.TrimSpace(line))
		}
	}
	if !reached || err == nil {
		t.Errorf("the front end did not come to its end: %v\n%s", err, out)
	}
}
