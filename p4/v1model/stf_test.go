// SPDX-License-Identifier: Apache-2.0

package v1model

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
)

// TestSTF runs the packet tests (STF) that p4c has for v1model, which say what bmv2
// does, on this engine. It needs p4c's test programs:
//
//	P4C_SAMPLES  the directory testdata/p4_16_samples of github.com/p4lang/p4c
//	STF_CACHE    where compiled programs are kept; optional
//
// and p4c-bm2-ss on the PATH. Programs that use what the engine refuses are counted
// as skipped, by what it is.
func TestSTF(t *testing.T) {
	samples := os.Getenv("P4C_SAMPLES")
	if samples == "" {
		t.Skip("set P4C_SAMPLES to p4c's testdata/p4_16_samples")
	}
	cache := os.Getenv("STF_CACHE")
	if cache == "" {
		cache = t.TempDir()
	}
	files, err := filepath.Glob(filepath.Join(samples, "*.stf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no .stf files in %s: %v", samples, err)
	}
	passed, failed, refused := 0, 0, map[string]int{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".stf")
		src, err := os.ReadFile(strings.TrimSuffix(file, ".stf") + ".p4")
		if err != nil || !strings.Contains(string(src), "v1model.p4") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			js := compile(t, cache, name, strings.TrimSuffix(file, ".stf")+".p4")
			sw, err := loadSwitch(js)
			if err != nil {
				if errors.Is(err, bmv2.ErrUnsupported) {
					refused[reason(err)]++
					t.Skip(err)
				}
				failed++
				t.Fatal(err)
			}
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r := &stf{sw: sw, out: map[uint16][][]byte{}, want: map[uint16][]string{}, ports: map[uint16]bool{}, any: map[uint16]bool{}}
			if err := r.run(string(script)); err != nil {
				if errors.Is(err, bmv2.ErrUnsupported) {
					refused[reason(err)]++
					t.Skip(err)
				}
				failed++
				t.Fatal(err)
			}
			if err := r.check(); err != nil {
				failed++
				t.Error(err)
				return
			}
			passed++
		})
	}
	t.Logf("%d passed, %d failed", passed, failed)
	skipped := 0
	for _, n := range refused {
		skipped += n
	}
	if total := passed + failed + skipped; 100*passed < 95*total {
		t.Errorf("%d of %d pass, which is less than 95 %%", passed, total)
	}
	var reasons []string
	for r, n := range refused {
		reasons = append(reasons, fmt.Sprintf("%3d refused: %s", n, r))
	}
	sort.Strings(reasons)
	t.Log("\n" + strings.Join(reasons, "\n"))
}

