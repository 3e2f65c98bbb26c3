// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/p4rt"
	"github.com/understudy-net/understudy/p4"
)

func TestSwitchOver(t *testing.T) {
	checkLeaks(t)
	cfg, l, _, admin, a1, a2 := duplexLab(t)
	resp, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"})
	if err != nil {
		t.Fatal(err)
	}
	f := resp.GetFailover()
	if f.GetFrom() != "server1" || f.GetTo() != "server2" || f.GetCause() != "operator" || f.GetEpoch() != 3 {
		t.Errorf("failover %v", f)
	}
	if speaks, _ := heard(t, cfg, l); !slices.Equal(speaks, []string{"server2"}) {
		t.Errorf("%v speaks when SwitchOver has returned", speaks)
	}
	// At once again: the old one is not back yet.
	if _, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("error %v, want FailedPrecondition", err)
	}
	awaitPair(t, admin, duplex, backup, active)
	if diff := cmp.Diff([]string{
		"ROLE_ACTIVE 1 released", "ROLE_ACTIVE 2 released peer server2", "ROLE_FENCED 3", "ROLE_BACKUP 4 peer server2",
	}, a1.told()); diff != "" {
		t.Errorf("what server1 was told (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"ROLE_FENCED 1", "ROLE_BACKUP 2 peer server1", "ROLE_ACTIVE 3", "ROLE_ACTIVE 3 released", "ROLE_ACTIVE 4 released peer server1",
	}, a2.told()); diff != "" {
		t.Errorf("what server2 was told (-want +got):\n%s", diff)
	}
	for _, tt := range []struct {
		pair string
		want codes.Code
	}{{"nobody", codes.NotFound}, {"", codes.InvalidArgument}} {
		if _, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: tt.pair}); status.Code(err) != tt.want {
			t.Errorf("pair %q: %v, want %v", tt.pair, err, tt.want)
		}
	}
}

// A backup that dies is given up at once, and rejoins when it comes back.
func TestBackupDies(t *testing.T) {
	checkLeaks(t)
	cfg, l, c, admin, a1, a2 := duplexLab(t)
	began := time.Now()
	a2.kill()
	eventually(t, "server1 is told to go on alone", func() error {
		if as := a1.last(); as.GetEpoch() != 3 || as.GetPeer() != nil || !as.GetReleased() {
			return fmt.Errorf("it has %v", as)
		}
		return nil
	})
	t.Logf("the gate was lifted %v after the backup's death", time.Since(began))
	awaitPair(t, admin, simplex, active, noRole)
	eventually(t, "copies go to server1 only", func() error {
		if _, hears := heard(t, cfg, l); !slices.Equal(hears, []string{"server1"}) {
			return fmt.Errorf("%v hears", hears)
		}
		return nil
	})
	startAgent(t, l, c.AgentAddr().String(), a2.server, nil)
	awaitPair(t, admin, duplex, active, backup)
}

func TestStreamBreaks(t *testing.T) {
	checkLeaks(t)
	_, _, _, admin, a1, a2 := duplexLab(t)
	a1.replication(2, false, "connection reset")
	awaitPair(t, admin, duplex, active, backup)
	eventually(t, "a new epoch", func() error {
		if e := a2.last().GetEpoch(); e != 4 {
			return fmt.Errorf("epoch %d", e)
		}
		return nil
	})
}

