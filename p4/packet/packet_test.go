// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	ip4A = netip.MustParseAddr("192.0.2.1")
	ip4B = netip.MustParseAddr("198.51.100.7")
	ip6A = netip.MustParseAddr("2001:db8::1")
	ip6B = netip.MustParseAddr("2001:db8:1::7")
)

func TestChecksum(t *testing.T) {
	for _, tc := range []struct {
		name string
		hex  string
		want uint16
	}{
		{"empty", "", 0xffff},
		{"example of RFC 1071 section 3", "0001f203f4f5f6f7", ^uint16(0xddf2)},
		{"odd length", "0102ff", ^uint16(0x0003)},
		{"IPv4 header without its checksum", "4500003c1c4640004006" + "0000" + "ac100a63ac100a0c", 0xb1e6},
		{"IPv4 header with its checksum", "4500003c1c4640004006" + "b1e6" + "ac100a63ac100a0c", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := hex.DecodeString(tc.hex)
			if err != nil {
				t.Fatal(err)
			}
			if got := Checksum(b, 0); got != tc.want {
				t.Errorf("got %#04x, want %#04x", got, tc.want)
			}
		})
	}
}

func TestBuildAndParse(t *testing.T) {
	eth := &EthernetLayer{Src: macA, Dst: macB}
	for _, tc := range []struct {
		name   string
		layers []Layer
		want   string
	}{
		{"arp", []Layer{eth, &ARPLayer{Opcode: 1, SenderMAC: macA, SenderIP: ip4A, TargetIP: ip4B}},
			"02:00:00:00:00:0a > 02:00:00:00:00:0b arp op 1 02:00:00:00:00:0a 192.0.2.1 > 00:00:00:00:00:00 198.51.100.7 payload 0"},
		{"tcp over ipv4", []Layer{eth, &IPv4Layer{Src: ip4A, Dst: ip4B}, &TCPLayer{SrcPort: 1, DstPort: 80, Seq: 5, Flags: SYN | ACK}, Bytes("hello")},
			"02:00:00:00:00:0a > 02:00:00:00:00:0b 192.0.2.1 > 198.51.100.7 ttl 64 tcp 1 > 80 [S.] seq 5 ack 0 payload 5"},
		{"tcp with all options", []Layer{eth, &IPv4Layer{Src: ip4A, Dst: ip4B, Options: make([]byte, 40)}, &TCPLayer{SrcPort: 1, DstPort: 80, Options: make([]byte, 40)}, Bytes("odd")},
			"02:00:00:00:00:0a > 02:00:00:00:00:0b 192.0.2.1 > 198.51.100.7 ttl 64 tcp 1 > 80 [] seq 0 ack 0 payload 3"},
		{"udp over ipv6", []Layer{eth, &IPv6Layer{Src: ip6A, Dst: ip6B, HopLimit: 9}, &UDPLayer{SrcPort: 53, DstPort: 54}, Bytes("x")},
			"02:00:00:00:00:0a > 02:00:00:00:00:0b 2001:db8::1 > 2001:db8:1::7 hops 9 udp 53 > 54 payload 1"},
		{"icmpv6", []Layer{eth, &IPv6Layer{Src: ip6A, Dst: ip6B}, &ICMPv6Layer{Type: 128}, Bytes("ping")},
			"02:00:00:00:00:0a > 02:00:00:00:00:0b 2001:db8::1 > 2001:db8:1::7 hops 64 icmpv6 128/0 payload 4"},
		{"later fragment", []Layer{eth, &IPv4Layer{Src: ip4A, Dst: ip4B, FragmentOffset: 100, Protocol: ProtocolTCP}, Bytes("some of it")},
			"02:00:00:00:00:0a > 02:00:00:00:00:0b 192.0.2.1 > 198.51.100.7 ttl 64 protocol 6 payload 10"},
		{"unknown type", []Layer{&EthernetLayer{Src: macA, Dst: macB, Type: 0x88cc}, Bytes("lldp")},
			"02:00:00:00:00:0a > 02:00:00:00:00:0b type 0x88cc payload 4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			frame := Build(tc.layers...)
			p := Parse(frame)
			if diff := cmp.Diff(tc.want, p.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if p.IPv4 != nil && (!p.IPv4.ChecksumOK() || p.IPv4.Checksum() != p.IPv4.ComputeChecksum()) {
				t.Errorf("the IPv4 checksum %#04x is wrong", p.IPv4.Checksum())
			}
			if !p.TransportChecksumOK() {
				t.Error("the transport checksum is wrong")
			}
			// Padding is no payload.
			padded := Parse(append(bytes.Clone(frame), make([]byte, 6)...))
			if p.IPv4 != nil || p.IPv6 != nil {
				if diff := cmp.Diff(p.String(), padded.String()); diff != "" {
					t.Errorf("with padding, -want +got:\n%s", diff)
				}
			}
		})
	}
}

func TestUDPChecksumZero(t *testing.T) {
	// RFC 768: a checksum of 0 is sent as all ones. Look for such a datagram.
	for i := range 1 << 16 {
		p := Parse(Build(&EthernetLayer{}, &IPv4Layer{Src: ip4A, Dst: ip4B}, &UDPLayer{SrcPort: uint16(i)}))
		if p.UDP.Checksum() == 0 {
			t.Fatalf("source port %d: checksum 0", i)
		}
		if p.UDP.Checksum() == 0xffff {
			if !p.TransportChecksumOK() {
				t.Error("all ones is wrong")
			}
			return
		}
	}
	t.Error("no datagram has the checksum 0")
}

func FuzzParse(f *testing.F) {
	eth := &EthernetLayer{Src: macA, Dst: macB}
	f.Add(Build(eth, &ARPLayer{Opcode: 1}))
	f.Add(Build(eth, &IPv4Layer{Src: ip4A, Dst: ip4B, Options: make([]byte, 8)}, &TCPLayer{Options: make([]byte, 12)}, Bytes("x")))
	f.Add(Build(eth, &IPv6Layer{Src: ip6A, Dst: ip6B}, &UDPLayer{}))
	f.Add(Build(eth, &IPv6Layer{Src: ip6A, Dst: ip6B}, &ICMPv6Layer{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := Parse(b)
		_ = p.String()
		_ = p.TransportChecksumOK()
		if p.IPv4 != nil {
			_, _, _ = p.IPv4.ChecksumOK(), p.IPv4.Options(), p.IPv4.ComputeChecksum()
		}
		if p.TCP != nil {
			_ = p.TCP.Options()
		}
		if len(p.Payload) > len(b) {
			t.Errorf("a payload of %d bytes in a frame of %d", len(p.Payload), len(b))
		}
	})
}
