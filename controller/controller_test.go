// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/p4rt"
	"github.com/understudy-net/understudy/internal/heartbeat"
	"github.com/understudy-net/understudy/p4"
	"github.com/understudy-net/understudy/p4/softswitch"
)

// deadline bounds every wait: far beyond what any step takes.
const deadline = 20 * time.Second

// Ports of the switch in these tests.
const (
	clientPort  = 1
	server1Port = 2
	server2Port = 3
	server3Port = 4
)

var vip = netip.MustParseAddr("198.51.100.10")

func testConfig(t testing.TB, switchAddress string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(testText(t, switchAddress)))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func testText(t testing.TB, switchAddress string) string {
	return fmt.Sprintf(`
switch: {name: s1, address: "%s", device_id: 1}
listen: {agents: "127.0.0.1:0", admin: "127.0.0.1:0", insecure: true}
state_dir: %s
# Slow enough for a machine that has other things to do.
heartbeat: {interval: 50ms, missed: 6}
gateways:
  - {address: 10.0.1.1, mac: "02:00:00:00:01:01"}
  - {address: 10.0.2.1, mac: "02:00:00:00:02:01"}
routes:
  - {prefix: 192.0.2.0/24, port: 1, next_hop_mac: "02:00:00:00:00:0c", source_mac: "02:00:00:00:00:01"}
pairs:
  - name: web
    servers:
      - {name: server1, port: 2, mac: "02:00:00:00:01:02", gateway: 10.0.1.1}
      - {name: server2, port: 3, mac: "02:00:00:00:02:02", gateway: 10.0.2.1}
services:
  - {name: web, pair: web, vip: 198.51.100.10, protocol: tcp, port: 80, upstream: "127.0.0.1:8080"}
`, switchAddress, t.TempDir())
}

// testLog writes to the test's log, and to nothing once the test is over.
func testLog(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		w.t = nil
		w.mu.Unlock()
	})
	return slog.New(slog.NewTextHandler(w, nil))
}

type testWriter struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(strings.TrimSuffix(string(b), "\n"))
	}
	return len(b), nil
}

// checkLeaks fails the test if goroutines of this module are left at its end. It
// must be called first.
func checkLeaks(t testing.TB) {
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			buf := make([]byte, 1<<20)
			buf = buf[:runtime.Stack(buf, true)]
			left = left[:0]
			for g := range strings.SplitSeq(string(buf), "\n\n") {
				if !strings.Contains(g, "checkLeaks") && !strings.Contains(g, "testing.tRunner") &&
					(strings.Contains(g, "understudy-net") || strings.Contains(g, "google.golang.org/grpc")) {
					left = append(left, g)
				}
			}
			if len(left) == 0 {
				return
			}
		}
		t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
	})
}

// lab is an embedded switch with a client and two servers on its ports.
type lab struct {
	t       testing.TB
	address string
	links   map[uint16]*softswitch.MemLink
	// stop ends the switch and waits for it.
	stop func()

	mu  sync.Mutex
	out map[uint16]func([]byte)
}

