// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/bgp"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/health"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// healthy is a path on which all is well.
func healthy() path {
	now := time.Unix(1000, 0)
	vip := netip.MustParseAddr("198.51.100.10")
	seen := timestamppb.New(now.Add(-5 * time.Millisecond))
	return path{
		now:       now,
		service:   config.Service{Name: "web", Pair: "web", VIP: vip, Upstream: "127.0.0.1:80"},
		heartbeat: config.Heartbeat{Interval: 10 * time.Millisecond, Missed: 3},
		bgp:       &bgp.Status{Peers: []bgp.PeerStatus{{Name: "r1", State: "established"}}, Routes: []bgp.Route{{Prefix: netip.PrefixFrom(vip, 32)}}},
		switchAt:  config.Switch{Name: "s1", Address: "127.0.0.1:9559"},
		session:   p4rt.Ready,
		pair: &adminv1.Pair{Name: "web", State: duplex, Epoch: 7, Connections: 5, Protected: 5, Servers: []*adminv1.Server{
			{Name: "a", Role: active, Attached: true, ApplicationUp: true, LastHeartbeat: seen},
			{Name: "b", Role: backup, Attached: true, ApplicationUp: true, LastHeartbeat: seen},
		}},
		facts: map[string]*facts{"a": {listening: []string{"web"}}, "b": {listening: []string{"web"}}},
		heard: map[string]spoken{"a": {released: 100}, "b": {suppressed: 100}},
	}
}

// What is wrong is found, under its name, and is told with what to do about it.
func TestDiagnose(t *testing.T) {
	entry := activeEntry{replica: 2, epoch: 7}.entry(1)
	for _, tc := range []struct {
		name   string
		spoil  func(*path)
		check  string // the first that is not well; "" for none
		result adminv1.Check_Result
	}{
		{"well", func(*path) {}, "", well},
		{"stale", func(p *path) { p.stale = "x.yaml:1: wrong" }, "configuration", warning},
		{"no BGP", func(p *path) { p.bgp = nil }, "route", unknown},
		{"no peer", func(p *path) { p.bgp.Peers[0].State = "active" }, "route", failed},
		{"one peer of two", func(p *path) { p.bgp.Peers = append(p.bgp.Peers, bgp.PeerStatus{Name: "r2", State: "idle"}) }, "route", warning},
		{"not announced", func(p *path) { p.bgp.Routes = nil }, "route", failed},
		{"no session", func(p *path) { p.session = p4rt.Connecting }, "switch", failed},
		{"standby", func(p *path) { p.session = p4rt.Standby }, "switch", warning},
		{"cannot be read", func(p *path) { p.read = errors.New("not ready") }, "entries", unknown},
		{"an entry is missing", func(p *path) { p.missing = []p4rt.Update{{Op: p4rt.Insert, Entry: &entry}} }, "entries", failed},
		{"nobody is active", func(p *path) { p.pair.Servers[0].Role, p.pair.State = fenced, down }, "active", failed},
		{"simplex", func(p *path) { p.pair.State = simplex }, "backup", warning},
		{"unprotected", func(p *path) { p.pair.Protected = 4 }, "backup", warning},
		{"agent of the active", func(p *path) { p.pair.Servers[0].Attached = false }, "agent on a", failed},
		{"agent of the backup", func(p *path) { p.pair.Servers[1].Attached = false }, "agent on b", warning},
		{"application", func(p *path) { p.pair.Servers[0].ApplicationUp = false }, "application on a", failed},
		{"drained", func(p *path) { p.pair.Servers[1].AdminState = adminv1.AdminState_ADMIN_STATE_DRAINED }, "server b", warning},
		{"no heartbeat", func(p *path) { p.pair.Servers[0].LastHeartbeat = nil }, "heartbeats of a", failed},
		{"old heartbeat", func(p *path) { p.pair.Servers[1].LastHeartbeat = timestamppb.New(p.now.Add(-time.Minute)) }, "heartbeats of b", warning},
		{"clock set back", func(p *path) { p.pair.Servers[1].LastHeartbeat = timestamppb.New(p.now.Add(time.Minute)) }, "heartbeats of b", warning},
		{"no facts", func(p *path) { p.facts = nil }, "host a", unknown},
		{"no socket", func(p *path) { p.facts["a"].listening = []string{"other"} }, "socket on a", failed},
		{"no socket on the backup", func(p *path) { p.facts["b"].listening = nil }, "socket on b", warning},
		{"backlog", func(p *path) { p.facts["b"].overflows = 3 }, "backlog on b", warning},
		{"clock", func(p *path) { p.facts["b"].ahead = -time.Minute }, "clock of b", warning},
		{"no counters", func(p *path) { p.heard = nil }, "traffic", unknown},
		{"nothing let through", func(p *path) { p.heard = map[string]spoken{} }, "traffic", failed},
		{"no copies", func(p *path) { p.heard["b"] = spoken{} }, "traffic", warning},
		{"no client yet", func(p *path) { p.heard = map[string]spoken{}; p.pair.Connections, p.pair.Protected = 0, 0 }, "", well},
	} {
		p := healthy()
		tc.spoil(&p)
		var first *adminv1.Check
		for _, c := range diagnose(p) {
			if c.GetName() == "" || c.GetFound() == "" || (c.GetAdvice() == "") != (c.GetResult() == well) {
				t.Errorf("%s: %v", tc.name, c)
			}
			if first == nil && c.GetResult() != well {
				first = c
			}
		}
		if first.GetName() != tc.check || first != nil && first.GetResult() != tc.result {
			t.Errorf("%s: the first is %v, want %s %v", tc.name, first, tc.check, tc.result)
		}
	}
}

