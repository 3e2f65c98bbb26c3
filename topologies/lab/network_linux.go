// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/topologies"
)

// handle opens a netlink handle inside a node; the caller closes it.
func (l *Lab) handle(node string) (*netlink.Handle, error) {
	ns, err := netns.GetFromPath(l.namespacePath(node))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", node, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("node %s: netlink: %w", node, err)
	}
	return h, nil
}

// build makes namespaces, links and addresses of a topology. It stops at the
// first error and leaves to Down what there is by then.
func (l *Lab) build(t *topologies.Topology) error {
	handles := make(map[string]*netlink.Handle)
	defer func() {
		for _, h := range handles {
			h.Close()
		}
	}()
	for i := range t.Nodes {
		n := &t.Nodes[i]
		if err := l.createNamespace(n.Name); err != nil {
			return err
		}
		h, err := l.handle(n.Name)
		if err != nil {
			return err
		}
		handles[n.Name] = h
		// Before the links: they inherit what is set for all and by default.
		if err := l.setSysctls(n.Name, t.SysctlsOf(n)); err != nil {
			return err
		}
		if err := up(h, "lo"); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	sw := t.OfKind(topologies.Switch)[0]
	for _, link := range t.Links {
		n := t.Node(link.Node)
		wire := t.Wire(&link)
		if err := l.connect(handles[sw.Name], wire, nil, n.Name, dataInterface, n.MAC.HardwareAddr()); err != nil {
			return err
		}
		if !sw.Switch.KeepsOffloads() {
			if err := l.in(sw.Name, func() error { return offloadsOff(wire) }); err != nil {
				return err
			}
			if err := l.in(n.Name, func() error { return offloadsOff(dataInterface) }); err != nil {
				return err
			}
		}
		if err := up(handles[sw.Name], wire); err != nil {
			return err
		}
		if wire != link.Interface {
			if err := port(handles[sw.Name], link.Interface, wire); err != nil {
				return err
			}
		}
		if err := address(handles[n.Name], dataInterface, n.Address); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		if err := defaultRoute(handles[n.Name], dataInterface, link.Gateway); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return l.buildManagement(t, handles)
}

// buildManagement makes the bridge on the switch's node and a link from it to
// every server, and gives servers their VIPs.
func (l *Lab) buildManagement(t *topologies.Topology, handles map[string]*netlink.Handle) error {
	sw := t.OfKind(topologies.Switch)[0]
	h := handles[sw.Name]
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = managementInterface, sw.Management.MAC.HardwareAddr()
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return lacking(err, "bridges", "CONFIG_BRIDGE", "making "+managementInterface)
	}
	bridge, err := h.LinkByName(managementInterface)
	if err != nil {
		return err
	}
	if err := address(h, managementInterface, sw.Management.Address); err != nil {
		return fmt.Errorf("node %s: %w", sw.Name, err)
	}
	for _, n := range t.OfKind(topologies.Server) {
		port := managementPort(n.Name)
		if err := l.connect(h, port, bridge, n.Name, managementInterface, n.Management.MAC.HardwareAddr()); err != nil {
			return err
		}
		if err := up(h, port); err != nil {
			return err
		}
		if err := address(handles[n.Name], managementInterface, n.Management.Address); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		for _, vip := range t.VIPs(n.Name) {
			if err := address(handles[n.Name], "lo", netip.PrefixFrom(vip, vip.BitLen())); err != nil {
				return fmt.Errorf("node %s: %w", n.Name, err)
			}
		}
	}
	return nil
}

// connect makes a veth with one end beside h, maybe a port of a bridge, the other
// on a node.
func (l *Lab) connect(h *netlink.Handle, name string, bridge netlink.Link, node, peer string, mac net.HardwareAddr) error {
	ns, err := os.Open(l.namespacePath(node))
	if err != nil {
		return err
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.HardwareAddr = portMAC(mac)
	if bridge != nil {
		attrs.MasterIndex = bridge.Attrs().Index
	}
	err = h.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: peer, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns.Fd()),
	})
	return lacking(err, "virtual Ethernet links", "CONFIG_VETH", "linking "+name+" to "+node)
}

// port puts an interface above a wire: it carries whatever the wire does, and stays up
// when the wire goes down.
func port(h *netlink.Handle, name, wire string) error {
	lower, err := h.LinkByName(wire)
	if err != nil {
		return fmt.Errorf("%s: %w", wire, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = name, lower.Attrs().Index
	err = h.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_PASSTHRU})
	if err != nil {
		return lacking(err, "macvlan interfaces", "CONFIG_MACVLAN", "making "+name+" above "+wire)
	}
	return up(h, name)
}

// portMAC is the address of the switch's end of a link: nobody sends to it. It
// differs from those of the topology in its first byte.
func portMAC(peer net.HardwareAddr) net.HardwareAddr {
	mac := append(net.HardwareAddr(nil), peer...)
	mac[0] ^= 0x04
	return mac
}

// lacking names the kernel feature that an EOPNOTSUPP means.
func lacking(err error, feature, option, doing string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the lab needs %s: this kernel has none (%s)", feature, option)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: the lab needs the capability CAP_NET_ADMIN", doing)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("%s: setting up: %w", name, err)
	}
	return nil
}

// address gives a link an address, and sets it up.
func address(h *netlink.Handle, name string, prefix netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("%s: address %s: %w", name, prefix, err)
	}
	return up(h, name)
}

func defaultRoute(h *netlink.Handle, name string, gateway netip.Addr) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("%s: default route by %s: %w", name, gateway, err)
	}
	return nil
}

// setSysctls writes a node's sysctls. Those that the kernel does not have are
// left out, and said.
func (l *Lab) setSysctls(node string, sysctls map[string]string) error {
	return l.in(node, func() error {
		for name, value := range sysctls {
			path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
			err := os.WriteFile(path, []byte(value), 0)
			if errors.Is(err, os.ErrNotExist) {
				l.progress("%s: this kernel has no sysctl %s", node, name)
				continue
			}
			if err != nil {
				return fmt.Errorf("node %s: sysctl %s = %s: %w", node, name, value, err)
			}
		}
		return nil
	})
}

// unlink deletes the links of a node, and so their other ends.
func (l *Lab) unlink(node string) error {
	h, err := l.handle(node)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	for _, link := range links {
		if t := link.Type(); t != "veth" && t != "bridge" {
			continue
		}
		// ENODEV: it went with its other end.
		if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("node %s: deleting %s: %w", node, link.Attrs().Name, err)
		}
	}
	return nil
}

// forget ends every TCP connection of a node's kernel, as a power cut does. The
// node's links must be down, or the other sides are told.
func (l *Lab) forget(node string) error {
	return l.in(node, func() error {
		sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
		if err != nil {
			return fmt.Errorf("node %s: listing sockets: %w", node, err)
		}
		for _, s := range sockets {
			local := &net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)}
			remote := &net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)}
			// Gone meanwhile, or a kernel that cannot: it only lingers a while.
			_ = netlink.SocketDestroy(local, remote)
		}
		return nil
	})
}
