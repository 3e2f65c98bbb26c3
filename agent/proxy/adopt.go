// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

/*
How a live connection comes to be held twice, when a backup has joined (docs/adoption.md):

	active server                                     backup
	  arm: the gate closes when the backup
	       acknowledges all that this one has
	  describe ------- Adopt, in pieces ------------> build the socket
	           ------- Reply, from here on ---------> log
	           ------- Missed, what arrives --------> inject, ask for an ACK
	           <------ Adopt, name only -------------
	  wait until the gate is closed, and the
	  client has acknowledged what was on its way
	  withhold -------- Held -----------------------> it may take over
	           <------- Held ------------------------
	  it counts as protected

From the moment at which it is described every byte of a reply goes to the backup; from
Held on none is shown that the backup has not confirmed. Should the active server die
between the two, the backup ends the connection with an RST.
*/

// Adopter moves live sockets between two servers' kernels. All methods may be called
// concurrently. A nil Adopter in Config leaves connections alone that began before the
// backup joined.
type Adopter interface {
	// Describe reads the state of a connection's socket. It costs microseconds and
	// does not disturb the connection.
	Describe(client, vip netip.AddrPort) (*replicationv1.Socket, error)
	// Arm makes a connection wait for the other server's acknowledgements from the
	// moment on at which that has all that this host has. Kernel.Ungate undoes it.
	Arm(client, vip netip.AddrPort) error
	// Adopt builds the socket of a connection that was described age ago. It expects
	// the client's byte received next, and takes the first written bytes of the
	// replies for acknowledged.
	Adopt(id ID, s *replicationv1.Socket, received, written uint64, age time.Duration) (*net.TCPConn, error)
	// Inject puts bytes of the client's stream, from offset on, into the socket, as if
	// they had come from the client, and its end behind them with eof. What the socket
	// has is skipped.
	Inject(id ID, offset uint64, data []byte, eof bool) error
}

const (
	// handOverEvery is how often the mover looks for what has become possible.
	handOverEvery = 2 * time.Millisecond
	// maxMoving connections are on their way at a time; beginBatch of them are begun
	// at a time, so that requests are not kept waiting.
	maxMoving  = 128
	beginBatch = 32
	// busyPatience is how long a connection is waited for to be between two requests,
	// where there is least to move, before it is moved as it is.
	busyPatience = 300 * time.Millisecond
	// moveTimeout ends an attempt; the next one comes after retryMin, later retryMax.
	moveTimeout        = 5 * time.Second
	retryMin, retryMax = 50 * time.Millisecond, 5 * time.Second
	// adoptPiece is how much of what a proxy holds goes into one frame, maxInherited
	// the most that is held of a connection that can be moved.
	adoptPiece   = 256 << 10
	maxInherited = 32 << 20
)

// handover is the state of a connection that the backup is about to adopt, on the
// active server. The fields belong to the connection's mu.
type handover struct {
	stream  Stream
	phase   phase
	written uint64 // reply bytes that were with the kernel when it was described
	since   time.Time
}

type phase uint8

const (
	describing phase = iota // frames are being sent; who has others waits
	described
	built   // the backup has the socket
	holding // Held was sent
)

// joining is the state of a connection that this server, a backup, is adopting. The
// fields belong to the connection's mu.
type joining struct {
	request, reply []byte
}

// --- on the active server ---

// awaitDescription waits until the frames that describe the connection are sent.
func (c *conn) awaitDescription() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.gone == nil && c.handover != nil && c.handover.phase == describing {
		c.cond.Wait()
	}
}

// sendMissed sends bytes that arrived while the connection is handed over.
func (c *conn) sendMissed(offset uint64, data []byte, eof bool) {
	c.awaitDescription()
	c.srv.send(&replicationv1.Frame{Frame: &replicationv1.Frame_Missed{Missed: &replicationv1.Missed{
		Conn: c.id.bytes(), Offset: offset, Data: bytes.Clone(data), Eof: eof}}})
}

// stopHandOver ends an attempt; mu is held. It reports whether there was one, and then
// the caller ungates the connection.
func (c *conn) stopHandOver() bool {
	if c.handover == nil {
		return false
	}
	c.handover = nil
	c.cond.Broadcast()
	return true
}

// quiet reports whether the connection is between two requests; mu is held.
func (c *conn) quiet() bool {
	return c.in.need == c.in.received() && c.out.held() == 0
}

// mover hands connections over to the backup, one by one: those that began before it
// joined, or that it has lost. Its loop owns the lists.
type mover struct {
	wake chan struct{}

	mu    sync.Mutex
	inbox []*conn
}

