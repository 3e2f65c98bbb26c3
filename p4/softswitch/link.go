// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
)

// MaxFrame is the longest frame that a Link carries: an IP packet of 65535 bytes
// with its Ethernet header and some room.
const MaxFrame = 65535 + 64

// A Link carries the frames of one port.
type Link interface {
	// Serve receives frames and calls handle for each, in order, until ctx is
	// done; then it returns nil. A link that is down is not an error: Serve waits
	// for it to return. handle must not keep its arguments; off is nil if the
	// frame is complete.
	Serve(ctx context.Context, stats *PortStats, handle func(frame []byte, off *Offload)) error

	// Send sends one frame without blocking. It may be called from any goroutine,
	// each with a txBuffer of its own. The error is one of those below.
	Send(tx *txBuffer, frame []byte, off *Offload) error
}

// What Send returns for a frame that was lost.
var (
	errLinkDown = errors.New("the link is down")
	errTooLong  = errors.New("the frame is longer than the interface takes")
	errNoBuffer = errors.New("the interface's queue is full")
	errSend     = errors.New("sending failed")
)

// PortStats counts what a port did. Its methods may be called from any goroutine.
type PortStats struct {
	rxPackets, rxBytes, rxErrors         atomic.Uint64
	rxMulticast, rxBroadcast             atomic.Uint64
	txPackets, txBytes                   atomic.Uint64
	txMulticast, txBroadcast             atomic.Uint64
	txDown, txTooLong, txNoBuf, txErrors atomic.Uint64
}

func (p *PortStats) received(frame []byte) {
	p.rxPackets.Add(1)
	p.rxBytes.Add(uint64(len(frame)))
	if group(frame) {
		if broadcast(frame) {
			p.rxBroadcast.Add(1)
		} else {
			p.rxMulticast.Add(1)
		}
	}
}

// group tells whether the destination of a frame is a group's (IEEE 802, bit I/G).
func group(frame []byte) bool { return len(frame) > 0 && frame[0]&1 != 0 }

func broadcast(frame []byte) bool {
	return len(frame) >= 6 && binary.BigEndian.Uint32(frame) == 0xffffffff && binary.BigEndian.Uint16(frame[4:]) == 0xffff
}

func (p *PortStats) sent(frame []byte, err error) {
	switch err {
	case nil:
		p.txPackets.Add(1)
		p.txBytes.Add(uint64(len(frame)))
		if group(frame) {
			if broadcast(frame) {
				p.txBroadcast.Add(1)
			} else {
				p.txMulticast.Add(1)
			}
		}
	case errLinkDown:
		p.txDown.Add(1)
	case errTooLong:
		p.txTooLong.Add(1)
	case errNoBuffer:
		p.txNoBuf.Add(1)
	default:
		p.txErrors.Add(1)
	}
}

// Stats is a copy of a port's counts.
type Stats struct {
	RxPackets, RxBytes, RxErrors uint64
	RxMulticast, RxBroadcast     uint64 // of RxPackets
	TxPackets, TxBytes           uint64
	TxMulticast, TxBroadcast     uint64 // of TxPackets
	// Frames that were not sent, and why.
	TxLinkDown, TxTooLong, TxQueueFull, TxErrors uint64
}

// Snapshot returns the counts.
func (p *PortStats) Snapshot() Stats {
	return Stats{
		RxPackets: p.rxPackets.Load(), RxBytes: p.rxBytes.Load(), RxErrors: p.rxErrors.Load(),
		RxMulticast: p.rxMulticast.Load(), RxBroadcast: p.rxBroadcast.Load(),
		TxPackets: p.txPackets.Load(), TxBytes: p.txBytes.Load(),
		TxMulticast: p.txMulticast.Load(), TxBroadcast: p.txBroadcast.Load(),
		TxLinkDown: p.txDown.Load(), TxTooLong: p.txTooLong.Load(),
		TxQueueFull: p.txNoBuf.Load(), TxErrors: p.txErrors.Load(),
	}
}

// PortStats returns the counts of a port, and whether there is such a port.
func (s *Switch) PortStats(number uint16) (Stats, bool) {
	if int(number) >= len(s.ports) || s.ports[number] == nil {
		return Stats{}, false
	}
	return s.ports[number].stats.Snapshot(), true
}

// An Offload is struct virtio_net_hdr of linux/virtio_net.h: what a network device
// still has to do to a frame before it is on the wire, namely to cut it into
// segments and to fill in a checksum. Between two interfaces of one host nobody
// does that, so that a switch must pass it on with the frame.
type Offload struct {
	flags      uint8
	gsoType    uint8
	hdrLen     uint16
	gsoSize    uint16
	csumStart  uint16
	csumOffset uint16
}

const (
	offloadSize   = 10
	flagNeedsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	gsoNone       = 0 // VIRTIO_NET_HDR_GSO_NONE
)

func (o *Offload) decode(b []byte) {
	o.flags, o.gsoType = b[0], b[1]
	o.hdrLen = binary.NativeEndian.Uint16(b[2:])
	o.gsoSize = binary.NativeEndian.Uint16(b[4:])
	o.csumStart = binary.NativeEndian.Uint16(b[6:])
	o.csumOffset = binary.NativeEndian.Uint16(b[8:])
}

// encode writes o, or nothing to do for a nil o.
func (o *Offload) encode(b []byte) {
	clear(b[:offloadSize])
	if o == nil {
		return
	}
	b[0], b[1] = o.flags&flagNeedsCsum, o.gsoType
	binary.NativeEndian.PutUint16(b[2:], o.hdrLen)
	binary.NativeEndian.PutUint16(b[4:], o.gsoSize)
	binary.NativeEndian.PutUint16(b[6:], o.csumStart)
	binary.NativeEndian.PutUint16(b[8:], o.csumOffset)
}

// idle tells whether there is nothing to do.
func (o *Offload) idle() bool { return o.flags&flagNeedsCsum == 0 && o.gsoType == gsoNone }

// shift adapts o to a frame of length n whose headers have grown by d bytes. It
// returns false if o has nothing to say about that frame.
func (o *Offload) shift(d, n int) bool {
	if o.idle() {
		return false
	}
	move := func(v uint16) (uint16, bool) {
		x := int(v) + d
		return uint16(x), x >= 0 && x <= n
	}
	var ok bool
	if o.csumStart, ok = move(o.csumStart); !ok {
		return false
	}
	if o.gsoType != gsoNone {
		if o.hdrLen, ok = move(o.hdrLen); !ok {
			return false
		}
	}
	return o.flags&flagNeedsCsum == 0 || int(o.csumStart)+int(o.csumOffset)+2 <= n
}

// complete fills in the checksum that the frame still lacks.
func (o *Offload) complete(frame []byte) {
	start, at := int(o.csumStart), int(o.csumStart)+int(o.csumOffset)
	if o.flags&flagNeedsCsum == 0 || at+2 > len(frame) {
		return
	}
	// The field holds the sum of the pseudo-header.
	var sum uint64
	b := frame[start:]
	for ; len(b) >= 2; b = b[2:] {
		sum += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	x := ^uint16(sum)
	if x == 0 {
		x = 0xffff // 0 would say that there is no checksum (RFC 768)
	}
	binary.BigEndian.PutUint16(frame[at:], x)
}
