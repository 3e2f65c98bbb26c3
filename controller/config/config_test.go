// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestFull(t *testing.T) {
	got, err := Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	gw1 := Gateway{addr("10.0.1.1"), MAC{2, 0, 0, 0, 1, 1}}
	gw2 := Gateway{addr("10.0.2.1"), MAC{2, 0, 0, 0, 2, 1}}
	want := &Config{
		Switch:    Switch{Name: "s1", Address: "127.0.0.1:9559", DeviceID: 1},
		Listen:    Listen{Agents: "172.31.255.1:9400", Admin: "unix:/run/understudy/controller.sock"},
		StateDir:  "/var/lib/understudy",
		Heartbeat: Heartbeat{Interval: 10 * time.Millisecond, Missed: 3, Port: 9401},
		Gateways:  []Gateway{gw1, gw2, {addr("2001:db8:1::1"), MAC{2, 0, 0, 0, 1, 1}}},
		VIPMAC:    MAC{2, 0, 0, 0, 0, 1},
		Routes: []Route{
			{netip.MustParsePrefix("192.0.2.0/24"), 1, MAC{2, 0, 0, 0, 0, 12}, MAC{2, 0, 0, 0, 0, 1}},
			{netip.MustParsePrefix("2001:db8:c::/48"), 1, MAC{2, 0, 0, 0, 0, 12}, MAC{2, 0, 0, 0, 0, 1}},
		},
		Pairs: []Pair{
			{ID: 1, Name: "web", Servers: []Server{
				{Replica: 1, RID: 1, Name: "server1", Port: 2, MAC: MAC{2, 0, 0, 0, 1, 2}, Gateway: gw1},
				{Replica: 2, RID: 2, Name: "server2", Port: 3, MAC: MAC{2, 0, 0, 0, 2, 2}, Gateway: gw2},
			}},
			{ID: 2, Name: "sip", Servers: []Server{
				{Replica: 1, RID: 5, Name: "server3", Port: 4, MAC: MAC{2, 0, 0, 0, 1, 3}, Gateway: gw1},
				{Replica: 2, RID: 6, Name: "server4", Port: 5, MAC: MAC{2, 0, 0, 0, 2, 3}, Gateway: gw2},
				{Replica: 3, RID: 7, Name: "server5", Port: 5, MAC: MAC{2, 0, 0, 0, 2, 4}, Gateway: gw2},
			}},
		},
		Services: []Service{
			{"web", "web", addr("198.51.100.10"), TCP, 80, "127.0.0.1:8080"},
			{"web6", "web", addr("2001:db8::10"), TCP, 80, "[::1]:8080"},
			{"sip", "sip", addr("198.51.100.11"), UDP, 5060, "127.0.0.1:5060"},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// The smallest one that is valid.
const small = `switch: {name: s1, address: "127.0.0.1:9559", device_id: 0}
listen: {agents: ":9400", admin: "127.0.0.1:9402"}
gateways:
  - {address: 10.0.1.1, mac: "02:00:00:00:01:01"}
pairs:
  - name: web
    servers:
      - {name: a, port: 1, mac: "02:00:00:00:00:0a", gateway: 10.0.1.1}
      - {name: b, port: 2, mac: "02:00:00:00:00:0b", gateway: 10.0.1.1}
services:
  - {name: web, pair: web, vip: 198.51.100.10, protocol: tcp, port: 80, upstream: "127.0.0.1:80"}
`

func TestDefaults(t *testing.T) {
	got, err := Parse("small.yaml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if got.StateDir != DefaultStateDir {
		t.Errorf("state_dir %q", got.StateDir)
	}
	if diff := cmp.Diff(Heartbeat{10 * time.Millisecond, 3, 9401}, got.Heartbeat); diff != "" {
		t.Errorf("heartbeat (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(MAC{2, 0, 0, 0, 1, 1}, got.VIPMAC); diff != "" {
		t.Errorf("vip_mac (-want +got):\n%s", diff)
	}
}

// Each fault is told with its line, and with what to do; none hides another.
func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name string
		// edit is old text, new text, and so on, in the smallest configuration; a
		// single text is the whole file.
		edit []string
		want []string
	}{
		{"empty file", []string{""}, []string{
			"x.yaml: it is empty; write a configuration into it"}},
		{"only a comment", []string{"# nothing\n"}, []string{
			"x.yaml: it is empty; write a configuration into it"}},
		{"not YAML", []string{"switch: {\nlisten: ]"}, []string{
			"x.yaml:1: not YAML: did not find expected node content; correct the line"}},
		{"not a mapping", []string{"- switch\n"}, []string{
			`x.yaml:1: the configuration is a list, not a mapping; write it as "key: value" lines with the keys switch, listen, state_dir, heartbeat, gateways, vip_mac, routes, pairs, services`}},
		{"two documents", []string{small + "---\nswitch: {}\n"}, []string{
			"x.yaml:12: a second document in the same file; keep everything in one document"}},
		{"everything is missing", []string{"{}"}, []string{
			`x.yaml: switch is missing; add "switch: {name: s1, address: "127.0.0.1:9559", device_id: 1}"`,
			`x.yaml: listen is missing; add "listen: {agents: "172.31.255.1:9400", admin: "unix:/run/understudy/controller.sock"}"`,
			`x.yaml: gateways is missing; add "gateways: [{address: 10.0.1.1, mac: "02:00:00:00:01:01"}]"`,
			`x.yaml: pairs is missing; add "pairs: [{name: web, servers: [...]}]"`,
			`x.yaml: services is missing; add "services: [{name: web, pair: web, vip: 198.51.100.10, protocol: tcp, port: 80, upstream: "127.0.0.1:8080"}]"`}},
		{"unknown key at the top", []string{"gateways:", "gatways:"}, []string{
			`x.yaml: gateways is missing; add "gateways: [{address: 10.0.1.1, mac: "02:00:00:00:01:01"}]"`,
			`x.yaml:3: unknown key "gatways" in the configuration; use one of switch, listen, state_dir, heartbeat, gateways, vip_mac, routes, pairs, services`,
			`x.yaml:8: pairs[0].servers[0].gateway: 10.0.1.1 is not among the gateways; add it to gateways`,
			`x.yaml:9: pairs[0].servers[1].gateway: 10.0.1.1 is not among the gateways; add it to gateways`}},
		{"unknown key inside", []string{"device_id: 0", "device_id: 0, devcie: 3"}, []string{
			`x.yaml:1: unknown key "devcie" in switch; use one of name, address, device_id`}},
		{"a key twice", []string{"device_id: 0", "device_id: 0, name: s2"}, []string{
			`x.yaml:1: "name" stands twice in switch; keep one of them`}},
		{"an alias", []string{`mac: "02:00:00:00:00:0a"`, `mac: &m "02:00:00:00:00:0a"`, `mac: "02:00:00:00:00:0b"`, `mac: *m`}, []string{
			"x.yaml:8: pairs[0].servers[0].mac uses a YAML anchor or alias; write the value out",
			`x.yaml:8: pairs[0].servers[0].mac is missing; add "mac: "02:00:00:00:01:01""`,
			"x.yaml:9: pairs[0].servers[1].mac uses a YAML anchor or alias; write the value out",
			`x.yaml:9: pairs[0].servers[1].mac is missing; add "mac: "02:00:00:00:01:01""`}},
		{"values of the wrong kind", []string{"device_id: 0", "device_id: [1]", `admin: "127.0.0.1:9402"`, "admin: "}, []string{
			"x.yaml:1: switch.device_id is a list; write a value such as 1",
			`x.yaml:2: listen.admin is empty; write a value such as "unix:/run/understudy/controller.sock"`}},
		{"addresses", []string{`"127.0.0.1:9559"`, "localhost", `":9400"`, `":94000"`, `"127.0.0.1:9402"`, "unix:run/x"}, []string{
			`x.yaml:1: switch.address: "localhost" is not host:port; write a value such as "127.0.0.1:9559"`,
			`x.yaml:2: listen.agents: ":94000" is not host:port; write a value such as "172.31.255.1:9400"`,
			`x.yaml:2: listen.admin: "unix:run/x" is not unix: and an absolute path of at most 107 bytes; write a value such as "unix:/run/understudy/controller.sock"`}},
		{"heartbeats", []string{"gateways:", "heartbeat: {interval: 10, missed: 1, port: 0}\ngateways:"}, []string{
			`x.yaml:3: heartbeat.interval: "10" is not a duration from 1ms to 10s; write a value such as 10ms`,
			`x.yaml:3: heartbeat.missed: "1" is not a number from 2 to 100; write a value such as 2`,
			`x.yaml:3: heartbeat.port: "0" is not a number from 1 to 65535; write a value such as 1`}},
		{"state_dir", []string{"gateways:", "state_dir: state\ngateways:"}, []string{
			`x.yaml:3: state_dir: "state" is not an absolute path; write a value such as /var/lib/understudy`}},
		{"a gateway twice", []string{"pairs:", "  - {address: 10.0.1.1, mac: \"02:00:00:00:01:02\"}\npairs:"}, []string{
			"x.yaml:5: gateway 10.0.1.1 stands twice; keep one of them"}},
		{"a group MAC", []string{"02:00:00:00:01:01", "01:00:5e:00:00:01"}, []string{
			`x.yaml:4: gateways[0].mac: "01:00:5e:00:00:01" is not the MAC address of one host; write a value such as "02:00:00:00:01:01"`}},
		{"a multicast VIP", []string{"vip: 198.51.100.10", "vip: 224.0.0.1"}, []string{
			`x.yaml:11: services[0].vip: "224.0.0.1" is not the IP address of one host; write a value such as 198.51.100.10`}},
		{"a VIP that is a gateway", []string{"vip: 198.51.100.10", "vip: 10.0.1.1"}, []string{
			`x.yaml:11: service "web": 10.0.1.1 is a gateway; take an address that nobody has`}},
		{"routes", []string{"pairs:", `routes:
  - {prefix: 192.0.2.7/24, port: 1, next_hop_mac: "02:00:00:00:00:0c", source_mac: "02:00:00:00:00:01"}
  - {prefix: 10.9.0.0/16, port: 511, next_hop_mac: "02:00:00:00:00:0c", source_mac: "02:00:00:00:00:01"}
  - {prefix: 10.9.0.0/16, port: 1, next_hop_mac: "02:00:00:00:00:0c"}
pairs:`}, []string{
			"x.yaml:6: routes[0].prefix: 192.0.2.7/24 has host bits set; write 192.0.2.0/24",
			`x.yaml:7: routes[1].port: "511" is not a number from 0 to 509; write a value such as 1`,
			`x.yaml:8: routes[2].source_mac is missing; add "source_mac: "02:00:00:00:01:01""`,
			"x.yaml:8: route 10.9.0.0/16 stands twice; keep one of them"}},
		{"one server", []string{"      - {name: b, port: 2, mac: \"02:00:00:00:00:0b\", gateway: 10.0.1.1}\n", ""}, []string{
			`x.yaml:8: pair "web" has 1 servers; give it 2 to 3`}},
		{"a server twice", []string{`{name: b, port: 2, mac: "02:00:00:00:00:0b"`, `{name: a, port: 1, mac: "02:00:00:00:00:0a"`}, []string{
			`x.yaml:9: server "a" stands twice; a server belongs to one pair; rename one of them`,
			`x.yaml:9: server "a" has the port and MAC of "a"; correct one of them`}},
		{"an IPv6 gateway for heartbeats", []string{"address: 10.0.1.1", `address: "fd00::1"`, "gateway: 10.0.1.1", `gateway: "fd00::1"`}, []string{
			"x.yaml:8: pairs[0].servers[0].gateway: fd00::1 is not an IPv4 address, heartbeats are; name an IPv4 gateway",
			"x.yaml:9: pairs[0].servers[1].gateway: fd00::1 is not an IPv4 address, heartbeats are; name an IPv4 gateway"}},
		{"a service of no pair", []string{"pair: web, vip", "pair: wbe, vip"}, []string{
			`x.yaml:11: service "web" is backed by "wbe", which is no pair; add the pair, or correct the name`}},
		{"another protocol", []string{"protocol: tcp", "protocol: sctp"}, []string{
			`x.yaml:11: services[0].protocol: "sctp" is not tcp or udp; write a value such as tcp`}},
		{"a service twice", []string{small + strings.SplitAfter(small, "services:\n")[1]}, []string{
			`x.yaml:12: service "web" stands twice; rename one of them`,
			`x.yaml:12: service "web" is 198.51.100.10 port 80/tcp, as is "web"; change one of them`}},
		{"a VIP of two pairs", []string{small, strings.Replace(small, "services:\n", `  - name: api
    servers:
      - {name: c, port: 3, mac: "02:00:00:00:00:0c", gateway: 10.0.1.1}
      - {name: d, port: 4, mac: "02:00:00:00:00:0d", gateway: 10.0.1.1}
services:
`, 1) + `  - {name: api, pair: api, vip: 198.51.100.10, protocol: tcp, port: 81, upstream: "127.0.0.1:80"}` + "\n"}, []string{
			`x.yaml:16: service "api": 198.51.100.10 is backed by pair "web" already; all services of an address share one pair; take another address`}},
		{"names", []string{"name: s1", "name: s/1", "{name: a,", "{name: ,"}, []string{
			`x.yaml:1: switch.name: "s/1" is not a name of at most 63 letters, digits, '-', '_' and '.'; write a value such as s1`,
			`x.yaml:8: pairs[0].servers[0].name is empty; write a value such as server1`}},
		{"empty lists", []string{strings.Split(small, "gateways:")[0] + "gateways: []\npairs: []\nservices: []\n"}, []string{
			"x.yaml:3: no gateway; add one for each of the servers' networks",
			"x.yaml:4: no pair; add one",
			"x.yaml:5: no service; add one"}},
		{"a mapping for a list", []string{strings.Split(small, "gateways:")[0] + "gateways: {}\npairs: {}\nservices: {}\n"}, []string{
			`x.yaml:3: gateways is a mapping, not a list; begin each element with "- "`,
			`x.yaml:4: pairs is a mapping, not a list; begin each element with "- "`,
			`x.yaml:5: services is a mapping, not a list; begin each element with "- "`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := small
			if len(tt.edit) == 1 {
				text = tt.edit[0]
			} else {
				text = strings.NewReplacer(tt.edit...).Replace(small)
			}
			if len(tt.edit) > 1 && text == small {
				t.Fatal("the edit changes nothing")
			}
			_, err := Parse("x.yaml", []byte(text))
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("error %v, want faults", err)
			}
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), err.Error()); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTooManyPairs(t *testing.T) {
	var b strings.Builder
	b.WriteString(strings.Split(small, "pairs:")[0] + "pairs:\n")
	b.WriteString(strings.Repeat("  - {name: x}\n", MaxPairs+1))
	_, err := Parse("x.yaml", []byte(b.String()))
	if err == nil || !strings.Contains(err.Error(), "1024 pairs, the switch has room for 1023") {
		t.Errorf("error %v", err)
	}
}

func TestLoadMissing(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	var faults Faults
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &faults) {
		t.Errorf("error %v", err)
	}
}

// Whatever the file, there is a configuration or there are faults, each a single
// line; and what is valid is what the other rooms count on.
func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(full))
	f.Add(small)
	f.Add("{}")
	f.Add("switch: *x")
	f.Add("&a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("x.yaml", []byte(text))
		if err != nil {
			var faults Faults
			if c != nil || !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("configuration %v, error %v", c, err)
			}
			for _, one := range faults {
				if line := one.Error(); strings.ContainsAny(line, "\n\r") || !strings.HasPrefix(line, "x.yaml") {
					t.Errorf("fault %q", line)
				}
			}
			return
		}
		rids := map[uint16]bool{}
		for i, p := range c.Pairs {
			if int(p.ID) != i+1 || len(p.Servers) < 2 || len(p.Servers) > ServersPerPair {
				t.Errorf("pair %+v", p)
			}
			for _, s := range p.Servers {
				if rids[s.RID] || s.RID == 0 || !s.Gateway.Address.Is4() || s.Port > MaxPort {
					t.Errorf("server %+v", s)
				}
				rids[s.RID] = true
			}
		}
		for _, s := range c.Services {
			if !s.VIP.IsValid() || s.Port == 0 {
				t.Errorf("service %+v", s)
			}
		}
		if len(c.Pairs) == 0 || len(c.Services) == 0 || c.Heartbeat.Interval <= 0 || c.VIPMAC == (MAC{}) {
			t.Errorf("configuration %+v", c)
		}
	})
}
