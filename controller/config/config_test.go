// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"flag"
	"fmt"
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
	got, err := Load("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	gw1 := Gateway{addr("10.0.1.1"), MAC{2, 0, 0, 0, 1, 1}}
	gw2 := Gateway{addr("10.0.2.1"), MAC{2, 0, 0, 0, 2, 1}}
	want := &Config{
		Switch:    Switch{Name: "s1", Address: "127.0.0.1:9559", DeviceID: 1, GNMI: "127.0.0.1:9339"},
		Twins:     []Switch{{Name: "s2", Address: "127.0.0.1:9560", DeviceID: 2}},
		Listen:    Listen{Agents: "172.31.255.1:9400", Admin: "unix:/run/understudy/controller.sock", Metrics: "127.0.0.1:9404"},
		TLS:       &TLS{"/etc/understudy/tls/controller.crt", "/etc/understudy/tls/controller.key", "/etc/understudy/tls/ca.crt"},
		AuditLog:  "/var/lib/understudy/audit.jsonl",
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
		BGP: &BGP{
			ASN: 64512, RouterID: addr("10.0.0.1"), Listen: netip.MustParseAddrPort("192.0.2.1:179"), RestartTime: 2 * time.Minute,
			Allow:    []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64")},
			NextHops: NextHops{addr("192.0.2.1"), addr("2001:db8:c::1")},
			Via:      []Via{{"server2", NextHops{addr("192.0.2.2"), addr("2001:db8:c::2")}}},
			Attributes: AttributesByState{
				Duplex:  BGPAttributes{ptr(50), ptr(200), []Community{64512<<16 | 2}, []LargeCommunity{{64512, 1, 2}}},
				Joining: BGPAttributes{ptr(80), ptr(150), []Community{64512<<16 | 3}, []LargeCommunity{{64512, 1, 3}}},
				Simplex: BGPAttributes{ptr(100), ptr(100), []Community{64512<<16 | 1}, []LargeCommunity{{64512, 1, 1}}},
			},
			Dampening: Dampening{HalfLife: 15 * time.Second, MaxSuppress: time.Minute},
			Peers: []BGPPeer{
				{Name: "r1", Address: addr("192.0.2.254"), ASN: 64513, Port: 179, LocalAddress: addr("192.0.2.1"),
					PasswordFile: "/etc/understudy/r1.password", TTLSecurity: 1, IPv4: true, IPv6: true, HoldTime: 9 * time.Second},
				{Name: "r2", Address: addr("2001:db8:c::254"), ASN: 64512, Port: 179, Password: "in the file itself", IPv6: true, HoldTime: 9 * time.Second},
				{Name: "r3", Address: addr("203.0.113.1"), ASN: 64514, Port: 179, Multihop: 3, IPv4: true, HoldTime: 9 * time.Second},
			},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func ptr(n uint32) *uint32 { return &n }

// The smallest one that is valid.
const small = `switch: {name: s1, address: "127.0.0.1:9559", device_id: 0}
listen: {agents: ":9400", admin: "127.0.0.1:9402", insecure: true}
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
	if got.AuditLog != DefaultStateDir+"/audit.jsonl" || got.TLS != nil || !got.Listen.Insecure {
		t.Errorf("audit_log %q, tls %v, listen %+v", got.AuditLog, got.TLS, got.Listen)
	}
	if diff := cmp.Diff(Heartbeat{10 * time.Millisecond, 3, 9401}, got.Heartbeat); diff != "" {
		t.Errorf("heartbeat (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(MAC{2, 0, 0, 0, 1, 1}, got.VIPMAC); diff != "" {
		t.Errorf("vip_mac (-want +got):\n%s", diff)
	}
}

var update = flag.Bool("update", false, "rewrite what testdata and the schema say")

// Each fault is told with its line, and with what to do; none hides another. A
// file of testdata/wrong is a wrong configuration; what is told of it stands at its
// end, in lines that begin with "#= ". A file that is not called several-* has one
// fault, in the line that is marked "# <--", or in the first.
func TestWrongFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/wrong/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	single := 0
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, want, _ := strings.Cut(string(content), "#= ")
			if want != "" {
				want = "#= " + want
			}
			_, err = Parse(name, []byte(text))
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("error %v, want faults", err)
			}
			var got strings.Builder
			for _, f := range faults {
				fmt.Fprintf(&got, "#= %v\n", f)
				if f.Line < 1 || f.What == "" || f.Do == "" {
					t.Errorf("fault %+v", f)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(text+got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if strings.HasPrefix(name, "several-") {
				return
			}
			single++
			line := 1
			if before, _, ok := strings.Cut(text, "# <--"); ok {
				line += strings.Count(before, "\n")
			}
			if len(faults) != 1 || faults[0].Line != line {
				t.Errorf("want one fault in line %d, got\n%s", line, got.String())
			}
		})
	}
	if single < 60 {
		t.Errorf("%d files with one fault, want at least 60", single)
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
	full, err := os.ReadFile("example.yaml")
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
		if c.Heartbeat.Interval <= 0 || c.VIPMAC == (MAC{}) {
			t.Errorf("configuration %+v", c)
		}
	})
}
