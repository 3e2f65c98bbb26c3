// SPDX-License-Identifier: Apache-2.0

// Package proxy is log mode: an HTTP/1.1 reverse proxy in front of one service's
// local application that runs on two servers at once. The active one's proxy
// answers clients, and shows them nothing that the backup's proxy has not
// confirmed; the backup's proxy holds the same connections, reads the same
// requests, keeps the replies, and can go on from any point.
//
// A Server is told its part (Follow, Lead, Fence) and has one Conn per client
// connection. What a connection has received and what it is to be sent are pure
// data structures (requestStream, replyLog); goroutines move bytes between them,
// the kernel, the application and the other server.
package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

// ID names a connection on both servers: its addresses and the server's initial
// sequence number, which tells apart two connections with the same addresses.
type ID struct {
	Client, VIP netip.AddrPort
	ISN         uint32
}

// bytes is the wire form (docs/replication.md): client address, client port, VIP,
// VIP's port, ISN, all in network order.
func (id ID) bytes() []byte {
	b := make([]byte, 0, 40)
	for _, a := range []netip.AddrPort{id.Client, id.VIP} {
		b = append(b, a.Addr().Unmap().AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, a.Port())
	}
	return binary.BigEndian.AppendUint32(b, id.ISN)
}

func parseID(b []byte) (ID, error) {
	n := 4
	switch len(b) {
	case 16:
	case 40:
		n = 16
	default:
		return ID{}, fmt.Errorf("a connection's name has 16 or 40 bytes, not %d", len(b))
	}
	addr := func(b []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(b[:n])
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[n:]))
	}
	return ID{Client: addr(b), VIP: addr(b[n+2:]), ISN: binary.BigEndian.Uint32(b[2*n+4:])}, nil
}

// ConnRecord is what the kernel side knows of a connection.
type ConnRecord struct {
	ISN uint32 // the server's initial sequence number
	// Acked is the highest acknowledgement number that the client has sent.
	Acked uint32
	// Gated is true when the connection began under the present gate: both
	// servers have it from its first packet.
	Gated bool
}

// Kernel is what the proxy needs of the eBPF programs and raw sockets. All
// methods may be called concurrently.
type Kernel interface {
	// Conn returns what is known of a connection, or an error.
	Conn(client, vip netip.AddrPort) (ConnRecord, error)
	// MarkClosing lets the FIN or RST of a connection pass the crash guard.
	MarkClosing(client, vip netip.AddrPort) error
	// Ungate stops waiting for the other server's acknowledgements.
	Ungate(client, vip netip.AddrPort) error
	// Kick makes both ends of a connection speak without waiting for a timer.
	Kick(client, vip netip.AddrPort) error
}

// Stream takes frames for the other server. Send keeps their order and may
// block; its error means that the stream is over.
type Stream interface {
	Send(...*replicationv1.Frame) error
}

// Application watches the local application.
type Application interface {
	// Suspect is called with an error that the application caused. It finds out
	// whether the application is alive and returns that.
	Suspect(ctx context.Context, err error) bool
}

