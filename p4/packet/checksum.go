// SPDX-License-Identifier: Apache-2.0

package packet

import "net/netip"

// Checksum returns the Internet checksum (RFC 1071) of b, to which initial, such as
// the sum of a pseudo-header, is added. It is 0 for data that includes its own
// right checksum.
func Checksum(b []byte, initial uint64) uint16 { return fold(sumBytes(b, initial)) }

// PseudoHeader returns the sum of the pseudo-header of TCP, UDP and ICMPv6 (RFC
// 9293 section 3.1, RFC 8200 section 8.1). src and dst are both IPv4 or both IPv6;
// length is that of the transport header and its payload, in bytes.
func PseudoHeader(src, dst netip.Addr, protocol uint8, length int) uint64 {
	sum := uint64(protocol) + uint64(length>>16) + uint64(length&0xffff)
	return sumBytes(dst.AsSlice(), sumBytes(src.AsSlice(), sum))
}

// sumBytes adds b as 16-bit words, the last one padded with a zero byte.
func sumBytes(b []byte, sum uint64) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		sum += uint64(be.Uint32(b)) // 2^16 is 1 modulo 2^16-1
	}
	if len(b) >= 2 {
		sum += uint64(be.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

// fold returns the complement of a sum.
func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
