// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/topologies"
)

// running is a process that was started. The start time tells it from a later
// one that got the same pid.
type running struct {
	process
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	Log   string `json:"log"`
}

// stat is what /proc/PID/stat says.
type stat struct {
	state         byte // R, S, D, T, Z, ...
	parent, group int
	session       int
	start         uint64 // clock ticks since boot
}

// parseStat reads the content of /proc/PID/stat. The command's name in it may
// contain anything.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, fmt.Errorf("no command in %.80q", b)
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("%d fields in %.80q", len(f), b)
	}
	s := stat{state: f[0][0]}
	var errs [4]error
	s.parent, errs[0] = strconv.Atoi(f[1])
	s.group, errs[1] = strconv.Atoi(f[2])
	s.session, errs[2] = strconv.Atoi(f[3])
	s.start, errs[3] = strconv.ParseUint(f[19], 10, 64)
	return s, errors.Join(errs[:]...)
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// dead reports that a process has ended, though its parent may not have noticed.
func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// alive reports whether the process, and not a later one of its pid, is there.
func (r *running) alive() bool {
	s, err := readStat(r.PID)
	return err == nil && s.start == r.Start && !s.dead()
}

// stopped reports that no thread of a process runs: each is stopped, or dead.
func stopped(pid int) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return true
	}
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, t.Name()))
		if err != nil {
			continue
		}
		if s, err := parseStat(b); err == nil && s.state != 'T' && s.state != 't' && !s.dead() {
			return false
		}
	}
	return true
}

// inside returns the pids of the living processes in the namespaces of the
// nodes, this program's own left out.
func (l *Lab) inside(nodes ...string) ([]int, error) {
	ids := make(map[nsID]bool)
	for _, n := range nodes {
		id, err := namespaceID(l.namespacePath(n))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ids[id] = true
	}
	// A name without a namespace is a file in /run, and no process's namespace.
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A zombie has no namespace any more.
		if id, err := namespaceID("/proc/" + e.Name() + "/ns/net"); err == nil && ids[id] {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// signal sends a signal to each process; that one has ended is no error.
func signal(pids []int, sig unix.Signal) error {
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("signal %v to process %d: %w", sig, pid, err))
		}
	}
	return errors.Join(errs...)
}

// killAll ends every process in the nodes with SIGKILL, also those that are
// started meanwhile.
func (l *Lab) killAll(nodes ...string) error {
	return repeat("processes do not end", func() (bool, error) {
		pids, err := l.inside(nodes...)
		if err != nil || len(pids) == 0 {
			return true, err
		}
		return false, signal(pids, unix.SIGKILL)
	})
}

// endAll asks the processes in the nodes to end, and kills after a second.
func (l *Lab) endAll(nodes ...string) error {
	pids, err := l.inside(nodes...)
	if err != nil {
		return err
	}
	defer reaped(pids)
	if err := errors.Join(signal(pids, unix.SIGTERM), signal(pids, unix.SIGCONT)); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Second); len(pids) > 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
		if pids, err = l.inside(nodes...); err != nil {
			return err
		}
	}
	return l.killAll(nodes...)
}

// reaped waits until the dead among the processes are gone from the host's list
// too, not for long: that is for their parent to do, often process 1.
func reaped(pids []int) {
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		if !slices.ContainsFunc(pids, func(pid int) bool {
			s, err := readStat(pid)
			return err == nil && s.dead()
		}) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// freezeAll stops every process in a node: when it returns, no thread of any of
// them runs, and none can be started.
func (l *Lab) freezeAll(node string) error {
	return repeat("processes do not stop", func() (bool, error) {
		pids, err := l.inside(node)
		if err != nil {
			return true, err
		}
		var awake []int
		for _, pid := range pids {
			if !stopped(pid) {
				awake = append(awake, pid)
			}
		}
		return len(awake) == 0, signal(awake, unix.SIGSTOP)
	})
}

// repeat calls f until it says that it is done, for at most 5 seconds, with
// pauses that begin short.
func repeat(what string, f func() (bool, error)) error {
	deadline := time.Now().Add(5 * time.Second)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		if done, err := f(); done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New(what)
		}
		time.Sleep(pause)
	}
}

// family returns the living processes of a node that belong to the leaders: those
// in a session or process group of one, and their descendants.
func (l *Lab) family(node string, leaders ...int) ([]int, error) {
	pids, err := l.inside(node)
	if err != nil {
		return nil, err
	}
	stats := make(map[int]stat)
	for _, pid := range pids {
		if s, err := readStat(pid); err == nil && !s.dead() {
			stats[pid] = s
		}
	}
	return descend(leaders, stats), nil
}

// descend picks the leaders' family out of all processes.
func descend(leaders []int, all map[int]stat) []int {
	in := make(map[int]bool)
	for again := true; again; {
		again = false
		for pid, s := range all {
			if !in[pid] && (in[s.parent] || slices.ContainsFunc(leaders, func(l int) bool { return pid == l || s.session == l || s.group == l })) {
				in[pid], again = true, true
			}
		}
	}
	pids := make([]int, 0, len(in))
	for pid := range in {
		pids = append(pids, pid)
	}
	return pids
}

// start runs a process on its node: in a session of its own, with its output in
// its log.
func (l *Lab) start(p process) (running, error) {
	path, err := l.program(p.Args[0])
	if err != nil {
		return running{}, err
	}
	logName := l.paths().log(p.Name)
	log, err := os.OpenFile(logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return running{}, err
	}
	defer log.Close()
	cmd := exec.Command(path, p.Args[1:]...)
	cmd.Args[0] = p.Args[0]
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = l.in(p.Node, func() error {
		if err := setNice(p.Nice); err != nil {
			return err
		}
		if p.Sysfs {
			if err := ownSysfs(); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
	if err != nil {
		return running{}, fmt.Errorf("starting %s: %w", p.Name, err)
	}
	setAutogroup(strconv.Itoa(cmd.Process.Pid), p.Nice)
	r := running{process: p, PID: cmd.Process.Pid, Log: logName}
	s, err := readStat(r.PID) // a zombie's, if it ended already: nobody has waited
	r.Start = s.start
	go func() {
		err := cmd.Wait()
		l.children.record(r.PID, err)
	}()
	return r, err
}

// program finds a command: beside this program first, then on the PATH.
func (l *Lab) program(name string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	beside := filepath.Join(l.BinDir, name)
	if info, err := os.Stat(beside); err == nil && !info.IsDir() {
		return beside, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		err = fmt.Errorf("%s: neither in %s nor on the PATH", name, l.BinDir)
		if name == topologies.BMv2.Program() {
			err = fmt.Errorf("%w; it is bmv2's, of github.com/p4lang/behavioral-model; --switch %s needs nothing", err, topologies.Embedded)
		}
		return "", err
	}
	return path, nil
}

// obituary describes a process that is not there: how it ended, if known, and
// the end of its log.
func (l *Lab) obituary(r *running) error {
	how := "has ended"
	// Reaping may lag a little behind.
	for range 20 {
		if err, ok := l.children.end(r.PID); ok {
			if how = "has ended: exit status 0"; err != nil {
				how = "has ended: " + err.Error()
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("%s %s%s", r.Name, how, lastLines(r.Log, 10))
}

// lastLines returns the end of a log, to be put behind a message.
func lastLines(file string, n int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return "\n" + file + " is empty"
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "\nthe last lines of " + file + ":\n    " + strings.Join(lines, "\n    ")
}
