// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-net/understudy/agent/bpf"
	"golang.org/x/sys/unix"
)

// ErrWindow says that data cannot be injected now, as the socket's receive
// window has no room for it: the application must read first.
var ErrWindow = errors.New("receive window is full")

// ErrGap says that the data to be injected begins behind the next byte that
// the socket expects.
var ErrGap = errors.New("data begins behind a hole")

// A Looker tells the state of a connection's socket. It is *bpf.Programs.
type Looker interface {
	Look(bpf.Tuple) (bpf.SocketState, error)
}

// An Injector puts segments into the sockets of the network namespace in which
// it was made. Its methods may be called concurrently, but the caller must not
// inject data into one connection from two sides.
type Injector struct {
	look Looker
	fd   int
	bufs sync.Pool
}

// NewInjector needs CAP_NET_RAW.
func NewInjector(l Looker) (*Injector, error) {
	// A raw socket of this protocol only sends.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if errors.Is(err, unix.EPERM) {
		return nil, &bpf.FeatureError{Feature: "the capability CAP_NET_RAW", Needs: "root or CAP_NET_RAW"}
	}
	if err != nil {
		return nil, fmt.Errorf("raw socket: %w", err)
	}
	return &Injector{look: l, fd: fd, bufs: sync.Pool{New: func() any { return new([]byte) }}}, nil
}

// Close releases the socket. No other method may be running.
func (i *Injector) Close() error { return unix.Close(i.fd) }

func (i *Injector) send(t bpf.Tuple, build func([]byte) []byte) error {
	buf := i.bufs.Get().(*[]byte)
	defer i.bufs.Put(buf)
	*buf = build((*buf)[:0])
	if err := unix.Sendto(i.fd, *buf, 0, &unix.SockaddrInet4{Addr: t.VIP.Addr().As4()}); err != nil {
		return fmt.Errorf("inject into %v: %w", t, err)
	}
	return nil
}

// ErrRefused says that a socket did not take data that was injected. Its
// application may hold the socket's lock, or the socket may be closing.
var ErrRefused = errors.New("data was not taken")

// InjectData puts data of the client, and its FIN behind it, into the
// connection's socket. The data begins with sequence number seq; what the
// socket has already is skipped. It returns how many bytes of data are in the
// socket now, counting those it had; FIN is sent only behind all of them. If
// this is less than all, the error says why: ErrGap, ErrWindow, ErrRefused,
// bpf.ErrNotFound or one of the system. What is missing may be tried again.
func (i *Injector) InjectData(t bpf.Tuple, seq uint32, data []byte, fin bool) (int, error) {
	s, err := i.look.Look(t)
	if err != nil {
		return 0, err
	}
	if !s.Full {
		return 0, fmt.Errorf("inject into %v in %v: %w", t, s.State, bpf.ErrNotFound)
	}
	had := int(int32(s.RcvNxt - seq))
	if had < 0 {
		return 0, fmt.Errorf("inject into %v: %w", t, ErrGap)
	}
	size := len(data)
	if fin {
		size++
	}
	// Linux drops a segment that ends beyond the window as a whole.
	room := int(int32(s.RcvWup + s.RcvWnd - s.RcvNxt))
	at := had
	for at < size {
		n := min(len(data)-at, maxData, room)
		if n <= 0 && at < len(data) {
			break
		}
		g := segment{seq: seq + uint32(at), ack: ackFor(s), window: windowFor(s), flags: flagACK | flagPSH}
		if at < len(data) {
			g.data = data[at : at+n]
		}
		at += len(g.data)
		room -= len(g.data)
		if fin && at == len(data) {
			g.flags |= flagFIN
			at++
		}
		if err := i.send(t, func(b []byte) []byte { return appendSegment(b, t, g) }); err != nil {
			return min(had, len(data)), err
		}
	}
	if at > had {
		if s, err = i.taken(t, seq+uint32(at)); err != nil {
			return min(had, len(data)), err
		}
	}
	done := int(int32(s.RcvNxt - seq))
	switch {
	case done < at:
		err = fmt.Errorf("inject into %v: %w", t, ErrRefused)
	case done < size:
		err = fmt.Errorf("inject into %v: %w", t, ErrWindow)
	}
	return max(0, min(done, len(data))), err
}

