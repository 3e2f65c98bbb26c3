// SPDX-License-Identifier: Apache-2.0

package failover

import "fmt"

// settle makes every transition that the facts ask for.
func (m *Machine) settle() {
	for range 64 { // each round makes a transition or is the last
		before, epoch := m.state, m.epoch
		switch m.state {
		case Recovering:
			m.settleRecovering()
		case Down:
			m.settleDown()
		case Simplex:
			m.settleSimplex()
		case Joining:
			m.settleJoining()
		case Duplex:
			m.settleDuplex()
		case FailingOver:
			m.settleFailingOver()
		}
		if m.state == before && m.epoch == epoch {
			break
		}
	}
	if m.state == Unknown || m.state == Recovering {
		return
	}
	for _, s := range m.servers {
		flips := m.flip != nil && (s == m.flip.to || s == m.flip.from)
		if s != m.active && s != m.backup && !flips && s.role != Fenced {
			m.forget(s) // whatever it was before others took its part
		}
		if s.attached && s.role == NoRole && !(flips && s == m.flip.to) {
			m.fence(s)
		}
	}
}

// healthiest returns the best server to become active from nothing, or nil.
func (m *Machine) healthiest(except *server) *server {
	rank := func(s *server) (n int) {
		if s.claimRole == Active && s.role == NoRole && m.active == nil {
			// A switch that has lost its entries: this one holds connections.
			n += 4
		}
		switch {
		case m.fresh(s):
			n += 2
		case !s.beat.seen():
			n++
		}
		return n
	}
	var best *server
	for _, s := range m.servers {
		if s != except && s.usable() && s.well() && (best == nil || rank(s) > rank(best)) {
			best = s
		}
	}
	return best
}

func (m *Machine) settleDown() {
	if f := m.flip; f != nil {
		switch {
		case f.to.expelled():
			m.down = m.byOperator(f.to)
			m.forget(f.to)
		case f.to.attached:
			return // bringing up; waits for the write
		default:
			m.down = f.to.lost
		}
		m.flip = nil
	}
	s := m.healthiest(nil)
	if s == nil {
		if m.active != nil && m.active.expelled() {
			m.expel(m.active, m.byOperator(m.active))
		}
		return
	}
	if m.active != nil && m.active != s {
		m.flipTo(s, m.down, true)
		return
	}
	if m.active != nil && s.claimRole == Active && s.role == NoRole {
		m.fence(s) // of an epoch that is not the switch's: it starts from nothing
	}
	m.nextEpoch()
	m.flip = &flip{to: s}
	m.writeMembers(s)
	m.writeActive(s)
}

// flipTo begins to make another server the active one.
func (m *Machine) flipTo(to *server, why failure, cold bool) {
	from := m.active
	m.nextEpoch()
	m.closeRecord()
	record := &Failover{
		Epoch: m.epoch, From: from.id, To: to.id, Cause: why.cause, Cold: cold,
		Suspected: why.since, Decided: m.now,
	}
	m.flip = &flip{to: to, from: from, record: record}
	m.backup, m.step, m.unprotected = nil, 0, false
	if cold {
		m.writeMembers(to)
	}
	m.writeActive(to)
	m.assign(to, Assign{Epoch: m.epoch, Role: Active})
	lost := ""
	if cold {
		lost = "; it did not hold the connections, they are lost"
	}
	m.become(FailingOver, "%s to %s, %s%s", from, to, why, lost)
}

// flipped goes on when the switch has the new entry.
func (m *Machine) flipped() {
	f := m.flip
	m.flip = nil
	m.assign(f.to, Assign{Epoch: m.epoch, Role: Active, Released: true})
	if f.record == nil {
		m.become(Simplex, "%s serves", f.to)
		return
	}
	f.record.Written = m.now
	switch {
	case !f.from.attached:
		m.forget(f.from)
	case f.from.role != Fenced:
		m.fence(f.from)
	}
	if !f.record.Cold {
		m.writeMembers(f.to)
	}
	m.record = f.record
	m.emit(RecordFailover{Failover: *f.record})
	m.notify(FailedOver, "%s to %s in epoch %d, %s", f.from, f.to, m.epoch, f.record.Cause)
	for _, r := range append(f.reqs, f.from.reqs...) {
		m.emit(Reply{Request: r, Failover: *f.record})
	}
	f.from.reqs = nil
	m.become(Simplex, "%s serves", f.to)
}

// abandonFlip refuses those who wait for it.
func (m *Machine) abandonFlip(reason string) {
	if m.flip == nil {
		return
	}
	for _, r := range m.flip.reqs {
		m.emit(Reply{Request: r, Refused: reason})
	}
	m.flip = nil
}

func (m *Machine) settleFailingOver() {
	f := m.flip
	why, bad := m.failed(f.to, f.from)
	if f.to.expelled() {
		why, bad = m.byOperator(f.to), true
	}
	if !bad {
		return
	}
	better := m.healthiest(f.to)
	if f.to.attached && better == nil && !f.to.expelled() {
		return // nobody else can; it may recover
	}
	m.abandonFlip(fmt.Sprintf("%s failed, too: %s", f.to, why))
	m.down = why
	if f.to.attached {
		m.forget(f.to)
	}
	if f.from.attached && f.from.well() && f.from.role == Active && !f.from.expelled() {
		// It was asked to leave, has not been fenced, and holds everything.
		m.nextEpoch()
		m.flip = &flip{to: f.from}
		m.writeMembers(f.from)
		m.writeActive(f.from)
		m.become(Down, "back to %s, %s: %s", f.from, f.to, why)
		return
	}
	m.become(Down, "%s: %s", f.to, why)
}

