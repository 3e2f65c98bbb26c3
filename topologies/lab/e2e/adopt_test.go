// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
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
		body := testFile("huge")[:6<<20] // what both servers keep of a request is 8 MiB
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
