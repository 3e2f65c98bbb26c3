// SPDX-License-Identifier: Apache-2.0

package v1model_test

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/v1model"
)

var (
	clientMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	gwMAC     = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	serverMAC = net.HardwareAddr{2, 0, 0, 0, 0, 3}
	client    = netip.MustParseAddr("198.51.100.1")
	vip       = netip.MustParseAddr("192.0.2.10")
)

// understudy loads the compiled program with one service of two servers.
func understudy(tb testing.TB) *v1model.Switch {
	tb.Helper()
	js, err := os.ReadFile("../build/understudy.json")
	if err != nil {
		tb.Skip("p4/build/understudy.json is not there: compile the P4 program first")
	}
	p, err := bmv2.Load(js)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := v1model.New(p, v1model.Options{Seed: 1})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// insert adds an entry; the table is named by its last part, values are bytes.
func insert(tb testing.TB, s *v1model.Switch, table, action string, match []bmv2.Match, args ...[]byte) {
	tb.Helper()
	for _, t := range s.Engine().Tables() {
		if !hasSuffix(t.Def().Name, "."+table) {
			continue
		}
		for _, a := range t.Def().Actions {
			if hasSuffix(a.Action.Name, "."+action) {
				b, err := t.Bind(a.Action.Name, args, nil)
				if err == nil {
					err = t.Insert(match, 0, b, dataplane.Count{})
				}
				if err != nil {
					tb.Fatalf("table %s: %v", table, err)
				}
				return
			}
		}
	}
	tb.Fatalf("no table %q with an action %q", table, action)
}

func hasSuffix(s, suffix string) bool {
	return len(s) >= len(suffix) && s[len(s)-len(suffix):] == suffix
}

func exact(v ...[]byte) []bmv2.Match {
	out := make([]bmv2.Match, len(v))
	for i := range v {
		out[i].Value = v[i]
	}
	return out
}

func oneService(tb testing.TB) *v1model.Switch {
	s := understudy(tb)
	insert(tb, s, "vip", "duplicate", exact(vip.AsSlice(), []byte{6}, []byte{0, 80}), []byte{0, 1})
	if err := s.InsertGroup(&v1model.Group{ID: 1, Replicas: []v1model.Replica{{Port: 2, RID: 1}, {Port: 3, RID: 2}}}); err != nil {
		tb.Fatal(err)
	}
	insert(tb, s, "replica_rewrite", "rewrite", exact([]byte{0, 1}), serverMAC, gwMAC)
	insert(tb, s, "replica_rewrite", "rewrite", exact([]byte{0, 2}), serverMAC, gwMAC)
	insert(tb, s, "replica", "from_replica", exact([]byte{0, 2}, serverMAC, vip.AsSlice()), []byte{0, 1}, []byte{1}, []byte{0, 1})
	insert(tb, s, "active", "set_active", exact([]byte{0, 1}), []byte{1}, []byte{0, 0, 0, 1})
	for _, n := range []int{0, 8, 16, 24} { // the client is matched by the first
		insert(tb, s, "route", "forward", []bmv2.Match{{Value: []byte{10, 0, 0, 0}, PrefixLen: n}}, []byte{0, 1}, clientMAC, gwMAC)
	}
	insert(tb, s, "source_filter", "guard", exact(vip.AsSlice()))
	return s
}

func request(n int) []byte {
	return packet.Build(
		&packet.EthernetLayer{Src: clientMAC, Dst: gwMAC},
		&packet.IPv4Layer{Src: client, Dst: vip},
		&packet.TCPLayer{SrcPort: 40000, DstPort: 80, Flags: packet.ACK},
		packet.Bytes(make([]byte, n)))
}

func reply(n int) []byte {
	return packet.Build(
		&packet.EthernetLayer{Src: serverMAC, Dst: gwMAC},
		&packet.IPv4Layer{Src: vip, Dst: client},
		&packet.TCPLayer{SrcPort: 80, DstPort: 40000, Flags: packet.ACK},
		packet.Bytes(make([]byte, n)))
}

func BenchmarkProcess(b *testing.B) {
	for _, bm := range []struct {
		name  string
		port  uint16
		frame []byte
		want  int
	}{
		{"request to two servers/64", 1, request(10), 2},
		{"request to two servers/1514", 1, request(1460), 2},
		{"reply released/64", 2, reply(10), 1},
		{"reply released/1514", 2, reply(1460), 1},
		{"reply released/65226", 2, reply(65160), 1},
		{"reply spoofed/64", 5, reply(10), 0},
	} {
		b.Run(bm.name, func(b *testing.B) {
			s := oneService(b)
			w := s.NewWorker()
			n := 0
			emit := func(*v1model.Frame) { n++ }
			b.SetBytes(int64(len(bm.frame)))
			b.ReportAllocs()
			for b.Loop() {
				n = 0
				w.Begin()
				w.Process(bm.port, bm.frame, emit)
				w.End()
			}
			if n != bm.want {
				b.Fatalf("%d frames, want %d", n, bm.want)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
		})
	}
}
