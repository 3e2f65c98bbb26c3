// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/agent/proxy/http1"
)

const (
	// maxIdle connections to the application are kept, each for idleTime.
	maxIdle  = 1024
	idleTime = 20 * time.Second
	// replyHeaderBytes bounds the head of a reply.
	replyHeaderBytes = 1 << 20
	// maxInterim replies (1xx) may come before the reply.
	maxInterim = 8
	// inlineBody is the longest request body that is sent before the reply is read:
	// it fits into the sockets' buffers, so that an application that answers without
	// reading it is heard.
	inlineBody = 16 << 10
)

// upstream is the local application: an HTTP/1.1 client that does its work in the
// goroutine that asks. net/http's Transport has two more for each connection, and
// on a host that is not busy to wake them takes longer than what they do.
//
// Its methods may be called concurrently.
type upstream struct {
	address string        // "address:port"
	timeout time.Duration // for the head of a reply

	mu     sync.Mutex
	closed bool
	idle   []*upstreamConn // the one used last is last
}

// upstreamConn is a connection to the application. One goroutine uses it at a time.
type upstreamConn struct {
	net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
	since time.Time // when it became idle
}

// outgoing is a request to the application.
type outgoing struct {
	method string
	head   []byte
	length int64     // of the body, or http1.Chunked
	body   io.Reader // nil if length is 0; an error of it ends the exchange
	// trailer returns the body's trailer fields once it has been read; nil for none.
	trailer func() http1.Header
	// interim is called with 1xx replies other than 100 and 101; nil for none.
	interim func(*http1.Response)
	upgrade bool // the application may switch protocols
}

// reply is what the application answered. The body must be read to its end or closed.
type reply struct {
	*http1.Response
	body *replyBody
}

// roundTrip sends a request and returns the reply. The request's body may be read
// until the reply's has ended, or been closed. When ctx ends, so does the reply's body.
func (u *upstream) roundTrip(ctx context.Context, req *outgoing) (*reply, error) {
	c, err := u.get(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	resp, err := c.exchange(req, u.timeout)
	if err != nil {
		stop()
		c.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	resp.body.release = func(reusable bool) {
		if stop() && reusable {
			u.put(c)
		} else {
			c.Close()
		}
	}
	if resp.body.remain == 0 {
		resp.body.end(true)
	}
	return resp, nil
}

// exchange sends the request and reads the head of the reply, which is due when the
// request has been sent.
func (c *upstreamConn) exchange(req *outgoing, timeout time.Duration) (*reply, error) {
	body := &replyBody{c: c, sent: make(chan error, 1)}
	var mu sync.Mutex
	answered := false
	send := func() error {
		err, source := c.send(req)
		mu.Lock()
		defer mu.Unlock()
		if !answered {
			c.SetReadDeadline(time.Now().Add(timeout))
		}
		body.sent <- err
		if source {
			c.Close() // half a request is none
		}
		return err
	}
	if req.length >= 0 && req.length <= inlineBody {
		if err := send(); err != nil {
			return nil, err
		}
	} else {
		go send()
	}
	resp, err := c.readHead(req)
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	answered = true
	c.SetReadDeadline(time.Time{})
	body.keep, body.remain = resp.KeepAlive, resp.Length
	if resp.Status == 101 {
		body.keep, body.remain = false, http1.UntilClose
	}
	if resp.Length == http1.Chunked {
		body.chunked = new(http1.Decoder)
	}
	return &reply{resp, body}, nil
}

// readHead reads the head of the final reply.
func (c *upstreamConn) readHead(req *outgoing) (*http1.Response, error) {
	for range maxInterim {
		head, err := c.head()
		if err != nil {
			return nil, fmt.Errorf("reply of the application: %w", err)
		}
		resp, err := http1.ParseResponse(head, req.method)
		switch {
		case err != nil:
			return nil, fmt.Errorf("reply of the application: %w", err)
		case resp.Status >= 200:
			return resp, nil
		case resp.Status == 101 && !req.upgrade:
			return nil, errors.New("the application switched protocols without being asked")
		case resp.Status == 101:
			return resp, nil
		case resp.Status != 100 && req.interim != nil:
			req.interim(resp)
		}
	}
	return nil, fmt.Errorf("more than %d interim replies of the application", maxInterim)
}

// head reads lines up to the first empty one.
func (c *upstreamConn) head() (string, error) {
	var b []byte
	for {
		line, err := c.r.ReadSlice('\n')
		b = append(b, line...)
		switch {
		case len(b) > replyHeaderBytes:
			return "", fmt.Errorf("its head has more than %d bytes", replyHeaderBytes)
		case err == bufio.ErrBufferFull:
		case err == io.EOF && len(b) > 0:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case len(line) <= 2 && (string(line) == "\r\n" || string(line) == "\n"):
			return string(b), nil
		}
	}
}

// send writes the request, each part of its body as it comes. source says that an error
// is the body's own.
func (c *upstreamConn) send(req *outgoing) (err error, source bool) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("request to the application: %w", err)
		}
	}()
	c.w.Write(req.head) // a bufio.Writer keeps its error
	if req.length <= 0 || req.length > inlineBody {
		if err := c.w.Flush(); err != nil || req.length == 0 {
			return err, false
		}
	}
	begin, tail := 0, ""
	if req.length == http1.Chunked {
		begin, tail = http1.ChunkHead, "\r\n"
	}
	buf := make([]byte, begin+int(min(uint64(req.length), 32<<10)))
	for sent := int64(0); ; {
		n, err := req.body.Read(buf[begin:])
		if sent += int64(n); n > 0 {
			if begin > 0 {
				http1.PutChunkHead(buf, n)
			}
			c.w.Write(buf[:begin+n])
			c.w.WriteString(tail)
			if sent == req.length {
				return c.w.Flush(), false
			}
		}
		switch {
		case err == io.EOF && begin > 0:
			var trailer http1.Header
			if req.trailer != nil {
				trailer = req.trailer()
			}
			c.w.Write(http1.AppendLastChunk(nil, trailer))
			return c.w.Flush(), false
		case err == io.EOF:
			return io.ErrUnexpectedEOF, true
		case err != nil:
			return err, true
		}
		if err := c.w.Flush(); err != nil {
			return err, false
		}
	}
}

