// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"errors"
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
)

// Members and groups of action profiles are section 9.2 of P4Runtime 1.5. Groups may
// have members with different actions. A group that is empty, or of which all members
// watch ports that are down, runs no action: v1model has no action for that case
// (section 9.2.4).

type profileSchema struct {
	id        uint32
	name      string
	selector  bool
	actions   actionSet // those of its tables
	size      int       // of all groups together, or of all members without a selector
	maxGroup  int       // largest max_size of a group; 0: any
	byMembers bool      // sizes are numbers of members, else sums of weights
	maxWeight int       // of one member, if sizes are numbers of members; 0: any
	noWeights bool      // weights must be absent
}

func (s *schema) newProfileSchema(prog *bmv2.Program, x *p4config.ActionProfile) (*profileSchema, error) {
	ps := &profileSchema{id: x.GetPreamble().GetId(), name: x.GetPreamble().GetName(), selector: x.GetWithSelector(),
		size: int(x.GetSize()), maxGroup: int(x.GetMaxGroupSize()), noWeights: x.GetWeightsDisallowed()}
	var def *bmv2.ActionProfile
	for _, d := range prog.ActionProfiles {
		if d.Name == ps.name {
			def = d
		}
	}
	switch {
	case def == nil:
		return nil, errors.New("the program has no such action profile")
	case ps.selector != (def.Selector != nil):
		return nil, fmt.Errorf("with_selector is %v, in the program it is %v", ps.selector, def.Selector != nil)
	case ps.size < 0 || ps.maxGroup < 0 || !ps.selector && (ps.maxGroup != 0 || ps.noWeights):
		return nil, errors.New("its sizes are those of no action profile")
	}
	if m := x.GetSumOfMembers(); m != nil {
		ps.byMembers, ps.maxWeight = true, int(m.GetMaxMemberWeight())
	}
	for _, id := range x.GetTableIds() {
		ts := s.tableIDs[id]
		if ts == nil || ts.def.Profile != def {
			return nil, fmt.Errorf("table %d of its table_ids does not have it", id)
		}
		if ts.profile != nil {
			return nil, fmt.Errorf("table %q is that of action profile %q already", ts.name, ts.profile.name)
		}
		ts.profile, ps.actions = ps, ts.actions
		ts.constDefault = true // section 9.1.3
	}
	return ps, nil
}

func (p *pipeline) profile(ps *profileSchema) *dataplane.Profile {
	return p.sw.Engine().Profile(ps.name)
}

// writeMember is section 9.2.1.
func (p *pipeline) writeMember(typ p4v1.Update_Type, e *p4v1.ActionProfileMember) error {
	ps, err := p.schema.profiles.get(e.GetActionProfileId())
	if err != nil {
		return err
	}
	if err := p.member(typ, e, ps); err != nil {
		return &placedError{fmt.Sprintf("action profile %q", ps.name), err}
	}
	return nil
}

func (p *pipeline) member(typ p4v1.Update_Type, e *p4v1.ActionProfileMember, ps *profileSchema) error {
	id, profile := e.GetMemberId(), p.profile(ps)
	if id == 0 {
		return errorf(codes.InvalidArgument, "no member_id")
	}
	if typ == p4v1.Update_DELETE {
		return profile.DeleteMember(id)
	}
	if profile.Sets() > 0 {
		return mixed()
	}
	if e.GetAction() == nil {
		return errorf(codes.InvalidArgument, "member %d: no action", id)
	}
	name, args, err := ps.actions.parse(e.GetAction(), false)
	if err != nil {
		return err
	}
	if typ == p4v1.Update_INSERT {
		return profile.InsertMember(id, name, args, nil)
	}
	return profile.ModifyMember(id, name, args, nil)
}

// mixed is section 9.2.3 about the two styles of programming.
func mixed() error {
	return errorf(codes.InvalidArgument, "one-shot action sets and members or groups exclude each other in one action profile")
}

