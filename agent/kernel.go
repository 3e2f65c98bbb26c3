// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/conn"
	"github.com/understudy-net/understudy/agent/proxy"
	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

// LinuxKernel is the Kernel of a real server.
type LinuxKernel struct {
	Programs *bpf.Programs
	Injector *conn.Injector
	// Off names features that are left off (config.Features).
	Off map[string]bool

	gateWanted atomic.Bool // with the gate off: what it would be
}

var _ Kernel = (*LinuxKernel)(nil)

// SetService implements Kernel.
func (k *LinuxKernel) SetService(vip netip.AddrPort, s ServiceState) error {
	k.gateWanted.Store(s.Gate)
	return k.Programs.SetService(bpf.Service{VIP: vip.Addr(), Port: vip.Port()}, bpf.ServiceConfig{
		Secret:     s.Secret,
		Align:      !k.Off["align"],
		Guard:      !k.Off["guard"],
		Gate:       s.Gate && !k.Off["gate"],
		Generation: s.Generation,
	})
}

// RemoveService implements Kernel.
func (k *LinuxKernel) RemoveService(vip netip.AddrPort) error {
	return k.Programs.RemoveService(bpf.Service{VIP: vip.Addr(), Port: vip.Port()})
}

// Conn implements proxy.Kernel.
func (k *LinuxKernel) Conn(client, vip netip.AddrPort) (proxy.ConnRecord, error) {
	r, err := k.Programs.Conn(bpf.Tuple{Client: client, VIP: vip})
	if err != nil {
		return proxy.ConnRecord{}, err
	}
	if !r.Known {
		return proxy.ConnRecord{}, fmt.Errorf("connection %v: its beginning was not seen", client)
	}
	gated := r.Gated || k.Off["gate"] && k.gateWanted.Load()
	return proxy.ConnRecord{ISN: r.ISS, Acked: r.ClientAck, Gated: gated}, nil
}

// MarkClosing implements proxy.Kernel.
func (k *LinuxKernel) MarkClosing(client, vip netip.AddrPort) error {
	return k.Programs.MarkClosing(bpf.Tuple{Client: client, VIP: vip})
}

// Ungate implements proxy.Kernel.
func (k *LinuxKernel) Ungate(client, vip netip.AddrPort) error {
	return k.Programs.Ungate(bpf.Tuple{Client: client, VIP: vip})
}

// Kick implements proxy.Kernel.
func (k *LinuxKernel) Kick(client, vip netip.AddrPort) error {
	return k.Injector.Kick(bpf.Tuple{Client: client, VIP: vip})
}

// Describe implements proxy.Adopter.
func (k *LinuxKernel) Describe(client, vip netip.AddrPort) (*replicationv1.Socket, error) {
	t := bpf.Tuple{Client: client, VIP: vip}
	r, err := k.Programs.Conn(t)
	if err != nil {
		return nil, err
	}
	if !r.Known {
		return nil, fmt.Errorf("connection %v: its beginning was not seen", client)
	}
	s, err := conn.Describe(k.Programs, t)
	if err != nil {
		return nil, err
	}
	return &replicationv1.Socket{
		ClientIsn: r.IRS, ClientAck: r.ClientAck,
		ReceiveEdge: s.RcvEdge, SendEdge: s.SndEdge, MaxWindow: s.MaxWindow,
		Mss: uint32(s.MSS), Sack: s.Sack, Timestamps: s.Timestamps,
		SendScale: uint32(s.SndWscale), ReceiveScale: uint32(s.RcvWscale),
		Clock: s.TSClock, ClientClock: s.TSRecent,
	}, nil
}

// Arm implements proxy.Adopter.
func (k *LinuxKernel) Arm(client, vip netip.AddrPort) error {
	if k.Off["gate"] {
		return nil
	}
	return k.Programs.Arm(bpf.Tuple{Client: client, VIP: vip})
}

// Adopt implements proxy.Adopter.
func (k *LinuxKernel) Adopt(id proxy.ID, d *replicationv1.Socket, received, written uint64, age time.Duration) (*net.TCPConn, error) {
	const maxScale = 14 // RFC 7323 section 2.3
	if d.GetMss() == 0 || d.GetMss() > 65535 || d.GetSendScale() > maxScale || d.GetReceiveScale() > maxScale {
		return nil, fmt.Errorf("connection %v is described with MSS %d and scales %d and %d", id.Client, d.GetMss(), d.GetSendScale(), d.GetReceiveScale())
	}
	t := bpf.Tuple{Client: id.Client, VIP: id.VIP}
	s := conn.State{
		Tuple:  t,
		RcvNxt: d.GetClientIsn() + 1 + uint32(received), SndNxt: id.ISN + 1 + uint32(written),
		RcvEdge: d.GetReceiveEdge(), SndEdge: d.GetSendEdge(), MaxWindow: d.GetMaxWindow(),
		MSS: uint16(d.GetMss()), Sack: d.GetSack(), Timestamps: d.GetTimestamps(),
		SndWscale: uint8(d.GetSendScale()), RcvWscale: uint8(d.GetReceiveScale()),
		TSClock: d.GetClock(), TSRecent: d.GetClientClock(),
	}
	if err := k.Programs.Adopt(t, s.Record(d.GetClientIsn(), id.ISN, d.GetClientAck())); err != nil {
		return nil, err
	}
	sock, err := conn.Adopt(s, age)
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		// What is left of an agent that died, or of a handshake that this host has
		// taken for one of its own.
		if err := k.Injector.Remove(t); err != nil {
			return nil, err
		}
		sock, err = conn.Adopt(s, age)
	}
	if err != nil {
		return nil, errors.Join(err, k.Programs.Forget(t))
	}
	return sock, nil
}

// injectPatience is how long the socket's reader may take to make room.
const injectPatience = 50 * time.Millisecond

// Inject implements proxy.Adopter.
func (k *LinuxKernel) Inject(id proxy.ID, offset uint64, data []byte, eof bool) error {
	t := bpf.Tuple{Client: id.Client, VIP: id.VIP}
	r, err := k.Programs.Conn(t)
	if err != nil {
		return err
	}
	if !r.Known || r.ISS != id.ISN {
		return fmt.Errorf("connection %v is another one by now", id.Client)
	}
	seq := r.IRS + 1 + uint32(offset)
	for end := time.Now().Add(injectPatience); ; time.Sleep(200 * time.Microsecond) {
		n, err := k.Injector.InjectData(t, seq, data, eof)
		if err == nil || !errors.Is(err, conn.ErrWindow) && !errors.Is(err, conn.ErrRefused) || time.Now().After(end) {
			return err
		}
		seq, data = seq+uint32(n), data[n:]
	}
}
