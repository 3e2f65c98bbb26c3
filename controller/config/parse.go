// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Parse checks a configuration; file is its name, for faults, which are returned
// all together as Faults.
func Parse(file string, text []byte) (*Config, error) {
	return ParseWith(file, text, nil)
}

func (r *reader) parse(text []byte) (*Config, error) {
	if len(text) > maxFile {
		r.fault(1, fmt.Sprintf("it has %d bytes, more than %d", len(text), maxFile), "name another file")
		return nil, r.faults
	}
	c := r.config(text)
	if len(r.faults) > 0 {
		slices.SortStableFunc(r.faults, func(a, b Fault) int { return a.order() - b.order() })
		return nil, r.faults
	}
	return c, nil
}

// maxFile bounds a configuration, in bytes: 16384 services need a quarter of it.
const maxFile = 16 << 20

// A section is one key of the configuration.
type section struct {
	key string
	// example is what a fault tells to add; a section that has one is required.
	example string
	read    func(*reader, mapping, *Config)
}

// sections are read in this order: one may count on those before it.
var sections = []section{
	{"switch", `switch: {name: s1, address: "127.0.0.1:9559", device_id: 1}`, (*reader).theSwitch},
	{"twins", "", (*reader).twins},
	{"listen", `listen: {agents: "172.31.255.1:9400", admin: "unix:/run/understudy/controller.sock"}`, (*reader).listen},
	{"tls", "", (*reader).tls},
	{"state_dir", "", (*reader).stateDir},
	{"audit_log", "", (*reader).auditLog},
	{"heartbeat", "", (*reader).heartbeat},
	{"gateways", `gateways: [{address: 10.0.1.1, mac: "02:00:00:00:01:01"}]`, (*reader).gateways},
	{"vip_mac", "", (*reader).vipMAC},
	{"routes", "", (*reader).routes},
	{"pairs", `pairs: [{name: web, servers: [...]}]`, (*reader).pairs},
	{"services", `services: [{name: web, pair: web, vip: 198.51.100.10, protocol: tcp, port: 80, upstream: "127.0.0.1:8080"}]`, (*reader).services},
	{"bgp", "", (*reader).bgp},
}

func (r *reader) config(text []byte) *Config {
	root := r.document(text)
	if root == nil {
		return nil
	}
	known := make([]string, len(sections))
	for i, s := range sections {
		known[i] = s.key
	}
	m := r.mapping(root, "", known...)
	if m.spoilt[""] {
		return nil // not even a mapping
	}
	c := &Config{}
	for _, s := range sections {
		if s.example != "" {
			m.describe(s.key, field{Required: true})
			if m.keys[s.key] == nil && !m.spoilt[s.key] {
				r.fault(m.line, s.key+" is missing", "add \""+s.example+"\"")
			}
		}
		s.read(r, m, c)
	}
	return c
}

func (r *reader) theSwitch(m mapping, c *Config) {
	n := m.keys["switch"]
	if n == nil {
		return
	}
	s := r.mapping(n, "switch", "name", "address", "device_id", "standby", "gnmi")
	c.Switch = Switch{
		Name:     s.text("name", "s1"),
		Address:  s.hostPort("address", "\"127.0.0.1:9559\"", false, false),
		DeviceID: s.number("device_id", true, 0, 1<<64-1, 0),
		Standby:  s.boolean("standby", false),
	}
	c.Switch.GNMI = gnmiOf(s, c.Switch.Address)
}

// gnmiOf reads where a switch tells of its ports.
func gnmiOf(s mapping, address string) string {
	s.describe("gnmi", field{Type: "string", Pattern: "^(none|[^ \t/]*:[0-9]+)$"})
	text, ok := s.scalar("gnmi", false, "\"127.0.0.1:9339\"")
	switch {
	case !ok:
		return address
	case text == "none":
		return ""
	case !validHostPort(text, false, false):
		s.bad("gnmi", text, "host:port or none", "\"127.0.0.1:9339\"")
	}
	return text
}

