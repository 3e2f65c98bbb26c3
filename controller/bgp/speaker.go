// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	gobgp "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"

	"github.com/understudy-net/understudy/controller/config"
)

// Speaker holds the sessions with the peers. It is told what shall be, not what
// to do, and may be told so again and again. Its methods are safe for concurrent
// use, and none of them waits for the network.
//
// No session is opened before the first SetRoutes: a router that kept the routes
// of a controller that restarted (RFC 4724) would take an empty table for a
// withdrawal of all of them. When that first table is not empty, somebody serves
// already: forwarding went on while the controller was away, and the peers are
// told so (the forwarding state bit).
type Speaker struct {
	log  *slog.Logger
	wake chan struct{}

	mu       sync.Mutex
	cfg      *config.BGP
	routes   []Route // wanted
	told     bool    // SetRoutes was called
	restored bool    // the first table was not empty
	have     map[netip.Prefix]Route
	peers    map[netip.Addr]*peer
	updates  uint64
	withdraw uint64
}

// peer is a session as it is configured in GoBGP.
type peer struct {
	config config.BGPPeer
	status PeerStatus
	// again: its session ended, and it is to be configured anew as restarting.
	again bool
}

// PeerStatus is a session.
type PeerStatus struct {
	Name    string
	Address netip.Addr
	ASN     uint32
	// State is that of RFC 4271, section 8.2.2, in lower case: "established".
	State string
	// Since is when it came into this state; zero if it has not begun.
	Since time.Time
	// Losses counts the sessions that were established and ended.
	Losses uint64
}

// Established says that routes can be sent.
func (p PeerStatus) Established() bool { return p.State == stateEstablished }

const stateEstablished = "established"

// New returns a Speaker for a configuration. Logger may be nil.
func New(cfg *config.BGP, logger *slog.Logger) *Speaker {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Speaker{
		log: logger.With("part", "bgp"), wake: make(chan struct{}, 1), cfg: cfg,
		have: map[netip.Prefix]Route{}, peers: map[netip.Addr]*peer{},
	}
}

func (s *Speaker) String() string { return "BGP speaker" }

// SetRoutes says what shall be announced. A route to an address that is not
// allowed is an error, and nothing changes.
func (s *Speaker) SetRoutes(routes []Route) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range routes {
		if !s.cfg.Allowed(r.Prefix.Addr()) || !r.Prefix.IsSingleIP() {
			return fmt.Errorf("bgp: %v is not a host route within bgp.allow; nothing was announced", r.Prefix)
		}
		if !r.NextHop.IsValid() || r.NextHop.Is4() != r.Prefix.Addr().Is4() {
			return fmt.Errorf("bgp: %v has the next hop %v, of another family; nothing was announced", r.Prefix, r.NextHop)
		}
	}
	if !s.told {
		s.told, s.restored = true, len(routes) > 0
	}
	s.routes = slices.Clone(routes)
	s.poke()
	return nil
}

// Configure changes peers and the allow-list while sessions run: those that do
// not change are left alone. The AS number, the router id and the address it
// listens on cannot change.
func (s *Speaker) Configure(cfg *config.BGP) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cfg.ASN != s.cfg.ASN || cfg.RouterID != s.cfg.RouterID || cfg.Listen != s.cfg.Listen {
		return errors.New("bgp: asn, router_id and listen cannot change while sessions run; restart the controller")
	}
	if cfg.RestartTime != s.cfg.RestartTime {
		for _, p := range s.peers {
			p.config = config.BGPPeer{} // differs from every one
		}
	}
	s.cfg = cfg
	s.routes = slices.DeleteFunc(s.routes, func(r Route) bool { return !cfg.Allowed(r.Prefix.Addr()) })
	s.poke()
	return nil
}

func (s *Speaker) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Status is the state of a Speaker.
type Status struct {
	ASN      uint32
	RouterID netip.Addr
	Peers    []PeerStatus // in the order of the configuration
	Routes   []Route      // announced, in order
	// Announced and Withdrawn count the routes that were, since the start.
	Announced, Withdrawn uint64
}

// Status returns the state now.
func (s *Speaker) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{ASN: s.cfg.ASN, RouterID: s.cfg.RouterID, Announced: s.updates, Withdrawn: s.withdraw}
	for _, c := range s.cfg.Peers {
		p := PeerStatus{Name: c.Name, Address: c.Address, ASN: c.ASN, State: "idle"}
		if have := s.peers[c.Address]; have != nil && have.status.Name != "" {
			p = have.status
		}
		st.Peers = append(st.Peers, p)
	}
	for _, r := range s.have {
		st.Routes = append(st.Routes, r)
	}
	slices.SortFunc(st.Routes, byPrefix)
	return st
}

const (
	// deferral is how long a restarted speaker waits for its peers' tables before
	// it sends its own (the Selection_Deferral_Timer of RFC 4724, 4.1). It takes no
	// routes, so there is nothing to select from.
	deferral = time.Second
	// retry is between attempts to configure GoBGP.
	retry = time.Second
)

