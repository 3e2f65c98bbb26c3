// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// ErrInUse is wrapped by the error about a member or group of an action profile that
// something refers to.
var ErrInUse = errors.New("still in use")

// MaxGroupWeight is the most that the weights of a group's members may sum up to.
const MaxGroupWeight = 1 << 16

// maxMembers bounds a profile for which the program does not.
const maxMembers = 1 << 20

// A Profile is an action profile: members, which are actions with arguments, and, if
// it has a selector, groups of members. Entries of tables refer to them. Its methods
// may be called from any goroutine, while packets go through: a packet that meets an
// entry sees a member or a group as it was before a change, or after it.
type Profile struct {
	def     *bmv2.ActionProfile
	actions map[string]*action // those of the tables that use it
	hash    evalUint           // nil: no selector

	mu      sync.Mutex
	members map[uint32]*Member
	groups  map[uint32]*memberGroup
	sets    int // one-shot sets that entries have
	used    Use
}

// Use is how much the groups and one-shot sets of a Profile have together.
type Use struct{ Members, Weights int }

func (u *Use) add(members, weights int) {
	u.Members += members
	u.Weights += weights
}

// A Member is one member of a Profile.
type Member struct {
	ID    uint32
	bound atomic.Pointer[MemberAction]
	refs  int // entries and groups, under Profile.mu
}

// Action returns what the member runs.
func (m *Member) Action() *MemberAction { return m.bound.Load() }

// A MemberAction is an action with arguments. It must not be modified.
type MemberAction struct {
	Action *bmv2.Action
	Args   [][]byte // each (width+7)/8 bytes
	Opaque any      // whatever the control plane wants to find again

	act  *action
	args arguments
}

// A Group is a set of members, of which the selector chooses one for each packet, with
// a probability by weight. It must not be modified.
type Group struct {
	ID      uint32
	Members []GroupMember
	Opaque  any
}

// A GroupMember is one member of a Group. A disabled one is not chosen: the control
// plane sets that while a port that the member watches is down.
type GroupMember struct {
	Member   uint32
	Weight   int // at least 1
	Disabled bool
}

// memberGroup is what entries point to.
type memberGroup struct {
	now  atomic.Pointer[choice]
	refs int // entries, under Profile.mu
}

// choice is the state of a group for packets.
type choice struct {
	random  bool // instead of by the selector's hash
	group   *Group
	members []*Member // the enabled ones by ascending id
	upto    []uint64  // sums of weights
}

// pick returns the member for a hash, or nil if there is none to choose. With equal
// weights it is, as in bmv2, number hash % n by ascending id.
func (c *choice) pick(h uint64) *MemberAction {
	if len(c.members) == 0 {
		return nil
	}
	h %= c.upto[len(c.upto)-1]
	i, _ := slices.BinarySearch(c.upto, h+1)
	return c.members[i].bound.Load()
}

// Def returns the declaration of the profile.
func (p *Profile) Def() *bmv2.ActionProfile { return p.def }

// Len returns how many members and groups there are.
func (p *Profile) Len() (members, groups int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members), len(p.groups)
}

// Sets returns how many entries have a one-shot set.
func (p *Profile) Sets() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sets
}

// Use returns what all groups and one-shot sets have together.
func (p *Profile) Use() Use {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

func (p *Profile) bind(name string, args [][]byte, opaque any) (*MemberAction, error) {
	act := p.actions[name]
	if act == nil {
		return nil, fmt.Errorf("action %q is none of action profile %q: %w", name, p.def.Name, ErrArgument)
	}
	a, err := bindArgs(act.def, args)
	if err != nil {
		return nil, err
	}
	return &MemberAction{Action: act.def, Args: a.wide, Opaque: opaque, act: act, args: a}, nil
}

// InsertMember adds a member.
func (p *Profile) InsertMember(id uint32, action string, args [][]byte, opaque any) error {
	a, err := p.bind(action, args, opaque)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.members[id] != nil {
		return fmt.Errorf("member %d: %w", id, ErrExists)
	}
	if n := p.room(); len(p.members) >= n {
		return fmt.Errorf("member %d: action profile of %d: %w", id, n, ErrFull)
	}
	m := &Member{ID: id}
	m.bound.Store(a)
	p.members[id] = m
	return nil
}

// room is how many members there may be. The size of a profile with a selector is not
// about members but about what its groups have (size_semantics of P4Info), which is
// for those who know P4Info.
func (p *Profile) room() int {
	if p.hash == nil && p.def.Size > 0 {
		return p.def.Size
	}
	return maxMembers
}

// ModifyMember changes what a member runs, in all entries and groups at once.
func (p *Profile) ModifyMember(id uint32, action string, args [][]byte, opaque any) error {
	a, err := p.bind(action, args, opaque)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.members[id]
	if m == nil {
		return fmt.Errorf("member %d: %w", id, ErrNotFound)
	}
	m.bound.Store(a)
	return nil
}

// DeleteMember removes a member that no entry and no group refers to.
func (p *Profile) DeleteMember(id uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.members[id]
	switch {
	case m == nil:
		return fmt.Errorf("member %d: %w", id, ErrNotFound)
	case m.refs > 0:
		return fmt.Errorf("member %d: %w", id, ErrInUse)
	}
	delete(p.members, id)
	return nil
}

// Member returns the member with that id, or nil.
func (p *Profile) Member(id uint32) *Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[id]
}

