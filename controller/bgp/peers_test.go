// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/understudy-net/understudy/controller/config"
)

// The addresses of the tests with real peers.
const (
	ourAddr, ourAddr6     = "10.99.0.1", "2001:db8:99::1"
	otherAddr, otherAddr6 = "10.99.0.9", "2001:db8:99::9" // another next hop
	routerAddr            = "10.99.0.2"
	vip, vip6             = "198.51.100.10", "2001:db8::10"
	password              = "correct-horse"
)

var (
	vipPrefix  = netip.PrefixFrom(netip.MustParseAddr(vip), 32)
	vipPrefix6 = netip.PrefixFrom(netip.MustParseAddr(vip6), 128)
)

func number(n uint32) *uint32 { return &n }

// testConfig has one peer, with MD5 signatures and TTL security.
func testConfig(asn uint32) *config.BGP {
	return &config.BGP{
		ASN: 64512, RouterID: netip.MustParseAddr(ourAddr),
		Listen:      netip.MustParseAddrPort(ourAddr + ":179"),
		RestartTime: 60 * time.Second,
		Allow:       []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/48")},
		Peers: []config.BGPPeer{{
			Name: "r1", Address: netip.MustParseAddr(routerAddr), ASN: asn, Port: 179,
			Password: password, TTLSecurity: 1, IPv4: true, IPv6: true, HoldTime: 9 * time.Second,
		}},
	}
}

func testRoutes(nextHop, nextHop6 string, med uint32) []Route {
	a := config.BGPAttributes{
		MED: number(med), LocalPreference: number(200),
		Communities: []config.Community{64512<<16 | 100}, LargeCommunities: []config.LargeCommunity{{64512, 1, 2}},
	}
	return []Route{
		{vipPrefix, netip.MustParseAddr(nextHop), a},
		{vipPrefix6, netip.MustParseAddr(nextHop6), a},
	}
}

// router is a namespace with a routing daemon in it.
type router struct {
	t   *testing.T
	dir string
}

// newRouter makes the namespace "router" with eth0, linked to this one's.
func newRouter(t *testing.T) *router {
	t.Helper()
	r := &router{t: t, dir: t.TempDir()}
	for _, args := range []string{
		"ip netns add router",
		"ip link add us0 type veth peer name eth0 netns router",
		"ip address add " + ourAddr + "/24 dev us0",
		"ip address add " + ourAddr6 + "/64 dev us0 nodad",
		"ip link set us0 up",
		"ip -n router link set lo up",
		"ip -n router address add " + routerAddr + "/24 dev eth0",
		"ip -n router address add 2001:db8:99::2/64 dev eth0 nodad",
		"ip -n router link set eth0 up",
	} {
		run(t, strings.Fields(args)...)
	}
	return r
}

func (r *router) write(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// start runs a program in the router until the test ends.
func (r *router) start(args ...string) *buffer {
	r.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", "router"}, args...)...)
	log := new(buffer)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if r.t.Failed() {
			r.t.Logf("%s:\n%s", strings.Join(args, " "), log)
		}
	})
	return log
}

// kernel is what the router's kernel would do with packets to an address: the
// address that it sends them to.
func (r *router) kernel(addr string) string {
	out, _ := exec.Command("ip", "-n", "router", "route", "get", addr).CombinedOutput()
	if m := regexp.MustCompile(`via (\S+)`).FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}

func (r *router) wantKernel(via, via6 string) {
	r.t.Helper()
	eventually(r.t, "the router's kernel", func() string {
		if got, got6 := r.kernel(vip), r.kernel(vip6); got != via || got6 != via6 {
			return fmt.Sprintf("it sends %s by %q and %s by %q, want %q and %q", vip, got, vip6, got6, via, via6)
		}
		return ""
	})
}

// watch follows the router's routes, and returns what was removed so far.
func (r *router) watch() func() []string {
	r.t.Helper()
	log := r.start("ip", "-o", "monitor", "route")
	// It has begun once it sees something.
	eventually(r.t, "ip monitor", func() string {
		run(r.t, "ip", "-n", "router", "route", "replace", "203.0.113.1/32", "via", ourAddr)
		run(r.t, "ip", "-n", "router", "route", "delete", "203.0.113.1/32")
		if !strings.Contains(log.String(), "203.0.113.1") {
			return "sees nothing"
		}
		return ""
	})
	return func() []string {
		var gone []string
		lines := strings.Split(log.String(), "\n")
		for i, l := range lines {
			route, deleted := strings.CutPrefix(l, "Deleted ")
			switch {
			case !deleted:
			case strings.HasPrefix(route, vip+" "):
				gone = append(gone, l)
			case strings.HasPrefix(route, vip6+" "):
				// zebra replaces an IPv6 route by deleting and adding it.
				if !strings.HasPrefix(lines[i+1], vip6+" ") {
					gone = append(gone, l)
				}
			}
		}
		return gone
	}
}

