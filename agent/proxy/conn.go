// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"time"
)

// Why a connection is over without a word to the client.
var (
	errFenced = errors.New("this server is no longer part of the pair")
	errLost   = errors.New("the other server does not hold this connection")
)

// A conn is this server's copy of one client connection. Up to three goroutines
// serve it: read (client to c.in) for as long as it lives; serve (c.in to c.out, on
// the active server only) while there are requests; write (c.out to client) while
// there is something to write. Between two requests all there is of it is what stands
// here. All fields below mu belong to mu; cond is signalled whenever one of them
// changes.
type conn struct {
	id   ID
	srv  *Server
	seen time.Time // when this entry was made

	mu   sync.Mutex
	cond *sync.Cond

	sock *net.TCPConn // nil until this host's kernel has the connection
	in   requestStream
	out  replyLog

	active    bool // this server parses and answers
	released  bool // the switch lets this server's packets out
	protected bool // the backup holds it too: withhold until it has confirmed
	serving   bool // the goroutine serve runs
	writing   bool // the goroutine write runs

	peerReceived uint64 // how much of the client's stream the backup has
	acked        uint64 // reply bytes that the client has acknowledged, on a backup
	confirmed    uint64 // reply bytes that this backup has confirmed
	answered     uint64 // requests with a complete reply
	interim      bool   // an interim response to the request in hand has been logged
	// partial is the reply in the making if it is streamed: its beginning was shown.
	partial *partialReply
	// replay: the request in hand may have been run before, elsewhere. Until
	// replayBefore that also holds for one of which nothing had arrived here.
	replay       bool
	replayBefore time.Time
	finished     bool // close when everything has been written
	finishedAt   time.Time
	gone         error              // over: every goroutine returns
	handover     *handover          // the backup is adopting it; see adopt.go
	sending      int                // frames of replies that are on their way to the stream
	joining      *joining           // this backup is adopting it
	cancel       context.CancelFunc // takes the request in hand along; nil if there is none

	heard time.Time // when the client last said something, or was last answered
	awaits
}

// awaits is what serve waits for. The sweep looks whether it has come in time.
type awaits struct {
	want  int       // bytes of the request that must be here; 0 for any
	since time.Time // when its head began to be waited for; zero if it does not
	body  bool      // serve, or who sends the request on, waits for its body
	late  bool      // it has not come in time
}

func newConn(s *Server, id ID) *conn {
	c := &conn{id: id, srv: s, seen: time.Now()}
	c.cond = sync.NewCond(&c.mu)
	c.in.limit = s.cfg.ReplayBytes
	if s.spool != nil {
		c.in.spill, c.in.limit = s.spool.open, s.cfg.SpoolAbove
	}
	return c
}

// attach gives the connection its socket and starts serving it.
func (c *conn) attach(sock *net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sock != nil || c.gone != nil {
		// Two sockets with the same addresses and sequence number: the newer one
		// is not what either server knows.
		abort(sock)
		return
	}
	c.sock, c.heard = sock, time.Now()
	c.srv.wg.Go(c.read)
	c.wake()
}

// wake starts who has something to do and tells who waits; mu is held.
func (c *conn) wake() {
	c.startServing()
	c.startWriting()
	c.cond.Broadcast()
}

// startServing runs serve if this server is the active one and the client has
// something to say; mu is held.
func (c *conn) startServing() {
	if c.active && !c.serving && c.sock != nil && c.gone == nil && !c.finished && (c.in.unread() > 0 || c.in.eof) {
		c.serving = true
		c.srv.wg.Go(c.serve)
	}
}

// startWriting runs write if there is something to write; mu is held.
func (c *conn) startWriting() {
	if !c.writing && c.sock != nil && c.gone == nil && (c.out.next(c.writable()) != nil || c.closable()) {
		c.writing = true
		c.srv.wg.Go(c.write)
	}
}

// closable reports whether all that is left to do is to close; mu is held.
func (c *conn) closable() bool {
	return c.finished && c.out.empty() && (!c.active || c.released)
}

// abort destroys a socket without a word to the client: the RST that the kernel
// sends is stopped by the crash guard, unless the connection was marked as closing.
func abort(sock *net.TCPConn) {
	sock.SetLinger(0)
	sock.Close()
}

// end gives a connection up; mu is held. Nothing more is done for it, and who works
// for it is told. The socket is the caller's to close; nil if there is none, or the
// connection was over before.
func (c *conn) end(why error) (sock *net.TCPConn) {
	if c.gone != nil {
		return nil
	}
	c.gone = why
	if c.cancel != nil {
		c.cancel()
	}
	c.srv.held.Add(-int64(c.out.held()))
	c.in.release()
	c.in, c.out = requestStream{}, replyLog{}
	c.cond.Broadcast()
	return c.sock
}

