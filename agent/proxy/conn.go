// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"time"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"

	"golang.org/x/sys/unix"
)

// Why a connection is over without a word to the client.
var (
	errFenced = errors.New("this server is no longer part of the pair")
	errLost   = errors.New("the other server does not hold this connection")
)

// A conn is this server's copy of one client connection. Up to three goroutines
// serve it: read (client to c.in), serve (c.in to c.out, on the active server
// only) and write (c.out to client). All fields below mu belong to mu; cond is
// signalled whenever one of them changes.
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

	peerReceived uint64 // how much of the client's stream the backup has
	acked        uint64 // reply bytes that the client has acknowledged, on a backup
	answered     uint64 // requests with a complete reply
	interim      bool   // an interim response to the request in hand has been logged
	streaming    bool   // the reply in the making is streamed: its beginning was shown
	// replay: the request in hand may have been run before, elsewhere. Until
	// replayBefore that also holds for one of which nothing had arrived here.
	replay       bool
	replayBefore time.Time
	finished     bool // close when everything has been written
	finishedAt   time.Time
	gone         error              // over: every goroutine returns
	cancel       context.CancelFunc // takes the request in hand along; nil if there is none
}

func newConn(s *Server, id ID) *conn {
	c := &conn{id: id, srv: s, seen: time.Now()}
	c.cond = sync.NewCond(&c.mu)
	c.in.limit = s.cfg.ReplayBytes
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
	c.sock = sock
	c.srv.wg.Go(c.read)
	c.srv.wg.Go(c.write)
	c.startServing()
}

// startServing runs serve once this server is the active one and the client has
// something to say; mu is held. After a failover the requests in hand then need not
// wait until every idle connection has been looked after.
func (c *conn) startServing() {
	if c.active && !c.serving && c.sock != nil && c.gone == nil && !c.finished && (c.in.unread() > 0 || c.in.eof) {
		c.serving = true
		c.srv.wg.Go(c.serve)
	}
}

// abort destroys a socket without a word to the client: the RST that the kernel
// sends is stopped by the crash guard.
func abort(sock *net.TCPConn) {
	sock.SetLinger(0)
	sock.Close()
}

// end gives a connection up. mu is held. With tell, the client gets an RST.
func (c *conn) end(why error, tell bool) {
	if c.gone != nil {
		return
	}
	c.gone = why
	if c.cancel != nil {
		c.cancel()
	}
	if c.sock != nil {
		if tell {
			c.srv.kernel.MarkClosing(c.id.Client, c.id.VIP)
		}
		abort(c.sock)
	}
	c.in, c.out = requestStream{}, replyLog{}
	c.cond.Broadcast()
}

// retire is the first half of end: nothing more is done for the connection, and who
// works for it is told. bury is the second.
func (c *conn) retire(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return
	}
	c.gone = why
	if c.cancel != nil {
		c.cancel()
	}
	busy := c.in.unread() > 0 || c.out.held() > 0
	c.in, c.out = requestStream{}, replyLog{}
	if busy {
		c.cond.Broadcast()
	}
}

// bury closes the socket of a connection that was retired, and ends all that waits
// for it.
func (c *conn) bury() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sock != nil && c.gone == errFenced {
		abort(c.sock)
	}
	c.cond.Broadcast()
}

// drop is end for callers without the lock, and forgets the connection.
func (c *conn) drop(why error, tell bool) {
	c.mu.Lock()
	c.end(why, tell)
	c.mu.Unlock()
	c.srv.forget(c)
}

// replayDoubt is how long after a failover a client's packet can still arrive here
// that the dead server had before: a retransmission, after the client's RTO.
const replayDoubt = time.Second

// promote makes this copy the one that speaks. It reports false when the
// connection cannot go on: part of a reply was shown that this server cannot
// continue, or a request that must run again is no longer held.
func (c *conn) promote(released bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return true
	}
	if c.sock == nil || c.streaming {
		return false
	}
	c.out.discard()
	if !c.in.replayable() {
		return false
	}
	c.in.pos = c.in.need
	c.active, c.released, c.protected = true, released, false
	c.replay = c.in.unread() > 0
	c.replayBefore = time.Now().Add(replayDoubt)
	c.startServing()
	c.cond.Broadcast()
	return true
}

