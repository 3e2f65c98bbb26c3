// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/health"
	"github.com/understudy-net/understudy/controller/p4rt"
	"github.com/understudy-net/understudy/controller/store"
)

// loop owns the state of all pairs. Everything enters as an input, which is
// handled in the goroutine that brings it, one at a time: no other goroutine has
// to wake up between an event and what is done about it. Its task is time.
type loop struct {
	log    *slog.Logger
	secret []byte
	// tables are replaced as a whole, by reconfigure.
	tables atomic.Pointer[tables]
	// put is where pairs' writers bring what they are told.
	put func(context.Context, []p4rt.Entry, []p4rt.Group) error
	// reread has all switches but one be read again. It may be nil.
	reread func(but int)
	// change, resync and setPlaces carry out what reconfigure decides.
	change    func(context.Context, []p4rt.Update) error
	resync    func()
	setPlaces func(map[health.Place]health.Server)
	// room is an error if the switch has no room for a configuration. It may be nil.
	room func(*tables) error
	// changed is called after each step that a machine took, and configured when
	// another configuration is in force, both under the mutex: they must not block.
	// They are set before the loop runs.
	changed    []func(*pair, failover.Status)
	failedOver func(*record) // likewise, of one that is over; may be nil
	configured []func(*config.Config)
	// keep remembers how a server is out of service; nil to forget it. It may be nil.
	keep func(server string, a *store.Admin) error
	// administering is held while an operator's decision is made and kept.
	administering sync.Mutex
	// stopped is closed when the loop takes no more inputs.
	stopped chan struct{}
	writers sync.WaitGroup

	// mu guards what follows, and what is owned in each pair. Nothing that is done
	// under it waits for the network.
	mu       sync.Mutex
	ctx      context.Context // of Run; nil before
	standing bool            // by: another controller is in charge
	history  *history
	watchers map[*watcher]bool
	events   *eventLog
	requests map[uint64]chan<- failover.Reply
	lastReq  uint64
	// down are the ports that are known to be down, and how the switch puts it, for each
	// of config.Switches.
	down []map[uint32]string
}

// tables are what follows from one configuration. They are immutable.
type tables struct {
	cfg      *config.Config
	standing []p4rt.Entry
	pairs    []*pair // in the order of their ids
	byID     map[uint16]*pair
	servers  map[string]place
}

// pair is a state machine and what its intents need.
type pair struct {
	id     uint16
	name   string
	beats  [config.ServersPerPair]atomic.Uint64 // heartbeats that came, by replica - 1
	writer *writer
	stop   context.CancelFunc // of the writer; nil before it runs

	// owned by the loop, guarded by its mutex
	config config.Pair
	// names are those of the servers by replica - 1, and of the last one that had a
	// number that nobody has now.
	names       [config.ServersPerPair]string
	services    []*agentv1.Service
	listed      []*adminv1.Service
	assigned    []*failover.Assign // the latest, by replica - 1
	machine     *failover.Machine
	sessions    []*health.Session             // by replica - 1; nil when there is none
	replication []string                      // addresses, by replica - 1
	facts       [config.ServersPerPair]*facts // by replica - 1; nil before there are any
	connections uint64
	protected   uint64
	last        *record // the latest failover
}

type place struct {
	pair    *pair
	replica failover.Replica
}

// input is one thing for the loop to do: an event of a pair, or a function.
type input struct {
	pair  *pair
	event failover.Event
	do    func()
}

func newLoop(cfg *config.Config, log *slog.Logger, secret []byte, h *history) *loop {
	l := &loop{
		log: log, secret: secret, history: h,
		stopped:  make(chan struct{}),
		watchers: map[*watcher]bool{},
		events:   newEventLog(time.Now()),
		requests: map[uint64]chan<- failover.Reply{},
		down:     make([]map[uint32]string, len(cfg.Switches())),
	}
	for i := range l.down {
		l.down[i] = map[uint32]string{}
	}
	l.tables.Store(l.newTables(cfg, nil))
	return l
}

