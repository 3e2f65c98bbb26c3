// SPDX-License-Identifier: Apache-2.0

// Package topologies describes networks to run Understudy in: which nodes there
// are, how they are linked, what they are called. A topology is data; runners
// (topologies/lab, Mininet) make something of it. README.md documents the
// format.
package topologies

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"
)

//go:embed pair.yaml
var pair []byte

// Pair returns the default topology's source: one switch, two servers, one
// client.
func Pair() []byte { return bytes.Clone(pair) }

// Topology is a network and what runs in it.
type Topology struct {
	Name     string    `yaml:"name"`
	Nodes    []Node    `yaml:"nodes"`
	Links    []Link    `yaml:"links"`
	Pairs    []Backing `yaml:"pairs"`
	Services []Service `yaml:"services"`

	// App is the local application of every server that has none of its own.
	App *App `yaml:"app,omitempty"`
	// Agent is what all agents are told beside what follows from the rest.
	Agent Agent `yaml:"agent,omitempty"`
	// Sysctls are set in every node of a kind, before its own.
	Sysctls map[Kind]map[string]string `yaml:"sysctls,omitempty"`

	Heartbeat Heartbeat `yaml:"heartbeat,omitempty"`
	Ports     Ports     `yaml:"ports,omitempty"`
}

// Kind says what a node is.
type Kind string

// The kinds of nodes.
const (
	Client Kind = "client"
	Switch Kind = "switch"
	Server Kind = "server"
)

// Node is one host or switch.
type Node struct {
	Name string `yaml:"name"`
	Kind Kind   `yaml:"kind"`

	// Address and MAC are those of the data interface, "eth0": clients and servers.
	Address netip.Prefix `yaml:"address,omitempty"`
	MAC     MAC          `yaml:"mac,omitempty"`

	// Management is the interface "mgmt0", a bridge on the switch: servers and switches.
	Management *Interface `yaml:"management,omitempty"`

	Switch *SwitchSpec `yaml:"switch,omitempty"`

	// App replaces the topology's App on this server.
	App *App `yaml:"app,omitempty"`

	Sysctls map[string]string `yaml:"sysctls,omitempty"`
}

// Interface is an addressed network interface.
type Interface struct {
	Address netip.Prefix `yaml:"address"`
	MAC     MAC          `yaml:"mac"`
}

// SwitchSpec is how a switch is run and reached.
type SwitchSpec struct {
	DeviceID uint64 `yaml:"device_id"`
	CPUPort  uint32 `yaml:"cpu_port"`
	// GRPC is where the switch serves P4Runtime, seen from its own node.
	GRPC string `yaml:"grpc"`
	// GNMI is where it tells of its ports, if that is another address, or "none".
	GNMI string `yaml:"gnmi,omitempty"`
	// Offloads says that the switch forwards segments longer than the MTU, and
	// checksums that are still to be computed, as the embedded one does: its links
	// then keep their offloads. Off, packets are as on a wire.
	Offloads bool `yaml:"offloads,omitempty"`
	// Target is which switch it is.
	Target Target `yaml:"target,omitempty"`
	// Command replaces the target's own. In its words {device_id}, {cpu_port}
	// and {grpc} are replaced; a word that is {interfaces} becomes "-i", "1@p1", ...
	Command []string `yaml:"command,omitempty"`
}

// Link joins the data interface of a client or server to a port of a switch.
type Link struct {
	Node   string `yaml:"node"`
	Switch string `yaml:"switch"`
	// Port is the number that the P4 program knows, Interface the name of the
	// switch's end.
	Port      uint32 `yaml:"port"`
	Interface string `yaml:"interface"`
	// Gateway is the node's default gateway, an address that the switch answers
	// for with GatewayMAC.
	Gateway    netip.Addr `yaml:"gateway"`
	GatewayMAC MAC        `yaml:"gateway_mac"`
}

// Backing is a pair of servers that back services together.
type Backing struct {
	Name string `yaml:"name"`
	// Watchdog has the switch itself fail over.
	Watchdog bool     `yaml:"watchdog,omitempty"`
	Servers  []string `yaml:"servers"`
}

// Service is what clients connect to.
type Service struct {
	Name     string     `yaml:"name"`
	Pair     string     `yaml:"pair"`
	VIP      netip.Addr `yaml:"vip"`
	Protocol string     `yaml:"protocol"`
	Port     uint16     `yaml:"port"`
	// Upstream is where the local application listens, on each server.
	Upstream string `yaml:"upstream"`
}

