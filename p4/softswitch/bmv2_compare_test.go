// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// comparePorts is how many ports the two switches have.
const comparePorts = 4

// A rival is simple_switch_grpc with its ports joined to this process.
type rival struct {
	*switchtest.Harness
	send [comparePorts + 1]func([]byte) error

	count atomic.Uint64 // frames that came out

	mu   sync.Mutex
	got  [comparePorts + 1][]string
	last time.Time
}

// startBMv2 starts simple_switch_grpc with a program, or skips the test.
func startBMv2(t *testing.T, js, info []byte) *rival {
	t.Helper()
	r := &rival{}
	// Nothing but the test may talk on these interfaces.
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	addr := lis.Addr().String()
	lis.Close()
	args := []string{"--no-p4", "--device-id", fmt.Sprint(switchtest.DeviceID), "--log-file", filepath.Join(t.TempDir(), "bmv2"), "-L", "warn"}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	for n := 1; n <= comparePorts; n++ {
		sw, peer := fmt.Sprint("bm", n), fmt.Sprint("peer", n)
		check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: sw, MTU: 9000}, PeerName: peer, PeerMTU: 9000}))
		for _, name := range []string{sw, peer} {
			l, err := netlink.LinkByName(name)
			check(t, err)
			check(t, netlink.LinkSetUp(l))
		}
		args = append(args, "-i", fmt.Sprintf("%d@%s", n, sw))
		link, err := softswitch.OpenPacketLink(peer, nil)
		check(t, err)
		r.send[n] = softswitch.Sender(link)
		served.Add(1)
		go func() {
			defer served.Done()
			link.Serve(ctx, &softswitch.PortStats{}, func(frame []byte, _ *softswitch.Offload) {
				if r.count.Add(1) > 10000 {
					return // somebody only counts
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				r.got[n] = append(r.got[n], hex.EncodeToString(frame))
				r.last = time.Now()
			})
		}()
	}
	args = append(args, "--", "--grpc-server-addr", addr, "--cpu-port", fmt.Sprint(switchtest.CPUPort))
	cmd := exec.Command("simple_switch_grpc", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	check(t, cmd.Start())
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(64<<20)))
	check(t, err)
	t.Cleanup(func() {
		conn.Close()
		cmd.Process.Kill()
		cmd.Wait()
		cancel()
		served.Wait()
		if t.Failed() {
			t.Logf("simple_switch_grpc: %s", log.String())
		}
	})
	config := loadConfig(t, js, info)
	r.Harness = switchtest.Connect(t, p4v1.NewP4RuntimeClient(conn), config.GetP4Info())
	_, err = r.Client.SetForwardingPipelineConfig(context.Background(), &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(),
		Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT, Config: config})
	check(t, err)
	return r
}

// quiet waits until nothing has come for a while.
func (r *rival) quiet() [comparePorts + 1][]string {
	r.mu.Lock()
	r.last = time.Now()
	r.mu.Unlock()
	for {
		time.Sleep(50 * time.Millisecond)
		r.mu.Lock()
		if time.Since(r.last) > 500*time.Millisecond {
			defer r.mu.Unlock()
			return r.got
		}
		r.mu.Unlock()
	}
}

// stopPorts removes the interfaces, so that another one can be started.
func (r *rival) stopPorts(t *testing.T) {
	for n := 1; n <= comparePorts; n++ {
		if link, err := netlink.LinkByName(fmt.Sprint("bm", n)); err == nil {
			check(t, netlink.LinkDel(link))
		}
	}
}

// A sample is a frame that comes in at a port.
type sample struct {
	port  uint16
	frame []byte
}

// packets describes what the controller was sent.
func packetIns(h *switchtest.Harness) []string {
	var out []string
	for _, m := range h.Pending() {
		if p := m.GetPacket(); p != nil {
			s := hex.EncodeToString(p.GetPayload())
			for _, md := range p.GetMetadata() {
				s += fmt.Sprintf(" %d:%x", md.GetMetadataId(), bytes.TrimLeft(md.GetValue(), "\x00"))
			}
			out = append(out, s)
		}
	}
	return out
}

