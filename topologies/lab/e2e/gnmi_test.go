// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-net/understudy/topologies"
)

// failover is one that the controller remembers.
type failover struct {
	Cause   string    `json:"cause"`
	Decided time.Time `json:"decided"`
	Written time.Time `json:"written"`
}

// lastFailover returns the latest, and how many there were.
func lastFailover(t *testing.T) (failover, int) {
	t.Helper()
	out, err := understudy(t, "failovers", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Failovers []failover `json:"failovers"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(list.Failovers) == 0 {
		return failover{}, 0
	}
	return list.Failovers[len(list.Failovers)-1], len(list.Failovers)
}

// cutLink cuts the active server's link under load, and returns what the controller
// made of it, and how long after the fault the switch had been told. The server is
// back in its pair then.
func cutLink(t *testing.T) (failover, time.Duration) {
	t.Helper()
	_, before := lastFailover(t)
	server := active(t)
	load := make(chan error, 1)
	go func() {
		_, err := understudy(t, "lab", "load", "--connections", "20", "--think", "20ms", "--duration", "3s")
		load <- err
	}()
	time.Sleep(time.Second) // of load
	out, err := understudy(t, "lab", "fault", "cut-link", server, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var fault struct {
		At time.Time `json:"at"`
	}
	if err := json.Unmarshal(out, &fault); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := <-load; err != nil {
		t.Error(err)
	}
	f, n := lastFailover(t)
	if n != before+1 {
		t.Fatalf("%d failovers, there were %d before the link was cut", n, before)
	}
	if _, err := understudy(t, "lab", "heal", server); err != nil {
		t.Fatal(err)
	}
	waitDuplex(t)
	return f, f.Written.Sub(fault.At)
}

// The switch's word that a port is down is a failover, when the agent does not see
// its link. Without that word, heartbeats must be missed.
func TestCutLinkIsToldByTheSwitch(t *testing.T) {
	for name, c := range map[string]struct {
		gnmi, cause string
		rounds      int
	}{
		"by gNMI":      {"", "link down", 5},
		"without gNMI": {", gnmi: none", "heartbeats missed", 1},
	} {
		t.Run(name, func(t *testing.T) {
			needRoot(t)
			if target := topologies.Target(os.Getenv(switchVariable)); c.gnmi == "" && target == topologies.BMv2 {
				t.Skipf("%s has no gNMI", target)
			}
			source := string(topologies.Pair()) + "\nagent: {disable: [carrier]}\n"
			const grpc = `grpc: "127.0.0.1:9559"`
			if !strings.Contains(source, grpc) {
				t.Fatalf("pair.yaml does not have %s", grpc)
			}
			file := filepath.Join(t.TempDir(), "topology.yaml")
			if err := os.WriteFile(file, []byte(strings.Replace(source, grpc, grpc+c.gnmi, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := understudy(t, "lab", "up", "--topology", file); err != nil {
				t.Fatal(err)
			}
			var took []time.Duration
			for range c.rounds {
				f, d := cutLink(t)
				if f.Cause != c.cause {
					t.Errorf("the cause was %q, want %q", f.Cause, c.cause)
				}
				took = append(took, d)
			}
			slices.Sort(took)
			t.Logf("from the cut to the switch's confirmation of the flip: median %v of %v", took[len(took)/2], took)
		})
	}
}