// A controller that restarts changes nothing that is right.
func TestControllerRestarts(t *testing.T) {
	checkLeaks(t)
	cfg, l, c, admin, a1, a2 := duplexLab(t)
	if _, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); err != nil {
		t.Fatal(err)
	}
	awaitPair(t, admin, duplex, backup, active)
	eventually(t, "the failover is on disk", func() error {
		text, err := os.ReadFile(filepath.Join(cfg.StateDir, "failovers.jsonl"))
		if err != nil || !bytes.Contains(text, []byte(`"cause":"operator"`)) {
			return fmt.Errorf("%q, %v", text, err)
		}
		return nil
	})
	secret := a1.last().GetIsnSecret()
	c.stop()
	if speaks, hears := heard(t, cfg, l); !slices.Equal(speaks, []string{"server2"}) || len(hears) != 2 {
		t.Errorf("without a controller %v speaks, %v hear", speaks, hears)
	}

	before := switchState(t, l.address)
	c = start(t, cfg)
	admin = c.admin(t)
	b1 := startAgent(t, l, c.AgentAddr().String(), a1.server, a1)
	b2 := startAgent(t, l, c.AgentAddr().String(), a2.server, a2)
	pair := awaitPair(t, admin, duplex, backup, active)
	if pair.GetEpoch() != 4 {
		t.Errorf("epoch %d, want 4 as before", pair.GetEpoch())
	}
	// The pair is duplex by what the agents have said; what they are told is on its
	// way.
	for _, b := range []*agent{b1, b2} {
		eventually(t, b.server.Name+" is told", func() error {
			if len(b.told()) == 0 {
				return errors.New("nothing yet")
			}
			return nil
		})
	}
	if diff := cmp.Diff([]string{"ROLE_BACKUP 4 peer server2"}, b1.told()); diff != "" {
		t.Errorf("what server1 was told (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ROLE_ACTIVE 4 released peer server1"}, b2.told()); diff != "" {
		t.Errorf("what server2 was told (-want +got):\n%s", diff)
	}
	if !bytes.Equal(secret, b1.last().GetIsnSecret()) {
		t.Error("the secret of the sequence numbers has changed")
	}
	resp, err := admin.ListFailovers(t.Context(), &adminv1.ListFailoversRequest{Pair: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(resp.GetFailovers()); n != 1 || resp.GetFailovers()[0].GetReleased() == nil {
		t.Errorf("failovers %v", resp.GetFailovers())
	}
	c.stop()
	if diff := cmp.Diff(before, switchState(t, l.address)); diff != "" {
		t.Errorf("the switch has changed (-before +after):\n%s", diff)
	}
}

// switchState reads a switch without changing it.
func switchState(t testing.TB, address string) string {
	t.Helper()
	var text string
	ready := make(chan struct{})
	s, err := p4rt.New(p4rt.Options{
		Address: address, DeviceID: 1,
		Pipeline: p4rt.Pipeline{Info: p4.Info(), Device: p4.JSON()},
		Wanted: func(_ context.Context, have p4rt.State) (p4rt.State, error) {
			text = have.String()
			return have, nil
		},
		Changed: func(s p4rt.Status) {
			if s == p4rt.Ready {
				close(ready)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-ready:
	case <-time.After(deadline):
		t.Error("the switch cannot be read")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return text
}

// Everything that the plan says, on a switch that takes it.
func TestPlan(t *testing.T) {
	checkLeaks(t)
	_, l, c, _, _, _ := duplexLab(t)
	c.stop()
	want := strings.TrimSpace(`
active[pair=1] set_active(replica=1, epoch=2)
arp_reply[target_ip=10.0.1.1] arp_answer(mac=02:00:00:00:01:01)
arp_reply[target_ip=10.0.2.1] arp_answer(mac=02:00:00:00:02:01)
arp_reply[target_ip=198.51.100.10] arp_answer(mac=02:00:00:00:01:01)
group[1] (1@2, 2@3)
heartbeat[ingress_port=2, src_mac=02:00:00:00:01:02] heartbeat_of(pair=1, replica=1)
heartbeat[ingress_port=3, src_mac=02:00:00:00:02:02] heartbeat_of(pair=1, replica=2)
punt[dst_addr=10.0.1.1, protocol=17, dst_port=9401] to_controller()
punt[dst_addr=10.0.2.1, protocol=17, dst_port=9401] to_controller()
replica[ingress_port=2, src_mac=02:00:00:00:01:02, src_addr=198.51.100.10] from_replica(pair=1, replica=1, rid=1)
replica[ingress_port=3, src_mac=02:00:00:00:02:02, src_addr=198.51.100.10] from_replica(pair=1, replica=2, rid=2)
replica_rewrite[rid=1] rewrite(dst_mac=02:00:00:00:01:02, src_mac=02:00:00:00:01:01)
replica_rewrite[rid=2] rewrite(dst_mac=02:00:00:00:02:02, src_mac=02:00:00:00:02:01)
route[dst_addr=192.0.2.0/24] forward(port=1, dst_mac=02:00:00:00:00:0c, src_mac=02:00:00:00:00:01)
shadow[pair=1, active=1] shadow_to(port=2, rid=1)
shadow[pair=1, active=2] shadow_to(port=3, rid=2)
source_filter[src_addr=198.51.100.10] guard()
vip[dst_addr=198.51.100.10, protocol=1, dst_port=0] duplicate(group=1)
vip[dst_addr=198.51.100.10, protocol=6, dst_port=80] duplicate(group=1)
`)
	if diff := cmp.Diff(want, switchState(t, l.address)); diff != "" {
		t.Errorf("what the switch has (-want +got):\n%s", diff)
	}
}

// A switch that restarts gets everything again, and what was decided meanwhile.
func TestSwitchRestarts(t *testing.T) {
	checkLeaks(t)
	cfg, l, _, admin, a1, a2 := duplexLab(t)
	l.stop()
	a1.kill()
	awaitPair(t, admin, adminv1.PairState_PAIR_STATE_FAILING_OVER)
	if _, ok := a2.releasedAt(3); ok {
		t.Error("server2 was released without a switch")
	}
	l2 := newLab(t, l.address)
	awaitPair(t, admin, simplex, noRole, active)
	if speaks, hears := heard(t, cfg, l2); !slices.Equal(speaks, []string{"server2"}) || !slices.Contains(hears, "server2") {
		t.Errorf("%v speaks, %v hear", speaks, hears)
	}
	eventually(t, "server2 is released", func() error {
		if _, ok := a2.releasedAt(3); !ok {
			return errors.New("it is not")
		}
		return nil
	})
}

// Whoever watches sees a failover happen, step by step.
func TestEvents(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	c := start(t, cfg)
	admin := c.admin(t)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if _, err := first(admin.WatchEvents(ctx, &adminv1.WatchEventsRequest{Pair: "nobody"})); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown pair: %v, want NotFound", err)
	}
	stream, err := admin.WatchEvents(ctx, &adminv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	next := func() *adminv1.Event {
		e, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %q: %v", events, err)
		}
		if e.GetPair().GetName() != "web" || e.GetTime() == nil {
			t.Errorf("event %v", e)
		}
		events = append(events, strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_")+": "+e.GetMessage())
		return e
	}
	next()
	a1 := startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[0], nil)
	for next().GetPair().GetState() != simplex {
	}
	startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[1], nil)
	for next().GetPair().GetState() != duplex {
	}
	a1.kill()
	var failover *adminv1.Failover
	for {
		e := next()
		if e.GetType() == adminv1.EventType_EVENT_TYPE_FAILOVER {
			failover = e.GetFailover()
		}
		if strings.HasPrefix(e.GetMessage(), "failing over -> simplex") {
			break
		}
	}
	want := []string{
		"SNAPSHOT: down",
		"SERVER_UP: server1 attached",
		"STATE_CHANGED: down -> simplex: server1 serves",
		"SERVER_UP: server2 attached",
		"STATE_CHANGED: simplex -> joining: server2",
		"STATE_CHANGED: joining -> duplex: server2 follows server1",
		"SERVER_DOWN: server1: session closed",
		"STATE_CHANGED: duplex -> failing over: server1 to server2, session closed",
		"FAILOVER: server1 to server2 in epoch 3, session closed",
		"STATE_CHANGED: failing over -> simplex: server2 serves",
	}
	if diff := cmp.Diff(want, slices.Compact(events)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if failover.GetTo() != "server2" || failover.GetDecideToWritten() == nil {
		t.Errorf("failover %v", failover)
	}
}

// first returns what a call that streams says first.
func first(s adminv1.Admin_WatchEventsClient, err error) (*adminv1.Event, error) {
	if err != nil {
		return nil, err
	}
	return s.Recv()
}

func TestAgentsAreRefused(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	c := start(t, testConfig(t, l.address))
	conn, err := grpc.NewClient("passthrough:///"+c.AgentAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, tt := range []struct {
		name  string
		hello *agentv1.Hello
		want  codes.Code
	}{
		{"a server that is not configured", &agentv1.Hello{Server: "server9", Instance: 1}, codes.NotFound},
		{"no instance", &agentv1.Hello{Server: "server1"}, codes.InvalidArgument},
		{"an epoch that cannot be", &agentv1.Hello{Server: "server1", Instance: 1, Epoch: 1 << 40}, codes.InvalidArgument},
		{"a role that is not known", &agentv1.Hello{Server: "server1", Instance: 1, Role: 9}, codes.InvalidArgument},
		{"a role beyond all bounds", &agentv1.Hello{Server: "server1", Instance: 1, Role: 256}, codes.InvalidArgument},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stream, err := agentv1.NewAgentControlClient(conn).Session(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Hello{Hello: tt.hello}}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != tt.want {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// What keeps a controller from starting is told by New, in one line that says
// what to do.
func TestNewFails(t *testing.T) {
	pipeline := p4rt.Pipeline{Info: p4.Info(), Device: p4.JSON()}
	for _, tt := range []struct {
		name string
		edit func(*testing.T, *Options)
		want string
	}{
		{"the agents' address is taken", func(t *testing.T, o *Options) {
			l := newLab(t, "")
			o.Config.Listen.Agents = l.address
		}, "free the address, or change listen.agents"},
		{"state_dir is a file", func(t *testing.T, o *Options) {
			o.Config.StateDir = filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(o.Config.StateDir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "isn-secret: not a directory"},
		{"the secret is cut off", func(t *testing.T, o *Options) {
			if err := os.WriteFile(filepath.Join(o.Config.StateDir, "isn-secret"), []byte("short"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "has 5 bytes, not 16"},
		{"another P4 program", func(_ *testing.T, o *Options) {
			o.Pipeline.Info.Tables = o.Pipeline.Info.GetTables()[1:]
		}, `no table "punt"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			opts := Options{Config: testConfig(t, "127.0.0.1:1"), Pipeline: pipeline}
			tt.edit(t, &opts)
			_, err := New(opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// What a switch-over costs, with everything around it: the times of the records.
func TestFlipTimes(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for a server to rejoin, again and again")
	}
	checkLeaks(t)
	_, _, _, admin, _, _ := duplexLab(t)
	var written, released []time.Duration
	for range 10 {
		if _, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); err != nil {
			t.Fatal(err)
		}
		awaitPair(t, admin, duplex)
	}
	resp, err := admin.ListFailovers(t.Context(), &adminv1.ListFailoversRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range resp.GetFailovers() {
		written = append(written, f.GetDecideToWritten().AsDuration())
		released = append(released, f.GetReleased().AsTime().Sub(f.GetDecided().AsTime()))
	}
	slices.Sort(written)
	slices.Sort(released)
	if len(written) != 10 || released[0] <= 0 {
		t.Fatalf("records %v", resp)
	}
	t.Logf("decided to written: median %v, longest %v; decided to released: median %v, longest %v",
		written[5], written[9], released[5], released[9])
}

// An agent claims the highest epoch that can be claimed. The epochs that follow
// are higher, and agents that come back with them are not refused.
func TestHighestClaim(t *testing.T) {
	checkLeaks(t)
	cfg, l, c, admin, a1, a2 := duplexLab(t)
	a2.kill()
	awaitPair(t, admin, simplex, active, noRole)
	liar := &agent{instance: 1, assigned: &agentv1.Assignment{
		Role: agentv1.Role_ROLE_BACKUP, Epoch: failover.MaxEpoch, Heartbeat: a2.last().GetHeartbeat(),
	}}
	servers := cfg.Pairs[0].Servers
	startAgent(t, l, c.AgentAddr().String(), servers[1], liar)
	pair := awaitPair(t, admin, duplex, active, backup)
	if pair.GetEpoch() <= failover.MaxEpoch {
		t.Fatalf("epoch %d", pair.GetEpoch())
	}
	before := a1
	a1.kill()
	awaitPair(t, admin, simplex, noRole, active)
	startAgent(t, l, c.AgentAddr().String(), servers[0], before)
	awaitPair(t, admin, duplex, backup, active)
}

// An agent may have much to say about what is wrong; it is not kept.
func TestLongReason(t *testing.T) {
	checkLeaks(t)
	_, _, _, admin, _, a2 := duplexLab(t)
	events, err := admin.WatchEvents(t.Context(), &adminv1.WatchEventsRequest{})
	if _, err := first(events, err); err != nil {
		t.Fatal(err)
	}
	a2.health(false, strings.Repeat("\u00e9", 100_000))
	awaitPair(t, admin, simplex, active, fenced)
	for range 2 {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if n := len(e.GetMessage()); n > 2*longestReason {
			t.Errorf("an event of %d bytes", n)
		}
	}
}
