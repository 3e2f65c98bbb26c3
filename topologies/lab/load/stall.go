// SPDX-License-Identifier: Apache-2.0

package load

import "time"

// shortest is the length below which a stall is not kept.
const shortest = 100 * time.Microsecond

// stall is a time in which a connection with an outstanding request made no
// progress.
type stall struct{ from, to time.Time }

// stalls follows one connection. A request is outstanding from just before its
// first byte is handed to the kernel until the last byte of its reply was read.
// Progress is a byte of a reply received, or one of a request accepted by the
// kernel. A stall is the time from one progress to the next while a request is
// outstanding; the first begins with the request, and one that ends without
// progress ends with the request's failure.
type stalls struct {
	kept   []stall
	last   time.Time
	active bool
}

// begin says that a request is outstanding from now on.
func (s *stalls) begin(now time.Time) { s.last, s.active = now, true }

// progress says that a byte has moved.
func (s *stalls) progress(now time.Time) {
	if s.active && now.Sub(s.last) >= shortest {
		s.kept = append(s.kept, stall{s.last, now})
	}
	s.last = now
}

// end says that no request is outstanding any more.
func (s *stalls) end(now time.Time) {
	s.progress(now)
	s.active = false
}

// longest returns the longest stall of which a part lies in the time from one
// instant to the other; 0 if all were shorter than a tenth of a millisecond.
func longest(all []stall, from, to time.Time) time.Duration {
	var d time.Duration
	for _, s := range all {
		if s.to.After(from) && s.from.Before(to) {
			d = max(d, s.to.Sub(s.from))
		}
	}
	return d
}
