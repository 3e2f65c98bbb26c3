// SPDX-License-Identifier: Apache-2.0

package proxy

// A replyLog is what is to be written to a client on one connection, as both
// servers hold it. Offsets count reply bytes from the first of the connection.
//
//	      written        sealed        end
//	 gone    |   whole     |  partial   |
//	---------+-------------+------------+
//
// Bytes before sealed belong to replies that are complete, or that are streamed
// because they are too long to be held whole; the rest is a reply in the making,
// which no client has seen and which can still be thrown away.
type replyLog struct {
	segments []segment
	written  uint64
	sealed   uint64
	end      uint64
	// logged is how much the backup has confirmed.
	logged uint64
}

type segment struct {
	data []byte
	end  uint64 // offset after the last byte
	// need is how much of the client's stream the backup must have before this
	// may be shown: the request that it answers.
	need uint64
	span
}

// append adds bytes of a reply in the making; b is kept.
func (l *replyLog) append(b []byte, s span) {
	if len(b) == 0 {
		return
	}
	l.end += uint64(len(b))
	l.segments = append(l.segments, segment{data: b, end: l.end, span: s})
}

// making yields the pieces of the reply in the making.
func (l *replyLog) making() []segment {
	i := len(l.segments)
	for i > 0 && l.segments[i-1].end > l.sealed {
		i--
	}
	return l.segments[i:]
}

// seal makes everything appended so far part of what may be shown, once the
// backup has the client's stream up to need.
func (l *replyLog) seal(need uint64) {
	making := l.making()
	for i := range making {
		making[i].need = need
	}
	l.sealed = l.end
}

// discard throws away a reply in the making.
func (l *replyLog) discard() {
	making := l.making()
	clear(making)
	l.segments = l.segments[:len(l.segments)-len(making)]
	l.end = l.sealed
}

// next returns bytes to write now, nil if there are none. limit is the offset
// up to which bytes may be written at all; received is how much of the client's
// stream the backup has.
func (l *replyLog) next(limit, received uint64) []byte {
	if len(l.segments) == 0 {
		return nil
	}
	limit = min(limit, l.sealed)
	s := l.segments[0]
	if l.written >= limit || s.need > received {
		return nil
	}
	b := s.data[uint64(len(s.data))-(s.end-l.written):]
	return b[:min(uint64(len(b)), limit-l.written)]
}

// wrote records that n bytes of what next returned have been written.
func (l *replyLog) wrote(n int) {
	l.written += uint64(n)
	for len(l.segments) > 0 && l.segments[0].end <= l.written {
		l.segments[0] = segment{}
		l.segments = l.segments[1:]
	}
	if len(l.segments) == 0 {
		l.segments = nil
	}
}

// held returns how many bytes the log holds.
func (l *replyLog) held() int { return int(l.end - l.written) }

// empty reports whether everything that may be shown has been written.
func (l *replyLog) empty() bool { return l.written >= l.sealed }
