// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"github.com/vishvananda/netlink"

	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// TestRates measures how many packets a second this switch and bmv2 forward with
// the same program on the same kind of interfaces, while this process sends as fast
// as it can. It is asked for with UNDERSTUDY_RATES=1.
func TestRates(t *testing.T) {
	if os.Getenv("UNDERSTUDY_RATES") == "" {
		t.Skip("set UNDERSTUDY_RATES=1 to measure packets per second")
	}
	if !privateNetns(t) {
		return
	}
	js, info := switchtest.Build(t, "understudy")
	eth := &packet.EthernetLayer{Src: cmpClientMAC, Dst: cmpGateway}
	frames := map[string][]byte{
		"routed, 64 bytes":       packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: cmpClient}, &packet.UDPLayer{DstPort: 9}, packet.Bytes(make([]byte, 22))),
		"duplicated, 1514 bytes": packet.Build(eth, &packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP}, &packet.TCPLayer{DstPort: 80}, packet.Bytes(make([]byte, 1460))),
	}
	// run floods peer1 and counts what comes out elsewhere.
	run := func(name string, send func([]byte) error, received func() uint64) {
		for what, frame := range frames {
			const span = 2 * time.Second
			sent := 0
			before, start := received(), time.Now()
			for time.Since(start) < span {
				for range 32 {
					if send(frame) == nil {
						sent++
					}
				}
			}
			elapsed := time.Since(start).Seconds()
			n := received() - before
			t.Logf("%s, %s: %.0f packets/s offered, %.0f packets/s out", name, what, float64(sent)/elapsed, float64(n)/elapsed)
			time.Sleep(300 * time.Millisecond)
		}
	}
	t.Run("this switch", func(t *testing.T) {
		check(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
		ports := map[uint16]string{}
		var out atomic.Uint64
		var send func([]byte) error
		for n := uint16(1); n <= comparePorts; n++ {
			sw, peer := fmt.Sprint("us", n), fmt.Sprint("out", n)
			check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: sw}, PeerName: peer}))
			for _, name := range []string{sw, peer} {
				l, err := netlink.LinkByName(name)
				check(t, err)
				check(t, netlink.LinkSetUp(l))
			}
			ports[n] = sw
			link, err := softswitch.OpenPacketLink(peer, nil)
			check(t, err)
			if n == 1 {
				send = softswitch.Sender(link)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				link.Serve(ctx, &softswitch.PortStats{}, func([]byte, *softswitch.Offload) { out.Add(1) })
			}()
			t.Cleanup(func() { cancel(); <-done })
		}
		d := startDevice(t, ports)
		understudyEntries(d.h)
		d.h.Insert("route", match{"dst_addr": cmpClient.String() + "/32"}, "forward", args{"port": 4, "dst_mac": net.HardwareAddr{2, 0, 0, 0, 0, 9}, "src_mac": cmpGateway})
		run("this switch", send, out.Load)
	})
	t.Run("bmv2", func(t *testing.T) {
		if _, err := exec.LookPath("simple_switch_grpc"); err != nil {
			t.Skip("simple_switch_grpc is not on the PATH")
		}
		r := startBMv2(t, js, info)
		understudyEntries(r.Harness)
		r.Write(p4v1.Update_INSERT, switchtest.TableEntity(r.Entry("route", match{"dst_addr": cmpClient.String() + "/32"}, 0, "forward",
			args{"port": 4, "dst_mac": net.HardwareAddr{2, 0, 0, 0, 0, 9}, "src_mac": cmpGateway})))
		run("bmv2", r.send[1], r.count.Load)
	})
}