// Config of a Server. Zero values mean the defaults given here.
type Config struct {
	// Upstream is the local application, "address:port".
	Upstream string
	// VIP is the service's address and port, as clients know it.
	VIP netip.AddrPort
	// WholeReply: replies up to this many bytes are logged whole before the
	// first byte is shown; longer ones in pieces. 4 MiB.
	WholeReply int
	// StreamAfter: a reply whose length the application does not tell is shown in
	// pieces once it has been in the making for so long. 100 ms. Server-sent events
	// are from the beginning.
	StreamAfter time.Duration
	// StreamBuffer bounds what is held of a reply that is shown in pieces, and not
	// yet written to the client. 1 MiB.
	StreamBuffer int
	// Backlog bounds what all connections together hold of replies. Beyond it every
	// reply is shown in pieces, of which little is held. 512 MiB.
	Backlog int64
	// ReplayBytes of a request are kept in memory until it has been answered. 8 MiB.
	ReplayBytes int
	// SpoolDir is where a backup keeps what is longer than SpoolAbove, which is 1 MiB;
	// SpoolBytes is how much of all requests together. 1 GiB. Without a SpoolDir a
	// request longer than ReplayBytes cannot be run again.
	SpoolDir   string
	SpoolAbove int
	SpoolBytes int64
	// BufferedBody: request bodies up to this size are read before they are
	// passed on. 1 MiB.
	BufferedBody int
	// DrainBytes of a request body that the application left are read and
	// thrown away to keep the connection. 1 MiB.
	DrainBytes int64
	// MaxBody bounds a request's body; 0 for no bound.
	MaxBody int64
	// HeaderBytes bounds a request's head, TargetBytes the target in it. 64 KiB and
	// 16 KiB.
	HeaderBytes, TargetBytes int
	// ReadAhead bounds what is read from a client and not yet parsed. 256 KiB.
	ReadAhead int
	// IdleTimeout ends a connection on which a client sends nothing. 5 min.
	IdleTimeout time.Duration
	// HeadTimeout bounds the wait for a request's head once it has begun, BodyTimeout
	// that for the next part of its body. 15 s and 60 s.
	HeadTimeout, BodyTimeout time.Duration
	// WriteTimeout ends a connection whose client takes nothing. 2 min.
	WriteTimeout time.Duration
	// UpstreamTimeout bounds the wait for the head of a reply, and for each further
	// part of it. 60 s.
	UpstreamTimeout time.Duration
	// UpstreamPatience is how long a request waits for a local application that
	// is down, before it is answered with 502. 2 s.
	UpstreamPatience time.Duration
	// CloseLinger is how long a backup waits for the client's last
	// acknowledgement before it closes its copy. 2 s.
	CloseLinger time.Duration
	// AttachTimeout is how long a connection may be known to one server only. 3 s.
	AttachTimeout time.Duration
	// Adopter moves connections that began before the backup joined to it. None if
	// nil.
	Adopter Adopter
}

func (c *Config) setDefaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	defd := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.WholeReply, 4<<20)
	def(&c.ReplayBytes, 8<<20)
	def(&c.SpoolAbove, 1<<20)
	if c.SpoolBytes == 0 {
		c.SpoolBytes = 1 << 30
	}
	def(&c.BufferedBody, 1<<20)
	def(&c.HeaderBytes, 64<<10)
	def(&c.TargetBytes, 16<<10)
	def(&c.ReadAhead, 256<<10)
	def(&c.StreamBuffer, 1<<20)
	if c.Backlog == 0 {
		c.Backlog = 512 << 20
	}
	if c.DrainBytes == 0 {
		c.DrainBytes = 1 << 20
	}
	defd(&c.StreamAfter, 100*time.Millisecond)
	defd(&c.HeadTimeout, 15*time.Second)
	defd(&c.BodyTimeout, time.Minute)
	defd(&c.IdleTimeout, 5*time.Minute)
	defd(&c.WriteTimeout, 2*time.Minute)
	defd(&c.UpstreamTimeout, time.Minute)
	defd(&c.UpstreamPatience, 2*time.Second)
	defd(&c.CloseLinger, 2*time.Second)
	defd(&c.AttachTimeout, 3*time.Second)
}

// Stats of a Server, all of them counters.
type Stats struct {
	Accepted       atomic.Uint64
	Refused        atomic.Uint64 // requests that are wrong, and were answered so
	Replayed       atomic.Uint64 // requests run again
	Continued      atomic.Uint64 // replies shown in part that another run continued
	Ended          atomic.Uint64 // connections that could not go on
	Unprotected    atomic.Uint64 // connections that lost their second copy
	Adopted        atomic.Uint64 // connections that got one while they were live
	UpstreamErrors atomic.Uint64
}

// role is the part that a Server plays.
type role int

const (
	fenced role = iota
	leading
	following
)

// maxConns bounds the connections of one Server.
const maxConns = 1 << 17

// Server is the proxy of one service. Its methods may be called concurrently;
// Follow, Lead, Release, Fence and SetStream are meant for one caller, who knows
// the controller's word.
type Server struct {
	cfg      Config
	log      *slog.Logger
	kernel   Kernel
	app      Application
	upstream *upstream
	spool    *spool // nil for none
	stats    Stats
	held     atomic.Int64 // bytes of replies, of all connections
	wg       sync.WaitGroup
	mover    mover

	mu       sync.Mutex
	conns    map[ID]*conn
	role     role
	released bool
	stream   Stream // nil: nobody to replicate to, or to follow
	// strangers are the active server's unprotected connections, on a backup. If
	// it takes over, their clients shall get an RST, not silence.
	strangers map[ID]bool
	quickest  quickest
}

