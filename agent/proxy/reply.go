// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"

	"github.com/understudy-net/understudy/agent/proxy/http1"
)

// piece is how much of a reply goes into one segment and one frame.
const piece = 64 << 10

// log appends to the replies; mu is held.
func (c *conn) log(b []byte) {
	c.out.append(b)
	c.srv.held.Add(int64(len(b)))
}

// discard throws the reply in the making away; mu is held.
func (c *conn) discard() {
	before := c.out.held()
	c.out.discard()
	c.srv.held.Add(int64(c.out.held() - before))
}

// appendReply adds a piece of the reply in the making and sends it to the backup.
// begin is true for the first piece, stream makes the reply one that is shown before
// its end. That it also becomes when it is too long to be logged whole, or when all
// connections together hold too much. It then waits while too much is held: for a slow
// client, or a slow backup.
func (c *conn) appendReply(b []byte, begin, stream bool) error {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return c.gone
	}
	c.log(b)
	making := c.out.end - c.out.sealed
	if stream || making > uint64(c.srv.cfg.WholeReply) || c.srv.full() && making > piece {
		c.streaming = true
	}
	if c.streaming {
		c.out.seal(c.in.pos)
		c.wake()
	}
	streaming, request, copied := c.streaming, c.answered+1, c.replicate()
	c.mu.Unlock()
	if copied {
		c.sendReply(&replicationv1.Reply{Request: request, Data: b, Streamed: streaming, Begin: begin})
	}
	if !streaming {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.gone == nil && c.out.held() > c.srv.streamBuffer() {
		c.cond.Wait()
	}
	return c.gone
}

// endReply completes the reply to the request that ends at offset end of the client's
// stream, with its last piece. With closing the connection ends after it.
func (c *conn) endReply(b []byte, begin bool, end uint64, closing bool) {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return
	}
	c.log(b)
	c.out.seal(end)
	c.in.done(end)
	c.answered++
	c.streaming, c.interim, c.replay = false, false, false
	c.replayBefore = time.Time{}
	c.heard = time.Now()
	request, copied := c.answered, c.replicate()
	c.wake()
	c.mu.Unlock()
	if copied {
		c.sendReply(&replicationv1.Reply{Request: request, Data: b, Begin: begin, End: true, RequestEnd: end, Close: closing})
	}
}

// appendInterim logs a whole interim response (1xx). When the request runs again they
// are left out: the client has seen some, from whichever server.
func (c *conn) appendInterim(b []byte) {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return
	}
	c.interim = true
	c.log(b)
	c.out.seal(c.in.pos)
	request, copied := c.answered+1, c.replicate()
	c.wake()
	c.mu.Unlock()
	if copied {
		c.sendReply(&replicationv1.Reply{Request: request, Data: b, Interim: true})
	}
}

// interimShown reports whether an interim response to this request was logged before.
func (c *conn) interimShown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.interim
}

// replicate reports whether what has just been logged goes to the backup; mu is held.
// If so, sendReply must follow.
func (c *conn) replicate() bool {
	if !c.protected && c.handover == nil {
		return false
	}
	c.sending++
	return true
}

// sendReply sends a piece of a reply to the backup, after replicate.
func (c *conn) sendReply(r *replicationv1.Reply) {
	c.awaitDescription()
	r.Conn = c.id.bytes()
	c.srv.send(&replicationv1.Frame{Frame: &replicationv1.Frame_Reply{Reply: r}})
	c.mu.Lock()
	c.sending--
	c.mu.Unlock()
}

// discardReply throws a broken reply away; false when part of it was shown.
func (c *conn) discardReply() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streaming {
		return false
	}
	c.discard()
	return true
}

// refuse answers what is not a request, where there is somebody to answer, and lets the
// connection end.
func (c *conn) refuse(err error) {
	var e *http1.Error
	if !errors.As(err, &e) {
		return
	}
	c.srv.stats.Refused.Add(1)
	c.answerPlain(e.Status, e.Reason, &http1.Request{Minor: 1})
}

// answerPlain logs a reply of our own, after which the connection is closed.
func (c *conn) answerPlain(status int, reason string, req *http1.Request) {
	text := fmt.Sprintf("%d %s: %s\n", status, http.StatusText(status), reason)
	resp := &http1.Response{
		Status: status, Reason: http.StatusText(status), Length: int64(len(text)),
		Header: http1.Header{{Name: "Content-Type", Value: "text/plain; charset=utf-8"},
			{Name: "Content-Length", Value: fmt.Sprint(len(text))}},
	}
	b, _, _ := replyHead(resp, req, true, time.Now())
	if !http1.Bodyless(status, req.Method) {
		b = append(b, text...)
	}
	c.mu.Lock()
	end := c.in.received()
	c.mu.Unlock()
	c.endReply(b, true, end, true)
}