// newTables keeps the pairs that there are already, and changes nothing in them.
func (l *loop) newTables(cfg *config.Config, old *tables) *tables {
	t := &tables{cfg: cfg, standing: standing(cfg), byID: map[uint16]*pair{}, servers: map[string]place{}}
	for _, pc := range cfg.Pairs {
		p := old.same(pc)
		if p == nil {
			p = l.newPair(cfg, pc)
		}
		t.pairs = append(t.pairs, p)
		t.byID[p.id] = p
		for _, s := range pc.Servers {
			t.servers[s.Name] = place{p, failover.Replica(s.Replica)}
		}
	}
	return t
}

// same returns the pair that is this one: of the same number and name. Its servers may
// have changed.
func (t *tables) same(pc config.Pair) *pair {
	if t == nil || t.byID[pc.ID] == nil {
		return nil
	}
	if p := t.byID[pc.ID]; p.name == pc.Name {
		return p
	}
	return nil
}

func (l *loop) newPair(cfg *config.Config, pc config.Pair) *pair {
	p := &pair{
		id: pc.ID, name: pc.Name,
		writer:      newWriter(pc),
		sessions:    make([]*health.Session, config.ServersPerPair),
		replication: make([]string, config.ServersPerPair),
		assigned:    make([]*failover.Assign, config.ServersPerPair),
	}
	p.machine = newMachine(cfg, pc)
	p.writer.put = func(ctx context.Context, entries []p4rt.Entry, groups []p4rt.Group) error {
		return l.put(ctx, entries, groups)
	}
	p.writer.done = func(epoch uint64) {
		l.post(input{pair: p, event: failover.WriteDone{Epoch: epoch}})
	}
	p.writer.failed = l.writeFailed(p)
	p.configure(cfg, pc)
	return p
}

// configure takes over what may change while a pair lives.
func (p *pair) configure(cfg *config.Config, pc config.Pair) {
	p.config, p.services, p.listed = pc, nil, nil
	for _, s := range pc.Servers {
		p.names[s.Replica-1] = s.Name
	}
	p.writer.setPair(pc)
	for _, s := range cfg.PairServices(pc.Name) {
		p.services = append(p.services, &agentv1.Service{
			Name: s.Name, Vip: s.VIP.AsSlice(), Protocol: uint32(s.Protocol), Port: uint32(s.Port), Upstream: s.Upstream,
		})
		p.listed = append(p.listed, &adminv1.Service{
			Name: s.Name, Vip: s.VIP.String(), Protocol: s.Protocol.String(), Port: uint32(s.Port),
		})
	}
}

// writeFailed passes on each new failure, and a lasting one now and then.
func (l *loop) writeFailed(p *pair) func(uint64, error) {
	var last string
	var at time.Time
	return func(epoch uint64, err error) {
		text := strconv.FormatUint(epoch, 10) + err.Error()
		if text == last && time.Since(at) < 10*time.Second {
			return
		}
		last, at = text, time.Now()
		l.post(input{pair: p, event: failover.WriteFailed{Epoch: epoch, Reason: err.Error()}})
	}
}

// places is where heartbeats come from.
func places(cfg *config.Config) map[health.Place]health.Server {
	m := map[health.Place]health.Server{}
	for _, p := range cfg.Pairs {
		for _, s := range p.Servers {
			m[health.Place{Port: uint32(s.Port), MAC: s.MAC}] = health.Server{Pair: p.ID, Replica: s.Replica}
		}
	}
	return m
}

func (l *loop) String() string { return "loop" }

// post handles an input. Once the loop has ended it does nothing: what ends with
// it, sessions above all, is no event any more.
func (l *loop) post(in input) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended() {
		return
	}
	if in.do != nil {
		in.do()
		return
	}
	if l.tables.Load().byID[in.pair.id] != in.pair {
		return // a pair that is no more
	}
	l.step(in.pair, time.Now(), in.event)
}

// ended is true once Run's context is over.
func (l *loop) ended() bool { return l.ctx != nil && l.ctx.Err() != nil }

var errStopped = errors.New("the controller is stopping")

// call runs f as an input.
func (l *loop) call(ctx context.Context, f func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := false
	l.post(input{do: func() { f(); done = true }})
	if !done {
		return errStopped
	}
	return nil
}

