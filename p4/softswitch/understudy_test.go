// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/understudy-net/understudy/p4"
	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// asText makes frames readable in a diff, and compares every byte.
func asText(frames ...switchtest.Frame) []string {
	var out []string
	for _, f := range frames {
		out = append(out, packet.Parse(f.Data).String()+"\n"+hex.EncodeToString(f.Data))
	}
	return out
}

// TestProgram holds the compiled program to what it promises: what leaves, where, to
// the byte, and which counter says so.
func TestProgram(t *testing.T) {
	js, info := switchtest.Build(t, "understudy")
	h := switchtest.New(t, js, info)
	understudyEntries(h)

	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	eth := func(src, dst net.HardwareAddr) *packet.EthernetLayer {
		return &packet.EthernetLayer{Src: src, Dst: dst}
	}
	in := eth(cmpClientMAC, cmpGateway)
	v4 := func(src, dst netip.Addr, ttl uint8) *packet.IPv4Layer {
		return &packet.IPv4Layer{Src: src, Dst: dst, TTL: ttl}
	}
	v6 := func(src, dst netip.Addr, hops uint8) *packet.IPv6Layer {
		return &packet.IPv6Layer{Src: src, Dst: dst, HopLimit: hops}
	}
	request := &packet.TCPLayer{SrcPort: 1234, DstPort: 80, Flags: packet.ACK}
	reply := &packet.TCPLayer{SrcPort: 80, DstPort: 1234, Flags: packet.ACK, Options: []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}}
	udp := &packet.UDPLayer{SrcPort: 5, DstPort: 53}
	odd := packet.Bytes("an odd number of bytes.") // 23
	elsewhere := netip.MustParseAddr("200.1.2.3")
	neighbour := func(flags, option byte, mac net.HardwareAddr) packet.Bytes {
		b := append([]byte{flags, 0, 0, 0}, cmpVIP6.AsSlice()...)
		return append(append(b, option, 1), mac...)
	}
	solicited := netip.MustParseAddr("ff02::1:ff00:10")
	// shadow is a frame addressed to the first server and cut after n bytes.
	shadow := func(frame []byte, n int) []byte {
		b := bytes.Clone(frame[:n])
		packet.Ethernet(b).SetDst(cmpServers[0])
		packet.Ethernet(b).SetSrc(cmpGateway)
		return b
	}
	suppressed4 := packet.Build(eth(cmpServers[1], cmpGateway), v4(cmpVIP, cmpClient, 64), reply, odd)
	suppressed6 := packet.Build(eth(cmpServers[1], cmpGateway), v6(cmpVIP6, cmpClient6, 64), reply, odd)
	copies := func(layers ...packet.Layer) []switchtest.Frame {
		var out []switchtest.Frame
		for i, mac := range cmpServers {
			out = append(out, switchtest.Frame{Port: uint16(i + 2),
				Data: packet.Build(append([]packet.Layer{eth(cmpGateway, mac)}, layers...)...)})
		}
		return out
	}
	one := func(port uint16, layers ...packet.Layer) []switchtest.Frame {
		return []switchtest.Frame{{Port: port, Data: packet.Build(layers...)}}
	}

	for _, tc := range []struct {
		name  string
		port  uint16
		frame []byte
		want  []switchtest.Frame
		drop  string // of p4.DropReasons
	}{
		{name: "request", port: 1, frame: packet.Build(in, v4(cmpClient, cmpVIP, 64), request, odd),
			want: copies(v4(cmpClient, cmpVIP, 63), request, odd)},
		{name: "request with IPv4 options", port: 1,
			frame: packet.Build(in, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP, Options: []byte{1, 1, 1, 0}}, request, odd),
			want:  copies(&packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP, TTL: 63, Options: []byte{1, 1, 1, 0}}, request, odd)},
		{name: "request, IPv6", port: 1, frame: packet.Build(in, v6(cmpClient6, cmpVIP6, 64), request, odd),
			want: copies(v6(cmpClient6, cmpVIP6, 63), request, odd)},
		{name: "another port of the VIP", port: 1,
			frame: packet.Build(in, v4(cmpClient, cmpVIP, 64), &packet.TCPLayer{DstPort: 81}), drop: "no route"},
		{name: "a fragment for the VIP", port: 1,
			frame: packet.Build(in, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP, Flags: 1, Protocol: 6}, odd), drop: "no route"},
		{name: "reply of the active server", port: 2,
			frame: packet.Build(eth(cmpServers[0], cmpGateway), v4(cmpVIP, cmpClient, 64), reply, odd),
			want:  one(1, eth(cmpGateway, cmpClientMAC), v4(cmpVIP, cmpClient, 63), reply, odd)},
		{name: "reply of the active server, IPv6", port: 2,
			frame: packet.Build(eth(cmpServers[0], cmpGateway), v6(cmpVIP6, cmpClient6, 64), reply, odd),
			want:  one(1, eth(cmpGateway, cmpClientMAC), v6(cmpVIP6, cmpClient6, 63), reply, odd)},
		{name: "reply of the other server", port: 3, frame: suppressed4,
			want: []switchtest.Frame{{Port: 2, Data: shadow(suppressed4, 14+20+32)}}},
		{name: "reply of the other server, IPv6", port: 3, frame: suppressed6,
			want: []switchtest.Frame{{Port: 2, Data: shadow(suppressed6, 14+40+32)}}},
		{name: "UDP of the other server", port: 3,
			frame: packet.Build(eth(cmpServers[1], cmpGateway), v4(cmpVIP, cmpClient, 64), udp, odd), drop: "suppressed"},
		{name: "a server at another's port", port: 3,
			frame: packet.Build(eth(cmpServers[0], cmpGateway), v4(cmpVIP, cmpClient, 64), reply, odd), drop: "spoofed"},
		{name: "a client with the VIP's address", port: 1, frame: packet.Build(in, v4(cmpVIP, cmpClient, 64), reply), drop: "spoofed"},
		{name: "the same, IPv6", port: 1, frame: packet.Build(in, v6(cmpVIP6, cmpClient6, 64), reply), drop: "spoofed"},
		{name: "routed", port: 1, frame: packet.Build(in, v4(cmpClient, netip.MustParseAddr("10.1.2.3"), 2), udp, odd),
			want: one(4, eth(cmpGateway, cmpClientMAC), v4(cmpClient, netip.MustParseAddr("10.1.2.3"), 1), udp, odd)},
		{name: "no route", port: 1, frame: packet.Build(in, v4(cmpClient, elsewhere, 64), udp), drop: "no route"},
		{name: "TTL", port: 1, frame: packet.Build(in, v4(cmpClient, cmpVIP, 1), request), drop: "ttl"},
		{name: "hop limit", port: 1, frame: packet.Build(in, v6(cmpClient6, cmpVIP6, 1), request), drop: "ttl"},
		{name: "checksum", port: 1, frame: packet.Build(in, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP, Checksum: 0x1234}, request), drop: "checksum"},
		{name: "truncated", port: 1, frame: packet.Build(in, v4(cmpClient, cmpVIP, 64), request)[:14+20+19], drop: "parser"},
		{name: "not even Ethernet", port: 1, frame: []byte{1, 2, 3}, drop: "parser"},
		{name: "not IP", port: 1, frame: packet.Build(&packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway, Type: 0x88cc}, odd), drop: "not ip"},
		{name: "VLAN", port: 1, frame: packet.Build(&packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway, Type: 0x8100}, odd), drop: "not ip"},
		{name: "ARP for the VIP", port: 5,
			frame: packet.Build(eth(cmpClientMAC, broadcast), &packet.ARPLayer{Opcode: 1, SenderMAC: cmpClientMAC, SenderIP: cmpClient, TargetIP: cmpVIP}, packet.Bytes(make([]byte, 18))),
			want: one(5, eth(cmpGateway, cmpClientMAC), &packet.ARPLayer{Opcode: 2, SenderMAC: cmpGateway, SenderIP: cmpVIP,
				TargetMAC: cmpClientMAC, TargetIP: cmpClient}, packet.Bytes(make([]byte, 18)))},
		{name: "ARP for another", port: 5,
			frame: packet.Build(eth(cmpClientMAC, broadcast), &packet.ARPLayer{Opcode: 1, SenderMAC: cmpClientMAC, SenderIP: cmpClient, TargetIP: elsewhere}), drop: "not ip"},
		{name: "ARP reply", port: 5,
			frame: packet.Build(eth(cmpClientMAC, cmpGateway), &packet.ARPLayer{Opcode: 2, SenderMAC: cmpClientMAC, SenderIP: cmpClient, TargetIP: cmpVIP}), drop: "not ip"},
		{name: "neighbour solicitation", port: 5,
			frame: packet.Build(in, v6(cmpClient6, solicited, 255), &packet.ICMPv6Layer{Type: 135}, neighbour(0, 1, cmpClientMAC)),
			want: one(5, eth(cmpGateway, cmpClientMAC), v6(cmpVIP6, cmpClient6, 255), &packet.ICMPv6Layer{Type: 136},
				neighbour(0xe0, 2, cmpGateway))},
		{name: "neighbour solicitation from elsewhere", port: 5,
			frame: packet.Build(in, v6(cmpClient6, solicited, 254), &packet.ICMPv6Layer{Type: 135}, neighbour(0, 1, cmpClientMAC)), drop: "no route"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := drops(h)
			if diff := cmp.Diff(asText(tc.want...), asText(h.Send(tc.port, tc.frame)...)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			got := ""
			for name, n := range drops(h) {
				for ; n > before[name]; n-- {
					got += name
				}
			}
			if got != tc.drop {
				t.Errorf("counted as dropped for %q, want %q", got, tc.drop)
			}
		})
	}

	count := func(name string, index int) int64 {
		n, _ := h.Counter(name, index)
		return n
	}
	// Of the first server: two replies released; of the second: three suppressed,
	// two of them shadowed.
	got := []int64{count("replica_counter", 1*4+p4.VerdictReleased), count("replica_counter", 1*4+p4.VerdictSuppressed),
		count("replica_counter", 2*4+p4.VerdictReleased), count("replica_counter", 2*4+p4.VerdictSuppressed), count("replica_counter", 2*4+p4.VerdictShadowed)}
	if diff := cmp.Diff([]int64{2, 0, 0, 3, 2}, got); diff != "" {
		t.Errorf("replica_counter, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]int64{3, 3}, []int64{count("copy_counter", 1), count("copy_counter", 2)}); diff != "" {
		t.Errorf("copy_counter, -want +got:\n%s", diff)
	}
}

