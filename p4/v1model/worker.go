// SPDX-License-Identifier: Apache-2.0

package v1model

import (
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
)

// A Frame is one frame that leaves the switch.
type Frame struct {
	Port uint16
	Data []byte // valid until the callback returns
	// Replica is set for a copy that multicast made; RID is its replication id, or that
	// of a clone.
	Replica bool
	RID     uint32
	// Headers is how many bytes of Data were written by the deparser; what
	// follows is the payload of the frame that came in.
	Headers int
	// Payload is how long that payload was before the packet was truncated.
	Payload int
	// Truncated is set if bytes were cut off the end.
	Truncated bool
}

// A Worker processes packets one after another, without allocating. It is used by
// one goroutine at a time.
type Worker struct {
	s      *Switch
	in     *dataplane.Context
	copy   *dataplane.Context
	clone  *dataplane.Context // the packet that clones are copied from
	buf    []byte
	digest []byte
	frame  Frame
	emit   func(*Frame)
	queue  []pending // what begins again, or is an egress clone
	spare  []pending // for use in queue
	passes int
	trace  trace
	dry    bool // see SetDry
	// busy is odd while a packet is in work, see Barrier.
	busy atomic.Uint64
	_    [64]byte
}

// NewWorker returns a Worker of this switch. Make one per goroutine, and Close it
// when the goroutine ends.
func (s *Switch) NewWorker() *Worker {
	w := &Worker{s: s, in: s.engine.NewContext(), copy: s.engine.NewContext(), clone: s.engine.NewContext(),
		buf: make([]byte, 2048)}
	s.mu.Lock()
	s.workers = append(s.workers, w)
	s.mu.Unlock()
	return w
}

// Close makes the switch forget the Worker, which must not be used afterwards. It is
// called outside Begin and End.
func (w *Worker) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.workers = slices.DeleteFunc(w.s.workers, func(x *Worker) bool { return x == w })
}

// Begin and End enclose a run of calls of Process and whatever is done with the
// frames that they emit. Barrier waits for End. Between the two nothing may block.
func (w *Worker) Begin() { w.busy.Add(1) }

// End is the counterpart of Begin.
func (w *Worker) End() { w.busy.Add(1) }

// Barrier returns when every packet that was in work when it was called has been
// emitted, so that none can still follow what a table said before. A packet that
// enters meanwhile is not waited for.
func (s *Switch) Barrier() {
	s.mu.Lock()
	workers := slices.Clone(s.workers)
	s.mu.Unlock()
	for _, w := range workers {
		seen := w.busy.Load()
		if seen%2 == 0 {
			continue
		}
		// A packet takes a few microseconds, unless its thread has lost the CPU.
		for i := 0; w.busy.Load() == seen; i++ {
			switch {
			case i < 500:
			case i < 1000:
				runtime.Gosched()
			default:
				time.Sleep(50 * time.Microsecond)
			}
		}
	}
}

// Process sends one frame that came in at port through the switch and calls emit
// for each frame that leaves, in order. emit must not keep data. The caller may
// change frame once Process has returned.
func (s *Switch) Process(port uint16, frame []byte, emit func(port uint16, data []byte)) {
	w := s.take()
	w.Begin()
	w.Process(port, frame, func(f *Frame) { emit(f.Port, f.Data) })
	w.End()
	s.mu.Lock()
	s.idle = append(s.idle, w)
	s.mu.Unlock()
}

func (s *Switch) take() *Worker {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		w := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return w
	}
	s.mu.Unlock()
	return s.NewWorker()
}

// nanos is the engine's clock; it is never 0.
func (s *Switch) nanos() int64 { return int64(s.now().Sub(s.start)) + int64(time.Second) }

// micros is the time since the switch began.
func (s *Switch) micros() uint64 { return uint64(s.now().Sub(s.start) / time.Microsecond) }

// MaxPasses is how often one frame, with its clones, may go through ingress or, as an
// egress clone, egress. What is left then is dropped and counted.
const MaxPasses = 1024

// maxPending bounds what may wait at a time.
const maxPending = 256

// pending is a packet that waits for its next pass.
type pending struct {
	c     *dataplane.Context
	frame []byte // of a recirculated packet: its own bytes
	from  []byte // what is parsed; nil: c goes to egress
	port  uint16
	rid   uint32
}

