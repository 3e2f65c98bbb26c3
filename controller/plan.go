// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"slices"
	"time"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// The names that entries are made of are those of p4/src.

const (
	icmp   = 1
	icmpv6 = 58
)

// standing returns the entries that follow from the configuration alone, whoever
// is active.
func standing(c *config.Config) []p4rt.Entry {
	var list []p4rt.Entry
	add := func(e p4rt.Entry) { list = append(list, e) }

	// Heartbeats go to the controller.
	heard := map[netip.Addr]bool{}
	for _, p := range c.Pairs {
		for _, s := range p.Servers {
			if gw := s.Gateway.Address; !heard[gw] {
				heard[gw] = true
				add(p4rt.Entry{
					Table: "punt",
					Key: []p4rt.Arg{
						p4rt.Exact("dst_addr", p4rt.Addr(gw)),
						p4rt.Exact("protocol", p4rt.Uint(uint8(config.UDP))),
						p4rt.Exact("dst_port", p4rt.Uint(c.Heartbeat.Port)),
					},
					Action: "to_controller",
				})
			}
		}
	}

	// The switch answers for its gateways and the VIPs.
	for _, g := range c.Gateways {
		add(neighbour(g.Address, g.MAC))
	}
	seen, fragments := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, s := range c.Services {
		pair := pairOf(c, s.Pair)
		add(duplicate(s.VIP, uint8(s.Protocol), s.Port, pair.ID))
		if s.Protocol == config.UDP && !fragments[s.VIP] {
			// Fragments have port 0. TCP makes none.
			fragments[s.VIP] = true
			add(duplicate(s.VIP, uint8(s.Protocol), 0, pair.ID))
		}
		if seen[s.VIP] {
			continue
		}
		seen[s.VIP] = true
		add(neighbour(s.VIP, c.VIPMAC))
		// ICMP is a service with port 0: path MTU errors must reach both copies of
		// a connection.
		if s.VIP.Is4() {
			add(duplicate(s.VIP, icmp, 0, pair.ID))
		} else {
			add(duplicate(s.VIP, icmpv6, 0, pair.ID))
		}
		add(p4rt.Entry{
			Table:  byFamily(s.VIP, "source_filter", "source_filter6"),
			Key:    []p4rt.Arg{p4rt.Exact("src_addr", p4rt.Addr(s.VIP))},
			Action: "guard",
		})
		for _, server := range pair.Servers {
			add(p4rt.Entry{
				Table: byFamily(s.VIP, "replica", "replica6"),
				Key: []p4rt.Arg{
					p4rt.Exact("ingress_port", p4rt.Uint(server.Port)),
					p4rt.Exact("src_mac", p4rt.MAC(server.MAC)),
					p4rt.Exact("src_addr", p4rt.Addr(s.VIP)),
				},
				Action: "from_replica",
				Params: []p4rt.Arg{
					p4rt.Exact("pair", p4rt.Uint(pair.ID)),
					p4rt.Exact("replica", p4rt.Uint(server.Replica)),
					p4rt.Exact("rid", p4rt.Uint(server.RID)),
				},
			})
		}
	}

	// Whose heartbeats they are, for the switch's watchdog: also where it is off, for
	// a controller before this one may have armed it.
	for _, p := range c.Pairs {
		for _, s := range p.Servers {
			add(p4rt.Entry{
				Table: "heartbeat",
				Key: []p4rt.Arg{
					p4rt.Exact("ingress_port", p4rt.Uint(s.Port)),
					p4rt.Exact("src_mac", p4rt.MAC(s.MAC)),
				},
				Action: "heartbeat_of",
				Params: []p4rt.Arg{
					p4rt.Exact("pair", p4rt.Uint(p.ID)),
					p4rt.Exact("replica", p4rt.Uint(s.Replica)),
				},
			})
		}
	}

	// Copies, and what is suppressed, are addressed to the server they are for.
	for _, p := range c.Pairs {
		for _, s := range p.Servers {
			add(p4rt.Entry{
				Table: "replica_rewrite",
				Key:   []p4rt.Arg{p4rt.Exact("rid", p4rt.Uint(s.RID))},

				Action: "rewrite",
				Params: []p4rt.Arg{
					p4rt.Exact("dst_mac", p4rt.MAC(s.MAC)),
					p4rt.Exact("src_mac", p4rt.MAC(s.Gateway.MAC)),
				},
			})
			add(p4rt.Entry{
				Table: "shadow",
				Key: []p4rt.Arg{
					p4rt.Exact("pair", p4rt.Uint(p.ID)),
					p4rt.Exact("active", p4rt.Uint(s.Replica)),
				},
				Action: "shadow_to",
				Params: []p4rt.Arg{
					p4rt.Exact("port", p4rt.Uint(s.Port)),
					p4rt.Exact("rid", p4rt.Uint(s.RID)),
				},
			})
		}
	}

	for _, r := range c.Routes {
		add(p4rt.Entry{
			Table:  byFamily(r.Prefix.Addr(), "route", "route6"),
			Key:    []p4rt.Arg{p4rt.Prefix("dst_addr", r.Prefix)},
			Action: byFamily(r.Prefix.Addr(), "forward", "forward6"),
			Params: []p4rt.Arg{
				p4rt.Exact("port", p4rt.Uint(r.Port)),
				p4rt.Exact("dst_mac", p4rt.MAC(r.NextHopMAC)),
				p4rt.Exact("src_mac", p4rt.MAC(r.SourceMAC)),
			},
		})
	}
	return list
}