// drop ends a connection at once and forgets it. With tell, the client gets an RST.
func (c *conn) drop(why error, tell bool) {
	c.mu.Lock()
	over := c.gone != nil
	sock := c.end(why)
	c.mu.Unlock()
	if tell && !over {
		// Also without a socket: the kernel then answers the client's next packet.
		c.srv.kernel.MarkClosing(c.id.Client, c.id.VIP)
	}
	if sock != nil {
		abort(sock)
	}
	c.srv.forget(c)
}

// close ends a connection in order, everything having been written.
func (c *conn) close() {
	c.mu.Lock()
	active, sock := c.active, c.end(net.ErrClosed)
	c.mu.Unlock()
	if sock == nil {
		return
	}
	c.srv.kernel.MarkClosing(c.id.Client, c.id.VIP)
	sock.CloseWrite()
	if active {
		c.srv.sendClosed(c)
	}
	lingeringClose(sock)
	c.srv.forget(c)
}

// lingeringClose reads for a moment what a client still sends, so that closing
// does not turn into an RST that destroys the reply on its way (RFC 9112 section
// 9.6), then closes.
func lingeringClose(sock *net.TCPConn) {
	sock.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	io.Copy(io.Discard, io.LimitReader(sock, 256<<10))
	sock.Close()
}

// finish closes the connection once everything that may be shown has been
// written.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finishLocked()
}

func (c *conn) finishLocked() {
	if !c.finished {
		c.finished, c.finishedAt = true, time.Now()
	}
	c.wake()
}

// replayDoubt is how long after a failover a client's packet can still arrive here
// that the dead server had before: a retransmission, after the client's RTO.
const replayDoubt = time.Second

// Why a connection cannot go on after a failover.
var (
	errNoSocket  = errors.New("this server's kernel does not have it")
	errForgotten = errors.New("the request in hand is too long to be held here")
	errEndless   = errors.New("what it carries has no other copy: server-sent events, or a tunnel")
)

// promote makes this copy the one that speaks. The error says why the connection
// cannot go on: it is then to be given up.
func (c *conn) promote(released bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return nil
	}
	if c.sock == nil || c.joining != nil {
		return errNoSocket
	}
	c.discard()
	c.active, c.released, c.protected = true, released, false
	switch {
	case c.partial != nil && c.partial.endless:
		return errEndless
	case !c.in.replayable():
		return errForgotten
	}
	c.in.unspooled(c.srv.cfg.ReplayBytes) // nobody else is left to run it again
	c.in.pos = c.in.need
	c.replay = c.in.unread() > 0
	c.heard = time.Now()
	c.replayBefore = c.heard.Add(replayDoubt)
	c.wake()
	return nil
}

// cutOff lets a connection end in order that cannot go on in the middle of a reply: what
// was logged is written first. It reports false where the client would take that for
// the reply's end, or has seen nothing of it.
func (c *conn) cutOff() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.partial == nil || c.partial.mute() {
		return false
	}
	c.discard()
	c.finishLocked()
	return true
}

// unprotect lets the connection go on alone. It reports whether it was protected, and
// whether it was on its way to be.
func (c *conn) unprotect() (was, moving bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	moving = c.stopHandOver()
	was = c.protected && !moving
	c.protected = false
	c.wake()
	return was, moving
}

// writable returns the limits for replyLog.next; mu is held.
func (c *conn) writable() (limit, received uint64) {
	switch {
	case !c.active && c.finished && time.Since(c.finishedAt) > c.srv.cfg.CloseLinger:
		return math.MaxUint64, math.MaxUint64
	case !c.active:
		return c.acked, math.MaxUint64
	case !c.released:
		return 0, 0
	case c.protected:
		return c.out.logged, c.peerReceived
	default:
		return math.MaxUint64, math.MaxUint64
	}
}

func (c *conn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone != nil
}

// pause waits, or until the connection is over.
func (c *conn) pause(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitFor(d, func() bool { return false })
}

// waitFor waits until ok, for at most d, or until the connection is over; mu is held.
func (c *conn) waitFor(d time.Duration, ok func() bool) {
	if ok() {
		return
	}
	t := time.AfterFunc(d, func() { c.mu.Lock(); c.cond.Broadcast(); c.mu.Unlock() })
	defer t.Stop()
	for end := time.Now().Add(d); c.gone == nil && !ok() && time.Now().Before(end); {
		c.cond.Wait()
	}
}

// overdue looks, on the active server, for a client that has kept this one waiting for
// too long: without a request the connection is closed in order, with half of one it
// is answered with 408 (Request Timeout). The sweep calls it.
func (c *conn) overdue(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cfg := &c.srv.cfg
	switch {
	case !c.active || c.sock == nil || c.gone != nil || c.finished || c.late:
	case !c.since.IsZero():
		c.late = now.Sub(c.since) > cfg.HeadTimeout
	case c.body:
		c.late = now.Sub(c.heard) > cfg.BodyTimeout
	case !c.serving && c.in.unread() == 0 && c.out.empty() && now.Sub(c.heard) > cfg.IdleTimeout:
		c.in.eof = true
		c.wake()
	}
	if c.late {
		c.cond.Broadcast()
	}
}
