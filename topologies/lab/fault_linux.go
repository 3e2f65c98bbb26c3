// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/topologies"
)

// Fault breaks a server, or a program of the switch's node. What has to be looked up is looked up before, so that
// the fault itself is no more than its system calls. It returns when the fault
// is complete, and does not wait for anybody to notice.
func (l *Lab) Fault(f Fault, server string) (Injection, error) {
	in := Injection{Fault: f, Server: server}
	st, t, unlock, err := l.locked()
	if err != nil {
		return in, err
	}
	defer unlock()
	if slices.Contains(SwitchFaults(), f) {
		err = checkSwitch(t, server)
	} else {
		err = checkServer(t, server)
	}
	if err != nil {
		return in, err
	}
	switch f {
	case KillController:
		err = l.killProcess(&in, st.find(server, roleController))
	case KillSwitch:
		err = l.killProcess(&in, st.find(server, roleSwitch))
	case KillAgent:
		err = l.killProcess(&in, st.find(server, roleAgent))
	case KillApp:
		err = l.killProcess(&in, st.find(server, roleApp))
	case CutLink:
		err = l.cut(&in, t, t.LinkOf(server))
	case PowerOff:
		err = l.powerOff(&in, t, t.LinkOf(server))
	case Freeze:
		err = l.freeze(&in, st)
	default:
		_, err = ParseFault(string(f))
	}
	if err != nil {
		return in, fmt.Errorf("%s %s: %w", f, server, err)
	}
	in.Done = time.Now()
	if st.Faults == nil {
		st.Faults = make(map[string][]Fault)
	}
	st.Faults[server] = append(st.Faults[server], f)
	return in, l.save(st)
}

func checkServer(t *topologies.Topology, name string) error {
	if n := t.Node(name); n != nil && n.Kind == topologies.Server {
		return nil
	}
	var names []string
	for _, n := range t.OfKind(topologies.Server) {
		names = append(names, n.Name)
	}
	return fmt.Errorf("no server %q; there are %v", name, names)
}

func checkSwitch(t *topologies.Topology, name string) error {
	sw := t.OfKind(topologies.Switch)[0]
	if sw.Name == name {
		return nil
	}
	return fmt.Errorf("no switch %q; there is %s", name, sw.Name)
}

// killProcess kills a process with all that belong to it.
func (l *Lab) killProcess(in *Injection, r *running) error {
	if !r.alive() {
		return errors.New("it does not run")
	}
	// Looked up first: a worker whose parent is dead is nobody's descendant.
	family, err := l.family(r.Node, r.PID)
	if err != nil {
		return err
	}
	in.At = time.Now()
	// The whole group in one call; the leader leads it.
	if err := unix.Kill(-r.PID, unix.SIGKILL); err != nil {
		return err
	}
	return repeat("processes do not end", func() (bool, error) {
		pids, err := l.family(r.Node, family...)
		if err != nil {
			return true, err
		}
		return len(pids) == 0, signal(pids, unix.SIGKILL)
	})
}

// cut takes the carrier of the server's data link away, at the switch's end.
func (l *Lab) cut(in *Injection, t *topologies.Topology, link *topologies.Link) error {
	h, err := l.handle(link.Switch)
	if err != nil {
		return err
	}
	defer h.Close()
	port, err := h.LinkByName(t.Wire(link))
	if err != nil {
		return err
	}
	in.At = time.Now()
	return h.LinkSetDown(port)
}

