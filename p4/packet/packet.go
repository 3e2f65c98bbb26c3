// SPDX-License-Identifier: Apache-2.0

// Package packet reads and builds Ethernet frames.
//
// A header is a view: a named byte slice whose methods know the offsets. A view
// that Parse or one of the As functions returned is long enough for all of its
// methods; a slice that was converted by hand must have at least the type's
// minimum length, or they panic. Views share their memory with the frame: a setter
// changes it, and leaves checksums alone.
//
// Frames are built with Build.
package packet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// EtherTypes.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

// IP protocol numbers.
const (
	ProtocolICMP   = 1
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
)

// Minimum lengths of headers, in bytes.
const (
	EthernetLen = 14
	ARPLen      = 28
	IPv4MinLen  = 20
	IPv6Len     = 40
	TCPMinLen   = 20
	UDPLen      = 8
	ICMPv6Len   = 4
)

var be = binary.BigEndian

// A Packet is a frame and the headers in it. Those that are not there are nil.
type Packet struct {
	Frame    []byte
	Ethernet Ethernet
	ARP      ARP
	IPv4     IPv4
	IPv6     IPv6
	TCP      TCP
	UDP      UDP
	ICMPv6   ICMPv6
	// Payload is what follows the last header that was recognised, without the
	// padding that Ethernet may have added.
	Payload []byte
}

// Parse finds the headers of a frame. It never fails: what is too short or unknown
// is payload. Fragments beyond the first have no transport header; IPv6 extension
// headers are not walked.
func Parse(frame []byte) Packet {
	p := Packet{Frame: frame, Payload: frame}
	var ok bool
	if p.Ethernet, ok = AsEthernet(frame); !ok {
		return p
	}
	p.Payload = p.Ethernet.Payload()
	switch p.Ethernet.Type() {
	case EtherTypeARP:
		if p.ARP, ok = AsARP(p.Payload); ok {
			p.Payload = p.Payload[ARPLen:]
		}
	case EtherTypeIPv4:
		if p.IPv4, ok = AsIPv4(p.Payload); ok {
			p.Payload = p.IPv4.Payload()
			if p.IPv4.FragmentOffset() == 0 {
				p.transport(p.IPv4.Protocol())
			}
		}
	case EtherTypeIPv6:
		if p.IPv6, ok = AsIPv6(p.Payload); ok {
			p.Payload = p.IPv6.Payload()
			p.transport(p.IPv6.NextHeader())
		}
	}
	return p
}

func (p *Packet) transport(protocol uint8) {
	var ok bool
	switch protocol {
	case ProtocolTCP:
		if p.TCP, ok = AsTCP(p.Payload); ok {
			p.Payload = p.TCP.Payload()
		}
	case ProtocolUDP:
		if p.UDP, ok = AsUDP(p.Payload); ok {
			p.Payload = p.UDP.Payload()
		}
	case ProtocolICMPv6:
		if p.ICMPv6, ok = AsICMPv6(p.Payload); ok {
			p.Payload = p.ICMPv6.Payload()
		}
	}
}

// Src returns the IP source address, or the zero Addr.
func (p *Packet) Src() netip.Addr {
	switch {
	case p.IPv4 != nil:
		return p.IPv4.Src()
	case p.IPv6 != nil:
		return p.IPv6.Src()
	}
	return netip.Addr{}
}

// Dst returns the IP destination address, or the zero Addr.
func (p *Packet) Dst() netip.Addr {
	switch {
	case p.IPv4 != nil:
		return p.IPv4.Dst()
	case p.IPv6 != nil:
		return p.IPv6.Dst()
	}
	return netip.Addr{}
}

// TransportChecksumOK tells whether the TCP, UDP or ICMPv6 checksum is right. A
// packet without one is fine.
func (p *Packet) TransportChecksumOK() bool {
	var segment []byte
	var protocol uint8
	switch {
	case p.TCP != nil:
		segment, protocol = p.TCP, ProtocolTCP
	case p.UDP != nil && (p.UDP.Checksum() != 0 || p.IPv6 != nil):
		segment, protocol = p.UDP, ProtocolUDP
	case p.ICMPv6 != nil:
		segment, protocol = p.ICMPv6, ProtocolICMPv6
	default:
		return true
	}
	return Checksum(segment, PseudoHeader(p.Src(), p.Dst(), protocol, len(segment))) == 0
}

