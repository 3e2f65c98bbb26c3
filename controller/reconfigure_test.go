// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/p4rt"
)

const (
	apiService = `  - {name: api, pair: web, vip: 198.51.100.20, protocol: tcp, port: 81, upstream: "127.0.0.1:81"}` + "\n"
	dbPair     = `  - name: db
    servers:
      - {name: server3, port: 2, mac: "02:00:00:00:01:03", gateway: 10.0.1.1}
      - {name: server4, port: 3, mac: "02:00:00:00:02:03", gateway: 10.0.2.1}
`
	dbService = `  - {name: db, pair: db, vip: 198.51.100.30, protocol: tcp, port: 5432, upstream: "127.0.0.1:5432"}` + "\n"
)

func parseText(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func services(as *agentv1.Assignment) (names []string) {
	for _, s := range as.GetServices() {
		names = append(names, s.GetName())
	}
	return names
}

// lines that are in one text only.
func differ(t *testing.T, before, after string) (gone, come []string) {
	t.Helper()
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range a {
		if !slices.Contains(b, l) {
			gone = append(gone, l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			come = append(come, l)
		}
	}
	return gone, come
}

// Services come and go while a pair is in duplex: both agents are told, the switch
// gets what is new and nothing else, and the pair stays what it is.
func TestServicesChange(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	text := testText(t, l.address)
	cfg := parseText(t, text)
	c := start(t, cfg)
	admin := c.admin(t)
	a1 := startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)
	a2 := startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[1], nil)
	epoch := awaitPair(t, admin, duplex, active, backup).GetEpoch()
	// While the session puts the switch right it cannot be read.
	read := func() (text string) {
		t.Helper()
		eventually(t, "the switch is read", func() error {
			st, err := c.session.Read(t.Context())
			text = st.String()
			return err
		})
		return text
	}
	before := read()

	if err := c.loop.reconfigure(t.Context(), parseText(t, text+apiService)); err != nil {
		t.Fatal(err)
	}
	gone, come := differ(t, before, read())
	want := []string{
		"arp_reply[target_ip=198.51.100.20] arp_answer(mac=02:00:00:00:01:01)",
		"replica[ingress_port=2, src_mac=02:00:00:00:01:02, src_addr=198.51.100.20] from_replica(pair=1, replica=1, rid=1)",
		"replica[ingress_port=3, src_mac=02:00:00:00:02:02, src_addr=198.51.100.20] from_replica(pair=1, replica=2, rid=2)",
		"source_filter[src_addr=198.51.100.20] guard()",
		"vip[dst_addr=198.51.100.20, protocol=1, dst_port=0] duplicate(group=1)",
		"vip[dst_addr=198.51.100.20, protocol=6, dst_port=81] duplicate(group=1)",
	}
	if diff := cmp.Diff(want, come); diff != "" || len(gone) > 0 {
		t.Errorf("the switch lost %v; it got (-want +got):\n%s", gone, diff)
	}
	for _, a := range []*agent{a1, a2} {
		if got := services(a.last()); !slices.Equal(got, []string{"web", "api"}) || a.last().GetEpoch() != epoch {
			t.Errorf("%s was told %v in epoch %d", a.server.Name, got, a.last().GetEpoch())
		}
	}
	if p := awaitPair(t, admin, duplex, active, backup); p.GetEpoch() != epoch || len(p.GetServices()) != 2 {
		t.Errorf("pair %v", p)
	}
	// A switch that comes back gets what is in force now.
	if diff := cmp.Diff(read(), func() string { c.session.Resync(); return read() }()); diff != "" {
		t.Errorf("after a resync:\n%s", diff)
	}

	if err := c.loop.reconfigure(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the way back", func() error {
		if diff := cmp.Diff(before, read()); diff != "" {
			return fmt.Errorf("(-before +after):\n%s", diff)
		}
		return nil
	})
	if got := services(a2.last()); !slices.Equal(got, []string{"web"}) {
		t.Errorf("told %v", got)
	}
	// And the pair fails over as ever.
	a1.kill()
	awaitPair(t, admin, simplex, noRole, active)
}

