// SPDX-License-Identifier: Apache-2.0

// Package softswitch runs a P4 program on the network interfaces of a Linux host
// and serves P4Runtime for it, and gNMI for its ports. What executes packets is
// package v1model; here are the ports, the goroutines and the servers.
//
// Each port has one goroutine that receives frames, takes them through the whole
// pipeline and sends what comes out. No packet is queued in between, but in the
// kernel.
package softswitch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
	faultv1 "github.com/understudy-net/understudy/api/switchfault/v1"
	"github.com/understudy-net/understudy/internal/gnmiserver"
	"github.com/understudy-net/understudy/p4/v1model"
)

// Config says what a Switch is made of.
type Config struct {
	// DeviceID is what P4Runtime requests must name.
	DeviceID uint64
	// Ports are the switch's ports, at most one per number.
	Ports []Port
	// CPUPort is the port number of the controllers; 0 for none. Frames that the
	// program sends there become PacketIn messages.
	CPUPort uint16
	// DropPort is the port number that drops; 0 is v1model.DefaultDropPort.
	DropPort uint16
	// Pipeline is set from the start; nil leaves that to a controller.
	Pipeline *p4v1.ForwardingPipelineConfig
	// Listener is where P4Runtime and gNMI are served. Run closes it.
	Listener net.Listener
	// TLS protects the connections to Listener; nil leaves them in the clear.
	TLS *tls.Config
	// FaultInjection serves understudy.switchfault.v1.Faults as well.
	FaultInjection bool
	// Trace, if not nil, is called with the trace of every packet, by the goroutine that
	// forwarded it, after it has. The switch becomes much slower.
	Trace func(*switchv1.PacketTrace)
	// Log receives what an operator may want to know; nil is silence.
	Log *slog.Logger
}

// A Port joins a port number to what carries its frames.
type Port struct {
	Number uint16
	Link   Link
	// Name is what gNMI calls the port; without one it is that of the network
	// interface, or "port" and its number.
	Name string
}

// A Switch is one device. Make it with New, start it with Run.
type Switch struct {
	p4v1.UnimplementedP4RuntimeServer

	cfg   Config
	log   *slog.Logger
	ports [v1model.MaxPort + 1]*port
	ready chan struct{}

	// forwarding is what packets go through, nil before one is set. configured is
	// what Read and Write are about; it differs between VERIFY_AND_SAVE and COMMIT.
	forwarding atomic.Pointer[pipeline]
	control    sync.RWMutex // over configured, and held by Write and Read
	configured *pipeline
	maxRead    int // maxRead, but in tests

	arbiter  *arbiter
	stopping chan struct{}

	interfaces gnmiserver.Tree // what gNMI shows of the ports

	tracing tracing

	timersChanged chan struct{} // 1: watchTimers has to look again

	faults *faults
	stats  stats
}

// stats are counts that belong to no port.
type stats struct {
	noPipeline      atomic.Uint64
	packetIns       atomic.Uint64
	packetInDrops   atomic.Uint64
	packetInErrors  atomic.Uint64
	packetOuts      atomic.Uint64
	packetOutErrors atomic.Uint64
	unknownPort     atomic.Uint64
}

// port is a Port with its counts.
type port struct {
	Port
	stats PortStats
	linkState
}

// ErrPipeline is wrapped by the errors of New about Config.Pipeline.
var ErrPipeline = errors.New("pipeline")

// window is how many bytes a controller may send before they are read.
const window = 1 << 20