// String describes the packet on one line, for test failures.
func (p Packet) String() string {
	var b strings.Builder
	if p.Ethernet == nil {
		return fmt.Sprintf("%d bytes", len(p.Frame))
	}
	fmt.Fprintf(&b, "%v > %v", p.Ethernet.Src(), p.Ethernet.Dst())
	switch {
	case p.ARP != nil:
		fmt.Fprintf(&b, " arp op %d %v %v > %v %v", p.ARP.Opcode(), p.ARP.SenderMAC(), p.ARP.SenderIP(), p.ARP.TargetMAC(), p.ARP.TargetIP())
	case p.IPv4 != nil:
		fmt.Fprintf(&b, " %v > %v ttl %d", p.IPv4.Src(), p.IPv4.Dst(), p.IPv4.TTL())
	case p.IPv6 != nil:
		fmt.Fprintf(&b, " %v > %v hops %d", p.IPv6.Src(), p.IPv6.Dst(), p.IPv6.HopLimit())
	default:
		fmt.Fprintf(&b, " type %#04x", p.Ethernet.Type())
	}
	switch {
	case p.TCP != nil:
		fmt.Fprintf(&b, " tcp %d > %d [%v] seq %d ack %d", p.TCP.SrcPort(), p.TCP.DstPort(), p.TCP.Flags(), p.TCP.Seq(), p.TCP.Ack())
	case p.UDP != nil:
		fmt.Fprintf(&b, " udp %d > %d", p.UDP.SrcPort(), p.UDP.DstPort())
	case p.ICMPv6 != nil:
		fmt.Fprintf(&b, " icmpv6 %d/%d", p.ICMPv6.Type(), p.ICMPv6.Code())
	case p.IPv4 != nil:
		fmt.Fprintf(&b, " protocol %d", p.IPv4.Protocol())
	case p.IPv6 != nil:
		fmt.Fprintf(&b, " protocol %d", p.IPv6.NextHeader())
	}
	fmt.Fprintf(&b, " payload %d", len(p.Payload))
	return b.String()
}

// Ethernet is an Ethernet II header and what follows it.
//
//	0                 6                 12      14
//	| destination MAC | source MAC      | type  | payload
type Ethernet []byte

// AsEthernet returns b as an Ethernet frame, if it is long enough.
func AsEthernet(b []byte) (Ethernet, bool) {
	if len(b) < EthernetLen {
		return nil, false
	}
	return b, true
}

// Dst returns a copy of the destination address.
func (e Ethernet) Dst() net.HardwareAddr { return net.HardwareAddr(append([]byte(nil), e[0:6]...)) }

// SetDst writes a destination address of 6 bytes.
func (e Ethernet) SetDst(a net.HardwareAddr) { copy(e[0:6], a) }

// Src returns a copy of the source address.
func (e Ethernet) Src() net.HardwareAddr { return net.HardwareAddr(append([]byte(nil), e[6:12]...)) }

// SetSrc writes a source address of 6 bytes.
func (e Ethernet) SetSrc(a net.HardwareAddr) { copy(e[6:12], a) }

// Type returns the EtherType.
func (e Ethernet) Type() uint16 { return be.Uint16(e[12:]) }

// SetType writes the EtherType.
func (e Ethernet) SetType(t uint16) { be.PutUint16(e[12:], t) }

// Payload returns what follows the header.
func (e Ethernet) Payload() []byte { return e[EthernetLen:] }

// ARP is an ARP message for Ethernet and IPv4 (RFC 826).
//
//	0        2        4    5    6    8            14           18           24
//	| hw type| proto  | hl | pl | op | sender MAC | sender IP  | target MAC | target IP
type ARP []byte

// AsARP returns b as an ARP message, if it is one for Ethernet and IPv4.
func AsARP(b []byte) (ARP, bool) {
	if len(b) < ARPLen || be.Uint16(b) != 1 || be.Uint16(b[2:]) != EtherTypeIPv4 || b[4] != 6 || b[5] != 4 {
		return nil, false
	}
	return b, true
}

// Opcode is 1 for a request and 2 for a reply.
func (a ARP) Opcode() uint16 { return be.Uint16(a[6:]) }

// SenderMAC returns a copy of the sender's hardware address.
func (a ARP) SenderMAC() net.HardwareAddr {
	return net.HardwareAddr(append([]byte(nil), a[8:14]...))
}

// SenderIP returns the sender's protocol address.
func (a ARP) SenderIP() netip.Addr { return netip.AddrFrom4([4]byte(a[14:18])) }

// TargetMAC returns a copy of the target's hardware address.
func (a ARP) TargetMAC() net.HardwareAddr {
	return net.HardwareAddr(append([]byte(nil), a[18:24]...))
}

// TargetIP returns the target's protocol address.
func (a ARP) TargetIP() netip.Addr { return netip.AddrFrom4([4]byte(a[24:28])) }