// Pairs come and go, too; others do not notice.
func TestPairsChange(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	text := testText(t, l.address)
	cfg := parseText(t, text)
	c := start(t, cfg)
	admin := c.admin(t)
	a1 := startAgent(t, l, c.AgentAddr().String(), cfg.Pairs[0].Servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)
	before := switchText(t, c)
	told := len(a1.told())

	more := parseText(t, strings.Replace(text, "services:", dbPair+"services:", 1)+dbService)
	if err := c.loop.reconfigure(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	a3 := startAgent(t, l, c.AgentAddr().String(), more.Pairs[1].Servers[0], nil)
	eventually(t, "server3 is active", func() error {
		if got := a3.last(); got.GetRole() != agentv1.Role_ROLE_ACTIVE || !got.GetReleased() {
			return errors.New(got.String())
		}
		return nil
	})
	if !strings.Contains(switchText(t, c), "active[pair=2] set_active(replica=1") {
		t.Errorf("the switch has\n%s", switchText(t, c))
	}

	if err := c.loop.reconfigure(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, switchText(t, c)); diff != "" {
		t.Errorf("after the pair has gone (-before +after):\n%s", diff)
	}
	eventually(t, "server3 is fenced", func() error {
		if got := a3.last(); got.GetRole() != agentv1.Role_ROLE_FENCED {
			return errors.New(got.String())
		}
		return nil
	})
	// What it says now is for nobody, and does no harm; nor does its end.
	a3.health(false, "gone")
	a3.kill()
	if n := len(a1.told()); n > told+2 {
		t.Errorf("server1 was told %v", a1.told()[told:])
	}
	awaitPair(t, admin, simplex, active, noRole)
}

func switchText(t *testing.T, c *running) string {
	t.Helper()
	st, err := c.session.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st.String()
}

// What a switch refuses is not in force; what only cannot be written now is.
func TestReconfigureFails(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	text := testText(t, l.address)
	c := start(t, parseText(t, text))
	a := startAgent(t, l, c.AgentAddr().String(), c.loop.tables.Load().cfg.Pairs[0].Servers[0], nil)
	awaitPair(t, c.admin(t), simplex, active, noRole)
	before := switchText(t, c)
	more := parseText(t, text+apiService)

	change := c.loop.change
	c.loop.change = func(_ context.Context, updates []p4rt.Update) error {
		return &p4rt.WriteError{Failed: []p4rt.UpdateError{{Update: updates[0].String(), Code: codes.ResourceExhausted}}, Sent: 1}
	}
	if err := c.loop.reconfigure(t.Context(), more); err == nil || !strings.Contains(err.Error(), "the switch refuses it") {
		t.Errorf("error %v", err)
	}
	if got := services(a.last()); !slices.Equal(got, []string{"web"}) {
		t.Errorf("told %v", got)
	}
	eventually(t, "the switch has what it had", func() error {
		if st, err := c.session.Read(t.Context()); err != nil || st.String() != before {
			return errors.New(st.String())
		}
		return nil
	})

	c.loop.change = func(context.Context, []p4rt.Update) error { return p4rt.ErrNotReady }
	if err := c.loop.reconfigure(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the switch gets it", func() error {
		if st, err := c.session.Read(t.Context()); err != nil || !strings.Contains(st.String(), "198.51.100.20") {
			return errors.New(st.String())
		}
		return nil
	})
	c.loop.change = change

	// A server does not move while it is one of the pair, and the active one stays.
	for change, want := range map[string]string{
		"name: server2, port: 3": `where server "server2" is cannot be changed`,
		"name: server1, port: 2": `server "server1" cannot be removed: server1 is active; drain it first`,
	} {
		other := strings.Replace(text, change, strings.NewReplacer("port: 3", "port: 4", "server1", "server9").Replace(change), 1)
		if err := c.loop.reconfigure(t.Context(), parseText(t, other)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
