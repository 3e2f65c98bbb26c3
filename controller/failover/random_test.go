// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	seed  = flag.Uint64("seed", 0, "of the random stories; 0 takes another one each time")
	tales = flag.Int("tales", 300, "how many random stories")
)

// Random stories: agents, links, applications, writes and the controller fail
// and come back in any order. Whatever happens, the rules hold; and when the
// trouble ends, two servers hold the connections again.
func TestRandom(t *testing.T) {
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	n := *tales
	if testing.Short() {
		n = min(n, 50)
	}
	t.Logf("first seed %d; repeat one story with -seed N -tales 1", first)
	hot, unasked := 0, 0
	for i := range n {
		s := first + uint64(i)
		w := newWorld(s)
		w.live(400)
		w.heal()
		hot += w.hot
		unasked += w.unasked
		if len(w.wrong) > 0 {
			from := max(0, len(w.log)-60)
			t.Fatalf("seed %d:\n%s\n...\n%s", s, strings.Join(w.wrong, "\n"), strings.Join(w.log[from:], "\n"))
		}
	}
	t.Logf("%d failovers to a server that held the connections; the switch released %d by itself", hot, unasked)
	if n >= 300 && (hot == 0 || unasked == 0) {
		t.Error("such stories prove nothing")
	}
}

// world is agents, a switch, and the controller's machine between them.
type world struct {
	rng    *rand.Rand
	config Config
	m      *Machine
	now    time.Time
	log    []string
	wrong  []string
	hot    int

	agents  []*process
	session uint64

	// ports: the switch says how its ports are.
	ports bool
	// The switch, and what was asked of it and is not done.
	active  Replica
	epoch   uint64
	members []Replica
	pending []Intent
	// Its watchdog: whom it may release, when and in which epoch it heard the active
	// server, and whom it has released in which.
	standby    Replica
	heard      time.Time
	heardIn    uint64
	latch      Replica
	latchEpoch uint64
	told       bool // the controller has been, since
	unasked    int  // what it released

	lastEpoch uint64             // of WriteActive
	wanted    Replica            // by WriteActive
	released  map[uint64]Replica // whom an epoch released

	// What operators have asked for.
	admin   map[Replica]Admin
	forced  map[Replica]bool
	gone    map[Replica]bool // not of the pair
	request uint64
	waiting map[uint64]bool // for an answer
	decided map[uint64]decision
	calm    bool
	// guess: the failover was decided by a controller that has just started. It
	// cannot tell whether the backup, whose role the switch confirms, had got all
	// connections; but there is nobody better.
	guess bool
}

// decision is what was known when an epoch began.
type decision struct {
	over    bool // an operator's switch-over
	admin   map[Replica]Admin
	forced  map[Replica]bool
	covered map[Replica]uint64
}

// process is an agent, and the host it runs on.
type process struct {
	id       Replica
	alive    bool
	instance uint64
	session  uint64 // 0: none
	appUp    bool
	linked   bool
	carrier  bool // it reports that its link is down
	lastBeat time.Time

	// What it holds.
	have   Assign
	inbox  []Assign
	stream bool // as it last reported
	// holds is the epoch in which this process got a copy of every connection;
	// 0 if it has none.
	holds uint64
	// covered is the epoch in which it last said that the backup holds all.
	covered uint64
}

func newWorld(seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := &world{
		rng: rng, now: time.Unix(1000, 0),
		config:   Config{Servers: []string{"server1", "server2", "server3"}[:2+rng.IntN(2)]},
		released: map[uint64]Replica{}, decided: map[uint64]decision{}, waiting: map[uint64]bool{},
		ports: rng.IntN(2) == 0,
		admin: map[Replica]Admin{}, forced: map[Replica]bool{}, gone: map[Replica]bool{},
	}
	for i := range w.config.Servers {
		w.agents = append(w.agents, &process{id: Replica(i + 1), appUp: true, linked: true, carrier: rng.IntN(2) == 0})
	}
	w.config.Watchdog = rng.IntN(2) == 0
	w.restartController()
	return w
}

