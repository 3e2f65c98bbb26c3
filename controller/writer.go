// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// writer brings one pair's entries to the switch. It is told what shall be
// there, not what to do: a newer wish replaces one that could not be written
// yet. Pairs do not wait for each other.
type writer struct {
	put func(context.Context, []p4rt.Entry, []p4rt.Group) error
	// done is called when everything asked for up to epoch is in the switch;
	// failed, once for each attempt, when it is not.
	done   func(epoch uint64)
	failed func(epoch uint64, err error)

	mu      sync.Mutex
	pair    config.Pair
	pending wish
	since   uint64        // wishes of epochs before this one are void
	wake    chan struct{} // a token: something has changed
}

// wish is what shall be in the switch; parts of it may be absent.
type wish struct {
	epoch uint64
	// active is what the entry shall say.
	hasActive  bool
	active     activeEntry
	hasMembers bool
	members    []failover.Replica
}

func newWriter(pair config.Pair) *writer {
	return &writer{pair: pair, wake: make(chan struct{}, 1)}
}

// setPair changes where the pair's servers are.
func (w *writer) setPair(pair config.Pair) {
	w.mu.Lock()
	w.pair = pair
	w.mu.Unlock()
}

// want adds to what is wanted. It does not block.
func (w *writer) want(x wish) {
	w.mu.Lock()
	w.pending.epoch = x.epoch
	if x.hasActive {
		w.pending.hasActive, w.pending.active = true, x.active
	}
	if x.hasMembers {
		w.pending.hasMembers, w.pending.members = true, x.members
	}
	w.mu.Unlock()
	w.retry()
}

// begin makes void what was wanted in epochs before this one, and is not written
// yet: somebody else has written this one.
func (w *writer) begin(epoch uint64) {
	w.mu.Lock()
	w.since = epoch
	if w.pending.epoch < epoch {
		w.pending = wish{}
	}
	w.mu.Unlock()
}

// retry ends a pause between attempts.
func (w *writer) retry() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Between attempts that fail.
const (
	firstWritePause = 2 * time.Millisecond
	lastWritePause  = 250 * time.Millisecond
)

// Run writes until ctx ends, which is not an error.
func (w *writer) Run(ctx context.Context) error {
	pause := firstWritePause
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-again:
		}
		again = nil
		w.mu.Lock()
		x := w.pending
		w.pending = wish{}
		w.mu.Unlock()
		if !x.hasActive && !x.hasMembers {
			continue
		}
		err := w.write(ctx, x)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			pause = firstWritePause
			w.done(x.epoch)
			continue
		}
		// While there is no session, it is soon told that there is one again.
		if !errors.Is(err, p4rt.ErrNotReady) || pause == lastWritePause {
			w.failed(x.epoch, err)
		}
		w.mu.Lock()
		if x.epoch < w.since {
			x = wish{}
		}
		// What has been wished for meanwhile is newer.
		if w.pending.epoch == 0 {
			w.pending.epoch = x.epoch
		}
		if !w.pending.hasActive {
			w.pending.hasActive, w.pending.active = x.hasActive, x.active
		}
		if !w.pending.hasMembers {
			w.pending.hasMembers, w.pending.members = x.hasMembers, x.members
		}
		w.mu.Unlock()
		again = time.After(pause)
		pause = min(2*pause, lastWritePause)
	}
}

func (w *writer) write(ctx context.Context, x wish) error {
	w.mu.Lock()
	pair := w.pair
	w.mu.Unlock()
	var entries []p4rt.Entry
	var groups []p4rt.Group
	if x.hasMembers {
		groups = append(groups, membersGroup(pair, x.members))
	}
	if x.hasActive {
		entries = append(entries, x.active.entry(pair.ID))
	}
	return w.put(ctx, entries, groups)
}