// Run lets time pass until ctx ends.
func (l *loop) Run(ctx context.Context) error {
	defer close(l.stopped)
	l.mu.Lock()
	l.ctx = ctx
	for _, p := range l.tables.Load().pairs {
		l.start(p)
	}
	l.mu.Unlock()
	defer l.writers.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(l.tick())
		}
	}
}

// start runs a pair's writer. The caller holds l.mu; Run has begun.
func (l *loop) start(p *pair) {
	ctx, cancel := context.WithCancel(l.ctx)
	p.stop = cancel
	l.writers.Go(func() {
		defer cancel()
		p.writer.Run(ctx)
	})
}

// tick returns when the next one is due: twice in an interval, and as soon as
// silence lasts too long.
func (l *loop) tick() time.Duration {
	wait := max(l.tables.Load().cfg.Heartbeat.Interval/2, time.Millisecond)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended() {
		return wait
	}
	now := time.Now()
	for _, p := range l.tables.Load().pairs {
		l.step(p, now, failover.Tick{})
		if due := p.machine.Due(); !due.IsZero() {
			wait = min(wait, due.Sub(now))
		}
	}
	return wait
}

// step carries out what a machine intends. The caller holds l.mu.
func (l *loop) step(p *pair, now time.Time, ev failover.Event) {
	intents := p.machine.Step(now, ev)
	if len(intents) == 0 {
		return
	}
	// The switch first: everything else can wait for as long as this takes.
	var w wish
	for _, in := range intents {
		switch in := in.(type) {
		case failover.WriteActive:
			w.epoch, w.hasActive, w.active = in.Epoch, true, activeEntry{in.Active, in.Epoch, in.Standby, silence(l.tables.Load().cfg)}
		case failover.WriteMembers:
			w.epoch, w.hasMembers, w.members = in.Epoch, true, in.Members
		case failover.Assign:
			l.assign(p, in)
		}
		if w.hasActive {
			// A flip does not wait for the rest of the list.
			p.writer.want(w)
			w = wish{}
		}
	}
	if w.hasMembers {
		p.writer.want(w)
	}
	for _, in := range intents {
		switch in := in.(type) {
		case failover.RecordFailover:
			r := l.record(p, in.Failover)
			p.last = &r
			l.history.put(r, in.Final)
			if in.Final && l.failedOver != nil {
				l.failedOver(&r)
			}
		case failover.Notify:
			l.notify(p, now, in)
		case failover.Reply:
			if ch, ok := l.requests[in.Request]; ok {
				delete(l.requests, in.Request)
				ch <- in // has room for one
			}
		}
	}
	l.publish(p)
}

// silence is how long the switch's watchdog bears it.
func silence(cfg *config.Config) time.Duration {
	return time.Duration(cfg.Heartbeat.Missed) * cfg.Heartbeat.Interval
}

// publish has everybody who follows the pairs see this one. The caller holds l.mu.
func (l *loop) publish(p *pair) {
	if len(l.changed) == 0 {
		return
	}
	st := p.machine.Status()
	for _, f := range l.changed {
		f(p, st)
	}
}

func (l *loop) assign(p *pair, in failover.Assign) {
	session := p.sessions[in.Server-1]
	if session == nil {
		return
	}
	p.assigned[in.Server-1] = &in
	beat := l.tables.Load().cfg.Heartbeat
	server, _ := p.config.Server(uint8(in.Server))
	a := &agentv1.Assignment{
		Pair:      p.config.Name,
		Epoch:     in.Epoch,
		Role:      agentv1.Role(in.Role),
		Released:  in.Released,
		Services:  p.services,
		IsnSecret: l.secret,
		Heartbeat: &agentv1.Heartbeat{
			Destination: net.JoinHostPort(server.Gateway.Address.String(), strconv.Itoa(int(beat.Port))),
			Interval:    durationpb.New(beat.Interval),
			PairId:      uint32(p.config.ID),
			ReplicaId:   uint32(server.Replica),
		},
	}
	if in.Peer != 0 {
		a.Peer = &agentv1.Peer{
			Server:             p.names[in.Peer-1],
			ReplicationAddress: p.replication[in.Peer-1],
		}
	}
	session.Assign(a)
}

