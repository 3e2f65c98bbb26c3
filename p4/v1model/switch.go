// SPDX-License-Identifier: Apache-2.0

// Package v1model is the v1model architecture as bmv2's simple_switch implements
// it, around the interpreter of package dataplane:
//
//	parser, verify checksums -> ingress -> multicast | unicast | drop
//	  -> egress, once per copy -> update checksums, deparser
//
// It does no I/O: Process turns one frame into the frames that leave.
//
// Where simple_switch has a queue between ingress and egress there is none here;
// a packet runs to completion, so enq_qdepth, deq_qdepth and deq_timedelta are
// always 0 and copies are never lost. Programs that clone, resubmit or recirculate
// packets, or send digests, are refused when they are loaded.
//
// The yardstick is docs/simple_switch.md of github.com/p4lang/behavioral-model.
package v1model

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
)

// Port numbers have 9 bits in v1model.
const (
	MaxPort         = 1<<9 - 1
	DefaultDropPort = 511
)

// Values of standard_metadata.instance_type.
const (
	InstanceNormal      = 0
	InstanceReplication = 5
)

// Options configures a Switch.
type Options struct {
	// DropPort is the port that drops what is sent to it; 0 is DefaultDropPort.
	DropPort uint16
	// Seed seeds what the program draws at random; 0 takes the time.
	Seed uint64
	// Now is the clock of ingress_global_timestamp and its like; nil is the real
	// one. Timestamps are microseconds since New.
	Now func() time.Time
}

// A Switch is a program with its state: tables, counters, multicast groups. All
// methods may be called from any goroutine.
type Switch struct {
	engine   *dataplane.Engine
	ingress  *dataplane.Pipeline
	egress   *dataplane.Pipeline
	dropPort uint64
	now      func() time.Time
	start    time.Time

	std struct {
		ingressPort, egressSpec, egressPort, instanceType, packetLength,
		enqTimestamp, enqDepth, deqDelta, deqDepth,
		ingressTime, egressTime, mcastGroup, egressRID,
		checksumError, parserError dataplane.Field
	}
	stampIngress, stampEgress bool // the program looks at the time

	groups  atomic.Pointer[map[uint32]*Group]
	groupMu sync.Mutex // held by writers of groups

	mu      sync.Mutex
	workers []*Worker // all there are
	idle    []*Worker // those that Process may take
}

// ErrArgument is wrapped by errors about values that the control plane supplied;
// ErrExists and ErrNotFound by those about its objects.
var (
	ErrArgument = dataplane.ErrArgument
	ErrExists   = dataplane.ErrExists
	ErrNotFound = dataplane.ErrNotFound
)

// New makes a switch that executes p. The error names what p uses that is not
// supported, and where.
func New(p *bmv2.Program, opts Options) (*Switch, error) {
	s := &Switch{dropPort: uint64(opts.DropPort), now: opts.Now}
	if s.dropPort == 0 {
		s.dropPort = DefaultDropPort
	}
	if s.dropPort > MaxPort {
		return nil, fmt.Errorf("drop port %d, the largest possible is %d: %w", s.dropPort, MaxPort, ErrArgument)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.start = s.now()
	var err error
	s.engine, err = dataplane.New(p, dataplane.Options{
		Parser:     "parser",
		Deparser:   "deparser",
		Seed:       opts.Seed,
		Primitives: s.primitives(),
	})
	if err != nil {
		return nil, err
	}
	for name, dst := range map[string]**dataplane.Pipeline{"ingress": &s.ingress, "egress": &s.egress} {
		if *dst = s.engine.Pipeline(name); *dst == nil {
			return nil, fmt.Errorf("the program has no pipeline %q; is it written for v1model?", name)
		}
	}
	if err := s.fields(); err != nil {
		return nil, err
	}
	s.stampIngress = s.engine.Reads(s.std.ingressTime)
	s.stampEgress = s.engine.Reads(s.std.egressTime) || s.engine.Reads(s.std.enqTimestamp)
	s.groups.Store(&map[uint32]*Group{})
	return s, nil
}

// fields finds the standard metadata, under the names that simple_switch has for it.
func (s *Switch) fields() error {
	std := &s.std
	for _, f := range []struct {
		header, field string
		dst           *dataplane.Field
		required      bool
	}{
		{"standard_metadata", "ingress_port", &std.ingressPort, true},
		{"standard_metadata", "packet_length", &std.packetLength, true},
		{"standard_metadata", "instance_type", &std.instanceType, true},
		{"standard_metadata", "egress_spec", &std.egressSpec, true},
		{"standard_metadata", "egress_port", &std.egressPort, true},
		{"standard_metadata", "checksum_error", &std.checksumError, false},
		{"standard_metadata", "parser_error", &std.parserError, false},
		{"queueing_metadata", "enq_timestamp", &std.enqTimestamp, false},
		{"queueing_metadata", "enq_qdepth", &std.enqDepth, false},
		{"queueing_metadata", "deq_timedelta", &std.deqDelta, false},
		{"queueing_metadata", "deq_qdepth", &std.deqDepth, false},
		{"intrinsic_metadata", "ingress_global_timestamp", &std.ingressTime, false},
		{"intrinsic_metadata", "egress_global_timestamp", &std.egressTime, false},
		{"intrinsic_metadata", "mcast_grp", &std.mcastGroup, false},
		{"intrinsic_metadata", "egress_rid", &std.egressRID, false},
	} {
		*f.dst = s.engine.Field(f.header, f.field)
		if f.required && !f.dst.Exists() {
			return fmt.Errorf("the program has no field %s.%s; is it written for v1model?", f.header, f.field)
		}
	}
	return nil
}

// primitives are those of simple_switch that touch the architecture.
func (s *Switch) primitives() map[string]dataplane.Primitive {
	refuse := func(*dataplane.Builder, []bmv2.Expr) (func(*dataplane.Context), error) {
		return nil, bmv2.ErrUnsupported
	}
	return map[string]dataplane.Primitive{
		"mark_to_drop": s.markToDrop,
		"drop":         s.drop,
		"truncate":     truncate,

		"clone_ingress_pkt_to_egress": refuse,
		"clone_egress_pkt_to_egress":  refuse,
		"resubmit":                    refuse,
		"recirculate":                 refuse,
		"generate_digest":             refuse,
		"execute_meter":               refuse,
	}
}

func (s *Switch) markToDrop(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%d arguments, want 1", len(args))
	}
	spec, ok := b.FieldOf(args[0], "egress_spec")
	if !ok {
		return nil, errors.New("the argument is not standard_metadata")
	}
	group, _ := b.FieldOf(args[0], "mcast_grp")
	port := s.dropPort
	return func(c *dataplane.Context) {
		spec.Set(c, port)
		group.Set(c, 0)
	}, nil
}

