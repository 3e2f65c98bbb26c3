// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
	"github.com/understudy-net/understudy/p4/v1model"
)

// What bounds a trace: bytes of the frame that are told, steps of one packet, clients
// that watch, and packets that wait for one of them.
const (
	maxTraceFrame = 128
	maxTraceSteps = 4096
	maxWatches    = 16
	watchQueue    = 64
)

// tracing knows who wants to hear of packets. While nobody does it costs a packet one
// atomic load.
type tracing struct {
	mu      sync.Mutex // over changes of watches
	watches atomic.Pointer[[]*traceWatch]
}

// A traceWatch is one listener.
type traceWatch struct {
	ports   []uint32 // none: all
	dropped bool
	// tell is called by the goroutine that forwarded the packet, after it has.
	tell func(*switchv1.PacketTrace)
}

func (w *traceWatch) wants(port uint16) bool {
	return len(w.ports) == 0 || slices.Contains(w.ports, uint32(port))
}

// add begins to listen, until the function that it returns is called; nil means that
// there are too many.
func (t *tracing) add(w *traceWatch) (remove func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*traceWatch
	if old := t.watches.Load(); old != nil {
		list = *old
	}
	if len(list) >= maxWatches {
		return nil
	}
	list = append(slices.Clone(list), w)
	t.watches.Store(&list)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		list := slices.DeleteFunc(slices.Clone(*t.watches.Load()), func(x *traceWatch) bool { return x == w })
		if len(list) == 0 {
			t.watches.Store(nil)
			return
		}
		t.watches.Store(&list)
	}
}

// listeners returns those who want packets of a port.
func (t *tracing) listeners(port uint16) []*traceWatch {
	list := t.watches.Load()
	if list == nil {
		return nil
	}
	var out []*traceWatch
	for _, w := range *list {
		if w.wants(port) {
			out = append(out, w)
		}
	}
	return out
}

// A traceBuilder makes the trace of one packet.
type traceBuilder struct {
	engine *dataplane.Engine
	out    *switchv1.PacketTrace
	// err is the parser's error until the parser has ended.
	err     string
	dropped bool
}

func newTraceBuilder(p *pipeline, port uint16, frame []byte) *traceBuilder {
	return &traceBuilder{engine: p.sw.Engine(), out: &switchv1.PacketTrace{
		Time: timestamppb.Now(), Port: uint32(port), Length: uint32(len(frame)),
		Frame: bytes.Clone(frame[:min(len(frame), maxTraceFrame)])}}
}

// step is told by the engine.
func (b *traceBuilder) step(s *dataplane.Step) {
	switch s.Kind {
	case dataplane.StepStart:
		b.add(&switchv1.Step{Step: &switchv1.Step_Begin{Begin: &switchv1.Begin{Pipeline: s.Name, Port: uint32(s.Value)}}})
	case dataplane.StepState:
		b.add(&switchv1.Step{Step: &switchv1.Step_ParserState{ParserState: &switchv1.ParserState{Name: s.Name}}})
	case dataplane.StepParserError:
		b.err = s.Name
	case dataplane.StepExtracted:
		b.add(&switchv1.Step{Step: &switchv1.Step_Parsed{Parsed: &switchv1.Parsed{Bytes: uint32(s.Value), Error: b.err}}})
		b.err = ""
	case dataplane.StepChecksum:
		b.add(&switchv1.Step{Step: &switchv1.Step_BadChecksum{BadChecksum: &switchv1.BadChecksum{Name: s.Name}}})
	case dataplane.StepTable:
		b.add(&switchv1.Step{Step: &switchv1.Step_Table{Table: b.table(s)}})
	case dataplane.StepCondition:
		b.add(&switchv1.Step{Step: &switchv1.Step_Condition{Condition: &switchv1.Condition{Name: s.Name, Holds: s.Taken, Source: s.Source}}})
	case dataplane.StepAction:
		b.add(&switchv1.Step{Step: &switchv1.Step_Action{Action: &switchv1.ActionCall{Name: s.Name}}})
	case dataplane.StepCopy:
		b.add(&switchv1.Step{Step: &switchv1.Step_Copy{Copy: &switchv1.Copy{Reason: s.Name, Port: uint32(s.Value)}}})
	case dataplane.StepAgain:
		b.add(&switchv1.Step{Step: &switchv1.Step_BeginAgain{BeginAgain: &switchv1.BeginAgain{Reason: s.Name}}})
	case dataplane.StepDrop:
		b.drop(s.Name)
	case dataplane.StepDigest:
		b.add(&switchv1.Step{Step: &switchv1.Step_Digest{Digest: &switchv1.Digest{Name: s.Name}}})
	}
	// StepEmit is told by leave, which knows more.
}

func (b *traceBuilder) add(s *switchv1.Step) {
	if len(b.out.Steps) >= maxTraceSteps {
		b.out.Truncated = true
		return
	}
	b.out.Steps = append(b.out.Steps, s)
}

// drop tells why the packet, or one copy, ends.
func (b *traceBuilder) drop(reason string) {
	b.dropped = true
	b.add(&switchv1.Step{Step: &switchv1.Step_Drop{Drop: &switchv1.Drop{Reason: reason}}})
}

