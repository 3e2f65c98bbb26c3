// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// Errors of a table's control functions. They are wrapped, as is ErrArgument.
var (
	ErrExists   = errors.New("entry already exists")
	ErrNotFound = errors.New("no such entry")
	ErrFull     = errors.New("table is full")
	ErrConst    = errors.New("table is constant")
)

// A Table matches packets against entries. Its control functions may be called
// from any goroutine, while packets are looked up.
type Table struct {
	def      *bmv2.Table
	actions  []*boundAction
	keys     []keyPart
	keyBytes int
	lpm      int  // index of the lpm key element
	accounts bool // it has counters, timeouts or a meter
	hitMiss  bool
	nextHit  *node
	nextMiss *node
	noAction *Bound // run if there is no default action
	e        *Engine

	// Of a table whose actions are in a profile: what follows each action of the
	// program.
	profile *Profile
	nextOf  []*node
	// meterTarget takes the colour of a direct meter; missMeter is the default entry's.
	meterTarget Field
	missMeter   *MeterCell

	mu       sync.Mutex // held by control functions
	entries  map[string]*Entry
	order    uint64
	original *Bound // default action of the program

	fallback atomic.Pointer[Bound] // the default action
	misses   cell

	// One of these finds entries, by the table's kind.
	exact   *index
	levels  atomic.Pointer[[]lpmLevel]   // longest prefix first
	ternary atomic.Pointer[[]*ternEntry] // highest priority first
}

// keyPart is a key element at an offset of the key.
type keyPart struct {
	def   *bmv2.KeyElement
	l     *loc // nil: the validity of a header
	valid int  // slot that says whether the header is valid; -1 for metadata
	slot  int
	at, n int
	mask  uint64 // static mask of a narrow part
	wmask []byte // static mask of a wide part; nil: none
}

type lpmLevel struct {
	length int
	idx    *index
}

type ternEntry struct {
	value, mask []byte
	ranges      []rangeMatch
	entry       *Entry
	order       uint64
}

type rangeMatch struct {
	at, n    int
	low, hig []byte
}

// An Entry is what a lookup finds. Match and Priority never change; the action
// does, as a whole.
type Entry struct {
	Match    []bmv2.Match // as the key elements of the table; not to be modified
	Priority int          // ternary and range tables: the highest wins
	Const    bool         // part of the program
	order    uint64

	bound atomic.Pointer[Bound]
	count cell
	meter *MeterCell // nil: the table has no direct meter

	hit     atomic.Int64 // engine time of the last hit
	timeout atomic.Int64 // nanoseconds; 0: none
	told    atomic.Int64 // engine time at which Expired last told of it
}

// Bound returns what the entry runs.
func (e *Entry) Bound() *Bound { return e.bound.Load() }

// Counter returns how many packets, and bytes of packets, met the entry.
func (e *Entry) Counter() Count { return e.count.get() }

// SetCounter overwrites the counter.
func (e *Entry) SetCounter(c Count) { e.count.set(c) }

// Meter returns the entry's direct meter, or nil if the table has none.
func (e *Entry) Meter() *MeterCell { return e.meter }

// IdleTimeout returns after which time without a packet the entry counts as idle; 0 is
// never.
func (e *Entry) IdleTimeout() time.Duration { return time.Duration(e.timeout.Load()) }

// Direct is what belongs to an entry beside its action. What is nil, or not set, stays
// as it is.
type Direct struct {
	Count       *Count
	SetMeter    bool // then Meter says how the direct meter is configured
	Meter       *MeterConfig
	MeterCounts *[3]Count
	IdleTimeout *time.Duration // of a table with WithTimeout
}

// check wants what the table can do.
func (d *Direct) check(t *Table) error {
	switch {
	case d.SetMeter && d.Meter != nil && t.def.Meter == nil, d.MeterCounts != nil && t.def.Meter == nil:
		return fmt.Errorf("table %q has no direct meter: %w", t.def.Name, ErrArgument)
	case d.IdleTimeout != nil && *d.IdleTimeout != 0 && !t.def.WithTimeout:
		return fmt.Errorf("table %q has no idle timeouts: %w", t.def.Name, ErrArgument)
	case d.IdleTimeout != nil && *d.IdleTimeout < 0:
		return fmt.Errorf("an idle timeout of %v: %w", *d.IdleTimeout, ErrArgument)
	}
	if d.SetMeter && d.Meter != nil {
		return d.Meter.check()
	}
	return nil
}

