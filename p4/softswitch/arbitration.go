// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"sync"
	"sync/atomic"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What bounds the memory that controllers can take: how many streams one role may
// have, how many roles there may ever be beside the default one, since the highest
// election id of each is remembered, and how many bytes the name of one may have.
const (
	maxControllers = 64
	maxRoles       = 64
	maxRoleName    = 256
)

// An arbiter decides which controller is the primary one (P4Runtime 1.5, section
// 5). Roles are elected apart; what one may do is its access.
//
// A request of the primary holds mu for reading while it is executed; a change of
// the primary holds it for writing. So when a new primary is told, no request of
// the old one is in work, and none will be accepted.
//
// A Write waits for the packets in work (v1model.Switch.Barrier) while it holds mu.
// So what is done for a packet must never wait for mu: it uses primaries.
type arbiter struct {
	device uint64
	mu     sync.RWMutex
	roles  map[string]*role

	current atomic.Pointer[[]primary] // of each role
}

// A primary is a primary controller with what it may do.
type primary struct {
	*controller
	access *access
}

type role struct {
	highest *p4v1.Uint128 // ever seen of a primary; nil: there was none
	primary *controller   // nil: there is none
	access  *access       // as the latest primary configured it
	members []*controller
}

// A controller is one stream.
type controller struct {
	box *outbox

	joined   bool
	role     string
	election *p4v1.Uint128 // nil: never primary
}

func newArbiter(device uint64) *arbiter {
	a := &arbiter{device: device, roles: map[string]*role{}}
	a.publish()
	return a
}

// compare orders election ids; an unset one is the lowest.
func compare(a, b *p4v1.Uint128) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	case a.High != b.High:
		if a.High < b.High {
			return -1
		}
		return 1
	case a.Low != b.Low:
		if a.Low < b.Low {
			return -1
		}
		return 1
	}
	return 0
}

// update processes a MasterArbitrationUpdate (section 5.3). An error ends the
// stream.
func (a *arbiter) update(c *controller, m *p4v1.MasterArbitrationUpdate) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := m.GetRole().GetName()
	if !c.joined {
		if m.GetDeviceId() != a.device {
			return status.Errorf(codes.NotFound, "no device with id %d, this is %d", m.GetDeviceId(), a.device)
		}
	} else {
		if m.GetDeviceId() != a.device {
			return status.Errorf(codes.FailedPrecondition, "the stream belongs to device %d, not %d", a.device, m.GetDeviceId())
		}
		if name != c.role {
			return status.Errorf(codes.FailedPrecondition, "the stream has the role %q, not %q", c.role, name)
		}
	}
	access, err := newAccess(m.GetRole())
	if err != nil {
		return err
	}
	r := a.roles[name]
	if r == nil {
		if len(name) > maxRoleName {
			return status.Errorf(codes.InvalidArgument, "a role name of %d bytes, at most %d are possible", len(name), maxRoleName)
		}
		if name != "" && len(a.roles) >= maxRoles {
			return status.Errorf(codes.ResourceExhausted, "there are %d roles, no more are possible", maxRoles)
		}
		r = &role{}
		a.roles[name] = r
	}
	for _, other := range r.members {
		if other != c && m.GetElectionId() != nil && other.election != nil && compare(other.election, m.GetElectionId()) == 0 {
			return status.Errorf(codes.InvalidArgument, "election id %d/%d is in use by another controller",
				m.GetElectionId().GetHigh(), m.GetElectionId().GetLow())
		}
	}
	if !c.joined {
		if len(r.members) >= maxControllers {
			return status.Errorf(codes.ResourceExhausted, "%d controllers are connected, no more are possible", maxControllers)
		}
		c.joined, c.role = true, name
		r.members = append(r.members, c)
	}
	c.election = m.GetElectionId()

	defer a.publish()
	wasPrimary := r.primary == c
	if c.election != nil && compare(c.election, r.highest) >= 0 {
		r.highest, r.primary, r.access = c.election, c, access
		// The others first, then the new primary (section 5.3, case 1.2).
		for _, other := range r.members {
			if other != c {
				a.tell(r, other)
			}
		}
		a.tell(r, c)
		return nil
	}
	if wasPrimary {
		r.primary = nil
		for _, other := range r.members {
			a.tell(r, other)
		}
		return nil
	}
	a.tell(r, c)
	return nil
}

// leave removes a controller whose stream has ended.
func (a *arbiter) leave(c *controller) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.roles[c.role]
	if !c.joined || r == nil {
		return
	}
	c.joined = false
	for i, other := range r.members {
		if other == c {
			r.members = append(r.members[:i:i], r.members[i+1:]...)
			break
		}
	}
	if r.highest == nil && len(r.members) == 0 {
		delete(a.roles, c.role) // there is nothing to remember
	}
	if r.primary == c {
		r.primary = nil
		a.publish()
		for _, other := range r.members {
			a.tell(r, other)
		}
	}
}

// publish makes the primaries known to those who must not wait; a.mu is held.
func (a *arbiter) publish() {
	var list []primary
	for _, r := range a.roles {
		if r.primary != nil {
			list = append(list, primary{r.primary, r.access})
		}
	}
	a.current.Store(&list)
}

// tell sends the advisory message of section 5.4.
func (a *arbiter) tell(r *role, c *controller) {
	st := &rpcstatus.Status{Code: int32(codes.OK), Message: "is primary"}
	switch {
	case r.primary == nil:
		st = &rpcstatus.Status{Code: int32(codes.NotFound), Message: "is backup, there is no primary"}
	case r.primary != c:
		st = &rpcstatus.Status{Code: int32(codes.AlreadyExists), Message: "is backup"}
	}
	m := &p4v1.MasterArbitrationUpdate{DeviceId: a.device, ElectionId: r.highest, Status: st}
	if c.role != "" {
		m.Role = &p4v1.Role{Name: c.role, Config: r.access.role()}
	}
	c.box.notice(&p4v1.StreamMessageResponse{Update: &p4v1.StreamMessageResponse_Arbitration{Arbitration: m}})
}

// asPrimary runs f if the request is one of the primary, with what that may do, and
// keeps the primary until f returns. Otherwise it returns the error of sections 12
// and 14.
func (a *arbiter) asPrimary(device uint64, roleName string, election *p4v1.Uint128, f func(*access) error) error {
	if device != a.device {
		return status.Errorf(codes.NotFound, "no device with id %d, this is %d", device, a.device)
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	r := a.roles[roleName]
	if r == nil && roleName != "" {
		return status.Errorf(codes.NotFound, "no role %q", roleName)
	}
	if r == nil || r.primary == nil {
		return status.Error(codes.PermissionDenied, "there is no primary controller")
	}
	if election == nil || compare(election, r.primary.election) != 0 {
		return status.Errorf(codes.PermissionDenied, "election id %d/%d is not that of the primary controller",
			election.GetHigh(), election.GetLow())
	}
	return f(r.access)
}

// primary returns what the controller of a stream may do as a primary, and whether
// it is one.
func (a *arbiter) primary(c *controller) (*access, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	r := a.roles[c.role]
	if !c.joined || r == nil || r.primary != c {
		return nil, false
	}
	return r.access, true
}

// reader returns the filter of a Read that names a role (section 13).
func (a *arbiter) reader(roleName string) (*access, error) {
	if roleName == "" {
		return nil, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	r := a.roles[roleName]
	if r == nil {
		return nil, status.Errorf(codes.NotFound, "no role %q", roleName)
	}
	return r.access, nil
}

// primaries returns the primary of each role. It does not block.
func (a *arbiter) primaries() []primary { return *a.current.Load() }