// candidate is a connection that the backup does not hold.
type candidate struct {
	c     *conn
	since time.Time // when it became one
	next  time.Time // not before
	tries int
	h     *handover
}

// add asks for connections to be handed over.
func (m *mover) add(list ...*conn) {
	if len(list) == 0 {
		return
	}
	m.mu.Lock()
	m.inbox = append(m.inbox, list...)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// handOver runs the mover until ctx ends.
func (s *Server) handOver(ctx context.Context) {
	if s.cfg.Adopter == nil {
		return
	}
	t := time.NewTicker(handOverEvery)
	defer t.Stop()
	var waiting, moving []*candidate
	for {
		if len(waiting)+len(moving) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-s.mover.wake:
			}
		} else {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
		now := time.Now()
		s.mover.mu.Lock()
		for _, c := range s.mover.inbox {
			waiting = append(waiting, &candidate{c: c, since: now})
		}
		s.mover.inbox = nil
		s.mover.mu.Unlock()
		s.mu.Lock()
		stream := s.stream
		if s.role != leading {
			stream = nil
		}
		s.mu.Unlock()
		if stream == nil {
			waiting, moving = nil, nil // the next backup is offered all of them
			continue
		}

		still := moving[:0]
		for _, m := range moving {
			switch s.advance(m, now) {
			case moveOn:
				still = append(still, m)
			case moveAgain:
				waiting = append(waiting, m)
			}
		}
		clear(moving[len(still):])
		moving = still
		begun := 0
		for range len(waiting) {
			if len(moving) >= maxMoving || begun >= beginBatch {
				break
			}
			m := waiting[0]
			waiting = waiting[1:]
			switch s.begin(m, stream, now) {
			case moveOn:
				moving = append(moving, m)
				begun++
			case moveAgain:
				waiting = append(waiting, m)
			}
		}
	}
}

type moved uint8

const (
	moveOver  moved = iota // nothing more to do
	moveOn                 // on its way
	moveAgain              // later
)

// begin describes a connection to the backup, if this is a good moment.
func (s *Server) begin(m *candidate, stream Stream, now time.Time) moved {
	c := m.c
	if now.Before(m.next) {
		return moveAgain
	}
	// A first look, which costs little.
	c.mu.Lock()
	over := c.gone != nil || !c.active || c.protected || c.finished || c.in.eof
	ready := c.sock != nil && c.handover == nil && c.sending == 0 &&
		(c.quiet() || now.Sub(m.since) > busyPatience) && len(c.in.data)+c.out.held() <= maxInherited
	c.mu.Unlock()
	if over {
		return moveOver
	}
	if !ready {
		m.next = now.Add(handOverEvery)
		return moveAgain
	}
	again := func(err error) moved {
		s.kernel.Ungate(c.id.Client, c.id.VIP)
		s.log.Debug("hand over", "client", c.id.Client, "error", err)
		m.next = now.Add(min(retryMin<<min(m.tries, 10), retryMax))
		m.tries++
		return moveAgain
	}
	rec, err := s.kernel.Conn(c.id.Client, c.id.VIP)
	if err == nil && rec.ISN != c.id.ISN {
		err = errors.New("the kernel knows another connection of these addresses")
	}
	if err != nil {
		return again(err)
	}
	if err := s.cfg.Adopter.Arm(c.id.Client, c.id.VIP); err != nil {
		return again(err)
	}
	sock, err := s.cfg.Adopter.Describe(c.id.Client, c.id.VIP)
	if err != nil {
		return again(err)
	}

	c.mu.Lock()
	if c.gone != nil || !c.active || c.protected || c.finished || c.in.eof || c.sending > 0 {
		c.mu.Unlock()
		return again(errors.New("it has changed"))
	}
	m.h = &handover{stream: stream, phase: describing, written: c.out.written, since: now}
	c.handover = m.h
	request := bytes.Clone(c.in.data)
	var reply []byte
	for i, seg := range c.out.segments {
		b := seg.data
		if i == 0 {
			b = b[uint64(len(b))-(seg.end-c.out.written):]
		}
		reply = append(reply, b...)
	}
	standing := &replicationv1.Standing{
		Received: c.in.received(), Need: c.in.need,
		Written: c.out.written, Sealed: c.out.sealed,
		Answered: c.answered, Interim: c.interim, Partial: c.partial.describe(),
		Socket: sock,
	}
	c.mu.Unlock()

	err = sendAdopt(stream, c.id.bytes(), request, reply, standing)
	c.mu.Lock()
	if c.handover == m.h && m.h.phase == describing { // or the backup has answered already
		m.h.phase = described
		c.cond.Broadcast()
	}
	c.mu.Unlock()
	if err != nil {
		return moveAgain // the stream is over, and the controller will say so
	}
	return moveOn
}