// drops reads drop_counter by reason.
func drops(h *switchtest.Harness) map[string]int64 {
	out := map[string]int64{}
	for i, name := range p4.DropReasons {
		out[name], _ = h.Counter("drop_counter", i)
	}
	return out
}

// TestFailover changes one entry, by one MODIFY, and finds the roles of two servers
// exchanged.
func TestFailover(t *testing.T) {
	js, info := switchtest.Build(t, "understudy")
	h := switchtest.New(t, js, info)
	understudyEntries(h)
	h.Insert("shadow", match{"pair": 1, "active": 2}, "shadow_to", args{"port": 3, "rid": 2})
	var replies [2][]byte
	for i := range replies {
		replies[i] = packet.Build(&packet.EthernetLayer{Src: cmpServers[i], Dst: cmpGateway}, &packet.IPv4Layer{Src: cmpVIP, Dst: cmpClient},
			&packet.TCPLayer{SrcPort: 80, DstPort: 1234, Flags: packet.ACK}, packet.Bytes("some bytes"))
	}
	type result struct{ First, Second [2]int } // port and length of what leaves
	run := func() (r result) {
		for i, to := range []*[2]int{&r.First, &r.Second} {
			for _, f := range h.Send(uint16(i+2), replies[i]) {
				*to = [2]int{int(f.Port), len(f.Data)}
			}
		}
		return r
	}
	whole, cut := len(replies[0]), 14+20+20
	if diff := cmp.Diff(result{[2]int{1, whole}, [2]int{2, cut}}, run()); diff != "" {
		t.Errorf("before, -want +got:\n%s", diff)
	}
	h.Write(p4v1.Update_MODIFY, switchtest.TableEntity(h.Entry("active", match{"pair": 1}, 0, "set_active", args{"replica": 2, "epoch": 8})))
	if diff := cmp.Diff(result{[2]int{3, cut}, [2]int{1, whole}}, run()); diff != "" {
		t.Errorf("after, -want +got:\n%s", diff)
	}
	h.Delete("active", match{"pair": 1})
	before := drops(h)["no active"]
	if diff := cmp.Diff(result{}, run()); diff != "" {
		t.Errorf("without an active server, -want +got:\n%s", diff)
	}
	if n := drops(h)["no active"] - before; n != 2 {
		t.Errorf("%d packets counted without an active server, want 2", n)
	}
}