// readMembers is section 9.2.1.
func (p *pipeline) readMembers(q *p4v1.ActionProfileMember, out func(part)) error {
	list, err := p.schema.profiles.some(q.GetActionProfileId())
	if err != nil {
		return err
	}
	for _, ps := range list {
		members := p.profile(ps).Members()
		if id := q.GetMemberId(); id != 0 {
			members = nil
			if m := p.profile(ps).Member(id); m != nil {
				members = append(members, m)
			}
		}
		entries := make([]*p4v1.ActionProfileMember, len(members))
		for i, m := range members {
			a := m.Action()
			entries[i] = &p4v1.ActionProfileMember{ActionProfileId: ps.id, MemberId: m.ID, Action: ps.actions.message(a.Action.Name, a.Args)}
		}
		out(part{len(entries), func(i int) *p4v1.Entity {
			return &p4v1.Entity{Entity: &p4v1.Entity_ActionProfileMember{ActionProfileMember: entries[i]}}
		}})
	}
	return nil
}

// writeGroup is section 9.2.2.
func (p *pipeline) writeGroup(typ p4v1.Update_Type, e *p4v1.ActionProfileGroup) error {
	ps, err := p.schema.profiles.get(e.GetActionProfileId())
	if err != nil {
		return err
	}
	if err := p.group(typ, e, ps); err != nil {
		return &placedError{fmt.Sprintf("action profile %q", ps.name), err}
	}
	return nil
}

func (p *pipeline) group(typ p4v1.Update_Type, e *p4v1.ActionProfileGroup, ps *profileSchema) error {
	id, profile := e.GetGroupId(), p.profile(ps)
	if !ps.selector {
		return errorf(codes.InvalidArgument, "it has no selector and takes no group")
	}
	if id == 0 {
		return errorf(codes.InvalidArgument, "no group_id")
	}
	if typ == p4v1.Update_DELETE {
		return profile.DeleteGroup(id)
	}
	if profile.Sets() > 0 {
		return mixed()
	}
	g, size, err := p.readGroup(e, ps)
	if err != nil {
		return &placedError{fmt.Sprintf("group %d", id), err}
	}
	old := 0
	if x := profile.Group(id); x != nil && typ == p4v1.Update_MODIFY {
		if m := x.Opaque.(*p4v1.ActionProfileGroup); m.GetMaxSize() != e.GetMaxSize() {
			return errorf(codes.InvalidArgument, "group %d: max_size %d, it was inserted with %d", id, e.GetMaxSize(), m.GetMaxSize())
		}
		old = ps.groupSize(x.Members)
	}
	if err := ps.room(profile, size-old); err != nil {
		return err
	}
	if typ == p4v1.Update_INSERT {
		return profile.InsertGroup(g)
	}
	return profile.ModifyGroup(g)
}

// readGroup reads a group and its size.
func (p *pipeline) readGroup(e *p4v1.ActionProfileGroup, ps *profileSchema) (*dataplane.Group, int, error) {
	maxSize := int(e.GetMaxSize())
	switch {
	case maxSize < 0:
		return nil, 0, errorf(codes.InvalidArgument, "max_size %d", maxSize)
	case ps.maxGroup > 0 && (maxSize == 0 || maxSize > ps.maxGroup):
		return nil, 0, errorf(codes.InvalidArgument, "max_size %d, want 1 to %d", maxSize, ps.maxGroup)
	}
	e = proto.CloneOf(e)
	g := &dataplane.Group{ID: e.GetGroupId(), Opaque: e}
	for _, m := range e.GetMembers() {
		weight, err := ps.weight(m.GetWeight())
		if err != nil {
			return nil, 0, &placedError{fmt.Sprintf("member %d", m.GetMemberId()), err}
		}
		if w, ok := m.GetWatchKind().(*p4v1.ActionProfileGroup_Member_WatchPort); ok && len(w.WatchPort) > 0 {
			w.WatchPort = canonical(w.WatchPort)
		}
		up, err := p.watch(m)
		if err != nil {
			return nil, 0, &placedError{fmt.Sprintf("member %d", m.GetMemberId()), err}
		}
		g.Members = append(g.Members, dataplane.GroupMember{Member: m.GetMemberId(), Weight: weight, Disabled: !up})
	}
	size := ps.groupSize(g.Members)
	if maxSize > 0 && size > maxSize {
		return nil, 0, errorf(codes.ResourceExhausted, "its size is %d, max_size %d", size, maxSize)
	}
	return g, size, nil
}

