// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// full is a snapshot that has everything.
func full(context.Context) (Snapshot, error) {
	return Snapshot{
		Pairs: []*adminv1.Pair{{
			Name: "web", State: adminv1.PairState_PAIR_STATE_DUPLEX, Epoch: 7, Connections: 50, Protected: 49,
			Servers: []*adminv1.Server{
				{Name: "a", Role: adminv1.ServerRole_SERVER_ROLE_ACTIVE, Attached: true, ApplicationUp: true, LastHeartbeat: timestamppb.New(noon)},
				{Name: "b", Role: adminv1.ServerRole_SERVER_ROLE_BACKUP},
			},
		}},
		Hosts:             map[string]Host{"a": {ClockAhead: -2 * time.Second, Overflows: 5}},
		Heartbeats:        map[string]uint64{"a": 1000},
		Switches:          []Switch{{Name: "s1", State: "ready", Entries: 12, Groups: 1}},
		Configuration:     &adminv1.Configuration{Version: "abc", Time: timestamppb.New(noon), Stale: true},
		BGP:               &BGP{Peers: map[string]bool{"r1": true}, Routes: 1, Announced: 3, Withdrawn: 2},
		CertificateExpiry: noon, LogLinesLost: 4, Watchers: 2,
	}, nil
}

func fullMetrics() *Metrics {
	m := New("v1", full)
	m.FailedOver(Failover{Pair: "web", Cause: "heartbeats missed", Suspected: noon, Decided: noon.Add(30 * time.Millisecond),
		Written: noon.Add(31 * time.Millisecond), Released: noon.Add(32 * time.Millisecond)})
	m.Wrote(3, time.Millisecond, nil)
	m.Wrote(1, time.Second, errors.New("no"))
	m.SwitchReady()
	m.Called("SwitchOver", "OK")
	return m
}

