// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package mininet has no Go code but its tests: they run topologies in Mininet, by
// run.py, and look at what clients see. They need root and Debian's mininet.
package mininet

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// python is Debian's own: its packages are not found by another one.
const python = "/usr/bin/python3"

// patience bounds one run of run.py.
const patience = 3 * time.Minute

// needMininet skips the test where Mininet cannot run.
func needMininet(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("Mininet needs root")
	}
	if out, err := exec.Command(python, "-c", "import mininet.net").CombinedOutput(); err != nil {
		t.Skipf("Debian's mininet is not installed: %s", bytes.TrimSpace(out))
	}
}

// programs builds what run.py starts, and returns where it is.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "github.com/understudy-net/understudy/cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// run runs run.py and returns what it prints.
func run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, append([]string{"run.py"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it cleans up
	cmd.WaitDelay = 30 * time.Second
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	if err := cmd.Run(); err != nil {
		t.Fatalf("run.py %s: %v\n%s%s", strings.Join(args, " "), err, &out, &progress)
	}
	if _, err := os.Stat("/run/understudy/mininet"); err == nil {
		t.Error("run.py has left /run/understudy/mininet behind")
	}
	return out.String() + progress.String()
}

func TestFailover(t *testing.T) {
	needMininet(t)
	bin := programs(t)
	for _, tc := range []struct{ target, fault string }{
		{"embedded", "kill-agent"}, {"embedded", "cut-link"}, {"embedded", "power-off"},
		{"bmv2", "cut-link"}, {"bmv2", "power-off"},
	} {
		t.Run(tc.target+"/"+tc.fault, func(t *testing.T) {
			if _, err := exec.LookPath("simple_switch_grpc"); err != nil && tc.target == "bmv2" {
				t.Skip("simple_switch_grpc is not on the PATH")
			}
			out := run(t, "--bin", bin, "--switch", tc.target, "--failover", tc.fault)
			var report struct {
				WasActive string `json:"was_active"`
				IsActive  string `json:"is_active"`
				Load      struct{ Requests, Replies, Failed, Reset, Corrupt int }
			}
			begin := strings.Index(out, `{"fault"`)
			if begin < 0 {
				t.Fatalf("no report:\n%s", out)
			}
			if err := json.NewDecoder(strings.NewReader(out[begin:])).Decode(&report); err != nil {
				t.Fatalf("%v in\n%s", err, out)
			}
			l := report.Load
			if report.WasActive == "" || report.IsActive == "" || report.WasActive == report.IsActive {
				t.Errorf("%s was active before, %s after", report.WasActive, report.IsActive)
			}
			if l.Requests == 0 || l.Failed != 0 || l.Reset != 0 || l.Corrupt != 0 {
				t.Errorf("the load saw %+v", l)
			}
		})
	}
}

// What a person types at the prompt.
func TestPrompt(t *testing.T) {
	needMininet(t)
	script := filepath.Join(t.TempDir(), "script")
	// One of the two is active; which is not said.
	commands := "pairs\nfault kill-app server1\nheal server1\nfault kill-app server2\nheal server2\n" +
		"fault power-off server1\nheal server1\nfault power-off server2\nheal server2\nfailovers\nfault burn server1\n"
	if err := os.WriteFile(script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	out := run(t, "--bin", programs(t), "--script", script)
	for _, want := range []string{
		"PROTECTED", "application down", "link down", // what pairs and failovers say
		"KIND is kill-agent, kill-app, cut-link or power-off",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the prompt does not say %q:\n%s", want, out)
		}
	}
	for program, want := range map[string]int{"server1-app": 3, "server2-app": 3, "server1-agent": 2, "server2-agent": 2} {
		if n := strings.Count(out, program+" runs"); n != want {
			t.Errorf("%s was started %d times, want %d: at first, and each time it was healed", program, n, want)
		}
	}
}