// beat has a heartbeat pass the switch, as p4/src/control/watchdog.p4 does, and
// reach the controller.
func (w *world) beat(p *process) {
	p.lastBeat = w.now
	ev := HeartbeatSeen{Server: p.id, At: w.now, Instance: p.instance, Role: p.have.Role, Epoch: p.have.Epoch, ApplicationUp: p.appUp}
	if w.standby != 0 {
		if p.have.Epoch == w.epoch && p.appUp {
			switch {
			case p.id == w.active && p.have.Role == Active:
				w.heard, w.heardIn = w.now, w.epoch
			case p.id == w.standby && p.have.Role == Backup && w.inStep(p):
				if w.heardIn == w.epoch && w.now.Sub(w.heard) > 30*time.Millisecond && w.latchEpoch != w.epoch {
					w.note("switch: releases %d", p.id)
					w.latch, w.latchEpoch = p.id, w.epoch
					w.unasked++
					if p.holds == 0 {
						w.fault("the switch released server%d, which has no copy of the connections", p.id)
					}
					if a := w.agents[w.active-1]; a.have.Epoch > w.epoch && a.have.Role == Active && a.have.Peer == 0 {
						w.fault("the switch released server%d, and server%d goes on alone", p.id, a.id)
					}
				}
			}
		}
		if w.latchEpoch == w.epoch {
			ev.Released, ev.ReleasedEpoch = w.latch, w.latchEpoch
			defer func() { w.told = true }()
			if p.id == w.latch && p.have.Role == Backup && p.have.Epoch == w.epoch {
				// The switch's answer.
				p.have = Assign{Server: p.id, Epoch: w.epoch, Role: Active, Released: true}
				ev.Role = Active
			}
		}
	}
	w.step(ev)
}

// inStep is what a backup knows of its stream.
func (w *world) inStep(p *process) bool {
	a := w.agents[w.active-1]
	return p.holds != 0 && a.alive && a.have.Role == Active && a.have.Peer == p.id && a.have.Epoch == p.have.Epoch || p.holds != 0 && !a.alive
}

// speaks is whom the switch lets be heard.
func (w *world) speaks() Replica {
	if w.standby != 0 && w.latchEpoch == w.epoch {
		return w.latch
	}
	return w.active
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%8.1f ms %s", float64(w.now.Sub(time.Unix(1000, 0)).Microseconds())/1000, fmt.Sprintf(format, args...)))
}

func (w *world) fault(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) step(ev Event) {
	switch ev.(type) {
	case Tick, HeartbeatSeen, AliveSeen:
	default:
		w.note("event %T%+v", ev, ev)
	}
	for _, in := range w.m.Step(w.now, ev) {
		w.note("   -> %T%+v", in, in)
		switch in := in.(type) {
		case WriteActive:
			// Once more in the same epoch it only arms the switch.
			if in.Epoch < w.lastEpoch || in.Epoch == w.lastEpoch && in.Standby == 0 {
				w.fault("epoch %d was written after %d", in.Epoch, w.lastEpoch)
			}
			// What the switch has released by itself is not taken back by somebody who
			// knows, unless that one has failed as well.
			if y := w.speaks(); w.told && y != w.active && y != in.Active && w.lastEpoch == w.epoch {
				if p := w.agents[y-1]; p.alive && p.linked && p.appUp && p.have.Role == Active && p.have.Epoch == w.epoch && p.session != 0 {
					w.fault("server%d was released by the switch, and epoch %d takes it back", y, in.Epoch)
				}
			}
			w.lastEpoch, w.wanted = in.Epoch, in.Active
			w.pending = append(w.pending, in)
			_, over := ev.(SwitchOver)
			d := decision{over: over, admin: maps.Clone(w.admin), forced: maps.Clone(w.forced), covered: map[Replica]uint64{}}
			for _, p := range w.agents {
				d.covered[p.id] = p.covered
			}
			w.decided[in.Epoch] = d
			// That it stays for a moment in another epoch, as its backup goes, is no harm.
			if w.admin[in.Active] == Isolated && w.wanted != in.Active {
				w.fault("server%d is fenced by an operator, and was made the active one", in.Active)
			}
			_, removed := ev.(RemoveServer)
			if in.Active == 0 && !removed && !slices.ContainsFunc(w.agents, func(p *process) bool { return w.forced[p.id] || w.admin[p.id] == Isolated }) {
				w.fault("nobody is heard, and no operator wants that")
			}
		case WriteMembers:
			if len(in.Members) == 0 {
				w.fault("a group without members")
			}
			w.pending = append(w.pending, in)
		case Assign:
			w.assigned(in)
		case RecordFailover:
			w.recorded(in)
		case Reply:
			if !w.waiting[in.Request] {
				w.fault("request %d was answered, and nobody waits for it", in.Request)
			}
			delete(w.waiting, in.Request)
		case Notify:
			if in.Kind == StateChanged && strings.Contains(in.Message, "-> failing over") {
				w.guess = strings.HasPrefix(in.Message, "recovering") ||
					strings.HasPrefix(in.Message, "joining") && w.m.resumed
			}
		}
	}
}

