// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
)

func TestListenOverflows(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       uint64
		ok         bool
	}{
		{"counted", "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 23 45\nIpExt: InNoRoutes\nIpExt: 9\n", 23, true},
		{"after another group", "IpExt: ListenOverflows\nIpExt: 9\nTcpExt: ListenOverflows\nTcpExt: 7\n", 7, true},
		{"not counted", "TcpExt: SyncookiesSent\nTcpExt: 1\n", 0, false},
		{"cut off", "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 1\n", 0, false},
		{"no number", "TcpExt: ListenOverflows\nTcpExt: x\n", 0, false},
		{"empty", "", 0, false},
	} {
		if got, ok := listenOverflows([]byte(tc.text)); got != tc.want || ok != tc.ok {
			t.Errorf("%s: %d, %t", tc.name, got, ok)
		}
	}
}

// What an agent listens for is what it has opened, not what it was told to.
func TestFacts(t *testing.T) {
	a := New(Config{Server: "a"})
	a.session = &session{out: make(chan *agentv1.AgentMessage, 8), cancel: func() {}}
	now := time.Unix(1000, 0)
	a.reportFacts(hostFacts{overflows: 3}, now)
	if len(a.session.out) != 0 {
		t.Error("facts of a server that has no part")
	}
	open, closed := netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("198.51.100.11")
	a.part = &agentv1.Assignment{Services: []*agentv1.Service{
		{Name: "open", Vip: open.AsSlice(), Port: 80}, {Name: "closed", Vip: closed.AsSlice(), Port: 80}, {Name: "broken", Vip: []byte{1}},
	}}
	a.services[netip.AddrPortFrom(open, 80)] = &service{}
	a.reportFacts(hostFacts{overflows: 3}, now)
	f := (<-a.session.out).GetFacts()
	if !slices.Equal(f.GetListening(), []string{"open"}) || f.GetListenOverflows() != 3 || !f.GetTime().AsTime().Equal(now) {
		t.Errorf("facts %v", f)
	}
}
