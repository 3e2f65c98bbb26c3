// SPDX-License-Identifier: Apache-2.0

// Package replication is the stream between the two agents of a pair: frames of
// api/replication/v1, each preceded by its length, on one TCP connection that the
// backup opens. docs/replication.md specifies it.
//
// The package moves frames and knows nothing of what they mean.
package replication

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

// Version of the protocol. Two agents that differ in it refuse each other.
const Version = 3

const (
	// maxFrame bounds what a peer can make us allocate for one frame.
	maxFrame = 4 << 20
	// maxQueued bounds the bytes that wait to be sent; Send blocks beyond it.
	maxQueued = 16 << 20
	// helloTimeout bounds the exchange of hellos.
	helloTimeout = 2 * time.Second
	// bufferSize is what one system call reads or writes.
	bufferSize = 256 << 10
)

// Identity is how this server proves who it is, and knows who its peer is.
type Identity struct {
	// Config returns what is in force at this moment, for a handshake in either role.
	Config func() *tls.Config
	// PeerName returns the name that the peer has proven, after the handshake.
	PeerName func(*tls.Conn) (string, error)
}

// ErrClosed is returned by Send on a stream that has ended.
var ErrClosed = errors.New("replication stream is closed")

// A Stream is a live connection to the other agent. Send may be called from any
// number of goroutines; Run is called once.
type Stream struct {
	conn net.Conn // what is written to and read from
	raw  net.Conn // below TLS: closing it waits for nobody
	peer *replicationv1.Hello
	r    *bufio.Reader

	mu     sync.Mutex
	space  sync.Cond // queue has room, or closed
	more   sync.Cond // queue has frames, or closed
	queue  []*replicationv1.Frame
	queued int // bytes in queue, about
	closed bool
	failed error // why the writing side broke
}

// Dial opens the stream to the active agent at address, as the backup does, and
// exchanges hellos. With identity both sides prove by TLS who they are; nil for neither.
// The error says why the peer refused, where it did.
func Dial(ctx context.Context, address string, identity *Identity, hello *replicationv1.Hello) (*Stream, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	d.Timeout = helloTimeout
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("replication stream to %s: %w", address, err)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })
	defer stop()
	c.SetDeadline(time.Now().Add(helloTimeout))
	s, name, err := secure(c, identity, tls.Client)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("replication stream to %s: %w", address, err)
	}
	if err := s.writeHello(hello); err != nil {
		c.Close()
		return nil, fmt.Errorf("replication stream to %s: %w", address, err)
	}
	if s.peer, err = s.readHello(); err != nil {
		c.Close()
		return nil, fmt.Errorf("replication stream to %s: the peer did not accept (another epoch or pair?): %w", address, err)
	}
	if err := match(hello, s.peer, name); err != nil {
		c.Close()
		return nil, fmt.Errorf("replication stream to %s: %w", address, err)
	}
	c.SetDeadline(time.Time{})
	return s, nil
}

// Accept answers the hello of a peer that has connected. want is called with the
// peer's hello and returns ours, or an error to refuse. With identity a peer that does
// not prove by TLS that it is the server of its hello is refused. Accept owns c: it is
// closed when Accept fails, and by Stream.Close afterwards.
func Accept(c net.Conn, identity *Identity, want func(*replicationv1.Hello) (*replicationv1.Hello, error)) (*Stream, error) {
	c.SetDeadline(time.Now().Add(helloTimeout))
	s, name, err := secure(c, identity, tls.Server)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("replication stream from %s: %w", c.RemoteAddr(), err)
	}
	if s.peer, err = s.readHello(); err != nil {
		c.Close()
		return nil, fmt.Errorf("replication stream from %s: %w", c.RemoteAddr(), err)
	}
	ours, err := want(s.peer)
	if err == nil {
		err = match(ours, s.peer, name)
	}
	if err == nil {
		err = s.writeHello(ours)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("replication stream from %s: %w", c.RemoteAddr(), err)
	}
	c.SetDeadline(time.Time{})
	return s, nil
}

func newStream(c net.Conn) *Stream {
	s := &Stream{conn: c, raw: c, r: bufio.NewReaderSize(c, bufferSize)}
	s.space.L, s.more.L = &s.mu, &s.mu
	return s
}

// secure shakes hands over c where there is an identity to show. It returns the name
// that the peer has proven, "" where nobody proves anything.
func secure(c net.Conn, identity *Identity, side func(net.Conn, *tls.Config) *tls.Conn) (s *Stream, name string, err error) {
	if identity == nil {
		return newStream(c), "", nil
	}
	t := side(c, identity.Config())
	if err := t.Handshake(); err != nil {
		return nil, "", fmt.Errorf("TLS: %w; both agents need tls in their configuration, from one authority", err)
	}
	if name, err = identity.PeerName(t); err != nil {
		return nil, "", err
	}
	s = newStream(t)
	s.raw = c
	return s, name, nil
}