func (w *world) assigned(a Assign) {
	p := w.agents[a.Server-1]
	if p.session == 0 {
		w.fault("server%d was told %+v without a session", a.Server, a)
		return
	}
	if a.Role == Active && a.Released {
		if w.speaks() != a.Server {
			w.fault("server%d was released while the switch has %d", a.Server, w.speaks())
		}
		if other, ok := w.released[a.Epoch]; ok && other != a.Server {
			w.fault("epoch %d released both server%d and server%d", a.Epoch, other, a.Server)
		}
		w.released[a.Epoch] = a.Server
	}
	if st := w.m.Status(); a.Role == Fenced && st.Active == a.Server &&
		(st.State == Simplex || st.State == Joining || st.State == Duplex) {
		w.fault("server%d was fenced, and it is the active one of a pair that is %s", a.Server, st.State)
	}
	if a.Role == Backup && w.admin[a.Server] != InService {
		w.fault("server%d is %v, and was told %+v", a.Server, w.admin[a.Server], a)
	}
	if a.Role == Backup && (a.Peer == 0 || a.Peer == a.Server) {
		w.fault("a backup without an active server: %+v", a)
	}
	p.inbox = append(p.inbox, a)
}

func (w *world) recorded(r RecordFailover) {
	if r.Decided.Before(r.Suspected) || r.Written.Before(r.Decided) {
		w.fault("times out of order: %+v", r)
	}
	if d := w.decided[r.Epoch]; r.Cause == CauseOperator && !d.over && !d.forced[r.From] {
		if d.admin[r.From] == Drained && d.covered[r.From] != r.Epoch-1 {
			w.fault("server%d was drained, and has not said that all its connections are held", r.From)
		}
		if r.Cold {
			w.fault("an operator who has not accepted it lost the connections of server%d", r.From)
		}
	}
	if r.Final || r.Cold {
		return
	}
	w.hot++
	// The record comes with the write: the new active server must have held
	// the connections when it was chosen, in the epoch before.
	if p := w.agents[r.To-1]; p.alive && p.holds == 0 && !w.guess {
		w.fault("server%d took over without a copy of the connections", r.To)
	}
}

// read has the agent do what it was told.
func (w *world) read(p *process) {
	if len(p.inbox) == 0 || !p.alive {
		return
	}
	a := p.inbox[0]
	p.inbox = p.inbox[1:]
	if a.Epoch < p.have.Epoch {
		return
	}
	if a.Role == Backup && p.have.Role == Active && a.Epoch == p.have.Epoch {
		return // the switch has released it since
	}
	if a.Role == Fenced {
		p.holds = 0
	}
	if a.Role == Backup && p.have != a {
		p.holds = 0 // an empty copy, to be filled by the stream
	}
	p.have = a
	if p.session != 0 {
		w.step(Applied{Server: p.id, Session: p.session, Epoch: a.Epoch, Role: a.Role, Released: a.Released})
	}
}

