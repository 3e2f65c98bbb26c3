// SPDX-License-Identifier: Apache-2.0

// Package health turns what agents say, and that they fall silent, into events:
// their sessions with the controller, and their heartbeats through the data path.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/internal/pki"
)

// End is how a session ended.
type End uint8

// The ends.
const (
	// Closed: the other side's kernel, or program, has closed it.
	Closed End = iota + 1
	// TimedOut: nothing is heard from the other side any more.
	TimedOut
)

// Handler receives what happens in sessions. Its methods are called one at a time
// and in order for each session, and must not block for long.
type Handler interface {
	// Attached is called first. An error ends the session with that error; no
	// other method is called then.
	Attached(*Session, *agentv1.Hello) error
	// Message is called for each later message.
	Message(*Session, *agentv1.AgentMessage)
	// Detached is called last, in the moment in which the connection is seen to end:
	// what had arrived just before may then be lost.
	Detached(*Session, End)
}

// Session is one agent's session.
type Session struct {
	// ID counts the sessions of this controller from 1.
	ID uint64
	// Server is the name in the Hello.
	Server string
	// Remote is the agent's address.
	Remote string
	// Instance is that of the agent's process; set by the handler in Attached.
	Instance uint64

	out chan *agentv1.Assignment
	// heard is when something last came, in nanoseconds since 1970.
	heard atomic.Int64
	end   chan struct{} // a token: End was called

	mu   sync.Mutex
	sent []sent // assignments that were not answered yet
}

type sent struct {
	epoch    uint64
	role     agentv1.Role
	released bool
}

// Heard is when the agent last said something.
func (s *Session) Heard() time.Time { return time.Unix(0, s.heard.Load()) }

// queued is how many assignments may wait to be sent. An agent that does not
// read them loses the oldest ones: each is the whole of what it shall be.
const queued = 64

// Assign sends an assignment. It never blocks. The session owns a afterwards.
func (s *Session) Assign(a *agentv1.Assignment) {
	s.mu.Lock()
	s.sent = append(s.sent, sent{a.GetEpoch(), a.GetRole(), a.GetReleased()})
	if len(s.sent) > queued {
		s.sent = s.sent[1:]
	}
	s.mu.Unlock()
	for {
		select {
		case s.out <- a:
			return
		default:
		}
		select {
		case <-s.out:
		default:
		}
	}
}

// End ends the session, once what was assigned until then has been answered, or
// endTimeout later. It does not block. The handler is told as if the agent had closed
// it.
func (s *Session) End() {
	select {
	case s.end <- struct{}{}:
	default:
	}
}

// Answers says whether the assignment that an Applied answers was a released
// one. Agents answer in order; an answer to a later assignment answers the
// earlier ones, too.
func (s *Session) Answers(a *agentv1.Applied) (released bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, x := range s.sent {
		if x.epoch == a.GetEpoch() && x.role == a.GetRole() {
			s.sent = s.sent[i+1:]
			return x.released
		}
	}
	return false
}

// Pending says whether an assignment has not been answered yet.
func (s *Session) Pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent) > 0
}

// How long an End waits for answers, and how often it looks.
const (
	endTimeout = time.Second
	endPause   = 5 * time.Millisecond
)

// AgentServer is the AgentControl service with a listener of its own.
type AgentServer struct {
	agentv1.UnimplementedAgentControlServer

	handler Handler
	log     *slog.Logger
	grpc    *grpc.Server
	ids     atomic.Uint64
	// helloTimeout is how long a new session may wait with its Hello.
	helloTimeout time.Duration
}

// window is how many bytes an agent may send before they are read.
const window = 1 << 16

// handshakeTimeout is how long a connection may take to say who it is.
const handshakeTimeout = 5 * time.Second

// NewAgentServer returns a server that has not begun to serve. creds say who calls:
// with those of package pki an agent must have the certificate of the server that it
// says it is; with others nobody is asked. log may be nil.
func NewAgentServer(handler Handler, creds credentials.TransportCredentials, log *slog.Logger) *AgentServer {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &AgentServer{handler: handler, log: log, helloTimeout: 5 * time.Second}
	s.grpc = grpc.NewServer(
		grpc.Creds(creds),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.WaitForHandlers(true),
		// An agent has one session. What it may send before it is read is fixed: else
		// gRPC measures the path, with a ping for nearly every sign of life.
		grpc.MaxConcurrentStreams(8),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		// Only a host that is gone is silent for as long as this. Faster than that
		// are heartbeats; and a process that dies closes its connection.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		// Agents may ask as often as they like.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 100 * time.Millisecond, PermitWithoutStream: true}),
	)
	agentv1.RegisterAgentControlServer(s.grpc, s)
	return s
}

// Serve serves until ctx ends, which is not an error. It closes the listener,
// and returns when every session has been told to its handler as detached.
func (s *AgentServer) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	err := s.grpc.Serve(listener{l})
	s.grpc.Stop() // waits for the handlers
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("agent server: %w", err)
}