// IPv4 is an IPv4 header and what follows it (RFC 791).
//
//	 0                   1                   2                   3
//	|Version|  IHL  |      TOS      |         Total length          |
//	|        Identification         |Flags|     Fragment offset     |
//	|      TTL      |   Protocol    |            Checksum           |
//	|                        Source address                         |
//	|                      Destination address                      |
//	|                      Options, IHL*4-20 bytes                  |
type IPv4 []byte

// AsIPv4 returns b as an IPv4 packet, if it has a header with all its options. The
// total length may be wrong, as it is in a packet that was truncated; then the
// packet ends with b.
func AsIPv4(b []byte) (IPv4, bool) {
	if len(b) < IPv4MinLen || b[0]>>4 != 4 {
		return nil, false
	}
	hl := int(b[0]&0xf) * 4
	if hl < IPv4MinLen || len(b) < hl {
		return nil, false
	}
	if n := int(be.Uint16(b[2:])); n >= hl && n < len(b) {
		b = b[:n]
	}
	return b, true
}

// HeaderLen returns the length of the header with its options, in bytes.
func (i IPv4) HeaderLen() int { return int(i[0]&0xf) * 4 }

// TOS returns the type of service, or DSCP and ECN.
func (i IPv4) TOS() uint8 { return i[1] }

// TotalLen returns the length that the header gives for the whole packet, in bytes.
func (i IPv4) TotalLen() int { return int(be.Uint16(i[2:])) }

// ID returns the identification.
func (i IPv4) ID() uint16 { return be.Uint16(i[4:]) }

// DontFragment returns the DF flag.
func (i IPv4) DontFragment() bool { return i[6]&0x40 != 0 }

// MoreFragments returns the MF flag.
func (i IPv4) MoreFragments() bool { return i[6]&0x20 != 0 }

// FragmentOffset returns the offset in units of 8 bytes.
func (i IPv4) FragmentOffset() uint16 { return be.Uint16(i[6:]) & 0x1fff }

// TTL returns the time to live.
func (i IPv4) TTL() uint8 { return i[8] }

// SetTTL writes the time to live.
func (i IPv4) SetTTL(v uint8) { i[8] = v }

// Protocol returns the number of the protocol of the payload.
func (i IPv4) Protocol() uint8 { return i[9] }

// Checksum returns the header checksum.
func (i IPv4) Checksum() uint16 { return be.Uint16(i[10:]) }

// SetChecksum writes the header checksum.
func (i IPv4) SetChecksum(v uint16) { be.PutUint16(i[10:], v) }

// ComputeChecksum returns what the header checksum should be.
func (i IPv4) ComputeChecksum() uint16 {
	sum := sumBytes(i[:10], 0)
	return fold(sumBytes(i[12:i.HeaderLen()], sum))
}

// ChecksumOK tells whether the header checksum is right.
func (i IPv4) ChecksumOK() bool { return Checksum(i[:i.HeaderLen()], 0) == 0 }

// Src returns the source address.
func (i IPv4) Src() netip.Addr { return netip.AddrFrom4([4]byte(i[12:16])) }

// Dst returns the destination address.
func (i IPv4) Dst() netip.Addr { return netip.AddrFrom4([4]byte(i[16:20])) }

// Options returns the options, which may be empty.
func (i IPv4) Options() []byte { return i[IPv4MinLen:i.HeaderLen()] }

// Payload returns what follows the header.
func (i IPv4) Payload() []byte { return i[i.HeaderLen():] }

// IPv6 is an IPv6 header and what follows it (RFC 8200).
//
//	|Version| Traffic class |           Flow label                  |
//	|         Payload length        |  Next header  |   Hop limit   |
//	|                   Source address, 16 bytes                    |
//	|                 Destination address, 16 bytes                 |
type IPv6 []byte

// AsIPv6 returns b as an IPv6 packet, if it is long enough for the header.
func AsIPv6(b []byte) (IPv6, bool) {
	if len(b) < IPv6Len || b[0]>>4 != 6 {
		return nil, false
	}
	if n := IPv6Len + int(be.Uint16(b[4:])); n < len(b) {
		b = b[:n]
	}
	return b, true
}

// TrafficClass returns DSCP and ECN.
func (i IPv6) TrafficClass() uint8 { return uint8(be.Uint16(i) >> 4) }

// FlowLabel returns the 20 bits of the flow label.
func (i IPv6) FlowLabel() uint32 { return be.Uint32(i) & 0xfffff }

// PayloadLen returns the length that the header gives for the payload, in bytes.
func (i IPv6) PayloadLen() int { return int(be.Uint16(i[4:])) }

// NextHeader returns the number of the protocol of the payload.
func (i IPv6) NextHeader() uint8 { return i[6] }

