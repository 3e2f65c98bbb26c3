// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"time"
)

// Config is what a Machine has to know. The zero value of a duration means its
// default.
type Config struct {
	// Servers are the names, in the order of their replica numbers; "" is a number
	// that nobody has.
	Servers []string
	// Interval is that of the heartbeats; Missed of them in a row are silence.
	Interval time.Duration
	Missed   int
	// JoinTimeout ends a join that makes no progress (5 s).
	JoinTimeout time.Duration
	// HoldDown is how long a server must have been well before it joins (200 ms).
	// It doubles with each join of that server that fails.
	HoldDown time.Duration
	// RecoverTimeout is how long a controller that has just read the switch waits
	// for agents to come back (5 s).
	RecoverTimeout time.Duration
	// Watchdog has the switch release the backup by itself when the active server is
	// silent, as long as the pair is duplex.
	Watchdog bool
}

const (
	defaultInterval       = 10 * time.Millisecond
	defaultMissed         = 3
	defaultJoinTimeout    = 5 * time.Second
	defaultHoldDown       = 200 * time.Millisecond
	defaultRecoverTimeout = 5 * time.Second

	// releaseTimeout closes the record of a failover whose new active server
	// never said that it speaks.
	releaseTimeout = time.Second
	// maxHoldDownDoublings bounds the hold-down of a server that fails to join.
	maxHoldDownDoublings = 6
	// resumeTimeout is how long a pair that was duplex before the controller came
	// may take to show that it still is: agents say so with their Hello.
	resumeTimeout = 500 * time.Millisecond
	// recoverQuiet is how many times the limit of silence a recovering pair waits
	// for the first heartbeat of a server.
	recoverQuiet = 5
	// pathPatience is how many times the limit of silence the data path may be
	// silent while the agent's session shows that it lives: a path that is only
	// slow, behind a burst of data say, costs no failover.
	pathPatience = 4
	// coldPatience is how many times the limit of silence a server may be silent
	// whose connections nobody else holds. To replace it loses all of them: haste
	// saves nothing, and one that was only slow loses nothing when it is heard again.
	coldPatience = 25
	// adoptPatience is how long after a pair has become duplex connections may be
	// missing on the backup that make a silence count as if nobody held them.
	adoptPatience = 5 * time.Second
)

// MaxEpoch is the highest epoch that an agent may claim. The switch has 32 bits
// for it; half of them are left for what comes after.
const MaxEpoch = 1 << 31

// Machine is the state of one pair. It is not safe for concurrent use.
type Machine struct {
	config  Config
	servers []*server // in the order of their numbers
	state   State
	// epoch is that of the last change of roles; floor is the highest epoch that
	// anybody is known to have seen.
	epoch, floor uint64

	// active is whom the switch's entry names, or shall name; nil for nobody. It
	// stays when a pair goes down.
	active *server
	// backup is the second server, while joining and in duplex.
	backup  *server
	members []Replica

	// writing is the epoch whose write is awaited, 0 for none.
	writing uint64
	// flip is a change of the active server that is being written.
	flip *flip
	// record is the last failover, until its release is known.
	record *Failover
	step   joinStep
	// resumed: the pair that joins was duplex before this controller came.
	resumed  bool
	deadline time.Time // of the join, or of recovery
	// duplexSince is when the backup had joined.
	duplexSince time.Time
	// recoverySince is when the switch was read.
	recoverySince time.Time
	// watch is what concerns the switch's watchdog.
	watch watch
	// unprotected is set once a failure that nobody could take over was told.
	unprotected bool
	// down is the failure that took the pair down.
	down failure

	lastTick time.Time
	now      time.Time
	out      []Intent
}

