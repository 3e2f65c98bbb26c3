// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// ReplayHeader marks a request that may have been run before: "CONN/N", the
// client's address and port with the connection's number, and which request of
// that connection it is. An application that must not act twice keeps the value.
const ReplayHeader = "Understudy-Replay"

// hopHeaders concern one hop only (RFC 9110 section 7.6.1 and what older
// implementations send).
var hopHeaders = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// piece is how much of a reply goes into one segment and one frame.
const piece = 64 << 10

// errHeaderTooLong is what parsing a request's head ends with when it is longer
// than Config.HeaderBytes.
var errHeaderTooLong = errors.New("request header too long")

// budgetReader limits what may be read until the budget is set anew.
type budgetReader struct {
	r      io.Reader
	budget int64
}

func (b *budgetReader) Read(p []byte) (int, error) {
	if b.budget <= 0 {
		return 0, errHeaderTooLong
	}
	if int64(len(p)) > b.budget {
		p = p[:b.budget]
	}
	n, err := b.r.Read(p)
	b.budget -= int64(n)
	return n, err
}

// serve answers one request after the other, on the active server.
func (c *conn) serve() {
	in := &budgetReader{r: c}
	br := bufio.NewReaderSize(in, 4<<10)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return
	}
	c.cancel = cancel
	c.mu.Unlock()
	defer c.finish()
	for {
		in.budget = int64(c.srv.cfg.HeaderBytes)
		if _, err := br.Peek(1); err != nil {
			return // the client is done
		}
		req, err := http.ReadRequest(br)
		in.budget = 1 << 62
		if err == nil {
			err = validate(req)
		}
		if err != nil {
			c.refuse(err)
			return
		}
		if !c.answer(ctx, req, func() uint64 { return c.offset(br) }) {
			return
		}
	}
}

// validate refuses what net/http's parser lets through and a proxy must not pass
// on (RFC 9112 section 3.2, RFC 9110 section 5.1).
func validate(req *http.Request) error {
	if req.ProtoMajor != 1 {
		return fmt.Errorf("version %s", req.Proto)
	}
	if req.ProtoAtLeast(1, 1) && req.Host == "" {
		return errors.New("no Host header")
	}
	if !httpguts.ValidHostHeader(req.Host) {
		return errors.New("malformed Host header")
	}
	for name, values := range req.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("header name %q", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("value of header %q", name)
			}
		}
	}
	return nil
}

// offset returns how many bytes of the client's stream br has handed out.
func (c *conn) offset(br *bufio.Reader) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.pos - uint64(br.Buffered())
}

// refuse answers what is not a request, where there is somebody to answer.
func (c *conn) refuse(err error) {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return
	}
	status := http.StatusBadRequest
	if errors.Is(err, errHeaderTooLong) {
		status = http.StatusRequestHeaderFieldsTooLarge
	}
	c.srv.stats.Refused.Add(1)
	c.mu.Lock()
	end := c.in.received()
	c.mu.Unlock()
	c.reply(plain(status), nil, end, true)
}

// plain is a reply of our own.
func plain(status int) *http.Response {
	text := fmt.Sprintf("%d %s\n", status, http.StatusText(status))
	return &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Content-Type": {"text/plain; charset=utf-8"},
			"Date":         {time.Now().UTC().Format(http.TimeFormat)},
		},
		ContentLength: int64(len(text)),
		Body:          io.NopCloser(strings.NewReader(text)),
	}
}