// weight reads the weight of a member.
func (ps *profileSchema) weight(w int32) (int, error) {
	switch {
	case ps.noWeights && w != 0:
		return 0, errorf(codes.InvalidArgument, "weight %d, weights are disallowed", w)
	case ps.noWeights:
		return 1, nil
	case w <= 0:
		return 0, errorf(codes.InvalidArgument, "weight %d, want more than 0", w)
	case w > dataplane.MaxGroupWeight:
		return 0, errorf(codes.ResourceExhausted, "weight %d, at most %d are possible", w, dataplane.MaxGroupWeight)
	case ps.byMembers && ps.maxWeight > 0 && int(w) > ps.maxWeight:
		return 0, errorf(codes.InvalidArgument, "weight %d, max_member_weight is %d", w, ps.maxWeight)
	}
	return int(w), nil
}

// groupSize is the size of a group in the profile's terms.
func (ps *profileSchema) groupSize(members []dataplane.GroupMember) int {
	if ps.byMembers {
		return len(members)
	}
	n := 0
	for i := range members {
		n += members[i].Weight
	}
	return n
}

// room tells whether groups and sets may grow by so much together.
func (ps *profileSchema) room(profile *dataplane.Profile, more int) error {
	if ps.size == 0 || more <= 0 {
		return nil
	}
	used := profile.Use().Weights
	if ps.byMembers {
		used = profile.Use().Members
	}
	if used+more > ps.size {
		return errorf(codes.ResourceExhausted, "its groups would have a size of %d together, it is of %d", used+more, ps.size)
	}
	return nil
}

// readGroups is section 9.2.2.
func (p *pipeline) readGroups(q *p4v1.ActionProfileGroup, out func(part)) error {
	list, err := p.schema.profiles.some(q.GetActionProfileId())
	if err != nil {
		return err
	}
	for _, ps := range list {
		groups := p.profile(ps).Groups()
		if id := q.GetGroupId(); id != 0 {
			groups = nil
			if g := p.profile(ps).Group(id); g != nil {
				groups = append(groups, g)
			}
		}
		out(part{len(groups), func(i int) *p4v1.Entity {
			return &p4v1.Entity{Entity: &p4v1.Entity_ActionProfileGroup{ActionProfileGroup: groups[i].Opaque.(*p4v1.ActionProfileGroup)}}
		}})
	}
	return nil
}

// A watcher is a member of a group or of a one-shot set: it may watch a port.
type watcher interface {
	GetWatch() int32
	GetWatchPort() []byte
}

// watch tells whether a member may be chosen: it watches no port, or one that is up.
func (p *pipeline) watch(m watcher) (bool, error) {
	port := uint16(0)
	switch {
	case len(m.GetWatchPort()) > 0:
		b, err := parseBits(m.GetWatchPort(), 9)
		if err != nil {
			return false, errorf(codes.InvalidArgument, "watch_port: %v", err)
		}
		port = uint16(b[0])<<8 | uint16(b[1])
	case m.GetWatch() != 0: // deprecated since 1.2.0
		if m.GetWatch() < 0 || m.GetWatch() > 511 {
			return false, errorf(codes.InvalidArgument, "watch: there is no port %d", m.GetWatch())
		}
		port = uint16(m.GetWatch())
	default:
		return true, nil
	}
	exists, up := p.env.port(port)
	if !exists {
		return false, errorf(codes.InvalidArgument, "watch_port: there is no port %d", port)
	}
	return up, nil
}

