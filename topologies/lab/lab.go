// SPDX-License-Identifier: Apache-2.0

// Package lab runs a topology on this host: a network namespace for every node,
// a veth for every link, Understudy's own programs and a web server in them. It
// can break a server in several ways and bring it back, and measure what the
// clients notice of it.
//
// A Lab needs Linux and root. What it does is visible from outside: namespaces
// are known to "ip netns" as the prefix and the node's name, everything else is
// in one directory.
package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// Lab is a place on this host where one topology can be run. Its fields say
// which, and are not changed after the first call. Labs with different prefixes
// and directories do not meet. Methods may be called concurrently, by several
// programs too; those that change something wait for each other.
type Lab struct {
	// Prefix begins the names of the namespaces. Every namespace with this prefix
	// is taken for the lab's.
	Prefix string
	// RunDir holds sockets, logs and state. Down removes it with all it contains.
	RunDir string
	// BinDir holds Understudy's programs.
	BinDir string
	// Progress is told what happens, line by line; it may be nil.
	Progress func(line string)

	children children
}

// The default lab's names, which scripts may rely on.
const (
	DefaultPrefix = "us-"
	DefaultRunDir = "/run/understudy/lab"
)

// Socket is where the default lab's controller serves its admin API.
const Socket = DefaultRunDir + "/controller.sock"

// Default returns the usual lab. Understudy's programs are taken from the
// directory of the running one.
func Default() (*Lab, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &Lab{Prefix: DefaultPrefix, RunDir: DefaultRunDir, BinDir: filepath.Dir(exe)}, nil
}

// Errors that the methods return, wrapped or as they are.
var (
	// ErrUp: there is a lab already, or what is left of one.
	ErrUp = errors.New("the lab is up already, or a part of it is left: understudy lab down ends it")
	// ErrDown: there is no lab.
	ErrDown = errors.New("the lab is not up: understudy lab up starts it")
)

// How long things may take.
const (
	// startTimeout is for one program to accept connections.
	startTimeout = 15 * time.Second
	// DuplexTimeout is for all pairs to become duplex.
	DuplexTimeout = 30 * time.Second
)

func (l *Lab) paths() paths { return paths{l.RunDir} }

func (l *Lab) progress(format string, args ...any) {
	if l.Progress != nil {
		l.Progress(fmt.Sprintf(format, args...))
	}
}

// Fault is a way to break a server, or what runs beside the switch.
type Fault string

const (
	// KillAgent kills the agent's process.
	KillAgent Fault = "kill-agent"
	// KillApp kills the local application, all of its processes.
	KillApp Fault = "kill-app"
	// CutLink takes the data link's carrier away.
	CutLink Fault = "cut-link"
	// PowerOff takes both links away and kills every process.
	PowerOff Fault = "power-off"
	// Freeze stops every process, and leaves kernel and links alive.
	Freeze Fault = "freeze"
	// KillController kills the controller. It is done to the node of the switch.
	KillController Fault = "kill-controller"
	// KillSwitch kills the switch's program, whose links stay. It is done to its node.
	KillSwitch Fault = "kill-switch"
)

// Faults returns all faults of servers, in the order in which the demo shows them.
func Faults() []Fault { return []Fault{KillAgent, KillApp, CutLink, PowerOff, Freeze} }

// SwitchFaults returns those that are done to the node of the switch.
func SwitchFaults() []Fault { return []Fault{KillController, KillSwitch} }

// ParseFault returns the fault of that name.
func ParseFault(name string) (Fault, error) {
	all := append(Faults(), SwitchFaults()...)
	if f := Fault(name); slices.Contains(all, f) {
		return f, nil
	}
	var names []string
	for _, f := range all {
		names = append(names, string(f))
	}
	return "", fmt.Errorf("unknown fault %q; there are %s", name, strings.Join(names, ", "))
}

// Injection is a fault that was done.
type Injection struct {
	Fault Fault `json:"fault"`
	// Server is the node that it was done to.
	Server string `json:"server"`
	// At is just before the system call that makes the first effect a client
	// could notice.
	At time.Time `json:"at"`
	// Done is when the fault was complete.
	Done time.Time `json:"done"`
}

// notReady says why the pairs of these names are not all duplex, with both
// servers attached and their applications up; nothing if they are.
func notReady(want []string, pairs []*adminv1.Pair) []string {
	var why []string
	for _, name := range want {
		i := slices.IndexFunc(pairs, func(p *adminv1.Pair) bool { return p.GetName() == name })
		if i < 0 {
			why = append(why, fmt.Sprintf("pair %s: the controller does not know it", name))
			continue
		}
		p := pairs[i]
		var parts []string
		if s := p.GetState(); s != adminv1.PairState_PAIR_STATE_DUPLEX {
			parts = append(parts, "is "+StateName(s))
		}
		for _, s := range p.GetServers() {
			switch {
			case !s.GetAttached():
				parts = append(parts, s.GetName()+"'s agent is not attached")
			case !s.GetApplicationUp():
				parts = append(parts, s.GetName()+"'s application is not up")
			}
		}
		if len(parts) > 0 {
			why = append(why, "pair "+name+": "+strings.Join(parts, ", "))
		}
	}
	return why
}

// StateName is a pair's state in one lower-case word.
func StateName(s adminv1.PairState) string {
	return enumName(s.String(), "PAIR_STATE_")
}

// RoleName is a server's role in one lower-case word.
func RoleName(r adminv1.ServerRole) string {
	return enumName(r.String(), "SERVER_ROLE_")
}

func enumName(s, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s, prefix)), "_", "-")
}
