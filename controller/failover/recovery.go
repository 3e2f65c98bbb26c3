// SPDX-License-Identifier: Apache-2.0

package failover

import "fmt"

// A controller that has just read the switch knows who is active, and in which
// epoch; the agents, when they are back, say the rest.

func (m *Machine) settleRecovering() {
	a := m.active
	var p *server
	for _, r := range m.members {
		if s := m.server(r); s != nil && s != a {
			p = s
		}
	}
	aHere := a.attached && a.claimRole == Active && a.claim >= m.epoch
	// A controller may have died between telling a server and writing the switch.
	// Only the server that the switch names can have been told, in a newer epoch,
	// that it goes on alone; and only the other one that it shall take over.
	aAlone := aHere && a.claim > m.epoch
	pFollows := p != nil && p.attached && p.claimRole == Backup && p.claim == m.epoch
	pChosen := p != nil && p.attached && p.claimRole == Active && p.claim > m.epoch
	pHolds := (pFollows || pChosen) && p.well() && !p.expelled()
	late := !m.now.Before(m.deadline)
	// quiet: it was not heard, though there was time enough.
	quiet := func(s *server) bool {
		return !m.fresh(s) && m.now.Sub(m.recoverySince) > recoverQuiet*m.limit()
	}
	// gone: the switch has given the active server up, or may have.
	gone, unsure := false, m.watch.standby != nil && !m.watch.marked
	if r := m.watch.released; r != nil && r == p {
		gone = true
	}
	switch {
	case gone && p.attached && p.usable():
		m.flipTo(p, m.bySwitch(), false)
	case (gone || unsure) && !late:
		return // the one that was released may come, or a heartbeat that says
	case gone:
		m.down = m.bySwitch()
		m.become(Down, "the switch has released %s, and it is not back", p)
	case a.expelled() && pHolds && p.usable():
		m.flipTo(p, m.byOperator(a), false)
	case a.expelled() && p != nil && p.usable() && !p.attached && !quiet(p) && !late:
		return // its backup may come
	case a.expelled():
		m.expel(a, m.byOperator(a))
	case aAlone:
		m.backup = p
		m.dropBackup(failure{cause: "it was told so", reason: fmt.Sprintf("in epoch %d", a.claim)})
	case aHere && p == nil:
		if len(m.members) == 0 {
			m.writeMembers(a)
		}
		m.assign(a, Assign{Epoch: m.epoch, Role: Active, Released: true})
		m.become(Simplex, "%s kept", a)
	case aHere && pFollows && p.usable():
		m.backup = p
		m.step, m.resumed = joinStreaming, true
		m.deadline = m.now.Add(resumeTimeout)
		m.assign(a, Assign{Epoch: m.epoch, Role: Active, Released: true, Peer: p.id})
		m.assign(p, Assign{Epoch: m.epoch, Role: Backup, Peer: a.id})
		m.become(Joining, "%s and %s kept", a, p)
	case aHere && (p.attached || !p.usable() || quiet(p) || late):
		why := failure{cause: "not back"}
		if p.attached {
			why = failure{cause: "it is not the backup of this epoch"}
		}
		if !p.usable() {
			why = m.byOperator(p)
		}
		m.backup = p
		m.dropBackup(why)
	case aHere:
		return // its backup may come
	case a.attached && pHolds:
		m.flipTo(p, failure{cause: CauseRestarted, since: m.now}, false)
	case a.attached && p != nil && !p.attached && !quiet(p) && !late:
		return // the process that the switch names is gone; the backup may come
	case a.attached:
		m.down = failure{cause: CauseRestarted, since: m.now}
		m.become(Down, "%s does not hold epoch %d", a, m.epoch)
	case pHolds && quiet(a) && m.fresh(p):
		since := a.beat.last
		if since.IsZero() {
			since = m.recoverySince
		}
		m.flipTo(p, failure{cause: CauseHeartbeats, since: since}, false)
	case late && m.fresh(a):
		// It serves, though its agent does not reach us. It stays until there is
		// a better one.
		a.lost = failure{cause: CauseTimedOut, since: m.now}
		a.role = Active
		a.want = Assign{Server: a.id, Epoch: m.epoch, Role: Active, Released: true}
		m.become(Simplex, "%s kept, its agent is not back", a)
	case late:
		m.down = failure{cause: CauseTimedOut, since: m.recoverySince}
		m.become(Down, "%s is not back", a)
	}
}

// switchState begins with what the switch has. Later ones only matter when
// somebody else has written a newer epoch.
func (m *Machine) switchState(ev SwitchState) {
	if m.state != Unknown && ev.Epoch <= m.epoch {
		return
	}
	m.abandonFlip("another controller has written epoch " + fmt.Sprint(ev.Epoch))
	m.epoch = ev.Epoch
	m.floor = max(m.floor, ev.Epoch)
	m.writing, m.step, m.unprotected = 0, 0, false
	m.closeRecord()
	m.backup = nil
	m.active = m.server(ev.Active)
	m.watch = watch{standby: m.server(ev.Standby)}
	m.members = append([]Replica(nil), ev.Members...)
	for _, s := range m.servers {
		m.forget(s)
	}
	if m.active == nil {
		m.become(Down, "the switch has no active server")
		return
	}
	m.recoverySince = m.now
	m.deadline = m.now.Add(m.config.RecoverTimeout)
	m.become(Recovering, "the switch has %s active in epoch %d, members %s", m.active, m.epoch, m.names(ev.Members))
}

func (m *Machine) names(list []Replica) string {
	text := "none"
	for i, r := range list {
		name := fmt.Sprint("replica ", uint8(r))
		if s := m.server(r); s != nil {
			name = s.name
		}
		if i == 0 {
			text = name
		} else {
			text += " " + name
		}
	}
	return text
}
