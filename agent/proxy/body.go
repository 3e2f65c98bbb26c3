// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/understudy-net/understudy/agent/proxy/http1"
)

var (
	errAbandoned = errors.New("nobody needs the rest of this request")
	errTooSlow   = &http1.Error{Status: 408, Reason: "the request did not come in time"}
	errHeadLong  = &http1.Error{Status: 431, Reason: "the request's head is too long"}
	errTargetBig = &http1.Error{Status: 414, Reason: "the request target is too long"}
	errNotHTTP   = &http1.Error{Status: 400, Reason: "this is not HTTP"}
)

// nextRequest takes the head of the next request. It waits for the rest of one that
// has begun; if none has, serve's work is over: no request, no error. The error says
// what is wrong with what the client sent.
func (c *conn) nextRequest() (*http1.Request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.since = time.Time{} }()
	searched := 0
	for {
		b := c.in.peek()
		if n := http1.EmptyLines(b); n > 0 && searched == 0 {
			c.in.advance(n)
			c.cond.Broadcast()
			b = b[n:]
		}
		switch n := http1.HeadEnd(b, searched); {
		case c.gone != nil:
			return nil, nil
		case len(b) > 0 && !http1.CouldBegin(b[0]):
			return nil, errNotHTTP
		case n > 0 && n <= c.srv.cfg.HeaderBytes:
			head := string(b[:n])
			c.in.advance(n)
			c.cond.Broadcast()
			return http1.ParseRequest(head, http1.Limits{Target: c.srv.cfg.TargetBytes, Fields: maxFields})
		case n > 0 || len(b) > c.srv.cfg.HeaderBytes:
			if bytes.IndexByte(b[:c.srv.cfg.HeaderBytes], '\n') < 0 {
				return nil, errTargetBig
			}
			return nil, errHeadLong
		case c.late:
			return nil, errTooSlow
		case c.in.eof:
			c.finishLocked()
			return nil, nil
		case len(b) == 0:
			c.serving, c.cancel = false, nil
			return nil, nil
		}
		searched = len(b)
		if c.since.IsZero() {
			c.since = time.Now()
		}
		c.cond.Wait()
	}
}

// maxFields bounds the field lines of a request.
const maxFields = 256

// A requestBody is read by whoever sends the request on. It takes the client's bytes
// from c.in as they are needed; all its fields belong to c.mu.
type requestBody struct {
	c        *conn
	start    uint64 // offset of its first byte in the client's stream
	remain   int64  // bytes still to come, of a body with a length
	chunked  *http1.Decoder
	complete bool // it has been read to its end
	closed   bool
	tunnel   bool  // it is no body, but whatever the client sends until it closes
	err      error // what is wrong with it
}

// newBody makes the body of a request whose head has just been taken.
func (c *conn) newBody(req *http1.Request) *requestBody {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &requestBody{c: c, start: c.in.pos}
	b.begin(req.Length)
	return b
}

func (b *requestBody) begin(length int64) {
	if b.complete, b.remain = length == 0, length; length == http1.Chunked {
		b.chunked = new(http1.Decoder)
	}
}

// again makes the same body anew and ends the old one. It is nil when its beginning is
// no longer held.
func (b *requestBody) again(req *http1.Request) *requestBody {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	b.closed = true
	c.cond.Broadcast()
	if c.gone != nil || !c.in.rewind(b.start) {
		return nil
	}
	n := &requestBody{c: c, start: b.start}
	n.begin(req.Length)
	return n
}

// await waits until a body with a length is here as a whole.
func (b *requestBody) await() error {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.want = 0 }()
	c.want = int(b.remain)
	c.cond.Broadcast()
	for c.in.unread() < c.want {
		if err := b.wait(); err != nil {
			return err
		}
	}
	return nil
}

// wait waits for more of the client's stream, or returns why there will be none; mu is
// held.
func (b *requestBody) wait() error {
	c := b.c
	switch {
	case c.gone != nil:
		return c.gone
	case b.closed:
		return errAbandoned
	case c.in.eof && b.tunnel:
		return io.EOF
	case c.in.eof:
		return io.ErrUnexpectedEOF
	case c.late:
		return errTooSlow
	}
	c.body = !b.tunnel
	c.cond.Wait()
	c.body = false
	return nil
}

// Read implements io.Reader. Its error is io.EOF at the body's end; an *http1.Error
// when the client is to be told what is wrong.
func (b *requestBody) Read(p []byte) (int, error) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.gone != nil:
			return 0, c.gone
		case b.closed:
			return 0, errAbandoned
		case b.complete:
			return 0, io.EOF
		case b.err != nil:
			return 0, b.err
		}
		if n := b.take(p); n > 0 {
			return n, nil
		}
		if b.complete || b.err != nil {
			continue
		}
		if err := b.wait(); err != nil {
			b.err = err
			return 0, err
		}
	}
}

// take moves what is here of the body to p; mu is held.
func (b *requestBody) take(p []byte) (n int) {
	c := b.c
	used := 0
	if src := c.in.peek(); b.chunked != nil {
		n, used, b.err = b.chunked.Decode(p, src)
		b.complete = b.err == nil && b.chunked.Done()
	} else {
		n = copy(p, src[:min(int64(len(src)), b.remain)])
		used = n
		b.remain -= int64(n)
		b.complete = b.remain == 0
	}
	if used > 0 {
		c.in.advance(used)
		c.in.overflow(c.in.pos)
		c.cond.Broadcast()
	}
	return n
}

// trailer returns the trailer fields of a complete body.
func (b *requestBody) trailer() http1.Header {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.chunked == nil {
		return nil
	}
	return b.chunked.Trailer().Trailing()
}

// close ends the body: nobody reads it any more. What the application left of it is
// skipped if it is moderate and comes soon, so that the connection can be kept. It
// returns where the request ends in the client's stream, and whether that is known.
func (b *requestBody) close() (end uint64, known bool) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	b.closed = true
	c.cond.Broadcast()
	if limit := c.srv.cfg.DrainBytes; !b.complete && b.err == nil && b.remain <= limit {
		rest := c.in.pos
		junk := make([]byte, 4<<10)
		c.waitFor(drainTime, func() bool {
			for b.take(junk) > 0 {
			}
			return b.complete || b.err != nil || c.in.eof || c.in.pos-rest > uint64(limit)
		})
	}
	if b.complete {
		return c.in.pos, true
	}
	return c.in.received(), false
}

// drainTime bounds the wait for the rest of a request that has been answered.
const drainTime = 500 * time.Millisecond

// fault returns what is wrong with the body, nil if nothing is.
func (b *requestBody) fault() error {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	return b.err
}