// story is what every router that installs routes must see.
// Attributes are those of the IPv4 route as the daemon shows them, preserved says
// whether it was told that both families were forwarded on.
func (r *router) story(asn uint32, attributes func() string, preserved func() bool) {
	t := r.t
	cfg := testConfig(asn)
	s := startSpeaker(t, cfg)
	s.send(testRoutes(ourAddr, ourAddr6, 100))
	r.wantKernel(ourAddr, ourAddr6)
	want := "med 100 community 64512:100 large 64512:1:2"
	if asn == cfg.ASN {
		want = "med 100 local-preference 200 community 64512:100 large 64512:1:2"
	}
	eventually(t, "attributes", func() string {
		if got := attributes(); got != want {
			return fmt.Sprintf("the route has %q, want %q", got, want)
		}
		return ""
	})

	removed := r.watch()
	t.Log("the active server is another one: the route moves, and is there all the time")
	s.send(testRoutes(otherAddr, otherAddr6, 100))
	r.wantKernel(otherAddr, otherAddr6)

	t.Log("the controller is killed, and is away for a while")
	s.kill()
	time.Sleep(2 * time.Second)
	r.wantKernel(otherAddr, otherAddr6)
	t.Log("it is back, and says the same")
	s = startSpeaker(t, cfg)
	s.send(testRoutes(otherAddr, otherAddr6, 100))
	eventually(t, "the restarted controller", func() string {
		if !strings.Contains(s.log.String(), "BGP session established") {
			return "has no session"
		}
		return ""
	})
	// What had become stale would go now, or when its table is complete.
	s.send(testRoutes(otherAddr, otherAddr6, 50))
	eventually(t, "attributes", func() string {
		if got := attributes(); !strings.Contains(got, "med 50 ") {
			return fmt.Sprintf("the route has %q, want med 50", got)
		}
		return ""
	})

	if !preserved() {
		t.Error("the restarted controller did not say that packets were forwarded on")
	}

	t.Log("the session breaks, and is made again")
	before := strings.Count(s.log.String(), "BGP session established")
	run(t, "ss", "-K", "dport", "=", ":179", "or", "sport", "=", ":179")
	eventually(t, "the session", func() string {
		if strings.Count(s.log.String(), "BGP session established") == before {
			return "has not come back"
		}
		return ""
	})
	s.send(testRoutes(otherAddr, otherAddr6, 40))
	eventually(t, "attributes", func() string {
		if got := attributes(); !strings.Contains(got, "med 40 ") {
			return fmt.Sprintf("the route has %q, want med 40", got)
		}
		return ""
	})
	if !preserved() {
		t.Error("with the new session it was not said that packets were forwarded on")
	}
	if gone := removed(); len(gone) > 0 {
		t.Errorf("routes went away meanwhile:\n%s", strings.Join(gone, "\n"))
	}

	t.Log("nobody serves any more")
	s.send([]Route{})
	r.wantKernel("", "")
	if gone := removed(); len(gone) != 2 {
		t.Errorf("ip monitor saw %d routes go at the end, want 2: it would have seen one before", len(gone))
	}
}

const (
	zebra = "/usr/lib/frr/zebra"
	bgpd  = "/usr/lib/frr/bgpd"
)

// frr starts FRR: zebra puts bgpd's routes into the kernel.
func (r *router) frr(asn uint32) {
	r.t.Helper()
	// FRR's daemons are the user frr soon after their start.
	for _, args := range []string{"mkdir -p /run/frr", "mount -t tmpfs tmpfs /run/frr", "chown frr:frr /run/frr"} {
		run(r.t, strings.Fields(args)...)
	}
	r.dir = "/run/frr"
	conf := r.write("frr.conf", fmt.Sprintf(`
log stdout
router bgp %d
 bgp router-id %s
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor %[3]s remote-as 64512
 neighbor %[3]s password %s
 neighbor %[3]s ttl-security hops 1
 neighbor %[3]s timers 3 9
 neighbor %[3]s timers connect 1
 address-family ipv4 unicast
  neighbor %[3]s activate
 address-family ipv6 unicast
  neighbor %[3]s activate
`, asn, routerAddr, ourAddr, password))
	r.start(zebra, "-f", conf, "-i", filepath.Join(r.dir, "zebra.pid"))
	eventually(r.t, "zebra", func() string {
		if _, err := os.Stat("/run/frr/zserv.api"); err != nil {
			return err.Error()
		}
		return ""
	})
	r.start(bgpd, "-f", conf, "-i", filepath.Join(r.dir, "bgpd.pid"))
}