// unprotect lets the connection go on alone; it reports whether it was protected.
func (c *conn) unprotect() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.protected
	c.protected = false
	c.cond.Broadcast()
	return was
}

// read moves the client's bytes from the kernel to c.in.
func (c *conn) read() {
	buf := make([]byte, 4<<10)
	for {
		c.mu.Lock()
		for c.gone == nil && c.active && c.in.unread() >= c.srv.cfg.ReadAhead {
			c.cond.Wait()
		}
		if c.gone != nil {
			c.mu.Unlock()
			return
		}
		active := c.active
		c.mu.Unlock()

		if active {
			c.sock.SetReadDeadline(time.Now().Add(c.srv.cfg.IdleTimeout))
		}
		n, err := c.sock.Read(buf)
		if n > 0 && !active {
			quickAck(c.sock)
		}
		c.mu.Lock()
		if c.gone != nil {
			c.mu.Unlock()
			return
		}
		c.in.append(buf[:n])
		if c.active {
			c.in.overflow(c.in.pos)
		} else {
			c.in.pos = c.in.received()
			c.in.overflow(c.in.pos)
		}
		switch {
		case err == io.EOF:
			c.in.eof = true
		case errors.Is(err, os.ErrDeadlineExceeded) && !c.active:
			err = nil // the active server decides when a connection has been idle too long
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.in.eof = true // close in an orderly way: nothing more is expected
		case err != nil:
			c.end(err, false)
		}
		received, eof, backup := c.in.received(), c.in.eof, !c.active
		c.startServing()
		c.cond.Broadcast()
		c.mu.Unlock()

		if backup && (n > 0 || eof) {
			c.srv.report(c, received, eof)
			c.srv.noteAcked(c)
		}
		if err != nil {
			if err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
				c.srv.forget(c)
			}
			return
		}
		if n == len(buf) && len(buf) < 64<<10 {
			buf = make([]byte, 4*len(buf))
		}
	}
}

// quickAck sends the acknowledgement that the kernel would delay: the active
// server's gate waits for it (tcp(7), TCP_QUICKACK; not sticky).
func quickAck(sock *net.TCPConn) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}

// write moves replies from c.out to the kernel, as far as they may be shown: on
// the active server what the backup has confirmed; on a backup what the client
// has acknowledged already, so that its kernel never waits for an
// acknowledgement that cannot come.
func (c *conn) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var b []byte
		for c.gone == nil {
			if b = c.out.next(c.writable()); b != nil {
				break
			}
			if c.finished && c.out.empty() && (!c.active || c.released) {
				c.close()
				return
			}
			c.cond.Wait()
		}
		if c.gone != nil {
			return
		}
		sock := c.sock
		c.mu.Unlock()
		sock.SetWriteDeadline(time.Now().Add(c.srv.cfg.WriteTimeout))
		n, err := sock.Write(b)
		c.mu.Lock()
		if c.gone != nil {
			return
		}
		c.out.wrote(n)
		if err != nil {
			tell := errors.Is(err, os.ErrDeadlineExceeded) // a client that stopped reading
			c.end(err, tell)
			c.mu.Unlock()
			c.srv.forget(c)
			c.mu.Lock()
			return
		}
		c.cond.Broadcast()
	}
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

// close ends the connection in order, everything having been written; mu is
// held, and released while the other server is told.
func (c *conn) close() {
	if c.gone != nil {
		return
	}
	c.gone = net.ErrClosed
	active := c.active
	c.srv.kernel.MarkClosing(c.id.Client, c.id.VIP)
	c.sock.CloseWrite()
	c.cond.Broadcast()
	sock := c.sock
	c.mu.Unlock()
	if active {
		c.srv.sendClosed(c)
	}
	lingeringClose(sock)
	c.srv.forget(c)
	c.mu.Lock()
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
	c.finished, c.finishedAt = true, time.Now()
	c.cond.Broadcast()
	c.mu.Unlock()
}

// --- what serve needs ---

