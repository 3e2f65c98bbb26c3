// SPDX-License-Identifier: Apache-2.0

package softswitch

import p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

// What Send returns, so that it is counted, for a frame that is lost.
var (
	ErrLinkDown = errLinkDown
	ErrTooLong  = errTooLong
	ErrSend     = errSend
)

// Sender returns a function that sends frames on a link, for one goroutine.
func Sender(l Link) func(frame []byte) error {
	tx := newTxBuffer()
	return func(frame []byte) error { return l.Send(tx, frame, nil) }
}

// NewOffload returns the offload of a frame whose checksum is not filled in.
func NewOffload(start, offset uint16) *Offload {
	return &Offload{flags: flagNeedsCsum, csumStart: start, csumOffset: offset}
}

// Shift is Offload.shift.
func (o *Offload) Shift(d, n int) bool { return o.shift(d, n) }

// Complete is Offload.complete.
func (o *Offload) Complete(frame []byte) { o.complete(frame) }

// SetMaxRead sets how many entities one Read may ask for.
func (s *Switch) SetMaxRead(n int) { s.maxRead = n }

// Update executes an update as if it stood in a WriteRequest.
func (s *Switch) Update(u *p4v1.Update) error {
	if err := validUpdate(u); err != nil {
		return err
	}
	return s.configured.update(u)
}

// Query returns what a ReadRequest with this entity does.
func (s *Switch) Query(e *p4v1.Entity) (out []*p4v1.Entity) {
	s.configured.query(e, func(p part) {
		for i := range p.n {
			out = append(out, p.at(i))
		}
	})
	return out
}

// Forward takes a frame through the pipeline; what leaves is lost.
func (s *Switch) Forward(port uint16, frame []byte) {
	f := s.newForwarder()
	defer f.close()
	f.forward(port, frame, nil)
}
