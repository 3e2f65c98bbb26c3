// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"slices"
)

// Numbers are the numbers that pairs and servers have in the switch, by name. They
// stay the same while what they number exists, wherever it stands in the file.
type Numbers struct {
	Pairs map[string]uint16 `json:"pairs"`
	// Replicas are those of each pair's servers.
	Replicas map[string]map[string]uint8 `json:"replicas"`
}

// Numbers returns those that a configuration has.
func (c *Config) Numbers() Numbers {
	n := Numbers{Pairs: map[string]uint16{}, Replicas: map[string]map[string]uint8{}}
	for _, p := range c.Pairs {
		n.Pairs[p.Name] = p.ID
		n.Replicas[p.Name] = map[string]uint8{}
		for _, s := range p.Servers {
			n.Replicas[p.Name][s.Name] = s.Replica
		}
	}
	return n
}

// Renumber gives pairs and servers the numbers that they had. What had none gets
// the lowest that nobody had, or, if there is none, the lowest that is free: what a
// switch still has under the number of one that went is not taken for the newcomer's.
// The servers of each pair are put into the order of their numbers, and so are the
// pairs; there may be gaps.
func (c *Config) Renumber(old Numbers) error {
	taken := map[uint16]bool{}
	for i := range c.Pairs {
		c.Pairs[i].ID = 0
		if id := old.Pairs[c.Pairs[i].Name]; id >= 1 && id <= MaxPairs && !taken[id] {
			c.Pairs[i].ID, taken[id] = id, true
		}
	}
	had := map[uint16]bool{}
	for _, id := range old.Pairs {
		had[id] = true
	}
	for i := range c.Pairs {
		p := &c.Pairs[i]
		if p.ID == 0 {
			if p.ID = free(taken, had, MaxPairs); p.ID == 0 {
				return fmt.Errorf("no number is left for pair %q", p.Name)
			}
			taken[p.ID] = true
		}
		p.Servers = slices.Clone(p.Servers)
		if err := renumberServers(p, old.Replicas[p.Name]); err != nil {
			return err
		}
	}
	slices.SortFunc(c.Pairs, func(a, b Pair) int { return int(a.ID) - int(b.ID) })
	return nil
}

func renumberServers(p *Pair, old map[string]uint8) error {
	taken := map[uint8]bool{}
	for i := range p.Servers {
		s := &p.Servers[i]
		s.Replica = 0
		if r := old[s.Name]; r >= 1 && r <= ServersPerPair && !taken[r] {
			s.Replica, taken[r] = r, true
		}
	}
	had := map[uint8]bool{}
	for _, r := range old {
		had[r] = true
	}
	for i := range p.Servers {
		s := &p.Servers[i]
		if s.Replica == 0 {
			if s.Replica = free(taken, had, ServersPerPair); s.Replica == 0 {
				return fmt.Errorf("no number is left for server %q", s.Name)
			}
			taken[s.Replica] = true
		}
		s.RID = (p.ID-1)*ridsPerPair + uint16(s.Replica)
	}
	slices.SortFunc(p.Servers, func(a, b Server) int { return int(a.Replica) - int(b.Replica) })
	return nil
}

// free returns the lowest number that nobody has or had, else the lowest that nobody
// has, else 0.
func free[N uint8 | uint16](taken, had map[N]bool, most N) N {
	var second N
	for n := N(1); n <= most; n++ {
		switch {
		case taken[n]:
		case !had[n]:
			return n
		case second == 0:
			second = n
		}
	}
	return second
}

// Equal says whether the numbers are the same.
func (n Numbers) Equal(m Numbers) bool {
	return maps.Equal(n.Pairs, m.Pairs) && maps.EqualFunc(n.Replicas, m.Replicas, maps.Equal[map[string]uint8, map[string]uint8])
}
