// SPDX-License-Identifier: Apache-2.0

// Package bpftest gives tests two servers behind a switch that duplicates: a
// client, two servers with a common VIP, each in a network namespace of its
// own, and a small switch in the test's process that can lose, suppress and
// flip.
//
// The namespaces have no names and no files: they end with the test's process,
// however it ends.
package bpftest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses of a lab.
var (
	ClientAddr = netip.MustParseAddr("10.9.0.1")
	VIP        = netip.MustParseAddr("10.9.0.100")
	// The same in IPv6, on hosts that have it.
	ClientAddr6 = netip.MustParseAddr("2001:db8:9::1")
	VIP6        = netip.MustParseAddr("2001:db8:9::ff")

	switchMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0xff}
)

// Interface is the name of each host's interface to the switch.
const Interface = "eth0"

// A Lab is a client and two servers around a switch.
type Lab struct {
	Client  *Host
	Servers [2]*Host
	*Switch
}

// Options for a lab. The zero value is good.
type Options struct {
	// GSO lets the hosts work with super-packets.
	GSO bool
	// Sysctls are set on the servers and on the client, by their path below
	// /proc/sys.
	ServerSysctls, ClientSysctls map[string]string
}

// New builds a lab, which ends with the test. It skips the test without root.
func New(t testing.TB, o Options) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: builds network namespaces and loads BPF programs")
	}
	l := &Lab{Client: newHost(t, "client"), Servers: [2]*Host{newHost(t, "server 0"), newHost(t, "server 1")}}
	sw := newHost(t, "switch")
	hosts := []*Host{l.Client, l.Servers[0], l.Servers[1]}
	for i, h := range hosts {
		port := fmt.Sprintf("port%d", i)
		h.MAC = net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}
		must(t, connect(sw, port, h))
		must(t, sw.Do(func() error { return offloads(port, false) }))
		must(t, h.Do(func() error { return offloads(Interface, o.GSO) }))
		addr, peer := ClientAddr, VIP
		addr6, peer6 := ClientAddr6, VIP6
		sysctls := o.ClientSysctls
		if i > 0 {
			addr, peer = peer, addr
			addr6, peer6 = peer6, addr6
			sysctls = o.ServerSysctls
			must(t, h.Sysctl("net/core/somaxconn", "4096"))
		}
		must(t, h.address(addr, peer, i > 0))
		if HasIPv6() {
			must(t, h.address(addr6, peer6, i > 0))
		}
		for k, v := range sysctls {
			must(t, h.Sysctl(k, v))
		}
	}
	s, err := startSwitch(sw, [3]string{"port0", "port1", "port2"}, hosts)
	must(t, err)
	t.Cleanup(s.stop)
	l.Switch = s
	return l
}

// HasIPv6 says whether this kernel has IPv6.
func HasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// Dial connects the client to the VIP.
func (l *Lab) Dial(ctx context.Context, port uint16) (*net.TCPConn, error) {
	return l.DialTo(ctx, netip.AddrPortFrom(VIP, port))
}