// Read hands the client's bytes to the parser, waiting for them.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.gone != nil:
			return 0, c.gone
		case c.in.unread() > 0:
			n := c.in.read(p)
			c.in.overflow(c.in.pos)
			c.cond.Broadcast()
			return n, nil
		case c.in.eof:
			return 0, io.EOF
		}
		c.cond.Wait()
	}
}

// appendReply adds a piece of a reply and sends it to the backup. begin is true
// for the first piece.
func (c *conn) appendReply(b []byte, begin bool) error {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return c.gone
	}
	c.out.append(b)
	if c.streaming {
		c.out.seal(c.in.pos)
	} else if c.out.end-c.out.sealed > uint64(c.srv.cfg.WholeReply) {
		c.streaming = true
		c.out.seal(c.in.pos)
	}
	streaming, request := c.streaming, c.answered+1
	if streaming {
		c.cond.Broadcast()
	}
	c.mu.Unlock()
	c.sendReply(&replicationv1.Reply{Request: request, Data: b, Streamed: streaming, Begin: begin})
	if !streaming {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.gone == nil && c.out.held() > c.srv.cfg.WholeReply {
		c.cond.Wait() // a slow client, or a slow backup
	}
	return c.gone
}

// endReply completes the reply to the request that ends at offset end of the
// client's stream.
func (c *conn) endReply(end uint64, closing bool) {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return
	}
	c.out.seal(end)
	c.in.done(end)
	c.answered++
	c.streaming, c.interim, c.replay = false, false, false
	c.replayBefore = time.Time{}
	request := c.answered
	c.cond.Broadcast()
	c.mu.Unlock()
	c.sendReply(&replicationv1.Reply{Request: request, End: true, RequestEnd: end, Close: closing})
}

// appendInterim logs a whole interim response (1xx), unless one was logged for
// this request before, by whichever server.
func (c *conn) appendInterim(b []byte) {
	c.mu.Lock()
	if c.gone != nil || c.interim {
		c.mu.Unlock()
		return
	}
	c.interim = true
	c.out.append(b)
	c.out.seal(c.in.pos)
	request := c.answered + 1
	c.cond.Broadcast()
	c.mu.Unlock()
	c.sendReply(&replicationv1.Reply{Request: request, Data: b, Interim: true})
}

func (c *conn) sendReply(r *replicationv1.Reply) {
	c.mu.Lock()
	protected := c.protected
	c.mu.Unlock()
	if protected {
		r.Conn = c.id.bytes()
		c.srv.send(&replicationv1.Frame{Frame: &replicationv1.Frame_Reply{Reply: r}})
	}
}

// discardReply throws a broken reply away; false when part of it was shown.
func (c *conn) discardReply() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streaming {
		return false
	}
	c.out.discard()
	return true
}

// --- what the stream from the active server brings, on a backup ---

// logReply applies a frame. It returns how much the active server may show, and
// whether that is news. A reply that is here only in part does not count: if the
// active server died now, it would be thrown away, and no client may have seen its
// beginning.
func (c *conn) logReply(r *replicationv1.Reply) (logged uint64, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil || c.active {
		return 0, false
	}
	before := c.out.sealed
	if r.GetBegin() {
		c.out.discard()
	}
	c.out.append(r.GetData())
	switch {
	case r.GetInterim():
		c.interim = true
		c.out.seal(0)
	case r.GetEnd():
		c.streaming, c.interim = false, false
		c.out.seal(0)
		c.in.done(r.GetRequestEnd())
		c.answered++
	case r.GetStreamed():
		c.streaming = true
		c.out.seal(0)
	}
	if r.GetClose() {
		c.finished, c.finishedAt = true, time.Now()
	}
	if c.out.sealed == before && !c.finished {
		return before, false
	}
	c.cond.Broadcast()
	return c.out.sealed, c.out.sealed > before
}

func (c *conn) confirm(logged uint64) {
	c.mu.Lock()
	c.out.logged = max(c.out.logged, logged)
	c.cond.Broadcast()
	c.mu.Unlock()
}

func (c *conn) progress(received uint64) {
	c.mu.Lock()
	c.peerReceived = max(c.peerReceived, received)
	c.cond.Broadcast()
	c.mu.Unlock()
}