// App is a local application, run in the foreground.
type App struct {
	// Command: in its words {server}, {address} (the first service's upstream),
	// {dir} (an empty directory for this server) and {topology_dir} are replaced.
	Command []string `yaml:"command"`
}

// Agent configures the agents.
type Agent struct {
	// Disable names features of the agent that are left off, to see what they are
	// for. The agent knows which there are.
	Disable []string `yaml:"disable,omitempty"`
}

// Heartbeat is how servers say that they live.
type Heartbeat struct {
	Interval time.Duration `yaml:"interval"`
	Missed   int           `yaml:"missed"`
	Port     uint16        `yaml:"port"`
}

// Ports are the TCP ports of Understudy's own programs.
type Ports struct {
	// Agents is where the controller listens for agents.
	Agents uint16 `yaml:"agents"`
	// Replication is where an agent listens for the other one.
	Replication uint16 `yaml:"replication"`
}

// MAC is an Ethernet address that is written as text.
type MAC string

// UnmarshalText accepts what net.ParseMAC does, if it is 6 bytes and unicast.
func (m *MAC) UnmarshalText(text []byte) error {
	hw, err := net.ParseMAC(string(text))
	if err != nil {
		return err
	}
	if len(hw) != 6 || hw[0]&1 != 0 {
		return fmt.Errorf("%q is not a unicast Ethernet address", text)
	}
	*m = MAC(hw.String())
	return nil
}

// HardwareAddr returns the address's bytes, nil for the empty address.
func (m MAC) HardwareAddr() net.HardwareAddr {
	hw, err := net.ParseMAC(string(m))
	if err != nil {
		return nil
	}
	return hw
}

// Load reads and parses a file; the empty name means Pair.
func Load(file string) (*Topology, []byte, error) {
	if file == "" {
		t, err := Parse(pair)
		return t, Pair(), err
	}
	source, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	t, err := Parse(source)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, source, nil
}

// Parse reads a topology from YAML or JSON. It refuses unknown fields, fills in
// the defaults and validates: a topology that it returns can be run.
func Parse(source []byte) (*Topology, error) {
	d := yaml.NewDecoder(bytes.NewReader(source))
	d.KnownFields(true)
	t := new(Topology)
	if err := d.Decode(t); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("empty file")
		}
		return nil, fmt.Errorf("topology: %w", err)
	}
	t.setDefaults()
	if err := t.validate(); err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	return t, nil
}

func (t *Topology) setDefaults() {
	def(&t.Heartbeat.Interval, 10*time.Millisecond)
	def(&t.Heartbeat.Missed, 3)
	def(&t.Heartbeat.Port, 9401)
	def(&t.Ports.Agents, 9400)
	def(&t.Ports.Replication, 9402)
	for i := range t.Services {
		def(&t.Services[i].Protocol, "tcp")
	}
	for i := range t.Nodes {
		if sw := t.Nodes[i].Switch; sw != nil {
			def(&sw.Target, Embedded)
		}
	}
}

func def[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Node returns the node of that name, or nil.
func (t *Topology) Node(name string) *Node {
	for i := range t.Nodes {
		if t.Nodes[i].Name == name {
			return &t.Nodes[i]
		}
	}
	return nil
}

// OfKind returns the nodes of a kind, in the topology's order.
func (t *Topology) OfKind(k Kind) []*Node {
	var nodes []*Node
	for i := range t.Nodes {
		if t.Nodes[i].Kind == k {
			nodes = append(nodes, &t.Nodes[i])
		}
	}
	return nodes
}

// LinkOf returns the link of a client or server. Every one has exactly one.
func (t *Topology) LinkOf(node string) *Link {
	for i := range t.Links {
		if t.Links[i].Node == node {
			return &t.Links[i]
		}
	}
	return nil
}

// VIPs returns the distinct addresses of the services that a server backs.
func (t *Topology) VIPs(server string) []netip.Addr {
	backs := make(map[string]bool)
	for _, p := range t.Pairs {
		for _, s := range p.Servers {
			if s == server {
				backs[p.Name] = true
			}
		}
	}
	var vips []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, s := range t.Services {
		if backs[s.Pair] && !seen[s.VIP] {
			seen[s.VIP] = true
			vips = append(vips, s.VIP)
		}
	}
	return vips
}

// AppOf returns the application that a server runs, nil for the default one.
func (t *Topology) AppOf(n *Node) *App {
	if n.App != nil {
		return n.App
	}
	return t.App
}

// SysctlsOf returns the sysctls of a node: its kind's, then its own over them.
func (t *Topology) SysctlsOf(n *Node) map[string]string {
	all := make(map[string]string)
	for k, v := range t.Sysctls[n.Kind] {
		all[k] = v
	}
	for k, v := range n.Sysctls {
		all[k] = v
	}
	return all
}

// Names become parts of interface and file names: "mgmt-" + name must fit in
// the kernel's 15 bytes.
var (
	nodeName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,9}$`)
	plainName  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	ifaceName  = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$`)
	sysctlName = regexp.MustCompile(`^[a-z0-9_]+(\.[a-zA-Z0-9_/-]+)+$`)
)

