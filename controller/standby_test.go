// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// copySecret gives a controller the secret of another one.
func copySecret(t *testing.T, from, to *config.Config) {
	t.Helper()
	secret, err := os.ReadFile(filepath.Join(from.StateDir, "isn-secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to.StateDir, "isn-secret"), secret, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A controller stands by, takes over when the one in charge dies without writing
// anything, and the next failover works; and it gives way when that one is back.
func TestStandby(t *testing.T) {
	checkLeaks(t)
	cfg, l, c1, _, a1, a2 := duplexLab(t)
	servers := cfg.Pairs[0].Servers
	spare := testConfig(t, l.address)
	spare.Switch.Standby = true
	copySecret(t, cfg, spare)
	c2 := start(t, spare)
	admin := c2.admin(t)
	if got := c2.session.Status(); got != p4rt.Standby {
		t.Errorf("the second controller is %v", got)
	}
	refused := startAgent(t, l, c2.AgentAddr().String(), servers[0], a1)
	if err := <-refused.failed; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stands by") {
		t.Errorf("an agent is told %v, want Unavailable", err)
	}
	if _, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a switch-over: %v, want FailedPrecondition", err)
	}

	had := switchText(t, c1)
	died := time.Now()
	c1.stop()
	eventually(t, "the second controller is in charge", func() error {
		if got := c2.session.Status(); got != p4rt.Ready {
			return errors.New(got.String())
		}
		return nil
	})
	t.Logf("in charge %v after the other's death", time.Since(died).Round(time.Millisecond))
	b1 := startAgent(t, l, c2.AgentAddr().String(), servers[0], a1)
	b2 := startAgent(t, l, c2.AgentAddr().String(), servers[1], a2)
	epoch := awaitPair(t, admin, duplex, active, backup).GetEpoch()
	if diff := cmp.Diff(had, switchText(t, c2)); diff != "" {
		t.Errorf("the switch was changed (-before +after):\n%s", diff)
	}
	b1.kill()
	if p := awaitPair(t, admin, simplex, noRole, active); p.GetEpoch() != epoch+1 {
		t.Errorf("epoch %d after a failover, was %d", p.GetEpoch(), epoch)
	}

	// The first one is back: it is in charge, and the second one lets its agents go and
	// does not take that for their death.
	c1 = start(t, cfg)
	select {
	case <-b2.failed:
	case <-time.After(deadline):
		t.Fatal("the second controller keeps its agent")
	}
	startAgent(t, l, c1.AgentAddr().String(), servers[1], b2)
	if p := awaitPair(t, c1.admin(t), simplex, noRole, active); p.GetEpoch() != epoch+1 {
		t.Errorf("epoch %d with the first controller, was %d", p.GetEpoch(), epoch+1)
	}
	if got := c2.session.Status(); got != p4rt.Standby {
		t.Errorf("the second controller is %v", got)
	}
}

// Whoever watches is told of what was changed in the switch.
func TestDriftIsTold(t *testing.T) {
	checkLeaks(t)
	_, _, c, admin, _, _ := duplexLab(t)
	events, err := admin.WatchEvents(t.Context(), &adminv1.WatchEventsRequest{Pair: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Recv(); err != nil { // it is watched from now on
		t.Fatal(err)
	}
	e := c.loop.tables.Load().standing[0]
	c.loop.drifted("s1", []p4rt.Update{{Op: p4rt.Insert, Entry: &e}})
	for {
		ev, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if ev.GetType() != adminv1.EventType_EVENT_TYPE_SWITCH_DRIFT {
			continue
		}
		if !strings.Contains(ev.GetMessage(), "insert "+e.String()) {
			t.Errorf("told %q", ev.GetMessage())
		}
		return
	}
}
