// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"testing"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/gnmi"
)

// The switch says that a port is down: a failover, though agents and heartbeats have
// noticed nothing.
func TestPortDownIsAFailover(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	c := start(t, cfg)
	admin := c.admin(t)
	startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[0], nil)
	awaitPair(t, admin, simplex)
	startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[1], nil)
	awaitPair(t, admin, duplex, active, backup)

	l.links[server1Port].SetDown(true)
	awaitPair(t, admin, simplex, fenced, active)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	r, err := admin.ListFailovers(ctx, &adminv1.ListFailoversRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.GetFailovers()); n != 1 || r.GetFailovers()[0].GetCause() != "link down" {
		t.Errorf("failovers: %v", r.GetFailovers())
	}

	l.links[server1Port].SetDown(false)
	awaitPair(t, admin, duplex, backup, active)
}

// Without the switch's word the same is no failover.
func TestPortsAreNotAskedForWhereThereIsNoGNMI(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	cfg.Switch.GNMI = ""
	c := start(t, cfg)
	for _, task := range c.tasks {
		if name := task.String(); name == "port states of "+l.address {
			t.Errorf("there is the task %s", name)
		}
	}
}

// A server that one of two switches has lost is reached through the other.
func TestPortsOfTwins(t *testing.T) {
	checkLeaks(t)
	_, l1, l2, c, admin, _, _ := twinLab(t)
	eventually(t, "both are subscribed to", func() error {
		for _, p := range c.telemetry.ports {
			if st := p.Status(); st != gnmi.Subscribed {
				return fmt.Errorf("%v is %v", p, st)
			}
		}
		return nil
	})
	l1.links[server1Port].SetDown(true)
	eventually(t, "the first switch's word is heard", func() error {
		c.loop.mu.Lock()
		defer c.loop.mu.Unlock()
		if len(c.loop.down[0]) != 1 {
			return fmt.Errorf("down are %v", c.loop.down)
		}
		return nil
	})
	awaitPair(t, admin, duplex, active, backup)
	l2.links[server1Port].SetDown(true)
	awaitPair(t, admin, simplex, fenced, active)
}
