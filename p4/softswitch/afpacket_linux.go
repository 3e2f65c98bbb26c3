// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batch       = 32      // frames received with one system call
	turn        = 256     // frames received under load before others get a turn
	socketBytes = 8 << 20 // receive and send buffers of a socket
	retry       = 10 * time.Millisecond
	tagBytes    = 4 // of an IEEE 802.1Q tag
)

// controlBytes is what the auxiliary data of a frame takes.
var controlBytes = unix.CmsgSpace(int(unsafe.Sizeof(unix.TpacketAuxdata{})))

// A PacketLink is a Linux network interface, used through two AF_PACKET sockets: one
// that receives, one that sends. Go's poller knows the first alone. It waits for room
// to send, too, and the kernel says so for each frame that was sent: with one socket for
// both, every frame would wake a thread that has nothing to do.
//
// Segmentation and checksum offloads of the sending host are passed on with the
// frame (PACKET_VNET_HDR), so that hosts behind veth pairs need no ethtool.
//
// An interface may go down and up, or be removed and made again under the same name:
// the link works again when it is up.
//
// The tag of a VLAN frame, which the kernel takes off, is put back.
type PacketLink struct {
	name string
	log  *slog.Logger

	mu   sync.RWMutex // held for reading while the socket is used to send
	sock *packetSocket
}

type packetSocket struct {
	file  *os.File // receives
	raw   syscall.RawConn
	tx    int // sends
	index int // of the interface
}

func (s *packetSocket) close() error {
	return errors.Join(s.file.Close(), unix.Close(s.tx))
}

// OpenPacketLink opens an interface, which must exist but need not be up. It needs
// CAP_NET_RAW. log may be nil.
func OpenPacketLink(name string, log *slog.Logger) (*PacketLink, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l := &PacketLink{name: name, log: log.With("interface", name)}
	sock, err := openSocket(name)
	if err != nil {
		return nil, err
	}
	l.sock = sock
	return l, nil
}

// Close releases the socket of a link that was never served. Serve does so itself.
func (l *PacketLink) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sock == nil {
		return nil
	}
	err := l.sock.close()
	l.sock = nil
	return err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func openSocket(name string) (*packetSocket, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	rx, err := receivingSocket(ifi.Index)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	tx, err := sendingSocket(ifi.Index)
	if err != nil {
		unix.Close(rx)
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	s := &packetSocket{file: os.NewFile(uintptr(rx), "packet:"+name), tx: tx, index: ifi.Index}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.close()
		return nil, fmt.Errorf("interface %q: %w", name, err)
	}
	return s, nil
}

// receivingSocket returns a socket that receives all that comes in at an interface.
func receivingSocket(index int) (fd int, err error) {
	fd, err = packetSocketOf(index, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return fmt.Errorf("PACKET_IGNORE_OUTGOING: %w", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return fmt.Errorf("PACKET_AUXDATA: %w", err)
		}
		return nil
	}, unix.ETH_P_ALL)
	if err != nil {
		return -1, err
	}
	mreq := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("promiscuous mode: %w", err)
	}
	return fd, nil
}

// sendingSocket returns a socket that receives nothing: its protocol is 0.
func sendingSocket(index int) (fd int, err error) {
	return packetSocketOf(index, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, func(int) error { return nil }, 0)
}

// packetSocketOf returns a socket bound to an interface, with one large buffer. Nothing
// is received before it is bound.
func packetSocketOf(index, buffer, force int, options func(fd int) error, protocol uint16) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd = -1
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return fd, fmt.Errorf("PACKET_VNET_HDR: %w", err)
	}
	if err := options(fd); err != nil {
		return fd, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBytes) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, buffer, socketBytes); err != nil {
			return fd, fmt.Errorf("socket buffer: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: index}); err != nil {
		return fd, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// A receiver has the buffers of one port.
type receiver struct {
	msgs []mmsghdr
	iovs [][2]unix.Iovec
	head [][offloadSize]byte
	data [][]byte // each with tagBytes of room in front
	aux  [][]byte
	off  Offload

	n     int
	err   error
	since int // frames received since there was none
}

func newReceiver() *receiver {
	r := &receiver{
		msgs: make([]mmsghdr, batch), iovs: make([][2]unix.Iovec, batch),
		head: make([][offloadSize]byte, batch), data: make([][]byte, batch), aux: make([][]byte, batch),
	}
	for i := range r.msgs {
		r.data[i] = make([]byte, tagBytes+MaxFrame)
		r.aux[i] = make([]byte, controlBytes)
		r.iovs[i][0].Base = &r.head[i][0]
		r.iovs[i][0].SetLen(offloadSize)
		r.iovs[i][1].Base = &r.data[i][tagBytes]
		r.iovs[i][1].SetLen(MaxFrame)
		r.msgs[i].hdr.Iov = &r.iovs[i][0]
		r.msgs[i].hdr.SetIovlen(2)
		r.msgs[i].hdr.Control = &r.aux[i][0]
		r.msgs[i].hdr.SetControllen(controlBytes)
	}
	return r
}

// frame returns the frame of message i and what is still to do to it, or nil if the
// frame is not whole.
func (r *receiver) frame(i int) ([]byte, *Offload) {
	m := &r.msgs[i]
	n := int(m.n) - offloadSize
	aux := r.aux[i][:min(int(m.hdr.Controllen), controlBytes)]
	m.hdr.SetControllen(controlBytes) // for the next call
	if n <= 0 || m.hdr.Flags&unix.MSG_TRUNC != 0 {
		return nil, nil
	}
	data := r.data[i][tagBytes : tagBytes+n]
	r.off.decode(r.head[i][:])
	if tag, ok := tagOf(aux); ok && n >= 12 {
		whole := r.data[i][:tagBytes+n]
		copy(whole, data[:12])
		copy(whole[12:], tag[:])
		data = whole
		if !r.off.shift(tagBytes, len(data)) {
			return data, nil
		}
	}
	if r.off.idle() {
		return data, nil
	}
	return data, &r.off
}

// tagOf returns the VLAN tag that the kernel took off a frame.
func tagOf(control []byte) (tag [tagBytes]byte, ok bool) {
	if len(control) < controlBytes {
		return tag, false
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_PACKET || h.Type != unix.PACKET_AUXDATA {
		return tag, false
	}
	aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&control[unix.CmsgLen(0)]))
	if aux.Status&unix.TP_STATUS_VLAN_VALID == 0 {
		return tag, false
	}
	protocol := uint16(unix.ETH_P_8021Q)
	if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		protocol = aux.Vlan_tpid
	}
	binary.BigEndian.PutUint16(tag[:], protocol)
	binary.BigEndian.PutUint16(tag[2:], aux.Vlan_tci)
	return tag, true
}

