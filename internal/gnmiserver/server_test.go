// SPDX-License-Identifier: Apache-2.0

package gnmiserver

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// patience bounds every wait, so that a test fails instead of hanging.
const patience = 20 * time.Second

func path(t testing.TB, s string) *pb.Path {
	t.Helper()
	p, err := ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// world is a tree of two interfaces, served.
type world struct {
	tree    *Tree
	server  *Server
	client  pb.GNMIClient
	octets  atomic.Uint64 // of eth0
	stopped func()
}

func serve(t *testing.T) *world {
	t.Helper()
	w := &world{tree: &Tree{}}
	w.octets.Store(7)
	for _, name := range []string{"eth0", "eth1"} {
		base := "/interfaces/interface[name=" + name + "]"
		w.tree.Set(
			Leaf{Path: path(t, base+"/config/name"), Value: name},
			Leaf{Path: path(t, base+"/state/oper-status"), Value: "UP"},
			Leaf{Path: path(t, base+"/state/ifindex"), Value: uint64(len(name))},
			Leaf{Path: path(t, base+"/state/counters/in-octets"), Read: func() any {
				if name == "eth0" {
					return w.octets.Load()
				}
				return uint64(0)
			}},
		)
	}
	w.server = New(Config{Tree: w.tree, Origins: []string{"openconfig"}, Models: []*pb.ModelData{{Name: "openconfig-interfaces"}}})
	lis := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	pb.RegisterGNMIServer(srv, w.server)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///gnmi",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); w.server.Stop(); srv.Stop(); <-done })
	w.client = pb.NewGNMIClient(conn)
	return w
}

// text is an update in one line.
func text(u *pb.Update) string {
	var v string
	switch x := u.GetVal().GetValue().(type) {
	case *pb.TypedValue_StringVal:
		v = x.StringVal
	case *pb.TypedValue_UintVal:
		v = fmt.Sprint(x.UintVal)
	case *pb.TypedValue_JsonVal:
		v = string(x.JsonVal)
	case *pb.TypedValue_JsonIetfVal:
		v = "ietf " + string(x.JsonIetfVal)
	default:
		v = fmt.Sprint(u.GetVal())
	}
	return PathString(u.GetPath()) + " = " + v
}

func TestPaths(t *testing.T) {
	for _, s := range []string{"/", "/a", "/a/b[k=v]/c", `/a[k=x\]y\\z][l=m]/b\/c`, "/interfaces/interface[name=Ethernet1/2]/state"} {
		if got := PathString(path(t, s)); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
	for _, s := range []string{"//a", "/a[k]", "/a[k=v", "/a[=v]", "/a[k=v]b", "/a[k=v][k=w]"} {
		if p, err := ParsePath(s); err == nil {
			t.Errorf("%q was read as %v", s, p)
		}
	}
	for _, c := range []struct {
		query, path string
		want        bool
	}{
		{"/", "/a/b", true},
		{"/a", "/a/b", true},
		{"/a/b/c", "/a/b", false},
		{"/a[k=1]", "/a[k=1]/b", true},
		{"/a[k=2]", "/a[k=1]/b", false},
		{"/a[k=*]/b", "/a[k=1]/b", true},
		{"/a/b", "/a[k=1]/b", true}, // a key left out is any
		{"/a[q=*]", "/a[k=1]", false},
		{"/*/b", "/a[k=1]/b", true},
		{"/*/c", "/a/b", false},
		{"/...", "/a/b/c", true},
		{"/.../c", "/a/b/c", true},
		{"/.../c", "/c", true},
		{"/.../x", "/a/b/c", false},
		{"/a/.../c/d", "/a/b/c/c/d", true},
	} {
		if got := matches(path(t, c.query).Elem, path(t, c.path).Elem); got != c.want {
			t.Errorf("%s and %s: %v", c.query, c.path, got)
		}
	}
}

func TestGet(t *testing.T) {
	w := serve(t)
	for _, c := range []struct {
		name string
		r    *pb.GetRequest
		want []string
		code codes.Code
	}{
		{"a leaf", &pb.GetRequest{Path: []*pb.Path{path(t, "/interfaces/interface[name=eth0]/state/oper-status")}, Encoding: pb.Encoding_PROTO},
			[]string{"/interfaces/interface[name=eth0]/state/oper-status = UP"}, 0},
		{"prefix and wildcard", &pb.GetRequest{Prefix: &pb.Path{Elem: path(t, "/interfaces").Elem, Target: "s1", Origin: "openconfig"},
			Path: []*pb.Path{path(t, "/interface[name=*]/state/ifindex")}, Encoding: pb.Encoding_PROTO},
			[]string{"/interfaces/interface[name=eth0]/state/ifindex = 4", "/interfaces/interface[name=eth1]/state/ifindex = 4"}, 0},
		{"a counter in JSON", &pb.GetRequest{Path: []*pb.Path{path(t, "/interfaces/interface[name=eth0]/state/counters")}},
			[]string{"/interfaces/interface[name=eth0]/state/counters/in-octets = 7"}, 0},
		{"numbers of 64 bits (RFC 7951, 6.1)", &pb.GetRequest{Path: []*pb.Path{path(t, "/interfaces/interface[name=eth0]/state/counters")}, Encoding: pb.Encoding_JSON_IETF},
			[]string{`/interfaces/interface[name=eth0]/state/counters/in-octets = ietf "7"`}, 0},
		{"type CONFIG", &pb.GetRequest{Path: []*pb.Path{path(t, "/interfaces/interface[name=eth1]")}, Type: pb.GetRequest_CONFIG},
			[]string{`/interfaces/interface[name=eth1]/config/name = "eth1"`}, 0},
		{"type STATE", &pb.GetRequest{Path: []*pb.Path{path(t, "/interfaces/interface[name=eth1]/config")}, Type: pb.GetRequest_STATE}, nil, codes.NotFound},
		{"nothing there", &pb.GetRequest{Path: []*pb.Path{path(t, "/interfaces/interface[name=eth9]")}}, nil, codes.NotFound},
		{"nothing behind a wildcard", &pb.GetRequest{Path: []*pb.Path{path(t, "/interfaces/interface[name=*]/nothing")}}, nil, 0},
		{"an unknown encoding", &pb.GetRequest{Encoding: pb.Encoding_ASCII}, nil, codes.Unimplemented},
		{"an unknown model", &pb.GetRequest{UseModels: []*pb.ModelData{{Name: "openconfig-bgp"}}}, nil, codes.InvalidArgument},
		{"an unknown origin", &pb.GetRequest{Path: []*pb.Path{{Origin: "cli"}}}, nil, codes.InvalidArgument},
		{"a target in a path", &pb.GetRequest{Path: []*pb.Path{{Target: "s1"}}}, nil, codes.InvalidArgument},
		{"the old form", &pb.GetRequest{Path: []*pb.Path{{Element: []string{"interfaces"}}}}, nil, codes.InvalidArgument},
		{"too many dots", &pb.GetRequest{Path: []*pb.Path{path(t, "/.../.../...")}}, nil, codes.InvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			r, err := w.client.Get(ctx, c.r)
			if status.Code(err) != c.code {
				t.Fatalf("%v, want %v", err, c.code)
			}
			if err != nil {
				return
			}
			if len(r.GetNotification()) != len(c.r.GetPath()) {
				t.Fatalf("%d notifications for %d paths", len(r.GetNotification()), len(c.r.GetPath()))
			}
			n := r.GetNotification()[0]
			if n.GetPrefix().GetTarget() != c.r.GetPrefix().GetTarget() {
				t.Errorf("target %q", n.GetPrefix().GetTarget())
			}
			var got []string
			for _, u := range n.GetUpdate() {
				got = append(got, text(u))
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestSetIsRefusedAndCapabilities(t *testing.T) {
	w := serve(t)
	if _, err := w.client.Set(t.Context(), &pb.SetRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("Set: %v", err)
	}
	c, err := w.client.Capabilities(t.Context(), &pb.CapabilityRequest{})
	if err != nil || c.GetGNMIVersion() != Version || len(c.GetSupportedModels()) != 1 || len(c.GetSupportedEncodings()) != 3 {
		t.Errorf("Capabilities: %v, %v", c, err)
	}
}

// stream is a Subscribe RPC.
type stream struct {
	t *testing.T
	pb.GNMI_SubscribeClient
	cancel func()
}

func (w *world) subscribe(t *testing.T, list *pb.SubscriptionList) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s, err := w.client.Subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&pb.SubscribeRequest{Request: &pb.SubscribeRequest_Subscribe{Subscribe: list}}); err != nil {
		t.Fatal(err)
	}
	return &stream{t, s, cancel}
}

// next is the next message in one line.
func (s *stream) next() string {
	s.t.Helper()
	m, err := s.Recv()
	if err != nil {
		return status.Code(err).String() + ": " + err.Error()
	}
	if m.GetSyncResponse() {
		return "sync"
	}
	n := m.GetUpdate()
	var out []string
	for _, u := range n.GetUpdate() {
		out = append(out, text(u))
	}
	for _, p := range n.GetDelete() {
		out = append(out, "delete "+PathString(p))
	}
	if n.GetTimestamp() <= 0 {
		s.t.Errorf("a notification without a time: %v", n)
	}
	return strings.Join(out, "; ")
}

func (s *stream) expect(want ...string) {
	s.t.Helper()
	for _, w := range want {
		if got := s.next(); got != w {
			s.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func sub(t *testing.T, p string, mode pb.SubscriptionMode) *pb.Subscription {
	return &pb.Subscription{Path: path(t, p), Mode: mode}
}

const (
	eth0oper = "/interfaces/interface[name=eth0]/state/oper-status"
	eth1oper = "/interfaces/interface[name=eth1]/state/oper-status"
	eth0in   = "/interfaces/interface[name=eth0]/state/counters/in-octets"
)

// TestOnce is section 3.5.1.5.1.
func TestOnce(t *testing.T) {
	w := serve(t)
	s := w.subscribe(t, &pb.SubscriptionList{Mode: pb.SubscriptionList_ONCE, Encoding: pb.Encoding_PROTO,
		Subscription: []*pb.Subscription{sub(t, "/interfaces/interface/state/oper-status", 0)}})
	s.expect(eth0oper+" = UP", eth1oper+" = UP", "sync", "Unknown: EOF")
}

// TestPoll is section 3.5.1.5.3.
func TestPoll(t *testing.T) {
	w := serve(t)
	s := w.subscribe(t, &pb.SubscriptionList{Mode: pb.SubscriptionList_POLL, Encoding: pb.Encoding_PROTO,
		Subscription: []*pb.Subscription{sub(t, eth0oper, 0), sub(t, eth0in, 0)}})
	s.expect(eth0in+" = 7", eth0oper+" = UP", "sync")
	w.octets.Store(8)
	w.tree.Set(Leaf{Path: path(t, eth0oper), Value: "DOWN"})
	poll := &pb.SubscribeRequest{Request: &pb.SubscribeRequest_Poll{Poll: &pb.Poll{}}}
	s.Send(poll)
	s.expect(eth0in+" = 8", eth0oper+" = DOWN", "sync")
	s.CloseSend()
	s.expect("Unknown: EOF")
}

// TestOnChange is section 3.5.1.5.2: at once, only what has changed, in order.
func TestOnChange(t *testing.T) {
	w := serve(t)
	s := w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{
		sub(t, "/interfaces/interface[name=*]/state/oper-status", pb.SubscriptionMode_ON_CHANGE)}})
	s.expect(eth0oper+" = UP", eth1oper+" = UP", "sync")
	w.tree.Set(Leaf{Path: path(t, "/interfaces/interface[name=eth0]/state/ifindex"), Value: uint64(5)}) // not asked for
	w.tree.Set(Leaf{Path: path(t, eth1oper), Value: "UP"})                                              // no change
	w.tree.Set(Leaf{Path: path(t, eth1oper), Value: "DOWN"})
	s.expect(eth1oper + " = DOWN")
	w.tree.Set(Leaf{Path: path(t, "/interfaces/interface[name=eth2]/state/oper-status"), Value: "DORMANT"})
	s.expect("/interfaces/interface[name=eth2]/state/oper-status = DORMANT")
	w.tree.Delete(path(t, "/interfaces/interface[name=eth0]"))
	s.expect("delete " + eth0oper)
}

// TestOnChangeOfCounter wants to hear of a counter's change, though nobody tells.
func TestOnChangeOfCounter(t *testing.T) {
	w := serve(t)
	s := w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{
		sub(t, "/interfaces/interface/state/counters", pb.SubscriptionMode_ON_CHANGE)}})
	s.expect(eth0in+" = 7", "/interfaces/interface[name=eth1]/state/counters/in-octets = 0", "sync")
	w.octets.Store(9)
	s.expect(eth0in + " = 9")
}

// TestUpdatesOnly is section 3.5.1.2.
func TestUpdatesOnly(t *testing.T) {
	w := serve(t)
	s := w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, UpdatesOnly: true, Subscription: []*pb.Subscription{
		sub(t, "/", pb.SubscriptionMode_ON_CHANGE)}})
	s.expect("sync")
	w.tree.Set(Leaf{Path: path(t, eth0oper), Value: "DOWN"})
	s.expect(eth0oper + " = DOWN")
}

func TestSample(t *testing.T) {
	w := serve(t)
	x := sub(t, eth0in, pb.SubscriptionMode_SAMPLE)
	x.SampleInterval = uint64(20 * time.Millisecond)
	s := w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{x}})
	s.expect(eth0in+" = 7", "sync", eth0in+" = 7", eth0in+" = 7")
	w.octets.Store(8)
	for s.next() != eth0in+" = 8" { // samples that were under way
	}

	// What has not changed is left out, but for the heartbeat.
	x.SuppressRedundant = true
	s = w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{x}})
	s.expect(eth0in+" = 8", "sync")
	time.Sleep(100 * time.Millisecond)
	w.octets.Store(9)
	s.expect(eth0in + " = 9")
	x.HeartbeatInterval = uint64(50 * time.Millisecond)
	s = w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{x}})
	s.expect(eth0in+" = 9", "sync", eth0in+" = 9")
}

