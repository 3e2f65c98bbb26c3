// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/health"
)

// facts are what an agent has last said of its host. They are not changed any more.
type facts struct {
	session *health.Session
	at      time.Time
	// ahead is how far its clock was ahead of this one, the way of the message included.
	ahead     time.Duration
	listening []string
	// overflows counts connections that were thrown away since the session began; first is
	// what the kernel had counted before.
	overflows, first uint64
}

// learn keeps what the agent of a server says. The caller holds the loop's mutex.
func (p *pair) learn(r failover.Replica, s *health.Session, m *agentv1.Facts, now time.Time) {
	if p.sessions[r-1] != s {
		return // of a session that is over
	}
	f := &facts{session: s, at: now, listening: m.GetListening(), first: m.GetListenOverflows()}
	if m.GetTime() != nil {
		f.ahead = m.GetTime().AsTime().Sub(now)
	}
	if old := p.facts[r-1]; old != nil && old.session == s && m.GetListenOverflows() >= old.first {
		f.first = old.first
	}
	f.overflows = m.GetListenOverflows() - f.first
	p.facts[r-1] = f
}

// known are the facts of servers whose agents are there, by name. The caller holds the
// loop's mutex.
func (p *pair) known() map[string]*facts {
	known := map[string]*facts{}
	for _, s := range p.config.Servers {
		if f := p.facts[s.Replica-1]; f != nil && f.session == p.sessions[s.Replica-1] {
			known[s.Name] = f
		}
	}
	return known
}