// streams has active agents notice what became of the stream to their backup.
func (w *world) streams() {
	for _, p := range w.agents {
		if !p.alive || p.have.Role != Active || p.have.Peer == 0 {
			p.stream = false
			continue
		}
		b := w.agents[p.have.Peer-1]
		up := b.alive && b.have.Role == Backup && b.have.Epoch == p.have.Epoch && b.have.Peer == p.id && p.linked && b.linked
		if up {
			b.holds = p.have.Epoch
		}
		if up && p.session != 0 && w.rng.IntN(8) == 0 {
			old := uint64(w.rng.IntN(2)) // connections from before
			if p.covered = 0; old == 0 {
				p.covered = p.have.Epoch
			}
			w.step(Protection{Server: p.id, Session: p.session, Epoch: p.have.Epoch, Connections: 5, Protected: 5 - old})
		}
		if p.session != 0 && up != p.stream && w.rng.IntN(3) == 0 {
			p.stream = up
			w.step(Replication{Server: p.id, Session: p.session, Epoch: p.have.Epoch, Up: up})
		}
	}
}

// pass lets a little time pass, as everybody lives on.
func (w *world) pass(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(2500 * time.Microsecond)
		for _, p := range w.agents {
			if p.alive && p.linked && p.have.Role != NoRole && w.now.Sub(p.lastBeat) >= 10*time.Millisecond {
				w.beat(p)
			}
			if p.alive && p.session != 0 && p.id%2 == 0 && w.now.UnixMilli()%10 == 0 {
				w.step(AliveSeen{Server: p.id, Session: p.session, At: w.now})
			}
			if w.rng.IntN(2) == 0 {
				w.read(p)
			}
		}
		w.streams()
		if len(w.pending) > 0 && w.rng.IntN(2) == 0 {
			w.write(w.calm || w.rng.IntN(5) > 0)
		}
		w.step(Tick{})
	}
}

// write has the switch take what is asked of it, as one request, or refuse it.
func (w *world) write(ok bool) {
	if len(w.pending) == 0 {
		return
	}
	var epoch uint64
	for _, in := range w.pending {
		switch in := in.(type) {
		case WriteActive:
			epoch = in.Epoch
			if ok {
				w.active, w.epoch, w.standby, w.told = in.Active, in.Epoch, in.Standby, false
			}
		case WriteMembers:
			epoch = max(epoch, in.Epoch)
			if ok {
				w.members = slices.Clone(in.Members)
			}
		}
	}
	if !ok {
		w.step(WriteFailed{Epoch: epoch, Reason: "no"})
		return
	}
	w.pending = nil
	w.note("switch: active %d epoch %d members %s", w.active, w.epoch, replicas(w.members))
	w.step(WriteDone{Epoch: epoch})
}

func (w *world) attach(p *process) {
	if w.gone[p.id] {
		return
	}
	w.session++
	p.session = w.session
	p.inbox = nil // what was on the old connection is lost
	p.stream = false
	w.step(AgentUp{
		Server: p.id, Session: p.session, Instance: p.instance,
		Role: p.have.Role, Epoch: p.have.Epoch, ApplicationUp: p.appUp, LinkDown: p.carrier && !p.linked,
	})
}

func (w *world) detach(p *process, cause Cause) {
	if p.session == 0 {
		return
	}
	s := p.session
	p.session, p.inbox = 0, nil
	w.step(AgentDown{Server: p.id, Session: s, Cause: cause})
}

func (w *world) start(p *process) {
	if p.alive {
		return
	}
	p.alive, p.instance = true, w.rng.Uint64()|1
	p.have, p.holds, p.appUp = Assign{}, 0, true
	w.attach(p)
}

func (w *world) kill(p *process) {
	if !p.alive {
		return
	}
	p.alive = false
	p.have, p.holds, p.inbox = Assign{}, 0, nil
	// The session's end may be noticed late: then a new process may come first.
	if w.rng.IntN(4) > 0 {
		w.detach(p, CauseClosed)
	}
}

