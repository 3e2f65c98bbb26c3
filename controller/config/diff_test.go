// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("x.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A plan is what changes and no more, in words of the file.
func TestDiff(t *testing.T) {
	const service = "  - {name: web, pair: web, vip: 198.51.100.10, protocol: tcp, port: 80, upstream: \"127.0.0.1:80\"}\n"
	const api = "  - {name: api, pair: web, vip: 198.51.100.10, protocol: tcp, port: 81, upstream: \"127.0.0.1:81\"}\n"
	for _, tt := range []struct {
		name string
		edit []string
		want []string
	}{
		{"nothing", []string{"# ", "# "}, nil},
		{"only how it is written", []string{"{address: 10.0.1.1, mac: \"02:00:00:00:01:01\"}", "mac: \"02-00-00-00-01-01\"\n    address: 10.0.1.1"}, nil},
		{"a default that is written out", []string{"gateways:", "heartbeat: {interval: 10ms}\nstate_dir: /var/lib/understudy/\ngateways:"}, nil},
		{"a service more", []string{service, service + api}, []string{
			"+ service api: pair web, vip 198.51.100.10, protocol tcp, port 81, upstream 127.0.0.1:81"}},
		{"one before it", []string{service, api + service}, []string{
			"+ service api: pair web, vip 198.51.100.10, protocol tcp, port 81, upstream 127.0.0.1:81"}},
		{"another one", []string{service, api}, []string{
			"- service web: pair web, vip 198.51.100.10, protocol tcp, port 80, upstream 127.0.0.1:80",
			"+ service api: pair web, vip 198.51.100.10, protocol tcp, port 81, upstream 127.0.0.1:81"}},
		{"parts of one", []string{"protocol: tcp, port: 80", "protocol: udp, port: 81"}, []string{
			"~ service web protocol: tcp -> udp", "~ service web port: 80 -> 81"}},
		{"a server's place", []string{"port: 2", "port: 3"}, []string{"~ pair web server b port: 2 -> 3   (needs a restart of the controller)"}},
		{"a third server", []string{"services:", "      - {name: c, port: 3, mac: \"02:00:00:00:00:0c\", gateway: 10.0.1.1}\nservices:"}, []string{
			"+ pair web server c: port 3, mac 02:00:00:00:00:0c, gateway 10.0.1.1"}},
		{"a gateway's MAC", []string{"\"02:00:00:00:01:01\"", "\"02:00:00:00:01:02\""}, []string{
			"~ gateway 10.0.1.1 mac: 02:00:00:00:01:01 -> 02:00:00:00:01:02",
			"~ vip_mac: 02:00:00:00:01:01 -> 02:00:00:00:01:02"}},
		{"a route", []string{"pairs:", "routes: [{prefix: 192.0.2.0/24, port: 1, next_hop_mac: \"02:00:00:00:00:0c\", source_mac: \"02:00:00:00:00:01\"}]\npairs:"}, []string{
			"+ route 192.0.2.0/24: port 1, next_hop_mac 02:00:00:00:00:0c, source_mac 02:00:00:00:00:01"}},
		{"heartbeats", []string{"gateways:", "heartbeat: {interval: 20ms, missed: 5}\ngateways:"}, []string{
			"~ heartbeat interval: 10ms -> 20ms   (needs a restart of the controller)",
			"~ heartbeat missed: 3 -> 5   (needs a restart of the controller)"}},
		{"what needs a restart", []string{"device_id: 0", "device_id: 1", "9402", "9403"}, []string{
			"~ switch device_id: 0 -> 1   (needs a restart of the controller)",
			"~ listen admin: 127.0.0.1:9402 -> 127.0.0.1:9403   (needs a restart of the controller)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, to := parse(t, small), parse(t, strings.NewReplacer(tt.edit...).Replace(small))
			var got []string
			for _, c := range Diff(from, to) {
				got = append(got, c.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			if same := from.Version() == to.Version(); same != (len(tt.want) == 0) {
				t.Errorf("versions %s and %s", from.Version(), to.Version())
			}
			if back := Diff(to, from); len(back) != len(got) {
				t.Errorf("the way back is %v", back)
			}
		})
	}
}

// What the API made is checked with the file, and named when it is wrong.
func TestObjects(t *testing.T) {
	service := func(name, rest string) Object {
		return Object{Services, name, `{"name": "` + name + `", ` + rest + `}`}
	}
	good := service("api", `"pair": "web", "vip": "198.51.100.10", "protocol": "tcp", "port": 81, "upstream": "127.0.0.1:81"`)
	third := Object{Servers, "c", `{"pair": "web", "name": "c", "port": 3, "mac": "02:00:00:00:00:0c", "gateway": "10.0.1.1"}`}
	for _, tt := range []struct {
		name    string
		objects []Object
		want    string // "" for none
	}{
		{"a service", []Object{good}, ""},
		{"a server", []Object{third}, ""},
		{"a pair and its service", []Object{
			{Pairs, "db", `{"name": "db", "servers": [{"name": "d", "port": 4, "mac": "02:00:00:00:00:0d", "gateway": "10.0.1.1"}]}`},
			{Servers, "e", `{"pair": "db", "name": "e", "port": 5, "mac": "02:00:00:00:00:0e", "gateway": "10.0.1.1"}`},
			service("db", `"pair": "db", "vip": "198.51.100.11", "protocol": "tcp", "port": 5432, "upstream": "127.0.0.1:5432"`)}, ""},
		{"a name that the file has", []Object{service("web", `"pair": "web", "vip": "198.51.100.10", "protocol": "tcp", "port": 81, "upstream": "127.0.0.1:81"`)},
			`services/web: service "web" stands twice; rename one of them`},
		{"a value", []Object{service("api", `"pair": "web", "vip": "198.51.100.10", "protocol": "tcp", "port": 0, "upstream": "127.0.0.1:81"`)},
			`services/api: services[1].port: "0" is not a number from 1 to 65535; write a value such as 1`},
		{"no such pair", []Object{{Servers, "c", `{"pair": "wbe", "name": "c"}`}},
			`servers/c: there is no such pair; name one that exists, or make it first`},
		{"not a mapping", []Object{{Services, "api", `[]`}}, `services/api: it is not a mapping; delete it, and make it anew`},
		{"no section", []Object{{Kind("nothing.peers"), "r1", `{"name": "r1"}`}},
			`nothing.peers/r1: the configuration has no nothing; add the section to the file first`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseWith("x.yaml", []byte(small), tt.objects)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if n := len(c.Services) + len(c.Pairs) + len(c.Pairs[0].Servers); n <= 4 {
					t.Errorf("configuration %+v", c)
				}
				return
			}
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	// A file with nothing but what every controller needs may leave the rest to the
	// API.
	bare := strings.Split(small, "pairs:")[0] + "pairs: []\nservices: []\n"
	if _, err := ParseWith("x.yaml", []byte(bare), nil); err != nil {
		t.Error(err)
	}
}

// Numbers stay with what they number.
func TestRenumber(t *testing.T) {
	c := parse(t, string(Example))
	before := c.Numbers()
	slices.Reverse(c.Pairs)
	slices.Reverse(c.Pairs[0].Servers)
	if err := c.Renumber(before); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(parse(t, string(Example)).Pairs, c.Pairs, cmp.AllowUnexported(), cmp.Comparer(func(a, b Gateway) bool { return a == b })); diff != "" {
		t.Errorf("pairs (-want +got):\n%s", diff)
	}

	// What comes does not get the number of what goes with it.
	c.Pairs = c.Pairs[1:] // sip is 2
	c.Pairs = append([]Pair{{Name: "new", Servers: []Server{{Name: "x"}, {Name: "y"}}}}, c.Pairs...)
	c.Pairs[1].Servers = c.Pairs[1].Servers[1:] // server4 is 2, server5 is 3
	if err := c.Renumber(before); err != nil {
		t.Fatal(err)
	}
	want := Numbers{
		Pairs:    map[string]uint16{"new": 3, "sip": 2},
		Replicas: map[string]map[string]uint8{"new": {"x": 1, "y": 2}, "sip": {"server4": 2, "server5": 3}},
	}
	if got := c.Numbers(); !got.Equal(want) {
		t.Errorf("numbers (-want +got):\n%s", cmp.Diff(want, got))
	}
	if rid := c.Pairs[0].Servers[0].RID; rid != 6 {
		t.Errorf("replication id %d", rid)
	}
	// It does, if there is no other: and the next one gets what is free by then.
	more := c.Numbers()
	c.Pairs[0].Servers = append(c.Pairs[0].Servers, Server{Name: "server6"})
	if err := c.Renumber(more); err != nil {
		t.Fatal(err)
	}
	more = c.Numbers()
	c.Pairs[0].Servers = append(c.Pairs[0].Servers[1:], Server{Name: "server7"})
	if err := c.Renumber(more); err != nil {
		t.Fatal(err)
	}
	want.Replicas["sip"] = map[string]uint8{"server7": 1, "server4": 2, "server5": 3}
	if got := c.Numbers(); !got.Equal(want) {
		t.Errorf("numbers (-want +got):\n%s", cmp.Diff(want, got))
	}
}