// newLab starts a switch without a program. It listens on address, or on one of
// its own choice if that is empty.
func newLab(t testing.TB, address string) *lab {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	var listener net.Listener
	eventually(t, "listen on "+address, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	l := &lab{t: t, address: listener.Addr().String(), links: map[uint16]*softswitch.MemLink{}, out: map[uint16]func([]byte){}}
	cfg := softswitch.Config{DeviceID: 1, CPUPort: p4.CPUPort, DropPort: p4.DropPort, Listener: listener}
	for _, port := range []uint16{clientPort, server1Port, server2Port, server3Port} {
		l.links[port] = softswitch.NewMemLink(func(frame []byte) {
			l.mu.Lock()
			f := l.out[port]
			l.mu.Unlock()
			if f != nil {
				f(frame)
			}
		})
		cfg.Ports = append(cfg.Ports, softswitch.Port{Number: port, Link: l.links[port]})
	}
	sw, err := softswitch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sw.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("switch: %v", err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

// receive sets what is done with frames that leave at a port.
func (l *lab) receive(port uint16, f func([]byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out[port] = f
}

// running is a controller that runs.
type running struct {
	*Controller
	stop func()
}

func start(t testing.TB, cfg *config.Config) *running {
	t.Helper()
	return startWith(t, cfg, testLog(t))
}

func startWith(t testing.TB, cfg *config.Config, log *slog.Logger) *running {
	t.Helper()
	ready := make(chan struct{})
	c, err := New(Options{
		Config:   cfg,
		Pipeline: p4rt.Pipeline{Info: p4.Info(), Device: p4.JSON()},
		Logger:   log,
		Rand:     rand.New(rand.NewPCG(1, 2)),
		Ready:    func() { close(ready) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	r := &running{Controller: c, stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("controller: %v", err)
		}
	})}
	t.Cleanup(r.stop)
	select {
	case <-ready:
	case <-time.After(deadline):
		t.Fatal("the controller did not become ready")
	}
	return r
}

func (r *running) admin(t testing.TB) adminv1.AdminClient {
	return adminv1.NewAdminClient(dial(t, r.AdminAddr().String()))
}

func dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// awaitPair waits until the pair is as said: its state, and the roles of the
// servers in order.
func awaitPair(t testing.TB, admin adminv1.AdminClient, state adminv1.PairState, roles ...adminv1.ServerRole) *adminv1.Pair {
	t.Helper()
	var pair *adminv1.Pair
	eventually(t, fmt.Sprintf("pair %v %v", state, roles), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		resp, err := admin.ListPairs(ctx, &adminv1.ListPairsRequest{Pair: "web"})
		if err != nil {
			return err
		}
		pair = resp.GetPairs()[0]
		var got []adminv1.ServerRole
		for _, s := range pair.GetServers() {
			got = append(got, s.GetRole())
		}
		if pair.GetState() != state || len(roles) > 0 && !slices.Equal(got, roles) {
			return fmt.Errorf("it is %v %v", pair.GetState(), got)
		}
		return nil
	})
	return pair
}

const (
	down    = adminv1.PairState_PAIR_STATE_DOWN
	simplex = adminv1.PairState_PAIR_STATE_SIMPLEX
	duplex  = adminv1.PairState_PAIR_STATE_DUPLEX

	noRole = adminv1.ServerRole_SERVER_ROLE_UNSPECIFIED
	active = adminv1.ServerRole_SERVER_ROLE_ACTIVE
	backup = adminv1.ServerRole_SERVER_ROLE_BACKUP
	fenced = adminv1.ServerRole_SERVER_ROLE_FENCED
)

// agent plays an agent: it does at once whatever it is told.
type agent struct {
	t        testing.TB
	lab      *lab
	server   config.Server
	instance uint64
	conn     *grpc.ClientConn
	send     func(*agentv1.AgentMessage) error
	cancel   context.CancelFunc
	ended    sync.WaitGroup
	failed   chan error // why its session has ended

	// silent has it send no heartbeats.
	silent atomic.Bool
	// mute has it send no heartbeats, and signs of life over its session all the same.
	mute atomic.Bool
	// said is the epoch of its last heartbeat.
	said atomic.Uint64
	// sick is what its heartbeats say of its application.
	sick atomic.Bool

	mu       sync.Mutex
	assigned *agentv1.Assignment
	// released is when it was first told that it is released in that epoch.
	released map[uint64]time.Time
	history  []string
}

// startAgent connects an agent. before is what the same process was before, nil
// for a new one.
func startAgent(t testing.TB, l *lab, address string, server config.Server, before *agent) *agent {
	t.Helper()
	a := &agent{t: t, lab: l, server: server, instance: rand.Uint64() | 1, released: map[uint64]time.Time{}, failed: make(chan error, 1)}
	hello := &agentv1.Hello{
		Server: server.Name, Version: "test", ReplicationAddress: server.Name + ":9402",
		Health: &agentv1.Health{ApplicationUp: true},
	}
	if before != nil {
		a.instance = before.instance
		a.assigned = before.last()
		hello.Role, hello.Epoch = a.assigned.GetRole(), a.assigned.GetEpoch()
	}
	hello.Instance = a.instance
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	a.conn = conn
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	stream, err := agentv1.NewAgentControlClient(conn).Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	a.send = func(m *agentv1.AgentMessage) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(m)
	}
	if err := a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Hello{Hello: hello}}); err != nil {
		t.Fatal(err)
	}
	a.ended.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				a.failed <- err
				return
			}
			a.apply(m.GetAssignment())
		}
	})
	a.ended.Go(func() { a.beat(ctx) })
	t.Cleanup(a.kill)
	return a
}