// replyBody is the body of a reply. At its end the connection is free again. One
// goroutine reads it.
type replyBody struct {
	c       *upstreamConn
	remain  int64 // bytes to come; http1.Chunked or http1.UntilClose
	chunked *http1.Decoder
	over    bool
	keep    bool       // the application keeps the connection
	timed   bool       // a deadline is set
	sent    chan error // one result, when the request has been sent
	release func(reusable bool)
	once    sync.Once
}

// Read returns io.EOF with the last byte, if it is known to be that.
func (b *replyBody) Read(p []byte) (n int, err error) {
	switch {
	case b.over || b.remain == 0:
		return 0, io.EOF
	case b.chunked != nil:
		n, err = b.readChunked(p)
	case b.remain == http1.UntilClose:
		n, err = b.c.r.Read(p)
	default:
		n, err = b.c.r.Read(p[:min(int64(len(p)), b.remain)])
		if b.remain -= int64(n); b.remain == 0 {
			err = io.EOF
		} else if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	switch {
	case err == io.EOF:
		b.over = true
		b.end(b.remain != http1.UntilClose)
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		b.end(false)
	}
	return n, err
}

func (b *replyBody) readChunked(p []byte) (n int, err error) {
	for n == 0 && !b.chunked.Done() {
		if _, err := b.c.r.Peek(1); err == io.EOF {
			return 0, io.ErrUnexpectedEOF
		} else if err != nil {
			return 0, err
		}
		src, _ := b.c.r.Peek(b.c.r.Buffered())
		var used int
		n, used, err = b.chunked.Decode(p, src)
		b.c.r.Discard(used)
		if err != nil {
			return n, err
		}
	}
	if b.chunked.Done() {
		return n, io.EOF
	}
	return n, nil
}

// ready reports whether Read returns without waiting.
func (b *replyBody) ready() bool { return b.over || b.remain == 0 || b.c.r.Buffered() > 0 }

// trailer returns the trailer fields of a body that has ended.
func (b *replyBody) trailer() http1.Header {
	if b.chunked == nil {
		return nil
	}
	return b.chunked.Trailer().Trailing()
}

// deadline bounds the wait for the next byte; zero for no bound. Read goes on after
// it has passed.
func (b *replyBody) deadline(t time.Time) {
	if b.timed || !t.IsZero() {
		b.timed = !t.IsZero()
		b.c.SetReadDeadline(t)
	}
}

func (b *replyBody) Close() error {
	b.over = true
	b.end(false)
	return nil
}

func (b *replyBody) end(complete bool) {
	b.once.Do(func() {
		select {
		case err := <-b.sent:
			if complete && b.keep && err == nil {
				b.deadline(time.Time{})
				b.release(true)
				return
			}
		default: // answered before the request was read
		}
		b.release(false)
	})
}

// get returns a connection that is idle, or a new one.
func (u *upstream) get(ctx context.Context) (*upstreamConn, error) {
	for {
		u.mu.Lock()
		var c *upstreamConn
		if n := len(u.idle); n > 0 {
			c, u.idle = u.idle[n-1], u.idle[:n-1]
		}
		u.mu.Unlock()
		if c == nil {
			break
		}
		if c.usable() {
			return c, nil
		}
		c.Close()
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	d.Timeout = time.Second
	sock, err := d.DialContext(ctx, "tcp", u.address)
	if err != nil {
		return nil, err
	}
	return &upstreamConn{Conn: sock, r: bufio.NewReaderSize(sock, 32<<10), w: bufio.NewWriterSize(sock, 32<<10)}, nil
}

// usable says that the application has neither closed an idle connection nor said
// anything on it.
func (c *upstreamConn) usable() bool {
	if c.r.Buffered() > 0 {
		return false
	}
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	silent := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		silent = err == unix.EAGAIN
	})
	return err == nil && silent
}

func (u *upstream) put(c *upstreamConn) {
	c.since = time.Now()
	u.mu.Lock()
	keep := !u.closed && len(u.idle) < maxIdle
	if keep {
		u.idle = append(u.idle, c)
	}
	u.mu.Unlock()
	if !keep {
		c.Close()
	}
}

// prune closes connections that have been idle for too long.
func (u *upstream) prune(now time.Time) {
	u.mu.Lock()
	n := 0
	for n < len(u.idle) && now.Sub(u.idle[n].since) > idleTime {
		n++
	}
	old := u.idle[:n:n]
	u.idle = u.idle[n:]
	u.mu.Unlock()
	for _, c := range old {
		c.Close()
	}
}

// close closes what is idle, and what becomes so.
func (u *upstream) close() {
	u.mu.Lock()
	old := u.idle
	u.idle, u.closed = nil, true
	u.mu.Unlock()
	for _, c := range old {
		c.Close()
	}
}