// New makes a Server that is fenced: it drops whatever it is handed.
func New(cfg Config, kernel Kernel, app Application, log *slog.Logger) *Server {
	cfg.setDefaults()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, log: log, kernel: kernel, app: app,
		conns:     map[ID]*conn{},
		strangers: map[ID]bool{},
		mover:     mover{wake: make(chan struct{}, 1)},
		upstream:  &upstream{address: cfg.Upstream, timeout: cfg.UpstreamTimeout},
	}
	if cfg.SpoolDir != "" {
		s.spool = &spool{dir: cfg.SpoolDir, limit: cfg.SpoolBytes, log: log}
	}
	return s
}

// Stats returns the counters.
func (s *Server) Stats() *Stats { return &s.stats }

// Serve accepts connections until ctx ends, and then drops them all without a
// word to the clients: the other server goes on. It returns when every goroutine
// has ended. The listener must not be an MPTCP one.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	sweep, cancel := context.WithCancel(ctx)
	s.wg.Go(func() { s.sweep(sweep) })
	s.wg.Go(func() { s.handOver(sweep) })
	defer func() {
		cancel()
		s.Fence()
		s.wg.Wait()
		s.upstream.close()
	}()
	for {
		sock, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || isTemporary(err) {
				s.log.Warn("accept", "error", err)
				time.Sleep(5 * time.Millisecond)
				continue
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		s.accept(sock.(*net.TCPConn))
	}
}

// isTemporary reports errors of accept(2) that pass: a connection that was gone
// already, or no descriptor left.
func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

func (s *Server) accept(sock *net.TCPConn) {
	client := sock.RemoteAddr().(*net.TCPAddr).AddrPort()
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	vip := s.cfg.VIP
	rec, err := s.kernel.Conn(client, vip)
	known := err == nil
	id := ID{Client: client, VIP: vip, ISN: rec.ISN}

	s.mu.Lock()
	// A stranger's first packets may have come here as well, but not its replies.
	if s.role == fenced || s.role == following && (!known || s.strangers[id]) {
		s.mu.Unlock()
		abort(sock)
		return
	}
	s.stats.Accepted.Add(1)
	c := s.get(id)
	if c == nil {
		s.mu.Unlock()
		s.log.Warn("too many connections", "limit", maxConns)
		abort(sock)
		return
	}
	stream := s.stream
	c.mu.Lock()
	c.active, c.released = s.role == leading, s.released
	if c.active {
		c.in.unspooled(s.cfg.ReplayBytes) // it is the backup that would have to run it again
	}
	c.protected = c.active && stream != nil && known && rec.Gated
	alone := c.active && stream != nil && !c.protected
	c.mu.Unlock()
	s.mu.Unlock()
	if alone {
		s.sendLost(c, "it began before there was a backup")
		defer s.mover.add(c)
	}
	c.attach(sock)
}

// get returns the connection's entry, making one where there is none; nil when
// there are too many. mu is held.
func (s *Server) get(id ID) *conn {
	c := s.conns[id]
	if c == nil && len(s.conns) < maxConns {
		c = newConn(s, id)
		s.conns[id] = c
	}
	return c
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	if s.conns[c.id] == c {
		delete(s.conns, c.id)
	}
	s.mu.Unlock()
}

func (s *Server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		list = append(list, c)
	}
	return list
}

// Counts returns how many connections there are, and how many of them are held
// by the other server too.
func (s *Server) Counts() (connections, protected int) {
	for _, c := range s.all() {
		c.mu.Lock()
		if c.sock != nil && c.gone == nil {
			connections++
			if c.active && c.protected && c.handover == nil || !c.active && c.joining == nil {
				protected++
			}
		}
		c.mu.Unlock()
	}
	return connections, protected
}