func (a *agent) apply(as *agentv1.Assignment) {
	a.mu.Lock()
	if as.GetEpoch() < a.assigned.GetEpoch() {
		a.mu.Unlock()
		return
	}
	a.assigned = as
	text := fmt.Sprintf("%v %d", as.GetRole(), as.GetEpoch())
	if as.GetReleased() {
		text += " released"
		if _, ok := a.released[as.GetEpoch()]; !ok {
			a.released[as.GetEpoch()] = time.Now()
		}
	}
	if as.GetPeer() != nil {
		text += " peer " + as.GetPeer().GetServer()
	}
	a.history = append(a.history, text)
	a.mu.Unlock()
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Applied{Applied: &agentv1.Applied{
		Epoch: as.GetEpoch(), Role: as.GetRole(),
	}}})
	if as.GetRole() == agentv1.Role_ROLE_ACTIVE && as.GetPeer() != nil {
		a.replication(as.GetEpoch(), true, "")
	}
}

func (a *agent) replication(epoch uint64, up bool, reason string) {
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Replication{Replication: &agentv1.Replication{
		Epoch: epoch, Up: up, Reason: reason,
	}}})
}

// counts says how many connections it has, and how many of them the backup holds.
func (a *agent) counts(connections, protected uint64) {
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Protection{Protection: &agentv1.Protection{
		Epoch: a.last().GetEpoch(), Connections: connections, Protected: protected,
	}}})
}

func (a *agent) health(up bool, reason string) {
	a.sick.Store(!up)
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Health{Health: &agentv1.Health{
		ApplicationUp: up, Reason: reason,
	}}})
}

// beat sends heartbeats through the switch, as assigned.
func (a *agent) beat(ctx context.Context) {
	var seq uint32
	for {
		as := a.last()
		wait := 5 * time.Millisecond
		if as != nil {
			wait = as.GetHeartbeat().GetInterval().AsDuration()
			if !a.silent.Load() {
				a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Alive{Alive: &agentv1.Alive{}}})
			}
			if !a.silent.Load() && !a.mute.Load() {
				seq++
				h := heartbeat.Heartbeat{
					ApplicationUp: !a.sick.Load(),
					PairID:        uint16(as.GetHeartbeat().GetPairId()), ReplicaID: uint8(as.GetHeartbeat().GetReplicaId()),
					Role: uint8(as.GetRole()), Epoch: uint32(as.GetEpoch()), Sequence: seq, Instance: a.instance,
					InStep: as.GetRole() == agentv1.Role_ROLE_BACKUP,
				}
				to := netip.MustParseAddrPort(as.GetHeartbeat().GetDestination())
				a.lab.links[a.server.Port].Inject(ctx, udpFrame(a.server.MAC, a.server.Gateway.MAC,
					netip.MustParseAddr("10.0.9.9"), to.Addr(), 9401, to.Port(), h.Append(nil)))
				a.said.Store(as.GetEpoch())
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (a *agent) last() *agentv1.Assignment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.assigned
}

func (a *agent) releasedAt(epoch uint64) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.released[epoch]
	return at, ok
}

