// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"math/bits"

	"google.golang.org/grpc/codes"
)

// parseBits reads a P4Runtime bytestring (P4Runtime 1.5, section 8.3) as
// (width+7)/8 bytes. Leading zeros may be there or not.
func parseBits(b []byte, width int) ([]byte, error) {
	if len(b) == 0 {
		return nil, errorf(codes.OutOfRange, "empty bytestring, want 1 to %d bits", width)
	}
	s := bytes.TrimLeft(b, "\x00")
	if n := bitLen(s); n > width {
		return nil, errorf(codes.OutOfRange, "%#x has %d bits, at most %d fit", clipBytes(s), n, width)
	}
	out := make([]byte, (width+7)/8)
	copy(out[len(out)-len(s):], s)
	return out, nil
}

// parseSigned reads a bytestring of a signed number (section 8.3) as (width+7)/8 bytes of
// two's complement whose bits beyond width are zero. Copies of the sign may stand in
// front or not.
func parseSigned(b []byte, width int) ([]byte, error) {
	if len(b) == 0 {
		return nil, errorf(codes.OutOfRange, "empty bytestring, want 1 to %d bits", width)
	}
	s := trimSign(b)
	sign := byte(0)
	if s[0]&0x80 != 0 {
		sign = 0xff
	}
	if n := bits.Len8(s[0]^sign) + 8*len(s) - 7; n > width {
		return nil, errorf(codes.OutOfRange, "%#x has %d bits with its sign, at most %d fit", clipBytes(s), n, width)
	}
	out := bytes.Repeat([]byte{sign}, (width+7)/8)
	copy(out[len(out)-len(s):], s)
	if r := width % 8; r != 0 {
		out[0] &= 1<<r - 1
	}
	return out, nil
}

// canonicalSigned returns the shortest bytestring for a number as parseSigned returns it.
func canonicalSigned(b []byte, width int) []byte {
	b = bytes.Clone(b)
	if r := width % 8; r != 0 && b[0]>>(r-1)&1 != 0 {
		b[0] |= 0xff << r
	}
	return trimSign(b)
}

// trimSign takes the bytes away that only repeat the sign.
func trimSign(b []byte) []byte {
	for len(b) > 1 && (b[0] == 0 && b[1]&0x80 == 0 || b[0] == 0xff && b[1]&0x80 != 0) {
		b = b[1:]
	}
	return b
}

// bitLen returns the bits of a number without leading zero bytes.
func bitLen(s []byte) int {
	if len(s) == 0 {
		return 0
	}
	return 8*len(s) - 8 + bits.Len8(s[0])
}

// canonical returns the shortest bytestring for a number.
func canonical(b []byte) []byte {
	s := bytes.TrimLeft(b, "\x00")
	if len(s) == 0 {
		return []byte{0}
	}
	return bytes.Clone(s)
}

func clipBytes(b []byte) []byte {
	if len(b) > 32 {
		return b[:32]
	}
	return b
}

// ones returns (width+7)/8 bytes with the low width bits set.
func ones(width int) []byte {
	b := bytes.Repeat([]byte{0xff}, (width+7)/8)
	if r := width % 8; r != 0 {
		b[0] = 1<<r - 1
	}
	return b
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
