// SPDX-License-Identifier: Apache-2.0

package failover

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite what the plays in testdata observe")

// Each file in testdata is a play: blocks of commands, "----", and what the
// machine did, up to an empty line. `go test -update` writes down what it does
// now; read the difference before you commit it.
func TestPlays(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no plays in testdata (%v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := perform(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(string(text), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("the play went otherwise (-written +performed):\n%s", diff)
			}
		})
	}
}

// perform runs a play and returns it with the observed output in place.
func perform(t *testing.T, text string) string {
	t.Helper()
	st := newStage()
	var out strings.Builder
	var commands []string
	observed := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case observed:
			// The old observation is skipped.
			if line == "" {
				observed = false
				out.WriteString("\n")
			}
		case line == "----":
			out.WriteString("----\n")
			var lines []string
			for _, c := range commands {
				got, err := st.command(c)
				if err != nil {
					t.Fatalf("%s: %v", c, err)
				}
				lines = append(lines, got...)
			}
			if len(lines) == 0 {
				lines = []string{"nothing"}
			}
			out.WriteString(strings.Join(lines, "\n") + "\n")
			commands, observed = nil, true
		default:
			out.WriteString(line + "\n")
			if line != "" && !strings.HasPrefix(line, "#") {
				commands = append(commands, line)
			}
		}
	}
	if len(commands) > 0 {
		t.Fatalf("commands without ---- after them: %q", commands)
	}
	return out.String()
}

// stage is the world around a machine, as far as a play needs one.
type stage struct {
	m        *Machine
	config   Config
	start    time.Time
	now      time.Time
	session  uint64
	sessions map[Replica]uint64
	instance map[Replica]uint64
	assigned map[Replica]Assign
	beating  map[Replica]bool
	alive    map[Replica]bool // says so over its session
	epoch    uint64           // of the last write asked for
	// What the switch has done by itself.
	released      Replica
	releasedEpoch uint64
}

func newStage() *stage {
	st := &stage{config: Config{Servers: []string{"server1", "server2"}}}
	st.reset()
	return st
}

func (st *stage) reset() {
	st.m = New(st.config)
	if st.start.IsZero() {
		st.start = time.Unix(1000, 0)
		st.now = st.start
		st.sessions = make(map[Replica]uint64)
		st.instance = make(map[Replica]uint64)
		st.assigned = make(map[Replica]Assign)
		st.beating = make(map[Replica]bool)
		st.alive = make(map[Replica]bool)
	}
}

func (st *stage) replica(name string) (Replica, error) {
	i := slices.Index(st.config.Servers, name)
	if i < 0 {
		return 0, fmt.Errorf("no server %q", name)
	}
	return Replica(i + 1), nil
}

func (st *stage) name(r Replica) string {
	if r == 0 || int(r) > len(st.config.Servers) {
		return "nobody"
	}
	return st.config.Servers[r-1]
}

func (st *stage) step(ev Event) []string {
	var lines []string
	for _, in := range st.m.Step(st.now, ev) {
		lines = append(lines, st.describe(in))
	}
	return lines
}

