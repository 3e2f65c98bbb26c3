// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	switchfaultv1 "github.com/understudy-net/understudy/api/switchfault/v1"
	"github.com/understudy-net/understudy/topologies"
	"github.com/understudy-net/understudy/topologies/lab/load"
)

// DemoConfig says what a demo shows.
type DemoConfig struct {
	// Connections is the number of the load's connections.
	Connections int
	// Faults are done one after the other.
	Faults []Fault
	// StrikeBackup strikes the backup instead of the active server.
	StrikeBackup bool
	// DropCopies makes the switch drop one in so many of the copies toward the
	// backup, from before the first connection until the fault; 0: none. From then
	// on they would be the only ones.
	DropCopies uint32
	// Duration is how long the load runs for each fault, which is done afterLoad
	// before its end, or when a third of it is over if that is later.
	Duration time.Duration
	// Rounds, if not 0, is how often each fault is done while one load goes on, the
	// server coming back in between; DropCopies and Duration then mean nothing.
	Rounds int
}

// afterLoad is how long the load goes on after a fault.
const afterLoad = 4 * time.Second

// beforeFault is how long the load runs before the fault.
func (c DemoConfig) beforeFault() time.Duration { return max(c.Duration/3, c.Duration-afterLoad) }

// DefaultDuration is DemoConfig.Duration's usual value.
const DefaultDuration = 6 * time.Second

// Demo does each fault under load, on a lab that is up, and heals the server
// after each. Its error is one of the demo itself; the report has what there is
// by then, and what the clients have noticed is in the report alone.
func (l *Lab) Demo(ctx context.Context, cfg DemoConfig) (*DemoReport, error) {
	defer Hurry()()
	r := &DemoReport{Scenarios: []Scenario{}}
	for _, f := range cfg.Faults {
		if err := l.WaitDuplex(ctx); err != nil {
			return r, err
		}
		if cfg.Rounds > 0 {
			s, err := l.rounds(ctx, f, cfg)
			if s != nil && s.Load != nil {
				r.Scenarios = append(r.Scenarios, *s)
			}
			if err != nil {
				return r, fmt.Errorf("%s: %w", f, err)
			}
			continue
		}
		s, err := l.scenario(ctx, f, cfg)
		for retry := 0; errors.Is(err, errUnasked) && retry < 2; retry++ {
			l.progress("%v; once more", err)
			if err := l.WaitDuplex(ctx); err != nil {
				return r, err
			}
			s, err = l.scenario(ctx, f, cfg)
		}
		if s != nil && s.Load != nil {
			r.Scenarios = append(r.Scenarios, *s)
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", f, err)
		}
		if err := l.Heal(ctx, s.Server, true); err != nil {
			return r, fmt.Errorf("after %s: %w", f, err)
		}
	}
	return r, nil
}

// Load runs the load against a service of the lab, from its client, until stop
// is called on what it returns.
func (l *Lab) Load(ctx context.Context, t *topologies.Topology, cfg load.Config) (*load.Load, error) {
	s := t.Services[0]
	if s.Protocol != "tcp" {
		return nil, fmt.Errorf("service %s is not a web service", s.Name)
	}
	client := t.OfKind(topologies.Client)[0].Name
	address := net.JoinHostPort(s.VIP.String(), strconv.Itoa(int(s.Port)))
	cfg.Host = s.VIP.String()
	cfg.Dial = func(ctx context.Context) (net.Conn, error) { return l.Dial(ctx, client, "tcp", address) }
	return load.Start(ctx, cfg), nil
}

// Topology returns the topology of the lab that is up.
func (l *Lab) Topology() (*topologies.Topology, error) {
	_, t, err := l.load()
	return t, err
}

// errUnasked: the pair changed before the fault, on a host that was too busy for
// its heartbeats perhaps. Connections that were open then are held by one server,
// so the fault would show nothing of Understudy.
var errUnasked = errors.New("the pair changed by itself before the fault")

