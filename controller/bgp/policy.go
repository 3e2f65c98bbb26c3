// SPDX-License-Identifier: Apache-2.0

// Package bgp announces services to routers. What shall be announced follows from
// the configuration and the state of the pairs (Wanted, Damper: pure); a Speaker
// holds the sessions and brings the difference to the peers. It is the only room
// that knows of GoBGP.
package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/understudy-net/understudy/controller/config"
)

// Route is one announcement.
type Route struct {
	Prefix  netip.Prefix
	NextHop netip.Addr
	config.BGPAttributes
}

func (r Route) equal(o Route) bool { return reflect.DeepEqual(r, o) }

// String is the route in one line: "198.51.100.10/32 via 192.0.2.1 med 100".
func (r Route) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v via %v", r.Prefix, r.NextHop)
	if r.MED != nil {
		fmt.Fprintf(&b, " med %d", *r.MED)
	}
	if r.LocalPreference != nil {
		fmt.Fprintf(&b, " local-preference %d", *r.LocalPreference)
	}
	for _, c := range r.Communities {
		fmt.Fprintf(&b, " community %v", c)
	}
	for _, c := range r.LargeCommunities {
		fmt.Fprintf(&b, " large-community %v", c)
	}
	return b.String()
}

// Protection is how well the connections of a pair are held.
type Protection uint8

// From worst to best.
const (
	// Nobody serves.
	Nobody Protection = iota
	// Simplex: one server.
	Simplex
	// Joining: one, and a second is on its way.
	Joining
	// Duplex: two.
	Duplex
	// Changing: another server is being made active; it passes within milliseconds,
	// and the attributes stay what they were.
	Changing
)

// PairState is what of a pair decides about its routes.
type PairState struct {
	// Known is false as long as nobody can say who serves: the pair's routes stay
	// what they are.
	Known      bool
	Protection Protection
	// Active is the name of the active server.
	Active string
}

// Wanted returns what shall be announced, in the order of the prefixes: a host
// route for each VIP that somebody serves. Before is what is announced now.
// Refused are the VIPs that would be announced, and are within no allowed prefix.
func Wanted(cfg *config.BGP, services []config.Service, pairs map[string]PairState, before []Route) (routes []Route, refused []netip.Addr) {
	best := map[netip.Addr]PairState{}
	unknown := map[netip.Addr]bool{}
	for _, s := range services {
		st := pairs[s.Pair]
		if !st.Known {
			unknown[s.VIP] = true
		} else if st.Protection > best[s.VIP].Protection {
			best[s.VIP] = st
		}
	}
	old := map[netip.Prefix]Route{}
	for _, r := range before {
		old[r.Prefix] = r
	}
	seen := map[netip.Addr]bool{}
	for _, s := range services {
		if seen[s.VIP] {
			continue
		}
		seen[s.VIP] = true
		st, prefix := best[s.VIP], netip.PrefixFrom(s.VIP, s.VIP.BitLen())
		was, announced := old[prefix]
		switch {
		case st.Protection == Nobody && !(unknown[s.VIP] && announced):
			continue
		case !cfg.Allowed(s.VIP):
			refused = append(refused, s.VIP)
			continue
		case st.Protection == Nobody: // and not known
			routes = append(routes, was)
			continue
		}
		r := Route{Prefix: prefix, NextHop: cfg.NextHop(s.VIP, st.Active)}
		switch st.Protection {
		case Duplex:
			r.BGPAttributes = cfg.Attributes.Duplex
		case Joining:
			r.BGPAttributes = cfg.Attributes.Joining
		case Changing:
			r.BGPAttributes = cfg.Attributes.Simplex
			if announced {
				r.BGPAttributes = was.BGPAttributes
			}
		default:
			r.BGPAttributes = cfg.Attributes.Simplex
		}
		routes = append(routes, r)
	}
	slices.SortFunc(routes, byPrefix)
	return routes, refused
}

func byPrefix(a, b Route) int {
	return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
}

// change is one step from what is announced to what shall be.
type change struct {
	route    Route
	withdraw bool
}

// difference is how to get from have to want. What is announced comes before what
// is withdrawn, and a route that changes is announced again, which replaces it
// (RFC 4271, 3.1): nobody is without a route on the way.
func difference(have map[netip.Prefix]Route, want []Route) []change {
	var list []change
	wanted := map[netip.Prefix]bool{}
	for _, r := range want {
		wanted[r.Prefix] = true
		if old, ok := have[r.Prefix]; !ok || !old.equal(r) {
			list = append(list, change{route: r})
		}
	}
	var gone []change
	for p, r := range have {
		if !wanted[p] {
			gone = append(gone, change{route: r, withdraw: true})
		}
	}
	slices.SortFunc(gone, func(a, b change) int { return byPrefix(a.route, b.route) })
	return append(list, gone...)
}