// frrAttributes are those of the IPv4 route, as vtysh tells.
func (r *router) frrAttributes() string {
	out, err := exec.Command("ip", "netns", "exec", "router", "vtysh", "-c", "show bgp ipv4 unicast "+vip+"/32 json").Output()
	if err != nil {
		return err.Error()
	}
	var doc struct {
		Paths []struct {
			Metric         uint32
			LocPrf         *uint32
			Community      struct{ String string }
			LargeCommunity struct{ String string }
		}
	}
	if err := json.Unmarshal(out, &doc); err != nil || len(doc.Paths) != 1 {
		return fmt.Sprintf("%v: %s", err, out)
	}
	p := doc.Paths[0]
	return attributesText(p.Metric, p.LocPrf, p.Community.String, p.LargeCommunity.String)
}

func attributesText(med uint32, pref *uint32, community, large string) string {
	s := fmt.Sprintf("med %d ", med)
	if pref != nil {
		s += fmt.Sprintf("local-preference %d ", *pref)
	}
	return s + "community " + community + " large " + large
}

// frrPreserved: the forwarding state bit of both families.
func (r *router) frrPreserved() bool {
	out, _ := exec.Command("ip", "netns", "exec", "router", "vtysh", "-c", "show bgp neighbors "+ourAddr+" json").Output()
	return strings.Count(string(out), `"fBit":true`) == 2
}

func TestFRR(t *testing.T) {
	program(t, zebra, bgpd, "vtysh")
	if !privateNetns(t) {
		return
	}
	r := newRouter(t)
	r.frr(64513)
	r.story(64513, r.frrAttributes, r.frrPreserved)
}

func TestFRROfTheSameAS(t *testing.T) {
	program(t, zebra, bgpd, "vtysh")
	if !privateNetns(t) {
		return
	}
	r := newRouter(t)
	r.frr(64512)
	r.story(64512, r.frrAttributes, r.frrPreserved)
}