// scenario does one fault. The pair must be duplex. With errUnasked the fault was
// not done, and the clients have noticed nothing.
func (l *Lab) scenario(ctx context.Context, f Fault, cfg DemoConfig) (*Scenario, error) {
	t, err := l.Topology()
	if err != nil {
		return nil, err
	}
	admin, conn, err := l.Admin()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	pair, active, backup, err := roles(ctx, admin, t.Services[0].Pair)
	if err != nil {
		return nil, err
	}
	s := &Scenario{Fault: f, Server: active}
	if cfg.StrikeBackup {
		s.Server = backup
	}
	watchCtx, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	simplex, err := watchSimplex(watchCtx, admin, pair.GetName())
	if err != nil {
		return s, err
	}
	drop, err := l.startDropping(ctx, t, backup, cfg.DropCopies)
	if err != nil {
		return s, err
	}
	defer drop.close()

	ld, err := l.Load(ctx, t, load.Config{Connections: cfg.Connections})
	if err != nil {
		return s, err
	}
	stopped := false
	defer func() {
		if !stopped {
			ld.Stop()
		}
	}()
	readyCtx, cancel := context.WithTimeout(ctx, 15*time.Second)
	err = ld.Ready(readyCtx)
	cancel()
	if err != nil {
		return s, err
	}
	ready, cpu := time.Now(), readCPU()
	if err := sleep(ctx, cfg.beforeFault()); err != nil {
		return s, err
	}
	s.CPU = readCPU().since(cpu)
	// A failover that nobody asked for leaves connections that one server holds.
	now, _, _, err := roles(ctx, admin, pair.GetName())
	if err != nil || now.GetEpoch() != pair.GetEpoch() {
		stopped = true
		if report := ld.Stop(); !report.Clean() {
			s.count(report, ready, time.Now())
			s.Problem = "the pair changed by itself before the fault, and clients noticed" + failoversSince(ctx, admin, pair)
			return s, nil
		}
		return s, fmt.Errorf("%w%s", errUnasked, failoversSince(ctx, admin, pair))
	}
	// At a moment at which something is at stake.
	s.InProgress = busyMoment(ctx, ld, min(3, cfg.Connections))
	l.progress("%s on %s, with %d requests in progress", f, s.Server, s.InProgress)
	in, err := l.Fault(f, s.Server)
	if err != nil {
		return s, err
	}
	if s.Dropped, err = drop.end(ctx); err != nil {
		return s, err
	}
	if err := sleep(ctx, cfg.Duration-cfg.beforeFault()); err != nil {
		return s, err
	}
	stopped = true
	s.count(ld.Stop(), ready, in.At)

	if cfg.StrikeBackup {
		select {
		case at := <-simplex:
			s.decided(at, in.At)
		default:
			s.Problem = "the controller did not notice that the backup was gone"
		}
		return s, nil
	}
	res, err := admin.ListFailovers(ctx, &adminv1.ListFailoversRequest{Pair: pair.GetName()})
	if err != nil {
		return s, fmt.Errorf("listing failovers: %w", err)
	}
	if !s.answered(res.GetFailovers(), pair.GetName(), pair.GetEpoch(), in.At) {
		s.Problem = "the controller has recorded no failover away from " + s.Server
	}
	return s, nil
}

// failoversSince describes what befell a pair, to be put behind a message.
func failoversSince(ctx context.Context, admin adminv1.AdminClient, pair *adminv1.Pair) string {
	res, err := admin.ListFailovers(ctx, &adminv1.ListFailoversRequest{Pair: pair.GetName()})
	if err != nil {
		return ""
	}
	var b strings.Builder
	for _, f := range res.GetFailovers() {
		if f.GetEpoch() > pair.GetEpoch() {
			fmt.Fprintf(&b, "; failover from %s to %s: %s", f.GetFrom(), f.GetTo(), f.GetCause())
		}
	}
	return b.String()
}

