// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/admin"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
)

// The controller is the admin.Inspector.
var _ admin.Inspector = (*Controller)(nil)

// Switches implements admin.Inspector.
func (c *Controller) Switches(context.Context) ([]*adminv1.Switch, error) {
	var list []*adminv1.Switch
	for i, sw := range c.loop.tables.Load().cfg.Switches() {
		entries, groups := c.sessions[i].Size()
		list = append(list, &adminv1.Switch{
			Name: sw.Name, Address: sw.Address, DeviceId: sw.DeviceID, State: c.sessions[i].Status().String(),
			Entries: uint32(entries), Groups: uint32(groups),
		})
	}
	return list, nil
}

// Peers implements admin.Inspector.
func (c *Controller) Peers(context.Context) (*adminv1.ListPeersResponse, error) {
	res := &adminv1.ListPeersResponse{}
	if c.speaker == nil {
		return res, nil
	}
	st := c.speaker.Status()
	for _, p := range st.Peers {
		res.Peers = append(res.Peers, &adminv1.Peer{Name: p.Name, Address: p.Address.String(), Asn: p.ASN, State: p.State})
	}
	for _, r := range st.Routes {
		res.Routes = append(res.Routes, r.Prefix.String())
	}
	return res, nil
}

// Metrics implements admin.Inspector.
func (c *Controller) Metrics(context.Context) ([]byte, error) { return c.metrics.Text() }

// Diagnose implements admin.Inspector.
func (c *Controller) Diagnose(ctx context.Context, name string) (*adminv1.Diagnosis, error) {
	t := c.loop.tables.Load()
	i := slices.IndexFunc(t.cfg.Services, func(s config.Service) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%w: %q", admin.ErrNoService, name)
	}
	p := path{
		now: time.Now(), service: t.cfg.Services[i], heartbeat: t.cfg.Heartbeat,
		switchAt: t.cfg.Switch, session: c.session.Status(),
	}
	if c.desired != nil {
		p.stale = c.desired.Status().Problem
	}
	if c.speaker != nil {
		st := c.speaker.Status()
		p.bgp = &st
	}
	var status failover.Status
	pairs, err := c.loop.choose(p.service.Pair)
	if err != nil {
		return nil, err
	}
	if err := c.loop.call(ctx, func() {
		status, p.pair, p.facts = pairs[0].machine.Status(), pairs[0].proto(), pairs[0].known()
	}); err != nil {
		return nil, err
	}
	have, err := c.session.Read(ctx)
	if p.read = err; err == nil {
		p.missing = lacks(have, needs(t.cfg, p.service, status))
		p.heard = c.heard(ctx, pairOf(t.cfg, p.service.Pair))
	}
	return &adminv1.Diagnosis{Service: name, Checks: diagnose(p)}, nil
}

// What replica_counter of the P4 program counts, for each replication id: p4/src,
// include/ids.p4.
const (
	replicaCounter    = "replica_counter"
	verdictBits       = 2
	verdictReleased   = 0
	verdictSuppressed = 1
)

// heard reads what a pair's servers have said; nil if that cannot be read.
func (c *Controller) heard(ctx context.Context, pair config.Pair) map[string]spoken {
	counts, err := c.session.Counters(ctx, replicaCounter)
	if err != nil {
		c.log.Debug("counters", "error", err)
		return nil
	}
	heard := map[string]spoken{}
	for _, s := range pair.Servers {
		slot := int64(s.RID) << verdictBits
		heard[s.Name] = spoken{counts[slot|verdictReleased].Packets, counts[slot|verdictSuppressed].Packets}
	}
	return heard
}
