// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/understudy-net/understudy/p4"
	"github.com/understudy-net/understudy/p4/internal/p4script"
	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// Each file in p4/testdata is a script of cases for our program (see p4script): they
// hold it to what it promises, and both switches to what the program says.
func scripts(t *testing.T) map[string]p4script.Script {
	t.Helper()
	files, err := filepath.Glob("../testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in p4/testdata (%v)", err)
	}
	all := map[string]p4script.Script{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := p4script.Parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", filepath.Base(file), err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".txt")] = s
	}
	return all
}

// frames are what leaves a switch, by port, as hexadecimal digits.
type frames map[uint16][]string

// target is a switch that a script runs on.
type target interface {
	harness() *switchtest.Harness
	// send lets a frame come in at a port.
	send(t *testing.T, port uint16, frame []byte)
	// take returns what has left since the last time: at once if that is n frames or
	// more, else when there is no hope for more.
	take(n int) frames
}

// embedded is the switch of this package.
type embedded struct {
	h   *switchtest.Harness
	out frames
}

func (e *embedded) harness() *switchtest.Harness { return e.h }

func (e *embedded) send(t *testing.T, port uint16, frame []byte) {
	t.Helper()
	for _, f := range e.h.Send(port, frame) {
		e.out[f.Port] = append(e.out[f.Port], hex.EncodeToString(f.Data))
	}
}

func (e *embedded) take(n int) frames {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		for _, f := range e.h.Left() {
			e.out[f.Port] = append(e.out[f.Port], hex.EncodeToString(f.Data))
		}
		// A packet-out leaves when the switch comes to it.
		if e.out.count() >= n || time.Now().After(deadline) {
			out := e.out
			e.out = frames{}
			return out
		}
	}
}

// patience is how long a script waits for what must come.
const patience = 5 * time.Second

func (f frames) count() int {
	n := 0
	for _, list := range f {
		n += len(list)
	}
	return n
}

func (r *rival) harness() *switchtest.Harness { return r.Harness }

func (b bmv2) send(t *testing.T, port uint16, frame []byte) {
	t.Helper()
	if port > comparePorts {
		t.Fatalf("bmv2 has no port %d here", port)
	}
	check(t, b.rival.send[port](frame))
}

// bmv2 is simple_switch_grpc.
type bmv2 struct{ *rival }

func (b bmv2) take(n int) frames {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		out := frames{}
		for port, list := range b.got {
			if len(list) > 0 {
				out[uint16(port)] = slices.Clone(list)
			}
		}
		if out.count() >= n || time.Now().After(deadline) {
			clear(b.got[:])
			b.mu.Unlock()
			return out
		}
		b.mu.Unlock()
	}
}

func TestScripts(t *testing.T) {
	for name, script := range scripts(t) {
		t.Run(name, func(t *testing.T) {
			js, info := switchtest.Build(t, "understudy")
			perform(t, &embedded{switchtest.New(t, js, info), frames{}}, script)
		})
	}
}

func TestScriptsOnBMv2(t *testing.T) {
	if _, err := exec.LookPath("simple_switch_grpc"); err != nil {
		t.Skip("simple_switch_grpc is not on the PATH")
	}
	if !privateNetns(t) {
		return
	}
	for name, script := range scripts(t) {
		t.Run(name, func(t *testing.T) {
			js, info := switchtest.Build(t, "understudy")
			b := bmv2{startBMv2(t, js, info)}
			defer b.stopPorts(t)
			perform(t, b, script)
			if late := b.quiet(); slices.ContainsFunc(late[:], func(l []string) bool { return len(l) > 0 }) {
				t.Errorf("more frames left than any case said: %q", late)
			}
		})
	}
}

// perform runs a script's cases, one after the other on the same switch.
func perform(t *testing.T, sw target, script p4script.Script) {
	for _, c := range script {
		ok := true
		run := func(t *testing.T) {
			for _, s := range c.Steps {
				step(t, sw, s)
			}
			ok = !t.Failed()
		}
		if c.Name == "" {
			run(t)
		} else {
			t.Run(c.Name, run)
		}
		if !ok && c.Name == "" {
			t.FailNow() // nothing after it can be right
		}
	}
	sw.harness().NoPacketIn()
}

