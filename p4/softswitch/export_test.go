// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"context"
	"io"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/proto"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
)

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

// A Stream is a stream channel without a connection.
type Stream struct {
	p4v1.P4Runtime_StreamChannelServer
	ctx  context.Context
	in   chan *p4v1.StreamMessageRequest
	done chan struct{}
}

// OpenStream begins a stream channel, which Close ends. What the switch sends is lost.
func (s *Switch) OpenStream(ctx context.Context) *Stream {
	st := &Stream{ctx: ctx, in: make(chan *p4v1.StreamMessageRequest), done: make(chan struct{})}
	go func() {
		defer close(st.done)
		s.StreamChannel(st)
	}()
	return st
}

// Context, Recv and Send are what the switch calls.
func (st *Stream) Context() context.Context { return st.ctx }

func (st *Stream) Recv() (*p4v1.StreamMessageRequest, error) {
	select {
	case m, ok := <-st.in:
		if ok {
			return m, nil
		}
		return nil, io.EOF
	case <-st.ctx.Done():
		return nil, st.ctx.Err()
	}
}

func (st *Stream) Send(*p4v1.StreamMessageResponse) error { return nil }

// Put hands the switch a message; false means that the stream has ended.
func (st *Stream) Put(m *p4v1.StreamMessageRequest) bool {
	select {
	case st.in <- m:
		return true
	case <-st.done:
		return false
	}
}

// Close ends the stream and waits until the switch has noticed.
func (st *Stream) Close() {
	close(st.in)
	<-st.done
}

// Answers is the server's side of a Read; it counts the entities.
type Answers struct {
	p4v1.P4Runtime_ReadServer
	Ctx      context.Context
	Entities int
}

// Context and Send are what the switch calls.
func (a *Answers) Context() context.Context { return a.Ctx }

func (a *Answers) Send(m *p4v1.ReadResponse) error {
	a.Entities += len(m.GetEntities())
	_, err := proto.Marshal(m) // what gRPC would do
	return err
}

// Trace tells what would happen to a frame; nil: the request is refused.
func (s *Switch) Trace(port uint32, frame []byte) *switchv1.PacketTrace {
	p, _ := tracer{s: s}.Trace(context.Background(), &switchv1.TraceRequest{Port: port, Frame: frame})
	return p
}

// Timers does what is due.
func (s *Switch) Timers() { s.runTimers() }

// A Program is a configuration that was read, for many switches.
type Program struct{ x *program }

// ReadProgram reads a configuration.
func ReadProgram(c *p4v1.ForwardingPipelineConfig) (*Program, error) {
	x, err := readProgram(c)
	return &Program{x}, err
}

// NewWith is New with a program.
func NewWith(cfg Config, p *Program) (*Switch, error) {
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	started, err := p.x.start(s.environment())
	if err == nil {
		s.commit(started)
	}
	return s, err
}
