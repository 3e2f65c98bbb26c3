// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// BGP says which routes are announced to whom.
type BGP struct {
	ASN uint32 `yaml:"asn"`
	// RouterID is an IPv4 address, the BGP identifier (RFC 4271, 4.2).
	RouterID netip.Addr `yaml:"router_id"`
	// Listen is where peers may connect to; if it is not valid the controller only
	// connects itself.
	Listen netip.AddrPort
	// RestartTime is how long peers keep the routes of a controller that is away
	// (RFC 4724); 0 is without graceful restart.
	RestartTime time.Duration
	// Allow are the only prefixes within which anything is announced.
	Allow []netip.Prefix
	// NextHops are the addresses that routers send to, at most one per family.
	NextHops NextHops
	// Via are other next hops while a certain server is active: those of the switch
	// or site that it is behind.
	Via        []Via
	Attributes AttributesByState
	Dampening  Dampening
	Peers      []BGPPeer
}

// Via are the next hops while a server is active.
type Via struct {
	Server   string
	NextHops NextHops
}

// AttributesByState are the attributes of routes, by how well the connections of a
// service are held.
type AttributesByState struct {
	Duplex, Joining, Simplex BGPAttributes
}

// NextHop returns the next hop to a VIP while a server is active.
func (b *BGP) NextHop(vip netip.Addr, server string) netip.Addr {
	for _, v := range b.Via {
		if hop := v.NextHops.For(vip); v.Server == server && hop.IsValid() {
			return hop
		}
	}
	return b.NextHops.For(vip)
}

// NextHops has an address for each family; one that is not valid was not given.
type NextHops struct {
	IPv4 netip.Addr `yaml:"ipv4"`
	IPv6 netip.Addr `yaml:"ipv6"`
}

// For returns the next hop for routes to an address.
func (n NextHops) For(a netip.Addr) netip.Addr {
	if a.Is4() {
		return n.IPv4
	}
	return n.IPv6
}

// BGPAttributes are path attributes of a route.
type BGPAttributes struct {
	// MED and LocalPreference are left out of the route if nil. Only iBGP peers see
	// the latter (RFC 4271, 5.1.5).
	MED              *uint32 `yaml:"med"`
	LocalPreference  *uint32
	Communities      []Community
	LargeCommunities []LargeCommunity
}

// Community is one of RFC 1997: the higher 16 bits are before the colon.
type Community uint32

func (c Community) String() string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }

// LargeCommunity is one of RFC 8092.
type LargeCommunity [3]uint32

func (c LargeCommunity) String() string { return fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]) }

// Dampening keeps a service that comes and goes from being announced each time.
// Its figures are those of RFC 2439, section 4.2.
type Dampening struct {
	Disabled bool
	// HalfLife is that of the penalty.
	HalfLife time.Duration
	// MaxSuppress is the longest time that a route is held back.
	MaxSuppress time.Duration
}

// BGPPeer is a router.
type BGPPeer struct {
	Name    string
	Address netip.Addr
	ASN     uint32 `yaml:"asn"`
	Port    uint16
	// LocalAddress is bound to before connecting, if it is valid.
	LocalAddress netip.Addr
	// Password is for TCP MD5 signatures (RFC 2385); PasswordFile holds it instead.
	Password     string `diff:"secret"`
	PasswordFile string
	// TTLSecurity is how many hops away the peer is at most (RFC 5082); 0 is off.
	TTLSecurity uint8 `yaml:"ttl_security"`
	// Multihop is the TTL to an eBGP peer that is not a neighbour; 0 is 1.
	Multihop uint8
	IPv4     bool `yaml:"ipv4"`
	IPv6     bool `yaml:"ipv6"`
	HoldTime time.Duration
	// Passive waits for the peer to connect.
	Passive bool
}

// Defaults of BGP.
const (
	DefaultBGPPort     = 179
	DefaultHoldTime    = 9 * time.Second
	DefaultRestartTime = 120 * time.Second
	DefaultHalfLife    = 15 * time.Second
	DefaultMaxSuppress = 60 * time.Second

	// maxPassword is the kernel's TCP_MD5SIG_MAXKEYLEN.
	maxPassword = 80
)

