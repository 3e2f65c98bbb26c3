// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A connection is adopted in the middle of a transfer by a server that was not there
// when it began; then the server dies that was, still in the middle of it.
//
// The transfers are slow on the client's side, so that all of it fits in.
func TestAdoptInTransfer(t *testing.T) {
	needRoot(t)
	curl := program(t, "curl")
	transfer := func(t *testing.T, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := inClient(ctx, append([]string{curl, "-sS", "--fail", "--max-time", "60"}, args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		waitHeld(t, 1)
		first := active(t)
		second := map[string]string{"server1": "server2", "server2": "server1"}[first]
		for _, c := range [][]string{{"fault", "power-off", second}, {"heal", second}} {
			if _, err := understudy(t, append([]string{"lab"}, c...)...); err != nil {
				t.Fatal(err)
			}
		}
		waitHeld(t, 1)
		select {
		case err := <-done:
			t.Fatalf("the transfer ended too early to show anything: %v\n%s", err, &stderr)
		default:
		}
		if _, err := understudy(t, "lab", "fault", "power-off", first); err != nil {
			t.Fatal(err)
		}
		waitActive(t, second)
		select {
		case err := <-done:
			t.Fatalf("the transfer ended with the fault or before: %v\n%s", err, &stderr)
		default:
		}
		if err := <-done; err != nil {
			t.Errorf("curl: %v\n%s", err, &stderr)
		}
		if _, err := understudy(t, "lab", "heal", first); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("download", func(t *testing.T) {
		withNginx(t)
		file := filepath.Join(t.TempDir(), "got")
		transfer(t, "--limit-rate", "8M", "-o", file, "http://"+vip+"/huge")
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if want := testFile("huge"); !bytes.Equal(got, want) {
			t.Errorf("%d bytes are not the %d of the file", len(got), len(want))
		}
		if _, err := understudy(t, "lab", "down"); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("upload", func(t *testing.T) {
		if _, err := understudy(t, "lab", "up"); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		body := testFile("huge")[:6<<20] // within the 8 MiB of a request that the active server keeps in memory
		file, head := filepath.Join(dir, "body"), filepath.Join(dir, "head")
		if err := os.WriteFile(file, body, 0o644); err != nil {
			t.Fatal(err)
		}
		transfer(t, "--limit-rate", "600k", "--data-binary", "@"+file, "-H", "Expect:", "-H", "Lab-Request-Id: one",
			"-D", head, "-o", filepath.Join(dir, "reply"), "http://"+vip+"/reply?size=1000")
		got, err := os.ReadFile(head)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(body)
		if want := "Lab-Body-Sha256: " + hex.EncodeToString(sum[:]); !strings.Contains(string(got), want) {
			t.Errorf("the application got another body; it says\n%s", got)
		}
	})
}

// waitHeld waits until there are so many connections, and all are held twice.
func waitHeld(t *testing.T, connections int) {
	t.Helper()
	var out []byte
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var err error
		if out, err = understudy(t, "lab", "status", "-o", "json"); err != nil {
			continue
		}
		var s struct {
			Pairs []struct {
				State                  string
				Connections, Protected int
			}
		}
		if err := json.Unmarshal(out, &s); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if len(s.Pairs) == 1 && s.Pairs[0].State == "duplex" && s.Pairs[0].Connections >= connections && s.Pairs[0].Protected == s.Pairs[0].Connections {
			return
		}
	}
	t.Fatalf("not all connections are held twice:\n%s", out)
}

func waitActive(t *testing.T, server string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if active(t) == server {
			return
		}
	}
	t.Fatalf("%s has not become active", server)
}

// An agent is stopped as an upgrade stops it, and started again: on the active server
// that is a failover, on the backup nothing that a client could notice. Afterwards
// every connection is held twice again, and the other server can die.
func TestAgentRestarts(t *testing.T) {
	needRoot(t)
	if _, err := understudy(t, "lab", "up"); err != nil {
		t.Fatal(err)
	}
	const connections = 50
	load := make(chan error, 1)
	go func() {
		_, err := understudy(t, "lab", "load", "--connections", fmt.Sprint(connections), "--duration", "20s")
		load <- err
	}()
	waitHeld(t, connections)
	for _, role := range []string{"active", "backup", "active"} {
		server := active(t)
		if role == "backup" {
			server = map[string]string{"server1": "server2", "server2": "server1"}[server]
		}
		t.Logf("the agent of %s, %s, is restarted", server, role)
		if err := syscall.Kill(agentOf(t, server), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if role == "active" {
			waitActive(t, map[string]string{"server1": "server2", "server2": "server1"}[server])
		}
		waitEnded(t, server)
		if _, err := understudy(t, "lab", "heal", server); err != nil {
			t.Fatal(err)
		}
		waitHeld(t, connections)
	}
	if _, err := understudy(t, "lab", "fault", "power-off", active(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-load:
		t.Fatalf("the load ended before it could show anything: %v", err)
	default:
	}
	if err := <-load; err != nil {
		t.Error(err)
	}
}

// agentOf returns the process of a server's agent, 0 if it does not run.
func agentOf(t *testing.T, server string) int {
	t.Helper()
	out, err := understudy(t, "lab", "status", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Nodes []struct {
			Name      string
			Processes []struct {
				Role  string
				PID   int
				State string
			}
		}
	}
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, n := range s.Nodes {
		for _, p := range n.Processes {
			if n.Name == server && p.Role == "agent" && p.State == "running" {
				return p.PID
			}
		}
	}
	return 0
}

// waitEnded waits until a server's agent runs no more.
func waitEnded(t *testing.T, server string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); agentOf(t, server) != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the agent of %s does not end", server)
		}
	}
}
