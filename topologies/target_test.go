// SPDX-License-Identifier: Apache-2.0

package topologies

import (
	"strings"
	"testing"
)

func TestTargets(t *testing.T) {
	for name, want := range map[string]string{"embedded": "", "bmv2": "", "": "embedded, bmv2", "tofino": "embedded, bmv2"} {
		_, err := ParseTarget(name)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", name, err, want)
		}
	}
}

// What a target cannot do is off, whatever the file says, and on again with another.
func TestRetarget(t *testing.T) {
	top, err := Parse(Pair())
	if err != nil {
		t.Fatal(err)
	}
	link, sw := top.LinkOf("server2"), top.Node("switch").Switch
	if sw.Target != Embedded || !sw.KeepsOffloads() || top.Wire(link) != link.Interface {
		t.Errorf("by default: %+v, wire %s", sw, top.Wire(link))
	}
	sw.Command = []string{"another"}
	top.Retarget(Embedded)
	if sw.Command == nil {
		t.Error("the file's own command is gone, for the same target")
	}
	top.Retarget(BMv2)
	if got := sw.Ports(); got != NoGNMI {
		t.Errorf("bmv2's gNMI: %q", got)
	}
	if sw.Target != BMv2 || sw.KeepsOffloads() || sw.Command != nil || top.Wire(link) != "wire3" {
		t.Errorf("bmv2: %+v, wire %s", sw, top.Wire(link))
	}
	top.Retarget(Embedded)
	if got := sw.Ports(); got != "" {
		t.Errorf("the embedded switch's gNMI: %q", got)
	}
	if !sw.KeepsOffloads() || top.Wire(link) != "p3" {
		t.Errorf("embedded again: %+v, wire %s", sw, top.Wire(link))
	}
}

func TestTargetOfAFile(t *testing.T) {
	with := func(target string) string {
		return strings.Replace(string(Pair()), "switch: {device_id", "switch: {target: "+target+", device_id", 1)
	}
	top, err := Parse([]byte(with("bmv2")))
	if err != nil || top.Node("switch").Switch.Target != BMv2 {
		t.Errorf("%v", err)
	}
	if _, err := Parse([]byte(with("asic"))); err == nil || !strings.Contains(err.Error(), `node switch: target: unknown switch "asic"`) {
		t.Errorf("got %v", err)
	}
}