func (r *reader) bgp(m mapping, c *Config) {
	n := m.keys["bgp"]
	if n == nil {
		return
	}
	x := r.mapping(n, "bgp", "asn", "router_id", "listen", "graceful_restart", "allow", "next_hops", "via", "attributes", "dampening", "peers")
	if x.spoilt[""] {
		return
	}
	b := &BGP{ASN: uint32(x.number("asn", true, 1, 1<<32-2, 0))}
	if id, ok := x.addr("router_id", "10.0.0.1"); ok {
		if !id.Is4() {
			x.bad("router_id", id.String(), "an IPv4 address", "10.0.0.1")
		}
		b.RouterID = id
	}
	x.describe("listen", field{Type: "string"})
	if text, ok := x.scalar("listen", false, "\"192.0.2.1:179\""); ok {
		at, err := netip.ParseAddrPort(text)
		if err != nil || at.Port() == 0 || at.Addr().Zone() != "" {
			x.bad("listen", text, "an IP address and a port", "\"192.0.2.1:179\"")
		}
		b.Listen = at
	}
	g := r.mapping(x.keys["graceful_restart"], "bgp.graceful_restart", "enabled", "restart_time")
	b.RestartTime = g.seconds("restart_time", time.Second, 4095*time.Second, DefaultRestartTime)
	if !g.boolean("enabled", true) {
		b.RestartTime = 0
	}
	x.describe("allow", field{Required: true})
	if x.keys["allow"] == nil && !x.spoilt["allow"] {
		r.fault(x.line, "bgp.allow is missing", "add \"allow: [198.51.100.0/24]\" with the prefixes within which services may be announced")
	}
	for _, e := range x.elements("allow") {
		if p, ok := e.prefix("", "198.51.100.0/24"); ok {
			b.Allow = append(b.Allow, p)
		}
	}
	b.NextHops = r.nextHops(x)
	r.via(x, b, c)
	r.attributes(x, b)
	d := r.mapping(x.keys["dampening"], "bgp.dampening", "enabled", "half_life", "max_suppress")
	b.Dampening = Dampening{
		Disabled:    !d.boolean("enabled", true),
		HalfLife:    d.duration("half_life", time.Second, 45*time.Minute, DefaultHalfLife),
		MaxSuppress: d.duration("max_suppress", time.Second, 3*time.Hour, DefaultMaxSuppress),
	}
	if b.Dampening.MaxSuppress < 2*b.Dampening.HalfLife {
		// The penalty could not grow to where a route is held back.
		r.fault(d.at("max_suppress"), "bgp.dampening: max_suppress is shorter than twice half_life", "make it longer")
	}
	r.bgpPeers(x, b)
	r.bgpNextHopsGiven(x, b, c)
	c.BGP = b
}

// elements makes each element of a list of scalars readable as the key "" of a
// mapping.
func (m mapping) elements(key string) []mapping {
	m.describe(key+"[]", field{Type: "string"})
	var list []mapping
	for i, n := range m.list(key) {
		list = append(list, mapping{
			r: m.r, name: fmt.Sprintf("%s[%d]", m.path(key), i), line: n.Line, keys: map[string]*yaml.Node{"": n},
		})
	}
	return list
}

// seconds reads a duration of whole seconds.
func (m mapping) seconds(key string, low, high, def time.Duration) time.Duration {
	d := m.duration(key, low, high, def)
	if d%time.Second != 0 {
		m.bad(key, d.String(), "a number of whole seconds", def.String())
		return def
	}
	return d
}

func (r *reader) nextHops(x mapping) NextHops {
	const key = "next_hops"
	var hops NextHops
	for _, e := range x.elements(key) {
		a, ok := e.addr("", "192.0.2.1")
		if !ok {
			continue
		}
		where := &hops.IPv4
		if a.Is6() {
			where = &hops.IPv6
		}
		if where.IsValid() {
			r.fault(e.line, fmt.Sprintf("%s: %v is the second address of its family", x.path(key), a), "keep one of them")
			continue
		}
		*where = a
	}
	return hops
}

func (r *reader) via(x mapping, b *BGP, c *Config) {
	seen := map[string]bool{}
	for i, n := range x.list("via") {
		v := r.mapping(n, fmt.Sprintf("bgp.via[%d]", i), "server", "next_hops")
		server := v.text("server", "server1")
		v.describe("next_hops", field{Required: true})
		if v.keys["next_hops"] == nil && !v.spoilt["next_hops"] && !v.spoilt[""] {
			r.fault(v.line, v.path("next_hops")+" is missing", "add \"next_hops: [192.0.2.1]\"")
		}
		hops := r.nextHops(v)
		switch {
		case server == "":
			continue
		case seen[server]:
			r.fault(v.at("server"), fmt.Sprintf("bgp.via: server %q stands twice", server), "keep one of them")
			continue
		case !slices.ContainsFunc(c.Pairs, func(p Pair) bool {
			return slices.ContainsFunc(p.Servers, func(s Server) bool { return s.Name == server })
		}):
			r.fault(v.at("server"), fmt.Sprintf("bgp.via: %q is no server of a pair", server), "correct the name")
		}
		seen[server] = true
		b.Via = append(b.Via, Via{Server: server, NextHops: hops})
	}
}

