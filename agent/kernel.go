// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/conn"
	"github.com/understudy-net/understudy/agent/proxy"
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