func compile(t *testing.T, cache, name, src string) []byte {
	t.Helper()
	out := filepath.Join(cache, name+".json")
	if b, err := os.ReadFile(out); err == nil {
		return b
	}
	p4c, err := exec.LookPath("p4c-bm2-ss")
	if err != nil {
		t.Skip("p4c-bm2-ss is not on the PATH")
	}
	if msg, err := exec.Command(p4c, "-o", out, src).CombinedOutput(); err != nil {
		t.Skipf("p4c: %v: %.200s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func loadSwitch(js []byte) (*Switch, error) {
	p, err := bmv2.Load(js)
	if err != nil {
		return nil, err
	}
	return New(p, Options{Seed: 1})
}

var quoted = regexp.MustCompile(`"[^"]*"`)

// reason cuts an error down to what was not supported.
func reason(err error) string {
	parts := strings.Split(err.Error(), ": ")
	return quoted.ReplaceAllString(parts[len(parts)-1], `"…"`) + " " + strings.Join(quoted.FindAllString(parts[max(0, len(parts)-2)], -1), " ")
}

// stf executes one script.
type stf struct {
	sw    *Switch
	out   map[uint16][][]byte
	want  map[uint16][]string
	any   map[uint16]bool
	ports map[uint16]bool
	nodes [][]Replica
}

func (r *stf) run(script string) error {
	for i, line := range strings.Split(script, "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if err := r.command(line); err != nil {
			return fmt.Errorf("line %d: %s: %w", i+1, line, err)
		}
	}
	return nil
}

func (r *stf) command(line string) error {
	f := strings.Fields(line)
	switch strings.ToLower(f[0]) {
	case "packet":
		port, err := strconv.ParseUint(f[1], 0, 16)
		if err != nil {
			return err
		}
		data, err := hex.DecodeString(strings.Join(f[2:], ""))
		if err != nil {
			return err
		}
		r.ports[uint16(port)] = true
		r.sw.Process(uint16(port), data, func(port uint16, data []byte) {
			r.out[port] = append(r.out[port], append([]byte(nil), data...))
		})
	case "expect":
		port, err := strconv.ParseUint(f[1], 0, 16)
		if err != nil {
			return err
		}
		r.ports[uint16(port)] = true
		if len(f) == 2 {
			r.any[uint16(port)] = true
			return nil
		}
		r.want[uint16(port)] = append(r.want[uint16(port)], strings.ToUpper(strings.Join(f[2:], "")))
	case "add":
		return r.add(line[3:])
	case "setdefault":
		return r.setDefault(line[len("setdefault"):])
	case "mc_mgrp_create":
		id, err := strconv.ParseUint(f[1], 0, 32)
		if err != nil {
			return err
		}
		return r.sw.InsertGroup(&Group{ID: uint32(id)})
	case "mc_node_create":
		rid, err := strconv.ParseUint(f[1], 0, 32)
		if err != nil {
			return err
		}
		var node []Replica
		for _, p := range f[2:] {
			port, err := strconv.ParseUint(p, 0, 16)
			if err != nil {
				return err
			}
			node = append(node, Replica{Port: uint16(port), RID: uint32(rid)})
		}
		r.nodes = append(r.nodes, node)
	case "mc_node_associate":
		id, _ := strconv.ParseUint(f[1], 0, 32)
		n, _ := strconv.ParseUint(f[2], 0, 32)
		g := r.sw.Group(uint32(id))
		if g == nil || int(n) >= len(r.nodes) {
			return errors.New("no such group or node")
		}
		return r.sw.ModifyGroup(&Group{ID: g.ID, Replicas: append(append([]Replica(nil), g.Replicas...), r.nodes[n]...)})
	case "mirroring_add", "mirroring_add_mc":
		return r.mirror(f[0] == "mirroring_add_mc", f[1:])
	case "mirroring_delete":
		id, err := strconv.ParseUint(f[1], 0, 32)
		if err != nil {
			return err
		}
		return r.sw.DeleteCloneSession(uint32(id))
	case "register_write", "register_reset":
		return r.register(f[1:])
	case "meter_set_rates", "meter_array_set_rates":
		return r.meter(f[0] == "meter_array_set_rates", f[1:])
	case "wait", "no_packet", "mirroring_get", "register_read", "counter_read", "meter_get_rates":
		// They show something to a reader and expect nothing.
	default:
		return fmt.Errorf("command %q is %w", f[0], bmv2.ErrUnsupported)
	}
	return nil
}

// mirror is what simple_switch_CLI does: mirroring_add SESSION PORT, or
// mirroring_add_mc SESSION GROUP.
func (r *stf) mirror(group bool, f []string) error {
	id, err := strconv.ParseUint(f[0], 0, 32)
	if err != nil {
		return err
	}
	to, err := strconv.ParseUint(f[1], 0, 16)
	if err != nil {
		return err
	}
	session := &CloneSession{ID: uint32(id), Replicas: []Replica{{Port: uint16(to)}}}
	if group {
		g := r.sw.Group(uint32(to))
		if g == nil {
			return fmt.Errorf("no multicast group %d", to)
		}
		session.Replicas = g.Replicas
	}
	return r.sw.InsertCloneSession(session)
}

// register parses: name [index value].
func (r *stf) register(f []string) error {
	var reg *dataplane.Register
	for _, x := range r.sw.Engine().Registers() {
		if reg == nil && strings.HasSuffix(x.Def().Name, f[0]) || x.Def().Name == f[0] {
			reg = x
		}
	}
	if reg == nil {
		return fmt.Errorf("no register %q", f[0])
	}
	if len(f) == 1 {
		reg.Reset()
		return nil
	}
	i, err := strconv.Atoi(f[1])
	if err != nil || i < 0 || i >= reg.Len() {
		return fmt.Errorf("index %q: %v", f[1], err)
	}
	v, err := number(f[2])
	if err != nil {
		return err
	}
	return reg.Write(i, fill(v, reg.Def().Width))
}

// meter parses: name [index] rate:burst rate:burst, with rates per microsecond.
func (r *stf) meter(all bool, f []string) error {
	m := r.sw.Engine().Meter(f[0])
	if m == nil {
		return fmt.Errorf("no meter %q", f[0])
	}
	from, to, f := 0, m.Len(), f[1:]
	if !all {
		i, err := strconv.Atoi(f[0])
		if err != nil || i < 0 || i >= m.Len() {
			return fmt.Errorf("index %q: %v", f[0], err)
		}
		from, to, f = i, i+1, f[1:]
	}
	if len(f) != 2 {
		return fmt.Errorf("%d rates, want 2", len(f))
	}
	var rate, burst [2]uint64
	for i := range f {
		x, y, _ := strings.Cut(f[i], ":")
		perMicro, err := strconv.ParseFloat(x, 64)
		if err != nil {
			return err
		}
		rate[i] = uint64(perMicro * 1e6)
		if burst[i], err = strconv.ParseUint(y, 0, 64); err != nil {
			return err
		}
	}
	for i := from; i < to; i++ {
		if err := m.Set(i, &dataplane.MeterConfig{CIR: rate[0], CBurst: burst[0], PIR: rate[1], PBurst: burst[1]}); err != nil {
			return err
		}
	}
	return nil
}

var call = regexp.MustCompile(`([\w.$\[\]]+)\s*\(([^)]*)\)`)

// add parses: table [priority] key:value ... action(name:value, ...)
func (r *stf) add(s string) error {
	m := call.FindStringSubmatchIndex(s)
	if m == nil {
		return errors.New("no action")
	}
	action, args := s[m[2]:m[3]], s[m[4]:m[5]]
	f := strings.Fields(s[:m[0]])
	tbl, err := r.table(f[0])
	if err != nil {
		return err
	}
	f = f[1:]
	prio := 0
	if len(f) > 0 && !strings.Contains(f[0], ":") {
		if prio, err = strconv.Atoi(f[0]); err != nil {
			return err
		}
		f = f[1:]
	}
	if tbl.Def().Kind < bmv2.Ternary {
		prio = 0
	}
	bound, err := bindSTF(tbl, action, args)
	if err != nil {
		return err
	}
	match := make([]bmv2.Match, len(tbl.Def().Key))
	for i := range match {
		k := &tbl.Def().Key[i]
		n := (k.Width + 7) / 8
		match[i] = bmv2.Match{Value: make([]byte, n), Mask: make([]byte, n), High: full(k.Width)}
	}
	for _, kv := range f {
		name, text, _ := strings.Cut(kv, ":")
		i := keyIndex(tbl.Def(), name)
		if i < 0 {
			return fmt.Errorf("no key %q", name)
		}
		if err := setKey(&match[i], &tbl.Def().Key[i], text); err != nil {
			return err
		}
	}
	return tbl.Insert(match, prio, bound, dataplane.Count{})
}

func (r *stf) setDefault(s string) error {
	m := call.FindStringSubmatchIndex(s)
	if m == nil {
		return errors.New("no action")
	}
	tbl, err := r.table(strings.TrimSpace(s[:m[0]]))
	if err != nil {
		return err
	}
	bound, err := bindSTF(tbl, s[m[2]:m[3]], s[m[4]:m[5]])
	if err != nil {
		return err
	}
	return tbl.SetDefault(bound)
}

func (r *stf) table(name string) (*dataplane.Table, error) {
	if t := r.sw.Engine().Table(name); t != nil {
		return t, nil
	}
	for _, t := range r.sw.Engine().Tables() {
		if strings.HasSuffix(t.Def().Name, name) {
			return t, nil
		}
	}
	return nil, fmt.Errorf("no table %q", name)
}

func number(s string) (*big.Int, error) {
	v, ok := new(big.Int).SetString(s, 0)
	if !ok {
		return nil, fmt.Errorf("number %q", s)
	}
	return v, nil
}

func fill(v *big.Int, width int) []byte {
	mask := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(width)), big.NewInt(1))
	return new(big.Int).And(v, mask).FillBytes(make([]byte, (width+7)/8))
}

