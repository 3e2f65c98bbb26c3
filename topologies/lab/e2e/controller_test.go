// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/understudy-net/understudy/topologies/lab"
)

type loadReport struct {
	Requests   int     `json:"requests"`
	Failed     int     `json:"failed"`
	Reset      int     `json:"reset"`
	Corrupt    int     `json:"corrupt"`
	MaxStallMS float64 `json:"max_stall_ms"`
}

// underLoad runs f while clients are served, and returns what they saw: the load
// begins before f, and ends when f has returned.
func underLoad(t *testing.T, f func()) loadReport {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	var out, progress bytes.Buffer
	cmd := exec.Command(filepath.Join(dir, "understudy"), "lab", "load", "-o", "json", "--duration", patience.String())
	cmd.Stdout, cmd.Stderr = &out, &progress
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceFunc(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	defer ended()
	for end := time.Now().Add(20 * time.Second); webPair(t).Connections == "0"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the load does not begin")
		}
	}
	f()
	ended()
	var r loadReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in %q; %s", err, &out, &progress)
	}
	return r
}

// pairNow is the web pair as the controller has it.
type pairNow struct {
	State       string `json:"state"`
	Epoch       string `json:"epoch"`
	Connections string `json:"connections"`
	Servers     []struct {
		Name string `json:"name"`
		Role string `json:"role"`
	} `json:"servers"`
}

func webPair(t *testing.T) pairNow {
	t.Helper()
	var list struct {
		Pairs []pairNow `json:"pairs"`
	}
	out, err := understudy(t, "pairs", "web", "-o", "json")
	if err == nil {
		err = json.Unmarshal(out, &list)
	}
	if err != nil || len(list.Pairs) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return list.Pairs[0]
}

// updates are those of each time that the controller brought the switch to have what it
// shall have, as its log has them.
func updates(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.DefaultRunDir, "log", "controller.log"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte("the switch has what it shall have")) {
			m := regexp.MustCompile(`updates"?[=:]([0-9]+)`).FindSubmatch(line)
			if m == nil {
				t.Fatalf("log line %s", line)
			}
			list = append(list, string(m[1]))
		}
	}
	return list
}

// The controller is killed under load and started again: clients notice nothing, no
// entry is written, the epoch stays; and the next failover works.
func TestControllerDies(t *testing.T) {
	needRoot(t)
	if _, err := understudy(t, "lab", "up"); err != nil {
		t.Fatal(err)
	}
	before := webPair(t)
	var after pairNow
	r := underLoad(t, func() {
		for range 3 {
			if _, err := understudy(t, "lab", "fault", "kill-controller", "switch"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond) // clients are served meanwhile
			if _, err := understudy(t, "lab", "heal", "switch"); err != nil {
				t.Fatal(err)
			}
		}
		after = webPair(t)
		if _, err := understudy(t, "lab", "fault", "power-off", active(t)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // and after it
	})
	if r.Failed+r.Reset+r.Corrupt > 0 || r.Requests == 0 {
		t.Errorf("clients saw %+v", r)
	}
	t.Logf("%d requests, longest stall %.1f ms, power-off of the active server included", r.Requests, r.MaxStallMS)
	before.Connections, after.Connections = "", ""
	if a, b := fmt.Sprint(before), fmt.Sprint(after); a != b {
		t.Errorf("the pair was %s, and is %s", a, b)
	}
	all := updates(t)
	if len(all) != 4 {
		t.Errorf("the controller read the switch %d times: updates %v", len(all), all)
	}
	for _, n := range all[1:] {
		if n != "0" {
			t.Errorf("a restarted controller wrote %s updates", n)
		}
	}
}

// The switch's program is killed under load and started again, with empty tables: it
// gets everything, and all connections live on.
func TestSwitchRestarts(t *testing.T) {
	needRoot(t)
	if _, err := understudy(t, "lab", "up"); err != nil {
		t.Fatal(err)
	}
	before := webPair(t)
	r := underLoad(t, func() {
		if _, err := understudy(t, "lab", "fault", "kill-switch", "switch"); err != nil {
			t.Fatal(err)
		}
		if _, err := understudy(t, "lab", "heal", "switch"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // retransmissions after an outage
	})
	if r.Failed+r.Reset+r.Corrupt > 0 || r.Requests == 0 {
		t.Errorf("clients saw %+v", r)
	}
	t.Logf("%d requests, longest stall %.1f ms", r.Requests, r.MaxStallMS)
	waitDuplex(t)
	if after := webPair(t); after.Servers[0].Role != before.Servers[0].Role {
		t.Errorf("the pair was %+v, and is %+v", before, after)
	}
}

// Each server is drained in turn under load: no client notices, and the drained one
// stays out until it is put into service.
func TestDrainUnderLoad(t *testing.T) {
	needRoot(t)
	if _, err := understudy(t, "lab", "up"); err != nil {
		t.Fatal(err)
	}
	r := underLoad(t, func() {
		for range 4 {
			was := active(t)
			if out, err := understudy(t, "drain", was); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if now := active(t); now == was {
				t.Errorf("%s is drained, and active", was)
			}
			if p := webPair(t); p.State != "PAIR_STATE_SIMPLEX" {
				t.Errorf("with a server drained the pair is %s", p.State)
			}
			if _, err := understudy(t, "undrain", was); err != nil {
				t.Fatal(err)
			}
			waitDuplex(t)
		}
	})
	if r.Failed+r.Reset+r.Corrupt > 0 || r.Requests == 0 {
		t.Errorf("clients saw %+v", r)
	}
	t.Logf("%d requests, longest stall %.1f ms", r.Requests, r.MaxStallMS)
}
