// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// eventLog remembers the latest events, so that who has lost the stream can go on
// where it was. Numbers begin with the time in microseconds: they grow over restarts
// too, and one of a controller before this one is known not to be remembered. The loop
// owns it.
type eventLog struct {
	last   uint64 // the sequence of the latest
	events []*adminv1.Event
}

// eventsKept bounds what is remembered.
const eventsKept = 4096

func newEventLog(now time.Time) *eventLog { return &eventLog{last: uint64(now.UnixMicro())} }

// add gives an event its number.
func (l *eventLog) add(e *adminv1.Event) {
	l.last++
	e.Sequence = l.last
	if len(l.events) == eventsKept {
		l.events = slices.Delete(l.events, 0, eventsKept/4)
	}
	l.events = append(l.events, e)
}

// since returns the events after that of a number, false if some of them are not
// remembered.
func (l *eventLog) since(after uint64) ([]*adminv1.Event, bool) {
	if after > l.last || after < l.last-uint64(len(l.events)) {
		return nil, false
	}
	return l.events[uint64(len(l.events))-(l.last-after):], true
}