func (st *stage) describe(in Intent) string {
	switch in := in.(type) {
	case WriteMembers:
		st.epoch = in.Epoch
		var names []string
		for _, r := range in.Members {
			names = append(names, st.name(r))
		}
		return fmt.Sprintf("write members: %s", strings.Join(names, " "))
	case WriteActive:
		st.epoch = in.Epoch
		text := fmt.Sprintf("write active: %s, epoch %d", st.name(in.Active), in.Epoch)
		if in.Standby != 0 {
			text += ", standby " + st.name(in.Standby)
		}
		return text
	case Assign:
		st.assigned[in.Server] = in
		text := fmt.Sprintf("tell %s: %s in epoch %d", st.name(in.Server), in.Role, in.Epoch)
		if in.Released {
			text += ", released"
		}
		if in.Peer != 0 {
			text += ", peer " + st.name(in.Peer)
		}
		return text
	case RecordFailover:
		ms := func(at time.Time) string {
			if at.IsZero() {
				return "never"
			}
			return at.Sub(st.start).String()
		}
		text := "record"
		if in.Final {
			text = "record, final"
		}
		cold := ""
		if in.Cold {
			cold = ", cold"
		}
		return fmt.Sprintf("%s: epoch %d, %s to %s, %s%s: suspected %s, decided %s, written %s, released %s", text,
			in.Epoch, st.name(in.From), st.name(in.To), in.Cause, cold,
			ms(in.Suspected), ms(in.Decided), ms(in.Written), ms(in.Failover.Released))
	case Notify:
		if in.Kind == StateChanged {
			return "* " + in.Message
		}
		return fmt.Sprintf("* %s: %s", in.Kind, in.Message)
	case Reply:
		if in.Refused != "" {
			return fmt.Sprintf("reply to %d: refused, %s", in.Request, in.Refused)
		}
		if in.Failover == (Failover{}) {
			return fmt.Sprintf("reply to %d: done", in.Request)
		}
		return fmt.Sprintf("reply to %d: %s is active in epoch %d", in.Request, st.name(in.Failover.To), in.Failover.Epoch)
	}
	return fmt.Sprintf("unknown intent %T", in)
}

