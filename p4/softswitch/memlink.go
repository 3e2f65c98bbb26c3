// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"context"
)

// A MemLink is a Link without a network, for tests: Inject plays the peer that
// sends, Out the peer that receives.
type MemLink struct {
	// Out is called for each frame that the switch sends, from the goroutine
	// that forwards it. It may keep the frame. It must be set before Run.
	Out func(frame []byte)

	in   chan memFrame
	down chan bool
}

type memFrame struct {
	data []byte
	done chan struct{}
}

// NewMemLink returns a link that hands what is sent to out, which may be nil.
func NewMemLink(out func(frame []byte)) *MemLink {
	return &MemLink{Out: out, in: make(chan memFrame), down: make(chan bool, 1)}
}

// Inject lets a frame come in at the port. It returns when all that the switch
// makes of it has been sent, or with an error when ctx is done before that.
func (l *MemLink) Inject(ctx context.Context, frame []byte) error {
	f := memFrame{frame, make(chan struct{})}
	select {
	case l.in <- f:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Serve implements Link.
func (l *MemLink) Serve(ctx context.Context, stats *PortStats, handle func([]byte, *Offload)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-l.in:
			stats.received(f.data)
			handle(f.data, nil)
			close(f.done)
		}
	}
}

// Send implements Link.
func (l *MemLink) Send(_ *txBuffer, frame []byte, _ *Offload) error {
	if l.Out != nil {
		l.Out(bytes.Clone(frame))
	}
	return nil
}

// SetDown says that the link is down, or up again, as gNMI then tells. Frames are
// carried all the same.
func (l *MemLink) SetDown(down bool) {
	select {
	case <-l.down: // nobody has seen it
	default:
	}
	l.down <- down
}

// Watch implements Watcher.
func (l *MemLink) Watch(ctx context.Context, report func(LinkStatus)) {
	report(LinkStatus{Admin: true, Oper: OperUp})
	for {
		select {
		case down := <-l.down:
			if down {
				report(LinkStatus{Admin: true, Oper: OperDown})
			} else {
				report(LinkStatus{Admin: true, Oper: OperUp})
			}
		case <-ctx.Done():
			return
		}
	}
}
