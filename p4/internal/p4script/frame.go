// SPDX-License-Identifier: Apache-2.0

package p4script

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/understudy-net/understudy/p4/packet"
)

// Frame makes a frame of words: layers with / between them, the outermost first.
//
//	eth SRC > DST [type=N]
//	arp request|reply MAC IP > MAC IP
//	ip SRC > DST [ttl=N] [tos=N] [id=N] [df] [mf] [offset=N] [proto=N] [len=N] [sum=N] [options=HEX]
//	tcp PORT > PORT [flags=FSRPUEW] [seq=N] [ack=N] [window=N] [sum=N] [options=HEX]
//	udp PORT > PORT [sum=N] [nosum]
//	icmp6 TYPE [code=N] [sum=N]
//	"TEXT"
//	hex DIGITS
//	zero N
//
// What is left out follows from the rest (see packet.Build). An ip layer is IPv4 or
// IPv6 by its addresses. Then, each after a |, what is done to the frame:
//
//	put OFFSET HEX     bytes are overwritten
//	cut N              only the first N bytes are left
//	ipsum              the checksum of the IPv4 header is made right again
func Frame(words []string) ([]byte, error) {
	parts := split(words, "|")
	var layers []packet.Layer
	for _, w := range split(parts[0], "/") {
		l, err := layer(w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(w, " "), err)
		}
		layers = append(layers, l)
	}
	b, err := build(layers)
	if err != nil {
		return nil, err
	}
	for _, w := range parts[1:] {
		if b, err = change(b, w); err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(w, " "), err)
		}
	}
	return b, nil
}

// build is packet.Build, whose panics are about what was written here.
func build(layers []packet.Layer) (b []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return packet.Build(layers...), nil
}

func split(words []string, at string) [][]string {
	out := [][]string{nil}
	for _, w := range words {
		if w == at {
			out = append(out, nil)
		} else {
			out[len(out)-1] = append(out[len(out)-1], w)
		}
	}
	return out
}

// reader takes words one after the other, and remembers the first that was wrong.
type reader struct {
	words []string
	err   error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) next() string {
	if len(r.words) == 0 {
		r.fail("something is missing at the end")
		return ""
	}
	w := r.words[0]
	r.words = r.words[1:]
	return w
}

func (r *reader) arrow() {
	if w := r.next(); w != ">" {
		r.fail("%q where > was to come", w)
	}
}

func (r *reader) number(w string, bits int) uint64 {
	n, err := strconv.ParseUint(w, 0, bits)
	if err != nil {
		r.fail("%q is no number of %d bits", w, bits)
	}
	return n
}

func (r *reader) hex(w string) []byte {
	b, err := hex.DecodeString(w)
	if err != nil {
		r.fail("%q: %v", w, err)
	}
	return b
}

func (r *reader) mac() net.HardwareAddr {
	w := r.next()
	m, err := net.ParseMAC(w)
	if err != nil || len(m) != 6 {
		r.fail("%q is no MAC address", w)
	}
	return m
}

func (r *reader) addr() netip.Addr {
	w := r.next()
	a, err := netip.ParseAddr(w)
	if err != nil {
		r.fail("%q is no IP address", w)
	}
	return a
}

// options calls set for each of the words that are left; it returns false for a
// key that it does not know.
func (r *reader) options(set func(key, value string) bool) {
	for len(r.words) > 0 && r.err == nil {
		w := r.next()
		key, value, _ := strings.Cut(w, "=")
		if !set(key, value) {
			r.fail("%q is not known here", w)
		}
	}
}

func layer(words []string) (packet.Layer, error) {
	if len(words) == 0 {
		return nil, errors.New("an empty layer")
	}
	if words[0][0] == '"' && len(words) == 1 {
		text, err := strconv.Unquote(words[0])
		return packet.Bytes(text), err
	}
	r := &reader{words: words[1:]}
	var l packet.Layer
	switch words[0] {
	case "eth":
		e := &packet.EthernetLayer{}
		e.Src = r.mac()
		r.arrow()
		e.Dst = r.mac()
		r.options(func(k, v string) bool {
			if k == "type" {
				e.Type = uint16(r.number(v, 16))
			}
			return k == "type"
		})
		l = e
	case "arp":
		a := &packet.ARPLayer{Opcode: 1}
		switch w := r.next(); w {
		case "request":
		case "reply":
			a.Opcode = 2
		default:
			r.fail("%q is neither request nor reply", w)
		}
		a.SenderMAC, a.SenderIP = r.mac(), r.addr()
		r.arrow()
		a.TargetMAC, a.TargetIP = r.mac(), r.addr()
		l = a
	case "ip":
		src := r.addr()
		r.arrow()
		dst := r.addr()
		if src.Is4() {
			l = r.ipv4(src, dst)
		} else {
			l = r.ipv6(src, dst)
		}
	case "tcp":
		l = r.tcp()
	case "udp":
		u := &packet.UDPLayer{SrcPort: uint16(r.number(r.next(), 16))}
		r.arrow()
		u.DstPort = uint16(r.number(r.next(), 16))
		r.options(func(k, v string) bool {
			switch k {
			case "sum":
				u.Checksum = uint16(r.number(v, 16))
			case "nosum":
				u.NoChecksum = true
			default:
				return false
			}
			return true
		})
		l = u
	case "icmp6":
		m := &packet.ICMPv6Layer{Type: uint8(r.number(r.next(), 8))}
		r.options(func(k, v string) bool {
			switch k {
			case "code":
				m.Code = uint8(r.number(v, 8))
			case "sum":
				m.Checksum = uint16(r.number(v, 16))
			default:
				return false
			}
			return true
		})
		l = m
	case "hex":
		l = packet.Bytes(r.hex(strings.Join(r.words, "")))
		r.words = nil
	case "zero":
		l = packet.Bytes(make([]byte, r.number(r.next(), 13)))
	default:
		r.fail("no such layer")
	}
	if r.err == nil && len(r.words) > 0 {
		r.fail("%q is too much", r.words[0])
	}
	return l, r.err
}