// HopLimit returns the hop limit.
func (i IPv6) HopLimit() uint8 { return i[7] }

// SetHopLimit writes the hop limit.
func (i IPv6) SetHopLimit(v uint8) { i[7] = v }

// Src returns the source address.
func (i IPv6) Src() netip.Addr { return netip.AddrFrom16([16]byte(i[8:24])) }

// Dst returns the destination address.
func (i IPv6) Dst() netip.Addr { return netip.AddrFrom16([16]byte(i[24:40])) }

// Payload returns what follows the header.
func (i IPv6) Payload() []byte { return i[IPv6Len:] }

// TCPFlags are the control bits of a TCP header.
type TCPFlags uint8

// The control bits of RFC 9293.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// String returns a letter per flag, as tcpdump does.
func (f TCPFlags) String() string {
	var b []byte
	for i, c := range []byte("FSRP.UEW") {
		if f>>i&1 != 0 {
			b = append(b, c)
		}
	}
	return string(b)
}

// TCP is a TCP header and what follows it (RFC 9293).
//
//	|          Source port          |       Destination port        |
//	|                        Sequence number                        |
//	|                     Acknowledgement number                    |
//	| Offset| 0 0 0 |    Flags      |            Window             |
//	|           Checksum            |         Urgent pointer        |
//	|                 Options, Offset*4-20 bytes                    |
type TCP []byte

// AsTCP returns b as a TCP segment, if it has a header with all its options.
func AsTCP(b []byte) (TCP, bool) {
	if len(b) < TCPMinLen {
		return nil, false
	}
	if off := int(b[12]>>4) * 4; off < TCPMinLen || len(b) < off {
		return nil, false
	}
	return b, true
}

// SrcPort returns the source port.
func (t TCP) SrcPort() uint16 { return be.Uint16(t) }

// DstPort returns the destination port.
func (t TCP) DstPort() uint16 { return be.Uint16(t[2:]) }

// Seq returns the sequence number.
func (t TCP) Seq() uint32 { return be.Uint32(t[4:]) }

// Ack returns the acknowledgement number.
func (t TCP) Ack() uint32 { return be.Uint32(t[8:]) }

// HeaderLen returns the length of the header with its options, in bytes.
func (t TCP) HeaderLen() int { return int(t[12]>>4) * 4 }

// Flags returns the control bits.
func (t TCP) Flags() TCPFlags { return TCPFlags(t[13]) }

// Window returns the window, unscaled.
func (t TCP) Window() uint16 { return be.Uint16(t[14:]) }

// Checksum returns the checksum.
func (t TCP) Checksum() uint16 { return be.Uint16(t[16:]) }

// Options returns the options, which may be empty.
func (t TCP) Options() []byte { return t[TCPMinLen:t.HeaderLen()] }

// Payload returns what follows the header.
func (t TCP) Payload() []byte { return t[t.HeaderLen():] }

// UDP is a UDP header and what follows it (RFC 768).
//
//	| Source port | Destination port | Length | Checksum | payload
type UDP []byte

// AsUDP returns b as a UDP datagram, if it is long enough for the header.
func AsUDP(b []byte) (UDP, bool) {
	if len(b) < UDPLen {
		return nil, false
	}
	return b, true
}

// SrcPort returns the source port.
func (u UDP) SrcPort() uint16 { return be.Uint16(u) }

// DstPort returns the destination port.
func (u UDP) DstPort() uint16 { return be.Uint16(u[2:]) }

// Len returns the length that the header gives for itself and the payload, in bytes.
func (u UDP) Len() int { return int(be.Uint16(u[4:])) }

// Checksum returns the checksum; 0 over IPv4 means that there is none.
func (u UDP) Checksum() uint16 { return be.Uint16(u[6:]) }

// Payload returns what follows the header.
func (u UDP) Payload() []byte { return u[UDPLen:] }

// ICMPv6 is an ICMPv6 message (RFC 4443).
//
//	| Type | Code | Checksum | body
type ICMPv6 []byte

// AsICMPv6 returns b as an ICMPv6 message, if it is long enough for the header.
func AsICMPv6(b []byte) (ICMPv6, bool) {
	if len(b) < ICMPv6Len {
		return nil, false
	}
	return b, true
}

// Type returns the type of the message.
func (i ICMPv6) Type() uint8 { return i[0] }

// Code returns the code of the message.
func (i ICMPv6) Code() uint8 { return i[1] }

// Checksum returns the checksum.
func (i ICMPv6) Checksum() uint16 { return be.Uint16(i[2:]) }

// Payload returns what follows the first four bytes.
func (i ICMPv6) Payload() []byte { return i[ICMPv6Len:] }