func (a *agent) told() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.history)
}

// kill ends it as the death of its process would.
func (a *agent) kill() {
	a.conn.Close()
	a.cancel()
	a.ended.Wait()
}

// ---- frames ----

func ethernet(src, dst config.MAC, etherType uint16, payload []byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	return append(binary.BigEndian.AppendUint16(b, etherType), payload...)
}

func ipv4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	return append(b, payload...)
}

func udpFrame(srcMAC, dstMAC config.MAC, src, dst netip.Addr, sport, dport uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b[0:], sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return ethernet(srcMAC, dstMAC, 0x0800, ipv4(src, dst, 17, append(b, payload...)))
}

func tcpFrame(srcMAC, dstMAC config.MAC, src, dst netip.Addr, sport, dport uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b[0:], sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[12], b[13] = 5<<4, 0x10
	return ethernet(srcMAC, dstMAC, 0x0800, ipv4(src, dst, 6, b))
}

var client = netip.MustParseAddr("192.0.2.7")

// answer is a segment of the VIP to the client, as a server sends it.
func answer(s config.Server) []byte {
	return tcpFrame(s.MAC, s.Gateway.MAC, vip, client, 80, 40000)
}

// ---- the stories ----

// duplexLab is a pair in duplex, server1 active.
func duplexLab(t testing.TB) (cfg *config.Config, l *lab, c *running, admin adminv1.AdminClient, a1, a2 *agent) {
	t.Helper()
	l = newLab(t, "")
	cfg = testConfig(t, l.address)
	c = start(t, cfg)
	admin = c.admin(t)
	servers := cfg.Pairs[0].Servers
	a1 = startAgent(t, l, c.AgentAddr().String(), servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)
	a2 = startAgent(t, l, c.AgentAddr().String(), servers[1], nil)
	awaitPair(t, admin, duplex, active, backup)
	return cfg, l, c, admin, a1, a2
}

// Whose packets leave, and who gets the client's: the switch itself is asked.
func heard(t testing.TB, cfg *config.Config, l *lab) (speaks []string, hears []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for _, s := range cfg.Pairs[0].Servers {
		n := 0
		l.receive(clientPort, func([]byte) { n++ })
		if err := l.links[s.Port].Inject(ctx, answer(s)); err != nil {
			t.Fatal(err)
		}
		l.receive(clientPort, nil)
		if n > 0 {
			speaks = append(speaks, s.Name)
		}
		n = 0
		l.receive(s.Port, func(f []byte) {
			if slices.Equal(f[:6], s.MAC[:]) {
				n++
			}
		})
		frame := tcpFrame(config.MAC{2, 0, 0, 0, 0, 12}, config.MAC{2, 0, 0, 0, 0, 1}, client, vip, 40000, 80)
		if err := l.links[clientPort].Inject(ctx, frame); err != nil {
			t.Fatal(err)
		}
		l.receive(s.Port, nil)
		if n > 0 {
			hears = append(hears, s.Name)
		}
	}
	return speaks, hears
}

func TestDuplex(t *testing.T) {
	checkLeaks(t)
	cfg, l, c, admin, a1, a2 := duplexLab(t)

	speaks, hears := heard(t, cfg, l)
	if diff := cmp.Diff([]string{"server1"}, speaks); diff != "" {
		t.Errorf("who speaks to the client (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"server1", "server2"}, hears); diff != "" {
		t.Errorf("who hears the client (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ROLE_ACTIVE 1 released", "ROLE_ACTIVE 2 released peer server2"}, a1.told()); diff != "" {
		t.Errorf("what server1 was told (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ROLE_FENCED 1", "ROLE_BACKUP 2 peer server1"}, a2.told()); diff != "" {
		t.Errorf("what server2 was told (-want +got):\n%s", diff)
	}
	as := a2.last()
	if as.GetPeer().GetReplicationAddress() != "server1:9402" || len(as.GetIsnSecret()) != 16 || len(as.GetServices()) != 1 {
		t.Errorf("assignment %v", as)
	}
	if got := healthOf(t, c); got != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health %v", got)
	}
	if _, err := admin.ListPairs(t.Context(), &adminv1.ListPairsRequest{Pair: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown pair: %v, want NotFound", err)
	}
}

func healthOf(t testing.TB, c *running) healthv1.HealthCheckResponse_ServingStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	resp, err := healthv1.NewHealthClient(dial(t, c.AdminAddr().String())).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStatus()
}

