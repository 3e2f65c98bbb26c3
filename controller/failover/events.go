// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"fmt"
	"strings"
	"time"
)

// Replica is the number of a server within its pair, from 1. 0 is nobody.
type Replica uint8

// Role is what a server is told to be.
type Role uint8

// The roles, numbered as agentv1.Role.
const (
	NoRole Role = iota
	Active
	Backup
	Fenced
)

func (r Role) String() string {
	switch r {
	case NoRole:
		return "none"
	case Active:
		return "active"
	case Backup:
		return "backup"
	case Fenced:
		return "fenced"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// State is the state of a pair.
type State uint8

// The states.
const (
	// Unknown: the switch has not been read yet.
	Unknown State = iota
	// Recovering: the switch has an active entry; the agents are not back yet.
	Recovering
	// Down: nobody can serve, or the first server is being brought up.
	Down
	// Simplex: one server holds the connections.
	Simplex
	// Joining: a second server is on its way in.
	Joining
	// Duplex: both hold every connection that began since.
	Duplex
	// FailingOver: the switch is being told to release another server.
	FailingOver
)

func (s State) String() string {
	switch s {
	case Unknown:
		return "unknown"
	case Recovering:
		return "recovering"
	case Down:
		return "down"
	case Simplex:
		return "simplex"
	case Joining:
		return "joining"
	case Duplex:
		return "duplex"
	case FailingOver:
		return "failing over"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Cause says why a server was given up. The texts are those of
// adminv1.Failover.cause.
type Cause string

// The causes.
const (
	CauseClosed      Cause = "session closed"
	CauseTimedOut    Cause = "session timed out"
	CauseRestarted   Cause = "agent restarted"
	CauseHeartbeats  Cause = "heartbeats missed"
	CauseApplication Cause = "application down"
	CauseLink        Cause = "link down"
	CauseOperator    Cause = "operator"
	CauseStream      Cause = "replication stream broken"
	CauseWatchdog    Cause = "released by the switch"
)

// An Event is something that happened.
type Event interface{ event() }

// AgentUp: an agent has opened a session.
type AgentUp struct {
	Server Replica
	// Session tells apart the sessions of one server; it is never 0.
	Session  uint64
	Instance uint64
	// Role and Epoch are what the agent says that it holds.
	Role          Role
	Epoch         uint64
	ApplicationUp bool
	LinkDown      bool
	Reason        string
}

// AgentDown: a session has ended. Ignored when it is not the server's latest.
type AgentDown struct {
	Server  Replica
	Session uint64
	// Cause is CauseClosed or CauseTimedOut.
	Cause Cause
}

// Health: an agent reports its local application and its link.
type Health struct {
	Server   Replica
	Session  uint64
	Up       bool
	LinkDown bool
	Reason   string
}

// PortState: the switch says how the port is that leads to a server. It needs no
// session. A port of which nothing is known is not Down.
type PortState struct {
	Server Replica
	Down   bool
	// Reason says how the switch puts it.
	Reason string
}

// HeartbeatSeen: a heartbeat came through the data path.
type HeartbeatSeen struct {
	Server Replica
	// At is when it came, which may be a little before it is processed.
	At            time.Time
	Instance      uint64
	Role          Role
	Epoch         uint64
	ApplicationUp bool
	// Released is whom the switch itself has released in this pair, in which of its
	// epochs; 0 for nobody.
	Released      Replica
	ReleasedEpoch uint64
}

// AliveSeen: an agent's session brought a sign of life. It proves the process,
// and nothing about the data path: it excuses heartbeats that are late, not
// heartbeats that are gone. Sessions that never bring one are judged by their
// heartbeats alone.
type AliveSeen struct {
	Server  Replica
	Session uint64
	// At is when it came, which may be a little before it is processed.
	At time.Time
}

// Tick: time has passed. Due at least once per heartbeat interval.
type Tick struct{}

// WriteDone: the switch has everything that WriteMembers and WriteActive asked
// for up to this epoch.
type WriteDone struct{ Epoch uint64 }

// WriteFailed: it has not, yet. The writer tries again by itself.
type WriteFailed struct {
	Epoch  uint64
	Reason string
}

// Applied: an agent's assignment is in force.
type Applied struct {
	Server  Replica
	Session uint64
	Epoch   uint64
	Role    Role
	// Released is that of the assignment.
	Released bool
}

// Replication: an agent reports the stream to its peer.
type Replication struct {
	Server  Replica
	Session uint64
	Epoch   uint64
	Up      bool
	Reason  string
}

// SwitchState: what the switch was found to have. Active is 0 when it has no
// entry for the pair.
type SwitchState struct {
	Active Replica
	Epoch  uint64
	// Standby is whom the switch may release by itself, 0 for nobody.
	Standby Replica
	Members []Replica
}

// SetWatchdog: from now on the switch may, or may not, release the backup by itself. An
// epoch in which it may stays as it is.
type SetWatchdog struct{ On bool }

// SwitchOver: an operator asks for the backup to become active.
type SwitchOver struct{ Request uint64 }

func (AgentUp) event()       {}
func (AgentDown) event()     {}
func (Health) event()        {}
func (PortState) event()     {}
func (HeartbeatSeen) event() {}
func (AliveSeen) event()     {}
func (Tick) event()          {}
func (WriteDone) event()     {}
func (WriteFailed) event()   {}
func (Applied) event()       {}
func (Replication) event()   {}
func (SwitchState) event()   {}
func (SwitchOver) event()    {}
func (SetWatchdog) event()   {}

// An Intent is something to do, in the order of the slice.
type Intent interface{ intent() }

// WriteMembers: the pair's multicast group shall have these members.
type WriteMembers struct {
	Epoch   uint64
	Members []Replica
}

// WriteActive: the pair's `active` entry shall say this. Active is 0 when nobody
// shall be heard.
type WriteActive struct {
	Epoch  uint64
	Active Replica
	// Standby arms the switch's watchdog: it may release this one by itself. 0 is
	// nobody.
	Standby Replica
}

// Assign: tell a server what it is. It is only asked for while the server has a
// session; it may repeat what was said before.
type Assign struct {
	Server   Replica
	Epoch    uint64
	Role     Role
	Released bool
	// Peer is 0 for none.
	Peer Replica
}

// RecordFailover: remember a failover. It comes twice for each: when the switch
// has confirmed it, and, Final, when the new active server has.
type RecordFailover struct {
	Failover
	Final bool
}

// Failover is one change of the active server.
type Failover struct {
	Epoch    uint64
	From, To Replica
	Cause    Cause
	// Cold means that To did not hold the connections: they are lost.
	Cold bool
	// Suspected is the last sign of life for missed heartbeats, else the time
	// of the cause. Released is zero until it is known.
	Suspected, Decided, Written, Released time.Time
}

// Notify: tell whoever watches.
type Notify struct {
	Kind    Kind
	Message string
}

// Kind is the kind of a notification.
type Kind uint8

// The kinds.
const (
	StateChanged Kind = iota + 1
	FailedOver
	ServerUp
	ServerDown
	WriteTrouble
	AdminChanged
)

func (k Kind) String() string {
	switch k {
	case StateChanged:
		return "state changed"
	case FailedOver:
		return "failover"
	case ServerUp:
		return "server up"
	case ServerDown:
		return "server down"
	case WriteTrouble:
		return "write failed"
	case AdminChanged:
		return "administrative state"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Reply: answer an operator. Refused is empty when it was done.
type Reply struct {
	Request uint64
	Refused string
	// Failover is how the active server changed for it; zero if it did not.
	Failover Failover
}

func (WriteMembers) intent()   {}
func (WriteActive) intent()    {}
func (Assign) intent()         {}
func (RecordFailover) intent() {}
func (Notify) intent()         {}
func (Reply) intent()          {}

// replicas prints a list of members.
func replicas(list []Replica) string {
	var b strings.Builder
	for i, r := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprint(&b, uint8(r))
	}
	return b.String()
}