// match compares two hellos. proven is the peer's name by its certificate; "" where
// nobody proves anything.
func match(ours, theirs *replicationv1.Hello, proven string) error {
	switch {
	case proven != "" && proven != theirs.GetServer():
		return fmt.Errorf("peer %q has the certificate of %q", theirs.GetServer(), proven)
	case theirs.GetVersion() != ours.GetVersion():
		return fmt.Errorf("peer %q speaks version %d, this agent %d: upgrade the older one", theirs.GetServer(), theirs.GetVersion(), ours.GetVersion())
	case theirs.GetPair() != ours.GetPair():
		return fmt.Errorf("peer %q belongs to pair %q, this agent to %q", theirs.GetServer(), theirs.GetPair(), ours.GetPair())
	case theirs.GetEpoch() != ours.GetEpoch():
		return fmt.Errorf("peer %q is in epoch %d, this agent in %d", theirs.GetServer(), theirs.GetEpoch(), ours.GetEpoch())
	}
	return nil
}

func (s *Stream) writeHello(h *replicationv1.Hello) error {
	_, err := protodelim.MarshalTo(s.conn, &replicationv1.Frame{Frame: &replicationv1.Frame_Hello{Hello: h}})
	return err
}

func (s *Stream) readHello() (*replicationv1.Hello, error) {
	var f replicationv1.Frame
	if err := s.read(&f); err != nil {
		return nil, err
	}
	h := f.GetHello()
	if h == nil {
		return nil, errors.New("the first frame is not a hello")
	}
	return h, nil
}

func (s *Stream) read(f *replicationv1.Frame) error {
	return protodelim.UnmarshalOptions{MaxSize: maxFrame}.UnmarshalFrom(s.r, f)
}

// Peer returns the other agent's hello.
func (s *Stream) Peer() *replicationv1.Hello { return s.peer }

// Send queues frames, in order, and blocks while too much is queued. The frames
// and the bytes that they refer to must not be changed afterwards. It returns
// ErrClosed when the stream has ended; what was queued before may or may not have
// reached the peer.
func (s *Stream) Send(frames ...*replicationv1.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queued > maxQueued && !s.closed {
		s.space.Wait()
	}
	if s.closed {
		return ErrClosed
	}
	for _, f := range frames {
		s.queued += proto.Size(f)
	}
	s.queue = append(s.queue, frames...)
	s.more.Signal()
	return nil
}

// Run sends what is queued and calls handle for every frame that arrives, in
// order, from one goroutine, until ctx ends or the stream breaks. It closes the
// stream and returns why it ended; nil when ctx ended or Close was called.
func (s *Stream) Run(ctx context.Context, handle func(*replicationv1.Frame)) error {
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(s.write)
	var err error
	for {
		f := new(replicationv1.Frame)
		if err = s.read(f); err != nil {
			break
		}
		handle(f)
	}
	s.mu.Lock()
	ours := s.closed && s.failed == nil
	if s.failed != nil {
		err = s.failed
	}
	s.mu.Unlock()
	s.Close()
	wg.Wait()
	if ours {
		return nil
	}
	return fmt.Errorf("replication stream with %q: %w", s.peer.GetServer(), err)
}

// write drains the queue; several frames share one system call.
func (s *Stream) write() {
	w := bufio.NewWriterSize(s.conn, bufferSize)
	var batch []*replicationv1.Frame
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.closed {
			s.more.Wait()
		}
		if s.closed {
			s.mu.Unlock()
			return
		}
		batch, s.queue = s.queue, batch[:0]
		s.queued = 0
		s.space.Broadcast()
		s.mu.Unlock()
		for i, f := range batch {
			if _, err := protodelim.MarshalTo(w, f); err != nil {
				s.fail(err)
				return
			}
			batch[i] = nil
		}
		if err := w.Flush(); err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *Stream) fail(err error) {
	s.mu.Lock()
	if !s.closed {
		s.failed = err
	}
	s.mu.Unlock()
	s.Close()
}

// Close ends the stream at once and wakes everybody who waits in Send. It may be
// called more than once.
func (s *Stream) Close() {
	s.mu.Lock()
	s.closed = true
	s.space.Broadcast()
	s.more.Broadcast()
	s.mu.Unlock()
	s.raw.Close()
}
