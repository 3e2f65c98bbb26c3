// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/controller/config"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func policyConfig() *config.BGP {
	return &config.BGP{
		Allow:    []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/48")},
		NextHops: config.NextHops{IPv4: addr("192.0.2.1"), IPv6: addr("2001:db8:c::1")},
		Via:      []config.Via{{Server: "b", NextHops: config.NextHops{IPv4: addr("192.0.2.2")}}},
		Attributes: config.AttributesByState{
			Duplex: config.BGPAttributes{MED: number(10)}, Joining: config.BGPAttributes{MED: number(20)}, Simplex: config.BGPAttributes{MED: number(30)},
		},
	}
}

func lines(routes []Route) string {
	var b strings.Builder
	for _, r := range routes {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

func TestWanted(t *testing.T) {
	services := []config.Service{
		{Name: "web", Pair: "web", VIP: addr("198.51.100.10")},
		{Name: "web-tls", Pair: "web", VIP: addr("198.51.100.10")},
		{Name: "web6", Pair: "web", VIP: addr("2001:db8::10")},
		{Name: "other", Pair: "web", VIP: addr("203.0.113.1")},
	}
	state := func(p Protection, active string) map[string]PairState {
		return map[string]PairState{"web": {Known: true, Protection: p, Active: active}}
	}
	before, _ := Wanted(policyConfig(), services, state(Duplex, "a"), nil)
	for _, tt := range []struct {
		name   string
		pairs  map[string]PairState
		before []Route
		want   string
	}{
		{"duplex", state(Duplex, "a"), nil,
			"198.51.100.10/32 via 192.0.2.1 med 10\n2001:db8::10/128 via 2001:db8:c::1 med 10\n"},
		{"joining", state(Joining, "a"), nil,
			"198.51.100.10/32 via 192.0.2.1 med 20\n2001:db8::10/128 via 2001:db8:c::1 med 20\n"},
		{"simplex, on the server behind another switch; it has no IPv6 next hop of its own", state(Simplex, "b"), nil,
			"198.51.100.10/32 via 192.0.2.2 med 30\n2001:db8::10/128 via 2001:db8:c::1 med 30\n"},
		{"a failover moves the route at once, and changes nothing else of it", state(Changing, "b"), before,
			"198.51.100.10/32 via 192.0.2.2 med 10\n2001:db8::10/128 via 2001:db8:c::1 med 10\n"},
		{"the first server is made active", state(Changing, "b"), nil,
			"198.51.100.10/32 via 192.0.2.2 med 30\n2001:db8::10/128 via 2001:db8:c::1 med 30\n"},
		{"down", state(Nobody, ""), before, ""},
		{"not known: it stays", map[string]PairState{"web": {}}, before, lines(before)},
		{"not known, and was not announced", map[string]PairState{"web": {}}, nil, ""},
		{"no such pair", nil, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, refused := Wanted(policyConfig(), services, tt.pairs, tt.before)
			if diff := cmp.Diff(tt.want, lines(got)); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if serves := tt.pairs["web"].Protection != Nobody; serves != slices.Contains(refused, addr("203.0.113.1")) {
				t.Errorf("refused %v", refused)
			}
		})
	}
}

// Nothing is ever announced that is not allowed, whatever the states.
func TestWantedStaysWithinTheAllowList(t *testing.T) {
	cfg := policyConfig()
	cfg.Allow = cfg.Allow[:1]
	services := []config.Service{{Pair: "p", VIP: addr("2001:db8::10")}, {Pair: "p", VIP: addr("198.51.101.1")}, {Pair: "p", VIP: addr("198.51.100.255")}}
	stale := []Route{{Prefix: netip.MustParsePrefix("198.51.101.1/32"), NextHop: addr("192.0.2.1")}}
	for p := Nobody; p <= Changing; p++ {
		for _, known := range []bool{true, false} {
			got, _ := Wanted(cfg, services, map[string]PairState{"p": {Known: known, Protection: p}}, stale)
			for _, r := range got {
				if r.Prefix.String() != "198.51.100.255/32" {
					t.Errorf("%v, known %v: %v", p, known, r)
				}
			}
		}
	}
	s := New(cfg, nil)
	if err := s.SetRoutes(stale); err == nil {
		t.Error("the speaker took a route that is not allowed")
	}
	if err := s.SetRoutes([]Route{{Prefix: netip.MustParsePrefix("198.51.100.0/25"), NextHop: addr("192.0.2.1")}}); err == nil {
		t.Error("the speaker took a whole network")
	}
	if err := s.SetRoutes([]Route{{Prefix: netip.MustParsePrefix("198.51.100.1/32"), NextHop: addr("2001:db8::1")}}); err == nil {
		t.Error("the speaker took a next hop of another family")
	}
}

func TestAnnounceBeforeWithdraw(t *testing.T) {
	route := func(s, hop string) Route { return Route{Prefix: netip.MustParsePrefix(s), NextHop: addr(hop)} }
	have := map[netip.Prefix]Route{}
	for _, r := range []Route{route("198.51.100.1/32", "192.0.2.1"), route("198.51.100.2/32", "192.0.2.1"), route("198.51.100.3/32", "192.0.2.1")} {
		have[r.Prefix] = r
	}
	var got []string
	for _, c := range difference(have, []Route{
		route("198.51.100.2/32", "192.0.2.1"), route("198.51.100.3/32", "192.0.2.2"), route("198.51.100.4/32", "192.0.2.1"),
	}) {
		got = append(got, fmt.Sprint(c.route, " ", c.withdraw))
	}
	want := []string{"198.51.100.3/32 via 192.0.2.2 false", "198.51.100.4/32 via 192.0.2.1 false", "198.51.100.1/32 via 192.0.2.1 true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// A service that comes and goes is soon held back, and comes back by itself.
func TestDamperHoldsBackWhatComesAndGoes(t *testing.T) {
	d := NewDamper(config.Dampening{HalfLife: 15 * time.Second, MaxSuppress: 60 * time.Second})
	now := time.Unix(1000, 0)
	up := []Route{{Prefix: vipPrefix, NextHop: addr("192.0.2.1")}}
	var again time.Time
	flaps := 0
	for {
		var pass []Route
		if pass, again = d.Filter(now, up); len(pass) == 0 {
			break
		}
		if flaps++; flaps > 5 {
			t.Fatal("never held back")
		}
		now = now.Add(time.Second)
		if pass, _ := d.Filter(now, nil); len(pass) != 0 {
			t.Fatal("a withdrawal was held back")
		}
		now = now.Add(time.Second)
	}
	if flaps != 3 {
		t.Errorf("held back after %d flaps, want 3", flaps)
	}
	if !slices.Equal(d.Suppressed(now), []netip.Prefix{vipPrefix}) {
		t.Errorf("suppressed: %v", d.Suppressed(now))
	}
	if wait := again.Sub(now); wait < 15*time.Second || wait > 45*time.Second {
		t.Errorf("held back for %v", wait)
	}
	if pass, _ := d.Filter(again.Add(-time.Second), up); len(pass) != 0 {
		t.Error("announced early")
	}
	if pass, next := d.Filter(again, up); len(pass) != 1 || !next.IsZero() {
		t.Errorf("after the wait: %v, again at %v", pass, next)
	}
}

// However often it flapped, it is back after MaxSuppress.
func TestDamperHasACeiling(t *testing.T) {
	d := NewDamper(config.Dampening{HalfLife: 15 * time.Second, MaxSuppress: 60 * time.Second})
	now := time.Unix(1000, 0)
	up := []Route{{Prefix: vipPrefix, NextHop: addr("192.0.2.1")}}
	for range 1000 {
		d.punish(vipPrefix, now, penaltyWithdrawn)
	}
	if pass, again := d.Filter(now, up); len(pass) != 0 || again.Sub(now) > 61*time.Second {
		t.Errorf("%v, again after %v", pass, again.Sub(now))
	}
	if pass, _ := d.Filter(now.Add(61*time.Second), up); len(pass) != 1 {
		t.Error("still held back")
	}
}

// Attributes that change too often stay; a failover passes all the same.
func TestDamperLetsFailoversPass(t *testing.T) {
	d := NewDamper(config.Dampening{HalfLife: 15 * time.Second, MaxSuppress: 60 * time.Second})
	now := time.Unix(1000, 0)
	route := func(hop string, med uint32) []Route {
		return []Route{{Prefix: vipPrefix, NextHop: addr(hop), BGPAttributes: config.BGPAttributes{MED: &med}}}
	}
	last := uint32(0)
	for i := range uint32(20) {
		pass, _ := d.Filter(now, route("192.0.2.1", i))
		last = *pass[0].MED
	}
	if last > 5 {
		t.Errorf("20 changes at once, and %d passed", last)
	}
	pass, _ := d.Filter(now, route("192.0.2.2", 7))
	if len(pass) != 1 || pass[0].NextHop != addr("192.0.2.2") {
		t.Errorf("the failover did not pass: %v", pass)
	}
	d = NewDamper(config.Dampening{Disabled: true, HalfLife: 15 * time.Second, MaxSuppress: 60 * time.Second})
	for i := range uint32(20) {
		if pass, _ := d.Filter(now, route("192.0.2.1", i)); *pass[0].MED != i {
			t.Fatal("held back with dampening off")
		}
	}
}
