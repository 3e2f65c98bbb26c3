// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// TestErrors wants one line that says what to do.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("}{"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const program, info = "../../p4/build/understudy.json", "../../p4/build/understudy.p4info.txtpb"
	const twoFiles = "give the two files that one run of p4c-bm2-ss wrote"
	busy, err := net.Listen("unix", filepath.Join(dir, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"flag", []string{"--frobnicate"}, "unknown flag: --frobnicate"},
		{"two programs", []string{"a.json", "b.json"}, "accepts at most 1 arg(s), received 2"},
		{"port", []string{"-i", "veth1"}, `--interface "veth1": want PORT@INTERFACE, such as 1@veth1`},
		{"port number", []string{"-i", "x@veth1"}, `--interface "x@veth1": want PORT@INTERFACE`},
		{"interface", []string{"-i", "1@no-such-if"}, `interface "no-such-if":`},
		{"log level", []string{"--log-level", "loud"}, `--log-level "loud": want debug, info, warn or error`},
		{"program without P4Info", []string{"x.json"}, "a program needs its P4Info: give --p4info FILE as well"},
		{"P4Info without program", []string{"--p4info", "x"}, "--p4info needs a program"},
		{"no-p4 with program", []string{"--no-p4", "x.json"}, "contradict each other"},
		{"no such program", []string{"--p4info", garbage, filepath.Join(dir, "none.json")}, "no such file or directory"},
		{"P4Info", []string{"--p4info", garbage, garbage}, garbage + ": P4Info:"},
		{"empty P4Info", []string{"--p4info", empty, program}, empty + ": P4Info: the file is empty"},
		{"broken program", []string{"--p4info", info, garbage}, garbage + " with --p4info " + info},
		{"broken program, what to do", []string{"--p4info", info, garbage}, twoFiles},
		{"another's P4Info", []string{"--p4info", "../../p4/softswitch/testdata/kinds.p4info.txtpb", program}, twoFiles},
		{"endless file", []string{"--p4info", info, "/dev/zero"}, "/dev/zero has more than 64 MB"},
		{"interface twice", []string{"-i", "1@no-such-if", "-i", "2@no-such-if"}, `--interface "2@no-such-if": no-such-if is a port already`},
		{"address", []string{"--grpc-server-addr", "nonsense"}, "--grpc-server-addr: "},
		{"busy socket", []string{"--grpc-server-addr", "unix:" + filepath.Join(dir, "busy")}, "another process serves"},
		{"drop port", []string{"--grpc-server-addr", "127.0.0.1:0", "--drop-port", "600"}, "drop port 600, the largest is 511"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := command()
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			if !slices.Contains(tc.args, "--grpc-server-addr") {
				tc.args = append(tc.args, "--grpc-server-addr", "unix:"+filepath.Join(dir, "p4rt"))
			}
			cmd.SetArgs(tc.args)
			err := cmd.Execute()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %s", err, tc.want)
			}
			if strings.Contains(err.Error(), "\n") || out.Len() > 0 {
				t.Errorf("more than one line: %v\n%s", err, out.String())
			}
		})
	}
}

// TestHelp wants a description of every flag, and the flags of simple_switch_grpc.
func TestHelp(t *testing.T) {
	cmd := command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--help"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-i, --interface PORT@INTERFACE", "--device-id", "--grpc-server-addr", "--cpu-port", "--drop-port", "--no-p4"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("--help does not say %s", want)
		}
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Usage == "" {
			t.Errorf("--%s is not described", f.Name)
		}
	})
}

func TestJoinTarget(t *testing.T) {
	got := joinTarget([]string{"--no-p4", "-i", "1@veth1", "--", "--cpu-port", "5"})
	if diff := cmp.Diff([]string{"--no-p4", "-i", "1@veth1", "--cpu-port", "5"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
