// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"testing"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/admin"
)

func TestEventLog(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newEventLog(now)
	first := l.last
	if first == 0 || newEventLog(now.Add(time.Second)).last <= first+eventsKept {
		t.Errorf("a later controller begins at %d", newEventLog(now.Add(time.Second)).last)
	}
	if got, ok := l.since(first); !ok || len(got) != 0 {
		t.Errorf("nothing has happened: %v, %t", got, ok)
	}
	for range 3 {
		l.add(&adminv1.Event{})
	}
	for _, tc := range []struct {
		after uint64
		want  int // -1 is not remembered
	}{{first, 3}, {first + 1, 2}, {first + 3, 0}, {first + 4, -1}, {first - 1, -1}, {1, -1}} {
		got, ok := l.since(tc.after)
		if ok != (tc.want >= 0) || ok && len(got) != tc.want {
			t.Errorf("after %d: %d events, %t; want %d", tc.after-first, len(got), ok, tc.want)
		}
		for i, e := range got {
			if e.GetSequence() != tc.after+uint64(i)+1 {
				t.Errorf("after %d: event %d has the number %d", tc.after, i, e.GetSequence())
			}
		}
	}
	for range 2 * eventsKept {
		l.add(&adminv1.Event{})
	}
	if len(l.events) > eventsKept {
		t.Errorf("%d events are kept", len(l.events))
	}
	if _, ok := l.since(first); ok {
		t.Error("what is forgotten is said to be remembered")
	}
	if got, ok := l.since(l.last - eventsKept/2); !ok || len(got) != eventsKept/2 || got[0].GetSequence() != l.last-eventsKept/2+1 {
		t.Errorf("half of what is kept: %d, %t", len(got), ok)
	}
}

// Who lost the stream goes on where it was, and misses nothing.
func TestEventsResume(t *testing.T) {
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	r := start(t, cfg)
	api := r.admin(t)
	servers := cfg.Pairs[0].Servers
	startAgent(t, l, r.AgentAddr().String(), servers[0], nil)
	awaitPair(t, api, simplex)
	events, stop, err := r.loop.Watch(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	snapshot := <-events
	stop()
	if snapshot.GetType() != adminv1.EventType_EVENT_TYPE_SNAPSHOT || snapshot.GetSequence() == 0 {
		t.Fatalf("it begins with %v", snapshot)
	}
	startAgent(t, l, r.AgentAddr().String(), servers[1], nil)
	awaitPair(t, api, duplex)
	events, stop, err = r.loop.Watch(t.Context(), "web", snapshot.GetSequence())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for want := snapshot.GetSequence() + 1; ; want++ {
		var e *adminv1.Event
		select {
		case e = <-events:
		case <-time.After(deadline):
			t.Fatal("nothing that makes the pair duplex was told")
		}
		if e.GetSequence() != want {
			t.Fatalf("event %d, want %d", e.GetSequence(), want)
		}
		if e.GetPair().GetState() == duplex {
			break
		}
	}
	for _, after := range []uint64{1, 1 << 63} {
		if _, _, err := r.loop.Watch(t.Context(), "", after); !errors.Is(err, admin.ErrForgotten) {
			t.Errorf("after %d: %v", after, err)
		}
	}
}
