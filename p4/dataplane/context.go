// SPDX-License-Identifier: Apache-2.0

package dataplane

// A Context holds one packet while it is worked on: the headers and metadata, the
// bytes that were not parsed, and scratch space. It is made by Engine.NewContext,
// is used by one goroutine at a time, and can be used again after Reset.
type Context struct {
	v []uint64 // see loc
	w []byte

	frame   []byte // what Parse was given
	payload []byte // what follows the parsed headers

	// IngressLength is the length of the frame as it arrived; counters count it.
	IngressLength int
	// Length is the packet's length now: it follows headers that are added and
	// removed.
	Length int
	// Truncate is the most bytes that Deparse writes, or -1.
	Truncate int
	// ParserError is the code of the error that ended the parser.
	ParserError uint32
	// ChecksumError is set if VerifyChecksums found a wrong checksum.
	ChecksumError bool
	// Exit ends the pipeline that is running.
	Exit bool
	// Failed is set when an assert or assume does not hold; it comes with Exit.
	Failed bool
	// Arch is for the architecture.
	Arch ArchRegisters

	args    *arguments // of the action that is running
	time    int64      // see Now
	holds   bool       // the lock over shared registers
	tracer  Tracer     // nil: none
	dry     bool       // see SetDry
	key     []byte     // scratch for lookups
	scratch []byte     // scratch for hashes
	rng     uint64

	e *Engine
}

// ArchRegisters are what primitives of an architecture leave in a packet. They are zero
// after Reset and CopyFrom.
type ArchRegisters [4]uint64

// NewContext returns a Context for packets of this engine.
func (e *Engine) NewContext() *Context {
	c := &Context{
		e:   e,
		v:   make([]uint64, e.layout.slots),
		w:   make([]byte, e.layout.bytes),
		key: make([]byte, 0, e.maxKey),
		rng: e.seed(),
	}
	c.Reset()
	return c
}

// Reset makes all headers invalid and all fields zero.
func (c *Context) Reset() {
	clear(c.v)
	clear(c.w)
	for _, s := range c.e.layout.metadata {
		c.v[s] = 1
	}
	c.frame, c.payload = nil, nil
	c.IngressLength, c.Length, c.Truncate = 0, 0, -1
	c.ParserError, c.ChecksumError, c.Exit = c.e.noError, false, false
	c.args, c.time = &noArgs, 0
	c.Failed, c.Arch = false, ArchRegisters{}
}

// Now is the time of the packet in nanoseconds of the engine's clock: when it was
// first asked for since Reset, so that a packet has one time.
func (c *Context) Now() int64 {
	if c.time == 0 {
		c.time = c.e.now()
	}
	return c.time
}

// SetNow makes t the time of the packet.
func (c *Context) SetNow(t int64) { c.time = t }

// CopyFrom makes c a copy of src, headers, metadata, payload and length, as a
// replica of a packet. The copy is not truncated. Both share the payload's bytes,
// which nobody writes to.
func (c *Context) CopyFrom(src *Context) {
	copy(c.v, src.v)
	copy(c.w, src.w)
	c.frame, c.payload = src.frame, src.payload
	c.IngressLength, c.Length, c.Truncate = src.IngressLength, src.Length, -1
	c.ParserError, c.ChecksumError, c.Exit = src.ParserError, src.ChecksumError, false
	c.args, c.time = &noArgs, src.time
	c.Failed, c.Arch = false, ArchRegisters{}
	c.tracer, c.dry = src.tracer, src.dry
}

// SetDry makes the packets of c, and copies of them (CopyFrom), leave no trace: nothing
// is counted, logged or written to a register, and meters tell a colour without giving
// tokens.
// It stays through Reset.
func (c *Context) SetDry(dry bool) { c.dry = dry }

// Dry tells whether SetDry was called.
func (c *Context) Dry() bool { return c.dry }

// Payload returns what follows the parsed headers.
func (c *Context) Payload() []byte { return c.payload }

// random returns a pseudo-random number (splitmix64).
func (c *Context) random() uint64 {
	c.rng += 0x9e3779b97f4a7c15
	z := c.rng
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// A Field is a handle for a field of at most 64 bits. The zero Field stands for a
// field that the program does not have: it reads as 0 and ignores writes.
type Field struct {
	slot int // slot+1
	mask uint64
}

// Exists tells whether the program has the field.
func (f Field) Exists() bool { return f.slot != 0 }

// Get returns the value.
func (f Field) Get(c *Context) uint64 {
	if f.slot == 0 {
		return 0
	}
	return c.v[f.slot-1]
}

// Set assigns the value, cut to the field's width.
func (f Field) Set(c *Context, v uint64) {
	if f.slot != 0 {
		c.v[f.slot-1] = v & f.mask
	}
}
