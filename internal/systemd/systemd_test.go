// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"testing"
	"time"
)

// manager is the socket of a service manager.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func told(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNotify(t *testing.T) {
	c := manager(t)
	n := New(nil)
	for _, tc := range []struct {
		say  func()
		want string
	}{
		{n.Ready, "^READY=1$"},
		{n.Reloading, `^RELOADING=1\nMONOTONIC_USEC=[0-9]+$`},
		{n.Stopping, "^STOPPING=1$"},
		{func() { n.Status("12 pairs") }, "^STATUS=12 pairs$"},
	} {
		tc.say()
		if got := told(t, c); !regexp.MustCompile(tc.want).MatchString(got) {
			t.Errorf("told %q, want %s", got, tc.want)
		}
	}
}

// There is a sign of life while there is life, and none without.
func TestWatch(t *testing.T) {
	c := manager(t)
	t.Setenv("WATCHDOG_USEC", "2000")
	var dead atomic.Bool
	asked := make(chan struct{}, 1)
	alive := func(context.Context) error {
		if dead.Load() {
			select {
			case asked <- struct{}{}:
			default:
			}
			return errors.New("stuck")
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- New(nil).Watch(ctx, alive) }()
	for range 3 {
		if got := told(t, c); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
	}
	dead.Store(true)
	// After the second question there is no sign under way any more.
	<-asked
	<-asked
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	for b := make([]byte, 64); ; {
		if _, err := c.Read(b); err != nil {
			break
		}
	}
	<-asked
	<-asked
	c.SetReadDeadline(time.Now())
	if n, err := c.Read(make([]byte, 64)); err == nil {
		t.Errorf("a sign of %d bytes without life", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Nobody asks: nothing happens.
func TestNobody(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n := New(nil)
	n.Ready()
	if err := n.Watch(t.Context(), func(context.Context) error { t.Error("asked"); return nil }); err != nil {
		t.Error(err)
	}
}