// A replyCopier cuts the body of a reply into pieces, each of which becomes a segment
// of the log and a frame to the backup.
type replyCopier struct {
	c      *conn
	body   *replyBody
	length int64  // of the body; http1.Chunked or http1.UntilClose
	buf    []byte // the piece in the making
	begin  bool   // nothing of the reply has been logged yet
	stream bool   // show what there is; else the reply is logged whole
	shown  bool   // what has been logged is shown
	// patience: when a reply whose length is not known is streamed. Zero for never.
	patience time.Time
	silence  time.Duration // the longest between two parts of the body; 0 for any
}

// newCopier makes the copier of a reply that begins with head.
func (c *conn) newCopier(resp *reply, head []byte, length int64) *replyCopier {
	r := &replyCopier{c: c, body: resp.body, length: length, buf: head, begin: true, silence: c.srv.cfg.UpstreamTimeout}
	switch {
	case isEventStream(resp.Header):
		r.stream, r.silence = true, 0
	case length > int64(c.srv.cfg.WholeReply):
		r.stream = true
	case length < 0:
		r.patience = time.Now().Add(c.srv.cfg.StreamAfter)
	}
	return r
}

// isEventStream says that a reply is meant to be shown piece by piece: server-sent
// events, or what an application marks so for nginx.
func isEventStream(h http1.Header) bool {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream") ||
		strings.EqualFold(h.Get("X-Accel-Buffering"), "no")
}

// run logs the reply but for its last piece, which it returns: with that the reply is
// complete. The error is the application's, or that the connection is over.
func (r *replyCopier) run() (last []byte, err error) {
	for {
		if err := r.fill(); err == io.EOF {
			if r.length == http1.Chunked {
				r.buf = http1.AppendLastChunk(r.buf, r.body.trailer())
			}
			return r.buf, nil
		} else if err != nil {
			return nil, err
		}
		if err := r.flush(); err != nil {
			return nil, err
		}
	}
}

// fill puts a part of the body behind what is in buf: as much as there is room for, or,
// if the reply is streamed, what there is without waiting. The error is io.EOF at the
// body's end.
func (r *replyCopier) fill() (err error) {
	prefix := len(r.buf)
	at, tail := prefix, 0
	if r.length == http1.Chunked {
		at, tail = prefix+http1.ChunkHead, http1.ChunkTail
	}
	end := max(piece-tail, at+1)
	size := 4 << 10
	if r.length >= 0 {
		size = int(min(int64(piece), r.length)) // no more memory than the reply needs
	}
	r.buf = slices.Grow(r.buf, at-prefix+tail+max(size, 1))[:at]
	for err == nil && len(r.buf) < end {
		if !r.body.ready() {
			if r.stream && (prefix > 0 || len(r.buf) > at || !r.shown) {
				break
			}
			r.body.deadline(r.due())
		}
		if cap(r.buf)-len(r.buf) <= tail {
			r.buf = slices.Grow(r.buf, len(r.buf)+tail)
		}
		var n int
		n, err = r.body.Read(r.buf[len(r.buf):min(cap(r.buf)-tail, end)])
		r.buf = r.buf[:len(r.buf)+n]
		if errors.Is(err, os.ErrDeadlineExceeded) && !r.stream && !r.patience.IsZero() {
			r.stream, err = true, nil // the application takes its time
		}
	}
	switch n := len(r.buf) - at; {
	case n == 0:
		r.buf = r.buf[:prefix]
	case r.length == http1.Chunked:
		http1.PutChunkHead(r.buf[prefix:], n)
		r.buf = append(r.buf, "\r\n"...)
	}
	return err
}

// due is when the next part of the body must have come.
func (r *replyCopier) due() time.Time {
	switch {
	case !r.stream && !r.patience.IsZero():
		return r.patience
	case r.silence == 0:
		return time.Time{}
	}
	return time.Now().Add(r.silence)
}

// flush logs what is in buf.
func (r *replyCopier) flush() error {
	if len(r.buf) == 0 && r.shown == r.stream {
		return nil
	}
	b := r.buf
	if cap(b) > 2*len(b) {
		b, r.buf = slices.Clone(b), b[:0] // the log keeps it for as long as the client likes
	} else {
		r.buf = nil
	}
	err := r.c.appendReply(b, r.begin, r.stream)
	r.begin, r.shown = false, r.stream
	return err
}