// Session implements agentv1.AgentControlServer.
func (s *AgentServer) Session(stream agentv1.AgentControl_SessionServer) error {
	ctx := stream.Context()
	session := &Session{ID: s.ids.Add(1), out: make(chan *agentv1.Assignment, queued), end: make(chan struct{}, 1)}
	var conn *conn // nil for other transports
	if p, ok := peer.FromContext(ctx); ok {
		session.Remote = p.Addr.String()
		if a, ok := p.Addr.(connAddr); ok {
			conn = a.conn
		}
	}
	hello, err := s.hello(stream)
	if err != nil {
		return err
	}
	session.Server = hello.GetServer()
	session.heard.Store(time.Now().UnixNano())
	err = entitled(ctx, session.Server)
	if err == nil {
		err = s.handler.Attached(session, hello)
	}
	if err != nil {
		s.log.Warn("agent refused", "server", session.Server, "remote", session.Remote, "error", err)
		return err
	}

	// The goroutine that reads the connection tells its end itself: on the way to a
	// failover, this one would have to be woken first.
	var order sync.Mutex
	detached := false
	detach := func() {
		order.Lock()
		defer order.Unlock()
		if !detached {
			detached = true
			s.handler.Detached(session, end(conn))
		}
	}
	message := func(m *agentv1.AgentMessage) {
		order.Lock()
		defer order.Unlock()
		if !detached {
			session.heard.Store(time.Now().UnixNano())
			s.handler.Message(session, m)
		}
	}
	if conn != nil {
		defer conn.whenEnded(session.ID, detach)()
	}

	done := make(chan struct{})
	var ending <-chan time.Time
	var until time.Time
	var sender sync.WaitGroup
	sender.Go(func() {
		for {
			select {
			case a := <-session.out:
				m := &agentv1.ControllerMessage{Message: &agentv1.ControllerMessage_Assignment{Assignment: a}}
				if stream.Send(m) != nil {
					return // Recv fails, too
				}
			case <-session.end:
				ending, until = time.After(0), time.Now().Add(endTimeout)
			case <-ending:
				if session.Pending() && time.Now().Before(until) {
					ending = time.After(endPause)
				} else if ending = nil; conn != nil {
					conn.Close()
				}
			case <-done:
				return
			}
		}
	})
	for {
		m, err := stream.Recv()
		if err != nil {
			detach()
			close(done)
			sender.Wait()
			return nil
		}
		message(m)
	}
}

// entitled is an error unless the caller's certificate, where there are certificates,
// is that of the server.
func entitled(ctx context.Context, server string) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, "the connection does not say who calls")
	}
	info, ok := p.AuthInfo.(pki.Peer)
	if !ok {
		return nil // the configuration says that nobody is asked
	}
	id, err := info.Identity(time.Now())
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if want := (pki.Identity{Kind: pki.Server, Name: server}); id != want {
		return status.Errorf(codes.PermissionDenied, "the certificate is that of %s, not of %s; use that server's, or correct the agent's name", id, want)
	}
	return nil
}

// hello waits for the first message.
func (s *AgentServer) hello(stream agentv1.AgentControl_SessionServer) (*agentv1.Hello, error) {
	type first struct {
		m   *agentv1.AgentMessage
		err error
	}
	got := make(chan first, 1)
	go func() { // ends with the stream
		m, err := stream.Recv()
		got <- first{m, err}
	}()
	select {
	case f := <-got:
		if f.err != nil {
			return nil, f.err
		}
		if f.m.GetHello() == nil {
			return nil, status.Error(codes.InvalidArgument, "the first message of a session must be a Hello")
		}
		return f.m.GetHello(), nil
	case <-time.After(s.helloTimeout):
		return nil, status.Error(codes.DeadlineExceeded, "no Hello came")
	}
}

// end tells a death from a silence. The connection knows: gRPC says "canceled"
// for both.
func end(c *conn) End {
	if c == nil {
		return Closed
	}
	if cause := c.cause.Load(); cause != nil {
		return *cause
	}
	// The connection lives, it was only the call that ended.
	return Closed
}

// listener hands out connections that remember how they ended.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

type conn struct {
	net.Conn
	cause atomic.Pointer[End]

	mu   sync.Mutex
	tell map[uint64]func() // by session
	over bool              // Read has failed
}

// whenEnded has f called once Read fails, in the goroutine that reads; at once if
// it has already. forget must be called when the session is over.
func (c *conn) whenEnded(session uint64, f func()) (forget func()) {
	c.mu.Lock()
	over := c.over
	if c.tell == nil {
		c.tell = map[uint64]func(){}
	}
	c.tell[session] = f
	c.mu.Unlock()
	if over {
		f()
	}
	return func() {
		c.mu.Lock()
		delete(c.tell, session)
		c.mu.Unlock()
	}
}

// connAddr is how a call's handler finds the connection that it came on.
type connAddr struct {
	net.Addr
	conn *conn
}

func (c *conn) RemoteAddr() net.Addr { return connAddr{c.Conn.RemoteAddr(), c} }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && c.ended(err) {
		c.mu.Lock()
		c.over = true
		tell := slices.Collect(maps.Values(c.tell))
		c.mu.Unlock()
		for _, f := range tell {
			f()
		}
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		c.ended(err)
	}
	return n, err
}

// Close is called when the connection has failed, which Read or Write have noted
// by then, or when it is given up, because nothing is heard.
func (c *conn) Close() error {
	c.ended(net.ErrClosed)
	return c.Conn.Close()
}

// ended keeps the first error. A connection that we close ourselves, because the
// other side does not answer, fails with net.ErrClosed; a kernel that gives up
// fails with ETIMEDOUT.
//
// It is false for what is no end.
func (c *conn) ended(err error) bool {
	how := Closed
	var network net.Error
	switch {
	case errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ETIMEDOUT),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		how = TimedOut
	case errors.As(err, &network) && network.Timeout():
		return false // a deadline of the transport's own
	}
	c.cause.CompareAndSwap(nil, &how)
	return true
}
