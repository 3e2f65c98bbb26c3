// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"fmt"
	"net"
	"net/netip"
)

// A Layer is a piece of a frame: *EthernetLayer, *ARPLayer, *IPv4Layer, *IPv6Layer,
// *TCPLayer, *UDPLayer, *ICMPv6Layer or Bytes.
type Layer interface {
	// encode puts the layer in front of rest. network is the IP layer around it.
	encode(rest []byte, network Layer) []byte
}

// Build puts layers one into the other, from the outermost to the innermost, and
// fills in lengths, types, protocols and checksums that were left zero:
//
//	frame := packet.Build(
//		&packet.EthernetLayer{Src: a, Dst: b},
//		&packet.IPv4Layer{Src: c, Dst: d},
//		&packet.TCPLayer{SrcPort: 1234, DstPort: 80, Flags: packet.SYN})
//
// It panics if an address has the wrong family or a MAC address the wrong length.
func Build(layers ...Layer) []byte {
	var b []byte
	for i := len(layers) - 1; i >= 0; i-- {
		var network Layer
		for j := i; j >= 0 && network == nil; j-- {
			switch layers[j].(type) {
			case *IPv4Layer, *IPv6Layer:
				network = layers[j]
			}
		}
		switch l := layers[i].(type) {
		case *EthernetLayer:
			if l.Type == 0 && i+1 < len(layers) {
				c := *l
				c.Type = etherType(layers[i+1])
				b = c.encode(b, nil)
				continue
			}
		case *IPv4Layer:
			if l.Protocol == 0 && i+1 < len(layers) {
				c := *l
				c.Protocol = protocol(layers[i+1])
				b = c.encode(b, nil)
				continue
			}
		case *IPv6Layer:
			if l.NextHeader == 0 && i+1 < len(layers) {
				c := *l
				c.NextHeader = protocol(layers[i+1])
				b = c.encode(b, nil)
				continue
			}
		}
		b = layers[i].encode(b, network)
	}
	return b
}

func etherType(l Layer) uint16 {
	switch l.(type) {
	case *ARPLayer:
		return EtherTypeARP
	case *IPv4Layer:
		return EtherTypeIPv4
	case *IPv6Layer:
		return EtherTypeIPv6
	}
	return 0
}

func protocol(l Layer) uint8 {
	switch l.(type) {
	case *TCPLayer:
		return ProtocolTCP
	case *UDPLayer:
		return ProtocolUDP
	case *ICMPv6Layer:
		return ProtocolICMPv6
	}
	return 0
}

func front(n int, rest []byte) []byte { return append(make([]byte, n, n+len(rest)), rest...) }

func putMAC(b []byte, a net.HardwareAddr) {
	if a != nil && len(a) != 6 {
		panic(fmt.Sprintf("packet: MAC address %v", a))
	}
	copy(b[:6], a)
}

func put4(b []byte, a netip.Addr) {
	if !a.IsValid() {
		return
	}
	x := a.As4()
	copy(b, x[:])
}

func put16(b []byte, a netip.Addr) {
	if !a.IsValid() {
		return
	}
	x := a.As16()
	copy(b, x[:])
}

// Bytes is a payload.
type Bytes []byte

func (p Bytes) encode(rest []byte, _ Layer) []byte { return append(append([]byte(nil), p...), rest...) }

// EthernetLayer is an Ethernet header. A Type of 0 follows from the next layer.
type EthernetLayer struct {
	Dst, Src net.HardwareAddr
	Type     uint16
}

func (l *EthernetLayer) encode(rest []byte, _ Layer) []byte {
	b := front(EthernetLen, rest)
	putMAC(b, l.Dst)
	putMAC(b[6:], l.Src)
	be.PutUint16(b[12:], l.Type)
	return b
}

// ARPLayer is an ARP message for Ethernet and IPv4.
type ARPLayer struct {
	Opcode               uint16
	SenderMAC, TargetMAC net.HardwareAddr
	SenderIP, TargetIP   netip.Addr
}

func (l *ARPLayer) encode(rest []byte, _ Layer) []byte {
	b := front(ARPLen, rest)
	be.PutUint16(b, 1)
	be.PutUint16(b[2:], EtherTypeIPv4)
	b[4], b[5] = 6, 4
	be.PutUint16(b[6:], l.Opcode)
	putMAC(b[8:], l.SenderMAC)
	put4(b[14:], l.SenderIP)
	putMAC(b[18:], l.TargetMAC)
	put4(b[24:], l.TargetIP)
	return b
}

// IPv4Layer is an IPv4 header. TTL 0 becomes 64, use NoTTL for a real 0; Protocol
// 0 follows from the next layer, TotalLen 0 from the payload and Checksum 0 from
// the header.
type IPv4Layer struct {
	Src, Dst       netip.Addr
	TTL            uint8
	NoTTL          bool
	Protocol       uint8
	TOS            uint8
	ID             uint16
	Flags          uint8 // 3 bits: reserved, DF, MF
	FragmentOffset uint16
	TotalLen       uint16
	Checksum       uint16
	Options        []byte // a multiple of 4 bytes, at most 40
}