// TestAgainstBMv2 sends the same frames through this switch and through bmv2's
// simple_switch_grpc, with the same program and the same table entries, and
// compares what leaves each port and what reaches the controller.
func TestAgainstBMv2(t *testing.T) {
	if _, err := exec.LookPath("simple_switch_grpc"); err != nil {
		t.Skip("simple_switch_grpc is not on the PATH")
	}
	if !privateNetns(t) {
		return
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, tc := range []struct {
		name    string
		program func() (js, info []byte)
		entries func(h *switchtest.Harness)
		samples []sample
	}{
		{"understudy", func() ([]byte, []byte) { return switchtest.Build(t, "understudy") }, understudyEntries, understudySamples(rng)},
		{"kinds", func() ([]byte, []byte) { return testProgram(t) }, kindsEntries, kindsSamples(rng)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			js, info := tc.program()
			ours := switchtest.New(t, js, info)
			theirs := startBMv2(t, js, info)
			tc.entries(ours)
			tc.entries(theirs.Harness)
			var want [comparePorts + 1][]string
			for i, s := range tc.samples {
				for _, f := range ours.Send(s.port, s.frame) {
					if f.Port <= comparePorts {
						want[f.Port] = append(want[f.Port], hex.EncodeToString(f.Data))
					}
				}
				check(t, theirs.send[s.port](s.frame))
				if i%16 == 15 {
					time.Sleep(10 * time.Millisecond) // bmv2 has short queues
				}
			}
			got := theirs.quiet()
			frames := 0
			for n := 1; n <= comparePorts; n++ {
				frames += len(got[n])
				// bmv2 receives with a thread per port: their order is by chance.
				slices.Sort(got[n])
				slices.Sort(want[n])
				if diff := cmp.Diff(got[n], want[n]); diff != "" {
					t.Errorf("port %d, -bmv2 +this switch:\n%s", n, diff)
				}
			}
			in, ourIn := packetIns(theirs.Harness), packetIns(ours)
			slices.Sort(in)
			slices.Sort(ourIn)
			if diff := cmp.Diff(in, ourIn); diff != "" {
				t.Errorf("packets to the controller, -bmv2 +this switch:\n%s", diff)
			}
			t.Logf("%d frames in, %d frames out, %d packets to the controller", len(tc.samples), frames, len(in))
			theirs.stopPorts(t)
		})
	}
}

// group writes a multicast group with ports as numbers, which old servers want.
func group(h *switchtest.Harness, id uint32, replicas ...[2]uint32) {
	e := switchtest.Group(id)
	for _, r := range replicas {
		g := e.GetPacketReplicationEngineEntry().GetMulticastGroupEntry()
		g.Replicas = append(g.Replicas, &p4v1.Replica{PortKind: &p4v1.Replica_EgressPort{EgressPort: r[0]}, Instance: r[1]})
	}
	h.Write(p4v1.Update_INSERT, e)
}

var (
	cmpClientMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	cmpGateway   = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	cmpServers   = []net.HardwareAddr{{2, 0, 0, 0, 0, 0x31}, {2, 0, 0, 0, 0, 0x32}}
	cmpClient    = netip.MustParseAddr("198.51.100.1")
	cmpClient6   = netip.MustParseAddr("2001:db8:c::1")
	cmpVIP       = netip.MustParseAddr("192.0.2.10")
	cmpVIP6      = netip.MustParseAddr("2001:db8:5::10")
)

// understudyEntries is one service with two servers at ports 2 and 3 and clients at
// port 1.
func understudyEntries(h *switchtest.Harness) {
	h.Insert("vip", match{"dst_addr": cmpVIP, "protocol": 6, "dst_port": 80}, "duplicate", args{"group": 1})
	h.Insert("vip6", match{"dst_addr": cmpVIP6, "protocol": 6, "dst_port": 80}, "duplicate6", args{"group": 1})
	group(h, 1, [2]uint32{2, 1}, [2]uint32{3, 2})
	for i := range cmpServers {
		h.Insert("replica_rewrite", match{"rid": i + 1}, "rewrite", args{"dst_mac": cmpServers[i], "src_mac": cmpGateway})
		h.Insert("replica", match{"ingress_port": i + 2, "src_mac": cmpServers[i], "src_addr": cmpVIP}, "from_replica", args{"pair": 1, "replica": i + 1, "rid": i + 1})
		h.Insert("replica6", match{"ingress_port": i + 2, "src_mac": cmpServers[i], "src_addr": cmpVIP6}, "from_replica", args{"pair": 1, "replica": i + 1, "rid": i + 1})
	}
	h.Insert("active", match{"pair": 1}, "set_active", args{"replica": 1, "epoch": 7})
	h.Insert("shadow", match{"pair": 1, "active": 1}, "shadow_to", args{"port": 2, "rid": 1})
	h.Insert("source_filter", match{"src_addr": cmpVIP}, "guard", nil)
	h.Insert("source_filter6", match{"src_addr": cmpVIP6}, "guard", nil)
	h.Insert("route", match{"dst_addr": "198.51.100.0/24"}, "forward", args{"port": 1, "dst_mac": cmpClientMAC, "src_mac": cmpGateway})
	h.Insert("route", match{"dst_addr": "0.0.0.0/1"}, "forward", args{"port": 4, "dst_mac": cmpClientMAC, "src_mac": cmpGateway})
	h.Insert("route6", match{"dst_addr": "2001:db8:c::/48"}, "forward6", args{"port": 1, "dst_mac": cmpClientMAC, "src_mac": cmpGateway})
	h.Insert("arp_reply", match{"target_ip": cmpVIP}, "arp_answer", args{"mac": cmpGateway})
	h.Insert("nd_reply", match{"target_ip": cmpVIP6}, "nd_answer", args{"mac": cmpGateway})
	h.Insert("punt", match{"dst_addr": "10.9.9.9", "protocol": 17, "dst_port": 7}, "to_controller", nil)
}