// wait returns a pending packet to fill in, or nil if there are too many.
func (w *Worker) wait() *pending {
	if w.passes++; w.passes > MaxPasses || len(w.queue) >= maxPending {
		w.s.overruns.Add(1)
		w.trace.drop("it has begun again for too often")
		return nil
	}
	var p pending
	if n := len(w.spare); n > 0 {
		p, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		p.c = w.s.engine.NewContext()
	}
	p.c.SetTracer(w.trace.tracer())
	p.c.SetDry(w.dry)
	p.from = nil
	w.queue = append(w.queue, p)
	return &w.queue[len(w.queue)-1]
}

// Process is Switch.Process with more to know about the frames. It must be called
// between Begin and End.
func (w *Worker) Process(port uint16, frame []byte, emit func(*Frame)) {
	s, c := w.s, w.in
	w.emit, w.passes = emit, 0
	c.Reset()
	s.std.ingressPort.Set(c, uint64(port))
	s.std.packetLength.Set(c, uint64(len(frame)))
	if s.stampIngress {
		s.std.ingressTime.Set(c, s.micros())
	}
	w.ingress(c, port, frame)
	for i := 0; i < len(w.queue); i++ { // it may grow meanwhile
		p := w.queue[i]
		if p.from != nil {
			w.ingress(p.c, p.port, p.from)
		} else {
			w.egress(p.c, p.port, false, p.rid)
		}
		w.spare = append(w.spare, p)
	}
	w.queue = w.queue[:0]
	w.emit = nil
}

// ingress takes a packet, whose metadata are set, from the parser to egress.
func (w *Worker) ingress(c *dataplane.Context, port uint16, frame []byte) {
	s := w.s
	std := &s.std
	w.trace.start("ingress", port)
	c.IngressLength, c.Length = len(frame), len(frame)
	s.engine.Parse(c, frame)
	s.engine.VerifyChecksums(c)
	std.parserError.Set(c, uint64(c.ParserError))
	if c.ChecksumError {
		std.checksumError.Set(c, 1)
	}
	s.ingressPipeline.Apply(c)
	if c.Failed {
		w.failed()
		return
	}
	if c.Arch != (dataplane.ArchRegisters{}) && w.afterIngress(c, port, frame) {
		return
	}
	if id := std.mcastGroup.Get(c); id != 0 {
		g := s.groups.get(uint32(id))
		if g == nil {
			if w.trace.on() {
				w.trace.drop("there is no multicast group %d", id)
			}
			return
		}
		if len(g.Replicas) == 0 && w.trace.on() {
			w.trace.drop("multicast group %d has no replicas", id)
		}
		std.instanceType.Set(c, InstanceReplication)
		for i := range g.Replicas {
			r := &g.Replicas[i]
			std.egressRID.Set(c, uint64(r.RID))
			w.copy.CopyFrom(c)
			w.trace.copied("multicast", r.Port)
			w.egress(w.copy, r.Port, true, r.RID)
		}
		return
	}
	out := std.egressSpec.Get(c)
	if out == s.dropPort {
		w.trace.dropped("ingress")
		return
	}
	std.instanceType.Set(c, InstanceNormal)
	w.egress(c, uint16(out), false, 0)
}

// afterIngress does what primitives asked for, and tells whether that is all.
func (w *Worker) afterIngress(c *dataplane.Context, port uint16, frame []byte) bool {
	s := w.s
	if x := c.Arch[archClone]; x != 0 {
		if session := s.clones.get(sessionOf(x)); session != nil {
			k := w.clone
			k.Reset()
			k.SetTracer(w.trace.tracer())
			s.std.ingressPort.Set(k, uint64(port))
			k.IngressLength, k.Length = len(frame), len(frame)
			s.engine.Parse(k, frame)
			k.ClearMetadata()
			s.keep(k, c, c.Arch[archList], InstanceIngressClone)
			for i := range session.Replicas {
				r := &session.Replicas[i]
				s.std.egressRID.Set(k, uint64(r.RID))
				w.copy.CopyFrom(k)
				session.cut(w.copy)
				w.trace.copied("ingress clone", r.Port)
				w.egress(w.copy, r.Port, false, r.RID)
			}
		} else {
			w.trace.note("no clone session", uint64(sessionOf(x)))
		}
	}
	if x := c.Arch[archDigest]; x != 0 {
		w.sendDigest(c, x-1)
	}
	if x := c.Arch[archAgain]; x != 0 {
		p := w.wait()
		if p == nil {
			return true
		}
		p.c.Reset()
		s.keep(p.c, c, x-1, InstanceResubmitted)
		s.std.packetLength.Set(p.c, uint64(len(frame)))
		p.from, p.port = frame, port
		w.trace.again("resubmitted")
		return true
	}
	return false
}

