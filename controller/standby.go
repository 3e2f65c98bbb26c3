// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// errStandsBy is what agents are told by a controller that is not in charge: they go on
// to the next one.
var errStandsBy = status.Error(codes.Unavailable, "this controller stands by: another one is in charge of the switch")

// standBy is called when another controller is in charge of the switch. This one
// forgets what it knew of the pairs, and lets their agents go: all that matters is in
// the switch and with the agents, and is asked for when this one takes over.
func (l *loop) standBy() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.standing || l.ended() {
		return
	}
	l.standing = true
	t := l.tables.Load()
	for _, p := range t.pairs {
		old := p.machine.Status()
		p.machine = newMachine(t.cfg, p.config)
		for _, s := range old.Servers {
			if s.Admin != failover.InService {
				p.machine.Step(time.Now(), failover.SetAdmin{Server: s.Replica, State: s.Admin, Force: s.Forced})
			}
		}
		for _, s := range p.config.Servers {
			p.machine.Step(time.Now(), l.portState(s))
		}
		p.writer.begin(old.Epoch + 1)
		p.connections, p.protected = 0, 0
		for i, s := range p.sessions {
			if s != nil {
				s.End()
			}
			p.sessions[i], p.assigned[i] = nil, nil
		}
		l.notify(p, time.Now(), failover.Notify{
			Kind: failover.StateChanged, Message: old.State.String() + " -> unknown: another controller is in charge of the switch",
		})
	}
	for id, ch := range l.requests {
		delete(l.requests, id)
		ch <- failover.Reply{Request: id, Refused: "another controller is in charge of the switch; ask that one"}
	}
}

// takeOver is called when this controller is in charge, and the machines have been told
// what the switch has.
func (l *loop) takeOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.standing = false
}

// newMachine knows the servers of a pair, and nothing else.
func newMachine(cfg *config.Config, pc config.Pair) *failover.Machine {
	names := make([]string, config.ServersPerPair)
	for _, s := range pc.Servers {
		names[s.Replica-1] = s.Name
	}
	return failover.New(failover.Config{
		Servers: names, Interval: cfg.Heartbeat.Interval, Missed: cfg.Heartbeat.Missed, Watchdog: pc.Watchdog,
	})
}

// maxDriftTold bounds how many differences one event names.
const maxDriftTold = 5

// drifted tells whoever watches what was changed in the switch behind this controller's
// back.
func (l *loop) drifted(name string, updates []p4rt.Update) {
	text := "switch " + name + " has changed behind the controller's back; put right by:"
	for i, u := range updates {
		if i == maxDriftTold {
			text += " ..."
			break
		}
		text += " " + u.String() + ";"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.share(&adminv1.Event{Time: timestamppb.Now(), Type: adminv1.EventType_EVENT_TYPE_SWITCH_DRIFT, Message: text})
}
