// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/understudy-net/understudy/controller/bgp"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
)

// speaker announces routes. It may be told the same again.
type speaker interface {
	SetRoutes([]bgp.Route) error
}

// routes has services announced while somebody serves them. It follows the pairs,
// and waits for nobody but itself.
type routes struct {
	cfg     *config.BGP
	speaker speaker
	log     *slog.Logger
	wake    chan struct{}

	mu       sync.Mutex
	services []config.Service
	pairs    map[string]bgp.PairState
}

func newRoutes(cfg *config.Config, s speaker, log *slog.Logger) *routes {
	r := &routes{
		cfg: cfg.BGP, speaker: s, log: log, wake: make(chan struct{}, 1),
		services: cfg.Services, pairs: map[string]bgp.PairState{},
	}
	for _, p := range cfg.Pairs {
		r.pairs[p.Name] = bgp.PairState{}
	}
	return r
}

func (r *routes) String() string { return "routes" }

// changed is told what a pair is now. It does not block.
func (r *routes) changed(p config.Pair, st failover.Status) {
	now := announced(p, st)
	r.mu.Lock()
	same := r.pairs[p.Name] == now
	r.pairs[p.Name] = now
	r.mu.Unlock()
	if same {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// configure takes the services and pairs of another configuration. It does not block.
// What bgp says of peers stays as it was at the start.
func (r *routes) configure(cfg *config.Config) {
	r.mu.Lock()
	r.services = cfg.Services
	pairs := map[string]bgp.PairState{}
	for _, p := range cfg.Pairs {
		pairs[p.Name] = r.pairs[p.Name] // a new one is not known yet
	}
	r.pairs = pairs
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// announced is what of a pair's state decides about its routes.
func announced(p config.Pair, st failover.Status) bgp.PairState {
	s := bgp.PairState{Known: true}
	switch st.State {
	case failover.Unknown, failover.Recovering:
		return bgp.PairState{}
	case failover.Simplex:
		s.Protection = bgp.Simplex
	case failover.Joining:
		s.Protection = bgp.Joining
	case failover.Duplex:
		s.Protection = bgp.Duplex
	case failover.FailingOver:
		s.Protection = bgp.Changing
	default:
		return s
	}
	if a, ok := p.Server(uint8(st.Active)); ok {
		s.Active = a.Name
	}
	return s
}

// Run announces until ctx ends, which is not an error.
func (r *routes) Run(ctx context.Context) error {
	damper := bgp.NewDamper(r.cfg.Dampening)
	var before []bgp.Route
	begun := false
	told := map[netip.Addr]bool{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		r.mu.Lock()
		services, pairs := r.services, maps.Clone(r.pairs)
		r.mu.Unlock()
		if !begun {
			// Peers take the first table for the whole one: it is sent when all pairs
			// are known.
			if !all(pairs, func(st bgp.PairState) bool { return st.Known }) {
				continue
			}
			begun = true
		}
		want, refused := bgp.Wanted(r.cfg, services, pairs, before)
		for _, vip := range refused {
			if !told[vip] {
				told[vip] = true
				r.log.Warn("a service is not announced: it is in none of the prefixes of bgp.allow", "vip", vip)
			}
		}
		pass, again := damper.Filter(time.Now(), want)
		if err := r.speaker.SetRoutes(pass); err != nil {
			r.log.Error("nothing was announced", "error", err)
		}
		before = slices.Clone(pass)
		if !again.IsZero() {
			timer.Reset(time.Until(again))
		}
	}
}

func all[K comparable, V any](m map[K]V, f func(V) bool) bool {
	for _, v := range m {
		if !f(v) {
			return false
		}
	}
	return true
}
