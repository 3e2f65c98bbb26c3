// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// scrape returns what Prometheus would see.
func scrape(t *testing.T, r *running) string {
	t.Helper()
	res, err := http.Get("http://" + r.MetricsAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", res.StatusCode, err)
	}
	return string(body)
}

// What happens is in the metrics.
func TestMetrics(t *testing.T) {
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	cfg.Listen.Metrics = "127.0.0.1:0"
	r := start(t, cfg)
	admin := r.admin(t)
	servers := cfg.Pairs[0].Servers
	startAgent(t, l, r.AgentAddr().String(), servers[0], nil)
	awaitPair(t, admin, simplex)
	startAgent(t, l, r.AgentAddr().String(), servers[1], nil)
	awaitPair(t, admin, duplex, active, backup)
	if _, err := admin.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); err != nil {
		t.Fatal(err)
	}
	awaitPair(t, admin, duplex, backup, active)
	for _, want := range []string{
		`understudy_pair_state{pair="web",state="duplex"} 1`,
		`understudy_server_role{pair="web",role="active",server="server2"} 1`,
		`understudy_failovers_total{cause="operator",pair="web"} 1`,
		`understudy_failover_step_duration_seconds_count{step="write"} 1`,
		`understudy_failover_step_duration_seconds_count{step="release"} 1`,
		`understudy_switch_session_state{state="ready",switch="s1"} 1`,
		`understudy_switch_sessions_total 1`,
		`understudy_admin_requests_total{code="OK",method="SwitchOver"} 1`,
		`understudy_snapshot_successful 1`,
	} {
		eventually(t, want, func() error {
			if all := scrape(t, r); !strings.Contains(all, want+"\n") {
				return fmt.Errorf("it is not in\n%s", all)
			}
			return nil
		})
	}
	all := scrape(t, r)
	for _, not := range []string{
		`understudy_server_heartbeats_received_total{pair="web",server="server1"} 0` + "\n",
		"understudy_switch_entries{switch=\"s1\"} 0\n",
		`understudy_switch_updates_total{result="ok"} 0` + "\n",
	} {
		if strings.Contains(all, not) {
			t.Errorf("%s", not)
		}
	}
}
