// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-net/understudy/p4/softswitch"
)

// refusedSamples are p4c's programs for v1model that the switch does not take, and why.
var refusedSamples = map[string]string{
	"control-hs-index-test3":   "a condition on the validity of a computed stack element, in a form that bmv2 cannot load either",
	"control-hs-index-test6":   "a table key that is computed, which bmv2 cannot load either",
	"issue3374":                "a table key that is computed, which bmv2 cannot load either",
	"extract_for_header_union": "p4c writes a header whose type it leaves out",
	"issue1607-bmv2":           "p4c writes a field that its header does not have",
	"issue2283_1-bmv2":         "a port that is a string for controllers",
}

// TestSamples loads every program for v1model that p4c has for its own tests, with its
// P4Info, and sends packets through it. It needs what TestSTF of package v1model needs:
// P4C_SAMPLES, p4c-bm2-ss on the PATH and, optionally, STF_CACHE.
func TestSamples(t *testing.T) {
	samples := os.Getenv("P4C_SAMPLES")
	if samples == "" {
		t.Skip("set P4C_SAMPLES to p4c's testdata/p4_16_samples")
	}
	p4c, err := exec.LookPath("p4c-bm2-ss")
	if err != nil {
		t.Skip("p4c-bm2-ss is not on the PATH")
	}
	cache := os.Getenv("STF_CACHE")
	if cache == "" {
		cache = t.TempDir()
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	files, err := filepath.Glob(filepath.Join(samples, "*.p4"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no programs in %s: %v", samples, err)
	}
	loaded, broken := 0, 0
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(src), "v1model.p4") {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(file), ".p4")
		js, info := filepath.Join(cache, name+".p4info.json"), filepath.Join(cache, name+".p4info.txtpb")
		if _, err := os.Stat(info); errors.Is(err, os.ErrNotExist) {
			if exec.Command(p4c, "-o", js, "--p4runtime-files", info, file).Run() != nil {
				os.Remove(js)
				os.WriteFile(info, nil, 0o644)
			}
		}
		device, err := os.ReadFile(js)
		if err != nil {
			broken++ // p4c refuses it, as it should most of these
			continue
		}
		text, err := os.ReadFile(info)
		if err != nil {
			t.Fatal(err)
		}
		config, err := softswitch.LoadConfig(device, text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sw, err := softswitch.New(softswitch.Config{Listener: lis, Pipeline: config})
		switch reason, known := refusedSamples[name]; {
		case err != nil && known:
			t.Logf("%s: %s: %v", name, reason, err)
			continue
		case err != nil:
			t.Errorf("%s: %v", name, err)
			continue
		case known:
			t.Errorf("%s is not refused any more: take it out of the list", name)
		}
		loaded++
		for i := range 100 {
			frame := make([]byte, i)
			for j := range frame {
				frame[j] = byte(i * j)
			}
			sw.Forward(uint16(i%8), frame)
			sw.Trace(uint32(i%8), frame)
		}
	}
	t.Logf("%d programs loaded, %d refused, %d not compiled by p4c", loaded, len(refusedSamples), broken)
}
