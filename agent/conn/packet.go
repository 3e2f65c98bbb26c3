// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"encoding/binary"

	"github.com/understudy-net/understudy/agent/bpf"
)

const (
	flagFIN = 0x01
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
)

const (
	ipLen   = 20
	tcpLen  = 20
	icmpLen = 8
	// maxData is what fits into one IPv4 packet.
	maxData = 65535 - ipLen - tcpLen
)

type segment struct {
	seq, ack uint32
	flags    byte
	window   uint16
	data     []byte
}

// appendIPv4 appends an IPv4 header from the client to the VIP. The kernel
// fills in its checksum.
func appendIPv4(b []byte, t bpf.Tuple, protocol byte, payload int) []byte {
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipLen+payload))
	b = append(b, 0, 0, 0x40, 0, 64, protocol, 0, 0)
	client, vip := t.Client.Addr().As4(), t.VIP.Addr().As4()
	b = append(b, client[:]...)
	return append(b, vip[:]...)
}

// appendSegment appends a TCP segment of the client in an IPv4 packet. It has
// no timestamps: the kernel takes it all the same, and it cannot be too old.
func appendSegment(b []byte, t bpf.Tuple, s segment) []byte {
	start := len(b)
	b = appendIPv4(b, t, 6, tcpLen+len(s.data))
	tcp := len(b)
	b = binary.BigEndian.AppendUint16(b, t.Client.Port())
	b = binary.BigEndian.AppendUint16(b, t.VIP.Port())
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = append(b, tcpLen/4<<4, s.flags)
	b = binary.BigEndian.AppendUint16(b, s.window)
	b = append(b, 0, 0, 0, 0)
	b = append(b, s.data...)
	pseudo := sum(0, b[start+12:start+ipLen]) + 6 + uint64(len(b)-tcp)
	binary.BigEndian.PutUint16(b[tcp+16:], checksum(sum(pseudo, b[tcp:])))
	return b
}

// appendUnreachable appends an ICMP message that says: the host t.Client did
// not get the segment that begins with seq.
func appendUnreachable(b []byte, t bpf.Tuple, seq uint32) []byte {
	b = appendIPv4(b, t, 1, icmpLen+ipLen+8)
	icmp := len(b)
	b = append(b, 3, 1, 0, 0, 0, 0, 0, 0)
	b = appendIPv4(b, bpf.Tuple{Client: t.VIP, VIP: t.Client}, 6, tcpLen)
	b = binary.BigEndian.AppendUint16(b, t.VIP.Port())
	b = binary.BigEndian.AppendUint16(b, t.Client.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	binary.BigEndian.PutUint16(b[icmp+2:], checksum(sum(0, b[icmp:])))
	return b
}

// sum adds up big-endian 16-bit words. b may be longer than an IP packet by far
// before the sum overflows.
func sum(s uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		s += uint64(binary.BigEndian.Uint32(b))
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func checksum(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