// TestHeartbeat tells again what has not changed.
func TestHeartbeat(t *testing.T) {
	w := serve(t)
	x := sub(t, eth0oper, pb.SubscriptionMode_ON_CHANGE)
	x.HeartbeatInterval = uint64(20 * time.Millisecond)
	s := w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{x}})
	s.expect(eth0oper+" = UP", "sync", eth0oper+" = UP", eth0oper+" = UP")
}

func TestSubscribeErrors(t *testing.T) {
	w := serve(t)
	short := sub(t, "/", pb.SubscriptionMode_SAMPLE)
	short.SampleInterval = 1000
	for name, c := range map[string]struct {
		list *pb.SubscriptionList
		code codes.Code
	}{
		"no subscription":         {&pb.SubscriptionList{}, codes.InvalidArgument},
		"too short":               {&pb.SubscriptionList{Subscription: []*pb.Subscription{short}}, codes.InvalidArgument},
		"an unknown mode":         {&pb.SubscriptionList{Mode: 7, Subscription: []*pb.Subscription{sub(t, "/", 0)}}, codes.InvalidArgument},
		"an unknown mode of one":  {&pb.SubscriptionList{Subscription: []*pb.Subscription{sub(t, "/", 9)}}, codes.InvalidArgument},
		"an unsupported encoding": {&pb.SubscriptionList{Encoding: pb.Encoding_BYTES, Subscription: []*pb.Subscription{sub(t, "/", 0)}}, codes.Unimplemented},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := w.subscribe(t, c.list).Recv(); status.Code(err) != c.code {
				t.Errorf("%v, want %v", err, c.code)
			}
		})
	}
	t.Run("no list", func(t *testing.T) {
		s, err := w.client.Subscribe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Send(&pb.SubscribeRequest{Request: &pb.SubscribeRequest_Poll{Poll: &pb.Poll{}}})
		if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v", err)
		}
	})
	t.Run("two lists", func(t *testing.T) {
		s := w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{sub(t, eth0oper, pb.SubscriptionMode_ON_CHANGE)}})
		s.expect(eth0oper+" = UP", "sync")
		s.Send(&pb.SubscribeRequest{Request: &pb.SubscribeRequest_Subscribe{Subscribe: &pb.SubscriptionList{}}})
		if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v", err)
		}
	})
}

// TestStop ends streams, and leaves no watcher behind.
func TestStop(t *testing.T) {
	w := serve(t)
	s := w.subscribe(t, &pb.SubscriptionList{Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{sub(t, eth0oper, pb.SubscriptionMode_ON_CHANGE)}})
	s.expect(eth0oper+" = UP", "sync")
	w.server.Stop()
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		w.tree.mu.Lock()
		n := len(w.tree.watchers)
		w.tree.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d watchers are left", n)
		}
	}
}

// TestSlowClient: what changes while nobody takes it is kept once, with its latest
// value and the count of those that are not told.
func TestSlowClient(t *testing.T) {
	tree := &Tree{}
	p := path(t, "/a")
	tree.Set(Leaf{Path: p, Value: int64(0)})
	w := tree.watch(func(*node) bool { return true })
	defer w.close()
	for i := range 1000 {
		tree.Set(Leaf{Path: p, Value: int64(i + 1)})
	}
	got := w.take()
	if len(got) != 1 || got[0].value != int64(1000) || got[0].duplicates != 999 {
		t.Errorf("%+v", got)
	}
	if got = w.take(); len(got) != 0 {
		t.Errorf("taken twice: %+v", got)
	}
}
