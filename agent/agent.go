// SPDX-License-Identifier: Apache-2.0

// Package agent is what runs on each server of a pair. It keeps a session with
// the controller, plays the part that it is assigned, and reports.
//
// One goroutine (the loop in Run) owns the part; sessions, streams, listeners
// and monitors are tasks that post to it.
package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-net/understudy/agent/application"
	"github.com/understudy-net/understudy/agent/proxy"
	"github.com/understudy-net/understudy/agent/replication"
	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
	"github.com/understudy-net/understudy/internal/pki"
)

// Kernel is what the agent needs of the eBPF programs. All methods may be called
// concurrently.
type Kernel interface {
	proxy.Kernel
	proxy.Adopter
	// SetService installs or changes a service, in one step.
	SetService(vip netip.AddrPort, s ServiceState) error
	RemoveService(vip netip.AddrPort) error
}

// ServiceState is how the kernel side treats a service.
type ServiceState struct {
	// Secret keys the initial sequence numbers.
	Secret [16]byte
	// Gate: acknowledge nothing that the backup has not acknowledged, on
	// connections that begin from now on.
	Gate bool
	// Generation tells this gate from earlier ones.
	Generation uint32
}

// Config of an Agent.
type Config struct {
	Server     string
	Controller string
	// Identity is what this server proves to other agents, and trusts; nil means that
	// nobody proves anything on the replication stream.
	Identity *pki.Source
	// Credentials are for the session with the controller; nil means that neither side
	// says who it is.
	Credentials       credentials.TransportCredentials
	ReplicationListen string
	// Interface is the data interface, whose carrier is watched; "" for none.
	Interface string
	Version   string
	// Ready, if not nil, is called once its listener is open.
	Ready  func()
	Kernel Kernel
	Log    *slog.Logger
	Proxy  proxy.Config // Upstream, VIP and Adopter are set per service
	// NoAdoption leaves connections unprotected that began before the backup joined.
	NoAdoption bool
}

// Agent plays one server's part. Make it with New.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	instance uint64
	events   chan any

	// What follows belongs to the loop.
	part     *agentv1.Assignment // nil before the first
	services map[netip.AddrPort]*service
	// proxies are those of services, for the goroutine that reads the stream.
	proxies  atomic.Pointer[map[netip.AddrPort]*proxy.Server]
	stream   *replication.Stream
	session  *session
	health   *agentv1.Health
	linkDown bool
	beat     *heartbeatSender
	counted  *agentv1.Protection
}

// service is a VIP and port that this agent serves.
type service struct {
	vip      netip.AddrPort
	upstream string
	proxy    *proxy.Server
	monitor  *application.Monitor
	up       bool
	reason   string
	stop     context.CancelFunc
	done     chan struct{}
}

// events
type (
	sessionUp   struct{ s *session }
	sessionDown struct {
		s   *session
		err error
	}
	assigned   struct{ a *agentv1.Assignment }
	streamUp   struct{ s *replication.Stream }
	streamDown struct {
		s   *replication.Stream
		err error
	}
	// switchReleased: the switch has released this server, the backup of an assignment.
	switchReleased     struct{ part *agentv1.Assignment }
	carrierChanged     struct{ down bool }
	applicationChanged struct {
		vip    netip.AddrPort
		up     bool
		reason string
	}
)

// New makes an agent. It does nothing before Run.
func New(cfg Config) *Agent {
	var b [8]byte
	rand.Read(b[:])
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Agent{
		cfg: cfg, log: cfg.Log,
		instance: binary.BigEndian.Uint64(b[:]),
		events:   make(chan any, 64),
		services: map[netip.AddrPort]*service{},
		health:   &agentv1.Health{Reason: "not yet known"},
		beat:     newHeartbeatSender(),
		counted:  &agentv1.Protection{},
	}
}

