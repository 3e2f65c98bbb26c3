// SPDX-License-Identifier: Apache-2.0

package gnmi

import (
	"slices"
	"strings"
	"sync"

	pb "github.com/openconfig/gnmi/proto/gnmi"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/internal/gnmiserver"
)

// Model is the YANG module that State belongs to (api/yang).
var Model = &pb.ModelData{Name: "understudy-controller", Organization: "Understudy", Version: "2026-11-27"}

// State is what the controller shows of itself: the tree of the YANG module
// understudy-controller. Its methods may be called from any goroutine; who is told the
// same again tells nobody.
type State struct {
	tree gnmiserver.Tree

	mu    sync.Mutex
	lists map[string]map[string]*pb.Path // entries that there are, by list
}

// NewServer serves the state, read-only. Origins are none, and the module's name.
func (s *State) NewServer() *gnmiserver.Server {
	return gnmiserver.New(gnmiserver.Config{Tree: &s.tree, Origins: []string{Model.Name}, Models: []*pb.ModelData{Model}})
}

// SetPairs shows these pairs and their servers, and no others.
func (s *State) SetPairs(pairs []*adminv1.Pair) {
	var list []entry
	for _, p := range pairs {
		e := newEntry("pairs", "pair", p.GetName())
		active := ""
		for _, x := range p.GetServers() {
			if x.GetRole() == adminv1.ServerRole_SERVER_ROLE_ACTIVE {
				active = x.GetName()
			}
		}
		e.leaf("state", word(p.GetState().String(), "PAIR_STATE_", "unknown"))
		e.leaf("epoch", p.GetEpoch())
		e.leaf("active", active)
		e.leaf("connections", p.GetConnections())
		e.leaf("protected-connections", p.GetProtected())
		list = append(list, e)
		for _, x := range p.GetServers() {
			y := e.below("servers", "server", x.GetName())
			y.leaf("role", word(x.GetRole().String(), "SERVER_ROLE_", "none"))
			y.leaf("attached", x.GetAttached())
			y.leaf("application-up", x.GetApplicationUp())
			y.leaf("admin-state", word(x.GetAdminState().String(), "ADMIN_STATE_", "in-service"))
			list = append(list, y)
		}
	}
	s.replace("pairs", list)
}

// SetServices shows these services, and no others.
func (s *State) SetServices(services []*adminv1.Service) {
	var list []entry
	for _, x := range services {
		e := newEntry("services", "service", x.GetName())
		e.leaf("pair", x.GetPair())
		e.leaf("vip", x.GetVip())
		e.leaf("protocol", x.GetProtocol())
		e.leaf("port", uint64(x.GetPort()))
		list = append(list, e)
	}
	s.replace("services", list)
}

// A Switch is one as it is shown.
type Switch struct {
	*adminv1.Switch
	// Ports is the Status of the subscription to its ports, or "off".
	Ports string
}

// SetSwitches shows these switches, and no others.
func (s *State) SetSwitches(switches []Switch) {
	var list []entry
	for _, x := range switches {
		e := newEntry("switches", "switch", x.GetName())
		e.leaf("address", x.GetAddress())
		e.leaf("device-id", x.GetDeviceId())
		e.leaf("session", x.GetState())
		e.leaf("entries", uint64(x.GetEntries()))
		e.leaf("groups", uint64(x.GetGroups()))
		e.leaf("ports", x.Ports)
		list = append(list, e)
	}
	s.replace("switches", list)
}

// SetPeers shows these routers, and no others.
func (s *State) SetPeers(peers []*adminv1.Peer) {
	var list []entry
	for _, x := range peers {
		e := newEntry("peers", "peer", x.GetName())
		e.leaf("address", x.GetAddress())
		e.leaf("asn", uint64(x.GetAsn()))
		e.leaf("session", word(strings.ToUpper(x.GetState()), "", "unknown"))
		list = append(list, e)
	}
	s.replace("peers", list)
}

// word makes a word of an enumeration's value as YANG has it.
func word(value, prefix, unspecified string) string {
	switch value = strings.TrimPrefix(value, prefix); value {
	case "", "UNSPECIFIED":
		return unspecified
	}
	return strings.ReplaceAll(strings.ToLower(value), "_", "-")
}

// entry is one of a list.
type entry struct {
	path   *pb.Path
	leaves []gnmiserver.Leaf
}

func newEntry(container, list, name string) entry {
	return entry{path: &pb.Path{Elem: []*pb.PathElem{{Name: "understudy"}}}}.below(container, list, name)
}

// below makes an entry of a list within an entry.
func (e entry) below(container, list, name string) entry {
	b := entry{path: &pb.Path{Elem: append(slices.Clone(e.path.Elem),
		&pb.PathElem{Name: container}, &pb.PathElem{Name: list, Key: map[string]string{"name": name}})}}
	b.leaf("name", name)
	return b
}

func (e *entry) leaf(name string, value any) {
	path := &pb.Path{Elem: append(slices.Clone(e.path.Elem), &pb.PathElem{Name: "state"}, &pb.PathElem{Name: name})}
	e.leaves = append(e.leaves, gnmiserver.Leaf{Path: path, Value: value})
}

// replace shows the entries of a list, and takes back those that are no more.
func (s *State) replace(list string, entries []entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := make(map[string]*pb.Path, len(entries))
	var leaves []gnmiserver.Leaf
	for _, e := range entries {
		now[gnmiserver.PathString(e.path)] = e.path
		leaves = append(leaves, e.leaves...)
	}
	for key, path := range s.lists[list] {
		if now[key] == nil {
			s.tree.Delete(path)
		}
	}
	s.tree.Set(leaves...)
	if s.lists == nil {
		s.lists = map[string]map[string]*pb.Path{}
	}
	s.lists[list] = now
}
