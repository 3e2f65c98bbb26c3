// SPDX-License-Identifier: Apache-2.0

package failover

import "time"

// The switch's watchdog releases the backup of a pair by itself when the active server
// falls silent (p4/src/control/watchdog.p4). It is armed by the entry that says who is
// active, while the pair is duplex and the backup holds every connection, and never disarmed but by the next epoch's: for an
// entry of the same epoch without it would take back what the switch may have done.
//
// What it has done stands in every heartbeat that the switch passes on. The machine
// answers with a failover to the same server. So that the two never decide differently,
//
//   - a backup is only dropped right after a heartbeat of the active server that says
//     that nobody was released: then the switch waits for at least the limit of silence
//     before it releases anybody, and until then the write is done;
//   - the active server is told that it goes on alone when that is written, and not at
//     once: until then the switch may have to release the backup, which must lack
//     nothing that clients were told.
type watch struct {
	// standby is whom the switch may release in this epoch; nil: it is not armed.
	standby *server
	// released is whom it has; marked says that it has said at all, since this
	// epoch's entry is known.
	released *server
	marked   bool
	// clear is when the active server was last heard with nobody released.
	clear time.Time
	// drop is why the backup shall be dropped as soon as that is safe.
	drop *dropping
	// alone is what the active server is told when the entry is written.
	alone *Assign
}

type dropping struct {
	why   failure
	since time.Time
}

func (w *watch) standbyID() Replica {
	if w.standby == nil {
		return 0
	}
	return w.standby.id
}

// arm lets the switch release the backup of a duplex pair, as soon as that holds all
// connections: those that began before it joined would be lost with a server that was
// only slow, and the switch is less patient than the controller.
func (m *Machine) arm() {
	if !m.config.Watchdog || m.watch.standby == m.backup || !m.covered() {
		return
	}
	m.watch.standby = m.backup
	m.writeActive(m.active)
}

// mark reads in a heartbeat what the switch has done.
func (m *Machine) mark(ev HeartbeatSeen) {
	w := &m.watch
	switch {
	case ev.Released != 0 && ev.ReleasedEpoch == m.epoch&0xffffffff: // as wide as the switch has it
		w.released, w.marked = m.server(ev.Released), true
	case ev.Released != 0:
		// Of an epoch that is over.
	default:
		w.marked = true
		if m.active != nil && ev.Server == m.active.id && !ev.At.Before(w.clear) {
			w.clear = ev.At
		}
	}
}

// postpone says that the backup cannot be dropped yet, and remembers why it shall be.
func (m *Machine) postpone(why failure) bool {
	w, a := &m.watch, m.active
	if w.standby == nil || m.now.Sub(w.clear) <= m.config.Interval {
		return false
	}
	if !a.attached && a.lost.cause != CauseTimedOut {
		return false // its process is gone: it cannot go on in any case
	}
	if w.drop == nil {
		w.drop = &dropping{why, m.now}
	}
	// The active server is not heard at all: if it was given up by the switch, the
	// backup is bad as well.
	return m.now.Sub(w.drop.since) <= pathPatience*m.limit()
}

// goAlone has the active server go on without a backup, of which the switch does not
// know yet.
func (m *Machine) goAlone(armed bool) {
	a := Assign{Epoch: m.epoch, Role: Active, Released: true}
	if armed {
		m.watch.alone = &a
		m.active.role = Active
		return
	}
	m.assign(m.active, a)
}

// lift tells the active server what it had to wait for.
func (m *Machine) lift() {
	if a := m.watch.alone; a != nil {
		m.watch.alone = nil
		m.assign(m.active, *a)
	}
}

// settleWatch does what the switch's watchdog asks for before anything else is
// decided; it returns false if there is nothing.
func (m *Machine) settleWatch() bool {
	w := &m.watch
	switch {
	case w.released != nil && w.released == m.backup:
		m.flipTo(m.backup, m.bySwitch(), false)
	case w.drop != nil:
		m.dropBackup(w.drop.why)
	default:
		return false
	}
	return true
}

// bySwitch is why the switch gave the active server up.
func (m *Machine) bySwitch() failure {
	since := m.active.beat.last
	if since.IsZero() {
		since = m.now
	}
	return failure{cause: CauseWatchdog, since: since}
}