// read is called by the poller; it returns false to wait.
//
// The system calls that receive and send never block, so that Go's scheduler need
// not hear of them. If it does, each of them wakes the thread that watches over
// blocked ones (sysmon): two wakeups more for each packet that comes to a switch
// that was asleep.
func (r *receiver) read(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])),
			uintptr(len(r.msgs)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			r.n, r.err = int(n), nil
			r.since += r.n
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			r.since = 0
			return false
		default:
			r.n, r.err = 0, errno
			return true
		}
	}
}

// Serve implements Link.
func (l *PacketLink) Serve(ctx context.Context, stats *PortStats, handle func([]byte, *Offload)) error {
	defer l.Close()
	r := newReceiver()
	read := r.read
	for {
		l.mu.RLock()
		sock := l.sock
		l.mu.RUnlock()
		var err error = net.ErrClosed
		if sock != nil {
			stop := context.AfterFunc(ctx, func() { sock.file.SetReadDeadline(time.Unix(1, 0)) })
			err = l.receive(sock, r, read, stats, handle)
			stop()
		}
		if ctx.Err() != nil {
			return nil
		}
		l.log.Warn("interface is down", "err", err)
		if err := l.awaitUp(ctx, err); err != nil {
			return nil // ctx is done
		}
		l.log.Info("interface is up again")
	}
}

// receive runs until the socket fails.
func (l *PacketLink) receive(sock *packetSocket, r *receiver, read func(uintptr) bool, stats *PortStats, handle func([]byte, *Offload)) error {
	for {
		if err := sock.raw.Read(read); err != nil {
			return err
		}
		if r.err != nil {
			switch {
			case errors.Is(r.err, unix.ENOBUFS), errors.Is(r.err, unix.ENOMEM),
				errors.Is(r.err, unix.EINVAL): // a frame whose offload has no name in virtio_net_hdr
				stats.rxErrors.Add(1)
				continue
			}
			return r.err
		}
		for i := range r.n {
			frame, off := r.frame(i)
			if frame == nil {
				stats.rxErrors.Add(1)
				continue
			}
			stats.received(frame)
			handle(frame, off)
		}
		if r.since >= turn {
			// Under load the poller never parks this goroutine, and this thread does
			// not look after the other ports. This makes another thread do so, and
			// those who wait for this one need not wait for it to be preempted.
			r.since = 0
			runtime.Gosched()
		}
	}
}

// awaitUp waits until the interface is up and there is a socket for it, or until ctx
// is done. The socket of an interface that only went down is kept: it works again
// from the moment when the interface is up. After any other failure, and for an
// interface that was made again, there is a new one.
func (l *PacketLink) awaitUp(ctx context.Context, failure error) error {
	wait := false
	if !errors.Is(failure, unix.ENETDOWN) {
		l.Close()
		wait = true
	}
	for ; ; wait = true {
		if wait {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(retry):
			}
		}
		ifi, err := net.InterfaceByName(l.name)
		if err != nil || ifi.Flags&net.FlagUp == 0 {
			continue
		}
		l.mu.RLock()
		same := l.sock != nil && l.sock.index == ifi.Index
		l.mu.RUnlock()
		if same {
			return nil
		}
		l.Close()
		sock, err := openSocket(l.name)
		if err != nil {
			l.log.Debug("interface cannot be opened", "err", err)
			continue
		}
		l.mu.Lock()
		l.sock = sock
		l.mu.Unlock()
		return nil
	}
}

// A txBuffer is what a goroutine needs to send; it avoids allocations.
type txBuffer struct {
	head [offloadSize]byte
	iov  [2]unix.Iovec
	msg  unix.Msghdr
}

func newTxBuffer() *txBuffer {
	t := &txBuffer{}
	t.iov[0].Base = &t.head[0]
	t.iov[0].SetLen(offloadSize)
	t.msg.Iov = &t.iov[0]
	t.msg.SetIovlen(2)
	return t
}

// Send implements Link.
func (l *PacketLink) Send(t *txBuffer, frame []byte, off *Offload) error {
	if len(frame) == 0 {
		return errSend
	}
	off.encode(t.head[:])
	t.iov[1].Base = &frame[0]
	t.iov[1].SetLen(len(frame))
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.sock == nil {
		return errLinkDown
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(l.sock.tx), uintptr(unsafe.Pointer(&t.msg)), unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.ENETDOWN, unix.ENXIO, unix.ENODEV:
			return errLinkDown
		case unix.EMSGSIZE:
			return errTooLong
		case unix.ENOBUFS, unix.EAGAIN, unix.ENOMEM:
			return errNoBuffer
		default:
			return errSend
		}
	}
}
