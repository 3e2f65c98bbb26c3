// SPDX-License-Identifier: Apache-2.0

package softswitch

// ErrLinkDown is what Send returns while the interface is down.
var ErrLinkDown = errLinkDown

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