func sendAdopt(stream Stream, name, request, reply []byte, standing *replicationv1.Standing) error {
	begin := true
	cut := func(b []byte) (piece, rest []byte) {
		n := min(len(b), adoptPiece)
		return b[:n], b[n:]
	}
	for {
		a := &replicationv1.Adopt{Conn: name, Begin: begin}
		a.Request, request = cut(request)
		a.Reply, reply = cut(reply)
		begin = false
		last := len(request)+len(reply) == 0
		if last {
			standing.Sent = sinceStart()
			a.Standing = standing
		}
		if err := stream.Send(&replicationv1.Frame{Frame: &replicationv1.Frame_Adopt{Adopt: a}}); err != nil || last {
			return err
		}
	}
}

// advance takes a connection that is on its way to its next step.
func (s *Server) advance(m *candidate, now time.Time) moved {
	c := m.c
	c.mu.Lock()
	over := c.gone != nil || !c.active || c.protected && c.handover == nil
	mine := c.handover == m.h
	phase, late := m.h.phase, now.Sub(m.h.since) > moveTimeout
	c.mu.Unlock()
	switch {
	case over:
		return moveOver
	case !mine: // the backup could not
		m.next = now.Add(min(retryMin<<min(m.tries, 10), retryMax))
		m.tries++
		return moveAgain
	case late:
		c.mu.Lock()
		c.stopHandOver()
		c.protected = false
		c.wake()
		c.mu.Unlock()
		s.kernel.Ungate(c.id.Client, c.id.VIP)
		s.kernel.Kick(c.id.Client, c.id.VIP)
		s.sendLost(c, "its adoption takes too long")
		m.next, m.tries = now.Add(retryMax), m.tries+1
		return moveAgain
	case phase != built:
		return moveOn
	}
	rec, err := s.kernel.Conn(c.id.Client, c.id.VIP)
	if err != nil || !rec.Gated {
		return moveOn
	}
	// What was on its way to the client when the connection was described is not with
	// the backup, and need not be once the client has it.
	if int32(rec.Acked-(c.id.ISN+1)-uint32(m.h.written)) < 0 {
		return moveOn
	}
	c.mu.Lock()
	hold := c.handover == m.h && c.sending == 0
	if hold {
		// From here on nothing is shown that is not confirmed. All that has been made
		// so far stands before Held in the stream.
		c.protected, m.h.phase = true, holding
	}
	c.mu.Unlock()
	if hold {
		m.h.stream.Send(&replicationv1.Frame{Frame: &replicationv1.Frame_Held{Held: &replicationv1.Held{Conn: c.id.bytes()}}})
	}
	return moveOn
}

// --- both sides ---

// handleAdoption takes the frames of an adoption.
func (s *Server) handleAdoption(stream Stream, id ID, f *replicationv1.Frame) {
	s.mu.Lock()
	if s.stream != stream {
		s.mu.Unlock()
		return // of an epoch that is over
	}
	role, c := s.role, s.conns[id]
	s.mu.Unlock()
	frame := f
	switch role {
	case leading:
		if c != nil {
			s.adopted(c, f)
		}
	case following:
		var err error
		switch f := f.GetFrame().(type) {
		case *replicationv1.Frame_Adopt:
			err = s.adopt(stream, id, c, f.Adopt)
		case *replicationv1.Frame_Missed:
			err = s.missed(c, f.Missed)
		case *replicationv1.Frame_Held:
			s.whole(stream, c, frame)
		}
		if err != nil {
			s.log.Debug("adoption", "client", id.Client, "error", err)
			s.loseJoining(id, err)
		}
	}
}

// adopted takes the backup's answers, on the active server.
func (s *Server) adopted(c *conn, f *replicationv1.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.handover
	switch {
	case h == nil:
	case f.GetAdopt() != nil && h.phase <= described:
		h.phase = built
		c.cond.Broadcast()
	case f.GetHeld() != nil && h.phase == holding:
		c.handover = nil
		s.stats.Adopted.Add(1)
	}
}

// --- on the backup ---

