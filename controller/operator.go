// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/admin"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/store"
)

// What a server's administrative state is called, in the API and on disk.
var (
	adminStates = map[failover.Admin]adminv1.AdminState{
		failover.InService: adminv1.AdminState_ADMIN_STATE_IN_SERVICE,
		failover.Drained:   adminv1.AdminState_ADMIN_STATE_DRAINED,
		failover.Isolated:  adminv1.AdminState_ADMIN_STATE_FENCED,
	}
	adminNames = map[failover.Admin]string{failover.Drained: "drained", failover.Isolated: "fenced"}
)

// restore tells the machines who was put out of service before this controller came.
// It is called before the loop runs.
func (l *loop) restore(kept map[string]store.Admin) {
	for state, name := range adminNames {
		for server, a := range kept {
			if at, ok := l.tables.Load().servers[server]; ok && a.State == name {
				l.step(at.pair, time.Now(), failover.SetAdmin{Server: at.replica, State: state, Force: a.Forced})
			}
		}
	}
}

// Administer implements admin.Backend. A request that is given up by its caller is in
// force all the same.
func (l *loop) Administer(ctx context.Context, server string, to adminv1.AdminState, force bool, by string) (*adminv1.ServerChange, error) {
	var state failover.Admin
	for s, x := range adminStates {
		if x == to {
			state = s
		}
	}
	at, ok := l.tables.Load().servers[server]
	if !ok {
		return nil, fmt.Errorf("%w: %q", admin.ErrNoServer, server)
	}
	answer := make(chan failover.Reply, 1)
	id, err := l.administer(ctx, server, at, failover.SetAdmin{Server: at.replica, State: state, Force: force}, by, answer)
	if err != nil {
		return nil, err
	}
	r, err := l.await(ctx, at.pair, id, answer)
	if err != nil {
		return nil, err
	}
	if r.Refused != "" {
		return nil, fmt.Errorf("%w: server %q: %s; wait until that has changed, or force it", admin.ErrRefused, server, r.Refused)
	}
	out := &adminv1.ServerChange{}
	if r.Failover != (failover.Failover{}) {
		done := l.record(at.pair, r.Failover)
		out.Failover = done.proto()
	}
	return out, l.call(ctx, func() { out.Pair = at.pair.proto() })
}

// administer has a machine decide, and keeps what it has accepted: the answer, which
// may take long, is awaited by the caller. One at a time, so that what is kept is what
// was decided last.
func (l *loop) administer(ctx context.Context, server string, at place, ev failover.SetAdmin, by string, answer chan failover.Reply) (id uint64, err error) {
	l.administering.Lock()
	defer l.administering.Unlock()
	var refused bool
	var now failover.ServerStatus
	if err := l.call(ctx, func() {
		ev.Request = l.request(answer)
		l.step(at.pair, time.Now(), ev)
		for _, s := range at.pair.machine.Status().Servers {
			if s.Replica == at.replica {
				now = s
			}
		}
		select {
		case r := <-answer: // at once
			refused = r.Refused != ""
			answer <- r
		default:
		}
	}); err != nil {
		return 0, err
	}
	if refused || l.keep == nil {
		return ev.Request, nil
	}
	var kept *store.Admin
	if now.Admin != failover.InService {
		kept = &store.Admin{State: adminNames[now.Admin], Forced: now.Forced, At: time.Now(), By: by}
	}
	if err := l.keep(server, kept); err != nil {
		return 0, fmt.Errorf("server %q is %v, but a restart of the controller would forget it: %w", server, now.Admin, err)
	}
	l.log.Info("administrative state", "server", server, "state", now.Admin.String(), "forced", now.Forced, "by", by)
	return ev.Request, nil
}

// request has the machines' answer to a number go to a channel, which has room for it.
// The caller holds l.mu.
func (l *loop) request(answer chan<- failover.Reply) uint64 {
	l.lastReq++
	l.requests[l.lastReq] = answer
	return l.lastReq
}

// await waits for the answer to a request. If ctx ends first, nobody waits for it any
// more.
func (l *loop) await(ctx context.Context, p *pair, id uint64, answer <-chan failover.Reply) (failover.Reply, error) {
	select {
	case r := <-answer:
		return r, nil
	case <-ctx.Done():
		l.post(input{do: func() {
			delete(l.requests, id)
			l.step(p, time.Now(), failover.GiveUp{Request: id})
		}})
		return failover.Reply{}, ctx.Err()
	case <-l.stopped:
		return failover.Reply{}, errStopped
	}
}
