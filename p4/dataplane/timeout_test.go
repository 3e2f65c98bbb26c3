// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// timed makes a table with idle timeouts and a direct meter of two rates, under a clock
// of the test, and a function that sends a packet with a key and returns the colour.
func timed(t *testing.T, now *int64) (*Table, func(byte) uint64) {
	t.Helper()
	p := program(bmv2.Field{Name: "k", Width: 8}, bmv2.Field{Name: "colour", Width: 2}, bmv2.Field{Name: "pad", Width: 6})
	field := func(i int) bmv2.FieldRef { return bmv2.FieldRef{Header: p.Headers[1], Index: i} }
	a := &bmv2.Action{Name: "none"}
	p.Actions = []*bmv2.Action{a}
	m := &bmv2.MeterArray{Name: "m", Direct: true, Table: "t", Target: field(1)}
	p.Meters = []*bmv2.MeterArray{m}
	def := &bmv2.Table{Name: "t", Size: 10, Key: []bmv2.KeyElement{{Name: "k", Width: 8, Target: &bmv2.FieldExpr{FieldRef: field(0)}}},
		Actions: []*bmv2.TableAction{{Action: a}}, WithTimeout: true, Meter: m}
	p.Pipelines = []*bmv2.Pipeline{{Name: "ingress", Start: def, Tables: []*bmv2.Table{def}}}
	e, err := New(p, Options{Parser: "parser", Deparser: "deparser", Seed: 1, Now: func() int64 { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	c := e.NewContext()
	return e.Table("t"), func(key byte) uint64 {
		c.Reset()
		e.Field("m", "k").Set(c, uint64(key))
		e.Pipeline("ingress").Apply(c)
		return e.Field("m", "colour").Get(c)
	}
}

func insertTimed(t *testing.T, tbl *Table, key byte, d Direct) {
	t.Helper()
	b, err := tbl.Bind("none", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := tbl.InsertWith([]bmv2.Match{{Value: []byte{key}}}, 0, b, d); err != nil {
		t.Fatal(err)
	}
}

// TestExpired wants each idle entry to be told of once per timeout (P4Runtime 1.5,
// section 16.4).
func TestExpired(t *testing.T) {
	now := int64(time.Hour)
	tbl, send := timed(t, &now)
	if idle, next := tbl.Expired(); len(idle) != 0 || next != 0 {
		t.Errorf("an empty table: %d idle, next in %v", len(idle), next)
	}
	for key, timeout := range map[byte]time.Duration{1: 100, 2: 250, 3: 0} {
		insertTimed(t, tbl, key, Direct{IdleTimeout: &timeout})
	}
	want := func(at int64, next time.Duration, keys ...byte) {
		t.Helper()
		now = int64(time.Hour) + at
		idle, left := tbl.Expired()
		got := map[byte]bool{}
		for _, e := range idle {
			got[e.Match[0].Value[0]] = true
		}
		for _, k := range keys {
			if !got[k] {
				t.Errorf("at %d: entry %d is not told of", at, k)
			}
		}
		if len(got) != len(keys) || left != next {
			t.Errorf("at %d: %v, next in %d, want %v, next in %d", at, got, left, keys, next)
		}
	}
	want(0, 100)
	want(99, 1)
	want(100, 100, 1)
	want(101, 99) // told already
	want(200, 50, 1)
	now += 10 // at 210 a packet comes
	send(1)
	want(300, 10, 2)
	want(310, 100, 1)
	want(409, 1)
	if e := tbl.Entries(); len(e) != 3 || tbl.SinceHit(e[0]) <= 0 {
		t.Errorf("%d entries", len(e))
	}
	bad := Direct{IdleTimeout: new(time.Duration)}
	*bad.IdleTimeout = -1
	if err := tbl.ModifyWith([]bmv2.Match{{Value: []byte{1}}}, 0, nil, bad); !errors.Is(err, ErrArgument) {
		t.Errorf("a negative timeout: %v", err)
	}
}

// TestMeterRates fills buckets as RFC 2698 section 3 says.
func TestMeterRates(t *testing.T) {
	now := int64(time.Hour)
	tbl, send := timed(t, &now)
	// Two packets a second, three at once; five a second, six at once.
	insertTimed(t, tbl, 1, Direct{SetMeter: true, Meter: &MeterConfig{CIR: 2, CBurst: 3, PIR: 5, PBurst: 6}})
	colours := func(n int) (s string) {
		for range n {
			s += big.NewInt(int64(send(1))).String()
		}
		return s
	}
	step := func(wait time.Duration, n int, want string) {
		t.Helper()
		now += int64(wait)
		if got := colours(n); got != want {
			t.Errorf("%v later: %s, want %s", wait, got, want)
		}
	}
	step(0, 8, "00011122")
	step(time.Second/2, 3, "012")      // one committed token, two and a half of the peak's
	step(time.Second/2, 4, "0112")     // one more, and the half that was left makes three
	step(time.Hour, 8, "00011122")     // full, and not more
	step(time.Millisecond, 1, "2")     // no whole token
	step(199*time.Millisecond, 1, "1") // the first of the peak's
	counts := tbl.Entries()[0].Meter().Counts()
	if total := counts[Green].Packets + counts[Yellow].Packets + counts[Red].Packets; total != 25 {
		t.Errorf("%d packets counted, want 25", total)
	}
	if err := tbl.ModifyWith([]bmv2.Match{{Value: []byte{1}}}, 0, nil, Direct{SetMeter: true}); err != nil {
		t.Fatal(err)
	}
	step(0, 3, "000")
	if got := tbl.Entries()[0].Meter().Counts(); got[Red] != counts[Red] || got[Green].Packets != counts[Green].Packets+3 {
		t.Errorf("configured again it has %v, before %v", got, counts)
	}
	// A packet that leaves no trace takes no token.
	if err := tbl.ModifyWith([]bmv2.Match{{Value: []byte{1}}}, 0, nil, Direct{SetMeter: true, Meter: &MeterConfig{PBurst: 1, CBurst: 1}}); err != nil {
		t.Fatal(err)
	}
	c := tbl.e.NewContext()
	c.SetDry(true)
	for range 3 {
		c.Reset()
		tbl.e.Field("m", "k").Set(c, 1)
		tbl.e.Pipeline("ingress").Apply(c)
	}
	step(0, 2, "02")
}