// taken waits until the socket expects next. It does so at once, unless the
// application is using it in this moment.
func (i *Injector) taken(t bpf.Tuple, next uint32) (s bpf.SocketState, err error) {
	for n := 0; ; n++ {
		s, err = i.look.Look(t)
		if err != nil || int32(s.RcvNxt-next) >= 0 || n == 40 {
			return s, err
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// maxReverts bounds the ICMP messages for one connection: the kernel doubles
// its timer at most 15 times (net.ipv4.tcp_retries2).
const maxReverts = 16

// Kick makes a connection go on at once after this host has become active,
// where both sides would otherwise wait for a retransmission timer.
//
// The kernel sends an acknowledgement, so that the client learns what has
// arrived here and what has not (its SACK blocks tell). If the kernel itself
// waits with a backed-off timer for an acknowledgement that was suppressed or
// never sent, it retransmits.
//
// It costs two to three dozen microseconds. A connection that is gone or in
// TIME_WAIT is left alone. Kick may be repeated at any rate.
func (i *Injector) Kick(t bpf.Tuple) error {
	s, err := i.look.Look(t)
	if errors.Is(err, bpf.ErrNotFound) || err == nil && !s.Full {
		return nil
	}
	if err != nil {
		return err
	}
	// A byte that the kernel has had before makes it acknowledge at once. An
	// empty segment, as a keepalive probe sends it, would do so only twice a
	// second (net.ipv4.tcp_invalid_ratelimit).
	g := segment{seq: s.RcvNxt - 1, ack: ackFor(s), window: windowFor(s), flags: flagACK, data: []byte{0}}
	if err := i.send(t, func(b []byte) []byte { return appendSegment(b, t, g) }); err != nil {
		return err
	}
	// RFC 6069: a host that was unreachable undoes one doubling of the timer,
	// and the segment is sent again if the timer would have expired by now.
	for n := 0; n < maxReverts && s.Backoff > 0 && s.PacketsOut > 0; n++ {
		before := s.TotalRetrans
		if err := i.send(t, func(b []byte) []byte { return appendUnreachable(b, t, s.SndUna) }); err != nil {
			return err
		}
		if s, err = i.look.Look(t); err != nil || s.TotalRetrans != before {
			break
		}
	}
	if errors.Is(err, bpf.ErrNotFound) {
		return nil
	}
	return err
}

// Remove ends the socket of a connection on this host without a word to anybody,
// as an RST of the client would: an orphan of a process that has died keeps its
// addresses and ports for seconds. It is no error if there is none. A socket in
// TIME_WAIT stays.
func (i *Injector) Remove(t bpf.Tuple) error {
	s, err := i.look.Look(t)
	if errors.Is(err, bpf.ErrNotFound) || err == nil && !s.Full {
		return nil
	}
	if err != nil {
		return err
	}
	// Only an RST with exactly the expected sequence number is believed (RFC 5961
	// section 3.2).
	g := segment{seq: s.RcvNxt, flags: flagRST}
	return i.send(t, func(b []byte) []byte { return appendSegment(b, t, g) })
}

// ackFor is the highest ACK number of the client that the kernel understands.
func ackFor(s bpf.SocketState) uint32 {
	ack := s.ClientAck
	if int32(ack-s.SndNxt) > 0 {
		ack = s.SndNxt
	}
	if int32(ack-s.SndUna) < 0 {
		ack = s.SndUna
	}
	return ack
}

// windowFor is the window field that keeps the client's window where it is.
func windowFor(s bpf.SocketState) uint16 {
	room := max(int32(s.SndUna+s.SndWnd-ackFor(s)), 0)
	return uint16(min(room>>s.SndWscale, 65535))
}
