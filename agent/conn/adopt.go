// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/agent/bpf"
)

// State is a TCP connection in ESTABLISHED, as one host describes it and another
// one builds it. There are no queues in it: the two proxies hold what goes into
// them. A socket that is built from it expects RcvNxt from the client, and takes
// everything before SndNxt for acknowledged.
type State struct {
	Tuple bpf.Tuple

	RcvNxt uint32 // the next byte that the application expects
	SndNxt uint32 // the next byte that the application will write

	// RcvEdge is the right edge of the window that the client was told, SndEdge
	// that of the client's own. MaxWindow is the largest that the client had.
	RcvEdge, SndEdge, MaxWindow uint32
	// MSS is the most that the client takes in one segment, without options.
	MSS uint16

	Sack, Timestamps bool
	// The scales of the client's windows, and of ours; 0 without window scaling.
	SndWscale, RcvWscale uint8
	// TSClock is the connection's clock in milliseconds when it was described,
	// TSRecent the client's.
	TSClock, TSRecent uint32
}

// ErrNotEstablished says that a connection cannot be described as one that goes
// on: it is being opened or closed, or a hole in what it has received is open.
var ErrNotEstablished = errors.New("connection is not established")

// Describe reads the state of a connection off its socket, without touching it.
// RcvNxt and SndNxt are where the socket's application stands as far as the
// kernel knows: a caller who holds bytes of its own sets them to what is true for
// it (RcvNxt may be lower, by what it has read and not yet taken note of, and so
// may SndNxt).
//
// TCP_REPAIR, which reads more, must not be used on a live socket: a concurrent
// read fails with EPERM.
func Describe(l Looker, t bpf.Tuple) (State, error) {
	s, err := l.Look(t)
	if err != nil {
		return State{}, err
	}
	if s.State != bpf.Established || !s.Full {
		return State{}, fmt.Errorf("describe %v in %v: %w", t, s.State, ErrNotEstablished)
	}
	d := State{
		Tuple:   t,
		RcvNxt:  s.CopiedSeq,
		SndNxt:  s.WriteSeq,
		RcvEdge: s.RcvWup + s.RcvWnd, SndEdge: s.SndUna + s.SndWnd, MaxWindow: s.MaxWindow,
		MSS:  s.MSSClamp,
		Sack: s.Sack, Timestamps: s.Timestamps,
		TSClock: s.TSClock, TSRecent: s.TSRecent,
	}
	if s.WindowScaling {
		d.SndWscale, d.RcvWscale = s.SndWscale, s.RcvWscale
	}
	return d, nil
}

// Record is what the eBPF programs must know of the connection before the socket
// is there. irs and iss are the initial sequence numbers, clientAck the client's
// highest acknowledgement.
func (s State) Record(irs, iss, clientAck uint32) bpf.Adopted {
	room := max(int32(s.SndEdge-clientAck), 0)
	a := bpf.Adopted{
		IRS: irs, ISS: iss, ClientAck: clientAck, ClientNext: s.RcvNxt, SndNxt: s.SndNxt,
		ClientWindow: uint16(min(room>>s.SndWscale, 65535)),
		SndWscale:    s.SndWscale, RcvWscale: s.RcvWscale,
	}
	if s.Timestamps {
		a.TSRecent, a.TSClock = s.TSRecent, s.TSClock
	}
	return a
}

// The kernel's constants and types for TCP_REPAIR (include/uapi/linux/tcp.h).
const (
	repairOn         = 1
	repairOffNoProbe = -1 // without a window probe (Linux 4.19)
	repairRecvQueue  = 1
	repairSendQueue  = 2

	optionMSS        = 2
	optionWindow     = 3
	optionSack       = 4
	optionTimestamps = 8
)

type repairOption struct{ code, value uint32 }

type repairWindow struct{ sndWl1, sndWnd, maxWindow, rcvWnd, rcvWup uint32 }

// clockAhead is how far ahead of the other host's a built connection's clock is
// set, in milliseconds. One that is behind makes the client drop what this host
// says until it has caught up (PAWS, RFC 7323 section 5); a few milliseconds ahead
// cost nothing.
const clockAhead = 4

// Adopt builds the socket of a connection that another host has described age
// ago. No packet leaves. The socket has SO_REUSEADDR, so that a listener on the
// same address can be opened while it lives.
//
// It needs CAP_NET_ADMIN, and works in the network namespace of the calling
// thread. An error that is unix.EADDRNOTAVAIL says that another socket of the same
// addresses and ports is in the way: see Injector.Remove.
func Adopt(s State, age time.Duration) (*net.TCPConn, error) {
	fd, err := build(s, age)
	if err != nil {
		return nil, fmt.Errorf("adopt %v: %w", s.Tuple, err)
	}
	f := os.NewFile(uintptr(fd), "adopted")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("adopt %v: %w", s.Tuple, err)
	}
	return c.(*net.TCPConn), nil
}

