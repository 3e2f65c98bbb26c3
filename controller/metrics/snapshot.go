// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("understudy_"+name, help, labels, nil)
}

var (
	pairState       = desc("pair_state", "1 for the state that the pair is in, 0 for the others.", "pair", "state")
	pairEpoch       = desc("pair_epoch", "Grows with each change of the pair's roles.", "pair")
	pairConnections = desc("pair_connections", "Client connections of the active server.", "pair")
	pairProtected   = desc("pair_protected_connections", "Those of them that a backup holds, too.", "pair")

	serverRole        = desc("server_role", "1 for the role that the server has, 0 for the others.", "pair", "server", "role")
	serverAttached    = desc("server_agent_attached", "Whether its agent has a session with the controller.", "pair", "server")
	serverApplication = desc("server_application_up", "Whether its application serves.", "pair", "server")
	serverHeartbeat   = desc("server_last_heartbeat_timestamp_seconds", "When its last heartbeat came.", "pair", "server")
	serverHeartbeats  = desc("server_heartbeats_received_total", "Heartbeats that came through the data path.", "pair", "server")

	serverClock     = desc("server_clock_offset_seconds", "How far the server's clock is ahead of the controller's.", "pair", "server")
	serverOverflows = desc("server_listen_overflows_total", "Connections that the server's kernel threw away because a queue of accepted ones was full, since its agent came.", "pair", "server")

	switchState   = desc("switch_session_state", "1 for the state of the session with the switch, 0 for the others.", "switch", "state")
	switchEntries = desc("switch_entries", "Table entries that the switch is known to have.", "switch")
	switchGroups  = desc("switch_groups", "Multicast groups that the switch is known to have.", "switch")

	configInfo    = desc("configuration_info", "Always 1; says which configuration is in force.", "version")
	configGood    = desc("configuration_last_success_timestamp_seconds", "When the configuration in force was put in force.")
	configSuccess = desc("configuration_last_apply_successful", "0 while the file, or what was to be applied last, is refused.")
	configPending = desc("configuration_awaits_confirmation", "1 while the configuration is rolled back unless it is confirmed.")

	bgpPeer    = desc("bgp_peer_established", "Whether the session with a router is established.", "peer")
	bgpRoutes  = desc("bgp_routes", "Routes that are announced.")
	bgpUpdates = desc("bgp_updates_total", "Announcements and withdrawals.", "kind")

	certificateExpiry = desc("certificate_expiry_timestamp_seconds", "When the controller's certificate ends.")
	logLinesLost      = desc("log_lines_lost_total", "Log lines that found the log standing still.")
	watchers          = desc("event_watchers", "Who follows events now.")
	up                = desc("snapshot_successful", "0 if the controller did not say in time how things are.")
)

// snapshots collects one snapshot for each scrape.
type snapshots struct {
	take func(context.Context) (Snapshot, error)
}

// Describe sends nothing: the collector is an unchecked one, as what there is depends on
// the configuration.
func (s snapshots) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s snapshots) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	snap, err := s.take(ctx)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	oneOf := func(d *prometheus.Desc, is string, all []string, labels ...string) {
		for _, x := range all {
			gauge(d, truth(x == is), append(labels[:len(labels):len(labels)], x)...)
		}
	}
	gauge(up, truth(err == nil))
	if err != nil {
		return
	}
	for _, p := range snap.Pairs {
		name := p.GetName()
		oneOf(pairState, enumName(p.GetState().String(), "PAIR_STATE_"), pairStates, name)
		gauge(pairEpoch, float64(p.GetEpoch()), name)
		gauge(pairConnections, float64(p.GetConnections()), name)
		gauge(pairProtected, float64(p.GetProtected()), name)
		for _, x := range p.GetServers() {
			oneOf(serverRole, enumName(x.GetRole().String(), "SERVER_ROLE_"), serverRoles, name, x.GetName())
			gauge(serverAttached, truth(x.GetAttached()), name, x.GetName())
			gauge(serverApplication, truth(x.GetApplicationUp()), name, x.GetName())
			if t := x.GetLastHeartbeat(); t != nil {
				gauge(serverHeartbeat, seconds(t.AsTime()), name, x.GetName())
			}
			counter(serverHeartbeats, snap.Heartbeats[x.GetName()], name, x.GetName())
			if h, ok := snap.Hosts[x.GetName()]; ok {
				gauge(serverClock, h.ClockAhead.Seconds(), name, x.GetName())
				counter(serverOverflows, h.Overflows, name, x.GetName())
			}
		}
	}
	for _, s := range snap.Switches {
		oneOf(switchState, s.State, SwitchStates, s.Name)
		gauge(switchEntries, float64(s.Entries), s.Name)
		gauge(switchGroups, float64(s.Groups), s.Name)
	}
	if c := snap.Configuration; c != nil {
		gauge(configInfo, 1, c.GetVersion())
		gauge(configGood, seconds(c.GetTime().AsTime()))
		gauge(configSuccess, truth(!c.GetStale()))
		gauge(configPending, truth(c.GetConfirmUntil() != nil))
	}
	if b := snap.BGP; b != nil {
		for name, established := range b.Peers {
			gauge(bgpPeer, truth(established), name)
		}
		gauge(bgpRoutes, float64(b.Routes))
		counter(bgpUpdates, b.Announced, "announce")
		counter(bgpUpdates, b.Withdrawn, "withdraw")
	}
	if !snap.CertificateExpiry.IsZero() {
		gauge(certificateExpiry, seconds(snap.CertificateExpiry))
	}
	counter(logLinesLost, snap.LogLinesLost)
	gauge(watchers, float64(snap.Watchers))
}

// The values of labels that name a state, without the one that says nothing.
var (
	pairStates  = enumNames(adminv1.PairState_name, "PAIR_STATE_")
	serverRoles = enumNames(adminv1.ServerRole_name, "SERVER_ROLE_")
)

func enumNames(all map[int32]string, prefix string) []string {
	var list []string
	for i := int32(1); i < int32(len(all)); i++ {
		list = append(list, enumName(all[i], prefix))
	}
	return list
}

func enumName(name, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(name, prefix))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
