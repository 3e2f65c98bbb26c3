// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"slices"
	"strings"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/bgp"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// path is what a service's packets depend on, as it was seen at one moment.
type path struct {
	now       time.Time
	service   config.Service
	heartbeat config.Heartbeat
	// bgp is nil without BGP.
	bgp      *bgp.Status
	switchAt config.Switch
	session  p4rt.Status
	// read says why the switch could not be read; missing is what it should have for
	// the service, and has not.
	read    error
	missing []p4rt.Update
	pair    *adminv1.Pair
	// heard has counters of the servers, by name; nil if they could not be read.
	heard map[string]spoken
	// facts are what agents say of their hosts, by server.
	facts map[string]*facts
	// stale is why the newest configuration is not in force, if it is not.
	stale string
}

// spoken counts what a server said in the name of a VIP, since the switch began.
type spoken struct{ released, suppressed uint64 }

const (
	well    = adminv1.Check_RESULT_OK
	warning = adminv1.Check_RESULT_WARNING
	failed  = adminv1.Check_RESULT_FAILED
	unknown = adminv1.Check_RESULT_UNKNOWN
)

// diagnose walks a path, from the clients to the application: the first check that has
// failed is the one to begin with.
func diagnose(p path) []*adminv1.Check {
	var checks []*adminv1.Check
	add := func(name string, result adminv1.Check_Result, found, advice string) {
		checks = append(checks, &adminv1.Check{Name: name, Result: result, Found: found, Advice: advice})
	}
	add("configuration", or(p.stale == "", well, warning), orText(p.stale == "", "it is the newest", "a newer one was refused: "+p.stale),
		orText(p.stale == "", "", "correct it, and apply it again"))
	p.route(add)
	p.onSwitch(add)
	p.roles(add)
	p.servers(add)
	p.spoken(add)
	return checks
}

type addCheck func(name string, result adminv1.Check_Result, found, advice string)

// route: do routers know where the service is?
func (p path) route(add addCheck) {
	if p.bgp == nil {
		add("route", unknown, "BGP is not configured", "routers have to know by other means that "+p.service.VIP.String()+" is behind the switch")
		return
	}
	var up, down []string
	for _, peer := range p.bgp.Peers {
		if peer.Established() {
			up = append(up, peer.Name)
		} else {
			down = append(down, peer.Name+" ("+peer.State+")")
		}
	}
	announced := slices.ContainsFunc(p.bgp.Routes, func(r bgp.Route) bool { return r.Prefix.Addr() == p.service.VIP })
	switch {
	case len(up) == 0:
		add("route", failed, "no BGP session is established: "+strings.Join(down, ", "), "see the routers' side of them, and whether they can be reached")
	case !announced:
		add("route", failed, fmt.Sprintf("%v is not announced to anybody", p.service.VIP),
			"it is when a server is active that can serve, the prefix is in bgp.allow, and it is not dampened: see what follows, and the controller's log")
	case len(down) > 0:
		add("route", warning, fmt.Sprintf("%v is announced to %s, not to %s", p.service.VIP, strings.Join(up, ", "), strings.Join(down, ", ")),
			"see the other routers' side of the sessions")
	default:
		add("route", well, fmt.Sprintf("%v is announced to %s", p.service.VIP, strings.Join(up, ", ")), "")
	}
}

// onSwitch: is the controller in charge, and has the switch what it needs?
func (p path) onSwitch(add addCheck) {
	at := fmt.Sprintf("%s at %s", p.switchAt.Name, p.switchAt.Address)
	switch p.session {
	case p4rt.Ready:
		add("switch", well, "the session with "+at+" is ready", "")
	case p4rt.Standby:
		add("switch", warning, "another controller is in charge of "+at, "ask that one")
	default:
		add("switch", failed, "the session with "+at+" is "+p.session.String(),
			"start the switch, or correct switch.address; what it forwards goes on, and nobody is failed over")
	}
	switch {
	case p.read != nil:
		add("entries", unknown, "the switch cannot be read: "+p.read.Error(), "mend its session")
	case len(p.missing) > 0:
		add("entries", failed, fmt.Sprintf("%d entries are missing or wrong, the first: %v", len(p.missing), p.missing[0]),
			"they are put right within seconds; if not, somebody else writes to the switch, or it refuses them: see the controller's log")
	default:
		add("entries", well, "the switch has all that the service needs", "")
	}
}