// post hands an event to the loop; false when the agent is ending.
func (a *Agent) post(ctx context.Context, e any) bool {
	select {
	case a.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// Run plays until ctx ends; the connections are then dropped without a word to
// the clients, for the other server to go on with. It returns when everything
// that it started has ended.
func (a *Agent) Run(ctx context.Context) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", a.cfg.ReplicationListen)
	if err != nil {
		return fmt.Errorf("replication listener: %w; is replication_listen an address of this server?", err)
	}
	if a.cfg.Ready != nil {
		a.cfg.Ready()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.keepSession(ctx) })
	g.Go(func() error { return a.acceptStreams(ctx, l) })
	a.beat.released = func(part *agentv1.Assignment) { a.post(ctx, switchReleased{part}) }
	g.Go(func() error { return a.beat.run(ctx, a.instance, a.log) })
	g.Go(func() error { return a.watchCarrier(ctx) })
	g.Go(func() error { return a.watchFacts(ctx) })
	g.Go(func() error { return a.loop(ctx) })
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (a *Agent) loop(ctx context.Context) error {
	defer func() {
		if a.stream != nil {
			a.stream.Close()
		}
		for _, s := range a.services {
			s.stop()
			<-s.done
		}
	}()
	count := time.NewTicker(200 * time.Millisecond)
	defer count.Stop()
	alive := time.NewTicker(time.Hour)
	defer alive.Stop()
	every := time.Hour
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-a.events:
			if err := a.handle(ctx, e); err != nil {
				return err
			}
			if d := a.part.GetHeartbeat().GetInterval().AsDuration(); d >= minInterval && d != every {
				every = d
				alive.Reset(alivePerBeats * d)
			}
		case <-alive.C:
			a.send(aliveMessage)
		case <-count.C:
			a.reportProtection()
		}
	}
}

func (a *Agent) handle(ctx context.Context, e any) error {
	switch e := e.(type) {
	case sessionUp:
		a.session = e.s
		hello := &agentv1.Hello{
			Server: a.cfg.Server, Instance: a.instance, Version: a.cfg.Version,
			ReplicationAddress: a.cfg.ReplicationListen,
			Role:               a.part.GetRole(), Epoch: a.part.GetEpoch(), Health: a.health,
		}
		a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Hello{Hello: hello}})
		a.counted = &agentv1.Protection{} // whoever listens now has not heard it
		if a.stream != nil {
			a.reportStream(true, "")
		}
		a.log.Info("session with the controller", "address", a.cfg.Controller)
	case sessionDown:
		if a.session == e.s {
			a.session = nil
			a.log.Warn("session with the controller ended; this server's part stays as it is", "error", e.err)
		}
	case assigned:
		return a.apply(ctx, e.a)
	case switchReleased:
		if e.part == a.part {
			a.log.Warn("the switch has released this server by itself", "epoch", e.part.GetEpoch())
			return a.apply(ctx, successor(e.part))
		}
	case streamUp:
		a.streamUp(ctx, e.s)
	case streamDown:
		if a.stream == e.s {
			a.stream = nil
			a.log.Warn("replication stream ended", "error", e.err)
			reason := "closed"
			if e.err != nil {
				reason = e.err.Error()
			}
			a.reportStream(false, reason)
		}
	case hostFacts:
		a.reportFacts(e, time.Now())
	case carrierChanged:
		if e.down != a.linkDown {
			a.linkDown = e.down
			a.reportHealth()
		}
	case applicationChanged:
		s := a.services[e.vip]
		if s == nil {
			return nil
		}
		s.up, s.reason = e.up, e.reason
		a.reportHealth()
	}
	return nil
}