// ---- the switch session ----

// wanted is called when the switch has been read: each machine sees what it has
// for its pair, and the answer is what it shall have.
//
// Of several switches, that with the newest epoch of a pair is right: where another
// one is behind it is read again.
func (l *loop) wanted(ctx context.Context, index int, have p4rt.State) (p4rt.State, error) {
	var want p4rt.State
	err := l.call(ctx, func() {
		now := time.Now()
		t := l.tables.Load()
		behind := false
		defer func() {
			if behind && l.reread != nil {
				l.reread(index)
			}
		}()
		want.Entries = slices.Clone(t.standing)
		// Each pair looks through what is left.
		have.Entries = slices.DeleteFunc(slices.Clone(have.Entries), func(e p4rt.Entry) bool { return e.Table != activeTable })
		for _, p := range t.pairs {
			before := p.machine.Status()
			found := pairState(have, p.config)
			behind = behind || before.State != failover.Unknown && found.Epoch > before.Epoch
			l.step(p, now, found)
			st := p.machine.Status()
			p.writer.begin(st.Epoch)
			if st.Active != 0 || st.Epoch != 0 {
				want.Entries = append(want.Entries, activeEntry{st.Active, st.Epoch, st.Standby, silence(t.cfg)}.entry(p.config.ID))
			}
			if len(st.Members) > 0 {
				want.Groups = append(want.Groups, membersGroup(p.config, st.Members))
			}
		}
	})
	return want, err
}

// switchReady has the writers try again at once.
func (l *loop) switchReady() {
	for _, p := range l.tables.Load().pairs {
		p.writer.retry()
	}
}

// ---- agent sessions: health.Handler ----

// Attached implements health.Handler.
func (l *loop) Attached(s *health.Session, h *agentv1.Hello) error {
	at, ok := l.tables.Load().servers[h.GetServer()]
	unknown := status.Errorf(codes.NotFound, "no server %q in the controller's configuration; correct the agent's name, or add it to a pair", h.GetServer())
	if !ok {
		return unknown
	}
	// Epochs that were given out after the highest claim are higher than it; the
	// last few of them, by a controller before this one, are not in the switch.
	if h.GetEpoch() > max(failover.MaxEpoch, l.epoch(at.pair)+epochSlack) {
		return status.Errorf(codes.InvalidArgument, "epoch %d cannot be; restart the agent", h.GetEpoch())
	}
	if h.GetInstance() == 0 {
		return status.Error(codes.InvalidArgument, "instance 0 cannot be; send a random number")
	}
	role, ok := roleOf(h.GetRole())
	if !ok {
		return status.Errorf(codes.InvalidArgument, "role %v is not known", h.GetRole())
	}
	var refused error
	l.post(input{do: func() {
		if l.tables.Load().servers[h.GetServer()] != at {
			refused = unknown // it was removed meanwhile
			return
		}
		if l.standing {
			refused = errStandsBy
			return
		}
		i := at.replica - 1
		old := at.pair.sessions[i]
		if refused = twin(old, s, h, l.tables.Load().cfg.Heartbeat); refused != nil {
			return
		}
		s.Instance = h.GetInstance()
		at.pair.assigned[i] = nil
		at.pair.sessions[i] = s
		at.pair.replication[i] = h.GetReplicationAddress()
		l.log.Info("agent attached", "server", h.GetServer(), "remote", s.Remote, "version", h.GetVersion(),
			"role", role, "epoch", h.GetEpoch(), "again", old != nil)
		l.step(at.pair, time.Now(), failover.AgentUp{
			Server: at.replica, Session: s.ID, Instance: h.GetInstance(),
			Role: role, Epoch: h.GetEpoch(),
			ApplicationUp: h.GetHealth().GetApplicationUp(), LinkDown: h.GetHealth().GetLinkDown(),
			Reason: short(h.GetHealth().GetReason()),
		})
	}})
	return refused
}

