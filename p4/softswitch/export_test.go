// SPDX-License-Identifier: Apache-2.0

package softswitch

// Sender returns a function that sends frames on a link, for one goroutine.
func Sender(l Link) func(frame []byte) error {
	tx := newTxBuffer()
	return func(frame []byte) error { return l.Send(tx, frame, nil) }
}