func (w *world) restartController() {
	cfg := w.config
	cfg.Servers = slices.Clone(cfg.Servers)
	for r := range w.gone {
		cfg.Servers[r-1] = ""
	}
	w.m = New(cfg)
	w.pending, w.told = nil, false
	for _, p := range w.agents {
		p.session, p.inbox = 0, nil
	}
	// What was asked for but not written is unknown to the new one.
	w.lastEpoch, w.wanted = w.epoch, w.active
	for e := range w.released {
		if e > w.epoch {
			delete(w.released, e)
		}
	}
	w.note("a new controller")
	clear(w.waiting)
	for _, p := range w.agents {
		if a := w.admin[p.id]; a != InService {
			w.step(SetAdmin{Server: p.id, State: a, Force: w.forced[p.id]})
		}
	}
	st := SwitchState{Active: w.active, Epoch: w.epoch, Standby: w.standby}
	if w.gone[st.Active] {
		st.Active = 0
	}
	for _, r := range w.members {
		if !w.gone[r] {
			st.Members = append(st.Members, r)
		}
	}
	w.step(st)
	for _, p := range w.agents {
		w.sayPort(p, !p.linked)
	}
}

// restartSwitch empties the switch, which is then told everything again.
func (w *world) restartSwitch() {
	w.step(SwitchState{})
	st := w.m.Status()
	w.active, w.epoch, w.standby, w.members = st.Active, st.Epoch, st.Standby, st.Members
	w.heardIn, w.latchEpoch = 0, 0
	w.note("a new switch: active %d epoch %d members %s", w.active, w.epoch, replicas(w.members))
}

// operate has an operator put a server out of service, or into it.
func (w *world) operate(p *process, a Admin, force bool) {
	if w.gone[p.id] {
		return
	}
	w.request++
	w.waiting[w.request] = true
	before := w.admin[p.id]
	forced := w.forced[p.id]
	// What the machine does in the same step is judged by this; a refusal takes it back.
	if a == InService {
		w.admin[p.id], w.forced[p.id] = a, false
	} else {
		w.admin[p.id] = max(before, a)
		w.forced[p.id] = forced || force
	}
	w.step(SetAdmin{Request: w.request, Server: p.id, State: a, Force: force})
	st := w.m.Status()
	i := slices.IndexFunc(st.Servers, func(s ServerStatus) bool { return s.Replica == p.id })
	if got := st.Servers[i].Admin; got != w.admin[p.id] {
		if w.waiting[w.request] || force || a == InService {
			w.fault("server%d shall be %v, is %v, and nobody was told why", p.id, w.admin[p.id], got)
		}
		w.admin[p.id], w.forced[p.id] = before, forced
	}
}

// sayPort has the switch tell of a port.
func (w *world) sayPort(p *process, down bool) {
	if w.ports && !w.gone[p.id] {
		w.step(PortState{Server: p.id, Down: down})
	}
}

// member takes a server out of the pair, or into it.
func (w *world) member(p *process) {
	if w.gone[p.id] {
		delete(w.gone, p.id)
		w.step(AddServer{Server: p.id, Name: w.config.Servers[p.id-1]})
		w.sayPort(p, !p.linked)
		return
	}
	if len(w.agents)-len(w.gone) <= 2 || w.m.Removable(p.id) != "" {
		return
	}
	w.step(RemoveServer{Server: p.id})
	w.gone[p.id] = true
	w.admin[p.id], w.forced[p.id] = InService, false
	p.session, p.inbox = 0, nil
}

