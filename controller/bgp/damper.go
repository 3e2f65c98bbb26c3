// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/understudy-net/understudy/controller/config"
)

// The figures of merit of RFC 2439, in the usual units.
const (
	penaltyWithdrawn = 1000
	penaltyChanged   = 500
	suppressAbove    = 2000
	reuseBelow       = 750
)

// Damper holds back what this speaker itself would say too often (RFC 2439 seen
// from the origin). A withdrawal always passes, and so does another next hop,
// which is a failover. A route that has been withdrawn too often is not announced
// again, and one whose other attributes have changed too often keeps them, until
// its penalty has decayed. It is not safe for concurrent use, and has no clock.
type Damper struct {
	cfg    config.Dampening
	merits map[netip.Prefix]*merit
	have   map[netip.Prefix]Route
}

type merit struct {
	penalty    float64
	at         time.Time
	suppressed bool
}

// NewDamper returns a Damper that has let nothing pass yet.
func NewDamper(cfg config.Dampening) *Damper {
	return &Damper{cfg: cfg, merits: map[netip.Prefix]*merit{}, have: map[netip.Prefix]Route{}}
}

// Configure changes the figures; what has been counted stays.
func (d *Damper) Configure(cfg config.Dampening) { d.cfg = cfg }

// Filter returns what of want shall be announced now, and when to ask again; the
// zero time if nothing is held back. now must not go back.
func (d *Damper) Filter(now time.Time, want []Route) (pass []Route, again time.Time) {
	next := map[netip.Prefix]Route{}
	for _, r := range want {
		old, announced := d.have[r.Prefix]
		held := d.suppressed(r.Prefix, now)
		switch {
		case announced && old.equal(r):
		case announced && old.NextHop != r.NextHop:
		case held && announced:
			r = old
			again = d.sooner(again, r.Prefix, now)
		case held:
			again = d.sooner(again, r.Prefix, now)
			continue
		case announced:
			d.punish(r.Prefix, now, penaltyChanged)
		}
		next[r.Prefix] = r
		pass = append(pass, r)
	}
	for p := range d.have {
		if _, still := next[p]; !still {
			d.punish(p, now, penaltyWithdrawn)
		}
	}
	d.have = next
	for p, m := range d.merits {
		if _, announced := next[p]; !announced && d.decayed(m, now) < reuseBelow/2 {
			delete(d.merits, p)
		}
	}
	return pass, again
}

// Suppressed returns the prefixes that are held back, in order.
func (d *Damper) Suppressed(now time.Time) []netip.Prefix {
	var list []netip.Prefix
	for p := range d.merits {
		if d.suppressed(p, now) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return list
}

func (d *Damper) decayed(m *merit, now time.Time) float64 {
	return m.penalty * math.Exp2(-float64(now.Sub(m.at))/float64(d.cfg.HalfLife))
}

func (d *Damper) punish(p netip.Prefix, now time.Time, penalty float64) {
	if d.cfg.Disabled {
		return
	}
	m := d.merits[p]
	if m == nil {
		m = &merit{at: now}
		d.merits[p] = m
	}
	// Above the ceiling it would take longer than MaxSuppress to decay (RFC 2439,
	// 4.2).
	ceiling := reuseBelow * math.Exp2(float64(d.cfg.MaxSuppress)/float64(d.cfg.HalfLife))
	m.penalty, m.at = min(d.decayed(m, now)+penalty, ceiling), now
	if m.penalty >= suppressAbove {
		m.suppressed = true
	}
}

func (d *Damper) suppressed(p netip.Prefix, now time.Time) bool {
	m := d.merits[p]
	if m == nil || !m.suppressed || d.cfg.Disabled {
		return false
	}
	if d.decayed(m, now) <= reuseBelow {
		m.suppressed = false
	}
	return m.suppressed
}

// sooner is when a prefix can be used again, if that is before t.
func (d *Damper) sooner(t time.Time, p netip.Prefix, now time.Time) time.Time {
	wait := float64(d.cfg.HalfLife) * math.Log2(d.decayed(d.merits[p], now)/reuseBelow)
	at := now.Add(time.Duration(wait) + time.Millisecond)
	if t.IsZero() || at.Before(t) {
		return at
	}
	return t
}