func (l *IPv4Layer) encode(rest []byte, _ Layer) []byte {
	n := IPv4MinLen + len(l.Options)
	if len(l.Options)%4 != 0 || n > 60 {
		panic(fmt.Sprintf("packet: IPv4 options of %d bytes", len(l.Options)))
	}
	b := front(n, rest)
	b[0], b[1] = 0x40|uint8(n/4), l.TOS
	be.PutUint16(b[2:], uint16(len(b)))
	if l.TotalLen != 0 {
		be.PutUint16(b[2:], l.TotalLen)
	}
	be.PutUint16(b[4:], l.ID)
	be.PutUint16(b[6:], uint16(l.Flags)<<13|l.FragmentOffset)
	b[8] = l.TTL
	if l.TTL == 0 && !l.NoTTL {
		b[8] = 64
	}
	b[9] = l.Protocol
	put4(b[12:], l.Src)
	put4(b[16:], l.Dst)
	copy(b[20:], l.Options)
	sum := l.Checksum
	if sum == 0 {
		sum = IPv4(b).ComputeChecksum()
	}
	IPv4(b).SetChecksum(sum)
	return b
}

// IPv6Layer is an IPv6 header. HopLimit 0 becomes 64, use NoHops for a real 0;
// NextHeader 0 follows from the next layer and PayloadLen 0 from the payload.
type IPv6Layer struct {
	Src, Dst     netip.Addr
	HopLimit     uint8
	NoHops       bool
	NextHeader   uint8
	TrafficClass uint8
	FlowLabel    uint32
	PayloadLen   uint16
}

func (l *IPv6Layer) encode(rest []byte, _ Layer) []byte {
	b := front(IPv6Len, rest)
	be.PutUint32(b, 6<<28|uint32(l.TrafficClass)<<20|l.FlowLabel&0xfffff)
	be.PutUint16(b[4:], uint16(len(rest)))
	if l.PayloadLen != 0 {
		be.PutUint16(b[4:], l.PayloadLen)
	}
	b[6], b[7] = l.NextHeader, l.HopLimit
	if l.HopLimit == 0 && !l.NoHops {
		b[7] = 64
	}
	put16(b[8:], l.Src)
	put16(b[24:], l.Dst)
	return b
}

// transportChecksum computes the checksum of a segment whose own is zero.
func transportChecksum(b []byte, network Layer, protocol uint8) uint16 {
	var src, dst netip.Addr
	switch n := network.(type) {
	case *IPv4Layer:
		src, dst = n.Src, n.Dst
	case *IPv6Layer:
		src, dst = n.Src, n.Dst
	default:
		return 0
	}
	return Checksum(b, PseudoHeader(src, dst, protocol, len(b)))
}

// TCPLayer is a TCP header. A Checksum of 0 is computed.
type TCPLayer struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            TCPFlags
	Window           uint16
	Checksum         uint16
	Options          []byte // a multiple of 4 bytes, at most 40
}

func (l *TCPLayer) encode(rest []byte, network Layer) []byte {
	n := TCPMinLen + len(l.Options)
	if len(l.Options)%4 != 0 || n > 60 {
		panic(fmt.Sprintf("packet: TCP options of %d bytes", len(l.Options)))
	}
	b := front(n, rest)
	be.PutUint16(b, l.SrcPort)
	be.PutUint16(b[2:], l.DstPort)
	be.PutUint32(b[4:], l.Seq)
	be.PutUint32(b[8:], l.Ack)
	b[12], b[13] = uint8(n/4)<<4, uint8(l.Flags)
	be.PutUint16(b[14:], l.Window)
	copy(b[20:], l.Options)
	sum := l.Checksum
	if sum == 0 {
		sum = transportChecksum(b, network, ProtocolTCP)
	}
	be.PutUint16(b[16:], sum)
	return b
}

// UDPLayer is a UDP header. A Checksum of 0 is computed, unless NoChecksum is set.
type UDPLayer struct {
	SrcPort, DstPort uint16
	Checksum         uint16
	NoChecksum       bool
}

func (l *UDPLayer) encode(rest []byte, network Layer) []byte {
	b := front(UDPLen, rest)
	be.PutUint16(b, l.SrcPort)
	be.PutUint16(b[2:], l.DstPort)
	be.PutUint16(b[4:], uint16(len(b)))
	sum := l.Checksum
	if sum == 0 && !l.NoChecksum {
		if sum = transportChecksum(b, network, ProtocolUDP); sum == 0 {
			sum = 0xffff
		}
	}
	be.PutUint16(b[6:], sum)
	return b
}

// ICMPv6Layer is the first four bytes of an ICMPv6 message. A Checksum of 0 is
// computed.
type ICMPv6Layer struct {
	Type, Code uint8
	Checksum   uint16
}

func (l *ICMPv6Layer) encode(rest []byte, network Layer) []byte {
	b := front(ICMPv6Len, rest)
	b[0], b[1] = l.Type, l.Code
	sum := l.Checksum
	if sum == 0 {
		sum = transportChecksum(b, network, ProtocolICMPv6)
	}
	be.PutUint16(b[2:], sum)
	return b
}
