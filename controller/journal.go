// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// journal is a slog.Handler that never waits for the one behind it: a log that is
// slow, or stands still, must not keep a failover from being made. Lines are
// written by run, in order; those that find the queue full are lost, and counted.
// It is safe for concurrent use.
type journal struct {
	next  slog.Handler
	queue *journalQueue
}

type journalQueue struct {
	lines chan journalLine
	lost  atomic.Uint64
	// lostEver is never reset.
	lostEver atomic.Uint64
	// end has run write what is there and return; done is closed then.
	end, done chan struct{}
}

type journalLine struct {
	handler slog.Handler
	record  slog.Record
}

const (
	// journalLines is how many lines may wait.
	journalLines = 1024
	// journalPatience is how long close waits for a log that stands still.
	journalPatience = time.Second
)

func newJournal(next slog.Handler) *journal {
	return &journal{next: next, queue: &journalQueue{
		lines: make(chan journalLine, journalLines), end: make(chan struct{}), done: make(chan struct{}),
	}}
}

// Enabled implements slog.Handler.
func (j *journal) Enabled(ctx context.Context, l slog.Level) bool { return j.next.Enabled(ctx, l) }

// Handle implements slog.Handler. It does not fail.
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	select {
	case j.queue.lines <- journalLine{j.next, r.Clone()}:
	default:
		j.queue.lost.Add(1)
		j.queue.lostEver.Add(1)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (j *journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journal{j.next.WithAttrs(attrs), j.queue}
}

// WithGroup implements slog.Handler.
func (j *journal) WithGroup(name string) slog.Handler {
	return &journal{j.next.WithGroup(name), j.queue}
}

// lost counts the lines that were not written.
func (j *journal) lost() uint64 { return j.queue.lostEver.Load() }

// run writes until close.
func (j *journal) run() {
	defer close(j.queue.done)
	for {
		select {
		case l := <-j.queue.lines:
			j.write(l)
		case <-j.queue.end:
			for {
				select {
				case l := <-j.queue.lines:
					j.write(l)
				default:
					return
				}
			}
		}
	}
}

// write passes a line on. That it fails cannot be told anywhere.
func (j *journal) write(l journalLine) {
	l.handler.Handle(context.Background(), l.record)
	if n := j.queue.lost.Swap(0); n > 0 {
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "the log is behind; lines are lost", 0)
		r.Add("lines", n)
		j.next.Handle(context.Background(), r)
	}
}

// close has what waits written, and returns when it is, or when that takes too
// long. It is called once, after run has been started.
func (j *journal) close() {
	close(j.queue.end)
	select {
	case <-j.queue.done:
	case <-time.After(journalPatience):
	}
}
