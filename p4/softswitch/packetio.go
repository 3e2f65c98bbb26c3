// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
)

// encode puts the metadata of a PacketOut into the header that the program parses.
func (h *packetHeader) encode(list []*p4v1.PacketMetadata) ([]byte, error) {
	out := make([]byte, h.bytes)
	if len(list) != len(h.fields) {
		return nil, errorf(codes.InvalidArgument, "%d metadata, want %d", len(list), len(h.fields))
	}
	bit := 0
	for i := range h.fields {
		f := &h.fields[i]
		var m *p4v1.PacketMetadata
		for _, x := range list {
			if x.GetMetadataId() == f.id {
				m = x
			}
		}
		if m == nil {
			return nil, errorf(codes.InvalidArgument, "metadata %d %q is missing", f.id, f.name)
		}
		v, err := parseBits(m.GetValue(), f.width)
		if err != nil {
			return nil, &placedError{"metadata " + f.name, err}
		}
		skip := len(v)*8 - f.width
		for j := range f.width {
			b := v[(skip+j)/8] >> (7 - (skip+j)%8) & 1
			out[bit/8] |= b << (7 - bit%8)
			bit++
		}
	}
	return out, nil
}

// decode reads the header in front of a packet for the controller.
func (h *packetHeader) decode(b []byte) []*p4v1.PacketMetadata {
	list := make([]*p4v1.PacketMetadata, len(h.fields))
	bit := 0
	for i := range h.fields {
		f := &h.fields[i]
		v := make([]byte, (f.width+7)/8)
		skip := len(v)*8 - f.width
		for j := range f.width {
			x := b[bit/8] >> (7 - bit%8) & 1
			v[(skip+j)/8] |= x << (7 - (skip+j)%8)
			bit++
		}
		list[i] = &p4v1.PacketMetadata{MetadataId: f.id, Value: canonical(v)}
	}
	return list
}

// packetIn hands a frame that the program sent to the CPU port to the primary
// controllers. It never blocks.
func (s *Switch) packetIn(p *pipeline, frame []byte) {
	m := &p4v1.PacketIn{}
	if h := p.schema.packetIn; h != nil {
		if len(frame) < h.bytes {
			s.stats.packetInErrors.Add(1)
			return
		}
		m.Metadata = h.decode(frame)
		frame = frame[h.bytes:]
	}
	m.Payload = bytes.Clone(frame)
	msg := &p4v1.StreamMessageResponse{Update: &p4v1.StreamMessageResponse_Packet{Packet: m}}
	sent := false
	for _, c := range s.arbiter.primaries() {
		if c.access.packetIns() && c.box.packet(msg) {
			sent = true
		}
	}
	if sent {
		s.stats.packetIns.Add(1)
	} else {
		s.stats.packetInDrops.Add(1)
	}
}

// packetOut sends a packet of a controller through the pipeline, as if it came in
// at the CPU port.
func (s *Switch) packetOut(c *controller, f *forwarder, m *p4v1.PacketOut) error {
	role, ok := s.arbiter.primary(c)
	if !ok {
		return errorf(codes.PermissionDenied, "only the primary controller may send packets")
	}
	if !role.packetOuts() {
		return errorf(codes.PermissionDenied, "role %q may not send packets", c.role)
	}
	p := s.forwarding.Load()
	if p == nil {
		return errorf(codes.FailedPrecondition, "no pipeline is set")
	}
	if s.cfg.CPUPort == 0 {
		return errorf(codes.FailedPrecondition, "the switch was started without a CPU port")
	}
	frame := m.GetPayload()
	if len(frame) > MaxFrame {
		return errorf(codes.InvalidArgument, "a payload of %d bytes, at most %d are possible", len(frame), MaxFrame)
	}
	if h := p.schema.packetOut; h != nil {
		head, err := h.encode(m.GetMetadata())
		if err != nil {
			return err
		}
		frame = append(head, frame...)
	} else if len(m.GetMetadata()) > 0 {
		return errorf(codes.InvalidArgument, "the program has no packet_out header")
	}
	s.stats.packetOuts.Add(1)
	f.forward(s.cfg.CPUPort, frame, nil)
	return nil
}
