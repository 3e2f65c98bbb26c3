// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-net/understudy/controller/config"
)

// The test program plays other parts when it finds these in its environment.
const (
	asSpeaker   = "UNDERSTUDY_BGP_SPEAKER"
	inNamespace = "UNDERSTUDY_BGP_NETNS"
)

func TestMain(m *testing.M) {
	if os.Getenv(asSpeaker) != "" {
		if err := speak(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// speak is a controller that only announces: the first line that it reads is its
// configuration, each one after it all routes. It ends with its input.
func speak(in io.Reader) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	lines := bufio.NewScanner(in)
	var cfg config.BGP
	if !lines.Scan() {
		return lines.Err()
	}
	if err := json.Unmarshal(lines.Bytes(), &cfg); err != nil {
		return err
	}
	s := New(&cfg, logger)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for lines.Scan() {
		var routes []Route
		if err := json.Unmarshal(lines.Bytes(), &routes); err != nil {
			return err
		}
		if err := s.SetRoutes(routes); err != nil {
			return err
		}
	}
	cancel()
	return <-ended
}

// speaker is one of those in a process of its own, so that it can be killed.
type speaker struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	log *buffer
}

func startSpeaker(t *testing.T, cfg *config.BGP) *speaker {
	t.Helper()
	s := &speaker{t: t, cmd: exec.Command(os.Args[0]), log: new(buffer)}
	s.cmd.Env = append(os.Environ(), asSpeaker+"=1")
	s.cmd.Stderr = s.log
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("the speaker's log:\n%s", s.log)
		}
	})
	s.send(cfg)
	return s
}

func (s *speaker) send(v any) {
	s.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.in.Write(append(b, '\n')); err != nil {
		s.t.Fatalf("the speaker has ended: %v\n%s", err, s.log)
	}
}

func (s *speaker) kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// privateNetns runs the rest of the test in a process with a network namespace and
// a list of mounts of its own, so that nothing of it is left, and skips it without
// root. It returns true in that process.
func privateNetns(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) == t.Name() {
		for _, args := range []string{
			"mount --make-rprivate /",
			"mkdir -p /run/netns",
			"mount -t tmpfs tmpfs /run/netns",
			"ip link set lo up",
		} {
			run(t, strings.Fields(args)...)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), inNamespace+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in the namespace: %v", err)
	}
	return false
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// program skips a test where a program is not installed.
func program(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		t.Skipf("%s is not installed; `make packages` as root installs it", filepath.Base(name))
	}
}

// eventually waits until f says nothing more.
func eventually(t *testing.T, what string, f func() string) {
	t.Helper()
	deadline := time.Now().Add(45 * time.Second)
	for {
		why := f()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, why)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
