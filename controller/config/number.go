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
// the lowest that is free. The servers of each pair are put into the order of their
// numbers, and so are the pairs.
func (c *Config) Renumber(old Numbers) error {
	taken := map[uint16]bool{}
	for i := range c.Pairs {
		c.Pairs[i].ID = 0
		if id := old.Pairs[c.Pairs[i].Name]; id >= 1 && id <= MaxPairs && !taken[id] {
			c.Pairs[i].ID, taken[id] = id, true
		}
	}
	next := uint16(1)
	for i := range c.Pairs {
		p := &c.Pairs[i]
		if p.ID == 0 {
			for taken[next] {
				next++
			}
			if next > MaxPairs {
				return fmt.Errorf("no number is left for pair %q", p.Name)
			}
			p.ID, taken[next] = next, true
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
	for i := range p.Servers {
		s := &p.Servers[i]
		for r := uint8(1); s.Replica == 0; r++ {
			if r > ServersPerPair {
				return fmt.Errorf("no number is left for server %q", s.Name)
			}
			if !taken[r] {
				s.Replica, taken[r] = r, true
			}
		}
		s.RID = (p.ID-1)*ridsPerPair + uint16(s.Replica)
	}
	slices.SortFunc(p.Servers, func(a, b Server) int { return int(a.Replica) - int(b.Replica) })
	return nil
}

// Equal says whether the numbers are the same.
func (n Numbers) Equal(m Numbers) bool {
	return maps.Equal(n.Pairs, m.Pairs) && maps.EqualFunc(n.Replicas, m.Replicas, maps.Equal[map[string]uint8, map[string]uint8])
}