func full(width int) []byte { return fill(big.NewInt(-1), width) }

func bindSTF(tbl *dataplane.Table, name, args string) (*dataplane.Bound, error) {
	var a *bmv2.Action
	for _, ta := range tbl.Def().Actions {
		if ta.Action.Name == name || a == nil && strings.HasSuffix(ta.Action.Name, name) {
			a = ta.Action
		}
	}
	if a == nil {
		return nil, fmt.Errorf("no action %q", name)
	}
	vals := make([][]byte, len(a.Params))
	for _, arg := range strings.Split(args, ",") {
		if strings.TrimSpace(arg) == "" {
			continue
		}
		pn, text, _ := strings.Cut(arg, ":")
		v, err := number(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		for i, p := range a.Params {
			if p.Name == strings.TrimSpace(pn) {
				vals[i] = fill(v, p.Width)
			}
		}
	}
	return tbl.Bind(a.Name, vals, nil)
}

var index = regexp.MustCompile(`^(.*)\$(\d+)(.*)$`)

func keyIndex(t *bmv2.Table, name string) int {
	if m := index.FindStringSubmatch(name); m != nil {
		name = m[1] + "[" + m[2] + "]" + m[3]
	}
	names := make([]string, len(t.Key))
	for i, k := range t.Key {
		names[i] = k.Name
		if k.Name == "" {
			switch e := k.Target.(type) {
			case *bmv2.FieldExpr:
				names[i] = e.String()
			case *bmv2.ValidExpr:
				names[i] = e.Header.Name + ".$valid$"
			}
		}
	}
	for _, want := range []string{name, name + "$", name + ".$valid$", strings.TrimSuffix(name, "valid") + "$valid$"} {
		for i, n := range names {
			if n == want {
				return i
			}
		}
	}
	for i, n := range names {
		if strings.HasSuffix(n, "."+name) || strings.HasSuffix(n, "."+name+"$") || name == "valid" && strings.HasSuffix(n, "$valid$") {
			return i
		}
	}
	return -1
}

func setKey(m *bmv2.Match, k *bmv2.KeyElement, text string) error {
	bits := 4
	switch {
	case strings.HasPrefix(text, "0b"):
		bits = 1
	case strings.HasPrefix(text, "0o"):
		bits = 3
	}
	switch k.Kind {
	case bmv2.Exact:
		v, err := number(text)
		if err != nil {
			return err
		}
		m.Value = fill(v, k.Width)
	case bmv2.LPM:
		prefix := -1
		if val, p, ok := strings.Cut(text, "/"); ok {
			n, err := strconv.Atoi(p)
			if err != nil {
				return err
			}
			text, prefix = val, n
		} else if len(text) > 2 {
			prefix = (len(text) - 2 - strings.Count(text, "*")) * bits
		}
		v, err := number(strings.ReplaceAll(text, "*", "0"))
		if err != nil {
			return err
		}
		m.Value, m.PrefixLen = fill(v, k.Width), min(prefix, k.Width)
	case bmv2.Ternary:
		val, mask, ok := strings.Cut(text, "&&&")
		if !ok {
			val = strings.ReplaceAll(text, "*", "0")
			if len(text) > 2 && text[0] == '0' {
				mask = text[:2]
				for _, c := range text[2:] {
					if c == '*' {
						mask += "0"
					} else {
						mask += map[int]string{4: "F", 1: "1", 3: "7"}[bits]
					}
				}
			} else {
				mask = "-1"
			}
		}
		v, err := number(val)
		if err != nil {
			return err
		}
		mv, err := number(mask)
		if err != nil {
			return err
		}
		m.Value, m.Mask = fill(v, k.Width), fill(mv, k.Width)
	case bmv2.Range:
		lo, hi, ok := strings.Cut(text, "->")
		if !ok {
			hi = lo
		}
		l, err := number(lo)
		if err != nil {
			return err
		}
		h, err := number(hi)
		if err != nil {
			return err
		}
		m.Value, m.High = fill(l, k.Width), fill(h, k.Width)
	}
	return nil
}

func (r *stf) check() error {
	for port := range r.ports {
		if r.any[port] {
			continue
		}
		want, got := r.want[port], r.out[port]
		if len(want) != len(got) {
			return fmt.Errorf("port %d: %d packets, want %d: %x", port, len(got), len(want), got)
		}
		for i := range want {
			w := want[i]
			g := strings.ToUpper(hex.EncodeToString(got[i]))
			exact := strings.HasSuffix(w, "$")
			w = strings.TrimSuffix(w, "$")
			ok := len(g) >= len(w) && (!exact || len(g) == len(w))
			for j := 0; ok && j < len(w); j++ {
				ok = w[j] == '*' || w[j] == g[j]
			}
			if !ok {
				return fmt.Errorf("port %d: packet %d:\n got %s\nwant %s", port, i, g, want[i])
			}
		}
	}
	return nil
}
