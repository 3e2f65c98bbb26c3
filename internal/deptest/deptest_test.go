// SPDX-License-Identifier: Apache-2.0

// Package deptest holds the lines that ARCHITECTURE.md draws: which room may
// know of which.
package deptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/understudy-net/understudy/"

// rules: no package under `from` may import, directly or through others, a
// package that is or lies under one of `never`; "./" begins the rooms of this
// module.
var rules = []struct {
	from  string
	never []string
}{
	// Decisions import neither sockets nor gRPC.
	{"controller/failover", []string{"net", "google.golang.org/grpc"}},
	{"p4/dataplane", []string{"net", "google.golang.org/grpc", "golang.org/x/sys"}},
	{"p4/v1model", []string{"net", "google.golang.org/grpc", "golang.org/x/sys"}},
	{"p4/bmv2", []string{"net", "google.golang.org/grpc", "golang.org/x/sys"}},
	{"controller/config", []string{"google.golang.org/grpc"}},
	// Only controller/bgp knows of GoBGP.
	{"controller/admin", []string{"github.com/osrg/gobgp"}},
	{"controller/p4rt", []string{"github.com/osrg/gobgp"}},
	{"controller/health", []string{"github.com/osrg/gobgp"}},
	{"controller/bgp", []string{"./controller/failover", "./controller/p4rt", "./controller/health", "./controller/admin"}},
	// Port states go through, to whoever cares.
	{"controller/gnmi", []string{"./controller/failover", "./controller/p4rt", "./controller/health", "./controller/admin"}},
	// Only controller/metrics knows of Prometheus.
	{"controller/failover", []string{"github.com/prometheus"}},
	{"controller/admin", []string{"github.com/prometheus"}},
	// The data plane knows nobody.
	{"p4", []string{"./controller", "./agent", "./topologies"}},
	// Agent and controller meet only in api.
	{"agent", []string{"./controller", "./p4", "./topologies", "./cmd"}},
	{"controller", []string{"./agent", "./topologies", "./cmd"}},
	{"topologies", []string{"./controller", "./agent", "./p4", "./cmd"}},
	{"api", []string{"./controller", "./agent", "./p4", "./topologies", "./internal"}},
	{"internal", []string{"./controller", "./agent", "./p4", "./topologies", "./cmd"}},
	// The proxy moves bytes; who holds sockets in the kernel is not its business.
	{"agent/proxy", []string{"./agent/bpf", "./agent/conn", "github.com/cilium/ebpf", "google.golang.org/grpc"}},
	{"agent/replication", []string{"./agent/bpf", "./agent/proxy", "google.golang.org/grpc"}},
}

type pkg struct {
	ImportPath string
	Deps       []string
}

func TestWhoKnowsWhom(t *testing.T) {
	cmd := exec.Command("go", "list", "-buildvcs=false", "-json=ImportPath,Deps", module+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 20 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, r := range rules {
		met := false
		for _, p := range packages {
			name := strings.TrimPrefix(p.ImportPath, module)
			if name != r.from && !strings.HasPrefix(name, r.from+"/") {
				continue
			}
			met = true
			for _, d := range p.Deps {
				if own, ok := strings.CutPrefix(d, module); ok {
					d = "./" + own
				}
				if slices.ContainsFunc(r.never, func(n string) bool {
					return d == n || strings.Contains(n, "/") && strings.HasPrefix(d, n+"/")
				}) {
					t.Errorf("%s must not know of %s", name, d)
				}
			}
		}
		if !met {
			t.Errorf("there is no %s: the rule is out of date", r.from)
		}
	}
}
