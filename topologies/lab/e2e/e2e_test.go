// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the whole of Understudy in the lab, with every part real, and
// looks at what clients see. It needs root.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-net/understudy/topologies"
)

const (
	vip = "198.51.100.10"
	// patience bounds one call of the lab.
	patience = 3 * time.Minute
)

// built makes the programs once, and returns where they are.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "understudy-e2e-")
	if err != nil {
		return "", err
	}
	args := []string{"build", "-buildvcs=false", "-o", dir}
	for _, p := range []string{"understudy", "understudy-controller", "understudy-agent", "understudy-switch"} {
		args = append(args, "github.com/understudy-net/understudy/cmd/"+p)
	}
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := built(); err == nil && os.Geteuid() == 0 {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// understudy runs the CLI and returns what it prints, and its error.
func understudy(t *testing.T, args ...string) (stdout []byte, err error) {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "understudy"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	err = cmd.Run()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("understudy %s:\n%s%s", strings.Join(args, " "), &out, &progress)
		}
	})
	if err != nil {
		err = fmt.Errorf("understudy %s: %w\n%s", strings.Join(args, " "), err, &progress)
	}
	return out.Bytes(), err
}

// needRoot skips a test without root, and makes sure that no lab is left by one
// that failed.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for network namespaces and eBPF")
	}
	if testing.Short() {
		t.Skip("takes minutes; left out by -short")
	}
	t.Cleanup(func() {
		if _, err := understudy(t, "lab", "down"); err != nil {
			t.Error(err)
		}
	})
}

// program skips a test where a program is not installed.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed; `make packages` as root installs it", name)
	}
	return path
}

