// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// stage is where fake switches note what they have in their active table, in the order
// in which that came about.
type stage struct {
	mu   sync.Mutex
	seen []string
}

// fakeTarget is a session with a switch that keeps one active entry.
type fakeTarget struct {
	*stage
	name   string
	active *p4rt.Entry
	err    error // of Put
	away   bool
}

func (f *fakeTarget) Put(_ context.Context, entries []p4rt.Entry, _ []p4rt.Group) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	for _, e := range entries {
		f.active = &e
		replica, _ := e.Find("replica")
		f.seen = append(f.seen, fmt.Sprintf("%s: %d", f.name, number(replica)))
	}
	return nil
}

func (f *fakeTarget) Known(p4rt.Entry) (p4rt.Entry, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active == nil {
		return p4rt.Entry{}, false
	}
	return *f.active, true
}

func (f *fakeTarget) Status() p4rt.Status {
	if f.away {
		return p4rt.Connecting
	}
	return p4rt.Ready
}

func (f *fakeTarget) Change(context.Context, []p4rt.Update) error { return f.err }
func (f *fakeTarget) Resync()                                     {}
func (f *fakeTarget) Size() (entries, groups int)                 { return 0, 0 }

// entryOf is the first pair's active entry.
func entryOf(replica failover.Replica, epoch uint64) p4rt.Entry {
	return activeEntry{replica: replica, epoch: epoch}.entry(1)
}

// A pair that is reached through two switches is suppressed on both before it is
// released on any.
func TestSuppressedBeforeReleased(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name    string
		prepare func(a, b *fakeTarget)
		next    p4rt.Entry
		want    []string // in each, what came before a line in brackets may come in any order
		err     error
	}{
		{"a flip", nil, entryOf(2, 8), []string{"a: 0", "b: 0", "|", "a: 2", "b: 2"}, nil},
		{"an epoch", nil, entryOf(1, 8), []string{"a: 1", "b: 1"}, nil},
		{"nobody", nil, entryOf(0, 8), []string{"a: 0", "b: 0"}, nil},
		{"one has it already", func(_, b *fakeTarget) { e := entryOf(2, 8); b.active = &e },
			entryOf(2, 8), []string{"a: 0", "b: 0", "|", "a: 2", "b: 2"}, nil},
		{"what one has is not known", func(_, b *fakeTarget) { b.active = &p4rt.Entry{Table: activeTable} },
			entryOf(1, 8), []string{"a: 0", "b: 0", "|", "a: 1", "b: 1"}, nil},
		{"one is away", func(_, b *fakeTarget) { b.away = true }, entryOf(2, 8), []string{"a: 2"}, nil},
		{"one goes away meanwhile", func(_, b *fakeTarget) { b.err = p4rt.ErrNotReady }, entryOf(2, 8), []string{"a: 0", "|", "a: 2"}, nil},
		// It may still let the old one through: nobody is released.
		{"one cannot be suppressed", func(_, b *fakeTarget) { b.err = broken }, entryOf(2, 8), []string{"a: 0"}, broken},
		{"both are away", func(a, b *fakeTarget) { a.away, b.away = true, true }, entryOf(2, 8), nil, p4rt.ErrNotReady},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &stage{}
			first := entryOf(1, 7)
			a, b := &fakeTarget{stage: s, name: "a", active: &first}, &fakeTarget{stage: s, name: "b", active: &first}
			if tt.prepare != nil {
				tt.prepare(a, b)
			}
			err := switches{a, b}.Put(t.Context(), []p4rt.Entry{tt.next}, nil)
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			// What happens at the same time, in the order of the names.
			rest := s.seen
			var got []string
			for i, phase := range strings.Split(strings.Join(tt.want, " "), " | ") {
				n := min(strings.Count(phase, ":"), len(rest))
				part := slices.Sorted(slices.Values(rest[:n]))
				rest = rest[n:]
				if i > 0 {
					got = append(got, "|")
				}
				got = append(got, part...)
			}
			if diff := cmp.Diff(tt.want, append(got, rest...)); diff != "" {
				t.Errorf("written (-want +got):\n%s", diff)
			}
		})
	}
}