// command performs one line:
//
//	servers NAME...                      the cast; default server1 server2
//	duplex                               all that join.txt shows, server1 active in epoch 2
//	new controller                       it has forgotten everything; sessions are gone
//	switch none | switch NAME epoch=N members=NAME,NAME [standby=NAME]
//	watchdog                             the switch may release a backup by itself
//	releases NAME                        it has, in the present epoch: heartbeats say so
//	agent NAME [instance=N] [role=ROLE] [epoch=N] [application=down]
//	closed NAME | timed-out NAME
//	health NAME up|down|link-down [REASON]
//	port NAME up|down [REASON]           as the switch says of the port to NAME
//	beat NAME... | mute NAME...          who sends heartbeats while time runs
//	alive NAME... | lifeless NAME...     whose sessions show signs of life meanwhile
//	run DURATION                         time with ticks each 5 ms
//	stall DURATION                       time in which the controller does not run
//	heartbeat NAME [application=down]    a single one
//	written | write-failed REASON
//	applied NAME                         answers its last assignment
//	stream NAME up|down [REASON]         as the agent NAME reports it
//	switch-over N
//	drain NAME request=N [force] | fence NAME request=N [force] | undrain NAME request=N
//	add NAME | remove NAME               a server of the pair
//	give-up N                            nobody waits for the answer any more
//	connections NAME N protected=N       as the agent NAME counts them
//	status
func (st *stage) command(line string) ([]string, error) {
	fields := strings.Fields(line)
	verb, args := fields[0], fields[1:]
	opts := map[string]string{}
	var words []string
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			opts[k] = v
		} else {
			words = append(words, a)
		}
	}
	var who Replica
	switch verb {
	case "agent", "closed", "timed-out", "health", "port", "heartbeat", "applied", "stream",
		"remove", "drain", "fence", "undrain", "connections":
		if len(words) == 0 {
			return nil, fmt.Errorf("who?")
		}
		r, err := st.replica(words[0])
		if err != nil {
			return nil, err
		}
		who = r
		words = words[1:]
	}
	number := func(key string, def uint64) uint64 {
		if v, ok := opts[key]; ok {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				panic(err)
			}
			return n
		}
		return def
	}
	roles := map[string]Role{"": NoRole, "active": Active, "backup": Backup, "fenced": Fenced}
	reason := strings.Join(words[min(1, len(words)):], " ")

	switch verb {
	case "servers":
		st.config.Servers = words
		st.reset()
		return nil, nil
	case "watchdog":
		st.config.Watchdog = true
		st.reset()
		return nil, nil
	case "releases":
		r, err := st.replica(words[0])
		if err != nil {
			return nil, err
		}
		st.released, st.releasedEpoch = r, st.epoch
		return nil, nil
	case "duplex":
		for _, c := range []string{
			"switch none", "agent server1", "written", "agent server2", "beat server1 server2",
			"run 210ms", "written", "applied server2", "stream server1 up",
		} {
			if _, err := st.command(c); err != nil {
				return nil, err
			}
		}
		if s := st.m.Status(); s.State != Duplex || s.Epoch != 2 {
			return nil, fmt.Errorf("the pair is %s in epoch %d", s.State, s.Epoch)
		}
		return nil, nil
	case "new":
		st.m = New(st.config)
		clear(st.sessions)
		return nil, nil
	case "switch":
		if words[0] == "none" {
			return st.step(SwitchState{}), nil
		}
		active, err := st.replica(words[0])
		if err != nil {
			return nil, err
		}
		var members []Replica
		for name := range strings.SplitSeq(opts["members"], ",") {
			r, err := st.replica(name)
			if err != nil {
				return nil, err
			}
			members = append(members, r)
		}
		var standby Replica
		if name := opts["standby"]; name != "" {
			if standby, err = st.replica(name); err != nil {
				return nil, err
			}
		}
		return st.step(SwitchState{Active: active, Epoch: number("epoch", 0), Standby: standby, Members: members}), nil
	case "agent":
		st.session++
		st.sessions[who] = st.session
		if st.instance[who] == 0 {
			st.instance[who] = uint64(who) * 100
		}
		st.instance[who] = number("instance", st.instance[who])
		role, ok := roles[opts["role"]]
		if !ok {
			return nil, fmt.Errorf("role %q", opts["role"])
		}
		return st.step(AgentUp{
			Server: who, Session: st.session, Instance: st.instance[who], Role: role,
			Epoch: number("epoch", 0), ApplicationUp: opts["application"] != "down",
		}), nil
	case "closed":
		return st.step(AgentDown{Server: who, Session: st.sessions[who], Cause: CauseClosed}), nil
	case "timed-out":
		return st.step(AgentDown{Server: who, Session: st.sessions[who], Cause: CauseTimedOut}), nil
	case "health":
		return st.step(Health{
			Server: who, Session: st.sessions[who], Up: words[0] != "down", LinkDown: words[0] == "link-down", Reason: reason,
		}), nil
	case "port":
		return st.step(PortState{Server: who, Down: words[0] == "down", Reason: reason}), nil
	case "heartbeat":
		return st.heartbeat(who, opts["application"] != "down"), nil
	case "alive", "lifeless":
		for _, name := range words {
			r, err := st.replica(name)
			if err != nil {
				return nil, err
			}
			st.alive[r] = verb == "alive"
		}
		return nil, nil
	case "beat", "mute":
		for _, name := range words {
			r, err := st.replica(name)
			if err != nil {
				return nil, err
			}
			st.beating[r] = verb == "beat"
		}
		return nil, nil
	case "run":
		d, err := time.ParseDuration(words[0])
		if err != nil {
			return nil, err
		}
		return st.run(d), nil
	case "stall":
		d, err := time.ParseDuration(words[0])
		if err != nil {
			return nil, err
		}
		st.now = st.now.Add(d)
		return st.step(Tick{}), nil
	case "written":
		return st.step(WriteDone{Epoch: number("epoch", st.epoch)}), nil
	case "write-failed":
		return st.step(WriteFailed{Epoch: st.epoch, Reason: strings.Join(words, " ")}), nil
	case "applied":
		a := st.assigned[who]
		return st.step(Applied{Server: who, Session: st.sessions[who], Epoch: a.Epoch, Role: a.Role, Released: a.Released}), nil
	case "stream":
		return st.step(Replication{
			Server: who, Session: st.sessions[who], Epoch: number("epoch", st.assigned[who].Epoch),
			Up: words[0] == "up", Reason: reason,
		}), nil
	case "switch-over":
		n, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil {
			return nil, err
		}
		return st.step(SwitchOver{Request: n}), nil
	case "drain", "fence", "undrain":
		admin := map[string]Admin{"drain": Drained, "fence": Isolated, "undrain": InService}[verb]
		return st.step(SetAdmin{
			Request: number("request", 0), Server: who, State: admin, Force: slices.Contains(words, "force"),
		}), nil
	case "add":
		st.config.Servers = append(slices.Clone(st.config.Servers), words[0])
		return st.step(AddServer{Server: Replica(len(st.config.Servers)), Name: words[0]}), nil
	case "remove":
		if why := st.m.Removable(who); why != "" {
			return []string{"refused: " + why}, nil
		}
		lines := st.step(RemoveServer{Server: who})
		st.config.Servers = slices.Clone(st.config.Servers)
		st.config.Servers[who-1] = ""
		return lines, nil
	case "give-up":
		n, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil {
			return nil, err
		}
		return st.step(GiveUp{Request: n}), nil
	case "connections":
		n, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil {
			return nil, err
		}
		return st.step(Protection{
			Server: who, Session: st.sessions[who], Epoch: number("epoch", st.assigned[who].Epoch),
			Connections: n, Protected: number("protected", 0),
		}), nil
	case "status":
		s := st.m.Status()
		lines := []string{fmt.Sprintf("%s, epoch %d", s.State, s.Epoch)}
		for _, sv := range s.Servers {
			line := fmt.Sprintf("  %s: %s, joining %t, attached %t, application up %t",
				sv.Name, sv.Role, sv.Joining, sv.Attached, sv.ApplicationUp)
			if sv.Admin != InService {
				line += ", " + sv.Admin.String()
			}
			lines = append(lines, line)
		}
		return lines, nil
	}
	return nil, fmt.Errorf("no command %q", verb)
}