func (t *Topology) validate() error {
	if !plainName.MatchString(t.Name) {
		return fmt.Errorf("name %q: want lower-case letters, digits and dashes", t.Name)
	}
	if err := t.validateNodes(); err != nil {
		return err
	}
	if err := t.validateLinks(); err != nil {
		return err
	}
	for kind, sysctls := range t.Sysctls {
		if kind != Client && kind != Switch && kind != Server {
			return fmt.Errorf("sysctls: unknown kind %q", kind)
		}
		if err := validateSysctls(string(kind), sysctls); err != nil {
			return err
		}
	}
	if t.App != nil && len(t.App.Command) == 0 {
		return errors.New("app: no command")
	}
	if t.Heartbeat.Interval < 0 || t.Heartbeat.Missed < 0 {
		return errors.New("heartbeat: negative")
	}
	return t.validateServices()
}

func (t *Topology) validateNodes() error {
	seen := make(map[string]bool)
	addresses := make(map[netip.Addr]string)
	macs := make(map[MAC]string)
	claim := func(node string, i Interface) error {
		if other, ok := addresses[i.Address.Addr()]; ok {
			return fmt.Errorf("node %s: address %s is %s's", node, i.Address.Addr(), other)
		}
		if other, ok := macs[i.MAC]; ok {
			return fmt.Errorf("node %s: mac %s is %s's", node, i.MAC, other)
		}
		addresses[i.Address.Addr()], macs[i.MAC] = node, node
		return nil
	}
	for i := range t.Nodes {
		n := &t.Nodes[i]
		if !nodeName.MatchString(n.Name) {
			return fmt.Errorf("node %q: a name is 1 to 10 lower-case letters, digits and dashes", n.Name)
		}
		if seen[n.Name] {
			return fmt.Errorf("node %s: twice", n.Name)
		}
		seen[n.Name] = true
		if err := validateSysctls("node "+n.Name, n.Sysctls); err != nil {
			return err
		}
		switch n.Kind {
		case Switch:
			switch {
			case n.Switch == nil:
				return fmt.Errorf("node %s: a switch needs the field switch", n.Name)
			case n.Switch.GRPC == "":
				return fmt.Errorf("node %s: switch has no grpc address", n.Name)
			case n.Address.IsValid() || n.MAC != "":
				return fmt.Errorf("node %s: a switch has no address and no mac", n.Name)
			}
			if _, err := ParseTarget(string(n.Switch.Target)); err != nil {
				return fmt.Errorf("node %s: target: %w", n.Name, err)
			}
		case Client, Server:
			if n.Switch != nil {
				return fmt.Errorf("node %s: not a switch, but has the field switch", n.Name)
			}
			if !n.Address.IsValid() || n.MAC == "" {
				return fmt.Errorf("node %s: needs address and mac", n.Name)
			}
			if err := claim(n.Name, Interface{n.Address, n.MAC}); err != nil {
				return err
			}
		default:
			return fmt.Errorf("node %s: unknown kind %q", n.Name, n.Kind)
		}
		if n.App != nil && (n.Kind != Server || len(n.App.Command) == 0) {
			return fmt.Errorf("node %s: an app is a server's, and has a command", n.Name)
		}
		if n.Kind == Client {
			if n.Management != nil {
				return fmt.Errorf("node %s: a client has no management", n.Name)
			}
			continue
		}
		if n.Management == nil || !n.Management.Address.IsValid() || n.Management.MAC == "" {
			return fmt.Errorf("node %s: needs management with address and mac", n.Name)
		}
		if err := claim(n.Name, *n.Management); err != nil {
			return err
		}
	}
	for _, k := range []Kind{Client, Server} {
		if len(t.OfKind(k)) == 0 {
			return fmt.Errorf("no node of kind %s", k)
		}
	}
	if n := len(t.OfKind(Switch)); n != 1 {
		return fmt.Errorf("%d nodes of kind switch: one is what there can be as yet", n)
	}
	return nil
}

