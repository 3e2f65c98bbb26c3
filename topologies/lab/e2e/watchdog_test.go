// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-net/understudy/topologies"
)

// Nobody controls the switch when the active server dies: the switch releases the
// backup by itself, tells it so, and no client notices. A controller that comes back
// keeps what it finds, and confirms it.
func TestNoController(t *testing.T) {
	needRoot(t)
	text := bytes.Replace(topologies.Pair(), []byte("{name: web, servers"), []byte("{name: web, watchdog: true, servers"), 1)
	// A backup may be late on a busy machine: that is no failure here.
	text = bytes.Replace(text, []byte("missed: 4}"), []byte("missed: 10}"), 1)
	file := filepath.Join(t.TempDir(), "topology.yaml")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	do := func(args ...string) []byte {
		t.Helper()
		out, err := understudy(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	do("lab", "up", "--topology", file)
	waitDuplex(t)
	dead := activeServer(t)
	done := make(chan error, 1)
	go func() {
		_, err := understudy(t, "lab", "load", "--connections", "20", "--think", "100ms", "--duration", "5s")
		done <- err
	}()
	time.Sleep(2 * time.Second) // connections are open, and held twice
	do("lab", "fault", "kill-controller", "switch")
	do("lab", "fault", "power-off", dead)
	if err := <-done; err != nil {
		t.Errorf("clients noticed: %v", err)
	}
	// The lab is not whole again: the server stays dead.
	understudy(t, "lab", "heal", "switch")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if a := activeServer(t); a != "" && a != dead {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the backup is not active")
		}
	}
	var list struct {
		Failovers []struct {
			From  string `json:"from"`
			Cause string `json:"cause"`
		} `json:"failovers"`
	}
	out := do("failovers", "-o", "json")
	if err := json.Unmarshal(out, &list); err != nil || len(list.Failovers) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	if f := list.Failovers[len(list.Failovers)-1]; f.From != dead || f.Cause != "released by the switch" {
		t.Errorf("the last failover: %+v", f)
	}
}

// activeServer is the name of the server that has the active role, "" if nobody has.
func activeServer(t *testing.T) string {
	t.Helper()
	out, err := understudy(t, "pairs", "-o", "json")
	if err != nil {
		return ""
	}
	var list struct {
		Pairs []struct {
			Servers []struct{ Name, Role string } `json:"servers"`
		} `json:"pairs"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, p := range list.Pairs {
		for _, s := range p.Servers {
			if s.Role == "SERVER_ROLE_ACTIVE" {
				return s.Name
			}
		}
	}
	return ""
}
