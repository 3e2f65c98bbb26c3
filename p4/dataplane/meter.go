// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// Colours of a meter, as v1model.p4 numbers them.
const (
	Green  = 0
	Yellow = 1
	Red    = 2
)

// A MeterConfig configures a two-rate three-colour marker (RFC 2698). Rates are
// bytes or packets per second, bursts bytes or packets, by the meter's unit.
type MeterConfig struct {
	CIR, CBurst uint64 // committed
	PIR, PBurst uint64 // peak
}

// check wants what RFC 2698 section 2 wants of the parameters, and a rate that can be
// computed with.
func (c *MeterConfig) check() error {
	const most = 1<<63 - 1
	switch {
	case c.CIR > most || c.PIR > most || c.CBurst > most || c.PBurst > most:
		return fmt.Errorf("a meter's rate or burst of more than 2^63-1: %w", ErrArgument)
	case c.PIR < c.CIR:
		return fmt.Errorf("a meter's peak rate of %d is below its committed rate of %d: %w", c.PIR, c.CIR, ErrArgument)
	}
	return nil
}

// A MeterCell is one meter. Without a configuration everything is green, as
// P4Runtime 1.5 section 9.3 wants of the default configuration.
type MeterCell struct {
	mu     sync.Mutex
	config *MeterConfig
	tc, tp bucket
	counts [3]Count // what was marked, by colour
}

// bucket is a token bucket: at full when it begins, filled at a rate.
type bucket struct {
	rate, burst uint64
	tokens      uint64
	// added is how many tokens have come since start; it is computed from the time
	// that has passed since then, so that no fraction of a token is ever lost.
	added uint64
	start int64
}

func newBucket(rate, burst uint64, now int64) bucket {
	return bucket{rate: rate, burst: burst, tokens: burst, start: now}
}

func (b *bucket) fill(now int64) {
	hi, lo := bits.Mul64(uint64(max(0, now-b.start)), b.rate)
	if hi >= 1e9 {
		// More than 2^64 tokens have come: begin again with a full bucket.
		*b = newBucket(b.rate, b.burst, now)
		return
	}
	total, _ := bits.Div64(hi, lo, 1e9)
	if total <= b.added {
		return
	}
	fresh := total - b.added
	b.added = total
	if fresh >= b.burst-b.tokens {
		b.tokens = b.burst
	} else {
		b.tokens += fresh
	}
}

// Config returns the configuration, or nil.
func (m *MeterCell) Config() *MeterConfig {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.config == nil {
		return nil
	}
	c := *m.config
	return &c
}

// Counts returns how much was marked green, yellow and red since the meter was made or
// SetCounts was called. Configuring the meter again leaves it (P4Runtime 1.5, section
// 9.4.1: counter_data is left untouched if it is unset).
func (m *MeterCell) Counts() [3]Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts
}

// SetCounts overwrites what Counts returns.
func (m *MeterCell) SetCounts(c [3]Count) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts = c
}

// set configures the meter, with full buckets; nil takes the configuration away.
func (m *MeterCell) set(c *MeterConfig, now int64) error {
	if c != nil {
		if err := c.check(); err != nil {
			return err
		}
		k := *c
		c = &k
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.config = c
	if c != nil {
		m.tc, m.tp = newBucket(c.CIR, c.CBurst, now), newBucket(c.PIR, c.PBurst, now)
	}
	return nil
}

// mark is RFC 2698 section 3, colour-blind.
func (m *MeterCell) mark(now int64, size uint64, length int) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	color := m.color(now, size)
	if m.config != nil {
		if color != Red {
			m.tp.tokens -= size
		}
		if color == Green {
			m.tc.tokens -= size
		}
	}
	m.counts[color].Packets++
	m.counts[color].Bytes += uint64(length)
	return color
}

// peek returns what mark would.
func (m *MeterCell) peek(now int64, size uint64) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.color(now, size)
}

// color fills the buckets and looks at them; m.mu is held.
func (m *MeterCell) color(now int64, size uint64) uint64 {
	if m.config == nil {
		return Green
	}
	m.tc.fill(now)
	m.tp.fill(now)
	switch {
	case m.tp.tokens < size:
		return Red
	case m.tc.tokens < size:
		return Yellow
	}
	return Green
}

// markConfigured is mark if the meter is configured.
func (m *MeterCell) markConfigured(now int64, size uint64, length int) (color uint64, ok bool) {
	m.mu.Lock()
	ok = m.config != nil
	m.mu.Unlock()
	if !ok {
		return 0, false
	}
	return m.mark(now, size, length), true
}

// A Meter is an indirect meter: an array of meters.
type Meter struct {
	def   *bmv2.MeterArray
	cells []MeterCell
	e     *Engine
}

// Def returns the declaration of the meter.
func (m *Meter) Def() *bmv2.MeterArray { return m.def }

// Len returns how many meters there are.
func (m *Meter) Len() int { return len(m.cells) }

// Cell returns the meter at i, which must be less than Len.
func (m *Meter) Cell(i int) *MeterCell { return &m.cells[i] }

// Set configures the meter at i, which must be less than Len; nil takes its
// configuration away.
func (m *Meter) Set(i int, c *MeterConfig) error { return m.cells[i].set(c, m.e.now()) }

// measure is how much one packet takes from a meter of that unit.
func measure(def *bmv2.MeterArray, c *Context) uint64 {
	if def.Bytes {
		return uint64(c.IngressLength)
	}
	return 1
}

func executeMeter(b *Builder, args []bmv2.Expr) (func(*Context), error) {
	if err := want(args, 3); err != nil {
		return nil, err
	}
	ref, ok := args[0].(*bmv2.MeterRef)
	if !ok {
		return nil, fmt.Errorf("want a meter, have %T", args[0])
	}
	m := b.e.meters[ref.Array.Index]
	idx, err := b.Index(args[1])
	if err != nil {
		return nil, err
	}
	set, err := b.Assign(args[2])
	if err != nil {
		return nil, err
	}
	return func(c *Context) {
		// Like bmv2, leave the field alone if the index is out of range.
		if i := idx(c); i < uint64(len(m.cells)) {
			if c.dry {
				set(c, m.cells[i].peek(c.Now(), measure(m.def, c)))
			} else {
				set(c, m.cells[i].mark(c.Now(), measure(m.def, c), c.IngressLength))
			}
		}
	}, nil
}