// live is a number of random events.
func (w *world) live(n int) {
	for range n {
		p := w.agents[w.rng.IntN(len(w.agents))]
		switch w.rng.IntN(40) {
		case 0, 1:
			w.kill(p)
		case 2, 3, 4, 5:
			w.start(p)
		case 6:
			w.detach(p, []Cause{CauseClosed, CauseTimedOut}[w.rng.IntN(2)])
		case 7, 8, 9:
			if p.alive && (p.session == 0 || w.rng.IntN(4) == 0) {
				w.attach(p)
			}
		case 10, 11:
			p.linked = !p.linked
			w.note("server%d linked %t", p.id, p.linked)
			w.sayPort(p, !p.linked)
			if p.alive && p.session != 0 && (p.linked || p.carrier) {
				w.step(Health{Server: p.id, Session: p.session, Up: p.appUp, LinkDown: !p.linked})
			}
		case 12:
			if p.alive {
				p.appUp = !p.appUp
				if p.session != 0 {
					w.step(Health{Server: p.id, Session: p.session, Up: p.appUp, LinkDown: p.carrier && !p.linked})
				}
			}
		case 13:
			if w.rng.IntN(4) == 0 {
				w.restartController()
			}
		case 14:
			if w.rng.IntN(4) == 0 {
				w.restartSwitch()
			}
		case 15:
			w.request++
			w.waiting[w.request] = true
			w.step(SwitchOver{Request: w.request})
		case 21:
			w.operate(p, []Admin{Drained, Isolated, InService}[w.rng.IntN(3)], w.rng.IntN(4) == 0)
		case 22:
			w.operate(p, InService, false)
		case 23:
			w.member(p)
		case 24:
			// Somebody has waited long enough. A switch-over is not given up.
			for _, p := range w.m.servers {
				if len(p.reqs) > 0 {
					r := p.reqs[0]
					delete(w.waiting, r)
					w.step(GiveUp{Request: r})
				}
			}
		case 38, 39:
			// The active server is cut off in the middle of quiet.
			if w.pass(400 * time.Millisecond); w.m.Status().State == Duplex {
				a := w.agents[w.m.Status().Active-1]
				a.linked = false
				w.note("server%d linked false", a.id)
			}
		case 25:
			// It is wrong, or has not been asked for long.
			w.sayPort(p, w.rng.IntN(2) == 0)
		default:
			w.pass(time.Duration(1+w.rng.IntN(40)) * time.Millisecond)
		}
		if len(w.wrong) > 0 {
			return
		}
	}
}

// heal ends all trouble. Two servers must end up holding the connections.
func (w *world) heal() {
	if len(w.wrong) > 0 {
		return
	}
	w.note("all trouble ends")
	w.calm = true
	for _, p := range w.agents {
		if w.gone[p.id] {
			w.member(p)
		}
		w.operate(p, InService, false)
		p.linked = true
		w.sayPort(p, false)
		if !p.alive {
			w.start(p)
		}
		if p.session == 0 {
			w.attach(p)
		}
		p.appUp = true
		w.step(Health{Server: p.id, Session: p.session, Up: true})
	}
	for range 60 {
		w.pass(time.Second)
		if w.m.Status().State == Duplex && len(w.pending) == 0 {
			break
		}
	}
	w.pass(200 * time.Millisecond)
	if len(w.waiting) > 0 {
		w.fault("nobody has answered %v", w.waiting)
	}
	st := w.m.Status()
	if st.State != Duplex {
		w.fault("the pair is %s, not duplex", st.State)
		return
	}
	a, b := w.agents[st.Active-1], w.agents[st.Backup-1]
	armed, covered := w.standby == st.Backup, w.agents[st.Active-1].covered == st.Epoch
	if armed && !w.config.Watchdog || !armed && (w.standby != 0 || w.config.Watchdog && covered) {
		w.fault("the switch's watchdog: %t, standby %d", w.config.Watchdog, w.standby)
	}
	if w.active != st.Active || w.epoch != st.Epoch || len(w.members) != 2 {
		w.fault("the switch has active %d, epoch %d, members %v; the machine %+v", w.active, w.epoch, w.members, st)
	}
	if a.have != (Assign{Server: a.id, Epoch: st.Epoch, Role: Active, Released: true, Peer: b.id}) {
		w.fault("the active server has %+v", a.have)
	}
	if b.have != (Assign{Server: b.id, Epoch: st.Epoch, Role: Backup, Peer: a.id}) {
		w.fault("the backup has %+v", b.have)
	}
	for _, p := range w.agents {
		if p != a && p != b && p.have.Role != Fenced {
			w.fault("server%d has %+v", p.id, p.have)
		}
	}
}