// Overflows count from the beginning of a session, and nothing is known of one that is
// over.
func TestFacts(t *testing.T) {
	one, two := &health.Session{}, &health.Session{}
	p := &pair{sessions: []*health.Session{one, nil, nil}, config: config.Pair{Servers: []config.Server{{Name: "a", Replica: 1}}}}
	now := time.Unix(1000, 0)
	say := func(s *health.Session, overflows uint64) {
		p.learn(1, s, &agentv1.Facts{Time: timestamppb.New(now.Add(time.Minute)), ListenOverflows: overflows}, now)
	}
	for _, tc := range []struct{ said, want uint64 }{{10, 0}, {12, 2}, {12, 2}, {15, 5}, {1, 0}, {2, 1}} {
		say(one, tc.said)
		if f := p.known()["a"]; f == nil || f.overflows != tc.want || f.ahead != time.Minute {
			t.Errorf("said %d: %+v, want %d", tc.said, f, tc.want)
		}
	}
	p.sessions[0] = two
	if f := p.known()["a"]; f != nil {
		t.Errorf("of a session that is over: %+v", f)
	}
	say(one, 100)
	say(two, 20)
	if f := p.known()["a"]; f == nil || f.overflows != 0 {
		t.Errorf("another session: %+v", f)
	}
}

// The real path is found well, and the first thing that is wrong with it as well.
func TestDiagnoseARealPath(t *testing.T) {
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	r := start(t, cfg)
	api := r.admin(t)
	servers := cfg.Pairs[0].Servers
	startAgent(t, l, r.AgentAddr().String(), servers[0], nil)
	awaitPair(t, api, simplex)
	b := startAgent(t, l, r.AgentAddr().String(), servers[1], nil)
	awaitPair(t, api, duplex)
	worst := func() (worst adminv1.Check_Result, name string) {
		res, err := api.GetDiagnosis(t.Context(), &adminv1.GetDiagnosisRequest{Service: "web"})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range res.GetChecks() {
			if c.GetName() != "route" && (c.GetResult() == failed || c.GetResult() == warning) && worst < c.GetResult() {
				worst, name = c.GetResult(), c.GetName()+": "+c.GetFound()
			}
		}
		return worst, name
	}
	eventually(t, "all is well", func() error {
		if _, name := worst(); name != "" {
			return errors.New(name)
		}
		return nil
	})
	b.kill()
	awaitPair(t, api, simplex)
	// The switch is written a moment after the pair is simplex.
	eventually(t, "without a backup", func() error {
		if result, name := worst(); result != warning || name == "" {
			return fmt.Errorf("%v %s", result, name)
		}
		return nil
	})
	if _, err := api.GetDiagnosis(t.Context(), &adminv1.GetDiagnosisRequest{Service: "nothing"}); status.Code(err) != codes.NotFound {
		t.Errorf("no such service: %v", err)
	}
	if res, err := api.ListSwitches(t.Context(), &adminv1.ListSwitchesRequest{}); err != nil || res.GetSwitches()[0].GetState() != "ready" || res.GetSwitches()[0].GetEntries() == 0 {
		t.Errorf("switches: %v, %v", res, err)
	}
	if res, err := api.ListPeers(t.Context(), &adminv1.ListPeersRequest{}); err != nil || len(res.GetPeers()) != 0 {
		t.Errorf("peers: %v, %v", res, err)
	}
	if res, err := api.GetMetrics(t.Context(), &adminv1.GetMetricsRequest{}); err != nil || len(res.GetText()) < 1000 {
		t.Errorf("metrics: %v, %v", res, err)
	}
}

// A list that is watched is sent again when it changes.
func TestWatchPairs(t *testing.T) {
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	r := start(t, cfg)
	api := r.admin(t)
	startAgent(t, l, r.AgentAddr().String(), cfg.Pairs[0].Servers[0], nil)
	awaitPair(t, api, simplex)
	stream, err := api.WatchPairs(t.Context(), &adminv1.ListPairsRequest{Pair: "web"})
	if err != nil {
		t.Fatal(err)
	}
	startAgent(t, l, r.AgentAddr().String(), cfg.Pairs[0].Servers[1], nil)
	var last *adminv1.ListPairsResponse
	for last == nil || last.GetPairs()[0].GetState() != duplex {
		now, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		last = now
	}
	missing, err := api.WatchPairs(t.Context(), &adminv1.ListPairsRequest{Pair: "nothing"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := missing.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("no such pair: %v", err)
	}
}
