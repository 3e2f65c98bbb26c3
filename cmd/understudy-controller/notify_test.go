// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A service manager is told that it serves, though the switch is away, that it lives, and
// that it takes up another configuration.
func TestServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	// until returns when a message has come.
	until := func(want string) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				t.Fatalf("%s did not come: %v", want, err)
			}
			if strings.HasPrefix(string(b[:n]), want) {
				return
			}
		}
	}
	file := write(t, strings.ReplaceAll(strings.ReplaceAll(valid, "SWITCH", "127.0.0.1:1"), "STATE", t.TempDir()))
	var stdout, stderr output
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"--config", file, "--log-format", "json"}, &stdout, &stderr) }()
	until("STATUS=waiting for switch")
	until("READY=1")
	until("WATCHDOG=1")
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until("RELOADING=1")
	until("READY=1")
	stop()
	until("STOPPING=1")
	if c := <-code; c != 0 {
		t.Errorf("exit code %d:\n%s", c, stderr.String())
	}
	if !strings.Contains(stderr.String(), `{"time":`) {
		t.Errorf("the log is not JSON:\n%s", stderr.String())
	}
}