func (r *reader) attributes(x mapping, b *BGP) {
	m := r.mapping(x.keys["attributes"], "bgp.attributes", "all", "duplex", "joining", "simplex")
	all := r.attributesOf(m, "all", BGPAttributes{})
	b.Attributes.Duplex = r.attributesOf(m, "duplex", all)
	b.Attributes.Simplex = r.attributesOf(m, "simplex", all)
	// Where nothing else is said a pair that joins is one that is not protected yet.
	b.Attributes.Joining = r.attributesOf(m, "joining", b.Attributes.Simplex)
}

// attributesOf reads attributes; what is not said is as in def.
func (r *reader) attributesOf(m mapping, key string, def BGPAttributes) BGPAttributes {
	a := def
	x := r.mapping(m.keys[key], m.path(key), "med", "local_preference", "communities", "large_communities")
	number := func(key string, set **uint32) {
		low, high := uint64(0), uint64(1<<32-1)
		x.describe(key, field{Type: "integer", Minimum: &low, Maximum: &high})
		text, ok := x.scalar(key, false, "100")
		if !ok {
			return
		}
		v, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			x.bad(key, text, fmt.Sprintf("a number from 0 to %d", high), "100")
			return
		}
		n := uint32(v)
		*set = &n
	}
	number("med", &a.MED)
	number("local_preference", &a.LocalPreference)
	if x.keys["communities"] != nil {
		a.Communities = nil
	}
	for _, e := range x.elements("communities") {
		if parts, ok := e.numbers("a community", "\"64512:100\"", 2, 16); ok {
			a.Communities = append(a.Communities, Community(parts[0]<<16|parts[1]))
		}
	}
	if x.keys["large_communities"] != nil {
		a.LargeCommunities = nil
	}
	for _, e := range x.elements("large_communities") {
		if parts, ok := e.numbers("a large community", "\"64512:1:100\"", 3, 32); ok {
			a.LargeCommunities = append(a.LargeCommunities, LargeCommunity(parts))
		}
	}
	return a
}

// numbers reads an element of n decimal numbers of so many bits with colons between.
func (m mapping) numbers(want, example string, n, bits int) ([]uint32, bool) {
	text, ok := m.scalar("", true, example)
	if !ok {
		return nil, false
	}
	list := make([]uint32, 0, n)
	for p := range strings.SplitSeq(text, ":") {
		v, err := strconv.ParseUint(p, 10, bits)
		ok = ok && err == nil
		list = append(list, uint32(v))
	}
	if !ok || len(list) != n {
		m.bad("", text, want, example)
		return nil, false
	}
	return list, true
}