// leave tells of a frame that left the pipeline.
func (b *traceBuilder) leave(f *v1model.Frame) {
	b.add(&switchv1.Step{Step: &switchv1.Step_Leave{Leave: &switchv1.Leave{Port: uint32(f.Port), Length: uint32(len(f.Data))}}})
}

func (b *traceBuilder) table(s *dataplane.Step) *switchv1.TableApply {
	t := &switchv1.TableApply{Table: s.Name, FromProfile: s.Member != nil, Source: s.Source}
	for _, k := range s.Key {
		t.Key = append(t.Key, &switchv1.Value{Name: k.Name, Value: k.Value})
	}
	if s.Action != nil {
		t.Action = s.Action.Name
		for i, v := range s.Args {
			t.Arguments = append(t.Arguments, &switchv1.Value{Name: s.Action.Params[i].Name, Value: v})
		}
	}
	if s.Entry == nil {
		return t
	}
	t.Entry = &switchv1.Entry{Priority: int32(s.Entry.Priority)}
	def := b.engine.Table(s.Name).Def()
	for i := range s.Entry.Match {
		m, name := &s.Entry.Match[i], def.Key[i].Name
		if name == "" && i < len(s.Key) {
			name = s.Key[i].Name
		}
		out := &switchv1.Match{Name: name}
		switch def.Key[i].Kind {
		case bmv2.LPM:
			out.Kind = &switchv1.Match_Prefix{Prefix: &switchv1.Prefix{Value: m.Value, Length: uint32(m.PrefixLen)}}
		case bmv2.Ternary:
			out.Kind = &switchv1.Match_Masked{Masked: &switchv1.Masked{Value: m.Value, Mask: m.Mask}}
		case bmv2.Range:
			out.Kind = &switchv1.Match_Range{Range: &switchv1.Range{Low: m.Value, High: m.High}}
		default:
			out.Kind = &switchv1.Match_Exact{Exact: m.Value}
		}
		t.Entry.Match = append(t.Entry.Match, out)
	}
	return t
}

// forwardTraced is what forward does to a packet of which somebody wants to hear.
func (f *forwarder) forwardTraced(p *pipeline, in uint16, frame []byte, listeners []*traceWatch) {
	b := newTraceBuilder(p, in, frame)
	f.trace = b
	f.w.SetTracer(b.step)
	f.process(in, frame)
	f.w.SetTracer(nil)
	f.trace = nil
	for _, w := range listeners {
		if !w.dropped || b.dropped {
			w.tell(b.out)
		}
	}
}

// tracer serves understudy.switch.v1.Traces.
type tracer struct {
	switchv1.UnimplementedTracesServer
	s *Switch
}

// Trace implements Traces.
func (t tracer) Trace(_ context.Context, r *switchv1.TraceRequest) (*switchv1.PacketTrace, error) {
	if r.GetPort() > v1model.MaxPort {
		return nil, status.Errorf(codes.InvalidArgument, "port %d, the largest is %d", r.GetPort(), v1model.MaxPort)
	}
	if len(r.GetFrame()) > MaxFrame {
		return nil, status.Errorf(codes.InvalidArgument, "a frame of %d bytes, at most %d are possible", len(r.GetFrame()), MaxFrame)
	}
	p := t.s.forwarding.Load()
	if p == nil {
		return nil, status.Error(codes.FailedPrecondition, "no forwarding pipeline is set")
	}
	port := uint16(r.GetPort())
	b := newTraceBuilder(p, port, r.GetFrame())
	w := p.sw.NewWorker()
	defer w.Close()
	w.SetTracer(b.step)
	w.SetDry(true)
	w.Begin()
	w.Process(port, r.GetFrame(), func(f *v1model.Frame) {
		b.leave(f)
		if reason := t.s.lost(f.Port); reason != "" {
			b.drop(reason)
		}
	})
	w.End()
	return b.out, nil
}

// Watch implements Traces.
func (t tracer) Watch(r *switchv1.WatchRequest, stream grpc.ServerStreamingServer[switchv1.PacketTrace]) error {
	queue := make(chan *switchv1.PacketTrace, watchQueue)
	var missed atomic.Uint64
	remove := t.s.tracing.add(&traceWatch{ports: r.GetPorts(), dropped: r.GetDropped(), tell: func(p *switchv1.PacketTrace) {
		select {
		case queue <- p:
		default:
			missed.Add(1)
		}
	}})
	if remove == nil {
		return status.Errorf(codes.ResourceExhausted, "%d clients watch, no more are possible", maxWatches)
	}
	defer remove()
	// The client knows by the header that nothing from now on is missed.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for n := uint32(0); r.GetLimit() == 0 || n < r.GetLimit(); n++ {
		select {
		case p := <-queue:
			// Another client may have the same message.
			out := &switchv1.PacketTrace{Time: p.Time, Port: p.Port, Frame: p.Frame, Length: p.Length,
				Steps: p.Steps, Truncated: p.Truncated, Missed: missed.Swap(0)}
			if err := stream.Send(out); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-t.s.stopping:
			return status.Error(codes.Unavailable, "the switch is shutting down")
		}
	}
	return nil
}
