// SPDX-License-Identifier: Apache-2.0

package gnmi

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-net/understudy/internal/gnmiserver"
)

// patience bounds every wait, so that a test fails instead of hanging.
const patience = 20 * time.Second

func path(t testing.TB, format string, args ...any) *pb.Path {
	t.Helper()
	p, err := gnmiserver.ParsePath(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func state(t testing.TB, name, leaf string) *pb.Path {
	return path(t, "/interfaces/interface[name=%s]/state/%s", name, leaf)
}

// target is a switch's gNMI server, which can be stopped and started again.
type target struct {
	t       testing.TB
	address string
	stop    func()
}

// serve starts one at an address, or at any if it is empty.
func serve(t testing.TB, address string, register func(*grpc.Server)) *target {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	var l net.Listener
	eventually(t, "listen", func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	srv := grpc.NewServer()
	register(srv)
	var done sync.WaitGroup
	done.Go(func() { srv.Serve(l) })
	x := &target{t: t, address: l.Addr().String(), stop: sync.OnceFunc(func() { srv.Stop(); done.Wait() })}
	t.Cleanup(x.stop)
	return x
}

func serveTree(t testing.TB, address string, tree *gnmiserver.Tree) *target {
	return serve(t, address, func(s *grpc.Server) {
		pb.RegisterGNMIServer(s, gnmiserver.New(gnmiserver.Config{Tree: tree}))
	})
}

func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// heard is what a subscription has told.
type heard struct {
	*Ports
	mu   sync.Mutex
	list []string
	log  bytes.Buffer
}

// subscribe runs Ports until the test ends.
func subscribe(t testing.TB, address string, change func(*PortsOptions)) *heard {
	t.Helper()
	h := &heard{}
	opts := PortsOptions{Switch: "s1", Address: address, MaxBackoff: 20 * time.Millisecond, Unsupported: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(h, nil)),
		Changed: func(p Port) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.list = append(h.list, p.String())
		}}
	if change != nil {
		change(&opts)
	}
	h.Ports = NewPorts(opts)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(done.Wait)
	t.Cleanup(cancel)
	return h
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(b)
}

func (h *heard) logged(text string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Count(h.log.String(), text)
}

// expect waits for what is told next, and no more.
func (h *heard) expect(t testing.TB, want ...string) {
	t.Helper()
	eventually(t, "ports", func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !slices.Equal(h.list, want) {
			return fmt.Errorf("%q, want %q", h.list, want)
		}
		h.list = nil
		return nil
	})
}