// topology writes the default topology with additions, and returns its file.
func topology(t *testing.T, more string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "topology.yaml")
	if err := os.WriteFile(file, append(topologies.Pair(), "\n"+more...), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

type scenario struct {
	Fault       string  `json:"fault"`
	Connections int     `json:"connections"`
	Requests    int     `json:"requests"`
	Failed      int     `json:"failed"`
	Reset       int     `json:"reset"`
	Corrupt     int     `json:"corrupt"`
	MaxStall    float64 `json:"max_stall_ms"`
	Detect      float64 `json:"detect_ms"`
	Flip        float64 `json:"flip_ms"`
}

// demo runs the lab's demo; the error is its exit status.
func demo(t *testing.T, args ...string) ([]scenario, error) {
	t.Helper()
	out, failed := understudy(t, append([]string{"lab", "demo", "-o", "json"}, args...)...)
	var report struct {
		Scenarios []scenario `json:"scenarios"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("the demo's JSON: %v\n%s\n%v", err, out, failed)
	}
	for _, s := range report.Scenarios {
		t.Logf("%-10s %d requests on %d connections: %d failed, %d reset, %d corrupt; stall %.1f ms, detected in %.1f ms, flipped in %.1f ms",
			s.Fault, s.Requests, s.Connections, s.Failed, s.Reset, s.Corrupt, s.MaxStall, s.Detect, s.Flip)
	}
	return report.Scenarios, failed
}

// clean checks that nobody noticed anything.
func clean(t *testing.T, got []scenario, err error, want int) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	if len(got) != want {
		t.Errorf("%d scenarios, want %d", len(got), want)
	}
	for _, s := range got {
		if s.Failed+s.Reset+s.Corrupt != 0 {
			t.Errorf("%s: %d failed, %d reset, %d corrupt", s.Fault, s.Failed, s.Reset, s.Corrupt)
		}
		if s.Requests < 2*s.Connections {
			t.Errorf("%s: only %d requests", s.Fault, s.Requests)
		}
	}
}

// The main job: each kind of fault, to the server that speaks.
func TestActiveServerDies(t *testing.T) {
	needRoot(t)
	got, err := demo(t)
	clean(t, got, err, 5)
}

func TestBackupDies(t *testing.T) {
	needRoot(t)
	got, err := demo(t, "--target", "backup")
	clean(t, got, err, 5)
}

// The same connections outlive one server after the other: whoever comes back has
// adopted them all before the next fault.
func TestRounds(t *testing.T) {
	needRoot(t)
	got, err := demo(t, "--rounds", "3")
	clean(t, got, err, 5)
}

// Without adoption they never are held twice again.
func TestRoundsWithoutAdoption(t *testing.T) {
	needRoot(t)
	file := topology(t, "agent: {disable: [adopt]}\n")
	_, err := demo(t, "--rounds", "1", "--faults", "power-off", "--topology", file)
	if err == nil || !strings.Contains(err.Error(), "connections are held twice after") {
		t.Errorf("without adoption: %v", err)
	}
}

// A minute in which one copy in 20 toward the backup is lost; then the active
// server dies, and the backup lacks nothing.
func TestLossTowardTheBackup(t *testing.T) {
	needRoot(t)
	needFaultInjection(t)
	got, err := demo(t, "--drop-copies", "20", "--duration", "1m", "--faults", "power-off")
	clean(t, got, err, 1)
}

// The active role moves while replies of 600 kB are on their way: none of them is
// put together from two servers' halves.
func TestSwitchOverUnderLargeReplies(t *testing.T) {
	needRoot(t)
	if _, err := understudy(t, "lab", "up"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		done := make(chan error, 1)
		go func() {
			_, err := understudy(t, "lab", "load", "--connections", "6", "--think", "200ms", "--size", "600000", "--duration", "2s")
			done <- err
		}()
		time.Sleep(time.Second)
		if out, err := understudy(t, "switch-over", "web"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		waitDuplex(t)
	}
}

// waitDuplex waits until a fresh backup has joined.
func waitDuplex(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		out, err := understudy(t, "pairs")
		if err == nil && bytes.Contains(out, []byte("duplex")) {
			time.Sleep(300 * time.Millisecond)
			return
		}
	}
	t.Fatal("the pair is not duplex again")
}

// What is off must be missed; else the tests above prove nothing.
func TestWhatEachPartIsFor(t *testing.T) {
	for name, c := range map[string]struct {
		off  string
		args []string
	}{
		"alignment": {"align", []string{"--faults", "power-off"}},
		"guard":     {"guard", []string{"--faults", "kill-agent"}},
		"gate":      {"gate", []string{"--faults", "power-off", "--drop-copies", "5"}},
	} {
		t.Run("without "+name, func(t *testing.T) {
			needRoot(t)
			if slices.Contains(c.args, "--drop-copies") {
				needFaultInjection(t)
			}
			file := topology(t, fmt.Sprintf("agent: {disable: [%s]}\n", c.off))
			got, err := demo(t, append(c.args, "--topology", file)...)
			if err == nil {
				t.Errorf("without %s the demo succeeds", c.off)
			}
			broken := 0
			for _, s := range got {
				broken += s.Failed + s.Reset + s.Corrupt
			}
			// Without the gate, requests hang before there is any fault; the demo then
			// does not begin, and says so.
			if broken == 0 && (err == nil || !strings.Contains(err.Error(), "first failure: failed")) {
				t.Errorf("without %s no connection breaks", c.off)
			}
		})
	}
}

const nginxConfig = `
daemon off;
worker_processes 2;
pid %[1]s/nginx-{server}.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000;
  server { listen 127.0.0.1:8080; root %[1]s; }
}
`

// fileSizes are what nginx serves.
var fileSizes = map[string]int{"small": 200, "medium": 20_000, "large": 1_000_000, "huge": 80_000_000}

func testFile(name string) []byte {
	size := fileSizes[name]
	return bytes.Repeat([]byte(name+" file of the test\n"), size/20+1)[:size]
}

// withNginx brings the lab up with nginx as the local application of both servers. It
// returns the folder that both serve.
func withNginx(t *testing.T) (root string) {
	t.Helper()
	nginx := program(t, "nginx")
	root = t.TempDir()
	// nginx's workers are somebody else: they may look into the test's directories,
	// of which the one above all of them is not the test's.
	for p := root; filepath.Clean(p) != filepath.Clean(os.TempDir()) && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name := range fileSizes {
		b := testFile(name)
		if err := os.WriteFile(filepath.Join(root, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var more strings.Builder
	for _, server := range []string{"server1", "server2"} {
		dir := filepath.Join(root, server)
		os.Mkdir(dir, 0o777)
		conf := strings.NewReplacer("{server}", server, "{dir}", dir).Replace(fmt.Sprintf(nginxConfig, root))
		if err := os.WriteFile(filepath.Join(root, server+".conf"), []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintf(&more, "app: {command: [%q, \"-c\", %q]}\n", nginx, filepath.Join(root, "{server}.conf"))
	if _, err := understudy(t, "lab", "up", "--topology", topology(t, more.String())); err != nil {
		t.Fatal(err)
	}
	return root
}

// active returns the name of the server that speaks.
func active(t *testing.T) string {
	t.Helper()
	out, err := understudy(t, "lab", "status", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`"name":\s*"(server[0-9]+)"[^{}]*"role":\s*"active"`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("nobody is active:\n%s", out)
	}
	return string(m[1])
}

// inClient runs a program as a client.
func inClient(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", "us-client"}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

var faults = []string{"kill-agent", "kill-app", "cut-link", "power-off", "freeze"}

// wrk counts no error while one server after the other dies, nginx behind them.
func TestNginxUnderWrk(t *testing.T) {
	needRoot(t)
	wrk := program(t, "wrk")
	withNginx(t)
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			cmd := inClient(ctx, wrk, "-t1", "-c20", "-d6s", "--timeout", "5s", "http://"+vip+"/medium")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			server := active(t)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			if _, err := understudy(t, "lab", "fault", fault, server); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("wrk: %v", err)
			}
			m := regexp.MustCompile(`(\d+) requests in`).FindSubmatch(out.Bytes())
			if m == nil {
				t.Fatalf("wrk:\n%s", &out)
			}
			if n, _ := strconv.Atoi(string(m[1])); n < 500 {
				t.Errorf("only %d requests", n)
			}
			if bytes.Contains(out.Bytes(), []byte("Socket errors")) || bytes.Contains(out.Bytes(), []byte("Non-2xx")) {
				t.Errorf("wrk counts errors:\n%s", &out)
			} else {
				t.Logf("%s", &out)
			}
			if _, err := understudy(t, "lab", "heal", server); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// curl fetches a large file again and again on one connection, slowly enough for
// the fault to fall into the middle of one.
func TestNginxUnderCurl(t *testing.T) {
	needRoot(t)
	curl := program(t, "curl")
	withNginx(t)
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			dir := t.TempDir()
			cmd := inClient(ctx, curl, "-sS", "--fail", "--max-time", "30", "--limit-rate", "2M",
				"-w", "%{http_code} %{size_download} %{num_connects}\n",
				"-o", filepath.Join(dir, "#1"), "http://"+vip+"/large?[1-8]")
			var out, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &stderr
			server := active(t)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1700 * time.Millisecond)
			if _, err := understudy(t, "lab", "fault", fault, server); err != nil {
				t.Error(err)
			}
			err := cmd.Wait()
			var exit *exec.ExitError
			if errors.As(err, &exit) || stderr.Len() > 0 {
				t.Errorf("curl: %v\n%s", err, &stderr)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(lines) != 8 {
				t.Errorf("%d replies, want 8", len(lines))
			}
			connects := 0
			for _, l := range lines {
				var code, size, n int
				if fmt.Sscan(l, &code, &size, &n); code != 200 || size != 1_000_000 {
					t.Errorf("curl says %q", l)
				}
				connects += n
			}
			if connects != 1 {
				t.Errorf("curl connected %d times", connects)
			}
			want := bytes.Repeat([]byte("large file of the test\n"), 50_001)[:1_000_000]
			for i := 1; i <= 8; i++ {
				got, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(i)))
				if err != nil {
					t.Error(err)
				} else if !bytes.Equal(got, want) {
					t.Errorf("file %d differs", i)
				}
			}
			if _, err := understudy(t, "lab", "heal", server); err != nil {
				t.Fatal(err)
			}
		})
	}
}
