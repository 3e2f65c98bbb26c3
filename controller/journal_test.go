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

// gate is a writer that stands still until it is opened.
type gate struct {
	open chan struct{}
	w    io.Writer
}

func (g gate) Write(b []byte) (int, error) {
	<-g.open
	return g.w.Write(b)
}

func TestJournal(t *testing.T) {
	var out bytes.Buffer
	g := gate{make(chan struct{}), &out}
	j := newJournal(slog.NewTextHandler(g, nil))
	go j.run()
	log := slog.New(j).With("a", 1).WithGroup("g")
	began := time.Now()
	const more = 100
	for i := range journalLines + more {
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
	// One line may be under way beside those that wait.
	if written < journalLines || lost < more-1 || written+lost != journalLines+more {
		t.Errorf("%d lines written, %d lost, of %d", written, lost, journalLines+more)
	}
}

// A log that stands still keeps no failover from being made.
func TestFailoverWithoutALog(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	g := gate{make(chan struct{}), io.Discard}
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