type server struct {
	id   Replica
	name string

	// What is known of it.
	attached     bool
	session      uint64
	instance     uint64
	claimRole    Role
	claim        uint64 // the epoch of claimRole
	lost         failure
	healthUp     bool // as the agent's session says
	linkDown     bool
	port         port // as the switch says
	beatUp       bool // as its heartbeats say
	reason       string
	sickSince    time.Time
	streamUp     bool
	streamFor    uint64 // the epoch of streamUp
	streamReason string

	// Heartbeats.
	beat         pulse // through the data path
	alive        pulse // by the session
	beatInstance uint64
	beatRole     Role
	beatEpoch    uint64
	// witness is, for each other server, the first of the heartbeats that came
	// without a gap since that server's last.
	witness map[Replica]time.Time

	// What it was told to be.
	role  Role
	want  Assign
	hold  time.Time
	joins int // failed ones in a row

	// What an operator lets it be.
	admin  Admin
	forced bool     // whatever is lost
	reqs   []uint64 // who waits until it has no role
	// protection is what its agent last said of its connections.
	protection Protection
}

func (s *server) String() string { return s.name }

// up says that the server says that it can serve.
func (s *server) up() bool { return s.healthUp && s.beatUp && !s.linkDown && !s.port.down }

// well says that the server can be spoken to and can serve.
func (s *server) well() bool { return s.attached && s.up() }

// port is the switch's end of a server's link.
type port struct {
	down   bool
	since  time.Time
	reason string
}

// pulse is a sign of life that comes regularly.
type pulse struct {
	last time.Time // zero: none yet
	// excused is how much of the time since then does not count.
	excused time.Duration
}

func (p *pulse) hear(at time.Time) { *p = pulse{last: at} }

func (p *pulse) seen() bool { return !p.last.IsZero() }

func (p *pulse) silence(now time.Time) time.Duration { return now.Sub(p.last) - p.excused }

func (p *pulse) excuse(now time.Time, d time.Duration) {
	if p.seen() {
		// Not more than what has passed since.
		p.excused = min(p.excused+d, max(now.Sub(p.last), 0))
	}
}

type failure struct {
	cause  Cause
	since  time.Time
	reason string
}

func (f failure) String() string {
	if f.reason != "" {
		return string(f.cause) + ": " + f.reason
	}
	return string(f.cause)
}

type flip struct {
	to     *server
	from   *server
	record *Failover // nil: nobody was active before
	reqs   []uint64
}

type joinStep uint8

const (
	joinWriting joinStep = iota + 1
	joinArming
	joinStreaming
)

// New returns a Machine in state Unknown.
func New(config Config) *Machine {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&config.Interval, defaultInterval)
	def(&config.JoinTimeout, defaultJoinTimeout)
	def(&config.HoldDown, defaultHoldDown)
	def(&config.RecoverTimeout, defaultRecoverTimeout)
	if config.Missed == 0 {
		config.Missed = defaultMissed
	}
	m := &Machine{config: config}
	for i, name := range config.Servers {
		if name != "" {
			m.servers = append(m.servers, newServer(Replica(i+1), name))
		}
	}
	return m
}

func newServer(id Replica, name string) *server {
	return &server{id: id, name: name, beatUp: true, witness: make(map[Replica]time.Time)}
}

// Step takes one event and returns what to do about it, in order. now must not
// go back; the intents belong to the caller.
func (m *Machine) Step(now time.Time, ev Event) []Intent {
	m.now = now
	m.out = nil
	switch ev := ev.(type) {
	case AgentUp:
		m.agentUp(ev)
	case AgentDown:
		if s := m.session(ev.Server, ev.Session); s != nil {
			m.lose(s, ev.Cause)
		}
	case Health:
		if s := m.session(ev.Server, ev.Session); s != nil {
			m.health(s, ev)
		}
	case PortState:
		if s := m.server(ev.Server); s != nil {
			m.port(s, ev)
		}
	case HeartbeatSeen:
		m.heartbeat(ev)
	case AliveSeen:
		if s := m.session(ev.Server, ev.Session); s != nil && !ev.At.Before(s.alive.last) {
			s.alive.hear(ev.At)
		}
	case Tick:
		m.tick()
	case WriteDone:
		m.writeDone(ev.Epoch)
	case WriteFailed:
		m.notify(WriteTrouble, "epoch %d: %s", ev.Epoch, ev.Reason)
	case Applied:
		m.applied(ev)
	case Replication:
		if s := m.session(ev.Server, ev.Session); s != nil {
			s.streamFor, s.streamUp = ev.Epoch, ev.Up
			if !ev.Up {
				s.streamReason = ev.Reason
			}
		}
	case SwitchState:
		m.switchState(ev)
	case SwitchOver:
		m.switchOver(ev.Request)
	case SetWatchdog:
		m.config.Watchdog = ev.On
	case SetAdmin:
		m.setAdmin(ev)
	case GiveUp:
		m.giveUp(ev.Request)
	case AddServer:
		m.addServer(ev)
	case RemoveServer:
		m.removeServer(ev)
	case Protection:
		if s := m.session(ev.Server, ev.Session); s != nil {
			s.protection = ev
		}
	}
	m.settle()
	m.answerOperators()
	out := m.out
	m.out = nil
	return out
}

