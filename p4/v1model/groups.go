// SPDX-License-Identifier: Apache-2.0

package v1model

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/understudy-net/understudy/p4/dataplane"
)

// A Replica is one copy that a multicast group or a clone session makes.
type Replica struct {
	Port uint16
	RID  uint32 // standard_metadata.egress_rid, 16 bits
}

// A Group is a multicast group. It must not be modified.
type Group struct {
	ID       uint32
	Replicas []Replica
	Opaque   any // whatever the control plane wants to find again
}

// MaxCloneSession is the largest id of a clone session, as in simple_switch.
const MaxCloneSession = 1<<15 - 1

// A CloneSession says where the clones go that a program makes with its id. It must
// not be modified.
type CloneSession struct {
	ID       uint32
	Replicas []Replica
	// Length is the most bytes that a clone keeps; 0 is all.
	Length int
	Opaque any // whatever the control plane wants to find again
}

// cut shortens a clone.
func (c *CloneSession) cut(p *dataplane.Context) {
	if c.Length > 0 {
		p.Truncate = c.Length
	}
}

func (g *Group) check() error {
	if g.ID == 0 || g.ID > 0xffff {
		return fmt.Errorf("multicast group %d, want 1 to 65535: %w", g.ID, ErrArgument)
	}
	return checkReplicas(g.Replicas)
}

func (c *CloneSession) check() error {
	switch {
	case c.ID > MaxCloneSession:
		return fmt.Errorf("clone session %d, the largest is %d: %w", c.ID, MaxCloneSession, ErrArgument)
	case c.Length < 0:
		return fmt.Errorf("clone session %d: a length of %d bytes: %w", c.ID, c.Length, ErrArgument)
	}
	return checkReplicas(c.Replicas)
}

// checkReplicas wants what standard_metadata can hold and no copy twice.
func checkReplicas(replicas []Replica) error {
	seen := make(map[Replica]bool, len(replicas))
	for _, r := range replicas {
		if r.Port > MaxPort {
			return fmt.Errorf("replica port %d, the largest is %d: %w", r.Port, MaxPort, ErrArgument)
		}
		if r.RID > 0xffff {
			return fmt.Errorf("replica instance %d, the largest is 65535: %w", r.RID, ErrArgument)
		}
		if seen[r] {
			return fmt.Errorf("two replicas with port %d and instance %d: %w", r.Port, r.RID, ErrArgument)
		}
		seen[r] = true
	}
	return nil
}

// A registry holds objects by id. Packets read it without a lock; a change publishes
// another map.
type registry[T any] struct {
	kind string
	mu   sync.Mutex // held by writers
	now  atomic.Pointer[map[uint32]*T]
}

func (r *registry[T]) init(kind string) {
	r.kind = kind
	r.now.Store(&map[uint32]*T{})
}

func (r *registry[T]) get(id uint32) *T { return (*r.now.Load())[id] }

// put adds an object, or replaces it if exists is set; nil removes it.
func (r *registry[T]) put(id uint32, v *T, exists bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := *r.now.Load()
	switch {
	case exists && old[id] == nil:
		return fmt.Errorf("%s %d: %w", r.kind, id, ErrNotFound)
	case !exists && old[id] != nil:
		return fmt.Errorf("%s %d: %w", r.kind, id, ErrExists)
	}
	next := make(map[uint32]*T, len(old)+1)
	for id, v := range old {
		next[id] = v
	}
	if v == nil {
		delete(next, id)
	} else {
		next[id] = v
	}
	r.now.Store(&next)
	return nil
}

// all returns the objects by ascending id.
func (r *registry[T]) all() []*T {
	m := *r.now.Load()
	ids := make([]uint32, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	out := make([]*T, len(ids))
	for i, id := range ids {
		out[i] = m[id]
	}
	return out
}

// InsertGroup adds a multicast group; packets use it before InsertGroup returns.
func (s *Switch) InsertGroup(g *Group) error {
	if err := g.check(); err != nil {
		return err
	}
	return s.groups.put(g.ID, g, false)
}

// ModifyGroup replaces a multicast group as a whole.
func (s *Switch) ModifyGroup(g *Group) error {
	if err := g.check(); err != nil {
		return err
	}
	return s.groups.put(g.ID, g, true)
}

// DeleteGroup removes a multicast group; what is sent to it then is dropped.
func (s *Switch) DeleteGroup(id uint32) error { return s.groups.put(id, nil, true) }

// Group returns a multicast group, or nil.
func (s *Switch) Group(id uint32) *Group { return s.groups.get(id) }

// Groups returns all multicast groups by ascending id.
func (s *Switch) Groups() []*Group { return s.groups.all() }

// InsertCloneSession adds a clone session; packets use it before it returns.
func (s *Switch) InsertCloneSession(c *CloneSession) error {
	if err := c.check(); err != nil {
		return err
	}
	return s.clones.put(c.ID, c, false)
}

// ModifyCloneSession replaces a clone session as a whole.
func (s *Switch) ModifyCloneSession(c *CloneSession) error {
	if err := c.check(); err != nil {
		return err
	}
	return s.clones.put(c.ID, c, true)
}

// DeleteCloneSession removes a clone session; no clones are made for it then.
func (s *Switch) DeleteCloneSession(id uint32) error { return s.clones.put(id, nil, true) }

// CloneSession returns a clone session, or nil.
func (s *Switch) CloneSession(id uint32) *CloneSession { return s.clones.get(id) }

// CloneSessions returns all clone sessions by ascending id.
func (s *Switch) CloneSessions() []*CloneSession { return s.clones.all() }
