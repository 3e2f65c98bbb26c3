// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/topologies/lab/load"
)

const (
	// heldTimeout is how long it may take until every connection is held twice.
	heldTimeout = 30 * time.Second
	// beforeRound is how long all is well before a fault, afterRound how long its
	// consequences are looked at before the server comes back.
	beforeRound = 500 * time.Millisecond
	afterRound  = stallWindow + 500*time.Millisecond
)

// rounds does one fault again and again, to whoever is active by then, while one load
// goes on: the connections of the first round are those of the last. Before each fault
// every connection must be held twice, by a server that has joined them while they were
// in use. The report has the sums, and the worst of each time.
func (l *Lab) rounds(ctx context.Context, f Fault, cfg DemoConfig) (*Scenario, error) {
	t, err := l.Topology()
	if err != nil {
		return nil, err
	}
	admin, conn, err := l.Admin()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	s := &Scenario{Fault: f}
	ld, err := l.Load(ctx, t, load.Config{Connections: cfg.Connections})
	if err != nil {
		return s, err
	}
	var faults []time.Time
	var ready time.Time
	defer func() {
		report := ld.Stop()
		if len(faults) > 0 {
			s.countRounds(report, ready, faults)
		}
	}()
	readyCtx, cancel := context.WithTimeout(ctx, 15*time.Second)
	err = ld.Ready(readyCtx)
	cancel()
	if err != nil {
		return s, err
	}
	ready = time.Now()
	cpu := readCPU()
	for s.Rounds < cfg.Rounds {
		pair, active, backup, err := l.waitHeld(ctx, admin, t.Services[0].Pair, cfg.Connections)
		if err != nil {
			return s, err
		}
		s.Server = active
		if cfg.StrikeBackup {
			s.Server = backup
		}
		roundCtx, endRound := context.WithCancel(ctx)
		err = l.round(roundCtx, s, ld, admin, pair, cfg)
		endRound()
		if err != nil {
			return s, fmt.Errorf("round %d: %w", s.Rounds+1, err)
		}
		if s.struck.IsZero() {
			continue // the pair has changed by itself
		}
		faults = append(faults, s.struck)
		s.Rounds++
		if s.Rounds == 1 {
			s.CPU = readCPU().since(cpu)
		}
		if err := l.Heal(ctx, s.Server, true); err != nil {
			return s, fmt.Errorf("round %d: %w", s.Rounds, err)
		}
		back := time.Now()
		if _, _, _, err := l.waitHeld(ctx, admin, pair.GetName(), cfg.Connections); err != nil {
			return s, fmt.Errorf("round %d: %w", s.Rounds, err)
		}
		held := milliseconds(time.Since(back))
		s.HeldMS = worse(s.HeldMS, &held)
		l.progress("%s, round %d of %d: %s is back, all connections are held twice %.0f ms after it was duplex", f, s.Rounds, cfg.Rounds, s.Server, held)
	}
	return s, nil
}

// round does the fault once. s.struck is zero if it was not done, as the pair had
// changed by itself.
func (l *Lab) round(ctx context.Context, s *Scenario, ld *load.Load, admin adminv1.AdminClient, pair *adminv1.Pair, cfg DemoConfig) error {
	s.struck = time.Time{}
	simplex, err := watchSimplex(ctx, admin, pair.GetName())
	if err != nil {
		return err
	}
	if err := sleep(ctx, beforeRound); err != nil {
		return err
	}
	if now, _, _, err := roles(ctx, admin, pair.GetName()); err != nil || now.GetEpoch() != pair.GetEpoch() {
		l.progress("the pair changed by itself%s", failoversSince(ctx, admin, pair))
		return nil
	}
	s.InProgress += busyMoment(ctx, ld, min(3, cfg.Connections))
	in, err := l.Fault(s.Fault, s.Server)
	if err != nil {
		return err
	}
	s.struck = in.At
	if err := sleep(ctx, afterRound); err != nil {
		return err
	}
	once := Scenario{Server: s.Server}
	if cfg.StrikeBackup {
		select {
		case at := <-simplex:
			once.decided(at, in.At)
		default:
			s.Problem = "the controller did not notice that the backup was gone"
		}
	} else {
		res, err := admin.ListFailovers(ctx, &adminv1.ListFailoversRequest{Pair: pair.GetName()})
		if err != nil {
			return fmt.Errorf("listing failovers: %w", err)
		}
		if !once.answered(res.GetFailovers(), pair.GetName(), pair.GetEpoch(), in.At) {
			s.Problem = "the controller has recorded no failover away from " + s.Server
		}
	}
	s.DetectMS, s.FlipMS = worse(s.DetectMS, once.DetectMS), worse(s.FlipMS, once.FlipMS)
	return nil
}

// waitHeld waits until a pair is duplex, has so many connections and holds all of them
// twice.
func (l *Lab) waitHeld(ctx context.Context, admin adminv1.AdminClient, name string, connections int) (pair *adminv1.Pair, active, backup string, err error) {
	for end := time.Now().Add(heldTimeout); ; {
		pair, active, backup, err = roles(ctx, admin, name)
		if err == nil && pair.GetState() == adminv1.PairState_PAIR_STATE_DUPLEX &&
			pair.GetConnections() >= uint64(connections) && pair.GetProtected() == pair.GetConnections() {
			return pair, active, backup, nil
		}
		if time.Now().After(end) {
			if err == nil {
				err = fmt.Errorf("%d of %d connections are held twice after %v; the load has %d",
					pair.GetProtected(), pair.GetConnections(), heldTimeout, connections)
			}
			return nil, "", "", err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, "", "", err
		}
	}
}
