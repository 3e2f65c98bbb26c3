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
func (c *conn) log(b []byte, s span) {
	c.out.append(b, s)
	c.srv.held.Add(int64(len(b)))
}

// discard throws the reply in the making away; mu is held.
func (c *conn) discard() {
	before := c.out.held()
	c.out.discard()
	c.srv.held.Add(int64(c.out.held() - before))
}

// show makes the reply in the making a streamed one, all of which so far may be shown
// once the backup has the client's stream up to need; mu is held.
func (c *conn) show(need uint64) {
	if c.partial == nil {
		c.partial = &partialReply{endless: true} // until its head is known
	}
	for _, s := range c.out.making() {
		c.partial.add(s.data, s.span)
	}
	if c.partial.status == 101 {
		c.in.spent = true
	}
	c.out.seal(need)
}

// frame returns the frame for a piece of a reply.
func (s span) frame(b []byte) *replicationv1.Reply {
	return &replicationv1.Reply{Data: b, Head: uint32(s.head), BodyAt: uint32(s.at), Body: uint32(s.body)}
}

// appendReply adds a piece of the reply in the making and sends it to the backup.
// begin is true for the first piece, stream makes the reply one that is shown before
// its end. That it also becomes when it is too long to be logged whole, or when all
// connections together hold too much. It then waits while too much is held: for a slow
// client, or a slow backup.
func (c *conn) appendReply(b []byte, s span, begin, stream bool) error {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return c.gone
	}
	c.log(b, s)
	making := c.out.end - c.out.sealed
	f := s.frame(b)
	f.Request, f.Begin = c.answered+1, begin
	f.Streamed = stream || c.partial != nil || making > uint64(c.srv.cfg.WholeReply) || c.srv.full() && making > piece
	if f.Streamed {
		c.show(c.in.pos)
		c.wake()
	}
	copied := c.replicate()
	c.mu.Unlock()
	if copied {
		c.sendReply(f)
	}
	if !f.Streamed {
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
func (c *conn) endReply(b []byte, s span, begin bool, end uint64, closing bool) {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return
	}
	c.log(b, s)
	c.out.seal(end)
	c.in.done(end)
	c.answered++
	c.partial, c.interim, c.replay = nil, false, false
	c.replayBefore = time.Time{}
	c.heard = time.Now()
	f := s.frame(b)
	f.Request, f.Begin, f.End, f.RequestEnd, f.Close = c.answered, begin, true, end, closing
	copied := c.replicate()
	c.wake()
	c.mu.Unlock()
	if copied {
		c.sendReply(f)
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
	c.log(b, span{})
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

// discardReply throws away what was not shown of a broken reply. It returns the rest,
// nil if nothing was shown.
func (c *conn) discardReply() *partialReply {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.discard()
	return c.partial
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
	c.endReply(b, span{}, true, end, true)
}

// A replyCopier cuts the body of a reply into pieces, each of which becomes a segment
// of the log and a frame to the backup.
type replyCopier struct {
	c      *conn
	body   *replyBody
	length int64  // of the body; http1.Chunked or http1.UntilClose
	buf    []byte // the piece in the making
	span   span   // what it is
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
	case isEventStream(resp.Header), resp.Status == 101:
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

// start logs the head alone.
func (r *replyCopier) start() error {
	r.span = span{head: len(r.buf), at: len(r.buf)}
	return r.flush()
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
	n := len(r.buf) - at
	r.span = span{head: prefix, at: at, body: n}
	switch {
	case n == 0:
		r.buf = r.buf[:prefix]
		r.span.at = prefix
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
	err := r.c.appendReply(b, r.span, r.begin, r.stream)
	r.begin, r.shown = false, r.stream
	return err
}