// apply changes an entry; d has been checked.
func (d *Direct) apply(t *Table, e *Entry) {
	if d.Count != nil {
		e.SetCounter(*d.Count)
	}
	if e.meter != nil && d.SetMeter {
		e.meter.set(d.Meter, t.e.now())
	}
	if e.meter != nil && d.MeterCounts != nil {
		e.meter.SetCounts(*d.MeterCounts)
	}
	if d.IdleTimeout != nil {
		e.timeout.Store(int64(*d.IdleTimeout))
	}
}

// A Bound is an action with arguments. It must not be modified.
type Bound struct {
	Action *bmv2.TableAction // nil: none
	Args   [][]byte          // each (width+7)/8 bytes
	// Opaque is whatever the control plane wants to find again; it changes in
	// the same moment as the action.
	Opaque any
	// Of a table with an action profile one of these says what is run, and Action is
	// nil: a member, a group, or a one-shot set.
	Member  *Member
	GroupID uint32
	Set     []SetMember

	args  arguments
	act   *action
	next  *node
	group *memberGroup
	set   bool // group is that of Set
}

// refers tells whether what is run lies in an action profile.
func (b *Bound) refers() bool { return b.Member != nil || b.group != nil }

// IsGroup tells whether GroupID says what is run.
func (b *Bound) IsGroup() bool { return b.group != nil && !b.set }

// IsSet tells whether Set says what is run; it may be empty.
func (b *Bound) IsSet() bool { return b.set }

// arguments are those of an action, in both forms.
type arguments struct {
	wide   [][]byte
	narrow []uint64 // of those with up to 64 bits
}

var noArgs arguments

// bindArgs checks and copies the arguments of an action.
func bindArgs(a *bmv2.Action, args [][]byte) (arguments, error) {
	if len(args) != len(a.Params) {
		return arguments{}, fmt.Errorf("action %q: %d arguments, want %d: %w", a.Name, len(args), len(a.Params), ErrArgument)
	}
	out := arguments{make([][]byte, len(args)), make([]uint64, len(args))}
	for i, p := range a.Params {
		if err := checkWidth(args[i], p.Width); err != nil {
			return arguments{}, fmt.Errorf("action %q: parameter %q: %w", a.Name, p.Name, err)
		}
		out.wide[i] = bytes.Clone(args[i])
		if p.Width <= 64 {
			out.narrow[i] = loadBE(args[i], len(args[i]))
		}
	}
	return out, nil
}

// boundAction is an action of a table and what follows it.
type boundAction struct {
	def  *bmv2.TableAction
	act  *action
	next *node
}

// Def returns the declaration of the table.
func (t *Table) Def() *bmv2.Table { return t.def }

// Len returns how many entries there are, the default one not counted.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// Bind prepares an action of the table. Each argument is (width+7)/8 bytes of an
// unsigned number that fits the parameter's width.
func (t *Table) Bind(action string, args [][]byte, opaque any) (*Bound, error) {
	for _, a := range t.actions {
		if a.def.Action.Name != action {
			continue
		}
		args, err := bindArgs(a.def.Action, args)
		if err != nil {
			return nil, err
		}
		return &Bound{Action: a.def, Opaque: opaque, act: a.act, next: a.next, Args: args.wide, args: args}, nil
	}
	return nil, fmt.Errorf("action %q is none of table %q: %w", action, t.def.Name, ErrArgument)
}

// checkWidth wants b to be (width+7)/8 bytes of a number of at most width bits.
func checkWidth(b []byte, width int) error {
	if len(b) != (width+7)/8 {
		return fmt.Errorf("%d bytes, want %d: %w", len(b), (width+7)/8, ErrArgument)
	}
	if r := width % 8; r != 0 && b[0]>>r != 0 {
		return fmt.Errorf("%x does not fit into %d bits: %w", b, width, ErrArgument)
	}
	return nil
}

// Default returns what the table runs on a miss; its Action is nil if there is
// nothing to run.
func (t *Table) Default() *Bound { return t.fallback.Load() }

// DefaultChanged tells whether the default action is another than the program's.
func (t *Table) DefaultChanged() bool { return t.fallback.Load() != t.original }

