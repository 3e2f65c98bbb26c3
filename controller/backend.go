// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/admin"
	"github.com/understudy-net/understudy/controller/failover"
)

// The loop is the admin.Backend: requests enter it as functions.
var _ admin.Backend = (*loop)(nil)

// choose returns the pair of that name, or all for "".
func (l *loop) choose(name string) ([]*pair, error) {
	t := l.tables.Load()
	if name == "" {
		return t.pairs, nil
	}
	for _, p := range t.pairs {
		if p.name == name {
			return []*pair{p}, nil
		}
	}
	return nil, fmt.Errorf("%w: %q", admin.ErrNotFound, name)
}

// Pairs implements admin.Backend.
func (l *loop) Pairs(ctx context.Context, name string) ([]*adminv1.Pair, error) {
	pairs, err := l.choose(name)
	if err != nil {
		return nil, err
	}
	list := make([]*adminv1.Pair, 0, len(pairs))
	if err := l.call(ctx, func() {
		for _, p := range pairs {
			list = append(list, p.proto())
		}
	}); err != nil {
		return nil, err
	}
	return list, nil
}

// SwitchOver implements admin.Backend. A request that is given up by its caller
// may still be carried out.
func (l *loop) SwitchOver(ctx context.Context, name string) (*adminv1.Failover, error) {
	pairs, err := l.choose(name)
	if err != nil {
		return nil, err
	}
	p := pairs[0]
	answer := make(chan failover.Reply, 1)
	var id uint64
	if err := l.call(ctx, func() {
		id = l.request(answer)
		l.step(p, time.Now(), failover.SwitchOver{Request: id})
	}); err != nil {
		return nil, err
	}
	r, err := l.await(ctx, p, id, answer)
	if err != nil {
		return nil, err
	}
	if r.Refused != "" {
		return nil, fmt.Errorf("%w: pair %q: %s", admin.ErrRefused, name, r.Refused)
	}
	done := l.record(p, r.Failover)
	return done.proto(), nil
}

// Failovers implements admin.Backend.
func (l *loop) Failovers(ctx context.Context, name string) ([]*adminv1.Failover, error) {
	if _, err := l.choose(name); err != nil {
		return nil, err
	}
	var list []*adminv1.Failover
	if err := l.call(ctx, func() {
		for _, r := range l.history.list {
			if name == "" || r.Pair == name {
				list = append(list, r.proto())
			}
		}
	}); err != nil {
		return nil, err
	}
	return list, nil
}

// watcher is one who watches events.
type watcher struct {
	pair string
	ch   chan *adminv1.Event
}

// watchBuffer is how many events may wait for a slow reader, beside the
// snapshots.
const watchBuffer = 256

// Watch implements admin.Backend.
func (l *loop) Watch(ctx context.Context, name string, after uint64) (<-chan *adminv1.Event, func(), error) {
	pairs, err := l.choose(name)
	if err != nil {
		return nil, nil, err
	}
	w := &watcher{pair: name}
	remembered := true
	if err := l.call(ctx, func() {
		if after != 0 {
			var missed []*adminv1.Event
			if missed, remembered = l.events.since(after); !remembered {
				return
			}
			w.ch = make(chan *adminv1.Event, len(missed)+watchBuffer)
			for _, e := range missed {
				w.tell(e)
			}
			l.watchers[w] = true
			return
		}
		w.ch = make(chan *adminv1.Event, len(pairs)+watchBuffer)
		now := timestamppb.Now()
		for _, p := range pairs {
			w.ch <- &adminv1.Event{
				Time: now, Type: adminv1.EventType_EVENT_TYPE_SNAPSHOT,
				Message: p.machine.Status().State.String(), Pair: p.proto(), Failover: p.last.proto(),
				Sequence: l.events.last,
			}
		}
		l.watchers[w] = true
	}); err != nil {
		return nil, nil, err
	}
	if !remembered {
		return nil, nil, fmt.Errorf("%w: events since %d; watch anew", admin.ErrForgotten, after)
	}
	stop := func() { l.post(input{do: func() { l.unwatch(w) }}) }
	return w.ch, stop, nil
}

// tell is false if the watcher is too slow. An event of no pair is for everybody.
func (w *watcher) tell(e *adminv1.Event) bool {
	if w.pair != "" && e.GetPair() != nil && w.pair != e.GetPair().GetName() {
		return true
	}
	select {
	case w.ch <- e:
		return true
	default:
		return false
	}
}

func (l *loop) unwatch(w *watcher) {
	if l.watchers[w] {
		delete(l.watchers, w)
		close(w.ch)
	}
}

