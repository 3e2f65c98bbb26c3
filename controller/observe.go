// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"net"

	"github.com/understudy-net/understudy/controller/admin"
	"github.com/understudy-net/understudy/controller/metrics"
)

// snapshot is how things are now.
func (c *Controller) snapshot(ctx context.Context) (metrics.Snapshot, error) {
	pairs, err := c.loop.Pairs(ctx, "")
	if err != nil {
		return metrics.Snapshot{}, err
	}
	s := metrics.Snapshot{
		Pairs:        pairs,
		Heartbeats:   c.loop.heartbeats(),
		Hosts:        c.loop.hosts(),
		LogLinesLost: c.journal.lost(),
		Watchers:     c.loop.watching(),
	}
	for i, sw := range c.loop.tables.Load().cfg.Switches() {
		x := metrics.Switch{Name: sw.Name, State: c.sessions[i].Status().String()}
		x.Entries, x.Groups = c.sessions[i].Size()
		s.Switches = append(s.Switches, x)
	}
	if c.desired != nil {
		s.Configuration = admin.ConfigurationProto(c.desired.Status())
	}
	if c.certificates != nil {
		s.CertificateExpiry = c.certificates.NotAfter()
	}
	if c.speaker != nil {
		st := c.speaker.Status()
		s.BGP = &metrics.BGP{Peers: map[string]bool{}, Routes: len(st.Routes), Announced: st.Announced, Withdrawn: st.Withdrawn}
		for _, p := range st.Peers {
			s.BGP.Peers[p.Name] = p.Established()
		}
	}
	return s, nil
}

// serveMetrics is a task's function.
func (c *Controller) serveMetrics(ctx context.Context, l net.Listener) error {
	return c.metrics.Serve(ctx, l, func() bool { return len(c.sessions.ready()) > 0 }, c.log)
}

// heartbeats counts those that came, by server.
func (l *loop) heartbeats() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]uint64{}
	for _, p := range l.tables.Load().pairs {
		for _, s := range p.config.Servers {
			counts[s.Name] = p.beats[s.Replica-1].Load()
		}
	}
	return counts
}

// hosts are what agents say of theirs, by server.
func (l *loop) hosts() map[string]metrics.Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	hosts := map[string]metrics.Host{}
	for _, p := range l.tables.Load().pairs {
		for name, f := range p.known() {
			hosts[name] = metrics.Host{ClockAhead: f.ahead, Overflows: f.overflows}
		}
	}
	return hosts
}

func (l *loop) watching() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.watchers)
}

// measure has a failover that is over be counted.
func (r *record) measure(m *metrics.Metrics) {
	f := metrics.Failover{Pair: r.Pair, Cause: r.Cause, Suspected: r.Suspected, Decided: r.Decided, Written: r.Written}
	if r.Released != nil {
		f.Released = *r.Released
	}
	m.FailedOver(f)
}