// Follow makes this server the backup of whoever is at the other end of stream.
// Whatever it held is dropped: a copy that has missed something is none.
func (s *Server) Follow(stream Stream) {
	s.mu.Lock()
	old := s.conns
	if s.role == following {
		old = nil // connections that arrived before the stream
	} else {
		s.conns = map[ID]*conn{}
	}
	s.role, s.released, s.stream = following, false, stream
	clear(s.strangers)
	s.mu.Unlock()
	for _, c := range old {
		c.drop(errFenced, false)
	}
	for _, c := range s.all() {
		c.mu.Lock()
		received, eof := c.in.received(), c.in.eof
		c.mu.Unlock()
		if received > 0 || eof {
			s.report(c, received, eof)
		}
	}
}

// Lead makes this server the active one. Connections that it held as a backup
// go on from where they are: complete replies are written, requests without one
// are run. Nothing is written to clients before released. It returns how many
// connections could not go on.
func (s *Server) Lead(released bool) (ended int) {
	s.mu.Lock()
	was := s.role
	s.role, s.released, s.stream = leading, released, nil
	strangers := s.strangers
	s.strangers = map[ID]bool{}
	s.mu.Unlock()
	for _, c := range s.all() {
		if was != following {
			c.mu.Lock()
			c.released = released
			c.wake()
			c.mu.Unlock()
			continue
		}
		if why := c.promote(released); why != nil {
			ended++
			s.giveUp(c, why)
		}
	}
	if was == following {
		for id := range strangers {
			// This host has no socket for them: its kernel answers the client's
			// next packet with an RST, which the crash guard now lets through.
			s.kernel.MarkClosing(id.Client, id.VIP)
			s.stats.Ended.Add(1)
			ended++
		}
	}
	return ended
}

// Release says that the switch lets this server's packets out: replies are
// written, and every connection is kicked, those with a request first. It does
// not wait for that.
func (s *Server) Release() {
	s.mu.Lock()
	s.released = true
	s.mu.Unlock()
	var waiting, idle []*conn
	for _, c := range s.all() {
		c.mu.Lock()
		c.released = true
		if c.in.received() > c.in.need {
			waiting = append(waiting, c)
		} else {
			idle = append(idle, c)
		}
		c.wake()
		c.mu.Unlock()
	}
	// Clients in the middle of a request cannot go on without an acknowledgement.
	// The others are in no hurry, and the processors have replies to write.
	s.wg.Go(func() {
		s.kick(waiting)
		time.Sleep(idleKick)
		s.kick(idle)
	})
}

// idleKick is how long after a failover connections without a request are kicked:
// well before a client's shortest retransmission timeout, 200 ms on Linux.
const idleKick = 30 * time.Millisecond

// Alone makes the active server stop waiting for a backup: what was withheld is
// written, and acknowledgements that the gate swallowed are sent.
func (s *Server) Alone() {
	s.mu.Lock()
	s.stream = nil
	s.mu.Unlock()
	var were []*conn
	for _, c := range s.all() {
		if was, moving := c.unprotect(); was || moving {
			were = append(were, c)
		}
	}
	s.kick(were)
}

// Replicate gives the active server a backup. Connections whose first packet
// arrives under the gate from now on are held twice; the backup is told to drop
// its copies of the others, and adopts them one by one. arm switches the gate on.
func (s *Server) Replicate(stream Stream, arm func() error) error {
	s.mu.Lock()
	s.stream = stream
	s.mu.Unlock()
	if err := arm(); err != nil {
		return err
	}
	var alone []*conn
	for _, c := range s.all() {
		c.mu.Lock()
		c.stopHandOver() // to a backup that was before
		if c.sock != nil && !c.protected {
			alone = append(alone, c)
		}
		c.mu.Unlock()
	}
	for _, c := range alone {
		s.sendLost(c, "it began before there was a backup")
	}
	s.mover.add(alone...)
	return nil
}

// Fence drops every connection without a word to the clients. Nothing is done for
// any of them from here on; their sockets are closed a moment later.
func (s *Server) Fence() {
	s.mu.Lock()
	old := s.conns
	s.conns = map[ID]*conn{}
	s.role, s.released, s.stream = fenced, false, nil
	s.mu.Unlock()
	socks := make([]*net.TCPConn, 0, len(old))
	for _, c := range old {
		c.mu.Lock()
		if sock := c.end(errFenced); sock != nil {
			socks = append(socks, sock)
		}
		c.mu.Unlock()
	}
	if len(socks) == 0 {
		return
	}
	s.wg.Go(func() {
		time.Sleep(closeFenced)
		for _, sock := range socks {
			abort(sock)
		}
	})
}