// Members returns all members by ascending id.
func (p *Profile) Members() []*Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*Member, 0, len(p.members))
	for _, m := range p.members {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *Member) int { return cmpUint(uint64(a.ID), uint64(b.ID)) })
	return out
}

// choose checks a group and prepares it; p.mu is held.
func (p *Profile) choose(g *Group) (*choice, error) {
	if p.hash == nil {
		return nil, fmt.Errorf("action profile %q has no selector and takes no group: %w", p.def.Name, ErrArgument)
	}
	c := &choice{group: g}
	order := slices.Clone(g.Members)
	slices.SortFunc(order, func(a, b GroupMember) int { return cmpUint(uint64(a.Member), uint64(b.Member)) })
	total := 0
	for i, gm := range order {
		m := p.members[gm.Member]
		switch {
		case m == nil:
			return nil, fmt.Errorf("group %d: member %d: %w", g.ID, gm.Member, ErrNotFound)
		case i > 0 && order[i-1].Member == gm.Member:
			return nil, fmt.Errorf("group %d: member %d stands twice: %w", g.ID, gm.Member, ErrArgument)
		case gm.Weight < 1 || gm.Weight > MaxGroupWeight:
			return nil, fmt.Errorf("group %d: member %d: weight %d: %w", g.ID, gm.Member, gm.Weight, ErrArgument)
		}
		if total += gm.Weight; total > MaxGroupWeight {
			return nil, fmt.Errorf("group %d: weights of more than %d: %w", g.ID, MaxGroupWeight, ErrFull)
		}
		if !gm.Disabled {
			c.add(m, gm.Weight)
		}
	}
	return c, nil
}

func (c *choice) add(m *Member, weight int) {
	sum := uint64(weight)
	if n := len(c.upto); n > 0 {
		sum += c.upto[n-1]
	}
	c.members, c.upto = append(c.members, m), append(c.upto, sum)
}

// InsertGroup adds a group.
func (p *Profile) InsertGroup(g *Group) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.choose(g)
	if err != nil {
		return err
	}
	if p.groups[g.ID] != nil {
		return fmt.Errorf("group %d: %w", g.ID, ErrExists)
	}
	if len(p.groups) >= maxMembers {
		return fmt.Errorf("group %d: action profile of %d groups: %w", g.ID, maxMembers, ErrFull)
	}
	x := &memberGroup{}
	x.now.Store(c)
	p.groups[g.ID] = x
	p.count(g, 1)
	return nil
}

// ModifyGroup replaces a group as a whole.
func (p *Profile) ModifyGroup(g *Group) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.choose(g)
	if err != nil {
		return err
	}
	x := p.groups[g.ID]
	if x == nil {
		return fmt.Errorf("group %d: %w", g.ID, ErrNotFound)
	}
	p.count(x.now.Load().group, -1)
	x.now.Store(c)
	p.count(g, 1)
	return nil
}

// DeleteGroup removes a group that no entry refers to.
func (p *Profile) DeleteGroup(id uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.groups[id]
	switch {
	case x == nil:
		return fmt.Errorf("group %d: %w", id, ErrNotFound)
	case x.refs > 0:
		return fmt.Errorf("group %d: %w", id, ErrInUse)
	}
	p.count(x.now.Load().group, -1)
	delete(p.groups, id)
	return nil
}

// count notes that a group refers to its members, or no longer does; p.mu is held.
func (p *Profile) count(g *Group, n int) {
	for _, gm := range g.Members {
		p.used.add(n, n*gm.Weight)
		if m := p.members[gm.Member]; m != nil {
			m.refs += n
		}
	}
}

// Group returns the group with that id, or nil.
func (p *Profile) Group(id uint32) *Group {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.groups[id]; x != nil {
		return x.now.Load().group
	}
	return nil
}

// Groups returns all groups by ascending id.
func (p *Profile) Groups() []*Group {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*Group, 0, len(p.groups))
	for _, x := range p.groups {
		out = append(out, x.now.Load().group)
	}
	slices.SortFunc(out, func(a, b *Group) int { return cmpUint(uint64(a.ID), uint64(b.ID)) })
	return out
}

