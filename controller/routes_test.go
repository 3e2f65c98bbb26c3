// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-net/understudy/controller/bgp"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
)

// fakeSpeaker keeps what it was told last.
type fakeSpeaker struct {
	mu   sync.Mutex
	told int
	last []bgp.Route
}

func (f *fakeSpeaker) SetRoutes(r []bgp.Route) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told++
	f.last = r
	return nil
}

func (f *fakeSpeaker) times() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told
}

func (f *fakeSpeaker) routes() []bgp.Route {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func TestRoutesFollowThePairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pairs := []config.Pair{
			{ID: 1, Name: "web", Servers: []config.Server{{Replica: 1, Name: "a"}, {Replica: 2, Name: "b"}}},
			{ID: 2, Name: "api", Servers: []config.Server{{Replica: 1, Name: "c"}, {Replica: 2, Name: "d"}}},
		}
		cfg := &config.Config{
			Pairs: pairs,
			Services: []config.Service{
				{Name: "web", Pair: "web", VIP: netip.MustParseAddr("198.51.100.10")},
				{Name: "api", Pair: "api", VIP: netip.MustParseAddr("198.51.100.11")},
			},
			BGP: &config.BGP{
				Allow:     []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
				NextHops:  config.NextHops{IPv4: netip.MustParseAddr("192.0.2.1")},
				Via:       []config.Via{{Server: "b", NextHops: config.NextHops{IPv4: netip.MustParseAddr("192.0.2.2")}}},
				Dampening: config.Dampening{HalfLife: 15 * time.Second, MaxSuppress: time.Minute},
			},
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		speaker := new(fakeSpeaker)
		r := newRoutes(cfg, speaker, slog.New(slog.DiscardHandler))
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()

		step := func(pair int, state failover.State, active failover.Replica, want string) {
			t.Helper()
			r.changed(pairs[pair], failover.Status{State: state, Active: active})
			synctest.Wait()
			if got := fmt.Sprint(speaker.routes()); got != want {
				t.Errorf("pair %d %v: announced %s, want %s", pair, state, got, want)
			}
		}
		step(0, failover.Recovering, 1, "[]")
		step(0, failover.Duplex, 1, "[]")
		if speaker.times() != 0 {
			t.Error("peers were told of a table of which a part is not known yet")
		}
		step(1, failover.Down, 0, "[198.51.100.10/32 via 192.0.2.1]")
		step(1, failover.Simplex, 1, "[198.51.100.10/32 via 192.0.2.1 198.51.100.11/32 via 192.0.2.1]")
		step(0, failover.FailingOver, 2, "[198.51.100.10/32 via 192.0.2.2 198.51.100.11/32 via 192.0.2.1]")
		told := speaker.times()
		step(0, failover.FailingOver, 2, "[198.51.100.10/32 via 192.0.2.2 198.51.100.11/32 via 192.0.2.1]")
		if speaker.times() != told {
			t.Error("told again, and nothing has changed")
		}
		// The switch restarts: who serves is not known for a moment, and nothing is
		// withdrawn.
		step(0, failover.Unknown, 0, "[198.51.100.10/32 via 192.0.2.2 198.51.100.11/32 via 192.0.2.1]")
		step(0, failover.Down, 0, "[198.51.100.11/32 via 192.0.2.1]")

		// One that comes and goes is held back, and comes back by itself.
		for range 4 {
			r.changed(pairs[1], failover.Status{State: failover.Down})
			synctest.Wait()
			r.changed(pairs[1], failover.Status{State: failover.Simplex, Active: 1})
			synctest.Wait()
		}
		if len(speaker.routes()) != 0 {
			t.Errorf("after four flaps at once %v is announced", speaker.routes())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := fmt.Sprint(speaker.routes()); got != "[198.51.100.11/32 via 192.0.2.1]" {
			t.Errorf("a minute later %s is announced", got)
		}
		// A service that is no longer in the configuration is withdrawn; a pair that is
		// new in it withdraws nothing of the others.
		next := *cfg
		next.Services = append([]config.Service{{Name: "new", Pair: "new", VIP: netip.MustParseAddr("198.51.100.12")}}, cfg.Services[1:]...)
		next.Pairs = append(cfg.Pairs[:2:2], config.Pair{ID: 3, Name: "new", Servers: []config.Server{{Replica: 1, Name: "e"}}})
		r.changed(pairs[0], failover.Status{State: failover.Duplex, Active: 1})
		synctest.Wait()
		if got := fmt.Sprint(speaker.routes()); got != "[198.51.100.10/32 via 192.0.2.1 198.51.100.11/32 via 192.0.2.1]" {
			t.Errorf("before another configuration %s is announced", got)
		}
		r.configure(&next)
		synctest.Wait()
		if got := fmt.Sprint(speaker.routes()); got != "[198.51.100.11/32 via 192.0.2.1]" {
			t.Errorf("with another configuration %s is announced", got)
		}
		r.changed(next.Pairs[2], failover.Status{State: failover.Duplex, Active: 1})
		synctest.Wait()
		if got := fmt.Sprint(speaker.routes()); got != "[198.51.100.11/32 via 192.0.2.1 198.51.100.12/32 via 192.0.2.1]" {
			t.Errorf("once the new pair is known %s is announced", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