// closeFenced is how long the sockets of a fenced server are kept. To close them is
// work for the kernel, of which each wakes two goroutines, at a moment when the switch
// and the other server, which may be on the same host, have requests to answer. It is
// well before the server can become a backup (failover.Config.HoldDown).
const closeFenced = 50 * time.Millisecond

func (s *Server) kick(list []*conn) {
	for _, c := range list {
		if err := s.kernel.Kick(c.id.Client, c.id.VIP); err != nil {
			s.log.Debug("kick", "client", c.id.Client, "error", err)
		}
	}
}

// giveUp ends a connection that cannot go on: in order, if the client sees so that
// something is missing, else with an RST.
func (s *Server) giveUp(c *conn, why error) {
	s.stats.Ended.Add(1)
	s.log.Warn("connection ended", "client", c.id.Client, "reason", why)
	if !c.cutOff() {
		c.drop(why, true)
	}
}

// Handle takes a frame that arrived on stream.
func (s *Server) Handle(stream Stream, f *replicationv1.Frame) {
	name := frameConn(f)
	id, err := parseID(name)
	if err != nil {
		s.log.Warn("frame from the other server", "error", err)
		return
	}
	switch f.GetFrame().(type) {
	case *replicationv1.Frame_Adopt, *replicationv1.Frame_Missed, *replicationv1.Frame_Held:
		s.handleAdoption(stream, id, f)
		return
	}
	s.mu.Lock()
	if s.stream != stream {
		s.mu.Unlock()
		return // of an epoch that is over
	}
	role := s.role
	if role == following {
		switch f.GetFrame().(type) {
		case *replicationv1.Frame_Lost:
			if len(s.strangers) < maxConns {
				s.strangers[id] = true
			}
		case *replicationv1.Frame_Closed:
			delete(s.strangers, id)
		}
	}
	c := s.conns[id]
	if c == nil && f.GetClosed() == nil && f.GetLost() == nil && f.GetLogged() == nil {
		c = s.get(id)
	}
	s.mu.Unlock()
	if c == nil {
		return
	}
	switch f := f.GetFrame().(type) {
	case *replicationv1.Frame_Reply:
		if role != following {
			return
		}
		c.logReply(f.Reply)
		if c.behind() {
			s.noteAcked(c)
		}
		s.confirm(c, stream)
	case *replicationv1.Frame_Closed:
		if role == following {
			c.finish()
			s.noteAcked(c)
		}
	case *replicationv1.Frame_Progress:
		c.progress(f.Progress.GetReceived())
	case *replicationv1.Frame_Logged:
		c.confirm(f.Logged.GetReplied())
	case *replicationv1.Frame_Lost:
		if role == following {
			c.drop(errLost, false)
			return
		}
		was, moving := c.unprotect()
		if was || moving {
			s.kernel.Ungate(c.id.Client, c.id.VIP)
			s.kernel.Kick(c.id.Client, c.id.VIP)
		}
		if was {
			s.stats.Unprotected.Add(1)
			s.log.Warn("connection unprotected", "client", c.id.Client, "reason", f.Lost.GetReason())
			s.mover.add(c)
		}
	}
}

func (s *Server) send(f *replicationv1.Frame) {
	s.mu.Lock()
	stream := s.stream
	s.mu.Unlock()
	if stream != nil {
		stream.Send(f) // its error: the stream is over, and the controller will say so
	}
}

func (s *Server) sendClosed(c *conn) {
	s.send(&replicationv1.Frame{Frame: &replicationv1.Frame_Closed{Closed: &replicationv1.Closed{Conn: c.id.bytes()}}})
}

func (s *Server) sendLost(c *conn, reason string) {
	s.send(&replicationv1.Frame{Frame: &replicationv1.Frame_Lost{Lost: &replicationv1.Lost{Conn: c.id.bytes(), Reason: reason}}})
}