// Each way in which the active server can fail ends with the other one active,
// and with a record of it.
func TestFailover(t *testing.T) {
	for _, tt := range []struct {
		cause string
		fail  func(*agent)
		roles []adminv1.ServerRole
	}{
		{"session closed", (*agent).kill, []adminv1.ServerRole{noRole, active}},
		{"application down", func(a *agent) { a.health(false, "connection refused") }, []adminv1.ServerRole{fenced, active}},
		{"heartbeats missed", func(a *agent) { a.silent.Store(true) }, []adminv1.ServerRole{fenced, active}},
	} {
		t.Run(tt.cause, func(t *testing.T) {
			checkLeaks(t)
			cfg, l, _, admin, a1, a2 := duplexLab(t)
			// The new active server's packets are heard from the flip on.
			left := make(chan time.Time, 1)
			l.receive(clientPort, func([]byte) {
				select {
				case left <- time.Now():
				default:
				}
			})
			began := time.Now()
			tt.fail(a1)
			var first time.Time
			for first.IsZero() {
				if err := l.links[server2Port].Inject(t.Context(), answer(a2.server)); err != nil {
					t.Fatal(err)
				}
				select {
				case first = <-left:
				default:
				}
				if time.Since(began) > deadline {
					t.Fatal("server2 is never heard")
				}
			}
			l.receive(clientPort, nil)
			awaitPair(t, admin, simplex, tt.roles...)
			eventually(t, "copies go to server2 only", func() error {
				speaks, hears := heard(t, cfg, l)
				if diff := cmp.Diff([]string{"server2"}, speaks); diff != "" {
					t.Errorf("who speaks to the client (-want +got):\n%s", diff)
				}
				if !slices.Equal(hears, []string{"server2"}) {
					return fmt.Errorf("%v hear", hears)
				}
				return nil
			})
			var f *adminv1.Failover
			eventually(t, "the record is complete", func() error {
				resp, err := admin.ListFailovers(t.Context(), &adminv1.ListFailoversRequest{})
				if err != nil {
					return err
				}
				if n := len(resp.GetFailovers()); n != 1 {
					return fmt.Errorf("%d failovers", n)
				}
				f = resp.GetFailovers()[0]
				if f.GetReleased() == nil {
					return errors.New("it was not released")
				}
				return nil
			})
			got := []string{f.GetPair(), f.GetFrom(), f.GetTo(), f.GetCause()}
			if diff := cmp.Diff([]string{"web", "server1", "server2", tt.cause}, got); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
			times := []time.Time{f.GetSuspected().AsTime(), f.GetDecided().AsTime(), f.GetWritten().AsTime(), f.GetReleased().AsTime()}
			if !slices.IsSortedFunc(times, time.Time.Compare) {
				t.Errorf("the times of the record are not in order: %v", times)
			}
			if at, ok := a2.releasedAt(f.GetEpoch()); !ok || at.Before(f.GetWritten().AsTime()) {
				t.Errorf("released at %v, written at %v", at, f.GetWritten().AsTime())
			}
			t.Logf("fault to decided %v, decided to written %v, written to released %v; fault to the first packet heard %v",
				f.GetDecided().AsTime().Sub(began), f.GetDecideToWritten().AsDuration(),
				f.GetReleased().AsTime().Sub(f.GetWritten().AsTime()), first.Sub(began))
		})
	}
}