// understudySamples are frames of all kinds, whole and broken.
func understudySamples(rng *rand.Rand) []sample {
	eth := &packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway}
	server := func(i int) *packet.EthernetLayer {
		return &packet.EthernetLayer{Src: cmpServers[i], Dst: cmpGateway}
	}
	pay := packet.Bytes("some payload of a packet")
	toVIP := &packet.TCPLayer{SrcPort: 1234, DstPort: 80, Flags: packet.ACK}
	fromVIP := &packet.TCPLayer{SrcPort: 80, DstPort: 1234, Flags: packet.ACK, Options: []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}}
	solicitation := append([]byte{0, 0, 0, 0}, cmpVIP6.AsSlice()...)
	solicitation = append(append(solicitation, 1, 1), cmpClientMAC...)
	out := []sample{
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP}, toVIP, pay)},
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP, Options: []byte{1, 1, 1, 0, 7, 4, 4, 0}}, toVIP, pay)},
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP, TTL: 1}, toVIP, pay)},
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP, Checksum: 0x1234}, toVIP, pay)},
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP, Flags: 1, Protocol: 6}, pay)},
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: netip.MustParseAddr("10.1.2.3")}, &packet.UDPLayer{DstPort: 53}, pay)},
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: netip.MustParseAddr("200.1.2.3")}, &packet.UDPLayer{DstPort: 53}, pay)},
		{3, packet.Build(server(1), &packet.IPv4Layer{Src: netip.MustParseAddr("10.9.9.1"), Dst: netip.MustParseAddr("10.9.9.9")}, &packet.UDPLayer{DstPort: 7}, pay)},
		{1, packet.Build(eth, &packet.IPv6Layer{Src: cmpClient6, Dst: cmpVIP6}, toVIP, pay)},
		{1, packet.Build(eth, &packet.IPv6Layer{Src: cmpClient6, Dst: cmpVIP6, HopLimit: 1}, toVIP, pay)},
		{2, packet.Build(server(0), &packet.IPv4Layer{Src: cmpVIP, Dst: cmpClient}, fromVIP, pay)},
		{3, packet.Build(server(1), &packet.IPv4Layer{Src: cmpVIP, Dst: cmpClient}, fromVIP, pay)},
		{3, packet.Build(server(1), &packet.IPv4Layer{Src: cmpVIP, Dst: cmpClient}, &packet.UDPLayer{SrcPort: 80}, pay)},
		{3, packet.Build(server(0), &packet.IPv4Layer{Src: cmpVIP, Dst: cmpClient}, fromVIP, pay)},
		{2, packet.Build(server(0), &packet.IPv6Layer{Src: cmpVIP6, Dst: cmpClient6}, fromVIP, pay)},
		{3, packet.Build(server(1), &packet.IPv6Layer{Src: cmpVIP6, Dst: cmpClient6}, fromVIP, pay)},
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpVIP, Dst: cmpClient}, fromVIP, pay)},
		{1, packet.Build(&packet.EthernetLayer{Src: cmpClientMAC, Dst: net.HardwareAddr{255, 255, 255, 255, 255, 255}},
			&packet.ARPLayer{Opcode: 1, SenderMAC: cmpClientMAC, SenderIP: cmpClient, TargetIP: cmpVIP}, packet.Bytes(make([]byte, 18)))},
		{1, packet.Build(eth, &packet.ARPLayer{Opcode: 1, SenderMAC: cmpClientMAC, SenderIP: cmpClient, TargetIP: cmpClient})},
		{1, packet.Build(eth, &packet.IPv6Layer{Src: cmpClient6, Dst: netip.MustParseAddr("ff02::1:ff00:10"), HopLimit: 255},
			&packet.ICMPv6Layer{Type: 135}, packet.Bytes(solicitation))},
		{1, packet.Build(eth, &packet.IPv6Layer{Src: cmpClient6, Dst: cmpVIP6, HopLimit: 254}, &packet.ICMPv6Layer{Type: 135}, packet.Bytes(solicitation))},
		{1, packet.Build(eth, &packet.IPv6Layer{Src: cmpClient6, Dst: cmpVIP6}, &packet.ICMPv6Layer{Type: 128}, pay)},
		{4, packet.Build(&packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway, Type: 0x88cc}, pay)},
		{1, packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP}, toVIP, packet.Bytes(make([]byte, 8000)))},
	}
	// The same with a few bytes changed or cut off.
	for _, s := range out[:len(out):len(out)] {
		for range 12 {
			f := bytes.Clone(s.frame)
			for range 1 + rng.IntN(3) {
				f[rng.IntN(min(len(f), 80))] ^= 1 << rng.IntN(8)
			}
			if rng.IntN(3) == 0 {
				f = f[:15+rng.IntN(len(f)-15)]
			}
			out = append(out, sample{s.port, f})
		}
	}
	return out
}