// ---- facts ----

func (m *Machine) server(id Replica) *server {
	for _, s := range m.servers {
		if s.id == id {
			return s
		}
	}
	return nil
}

// session returns the server if that is its present session.
func (m *Machine) session(id Replica, session uint64) *server {
	s := m.server(id)
	if s == nil || !s.attached || s.session != session {
		return nil
	}
	return s
}

func (m *Machine) agentUp(ev AgentUp) {
	s := m.server(ev.Server)
	if s == nil {
		return
	}
	// kept: it was taken for granted that this process serves, and so it does.
	kept := s.instance == 0 && m.serves(s) && ev.Role == Active && ev.Epoch >= m.epoch
	if s.instance != ev.Instance {
		// Another process: whatever the old one held is gone.
		if s.attached || m.serves(s) && !kept {
			m.lose(s, CauseRestarted)
			m.settle()
		}
		if m.state != Unknown && m.state != Recovering && !kept {
			m.forget(s)
		}
		s.streamFor, s.streamUp = 0, false
	}
	again := s.attached
	s.attached, s.session, s.instance = true, ev.Session, ev.Instance
	s.claimRole, s.claim = ev.Role, ev.Epoch
	m.floor = max(m.floor, ev.Epoch)
	s.healthUp, s.beatUp, s.linkDown, s.reason = ev.ApplicationUp, true, ev.LinkDown, ev.Reason
	if !s.up() {
		s.sickSince = m.now
	}
	s.alive = pulse{}
	if s.beatInstance != s.instance {
		s.beat = pulse{}
	}
	holds := ""
	if ev.Role != NoRole {
		holds = fmt.Sprintf(", holds %s of epoch %d", ev.Role, ev.Epoch)
	}
	if !s.up() {
		holds += ", " + s.sickness().String()
	}
	if again {
		holds += ", on a new session"
	}
	m.notify(ServerUp, "%s attached%s", s, holds)

	if kept && ev.Epoch > m.epoch {
		m.dropBackup(failure{cause: "it was told so", reason: fmt.Sprintf("in epoch %d", ev.Epoch)})
		return
	}
	switch m.state {
	case Unknown, Recovering:
		return
	case Down:
		if m.flip != nil || s != m.active {
			break
		}
		switch holds := ev.Role == Active && ev.Epoch == m.epoch && s.well() && !s.expelled(); {
		case holds && m.writing == 0:
			// It is the process that the switch still names.
			m.assign(s, Assign{Epoch: m.epoch, Role: Active, Released: true})
			m.become(Simplex, "%s is back", s)
			return
		case !holds:
			m.forget(s)
		}
	}
	// The same process: what it was told may have been lost with its session.
	switch {
	case s.role == Fenced:
		m.fence(s)
	case m.flip != nil && s.want.Epoch != m.epoch:
		// Its part is about to change; what it is then told comes with the write.
	case s.want.Role != NoRole:
		m.assign(s, s.want)
	}
}

// serves says that the server is the active one though its agent has no session:
// it is heard through the data path.
func (m *Machine) serves(s *server) bool {
	return m.state == Simplex && s == m.active && !s.attached
}

