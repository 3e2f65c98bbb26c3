// SPDX-License-Identifier: Apache-2.0

package proxy

// A requestStream is what a client has sent on one connection: the bytes that
// have been read from the kernel and are still needed. Offsets count from the
// first byte of the connection, on both servers alike.
//
//	        base      need        pos           received()
//	 gone    |  spare  |  in hand  |   unread   |
//	---------+---------+-----------+------------+
//
// need is where the oldest request without a complete reply begins: from there a
// server that takes over runs it again. pos is how far the active server has
// parsed; a backup does not parse, and drops the oldest bytes when it holds more
// than limit. A request whose beginning is gone cannot be run again.
type requestStream struct {
	limit int
	base  uint64
	need  uint64
	pos   uint64
	data  []byte
	eof   bool
	spent bool // what has been parsed is not needed again
}

func (r *requestStream) received() uint64 { return r.base + uint64(len(r.data)) }

// unread returns how many bytes wait to be parsed.
func (r *requestStream) unread() int { return int(r.received() - r.pos) }

// replayable reports whether everything from need on is still there.
func (r *requestStream) replayable() bool { return r.base <= r.need }

// append adds what was read from the kernel.
func (r *requestStream) append(b []byte) {
	r.data = append(r.data, b...)
}

// overflow drops the oldest bytes beyond limit, but none at or after keep.
func (r *requestStream) overflow(keep uint64) {
	if r.spent {
		r.done(keep)
		return
	}
	if n := len(r.data) - r.limit; n > 0 {
		r.drop(min(r.base+uint64(n), keep))
	}
}

// peek returns the unread bytes, which stay as they are even when more is appended.
func (r *requestStream) peek() []byte { return r.data[r.pos-r.base:] }

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
	r.data = r.data[to-r.base:]
	r.base = to
	r.pos = max(r.pos, to)
	if len(r.data) == 0 {
		r.data = nil // an idle connection holds no memory
	}
}