// answer runs one request on the local application and logs its reply. consumed
// says how much of the client's stream has been parsed. It reports whether the
// connection can carry another request.
func (c *conn) answer(ctx context.Context, req *http.Request, consumed func() uint64) bool {
	keep := !req.Close && (req.ProtoAtLeast(1, 1) || strings.EqualFold(req.Header.Get("Connection"), "keep-alive"))
	if req.Method == http.MethodConnect {
		c.reply(plain(http.StatusMethodNotAllowed), req, consumed(), true)
		return false
	}
	if strings.EqualFold(req.Header.Get("Expect"), "100-continue") && req.ProtoAtLeast(1, 1) {
		c.appendInterim([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}

	// A body of moderate size is read first: the request can then be run again
	// without asking anybody. A longer one is passed on as it comes.
	var whole []byte
	var stream *watchedBody
	if req.ContentLength >= 0 && req.ContentLength <= int64(c.srv.cfg.BufferedBody) {
		var err error
		if whole, err = io.ReadAll(req.Body); err != nil {
			c.refuse(err)
			return false
		}
	} else {
		stream = newWatchedBody(req.Body)
	}

	deadline := time.Now().Add(c.srv.cfg.UpstreamPatience)
	for attempt := 0; ; attempt++ {
		resp, err := c.run(ctx, req, whole, stream, attempt > 0)
		if err == nil {
			closing := !keep || resp.ContentLength < 0 && !req.ProtoAtLeast(1, 1)
			err = c.reply(resp, req, 0, closing)
			resp.Body.Close()
			if err == nil {
				if stream != nil && !stream.drain(ctx, c.srv.cfg.DrainBytes) {
					closing = true
				}
				c.endReply(consumed(), closing)
				return !closing
			}
		}
		if c.over() {
			return false
		}
		c.srv.stats.UpstreamErrors.Add(1)
		// The local application erred. The client has not seen a byte of it, or
		// the connection cannot go on.
		if !c.discardReply() {
			c.srv.giveUp(c, fmt.Errorf("the local application broke off a streamed reply: %w", err))
			return false
		}
		up := c.srv.upstreamFailed(ctx, err)
		again := stream == nil || stream.abandon()
		if c.over() {
			return false
		}
		if !again || (up && attempt >= 3) || time.Now().After(deadline) {
			// Who reads the body may still do so: where it ends is not asked for, as
			// the connection is closed.
			c.mu.Lock()
			end := c.in.received()
			c.mu.Unlock()
			c.reply(plain(http.StatusBadGateway), req, end, true)
			return false
		}
		if stream != nil {
			stream = newWatchedBody(req.Body)
		}
		c.pause(time.Duration(attempt+1) * 2 * time.Millisecond)
	}
}

// run sends the request to the local application once.
func (c *conn) run(ctx context.Context, req *http.Request, whole []byte, stream *watchedBody, again bool) (*http.Response, error) {
	out := req.Clone(ctx)
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", c.srv.cfg.Upstream
	out.Close = false
	for _, f := range strings.Split(strings.Join(req.Header.Values("Connection"), ","), ",") {
		if f = textproto.TrimString(f); f != "" {
			out.Header.Del(f)
		}
	}
	for _, h := range hopHeaders {
		out.Header.Del(h)
	}
	out.Header.Del("Expect")
	out.Header.Del(ReplayHeader)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // or net/http would add its own
	}
	client := c.id.Client.Addr().Unmap().String()
	if prior := out.Header.Values("X-Forwarded-For"); len(prior) > 0 {
		client = strings.Join(prior, ", ") + ", " + client
	}
	out.Header.Set("X-Forwarded-For", client)
	out.Header.Set("X-Forwarded-Host", req.Host)
	out.Header.Set("X-Forwarded-Proto", "http")

	c.mu.Lock()
	if c.replay || again || time.Now().Before(c.replayBefore) {
		out.Header.Set(ReplayHeader, fmt.Sprintf("%s-%08x/%d", c.id.Client, c.id.ISN, c.answered+1))
		c.srv.stats.Replayed.Add(1)
	}
	c.mu.Unlock()

	switch {
	case stream != nil:
		out.Body = stream
	case len(whole) > 0:
		out.Body = io.NopCloser(bytes.NewReader(whole))
	default:
		out.Body = http.NoBody
	}
	return c.srv.upstream.roundTrip(ctx, out)
}

// reply logs a reply. With end > 0 it is complete then; otherwise the caller
// says where the request ended. The error is the local application's, or that
// the connection is over.
func (c *conn) reply(resp *http.Response, req *http.Request, end uint64, closing bool) error {
	resp.ProtoMajor, resp.ProtoMinor = 1, 1
	for _, f := range strings.Split(strings.Join(resp.Header.Values("Connection"), ","), ",") {
		if f = textproto.TrimString(f); f != "" {
			resp.Header.Del(f)
		}
	}
	for _, h := range hopHeaders {
		if h != "Trailer" {
			resp.Header.Del(h)
		}
	}
	resp.Close = closing
	resp.TransferEncoding = nil
	if resp.ContentLength < 0 && !closing {
		resp.TransferEncoding = []string{"chunked"}
	} else if resp.ContentLength < 0 && req != nil && req.ProtoAtLeast(1, 1) {
		resp.TransferEncoding = []string{"chunked"}
	}
	if req != nil {
		resp.Request = req // for HEAD
		if !closing && !req.ProtoAtLeast(1, 1) {
			resp.Header.Set("Connection", "keep-alive")
		}
	}
	w := &replyWriter{c: c, begin: true}
	if err := resp.Write(w); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	if end > 0 {
		c.endReply(end, closing)
	}
	return nil
}

// replyWriter cuts a reply into pieces.
type replyWriter struct {
	c     *conn
	buf   []byte
	begin bool
}

func (w *replyWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if w.buf == nil {
			w.buf = make([]byte, 0, min(piece, max(1024, len(p))))
		}
		k := min(len(p), piece-len(w.buf))
		w.buf = append(w.buf, p[:k]...)
		p = p[k:]
		if len(w.buf) == piece {
			if err := w.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

// ReadFrom is Write without a buffer between; io.Copy uses it. It takes no more
// memory than the reply needs, where the reader tells how long that is.
func (w *replyWriter) ReadFrom(r io.Reader) (n int64, err error) {
	limited, _ := r.(*io.LimitedReader)
	for {
		room := piece - len(w.buf)
		if limited != nil {
			room = int(min(int64(room), limited.N))
			if limited.N == 0 {
				return n, nil
			}
		}
		w.buf = slices.Grow(w.buf, room)
		k, err := r.Read(w.buf[len(w.buf) : len(w.buf)+room])
		w.buf = w.buf[:len(w.buf)+k]
		n += int64(k)
		if len(w.buf) == piece {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (w *replyWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	b := w.buf
	w.buf = nil
	begin := w.begin
	w.begin = false
	return w.c.appendReply(b, begin)
}

// watchedBody is a request body that is passed on as it comes. It may go on being
// read after the reply has begun; closed tells when that is over.
type watchedBody struct {
	io.ReadCloser
	state  atomic.Int32 // untouched, touched or abandoned
	once   sync.Once
	closed chan struct{}
}

const (
	untouched = iota
	touched
	abandoned
)

var errAbandoned = errors.New("the request is run anew")

func newWatchedBody(r io.ReadCloser) *watchedBody {
	return &watchedBody{ReadCloser: r, closed: make(chan struct{})}
}

func (b *watchedBody) Read(p []byte) (int, error) {
	if !b.state.CompareAndSwap(untouched, touched) && b.state.Load() == abandoned {
		return 0, errAbandoned
	}
	return b.ReadCloser.Read(p)
}

// abandon keeps a body that nobody has begun to read from being read; false if
// somebody has.
func (b *watchedBody) abandon() bool {
	return b.state.CompareAndSwap(untouched, abandoned)
}

// Close leaves the rest of the body to drain.
func (b *watchedBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// drain reads what the application left of the body, so that the next request
// begins where this one ended.
func (b *watchedBody) drain(ctx context.Context, limit int64) bool {
	select {
	case <-b.closed:
	case <-ctx.Done():
		return false
	}
	n, err := io.CopyN(io.Discard, b.ReadCloser, limit)
	return err == io.EOF && n < limit
}

func (c *conn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone != nil
}

// pause waits, or until the connection is over.
func (c *conn) pause(d time.Duration) {
	t := time.AfterFunc(d, func() { c.mu.Lock(); c.cond.Broadcast(); c.mu.Unlock() })
	defer t.Stop()
	end := time.Now().Add(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.gone == nil && time.Now().Before(end) {
		c.cond.Wait()
	}
}