func (st *stage) heartbeat(who Replica, up bool) []string {
	a := st.assigned[who]
	return st.step(HeartbeatSeen{
		Server: who, At: st.now, Instance: st.instance[who],
		Role: a.Role, Epoch: a.Epoch, ApplicationUp: up,
		Released: st.released, ReleasedEpoch: st.releasedEpoch,
	})
}

const tickEvery = 5 * time.Millisecond

func (st *stage) run(d time.Duration) []string {
	var lines []string
	begin, end := st.now, st.now.Add(d)
	add := func(got []string) {
		for _, l := range got {
			lines = append(lines, fmt.Sprintf("+%v %s", st.now.Sub(begin), l))
		}
	}
	for st.now.Before(end) {
		st.now = st.now.Add(tickEvery)
		if st.now.Sub(st.start)%(10*time.Millisecond) == 0 {
			for i := range st.config.Servers {
				r := Replica(i + 1)
				if st.beating[r] {
					add(st.heartbeat(r, true))
				}
				if st.alive[r] {
					add(st.step(AliveSeen{Server: r, Session: st.sessions[r], At: st.now}))
				}
			}
		}
		add(st.step(Tick{}))
	}
	return lines
}

// With a Tick whenever one is due, silence is seen in the moment that it has
// lasted too long.
func TestDue(t *testing.T) {
	st := newStage()
	for _, c := range []string{"duplex", "mute server1"} {
		if _, err := st.command(c); err != nil {
			t.Fatal(err)
		}
	}
	last := st.m.servers[0].beat.last
	for range 20 {
		// server2 goes on, and the ticks of every 5 ms do not fall together with it.
		next := st.now.Add(5*time.Millisecond - st.now.Sub(last)%(5*time.Millisecond))
		due := st.m.Due()
		if !due.IsZero() && due.Before(next) {
			st.now = due
		} else if st.now = next; st.now.Sub(last)%(10*time.Millisecond) == 0 {
			st.heartbeat(2, true)
		}
		st.step(Tick{})
		if !due.IsZero() && !due.After(st.now.Add(-time.Millisecond)) {
			t.Fatalf("due at %v, and it is %v", due.Sub(last), st.now.Sub(last))
		}
		if st.m.Status().State == FailingOver {
			if after := st.now.Sub(last); after != 30*time.Millisecond+1 {
				t.Errorf("decided %v after the last heartbeat", after)
			}
			return
		}
	}
	t.Errorf("the pair is %s", st.m.Status().State)
}