// roles: is somebody heard, and does somebody else know the lines?
func (p path) roles(add addCheck) {
	active := p.server(adminv1.ServerRole_SERVER_ROLE_ACTIVE)
	name := fmt.Sprintf("pair %s is %s", p.pair.GetName(), stateName(p.pair.GetState()))
	switch {
	case active == nil:
		add("active", failed, name+", and no server is active", "mend what follows about its servers; \"understudy pairs\" says who was drained or fenced")
	default:
		add("active", well, fmt.Sprintf("%s is active in epoch %d", active.GetName(), p.pair.GetEpoch()), "")
	}
	switch {
	case p.pair.GetState() != adminv1.PairState_PAIR_STATE_DUPLEX:
		add("backup", warning, name, "until a backup holds the connections a failure breaks them; see what follows about the other servers")
	case p.pair.GetProtected() < p.pair.GetConnections():
		add("backup", warning, fmt.Sprintf("%d of %d connections are held by one server alone", p.pair.GetConnections()-p.pair.GetProtected(), p.pair.GetConnections()),
			"they began before the backup came, and become safe when they end and begin anew")
	case p.pair.GetConnections() == 0:
		add("backup", well, name+"; there is no connection now", "")
	default:
		add("backup", well, fmt.Sprintf("%d connections, all of them held twice", p.pair.GetConnections()), "")
	}
}

// servers: is each of them there, with an application, and heard by the data path? What
// is wrong with one that is not active is a warning.
func (p path) servers(add addCheck) {
	for _, s := range p.pair.GetServers() {
		bad := warning
		if s.GetRole() == adminv1.ServerRole_SERVER_ROLE_ACTIVE || p.server(adminv1.ServerRole_SERVER_ROLE_ACTIVE) == nil {
			bad = failed
		}
		if a := s.GetAdminState(); a == adminv1.AdminState_ADMIN_STATE_DRAINED || a == adminv1.AdminState_ADMIN_STATE_FENCED {
			add("server "+s.GetName(), warning, "an operator has taken it out of service", "put it back with \"understudy undrain "+s.GetName()+"\"")
		}
		if !s.GetAttached() {
			add("agent on "+s.GetName(), bad, "it has no session with the controller", "start understudy-agent on "+s.GetName()+"; its log says what is refused")
			continue
		}
		add("agent on "+s.GetName(), well, "it has a session with the controller", "")
		add("application on "+s.GetName(), or(s.GetApplicationUp(), well, bad),
			orText(s.GetApplicationUp(), p.service.Upstream+" answers", p.service.Upstream+" does not answer, or the server has no link"),
			orText(s.GetApplicationUp(), "", "start it on "+s.GetName()+", and see that it listens there; the agent's log has the reason"))
		p.host(add, s, bad)
		p.heartbeats(add, s, bad)
	}
}

// clockSlack is how far clocks may be apart before what is told of times misleads.
const clockSlack = time.Second

// host: does the agent listen, is the queue of new connections long enough, is the clock
// right?
func (p path) host(add addCheck, s *adminv1.Server, bad adminv1.Check_Result) {
	name := s.GetName()
	f := p.facts[name]
	if f == nil {
		add("host "+name, unknown, "its agent has not said how it is", "agents of this version say so every second, while they have a part")
		return
	}
	listens := slices.Contains(f.listening, p.service.Name)
	where := fmt.Sprintf("%v port %d", p.service.VIP, p.service.Port)
	add("socket on "+name, or(listens, well, bad),
		orText(listens, "the agent listens on "+where, "the agent does not listen on "+where),
		orText(listens, "", "it opens what the controller tells it to: is the address on its loopback device, and the port free? its log says which failed"))
	add("backlog on "+name, or(f.overflows == 0, well, warning),
		orText(f.overflows == 0, "no connection was thrown away", fmt.Sprintf("%d connections were thrown away since the agent came: a queue was full", f.overflows)),
		orText(f.overflows == 0, "", "raise net.core.somaxconn on "+name+", and restart its agent"))
	right := f.ahead.Abs() <= clockSlack
	add("clock of "+name, or(right, well, warning),
		orText(right, "it is right", fmt.Sprintf("it is %v from the controller's", f.ahead.Round(time.Millisecond))),
		orText(right, "", "synchronise both by NTP: nothing is decided by it, but logs mislead"))
}

