// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/topologies"
)

// state is what one command leaves for the next. Down does without it.
type state struct {
	// Topology is the topology's source.
	Topology    string `json:"topology"`
	TopologyDir string `json:"topology_dir"`
	// Switch is the topology's switch, whatever the source says.
	Switch    topologies.Target `json:"switch"`
	Started   time.Time         `json:"started"`
	Processes []running         `json:"processes"`
	// Faults are those of each server since it was healed.
	Faults map[string][]Fault `json:"faults,omitempty"`
	// Drops is the one-in-so-many of each server's link that drops copies.
	Drops map[string]uint32 `json:"drops,omitempty"`
}

// find returns the process of a role on a node, or nil.
func (s *state) find(node, role string) *running {
	for i := range s.Processes {
		if p := &s.Processes[i]; p.Node == node && p.Role == role {
			return p
		}
	}
	return nil
}

func (l *Lab) load() (*state, *topologies.Topology, error) {
	b, err := os.ReadFile(l.paths().state())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, ErrDown
	}
	if err != nil {
		return nil, nil, err
	}
	st := new(state)
	if err := json.Unmarshal(b, st); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", l.paths().state(), err)
	}
	t, err := topologies.Parse([]byte(st.Topology))
	if err == nil {
		t.Retarget(st.Switch)
	}
	return st, t, err
}

// save replaces the state file in one step.
func (l *Lab) save(st *state) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	next := l.paths().state() + ".new"
	if err := os.WriteFile(next, b, 0o644); err != nil {
		return err
	}
	return os.Rename(next, l.paths().state())
}

// lock makes this the only program that changes the lab, until unlock. The lock
// is on the directory, and ends with the program if need be.
func (l *Lab) lock() (unlock func(), err error) {
	for {
		if err := os.MkdirAll(l.RunDir, 0o755); err != nil {
			return nil, err
		}
		dir, err := os.Open(l.RunDir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			dir.Close()
			return nil, fmt.Errorf("locking %s: %w", l.RunDir, err)
		}
		// Whoever had the lock may have removed the directory.
		mine, err1 := dir.Stat()
		now, err2 := os.Stat(l.RunDir)
		if err1 == nil && err2 == nil && os.SameFile(mine, now) {
			return func() { dir.Close() }, nil
		}
		dir.Close()
	}
}

// locked is lock for those that need a lab that is up.
func (l *Lab) locked() (*state, *topologies.Topology, func(), error) {
	if h := (host{uid: os.Geteuid(), filesystems: "bpf"}); h.missing() != nil {
		return nil, nil, nil, h.missing()
	}
	if _, err := os.Stat(l.paths().state()); errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil, ErrDown
	}
	unlock, err := l.lock()
	if err != nil {
		return nil, nil, nil, err
	}
	st, t, err := l.load()
	if err != nil {
		unlock()
		return nil, nil, nil, err
	}
	return st, t, unlock, nil
}

// host is what of this host decides whether a lab can be.
type host struct {
	uid         int
	filesystems string
	// symbols is false if the kernel's could not be read.
	symbols, assignReqsk bool
}

// missing names what a host lacks for a lab, in one line.
func (h host) missing() error {
	switch {
	case h.uid != 0:
		return errors.New("the lab needs root: it makes network namespaces and mounts")
	case !hasWord(h.filesystems, "bpf"):
		return errors.New("the lab needs the BPF file system: this kernel has none (CONFIG_BPF_SYSCALL)")
	case h.symbols && !h.assignReqsk:
		return errors.New("the lab needs the kernel function bpf_sk_assign_tcp_reqsk (Linux 6.8 or later with CONFIG_SYN_COOKIES and BTF): this kernel has none")
	}
	return nil
}

func hasWord(text, word string) bool {
	for _, w := range strings.Fields(text) {
		if w == word {
			return true
		}
	}
	return false
}

