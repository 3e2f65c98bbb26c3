// SPDX-License-Identifier: Apache-2.0

package failover

import "slices"

// AddServer: the pair has another server. Nothing happens if it has that number
// already.
type AddServer struct {
	Server Replica
	Name   string
}

// RemoveServer: the pair has that server no more. A backup is let go first; the
// active server, and one that is becoming active, cannot be removed: the event does
// nothing. Machine.Removable says so beforehand.
type RemoveServer struct{ Server Replica }

func (AddServer) event()    {}
func (RemoveServer) event() {}

func (m *Machine) addServer(ev AddServer) {
	if ev.Server == 0 || m.server(ev.Server) != nil {
		return
	}
	s := newServer(ev.Server, ev.Name)
	i, _ := slices.BinarySearchFunc(m.servers, s.id, func(s *server, id Replica) int { return int(s.id) - int(id) })
	m.servers = slices.Insert(m.servers, i, s)
	m.notify(AdminChanged, "%s: added", s)
}

// Removable says why a server cannot be removed now; empty if it can.
func (m *Machine) Removable(id Replica) string {
	s := m.server(id)
	switch {
	case s == nil:
		return ""
	case m.state == Recovering:
		return "the pair is recovering; try again in a moment"
	case s == m.active && m.state == Down && m.flip == nil:
		return "" // it serves nobody
	case s == m.active || m.flip != nil && (s == m.flip.to || s == m.flip.from):
		return s.name + " is active; drain it first"
	case s == m.watch.standby:
		return s.name + " may be released by the switch; drain it first"
	}
	return ""
}

func (m *Machine) removeServer(ev RemoveServer) {
	s := m.server(ev.Server)
	if s == nil || m.Removable(s.id) != "" {
		return
	}
	why := failure{cause: CauseOperator, since: m.now, reason: s.name + " is removed"}
	switch s {
	case m.backup:
		m.dropBackup(why)
	case m.active:
		m.expel(s, why)
	}
	if s.attached && s.role != Fenced {
		m.fence(s)
	}
	if i := slices.Index(m.members, s.id); i >= 0 {
		m.members = slices.Delete(slices.Clone(m.members), i, i+1)
		if len(m.members) > 0 {
			m.emit(WriteMembers{Epoch: m.epoch, Members: slices.Clone(m.members)})
		}
	}
	for _, r := range s.reqs {
		m.answer(r, "")
	}
	m.servers = slices.DeleteFunc(m.servers, func(o *server) bool { return o == s })
	for _, o := range m.servers {
		delete(o.witness, s.id)
	}
	m.notify(AdminChanged, "%s: removed", s)
}