var eventTypes = map[failover.Kind]adminv1.EventType{
	failover.StateChanged: adminv1.EventType_EVENT_TYPE_STATE_CHANGED,
	failover.FailedOver:   adminv1.EventType_EVENT_TYPE_FAILOVER,
	failover.ServerUp:     adminv1.EventType_EVENT_TYPE_SERVER_UP,
	failover.ServerDown:   adminv1.EventType_EVENT_TYPE_SERVER_DOWN,
	failover.WriteTrouble: adminv1.EventType_EVENT_TYPE_WRITE_FAILED,
	failover.AdminChanged: adminv1.EventType_EVENT_TYPE_SERVER_ADMIN,
}

// notify logs, remembers, and tells whoever watches.
func (l *loop) notify(p *pair, now time.Time, n failover.Notify) {
	level := slog.LevelInfo
	if n.Kind == failover.ServerDown || n.Kind == failover.WriteTrouble {
		level = slog.LevelWarn
	}
	attrs := []any{"pair", p.name, "what", n.Message}
	if r := p.last; n.Kind == failover.FailedOver && r != nil {
		attrs = append(attrs, "from", r.From, "to", r.To, "cause", r.Cause, "epoch", r.Epoch,
			"suspected_to_written", r.Written.Sub(r.Suspected), "decided_to_written", r.DecideToWritten)
	}
	l.log.Log(context.Background(), level, n.Kind.String(), attrs...)
	e := &adminv1.Event{Time: timestamppb.New(now), Type: eventTypes[n.Kind], Message: n.Message, Pair: p.proto()}
	if n.Kind == failover.FailedOver {
		e.Failover = p.last.proto()
	}
	l.share(e)
}

// share remembers an event, and tells whoever watches.
func (l *loop) share(e *adminv1.Event) {
	l.events.add(e)
	for w := range l.watchers {
		if !w.tell(e) {
			l.unwatch(w)
		}
	}
}

// record puts names in place of numbers.
func (l *loop) record(p *pair, f failover.Failover) record {
	r := record{
		Pair: p.name, Epoch: f.Epoch,
		From: p.names[f.From-1], To: p.names[f.To-1],
		Cause: string(f.Cause), Cold: f.Cold,
		Suspected: f.Suspected, Decided: f.Decided, Written: f.Written,
		DecideToWritten: f.Written.Sub(f.Decided),
	}
	if !f.Released.IsZero() {
		released := f.Released
		r.Released = &released
	}
	return r
}

// proto is nil for a nil record.
func (r *record) proto() *adminv1.Failover {
	if r == nil {
		return nil
	}
	f := &adminv1.Failover{
		Pair: r.Pair, Epoch: r.Epoch, From: r.From, To: r.To, Cause: r.Cause,
		Suspected: timestamppb.New(r.Suspected), Decided: timestamppb.New(r.Decided), Written: timestamppb.New(r.Written),
		DecideToWritten: durationpb.New(r.DecideToWritten),
	}
	if r.Released != nil {
		f.Released = timestamppb.New(*r.Released)
	}
	return f
}

var pairStates = map[failover.State]adminv1.PairState{
	failover.Down:        adminv1.PairState_PAIR_STATE_DOWN,
	failover.Simplex:     adminv1.PairState_PAIR_STATE_SIMPLEX,
	failover.Joining:     adminv1.PairState_PAIR_STATE_JOINING,
	failover.Duplex:      adminv1.PairState_PAIR_STATE_DUPLEX,
	failover.FailingOver: adminv1.PairState_PAIR_STATE_FAILING_OVER,
	// The switch forwards to the active server; who else holds the connections is
	// not known yet.
	failover.Recovering: adminv1.PairState_PAIR_STATE_SIMPLEX,
}

var serverRoles = map[failover.Role]adminv1.ServerRole{
	failover.Active: adminv1.ServerRole_SERVER_ROLE_ACTIVE,
	failover.Backup: adminv1.ServerRole_SERVER_ROLE_BACKUP,
	failover.Fenced: adminv1.ServerRole_SERVER_ROLE_FENCED,
}

func (p *pair) proto() *adminv1.Pair {
	st := p.machine.Status()
	out := &adminv1.Pair{
		Name: p.name, State: pairStates[st.State], Epoch: st.Epoch,
		Services: p.listed, Connections: p.connections, Protected: p.protected,
	}
	for _, s := range st.Servers {
		x := &adminv1.Server{
			Name: s.Name, Role: serverRoles[s.Role], Attached: s.Attached, ApplicationUp: s.ApplicationUp,
			AdminState: adminStates[s.Admin],
		}
		if s.Joining {
			x.Role = adminv1.ServerRole_SERVER_ROLE_JOINING
		}
		if !s.LastHeartbeat.IsZero() {
			x.LastHeartbeat = timestamppb.New(s.LastHeartbeat)
		}
		out.Servers = append(out.Servers, x)
	}
	return out
}