// forget takes a server's part away: it is a new process, or not to be trusted.
func (m *Machine) forget(s *server) {
	s.role = NoRole
	s.want = Assign{}
}

func (m *Machine) lose(s *server, cause Cause) {
	s.attached, s.alive = false, pulse{}
	s.lost = failure{cause: cause, since: m.now}
	m.notify(ServerDown, "%s: %s", s, cause)
}

func (m *Machine) health(s *server, ev Health) {
	was := s.up()
	s.healthUp, s.beatUp, s.linkDown, s.reason = ev.Up, true, ev.LinkDown, ev.Reason
	m.healthChanged(s, was)
}

// port takes the switch's word for it.
func (m *Machine) port(s *server, ev PortState) {
	if ev.Down == s.port.down {
		return
	}
	was := s.up()
	s.port = port{}
	if ev.Down {
		s.port = port{down: true, since: m.now, reason: ev.Reason}
	}
	m.healthChanged(s, was)
}

// sickness says why a server is not up.
func (s *server) sickness() failure {
	f := failure{CauseApplication, s.sickSince, s.reason}
	switch {
	case s.port.down:
		f.cause, f.reason = CauseLink, s.port.reason
	case s.linkDown:
		f.cause = CauseLink
	}
	return f
}

func (m *Machine) healthChanged(s *server, was bool) {
	is := s.up()
	if is == was {
		return
	}
	if is {
		m.notify(ServerUp, "%s: up", s)
		s.hold = m.now.Add(m.holdDown(s))
		return
	}
	s.sickSince = m.now
	m.notify(ServerDown, "%s: %s", s, s.sickness())
}

func (m *Machine) heartbeat(ev HeartbeatSeen) {
	m.mark(ev)
	s := m.server(ev.Server)
	if s == nil || s.attached && ev.Instance != s.instance {
		return
	}
	if ev.At.Before(s.beat.last) && ev.Instance == s.beatInstance {
		return
	}
	// A server that was silent itself begins anew as a witness of others.
	anew := ev.At.Sub(s.beat.last) > m.limit()
	if s.port.down && ev.At.Sub(s.port.since) > pathPatience*m.limit() {
		// What comes through a port shows that it is up, whatever the switch says. Those
		// that were under way when it went down have come by now.
		m.port(s, PortState{Server: s.id})
	}
	s.beat.hear(ev.At)
	s.beatInstance, s.beatRole, s.beatEpoch = ev.Instance, ev.Role, ev.Epoch
	for _, other := range m.servers {
		if other == s {
			continue
		}
		delete(other.witness, s.id)
		if _, ok := s.witness[other.id]; !ok || anew {
			s.witness[other.id] = ev.At
		}
	}
	if ev.Instance == s.instance && ev.ApplicationUp != s.beatUp {
		was := s.up()
		s.beatUp = ev.ApplicationUp
		if !s.beatUp {
			s.reason = "said by its heartbeat"
		}
		m.healthChanged(s, was)
	}
}

// tick keeps time that the controller slept through from counting as silence.
func (m *Machine) tick() {
	if !m.lastTick.IsZero() {
		if late := m.now.Sub(m.lastTick) - m.config.Interval; late > 0 {
			for _, s := range m.servers {
				s.beat.excuse(m.now, late)
				s.alive.excuse(m.now, late)
			}
		}
	}
	m.lastTick = m.now
	if m.record != nil && m.now.Sub(m.record.Written) > releaseTimeout {
		m.closeRecord()
	}
}

// Due is the next time at which a silence may have lasted too long, if nothing is
// heard until then; zero for none. It is after the last step's time. A Tick at that
// time is not required, but sees it at once.
func (m *Machine) Due() time.Time {
	var due time.Time
	limit := m.limit()
	for _, s := range m.servers {
		for _, at := range []struct {
			pulse *pulse
			limit time.Duration
		}{{&s.beat, limit}, {&s.beat, pathPatience * limit}, {&s.beat, coldPatience * limit}, {&s.alive, limit}} {
			if !at.pulse.seen() {
				continue
			}
			// One more than the longest silence that is allowed.
			t := at.pulse.last.Add(at.pulse.excused + at.limit + 1)
			if t.After(m.now) && (due.IsZero() || t.Before(due)) {
				due = t
			}
		}
	}
	return due
}