// New checks the configuration and makes a switch that does not run yet.
func New(cfg Config) (*Switch, error) {
	s := &Switch{
		cfg:      cfg,
		log:      cfg.Log,
		ready:    make(chan struct{}),
		arbiter:  newArbiter(cfg.DeviceID),
		stopping: make(chan struct{}),

		timersChanged: make(chan struct{}, 1),
		maxRead:       maxRead,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Listener == nil {
		return nil, errors.New("softswitch: no listener for P4Runtime")
	}
	if s.cfg.DropPort == 0 {
		s.cfg.DropPort = v1model.DefaultDropPort
	}
	for name, n := range map[string]uint16{"CPU": s.cfg.CPUPort, "drop": s.cfg.DropPort} {
		if n > v1model.MaxPort {
			return nil, fmt.Errorf("softswitch: %s port %d, the largest is %d", name, n, v1model.MaxPort)
		}
	}
	if s.cfg.CPUPort == s.cfg.DropPort {
		return nil, fmt.Errorf("softswitch: port %d cannot be both CPU and drop port", s.cfg.CPUPort)
	}
	for _, p := range cfg.Ports {
		switch {
		case p.Number > v1model.MaxPort:
			return nil, fmt.Errorf("softswitch: port %d, the largest is %d", p.Number, v1model.MaxPort)
		case s.ports[p.Number] != nil:
			return nil, fmt.Errorf("softswitch: port %d is given twice", p.Number)
		case p.Number == s.cfg.DropPort:
			return nil, fmt.Errorf("softswitch: port %d is the drop port", p.Number)
		case p.Number == s.cfg.CPUPort && p.Number != 0:
			return nil, fmt.Errorf("softswitch: port %d is the CPU port", p.Number)
		case p.Link == nil:
			return nil, fmt.Errorf("softswitch: port %d has no link", p.Number)
		}
		s.ports[p.Number] = &port{Port: p}
	}
	if err := s.nameInterfaces(); err != nil {
		return nil, err
	}
	if cfg.FaultInjection {
		s.faults = newFaults()
	}
	if cfg.Trace != nil {
		s.tracing.add(&traceWatch{tell: cfg.Trace})
	}
	if cfg.Pipeline != nil {
		p, err := newPipeline(cfg.Pipeline, s.environment())
		if err != nil {
			return nil, fmt.Errorf("softswitch: %w: %w", ErrPipeline, err)
		}
		s.commit(p)
	}
	return s, nil
}

// Ready is closed when Run serves P4Runtime and receives frames.
func (s *Switch) Ready() <-chan struct{} { return s.ready }

// Run forwards packets and serves P4Runtime until ctx is done, and then returns nil,
// or until something fails for good. When it returns, every goroutine that it
// started has ended. It may be called once.
func (s *Switch) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range s.ports {
		if p == nil {
			continue
		}
		g.Go(func() error {
			f := s.newForwarder()
			defer f.close()
			err := p.Link.Serve(ctx, &p.stats, func(frame []byte, off *Offload) { f.forward(p.Number, frame, off) })
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("port %d: %w", p.Number, err)
			}
			return nil
		})
	}
	g.Go(func() error {
		s.watchInterfaces(ctx)
		return nil
	})
	g.Go(func() error {
		s.watchTimers(ctx)
		return nil
	})
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(64 << 20), grpc.MaxSendMsgSize(64 << 20),
		grpc.WaitForHandlers(true),
		// Windows of its own choice let gRPC measure the path, with a ping for
		// nearly every message.
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
		// A controller whose host is gone must not stay primary for hours, or its
		// election id in use; one that asks whether the switch is there may do so.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 100 * time.Millisecond, PermitWithoutStream: true})}
	if s.cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.cfg.TLS)))
	}
	srv := grpc.NewServer(options...)
	p4v1.RegisterP4RuntimeServer(srv, s)
	switchv1.RegisterTracesServer(srv, tracer{s: s})
	if s.faults != nil {
		faultv1.RegisterFaultsServer(srv, s.faults)
	}
	gnmi := s.newGNMI()
	gnmipb.RegisterGNMIServer(srv, gnmi)
	hs := health.NewServer()
	hs.SetServingStatus(p4v1.P4Runtime_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	hs.SetServingStatus(gnmipb.GNMI_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(srv, hs)
	reflection.Register(srv)
	g.Go(func() error {
		if err := srv.Serve(s.cfg.Listener); err != nil && ctx.Err() == nil {
			return fmt.Errorf("P4Runtime: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		hs.Shutdown()
		close(s.stopping)
		gnmi.Stop()
		stopped := make(chan struct{})
		go func() {
			srv.GracefulStop()
			close(stopped)
		}()
		select {
		case <-stopped:
		case <-time.After(time.Second):
			srv.Stop()
			<-stopped
		}
		return nil
	})
	close(s.ready)
	return g.Wait()
}

// A forwarder takes the frames of one goroutine through the pipeline. It is closed
// when the goroutine ends.
type forwarder struct {
	s    *Switch
	pipe *pipeline
	w    *v1model.Worker
	emit func(*v1model.Frame)
	tx   *txBuffer

	// The frame in work.
	in    uint16
	inLen int
	off   *Offload
	out   Offload
	trace *traceBuilder // nil: nobody wants to hear of it
}

func (s *Switch) newForwarder() *forwarder {
	f := &forwarder{s: s, tx: newTxBuffer()}
	f.emit = f.send
	return f
}

func (f *forwarder) close() {
	if f.w != nil {
		f.w.Close()
		f.w = nil
	}
}

// forward takes one frame through the pipeline; off may be nil.
func (f *forwarder) forward(in uint16, frame []byte, off *Offload) {
	p := f.s.forwarding.Load()
	if p == nil {
		f.s.stats.noPipeline.Add(1)
		return
	}
	if f.w == nil || f.pipe.sw != p.sw {
		f.close()
		f.w = p.sw.NewWorker()
	}
	f.pipe = p
	f.in, f.inLen, f.off = in, len(frame), off
	if f.s.tracing.watches.Load() != nil {
		if listeners := f.s.tracing.listeners(in); listeners != nil {
			f.forwardTraced(p, in, frame, listeners)
			return
		}
	}
	f.process(in, frame)
}

// process takes the frame in work through the pipeline.
func (f *forwarder) process(in uint16, frame []byte) {
	f.w.Begin()
	f.w.Process(in, frame, f.emit)
	f.w.End()
}

// send is what happens to one frame that leaves the pipeline.
func (f *forwarder) send(frame *v1model.Frame) {
	s := f.s
	if f.trace != nil {
		f.trace.leave(frame)
		if reason := s.lost(frame.Port); reason != "" {
			f.trace.drop(reason)
		}
	}
	if s.faults != nil && frame.Replica && s.faults.drop(frame.Port) {
		if f.trace != nil {
			f.trace.drop("fault injection loses it")
		}
		return
	}
	if frame.Port == s.cfg.CPUPort && s.cfg.CPUPort != 0 {
		data := frame.Data
		if off := f.offload(frame); off != nil {
			off.complete(data)
		}
		s.packetIn(f.pipe, data)
		return
	}
	if int(frame.Port) >= len(s.ports) || s.ports[frame.Port] == nil {
		s.stats.unknownPort.Add(1)
		return
	}
	p := s.ports[frame.Port]
	p.stats.sent(frame.Data, p.Link.Send(f.tx, frame.Data, f.offload(frame)))
}

// lost tells why a frame for a port goes nowhere, as far as that is known; empty: it
// does not.
func (s *Switch) lost(n uint16) string {
	switch {
	case n == s.cfg.CPUPort && n != 0:
		for _, c := range s.arbiter.primaries() {
			if c.access.packetIns() {
				return ""
			}
		}
		return "no controller takes packet-ins"
	case int(n) >= len(s.ports) || s.ports[n] == nil:
		return fmt.Sprintf("there is no port %d", n)
	case s.ports[n].down.Load():
		return fmt.Sprintf("port %d is down", n)
	}
	return ""
}

// offload says what the kernel still has to do to the frame: what it would have
// had to do to the frame that came in, if headers were put before that or taken
// away. It returns nil if there is nothing to do.
func (f *forwarder) offload(frame *v1model.Frame) *Offload {
	if f.off == nil || frame.Truncated {
		return nil
	}
	shift := frame.Headers - (f.inLen - frame.Payload)
	f.out = *f.off
	if !f.out.shift(shift, len(frame.Data)) {
		return nil
	}
	return &f.out
}
