// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/understudy-net/understudy/topologies"
)

// paths are the lab's files, all in one directory.
type paths struct{ run string }

func (p paths) state() string               { return filepath.Join(p.run, "state.json") }
func (p paths) logs() string                { return filepath.Join(p.run, "log") }
func (p paths) log(process string) string   { return filepath.Join(p.logs(), process+".log") }
func (p paths) configs() string             { return filepath.Join(p.run, "config") }
func (p paths) config(name string) string   { return filepath.Join(p.configs(), name+".yaml") }
func (p paths) bpf() string                 { return filepath.Join(p.run, "bpf") }
func (p paths) pins(server string) string   { return filepath.Join(p.bpf(), server) }
func (p paths) controller() string          { return filepath.Join(p.run, "controller") }
func (p paths) socket() string              { return filepath.Join(p.run, "controller.sock") }
func (p paths) apps() string                { return filepath.Join(p.run, "app") }
func (p paths) appDir(server string) string { return filepath.Join(p.apps(), server) }

// What a process is for.
const (
	roleSwitch     = "switch"
	roleController = "controller"
	roleAgent      = "agent"
	roleApp        = "app"
)

// process is a program to be started on a node.
type process struct {
	Name string   `json:"name"`
	Node string   `json:"node"`
	Role string   `json:"role"`
	Args []string `json:"args"`
	Nice int      `json:"nice"`
	// Sysfs: it looks for its node's interfaces in /sys.
	Sysfs bool `json:"sysfs,omitempty"`
}

// How much better than others' programs the lab's are treated. Everything runs on
// one host, and what is measured are milliseconds: on a busy host the figures
// would be those of its scheduler. What carries packets comes before what makes
// them.
const (
	niceSwitch = -15 // and the controller
	niceAgent  = -10
	niceLoad   = -5
)

// plan is all that is to be written and started for a topology, in the order of
// starting. It follows from the topology and the paths alone.
type plan struct {
	dirs      []string
	files     map[string][]byte
	processes []process
}

func newPlan(t *topologies.Topology, topologyDir string, p paths) (*plan, error) {
	sw := t.OfKind(topologies.Switch)[0]
	pl := &plan{
		dirs:  []string{p.logs(), p.configs(), p.controller(), p.apps()},
		files: make(map[string][]byte),
	}
	write := func(name string, config any) error {
		b, err := yaml.Marshal(config)
		pl.files[p.config(name)] = b
		return err
	}

	pl.processes = append(pl.processes, process{
		Name: sw.Name, Node: sw.Name, Role: roleSwitch, Args: switchArgs(t, sw), Nice: niceSwitch,
		Sysfs: sw.Switch.Target == topologies.BMv2,
	})
	for _, n := range t.OfKind(topologies.Server) {
		pl.dirs = append(pl.dirs, p.appDir(n.Name))
		pl.processes = append(pl.processes, process{
			Name: n.Name + "-app", Node: n.Name, Role: roleApp, Args: appArgs(t, n, topologyDir, p), Nice: niceLoad,
		})
	}
	if err := write("controller", controllerConfig(t, p)); err != nil {
		return nil, err
	}
	pl.processes = append(pl.processes, process{
		Name: "controller", Node: sw.Name, Role: roleController,
		Args: []string{"understudy-controller", "--config", p.config("controller")}, Nice: niceSwitch,
	})
	for _, n := range t.OfKind(topologies.Server) {
		name := n.Name + "-agent"
		if err := write(name, agentConfig(t, n, p)); err != nil {
			return nil, err
		}
		pl.processes = append(pl.processes, process{
			Name: name, Node: n.Name, Role: roleAgent,
			Args: []string{"understudy-agent", "--config", p.config(name)}, Nice: niceAgent,
		})
	}
	return pl, nil
}

// switchCommands start the targets. bmv2 logs nothing: what it logs for each packet
// takes longer than the packet.
var switchCommands = map[topologies.Target][]string{
	topologies.Embedded: {
		"understudy-switch", "--device-id", "{device_id}", "--cpu-port", "{cpu_port}",
		"--grpc-server-addr", "{grpc}", "{interfaces}", "--enable-fault-injection",
	},
	topologies.BMv2: {
		"simple_switch_grpc", "--device-id", "{device_id}", "{interfaces}", "--no-p4", "--log-level", "off",
		"--", "--grpc-server-addr", "{grpc}", "--cpu-port", "{cpu_port}",
	},
}

func switchArgs(t *topologies.Topology, sw *topologies.Node) []string {
	command := sw.Switch.Command
	if len(command) == 0 {
		command = switchCommands[sw.Switch.Target]
	}
	replace := strings.NewReplacer(
		"{device_id}", fmt.Sprint(sw.Switch.DeviceID), "{cpu_port}", fmt.Sprint(sw.Switch.CPUPort), "{grpc}", sw.Switch.GRPC)
	var args []string
	for _, word := range command {
		if word != "{interfaces}" {
			args = append(args, replace.Replace(word))
			continue
		}
		for _, l := range t.Links {
			args = append(args, "-i", fmt.Sprintf("%d@%s", l.Port, l.Interface))
		}
	}
	return args
}

func appArgs(t *topologies.Topology, n *topologies.Node, topologyDir string, p paths) []string {
	command := []string{"understudy", "lab", "app", "--listen", "{address}", "--name", "{server}"}
	if app := t.AppOf(n); app != nil {
		command = app.Command
	}
	replace := strings.NewReplacer(
		"{server}", n.Name, "{address}", upstream(t, n.Name), "{dir}", p.appDir(n.Name), "{topology_dir}", topologyDir)
	args := make([]string, len(command))
	for i, word := range command {
		args[i] = replace.Replace(word)
	}
	return args
}