func (s *Switch) drop(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
	if len(args) != 0 {
		return nil, fmt.Errorf("%d arguments, want none", len(args))
	}
	spec := b.Engine().Field("standard_metadata", "egress_spec")
	group := b.Engine().Field("intrinsic_metadata", "mcast_grp")
	port := s.dropPort
	return func(c *dataplane.Context) {
		spec.Set(c, port)
		group.Set(c, 0)
	}, nil
}

func truncate(b *dataplane.Builder, args []bmv2.Expr) (func(*dataplane.Context), error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%d arguments, want 1", len(args))
	}
	length, err := b.Index(args[0])
	if err != nil {
		return nil, err
	}
	return func(c *dataplane.Context) {
		n := int(min(length(c), 1<<30))
		if c.Truncate < 0 || n < c.Truncate {
			c.Truncate = n
		}
	}, nil
}

// Engine gives access to the tables and counters.
func (s *Switch) Engine() *dataplane.Engine { return s.engine }

// A Frame is one frame that leaves the switch.
type Frame struct {
	Port uint16
	Data []byte // valid until the callback returns
	// Replica is set for a copy that multicast made; RID is its replication id.
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
	s     *Switch
	in    *dataplane.Context
	copy  *dataplane.Context
	buf   []byte
	frame Frame
	// busy is odd while a packet is in work, see Barrier.
	busy atomic.Uint64
	_    [64]byte
}