// SetDefault changes what the table runs on a miss; nil restores what the program
// says.
func (t *Table) SetDefault(b *Bound) error {
	if t.def.Default != nil && t.def.Default.Const {
		return fmt.Errorf("the default action of table %q: %w", t.def.Name, ErrConst)
	}
	if b == nil {
		b = t.original
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.acquire(b); err != nil {
		return err
	}
	t.abandon(t.fallback.Swap(b))
	return nil
}

// ModifyDefault changes what belongs to the default entry beside its action. It has no
// idle timeout.
func (t *Table) ModifyDefault(d Direct) error {
	if err := d.check(t); err != nil {
		return err
	}
	if d.Count != nil {
		t.misses.set(*d.Count)
	}
	if t.missMeter != nil && d.SetMeter {
		t.missMeter.set(d.Meter, t.e.now())
	}
	if t.missMeter != nil && d.MeterCounts != nil {
		t.missMeter.SetCounts(*d.MeterCounts)
	}
	return nil
}

// DefaultMeter returns the direct meter of the default entry, or nil if the table has
// none. Without a configuration, as in bmv2, a miss is not marked.
func (t *Table) DefaultMeter() *MeterCell { return t.missMeter }

// DefaultCounter returns how many packets met no entry; they are counted in tables
// that count.
func (t *Table) DefaultCounter() Count { return t.misses.get() }

// canonical checks a match and returns it with all that cannot matter set to zero,
// together with the entry's identity.
func (t *Table) canonical(match []bmv2.Match, priority int) ([]bmv2.Match, string, error) {
	if len(match) != len(t.keys) {
		return nil, "", fmt.Errorf("%d match fields, want %d: %w", len(match), len(t.keys), ErrArgument)
	}
	if len(match) == 0 {
		return nil, "", fmt.Errorf("table %q has no key and takes no entry: %w", t.def.Name, ErrArgument)
	}
	out := make([]bmv2.Match, len(match))
	var id []byte
	for i := range match {
		k, m := &t.keys[i], &out[i]
		width := k.def.Width
		fail := func(err error) error { return fmt.Errorf("match field %q: %w", k.def.Name, err) }
		if err := checkWidth(match[i].Value, width); err != nil {
			return nil, "", fail(err)
		}
		m.Value = bytes.Clone(match[i].Value)
		switch k.def.Kind {
		case bmv2.LPM:
			m.PrefixLen = match[i].PrefixLen
			if m.PrefixLen < 0 || m.PrefixLen > width {
				return nil, "", fail(fmt.Errorf("prefix length %d of %d bits: %w", m.PrefixLen, width, ErrArgument))
			}
			clearTail(m.Value, width, m.PrefixLen)
			id = append(id, byte(m.PrefixLen>>8), byte(m.PrefixLen))
		case bmv2.Ternary:
			if err := checkWidth(match[i].Mask, width); err != nil {
				return nil, "", fail(err)
			}
			m.Mask = bytes.Clone(match[i].Mask)
			for j := range m.Value {
				m.Value[j] &= m.Mask[j]
			}
			id = append(id, m.Mask...)
		case bmv2.Range:
			if err := checkWidth(match[i].High, width); err != nil {
				return nil, "", fail(err)
			}
			m.High = bytes.Clone(match[i].High)
			if bytes.Compare(m.Value, m.High) > 0 {
				return nil, "", fail(fmt.Errorf("the range %x to %x is empty: %w", m.Value, m.High, ErrArgument))
			}
			id = append(id, m.High...)
		}
		id = append(id, m.Value...)
	}
	if t.def.Kind >= bmv2.Ternary {
		id = fmt.Appendf(id, "/%d", priority)
	} else if priority != 0 {
		return nil, "", fmt.Errorf("priority %d in a table of kind %v: %w", priority, t.def.Kind, ErrArgument)
	}
	return out, string(id), nil
}

// clearTail makes all bits after the first n of width zero.
func clearTail(b []byte, width, n int) {
	bit := len(b)*8 - width + n
	for i := range b {
		switch left := bit - 8*i; {
		case left <= 0:
			b[i] = 0
		case left < 8:
			b[i] &= 0xff << (8 - left)
		}
	}
}

// Find returns the entry with exactly this match and priority, or ErrNotFound.
func (t *Table) Find(match []bmv2.Match, priority int) (*Entry, error) {
	_, id, err := t.canonical(match, priority)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[id]; e != nil {
		return e, nil
	}
	return nil, ErrNotFound
}

// Insert adds an entry. Packets see it before Insert returns.
func (t *Table) Insert(match []bmv2.Match, priority int, b *Bound, c Count) error {
	return t.InsertWith(match, priority, b, Direct{Count: &c})
}

// InsertWith is Insert with all that may belong to an entry.
func (t *Table) InsertWith(match []bmv2.Match, priority int, b *Bound, d Direct) error {
	if t.def.ConstEntries {
		return ErrConst
	}
	return t.insert(match, priority, b, &d, false)
}

func (t *Table) insert(match []bmv2.Match, priority int, b *Bound, d *Direct, konst bool) error {
	m, id, err := t.canonical(match, priority)
	if err != nil {
		return err
	}
	if err := d.check(t); err != nil {
		return err
	}
	if err := t.accepts(b); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries[id] != nil {
		return ErrExists
	}
	if len(t.entries) >= t.def.Size {
		return fmt.Errorf("%w: its size is %d", ErrFull, t.def.Size)
	}
	if err := t.acquire(b); err != nil {
		return err
	}
	t.order++
	e := &Entry{Match: m, Priority: priority, Const: konst, order: t.order}
	e.bound.Store(b)
	if t.def.Meter != nil {
		e.meter = &MeterCell{}
	}
	if t.def.WithTimeout {
		e.hit.Store(t.e.now())
	}
	d.apply(t, e)
	t.entries[id] = e
	t.publish(e)
	return nil
}

// accepts tells whether an entry of the table may run b.
func (t *Table) accepts(b *Bound) error {
	if (t.profile != nil) != b.refers() {
		if t.profile == nil {
			return fmt.Errorf("table %q has no action profile: %w", t.def.Name, ErrArgument)
		}
		return fmt.Errorf("the actions of table %q are in action profile %q: %w", t.def.Name, t.profile.def.Name, ErrArgument)
	}
	return nil
}

// Modify changes what an entry runs; packets see that before Modify returns. A nil
// Bound leaves the action, a nil Count the counter.
func (t *Table) Modify(match []bmv2.Match, priority int, b *Bound, c *Count) error {
	return t.ModifyWith(match, priority, b, Direct{Count: c})
}

// ModifyWith is Modify with all that may belong to an entry.
func (t *Table) ModifyWith(match []bmv2.Match, priority int, b *Bound, d Direct) error {
	_, id, err := t.canonical(match, priority)
	if err != nil {
		return err
	}
	if err := d.check(t); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	if e == nil {
		return ErrNotFound
	}
	if b != nil {
		if e.Const {
			return ErrConst
		}
		if err := t.accepts(b); err != nil {
			return err
		}
		if err := t.acquire(b); err != nil {
			return err
		}
		t.abandon(e.bound.Swap(b))
	}
	d.apply(t, e)
	return nil
}

// Delete takes an entry out; no lookup that begins afterwards finds it.
func (t *Table) Delete(match []bmv2.Match, priority int) error {
	if t.def.ConstEntries {
		return ErrConst
	}
	_, id, err := t.canonical(match, priority)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	if e == nil {
		return ErrNotFound
	}
	delete(t.entries, id)
	t.withdraw(e)
	t.abandon(e.bound.Load())
	return nil
}

// SinceHit returns how long ago a packet met the entry, or how long ago it was
// inserted, in a table with WithTimeout; elsewhere it is 0.
func (t *Table) SinceHit(e *Entry) time.Duration {
	if !t.def.WithTimeout {
		return 0
	}
	return time.Duration(max(0, t.e.now()-e.hit.Load()))
}

// Expired returns the entries that have been idle for their timeout, and how long it
// takes until the next one can be; that is 0 if none can. An entry is told of again
// after another timeout in which no packet met it (P4Runtime 1.5, section 16.4).
func (t *Table) Expired() (idle []*Entry, next time.Duration) {
	if !t.def.WithTimeout {
		return nil, 0
	}
	now := t.e.now()
	for _, e := range t.Entries() {
		timeout := e.timeout.Load()
		if timeout == 0 {
			continue
		}
		left := time.Duration(max(e.hit.Load(), e.told.Load()) + timeout - now)
		if left <= 0 {
			e.told.Store(now)
			idle = append(idle, e)
			left = time.Duration(timeout)
		}
		if next == 0 || left < next {
			next = left
		}
	}
	return idle, next
}

// Entries returns all entries in the order in which they were inserted.
func (t *Table) Entries() []*Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*Entry, 0, len(t.entries))
	for _, e := range t.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *Entry) int { return cmpUint(a.order, b.order) })
	return out
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// keyOf lays the values of a match out as a lookup does, with the static masks.
func (t *Table) keyOf(e *Entry) []byte {
	key := make([]byte, 0, t.keyBytes)
	for i := range t.keys {
		key = append(key, e.Match[i].Value...)
	}
	return key
}