// build makes the socket. The order of its calls is the kernel's demand.
func build(s State, age time.Duration) (fd int, err error) {
	family := unix.AF_INET
	if s.Tuple.VIP.Addr().Is6() && !s.Tuple.VIP.Addr().Is4In6() {
		family = unix.AF_INET6
	}
	sock, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	fd = sock
	defer func() {
		if err != nil {
			// Still in repair mode: it closes without a word.
			unix.Close(sock)
		}
	}()
	set := func(name string, option, value int) {
		if err != nil {
			return
		}
		if e := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value); e != nil {
			err = fmt.Errorf("%s: %w", name, e)
		}
	}
	// Before bind: the listener has the port.
	set("TCP_REPAIR", unix.TCP_REPAIR, repairOn)
	if errors.Is(err, unix.EPERM) {
		return -1, &bpf.FeatureError{Feature: "the capability CAP_NET_ADMIN", Needs: "root or CAP_NET_ADMIN"}
	}
	// Before connect, which fixes the size of segments by it; with
	// TCP_REPAIR_OPTIONS alone it stays at 536.
	set("TCP_MAXSEG", unix.TCP_MAXSEG, int(s.MSS))
	if err == nil {
		if e := unix.Bind(fd, sockaddr(s.Tuple.VIP)); e != nil {
			err = fmt.Errorf("bind: %w", e)
		}
	}
	// Sequence numbers are taken in state CLOSE only.
	set("TCP_REPAIR_QUEUE", unix.TCP_REPAIR_QUEUE, repairSendQueue)
	set("TCP_QUEUE_SEQ", unix.TCP_QUEUE_SEQ, int(int32(s.SndNxt)))
	set("TCP_REPAIR_QUEUE", unix.TCP_REPAIR_QUEUE, repairRecvQueue)
	set("TCP_QUEUE_SEQ", unix.TCP_QUEUE_SEQ, int(int32(s.RcvNxt)))
	if err == nil {
		if e := unix.Connect(fd, sockaddr(s.Tuple.Client)); e != nil {
			err = fmt.Errorf("connect: %w", e)
		}
	}
	if err != nil {
		return -1, err
	}
	options := []repairOption{
		{optionMSS, uint32(s.MSS)},
		// Also without window scaling, which scales of 0 are: connect has chosen a
		// scale of its own.
		{optionWindow, uint32(s.SndWscale) | uint32(s.RcvWscale)<<16},
	}
	if s.Sack {
		options = append(options, repairOption{optionSack, 0})
	}
	if s.Timestamps {
		options = append(options, repairOption{optionTimestamps, 0})
	}
	if e := setsockopt(fd, unix.TCP_REPAIR_OPTIONS, unsafe.Pointer(&options[0]), unsafe.Sizeof(options[0])*uintptr(len(options))); e != nil {
		return -1, fmt.Errorf("TCP_REPAIR_OPTIONS: %w", e)
	}
	if s.Timestamps {
		// Bit 0 would ask for a clock in microseconds (Linux 6.7).
		clock := (s.TSClock + uint32(age.Milliseconds()) + clockAhead) &^ 1
		set("TCP_TIMESTAMP", unix.TCP_TIMESTAMP, int(int32(clock)))
		if err != nil {
			return -1, err
		}
	}
	w := repairWindow{
		sndWl1: s.RcvNxt, sndWnd: uint32(max(int32(s.SndEdge-s.SndNxt), 0)),
		rcvWup: s.RcvNxt, rcvWnd: uint32(max(int32(s.RcvEdge-s.RcvNxt), 0)),
	}
	w.maxWindow = max(s.MaxWindow, w.sndWnd)
	if e := setsockopt(fd, unix.TCP_REPAIR_WINDOW, unsafe.Pointer(&w), unsafe.Sizeof(w)); e != nil {
		return -1, fmt.Errorf("TCP_REPAIR_WINDOW: %w", e)
	}
	set("TCP_REPAIR", unix.TCP_REPAIR, repairOffNoProbe)
	// The kernel forbids reuse on the way out of repair mode.
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	return fd, err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func setsockopt(fd, option int, p unsafe.Pointer, size uintptr) error {
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, uintptr(option), uintptr(p), size, 0)
	if e != 0 {
		return e
	}
	return nil
}
