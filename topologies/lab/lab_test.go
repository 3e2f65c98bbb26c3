// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/topologies/lab/load"
)

func TestNotReady(t *testing.T) {
	server := func(name string, attached, up bool) *adminv1.Server {
		return &adminv1.Server{Name: name, Attached: attached, ApplicationUp: up}
	}
	pair := func(state adminv1.PairState, servers ...*adminv1.Server) *adminv1.Pair {
		return &adminv1.Pair{Name: "web", State: state, Servers: servers}
	}
	const duplex, simplex = adminv1.PairState_PAIR_STATE_DUPLEX, adminv1.PairState_PAIR_STATE_SIMPLEX
	for _, tc := range []struct {
		name  string
		pairs []*adminv1.Pair
		want  string
	}{
		{"ready", []*adminv1.Pair{pair(duplex, server("a", true, true), server("b", true, true))}, ""},
		{"unknown", nil, "pair web: the controller does not know it"},
		{"simplex", []*adminv1.Pair{pair(simplex, server("a", true, true), server("b", false, false))}, "pair web: is simplex, b's agent is not attached"},
		{"application", []*adminv1.Pair{pair(duplex, server("a", true, false), server("b", true, true))}, "pair web: a's application is not up"},
		{"failing over", []*adminv1.Pair{pair(adminv1.PairState_PAIR_STATE_FAILING_OVER)}, "pair web: is failing-over"},
	} {
		if got := strings.Join(notReady([]string{"web"}, tc.pairs), "; "); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestParseFault(t *testing.T) {
	for _, f := range Faults() {
		if got, err := ParseFault(string(f)); err != nil || got != f {
			t.Errorf("%s: %v, %v", f, got, err)
		}
	}
	if _, err := ParseFault("kill"); err == nil || !strings.Contains(err.Error(), "kill-agent, kill-app, cut-link, power-off, freeze") {
		t.Errorf("got %v", err)
	}
}

func at(ms int) time.Time {
	return time.UnixMilli(1_700_000_000_000).Add(time.Duration(ms) * time.Millisecond)
}

func TestScenarioAnswered(t *testing.T) {
	stamp := func(ms int) *timestamppb.Timestamp { return timestamppb.New(at(ms)) }
	failovers := []*adminv1.Failover{
		{Pair: "web", Epoch: 3, From: "server1", Decided: stamp(-500), Written: stamp(-499)},
		{Pair: "other", Epoch: 9, From: "server1", Decided: stamp(1), Written: stamp(2)},
		{Pair: "web", Epoch: 4, From: "server1", Decided: stamp(31), Written: stamp(33), DecideToWritten: durationpb.New(1234 * time.Microsecond)},
		{Pair: "web", Epoch: 5, From: "server2", Decided: stamp(100), Written: stamp(101)},
	}
	s := Scenario{Server: "server1"}
	if !s.answered(failovers, "web", 3, at(0)) || *s.DetectMS != 31 || *s.FlipMS != 1.23 {
		t.Errorf("%v %v", *s.DetectMS, *s.FlipMS)
	}
	s = Scenario{Server: "server2"}
	if !s.answered(failovers, "web", 4, at(0)) || *s.DetectMS != 100 || *s.FlipMS != 1 {
		t.Errorf("without a duration: %v %v", *s.DetectMS, *s.FlipMS)
	}
	s = Scenario{Server: "server1"}
	if s.answered(failovers, "web", 4, at(0)) || s.DetectMS != nil {
		t.Error("an old failover was taken for an answer")
	}
}

func TestScenarioRounds(t *testing.T) {
	var s Scenario
	for _, ms := range []float64{2, 5, 3} {
		s.DetectMS = worse(s.DetectMS, &ms)
	}
	s.DetectMS = worse(s.DetectMS, nil)
	if s.FlipMS = worse(s.FlipMS, nil); s.FlipMS != nil {
		t.Errorf("the worst of nothing is %v", *s.FlipMS)
	}
	s.Rounds, s.HeldMS = 3, s.DetectMS
	b, err := json.Marshal(&s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"fault":"","connections":0,"requests":0,"failed":0,"reset":0,"corrupt":0,"max_stall_ms":0,"detect_ms":5,"flip_ms":null,"rounds":3,"held_ms":5}`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
}

func TestDemoReport(t *testing.T) {
	detect, flip := 1.5, 0.75
	r := DemoReport{Scenarios: []Scenario{
		{Fault: KillAgent, Connections: 50, Requests: 800, MaxStallMS: 6.25, DetectMS: &detect, FlipMS: &flip, Server: "server1", CPU: 0.34},
		{Fault: Freeze, Connections: 50, Requests: 700, Server: "server2", Load: &load.Report{}},
	}}
	if !r.Clean() {
		t.Error("not clean")
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"scenarios":[` +
		`{"fault":"kill-agent","connections":50,"requests":800,"failed":0,"reset":0,"corrupt":0,"max_stall_ms":6.25,"detect_ms":1.5,"flip_ms":0.75},` +
		`{"fault":"freeze","connections":50,"requests":700,"failed":0,"reset":0,"corrupt":0,"max_stall_ms":0,"detect_ms":null,"flip_ms":null}]}`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
	for name, spoil := range map[string]func(*Scenario){
		"failed": func(s *Scenario) { s.Failed = 1 }, "reset": func(s *Scenario) { s.Reset = 1 },
		"corrupt": func(s *Scenario) { s.Corrupt = 1 }, "problem": func(s *Scenario) { s.Problem = "no failover" },
	} {
		r := DemoReport{Scenarios: append([]Scenario(nil), r.Scenarios...)}
		spoil(&r.Scenarios[1])
		if r.Clean() {
			t.Errorf("%s: clean", name)
		}
	}
	if (&DemoReport{}).Clean() {
		t.Error("nothing shown is clean")
	}
	r.Scenarios[1].Problem = "no failover"
	r.Scenarios[1].Load.Events = []load.Event{{Time: at(0), Connection: 7, Failure: load.Failure{Class: load.Reset, Reason: "closed early"}}}
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"6.2 ms", "1.5 ms", "0.8 ms", "34 %", "freeze: no failover", "connection 7, reset: closed early"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestStatusWrite(t *testing.T) {
	s := Status{Topology: "pair", Services: []ServiceStatus{{Name: "web", VIP: "198.51.100.10", Protocol: "tcp", Port: 80}},
		Pairs: []PairStatus{{Name: "web", State: "duplex", Epoch: 3}},
		Nodes: []NodeStatus{{Name: "server1", Namespace: "us-server1", Address: "10.0.1.2/24", Interface: "p2", Port: 2, Role: "active",
			Faults: []Fault{Freeze}, DropOneIn: 50,
			Processes: []ProcessStatus{{Role: "app", PID: 12, State: "frozen"}, {Role: "agent", State: "dead"}}}},
	}
	var out bytes.Buffer
	if err := s.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"198.51.100.10 tcp port 80", "web: duplex, epoch 3", "us-server1", "2@p2", "app 12 frozen, agent dead", "freeze, drop 1 in 50"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestCPU(t *testing.T) {
	a, err := parseCPU("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
	if err != nil {
		t.Fatal(err)
	}
	b, err := parseCPU("cpu  130 10 110 840 10 0 0 0 0 0\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := b.since(a); got != 0.5 {
		t.Errorf("got %v", got)
	}
	if _, err := parseCPU("intr 1"); err == nil {
		t.Error("no error")
	}
}
