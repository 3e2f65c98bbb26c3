// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// benchFile says where TestBenchSwitch writes its result; it is not asked for
// without it.
const benchFile = "UNDERSTUDY_BENCH_SWITCH"

// A rate is what one switch does on one path.
type rate struct {
	FrameBytes int     `json:"frame_bytes"`
	PPS        float64 `json:"pps"`            // frames that came in a second, none of them or of their copies lost
	InFlight   int     `json:"in_flight"`      // at that rate
	Latency    float64 `json:"latency_us"`     // of one frame alone: median
	Latency99  float64 `json:"latency_p99_us"` // and 99 of 100
}

// A measured is one switch.
type measured struct {
	Command         string `json:"command"`
	ClientToServers rate   `json:"client_to_servers"` // each frame leaves twice
	ServerToClient  rate   `json:"server_to_client"`
}

// A comparison is what make bench-switch writes. Ratios are those of the path on
// which the embedded switch does worse.
type comparison struct {
	Embedded     *measured `json:"embedded"`
	BMv2         *measured `json:"bmv2"`          // null: not on the PATH
	RatioPPS     *float64  `json:"ratio_pps"`     // embedded / bmv2
	RatioLatency *float64  `json:"ratio_latency"` // embedded / bmv2
}

// TestBenchSwitch measures this switch and bmv2's simple_switch_grpc side by side:
// packets per second without loss, and latency, with the same program, the same
// entries and the same frames, by turns in one run.
func TestBenchSwitch(t *testing.T) {
	file := os.Getenv(benchFile)
	if file == "" {
		t.Skip("make bench-switch asks for it")
	}
	binary := os.Getenv("UNDERSTUDY_SWITCH")
	if binary == "" && os.Getenv(inNamespace) == "" {
		binary = filepath.Join(t.TempDir(), "understudy-switch")
		if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "../../cmd/understudy-switch").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Setenv("UNDERSTUDY_SWITCH", binary)
	}
	if !privateNetns(t) {
		return
	}
	commands := []string{binary}
	if bmv2, err := exec.LookPath("simple_switch_grpc"); err == nil {
		commands = append(commands, bmv2)
	} else {
		t.Log("simple_switch_grpc is not on the PATH: the embedded switch is measured alone")
	}
	const rounds = 2
	results := make([]*measured, len(commands))
	for range rounds {
		for i, command := range commands {
			m := measure(t, command)
			if results[i] == nil {
				results[i] = m
				continue
			}
			results[i].ClientToServers.better(m.ClientToServers)
			results[i].ServerToClient.better(m.ServerToClient)
		}
	}
	c := comparison{Embedded: results[0]}
	for i, name := range []string{"embedded", "bmv2"}[:len(results)] {
		for _, p := range []struct {
			path string
			r    rate
		}{{"client to servers", results[i].ClientToServers}, {"server to client", results[i].ServerToClient}} {
			t.Logf("%-8s %-17s %4d bytes %9.0f packets/s (%d in flight), %.1f µs, 99 %%: %.1f µs", name, p.path, p.r.FrameBytes, p.r.PPS, p.r.InFlight, p.r.Latency, p.r.Latency99)
		}
	}
	if len(results) > 1 {
		c.BMv2 = results[1]
		e, b := c.Embedded, c.BMv2
		pps := min(e.ClientToServers.PPS/b.ClientToServers.PPS, e.ServerToClient.PPS/b.ServerToClient.PPS)
		latency := max(e.ClientToServers.Latency/b.ClientToServers.Latency, e.ServerToClient.Latency/b.ServerToClient.Latency)
		c.RatioPPS, c.RatioLatency = &pps, &latency
		t.Logf("embedded/bmv2: %.1f times the packets, %.2f times the latency", pps, latency)
	}
	out, err := json.MarshalIndent(c, "", "  ")
	check(t, err)
	check(t, os.WriteFile(file, append(out, '\n'), 0o644))
}

func (r *rate) better(o rate) {
	if o.PPS > r.PPS {
		r.PPS, r.InFlight = o.PPS, o.InFlight
	}
	r.Latency, r.Latency99 = min(r.Latency, o.Latency), min(r.Latency99, o.Latency99)
}

// measure starts a switch with three ports, of which 1 is the client's and 2 and 3
// are the servers', and measures it.
func measure(t *testing.T, command string) *measured {
	t.Helper()
	// Nothing but the test may talk on these interfaces.
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	addr := lis.Addr().String()
	lis.Close()
	args := []string{"--no-p4", "--device-id", fmt.Sprint(switchtest.DeviceID)}
	if filepath.Base(command) == "simple_switch_grpc" {
		args = append(args, "-L", "off")
	}
	var peers [4]*peer
	for n := 1; n <= 3; n++ {
		sw, name := fmt.Sprint("sw", n), fmt.Sprint("peer", n)
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: sw}, PeerName: name}
		check(t, netlink.LinkAdd(veth))
		defer netlink.LinkDel(veth)
		for _, name := range []string{sw, name} {
			l, err := netlink.LinkByName(name)
			check(t, err)
			check(t, netlink.LinkSetUp(l))
		}
		args = append(args, "-i", fmt.Sprintf("%d@%s", n, sw))
		peers[n] = newPeer(t, name)
		defer peers[n].close()
	}
	args = append(args, "--", "--grpc-server-addr", addr, "--cpu-port", fmt.Sprint(switchtest.CPUPort))
	cmd := exec.Command(command, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(t, cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(64<<20)))
	check(t, err)
	defer conn.Close()
	js, info := switchtest.Build(t, "understudy")
	config := loadConfig(t, js, info)
	h := switchtest.Connect(t, p4v1.NewP4RuntimeClient(conn), config.GetP4Info())
	_, err = h.Client.SetForwardingPipelineConfig(t.Context(), &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(),
		Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT, Config: config})
	check(t, err)
	understudyEntries(h)

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	acks := packet.Build(&packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway}, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP},
		&packet.TCPLayer{SrcPort: 1234, DstPort: 80, Flags: packet.ACK}, packet.Bytes(make([]byte, 12)))
	replies := packet.Build(&packet.EthernetLayer{Src: cmpServers[0], Dst: cmpGateway}, &packet.IPv4Layer{Src: cmpVIP, Dst: cmpClient},
		&packet.TCPLayer{SrcPort: 80, DstPort: 1234, Flags: packet.ACK}, packet.Bytes(make([]byte, 1460)))
	return &measured{Command: filepath.Base(command),
		ClientToServers: drive(t, acks, peers[1], peers[2], peers[3]),
		ServerToClient:  drive(t, replies, peers[2], peers[1]),
	}
}

