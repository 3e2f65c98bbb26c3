// SPDX-License-Identifier: Apache-2.0

// Package v1model is the v1model architecture as bmv2's simple_switch implements
// it, around the interpreter of package dataplane:
//
//	parser, verify checksums -> ingress -> clone, digest
//	  -> resubmit | multicast | drop | unicast
//	  -> egress, once per copy -> clone
//	  -> drop | update checksums, deparser -> recirculate | out
//
// It does no I/O: Process turns one frame into the frames that leave.
//
// Where simple_switch has a queue between ingress and egress there is none here;
// a packet runs to completion, so enq_qdepth, deq_qdepth and deq_timedelta are
// always 0 and copies are never lost. A packet that begins again without end is
// dropped after MaxPasses passes, where simple_switch would go on for ever.
//
// The yardstick is docs/simple_switch.md of github.com/p4lang/behavioral-model.
package v1model

import (
	"fmt"
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
	InstanceNormal       = 0
	InstanceIngressClone = 1
	InstanceEgressClone  = 2
	InstanceRecirculated = 4
	InstanceReplication  = 5
	InstanceResubmitted  = 6
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
	// PriorityQueues is how many priorities there are per port, at most 8; 0 is 1, as
	// with simple_switch. A packet with a priority beyond is dropped.
	PriorityQueues int
	// Digest is called for each digest that a packet sends, by the goroutine that works
	// on the packet, so it must not block. nil drops them.
	Digest func(*Digest)
	// Log is called for each log_msg of the program, by the goroutine that works on the
	// packet. nil is silence.
	Log func(string)
}

// A Switch is a program with its state: tables, counters, multicast groups. All
// methods may be called from any goroutine.
type Switch struct {
	engine          *dataplane.Engine
	ingressPipeline *dataplane.Pipeline
	egressPipeline  *dataplane.Pipeline
	dropPort        uint64
	queues          uint64
	now             func() time.Time
	start           time.Time
	digest          func(*Digest)
	lists           map[uint64]*dataplane.List // field lists by id
	learn           map[uint64]*dataplane.List // learn lists by id
	overruns        atomic.Uint64
	failures        atomic.Uint64

	std struct {
		ingressPort, egressSpec, egressPort, instanceType, packetLength,
		enqTimestamp, enqDepth, deqDelta, deqDepth, queue, priority,
		ingressTime, egressTime, mcastGroup, egressRID,
		checksumError, parserError dataplane.Field
	}
	stampIngress, stampEgress bool // the program looks at the time

	groups registry[Group]
	clones registry[CloneSession]

	mu      sync.Mutex
	workers []*Worker // all there are
	idle    []*Worker // those that Process may take
}

// Overruns returns how many packets were dropped because they began again for too
// often; see MaxPasses.
func (s *Switch) Overruns() uint64 { return s.overruns.Load() }

// Failures returns how many packets were dropped because an assert or assume of the
// program did not hold. simple_switch ends itself in that case.
func (s *Switch) Failures() uint64 { return s.failures.Load() }

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
	s := &Switch{dropPort: uint64(opts.DropPort), queues: uint64(opts.PriorityQueues), now: opts.Now, digest: opts.Digest,
		lists: map[uint64]*dataplane.List{}, learn: map[uint64]*dataplane.List{}}
	if s.queues == 0 {
		s.queues = 1
	}
	if s.queues > 8 {
		return nil, fmt.Errorf("%d priority queues, at most 8: %w", s.queues, ErrArgument)
	}
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
		Now:        s.nanos,
		Log:        opts.Log,
		Primitives: s.primitives(p),
	})
	if err != nil {
		return nil, err
	}
	for name, dst := range map[string]**dataplane.Pipeline{"ingress": &s.ingressPipeline, "egress": &s.egressPipeline} {
		if *dst = s.engine.Pipeline(name); *dst == nil {
			return nil, fmt.Errorf("the program has no pipeline %q; is it written for v1model?", name)
		}
	}
	if err := s.fields(); err != nil {
		return nil, err
	}
	for _, l := range p.FieldLists {
		s.lists[uint64(l.ID)] = s.engine.List(l)
	}
	for _, l := range p.LearnLists {
		s.learn[uint64(l.ID)] = s.engine.List(l)
	}
	s.stampIngress = s.engine.Reads(s.std.ingressTime)
	s.stampEgress = s.engine.Reads(s.std.egressTime) || s.engine.Reads(s.std.enqTimestamp)
	s.groups.init("multicast group")
	s.clones.init("clone session")
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
		{"queueing_metadata", "qid", &std.queue, false},
		{"intrinsic_metadata", "priority", &std.priority, false},
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

// Engine gives access to the tables and counters.
func (s *Switch) Engine() *dataplane.Engine { return s.engine }