// countSet is count for a one-shot set.
func (p *Profile) countSet(set []SetMember, n int) {
	p.sets += n
	for i := range set {
		p.used.add(n, n*set[i].Weight)
	}
}

// A SetMember is one action of a one-shot action set (P4Runtime 1.5 section 9.2.3).
type SetMember struct {
	Action   string
	Args     [][]byte
	Weight   int
	Disabled bool
	Opaque   any
}

// BindMember prepares a reference to a member of the table's action profile.
func (t *Table) BindMember(id uint32, opaque any) (*Bound, error) {
	if t.profile == nil {
		return nil, fmt.Errorf("table %q has no action profile: %w", t.def.Name, ErrArgument)
	}
	m := t.profile.Member(id)
	if m == nil {
		return nil, fmt.Errorf("member %d: %w", id, ErrNotFound)
	}
	return &Bound{Opaque: opaque, Member: m}, nil
}

// BindGroup prepares a reference to a group of the table's action profile.
func (t *Table) BindGroup(id uint32, opaque any) (*Bound, error) {
	if t.profile == nil || !t.def.Selector {
		return nil, fmt.Errorf("table %q has no action selector: %w", t.def.Name, ErrArgument)
	}
	t.profile.mu.Lock()
	defer t.profile.mu.Unlock()
	x := t.profile.groups[id]
	if x == nil {
		return nil, fmt.Errorf("group %d: %w", id, ErrNotFound)
	}
	return &Bound{Opaque: opaque, GroupID: id, group: x}, nil
}

// BindSet prepares a one-shot set of actions, from which the selector chooses, or chance
// if random is set.
func (t *Table) BindSet(set []SetMember, random bool, opaque any) (*Bound, error) {
	if t.profile == nil || !t.def.Selector {
		return nil, fmt.Errorf("table %q has no action selector: %w", t.def.Name, ErrArgument)
	}
	c := &choice{random: random}
	total := 0
	for i, s := range set {
		a, err := t.profile.bind(s.Action, s.Args, s.Opaque)
		if err != nil {
			return nil, err
		}
		if s.Weight < 1 || s.Weight > MaxGroupWeight {
			return nil, fmt.Errorf("action %d of the set: weight %d: %w", i, s.Weight, ErrArgument)
		}
		if total += s.Weight; total > MaxGroupWeight {
			return nil, fmt.Errorf("weights of more than %d: %w", MaxGroupWeight, ErrFull)
		}
		if !s.Disabled {
			m := &Member{}
			m.bound.Store(a)
			c.add(m, s.Weight)
		}
	}
	b := &Bound{Opaque: opaque, Set: slices.Clone(set), set: true, group: &memberGroup{}}
	for i := range b.Set {
		args := make([][]byte, len(b.Set[i].Args))
		for j, v := range b.Set[i].Args {
			args[j] = bytes.Clone(v)
		}
		b.Set[i].Args = args
	}
	b.group.now.Store(c)
	return b, nil
}

// acquire counts a reference that an entry holds, unless what it refers to has gone.
func (t *Table) acquire(b *Bound) error {
	if t.profile == nil || b == nil {
		return nil
	}
	p := t.profile
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case b.set:
		p.countSet(b.Set, 1)
	case b.Member != nil:
		if p.members[b.Member.ID] != b.Member {
			return fmt.Errorf("member %d: %w", b.Member.ID, ErrNotFound)
		}
		b.Member.refs++
	case b.group != nil:
		if p.groups[b.GroupID] != b.group {
			return fmt.Errorf("group %d: %w", b.GroupID, ErrNotFound)
		}
		b.group.refs++
	}
	return nil
}

// abandon is the counterpart of acquire.
func (t *Table) abandon(b *Bound) {
	if t.profile == nil || b == nil {
		return
	}
	t.profile.mu.Lock()
	defer t.profile.mu.Unlock()
	switch {
	case b.set:
		t.profile.countSet(b.Set, -1)
	case b.Member != nil:
		b.Member.refs--
	case b.group != nil:
		b.group.refs--
	}
}

// resolve returns what a packet runs for a reference, or nil.
func (t *Table) resolve(c *Context, b *Bound) *MemberAction {
	if b.Member != nil {
		return b.Member.bound.Load()
	}
	g := b.group.now.Load()
	if g.random {
		return g.pick(c.random())
	}
	return g.pick(t.profile.hash(c))
}

func (b *Builder) profile(def *bmv2.ActionProfile) (*Profile, error) {
	p := &Profile{def: def, actions: map[string]*action{}, members: map[uint32]*Member{}, groups: map[uint32]*memberGroup{}}
	if def.Selector == nil {
		return p, nil
	}
	var err error
	if p.hash, err = b.calculation(def.Selector); err != nil {
		return nil, fmt.Errorf("action profile %q: %w", def.Name, err)
	}
	return p, nil
}
