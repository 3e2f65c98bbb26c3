// SPDX-License-Identifier: Apache-2.0

package application

import (
	"context"
	"net"
	"testing"
	"time"
)

type finding struct {
	up     bool
	reason string
}

func watch(t *testing.T, address string) (*Monitor, <-chan finding) {
	t.Helper()
	found := make(chan finding, 100)
	m := &Monitor{Address: address, Changed: func(up bool, reason string) { found <- finding{up, reason} }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return m, found
}

func expect(t *testing.T, found <-chan finding, up bool) {
	t.Helper()
	select {
	case f := <-found:
		if f.up != up {
			t.Fatalf("found up %v (%s), want %v", f.up, f.reason, up)
		}
		if !up && f.reason == "" {
			t.Error("no reason")
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("nothing found, want up %v", up)
	}
}

// server accepts and keeps connections, as an application does.
func server(t *testing.T, address string) (addr string, kill func()) {
	t.Helper()
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1000)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(conns)
				return
			}
			conns <- c
		}
	}()
	kill = func() {
		l.Close()
		for c := range conns {
			c.Close()
		}
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), kill
}

func TestDeathAndReturn(t *testing.T) {
	addr, kill := server(t, "127.0.0.1:0")
	m, found := watch(t, addr)
	expect(t, found, true)
	kill() // nobody asks anything: the idle connection tells
	expect(t, found, false)
	if m.Suspect(context.Background(), nil) {
		t.Error("Suspect finds it alive")
	}
	_, kill = server(t, addr)
	expect(t, found, true)
	if !m.Suspect(context.Background(), nil) || !m.Up() {
		t.Error("Suspect finds it dead")
	}
	kill()
	expect(t, found, false)
}

// An application that closes idle connections lives.
func TestIdleConnectionsClosed(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed := make(chan struct{}, 1000)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			time.AfterFunc(20*time.Millisecond, func() { c.Close(); closed <- struct{}{} })
		}
	}()
	_, found := watch(t, l.Addr().String())
	expect(t, found, true)
	for range 5 {
		<-closed
	}
	select {
	case f := <-found:
		t.Errorf("found %+v", f)
	default:
	}
}
