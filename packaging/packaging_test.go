// SPDX-License-Identifier: Apache-2.0

// Package packaging has no code: it is what a distribution and an operator's other tools
// need. Its tests build the Debian package and look at it.
package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1767355200", "DEB_COMPRESSION=none", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, &stderr)
	}
	return string(out)
}

// The package has what it should, the programs in it run, and its units name files that
// are in it.
func TestDebianPackage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds four programs")
	}
	for _, tool := range []string{"dpkg-deb", "dpkg", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	bin, out := t.TempDir(), t.TempDir()
	for _, p := range []string{"understudy", "understudy-controller", "understudy-agent", "understudy-switch"} {
		run(t, "go", "build", "-buildvcs=false", "-o", bin+"/", "../cmd/"+p)
	}
	run(t, "deb/build.sh", bin, out, "v1.2.3-4-gabcdef")
	files, err := filepath.Glob(filepath.Join(out, "*.deb"))
	if err != nil || len(files) != 1 {
		t.Fatalf("packages %v, %v", files, err)
	}
	deb := files[0]
	if !strings.Contains(filepath.Base(deb), "understudy_1.2.3+4+gabcdef_") {
		t.Errorf("it is called %s", filepath.Base(deb))
	}

	info := run(t, "dpkg-deb", "-I", deb)
	for _, want := range []string{"Package: understudy\n", "Version: 1.2.3+4+gabcdef\n", "Description: ", "postinst", "prerm", "postrm", "md5sums"} {
		if !strings.Contains(info, want) {
			t.Errorf("no %q in\n%s", want, info)
		}
	}
	list := run(t, "dpkg-deb", "-c", deb)
	for _, want := range []string{
		"./usr/bin/understudy", "./usr/bin/understudy-controller", "./usr/bin/understudy-agent", "./usr/bin/understudy-switch",
		"./usr/lib/systemd/system/understudy-controller.service", "./usr/lib/sysusers.d/understudy.conf",
		"./usr/share/bash-completion/completions/understudy", "./usr/share/doc/understudy/copyright",
		"./usr/share/doc/understudy/examples/controller.yaml", "./usr/share/understudy/grafana/understudy.json",
	} {
		if !strings.Contains(list, want+"\n") {
			t.Errorf("no %s in\n%s", want, list)
		}
	}
	for line := range strings.Lines(list) {
		if !strings.Contains(line, " root/root ") || strings.HasPrefix(line, "-rwxrwx") || strings.HasPrefix(line, "drwxrwx") {
			t.Errorf("owner or mode: %s", line)
		}
	}

	root := t.TempDir()
	run(t, "dpkg-deb", "-x", deb, root)
	if got := run(t, filepath.Join(root, "usr/bin/understudy"), "version"); !strings.HasPrefix(got, "understudy ") {
		t.Errorf("version: %q", got)
	}
	run(t, filepath.Join(root, "usr/bin/understudy-controller"), "check", filepath.Join(root, "usr/share/doc/understudy/examples/controller.yaml"))
	// The same once more is the same.
	again := t.TempDir()
	run(t, "deb/build.sh", bin, again, "v1.2.3-4-gabcdef")
	one, err1 := os.ReadFile(deb)
	two, err2 := os.ReadFile(filepath.Join(again, filepath.Base(deb)))
	if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Errorf("two builds of the same differ: %v, %v", err1, err2)
	}

	units, err := filepath.Glob(filepath.Join(root, "usr/lib/systemd/system/*.service"))
	if err != nil || len(units) != 3 {
		t.Fatalf("units %v, %v", units, err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		program := regexp.MustCompile(`(?m)^ExecStart=(/\S+)`).FindSubmatch(text)
		if program == nil {
			t.Errorf("%s starts nothing", unit)
			continue
		}
		if _, err := os.Stat(filepath.Join(root, string(program[1]))); err != nil {
			t.Errorf("%s: %v", filepath.Base(unit), err)
		}
		for _, want := range []string{"\nType=notify\n", "\nNoNewPrivileges=yes\n", "\nProtectSystem=strict\n", "\nCapabilityBoundingSet=", "\nSystemCallFilter=@system-service"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s has no %s", filepath.Base(unit), strings.TrimSpace(want))
			}
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("systemd-analyze is not installed: units are not verified")
		return
	}
	for _, unit := range units {
		// Of what it says, only that programs are not installed here is expected.
		got, _ := exec.Command("systemd-analyze", "verify", unit).CombinedOutput()
		for line := range strings.Lines(string(got)) {
			if strings.Contains(line, "understudy") && !strings.Contains(line, "is not executable") {
				t.Errorf("systemd-analyze: %s", line)
			}
		}
	}
}
