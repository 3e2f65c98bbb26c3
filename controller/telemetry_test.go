// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"strings"
	"testing"

	gnmic "github.com/openconfig/gnmi/client"
	gnmiclient "github.com/openconfig/gnmi/client/gnmi"
	pb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/internal/gnmiserver"
	"github.com/understudy-net/understudy/internal/pki"
)

// collector is OpenConfig's client library, subscribed.
type collector struct {
	*gnmiclient.Client
	values map[string]any // by path, with keys as elements
	synced int
}

func collect(t *testing.T, conn *grpc.ClientConn, kind gnmic.Type, mode pb.SubscriptionMode, path string) *collector {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	impl, err := gnmiclient.NewFromConn(ctx, conn, gnmic.Destination{Addrs: []string{"controller"}})
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{Client: impl, values: map[string]any{}}
	p, err := gnmiserver.ParsePath(path)
	if err != nil {
		t.Fatal(err)
	}
	q := gnmic.Query{
		Addrs: []string{"controller"}, Target: "controller", Type: kind, Queries: []gnmic.Path{{"*"}},
		NotificationHandler: func(n gnmic.Notification) error {
			switch n := n.(type) {
			case gnmic.Update:
				c.values[strings.Join(n.Path, "/")] = n.Val
			case gnmic.Delete:
				delete(c.values, strings.Join(n.Path, "/"))
			case gnmic.Sync:
				c.synced++
			}
			return nil
		},
	}
	list := &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{{Path: p, Mode: mode}}}
	switch kind {
	case gnmic.Once:
		list.Mode = pb.SubscriptionList_ONCE
	case gnmic.Poll:
		list.Mode = pb.SubscriptionList_POLL
	}
	if mode == pb.SubscriptionMode_SAMPLE {
		list.Subscription[0].SampleInterval = 20e6
	}
	q.SubReq = &pb.SubscribeRequest{Request: &pb.SubscribeRequest_Subscribe{Subscribe: list}}
	if err := c.Subscribe(ctx, q); err != nil {
		t.Fatal(err)
	}
	return c
}

// until reads until f is true.
func (c *collector) until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for !f() {
		// ErrStopReading is what the library says after a sync of ONCE and POLL.
		if err := c.Recv(); err != nil && !errors.Is(err, gnmic.ErrStopReading) {
			t.Fatalf("%s: %v; there are %v", what, err, c.values)
		}
	}
}

const webState = "understudy/pairs/pair/web/state/"

// A collector sees who is active, by each kind of subscription.
func TestCollector(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	c := start(t, cfg)
	api := c.admin(t)
	a := startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[0], nil)
	awaitPair(t, api, simplex)
	conn := dial(t, c.AdminAddr().String())

	changes := collect(t, conn, gnmic.Stream, pb.SubscriptionMode_ON_CHANGE, "/understudy/pairs/pair[name=*]/state")
	has := func(c *collector, leaf string, want any) func() bool {
		return func() bool { return c.values[leaf] == want && c.synced > 0 }
	}
	changes.until(t, "simplex", has(changes, webState+"state", "simplex"))
	startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[1], nil)
	changes.until(t, "duplex", has(changes, webState+"state", "duplex"))
	if changes.values[webState+"active"] != "server1" {
		t.Errorf("on change: %v", changes.values)
	}

	once := collect(t, conn, gnmic.Once, 0, "/understudy")
	once.until(t, "once", func() bool { return once.synced > 0 })
	for leaf, want := range map[string]any{
		webState + "active": "server1",
		"understudy/pairs/pair/web/servers/server/server2/state/role": "backup",
		"understudy/services/service/web/state/vip":                   "198.51.100.10",
		"understudy/switches/switch/s1/state/session":                 "ready",
		"understudy/switches/switch/s1/state/ports":                   "subscribed",
	} {
		if once.values[leaf] != want {
			t.Errorf("once: %s is %v, want %v", leaf, once.values[leaf], want)
		}
	}
	poll := collect(t, conn, gnmic.Poll, 0, "/understudy/pairs/pair[name=web]/state/active")
	poll.until(t, "the first values", has(poll, webState+"active", "server1"))
	sample := collect(t, conn, gnmic.Stream, pb.SubscriptionMode_SAMPLE, "/understudy/pairs/pair[name=web]/state/active")

	a.kill()
	changes.until(t, "a failover", has(changes, webState+"active", "server2"))
	sample.until(t, "a failover, sampled", has(sample, webState+"active", "server2"))
	if poll.values[webState+"active"] != "server1" {
		t.Errorf("values that nobody has polled: %v", poll.values)
	}
	if err := poll.Poll(); err != nil {
		t.Fatal(err)
	}
	poll.until(t, "a poll", has(poll, webState+"active", "server2"))

	r, err := changes.Get(t.Context(), &pb.GetRequest{Encoding: pb.Encoding_JSON_IETF, Path: []*pb.Path{{Elem: []*pb.PathElem{
		{Name: "understudy"}, {Name: "pairs"}, {Name: "pair", Key: map[string]string{"name": "web"}}, {Name: "state"}, {Name: "active"}}}}})
	if err != nil || string(r.GetNotification()[0].GetUpdate()[0].GetVal().GetJsonIetfVal()) != `"server2"` {
		t.Errorf("get: %v, %v", r, err)
	}
}

// Viewers may read, as from the Admin API; agents may not, and nobody can set anything.
func TestWhoCollects(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	ids := newIdentities(t)
	cfg := testConfig(t, l.address)
	own := config.TLS(ids.issue(pki.Controller, "c1", "127.0.0.1"))
	cfg.TLS, cfg.Listen.Insecure = &own, false
	r := start(t, cfg)
	for _, tc := range []struct {
		kind     pki.Kind
		get, set codes.Code
	}{
		{pki.Operator, codes.OK, codes.Unimplemented},
		{pki.Viewer, codes.OK, codes.PermissionDenied},
		{pki.Server, codes.Unauthenticated, codes.Unauthenticated},
	} {
		c := pb.NewGNMIClient(connectWith(t, r.AdminAddr().String(), ids.as(tc.kind, "server1")))
		if _, err := c.Get(t.Context(), &pb.GetRequest{Path: []*pb.Path{{}}}); status.Code(err) != tc.get {
			t.Errorf("%s: get: %v, want %v", tc.kind, err, tc.get)
		}
		s, err := c.Subscribe(t.Context())
		if err == nil {
			s.Send(&pb.SubscribeRequest{Request: &pb.SubscribeRequest_Subscribe{Subscribe: &pb.SubscriptionList{
				Mode: pb.SubscriptionList_ONCE, Subscription: []*pb.Subscription{{Path: &pb.Path{}}}}}})
			_, err = s.Recv()
		}
		if status.Code(err) != tc.get {
			t.Errorf("%s: subscribe: %v, want %v", tc.kind, err, tc.get)
		}
		if _, err := c.Set(t.Context(), &pb.SetRequest{}); status.Code(err) != tc.set {
			t.Errorf("%s: set: %v, want %v", tc.kind, err, tc.set)
		}
	}
}
