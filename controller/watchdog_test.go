// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/p4"
)

// watchedLab is duplexLab with the switch's watchdog.
func watchedLab(t *testing.T) (l *lab, c *running, admin adminv1.AdminClient, a1, a2 *agent, cfg *config.Config) {
	t.Helper()
	l = newLab(t, "")
	text := strings.Replace(testText(t, l.address), "- name: web\n    servers", "- name: web\n    watchdog: true\n    servers", 1)
	cfg, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c = start(t, cfg)
	admin = c.admin(t)
	servers := cfg.Pairs[0].Servers
	a1 = startAgent(t, l, c.AgentAddr().String(), servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)
	a2 = startAgent(t, l, c.AgentAddr().String(), servers[1], nil)
	awaitPair(t, admin, duplex, active, backup)
	a1.counts(3, 3)
	return l, c, admin, a1, a2, cfg
}

// The switch releases the backup of a server that it does not hear, and the controller
// does as the switch did. The controller alone would wait longer: it hears the session.
func TestSwitchReleases(t *testing.T) {
	checkLeaks(t)
	l, _, admin, a1, a2, _ := watchedLab(t)
	eventually(t, "the switch is armed", func() error { return armed(t, l) })
	// One said earlier may have come before the epoch's entry.
	a1.said.Store(0)
	eventually(t, "server1 is heard in this epoch", func() error {
		if e := a1.said.Load(); e != 2 {
			return fmt.Errorf("its last heartbeat was of epoch %d", e)
		}
		return nil
	})
	a1.mute.Store(true)
	awaitPair(t, admin, simplex, fenced, active)
	list, err := admin.ListFailovers(t.Context(), &adminv1.ListFailoversRequest{Pair: "web"})
	if err != nil || len(list.GetFailovers()) != 1 {
		t.Fatalf("failovers %v, %v", list, err)
	}
	if f := list.GetFailovers()[0]; f.GetCause() != string(failover.CauseWatchdog) || f.GetTo() != "server2" {
		t.Errorf("failover %v", f)
	}
	eventually(t, "server2 is told that it is released", func() error {
		if _, ok := a2.releasedAt(3); !ok {
			return errors.New("not yet")
		}
		return nil
	})
}

// While the pair is duplex the entry arms the switch; a new controller leaves it so.
func TestWatchdogIsArmed(t *testing.T) {
	checkLeaks(t)
	l, c, _, a1, a2, cfg := watchedLab(t)
	eventually(t, "the switch is armed", func() error { return armed(t, l) })
	c.stop()
	c = start(t, cfg)
	startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[0], a1)
	startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[1], a2)
	awaitPair(t, c.admin(t), duplex, active, backup)
	if err := armed(t, l); err != nil {
		t.Error(err)
	}
}

// armed asks the switch, whoever is in charge of it.
func armed(t *testing.T, l *lab) error {
	conn := dial(t, l.address)
	defer conn.Close()
	stream, err := p4v1.NewP4RuntimeClient(conn).Read(t.Context(), &p4v1.ReadRequest{DeviceId: 1, Entities: []*p4v1.Entity{
		{Entity: &p4v1.Entity_TableEntry{TableEntry: &p4v1.TableEntry{TableId: p4.TableActive}}}}})
	if err != nil {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(m.GetEntities()) != 1 {
		return fmt.Errorf("%d entries", len(m.GetEntities()))
	}
	action := m.GetEntities()[0].GetTableEntry().GetAction().GetAction()
	got := map[uint32]uint64{}
	for _, p := range action.GetParams() {
		got[p.GetParamId()] = new(big.Int).SetBytes(p.GetValue()).Uint64()
	}
	want := map[uint32]uint64{
		p4.ParamSetActiveWatchedReplica: 1, p4.ParamSetActiveWatchedEpoch: 2,
		p4.ParamSetActiveWatchedStandby: 2, p4.ParamSetActiveWatchedLimit: 6 * 50_000,
	}
	if action.GetActionId() != p4.ActionSetActiveWatched || !maps.Equal(got, want) {
		return fmt.Errorf("the entry is %v", action)
	}
	return nil
}