// NewWorker returns a Worker of this switch. Make one per goroutine, and Close it
// when the goroutine ends.
func (s *Switch) NewWorker() *Worker {
	w := &Worker{s: s, in: s.engine.NewContext(), copy: s.engine.NewContext(), buf: make([]byte, 2048)}
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

// micros is the time since the switch began.
func (s *Switch) micros() uint64 { return uint64(s.now().Sub(s.start) / time.Microsecond) }

// Process is Switch.Process with more to know about the frames. It must be called
// between Begin and End.
func (w *Worker) Process(port uint16, frame []byte, emit func(*Frame)) {
	s, c := w.s, w.in
	std := &s.std
	c.Reset()
	c.IngressLength, c.Length = len(frame), len(frame)
	std.ingressPort.Set(c, uint64(port))
	std.packetLength.Set(c, uint64(len(frame)))
	if s.stampIngress {
		std.ingressTime.Set(c, s.micros())
	}

	s.engine.Parse(c, frame)
	s.engine.VerifyChecksums(c)
	std.parserError.Set(c, uint64(c.ParserError))
	if c.ChecksumError {
		std.checksumError.Set(c, 1)
	}

	s.ingress.Apply(c)

	if id := std.mcastGroup.Get(c); id != 0 {
		g := (*s.groups.Load())[uint32(id)]
		if g == nil {
			return
		}
		std.instanceType.Set(c, InstanceReplication)
		for i := range g.Replicas {
			r := &g.Replicas[i]
			std.egressRID.Set(c, uint64(r.RID))
			w.copy.CopyFrom(c)
			w.send(w.copy, r.Port, true, r.RID, emit)
		}
		return
	}
	out := std.egressSpec.Get(c)
	if out == s.dropPort {
		return
	}
	std.instanceType.Set(c, InstanceNormal)
	w.send(c, uint16(out), false, 0, emit)
}

// send takes one copy through egress and the deparser.
func (w *Worker) send(c *dataplane.Context, port uint16, replica bool, rid uint32, emit func(*Frame)) {
	s := w.s
	std := &s.std
	if s.stampEgress {
		now := s.micros()
		std.egressTime.Set(c, now)
		std.enqTimestamp.Set(c, now)
	}
	std.egressPort.Set(c, uint64(port))
	std.egressSpec.Set(c, s.dropPort+1) // whatever does not drop
	std.packetLength.Set(c, uint64(c.Length))

	s.egress.Apply(c)

	if std.egressSpec.Get(c) == s.dropPort {
		return
	}
	s.engine.UpdateChecksums(c)
	f := &w.frame
	*f = Frame{Port: port, Replica: replica, RID: rid, Payload: len(c.Payload())}
	w.buf, f.Headers = s.engine.Deparse(c, w.buf)
	f.Data = w.buf
	f.Truncated = len(f.Data) < f.Headers+f.Payload
	f.Headers = min(f.Headers, len(f.Data))
	emit(f)
	f.Data = nil
}

// A Replica is one copy that a multicast group makes.
type Replica struct {
	Port uint16
	RID  uint32 // standard_metadata.egress_rid, 16 bits
}

// A Group is a multicast group. It must not be modified.
type Group struct {
	ID       uint32
	Replicas []Replica
	Opaque   any // whatever the control plane wants to find again
}

// check wants what standard_metadata can hold and no copy twice.
func (g *Group) check() error {
	if g.ID == 0 || g.ID > 0xffff {
		return fmt.Errorf("multicast group %d, want 1 to 65535: %w", g.ID, ErrArgument)
	}
	seen := make(map[Replica]bool, len(g.Replicas))
	for _, r := range g.Replicas {
		if r.Port > MaxPort {
			return fmt.Errorf("replica port %d, the largest is %d: %w", r.Port, MaxPort, ErrArgument)
		}
		if r.RID > 0xffff {
			return fmt.Errorf("replica instance %d, the largest is 65535: %w", r.RID, ErrArgument)
		}
		if seen[r] {
			return fmt.Errorf("two replicas with port %d and instance %d: %w", r.Port, r.RID, ErrArgument)
		}
		seen[r] = true
	}
	return nil
}

// InsertGroup adds a multicast group; packets use it before InsertGroup returns.
func (s *Switch) InsertGroup(g *Group) error { return s.putGroup(g, false) }

// ModifyGroup replaces a multicast group as a whole.
func (s *Switch) ModifyGroup(g *Group) error { return s.putGroup(g, true) }

func (s *Switch) putGroup(g *Group, exists bool) error {
	if err := g.check(); err != nil {
		return err
	}
	return s.changeGroups(func(m map[uint32]*Group) error {
		if old := m[g.ID]; exists && old == nil {
			return fmt.Errorf("multicast group %d: %w", g.ID, ErrNotFound)
		} else if !exists && old != nil {
			return fmt.Errorf("multicast group %d: %w", g.ID, ErrExists)
		}
		m[g.ID] = g
		return nil
	})
}

// DeleteGroup removes a multicast group; what is sent to it then is dropped.
func (s *Switch) DeleteGroup(id uint32) error {
	return s.changeGroups(func(m map[uint32]*Group) error {
		if m[id] == nil {
			return fmt.Errorf("multicast group %d: %w", id, ErrNotFound)
		}
		delete(m, id)
		return nil
	})
}

func (s *Switch) changeGroups(f func(map[uint32]*Group) error) error {
	s.groupMu.Lock()
	defer s.groupMu.Unlock()
	old := *s.groups.Load()
	next := make(map[uint32]*Group, len(old)+1)
	for id, g := range old {
		next[id] = g
	}
	if err := f(next); err != nil {
		return err
	}
	s.groups.Store(&next)
	return nil
}

// Group returns a multicast group, or nil.
func (s *Switch) Group(id uint32) *Group { return (*s.groups.Load())[id] }

// Groups returns all multicast groups by ascending id.
func (s *Switch) Groups() []*Group {
	var out []*Group
	for _, g := range *s.groups.Load() {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *Group) int { return int(a.ID) - int(b.ID) })
	return out
}
