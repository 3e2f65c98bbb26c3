// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-net/understudy/p4/softswitch"
)

// startSwitch runs a switch without ports and returns its address.
func startSwitch(t *testing.T) string {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile("../../p4/softswitch/testdata/kinds." + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config, err := softswitch.LoadConfig(read("json"), read("p4info.txtpb"))
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sw, err := softswitch.New(softswitch.Config{Listener: lis, Pipeline: config})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sw.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

func runTrace(in string, args ...string) (string, error) {
	cmd := command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetIn(strings.NewReader(in))
	cmd.SetArgs(append([]string{"trace"}, args...))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestTrace(t *testing.T) {
	addr := startSwitch(t)
	const frame = "06 00 10 00000007 00000000000000000000000000000000 0000"
	for name, run := range map[string]func() (string, error){
		"argument":       func() (string, error) { return runTrace("", "--grpc-addr", addr, "--port", "3", frame) },
		"standard input": func() (string, error) { return runTrace(frame+"\n", "--grpc-addr", addr, "--port", "3", "-") },
	} {
		out, err := run()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range []string{"port 3, 25 bytes: 0600100000", "KindsIngress.const_table hdr.query.narrow=0x01 hdr.query.word=0x07 -> entry",
			"KindsIngress.answer(port=0x02, result=0x01)", "DROP      there is no port 2"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
	}
	out, err := runTrace("", "--grpc-addr", addr, "-o", "json", frame)
	if err != nil || !json.Valid([]byte(out)) || !strings.Contains(out, `"KindsIngress.const_table"`) {
		t.Errorf("json: %v\n%s", err, out)
	}
}

// TestTraceErrors wants one line that says what to do.
func TestTraceErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", nil, "no frame: give one in hexadecimal"},
		{"both", []string{"--follow", "00"}, "contradict each other"},
		{"no digits", []string{"xyz"}, "the frame is not hexadecimal"},
		{"half a byte", []string{"123"}, "the frame is not hexadecimal"},
		{"filter without --follow", []string{"--dropped", "00"}, "need --follow"},
		{"format", []string{"-o", "xml", "00"}, `--output "xml": want text or json`},
		{"key without authority", []string{"--key", "k", "00"}, "--cert and --key need --ca"},
		{"no authority", []string{"--ca", "/no/such", "00"}, "--ca: open /no/such"},
		{"nobody there", []string{"--grpc-addr", "unix:" + t.TempDir() + "/none", "00"}, "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := runTrace("", tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") || out != "" {
				t.Errorf("%v, want one line with %q; %s", err, tc.want, out)
			}
		})
	}
}