func (m *Machine) settleSimplex() {
	a := m.active
	var other *server
	for _, s := range m.servers {
		if s != a && s.usable() && s.well() && m.fresh(s) && (other == nil || s.beat.last.After(other.beat.last)) {
			other = s
		}
	}
	why, bad := m.soleFailed(a, other)
	// serves: only its agent's session is lost, the server itself is heard.
	serves := !a.attached && a.lost.cause == CauseTimedOut && m.fresh(a) && a.beatUp
	switch {
	case a.expelled() && other != nil:
		m.flipTo(other, m.byOperator(a), true)
	case a.expelled():
		m.expel(a, m.byOperator(a))
	case !bad:
		if m.unprotected {
			m.unprotected = false
			m.notify(ServerUp, "%s is well again", a)
		}
		if m.writing == 0 {
			m.settleJoiner()
		}
	case other != nil && !serves:
		m.flipTo(other, why, true)
	case !a.attached && !serves:
		m.down = why
		m.become(Down, "%s: %s", a, why)
	case !m.unprotected:
		m.unprotected = true
		m.notify(ServerDown, "unprotected failure: %s: %s, and nobody to take over", a, why)
	}
}

// settleJoiner lets a server join that waits for it.
func (m *Machine) settleJoiner() {
	for _, s := range m.servers {
		if s == m.active || s.role != Fenced || !s.usable() || !s.well() || !m.fresh(s) || m.now.Before(s.hold) {
			continue
		}
		m.nextEpoch()
		m.backup = s
		s.role = Backup
		s.want = Assign{}
		m.step, m.resumed = joinWriting, false
		m.deadline = m.now.Add(m.config.JoinTimeout)
		m.writeMembers(m.active, s)
		m.writeActive(m.active)
		m.become(Joining, "%s", s)
		return
	}
}

// dropBackup makes the pair simplex. The active server is told at once: its
// clients wait for it, and nobody else was ever heard.
func (m *Machine) dropBackup(why failure) {
	if m.postpone(why) {
		return
	}
	b, armed := m.backup, m.watch.standby != nil
	m.backup, m.step = nil, 0
	m.nextEpoch()
	m.goAlone(armed)
	name := "a backup"
	if b != nil {
		name = b.name
		if b.attached {
			m.fence(b)
		} else {
			m.forget(b)
		}
	}
	m.writeActive(m.active)
	m.writeMembers(m.active)
	m.become(Simplex, "%s alone, without %s: %s", m.active, name, why)
}

func (m *Machine) settleJoining() {
	if m.settleWatch() {
		return
	}
	a, b := m.active, m.backup
	aWhy, aBad := m.failed(a, b)
	bWhy, bBad := m.failed(b, a)
	if !m.resumed {
		aWhy, aBad = m.soleFailed(a, b)
	}
	switch {
	case aBad && m.resumed && b.well() && (aWhy.cause != CauseHeartbeats || !bBad):
		m.flipTo(b, aWhy, false)
	case aBad && !bBad && m.fresh(b):
		m.flipTo(b, aWhy, true)
	case bBad:
		b.joins++
		m.dropBackup(bWhy)
	case !b.usable():
		m.dropBackup(m.byOperator(b))
	case a.expelled() && m.fresh(b):
		m.flipTo(b, m.byOperator(a), !m.resumed)
	case aBad:
		m.dropBackup(failure{cause: aWhy.cause, reason: "of " + a.name})
	case m.step == joinStreaming && a.streamFor == m.epoch && a.streamUp:
		m.step = 0
		b.joins = 0
		m.duplexSince = m.now
		m.become(Duplex, "%s follows %s", b, a)
	case !m.now.Before(m.deadline):
		b.joins++
		m.dropBackup(failure{cause: "the join made no progress", reason: m.step.String()})
	}
}

func (j joinStep) String() string {
	switch j {
	case joinWriting:
		return "the switch was not written"
	case joinArming:
		return "the backup did not say that it is ready"
	case joinStreaming:
		return "the active server did not report the replication stream"
	}
	return ""
}

func (m *Machine) settleDuplex() {
	if m.settleWatch() {
		return
	}
	a, b := m.active, m.backup
	aWhy, aBad := m.failed(a, b)
	bWhy, bBad := m.failed(b, a)
	if m.adopting() {
		aWhy, aBad = m.soleFailed(a, b)
	}
	switch {
	case aBad && b.well() && (aWhy.cause != CauseHeartbeats || !bBad):
		m.flipTo(b, aWhy, false)
	case bBad:
		m.dropBackup(bWhy)
	case !b.usable():
		m.dropBackup(m.byOperator(b))
	case m.leaves(a, b):
		m.flipTo(b, m.byOperator(a), false)
	case a.streamFor == m.epoch && !a.streamUp && (!a.beat.seen() || m.fresh(a)):
		// A server that is not heard of itself does not judge the other.
		m.dropBackup(failure{cause: CauseStream, reason: a.streamReason})
	default:
		m.arm()
	}
}
