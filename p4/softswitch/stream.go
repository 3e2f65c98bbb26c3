// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"errors"
	"io"
	"slices"
	"sync"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// packetQueue is how many packets to a controller may wait for its stream, and
// noticeQueue how many advisory messages.
const (
	packetQueue = 1024
	noticeQueue = 1024
)

// An outbox is what waits to be sent on one stream. Packets beyond packetQueue are
// lost; of advisory messages, each of which tells all there is to know, the oldest
// are. Nothing here blocks.
type outbox struct {
	mu      sync.Mutex
	notices []*p4v1.StreamMessageResponse
	packets []*p4v1.StreamMessageResponse
	wake    chan struct{} // 1: there may be something
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) notice(m *p4v1.StreamMessageResponse) {
	o.mu.Lock()
	if len(o.notices) >= noticeQueue {
		o.notices = slices.Delete(o.notices, 0, 1)
	}
	o.notices = append(o.notices, m)
	o.mu.Unlock()
	o.signal()
}

// packet returns false if the queue is full.
func (o *outbox) packet(m *p4v1.StreamMessageResponse) bool {
	o.mu.Lock()
	ok := len(o.packets) < packetQueue
	if ok {
		o.packets = append(o.packets, m)
	}
	o.mu.Unlock()
	if ok {
		o.signal()
	}
	return ok
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take returns all that waits, advisory messages first.
func (o *outbox) take(spare []*p4v1.StreamMessageResponse) []*p4v1.StreamMessageResponse {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := append(spare[:0], o.notices...)
	out = append(out, o.packets...)
	clear(o.notices)
	clear(o.packets)
	o.notices, o.packets = o.notices[:0], o.packets[:0]
	return out
}

// StreamChannel implements p4.v1.P4Runtime (P4Runtime 1.5, section 16).
func (s *Switch) StreamChannel(stream p4v1.P4Runtime_StreamChannelServer) error {
	box := newOutbox()
	c := &controller{box: box}
	sent := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(sent)
		var list []*p4v1.StreamMessageResponse
		for {
			select {
			case <-stop:
				return
			case <-box.wake:
			}
			list = box.take(list)
			for i, m := range list {
				if stream.Send(m) != nil {
					return // Recv will say why
				}
				list[i] = nil
			}
		}
	}()
	err := s.receive(stream, c, box)
	s.arbiter.leave(c)
	close(stop)
	<-sent
	return err
}

// receive handles what the controller sends, until the stream ends.
func (s *Switch) receive(stream p4v1.P4Runtime_StreamChannelServer, c *controller, box *outbox) error {
	// A switch that stops must not wait for its controllers to hang up.
	type incoming struct {
		m   *p4v1.StreamMessageRequest
		err error
	}
	in := make(chan incoming)
	go func() {
		for {
			m, err := stream.Recv() // ends when the handler returns
			select {
			case in <- incoming{m, err}:
			case <-stream.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	out := s.newForwarder()
	defer out.close()
	for {
		var got incoming
		select {
		case got = <-in:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the switch is shutting down")
		}
		if errors.Is(got.err, io.EOF) {
			return nil
		}
		if got.err != nil {
			return got.err
		}
		switch u := got.m.GetUpdate().(type) {
		case *p4v1.StreamMessageRequest_Arbitration:
			if err := s.arbiter.update(c, u.Arbitration); err != nil {
				return err
			}
		case *p4v1.StreamMessageRequest_Packet:
			if err := s.packetOut(c, out, u.Packet); err != nil {
				s.stats.packetOutErrors.Add(1)
				if len(u.Packet.GetPayload()) > MaxFrame {
					u.Packet.Payload = nil // it must not fill the queue
				}
				box.packet(streamError(err, &p4v1.StreamError{Details: &p4v1.StreamError_PacketOut{
					PacketOut: &p4v1.PacketOutError{PacketOut: u.Packet}}}))
			}
		case *p4v1.StreamMessageRequest_DigestAck:
			if err := s.digestAck(c, u.DigestAck); err != nil {
				box.packet(streamError(err, &p4v1.StreamError{Details: &p4v1.StreamError_DigestListAck{
					DigestListAck: &p4v1.DigestListAckError{DigestListAck: u.DigestAck}}}))
			}
		default:
			err := errorf(codes.Unimplemented, "%T is not supported", u)
			box.packet(streamError(err, &p4v1.StreamError{Details: &p4v1.StreamError_Other{Other: &p4v1.StreamOtherError{}}}))
		}
	}
}

func streamError(err error, e *p4v1.StreamError) *p4v1.StreamMessageResponse {
	e.CanonicalCode, e.Message = int32(codeOf(err)), err.Error()
	return &p4v1.StreamMessageResponse{Update: &p4v1.StreamMessageResponse_Error{Error: e}}
}
