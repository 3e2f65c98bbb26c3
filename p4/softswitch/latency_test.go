// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// TestLatency measures how long one packet takes through a switch that sleeps in
// between, how often that process is woken for it, and the CPU time it takes. It is
// asked for with UNDERSTUDY_RATES=1.
func TestLatency(t *testing.T) {
	if os.Getenv("UNDERSTUDY_RATES") == "" {
		t.Skip("set UNDERSTUDY_RATES=1 to measure latencies")
	}
	binary := os.Getenv("UNDERSTUDY_SWITCH")
	if binary == "" && os.Getenv(inNamespace) == "" {
		binary = filepath.Join(t.TempDir(), "understudy-switch")
		out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "../../cmd/understudy-switch").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Setenv("UNDERSTUDY_SWITCH", binary)
	}
	if !privateNetns(t) {
		return
	}
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
	socket := filepath.Join(t.TempDir(), "p4rt")
	cmd := exec.Command(binary, "--device-id", fmt.Sprint(switchtest.DeviceID), "--grpc-server-addr", "unix:"+socket,
		"--p4info", "../build/understudy.p4info.txtpb", "../build/understudy.json")
	peers := map[int]int{} // sockets
	for n := 1; n <= 4; n++ {
		sw, peer := fmt.Sprint("us", n), fmt.Sprint("out", n)
		check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: sw}, PeerName: peer}))
		for _, name := range []string{sw, peer} {
			l, err := netlink.LinkByName(name)
			check(t, err)
			check(t, netlink.LinkSetUp(l))
		}
		peers[n] = rawSocket(t, peer)
		cmd.Args = append(cmd.Args, "-i", fmt.Sprintf("%d@%s", n, sw))
	}
	cmd.Stderr = os.Stderr
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	check(t, err)
	defer conn.Close()
	js, info := switchtest.Build(t, "understudy")
	config, err := softswitch.LoadConfig(js, info)
	check(t, err)
	h := switchtest.Connect(t, p4v1.NewP4RuntimeClient(conn), config.GetP4Info())
	h.Insert("route", match{"dst_addr": cmpClient.String() + "/32"}, "forward",
		args{"port": 2, "dst_mac": net.HardwareAddr{2, 0, 0, 0, 0, 9}, "src_mac": cmpGateway})
	frame := packet.Build(&packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway},
		&packet.IPv4Layer{Src: cmpClient, Dst: cmpClient}, &packet.UDPLayer{DstPort: 9}, packet.Bytes(make([]byte, 22)))

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, 2048)
	// once returns how long a packet took; this process does not sleep meanwhile.
	once := func() time.Duration {
		start := time.Now()
		check(t, unix.Send(peers[1], frame, 0))
		for {
			n, _, err := unix.Recvfrom(peers[2], buf, unix.MSG_DONTWAIT)
			switch {
			case err == nil && n == len(frame):
				return time.Since(start)
			case err != nil && !errors.Is(err, unix.EAGAIN):
				t.Fatal(err)
			case time.Since(start) > 5*time.Second:
				t.Fatal("the packet did not come out")
			}
		}
	}
	h.Insert("route", match{"dst_addr": cmpVIP.String() + "/32"}, "forward",
		args{"port": 4, "dst_mac": net.HardwareAddr{2, 0, 0, 0, 0, 9}, "src_mac": cmpGateway})
	other := packet.Build(&packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway},
		&packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP}, &packet.UDPLayer{DstPort: 9}, packet.Bytes(make([]byte, 22)))
	// busy sends bursts through two other ports until it is told to stop.
	busy := func(stop, stopped chan struct{}) {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for range 8 {
				unix.Send(peers[3], other, 0)
			}
			time.Sleep(50 * time.Microsecond)
		}
	}
	for _, tc := range []struct {
		gap  time.Duration
		busy bool
	}{{0, false}, {500 * time.Microsecond, false}, {3 * time.Millisecond, false}, {30 * time.Millisecond, false}, {3 * time.Millisecond, true}} {
		n, gap := 1000, tc.gap
		if gap > 10*time.Millisecond {
			n = 100
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		if tc.busy {
			go busy(stop, stopped)
		} else {
			close(stopped)
		}
		for range 10 {
			once()
		}
		took := make([]time.Duration, n)
		switches, cpu := switchesOf(t, cmd.Process.Pid), cpuOf(t, cmd.Process.Pid)
		for i := range took {
			for wait := time.Now(); time.Since(wait) < gap; {
			}
			took[i] = once()
		}
		switches, cpu = switchesOf(t, cmd.Process.Pid)-switches, cpuOf(t, cmd.Process.Pid)-cpu
		close(stop)
		<-stopped
		slices.Sort(took)
		t.Logf("every %v, other ports busy: %v: median %v, 90 %% %v, 99 %% %v; %.1f wakeups and %.1f µs of CPU a packet", gap, tc.busy, took[n/2], took[n*9/10], took[n*99/100],
			float64(switches)/float64(n), cpu.Seconds()*1e6/float64(n))
	}
}

// rawSocket opens a packet socket for IPv4 on an interface.
func rawSocket(t *testing.T, name string) int {
	t.Helper()
	ifi, err := net.InterfaceByName(name)
	check(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	check(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	check(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL << 8, Ifindex: ifi.Index}))
	return fd
}

var voluntary = regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\s+(\d+)`)

// switchesOf returns how often the threads of a process went to sleep.
func switchesOf(t *testing.T, pid int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	check(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		check(t, err)
		if m := voluntary.FindSubmatch(b); m != nil {
			v, _ := strconv.Atoi(string(m[1]))
			n += v
		}
	}
	return n
}

// cpuOf returns the CPU time that a process has used.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	check(t, err)
	var sum time.Duration
	for _, f := range files {
		b, err := os.ReadFile(f)
		check(t, err)
		var ns int64
		_, err = fmt.Sscan(string(b), &ns)
		check(t, err)
		sum += time.Duration(ns)
	}
	return sum
}
