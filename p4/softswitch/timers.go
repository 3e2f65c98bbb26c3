// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"context"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
)

// scanInterval is how often idle entries are looked for at most, as in the example of
// P4Runtime 1.5, section 16.4.
const scanInterval = 10 * time.Millisecond

// watchTimers tells of idle entries and sends digests whose time has come, until ctx is
// done.
func (s *Switch) watchTimers(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Stop()
		if next := s.runTimers(); next > 0 {
			timer.Reset(next)
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.timersChanged:
		}
	}
}

// wakeTimers makes watchTimers look again. It does not block.
func (s *Switch) wakeTimers() {
	select {
	case s.timersChanged <- struct{}{}:
	default:
	}
}

// runTimers does what is due, and returns when it is to be called again; 0 is never.
func (s *Switch) runTimers() time.Duration {
	p := s.forwarding.Load()
	if p == nil {
		return 0
	}
	next := time.Duration(0)
	sooner := func(d time.Duration) {
		if d > 0 && (next == 0 || d < next) {
			next = d
		}
	}
	for _, d := range p.digests {
		sooner(d.tick())
	}
	for _, ts := range p.schema.tables {
		if !ts.timeouts {
			continue
		}
		idle, left := p.table(ts).Expired()
		if left > 0 {
			sooner(max(left, scanInterval))
		}
		if len(idle) == 0 {
			continue
		}
		n := &p4v1.IdleTimeoutNotification{Timestamp: time.Now().UnixNano()}
		for _, e := range idle {
			b, timeout := e.Bound(), e.IdleTimeout()
			te := ts.key(&snapshot{entry: e})
			o := opaqueOf(b)
			te.Metadata, te.ControllerMetadata, te.IdleTimeoutNs = o.metadata, o.controller, int64(timeout)
			n.TableEntry = append(n.TableEntry, te)
		}
		s.notify(ts.id, &p4v1.StreamMessageResponse{Update: &p4v1.StreamMessageResponse_IdleTimeoutNotification{IdleTimeoutNotification: n}})
	}
	return next
}

// notify queues a message about an object for the primary controllers that have it, and
// tells whether there was one with room. It does not block.
func (s *Switch) notify(id uint32, m *p4v1.StreamMessageResponse) bool {
	sent := false
	for _, c := range s.arbiter.primaries() {
		if c.access.owns(id) && c.box.packet(m) {
			sent = true
		}
	}
	return sent
}
