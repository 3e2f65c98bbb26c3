// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/p4rt"
	"github.com/understudy-net/understudy/p4"
)

// Scale of what one controller is held to on one switch.
const (
	manyPairs    = 100
	manyServices = 10_000
	portsPerVIP  = 5
)

// manyConfig has many services on a few ports of each of many VIPs, spread over many
// pairs.
func manyConfig(t testing.TB, switchAddress string) *config.Config {
	t.Helper()
	var b strings.Builder
	head, _, _ := strings.Cut(testText(t, switchAddress), "pairs:")
	b.WriteString(head + "pairs:\n")
	for p := range manyPairs {
		fmt.Fprintf(&b, "  - name: pair%d\n    servers:\n", p)
		for s := range 2 {
			fmt.Fprintf(&b, "      - {name: server%d-%d, port: %d, mac: \"02:00:00:01:%02x:%02x\", gateway: 10.0.%d.1}\n", p, s, 2+2*p+s, p, s, s+1)
		}
	}
	b.WriteString("services:\n")
	for i := range manyServices {
		v := i / portsPerVIP
		fmt.Fprintf(&b, "  - {name: service%d, pair: pair%d, vip: 198.18.%d.%d, protocol: tcp, port: %d, upstream: \"127.0.0.1:8080\"}\n",
			i, v%manyPairs, v>>8, v&255, 80+i%portsPerVIP)
	}
	cfg, err := config.Parse("many.yaml", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// syncs keeps what the log says of each time that the switch was brought to have what
// it shall have.
type syncs struct {
	slog.Handler
	mu      sync.Mutex
	updates []int64
	entries int64
}

func (h *syncs) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "the switch has what it shall have" {
		h.mu.Lock()
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "updates":
				h.updates = append(h.updates, a.Value.Int64())
			case "entries":
				h.entries = a.Value.Int64()
			}
			return true
		})
		h.mu.Unlock()
	}
	return nil
}

// A switch without entries gets those of 10,000 services on 100 pairs; a controller
// that is restarted reads them all, and writes nothing. The times are logged: a machine
// that has other things to do is not wrong.
func TestScale(t *testing.T) {
	if testing.Short() {
		t.Skip("it fills a switch")
	}
	l := newLab(t, "")
	cfg := manyConfig(t, l.address)
	h := &syncs{Handler: slog.DiscardHandler}
	begun := time.Now()
	c := startWith(t, cfg, slog.New(enabled{h}))
	first := time.Since(begun)
	c.stop()
	begun = time.Now()
	c = startWith(t, cfg, slog.New(enabled{h}))
	again := time.Since(begun)
	c.stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.updates) != 2 || h.updates[0] != h.entries || h.updates[1] != 0 {
		t.Errorf("updates %v of %d entries; want all, then none", h.updates, h.entries)
	}
	t.Logf("%d services on %d pairs, %d entries: programmed in %v; restart reconciled in %v without a write",
		manyServices, manyPairs, h.entries, first.Round(time.Millisecond), again.Round(time.Millisecond))
}

// What does not fit into the switch is refused at once, and in so many words; a
// controller that runs stays as it is.
func TestTooLarge(t *testing.T) {
	checkLeaks(t)
	l := newLab(t, "")
	cfg := testConfig(t, l.address)
	text := testText(t, l.address)
	var b strings.Builder
	b.WriteString(text)
	for i := range 3000 { // each has an entry for each server of the pair
		fmt.Fprintf(&b, "  - {name: more%d, pair: web, vip: 198.18.%d.%d, protocol: tcp, port: 80, upstream: \"127.0.0.1:8080\"}\n", i, i>>8, i&255)
	}
	large := parseText(t, b.String())
	const want = "table replica needs 6002 entries, and the switch has room for 4096"
	_, err := New(Options{Config: large, Pipeline: p4rt.Pipeline{Info: p4.Info(), Device: p4.JSON()}})
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	c := start(t, cfg)
	before := switchText(t, c)
	if err := c.loop.reconfigure(t.Context(), large); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	if after := switchText(t, c); after != before {
		t.Errorf("the switch has\n%s\nand had\n%s", after, before)
	}
}

// enabled has a handler see every record, and its children as well.
type enabled struct{ *syncs }

func (h enabled) Enabled(context.Context, slog.Level) bool { return true }
func (h enabled) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h enabled) WithGroup(string) slog.Handler            { return h }

// How long a controller takes to be ready, with as much: on a switch that has nothing,
// and on one that has it all.
func BenchmarkReady(b *testing.B) {
	quiet := slog.New(slog.DiscardHandler)
	b.Run("empty", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			l := newLab(b, "")
			cfg := manyConfig(b, l.address)
			b.StartTimer()
			c := startWith(b, cfg, quiet)
			b.StopTimer()
			c.stop()
			l.stop()
			b.StartTimer()
		}
	})
	b.Run("full", func(b *testing.B) {
		l := newLab(b, "")
		cfg := manyConfig(b, l.address)
		startWith(b, cfg, quiet).stop()
		for b.Loop() {
			c := startWith(b, cfg, quiet)
			b.StopTimer()
			c.stop()
			b.StartTimer()
		}
	})
}