// TestHeartbeat punts a heartbeat with the port on which it came.
func TestHeartbeat(t *testing.T) {
	js, info := switchtest.Build(t, "understudy")
	h := switchtest.New(t, js, info)
	understudyEntries(h)
	frame := packet.Build(&packet.EthernetLayer{Src: cmpServers[1], Dst: cmpGateway}, &packet.IPv4Layer{Src: netip.MustParseAddr("10.9.9.1"), Dst: netip.MustParseAddr("10.9.9.9")},
		&packet.UDPLayer{DstPort: 7}, packet.Bytes("alive"))
	if out := h.Send(3, frame); len(out) > 0 {
		t.Errorf("it also left: %v", asText(out...))
	}
	payload, metadata := h.PacketIn()
	if diff := cmp.Diff(map[string]uint64{"ingress_port": 3, "pad": 0}, metadata); diff != "" {
		t.Errorf("metadata, -want +got:\n%s", diff)
	}
	if !bytes.Equal(payload, frame) {
		t.Errorf("payload %x, want %x", payload, frame)
	}
	out := h.PacketOut(frame, args{"egress_port": 6})
	if out.Port != 6 || !bytes.Equal(out.Data, frame) {
		t.Errorf("a packet-out left as %v at %d", asText(out), out.Port)
	}
}