func (t *Topology) validateLinks() error {
	type end struct{ name, of string }
	seen := make(map[end]bool)
	linked := make(map[string]bool)
	for _, l := range t.Links {
		n, sw := t.Node(l.Node), t.Node(l.Switch)
		switch {
		case n == nil || n.Kind == Switch:
			return fmt.Errorf("link %s: no client or server of that name", l.Node)
		case sw == nil || sw.Kind != Switch:
			return fmt.Errorf("link %s: no switch %q", l.Node, l.Switch)
		case linked[l.Node]:
			return fmt.Errorf("link %s: twice", l.Node)
		case l.Port == 0 || l.Port == sw.Switch.CPUPort || seen[end{fmt.Sprint(l.Port), l.Switch}]:
			return fmt.Errorf("link %s: port %d is not free", l.Node, l.Port)
		case !ifaceName.MatchString(l.Interface) || seen[end{l.Interface, l.Switch}]:
			return fmt.Errorf("link %s: interface %q is no name or not free", l.Node, l.Interface)
		case !n.Address.Contains(l.Gateway) || l.Gateway == n.Address.Addr():
			return fmt.Errorf("link %s: gateway %s is no neighbour of %s", l.Node, l.Gateway, n.Address)
		case l.GatewayMAC == "":
			return fmt.Errorf("link %s: no gateway_mac", l.Node)
		}
		linked[l.Node] = true
		seen[end{fmt.Sprint(l.Port), l.Switch}] = true
		seen[end{l.Interface, l.Switch}] = true
	}
	for _, n := range t.Nodes {
		if n.Kind != Switch && !linked[n.Name] {
			return fmt.Errorf("node %s: not linked", n.Name)
		}
	}
	return nil
}

func (t *Topology) validateServices() error {
	pairs := make(map[string]bool)
	inPair := make(map[string]string)
	for _, p := range t.Pairs {
		if !plainName.MatchString(p.Name) || pairs[p.Name] {
			return fmt.Errorf("pair %q: no name, or twice", p.Name)
		}
		pairs[p.Name] = true
		if len(p.Servers) != 2 {
			return fmt.Errorf("pair %s: %d servers, want 2", p.Name, len(p.Servers))
		}
		for _, s := range p.Servers {
			if n := t.Node(s); n == nil || n.Kind != Server {
				return fmt.Errorf("pair %s: no server %q", p.Name, s)
			}
			if other, ok := inPair[s]; ok {
				return fmt.Errorf("pair %s: server %s is in pair %s", p.Name, s, other)
			}
			inPair[s] = p.Name
		}
	}
	if len(t.Services) == 0 {
		return errors.New("no services")
	}
	names := make(map[string]bool)
	for _, s := range t.Services {
		switch {
		case !plainName.MatchString(s.Name) || names[s.Name]:
			return fmt.Errorf("service %q: no name, or twice", s.Name)
		case !pairs[s.Pair]:
			return fmt.Errorf("service %s: no pair %q", s.Name, s.Pair)
		case !s.VIP.IsValid():
			return fmt.Errorf("service %s: no vip", s.Name)
		case s.Protocol != "tcp" && s.Protocol != "udp":
			return fmt.Errorf("service %s: unknown protocol %q", s.Name, s.Protocol)
		case s.Port == 0:
			return fmt.Errorf("service %s: no port", s.Name)
		}
		if _, err := netip.ParseAddrPort(s.Upstream); err != nil {
			return fmt.Errorf("service %s: upstream: %w", s.Name, err)
		}
		names[s.Name] = true
	}
	return nil
}

func validateSysctls(where string, sysctls map[string]string) error {
	for name := range sysctls {
		if !sysctlName.MatchString(name) {
			return fmt.Errorf("%s: sysctl %q is no name", where, name)
		}
	}
	return nil
}
