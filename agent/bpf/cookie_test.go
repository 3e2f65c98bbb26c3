// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"math/bits"
	"testing"

	"github.com/understudy-net/understudy/agent/bpf"
)

// sipHash is SipHash-2-4, written down from the paper, to check the one in BPF.
func sipHash(key [16]byte, msg []byte) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])
	v := [4]uint64{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
	rounds := func(n int) {
		for range n {
			v[0] += v[1]
			v[2] += v[3]
			v[1] = bits.RotateLeft64(v[1], 13) ^ v[0]
			v[3] = bits.RotateLeft64(v[3], 16) ^ v[2]
			v[0] = bits.RotateLeft64(v[0], 32)
			v[2] += v[1]
			v[0] += v[3]
			v[1] = bits.RotateLeft64(v[1], 17) ^ v[2]
			v[3] = bits.RotateLeft64(v[3], 21) ^ v[0]
			v[2] = bits.RotateLeft64(v[2], 32)
		}
	}
	last := uint64(len(msg)) << 56
	for ; len(msg) >= 8; msg = msg[8:] {
		m := binary.LittleEndian.Uint64(msg)
		v[3] ^= m
		rounds(2)
		v[0] ^= m
	}
	for i, b := range msg {
		last |= uint64(b) << (8 * i)
	}
	v[3] ^= last
	rounds(2)
	v[0] ^= last
	v[2] ^= 0xff
	rounds(4)
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

func TestSipHash(t *testing.T) {
	// The test vector of the paper, appendix A.
	var key [16]byte
	var msg [15]byte
	for i := range key {
		key[i] = byte(i)
	}
	for i := range msg {
		msg[i] = byte(i)
	}
	if got, want := sipHash(key, msg[:]), uint64(0xa129ca6149be45e5); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

// cookie is the hash in the initial sequence number, as connections.bpf.c says.
func cookie(secret [16]byte, t bpf.Tuple, irs uint32, timestamps bool) uint32 {
	word := func(b []byte) []byte { // from network order to that of the words
		return binary.LittleEndian.AppendUint64(nil, binary.BigEndian.Uint64(b))
	}
	client, vip := t.Client.Addr().As16(), t.VIP.Addr().As16()
	var m []byte
	for _, b := range [][]byte{client[:8], client[8:], vip[:8], vip[8:]} {
		m = append(m, word(b)...)
	}
	rest := binary.BigEndian.AppendUint16(nil, t.Client.Port())
	rest = binary.BigEndian.AppendUint16(rest, t.VIP.Port())
	rest = binary.BigEndian.AppendUint32(rest, irs)
	m = append(m, word(rest)...)
	if timestamps {
		m = append(m, 1)
	} else {
		m = append(m, 0)
	}
	return uint32(sipHash(secret, m))
}

func TestCookie(t *testing.T) {
	for _, test := range []struct {
		ts   string
		code uint32
	}{
		{"1", 6},                // an MSS of 1460 is class 6
		{"0", 6 | 1<<3 | 10<<4}, // SACK, window scale 10
	} {
		t.Run("timestamps="+test.ts, func(t *testing.T) {
			var o options
			o.ClientSysctls = map[string]string{
				"net/ipv4/tcp_timestamps": test.ts, "net/ipv4/tcp_rmem": "4096 131072 33554432",
			}
			l := newLab(t, o)
			for range 5 {
				c := l.dial()
				check(t, c.echo("hello"))
				r, err := l.servers[0].progs.Conn(c.tuple())
				check(t, err)
				if want := cookie(align.Secret, c.tuple(), r.IRS, test.ts == "1") ^ test.code; r.ISS != want {
					t.Errorf("initial sequence number %x, want %x", r.ISS, want)
				}
			}
		})
	}
}

// A secret is replaced while connections begin: first every server accepts the
// new one, then every server uses it.
func TestOtherSecret(t *testing.T) {
	l := newLab(t, options{})
	set := func(n int, secret, other [16]byte) {
		c := align
		c.Secret, c.OtherSecret = secret, other
		check(t, l.servers[n].progs.SetService(service, c))
	}
	first, second := align.Secret, [16]byte{1, 2, 3}
	set(0, first, second)
	set(1, first, second)
	set(0, second, first)
	cs := []*client{l.dial()} // answered with the second
	set(1, second, first)
	cs = append(cs, l.dial())
	l.Activate(1)
	cs = append(cs, l.dial())
	checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello") }))
	l.Activate(0)
	checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("hello again") }))
	if n := l.servers[0].stats()["bad_cookie"] + l.servers[1].stats()["bad_cookie"]; n > 0 {
		t.Errorf("%d bad cookies", n)
	}
}