func step(t *testing.T, sw target, s p4script.Step) {
	t.Helper()
	h := sw.harness()
	at := fmt.Sprintf("line %d: ", p4script.LineOf(s))
	switch s := s.(type) {
	case *p4script.Group:
		group(h, s.ID, s.Replicas...)
	case *p4script.Entry:
		typ := map[string]p4v1.Update_Type{"insert": p4v1.Update_INSERT, "modify": p4v1.Update_MODIFY, "delete": p4v1.Update_DELETE}[s.Verb]
		if err := h.TryWrite(typ, switchtest.TableEntity(h.Entry(s.Table, s.Match, 0, s.Action, s.Params))); err != nil {
			t.Fatalf("%s%s %s: %v", at, s.Verb, s.Table, err)
		}
	case *p4script.Wait:
		time.Sleep(s.For)
	case *p4script.Count:
		if n, _ := h.Counter(s.Counter, s.Index); n != s.Packets {
			t.Errorf("%s%s[%d] has counted %d packets, not %d", at, s.Counter, s.Index, n, s.Packets)
		}
	case *p4script.Exchange:
		before := drops(h)
		want, up := frames{}, [2][]string{}
		for port, list := range s.Out {
			want[port] = digits(list)
		}
		for _, p := range s.Up {
			up[0] = append(up[0], sentUp(p.Metadata, p.Frame))
		}
		if s.FromController {
			h.SendPacketOut(s.In, args{"egress_port": int(s.Port)})
		} else {
			sw.send(t, s.Port, s.In)
		}
		for range s.Up {
			payload, metadata := h.PacketIn()
			maps.DeleteFunc(metadata, func(_ string, n uint64) bool { return n == 0 })
			up[1] = append(up[1], sentUp(metadata, payload))
		}
		if diff := cmp.Diff(up[0], up[1]); diff != "" {
			t.Errorf("%sto the controller, -want +got:\n%s", at, diff)
		}
		if diff := cmp.Diff(want.text(), sw.take(want.count()).text()); diff != "" {
			t.Errorf("%swhat leaves, -want +got:\n%s", at, diff)
		}
		wantDrops := maps.Clone(before)
		if s.Drop != "" {
			if _, ok := wantDrops[s.Drop]; !ok {
				t.Fatalf("%s%q is no reason to drop", at, s.Drop)
			}
			wantDrops[s.Drop]++
		}
		got := drops(h)
		for deadline := time.Now().Add(patience); !maps.Equal(got, wantDrops) && s.Drop != "" && time.Now().Before(deadline); got = drops(h) {
			time.Sleep(5 * time.Millisecond)
		}
		if diff := cmp.Diff(wantDrops, got); diff != "" {
			t.Errorf("%sdrop_counter, -want +got:\n%s", at, diff)
		}
	default:
		t.Fatalf("%sa step of type %T", at, s)
	}
}

func sentUp(metadata map[string]uint64, frame []byte) string {
	return fmt.Sprint(metadata, " ", packet.Parse(frame), "\n", hex.EncodeToString(frame))
}

func digits(list [][]byte) []string {
	var out []string
	for _, f := range list {
		out = append(out, hex.EncodeToString(f))
	}
	return out
}

// text is for people: what it is first, then every byte.
func (f frames) text() map[uint16][]string {
	out := map[uint16][]string{}
	for port, list := range f {
		for _, d := range list {
			b, _ := hex.DecodeString(d)
			out[port] = append(out[port], packet.Parse(b).String()+"\n"+d)
		}
		slices.Sort(out[port])
	}
	return out
}

// drops reads drop_counter by reason.
func drops(h *switchtest.Harness) map[string]int64 {
	out := map[string]int64{}
	for i, name := range p4.DropReasons {
		out[name], _ = h.Counter("drop_counter", i)
	}
	return out
}
