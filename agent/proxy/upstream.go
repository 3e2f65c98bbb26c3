// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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
	in    budgetReader
	r     *bufio.Reader
	w     *bufio.Writer
	since time.Time // when it became idle
}

// roundTrip sends a request and returns the reply, whose body must be read to its
// end or closed. The request's body may be read until it is closed, which can be
// later than the reply's end. When ctx ends, so does the reply's body.
func (u *upstream) roundTrip(ctx context.Context, req *http.Request) (*http.Response, error) {
	c, err := u.get(ctx)
	if err != nil {
		req.Body.Close()
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
	if resp.Body == http.NoBody {
		resp.body.end(true)
	} else {
		resp.body.r, resp.Body = resp.Body, resp.body
	}
	return resp.Response, nil
}

type exchanged struct {
	*http.Response
	body *upstreamBody
}

// exchange sends the request and reads the head of the reply, which is due when the
// request has been sent.
func (c *upstreamConn) exchange(req *http.Request, timeout time.Duration) (exchanged, error) {
	body := &upstreamBody{sent: make(chan error, 1)}
	var mu sync.Mutex
	answered := false
	send := func() error {
		err := c.send(req)
		mu.Lock()
		defer mu.Unlock()
		if !answered {
			c.SetReadDeadline(time.Now().Add(timeout))
		}
		body.sent <- err
		return err
	}
	if req.ContentLength >= 0 && req.ContentLength <= inlineBody {
		if err := send(); err != nil {
			return exchanged{}, err
		}
	} else {
		go send()
	}
	resp, err := c.readHead(req)
	if err != nil {
		return exchanged{}, err
	}
	mu.Lock()
	defer mu.Unlock()
	answered = true
	c.SetReadDeadline(time.Time{})
	body.keep = !resp.Close
	return exchanged{resp, body}, nil
}

// readHead reads the head of the final reply.
func (c *upstreamConn) readHead(req *http.Request) (*http.Response, error) {
	for range maxInterim {
		c.in.budget = replyHeaderBytes
		resp, err := http.ReadResponse(c.r, req)
		switch {
		case errors.Is(err, errHeaderTooLong):
			return nil, fmt.Errorf("the head of the application's reply has more than %d bytes", replyHeaderBytes)
		case err != nil:
			return nil, fmt.Errorf("reply of the application: %w", err)
		case resp.StatusCode >= 200:
			c.in.budget = 1 << 62
			return resp, nil
		case resp.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("the application switched protocols without being asked")
		}
	}
	return nil, fmt.Errorf("more than %d interim replies of the application", maxInterim)
}

func (c *upstreamConn) send(req *http.Request) error {
	err := req.Write(c.w)
	if err == nil {
		err = c.w.Flush()
	}
	if err != nil {
		return fmt.Errorf("request to the application: %w", err)
	}
	return nil
}

// upstreamBody is the body of a reply. At its end the connection is free again.
type upstreamBody struct {
	r       io.ReadCloser
	keep    bool       // the application keeps the connection
	sent    chan error // one result, when the request has been sent
	release func(reusable bool)
	once    sync.Once
}

func (b *upstreamBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil {
		b.end(err == io.EOF)
	}
	return n, err
}

func (b *upstreamBody) Close() error {
	b.end(false)
	return nil
}

func (b *upstreamBody) end(complete bool) {
	b.once.Do(func() {
		select {
		case err := <-b.sent:
			b.release(complete && b.keep && err == nil)
		default: // answered before the request was read
			b.release(false)
		}
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
	c := &upstreamConn{Conn: sock, in: budgetReader{r: sock}, w: bufio.NewWriterSize(sock, 32<<10)}
	c.r = bufio.NewReaderSize(&c.in, 32<<10)
	return c, nil
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