// Run speaks until ctx ends, which is not an error. Sessions are then left as they
// are, and end with the process, without a NOTIFICATION: to peers that know
// graceful restart the controller is about to come back. Where graceful restart
// is off they are closed, and the routes with them.
func (s *Speaker) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.wake:
	}
	b := server.NewBgpServer(server.LoggerOption(&logger{s.log}))
	go b.Serve() // it has no end
	if err := s.start(ctx, b); err != nil {
		return fmt.Errorf("bgp: %w; correct bgp.listen, or free the address", err)
	}
	defer func() {
		s.mu.Lock()
		graceful := s.cfg.RestartTime > 0
		s.mu.Unlock()
		if !graceful {
			b.StopBgp(context.Background(), &gobgp.StopBgpRequest{})
		}
	}()
	var again <-chan time.Time
	for {
		if err := s.reconcile(ctx, b); err != nil && ctx.Err() == nil {
			s.log.Error("cannot configure what shall be announced", "error", err)
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-again:
		}
		again = nil
	}
}

func (s *Speaker) start(ctx context.Context, b *server.BgpServer) error {
	s.mu.Lock()
	g := &gobgp.Global{Asn: s.cfg.ASN, RouterId: s.cfg.RouterID.String(), ListenPort: -1,
		Families: []uint32{0, 1}} // IPv4 and IPv6 unicast
	if at := s.cfg.Listen; at.IsValid() {
		g.ListenPort, g.ListenAddresses = int32(at.Port()), []string{at.Addr().String()}
	}
	s.mu.Unlock()
	if err := b.StartBgp(ctx, &gobgp.StartBgpRequest{Global: g}); err != nil {
		return err
	}
	// What is announced is the controller's own: nothing that a peer sends is taken,
	// and nothing else is passed on.
	own := &gobgp.Policy{Name: "own", Statements: []*gobgp.Statement{{
		Name:       "own",
		Conditions: &gobgp.Conditions{RouteType: gobgp.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &gobgp.Actions{RouteAction: gobgp.RouteAction_ACCEPT},
	}}}
	if err := b.AddPolicy(ctx, &gobgp.AddPolicyRequest{Policy: own}); err != nil {
		return err
	}
	for _, d := range []gobgp.PolicyDirection{gobgp.PolicyDirection_IMPORT, gobgp.PolicyDirection_EXPORT} {
		if err := b.SetPolicyAssignment(ctx, &gobgp.SetPolicyAssignmentRequest{Assignment: &gobgp.PolicyAssignment{
			Name: "global", Direction: d, DefaultAction: gobgp.RouteAction_REJECT, Policies: []*gobgp.Policy{own},
		}}); err != nil {
			return err
		}
	}
	return b.WatchEvent(ctx, &gobgp.WatchEventRequest{Peer: &gobgp.WatchEventRequest_Peer{}}, s.event)
}

// event is called by GoBGP, in order.
func (s *Speaker) event(ev *gobgp.WatchEventResponse) {
	e := ev.GetPeer()
	if e.GetType() != gobgp.WatchEventResponse_PeerEvent_STATE {
		return
	}
	addr, err := netip.ParseAddr(e.GetPeer().GetState().GetNeighborAddress())
	if err != nil {
		return
	}
	state := strings.ToLower(e.GetPeer().GetState().GetSessionState().String())
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[addr]
	if p == nil || p.status.State == state {
		return
	}
	was := p.status.Established()
	p.status.State, p.status.Since = state, time.Now()
	switch {
	case p.status.Established():
		s.log.Info("BGP session established", "peer", p.status.Name, "address", addr)
	case was:
		p.status.Losses++
		s.log.Warn("BGP session lost", "peer", p.status.Name, "address", addr, "state", state)
		// The switch forwards on, whatever becomes of this session. GoBGP says so
		// only of a peer that is configured as restarting.
		p.again = s.cfg.RestartTime > 0
		s.poke()
	}
}

// reconcile brings GoBGP to what shall be.
func (s *Speaker) reconcile(ctx context.Context, b *server.BgpServer) error {
	s.mu.Lock()
	cfg, changes := s.cfg, difference(s.have, s.routes)
	restarting := s.restored
	s.mu.Unlock()

	// Routes before peers: a session begins with all of them.
	for _, c := range changes {
		if err := s.apply(ctx, b, c); err != nil {
			return fmt.Errorf("route %v: %w", c.route, err)
		}
	}
	var errs []error
	wanted := map[netip.Addr]bool{}
	for _, c := range cfg.Peers {
		wanted[c.Address] = true
		if err := s.reconcilePeer(ctx, b, cfg, c, restarting); err != nil {
			errs = append(errs, fmt.Errorf("peer %s: %w", c.Name, err))
		}
	}
	s.mu.Lock()
	var gone []netip.Addr
	for a := range s.peers {
		if !wanted[a] {
			gone = append(gone, a)
		}
	}
	s.mu.Unlock()
	for _, a := range gone {
		errs = append(errs, s.remove(ctx, b, a))
	}
	return errors.Join(errs...)
}

func (s *Speaker) apply(ctx context.Context, b *server.BgpServer, c change) error {
	path, err := pathOf(c.route, c.withdraw)
	if err != nil {
		return err
	}
	if c.withdraw {
		err = b.DeletePath(ctx, &gobgp.DeletePathRequest{TableType: gobgp.TableType_GLOBAL, Path: path})
	} else {
		_, err = b.AddPath(ctx, &gobgp.AddPathRequest{TableType: gobgp.TableType_GLOBAL, Path: path})
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.withdraw {
		delete(s.have, c.route.Prefix)
		s.withdraw++
		s.log.Info("route withdrawn", "prefix", c.route.Prefix)
	} else {
		s.have[c.route.Prefix] = c.route
		s.updates++
		s.log.Info("route announced", "route", c.route.String())
	}
	return nil
}

func (s *Speaker) reconcilePeer(ctx context.Context, b *server.BgpServer, cfg *config.BGP, c config.BGPPeer, restarting bool) error {
	s.mu.Lock()
	have := s.peers[c.Address]
	var again bool
	var losses uint64
	if have != nil {
		again, losses = have.again, have.status.Losses
		have.again = false
	}
	s.mu.Unlock()
	if have != nil && reflect.DeepEqual(have.config, c) && !again {
		return nil
	}
	if have != nil {
		if err := s.remove(ctx, b, c.Address); err != nil {
			return err
		}
		restarting = again
	}
	p, err := peerOf(cfg, c, restarting)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.peers[c.Address] = &peer{config: c, status: PeerStatus{
		Name: c.Name, Address: c.Address, ASN: c.ASN, State: "idle", Since: time.Now(), Losses: losses,
	}}
	s.mu.Unlock()
	if err := b.AddPeer(ctx, &gobgp.AddPeerRequest{Peer: p}); err != nil {
		s.mu.Lock()
		delete(s.peers, c.Address)
		s.mu.Unlock()
		return err
	}
	return nil
}

func (s *Speaker) remove(ctx context.Context, b *server.BgpServer, a netip.Addr) error {
	s.mu.Lock()
	delete(s.peers, a)
	s.mu.Unlock()
	return b.DeletePeer(ctx, &gobgp.DeletePeerRequest{Address: a.String()})
}

// peerOf is a peer in GoBGP's words.
func peerOf(cfg *config.BGP, c config.BGPPeer, restarting bool) (*gobgp.Peer, error) {
	password := c.Password
	if c.PasswordFile != "" {
		text, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("password: %w; make the file readable for the controller", err)
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	if password != "" {
		if err := checkMD5(c.Address); err != nil {
			return nil, err
		}
	}
	p := &gobgp.Peer{
		Conf:  &gobgp.PeerConf{NeighborAddress: c.Address.String(), PeerAsn: c.ASN, LocalAsn: cfg.ASN, AuthPassword: password, Description: c.Name},
		State: &gobgp.PeerState{},
		Timers: &gobgp.Timers{Config: &gobgp.TimersConfig{
			HoldTime: uint64(c.HoldTime / time.Second), KeepaliveInterval: uint64(max(c.HoldTime/3/time.Second, 1)),
			ConnectRetry: 1, IdleHoldTimeAfterReset: 1,
		}},
		Transport: &gobgp.Transport{RemotePort: uint32(c.Port), PassiveMode: c.Passive},
	}
	if c.LocalAddress.IsValid() {
		p.Transport.LocalAddress = c.LocalAddress.String()
	}
	if c.TTLSecurity > 0 {
		// A packet from n hops away has at least this TTL (RFC 5082, 3).
		p.TtlSecurity = &gobgp.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(c.TTLSecurity)}
	}
	if c.Multihop > 0 {
		p.EbgpMultihop = &gobgp.EbgpMultihop{Enabled: true, MultihopTtl: uint32(c.Multihop)}
	}
	graceful := cfg.RestartTime > 0
	if graceful {
		p.GracefulRestart = &gobgp.GracefulRestart{
			Enabled: true, RestartTime: uint32(cfg.RestartTime / time.Second),
			DeferralTime: uint32(deferral / time.Second), LocalRestarting: restarting,
		}
	}
	add := func(afi gobgp.Family_Afi) {
		p.AfiSafis = append(p.AfiSafis, &gobgp.AfiSafi{
			Config:            &gobgp.AfiSafiConfig{Family: &gobgp.Family{Afi: afi, Safi: gobgp.Family_SAFI_UNICAST}, Enabled: true},
			MpGracefulRestart: &gobgp.MpGracefulRestart{Config: &gobgp.MpGracefulRestartConfig{Enabled: graceful}},
		})
	}
	if c.IPv4 {
		add(gobgp.Family_AFI_IP)
	}
	if c.IPv6 {
		add(gobgp.Family_AFI_IP6)
	}
	return p, nil
}
