// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/topologies"
	"github.com/understudy-net/understudy/topologies/lab/load"
)

const testPrefix = "ust-"

// testLab returns a lab beside the real one, and sees to it that nothing of it
// stays.
func testLab(t *testing.T) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := Check(); err != nil {
		t.Skip(err)
	}
	if entries, _ := filepath.Glob(netnsDir + "/" + testPrefix + "*"); len(entries) > 0 {
		t.Fatalf("an earlier test left %v", entries)
	}
	l := &Lab{
		Prefix: testPrefix, RunDir: filepath.Join(t.TempDir(), "run"), BinDir: standIns(t),
		Progress: func(line string) { t.Log(line) },
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func pairTopology(t *testing.T) (*topologies.Topology, []byte) {
	t.Helper()
	top, source, err := topologies.Load("")
	if err != nil {
		t.Fatal(err)
	}
	return top, source
}

func bringUp(t *testing.T, l *Lab) *topologies.Topology {
	t.Helper()
	top, source := pairTopology(t)
	if err := l.Up(t.Context(), top, source, "/"); err != nil {
		t.Fatal(err)
	}
	return top
}

// traces returns everything of this host that a lab could leave behind.
func traces(t *testing.T, l *Lab) []string {
	t.Helper()
	var found []string
	names, _ := filepath.Glob(netnsDir + "/*")
	for _, n := range names {
		if strings.HasPrefix(filepath.Base(n), l.Prefix) {
			found = append(found, "namespace "+n)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range links {
		found = append(found, "link "+i.Name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.Contains(f[4], l.Prefix) || strings.HasPrefix(f[4], l.RunDir) {
			found = append(found, "mount "+f[4])
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, p := range processes {
		args, _ := os.ReadFile(filepath.Dir(p) + "/cmdline")
		if strings.Contains(string(args), l.RunDir) || strings.HasPrefix(string(args), "understudy") && strings.Contains(readlink(p), "lab.test") {
			found = append(found, fmt.Sprintf("process %s %q", p, args))
		}
	}
	if _, err := os.Stat(l.RunDir); err == nil {
		found = append(found, "directory "+l.RunDir)
	}
	sort.Strings(found)
	return found
}

func readlink(p string) string {
	s, _ := os.Readlink(p)
	return s
}

func TestRootUpDown(t *testing.T) {
	l := testLab(t)
	before := traces(t, l)
	top := bringUp(t, l)

	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.VIP != "198.51.100.10" || s.Pairs[0].State != "duplex" || s.Problem != "" {
		t.Errorf("%+v", s)
	}
	var running []string
	for _, n := range s.Nodes {
		for _, p := range n.Processes {
			running = append(running, n.Name+" "+p.Role+" "+p.State)
			if _, err := os.Stat(p.Log); err != nil {
				t.Error(err)
			}
			if ns := readlink(fmt.Sprintf("/proc/%d/ns/net", p.PID)); ns == readlink("/proc/self/ns/net") {
				t.Errorf("%s is in the host's namespace", p.Name)
			}
			if sid, err := unix.Getsid(p.PID); err != nil || sid != p.PID {
				t.Errorf("%s: session %d, %v", p.Name, sid, err)
			}
		}
	}
	want := []string{
		"switch switch running", "switch controller running", "server1 app running", "server1 agent running",
		"server2 app running", "server2 agent running",
	}
	if diff := cmp.Diff(want, running); diff != "" {
		t.Error(diff)
	}
	checkNetwork(t, l, top)

	if err := l.Up(t.Context(), top, topologies.Pair(), "/"); !errors.Is(err, ErrUp) {
		t.Errorf("a second lab: %v", err)
	}
	if _, err := l.Status(t.Context()); err != nil {
		t.Errorf("after that: %v", err)
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, traces(t, l)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	if _, err := l.Status(t.Context()); !errors.Is(err, ErrDown) {
		t.Errorf("status: %v", err)
	}
	if _, err := l.Fault(KillApp, "server1"); !errors.Is(err, ErrDown) {
		t.Errorf("fault: %v", err)
	}
	if err := l.Down(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// checkNetwork looks at what is visible from inside.
func checkNetwork(t *testing.T, l *Lab, top *topologies.Topology) {
	t.Helper()
	inside := func(node string, args ...string) string {
		t.Helper()
		cmd := exec.Command("ip", append([]string{"netns", "exec", l.Prefix + node}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %v\n%s", node, args, err, out)
		}
		return string(out)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Log("no ip here")
		return
	}
	for _, tc := range []struct {
		node string
		args string
		want []string
	}{
		{"client", "ip addr show eth0", []string{"192.0.2.2/24", "02:75:73:00:01:02", "state UP"}},
		{"client", "ip route", []string{"default via 192.0.2.1 dev eth0"}},
		{"server1", "ip addr show lo", []string{"198.51.100.10/32"}},
		{"server2", "ip addr show", []string{"10.0.2.2/24", "172.31.255.12/24", "198.51.100.10/32"}},
		{"server2", "ip route", []string{"default via 10.0.2.1 dev eth0"}},
		{"server1", "cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/conf/eth0/arp_ignore /proc/sys/net/ipv4/conf/mgmt0/arp_announce", []string{"4096\n1\n2"}},
		{"switch", "ip addr show mgmt0", []string{"172.31.255.1/24"}},
		{"switch", "cat /proc/sys/net/ipv6/conf/p1/disable_ipv6", []string{"1"}},
	} {
		out := inside(tc.node, strings.Fields(tc.args)...)
		for _, want := range tc.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %s: no %q in\n%s", tc.node, tc.args, want, out)
			}
		}
	}
	for _, p := range []string{"p1", "p2", "p3"} {
		if out := inside("switch", "ip", "addr", "show", p); strings.Contains(out, "inet") {
			t.Errorf("%s has an address:\n%s", p, out)
		}
	}
	if _, err := exec.LookPath("ethtool"); err == nil {
		for _, link := range top.Links {
			for node, name := range map[string]string{link.Node: dataInterface, link.Switch: link.Interface} {
				out := inside(node, "ethtool", "-k", name)
				kept := top.OfKind(topologies.Switch)[0].Switch.Offloads
				for _, on := range []string{"tx-checksumming: on", "tcp-segmentation-offload: on", "generic-segmentation-offload: on", "generic-receive-offload: on"} {
					if has := strings.Contains(out, on); has && !kept || !has && kept && strings.Contains(on, "segmentation") {
						t.Errorf("%s %s, offloads %v: %s is %v", node, name, kept, on, has)
					}
				}
			}
		}
	}
	// The mount is visible to what "ip netns exec" starts.
	if out := inside("server1", "ls", l.paths().pins("server1")); !strings.Contains(out, "pinned") {
		t.Errorf("pins: %q", out)
	}
}

// bmv2's ports stay up when a link is cut: while one is down, bmv2 receives nothing.
func TestRootBMv2(t *testing.T) {
	l := testLab(t)
	before := traces(t, l)
	top, source := pairTopology(t)
	top.Retarget(topologies.BMv2)
	if err := l.Up(t.Context(), top, source, "/"); err != nil {
		t.Fatal(err)
	}
	flags := func(node, name string) (f net.Flags) {
		t.Helper()
		if err := l.in(node, func() error {
			i, err := net.InterfaceByName(name)
			if err == nil {
				f = i.Flags & (net.FlagUp | net.FlagRunning)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return f
	}
	if f := flags("switch", "p2"); f != net.FlagUp|net.FlagRunning {
		t.Errorf("p2: %v", f)
	}
	// Another command of the lab finds the switch that this one was given.
	for _, fault := range []Fault{CutLink, PowerOff} {
		if _, err := l.Fault(fault, "server1"); err != nil {
			t.Fatal(err)
		}
		if f := flags("switch", "p2"); f != net.FlagUp {
			t.Errorf("%s: p2: %v, want up without a carrier", fault, f)
		}
		if f := flags("server1", dataInterface); f != net.FlagUp {
			t.Errorf("%s: %s of server1: %v, want up without a carrier", fault, dataInterface, f)
		}
		if err := l.Heal(t.Context(), "server1", true); err != nil {
			t.Fatal(err)
		}
		if f := flags("server1", dataInterface); f != net.FlagUp|net.FlagRunning {
			t.Errorf("healed: %v", f)
		}
	}
	if err := l.Drop(t.Context(), "server2", 50); err == nil || !strings.Contains(err.Error(), "bmv2 cannot drop copies on purpose") {
		t.Errorf("drop: %v", err)
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, traces(t, l)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestRootSwitchIsNotInstalled(t *testing.T) {
	l := testLab(t)
	before := traces(t, l)
	if err := os.Remove(filepath.Join(l.BinDir, topologies.BMv2.Program())); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	top, source := pairTopology(t)
	top.Retarget(topologies.BMv2)
	if err := l.Up(t.Context(), top, source, "/"); err == nil || !strings.Contains(err.Error(), "simple_switch_grpc: neither in "+l.BinDir+" nor on the PATH") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, traces(t, l)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestRootDownAfterCrash(t *testing.T) {
	l := testLab(t)
	before := traces(t, l)
	bringUp(t, l)
	// A stranger's process, a frozen one, and no state at all.
	var stranger *exec.Cmd
	if err := l.in("client", func() error {
		stranger = exec.Command("sleep", "1000")
		return stranger.Start()
	}); err != nil {
		t.Fatal(err)
	}
	go stranger.Wait()
	if _, err := l.Fault(Freeze, "server2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(l.paths().state()); err != nil {
		t.Fatal(err)
	}
	// A name without a namespace: the lab died between the two.
	if err := os.WriteFile(l.namespacePath("half"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	// Another lab must not mind: not the host's processes, nor its links.
	again := &Lab{Prefix: l.Prefix, RunDir: l.RunDir}
	if err := again.Down(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, traces(t, l)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestRootUpFails(t *testing.T) {
	l := testLab(t)
	before := traces(t, l)
	t.Setenv("STAND_IN_SWITCH_FAILS", "1")
	top, source := pairTopology(t)
	err := l.Up(t.Context(), top, source, "/")
	if err == nil || !strings.Contains(err.Error(), "switch has ended: exit status 1") || !strings.Contains(err.Error(), "no mood to forward") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, traces(t, l)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestRootUpInterrupted(t *testing.T) {
	l := testLab(t)
	before := traces(t, l)
	top, _ := pairTopology(t)
	// A pair that never becomes duplex: its application is not where it should be.
	source := strings.Replace(string(topologies.Pair()), "services:", "app: {command: [sleep, \"1000\"]}\n\nservices:", 1)
	top, err := topologies.Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := l.Up(ctx, top, []byte(source), "/"); err == nil || !strings.Contains(err.Error(), "does not accept connections on 127.0.0.1:8080") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, traces(t, l)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

func TestRootFaultsAndHeal(t *testing.T) {
	l := testLab(t)
	top := bringUp(t, l)
	if _, err := l.Fault(KillApp, "server9"); err == nil || !strings.Contains(err.Error(), "[server1 server2]") {
		t.Errorf("an unknown server: %v", err)
	}
	// What is left of server1 right after each fault.
	carrier := func() string {
		link := ""
		l.in("server1", func() error {
			for _, name := range []string{dataInterface, managementInterface} {
				i, err := net.InterfaceByName(name)
				if err != nil {
					return err
				}
				link += fmt.Sprintf(" %s %v", name, i.Flags&net.FlagRunning != 0)
			}
			return nil
		})
		return link
	}
	for _, tc := range []struct {
		fault Fault
		want  string
	}{
		{KillAgent, "app running, agent dead; eth0 true mgmt0 true"},
		{KillApp, "app dead, agent running; eth0 true mgmt0 true"},
		{CutLink, "app running, agent running; eth0 false mgmt0 true"},
		{PowerOff, "app dead, agent dead; eth0 false mgmt0 false"},
		{Freeze, "app frozen, agent frozen; eth0 true mgmt0 true"},
	} {
		t.Run(string(tc.fault), func(t *testing.T) {
			stray := exec.Command("sleep", "1000")
			if err := l.in("server1", stray.Start); err != nil {
				t.Fatal(err)
			}
			defer func() { stray.Process.Kill(); stray.Wait() }()
			before := time.Now()
			in, err := l.Fault(tc.fault, "server1")
			if err != nil {
				t.Fatal(err)
			}
			if in.At.Before(before) || in.Done.Before(in.At) || time.Now().Before(in.Done) {
				t.Errorf("times: %v %v", in.At, in.Done)
			}
			t.Logf("complete after %v", in.Done.Sub(in.At))
			s, err := l.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			server := s.Nodes[slices.IndexFunc(s.Nodes, func(n NodeStatus) bool { return n.Name == "server1" })]
			var parts []string
			for _, p := range server.Processes {
				parts = append(parts, p.Role+" "+p.State)
			}
			if got := strings.Join(parts, ", ") + ";" + carrier(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			st, err := readStat(stray.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[Fault]string{PowerOff: "Z", Freeze: "T"}[tc.fault]; want != "" && string(st.state) != want {
				t.Errorf("another process in the namespace: state %c, want %s", st.state, want)
			}
			if diff := cmp.Diff([]Fault{tc.fault}, server.Faults); diff != "" {
				t.Error(diff)
			}
			if tc.fault == KillAgent {
				if _, err := l.Fault(KillAgent, "server1"); err == nil {
					t.Error("killed a dead agent")
				}
			}
			// The stand-in controller notices by heartbeats.
			time.Sleep(80 * time.Millisecond)
			if why := notReadyNow(t, l, top); len(why) == 0 {
				t.Error("the pair is still duplex")
			}
			if tc.fault == PowerOff {
				if _, err := os.Stat(filepath.Join(l.paths().pins("server1"), "pinned")); err != nil {
					t.Error(err)
				}
			}

			if err := l.Heal(t.Context(), "server1", true); err != nil {
				t.Fatal(err)
			}
			if why := notReadyNow(t, l, top); len(why) > 0 {
				t.Errorf("healed, but %v", why)
			}
			if got := carrier(); got != " eth0 true mgmt0 true" {
				t.Errorf("healed, but %s", got)
			}
			if s, _ := l.Status(t.Context()); len(s.Nodes[2].Faults) > 0 {
				t.Errorf("healed, but %v", s.Nodes[2].Faults)
			}
		})
	}
	t.Run("heal the healthy", func(t *testing.T) {
		if err := l.Heal(t.Context(), "server2", false); err != nil {
			t.Error(err)
		}
	})
	t.Run("drop", func(t *testing.T) {
		if err := l.Drop(t.Context(), "server2", 50); err != nil {
			t.Fatal(err)
		}
		if s, _ := l.Status(t.Context()); s.Nodes[3].DropOneIn != 50 {
			t.Errorf("%+v", s.Nodes[3])
		}
		if err := l.Heal(t.Context(), "server2", true); err != nil {
			t.Fatal(err)
		}
		log, _ := os.ReadFile(l.paths().log("switch"))
		for _, want := range []string{"port 3: drop one in 50", "port 3: drop one in 0"} {
			if !strings.Contains(string(log), want) {
				t.Errorf("the switch was not told: %s", want)
			}
		}
	})
}

func notReadyNow(t *testing.T, l *Lab, top *topologies.Topology) []string {
	t.Helper()
	client, conn, err := l.Admin()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	why, err := ask(t.Context(), client, pairNames(top))
	if err != nil {
		t.Fatal(err)
	}
	return why
}

// The application runs with workers that left its process group, as some do.
func TestRootKillAppKillsItsWorkers(t *testing.T) {
	l := testLab(t)
	top := bringUp(t, l)
	st, _, err := l.load()
	if err != nil {
		t.Fatal(err)
	}
	p := process{Name: "server1-app", Node: "server1", Role: roleApp, Args: []string{
		"sh", "-c", "sleep 1001 & setsid sleep 1002 & sleep 1003",
	}}
	r, err := l.start(p)
	if err != nil {
		t.Fatal(err)
	}
	*st.find("server1", roleApp) = r
	if err := l.save(st); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if n, _ := l.family("server1", r.PID); len(n) != 4 {
		t.Errorf("family of %d", len(n))
	}
	agent := st.find("server1", roleAgent)
	if _, err := l.Fault(KillApp, "server1"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	pids, err := l.inside("server1")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(args), "sleep") {
			t.Errorf("%q lives", args)
		}
	}
	if !agent.alive() {
		t.Error("the agent died with it")
	}
	_ = top
}

// The load reaches the application from inside a namespace, and notices its end.
func TestRootLoadInsideNamespace(t *testing.T) {
	l := testLab(t)
	bringUp(t, l)
	ld := load.Start(t.Context(), load.Config{
		Connections: 10, Think: 20 * time.Millisecond, Host: "test",
		Dial: func(ctx context.Context) (net.Conn, error) { return l.Dial(ctx, "server1", "tcp", "127.0.0.1:8080") },
	})
	if err := ld.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Fault(KillApp, "server1"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if r := ld.Stop(); r.Reset < 10 || r.Failed == 0 || r.Corrupt != 0 {
		t.Errorf("%v", r)
	}
}

func TestRootNginx(t *testing.T) {
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Skip(err)
	}
	l := testLab(t)
	top, source, err := topologies.Load("../pair-nginx.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Up(t.Context(), top, source, dir); err != nil {
		t.Fatal(err)
	}
	st, _, err := l.load()
	if err != nil {
		t.Fatal(err)
	}
	leader := st.find("server2", roleApp).PID
	if pids, err := l.family("server2", leader); err != nil || len(pids) != 3 {
		t.Errorf("a master and two workers: %v, %v", pids, err)
	}
	if _, err := l.Fault(KillApp, "server2"); err != nil {
		t.Fatal(err)
	}
	if pids, err := l.family("server2", leader); err != nil || len(pids) != 0 {
		t.Errorf("left: %v, %v", pids, err)
	}
	if err := l.Heal(t.Context(), "server2", true); err != nil {
		t.Fatal(err)
	}
	if st, _, _ := l.load(); st.find("server2", roleApp).PID == leader {
		t.Error("the same process")
	}
}