func (r *reader) twins(m mapping, c *Config) {
	names, addresses := map[string]bool{c.Switch.Name: true}, map[string]bool{c.Switch.Address: true}
	list := m.list("twins")
	for i, n := range list {
		x := r.mapping(n, fmt.Sprintf("twins[%d]", i), "name", "address", "device_id", "gnmi")
		s := Switch{
			Name:     x.text("name", "s2"),
			Address:  x.hostPort("address", "\"127.0.0.1:9560\"", false, false),
			DeviceID: x.number("device_id", true, 0, 1<<64-1, 0),
		}
		s.GNMI = gnmiOf(x, s.Address)
		if s.Name != "" && names[s.Name] {
			r.fault(x.at("name"), fmt.Sprintf("switch %q stands twice", s.Name), "rename one of them")
		}
		if s.Address != "" && addresses[s.Address] {
			r.fault(x.at("address"), fmt.Sprintf("two switches have the address %s", s.Address), "correct one of them")
		}
		names[s.Name], addresses[s.Address] = true, true
		c.Twins = append(c.Twins, s)
	}
	if len(list) > MaxTwins {
		r.fault(m.at("twins"), fmt.Sprintf("%d twins", len(list)), fmt.Sprintf("have at most %d", MaxTwins))
	}
	if len(list) > 0 && c.Switch.Standby {
		r.fault(m.at("twins"), "a controller that stands by has one switch", "remove the twins, or switch.standby")
	}
}

func (r *reader) listen(m mapping, c *Config) {
	n := m.keys["listen"]
	if n == nil {
		return
	}
	l := r.mapping(n, "listen", "agents", "admin", "metrics", "insecure")
	c.Listen.Agents = l.hostPort("agents", "\"172.31.255.1:9400\"", true, true)
	c.Listen.Admin = l.listenAddress("admin")
	c.Listen.Metrics = l.hostPortIf("metrics", false, "\"127.0.0.1:9404\"", true, true)
	c.Listen.Insecure = l.boolean("insecure", false)
	refused := l.keys["insecure"] == nil || l.keys["insecure"].Value == "false"
	if m.keys["tls"] == nil && !m.spoilt["tls"] && !l.spoilt[""] && refused {
		r.fault(n.Line, "whoever reaches listen.agents could pass for a server: there is no tls",
			"add \"tls: {cert: ..., key: ..., ca: ...}\" (see understudy certs), or \"insecure: true\" to listen, if nobody else can reach it")
	}
}

func (r *reader) tls(m mapping, c *Config) {
	n := m.keys["tls"]
	t := r.mapping(n, "tls", "cert", "key", "ca")
	if n == nil {
		return
	}
	c.TLS = &TLS{
		Cert: t.filePath("cert", true, "/etc/understudy/tls/controller.crt"),
		Key:  t.filePath("key", true, "/etc/understudy/tls/controller.key"),
		CA:   t.filePath("ca", true, "/etc/understudy/tls/ca.crt"),
	}
	if c.Listen.Insecure {
		r.fault(n.Line, "tls stands beside listen.insecure, which does without", "remove one of them")
	}
}

func (r *reader) auditLog(m mapping, c *Config) {
	def := filepath.Join(c.StateDir, "audit.jsonl")
	m.describe("audit_log", field{Default: filepath.Join(DefaultStateDir, "audit.jsonl")})
	if c.AuditLog = m.filePath("audit_log", false, def); c.AuditLog == "" {
		c.AuditLog = def
	}
}

func (r *reader) stateDir(m mapping, c *Config) {
	c.StateDir = DefaultStateDir
	m.describe("state_dir", field{Default: DefaultStateDir})
	if dir := m.filePath("state_dir", false, DefaultStateDir); dir != "" {
		c.StateDir = dir
	}
}

func (r *reader) heartbeat(m mapping, c *Config) {
	h := r.mapping(m.keys["heartbeat"], "heartbeat", "interval", "missed", "port")
	c.Heartbeat = Heartbeat{
		Interval: h.duration("interval", time.Millisecond, 10*time.Second, DefaultHeartbeatInterval),
		Missed:   int(h.number("missed", false, 2, 100, DefaultHeartbeatMissed)),
		Port:     uint16(h.number("port", false, 1, 65535, DefaultHeartbeatPort)),
	}
}

