// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/topologies/lab"
	"github.com/understudy-net/understudy/topologies/lab/app"
	"github.com/understudy-net/understudy/topologies/lab/load"
)

func TestDemoConfig(t *testing.T) {
	got, err := demoConfig(20, []string{"freeze", "kill-app"}, "backup")
	if err != nil {
		t.Fatal(err)
	}
	want := lab.DemoConfig{Connections: 20, Faults: []lab.Fault{lab.Freeze, lab.KillApp}, StrikeBackup: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, tc := range []struct {
		connections int
		faults      []string
		target      string
		want        string
	}{
		{0, []string{"freeze"}, "active", "--connections"},
		{1, []string{"frieze"}, "active", "--faults"},
		{1, nil, "active", "--faults"},
		{1, []string{"freeze"}, "both", "--target"},
	} {
		if _, err := demoConfig(tc.connections, tc.faults, tc.target); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
}

func TestLabArguments(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"lab", "fault", "explode", "server1"}, "unknown fault"},
		{[]string{"lab", "fault", "freeze"}, "accepts 2 arg"},
		{[]string{"lab", "heal"}, "accepts 1 arg"},
		{[]string{"lab", "drop", "server1", "-1"}, "unknown shorthand"},
		{[]string{"lab", "drop", "server1", "many"}, "no number"},
		{[]string{"lab", "up", "--topology", filepath.Join(t.TempDir(), "none.yaml")}, "no such file"},
		{[]string{"lab", "demo", "--target", "both"}, "--target"},
		{[]string{"lab", "load", "--connections", "0"}, "--connections"},
	} {
		if _, err := run(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: got %v, want %q", tc.args, err, tc.want)
		}
	}
}

// --switch comes before UNDERSTUDY_SWITCH, and that before the file.
func TestLabSwitch(t *testing.T) {
	plan := func(env string, args ...string) (string, error) {
		root := newRoot(func(name string) string {
			if name == switchVariable {
				return env
			}
			return ""
		})
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(append([]string{"lab", "plan"}, args...))
		err := root.Execute()
		return out.String(), err
	}
	for _, tc := range []struct {
		env, flag, want string
	}{
		{"", "", "understudy-switch"}, {"", "bmv2", "simple_switch_grpc"}, {"bmv2", "", "simple_switch_grpc"},
		{"bmv2", "embedded", "understudy-switch"},
	} {
		out, err := plan(tc.env, "--switch", tc.flag)
		var p lab.Plan
		if err != nil || json.Unmarshal([]byte(out), &p) != nil || p.Processes[0].Args[0] != tc.want {
			t.Errorf("%+v: %v\n%s", tc, err, out)
		}
	}
	if _, err := plan("asic"); err == nil || !strings.Contains(err.Error(), `unknown switch "asic"`) {
		t.Errorf("got %v", err)
	}
}

func TestLoadWithoutLab(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go app.Serve(t.Context(), ln, "here")
	args := []string{"lab", "load", "--to", ln.Addr().String(), "--connections", "5", "--duration", "300ms", "--think", "10ms"}
	out, err := run(t, append(args, "-o", "json")...)
	var r loadReport
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || r.Requests < 20 || r.Failed+r.Reset+r.Corrupt+r.Unclosed != 0 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = run(t, args...); err != nil || !strings.Contains(out, "0 failed, 0 reset, 0 corrupt") {
		t.Errorf("%v\n%s", err, out)
	}
	ln.Close()
}

func TestLoadReportsFailures(t *testing.T) {
	now := time.Now()
	r := &load.Report{Connections: 1, Requests: 1, Failed: 1, Events: []load.Event{{Time: now, Failure: load.Failure{Class: load.Failed, Reason: "status 502"}}}}
	var out bytes.Buffer
	if err := writeLoad(&out, asTable, r, now.Add(-time.Second), now); err == nil || !strings.Contains(out.String(), "status 502") {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestLabApp(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	root := newRoot(noEnv)
	root.SetArgs([]string{"lab", "app", "--listen", address, "--name", "x"})
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