// DialTo connects the client to an address of the servers.
func (l *Lab) DialTo(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	var c net.Conn
	err := l.Client.Do(func() (err error) {
		var d net.Dialer
		d.SetMultipathTCP(false)
		c, err = d.DialContext(ctx, "tcp", to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// BPFFS mounts a BPF file system for the time of the test and returns a
// directory in it.
func BPFFS(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skipf("needs to mount a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "understudy")
}

// A Host is one network namespace.
type Host struct {
	Name string
	MAC  net.HardwareAddr

	ns netns.NsHandle
	nl *netlink.Handle
}

func newHost(t testing.TB, name string) *Host {
	t.Helper()
	h := &Host{Name: name}
	must(t, inThread(func() (err error) {
		// The thread ends with the new namespace in it.
		h.ns, err = netns.New()
		return err
	}))
	nl, err := netlink.NewHandleAt(h.ns)
	must(t, err)
	h.nl = nl
	t.Cleanup(func() {
		nl.Close()
		h.ns.Close()
	})
	lo, err := nl.LinkByName("lo")
	must(t, err)
	must(t, nl.LinkSetUp(lo))
	return h
}

// inThread runs f in a thread that is not used for anything else.
func inThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- f()
	}()
	return <-done
}

// Do runs f in the host's network namespace. Sockets made and processes
// started by f, in f's own goroutine, belong to the host.
func (h *Host) Do(f func() error) error {
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer before.Close()
	if err := netns.Set(h.ns); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		// A thread that is stuck here stays locked, and ends.
		if netns.Set(before) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Listen listens on the VIP as an agent does.
func (h *Host) Listen(port uint16) (*net.TCPListener, error) {
	return h.ListenOn(netip.AddrPortFrom(VIP, port))
}

// ListenOn is Listen with an address of choice.
func (h *Host) ListenOn(at netip.AddrPort) (*net.TCPListener, error) {
	var l net.Listener
	err := h.Do(func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		l, err = c.Listen(context.Background(), "tcp", at.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// Sysctl sets a parameter of the host's network namespace, by its path below
// /proc/sys.
func (h *Host) Sysctl(path, value string) error {
	return h.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0) })
}

// Counter returns a counter of /proc/net/netstat or /proc/net/snmp, such as
// TcpExt:TCPTimeouts.
func (h *Host) Counter(name string) (n int, err error) {
	err = h.Do(func() error {
		n, err = readCounter(name)
		return err
	})
	return n, err
}

func connect(sw *Host, port string, h *Host) error {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: port, MTU: 1500, TxQLen: -1})
	veth.PeerName = Interface
	veth.PeerNamespace = netlink.NsFd(int(h.ns))
	veth.PeerHardwareAddr = h.MAC
	if err := sw.nl.LinkAdd(veth); err != nil {
		return err
	}
	for _, l := range []struct {
		*netlink.Handle
		name string
	}{{sw.nl, port}, {h.nl, Interface}} {
		link, err := l.LinkByName(l.name)
		if err != nil {
			return err
		}
		if err := l.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

// address gives the host its address (a VIP belongs on lo), the way to the
// other side and the switch's MAC address for it.
func (h *Host) address(a, peer netip.Addr, vip bool) error {
	eth, err := h.nl.LinkByName(Interface)
	if err != nil {
		return err
	}
	whole := a.BitLen()
	subnet := whole - 8 // in both families
	on, bits := eth, subnet
	if vip {
		bits = whole
		if on, err = h.nl.LinkByName("lo"); err != nil {
			return err
		}
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, whole)}}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := h.nl.AddrAdd(on, addr); err != nil {
		return err
	}
	if vip {
		p, err := a.Prefix(subnet)
		if err != nil {
			return err
		}
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(subnet, whole)}
		r := &netlink.Route{LinkIndex: eth.Attrs().Index, Dst: dst, Src: a.AsSlice()}
		if err := h.nl.RouteAdd(r); err != nil {
			return err
		}
	}
	return h.nl.NeighAdd(&netlink.Neigh{
		LinkIndex: eth.Attrs().Index, IP: peer.AsSlice(), HardwareAddr: switchMAC, State: netlink.NUD_PERMANENT,
	})
}

// offloads switches the offloads of an interface. Checksums are always
// complete on the wire, as the switch only copies bytes.
func offloads(name string, gso bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	on := uint32(0)
	if gso {
		on = 1
	}
	for _, f := range []struct{ cmd, value uint32 }{
		{unix.ETHTOOL_STXCSUM, 0}, {unix.ETHTOOL_STSO, 0}, {unix.ETHTOOL_SGSO, on}, {unix.ETHTOOL_SGRO, on},
	} {
		value := [2]uint32{f.cmd, f.value}
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(req.name[:], name)
		req.data = unsafe.Pointer(&value)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); e != 0 {
			return fmt.Errorf("offloads of %s: %w", name, error(e))
		}
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
