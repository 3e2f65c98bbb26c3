// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// fakeSwitch takes what writers put, or does not.
type fakeSwitch struct {
	mu      sync.Mutex
	err     error
	tried   int
	written []string
}

func (f *fakeSwitch) put(_ context.Context, entries []p4rt.Entry, groups []p4rt.Group) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried++
	if f.err != nil {
		return f.err
	}
	for _, g := range groups {
		f.written = append(f.written, g.String())
	}
	for _, e := range entries {
		f.written = append(f.written, e.String())
	}
	return nil
}

func (f *fakeSwitch) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.tried = err, 0
}

func (f *fakeSwitch) attempts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tried
}

func (f *fakeSwitch) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.written...)
}

// startLoop runs a loop and its writers without anything around them.
func startLoop(t *testing.T, sw *fakeSwitch) *loop {
	t.Helper()
	cfg := testConfig(t, "127.0.0.1:1")
	h, err := openHistory(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(cfg, testLog(t), make([]byte, secretSize), h)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	l.put = sw.put
	tasks.Go(func() { l.Run(ctx) })
	t.Cleanup(func() { cancel(); tasks.Wait() })
	return l
}

// A flip could not be written, because the switch was lost. When it is back,
// another controller has written a newer epoch: the old wish is void.
func TestWishThatIsOver(t *testing.T) {
	checkLeaks(t)
	sw := &fakeSwitch{}
	l := startLoop(t, sw)
	have := func(replica failover.Replica, epoch uint64) p4rt.State {
		return p4rt.State{
			Entries: []p4rt.Entry{activeEntry{replica: replica, epoch: epoch}.entry(1)},
			Groups:  []p4rt.Group{membersGroup(l.tables.Load().cfg.Pairs[0], []failover.Replica{1, 2})},
		}
	}
	if _, err := l.wanted(t.Context(), 0, have(1, 7)); err != nil {
		t.Fatal(err)
	}
	sw.fail(p4rt.ErrNotReady)
	post := func(events ...failover.Event) {
		for _, ev := range events {
			l.post(input{pair: l.tables.Load().pairs[0], event: ev})
		}
	}
	post(
		failover.AgentUp{Server: 1, Session: 1, Instance: 100, Role: failover.Active, Epoch: 7, ApplicationUp: true},
		failover.AgentUp{Server: 2, Session: 2, Instance: 200, Role: failover.Backup, Epoch: 7, ApplicationUp: true},
		failover.Replication{Server: 1, Session: 1, Epoch: 7, Up: true},
		failover.AgentDown{Server: 1, Session: 1, Cause: failover.CauseClosed},
	)
	eventually(t, "the flip is tried", func() error {
		if n := sw.attempts(); n < 2 {
			return fmt.Errorf("%d attempts", n)
		}
		return nil
	})
	want, err := l.wanted(t.Context(), 0, have(1, 12))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(have(1, 12).Entries[0].String(), want.Entries[len(want.Entries)-1].String()); diff != "" {
		t.Errorf("wanted (-want +got):\n%s", diff)
	}
	sw.fail(nil)
	l.switchReady()
	w := l.tables.Load().pairs[0].writer
	eventually(t, "the writer has nothing to do", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.pending.epoch != 0 || len(w.wake) > 0 {
			return fmt.Errorf("epoch %d is wanted", w.pending.epoch)
		}
		return nil
	})
	// What is decided from then on is of a newer epoch still.
	post(failover.AgentUp{Server: 1, Session: 3, Instance: 100, Role: failover.Active, Epoch: 12, ApplicationUp: true})
	last := activeEntry{replica: 1, epoch: 13}.entry(1).String()
	eventually(t, "the new decision is written", func() error {
		list := sw.list()
		if len(list) == 0 {
			return errors.New("nothing is")
		}
		if !slices.Contains(list, last) {
			return fmt.Errorf("%q", list)
		}
		return nil
	})
	if old := (activeEntry{replica: 2, epoch: 8}).entry(1).String(); slices.Contains(sw.list(), old) {
		t.Errorf("written: %q; %s is over", sw.list(), old)
	}
}