// report tells the active server how much of a client's stream is here.
func (s *Server) report(c *conn, received uint64, eof bool) {
	s.send(&replicationv1.Frame{Frame: &replicationv1.Frame_Progress{
		Progress: &replicationv1.Progress{Conn: c.id.bytes(), Received: received, Eof: eof}}})
}

// noteAcked finds out how much of the replies the client has acknowledged, on a
// backup that has something to write.
func (s *Server) noteAcked(c *conn) {
	c.mu.Lock()
	idle := c.active || c.gone != nil || c.sock == nil || c.out.empty() && !c.finished
	written := c.out.written
	c.mu.Unlock()
	if idle {
		return
	}
	rec, err := s.kernel.Conn(c.id.Client, c.id.VIP)
	if err != nil || rec.ISN != c.id.ISN {
		return
	}
	// Sequence numbers wrap; the client is at most 2 GiB ahead.
	ahead := int32(rec.Acked - (rec.ISN + 1) - uint32(written))
	c.mu.Lock()
	if acked := int64(written) + int64(ahead); acked > int64(c.acked) {
		c.acked = uint64(acked)
	}
	c.wake()
	c.mu.Unlock()
}

// confirm tells the active server what may be shown, if that has grown.
func (s *Server) confirm(c *conn, stream Stream) {
	if logged, news := c.confirmable(); news {
		stream.Send(&replicationv1.Frame{Frame: &replicationv1.Frame_Logged{
			Logged: &replicationv1.Logged{Conn: c.id.bytes(), Replied: logged}}})
	}
}

// full reports whether all connections together hold more than they should.
func (s *Server) full() bool { return s.held.Load() > s.cfg.Backlog }

// streamBuffer is how much may be held of a reply that is shown in pieces.
func (s *Server) streamBuffer() int {
	if s.full() {
		return piece
	}
	return s.cfg.StreamBuffer
}

// window is how much a backup confirms beyond what the client has acknowledged. It
// bounds what it holds, and is what may be on its way to the client: no less than a
// long fat line needs.
func (s *Server) window() uint64 {
	if s.full() {
		return 4 * piece
	}
	return uint64(s.cfg.WholeReply + s.cfg.StreamBuffer)
}

// sweepEvery is how often a backup looks for acknowledgements that no request
// announced, and for connections that only one server knows.
const sweepEvery = 50 * time.Millisecond

func (s *Server) sweep(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		s.upstream.prune(now)
		s.mu.Lock()
		stream := s.stream
		s.mu.Unlock()
		for _, c := range s.all() {
			c.mu.Lock()
			orphan := c.sock == nil && time.Since(c.seen) > s.cfg.AttachTimeout
			adopting := c.sock != nil && c.joining != nil
			c.mu.Unlock()
			if adopting { // the acknowledgement that it sent may be lost
				s.kernel.Kick(c.id.Client, c.id.VIP)
			}
			if orphan {
				s.stats.Unprotected.Add(1)
				s.sendLost(c, "the kernel never had it")
				c.drop(errLost, false)
				continue
			}
			c.overdue(now)
			s.noteAcked(c)
			if stream != nil {
				s.confirm(c, stream)
			}
		}
	}
}

// FrameVIP returns the service that a frame's connection belongs to.
func FrameVIP(f *replicationv1.Frame) (netip.AddrPort, bool) {
	id, err := parseID(frameConn(f))
	return id.VIP, err == nil
}

// frameConn returns the connection's name in a frame, nil if it has none.
func frameConn(f *replicationv1.Frame) []byte {
	switch f := f.GetFrame().(type) {
	case *replicationv1.Frame_Reply:
		return f.Reply.GetConn()
	case *replicationv1.Frame_Closed:
		return f.Closed.GetConn()
	case *replicationv1.Frame_Progress:
		return f.Progress.GetConn()
	case *replicationv1.Frame_Logged:
		return f.Logged.GetConn()
	case *replicationv1.Frame_Lost:
		return f.Lost.GetConn()
	case *replicationv1.Frame_Adopt:
		return f.Adopt.GetConn()
	case *replicationv1.Frame_Missed:
		return f.Missed.GetConn()
	case *replicationv1.Frame_Held:
		return f.Held.GetConn()
	}
	return nil
}