func (r *reader) bgpPeers(x mapping, b *BGP) {
	x.describe("peers", field{Required: true})
	if n := x.keys["peers"]; !x.spoilt["peers"] && (n == nil || n.Kind == yaml.SequenceNode && len(n.Content) == 0) {
		r.fault(x.at("peers"), "bgp has no peer", "add \"peers: [{name: r1, address: 192.0.2.254, asn: 64513}]\"")
	}
	names := map[string]bool{}
	addresses := map[netip.Addr]string{}
	for i, n := range x.list("peers") {
		y := r.mapping(n, fmt.Sprintf("bgp.peers[%d]", i), "name", "address", "asn", "port", "local_address",
			"password", "password_file", "ttl_security", "multihop", "families", "hold_time", "passive")
		p := BGPPeer{
			Name:        y.text("name", "r1"),
			ASN:         uint32(y.number("asn", true, 1, 1<<32-2, 0)),
			Port:        uint16(y.number("port", false, 1, 65535, DefaultBGPPort)),
			TTLSecurity: uint8(y.number("ttl_security", false, 0, 254, 0)),
			Multihop:    uint8(y.number("multihop", false, 0, 255, 0)),
			HoldTime:    y.seconds("hold_time", 3*time.Second, 65535*time.Second, DefaultHoldTime),
			Passive:     y.boolean("passive", false),
		}
		if p.Name != "" && names[p.Name] {
			r.fault(y.at("name"), fmt.Sprintf("BGP peer %q stands twice", p.Name), "rename one of them")
		}
		names[p.Name] = true
		if a, ok := y.peerAddr("address"); ok {
			p.Address = a
			if other, twice := addresses[a]; twice {
				r.fault(y.at("address"), fmt.Sprintf("BGP peer %q has the address of %q", p.Name, other), "correct one of them")
			}
			addresses[a] = p.Name
		}
		if a, ok := y.peerAddr("local_address"); ok {
			if p.Address.IsValid() && a.Is4() != p.Address.Is4() {
				r.fault(y.at("local_address"), fmt.Sprintf("%s: %v and %v are of different families", y.path("local_address"), a, p.Address), "use addresses of one family")
			}
			p.LocalAddress = a
		}
		if p.TTLSecurity != 0 && p.Multihop != 0 {
			r.fault(y.at("multihop"), fmt.Sprintf("BGP peer %q has both ttl_security and multihop", p.Name), "keep one of them: ttl_security is a number of hops too")
		}
		if p.Multihop != 0 && p.ASN == b.ASN {
			r.fault(y.at("multihop"), fmt.Sprintf("BGP peer %q is of the own AS, whose peers may be any number of hops away", p.Name), "remove multihop")
		}
		if p.Passive && !b.Listen.IsValid() {
			r.fault(y.at("passive"), fmt.Sprintf("BGP peer %q is passive, and nobody listens", p.Name), "add bgp.listen, or remove passive")
		}
		r.password(y, &p)
		r.families(y, &p)
		b.Peers = append(b.Peers, p)
	}
}

// peerAddr is an address that may be a loopback one too; only "address" is required.
func (m mapping) peerAddr(key string) (netip.Addr, bool) {
	const example = "192.0.2.254"
	m.describe(key, field{Type: "string", Pattern: "^[0-9A-Fa-f.:]+$"})
	text, ok := m.scalar(key, key == "address", example)
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
		m.bad(key, text, "the IP address of one host", example)
		return netip.Addr{}, false
	}
	return a, true
}

func (r *reader) password(y mapping, p *BGPPeer) {
	y.describe("password", field{Type: "string"})
	if text, ok := y.scalar("password", false, "\"...\""); ok {
		if len(text) > maxPassword {
			// The text itself is a secret.
			r.fault(y.at("password"), fmt.Sprintf("%s has %d bytes, TCP MD5 has room for %d", y.path("password"), len(text), maxPassword), "use a shorter one")
		}
		p.Password = text
	}
	p.PasswordFile = y.filePath("password_file", false, "/etc/understudy/r1.password")
	if p.Password != "" && p.PasswordFile != "" {
		r.fault(y.at("password_file"), fmt.Sprintf("BGP peer %q has both password and password_file", p.Name), "keep one of them")
	}
}

func (r *reader) families(y mapping, p *BGPPeer) {
	list := y.elements("families")
	if y.keys["families"] == nil {
		p.IPv4, p.IPv6 = p.Address.Is4(), p.Address.Is6()
		return
	}
	for _, e := range list {
		switch text := e.choice("", true, "", "ipv4", "ipv6"); text {
		case "ipv4":
			p.IPv4 = true
		case "ipv6":
			p.IPv6 = true
		}
	}
	if len(list) == 0 {
		r.fault(y.at("families"), fmt.Sprintf("BGP peer %q has no family", p.Name), "write families: [ipv4, ipv6], or leave it out")
	}
}

// bgpNextHopsGiven has every service that may be announced also have a next hop:
// the controller itself is not on the way to it.
func (r *reader) bgpNextHopsGiven(x mapping, b *BGP, c *Config) {
	for _, s := range c.Services {
		if !b.Allowed(s.VIP) {
			continue
		}
		for _, p := range c.Pairs {
			if p.Name != s.Pair {
				continue
			}
			for _, server := range p.Servers {
				if !b.NextHop(s.VIP, server.Name).IsValid() {
					family := "IPv4"
					if s.VIP.Is6() {
						family = "IPv6"
					}
					r.fault(x.at("next_hops"), fmt.Sprintf("bgp: service %q has no %s next hop while server %q is active", s.Name, family, server.Name),
						"add one to bgp.next_hops, the switch's address towards the routers")
					return
				}
			}
		}
	}
}

// Allowed says whether an address may be announced.
func (b *BGP) Allowed(a netip.Addr) bool {
	return slices.ContainsFunc(b.Allow, func(p netip.Prefix) bool { return p.Contains(a) })
}
