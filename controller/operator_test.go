// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/desired"
	"github.com/understudy-net/understudy/controller/p4rt"
	"github.com/understudy-net/understudy/controller/store"
	"github.com/understudy-net/understudy/p4"
)

// startKept starts a controller whose configuration is that of a directory, as a
// process would. stop ends it, and what it has open.
func startKept(t *testing.T, dir string) (r *running, d *desired.Desired) {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	log := testLog(t)
	d, err = desired.Open(desired.Options{File: filepath.Join(dir, "c.yaml"), Store: s, Logger: log, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	c, err := New(Options{
		Desired: d, Pipeline: p4rt.Pipeline{Info: p4.Info(), Device: p4.JSON()}, Logger: log,
		Rand: rand.New(rand.NewPCG(1, 2)), Ready: func() { close(ready) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	r = &running{Controller: c, stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("controller: %v", err)
		}
		s.Close()
	})}
	t.Cleanup(r.stop)
	select {
	case <-ready:
	case <-time.After(deadline):
		t.Fatal("the controller does not get ready")
	}
	return r, d
}

// writeText puts a configuration file into a directory of its own, which is its
// state_dir, too.
func writeText(t *testing.T, switchAddress string) (dir string) {
	t.Helper()
	text := testText(t, switchAddress)
	_, rest, _ := strings.Cut(text, "state_dir: ")
	dir, _, _ = strings.Cut(rest, "\n")
	if err := os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const (
	inService = adminv1.AdminState_ADMIN_STATE_IN_SERVICE
	drained   = adminv1.AdminState_ADMIN_STATE_DRAINED
	isolated  = adminv1.AdminState_ADMIN_STATE_FENCED
)

func adminStateOf(t testing.TB, p *adminv1.Pair, server string) adminv1.AdminState {
	t.Helper()
	for _, s := range p.GetServers() {
		if s.GetName() == server {
			return s.GetAdminState()
		}
	}
	t.Fatalf("no server %q in %v", server, p)
	return 0
}

// The active server is drained: it leaves when all its connections are held, and
// stays out of service over a restart of the controller.
func TestDrain(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	dir := writeText(t, l.address)
	c, d := startKept(t, dir)
	admin := c.admin(t)
	servers := d.Config().Pairs[0].Servers
	a1 := startAgent(t, l, c.AgentAddr().String(), servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)

	// Nobody could take over.
	_, err := admin.DrainServer(t.Context(), &adminv1.DrainServerRequest{Server: "server1"})
	refused := false
	for _, x := range status.Convert(err).Details() {
		info, ok := x.(*errdetails.ErrorInfo)
		refused = refused || ok && info.GetReason() == "REFUSED"
	}
	if status.Code(err) != codes.FailedPrecondition || !refused {
		t.Errorf("drain of the only server: %v, want FailedPrecondition with its details", err)
	}
	if _, err := admin.DrainServer(t.Context(), &adminv1.DrainServerRequest{Server: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("drain of nobody: %v, want NotFound", err)
	}

	a2 := startAgent(t, l, c.AgentAddr().String(), servers[1], nil)
	awaitPair(t, admin, duplex, active, backup)
	a1.counts(5, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	// Two connections would be lost: it waits for longer than this caller does.
	if _, err := admin.DrainServer(ctx, &adminv1.DrainServerRequest{Server: "server1"}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("drain with connections that nobody else holds: %v, want DeadlineExceeded", err)
	}
	p := awaitPair(t, admin, duplex, active, backup)
	if got := adminStateOf(t, p, "server1"); got != drained {
		t.Errorf("server1 is %v", got)
	}
	type result struct {
		change *adminv1.ServerChange
		err    error
	}
	got := make(chan result, 1)
	go func() {
		change, err := admin.DrainServer(t.Context(), &adminv1.DrainServerRequest{Server: "server1"})
		got <- result{change, err}
	}()
	a1.counts(3, 3)
	r := <-got
	if r.err != nil || r.change.GetFailover().GetTo() != "server2" && r.change.GetPair().GetServers()[1].GetRole() != active {
		t.Errorf("drain: %v, %v", r.change, r.err)
	}
	awaitPair(t, admin, simplex, fenced, active)

	c.stop()
	c, _ = startKept(t, dir)
	admin = c.admin(t)
	startAgent(t, l, c.AgentAddr().String(), servers[1], a2)
	startAgent(t, l, c.AgentAddr().String(), servers[0], a1)
	p = awaitPair(t, admin, simplex, fenced, active)
	if got := adminStateOf(t, p, "server1"); got != drained {
		t.Errorf("after a restart of the controller server1 is %v", got)
	}
	for range 2 {
		if _, err := admin.UndrainServer(t.Context(), &adminv1.UndrainServerRequest{Server: "server1"}); err != nil {
			t.Error(err)
		}
	}
	p = awaitPair(t, admin, duplex, backup, active)
	if got := adminStateOf(t, p, "server1"); got != inService {
		t.Errorf("server1 is %v", got)
	}
}

// The only server is fenced by force: nobody speaks to the clients, not even when its
// agent says that it is active, and it stays so over a restart.
func TestFenceByForce(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	dir := writeText(t, l.address)
	c, d := startKept(t, dir)
	admin := c.admin(t)
	servers := d.Config().Pairs[0].Servers
	a1 := startAgent(t, l, c.AgentAddr().String(), servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)
	if speaks, _ := heard(t, d.Config(), l); len(speaks) != 1 {
		t.Fatalf("%v speak", speaks)
	}
	if _, err := admin.FenceServer(t.Context(), &adminv1.FenceServerRequest{Server: "server1"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("fence of the only server: %v, want FailedPrecondition", err)
	}
	change, err := admin.FenceServer(t.Context(), &adminv1.FenceServerRequest{Server: "server1", Force: true})
	if err != nil || adminStateOf(t, change.GetPair(), "server1") != isolated {
		t.Errorf("fence: %v, %v", change, err)
	}
	silent := func() error {
		if speaks, _ := heard(t, d.Config(), l); len(speaks) > 0 {
			return fmt.Errorf("%v speak", speaks)
		}
		return nil
	}
	eventually(t, "nobody speaks", silent)
	c.stop()
	c, _ = startKept(t, dir)
	admin = c.admin(t)
	startAgent(t, l, c.AgentAddr().String(), servers[0], a1)
	awaitPair(t, admin, down, fenced, noRole)
	if err := silent(); err != nil {
		t.Error(err)
	}
	// Another one may serve.
	startAgent(t, l, c.AgentAddr().String(), servers[1], nil)
	awaitPair(t, admin, simplex, fenced, active)
}

// A third server is added to a pair that runs, the backup is removed, and a new
// controller finds all as it was: the numbers of those that stay do not change.
func TestServersChange(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	dir := writeText(t, l.address)
	c, d := startKept(t, dir)
	admin := c.admin(t)
	servers := d.Config().Pairs[0].Servers
	a1 := startAgent(t, l, c.AgentAddr().String(), servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)
	a2 := startAgent(t, l, c.AgentAddr().String(), servers[1], nil)
	epoch := awaitPair(t, admin, duplex, active, backup).GetEpoch()

	third := &adminv1.CreateServerRequest{Pair: "web", Name: "server3", Port: server3Port, Mac: "02:00:00:00:02:03", Gateway: "10.0.2.1"}
	for range 2 {
		if _, err := admin.CreateServer(t.Context(), third); err != nil {
			t.Fatal(err)
		}
	}
	s3, _ := d.Config().Pairs[0].Server(3)
	a3 := startAgent(t, l, c.AgentAddr().String(), s3, nil)
	if p := awaitPair(t, admin, duplex, active, backup, fenced); p.GetEpoch() != epoch {
		t.Errorf("epoch %d, was %d: a spare changes nothing", p.GetEpoch(), epoch)
	}

	// The file has the first two; it is the file that server2 is taken from.
	text, err := os.ReadFile(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	without := func(server string) []byte {
		var lines []string
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, "{name: "+server+",") {
				lines = append(lines, line)
			}
		}
		return []byte(strings.Join(lines, ""))
	}
	// With one server in the file, server3 is the second one of the pair.
	_, err = admin.ApplyConfiguration(t.Context(), &adminv1.ApplyConfigurationRequest{Text: without("server1")})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "drain it") {
		t.Errorf("removal of the active server: %v, want FailedPrecondition", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "c.yaml"), without("server2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Reload(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	p := awaitPair(t, admin, duplex, active, backup)
	if got := p.GetServers()[1].GetName(); got != "server3" {
		t.Errorf("the backup is %s", got)
	}
	eventually(t, "server2 is fenced", func() error {
		if got := a2.last(); got.GetRole() != agentv1.Role_ROLE_FENCED {
			return errors.New(got.String())
		}
		return nil
	})
	if st := switchText(t, c); strings.Contains(st, "02:00:00:00:02:02") || !strings.Contains(st, "replica=3") {
		t.Errorf("the switch has\n%s", st)
	}

	before := switchText(t, c)
	c.stop()
	c, _ = startKept(t, dir)
	if diff := switchText(t, c); diff != before {
		t.Errorf("a restart changed the switch:\n%s\nwas\n%s", diff, before)
	}
	admin = c.admin(t)
	startAgent(t, l, c.AgentAddr().String(), s3, a3)
	startAgent(t, l, c.AgentAddr().String(), servers[0], a1)
	if p := awaitPair(t, admin, duplex, active, backup); p.GetServers()[1].GetName() != "server3" {
		t.Errorf("pair %v", p)
	}
}
