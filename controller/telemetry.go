// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"sync/atomic"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/gnmi"
)

// telemetry keeps what is shown by gNMI as things are: at once after each step of a
// pair and each change of the switch session, and once a second for what changes
// without either, such as counts of connections. It waits for nobody who subscribes.
type telemetry struct {
	c     *Controller
	ports []*gnmi.Ports // of config.Switches; nil where they are not heard of
	state gnmi.State
	wake  chan struct{}
	// services are to be shown anew.
	services atomic.Bool
}

// telemetryInterval is how often things are looked at that nobody tells.
const telemetryInterval = time.Second

func newTelemetry(c *Controller) *telemetry {
	t := &telemetry{c: c, wake: make(chan struct{}, 1)}
	t.services.Store(true)
	return t
}

func (t *telemetry) String() string { return "telemetry" }

// changed does not block.
func (t *telemetry) changed() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *telemetry) pairChanged(*pair, failover.Status) { t.changed() }

func (t *telemetry) configured(*config.Config) {
	t.services.Store(true)
	t.changed()
}

// Run shows things until ctx ends, which is not an error.
func (t *telemetry) Run(ctx context.Context) error {
	ticker := time.NewTicker(telemetryInterval)
	defer ticker.Stop()
	for {
		if err := t.show(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
		case <-ticker.C:
		}
	}
}

// show brings the tree up to date.
func (t *telemetry) show(ctx context.Context) error {
	pairs, err := t.c.loop.Pairs(ctx, "")
	if err != nil {
		return err
	}
	t.state.SetPairs(pairs)
	if t.services.Swap(false) {
		t.state.SetServices(shownServices(t.c.loop.tables.Load().cfg))
	}
	list, err := t.c.Switches(ctx)
	if err != nil {
		return err
	}
	var switches []gnmi.Switch
	for i, s := range list {
		ports := "off"
		if t.ports[i] != nil {
			ports = t.ports[i].Status().String()
		}
		switches = append(switches, gnmi.Switch{Switch: s, Ports: ports})
	}
	t.state.SetSwitches(switches)
	peers, err := t.c.Peers(ctx)
	if err != nil {
		return err
	}
	t.state.SetPeers(peers.GetPeers())
	return nil
}

func shownServices(cfg *config.Config) []*adminv1.Service {
	list := make([]*adminv1.Service, 0, len(cfg.Services))
	for _, s := range cfg.Services {
		list = append(list, &adminv1.Service{
			Name: s.Name, Pair: s.Pair, Vip: s.VIP.String(), Protocol: s.Protocol.String(), Port: uint32(s.Port),
		})
	}
	return list
}
