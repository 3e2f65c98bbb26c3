// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// gate is a writer that stands still until it is opened; busy tells, once, that
// somebody waits at it.
type gate struct {
	open, busy chan struct{}
	w          io.Writer
}

func newGate(w io.Writer) gate { return gate{make(chan struct{}), make(chan struct{}, 1), w} }

func (g gate) Write(b []byte) (int, error) {
	select {
	case g.busy <- struct{}{}:
	default:
	}
	<-g.open
	return g.w.Write(b)
}

func TestJournal(t *testing.T) {
	var out bytes.Buffer
	g := newGate(&out)
	j := newJournal(slog.NewTextHandler(g, nil))
	go j.run()
	log := slog.New(j).With("a", 1).WithGroup("g")
	began := time.Now()
	const more = 100
	log.Info("line", "n", 0)
	<-g.busy // so that from here on none is taken out of the queue
	for i := 1; i < 1+journalLines+more; i++ {
		log.Info("line", "n", i)
		log.Debug("not enabled")
	}
	if took := time.Since(began); took > deadline {
		t.Errorf("%v for lines that nobody takes", took)
	}
	close(g.open)
	j.close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	written, lost := 0, 0
	for _, l := range lines {
		if n := 0; strings.Contains(l, "lines are lost") {
			if _, err := fmt.Sscanf(l[strings.Index(l, "lines="):], "lines=%d", &n); err != nil {
				t.Fatal(err)
			}
			lost += n
			continue
		}
		if want := fmt.Sprintf("msg=line a=1 g.n=%d", written); !strings.HasSuffix(l, want) {
			t.Fatalf("line %q, want %q at its end", l, want)
		}
		written++
	}
	if written != 1+journalLines || lost != more {
		t.Errorf("%d lines written, %d lost, of %d", written, lost, 1+journalLines+more)
	}
}

// A log that stands still keeps no failover from being made.
func TestFailoverWithoutALog(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	g := newGate(io.Discard)
	c := startWith(t, cfg, slog.New(slog.NewTextHandler(g, nil)))
	t.Cleanup(func() { close(g.open) }) // before the controller is stopped
	admin := c.admin(t)
	servers := cfg.Pairs[0].Servers
	a1 := startAgent(t, l, c.AgentAddr().String(), servers[0], nil)
	awaitPair(t, admin, simplex, active, noRole)
	startAgent(t, l, c.AgentAddr().String(), servers[1], nil)
	awaitPair(t, admin, duplex, active, backup)
	a1.kill()
	awaitPair(t, admin, simplex, noRole, active)
}