// oneShot reads a set of actions (section 9.2.3). old is what the set replaces, or nil.
func (p *pipeline) oneShot(ts *tableSchema, x *p4v1.ActionProfileActionSet, old *dataplane.Bound, o opaque) (*dataplane.Bound, error) {
	ps := ts.profile
	if !ps.selector {
		return nil, errorf(codes.InvalidArgument, "action profile %q has no selector and takes no action set", ps.name)
	}
	profile := p.profile(ps)
	if members, groups := profile.Len(); members+groups > 0 {
		return nil, mixed()
	}
	byMembers := ps.byMembers
	switch x.GetSizeSemantics() {
	case p4v1.ActionProfileActionSet_DEFAULT_SIZE_DETERMINED_BY_ACTION_SELECTOR:
	case p4v1.ActionProfileActionSet_SUM_OF_WEIGHTS:
		byMembers = false
	case p4v1.ActionProfileActionSet_SUM_OF_MEMBERS:
		byMembers = true
	default:
		return nil, errorf(codes.InvalidArgument, "size_semantics %v", x.GetSizeSemantics())
	}
	random := false
	switch x.GetActionSelectionMode() {
	case p4v1.ActionProfileActionSet_DEFAULT_MODE_DETERMINED_BY_ACTION_SELECTOR, p4v1.ActionProfileActionSet_HASH:
	case p4v1.ActionProfileActionSet_RANDOM:
		random = true
	default:
		return nil, errorf(codes.InvalidArgument, "action_selection_mode %v", x.GetActionSelectionMode())
	}
	x = proto.CloneOf(x)
	set := make([]dataplane.SetMember, 0, len(x.GetActionProfileActions()))
	weights := 0
	for i, a := range x.GetActionProfileActions() {
		at := func(err error) error { return &placedError{fmt.Sprintf("action %d of the set", i), err} }
		weight, err := ps.weight(a.GetWeight())
		if err != nil {
			return nil, at(err)
		}
		weights += weight
		if w, ok := a.GetWatchKind().(*p4v1.ActionProfileAction_WatchPort); ok && len(w.WatchPort) > 0 {
			w.WatchPort = canonical(w.WatchPort)
		}
		up, err := p.watch(a)
		if err != nil {
			return nil, at(err)
		}
		name, args, err := ps.actions.parse(a.GetAction(), false)
		if err != nil {
			return nil, at(err)
		}
		a.Action = ps.actions.message(name, args)
		set = append(set, dataplane.SetMember{Action: name, Args: args, Weight: weight, Disabled: !up})
	}
	size := weights
	if byMembers {
		size = len(set)
	}
	if ps.maxGroup > 0 && size > ps.maxGroup {
		return nil, errorf(codes.InvalidArgument, "the set's size is %d, max_group_size is %d", size, ps.maxGroup)
	}
	more := weights
	if ps.byMembers {
		more = len(set)
	}
	if old != nil {
		for i := range old.Set {
			if ps.byMembers {
				more--
			} else {
				more -= old.Set[i].Weight
			}
		}
	}
	if err := ps.room(profile, more); err != nil {
		return nil, err
	}
	o.set = x
	return p.table(ts).BindSet(set, random, o)
}

// refreshProfiles chooses anew which members can be chosen, after a port's status
// has changed.
func (p *pipeline) refreshProfiles() {
	for _, ps := range p.schema.profiles.list {
		for _, g := range p.profile(ps).Groups() {
			if next, _, err := p.readGroup(g.Opaque.(*p4v1.ActionProfileGroup), ps); err == nil {
				p.profile(ps).ModifyGroup(next)
			}
		}
	}
	for _, ts := range p.schema.tables {
		if ts.profile == nil || p.profile(ts.profile).Sets() == 0 {
			continue
		}
		t := p.table(ts)
		for _, e := range t.Entries() {
			old := e.Bound()
			if !old.IsSet() {
				continue
			}
			o := opaqueOf(old)
			if b, err := p.oneShot(ts, o.set, old, o); err == nil {
				t.Modify(e.Match, e.Priority, b, nil)
			}
		}
	}
}
