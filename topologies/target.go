// SPDX-License-Identifier: Apache-2.0

package topologies

import (
	"fmt"
	"slices"
	"strings"
)

// A Target is a program that can be a topology's switch.
type Target string

const (
	// Embedded is understudy-switch. So is the empty Target.
	Embedded Target = "embedded"
	// BMv2 is simple_switch_grpc of github.com/p4lang/behavioral-model (1.15), from
	// the PATH.
	BMv2 Target = "bmv2"
)

// Targets returns all targets.
func Targets() []Target { return []Target{Embedded, BMv2} }

// ParseTarget returns the target of that name.
func ParseTarget(name string) (Target, error) {
	if t := Target(name); slices.Contains(Targets(), t) {
		return t, nil
	}
	var names []string
	for _, t := range Targets() {
		names = append(names, string(t))
	}
	return "", fmt.Errorf("unknown switch %q; there are %s", name, strings.Join(names, ", "))
}

// Program is what has to be installed.
func (t Target) Program() string {
	if t == BMv2 {
		return "simple_switch_grpc"
	}
	return "understudy-switch"
}

// Faults tells whether the target can lose copies on purpose, by the service
// understudy.switchfault.v1.Faults.
func (t Target) Faults() bool { return t != BMv2 }

// NoGNMI is the GNMI of a switch that tells nothing of its ports.
const NoGNMI = "none"

// Ports is where the switch tells of its ports, as GNMI says it: bmv2 does so nowhere.
func (s *SwitchSpec) Ports() string {
	if s.GNMI == "" && s.Target == BMv2 {
		return NoGNMI
	}
	return s.GNMI
}

// Retarget makes target the topology's switch, whatever the file says. A command that
// the file has for another switch is dropped with it.
func (t *Topology) Retarget(target Target) {
	for _, n := range t.OfKind(Switch) {
		if n.Switch.Target != target {
			n.Switch.Command = nil
		}
		n.Switch.Target = target
	}
}

// KeepsOffloads tells whether the switch's links keep their offloads. bmv2's never do:
// it reads by libpcap, which tells it nothing of checksums that are still to be
// computed, and sends no segment longer than the MTU.
func (s *SwitchSpec) KeepsOffloads() bool { return s.Offloads && s.Target != BMv2 }

// Wire returns the name of the switch's end of a link, which is taken down to cut it.
// It is the port's interface itself, but for bmv2: while a port's interface is down,
// libpcap waits inside bmv2's only receiving thread, and no port receives anything.
// There the interface is a macvlan (mode passthru) above the wire: it loses its carrier
// with the wire, and stays up.
func (t *Topology) Wire(l *Link) string {
	if sw := t.Node(l.Switch); sw.Switch.Target == BMv2 {
		return fmt.Sprintf("wire%d", l.Port)
	}
	return l.Interface
}
