// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/understudy-net/understudy/controller/p4rt"
)

// switches are the sessions with all switches that lead to the pairs. Each has the same
// entries: the same ports lead to the same servers on all of them. What one has that is
// out of reach is written when it is back; as long as one can be reached, the
// controller goes on.
type switches []target

// target is a session with one switch, as p4rt.Session is.
type target interface {
	Put(context.Context, []p4rt.Entry, []p4rt.Group) error
	Change(context.Context, []p4rt.Update) error
	Known(p4rt.Entry) (p4rt.Entry, bool)
	Resync()
	Status() p4rt.Status
	Size() (entries, groups int)
}

// Put makes all switches that are in reach have these entries and groups, as
// p4rt.Session.Put does. When another server becomes active in a pair that is reached
// through several switches, the pair is suppressed on all of them before it is released
// on any: two servers are never heard at a time, one through each.
func (s switches) Put(ctx context.Context, entries []p4rt.Entry, groups []p4rt.Group) error {
	ready := s.ready()
	if len(ready) > 1 {
		if held := suppressed(ready, entries); len(held) > 0 {
			if err := ready.each(func(x target) error { return x.Put(ctx, held, nil) }); err != nil {
				return err
			}
		}
	}
	return ready.each(func(x target) error { return x.Put(ctx, entries, groups) })
}

// Change is p4rt.Session.Change on all switches that are in reach.
func (s switches) Change(ctx context.Context, updates []p4rt.Update) error {
	return s.ready().each(func(x target) error { return x.Change(ctx, updates) })
}

// Resync has all of them read and put right again.
func (s switches) Resync() {
	for _, x := range s {
		x.Resync()
	}
}

// resyncOthers is Resync for all but one.
func (s switches) resyncOthers(but int) {
	for i, x := range s {
		if i != but {
			x.Resync()
		}
	}
}

func (s switches) ready() switches {
	return slices.DeleteFunc(slices.Clone(s), func(x target) bool { return x.Status() != p4rt.Ready })
}

// each calls f for all of them at the same time. One that has gone out of reach
// meanwhile is no error, unless they all have.
func (s switches) each(f func(target) error) error {
	if len(s) == 0 {
		return p4rt.ErrNotReady
	}
	if len(s) == 1 {
		return f(s[0])
	}
	failed := make([]error, len(s))
	var calls sync.WaitGroup
	for i, x := range s {
		calls.Go(func() { failed[i] = f(x) })
	}
	calls.Wait()
	gone := func(err error) bool { return errors.Is(err, p4rt.ErrNotReady) }
	if there := slices.DeleteFunc(failed, gone); len(there) > 0 {
		return errors.Join(there...)
	}
	return p4rt.ErrNotReady
}

// suppressed are the active entries of those pairs whose active server changes, or may
// change, on one of the switches, with nobody as the active server.
func suppressed(ready switches, entries []p4rt.Entry) (held []p4rt.Entry) {
	for _, e := range entries {
		if e.Table != activeTable {
			continue
		}
		changes := slices.ContainsFunc(ready, func(x target) bool {
			old, ok := x.Known(e)
			return ok && replicaOf(old) != replicaOf(e) && replicaOf(old) != p4rt.Uint[uint8](0)
		})
		if changes && replicaOf(e) != p4rt.Uint[uint8](0) {
			held = append(held, nobody(e))
		}
	}
	return held
}

func replicaOf(e p4rt.Entry) p4rt.Value {
	v, _ := e.Find("replica")
	return v
}

// nobody is an active entry by which nobody is heard, in the same epoch.
func nobody(e p4rt.Entry) p4rt.Entry {
	epoch, _ := e.Find("epoch")
	e.Action = "set_active"
	e.Params = []p4rt.Arg{p4rt.Exact("replica", p4rt.Uint[uint8](0)), p4rt.Exact("epoch", epoch)}
	return e
}