// twin is an error if another process speaks for the server, and has been heard while
// heartbeats were due: two agents would play one part.
func twin(old, s *health.Session, h *agentv1.Hello, beat config.Heartbeat) error {
	patience := max(2*time.Duration(beat.Missed)*beat.Interval, leastPatience)
	if old == nil || old.Instance == h.GetInstance() || time.Since(old.Heard()) > patience {
		return nil
	}
	return status.Errorf(codes.AlreadyExists, "an agent at %s speaks for server %q already, and %s is another one; stop one of them, or correct its name",
		old.Remote, h.GetServer(), s.Remote)
}

// leastPatience is how long an agent that is gone may be taken for one that is there.
const leastPatience = 100 * time.Millisecond

// epochSlack is how far an agent may be ahead of the pair's epoch.
const epochSlack = 1 << 10

// epoch is that of a pair now.
func (l *loop) epoch(p *pair) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p.machine.Status().Epoch
}

// longestReason is how many bytes of an agent's reason are kept: it is repeated in
// every event.
const longestReason = 256

// short cuts a reason.
func short(reason string) string {
	if len(reason) <= longestReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:longestReason], "") + "..."
}

// roleOf is false for a role of a later version.
func roleOf(r agentv1.Role) (failover.Role, bool) {
	if r < 0 || r > agentv1.Role_ROLE_FENCED {
		return failover.NoRole, false
	}
	return failover.Role(r), true
}

// Message implements health.Handler.
func (l *loop) Message(s *health.Session, m *agentv1.AgentMessage) {
	at, ok := l.tables.Load().servers[s.Server]
	if !ok {
		return // it was removed
	}
	in := input{pair: at.pair}
	switch m := m.GetMessage().(type) {
	case *agentv1.AgentMessage_Health:
		in.event = failover.Health{
			Server: at.replica, Session: s.ID,
			Up: m.Health.GetApplicationUp(), LinkDown: m.Health.GetLinkDown(), Reason: short(m.Health.GetReason()),
		}
	case *agentv1.AgentMessage_Alive:
		in.event = failover.AliveSeen{Server: at.replica, Session: s.ID, At: time.Now()}
	case *agentv1.AgentMessage_Applied:
		applied := failover.Applied{
			Server: at.replica, Session: s.ID,
			Epoch: m.Applied.GetEpoch(), Released: s.Answers(m.Applied),
		}
		role, ok := roleOf(m.Applied.GetRole())
		if !ok {
			return
		}
		applied.Role = role
		in.event = applied
	case *agentv1.AgentMessage_Replication:
		in.event = failover.Replication{
			Server: at.replica, Session: s.ID,
			Epoch: m.Replication.GetEpoch(), Up: m.Replication.GetUp(), Reason: short(m.Replication.GetReason()),
		}
	case *agentv1.AgentMessage_Facts:
		in.do = func() { at.pair.learn(at.replica, s, m.Facts, time.Now()) }
	case *agentv1.AgentMessage_Protection:
		in.do = func() {
			if at.pair.machine.Status().Active == at.replica && at.pair.sessions[at.replica-1] == s {
				at.pair.connections, at.pair.protected = m.Protection.GetConnections(), m.Protection.GetProtected()
			}
			l.step(at.pair, time.Now(), failover.Protection{
				Server: at.replica, Session: s.ID, Epoch: m.Protection.GetEpoch(),
				Connections: m.Protection.GetConnections(), Protected: m.Protection.GetProtected(),
			})
		}
	default:
		l.log.Warn("an agent sent what has no meaning here", "server", s.Server, "message", fmt.Sprintf("%T", m))
		return
	}
	l.post(in)
}

// Detached implements health.Handler.
func (l *loop) Detached(s *health.Session, how health.End) {
	at, ok := l.tables.Load().servers[s.Server]
	if !ok {
		return
	}
	cause := failover.CauseClosed
	if how == health.TimedOut {
		cause = failover.CauseTimedOut
	}
	l.post(input{do: func() {
		if at.pair.sessions[at.replica-1] == s {
			at.pair.sessions[at.replica-1] = nil
		}
		l.step(at.pair, time.Now(), failover.AgentDown{Server: at.replica, Session: s.ID, Cause: cause})
	}})
}