// drive sends a frame again and again from one peer and counts what comes to the
// others. It keeps a number of frames in flight; a number at which one is lost does
// not count.
func drive(t *testing.T, frame []byte, from *peer, to ...*peer) rate {
	t.Helper()
	r := rate{FrameBytes: len(frame)}
	counts := func() (n uint64) {
		for _, p := range to {
			n += atomic.LoadUint64(p.count)
		}
		return n
	}
	copies := uint64(len(to))
	// await waits until n copies have come, and returns false if they do not.
	await := func(n uint64, patience time.Duration) bool {
		for start := time.Now(); counts() < n; {
			if time.Since(start) > patience {
				return false
			}
		}
		return true
	}
	from.prepare(frame)
	if base := counts(); true {
		from.send(1)
		if !await(base+copies, 5*time.Second) {
			t.Fatalf("%d copies of a frame, want %d", counts()-base, copies)
		}
	}
	const samples = 2000
	took := make([]time.Duration, 0, samples)
	for range samples {
		for gap := time.Now(); time.Since(gap) < 100*time.Microsecond; {
		}
		n, start := counts()+copies, time.Now()
		from.send(1)
		if await(n, time.Second) {
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	r.Latency = float64(took[len(took)/2].Nanoseconds()) / 1e3
	r.Latency99 = float64(took[len(took)*99/100].Nanoseconds()) / 1e3

	for inFlight := uint64(8); inFlight <= 1024; inFlight *= 2 {
		const span = 400 * time.Millisecond
		burst := min(inFlight/2, peerBurst)
		base, sent, start := counts(), uint64(0), time.Now()
		lost := false
		for !lost && time.Since(start) < span {
			from.send(int(burst))
			sent += burst
			if sent+burst > inFlight {
				lost = !await(base+(sent+burst-inFlight)*copies, 200*time.Millisecond)
			}
		}
		lost = !await(base+sent*copies, 200*time.Millisecond) || lost
		elapsed := time.Since(start).Seconds()
		time.Sleep(20 * time.Millisecond)
		if got := counts() - base; lost || got != sent*copies {
			t.Logf("%d in flight: %d of %d copies", inFlight, got, sent*copies)
			break
		}
		if pps := float64(sent) / elapsed; pps > r.PPS {
			r.PPS, r.InFlight = pps, int(inFlight)
		}
	}
	return r
}

// peerBurst is how many frames a peer sends with one system call.
const peerBurst = 64

// A peer is the far end of a port: it sends, and counts what comes without being
// woken, by a program at its ingress.
type peer struct {
	fd    int
	iov   unix.Iovec
	msgs  [peerBurst]mmsg
	count *uint64
	undo  []func() error
}

type mmsg struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

func newPeer(t *testing.T, name string) *peer {
	t.Helper()
	check(t, rlimit.RemoveMemlock())
	p := &peer{}
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
	check(t, err)
	p.undo = append(p.undo, counter.Close)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, counter.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, 2), // TCX_DROP
		asm.Return(),
	}})
	check(t, err)
	p.undo = append(p.undo, prog.Close)
	ifi, err := net.InterfaceByName(name)
	check(t, err)
	attached, err := link.AttachTCX(link.TCXOptions{Interface: ifi.Index, Program: prog, Attach: ebpf.AttachTCXIngress})
	check(t, err)
	p.undo = append(p.undo, attached.Close)
	mem, err := unix.Mmap(counter.FD(), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	check(t, err)
	p.undo = append(p.undo, func() error { return unix.Munmap(mem) })
	p.count = (*uint64)(unsafe.Pointer(&mem[0]))
	// A socket that only sends: no frame is handed to it.
	p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	p.undo = append(p.undo, func() error { return unix.Close(p.fd) })
	check(t, unix.Bind(p.fd, &unix.SockaddrLinklayer{Ifindex: ifi.Index}))
	return p
}

// prepare says what send sends.
func (p *peer) prepare(frame []byte) {
	p.iov.Base = &frame[0]
	p.iov.SetLen(len(frame))
	for i := range p.msgs {
		p.msgs[i].hdr.Iov = &p.iov
		p.msgs[i].hdr.SetIovlen(1)
	}
}

// send sends n frames, at most peerBurst. What the kernel does not take is sent
// again: it is not what is measured.
func (p *peer) send(n int) {
	for at := 0; at < n; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(p.fd), uintptr(unsafe.Pointer(&p.msgs[at])), uintptr(n-at), 0, 0, 0)
		if errno == 0 {
			at += int(sent)
		}
	}
}

func (p *peer) close() {
	for _, f := range slices.Backward(p.undo) {
		f()
	}
}