// adopt takes a piece of a connection's description, and builds it with the last.
func (s *Server) adopt(stream Stream, id ID, c *conn, a *replicationv1.Adopt) error {
	if a.GetBegin() {
		if c != nil {
			c.drop(errLost, false)
		}
		s.mu.Lock()
		delete(s.strangers, id)
		if c = s.get(id); c != nil {
			c.joining = &joining{}
		}
		s.mu.Unlock()
		if c == nil {
			return fmt.Errorf("there are %d connections", maxConns)
		}
	}
	if c == nil {
		return nil // given up
	}
	c.mu.Lock()
	j := c.joining
	if j == nil || c.sock != nil || c.gone != nil {
		c.mu.Unlock()
		return nil
	}
	j.request = append(j.request, a.GetRequest()...)
	j.reply = append(j.reply, a.GetReply()...)
	st := a.GetStanding()
	err := errors.New("more is held of it than can be moved")
	if len(j.request)+len(j.reply) <= maxInherited {
		err = nil
	}
	if st != nil && err == nil {
		err = c.inherit(st)
	}
	c.mu.Unlock()
	if st == nil || err != nil {
		return err
	}
	sock, err := s.cfg.Adopter.Adopt(id, st.GetSocket(), st.GetReceived(), st.GetWritten(), s.age(stream, st.GetSent()))
	if err != nil {
		return err
	}
	c.attach(sock)
	if err := stream.Send(&replicationv1.Frame{Frame: &replicationv1.Frame_Adopt{Adopt: &replicationv1.Adopt{Conn: id.bytes()}}}); err != nil {
		return nil
	}
	s.report(c, st.GetReceived(), false)
	s.confirm(c, stream)
	// Its acknowledgement closes the active server's gate.
	return s.kernel.Kick(id.Client, id.VIP)
}

// inherit makes the connection what the active server's was; mu is held.
func (c *conn) inherit(st *replicationv1.Standing) error {
	j := c.joining
	base := st.GetReceived() - uint64(len(j.request))
	whole := st.GetSealed() - st.GetWritten()
	if base > st.GetReceived() || st.GetNeed() > st.GetReceived() ||
		st.GetSealed() < st.GetWritten() || whole > uint64(len(j.reply)) || st.GetSocket() == nil {
		return errors.New("its description contradicts itself")
	}
	c.in.base, c.in.mem, c.in.need, c.in.pos, c.in.data = base, base, st.GetNeed(), st.GetReceived(), j.request
	w := st.GetWritten()
	c.out = replyLog{written: w, sealed: w, end: w}
	c.log(j.reply[:whole], span{})
	c.out.seal(0)
	c.log(j.reply[whole:], span{})
	c.acked = w
	c.answered, c.interim, c.partial = st.GetAnswered(), st.GetInterim(), inheritPartial(st.GetPartial())
	c.in.spent = c.partial != nil && c.partial.status == 101
	j.request, j.reply = nil, nil
	return nil
}

// missed puts into the kernel what the active server had before this one was ready.
func (s *Server) missed(c *conn, m *replicationv1.Missed) error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	ready := c.joining != nil && c.sock != nil && c.gone == nil
	c.mu.Unlock()
	if !ready {
		return nil
	}
	return s.cfg.Adopter.Inject(c.id, m.GetOffset(), m.GetData(), m.GetEof())
}

// whole says that this copy lacks nothing.
func (s *Server) whole(stream Stream, c *conn, f *replicationv1.Frame) {
	if c == nil {
		return
	}
	c.mu.Lock()
	ok := c.joining != nil && c.sock != nil && c.gone == nil
	if ok {
		c.joining = nil
	}
	c.mu.Unlock()
	if ok {
		stream.Send(f)
	}
}

// loseJoining gives up a connection that could not be adopted.
func (s *Server) loseJoining(id ID, why error) {
	s.mu.Lock()
	c := s.conns[id]
	if len(s.strangers) < maxConns {
		s.strangers[id] = true
	}
	s.mu.Unlock()
	if c != nil {
		s.sendLost(c, why.Error())
		c.drop(errLost, false)
	}
}

// start is the origin of the clock in Standing.
var start = time.Now()

func sinceStart() int64 { return int64(time.Since(start)) }

// age returns how long ago a connection was described, at the least: the quickest
// frame of this stream is taken for one that took no time.
func (s *Server) age(stream Stream, sent int64) time.Duration {
	d := sinceStart() - sent
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quickest.stream != stream || d < s.quickest.d {
		s.quickest.stream, s.quickest.d = stream, d
	}
	return time.Duration(d - s.quickest.d)
}

// quickest is the least difference between this server's clock and the active one's
// that a frame of a stream has shown.
type quickest struct {
	stream Stream
	d      int64
}