func byFamily(a netip.Addr, v4, v6 string) string {
	if a.Is4() {
		return v4
	}
	return v6
}

func pairOf(c *config.Config, name string) config.Pair {
	i := slices.IndexFunc(c.Pairs, func(p config.Pair) bool { return p.Name == name })
	return c.Pairs[i] // the configuration has been checked
}

func neighbour(a netip.Addr, mac config.MAC) p4rt.Entry {
	return p4rt.Entry{
		Table:  byFamily(a, "arp_reply", "nd_reply"),
		Key:    []p4rt.Arg{p4rt.Exact("target_ip", p4rt.Addr(a))},
		Action: byFamily(a, "arp_answer", "nd_answer"),
		Params: []p4rt.Arg{p4rt.Exact("mac", p4rt.MAC(mac))},
	}
}

func duplicate(vip netip.Addr, protocol uint8, port, group uint16) p4rt.Entry {
	return p4rt.Entry{
		Table: byFamily(vip, "vip", "vip6"),
		Key: []p4rt.Arg{
			p4rt.Exact("dst_addr", p4rt.Addr(vip)),
			p4rt.Exact("protocol", p4rt.Uint(protocol)),
			p4rt.Exact("dst_port", p4rt.Uint(port)),
		},
		Action: byFamily(vip, "duplicate", "duplicate6"),
		Params: []p4rt.Arg{p4rt.Exact("group", p4rt.Uint(group))},
	}
}

// activeTable has one entry per pair.
const activeTable = "active"

// activeEntry is what the switch shall know of a pair: who is heard, in which epoch, and
// whom it may release by itself (0: nobody) after how much silence.
type activeEntry struct {
	replica failover.Replica
	epoch   uint64
	standby failover.Replica
	silence time.Duration
}

// entry is the entry that a failover flips. Replica 0 is nobody's: all are
// suppressed.
func (a activeEntry) entry(pair uint16) p4rt.Entry {
	e := p4rt.Entry{
		Table:  activeTable,
		Key:    []p4rt.Arg{p4rt.Exact("pair", p4rt.Uint(pair))},
		Action: "set_active",
		Params: []p4rt.Arg{
			p4rt.Exact("replica", p4rt.Uint(a.replica)),
			p4rt.Exact("epoch", p4rt.Uint(uint32(a.epoch))),
		},
	}
	if a.standby != 0 {
		e.Action = "set_active_watched"
		e.Params = append(e.Params,
			p4rt.Exact("standby", p4rt.Uint(a.standby)),
			p4rt.Exact("limit", p4rt.Uint(uint32(a.silence/ticks))))
	}
	return e
}

// ticks is the unit of the switch's clock.
const ticks = time.Microsecond

// membersGroup is the group that a pair's packets are copied to.
func membersGroup(pair config.Pair, members []failover.Replica) p4rt.Group {
	g := p4rt.Group{ID: uint32(pair.ID)}
	for _, r := range members {
		if s, ok := pair.Server(uint8(r)); ok {
			g.Replicas = append(g.Replicas, p4rt.Replica{Port: uint32(s.Port), Instance: uint32(s.RID)})
		}
	}
	return g
}

// pairState reads back, out of what a switch has, who is active in a pair. What
// does not fit to the configuration is as if it were not there.
func pairState(have p4rt.State, pair config.Pair) failover.SwitchState {
	var st failover.SwitchState
	for _, e := range have.Entries {
		if e.Table != activeTable {
			continue
		}
		if id, _ := e.Find("pair"); id != p4rt.Uint(pair.ID) {
			continue
		}
		replica, _ := e.Find("replica")
		epoch, _ := e.Find("epoch")
		standby, _ := e.Find("standby")
		n, _ := replica.Uint64()
		by, _ := standby.Uint64()
		st.Epoch, _ = epoch.Uint64()
		if n <= config.ServersPerPair {
			if _, ok := pair.Server(uint8(n)); ok {
				st.Active = failover.Replica(n)
			}
		}
		if by <= config.ServersPerPair {
			if _, ok := pair.Server(uint8(by)); ok {
				st.Standby = failover.Replica(by)
			}
		}
	}
	for _, g := range have.Groups {
		if g.ID != uint32(pair.ID) {
			continue
		}
		for _, s := range pair.Servers {
			if slices.Contains(g.Replicas, p4rt.Replica{Port: uint32(s.Port), Instance: uint32(s.RID)}) {
				st.Members = append(st.Members, failover.Replica(s.Replica))
			}
		}
	}
	return st
}