// publish makes a new entry visible; t.mu is held.
func (t *Table) publish(e *Entry) {
	switch t.def.Kind {
	case bmv2.Exact:
		t.exact.insert(t.keyOf(e), e)
	case bmv2.LPM:
		length := t.prefixLen(e)
		levels := *t.levels.Load()
		at, ok := slices.BinarySearchFunc(levels, length, func(l lpmLevel, n int) int { return n - l.length })
		if !ok {
			levels = slices.Insert(slices.Clone(levels), at, lpmLevel{length, newIndex()})
		}
		levels[at].idx.insert(t.keyOf(e), e)
		t.levels.Store(&levels)
	default:
		t.publishTernary(e)
	}
}

func (t *Table) prefixLen(e *Entry) int {
	return e.Match[t.lpm].PrefixLen
}

func (t *Table) publishTernary(e *Entry) {
	x := &ternEntry{entry: e, order: e.order, value: make([]byte, t.keyBytes), mask: make([]byte, t.keyBytes)}
	for i := range t.keys {
		k, m := &t.keys[i], &e.Match[i]
		switch k.def.Kind {
		case bmv2.Exact:
			copy(x.value[k.at:], m.Value)
			for j := range m.Value {
				x.mask[k.at+j] = 0xff
			}
		case bmv2.Ternary:
			copy(x.value[k.at:], m.Value)
			copy(x.mask[k.at:], m.Mask)
		case bmv2.LPM:
			copy(x.value[k.at:], m.Value)
			for j := range m.Value {
				x.mask[k.at+j] = 0xff
			}
			clearTail(x.mask[k.at:k.at+k.n], k.def.Width, m.PrefixLen)
		case bmv2.Range:
			x.ranges = append(x.ranges, rangeMatch{k.at, k.n, m.Value, m.High})
		}
	}
	list := slices.Clone(*t.ternary.Load())
	at, _ := slices.BinarySearchFunc(list, x, func(a, b *ternEntry) int {
		if a.entry.Priority != b.entry.Priority {
			return b.entry.Priority - a.entry.Priority
		}
		return cmpUint(a.order, b.order)
	})
	list = slices.Insert(list, at, x)
	t.ternary.Store(&list)
}