func kindsEntries(h *switchtest.Harness) {
	add := func(table string, m match, prio int, port, result int) {
		h.Write(p4v1.Update_INSERT, switchtest.TableEntity(h.Entry(table, m, prio, "answer", args{"port": port, "result": result})))
	}
	wide := func(s string, bits int) switchtest.LPM {
		return switchtest.LPM{Value: []byte(s + strings.Repeat("\x00", 16-len(s))), Len: bits}
	}
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "copies", args{"group": 1})
	group(h, 1, [2]uint32{2, 5}, [2]uint32{3, 6})
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 2}, "punt", args{"reason": 9})
	h.Insert("exact_table", match{"hdr.query.narrow": 2, "hdr.query.word": 1}, "answer_wide", args{"value": []byte("sixteen bytes ..")})
	add("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": wide("a", 8)}, 0, 2, 1)
	add("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": wide("ab", 16)}, 0, 3, 2)
	add("lpm_table", match{"hdr.query.narrow": 1, "hdr.query.wide": wide("ab\x80", 17)}, 0, 4, 3)
	add("ternary_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 1, Mask: 3}}, 1, 2, 4)
	add("ternary_table", match{"hdr.query.narrow": switchtest.Ternary{Value: 1, Mask: 1}}, 2, 3, 5)
	add("range_table", match{"hdr.query.narrow": switchtest.Range{Low: 1, High: 2}, "hdr.query.word": 1}, 2, 2, 6)
	add("range_table", match{"hdr.query.narrow": switchtest.Range{Low: 2, High: 300}, "hdr.query.word": 1}, 1, 4, 7)
	add("optional_table", match{"hdr.query.narrow": 1}, 1, 2, 8)
	add("optional_table", match{"hdr.query.word": 2}, 2, 3, 9)
}

func kindsSamples(rng *rand.Rand) []sample {
	var out []sample
	wides := []string{"", "a", "ab", "ab\x80", "ab\xff", "b"}
	for range 600 {
		f := query(byte(rng.IntN(9)), uint16(rng.IntN(4)), uint32(rng.IntN(3)), wides[rng.IntN(len(wides))])
		if rng.IntN(3) == 0 {
			f = query(byte(rng.IntN(9)), uint16(rng.IntN(4096)), uint32(rng.IntN(9)), wides[rng.IntN(len(wides))])
		}
		f = append(f, "and a payload"...)
		if rng.IntN(20) == 0 {
			// Not into the header: bmv2 leaves the fields of one that it could not
			// parse as the packet before has left them.
			f = f[:25+rng.IntN(len(f)-25)]
		}
		out = append(out, sample{uint16(1 + rng.IntN(comparePorts)), f})
	}
	return out
}