// Check returns an error that names what this host lacks for a lab, if it does.
// Some of what may be missing shows only when Up needs it.
func Check() error {
	h := host{uid: os.Geteuid()}
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	h.filesystems = string(b)
	if f, err := os.Open("/proc/kallsyms"); err == nil {
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan(); {
			h.symbols = true
			if bytes.Contains(in.Bytes(), []byte(" bpf_sk_assign_tcp_reqsk")) {
				h.assignReqsk = true
				break
			}
		}
	}
	return h.missing()
}

// Up makes everything, starts everything, and returns when all pairs are duplex.
// The source is that of t, which may have been given another switch since; its directory is what {topology_dir} means. If it
// fails, or ctx ends, it leaves nothing behind, and the error has the last lines
// of the log of the program that failed. ErrUp if there is a lab.
func (l *Lab) Up(ctx context.Context, t *topologies.Topology, source []byte, topologyDir string) (err error) {
	if err := Check(); err != nil {
		return err
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	locked := true
	release := func() {
		if locked {
			locked = false
			unlock()
		}
	}
	defer release()

	nodes, err := l.namespaces()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(l.RunDir)
	if err != nil {
		return err
	}
	if len(nodes) > 0 || len(entries) > 0 {
		return ErrUp
	}
	defer func() {
		if err == nil {
			return
		}
		release()
		if downErr := l.Down(); downErr != nil {
			err = fmt.Errorf("%w\ncleaning up: %w", err, downErr)
		}
	}()

	st := &state{Topology: string(source), TopologyDir: topologyDir, Started: time.Now(),
		Switch: t.OfKind(topologies.Switch)[0].Switch.Target}
	pl, err := newPlan(t, topologyDir, l.paths())
	if err != nil {
		return err
	}
	for _, p := range pl.processes {
		if _, err := l.program(p.Args[0]); err != nil {
			return err
		}
	}
	if err := l.build(t); err != nil {
		return err
	}
	if err := l.write(t, pl); err != nil {
		return err
	}
	for _, p := range pl.processes {
		r, err := l.start(p)
		if err != nil {
			return err
		}
		st.Processes = append(st.Processes, r)
		// Agents do not start before what they need accepts connections.
		if err := l.waitStarted(ctx, t, &r); err != nil {
			return err
		}
		l.progress("%s runs", p.Name)
	}
	if err := l.save(st); err != nil {
		return err
	}
	release()
	return l.WaitDuplex(ctx)
}

// write makes the directories, mounts and files of a plan.
func (l *Lab) write(t *topologies.Topology, pl *plan) error {
	for _, dir := range append(pl.dirs, l.paths().bpf()) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("bpf", l.paths().bpf(), "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mounting a BPF file system on %s: %w", l.paths().bpf(), err)
	}
	for _, n := range t.OfKind(topologies.Server) {
		if err := os.Mkdir(l.paths().pins(n.Name), 0o700); err != nil {
			return err
		}
	}
	for name, content := range pl.files {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// waitStarted waits until a program does what others need of it: the switch and
// the application accept connections, the controller serves its admin API.
func (l *Lab) waitStarted(ctx context.Context, t *topologies.Topology, r *running) error {
	var address, network, node string
	switch r.Role {
	case roleSwitch:
		address, network, node = t.Node(r.Node).Switch.GRPC, "tcp", r.Node
	case roleApp:
		address, network, node = upstream(t, r.Node), "tcp", r.Node
	case roleController:
		address, network, node = l.paths().socket(), "unix", r.Node
	default:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := l.Dial(ctx, node, network, address)
		if err == nil {
			conn.Close()
			return nil
		}
		if !r.alive() {
			return l.obituary(r)
		}
		select {
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%s does not accept connections on %s: %w%s", r.Name, address, err, lastLines(r.Log, 10))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Admin connects to the controller's admin API. The caller closes the
// connection.
func (l *Lab) Admin() (adminv1.AdminClient, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix:"+l.paths().socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	return adminv1.NewAdminClient(conn), conn, nil
}

// steady is how long pairs must have been duplex to count as such: a fault that
// was done just before is noticed by then.
const steady = 100 * time.Millisecond

// WaitDuplex waits until every pair of the topology has been duplex for a tenth
// of a second, with both servers attached and their applications up, for at most
// DuplexTimeout. Its error says what is missing, and has the last lines of the
// log of a program that has ended.
func (l *Lab) WaitDuplex(ctx context.Context) error {
	return l.waitDuplex(ctx, func(r *running) error {
		return fmt.Errorf("not ready: %w", l.obituary(r))
	})
}

// waitDuplex is WaitDuplex with a choice of what to do about a program that has
// ended; it is called for each until one is in its place.
func (l *Lab) waitDuplex(ctx context.Context, ended func(*running) error) error {
	client, conn, err := l.Admin()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, DuplexTimeout)
	defer cancel()

	said := "the controller was not asked"
	var since time.Time // when all pairs were first seen duplex
	for {
		st, t, err := l.load()
		if err != nil {
			return err
		}
		for i := range st.Processes {
			if r := &st.Processes[i]; !r.alive() {
				if err := ended(r); err != nil {
					return err
				}
			}
		}
		switch why, err := ask(ctx, client, pairNames(t)); {
		case err == nil && len(why) == 0:
			if since.IsZero() {
				since = time.Now()
			}
			if time.Since(since) >= steady {
				return nil
			}
		default:
			since = time.Time{}
			s := strings.Join(why, "; ")
			if err != nil {
				s = "the controller does not answer: " + err.Error()
			}
			if s != said && ctx.Err() == nil {
				said = s
				l.progress("waiting: %s", s)
			}
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not ready: %s%s", said, logTails(st, 5))
			}
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// LogTails returns the last n lines of every log, for a message about a lab that
// will not be there when it is read.
func (l *Lab) LogTails(n int) string {
	st, _, err := l.load()
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(logTails(st, n), "\n")
}

func logTails(st *state, n int) string {
	var b strings.Builder
	for _, r := range st.Processes {
		b.WriteString(lastLines(r.Log, n))
	}
	return b.String()
}

func pairNames(t *topologies.Topology) []string {
	var names []string
	for _, p := range t.Pairs {
		names = append(names, p.Name)
	}
	return names
}

func ask(ctx context.Context, client adminv1.AdminClient, want []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	res, err := client.ListPairs(ctx, &adminv1.ListPairsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	return notReady(want, res.GetPairs()), nil
}

// Down ends the lab, whatever state it is in: every process in its namespaces,
// the namespaces with their links, the mounts in its directory, the directory.
// It needs nothing that Up left, and returns nil if there is nothing to do.
func (l *Lab) Down() error {
	if os.Geteuid() != 0 {
		return host{uid: os.Geteuid()}.missing()
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	nodes, err := l.namespaces()
	if err != nil {
		return err
	}
	// What fails does not keep the rest from being removed.
	var errs []error
	errs = append(errs, l.endAll(nodes...))
	for _, node := range nodes {
		id, err := namespaceID(l.namespacePath(node))
		if own, ownErr := namespaceID(netnsDir); err == nil && ownErr == nil && id.dev != own.dev {
			// Links of a namespace that somebody else holds would stay.
			errs = append(errs, l.unlink(node))
		}
		errs = append(errs, l.removeNamespace(node))
	}
	if err := l.unmountAll(); err != nil {
		// Nothing is removed below a mount that stays.
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, os.RemoveAll(l.RunDir))
	if l.RunDir == DefaultRunDir {
		// If there is nothing else in it.
		os.Remove(filepath.Dir(l.RunDir))
	}
	return errors.Join(errs...)
}

// unmountAll unmounts what is mounted below the lab's directory.
func (l *Lab) unmountAll() error {
	for {
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		mounts := mountsBelow(string(b), l.RunDir)
		if len(mounts) == 0 {
			return nil
		}
		// The last is the uppermost.
		if err := unix.Unmount(mounts[len(mounts)-1], unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", mounts[len(mounts)-1], err)
		}
	}
}

// mountsBelow returns the mount points below a directory, in mountinfo's order.
func mountsBelow(mountinfo, dir string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if point := unescape.Replace(f[4]); strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	return found
}
