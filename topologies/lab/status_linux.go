// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"slices"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/topologies"
)

// Status returns what there is. It fails with ErrDown without a lab; a
// controller that does not answer is no failure of the lab's.
func (l *Lab) Status(ctx context.Context) (*Status, error) {
	st, t, err := l.load()
	if err != nil {
		return nil, err
	}
	service := t.Services[0]
	s := &Status{
		Topology: t.Name,
		Started:  st.Started,
		VIP:      service.VIP.String(),
		Admin:    "unix:" + l.paths().socket(),
		StateDir: l.RunDir,
		LogDir:   l.paths().logs(),
		Pairs:    []PairStatus{},
	}
	for _, svc := range t.Services {
		s.Services = append(s.Services, ServiceStatus{
			Name: svc.Name, Pair: svc.Pair, VIP: svc.VIP.String(), Protocol: svc.Protocol, Port: svc.Port,
		})
	}
	pairs, err := l.pairs(ctx)
	if err != nil {
		s.Problem = "the controller does not answer: " + err.Error()
	}
	for _, p := range pairs {
		s.Pairs = append(s.Pairs, PairStatus{
			Name: p.GetName(), State: StateName(p.GetState()), Epoch: p.GetEpoch(),
			Connections: p.GetConnections(), Protected: p.GetProtected(),
		})
	}
	for i := range t.Nodes {
		s.Nodes = append(s.Nodes, l.nodeStatus(st, t, &t.Nodes[i], pairs))
	}
	return s, nil
}

func (l *Lab) pairs(ctx context.Context) ([]*adminv1.Pair, error) {
	client, conn, err := l.Admin()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	res, err := client.ListPairs(ctx, &adminv1.ListPairsRequest{})
	return res.GetPairs(), err
}

func (l *Lab) nodeStatus(st *state, t *topologies.Topology, n *topologies.Node, pairs []*adminv1.Pair) NodeStatus {
	s := NodeStatus{
		Name: n.Name, Kind: string(n.Kind), Namespace: l.Prefix + n.Name, MAC: string(n.MAC),
		Faults: st.Faults[n.Name], DropOneIn: st.Drops[n.Name], Processes: []ProcessStatus{},
	}
	if n.Address.IsValid() {
		s.Address = n.Address.String()
	}
	if n.Management != nil {
		s.Management = n.Management.Address.String()
	}
	if link := t.LinkOf(n.Name); link != nil {
		s.Gateway, s.Port, s.Interface = link.Gateway.String(), link.Port, link.Interface
	}
	for _, p := range pairs {
		if i := slices.IndexFunc(p.GetServers(), func(s *adminv1.Server) bool { return s.GetName() == n.Name }); i >= 0 {
			server := p.GetServers()[i]
			s.Role, s.Attached, s.ApplicationUp = RoleName(server.GetRole()), server.GetAttached(), server.GetApplicationUp()
		}
	}
	for i := range st.Processes {
		r := &st.Processes[i]
		if r.Node != n.Name {
			continue
		}
		p := ProcessStatus{Name: r.Name, Role: r.Role, PID: r.PID, State: "running", Command: r.Args, Log: r.Log}
		switch {
		case !r.alive():
			p.State, p.PID = "dead", 0
		case stopped(r.PID):
			p.State = "frozen"
		}
		s.Processes = append(s.Processes, p)
	}
	return s
}

// Servers returns the names of the servers of the lab that is up, none without
// one.
func (l *Lab) Servers() []string {
	_, t, err := l.load()
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range t.OfKind(topologies.Server) {
		names = append(names, n.Name)
	}
	return names
}