// keep gives dst what the field list says that it keeps of src.
func (s *Switch) keep(dst, src *dataplane.Context, list uint64, instance uint64) {
	if l := s.lists[list]; l != nil {
		l.Copy(dst, src)
	}
	s.std.instanceType.Set(dst, instance)
}

// egress takes one copy through egress and the deparser.
func (w *Worker) egress(c *dataplane.Context, port uint16, replica bool, rid uint32) {
	s := w.s
	std := &s.std
	w.trace.start("egress", port)
	queue := std.priority.Get(c)
	if queue >= s.queues {
		if w.trace.on() {
			w.trace.drop("its priority is %d, but there are %d priority queues", queue, s.queues)
		}
		return
	}
	if s.stampEgress {
		now := s.micros()
		std.egressTime.Set(c, now)
		std.enqTimestamp.Set(c, now)
	}
	std.queue.Set(c, queue)
	std.egressPort.Set(c, uint64(port))
	std.egressSpec.Set(c, s.dropPort+1) // whatever does not drop
	std.packetLength.Set(c, uint64(c.Length))
	c.Arch = dataplane.ArchRegisters{}

	s.egressPipeline.Apply(c)

	if c.Failed {
		w.failed()
		return
	}
	if x := c.Arch[archClone]; x != 0 {
		w.cloneEgress(c, x)
	}
	if std.egressSpec.Get(c) == s.dropPort {
		w.trace.dropped("egress")
		return
	}
	s.engine.UpdateChecksums(c)
	f := &w.frame
	*f = Frame{Port: port, Replica: replica, RID: rid, Payload: len(c.Payload())}
	w.buf, f.Headers = s.engine.Deparse(c, w.buf)
	f.Data = w.buf
	if x := c.Arch[archAgain]; x != 0 {
		w.recirculate(c, x-1, f.Data)
		return
	}
	f.Truncated = len(f.Data) < f.Headers+f.Payload
	f.Headers = min(f.Headers, len(f.Data))
	w.trace.emitted(port)
	w.emit(f)
	f.Data = nil
}

func (w *Worker) cloneEgress(c *dataplane.Context, x uint64) {
	s := w.s
	session := s.clones.get(sessionOf(x))
	if session == nil {
		w.trace.note("no clone session", uint64(sessionOf(x)))
		return
	}
	for i := range session.Replicas {
		r := &session.Replicas[i]
		p := w.wait()
		if p == nil {
			return
		}
		p.c.CopyFrom(c)
		p.c.ClearMetadata()
		s.keep(p.c, c, c.Arch[archList], InstanceEgressClone)
		s.std.egressRID.Set(p.c, uint64(r.RID))
		session.cut(p.c)
		p.port, p.rid = r.Port, r.RID
		w.trace.copied("egress clone", r.Port)
	}
}

func (w *Worker) recirculate(c *dataplane.Context, list uint64, data []byte) {
	p := w.wait()
	if p == nil {
		return
	}
	p.frame = append(p.frame[:0], data...)
	p.c.Reset()
	w.s.keep(p.c, c, list, InstanceRecirculated)
	w.s.std.packetLength.Set(p.c, uint64(len(p.frame)))
	p.from, p.port = p.frame, 0
	w.trace.again("recirculated")
}

// failed drops a packet for which an assert or assume did not hold.
func (w *Worker) failed() {
	if !w.dry {
		w.s.failures.Add(1)
	}
	w.trace.drop("an assert or assume of the program does not hold")
}

// A Digest is what one packet reports to the control plane.
type Digest struct {
	List *bmv2.FieldList
	// Data holds the values of the list's elements, one after the other, of each
	// (Width+7)/8 bytes. It is valid until the callback returns.
	Data []byte
}

// Values cuts Data into the elements.
func (d *Digest) Values() [][]byte {
	out := make([][]byte, len(d.List.Elements))
	at := 0
	for i := range out {
		n := (d.List.Elements[i].Width + 7) / 8
		out[i] = d.Data[at : at+n : at+n]
		at += n
	}
	return out
}

func (w *Worker) sendDigest(c *dataplane.Context, id uint64) {
	l := w.s.learn[id]
	if l == nil {
		return
	}
	w.trace.step(&dataplane.Step{Kind: dataplane.StepDigest, Name: l.Def().Name})
	if w.s.digest == nil || w.dry {
		return
	}
	w.digest = l.Append(c, w.digest[:0])
	w.s.digest(&Digest{List: l.Def(), Data: w.digest})
}
