// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"context"
	"slices"
)

// changeBatch bounds the updates in one request of a Change.
const changeBatch = 512

// Change makes updates of entries and groups that no Put is about: those that follow
// from a configuration. What the switch is known to have already, or not to have any
// more, is not written again. Puts go on meanwhile, between its batches.
//
// The error is ErrNotReady, or a *WriteError when the switch has refused a part, or
// that of the call. What the switch has after any of them is unknown: Resync.
func (s *Session) Change(ctx context.Context, updates []Update) error {
	for batch := range slices.Chunk(updates, changeBatch) {
		if err := s.changeSome(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) changeSome(ctx context.Context, batch []Update) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.writer == nil {
		return ErrNotReady
	}
	var updates []Update
	s.known.Lock()
	for _, u := range batch {
		var there, same bool
		if u.Group != nil {
			old, ok := s.groups[u.Group.ID]
			there, same = ok, ok && old.same(*u.Group)
		} else {
			old, ok := s.entries[u.Entry.id()]
			there, same = ok, ok && old.same(*u.Entry)
		}
		switch {
		case u.Op == Delete && !there, u.Op != Delete && same:
			continue
		case u.Op != Delete && there:
			u.Op = Modify
		case u.Op != Delete:
			u.Op = Insert
		}
		updates = append(updates, u)
	}
	s.known.Unlock()
	if len(updates) == 0 {
		return nil
	}
	s.puts.Add(1)
	s.putting.Add(1)
	defer s.putting.Add(-1)
	if err := s.write(ctx, s.writer, updates); err != nil {
		return err
	}
	s.known.Lock()
	defer s.known.Unlock()
	for _, u := range updates {
		switch {
		case u.Group != nil && u.Op == Delete:
			delete(s.groups, u.Group.ID)
		case u.Group != nil:
			s.groups[u.Group.ID] = *u.Group
		case u.Op == Delete:
			delete(s.entries, u.Entry.id())
		default:
			s.entries[u.Entry.id()] = *u.Entry
		}
	}
	return nil
}
