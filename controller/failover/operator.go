// SPDX-License-Identifier: Apache-2.0

package failover

import "fmt"

// Admin is the administrative state of a server: which roles an operator lets it
// have. It outlives its sessions, and is kept by who runs the machine.
type Admin uint8

// The administrative states.
const (
	// InService: any role.
	InService Admin = iota
	// Drained: no new role. If it is active it stays so until another server holds
	// all its connections.
	Drained
	// Isolated: it shall not be heard, fenced by an operator.
	Isolated
)

func (a Admin) String() string {
	switch a {
	case InService:
		return "in service"
	case Drained:
		return "drained"
	case Isolated:
		return "fenced by an operator"
	}
	return fmt.Sprintf("admin %d", uint8(a))
}

// SetAdmin: an operator puts a server out of service, or into it again. The answer
// comes when the server has no role any more. Without Force it is refused when
// connections would end, or nobody would serve:
//
//   - Drained waits until the backup holds every connection, and is refused while
//     there is no backup, not even one that joins;
//   - Isolated does not wait, and is refused while no backup follows.
//
// What the server is already is done once more without harm; a Drained does not
// soften an Isolated.
type SetAdmin struct {
	// Request 0 is nobody, who wants no answer.
	Request uint64
	Server  Replica
	State   Admin
	Force   bool
}

// GiveUp: nobody waits for the answer to a SetAdmin any more. What it asked for
// stands.
type GiveUp struct{ Request uint64 }

// Protection: the active agent counts its connections.
type Protection struct {
	Server  Replica
	Session uint64
	Epoch   uint64
	// Connections are those with clients, Protected those of them that the backup
	// holds too.
	Connections, Protected uint64
}

func (SetAdmin) event()   {}
func (GiveUp) event()     {}
func (Protection) event() {}

// usable says that the server may get a role.
func (s *server) usable() bool { return s.admin == InService }

// covered says that the backup holds all connections of the active server, as that
// has said in this epoch.
func (m *Machine) covered() bool {
	p := m.active.protection
	return p.Epoch == m.epoch && p.Session == m.active.session && p.Protected >= p.Connections
}

// leaves says that the active server shall give its role to the backup of a duplex
// pair, and can.
func (m *Machine) leaves(a, b *server) bool {
	return !a.usable() && b.well() && m.fresh(b) && (a.admin == Isolated || a.forced || m.covered())
}

// expelled says that the server shall not be active, whatever is lost with it.
func (s *server) expelled() bool { return !s.usable() && s.forced }

// byOperator is the cause of what an operator did.
func (m *Machine) byOperator(s *server) failure {
	return failure{cause: CauseOperator, since: m.now, reason: s.name + " is " + s.admin.String()}
}

// expel has the switch let nobody through: the active server shall not be heard, and
// there is no other.
func (m *Machine) expel(a *server, why failure) {
	m.down = why
	m.nextEpoch()
	m.forget(a)
	m.active = nil
	m.writing = m.epoch
	m.emit(WriteActive{Epoch: m.epoch})
	m.become(Down, "%s", m.down)
}

func (m *Machine) setAdmin(ev SetAdmin) {
	s := m.server(ev.Server)
	if s == nil {
		m.answer(ev.Request, "there is no such server")
		return
	}
	if ev.State == InService {
		m.restore(s)
		m.answer(ev.Request, "")
		return
	}
	to := max(s.admin, ev.State)
	if why := m.needed(s, to); why != "" && !ev.Force && ev.Request != 0 {
		m.answer(ev.Request, why)
		return
	}
	forced := s.forced || ev.Force || to == Isolated
	if s.admin != to || s.forced != forced {
		s.admin, s.forced = to, forced
		text := to.String()
		if ev.Force {
			text += ", whatever is lost"
		}
		m.notify(AdminChanged, "%s: %s", s, text)
	}
	if ev.Request != 0 {
		s.reqs = append(s.reqs, ev.Request)
	}
}

// restore lets a server have roles again.
func (m *Machine) restore(s *server) {
	if s.usable() {
		return
	}
	s.admin, s.forced = InService, false
	s.hold = m.now.Add(m.holdDown(s))
	m.notify(AdminChanged, "%s: %s", s, InService)
	for _, r := range s.reqs {
		m.answer(r, "it was put into service again")
	}
	s.reqs = nil
}

// needed says why a server cannot go without force; empty if it can, now or soon.
func (m *Machine) needed(s *server, to Admin) string {
	switch m.state {
	case Unknown, Recovering:
		return fmt.Sprintf("the pair is %s; ask again in a moment", m.state)
	case FailingOver:
		if s == m.flip.to {
			return fmt.Sprintf("%s is just becoming active; ask again in a moment", s)
		}
		return ""
	case Down:
		if m.flip != nil && s == m.flip.to {
			return fmt.Sprintf("%s is just becoming active, and nobody else serves", s)
		}
		return ""
	}
	if s != m.active {
		return ""
	}
	b := m.backup
	switch {
	case m.state == Simplex:
		return fmt.Sprintf("%s is active, and no other server holds its connections", s)
	case !b.usable() || !b.well() || !m.fresh(b) || m.watch.drop != nil:
		return fmt.Sprintf("%s is active, and its backup %s is not well", s, b)
	case to == Isolated && m.state == Joining:
		return fmt.Sprintf("%s is active, and its backup %s does not hold the connections yet", s, b)
	}
	return ""
}

// answer replies to an operator, if there is one.
func (m *Machine) answer(request uint64, refused string) {
	if request != 0 {
		m.emit(Reply{Request: request, Refused: refused})
	}
}

// giveUp forgets who does not wait any more.
func (m *Machine) giveUp(request uint64) {
	for _, s := range m.servers {
		for i, r := range s.reqs {
			if r == request {
				s.reqs = append(s.reqs[:i], s.reqs[i+1:]...)
				return
			}
		}
	}
}

// answerOperators answers those who wait until a server has no role any more.
func (m *Machine) answerOperators() {
	if m.flip != nil || m.state == Unknown || m.state == Recovering {
		return
	}
	for _, s := range m.servers {
		plays := s.role == Active || s.role == Backup
		if plays && (m.state != Down || s.attached) {
			continue
		}
		for _, r := range s.reqs {
			m.emit(Reply{Request: r})
		}
		s.reqs = nil
	}
}
