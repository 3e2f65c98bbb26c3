// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

// SocketState is what the kernel knows of one TCP socket. The fields are read
// one after the other without the socket's lock, so a segment may have come in
// between two of them.
type SocketState struct {
	// State is the TCP state, as in TCP_INFO: 1 is ESTABLISHED.
	State TCPState
	// Full says that there is more than State. There is not for sockets in
	// TIME_WAIT.
	Full bool

	RcvNxt    uint32 // the next byte expected from the client
	CopiedSeq uint32 // the next byte that the application will read
	RcvWup    uint32 // RcvNxt when the window was last announced
	RcvWnd    uint32 // the window announced then
	SndUna    uint32 // the first byte that the client has not acknowledged
	SndNxt    uint32 // the next byte to be sent
	WriteSeq  uint32 // the next byte that the application will write
	SndWl1    uint32
	SndWnd    uint32 // the client's window, behind SndUna
	MaxWindow uint32

	Timestamps bool
	TSRecent   uint32 // the client's clock, as last seen
	TSOffset   uint32
	TSClock    uint32 // this connection's clock, now

	Sack                 bool
	WindowScaling        bool
	SndWscale, RcvWscale uint8
	MSS                  uint16 // the most that is sent in one segment
	MSSClamp             uint16 // what the client can take
	AdvMSS               uint16

	PacketsOut   uint32 // in flight
	TotalRetrans uint32 // retransmitted since the connection began
	Retransmits  uint32 // timeouts in a row
	Backoff      uint32 // how often the retransmission timer was doubled
	SRTT         time.Duration
	Cwnd         uint32

	// Hole says that data is waiting behind a hole that begins at RcvNxt and
	// ends at HoleEnd.
	Hole    bool
	HoleEnd uint32

	// ClientAck is the highest ACK number of the client, as in ConnRecord.
	// If there is no record it is SndUna.
	ClientAck uint32
}

// TCPState is a state of a TCP socket.
type TCPState uint8

// The states of a TCP socket, numbered as in the kernel.
const (
	Established TCPState = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Closed
	CloseWait
	LastAck
	Listen
	Closing
	NewSynRecv
)

var stateNames = [...]string{"none", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSED",
	"CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"}

func (s TCPState) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Look returns the state of the connection's socket on this host, or
// ErrNotFound. It looks into the network namespace of the calling thread. It
// takes a few microseconds.
func (p *Programs) Look(t Tuple) (SocketState, error) {
	r, err := p.run(t, connectionsOperationOP_LOOK)
	if err != nil {
		return SocketState{}, err
	}
	has := func(f connectionsSocketFlags) bool { return r.Flags&f != 0 }
	if !has(connectionsSocketFlagsSOCKET_FOUND) {
		return SocketState{}, fmt.Errorf("socket %v: %w", t, ErrNotFound)
	}
	s := SocketState{
		State:         TCPState(r.State),
		Full:          has(connectionsSocketFlagsSOCKET_FULL),
		RcvNxt:        r.RcvNxt,
		CopiedSeq:     r.CopiedSeq,
		RcvWup:        r.RcvWup,
		RcvWnd:        r.RcvWnd,
		SndUna:        r.SndUna,
		SndNxt:        r.SndNxt,
		WriteSeq:      r.WriteSeq,
		SndWl1:        r.SndWl1,
		SndWnd:        r.SndWnd,
		MaxWindow:     r.MaxWindow,
		Timestamps:    has(connectionsSocketFlagsSOCKET_TS),
		TSRecent:      r.TsRecent,
		TSOffset:      r.TsOffset,
		TSClock:       r.TsClock,
		Sack:          has(connectionsSocketFlagsSOCKET_SACK),
		WindowScaling: has(connectionsSocketFlagsSOCKET_WSCALE),
		SndWscale:     uint8(r.SndWscale),
		RcvWscale:     uint8(r.RcvWscale),
		MSS:           uint16(r.Mss),
		MSSClamp:      uint16(r.MssClamp),
		AdvMSS:        uint16(r.Advmss),
		PacketsOut:    r.PacketsOut,
		TotalRetrans:  r.TotalRetrans,
		Retransmits:   r.Retransmits,
		Backoff:       r.Backoff,
		SRTT:          time.Duration(r.SrttUs) * time.Microsecond,
		Cwnd:          r.SndCwnd,
		Hole:          r.HasHole != 0,
		HoleEnd:       r.HoleEnd,
		ClientAck:     r.ClAck,
	}
	if !has(connectionsSocketFlagsSOCKET_CONN) {
		s.ClientAck = s.SndUna
	}
	return s, nil
}

// run has the look program do one operation on one connection.
func (p *Programs) run(t Tuple, op connectionsOperation) (r connectionsSocketState, err error) {
	key, err := t.key()
	if err != nil {
		return r, err
	}
	const (
		header  = 14
		request = int(unsafe.Sizeof(connectionsRequest{}))
		answer  = int(unsafe.Sizeof(connectionsSocketState{}))
	)
	q := connectionsRequest{Tuple: key, Operation: op}
	in := make([]byte, header+request+answer)
	copy(in[header:], unsafe.Slice((*byte)(unsafe.Pointer(&q)), request))
	out := make([]byte, len(in))
	code, err := p.objs.Look.Run(&ebpf.RunOptions{Data: in, DataOut: out})
	if err != nil {
		return r, fmt.Errorf("look at %v: %w", t, err)
	}
	if code != 0 {
		return r, fmt.Errorf("look at %v: the program failed with %d", t, int32(code))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), answer), out[header+request:])
	return r, nil
}
