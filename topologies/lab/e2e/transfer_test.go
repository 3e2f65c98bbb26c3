// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-net/understudy/topologies/lab/app"
)

// transferSize is far beyond what the agents hold of a request or a reply in memory.
const transferSize = 64 << 20

// large writes a file that curl transfers, and returns its hash.
func large(t *testing.T, path string) (sum string) {
	t.Helper()
	b := make([]byte, transferSize)
	rand.NewChaCha8([32]byte{1}).Read(b)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// underFault runs curl, which takes some seconds, and breaks the active server after
// the first. It returns what curl prints.
func underFault(t *testing.T, fault string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := inClient(ctx, append([]string{program(t, "curl"), "-sS", "--fail", "--max-time", "60", "--limit-rate", "16M"}, args...)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	server := active(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if _, err := understudy(t, "lab", "fault", fault, server); err != nil {
		t.Error(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) || stderr.Len() > 0 {
		t.Errorf("curl: %v\n%s", err, &stderr)
	}
	if _, err := understudy(t, "lab", "heal", server); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// A long download goes on where it was: nginx gives the same validator on both servers.
func TestDownloadGoesOn(t *testing.T) {
	needRoot(t)
	program(t, "curl")
	root := withNginx(t)
	sum := large(t, filepath.Join(root, "transfer"))
	for _, fault := range []string{"kill-agent", "kill-app", "power-off"} {
		t.Run(fault, func(t *testing.T) {
			got := filepath.Join(t.TempDir(), "got")
			out := underFault(t, fault, "-o", got, "-w", "%{http_code} %{num_connects}", "http://"+vip+"/transfer")
			if out != "200 1" {
				t.Errorf("curl says %q", out)
			}
			b, err := os.ReadFile(got)
			if h := sha256.Sum256(b); err != nil || hex.EncodeToString(h[:]) != sum {
				t.Errorf("%d of %d bytes, or other ones (%v)", len(b), transferSize, err)
			}
		})
	}
}

// A long upload arrives whole, at whichever server.
func TestUploadGoesOn(t *testing.T) {
	needRoot(t)
	program(t, "curl")
	file := filepath.Join(t.TempDir(), "huge")
	sum := large(t, file)
	if _, err := understudy(t, "lab", "up"); err != nil {
		t.Fatal(err)
	}
	for _, fault := range []string{"kill-agent", "kill-app", "power-off"} {
		for name, args := range map[string][]string{
			"length":  nil,
			"chunked": {"-H", "Transfer-Encoding: chunked"},
		} {
			t.Run(fault+", "+name, func(t *testing.T) {
				args := append([]string{"-X", "POST", "-T", file, "-o", os.DevNull, "-D", "-", "-H", "Expect:"}, args...)
				out := underFault(t, fault, append(args, "http://"+vip+app.Reply{Size: 100}.URI())...)
				if !strings.Contains(out, app.HeaderBodyHash+": "+sum) {
					t.Errorf("another upload arrived:\n%s", out)
				}
			})
		}
	}
}