// powerOff takes both links away, then kills everything. The management link
// goes first, since no client notices that; so no message of a dying process
// gets anywhere.
func (l *Lab) powerOff(in *Injection, t *topologies.Topology, link *topologies.Link) error {
	h, err := l.handle(link.Switch)
	if err != nil {
		return err
	}
	defer h.Close()
	var ports [2]netlink.Link
	for i, name := range []string{managementPort(link.Node), t.Wire(link)} {
		if ports[i], err = h.LinkByName(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	pids, err := l.inside(link.Node)
	if err != nil {
		return err
	}
	if err := h.LinkSetDown(ports[0]); err != nil {
		return err
	}
	in.At = time.Now()
	if err := h.LinkSetDown(ports[1]); err != nil {
		return err
	}
	if err := signal(pids, unix.SIGKILL); err != nil {
		return err
	}
	return l.killAll(link.Node)
}

// freeze stops everything, the agent first: it is what others see.
func (l *Lab) freeze(in *Injection, st *state) error {
	pids, err := l.inside(in.Server)
	if err != nil {
		return err
	}
	if agent := st.find(in.Server, roleAgent); agent.alive() {
		if i := slices.Index(pids, agent.PID); i > 0 {
			pids[0], pids[i] = pids[i], pids[0]
		}
	}
	in.At = time.Now()
	if err := signal(pids, unix.SIGSTOP); err != nil {
		return err
	}
	return l.freezeAll(in.Server)
}

// Heal brings a server back, whatever was done to it: links up, processes
// continued or started again, no copies dropped. Of the switch's node it starts what
// does not run. With wait it returns when all
// pairs are duplex, and starts again what ends meanwhile; without, when
// everything runs.
func (l *Lab) Heal(ctx context.Context, server string, wait bool) error {
	if err := l.restore(ctx, server); err != nil {
		return fmt.Errorf("healing %s: %w", server, err)
	}
	if !wait {
		return nil
	}
	restarts := 0
	return l.waitDuplex(ctx, func(r *running) error {
		// A program that was frozen for long may prefer to begin afresh.
		if restarts++; r.Node != server || restarts > 3 {
			return fmt.Errorf("not ready: %w", l.obituary(r))
		}
		l.progress("%s", l.obituary(r))
		return l.restore(ctx, server)
	})
}

// restore is Heal without waiting for others than the server's own programs.
func (l *Lab) restore(ctx context.Context, server string) error {
	st, t, unlock, err := l.locked()
	if err != nil {
		return err
	}
	defer unlock()
	if checkSwitch(t, server) == nil {
		if err := l.revive(ctx, st, t, server); err != nil {
			return err
		}
		delete(st.Faults, server)
		return l.save(st)
	}
	if err := checkServer(t, server); err != nil {
		return err
	}
	if slices.Contains(st.Faults[server], PowerOff) {
		// What a machine forgets when its power fails: connections, BPF programs.
		// Before the links are up, so that nobody is told.
		if err := errors.Join(l.forget(server), removeContents(l.paths().pins(server))); err != nil {
			return err
		}
	}
	link := t.LinkOf(server)
	h, err := l.handle(link.Switch)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := errors.Join(up(h, managementPort(server)), up(h, t.Wire(link))); err != nil {
		return err
	}
	pids, err := l.inside(server)
	if err != nil {
		return err
	}
	if err := signal(pids, unix.SIGCONT); err != nil {
		return err
	}
	if err := l.revive(ctx, st, t, server); err != nil {
		return err
	}
	if st.Drops[server] > 0 {
		if err := l.setDrop(ctx, t, server, 0); err != nil {
			return err
		}
		delete(st.Drops, server)
	}
	delete(st.Faults, server)
	return l.save(st)
}

// revive starts those of a server's processes that do not run.
func (l *Lab) revive(ctx context.Context, st *state, t *topologies.Topology, server string) error {
	for i := range st.Processes {
		r := &st.Processes[i]
		if r.Node != server || r.alive() {
			continue
		}
		next, err := l.start(r.process)
		if err != nil {
			return err
		}
		*r = next
		// At once: if this fails later, the next attempt must not start it twice.
		if err := l.save(st); err != nil {
			return err
		}
		if err := l.waitStarted(ctx, t, r); err != nil {
			return err
		}
		l.progress("%s runs again", r.Name)
	}
	return nil
}

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Drop makes the switch drop one in oneIn of the packets that it sends to a
// server, evenly; 0 none.
func (l *Lab) Drop(ctx context.Context, server string, oneIn uint32) error {
	st, t, unlock, err := l.locked()
	if err != nil {
		return err
	}
	defer unlock()
	if err := checkServer(t, server); err != nil {
		return err
	}
	if err := l.setDrop(ctx, t, server, oneIn); err != nil {
		return err
	}
	if st.Drops == nil {
		st.Drops = make(map[string]uint32)
	}
	st.Drops[server] = oneIn
	if oneIn == 0 {
		delete(st.Drops, server)
	}
	return l.save(st)
}
