// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"context"
	"maps"
	"slices"
)

// alwaysAudited is read each time: what it says decides who is heard. Another table
// is read in turn beside it, so that one audit costs a part of a whole read.
const alwaysAudited = "active"

// maxDrift bounds how many differences are put right one by one; with more than that,
// the whole switch is read and compared again.
const maxDrift = 4 * changeBatch

// audit compares a part of what the switch has with what was written, and puts right
// what is not the same. What is written while it reads is not judged: its turn comes
// again.
func (s *Session) audit(ctx context.Context, c *connection, turn *int) error {
	before := s.puts.Load()
	if s.putting.Load() > 0 {
		return nil
	}
	ids := slices.Sorted(maps.Keys(s.schema.byID))
	ids = []uint32{ids[*turn%len(ids)]}
	*turn++
	if t := s.schema.tables[alwaysAudited]; t != nil && t.id != ids[0] {
		ids = append(ids, t.id)
	}
	have, err := s.readTables(ctx, c.reader, ids)
	if err != nil {
		return err
	}
	want, sure := s.written(ids)
	updates := Diff(have, want)
	if len(updates) == 0 || !sure || s.puts.Load() != before {
		return nil
	}
	s.reportDrift(updates)
	decisive := slices.ContainsFunc(updates, func(u Update) bool { return u.Entry != nil && u.Entry.Table == alwaysAudited })
	if decisive || len(updates) > maxDrift {
		// Who is active is decided anew, by what is there.
		s.Resync()
		return nil
	}
	for batch := range slices.Chunk(updates, changeBatch) {
		if ok, err := s.repair(ctx, c, batch, before); err != nil || !ok {
			return err
		}
	}
	return nil
}

// written is what the switch was last told to have in some tables, and its groups. It
// is not sure after a Put that has failed, until that is repeated.
func (s *Session) written(ids []uint32) (st State, sure bool) {
	s.known.Lock()
	defer s.known.Unlock()
	for _, e := range s.entries {
		if e.unsure() {
			return State{}, false
		}
		if t := s.schema.tables[e.Table]; t != nil && slices.Contains(ids, t.id) {
			st.Entries = append(st.Entries, e)
		}
	}
	for _, g := range s.groups {
		if g.unsure() {
			return State{}, false
		}
		st.Groups = append(st.Groups, g)
	}
	return st, true
}

// What a Put that has failed leaves behind of an entry, and of a group: something that
// is the same as nothing else.
func (e Entry) forgotten() Entry { e.Action, e.Params = "", nil; return e }
func (e Entry) unsure() bool     { return e.Action == "" }

func (g Group) forgotten() Group {
	return Group{ID: g.ID, Replicas: []Replica{{Port: ^uint32(0)}}}
}
func (g Group) unsure() bool { return len(g.Replicas) == 1 && g.Replicas[0].Port == ^uint32(0) }

// repair makes updates that put the switch right, while nothing else is written. ok is
// false if something was written since the count was before, or the switch refuses
// them: then nothing is known, and all is read again.
func (s *Session) repair(ctx context.Context, c *connection, batch []Update, before int64) (ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.puts.Load() != before {
		return false, nil
	}
	if err := s.write(ctx, c.writer, batch); err != nil {
		s.opts.Logger.Warn("what has changed in the switch cannot be put right; reading all of it", "address", s.opts.Address, "error", err)
		s.Resync()
		return false, ctx.Err()
	}
	return true, nil
}

// logged bounds how many differences are logged one by one.
const logged = 10

func (s *Session) reportDrift(updates []Update) {
	for i, u := range updates {
		if i == logged {
			s.opts.Logger.Warn("and more has changed in the switch", "address", s.opts.Address, "differences", len(updates)-logged)
			break
		}
		s.opts.Logger.Warn("the switch has changed behind the controller's back; putting it right", "address", s.opts.Address, "update", u.String())
	}
	if s.opts.Drift != nil {
		s.opts.Drift(updates)
	}
}