// roles returns a pair, and who is what in it.
func roles(ctx context.Context, admin adminv1.AdminClient, name string) (pair *adminv1.Pair, active, backup string, err error) {
	res, err := admin.ListPairs(ctx, &adminv1.ListPairsRequest{Pair: name})
	if err != nil {
		return nil, "", "", fmt.Errorf("listing pairs: %w", err)
	}
	if len(res.GetPairs()) != 1 {
		return nil, "", "", fmt.Errorf("the controller knows %d pairs of the name %s", len(res.GetPairs()), name)
	}
	pair = res.GetPairs()[0]
	for _, s := range pair.GetServers() {
		switch s.GetRole() {
		case adminv1.ServerRole_SERVER_ROLE_ACTIVE:
			active = s.GetName()
		case adminv1.ServerRole_SERVER_ROLE_BACKUP:
			backup = s.GetName()
		}
	}
	if active == "" || backup == "" {
		return nil, "", "", fmt.Errorf("pair %s is %s: it has no active server or no backup", name, StateName(pair.GetState()))
	}
	return pair, active, backup, nil
}

// watchSimplex tells, once, when the pair became simplex. It ends with ctx. The
// pair is watched when it returns.
func watchSimplex(ctx context.Context, admin adminv1.AdminClient, pair string) (<-chan time.Time, error) {
	stream, err := admin.WatchEvents(ctx, &adminv1.WatchEventsRequest{Pair: pair})
	if err != nil {
		return nil, fmt.Errorf("watching events: %w", err)
	}
	if _, err := stream.Recv(); err != nil { // the snapshot
		return nil, fmt.Errorf("watching events: %w", err)
	}
	at := make(chan time.Time, 1)
	go func() {
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			if e.GetPair().GetState() == adminv1.PairState_PAIR_STATE_SIMPLEX && e.GetType() != adminv1.EventType_EVENT_TYPE_SNAPSHOT {
				at <- e.GetTime().AsTime()
				return
			}
		}
	}()
	return at, nil
}

// dropping is a switch that drops copies; nil is one that does not.
type dropping struct {
	client switchfaultv1.FaultsClient
	hangUp func()
	t      *topologies.Topology
	server string
	before uint64
	once   sync.Once
}

// startDropping begins to drop copies toward a server, if oneIn is not 0.
func (l *Lab) startDropping(ctx context.Context, t *topologies.Topology, server string, oneIn uint32) (*dropping, error) {
	if oneIn == 0 {
		return nil, nil
	}
	client, conn, err := l.switchFaults(t)
	if err != nil {
		return nil, err
	}
	d := &dropping{client: client, hangUp: func() { conn.Close() }, t: t, server: server}
	if d.before, err = d.count(ctx); err == nil {
		err = setDrop(ctx, client, t, server, oneIn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return d, nil
}

func (d *dropping) count(ctx context.Context) (uint64, error) {
	res, err := d.client.GetDrops(ctx, &switchfaultv1.GetDropsRequest{})
	return res.GetDropped()[d.t.LinkOf(d.server).Port], err
}

// end stops dropping and returns how many copies were dropped.
func (d *dropping) end(ctx context.Context) (n uint64, err error) {
	if d == nil {
		return 0, nil
	}
	d.once.Do(func() {
		if err = setDrop(ctx, d.client, d.t, d.server, 0); err == nil {
			n, err = d.count(ctx)
		}
	})
	return n - d.before, err
}

// close ends it if end was not called.
func (d *dropping) close() {
	if d == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	d.end(ctx)
	d.hangUp()
}

// busyMoment waits until so many requests are in progress, not for long.
func busyMoment(ctx context.Context, ld *load.Load, want int) int {
	deadline := time.Now().Add(2 * time.Second)
	for {
		n := ld.InProgress()
		if n >= want || time.Now().After(deadline) || ctx.Err() != nil {
			return n
		}
		time.Sleep(300 * time.Microsecond)
	}
}

func readCPU() cpuTimes {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpuTimes{}
	}
	c, _ := parseCPU(string(b))
	return c
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
