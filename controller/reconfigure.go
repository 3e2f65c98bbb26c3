// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// answerTimeout is how long agents may take to open what is new before clients are
// sent there. One that is slow, or away, opens it when it can.
const answerTimeout = 2 * time.Second

// reconfigure puts another configuration in force while everything goes on. Nothing
// of it is in force if it returns an error. One call at a time.
//
// Agents are told first, and the switch when they have answered: no client meets a
// server that does not know the service yet. Backups are told before the active
// server, which begins to hold its connections twice when it opens a service. A
// server that its pair has no more is let go before all that; it must not be active.
func (l *loop) reconfigure(ctx context.Context, cfg *config.Config) error {
	old := l.tables.Load()
	next := l.newTables(cfg, old)
	if l.room != nil {
		if err := l.room(next); err != nil {
			return err
		}
	}
	updates := p4rt.Diff(p4rt.State{Entries: old.standing}, p4rt.State{Entries: next.standing})

	gone, err := l.swap(old, next)
	if err != nil {
		return err
	}
	l.tell(ctx, next, failover.Backup)
	l.tell(ctx, next, failover.Active)
	for _, p := range gone {
		if next.byID[p.id] == nil { // else another one has its number
			updates = append(updates, removal(p)...)
		}
	}
	err = l.change(ctx, updates)
	var refused *p4rt.WriteError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		l.log.Error("the switch has refused a configuration; the one before is back", "error", err)
		if _, back := l.swap(next, l.newTables(old.cfg, next)); back != nil {
			return fmt.Errorf("the switch refuses it: %w; and it cannot be taken back: %w", err, back)
		}
		l.tell(ctx, l.tables.Load(), failover.Backup)
		l.tell(ctx, l.tables.Load(), failover.Active)
		l.resync()
		return fmt.Errorf("the switch refuses it: %w", err)
	}
	// It gets everything when there is a session again.
	l.log.Warn("the switch does not have the new configuration yet", "error", err)
	l.resync()
	return nil
}

// changeable is an error if a server would have to be another one, or one that is
// active would go. The caller holds l.mu.
func changeable(old *tables, cfg *config.Config) error {
	for _, pc := range cfg.Pairs {
		p := old.same(pc)
		if p == nil {
			continue
		}
		for _, was := range p.config.Servers {
			is, ok := pc.Server(was.Replica)
			switch {
			case !ok || is.Name != was.Name:
				if why := p.machine.Removable(failover.Replica(was.Replica)); why != "" {
					return fmt.Errorf("pair %q: server %q cannot be removed: %s", pc.Name, was.Name, why)
				}
			case is.Port != was.Port || is.MAC != was.MAC || is.Gateway.Address != was.Gateway.Address:
				return fmt.Errorf("pair %q: where server %q is cannot be changed while it belongs to the pair; remove it, and add it again", pc.Name, was.Name)
			}
		}
	}
	return nil
}

// swap puts tables in force, and returns the pairs that are no more. Nothing has
// changed if it returns an error.
func (l *loop) swap(old, next *tables) (gone []*pair, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := changeable(old, next.cfg); err != nil {
		return nil, err
	}
	now := time.Now()
	for _, p := range old.pairs {
		if next.byID[p.id] != p {
			gone = append(gone, p)
			l.end(p)
		}
	}
	var more []input
	for _, pc := range next.cfg.Pairs {
		p := next.byID[pc.ID]
		if old.byID[pc.ID] == p {
			more = append(more, l.removeServers(p, pc, now)...)
		}
		p.configure(next.cfg, pc)
		more = append(more, input{pair: p, event: failover.SetWatchdog{On: pc.Watchdog}})
	}
	l.tables.Store(next)
	l.setPlaces(places(next.cfg))
	for _, f := range l.configured {
		f(next.cfg)
	}
	for _, in := range more {
		l.step(in.pair, now, in.event)
	}
	for _, p := range next.pairs {
		l.tellPorts(p, now)
		if p.stop == nil && l.ctx != nil {
			l.start(p)
			l.step(p, now, failover.SwitchState{}) // nothing in the switch is its own
		}
	}
	return gone, nil
}

// removeServers takes those from a pair that it has no more, and returns the events by
// which it gets those that are new, once it is configured. The caller holds l.mu.
func (l *loop) removeServers(p *pair, pc config.Pair, now time.Time) (added []input) {
	for _, was := range p.config.Servers {
		if is, ok := pc.Server(was.Replica); ok && is.Name == was.Name {
			continue
		}
		i := was.Replica - 1
		l.step(p, now, failover.RemoveServer{Server: failover.Replica(was.Replica)})
		if s := p.sessions[i]; s != nil {
			s.End()
		}
		p.sessions[i], p.assigned[i], p.replication[i] = nil, nil, ""
	}
	for _, is := range pc.Servers {
		if was, ok := p.config.Server(is.Replica); !ok || was.Name != is.Name {
			added = append(added, input{pair: p, event: failover.AddServer{Server: failover.Replica(is.Replica), Name: is.Name}})
		}
	}
	return added
}

// end stops a pair's writer, and fences its servers. The caller holds l.mu.
func (l *loop) end(p *pair) {
	if p.stop != nil {
		p.stop()
	}
	p.services = nil
	for i := range p.sessions {
		l.assign(p, failover.Assign{Server: failover.Replica(i + 1), Epoch: p.machine.Status().Epoch + 1, Role: failover.Fenced})
		p.sessions[i] = nil
	}
}

// tell gives the servers of a role what they are once more, with the services that
// they have now, and waits until they have answered.
func (l *loop) tell(ctx context.Context, t *tables, role failover.Role) {
	told := func() (pending bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, p := range t.pairs {
			for _, s := range p.sessions {
				pending = pending || s != nil && s.Pending()
			}
		}
		return pending
	}
	l.mu.Lock()
	for _, p := range t.pairs {
		for _, a := range p.assigned {
			if a != nil && (a.Role == role || role != failover.Active && a.Role != failover.Active) {
				l.assign(p, *a)
			}
		}
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for told() {
		select {
		case <-ctx.Done():
			l.log.Warn("agents have not answered yet; going on without them")
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// removal is what has to go from the switch with a pair, beside what stands there by
// configuration.
func removal(p *pair) []p4rt.Update {
	entry, group := activeEntry{}.entry(p.id), p4rt.Group{ID: uint32(p.id)}
	return []p4rt.Update{{Op: p4rt.Delete, Entry: &entry}, {Op: p4rt.Delete, Group: &group}}
}