// withdraw makes a deleted entry invisible; t.mu is held.
func (t *Table) withdraw(e *Entry) {
	switch t.def.Kind {
	case bmv2.Exact:
		t.exact.remove(t.keyOf(e))
	case bmv2.LPM:
		length := t.prefixLen(e)
		levels := *t.levels.Load()
		at := slices.IndexFunc(levels, func(l lpmLevel) bool { return l.length == length })
		levels[at].idx.remove(t.keyOf(e))
		if levels[at].idx.n == 0 {
			levels = slices.Delete(slices.Clone(levels), at, at+1)
			t.levels.Store(&levels)
		}
	default:
		list := slices.DeleteFunc(slices.Clone(*t.ternary.Load()), func(x *ternEntry) bool { return x.entry == e })
		t.ternary.Store(&list)
	}
}

// fillKey lays out the packet's key.
func (t *Table) fillKey(c *Context) []byte {
	key := c.key[:t.keyBytes]
	for i := range t.keys {
		k := &t.keys[i]
		switch {
		case k.valid >= 0 && c.v[k.valid] == 0:
			clear(key[k.at : k.at+k.n])
		case k.l == nil || k.l.kind == narrow:
			storeBE(key[k.at:], c.v[k.slot]&k.mask, k.n)
		default:
			copy(key[k.at:k.at+k.n], c.w[k.l.off:])
			for j := range k.wmask {
				key[k.at+j] &= k.wmask[j]
			}
		}
	}
	return key
}

// lookup finds the entry for the packet, or nil.
func (t *Table) lookup(c *Context) *Entry {
	key := t.fillKey(c)
	switch t.def.Kind {
	case bmv2.Exact:
		return t.exact.find(key)
	case bmv2.LPM:
		return t.lookupLPM(key)
	}
	for _, x := range *t.ternary.Load() {
		if x.matches(key) {
			return x.entry
		}
	}
	return nil
}

func (t *Table) lookupLPM(key []byte) *Entry {
	k := &t.keys[t.lpm]
	for _, l := range *t.levels.Load() {
		clearTail(key[k.at:k.at+k.n], k.def.Width, l.length) // lengths only decrease
		if e := l.idx.find(key); e != nil {
			return e
		}
	}
	return nil
}