// apply makes the part that the controller assigns this server's own.
func (a *Agent) apply(ctx context.Context, n *agentv1.Assignment) error {
	old := a.part
	if n.GetEpoch() < old.GetEpoch() {
		a.log.Warn("assignment of an epoch that is over", "epoch", n.GetEpoch(), "current", old.GetEpoch())
		return nil
	}
	if n.GetEpoch() == old.GetEpoch() && n.GetRole() == agentv1.Role_ROLE_BACKUP && old.GetRole() == agentv1.Role_ROLE_ACTIVE {
		a.log.Warn("assignment from before the switch released this server", "epoch", n.GetEpoch())
		return nil
	}
	began := time.Now()
	a.part = n
	same := old != nil && old.GetEpoch() == n.GetEpoch() && old.GetRole() == n.GetRole()
	if !same {
		a.beat.inStep.Store(false)
	}
	if !same && a.stream != nil {
		a.stream.Close() // of the epoch before
		a.stream = nil
	}
	fresh, err := a.setServices(ctx, n)
	if err != nil {
		return err
	}
	ended := 0
	for _, s := range a.services {
		// A service that was added to a part that goes on begins as one of a part
		// that is new.
		same, old := same, old
		added := same && fresh[s.vip]
		if added {
			same, old = false, nil
			s.up = true // until its monitor says otherwise
		}
		switch n.GetRole() {
		case agentv1.Role_ROLE_ACTIVE:
			if !same || old.GetPeer() != nil && n.GetPeer() == nil {
				if err := a.setGate(s.vip, false); err != nil {
					return err
				}
			}
			switch {
			case old.GetRole() != agentv1.Role_ROLE_ACTIVE:
				ended += s.proxy.Lead(n.GetReleased())
				if n.GetReleased() {
					s.proxy.Release()
				}
				if added && a.stream != nil {
					if err := s.proxy.Replicate(a.stream, func() error { return a.setGate(s.vip, true) }); err != nil {
						return err
					}
				}
			default:
				if !same {
					s.proxy.Alone()
				}
				if n.GetReleased() && !old.GetReleased() {
					s.proxy.Release()
				}
			}
		case agentv1.Role_ROLE_BACKUP:
			if !same {
				if err := a.setGate(s.vip, false); err != nil {
					return err
				}
				s.proxy.Fence()
				s.proxy.Follow(nil)
				if added && a.stream != nil {
					s.proxy.Follow(a.stream)
				}
			}
		default:
			if !same {
				if err := a.setGate(s.vip, false); err != nil {
					return err
				}
				s.proxy.Fence()
			}
		}
	}
	a.beat.set(n)
	a.log.Info("part", "role", n.GetRole(), "epoch", n.GetEpoch(), "released", n.GetReleased(),
		"peer", n.GetPeer().GetServer(), "ended", ended, "took", time.Since(began))
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Applied{
		Applied: &agentv1.Applied{Epoch: n.GetEpoch(), Role: n.GetRole()}}})
	if n.GetRole() == agentv1.Role_ROLE_BACKUP && !same {
		go a.dialStream(ctx, n)
	}
	return nil
}

// successor is what the backup of an assignment becomes when the switch releases it:
// active in the same epoch, and alone, until the controller says more.
func successor(backup *agentv1.Assignment) *agentv1.Assignment {
	n := proto.CloneOf(backup)
	n.Role, n.Released, n.Peer = agentv1.Role_ROLE_ACTIVE, true, nil
	return n
}