// twinLab is a pair in duplex that is reached through two switches.
func twinLab(t *testing.T) (cfg *config.Config, l1, l2 *lab, c *running, admin adminv1.AdminClient, a1, a2 *agent) {
	t.Helper()
	l1, l2 = newLab(t, ""), newLab(t, "")
	text := testText(t, l1.address) + fmt.Sprintf("\ntwins: [{name: s2, address: %q, device_id: 1}]\n", l2.address)
	cfg = parseText(t, text)
	c = start(t, cfg)
	admin = c.admin(t)
	awaitSwitches(t, c, p4rt.Ready, p4rt.Ready)
	a1 = startAgent(t, l1, c.AgentAddr().String(), cfg.Pairs[0].Servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)
	a2 = startAgent(t, l1, c.AgentAddr().String(), cfg.Pairs[0].Servers[1], nil)
	awaitPair(t, admin, duplex, active, backup)
	return cfg, l1, l2, c, admin, a1, a2
}

func awaitSwitches(t *testing.T, c *running, want ...p4rt.Status) {
	t.Helper()
	eventually(t, fmt.Sprintf("switches %v", want), func() error {
		var got []p4rt.Status
		for _, s := range c.sessions {
			got = append(got, s.Status())
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v", got)
		}
		return nil
	})
}

// speaks waits until one server is heard through a switch.
func speaks(t *testing.T, cfg *config.Config, l *lab, server string) {
	t.Helper()
	eventually(t, server+" is heard", func() error {
		if got, hears := heard(t, cfg, l); !slices.Equal(got, []string{server}) {
			return fmt.Errorf("%v speak, %v hear", got, hears)
		}
		return nil
	})
}

// A flip is one on both switches. One of them restarts, and gets what the other one
// has; and one that was away during a flip learns of it when it is back.
func TestTwins(t *testing.T) {
	checkLeaks(t)
	cfg, l1, l2, c, admin, _, _ := twinLab(t)
	for _, l := range []*lab{l1, l2} {
		speaks(t, cfg, l, "server1")
	}
	if _, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); err != nil {
		t.Fatal(err)
	}
	awaitPair(t, admin, duplex, backup, active)
	for _, l := range []*lab{l1, l2} {
		speaks(t, cfg, l, "server2")
	}

	l2.stop()
	awaitSwitches(t, c, p4rt.Ready, p4rt.Connecting)
	if _, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); err != nil {
		t.Fatal(err)
	}
	awaitPair(t, admin, duplex, active, backup)
	l2 = newLab(t, l2.address)
	awaitSwitches(t, c, p4rt.Ready, p4rt.Ready)
	speaks(t, cfg, l2, "server1")
	speaks(t, cfg, l1, "server1")
}

// A controller died in the middle of a flip: one switch has what the other one has not
// yet. The newer epoch is right, whichever is read first.
func TestTwinsDiffer(t *testing.T) {
	for name, newer := range map[string]int{"the first is newer": 0, "the second is newer": 1} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			cfg, l1, l2, c, admin, a1, a2 := twinLab(t)
			epoch := awaitPair(t, admin, duplex, active, backup).GetEpoch()
			e := entryOf(2, epoch+1)
			if err := c.sessions[newer].Put(t.Context(), []p4rt.Entry{e}, nil); err != nil {
				t.Fatal(err)
			}
			c.stop()
			// The servers were told of it already.
			for a, role := range map[*agent]agentv1.Role{a1: agentv1.Role_ROLE_BACKUP, a2: agentv1.Role_ROLE_ACTIVE} {
				a.kill()
				as := proto.CloneOf(a.last())
				as.Role, as.Epoch = role, epoch+1
				a.mu.Lock()
				a.assigned = as
				a.mu.Unlock()
			}
			c = start(t, cfg)
			admin = c.admin(t)
			startAgent(t, l1, c.AgentAddr().String(), cfg.Pairs[0].Servers[0], a1)
			startAgent(t, l1, c.AgentAddr().String(), cfg.Pairs[0].Servers[1], a2)
			eventually(t, "one server is active on both", func() error {
				s1, _ := heard(t, cfg, l1)
				s2, _ := heard(t, cfg, l2)
				if len(s1) != 1 || !slices.Equal(s1, s2) {
					return fmt.Errorf("through the first %v, through the second %v", s1, s2)
				}
				return nil
			})
			// Later epochs are no fault: the backup may come back after the controller
			// has ceased to wait for it, and joins again.
			if p := awaitPair(t, admin, duplex, backup, active); p.GetEpoch() < epoch+1 {
				t.Errorf("epoch %d, want %d or later", p.GetEpoch(), epoch+1)
			}
		})
	}
}

var _ target = (*p4rt.Session)(nil)