func TestValues(t *testing.T) {
	m := fullMetrics()
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(m.Registry(), promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	all := rec.Body.String()
	for name, want := range map[string]string{
		"understudy_pair_state": `understudy_pair_state{pair="web",state="down"} 0
understudy_pair_state{pair="web",state="duplex"} 1
understudy_pair_state{pair="web",state="failing_over"} 0
understudy_pair_state{pair="web",state="joining"} 0
understudy_pair_state{pair="web",state="simplex"} 0
`,
		"understudy_pair_protected_connections":                   `understudy_pair_protected_connections{pair="web"} 49` + "\n",
		"understudy_server_application_up":                        `understudy_server_application_up{pair="web",server="a"} 1` + "\n" + `understudy_server_application_up{pair="web",server="b"} 0` + "\n",
		"understudy_server_heartbeats_received_total":             `understudy_server_heartbeats_received_total{pair="web",server="a"} 1000` + "\n" + `understudy_server_heartbeats_received_total{pair="web",server="b"} 0` + "\n",
		"understudy_server_last_heartbeat_timestamp_seconds":      `understudy_server_last_heartbeat_timestamp_seconds{pair="web",server="a"} 1.7673552e+09` + "\n",
		"understudy_server_clock_offset_seconds":                  `understudy_server_clock_offset_seconds{pair="web",server="a"} -2` + "\n",
		"understudy_server_listen_overflows_total":                `understudy_server_listen_overflows_total{pair="web",server="a"} 5` + "\n",
		"understudy_configuration_last_apply_successful":          "understudy_configuration_last_apply_successful 0\n",
		"understudy_bgp_updates_total":                            `understudy_bgp_updates_total{kind="announce"} 3` + "\n" + `understudy_bgp_updates_total{kind="withdraw"} 2` + "\n",
		"understudy_switch_updates_total":                         `understudy_switch_updates_total{result="failed"} 1` + "\n" + `understudy_switch_updates_total{result="ok"} 3` + "\n",
		"understudy_failovers_total":                              `understudy_failovers_total{cause="heartbeats missed",pair="web"} 1` + "\n",
		"understudy_admin_requests_total":                         `understudy_admin_requests_total{code="OK",method="SwitchOver"} 1` + "\n",
		"understudy_log_lines_lost_total":                         "understudy_log_lines_lost_total 4\n",
		"understudy_configuration_last_success_timestamp_seconds": "understudy_configuration_last_success_timestamp_seconds 1.7673552e+09\n",
	} {
		var lines strings.Builder
		for l := range strings.Lines(all) {
			if strings.HasPrefix(l, name+"{") || strings.HasPrefix(l, name+" ") {
				lines.WriteString(l)
			}
		}
		if lines.String() != want {
			t.Errorf("%s:\n%swant\n%s", name, &lines, want)
		}
	}
	if n := testutil.CollectAndCount(m.steps); n != 3 {
		t.Errorf("%d steps", n)
	}
}

// The names follow Prometheus's guide, and each metric is in the documents.
func TestNames(t *testing.T) {
	problems, err := testutil.GatherAndLint(fullMetrics().Registry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	known := names(t)
	for name := range known {
		for _, part := range []string{"_bucket", "_count", "_sum"} {
			name = strings.TrimSuffix(name, part) // of a histogram
		}
		if strings.HasPrefix(name, "understudy_") && !strings.Contains(string(doc), "`"+name) {
			t.Errorf("docs/metrics.md does not have %s", name)
		}
	}
	for _, name := range regexp.MustCompile("understudy_[a-z_]+").FindAllString(string(doc), -1) {
		if known[name] == nil {
			t.Errorf("docs/metrics.md has %s, which does not exist", name)
		}
	}
}

// names returns the labels of each metric that there can be; those of a histogram under
// the names that queries have for it.
func names(t *testing.T) map[string][]string {
	t.Helper()
	families, err := fullMetrics().Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	for _, f := range families {
		labels := []string{"instance", "job"} // of the scrape
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		known[f.GetName()] = labels
		if f.GetMetric()[0].GetHistogram() != nil {
			known[f.GetName()+"_count"], known[f.GetName()+"_sum"] = labels, labels
			known[f.GetName()+"_bucket"] = append(slices.Clone(labels), "le")
		}
	}
	return known
}

var (
	selector = regexp.MustCompile(`((?:understudy|process|go)_[a-z_]+)(?:\{([^}]*)\})?`)
	label    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	grouping = regexp.MustCompile(`(?:by|on|without|ignoring|group_left)\s*\(([^)]*)\)`)
)

// check tells what a query has that does not exist.
func check(known map[string][]string, query string) (problems []string) {
	found := selector.FindAllStringSubmatch(query, -1)
	if len(found) == 0 {
		problems = append(problems, "it asks for no metric")
	}
	all := map[string]bool{}
	for _, m := range found {
		labels, ok := known[m[1]]
		if !ok {
			problems = append(problems, m[1]+" does not exist")
			continue
		}
		for _, l := range labels {
			all[l] = true
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) {
				problems = append(problems, fmt.Sprintf("%s has no label %s", m[1], l[1]))
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(query, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if l = strings.TrimSpace(l); l != "" && !all[l] {
				problems = append(problems, "nothing in it has the label "+l)
			}
		}
	}
	return problems
}

// What the dashboard and the alerts ask for exists.
func TestQueriesExist(t *testing.T) {
	known := names(t)
	for query, want := range map[string]int{
		`understudy_pair_state{state="duplex"} == 0`:                              0,
		`sum by (step) (rate(understudy_failover_step_duration_seconds_sum[5m]))`: 0,
		`understudy_pair_stat{state="duplex"}`:                                    1,
		`understudy_pair_state{role="duplex"}`:                                    1,
		`sum by (role) (understudy_pair_state)`:                                   1,
		`1 + 1`:                                                                   1,
		`histogram_quantile(0.9, sum by (le) (rate(understudy_failover_step_duration_seconds[5m])))`: 1,
	} {
		if got := check(known, query); len(got) != want {
			t.Errorf("%s: %v, want %d", query, got, want)
		}
	}

	text, err := os.ReadFile("../../packaging/prometheus/understudy.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			alerts++
			for _, p := range check(known, r.Expr) {
				t.Errorf("alert %s: %s", r.Alert, p)
			}
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %s: it needs a severity, a summary, and a description that says what to do", r.Alert)
			}
		}
	}
	if alerts < 8 {
		t.Errorf("%d alerts", alerts)
	}

	files, err := filepath.Glob("../../packaging/grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboard: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard struct {
			Title  string
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
			Annotations struct{ List []struct{ Name, Expr string } }
		}
		if err := json.Unmarshal(text, &dashboard); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		queries := 0
		for _, a := range dashboard.Annotations.List {
			for _, problem := range check(known, a.Expr) {
				t.Errorf("%s: annotation %q: %s", file, a.Name, problem)
			}
		}
		for _, p := range dashboard.Panels {
			for _, x := range p.Targets {
				queries++
				for _, problem := range check(known, x.Expr) {
					t.Errorf("%s: panel %q: %s", file, p.Title, problem)
				}
			}
		}
		if queries < 10 {
			t.Errorf("%s has %d queries", file, queries)
		}
	}
}

// A controller that does not answer is said not to, and the rest is there.
func TestNoSnapshot(t *testing.T) {
	m := New("v1", func(context.Context) (Snapshot, error) { return Snapshot{}, errors.New("stopping") })
	got, err := testutil.GatherAndCount(m.Registry(), "understudy_snapshot_successful", "understudy_pair_state", "understudy_build_info")
	if err != nil || got != 2 {
		t.Errorf("%d metrics, %v", got, err)
	}
}

func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var ready atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- fullMetrics().Serve(ctx, l, func() bool { return ready.Load() }, slog.New(slog.DiscardHandler))
	}()
	for _, tc := range []struct {
		path  string
		ready bool
		code  int
		want  string
	}{
		{"/metrics", true, 200, `understudy_build_info{goversion="go`},
		{"/-/healthy", false, 200, "healthy"},
		{"/-/ready", false, 503, "not in charge of the switch"},
		{"/-/ready", true, 200, "ready"},
		{"/", true, 404, ""},
	} {
		ready.Store(tc.ready)
		res, err := http.Get("http://" + l.Addr().String() + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != tc.code || !strings.Contains(string(body), tc.want) {
			t.Errorf("%s: %d, %v\n%s", tc.path, res.StatusCode, err, body)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