// bird starts BIRD, which puts its routes into the kernel itself.
func (r *router) bird(asn uint32) {
	r.t.Helper()
	conf := r.write("bird.conf", fmt.Sprintf(`
log stderr all;
router id %s;
protocol device {}
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
protocol bgp controller {
	local %[1]s as %d;
	neighbor %s as 64512;
	password "%s";
	ttl security on;
	hold time 9;
	connect retry time 1;
	connect delay time 1;
	error wait time 1, 2;
	graceful restart aware;
	ipv4 { import all; export none; };
	ipv6 { import all; export none; };
}
`, routerAddr, asn, ourAddr, password))
	r.start("bird", "-f", "-c", conf, "-s", filepath.Join(r.dir, "bird.ctl"), "-P", filepath.Join(r.dir, "bird.pid"))
	eventually(r.t, "bird", func() string {
		if _, err := os.Stat(filepath.Join(r.dir, "bird.ctl")); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (r *router) birdc(command ...string) string {
	out, _ := exec.Command("birdc", append([]string{"-s", filepath.Join(r.dir, "bird.ctl")}, command...)...).CombinedOutput()
	return string(out)
}

func (r *router) birdAttributes() string {
	out := r.birdc("show", "route", "for", vip, "all")
	if strings.Count(out, "BGP.next_hop") != 1 {
		return "not one route: " + out
	}
	field := func(name string) string {
		m := regexp.MustCompile(name + `: (.*)`).FindStringSubmatch(out)
		if m == nil {
			return ""
		}
		return strings.NewReplacer(", ", ":", ",", ":", "(", "", ")", "").Replace(strings.TrimSpace(m[1]))
	}
	s := "med " + field("BGP.med") + " "
	// BIRD shows its own default for a route of another AS.
	if pref := field("BGP.local_pref"); pref != "" && !strings.Contains(out, "BGP.as_path: 64512") {
		s += "local-preference " + pref + " "
	}
	return s + "community " + field("BGP.community") + " large " + field("BGP.large_community")
}

// birdPreserved reads "AF preserved: ipv4 ipv6".
func (r *router) birdPreserved() bool {
	return regexp.MustCompile(`AF preserved: +ipv4 ipv6`).MatchString(r.birdc("show", "protocols", "all", "controller"))
}

func TestBIRD(t *testing.T) {
	program(t, "bird", "birdc")
	if !privateNetns(t) {
		return
	}
	r := newRouter(t)
	r.bird(64513)
	r.story(64513, r.birdAttributes, r.birdPreserved)
}

// TestExaBGP looks at what is on the wire: ExaBGP prints every message as JSON, and
// keeps nothing.
func TestExaBGP(t *testing.T) {
	program(t, "exabgp")
	if !privateNetns(t) {
		return
	}
	r := newRouter(t)
	// ExaBGP's helpers are the user nobody.
	for _, args := range []string{"mkdir -p /run/exabgp", "mount -t tmpfs -o mode=1777 tmpfs /run/exabgp"} {
		run(t, strings.Fields(args)...)
	}
	r.dir = "/run/exabgp"
	seen := filepath.Join(r.dir, "updates")
	// ExaBGP makes its helper's input non-blocking.
	script := r.write("keep.py", `
import os, select
out = open("`+seen+`", "ab", 0)
while True:
    select.select([0], [], [])
    try:
        text = os.read(0, 65536)
    except BlockingIOError:
        continue
    if not text:
        break
    out.write(text)
`)
	conf := r.write("exabgp.conf", fmt.Sprintf(`
process updates {
	run /usr/bin/python3 %s;
	encoder json;
}
neighbor %s {
	router-id %s;
	local-address %[3]s;
	local-as 64513;
	peer-as 64512;
	hold-time 9;
	md5-password "%[4]s";
	outgoing-ttl 255;
	incoming-ttl 255;
	passive true;
	listen 179;
	family { ipv4 unicast; ipv6 unicast; }
	capability { graceful-restart 60; }
	api { processes [ updates ]; receive { parsed; update; } }
}
`, script, ourAddr, routerAddr, password))
	r.start("env", "exabgp.daemon.drop=false", "exabgp.daemon.user=root", "exabgp.log.destination=stderr", "exabgp.api.cli=false", "exabgp", conf)

	s := startSpeaker(t, testConfig(64513))
	s.send(testRoutes(ourAddr, ourAddr6, 100))
	var updates []exaUpdate
	until := func(what string, f func() bool) {
		t.Helper()
		eventually(t, what, func() string {
			if updates = readUpdates(t, seen); f() {
				return ""
			}
			text, _ := os.ReadFile(seen)
			return "ExaBGP has seen " + string(text)
		})
	}
	until("announcements", func() bool { return last(updates, vip) == ourAddr && last(updates, vip6) == ourAddr6 })
	for _, u := range updates {
		if len(u.Announce) == 0 {
			continue
		}
		a := u.Attribute
		got := fmt.Sprint(a.Origin, a.ASPath, a.MED, a.LocalPreference, a.Community, a.LargeCommunity)
		if want := "igp[64512]100<nil>[[64512 100]][[64512 1 2]]"; strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
			t.Errorf("attributes %s, want %s", got, want)
		}
	}

	n := len(updates)
	s.send(append(testRoutes(otherAddr, otherAddr6, 100), Route{
		Prefix: netip.MustParsePrefix("198.51.100.11/32"), NextHop: netip.MustParseAddr(ourAddr),
	}))
	until("the move", func() bool { return last(updates, vip) == otherAddr && last(updates, vip6) == otherAddr6 })
	s.send(testRoutes(otherAddr, otherAddr6, 100)[:1])
	until("withdrawals", func() bool { return last(updates, vip6) == "" && last(updates, "198.51.100.11") == "" })
	for _, u := range updates[n:] {
		for _, prefix := range u.withdrawn {
			if strings.HasPrefix(prefix, vip+"/") {
				t.Errorf("%s was withdrawn while it moved", vip)
			}
		}
	}
}

// exaUpdate is what is looked at of ExaBGP's JSON.
type exaUpdate struct {
	Attribute struct {
		Origin          string
		ASPath          []uint32 `json:"as-path"`
		MED             uint32
		LocalPreference *uint32 `json:"local-preference"`
		Community       [][2]uint32
		LargeCommunity  [][3]uint32 `json:"large-community"`
	}
	// Announce has, by family and next hop, what is announced.
	Announce map[string]map[string][]struct{ NLRI string }
	Withdraw map[string][]struct{ NLRI string }

	withdrawn []string
}

func readUpdates(t *testing.T, file string) []exaUpdate {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var list []exaUpdate
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // not written to its end yet
		}
		var doc struct {
			Neighbor struct {
				Message struct{ Update json.RawMessage }
			}
		}
		if err := json.Unmarshal([]byte(line), &doc); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if len(doc.Neighbor.Message.Update) == 0 {
			continue
		}
		var u exaUpdate
		if err := json.Unmarshal(doc.Neighbor.Message.Update, &u); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, routes := range u.Withdraw {
			for _, r := range routes {
				u.withdrawn = append(u.withdrawn, r.NLRI)
			}
		}
		list = append(list, u)
	}
	return list
}

// last is the next hop to an address after all updates, "" if there is none.
func last(updates []exaUpdate, addr string) string {
	hop := ""
	for _, u := range updates {
		for _, prefix := range u.withdrawn {
			if strings.HasPrefix(prefix, addr+"/") {
				hop = ""
			}
		}
		for _, hops := range u.Announce {
			for via, routes := range hops {
				for _, r := range routes {
					if strings.HasPrefix(r.NLRI, addr+"/") {
						hop = via
					}
				}
			}
		}
	}
	return hop
}