// upstream returns where the local application of a server listens: the
// upstream of the first service that it backs.
func upstream(t *topologies.Topology, server string) string {
	for _, s := range t.Services {
		for _, p := range t.Pairs {
			if p.Name != s.Pair {
				continue
			}
			for _, name := range p.Servers {
				if name == server {
					return s.Upstream
				}
			}
		}
	}
	return t.Services[0].Upstream
}

// The controller's configuration, as far as the lab needs it.
type (
	controllerFile struct {
		Switch    switchEntry    `yaml:"switch,flow"`
		Listen    listenEntry    `yaml:"listen,flow"`
		StateDir  string         `yaml:"state_dir"`
		Heartbeat heartbeatEntry `yaml:"heartbeat,flow"`
		Gateways  []gatewayEntry `yaml:"gateways"`
		Routes    []routeEntry   `yaml:"routes"`
		Pairs     []pairEntry    `yaml:"pairs"`
		Services  []serviceEntry `yaml:"services"`
	}
	switchEntry struct {
		Name     string `yaml:"name"`
		Address  string `yaml:"address"`
		DeviceID uint64 `yaml:"device_id"`
		GNMI     string `yaml:"gnmi,omitempty"`
	}
	listenEntry struct {
		Agents string `yaml:"agents"`
		Admin  string `yaml:"admin"`
		// The network of controller and agents is the lab's own.
		Insecure bool `yaml:"insecure"`
	}
	heartbeatEntry struct {
		Interval time.Duration `yaml:"interval"`
		Missed   int           `yaml:"missed"`
		Port     uint16        `yaml:"port"`
	}
	gatewayEntry struct {
		Address string `yaml:"address"`
		MAC     string `yaml:"mac"`
	}
	routeEntry struct {
		Prefix     string `yaml:"prefix"`
		Port       uint32 `yaml:"port"`
		NextHopMAC string `yaml:"next_hop_mac"`
		SourceMAC  string `yaml:"source_mac"`
	}
	pairEntry struct {
		Name     string        `yaml:"name"`
		Watchdog bool          `yaml:"watchdog,omitempty"`
		Servers  []serverEntry `yaml:"servers"`
	}
	serverEntry struct {
		Name    string `yaml:"name"`
		Port    uint32 `yaml:"port"`
		MAC     string `yaml:"mac"`
		Gateway string `yaml:"gateway"`
	}
	serviceEntry struct {
		Name     string `yaml:"name"`
		Pair     string `yaml:"pair"`
		VIP      string `yaml:"vip"`
		Protocol string `yaml:"protocol"`
		Port     uint16 `yaml:"port"`
		Upstream string `yaml:"upstream"`
	}
	agentFile struct {
		Server            string   `yaml:"server"`
		Controller        string   `yaml:"controller"`
		Interface         string   `yaml:"interface"`
		PinDir            string   `yaml:"pin_dir"`
		ReplicationListen string   `yaml:"replication_listen"`
		Insecure          bool     `yaml:"insecure"`
		Disable           []string `yaml:"disable,omitempty,flow"`
	}
)

// agentsAddress is where the controller listens for agents.
func agentsAddress(t *topologies.Topology) string {
	sw := t.OfKind(topologies.Switch)[0]
	return netip.AddrPortFrom(sw.Management.Address.Addr(), t.Ports.Agents).String()
}

func controllerConfig(t *topologies.Topology, p paths) controllerFile {
	sw := t.OfKind(topologies.Switch)[0]
	f := controllerFile{
		Switch:    switchEntry{Name: "s1", Address: sw.Switch.GRPC, DeviceID: sw.Switch.DeviceID, GNMI: sw.Switch.Ports()},
		Listen:    listenEntry{Agents: agentsAddress(t), Admin: "unix:" + p.socket(), Insecure: true},
		StateDir:  p.controller(),
		Heartbeat: heartbeatEntry(t.Heartbeat),
	}
	for _, l := range t.Links {
		n := t.Node(l.Node)
		f.Gateways = append(f.Gateways, gatewayEntry{Address: l.Gateway.String(), MAC: string(l.GatewayMAC)})
		f.Routes = append(f.Routes, routeEntry{
			Prefix: n.Address.Masked().String(), Port: l.Port, NextHopMAC: string(n.MAC), SourceMAC: string(l.GatewayMAC),
		})
	}
	for _, pair := range t.Pairs {
		e := pairEntry{Name: pair.Name, Watchdog: pair.Watchdog}
		for _, s := range pair.Servers {
			l := t.LinkOf(s)
			e.Servers = append(e.Servers, serverEntry{
				Name: s, Port: l.Port, MAC: string(t.Node(s).MAC), Gateway: l.Gateway.String(),
			})
		}
		f.Pairs = append(f.Pairs, e)
	}
	for _, s := range t.Services {
		f.Services = append(f.Services, serviceEntry{
			Name: s.Name, Pair: s.Pair, VIP: s.VIP.String(), Protocol: s.Protocol, Port: s.Port, Upstream: s.Upstream,
		})
	}
	return f
}

func agentConfig(t *topologies.Topology, n *topologies.Node, p paths) agentFile {
	return agentFile{
		Server:            n.Name,
		Controller:        agentsAddress(t),
		Interface:         dataInterface,
		PinDir:            p.pins(n.Name),
		ReplicationListen: netip.AddrPortFrom(n.Address.Addr(), t.Ports.Replication).String(),
		Insecure:          true,
		Disable:           t.Agent.Disable,
	}
}

// Names of network interfaces.
const (
	dataInterface       = "eth0"
	managementInterface = "mgmt0"
)

// managementPort is the switch's end of a server's management link.
func managementPort(server string) string { return "mgmt-" + server }
