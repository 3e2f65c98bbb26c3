// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/understudy-net/understudy/topologies"
)

// Plan is what the lab would make of a topology, for a runner of another kind: what
// to build, what to write, and what to start, in this order. It marshals to JSON.
type Plan struct {
	Name string `json:"name"`
	// Client is the first client; Service what it connects to, host:port.
	Client  string     `json:"client"`
	Service string     `json:"service"`
	Nodes   []PlanNode `json:"nodes"`
	Links   []PlanLink `json:"links"`
	// Dirs are to be made, with all above them. BPF is to be a mounted BPF file
	// system, with a directory Pins in it for every server.
	Dirs []string `json:"dirs"`
	BPF  string   `json:"bpf"`
	Pins []string `json:"pins"`
	// Files have these contents.
	Files     []PlanFile `json:"files"`
	Processes []process  `json:"processes"`
	// Admin is the controller's admin API, as --address takes it.
	Admin string `json:"admin"`
	// Bridge, the management network's, is on the switch's node.
	Bridge string `json:"bridge"`
}

// PlanNode is a node, with the names of its interfaces.
type PlanNode struct {
	Name string          `json:"name"`
	Kind topologies.Kind `json:"kind"`
	// Address (CIDR), MAC and Gateway are those of the interface Data.
	Data    string `json:"data,omitempty"`
	Address string `json:"address,omitempty"`
	MAC     string `json:"mac,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	// Management is in the same way on the interface mgmt0; ManagementPort is the
	// other end, on the switch's bridge.
	Management        string `json:"management,omitempty"`
	ManagementAddress string `json:"management_address,omitempty"`
	ManagementMAC     string `json:"management_mac,omitempty"`
	ManagementPort    string `json:"management_port,omitempty"`
	// VIPs are addresses of lo, as CIDR.
	VIPs []string `json:"vips,omitempty"`
	// Sysctls are set before anything else.
	Sysctls  map[string]string `json:"sysctls,omitempty"`
	Offloads bool              `json:"offloads,omitempty"`
	Target   topologies.Target `json:"target,omitempty"`
	DeviceID uint64            `json:"device_id,omitempty"`
	CPUPort  uint32            `json:"cpu_port,omitempty"`
	// Listen is where its program of the role switch or app accepts connections.
	Listen string `json:"listen,omitempty"`
}

// PlanLink joins the data interface of a node to a port of the switch.
type PlanLink struct {
	Node      string `json:"node"`
	Switch    string `json:"switch"`
	Port      uint32 `json:"port"`
	Interface string `json:"interface"`
	// Wire is the switch's end, which a fault takes down. If it is not Interface, that
	// is a macvlan of mode passthru above it.
	Wire string `json:"wire"`
	MAC  string `json:"mac"` // of the switch's end
}

// PlanFile is a file's name and content.
type PlanFile struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// Plan returns the plan for a topology, whose directory is topologyDir, with
// everything that it writes below l.RunDir.
func (l *Lab) Plan(t *topologies.Topology, topologyDir string) (*Plan, error) {
	p := l.paths()
	inner, err := newPlan(t, topologyDir, p)
	if err != nil {
		return nil, err
	}
	out := &Plan{
		Name: t.Name, Client: t.OfKind(topologies.Client)[0].Name, Service: netip.AddrPortFrom(t.Services[0].VIP, t.Services[0].Port).String(),
		Dirs: inner.dirs, BPF: p.bpf(), Processes: inner.processes,
		Admin: "unix:" + p.socket(), Bridge: managementInterface,
	}
	for _, name := range slices.Sorted(maps.Keys(inner.files)) {
		out.Files = append(out.Files, PlanFile{Name: name, Content: string(inner.files[name])})
	}
	for i := range t.Nodes {
		n := &t.Nodes[i]
		e := PlanNode{Name: n.Name, Kind: n.Kind, Sysctls: t.SysctlsOf(n)}
		if link := t.LinkOf(n.Name); link != nil {
			e.Data, e.Address, e.MAC, e.Gateway = dataInterface, n.Address.String(), string(n.MAC), link.Gateway.String()
			out.Links = append(out.Links, PlanLink{
				Node: n.Name, Switch: link.Switch, Port: link.Port, Interface: link.Interface, Wire: t.Wire(link),
				MAC: portMAC(n.MAC.HardwareAddr()).String(),
			})
		}
		if n.Management != nil {
			e.Management = managementInterface
			e.ManagementAddress, e.ManagementMAC = n.Management.Address.String(), string(n.Management.MAC)
		}
		switch n.Kind {
		case topologies.Server:
			e.ManagementPort, e.Listen = managementPort(n.Name), upstream(t, n.Name)
			for _, vip := range t.VIPs(n.Name) {
				e.VIPs = append(e.VIPs, netip.PrefixFrom(vip, vip.BitLen()).String())
			}
			out.Pins = append(out.Pins, p.pins(n.Name))
		case topologies.Switch:
			e.Target = n.Switch.Target
			e.Offloads, e.DeviceID, e.CPUPort, e.Listen = n.Switch.KeepsOffloads(), n.Switch.DeviceID, n.Switch.CPUPort, n.Switch.GRPC
		}
		out.Nodes = append(out.Nodes, e)
	}
	return out, nil
}
