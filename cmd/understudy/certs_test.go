// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/internal/pki"
	"github.com/understudy-net/understudy/topologies/lab"
)

// What certs makes is what the other commands, and a controller, need.
func TestCerts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	for _, args := range [][]string{
		{"certs", "init"},
		{"certs", "issue", "controller", "c1", "--host", "127.0.0.1,localhost"},
		{"certs", "issue", "operator", "alice", "--ttl", "1h"},
	} {
		if out, err := run(t, append(args, "--dir", dir)...); err != nil || !strings.Contains(out, "good until") {
			t.Fatalf("%v: %q, %v", args, out, err)
		}
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"certs", "init", "--dir", dir}, "has an authority already"},
		{[]string{"certs", "issue", "king", "alice", "--dir", dir}, "use one of [operator viewer server controller]"},
		{[]string{"certs", "issue", "operator", "alice", "--dir", t.TempDir()}, "make one with understudy certs init"},
		{[]string{"certs", "issue", "operator", "../alice", "--dir", dir}, "is not a name"},
		{[]string{"certs", "show", filepath.Join(dir, "alice.key")}, "no certificate in PEM form"},
	} {
		if _, err := run(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q", tc.args, err, tc.want)
		}
	}
	out, err := run(t, "certs", "show", filepath.Join(dir, "ca.crt"), filepath.Join(dir, "c1.crt"))
	if err != nil || !strings.Contains(out, "authority Understudy") || !strings.Contains(out, "controller c1         localhost, 127.0.0.1") {
		t.Errorf("%v\n%s", err, out)
	}

	source, err := pki.Open(pki.Files{Cert: filepath.Join(dir, "c1.crt"), Key: filepath.Join(dir, "c1.key"), CA: filepath.Join(dir, "ca.crt")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(pki.ServerCredentials(source)))
	adminv1.RegisterAdminServer(srv, fakeAdmin{})
	go srv.Serve(ln)
	t.Cleanup(srv.Stop)
	who := []string{"--cert", filepath.Join(dir, "alice.crt"), "--key", filepath.Join(dir, "alice.key"), "--ca", filepath.Join(dir, "ca.crt")}
	if out, err := run(t, append([]string{"pairs", "--address", ln.Addr().String()}, who...)...); err != nil || !strings.Contains(out, "duplex") {
		t.Errorf("%v\n%s", err, out)
	}
	other := filepath.Join(t.TempDir(), "pki")
	if _, err := run(t, "certs", "init", "--dir", other); err != nil {
		t.Fatal(err)
	}
	who[len(who)-1] = filepath.Join(other, "ca.crt")
	_, err = run(t, append([]string{"pairs", "--address", ln.Addr().String()}, who...)...)
	if err == nil || !strings.Contains(err.Error(), "cannot be trusted") || strings.Contains(err.Error(), "\n") {
		t.Errorf("another authority: %v", err)
	}
}

// Flags come before the environment, and that before the context file, which counts
// only for the controller that it names.
func TestTarget(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "context.yaml")
	if err := os.WriteFile(file, []byte("address: c1:9403\ncert: alice.crt\nkey: /k\nca: ca.crt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	yes, no := func(string) bool { return true }, func(string) bool { return false }
	env := func(vars ...string) func(string) string {
		return func(k string) string {
			for i := 0; i < len(vars); i += 2 {
				if vars[i] == k {
					return vars[i+1]
				}
			}
			return ""
		}
	}
	files := pki.Files{Cert: filepath.Join(dir, "alice.crt"), Key: "/k", CA: filepath.Join(dir, "ca.crt")}
	for _, tc := range []struct {
		name   string
		given  target
		env    func(string) string
		exists func(string) bool
		want   target
	}{
		{"nothing", target{}, env(), no, target{Address: "localhost:9403"}},
		{"a lab", target{}, env(), yes, target{Address: "unix:/run/understudy/lab/controller.sock"}},
		{"environment", target{}, env(addressVariable, "unix:/x", certVariable, "c"), yes, target{Address: "unix:/x", Files: pki.Files{Cert: "c"}}},
		{"flag", target{Address: "unix:/y"}, env(addressVariable, "unix:/x"), yes, target{Address: "unix:/y"}},
		{"context", target{}, env(contextVariable, file), yes, target{Address: "c1:9403", Files: files}},
		{"context by home", target{}, env("XDG_CONFIG_HOME", dir), no, target{Address: "localhost:9403"}},
		{"context and flag", target{Files: pki.Files{Key: "/mine"}}, env(contextVariable, file), yes,
			target{Address: "c1:9403", Files: pki.Files{Cert: files.Cert, Key: "/mine", CA: files.CA}}},
		{"another controller", target{Address: "c2:9403"}, env(contextVariable, file), yes, target{Address: "c2:9403"}},
	} {
		if got, err := tc.given.resolve(tc.env, tc.exists); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v; want %+v", tc.name, got, err, tc.want)
		}
	}
	if labSocket != lab.Socket {
		t.Errorf("the lab's socket is %s", lab.Socket)
	}
	if _, err := (target{}).resolve(env(contextVariable, "/nowhere"), no); err == nil || !strings.Contains(err.Error(), "correct $UNDERSTUDY_CONTEXT") {
		t.Errorf("no such context: %v", err)
	}
	if err := os.WriteFile(file, []byte("adress: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (target{}).resolve(env(contextVariable, file), no); err == nil || !strings.Contains(err.Error(), "it has the keys address, cert") {
		t.Errorf("a wrong context: %v", err)
	}
}
