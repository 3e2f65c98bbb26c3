// SPDX-License-Identifier: Apache-2.0

// Package application watches the local application behind the proxy.
package application

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// dialTimeout: a connection on one's own host is immediate, or refused.
	dialTimeout = 200 * time.Millisecond
	// retryDown is how often a dead application is tried again.
	retryDown = 20 * time.Millisecond
	// settle is how long a new connection must stay open to count: a process that
	// is being killed still accepts for a moment.
	settle = time.Millisecond
	// attempts in a row, retryRefused apart, make an application dead; a refusal by
	// the kernel does at once.
	refusals     = 2
	retryRefused = time.Millisecond
)

// A Monitor holds one idle connection to the application. The kernel closes it in
// the moment in which the application dies: nothing has to be polled, and no
// request has to fail first. An application that closes idle connections is
// asked again at once, and is alive.
type Monitor struct {
	// Address of the application, "address:port".
	Address string
	// Changed is called, from one goroutine, with every change and the first
	// finding.
	Changed func(up bool, reason string)

	mu      sync.Mutex
	known   bool
	up      bool
	suspect chan struct{}
	once    sync.Once
}

func (m *Monitor) init() { m.once.Do(func() { m.suspect = make(chan struct{}, 1) }) }

// Up returns the last finding.
func (m *Monitor) Up() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up
}

// Suspect finds out at once whether the application is alive, after err.
func (m *Monitor) Suspect(ctx context.Context, err error) bool {
	m.init()
	c, reason := m.dial(ctx)
	if c != nil {
		c.Close()
		return true
	}
	if ctx.Err() != nil {
		return m.Up()
	}
	select {
	case m.suspect <- struct{}{}:
	default:
	}
	m.set(false, reason)
	return false
}

func (m *Monitor) set(up bool, reason string) {
	m.mu.Lock()
	change := !m.known || m.up != up
	m.known, m.up = true, up
	m.mu.Unlock()
	if change && m.Changed != nil {
		m.Changed(up, reason)
	}
}

// dial opens a connection that stays open for a moment, or says why not.
func (m *Monitor) dial(ctx context.Context) (net.Conn, string) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	d.Timeout = dialTimeout
	var reason string
	for i := range refusals {
		if i > 0 {
			sleep(ctx, retryRefused)
		}
		c, err := d.DialContext(ctx, "tcp", m.Address)
		if err != nil {
			reason = err.Error()
			if errors.Is(err, syscall.ECONNREFUSED) {
				break // the kernel knows: nobody listens
			}
			continue
		}
		c.SetReadDeadline(time.Now().Add(settle))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			c.SetReadDeadline(time.Time{})
			return c, ""
		} else {
			c.Close()
			reason = "connection closed at once: " + err.Error()
		}
	}
	return nil, reason
}

// Run watches until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	m.init()
	for ctx.Err() == nil {
		c, reason := m.dial(ctx)
		if c == nil {
			if ctx.Err() != nil {
				break
			}
			m.set(false, reason)
			sleep(ctx, retryDown)
			continue
		}
		m.set(true, "")
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			// The application has nothing to say on a connection without a
			// request; whatever it says, or that it closes, ends the wait.
			c.Read(make([]byte, 1))
		}()
		select {
		case <-closed:
		case <-m.suspect:
		case <-ctx.Done():
		}
		c.Close()
		<-closed
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