func (r *reader) ipv4(src, dst netip.Addr) packet.Layer {
	l := &packet.IPv4Layer{Src: src, Dst: dst}
	r.options(func(k, v string) bool {
		switch k {
		case "ttl":
			l.TTL = uint8(r.number(v, 8))
			l.NoTTL = l.TTL == 0
		case "tos":
			l.TOS = uint8(r.number(v, 8))
		case "id":
			l.ID = uint16(r.number(v, 16))
		case "df":
			l.Flags |= 2
		case "mf":
			l.Flags |= 1
		case "offset":
			l.FragmentOffset = uint16(r.number(v, 13))
		case "proto":
			l.Protocol = uint8(r.number(v, 8))
		case "len":
			l.TotalLen = uint16(r.number(v, 16))
		case "sum":
			l.Checksum = uint16(r.number(v, 16))
		case "options":
			l.Options = r.hex(v)
		default:
			return false
		}
		return true
	})
	return l
}

func (r *reader) ipv6(src, dst netip.Addr) packet.Layer {
	l := &packet.IPv6Layer{Src: src, Dst: dst}
	r.options(func(k, v string) bool {
		switch k {
		case "ttl":
			l.HopLimit = uint8(r.number(v, 8))
			l.NoHops = l.HopLimit == 0
		case "tos":
			l.TrafficClass = uint8(r.number(v, 8))
		case "proto":
			l.NextHeader = uint8(r.number(v, 8))
		case "len":
			l.PayloadLen = uint16(r.number(v, 16))
		default:
			return false
		}
		return true
	})
	return l
}

func (r *reader) tcp() packet.Layer {
	l := &packet.TCPLayer{SrcPort: uint16(r.number(r.next(), 16)), Flags: packet.ACK}
	r.arrow()
	l.DstPort = uint16(r.number(r.next(), 16))
	r.options(func(k, v string) bool {
		switch k {
		case "flags":
			l.Flags = 0
			for _, c := range v {
				i := strings.IndexRune("FSRPAUEW", c)
				if i < 0 {
					r.fail("%q is no TCP flag", c)
					break
				}
				l.Flags |= 1 << i
			}
		case "seq":
			l.Seq = uint32(r.number(v, 32))
		case "ack":
			l.Ack = uint32(r.number(v, 32))
		case "window":
			l.Window = uint16(r.number(v, 16))
		case "sum":
			l.Checksum = uint16(r.number(v, 16))
		case "options":
			l.Options = r.hex(v)
		default:
			return false
		}
		return true
	})
	return l
}

// change does to a frame what stands after a |.
func change(b []byte, words []string) ([]byte, error) {
	if len(words) == 0 {
		return nil, errors.New("nothing after |")
	}
	r := &reader{words: words[1:]}
	switch words[0] {
	case "put":
		at, bytes := int(r.number(r.next(), 16)), r.hex(r.next())
		if at+len(bytes) > len(b) {
			r.fail("the frame has only %d bytes", len(b))
		} else {
			copy(b[at:], bytes)
		}
	case "cut":
		n := int(r.number(r.next(), 16))
		if n > len(b) {
			r.fail("the frame has only %d bytes", len(b))
		} else {
			b = b[:n]
		}
	case "ipsum":
		if len(b) < packet.EthernetLen+packet.IPv4MinLen {
			r.fail("the frame has no IPv4 header")
			break
		}
		h := packet.IPv4(packet.Ethernet(b).Payload())
		h.SetChecksum(0)
		// Of a header that says that it is too short, the fixed part.
		n := min(max(h.HeaderLen(), packet.IPv4MinLen), len(h))
		h.SetChecksum(packet.Checksum(h[:n], 0))
	default:
		r.fail("put, cut or ipsum")
	}
	return b, r.err
}