// limit is how long a server may be silent.
func (m *Machine) limit() time.Duration {
	return time.Duration(m.config.Missed) * m.config.Interval
}

// fresh says that the server was heard of late, through the data path.
func (m *Machine) fresh(s *server) bool {
	return s.beat.seen() && s.beat.silence(m.now) <= m.limit()
}

// silent says that the server was heard once and is no more, while by was heard
// all along: so it is not the switch, nor the controller, that is deaf. A nil by
// stands for nobody, whose word is not asked for. A server whose agent's session
// shows that it lives gets more time.
func (m *Machine) silent(s, by *server) bool {
	limit := m.limit()
	if s.alive.seen() && s.alive.silence(m.now) <= limit {
		limit *= pathPatience
	}
	if !s.beat.seen() || s.beat.silence(m.now) <= limit {
		return false
	}
	if by == nil {
		return true
	}
	first, ok := by.witness[s.id]
	return ok && m.fresh(by) && by.beat.last.Sub(first) >= m.config.Interval
}

// failed says that a server cannot go on with what it does, and since when.
func (m *Machine) failed(s, witness *server) (failure, bool) {
	switch {
	case !s.attached:
		return s.lost, true
	case !s.up():
		return s.sickness(), true
	case m.silent(s, witness):
		return failure{CauseHeartbeats, s.beat.last, ""}, true
	}
	return failure{}, false
}

// soleFailed is failed for a server whose connections nobody else holds.
func (m *Machine) soleFailed(s, witness *server) (failure, bool) {
	why, bad := m.failed(s, witness)
	if bad && why.cause == CauseHeartbeats && s.beat.silence(m.now) <= coldPatience*m.limit() {
		return failure{}, false
	}
	return why, bad
}

// adopting says that the backup of a duplex pair is about to adopt connections, which
// a failover would lose: a server that is only slow gets the time that it would get
// if it were alone. This ends, whether the backup has all of them or not: those that
// it has shall not wait for those that it never gets.
func (m *Machine) adopting() bool {
	p := m.active.protection
	return p.Epoch == m.epoch && p.Session == m.active.session && p.Protected < p.Connections &&
		m.now.Sub(m.duplexSince) < adoptPatience
}

func (m *Machine) holdDown(s *server) time.Duration {
	return m.config.HoldDown << min(s.joins, maxHoldDownDoublings)
}

// ---- intents ----

func (m *Machine) emit(i Intent) { m.out = append(m.out, i) }

func (m *Machine) notify(k Kind, format string, args ...any) {
	m.emit(Notify{Kind: k, Message: fmt.Sprintf(format, args...)})
}

func (m *Machine) become(s State, format string, args ...any) {
	old := m.state
	m.state = s
	m.notify(StateChanged, "%s -> %s: %s", old, s, fmt.Sprintf(format, args...))
}

func (m *Machine) assign(s *server, a Assign) {
	a.Server = s.id
	s.want, s.role = a, a.Role
	if s.attached {
		m.emit(a)
	}
}

func (m *Machine) fence(s *server) {
	m.assign(s, Assign{Epoch: max(m.epoch, s.claim), Role: Fenced})
	s.hold = m.now.Add(m.holdDown(s))
}

func (m *Machine) writeMembers(list ...*server) {
	ids := make([]Replica, 0, len(list))
	for _, s := range list {
		ids = append(ids, s.id)
	}
	m.members = ids
	m.emit(WriteMembers{Epoch: m.epoch, Members: ids})
}

func (m *Machine) writeActive(s *server) {
	m.active = s
	m.writing = m.epoch
	m.emit(WriteActive{Epoch: m.epoch, Active: s.id, Standby: m.watch.standbyID()})
}

