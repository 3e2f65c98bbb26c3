// SPDX-License-Identifier: Apache-2.0

// Package metrics is what a controller tells Prometheus. What can be read is read when
// somebody asks, from a Snapshot; what happens is counted when it happens. Names and
// units follow https://prometheus.io/docs/practices/naming/. docs/metrics.md lists them.
package metrics

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// Snapshot is how things are at one moment.
type Snapshot struct {
	Pairs []*adminv1.Pair
	// Heartbeats counts those that came, by server.
	Heartbeats map[string]uint64
	// Hosts are what agents say of theirs, by server.
	Hosts    map[string]Host
	Switches []Switch
	// Configuration is nil where it never changes.
	Configuration *adminv1.Configuration
	// BGP is nil without it.
	BGP *BGP
	// CertificateExpiry is the end of the controller's certificate; zero without one.
	CertificateExpiry time.Time
	// LogLinesLost counts what the log was too slow for.
	LogLinesLost uint64
	// Watchers is how many follow events.
	Watchers int
}

// Host is what an agent says of its host.
type Host struct {
	// ClockAhead is how far its clock is ahead of the controller's.
	ClockAhead time.Duration
	// Overflows counts connections that were thrown away because a listener's queue was
	// full, since the agent's session began.
	Overflows uint64
}

// Switch is the session with one switch.
type Switch struct {
	Name string
	// State is one of SwitchStates.
	State string
	// Entries and Groups are those that it is known to have.
	Entries, Groups int
}

// SwitchStates are the states of a session with a switch.
var SwitchStates = []string{"connecting", "standby", "syncing", "ready"}

// BGP is what routers are told.
type BGP struct {
	// Peers says, by name, whether a session is established.
	Peers map[string]bool
	// Routes are announced now; Announced and Withdrawn count.
	Routes               int
	Announced, Withdrawn uint64
}

// Failover is one change of the active server, when it is over.
type Failover struct {
	Pair, Cause string
	// Suspected, Decided, Written and Released are when; Released may be zero.
	Suspected, Decided, Written, Released time.Time
}

// Metrics gathers and serves. Its methods may be called from any goroutine.
type Metrics struct {
	registry *prometheus.Registry

	failovers *prometheus.CounterVec
	steps     *prometheus.HistogramVec
	writes    *prometheus.HistogramVec
	updates   *prometheus.CounterVec
	sessions  prometheus.Counter
	drift     prometheus.Counter
	calls     *prometheus.CounterVec
}

// Steps of a failover.
const (
	stepDetect  = "detect"
	stepWrite   = "write"
	stepRelease = "release"
)

// Results of a write.
const (
	resultOK     = "ok"
	resultFailed = "failed"
)

// New returns metrics of a controller of a version. snapshot is called for each
// scrape, with a deadline.
func New(version string, snapshot func(context.Context) (Snapshot, error)) *Metrics {
	// From a fifth of a millisecond to six seconds, each half as long again.
	buckets := prometheus.ExponentialBucketsRange(0.0002, 6.5, 24)
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		failovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_failovers_total",
			Help: "Changes of the active server, by what told.",
		}, []string{"pair", "cause"}),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_failover_step_duration_seconds",
			Help:    "How long each step of a failover took: detect (last sign of life to decision), write (to the switch's confirmation), release (until the new active server spoke).",
			Buckets: buckets,
		}, []string{"step"}),
		writes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_switch_write_duration_seconds",
			Help:    "How long the switch took to confirm a write, or to fail to.",
			Buckets: buckets,
		}, []string{"result"}),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_switch_updates_total",
			Help: "Entries and groups that were written to the switch.",
		}, []string{"result"}),
		sessions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "understudy_switch_sessions_total",
			Help: "How often the switch was brought to have what it shall have after a session began.",
		}),
		drift: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "understudy_switch_drift_total",
			Help: "Entries and groups of the switch that were found changed behind the controller's back.",
		}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_admin_requests_total",
			Help: "Calls of the Admin API, by method and gRPC code.",
		}, []string{"method", "code"}),
	}
	// What may not happen for a long time is there from the beginning, so that its
	// first time is an increase.
	for _, s := range []string{stepDetect, stepWrite, stepRelease} {
		m.steps.WithLabelValues(s)
	}
	for _, r := range []string{resultOK, resultFailed} {
		m.writes.WithLabelValues(r)
		m.updates.WithLabelValues(r)
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "understudy_build_info", Help: "Always 1; says what runs.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(m.failovers, m.steps, m.writes, m.updates, m.sessions, m.drift, m.calls, build,
		snapshots{snapshot}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// FailedOver counts a failover.
func (m *Metrics) FailedOver(f Failover) {
	m.failovers.WithLabelValues(f.Pair, f.Cause).Inc()
	step := func(name string, from, to time.Time) {
		if !from.IsZero() && !to.IsZero() {
			m.steps.WithLabelValues(name).Observe(max(0, to.Sub(from)).Seconds())
		}
	}
	step(stepDetect, f.Suspected, f.Decided)
	step(stepWrite, f.Decided, f.Written)
	step(stepRelease, f.Written, f.Released)
}

// Wrote counts a write of a number of updates to the switch.
func (m *Metrics) Wrote(updates int, took time.Duration, err error) {
	result := resultOK
	if err != nil {
		result = resultFailed
	}
	m.writes.WithLabelValues(result).Observe(took.Seconds())
	m.updates.WithLabelValues(result).Add(float64(updates))
}

// SwitchReady counts a session with the switch.
func (m *Metrics) SwitchReady() { m.sessions.Inc() }

// Drifted counts differences that were found in the switch.
func (m *Metrics) Drifted(n int) { m.drift.Add(float64(n)) }

// Called counts a call of the Admin API. Both must be of a bounded set.
func (m *Metrics) Called(method, code string) { m.calls.WithLabelValues(method, code).Inc() }

// Registry has everything.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

const (
	// scrapeTimeout is less than Prometheus's own, 10 s.
	scrapeTimeout = 5 * time.Second
	scrapesAtOnce = 4
)

// Serve serves /metrics on a listener until ctx ends, which is not an error, and
// closes the listener. healthy and ready, on /-/healthy and /-/ready, are 200 or 503.
func (m *Metrics) Serve(ctx context.Context, l net.Listener, ready func() bool, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapesAtOnce,
		Timeout:             2 * scrapeTimeout,
	}))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "healthy") })
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			http.Error(w, "not in charge of the switch", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: scrapeTimeout, ReadTimeout: scrapeTimeout, WriteTimeout: 3 * scrapeTimeout,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err := srv.Serve(l)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("metrics: %w", err)
}

// Text is everything in Prometheus's text format.
func (m *Metrics) Text() ([]byte, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := expfmt.NewEncoder(&out, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}
