// SPDX-License-Identifier: Apache-2.0

package topologies

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPair(t *testing.T) {
	top, err := Parse(Pair())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := top.Heartbeat, (Heartbeat{Interval: 10 * time.Millisecond, Missed: 4, Port: 9401}); got != want {
		t.Errorf("heartbeat: got %v, want %v", got, want)
	}
	wantLink := &Link{
		Node: "server2", Switch: "switch", Port: 3, Interface: "p3",
		Gateway: netip.MustParseAddr("10.0.2.1"), GatewayMAC: "02:75:73:00:03:01",
	}
	if diff := cmp.Diff(wantLink, top.LinkOf("server2"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got := top.VIPs("server1"); len(got) != 1 || got[0] != netip.MustParseAddr("198.51.100.10") {
		t.Errorf("VIPs: %v", got)
	}
	if got := top.SysctlsOf(top.Node("server1"))["net.core.somaxconn"]; got != "4096" {
		t.Errorf("somaxconn: %q", got)
	}
}

func TestParseJSON(t *testing.T) {
	const source = `{"name": "small",
	"nodes": [
	  {"name": "c", "kind": "client", "address": "192.0.2.2/24", "mac": "02:00:00:00:00:01"},
	  {"name": "s", "kind": "switch", "switch": {"device_id": 1, "cpu_port": 510, "grpc": "127.0.0.1:9559"},
	   "management": {"address": "172.31.255.1/24", "mac": "02:00:00:00:00:02"}},
	  {"name": "a", "kind": "server", "address": "10.0.1.2/24", "mac": "02:00:00:00:00:03",
	   "management": {"address": "172.31.255.2/24", "mac": "02:00:00:00:00:04"}}],
	"links": [
	  {"node": "c", "switch": "s", "port": 1, "interface": "p1", "gateway": "192.0.2.1", "gateway_mac": "02:00:00:00:00:11"},
	  {"node": "a", "switch": "s", "port": 2, "interface": "p2", "gateway": "10.0.1.1", "gateway_mac": "02:00:00:00:00:12"}],
	"pairs": [{"name": "p", "servers": ["a", "b"]}],
	"services": []}`
	if _, err := Parse([]byte(source)); err == nil || !strings.Contains(err.Error(), `no server "b"`) {
		t.Errorf("got %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown field", "name: pair\n", "name: pair\ncolour: red\n", "colour"},
		{"bad name", "name: pair\n", "name: Pair\n", "lower-case"},
		{"twice", "- name: server2", "- name: server1", "server1: twice"},
		{"same address", "address: 10.0.2.2/24", "address: 10.0.1.2/24", "is server1's"},
		{"same mac", "02:75:73:00:03:02", "02:75:73:00:02:02", "is server1's"},
		{"multicast mac", "02:75:73:00:03:02", "03:75:73:00:03:02", "unicast"},
		{"kind", "kind: client", "kind: router", "unknown kind"},
		{"gateway elsewhere", "gateway: 10.0.2.1", "gateway: 10.0.3.1", "no neighbour"},
		{"port taken", "port: 3", "port: 2", "not free"},
		{"interface taken", "interface: p3", "interface: p2", "not free"},
		{"unlinked", "{node: server2,", "{node: server1,", "twice"},
		{"one server", "[server1, server2]", "[server1]", "want 2"},
		{"server twice", "[server1, server2]", "[server1, server1]", "is in pair"},
		{"protocol", "protocol: tcp", "protocol: sctp", "unknown protocol"},
		{"upstream", "127.0.0.1:8080", "127.0.0.1", "upstream"},
		{"sysctl", "net.core.somaxconn", "../../x", "no name"},
		{"no management", `    management: {address: 172.31.255.11/24, mac: "02:75:73:00:ff:0b"}` + "\n", "", "needs management"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			source := string(Pair())
			if !strings.Contains(source, tc.old) {
				t.Fatalf("%q is not in the source", tc.old)
			}
			_, err := Parse([]byte(strings.Replace(source, tc.old, tc.new, 1)))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Pair())
	f.Fuzz(func(t *testing.T, source []byte) {
		top, err := Parse(source)
		if err != nil {
			return
		}
		for _, n := range top.Nodes {
			if n.Kind != Switch && top.LinkOf(n.Name) == nil {
				t.Errorf("%s is valid without a link", n.Name)
			}
		}
	})
}

// pair-nginx.yaml is pair.yaml but for what it says it is.
func TestPairNginx(t *testing.T) {
	top, _, err := Load("pair-nginx.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse(Pair())
	if err != nil {
		t.Fatal(err)
	}
	if top.App == nil || top.App.Command[0] != "nginx" {
		t.Errorf("app: %v", top.App)
	}
	top.Name, top.App = want.Name, want.App
	if diff := cmp.Diff(want, top, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