func (m *Machine) nextEpoch() {
	m.epoch = max(m.epoch, m.floor) + 1
	m.floor = m.epoch
	m.watch = watch{} // the switch's is over with the epoch's entry
}

// ---- what the events do beside changing facts ----

func (m *Machine) writeDone(epoch uint64) {
	if epoch != m.writing {
		return
	}
	m.writing = 0
	m.lift()
	switch {
	case m.flip != nil:
		m.flipped()
	case m.state == Joining && m.step == joinWriting:
		m.step = joinArming
		m.deadline = m.now.Add(m.config.JoinTimeout)
		m.assign(m.backup, Assign{Epoch: m.epoch, Role: Backup, Peer: m.active.id})
	}
}

func (m *Machine) applied(ev Applied) {
	s := m.session(ev.Server, ev.Session)
	if s == nil {
		return
	}
	if m.state == Joining && ev.Epoch == m.epoch && m.step == joinArming && s == m.backup && ev.Role == Backup {
		m.step = joinStreaming
		m.deadline = m.now.Add(m.config.JoinTimeout)
		m.assign(m.active, Assign{Epoch: m.epoch, Role: Active, Released: true, Peer: s.id})
	}
	if r := m.record; r != nil && s.id == r.To && ev.Epoch == r.Epoch && ev.Role == Active && ev.Released {
		r.Released = m.now
		m.closeRecord()
	}
}

func (m *Machine) closeRecord() {
	if m.record != nil {
		m.emit(RecordFailover{Failover: *m.record, Final: true})
		m.record = nil
	}
}

func (m *Machine) switchOver(request uint64) {
	refuse := func(format string, args ...any) {
		m.emit(Reply{Request: request, Refused: fmt.Sprintf(format, args...)})
	}
	switch {
	case m.state != Duplex:
		refuse("the pair is %s, no backup holds the connections", m.state)
	case m.watch.drop != nil:
		refuse("%s is given up: %s", m.backup, m.watch.drop.why)
	case !m.backup.well():
		refuse("%s is not well", m.backup)
	case !m.fresh(m.backup):
		refuse("the heartbeats of %s are missing", m.backup)
	default:
		m.flipTo(m.backup, failure{cause: CauseOperator, since: m.now}, false)
		m.flip.reqs = append(m.flip.reqs, request)
	}
}

// ---- reading it ----

// Status is a pair as it is now.
type Status struct {
	State  State
	Epoch  uint64
	Active Replica
	Backup Replica
	// Standby is whom the switch may release by itself, 0 for nobody.
	Standby Replica
	Members []Replica
	Servers []ServerStatus
}

// ServerStatus is a server as it is now.
type ServerStatus struct {
	Replica       Replica
	Name          string
	Role          Role
	Joining       bool
	Attached      bool
	ApplicationUp bool
	LastHeartbeat time.Time
	// Admin is what an operator lets it be; Forced, whatever is lost.
	Admin  Admin
	Forced bool
}

// Status returns a copy that belongs to the caller.
func (m *Machine) Status() Status {
	st := Status{State: m.state, Epoch: m.epoch, Standby: m.watch.standbyID(), Members: append([]Replica(nil), m.members...)}
	if m.active != nil {
		st.Active = m.active.id
	}
	if m.backup != nil {
		st.Backup = m.backup.id
	}
	for _, s := range m.servers {
		role := s.role
		switch {
		case m.state == Recovering && s == m.active:
			role = Active
		case !s.attached && (s != m.active || m.state == Down):
			role = NoRole
		case role == Active && s != m.active:
			role = Fenced // as soon as the switch is written
		}
		st.Servers = append(st.Servers, ServerStatus{
			Replica: s.id, Name: s.name, Role: role, Joining: m.state == Joining && s == m.backup,
			Attached: s.attached, ApplicationUp: s.healthUp && s.beatUp, LastHeartbeat: s.beat.last,
			Admin: s.admin, Forced: s.forced,
		})
	}
	return st
}
