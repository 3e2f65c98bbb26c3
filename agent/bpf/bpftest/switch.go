// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// A Filter decides about one frame towards a server: true loses it.
type Filter func(Segment) (lose bool)

// A Segment is what a filter can see of a TCP frame.
type Segment struct {
	Flags    byte
	Seq, Ack uint32
	Payload  int
	Frame    []byte // valid during the call
}

// The bits of Segment.Flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
)

// A Switch gives every frame of the client to both servers, and the frames of
// the active one to the client. Its methods may be called at any time.
type Switch struct {
	mu      sync.Mutex
	active  int
	shadows bool
	dead    [2]bool
	filters [2]Filter
	out     Filter
	watch   func(int, Segment)
	count   [2]Emitted

	hosts   []*Host
	fds     [3]int
	stopped chan struct{}
	wg      sync.WaitGroup
}

// Emitted counts what a server has sent.
type Emitted struct {
	Frames, Data, FIN, RST int
	Released               int // to the client
	ReleasedFIN            int
	ReleasedRST            int
	Lost                   int // frames towards the server that a filter lost
}

// Activate lets the frames of server n, and of no other, out to the client.
func (s *Switch) Activate(n int) { s.do(func() { s.active = n }) }

// Shadow makes the switch send suppressed frames, cut to their headers, to the
// active server, or stop it.
func (s *Switch) Shadow(on bool) { s.do(func() { s.shadows = on }) }

// Cut takes server n off the switch: nothing reaches it or comes from it.
func (s *Switch) Cut(n int, cut bool) { s.do(func() { s.dead[n] = cut }) }

// Lose sets the filter of the frames towards server n; nil loses none.
func (s *Switch) Lose(n int, f Filter) { s.do(func() { s.filters[n] = f }) }

// LoseOut sets the filter of the frames towards the client.
func (s *Switch) LoseOut(f Filter) { s.do(func() { s.out = f }) }

// Replay sends a frame of the client, as a filter has seen it, to server n.
func (s *Switch) Replay(n int, frame []byte) { s.do(func() { s.send(n+1, frame) }) }

// Watch sets a function that sees every frame of server n before anything else
// happens to it.
func (s *Switch) Watch(f func(n int, g Segment)) { s.do(func() { s.watch = f }) }

// Emitted returns what server n has sent so far.
func (s *Switch) Emitted(n int) (e Emitted) {
	s.do(func() { e = s.count[n] })
	return e
}

func (s *Switch) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// EveryNth loses every nth segment with payload.
func EveryNth(n int) Filter {
	i := 0
	return func(s Segment) bool {
		if s.Payload == 0 {
			return false
		}
		i++
		return i%n == 0
	}
}

func startSwitch(h *Host, ports [3]string, hosts []*Host) (*Switch, error) {
	s := &Switch{hosts: hosts, stopped: make(chan struct{})}
	for i, name := range ports {
		err := h.Do(func() error {
			ifi, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			s.fds[i], err = packetSocket(ifi.Index)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("switch port %s: %w", name, err)
		}
	}
	for i := range s.fds {
		s.wg.Go(func() { s.forward(i) })
	}
	return s, nil
}

func packetSocket(ifindex int) (int, error) {
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	errs := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex}),
	)
	if errs != nil {
		unix.Close(fd)
		return -1, errs
	}
	return fd, nil
}

func (s *Switch) stop() {
	close(s.stopped)
	s.wg.Wait()
	for _, fd := range s.fds {
		unix.Close(fd)
	}
}

func (s *Switch) forward(port int) {
	b := make([]byte, 1<<16)
	for {
		select {
		case <-s.stopped:
			return
		default:
		}
		n, _, err := unix.Recvfrom(s.fds[port], b, 0)
		if err != nil {
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			return
		}
		g, ok := parse(b[:n])
		if !ok {
			continue
		}
		if port == 0 {
			s.fromClient(g)
		} else {
			s.fromServer(port-1, g)
		}
	}
}

func (s *Switch) fromClient(g Segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.count {
		if s.dead[n] {
			continue
		}
		if f := s.filters[n]; f != nil && f(g) {
			s.count[n].Lost++
			continue
		}
		s.send(n+1, g.Frame)
	}
}

func (s *Switch) fromServer(n int, g Segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead[n] {
		return
	}
	if s.watch != nil {
		s.watch(n, g)
	}
	c := &s.count[n]
	add := func(to *int, yes bool) {
		if yes {
			*to++
		}
	}
	c.Frames++
	add(&c.Data, g.Payload > 0)
	add(&c.FIN, g.Flags&FIN != 0)
	add(&c.RST, g.Flags&RST != 0)
	if n == s.active {
		c.Released++
		add(&c.ReleasedFIN, g.Flags&FIN != 0)
		add(&c.ReleasedRST, g.Flags&RST != 0)
		if s.out != nil && s.out(g) {
			return
		}
		s.send(0, g.Frame)
		return
	}
	if s.shadows && !s.dead[s.active] {
		s.send(s.active+1, g.Frame[:len(g.Frame)-g.Payload])
	}
}

func (s *Switch) send(port int, frame []byte) {
	copy(frame, s.hosts[port].MAC)
	copy(frame[6:], switchMAC)
	unix.Send(s.fds[port], frame, 0) // a full queue loses frames, as on a wire
}

// parse finds the TCP segment in a frame, and cuts off what pads it.
func parse(b []byte) (Segment, bool) {
	const eth, tcp = 14, 20
	if len(b) < eth+20+tcp {
		return Segment{}, false
	}
	var ip, total int
	switch {
	case b[12] == 8 && b[13] == 0 && b[eth] == 0x45 && b[eth+9] == unix.IPPROTO_TCP:
		ip, total = 20, int(binary.BigEndian.Uint16(b[eth+2:]))
	case b[12] == 0x86 && b[13] == 0xdd && b[eth+6] == unix.IPPROTO_TCP:
		ip, total = 40, 40+int(binary.BigEndian.Uint16(b[eth+4:]))
	default:
		return Segment{}, false
	}
	if total < ip+tcp || total+eth > len(b) {
		return Segment{}, false
	}
	h := b[eth+ip:]
	g := Segment{Flags: h[13], Seq: binary.BigEndian.Uint32(h[4:]), Ack: binary.BigEndian.Uint32(h[8:])}
	g.Payload = total - ip - int(h[12]>>4)*4
	if g.Payload < 0 {
		return Segment{}, false
	}
	g.Frame = b[:eth+total]
	return g, true
}
