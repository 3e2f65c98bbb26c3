// SPDX-License-Identifier: Apache-2.0

package health

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/understudy-net/understudy/internal/heartbeat"
)

// Place is where a server is: the switch's port and its MAC address.
type Place struct {
	Port uint32
	MAC  [6]byte
}

// Origin is what the switch says beside a packet: where it came in, and whom the
// switch has released by itself in the sender's pair, in which epoch (0: nobody).
type Origin struct {
	Port     uint32
	Released uint8
	Epoch    uint32
}

// Server is a server that heartbeats are expected of.
type Server struct {
	Pair    uint16
	Replica uint8
}

// Heartbeats finds heartbeats in what a switch sends up. Its methods may be called
// from several goroutines.
type Heartbeats struct {
	port    uint16
	servers atomic.Pointer[map[Place]Server]
	seen    func(Server, heartbeat.Heartbeat, Origin)

	// What was not a heartbeat: not such a packet, no server there, or a server
	// that claims to be another.
	Malformed, Unknown, Mismatched atomic.Uint64
}

// NewHeartbeats returns a Heartbeats for a UDP port. seen is called in the
// goroutine of Packet.
func NewHeartbeats(port uint16, servers map[Place]Server, seen func(Server, heartbeat.Heartbeat, Origin)) *Heartbeats {
	h := &Heartbeats{port: port, seen: seen}
	h.SetServers(servers)
	return h
}

// SetServers replaces the servers that heartbeats are expected of. The map must not
// be changed any more.
func (h *Heartbeats) SetServers(servers map[Place]Server) { h.servers.Store(&servers) }

// Packet takes an Ethernet frame that came in at a port of the switch. It keeps
// no reference to it.
func (h *Heartbeats) Packet(from Origin, frame []byte) {
	payload, ok := udp(frame, h.port)
	if !ok {
		h.Malformed.Add(1)
		return
	}
	server, ok := (*h.servers.Load())[Place{Port: from.Port, MAC: [6]byte(frame[6:12])}]
	if !ok {
		h.Unknown.Add(1)
		return
	}
	beat, err := heartbeat.Decode(payload)
	if err != nil {
		h.Malformed.Add(1)
		return
	}
	if beat.PairID != server.Pair || beat.ReplicaID != server.Replica {
		h.Mismatched.Add(1)
		return
	}
	h.seen(server, beat, from)
}

// udp returns the payload of a UDP datagram for a port, in IPv4 without
// fragmentation, in Ethernet without tags. The switch has verified the IPv4
// checksum; that of UDP is not looked at: the payload has a magic of its own.
func udp(frame []byte, port uint16) ([]byte, bool) {
	const ethernet, ipv4, datagram = 14, 20, 8
	if len(frame) < ethernet+ipv4+datagram || binary.BigEndian.Uint16(frame[12:]) != 0x0800 {
		return nil, false
	}
	ip := frame[ethernet:]
	header := int(ip[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(ip[2:]))
	switch {
	case ip[0]>>4 != 4, header < ipv4, total > len(ip), total < header+datagram:
		return nil, false
	case ip[9] != 17, binary.BigEndian.Uint16(ip[6:])&0x3fff != 0:
		return nil, false
	}
	d := ip[header:total]
	length := int(binary.BigEndian.Uint16(d[4:]))
	if binary.BigEndian.Uint16(d[2:]) != port || length < datagram || length > len(d) {
		return nil, false
	}
	return d[datagram:length], true
}