func (r *reader) vipMAC(m mapping, c *Config) {
	if mac, ok := m.mac("vip_mac", false); ok {
		c.VIPMAC = mac
	} else if len(c.Gateways) > 0 {
		c.VIPMAC = c.Gateways[0].MAC
	}
}

// listenAddress reads host:port or unix:PATH.
func (m mapping) listenAddress(key string) string {
	const example = "\"unix:/run/understudy/controller.sock\""
	m.describe(key, field{Type: "string", Pattern: "^(unix:/.*|[^ \t/]*:[0-9]+)$"})
	text, ok := m.scalar(key, true, example)
	if !ok {
		return ""
	}
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		// The kernel's sockaddr_un has room for 107 bytes.
		if !filepath.IsAbs(path) || len(path) > 107 {
			m.bad(key, text, "unix: and an absolute path of at most 107 bytes", example)
			return ""
		}
	} else if !validHostPort(text, true, true) {
		m.bad(key, text, "host:port or unix:PATH", example)
		return ""
	}
	return text
}

func (r *reader) gateways(m mapping, c *Config) {
	seen := map[netip.Addr]bool{}
	for i, n := range m.list("gateways") {
		g := r.mapping(n, fmt.Sprintf("gateways[%d]", i), "address", "mac")
		addr, ok := g.addr("address", "10.0.1.1")
		mac, _ := g.mac("mac", true)
		if ok && seen[addr] {
			r.fault(g.at("address"), fmt.Sprintf("gateway %v stands twice", addr), "keep one of them")
			continue
		}
		seen[addr] = true
		c.Gateways = append(c.Gateways, Gateway{Address: addr, MAC: mac})
	}
	if n := m.keys["gateways"]; n != nil && n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		r.fault(n.Line, "no gateway", "add one for each of the servers' networks")
	}
}

func (r *reader) routes(m mapping, c *Config) {
	seen := map[netip.Prefix]bool{}
	for i, n := range m.list("routes") {
		x := r.mapping(n, fmt.Sprintf("routes[%d]", i), "prefix", "port", "next_hop_mac", "source_mac")
		p, ok := x.prefix("prefix", "192.0.2.0/24")
		route := Route{Prefix: p, Port: uint16(x.number("port", true, 0, MaxPort, 0))}
		route.NextHopMAC, _ = x.mac("next_hop_mac", true)
		route.SourceMAC, _ = x.mac("source_mac", true)
		if ok && seen[p] {
			r.fault(x.at("prefix"), fmt.Sprintf("route %v stands twice", p), "keep one of them")
			continue
		}
		seen[p] = true
		c.Routes = append(c.Routes, route)
	}
}

func (r *reader) pairs(m mapping, c *Config) {
	names := map[string]bool{}
	servers := map[string]bool{}
	type place struct {
		port uint16
		mac  MAC
	}
	places := map[place]string{}
	list := m.list("pairs")
	if len(list) > MaxPairs {
		r.fault(m.at("pairs"), fmt.Sprintf("%d pairs, the switch has room for %d", len(list), MaxPairs), "use another switch for the rest")
		return
	}
	for i, n := range list {
		x := r.mapping(n, fmt.Sprintf("pairs[%d]", i), "name", "watchdog", "servers")
		p := Pair{ID: uint16(i + 1), Name: x.text("name", "web"), Watchdog: x.boolean("watchdog", false)}
		if p.Watchdog && len(c.Twins) > 0 {
			r.fault(x.at("watchdog"), "switches with twins would each release a server without knowing of the others", "remove the watchdog, or the twins")
		}
		if p.Name != "" && names[p.Name] {
			r.fault(x.at("name"), fmt.Sprintf("pair %q stands twice", p.Name), "rename one of them")
		}
		names[p.Name] = true
		list := x.list("servers")
		if k := len(list); !x.spoilt[""] && (k < 2 || k > ServersPerPair) {
			r.fault(x.at("servers"), fmt.Sprintf("pair %q has %d servers", p.Name, k),
				fmt.Sprintf("give it 2 to %d", ServersPerPair))
		}
		for j, n := range list {
			y := r.mapping(n, fmt.Sprintf("pairs[%d].servers[%d]", i, j), "name", "port", "mac", "gateway")
			s := Server{
				Replica: uint8(j + 1),
				RID:     uint16(i*ridsPerPair + j + 1),
				Name:    y.text("name", "server1"),
				Port:    uint16(y.number("port", true, 0, MaxPort, 0)),
			}
			mac, ok := y.mac("mac", true)
			s.MAC = mac
			if s.Name != "" && servers[s.Name] {
				r.fault(y.at("name"), fmt.Sprintf("server %q stands twice", s.Name), "a server belongs to one pair; rename one of them")
			}
			servers[s.Name] = true
			if other, twice := places[place{s.Port, mac}]; ok && twice {
				r.fault(y.at("mac"), fmt.Sprintf("server %q has the port and MAC of %q", s.Name, other), "correct one of them")
			} else if ok {
				places[place{s.Port, mac}] = s.Name
			}
			s.Gateway = r.gatewayOf(y, c)
			p.Servers = append(p.Servers, s)
		}
		c.Pairs = append(c.Pairs, p)
	}
}

