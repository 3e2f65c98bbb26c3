// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-net/understudy/internal/gnmiserver"
	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

func gnmiPath(t testing.TB, s string) *gnmipb.Path {
	t.Helper()
	p, err := gnmiserver.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// subscribe returns a function that waits until a subscription has told something.
func subscribe(t *testing.T, conn grpc.ClientConnInterface, path string) func(want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	s, err := gnmipb.NewGNMIClient(conn).Subscribe(ctx)
	check(t, err)
	check(t, s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{
		Encoding:     gnmipb.Encoding_PROTO,
		Subscription: []*gnmipb.Subscription{{Path: gnmiPath(t, path), Mode: gnmipb.SubscriptionMode_ON_CHANGE}}}}}))
	var told []string
	return func(want string) {
		t.Helper()
		for {
			m, err := s.Recv()
			if err != nil {
				t.Fatalf("waiting for %q: %v; told %q", want, err, told)
			}
			got := "sync"
			for _, u := range m.GetUpdate().GetUpdate() {
				got = u.GetPath().GetElem()[1].GetKey()["name"] + " " + u.GetVal().GetStringVal()
			}
			if told = append(told, got); got == want {
				return
			}
		}
	}
}

// gnmiGet returns the leaves below a path, each as "name = value".
func gnmiGet(t *testing.T, conn grpc.ClientConnInterface, path string) []string {
	t.Helper()
	r, err := gnmipb.NewGNMIClient(conn).Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{gnmiPath(t, path)}})
	check(t, err)
	var out []string
	for _, u := range r.GetNotification()[0].GetUpdate() {
		e := u.GetPath().GetElem()
		out = append(out, fmt.Sprintf("%s = %s", e[len(e)-1].GetName(), u.GetVal().GetJsonVal()))
	}
	return out
}

func TestInterfaces(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	wait := subscribe(t, h.Conn, "/interfaces/interface[name=*]/state/oper-status")
	wait("sync")
	h.SetDown(3, true)
	wait("port3 DOWN")
	h.SetDown(3, false)
	wait("port3 UP")

	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "answer", args{"port": 2, "result": 1})
	h.Send(1, query(1, 1, 1, ""))                                                            // to a group: the last bit of the first byte is set
	h.Send(1, append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, query(1, 1, 1, "")[6:]...)) // to all
	got := gnmiGet(t, h.Conn, "/interfaces/interface[name=port1]/state/counters")
	for _, want := range []string{"in-pkts = 2", "in-octets = 50", "in-multicast-pkts = 1", "in-broadcast-pkts = 1", "in-unicast-pkts = 0", "out-pkts = 0"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not among %q", want, got)
		}
	}
	if got := gnmiGet(t, h.Conn, "/interfaces/interface[name=port2]/state/counters"); !slices.Contains(got, "out-pkts = 1") {
		t.Errorf("port2: %q", got)
	}
	if got := strings.Join(gnmiGet(t, h.Conn, "/interfaces/interface[name=port7]/state/ifindex"), ""); got != "ifindex = 7" {
		t.Errorf("port7: %s", got)
	}
}

// TestInterfacesOfKernel follows interfaces through all that may happen to them.
func TestInterfacesOfKernel(t *testing.T) {
	if !privateNetns(t) {
		return
	}
	add := func() (a, b netlink.Link) {
		check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "peer0"}))
		a, err := netlink.LinkByName("veth0")
		check(t, err)
		b, err = netlink.LinkByName("peer0")
		check(t, err)
		return a, b
	}
	port, peer := add()
	check(t, netlink.LinkSetUp(port))
	check(t, netlink.LinkSetUp(peer))
	d := startDevice(t, map[uint16]string{9: "veth0"})
	conn, err := grpc.NewClient(d.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer conn.Close()
	oper := subscribe(t, conn, "/interfaces/interface/state/oper-status")
	admin := subscribe(t, conn, "/interfaces/interface/state/admin-status")
	oper("veth0 UP")
	admin("veth0 UP")
	if got := gnmiGet(t, conn, "/interfaces/interface[name=veth0]/state/id"); got[0] != "id = 9" {
		t.Errorf("%q", got)
	}
	check(t, netlink.LinkSetDown(peer)) // the carrier is gone
	oper("veth0 LOWER_LAYER_DOWN")
	check(t, netlink.LinkSetUp(peer))
	oper("veth0 UP")
	check(t, netlink.LinkSetDown(port))
	oper("veth0 DOWN")
	admin("veth0 DOWN")
	check(t, netlink.LinkSetUp(port))
	oper("veth0 UP")
	check(t, netlink.LinkDel(port))
	oper("veth0 NOT_PRESENT")
	port, peer = add()
	check(t, netlink.LinkSetUp(peer))
	check(t, netlink.LinkSetUp(port))
	oper("veth0 UP")
	if got := gnmiGet(t, conn, "/interfaces/interface[name=veth0]/state/counters/carrier-transitions"); got[0] == "carrier-transitions = 0" {
		t.Errorf("%q", got)
	}
	var _ softswitch.Watcher = softswitch.NewMemLink(nil)
}