func (h *heard) awaitStatus(t testing.TB, want Status) {
	t.Helper()
	eventually(t, "status", func() error {
		if got := h.Status(); got != want {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

func TestPorts(t *testing.T) {
	tree := &gnmiserver.Tree{}
	set := func(name string, id uint64, oper string) {
		leaves := []gnmiserver.Leaf{{Path: state(t, name, "oper-status"), Value: oper}}
		if id != 0 {
			leaves = append(leaves, gnmiserver.Leaf{Path: state(t, name, "id"), Value: id},
				gnmiserver.Leaf{Path: state(t, name, "ifindex"), Value: id + 1000})
		}
		tree.Set(leaves...)
	}
	set("p1", 1, "UP")
	set("p2", 2, "UNKNOWN")
	set("eth0", 0, "UP") // P4Runtime does not know it
	sw := serveTree(t, "", tree)
	h := subscribe(t, sw.address, nil)
	h.expect(t, "port 1, p1: UP", "port 2, p2: UNKNOWN")
	h.awaitStatus(t, Subscribed)

	set("p1", 1, "DOWN")
	h.expect(t, "port 1, p1: DOWN")
	set("eth0", 0, "DOWN")
	set("p1", 1, "UP")
	h.expect(t, "port 1, p1: UP")

	// One that comes later; then one that goes.
	set("p3", 3, "LOWER_LAYER_DOWN")
	h.expect(t, "port 3, p3: LOWER_LAYER_DOWN")
	tree.Delete(path(t, "/interfaces/interface[name=p3]"))
	h.expect(t, "port 3, p3: not known")

	// The switch restarts.
	sw.stop()
	h.expect(t, "port 1, p1: not known", "port 2, p2: not known")
	h.awaitStatus(t, Connecting)
	set("p2", 2, "DOWN")
	serveTree(t, sw.address, tree)
	h.expect(t, "port 1, p1: UP", "port 2, p2: DOWN")
}

// stratum answers as Stratum does: it knows state/ifindex, by ONCE, and has no
// state/id.
type stratum struct {
	pb.UnimplementedGNMIServer
	tree *gnmiserver.Server
}

func (s stratum) Subscribe(rpc pb.GNMI_SubscribeServer) error { return s.tree.Subscribe(refusing{rpc}) }

type refusing struct{ pb.GNMI_SubscribeServer }

func (r refusing) Recv() (*pb.SubscribeRequest, error) {
	m, err := r.GNMI_SubscribeServer.Recv()
	for _, s := range m.GetSubscribe().GetSubscription() {
		if s.GetPath().GetElem()[3].GetName() == "id" {
			return nil, status.Error(codes.InvalidArgument, "unsupported path")
		}
	}
	return m, err
}

func TestPortsOfStratum(t *testing.T) {
	tree := &gnmiserver.Tree{}
	tree.Set(gnmiserver.Leaf{Path: state(t, "1/1/1", "ifindex"), Value: uint64(260)},
		gnmiserver.Leaf{Path: state(t, "1/1/1", "oper-status"), Value: "UP"})
	sw := serve(t, "", func(s *grpc.Server) {
		pb.RegisterGNMIServer(s, stratum{tree: gnmiserver.New(gnmiserver.Config{Tree: tree})})
	})
	h := subscribe(t, sw.address, nil)
	h.expect(t, "port 260, 1/1/1: UP")
}

// A switch without gNMI is said once, and asked again: it may be another one by then.
func TestPortsWithoutGNMI(t *testing.T) {
	sw := serve(t, "", func(s *grpc.Server) {})
	h := subscribe(t, sw.address, nil)
	h.awaitStatus(t, Unsupported)
	sw.stop()
	h.awaitStatus(t, Connecting)
	sw = serve(t, sw.address, func(s *grpc.Server) { pb.RegisterGNMIServer(s, pb.UnimplementedGNMIServer{}) })
	h.awaitStatus(t, Unsupported)
	sw.stop()
	if n := h.logged("does not tell of its ports"); n < 1 || n > 2 {
		t.Errorf("it was said %d times", n)
	}
	tree := &gnmiserver.Tree{}
	tree.Set(gnmiserver.Leaf{Path: state(t, "p1", "id"), Value: uint64(1)},
		gnmiserver.Leaf{Path: state(t, "p1", "oper-status"), Value: "UP"})
	serveTree(t, sw.address, tree)
	h.expect(t, "port 1, p1: UP")
}

// What a switch says in other ways than the embedded one does.
func TestTable(t *testing.T) {
	str := func(s string) *pb.TypedValue { return &pb.TypedValue{Value: &pb.TypedValue_StringVal{StringVal: s}} }
	json := func(s string) *pb.TypedValue {
		return &pb.TypedValue{Value: &pb.TypedValue_JsonIetfVal{JsonIetfVal: []byte(s)}}
	}
	update := func(p string, v *pb.TypedValue) *pb.Notification {
		return &pb.Notification{Update: []*pb.Update{{Path: path(t, "%s", p), Val: v}}}
	}
	remove := func(p string) *pb.Notification { return &pb.Notification{Delete: []*pb.Path{path(t, "%s", p)}} }
	for name, c := range map[string]struct {
		n    *pb.Notification
		want []string
		err  bool
	}{
		"JSON": {n: update("/interfaces/interface[name=p1]/state/oper-status", json(`"DOWN"`)), want: []string{"port 1, p1: DOWN"}},
		"prefix": {n: &pb.Notification{Prefix: path(t, "/interfaces/interface[name=p1]"),
			Update: []*pb.Update{{Path: path(t, "/state/oper-status"), Val: str("DOWN")}}}, want: []string{"port 1, p1: DOWN"}},
		"two of them": {n: &pb.Notification{Update: []*pb.Update{
			{Path: state(t, "p2", "oper-status"), Val: str("DOWN")}, {Path: state(t, "p1", "oper-status"), Val: str("DOWN")},
		}}, want: []string{"port 1, p1: DOWN", "port 2, p2: DOWN"}},
		"the same":           {n: update("/interfaces/interface[name=p1]/state/oper-status", str("UP"))},
		"another leaf":       {n: update("/interfaces/interface[name=p1]/state/admin-status", str("DOWN"))},
		"a subinterface":     {n: update("/interfaces/interface[name=p1]/subinterfaces/subinterface[index=0]/state/oper-status", str("DOWN"))},
		"no interface":       {n: update("/interfaces/interface/state/oper-status", str("DOWN"))},
		"one without a port": {n: update("/interfaces/interface[name=mgmt]/state/oper-status", str("DOWN"))},
		"a number":           {n: update("/interfaces/interface[name=p1]/state/oper-status", &pb.TypedValue{Value: &pb.TypedValue_UintVal{UintVal: 1}}), err: true},
		"no value":           {n: update("/interfaces/interface[name=p1]/state/oper-status", nil), err: true},
		"one deleted":        {n: remove("/interfaces/interface[name=p1]"), want: []string{"port 1, p1: not known"}},
		"all deleted":        {n: remove("/interfaces"), want: []string{"port 1, p1: not known", "port 2, p2: not known"}},
		"a leaf deleted":     {n: remove("/interfaces/interface[name=*]/state/oper-status"), want: []string{"port 1, p1: not known", "port 2, p2: not known"}},
		"another deleted":    {n: remove("/interfaces/interface[name=p1]/state/counters")},
		"deleted and new": {n: &pb.Notification{Delete: []*pb.Path{path(t, "/interfaces/interface[name=p1]")},
			Update: []*pb.Update{{Path: state(t, "p1", "oper-status"), Val: str("UP")}}}},
	} {
		t.Run(name, func(t *testing.T) {
			var tab table
			for _, name := range []string{"p1", "p2"} {
				if _, err := tab.apply(update("/interfaces/interface[name="+name+"]/state/oper-status", str("UP"))); err != nil || !tab.strange {
					t.Fatalf("%v, strange %t", err, tab.strange)
				}
			}
			first, err := tab.numbers(map[string]uint32{"p1": 1, "p2": 2})
			if err != nil || len(first) != 2 || tab.strange {
				t.Fatalf("at first %v %v, strange %t", first, err, tab.strange)
			}
			got, err := tab.apply(c.n)
			if (err != nil) != c.err {
				t.Errorf("error %v", err)
			}
			var list []string
			for _, p := range got {
				list = append(list, p.String())
			}
			if !slices.Equal(list, c.want) {
				t.Errorf("told %q, want %q", list, c.want)
			}
		})
	}
}

func TestTableIsBounded(t *testing.T) {
	var tab table
	var err error
	for i := 0; i <= maxInterfaces && err == nil; i++ {
		_, err = tab.apply(&pb.Notification{Update: []*pb.Update{{
			Path: &pb.Path{Elem: []*pb.PathElem{{Name: "interfaces"}, {Name: "interface", Key: map[string]string{"name": fmt.Sprint(i)}}, {Name: "state"}, {Name: leafOper}}},
			Val:  &pb.TypedValue{Value: &pb.TypedValue_StringVal{StringVal: "UP"}},
		}}})
	}
	if err == nil || len(tab.interfaces) != maxInterfaces {
		t.Errorf("%d interfaces, error %v", len(tab.interfaces), err)
	}
}

func TestNumber(t *testing.T) {
	for name, c := range map[string]struct {
		v    *pb.TypedValue
		want uint32
		bad  bool
	}{
		"uint":       {v: &pb.TypedValue{Value: &pb.TypedValue_UintVal{UintVal: 7}}, want: 7},
		"int":        {v: &pb.TypedValue{Value: &pb.TypedValue_IntVal{IntVal: 7}}, want: 7},
		"JSON":       {v: &pb.TypedValue{Value: &pb.TypedValue_JsonVal{JsonVal: []byte("7")}}, want: 7},
		"JSON_IETF":  {v: &pb.TypedValue{Value: &pb.TypedValue_JsonIetfVal{JsonIetfVal: []byte(`"7"`)}}, want: 7},
		"negative":   {v: &pb.TypedValue{Value: &pb.TypedValue_IntVal{IntVal: -1}}, bad: true},
		"too large":  {v: &pb.TypedValue{Value: &pb.TypedValue_UintVal{UintVal: 1 << 32}}, bad: true},
		"a fraction": {v: &pb.TypedValue{Value: &pb.TypedValue_JsonVal{JsonVal: []byte("7.5")}}, bad: true},
		"an object":  {v: &pb.TypedValue{Value: &pb.TypedValue_JsonVal{JsonVal: []byte("{}")}}, bad: true},
		"nothing":    {bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := number(c.v); got != c.want || (err != nil) != c.bad {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
}