func (r *reader) gatewayOf(y mapping, c *Config) Gateway {
	addr, ok := y.addr("gateway", "10.0.1.1")
	if !ok {
		return Gateway{}
	}
	i := slices.IndexFunc(c.Gateways, func(g Gateway) bool { return g.Address == addr })
	switch {
	case i < 0:
		r.fault(y.at("gateway"), fmt.Sprintf("%s: %v is not among the gateways", y.path("gateway"), addr), "add it to gateways")
		return Gateway{}
	case !addr.Is4():
		r.fault(y.at("gateway"), fmt.Sprintf("%s: %v is not an IPv4 address, heartbeats are", y.path("gateway"), addr), "name an IPv4 gateway")
		return Gateway{}
	}
	return c.Gateways[i]
}

func (r *reader) services(m mapping, c *Config) {
	names := map[string]bool{}
	type key struct {
		vip      netip.Addr
		protocol Protocol
		port     uint16
	}
	keys := map[key]string{}
	owners := map[netip.Addr]string{}
	for i, n := range m.list("services") {
		x := r.mapping(n, fmt.Sprintf("services[%d]", i), "name", "pair", "vip", "protocol", "port", "upstream")
		s := Service{Name: x.text("name", "web"), Pair: x.text("pair", "web")}
		if s.Name != "" && names[s.Name] {
			r.fault(x.at("name"), fmt.Sprintf("service %q stands twice", s.Name), "rename one of them")
		}
		names[s.Name] = true
		if s.Pair != "" && !slices.ContainsFunc(c.Pairs, func(p Pair) bool { return p.Name == s.Pair }) {
			r.fault(x.at("pair"), fmt.Sprintf("service %q is backed by %q, which is no pair", s.Name, s.Pair), "add the pair, or correct the name")
		}
		vip, ok := x.addr("vip", "198.51.100.10")
		s.VIP = vip
		switch x.choice("protocol", true, "", "tcp", "udp") {
		case "tcp":
			s.Protocol = TCP
		case "udp":
			s.Protocol = UDP
		}
		s.Port = uint16(x.number("port", true, 1, 65535, 0))
		s.Upstream = x.hostPort("upstream", "\"127.0.0.1:8080\"", false, false)
		c.Services = append(c.Services, s)
		if !ok {
			continue
		}
		if slices.ContainsFunc(c.Gateways, func(g Gateway) bool { return g.Address == vip }) {
			r.fault(x.at("vip"), fmt.Sprintf("service %q: %v is a gateway", s.Name, vip), "take an address that nobody has")
		}
		if owner, taken := owners[vip]; taken && owner != s.Pair {
			r.fault(x.at("vip"), fmt.Sprintf("service %q: %v is backed by pair %q already", s.Name, vip, owner),
				"all services of an address share one pair; take another address")
		} else {
			owners[vip] = s.Pair
		}
		k := key{vip, s.Protocol, s.Port}
		if other, twice := keys[k]; twice && s.Port != 0 && s.Protocol != 0 {
			r.fault(x.at("port"), fmt.Sprintf("service %q is %v port %d/%s, as is %q", s.Name, vip, s.Port, s.Protocol, other),
				"change one of them")
		}
		keys[k] = s.Name
	}
}
