// SPDX-License-Identifier: Apache-2.0

package proxy

import "io"

// A requestStream is what a client has sent on one connection: the bytes that
// have been read from the kernel and are still needed. Offsets count from the
// first byte of the connection, on both servers alike.
//
//	      base      need        pos           received()
//	 gone    |  spare  |  in hand  |   unread   |
//	---------+---------+-----------+------------+
//	         |  file         | data             |
//	                        mem
//
// need is where the oldest request without a complete reply begins: from there a
// server that takes over runs it again. pos is how far the active server has
// parsed; a backup does not parse. Of what has been parsed at most limit bytes stay
// in memory; older ones go to a file, where there is one for them, or are dropped. A
// request whose beginning is gone cannot be run again.
type requestStream struct {
	limit int
	base  uint64
	need  uint64
	pos   uint64
	mem   uint64 // where data begins
	data  []byte
	eof   bool
	spent bool // what has been parsed is not needed again

	spill   func() (spillFile, error) // opens a file; nil if there is none to be had
	file    spillFile                 // has the stream from offset from to mem; nil for nothing
	from    uint64
	chunk   []byte // what peek has made of file and data, from chunkAt on
	chunkAt uint64
}

// A spillFile keeps bytes that are too many for memory. Close removes them.
type spillFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// spillChunk is how much peek makes of file and data: more than any head.
const spillChunk = 256 << 10

// unspooled says that limit bytes in memory must do from here on.
func (r *requestStream) unspooled(limit int) { r.spill, r.limit = nil, limit }

func (r *requestStream) received() uint64 { return r.mem + uint64(len(r.data)) }

// unread returns how many bytes wait to be parsed.
func (r *requestStream) unread() int { return int(r.received() - r.pos) }

// replayable reports whether everything from need on is still there.
func (r *requestStream) replayable() bool { return r.base <= r.need }

// append adds what was read from the kernel.
func (r *requestStream) append(b []byte) {
	r.data = append(r.data, b...)
}

// overflow moves the oldest bytes beyond limit to the file, or drops them; but none at
// or after keep.
func (r *requestStream) overflow(keep uint64) {
	if r.spent {
		r.done(keep)
		return
	}
	n := len(r.data) - r.limit
	if n <= 0 || keep <= r.mem {
		return
	}
	n = int(min(uint64(n), keep-r.mem))
	if r.file == nil && r.spill != nil && r.base == r.mem {
		if f, err := r.spill(); err == nil {
			r.file, r.from = f, r.mem
		}
	}
	if r.file != nil {
		if _, err := r.file.WriteAt(r.data[:n], int64(r.mem-r.from)); err == nil {
			r.mem += uint64(n)
			r.data = r.data[n:]
			return
		}
	}
	r.drop(r.mem + uint64(n))
}

// peek returns unread bytes, all of them or at least more than a head has. They stay as
// they are even when more is appended.
func (r *requestStream) peek() []byte {
	if r.pos >= r.mem {
		return r.data[r.pos-r.mem:]
	}
	end := r.chunkAt + uint64(len(r.chunk))
	if r.pos < r.chunkAt || r.pos >= end || end-r.pos < spillChunk/2 && end < r.received() {
		r.chunk, r.chunkAt = make([]byte, min(spillChunk, uint64(r.unread()))), r.pos
		n := int(min(uint64(len(r.chunk)), r.mem-r.pos))
		if _, err := r.file.ReadAt(r.chunk[:n], int64(r.pos-r.from)); err != nil {
			r.drop(r.received()) // a disk that forgets: the request cannot be run again
			return nil
		}
		copy(r.chunk[n:], r.data)
	}
	return r.chunk[r.pos-r.chunkAt:]
}

// advance says that n unread bytes have been parsed.
func (r *requestStream) advance(n int) { r.pos += uint64(n) }

// rewind goes back to an offset that was parsed before; false if it is gone.
func (r *requestStream) rewind(to uint64) bool {
	if to < r.base || to > r.pos {
		return false
	}
	r.pos = to
	return true
}

// done says that everything before offset to has been answered. An offset that
// this server has not received yet is kept in mind: the client's bytes can be
// later than the active server's word.
func (r *requestStream) done(to uint64) {
	if to > r.need {
		r.need = to
	}
	r.drop(r.need)
}

func (r *requestStream) drop(to uint64) {
	to = min(to, r.received())
	if to <= r.base {
		return
	}
	r.base = to
	r.pos = max(r.pos, to)
	if to < r.mem {
		return
	}
	r.data = r.data[to-r.mem:]
	r.mem = to
	r.release()
	if len(r.data) == 0 {
		r.data = nil // an idle connection holds no memory
	}
}

// release closes the file.
func (r *requestStream) release() {
	r.chunk = nil
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}
