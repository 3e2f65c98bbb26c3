// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Status is a lab as it is now. Its JSON form is for scripts: fields are added,
// never renamed.
type Status struct {
	Topology string `json:"topology"`
	// VIP is the first service's address.
	VIP      string          `json:"vip"`
	Services []ServiceStatus `json:"services"`
	// Admin is the address of the controller's admin API, as a gRPC target.
	Admin    string       `json:"admin"`
	StateDir string       `json:"state_dir"`
	LogDir   string       `json:"log_dir"`
	Started  time.Time    `json:"started"`
	Pairs    []PairStatus `json:"pairs"`
	Nodes    []NodeStatus `json:"nodes"`
	// Problem says why Pairs and roles are missing.
	Problem string `json:"problem,omitempty"`
}

// ServiceStatus is what clients connect to.
type ServiceStatus struct {
	Name     string `json:"name"`
	Pair     string `json:"pair"`
	VIP      string `json:"vip"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

// PairStatus is a pair as the controller sees it.
type PairStatus struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	Epoch       uint64 `json:"epoch"`
	Connections uint64 `json:"connections"`
	Protected   uint64 `json:"protected"`
}

// NodeStatus is a node. Fields that its kind does not have are empty.
type NodeStatus struct {
	Name       string `json:"name"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Address    string `json:"address,omitempty"`
	MAC        string `json:"mac,omitempty"`
	Gateway    string `json:"gateway,omitempty"`
	Management string `json:"management,omitempty"`
	// Port and Interface are the switch's end of the node's data link.
	Port      uint32 `json:"port,omitempty"`
	Interface string `json:"interface,omitempty"`
	// Role, Attached and ApplicationUp are what the controller says of a server.
	Role          string `json:"role,omitempty"`
	Attached      bool   `json:"attached"`
	ApplicationUp bool   `json:"application_up"`
	// Faults are those that were done to a server since it was last healed.
	Faults    []Fault         `json:"faults,omitempty"`
	DropOneIn uint32          `json:"drop_one_in,omitempty"`
	Processes []ProcessStatus `json:"processes"`
}

// ProcessStatus is a program that the lab has started.
type ProcessStatus struct {
	Name string `json:"name"`
	// Role is switch, controller, agent or app.
	Role string `json:"role"`
	PID  int    `json:"pid"`
	// State is running, frozen or dead.
	State   string   `json:"state"`
	Command []string `json:"command"`
	Log     string   `json:"log"`
}

// Write writes the status as tables, for people.
func (s *Status) Write(out io.Writer) error {
	w := &failing{out: out}
	w.printf("topology  %s, since %s\n", s.Topology, s.Started.Format(time.TimeOnly))
	for _, svc := range s.Services {
		w.printf("service   %s: %s %s port %d\n", svc.Name, svc.VIP, svc.Protocol, svc.Port)
	}
	w.printf("admin     %s\nstate     %s\nlogs      %s\n", s.Admin, s.StateDir, s.LogDir)
	for _, p := range s.Pairs {
		w.printf("pair      %s: %s, epoch %d, %d connections, %d protected\n", p.Name, p.State, p.Epoch, p.Connections, p.Protected)
	}
	if s.Problem != "" {
		w.printf("problem   %s\n", s.Problem)
	}
	w.printf("\n")
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "NODE\tNAMESPACE\tADDRESS\tMANAGEMENT\tPORT\tROLE\tPROCESSES\tFAULTS")
	for _, n := range s.Nodes {
		var processes []string
		for _, p := range n.Processes {
			what := p.Role + " " + strconv.Itoa(p.PID)
			switch p.State {
			case "running":
			case "dead":
				what = p.Role + " dead"
			default:
				what += " " + p.State
			}
			processes = append(processes, what)
		}
		port := ""
		if n.Interface != "" {
			port = fmt.Sprintf("%d@%s", n.Port, n.Interface)
		}
		var faults []string
		for _, f := range n.Faults {
			faults = append(faults, string(f))
		}
		if n.DropOneIn > 0 {
			faults = append(faults, fmt.Sprintf("drop 1 in %d", n.DropOneIn))
		}
		row := []string{n.Name, n.Namespace, n.Address, n.Management, port, n.Role, strings.Join(processes, ", "), strings.Join(faults, ", ")}
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(tab, strings.Join(row, "\t"))
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	return w.err
}

// failing remembers the first error of writing.
type failing struct {
	out io.Writer
	err error
}

func (f *failing) Write(b []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	var n int
	n, f.err = f.out.Write(b)
	return n, f.err
}

func (f *failing) printf(format string, args ...any) { fmt.Fprintf(f, format, args...) }