func (p path) heartbeats(add addCheck, s *adminv1.Server, bad adminv1.Check_Result) {
	name := "heartbeats of " + s.GetName()
	patience := max(time.Duration(p.heartbeat.Missed)*p.heartbeat.Interval, leastPatience)
	advice := "they go from the agent through the switch: see the cable, the switch's port and MAC of the server, and the path between agent and switch"
	if s.GetLastHeartbeat() == nil {
		add(name, bad, "none has come", advice)
		return
	}
	switch age := p.now.Sub(s.GetLastHeartbeat().AsTime()); {
	case age < -time.Second:
		add(name, warning, fmt.Sprintf("the last one is of %v from now", -age), "the controller's clock was set back")
	case age > patience:
		add(name, bad, fmt.Sprintf("the last one is %v old", age.Round(time.Millisecond)), advice)
	default:
		add(name, well, fmt.Sprintf("one every %v", p.heartbeat.Interval), "")
	}
}

// spoken: do copies reach both servers, and do both answer?
func (p path) spoken(add addCheck) {
	active, backup := p.server(adminv1.ServerRole_SERVER_ROLE_ACTIVE), p.server(adminv1.ServerRole_SERVER_ROLE_BACKUP)
	if p.heard == nil {
		add("traffic", unknown, "the switch's counters cannot be read", "mend its session")
		return
	}
	if active == nil {
		return
	}
	said := p.heard[active.GetName()].released
	switch {
	case said == 0 && p.pair.GetConnections() > 0:
		add("traffic", failed, fmt.Sprintf("%s has %d connections, and nothing that it said was let through", active.GetName(), p.pair.GetConnections()),
			"its packets come from another port or MAC than the configuration says, or do not reach the switch")
	case said == 0:
		add("traffic", well, "no client has been answered yet", "")
	case backup != nil && p.heard[backup.GetName()].suppressed+p.heard[backup.GetName()].released == 0 && p.pair.GetProtected() > 0:
		add("traffic", warning, fmt.Sprintf("%s was let through %d times, and %s has said nothing", active.GetName(), said, backup.GetName()),
			"copies do not reach it, or its answers do not reach the switch: see its port, MAC and VIPs")
	default:
		add("traffic", well, fmt.Sprintf("%s was let through %d times", active.GetName(), said), "")
	}
}

// server returns the first of a role, nil if there is none.
func (p path) server(role adminv1.ServerRole) *adminv1.Server {
	for _, s := range p.pair.GetServers() {
		if s.GetRole() == role {
			return s
		}
	}
	return nil
}

func stateName(s adminv1.PairState) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s.String(), "PAIR_STATE_")), "_", " ")
}

func or(b bool, yes, no adminv1.Check_Result) adminv1.Check_Result {
	if b {
		return yes
	}
	return no
}

func orText(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

// needs is what the switch must have for a service alone.
func needs(cfg *config.Config, s config.Service, st failover.Status) p4rt.State {
	pair := pairOf(cfg, s.Pair)
	alone := *cfg
	alone.Services, alone.Pairs, alone.Routes = []config.Service{s}, []config.Pair{pair}, nil
	want := p4rt.State{Entries: standing(&alone)}
	if st.Active != 0 {
		want.Entries = append(want.Entries, activeEntry{st.Active, st.Epoch, st.Standby, silence(cfg)}.entry(pair.ID))
	}
	if len(st.Members) > 0 {
		want.Groups = append(want.Groups, membersGroup(pair, st.Members))
	}
	return want
}

// lacks returns what of want is not in have.
func lacks(have, want p4rt.State) []p4rt.Update {
	return slices.DeleteFunc(p4rt.Diff(have, want), func(u p4rt.Update) bool { return u.Op == p4rt.Delete })
}