// setServices starts what is new, which it returns, and stops what is gone.
func (a *Agent) setServices(ctx context.Context, n *agentv1.Assignment) (fresh map[netip.AddrPort]bool, err error) {
	defer func() {
		proxies := map[netip.AddrPort]*proxy.Server{}
		for vip, s := range a.services {
			proxies[vip] = s.proxy
		}
		a.proxies.Store(&proxies)
	}()
	fresh = map[netip.AddrPort]bool{}
	want := map[netip.AddrPort]string{}
	for _, s := range n.GetServices() {
		ip, ok := netip.AddrFromSlice(s.GetVip())
		if !ok || s.GetProtocol() != 6 || s.GetPort() == 0 || s.GetPort() > 65535 {
			a.log.Warn("a service that this agent cannot serve (TCP in log mode only)", "service", s.GetName())
			continue
		}
		want[netip.AddrPortFrom(ip, uint16(s.GetPort()))] = s.GetUpstream()
	}
	for vip, s := range a.services {
		if want[vip] != s.upstream {
			s.stop()
			<-s.done
			delete(a.services, vip)
			if err := a.cfg.Kernel.RemoveService(vip); err != nil {
				a.log.Warn("service not removed from the kernel", "vip", vip, "error", err)
			}
		}
	}
	for vip, upstream := range want {
		if a.services[vip] != nil {
			continue
		}
		s, err := a.startService(ctx, vip, upstream)
		if err != nil {
			return nil, err
		}
		a.services[vip] = s
		fresh[vip] = true
		if err := a.setGate(vip, false); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

func (a *Agent) startService(ctx context.Context, vip netip.AddrPort, upstream string) (*service, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // bpf_sk_assign_tcp_reqsk refuses an MPTCP listener
	network := "tcp4"
	if vip.Addr().Is6() {
		network = "tcp6"
	}
	l, err := lc.Listen(ctx, network, vip.String())
	if err != nil {
		return nil, fmt.Errorf("listen on the VIP: %w; is %s on the loopback device, and nobody else listening?", err, vip.Addr())
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &service{vip: vip, upstream: upstream, stop: cancel, done: make(chan struct{})}
	s.monitor = &application.Monitor{Address: upstream, Changed: func(up bool, reason string) {
		a.post(ctx, applicationChanged{vip, up, reason})
	}}
	cfg := a.cfg.Proxy
	cfg.Upstream, cfg.VIP = upstream, vip
	if !a.cfg.NoAdoption {
		cfg.Adopter = a.cfg.Kernel
	}
	s.proxy = proxy.New(cfg, a.cfg.Kernel, s.monitor, a.log.With("service", vip))
	go func() {
		defer close(s.done)
		var g errgroup.Group
		g.Go(func() error { return s.monitor.Run(ctx) })
		g.Go(func() error { return s.proxy.Serve(ctx, l) })
		if err := g.Wait(); err != nil {
			a.log.Error("service", "vip", vip, "error", err)
		}
	}()
	return s, nil
}

func (a *Agent) setGate(vip netip.AddrPort, on bool) error {
	state := ServiceState{Gate: on, Generation: uint32(a.part.GetEpoch())}
	copy(state.Secret[:], a.part.GetIsnSecret())
	if err := a.cfg.Kernel.SetService(vip, state); err != nil {
		return fmt.Errorf("service %s in the kernel: %w", vip, err)
	}
	return nil
}

// --- the stream to the other server ---

func (a *Agent) acceptStreams(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			a.log.Warn("replication listener", "error", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go func() {
			s, err := replication.Accept(c, a.identity(), func(theirs *replicationv1.Hello) (*replicationv1.Hello, error) {
				n := a.beat.part.Load()
				if n.GetRole() != agentv1.Role_ROLE_ACTIVE || n.GetPeer().GetServer() != theirs.GetServer() {
					return nil, fmt.Errorf("%q is not this server's backup", theirs.GetServer())
				}
				return a.hello(n), nil
			})
			if err != nil {
				a.log.Debug("replication", "error", err)
				return
			}
			if !a.post(ctx, streamUp{s}) {
				s.Close()
			}
		}()
	}
}

// identity is what this server proves on the stream; nil if nobody proves anything.
func (a *Agent) identity() *replication.Identity {
	if a.cfg.Identity == nil {
		return nil
	}
	return &replication.Identity{
		Config:   func() *tls.Config { return pki.PeerConfig(a.cfg.Identity, pki.Server) },
		PeerName: pki.PeerName,
	}
}

func (a *Agent) hello(n *agentv1.Assignment) *replicationv1.Hello {
	return &replicationv1.Hello{Version: replication.Version, Pair: n.GetPair(), Epoch: n.GetEpoch(), Server: a.cfg.Server}
}

// dialStream follows the active server of an assignment: it tries until the
// other side has heard of this epoch too, or this one is over.
func (a *Agent) dialStream(ctx context.Context, n *agentv1.Assignment) {
	began, told := time.Now(), false
	for ctx.Err() == nil {
		if now := a.beat.part.Load(); now.GetEpoch() != n.GetEpoch() {
			return
		}
		s, err := replication.Dial(ctx, n.GetPeer().GetReplicationAddress(), a.identity(), a.hello(n))
		if err == nil {
			if !a.post(ctx, streamUp{s}) {
				s.Close()
			}
			return
		}
		if !told && time.Since(began) > time.Second { // it is not only that the other side is late
			told = true
			a.log.Warn("no replication stream yet", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (a *Agent) streamUp(ctx context.Context, s *replication.Stream) {
	if s.Peer().GetEpoch() != a.part.GetEpoch() || a.stream != nil {
		s.Close()
		return
	}
	var err error
	for _, v := range a.services {
		switch a.part.GetRole() {
		case agentv1.Role_ROLE_ACTIVE:
			err = v.proxy.Replicate(s, func() error { return a.setGate(v.vip, true) })
		case agentv1.Role_ROLE_BACKUP:
			v.proxy.Follow(s)
		default:
			err = errors.New("this server has no part")
		}
		if err != nil {
			a.log.Error("replication stream refused", "error", err)
			s.Close()
			return
		}
	}
	a.stream = s
	a.beat.inStep.Store(a.part.GetRole() == agentv1.Role_ROLE_BACKUP)
	go func() {
		err := s.Run(ctx, func(f *replicationv1.Frame) {
			vip, ok := proxy.FrameVIP(f)
			if h := (*a.proxies.Load())[vip]; ok && h != nil {
				h.Handle(s, f)
			} else {
				a.log.Warn("frame for a service that this server does not have", "vip", vip)
			}
		})
		a.post(ctx, streamDown{s, err})
	}()
	a.log.Info("replication stream", "peer", s.Peer().GetServer(), "epoch", s.Peer().GetEpoch())
	// First what the backup lacks: the pair is duplex when the controller hears of the
	// stream.
	a.reportProtection()
	a.reportStream(true, "")
}

// --- reports to the controller ---

// alivePerBeats is how many heartbeats there are to one sign of life over the
// session: it has to arrive once in the three intervals after which silence counts.
const alivePerBeats = 2

var aliveMessage = &agentv1.AgentMessage{Message: &agentv1.AgentMessage_Alive{Alive: &agentv1.Alive{}}}

// send hands a message to the session, if there is one. A message that is lost
// with its session is made up for by the next session's hello.
func (a *Agent) send(m *agentv1.AgentMessage) {
	if a.session != nil {
		a.session.send(m)
	}
}

func (a *Agent) reportStream(up bool, reason string) {
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Replication{
		Replication: &agentv1.Replication{Epoch: a.part.GetEpoch(), Up: up, Reason: reason}}})
}

func (a *Agent) reportHealth() {
	h := &agentv1.Health{ApplicationUp: true, LinkDown: a.linkDown}
	if a.linkDown {
		h.Reason = fmt.Sprintf("%s has no carrier", a.cfg.Interface)
	}
	for _, s := range a.services {
		if !s.up {
			h.ApplicationUp = false
			h.Reason = fmt.Sprintf("%s: %s", s.upstream, s.reason)
		}
	}
	if h.GetApplicationUp() == a.health.GetApplicationUp() && h.GetLinkDown() == a.health.GetLinkDown() {
		return
	}
	a.health = h
	a.beat.applicationUp.Store(h.GetApplicationUp())
	a.log.Info("health", "application up", h.GetApplicationUp(), "link down", h.GetLinkDown(), "reason", h.GetReason())
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Health{Health: h}})
}

func (a *Agent) reportProtection() {
	if a.part == nil {
		return
	}
	p := &agentv1.Protection{Epoch: a.part.GetEpoch()}
	for _, s := range a.services {
		n, m := s.proxy.Counts()
		p.Connections += uint64(n)
		p.Protected += uint64(m)
		p.Ended += s.proxy.Stats().Ended.Load()
	}
	c := a.counted
	if p.GetEpoch() == c.GetEpoch() && p.GetConnections() == c.GetConnections() &&
		p.GetProtected() == c.GetProtected() && p.GetEnded() == c.GetEnded() {
		return
	}
	a.counted = p
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Protection{Protection: p}})
}
