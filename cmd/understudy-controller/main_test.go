// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-net/understudy/p4"
	"github.com/understudy-net/understudy/p4/softswitch"
)

const valid = `switch: {name: s1, address: "SWITCH", device_id: 1}
listen: {agents: "127.0.0.1:0", admin: "unix:STATE/admin.sock", insecure: true}
state_dir: STATE
gateways:
  - {address: 10.0.1.1, mac: "02:00:00:00:01:01"}
pairs:
  - name: web
    servers:
      - {name: a, port: 1, mac: "02:00:00:00:00:0a", gateway: 10.0.1.1}
      - {name: b, port: 2, mac: "02:00:00:00:00:0b", gateway: 10.0.1.1}
services:
  - {name: web, pair: web, vip: 198.51.100.10, protocol: tcp, port: 80, upstream: "127.0.0.1:80"}
`

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCommandLine(t *testing.T) {
	good := write(t, strings.ReplaceAll(strings.ReplaceAll(valid, "SWITCH", "127.0.0.1:1"), "STATE", t.TempDir()))
	bad := write(t, strings.Replace(valid, "STATE", "state", 2))
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stdout string // a part of it
		stderr string // a part of it
	}{
		{"help", []string{"--help"}, 0, "flips one\nentry in a P4 switch", ""},
		{"help of check", []string{"check", "--help"}, 0, "Every\nfault is one line", ""},
		{"version", []string{"--version"}, 0, "understudy-controller version ", ""},
		{"no configuration", nil, exitUsage, "", "no configuration; name one with --config FILE"},
		{"unknown flag", []string{"--confg", "x"}, exitUsage, "", "unknown flag: --confg"},
		{"too much", []string{"x"}, exitUsage, "", `unknown command "x"`},
		{"unknown level", []string{"--config", good, "--log-level", "loud"}, exitUsage, "", `"loud" is not a level; use debug`},
		{"no such file", []string{"--config", "/nonexistent"}, exitFailed, "", "no such file or directory; name a file"},
		{"faults", []string{"--config", bad}, exitConfig, "", `c.yaml:1: switch.address: "SWITCH" is not host:port`},
		{"check", []string{"check", good}, 0, "c.yaml: valid: 1 pairs, 1 services\n", ""},
		{"check finds faults", []string{"check", bad}, exitConfig, "", `c.yaml:3: state_dir: "state" is not an absolute path`},
		{"check of nothing", []string{"check"}, exitUsage, "", "accepts 1 arg(s), received 0"},
		{"schema", []string{"schema"}, 0, `"$schema": "http://json-schema.org/draft-07/schema#"`, ""},
		{"example", []string{"example"}, 0, "yaml-language-server: $schema=", ""},
		{"check of no file", []string{"check", "/nonexistent"}, exitFailed, "", "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(context.Background(), tt.args, &stdout, &stderr)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stdout.String(), tt.stdout) || tt.stdout == "" && stdout.Len() > 0 {
				t.Errorf("stdout %q, want %q in it", stdout.String(), tt.stdout)
			}
			if !strings.Contains(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
				t.Errorf("stderr %q, want %q in it", stderr.String(), tt.stderr)
			}
		})
	}
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// It says "ready" when the switch has everything, and ends without an error when
// it is asked to.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sw, err := softswitch.New(softswitch.Config{DeviceID: 1, CPUPort: p4.CPUPort, DropPort: p4.DropPort, Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	swCtx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sw.Run(swCtx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("switch: %v", err)
		}
	}()

	state := t.TempDir()
	file := write(t, strings.ReplaceAll(strings.ReplaceAll(valid, "SWITCH", l.Addr().String()), "STATE", state))
	var stdout, stderr output
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"--config", file}, &stdout, &stderr) }()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(stderr.String(), "msg=ready"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it is not ready:\n%s", stderr.String())
		}
	}
	if info, err := os.Stat(filepath.Join(state, "isn-secret")); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 16 {
		t.Errorf("the secret: %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(state, "admin.sock")); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the admin socket: %v, %v", info, err)
	}
	stop()
	select {
	case c := <-code:
		if c != 0 {
			t.Errorf("exit code %d:\n%s", c, stderr.String())
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not stop")
	}
	if !strings.Contains(stderr.String(), "msg=stopped") {
		t.Errorf("log:\n%s", stderr.String())
	}
}