func (x *ternEntry) matches(key []byte) bool {
	for i, m := range x.mask {
		if key[i]&m != x.value[i] {
			return false
		}
	}
	return inRanges(x.ranges, key)
}

func inRanges(ranges []rangeMatch, key []byte) bool {
	for i := range ranges {
		r := &ranges[i]
		v := key[r.at : r.at+r.n]
		if bytes.Compare(v, r.low) < 0 || bytes.Compare(v, r.hig) > 0 {
			return false
		}
	}
	return true
}

// apply runs the table on the packet and returns the node that follows.
func (t *Table) apply(c *Context) *node {
	var e *Entry
	if t.keyBytes > 0 {
		e = t.lookup(c)
	}
	b, m := t.choose(c, e)
	return t.execute(c, e, b, m)
}

// choose returns what the packet runs, for entry e or, if that is nil, a miss: an
// action, or a member of an action profile, which is nil if there is none to choose.
func (t *Table) choose(c *Context, e *Entry) (*Bound, *MemberAction) {
	b := t.fallback.Load()
	if e != nil {
		b = e.bound.Load()
	}
	if b.act == nil && b.refers() {
		return b, t.resolve(c, b)
	}
	return b, nil
}

// account counts, times and marks the packet, for entry e or, if that is nil, a miss.
func (t *Table) account(c *Context, e *Entry) {
	if e == nil {
		if t.def.WithCounters {
			t.misses.add(c.IngressLength)
		}
		if t.missMeter != nil {
			if color, ok := t.missMeter.markConfigured(c.Now(), measure(t.def.Meter, c), c.IngressLength); ok {
				t.meterTarget.Set(c, color)
			}
		}
		return
	}
	if t.def.WithCounters {
		e.count.add(c.IngressLength)
	}
	if t.def.WithTimeout {
		e.hit.Store(c.Now())
	}
	if e.meter != nil {
		t.meterTarget.Set(c, e.meter.mark(c.Now(), measure(t.def.Meter, c), c.IngressLength))
	}
}

// accountDry is account for a packet that leaves no trace.
func (t *Table) accountDry(c *Context, e *Entry) {
	switch {
	case t.def.Meter == nil:
	case e != nil:
		t.meterTarget.Set(c, e.meter.peek(c.Now(), measure(t.def.Meter, c)))
	case t.missMeter.Config() != nil:
		t.meterTarget.Set(c, t.missMeter.peek(c.Now(), measure(t.def.Meter, c)))
	}
}

// execute does what an entry, or a miss if it is nil, brings about, and runs what was
// chosen.
func (t *Table) execute(c *Context, e *Entry, b *Bound, m *MemberAction) *node {
	if t.accounts {
		if c.dry {
			t.accountDry(c, e)
		} else {
			t.account(c, e)
		}
	}
	next := b.next
	switch {
	case b.act != nil:
		c.args = &b.args
		b.act.run(c)
	case m != nil:
		c.args = &m.args
		m.act.run(c)
		next = t.nextOf[m.act.index]
	case b.refers(): // an empty group runs nothing
		next = t.noAction.next
	}
	if t.hitMiss {
		if e != nil {
			return t.nextHit
		}
		return t.nextMiss
	}
	return next
}

// A Count is a number of packets and of their bytes.
type Count struct{ Packets, Bytes uint64 }

// A Counter is an indirect counter: an array of counts.
type Counter struct {
	def   *bmv2.CounterArray
	cells []cell
}

type cell struct{ packets, bytes atomic.Uint64 }

func (c *cell) get() Count { return Count{c.packets.Load(), c.bytes.Load()} }

func (c *cell) set(v Count) {
	c.packets.Store(v.Packets)
	c.bytes.Store(v.Bytes)
}

func (c *cell) add(length int) {
	c.packets.Add(1)
	c.bytes.Add(uint64(length))
}

// Def returns the declaration of the counter.
func (c *Counter) Def() *bmv2.CounterArray { return c.def }

// Len returns how many counts there are.
func (c *Counter) Len() int { return len(c.cells) }

// Get returns the count at i, which must be less than Len.
func (c *Counter) Get(i int) Count { return c.cells[i].get() }

// Set overwrites the count at i, which must be less than Len.
func (c *Counter) Set(i int, v Count) { c.cells[i].set(v) }

// count ignores an index out of range.
func (c *Counter) count(i uint64, length int) {
	if i < uint64(len(c.cells)) {
		c.cells[i].add(length)
	}
}
