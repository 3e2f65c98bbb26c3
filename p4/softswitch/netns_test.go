// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

const inNamespace = "UNDERSTUDY_TEST_NETNS"

// privateNetns runs the rest of the test in a process with a network namespace of
// its own, and skips it without root. It returns true in that process.
func privateNetns(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and packet sockets")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inNamespace+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in the namespace: %v", err)
	}
	return false
}

// A host is a network namespace behind a veth pair, whose other end is the switch's.
type host struct {
	t    *testing.T
	ns   netns.NsHandle
	port string // name of the switch's end
	mac  net.HardwareAddr
	ip   net.IP
}

// newHost makes a host with an address and a default route via gateway.
func newHost(t *testing.T, name, addr, gateway string) *host {
	t.Helper()
	h := &host{t: t, port: "sw-" + name}
	ip, ipnet, err := net.ParseCIDR(addr)
	check(t, err)
	h.ip = ip
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		defer func() { done <- err }()
		if h.ns, err = netns.New(); err != nil {
			return
		}
		lo, _ := netlink.LinkByName("lo")
		err = netlink.LinkSetUp(lo)
	}()
	check(t, <-done)
	t.Cleanup(func() { h.ns.Close() })
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: h.port}, PeerName: "eth0",
		PeerNamespace: netlink.NsFd(int(h.ns))}))
	link, err := netlink.LinkByName(h.port)
	check(t, err)
	check(t, netlink.LinkSetUp(link))
	h.do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		h.mac = eth.Attrs().HardwareAddr
		if err := netlink.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: ipnet.Mask}}); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(eth); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(gateway)})
	})
	return h
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do runs f in the host's namespace.
func (h *host) do(f func() error) {
	h.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(h.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	check(h.t, <-done)
}

// device is a running switch on real interfaces.
type device struct {
	*softswitch.Switch
	addr   string // of P4Runtime and gNMI
	client p4v1.P4RuntimeClient
	h      *switchtest.Harness
}

func startDevice(t *testing.T, ports map[uint16]string) *device {
	t.Helper()
	js, info := switchtest.Build(t, "understudy")
	config, err := softswitch.LoadConfig(js, info)
	check(t, err)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	cfg := softswitch.Config{DeviceID: switchtest.DeviceID, CPUPort: switchtest.CPUPort, Pipeline: config, Listener: lis, Log: log}
	for n, name := range ports {
		link, err := softswitch.OpenPacketLink(name, log)
		check(t, err)
		cfg.Ports = append(cfg.Ports, softswitch.Port{Number: n, Link: link})
	}
	sw, err := softswitch.New(cfg)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sw.Run(ctx) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
		sw.LogStats()
		conn.Close()
	})
	return &device{Switch: sw, addr: lis.Addr().String(), client: p4v1.NewP4RuntimeClient(conn),
		h: switchtest.Connect(t, p4v1.NewP4RuntimeClient(conn), config.GetP4Info())}
}

// route makes the switch answer ARP for gateway and route to the host.
func (d *device) route(h *host, port uint16, gateway, gatewayMAC string) {
	d.h.Insert("arp_reply", switchtest.Match{"target_ip": gateway}, "arp_answer", switchtest.Args{"mac": gatewayMAC})
	d.h.Insert("route", switchtest.Match{"dst_addr": h.ip.String() + "/32"}, "forward",
		switchtest.Args{"port": int(port), "dst_mac": h.mac, "src_mac": gatewayMAC})
}

// TestTCPThroughSwitch sends a lot of data between two unmodified hosts, whose
// kernels hand over frames of up to 64 kB with unfinished checksums.
func TestTCPThroughSwitch(t *testing.T) {
	if !privateNetns(t) {
		return
	}
	a := newHost(t, "a", "10.0.1.2/24", "10.0.1.1")
	b := newHost(t, "b", "10.0.2.2/24", "10.0.2.1")
	d := startDevice(t, map[uint16]string{1: a.port, 2: b.port})
	d.route(a, 1, "10.0.1.1", "02:00:00:00:01:01")
	d.route(b, 2, "10.0.2.1", "02:00:00:00:02:01")

	const size = 64 << 20
	var lis net.Listener
	b.do(func() (err error) {
		lis, err = net.Listen("tcp4", "10.0.2.2:80")
		return err
	})
	defer lis.Close()
	sum := make(chan [32]byte, 1)
	go func() {
		c, err := lis.Accept()
		if err != nil {
			return
		}
		hash := sha256.New()
		io.Copy(hash, c)
		c.Close()
		sum <- [32]byte(hash.Sum(nil))
	}()
	start := time.Now()
	a.do(func() error {
		c, err := net.DialTimeout("tcp4", "10.0.2.2:80", 5*time.Second)
		if err != nil {
			return err
		}
		t.Logf("connected after %v", time.Since(start))
		start = time.Now()
		hash := sha256.New()
		rng := rand.NewChaCha8([32]byte{1})
		if _, err := io.CopyN(io.MultiWriter(c, hash), rng, size); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		got := <-sum
		c.Close()
		if got != [32]byte(hash.Sum(nil)) {
			return fmt.Errorf("the data arrived altered")
		}
		return nil
	})
	elapsed := time.Since(start)
	st, _ := d.PortStats(2)
	t.Logf("%d MB in %v, %.1f Gbit/s, %d frames of %d bytes on average", size>>20, elapsed,
		float64(size)*8/elapsed.Seconds()/1e9, st.TxPackets, st.TxBytes/max(1, st.TxPackets))
	if st.TxTooLong+st.TxErrors+st.TxQueueFull > 0 {
		t.Errorf("frames were lost: %+v", st)
	}
}

// TestLinkDownAndUp takes an interface down and even away while packets flow.
func TestLinkDownAndUp(t *testing.T) {
	if !privateNetns(t) {
		return
	}
	a := newHost(t, "a", "10.0.1.2/24", "10.0.1.1")
	b := newHost(t, "b", "10.0.2.2/24", "10.0.2.1")
	d := startDevice(t, map[uint16]string{1: a.port, 2: b.port})
	d.route(a, 1, "10.0.1.1", "02:00:00:00:01:01")
	d.route(b, 2, "10.0.2.1", "02:00:00:00:02:01")
	serve := func(h *host) net.PacketConn {
		var pc net.PacketConn
		h.do(func() (err error) {
			pc, err = net.ListenPacket("udp4", h.ip.String()+":7")
			return err
		})
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo(buf[:n], from)
			}
		}()
		return pc
	}
	defer serve(b).Close()
	var c net.Conn
	a.do(func() (err error) {
		c, err = net.Dial("udp4", "10.0.2.2:7")
		return err
	})
	// echo sends until one of its own messages comes back; what earlier calls sent
	// may still be on its way.
	sent := 0
	echo := func(tries int) (time.Duration, bool) {
		start, first := time.Now(), sent
		buf := make([]byte, 100)
		for range tries {
			fmt.Fprint(c, sent)
			sent++
			c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			for {
				n, err := c.Read(buf)
				if err != nil {
					break
				}
				if i, err := strconv.Atoi(string(buf[:n])); err == nil && i >= first {
					return time.Since(start), true
				}
			}
		}
		return 0, false
	}
	if _, ok := echo(100); !ok {
		t.Fatal("no echo at first")
	}
	link, err := netlink.LinkByName(b.port)
	check(t, err)
	check(t, netlink.LinkSetDown(link))
	if _, ok := echo(3); ok {
		t.Error("an echo over a link that is down")
	}
	check(t, netlink.LinkSetUp(link))
	took, ok := echo(500) // the kernel may look at the carrier once a second only
	if !ok {
		t.Fatal("no echo after the link came back")
	}
	t.Logf("echo %v after the link came up", took)

	check(t, netlink.LinkDel(link))
	if _, ok := echo(3); ok {
		t.Error("an echo over a link that does not exist")
	}
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: b.port}, PeerName: "eth0",
		PeerHardwareAddr: b.mac, PeerNamespace: netlink.NsFd(int(b.ns))}))
	link, err = netlink.LinkByName(b.port)
	check(t, err)
	check(t, netlink.LinkSetUp(link))
	b.do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: b.ip, Mask: net.CIDRMask(24, 32)}}); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(eth); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP("10.0.2.1")})
	})
	if took, ok = echo(500); !ok {
		t.Fatal("no echo after the interface was made again")
	}
	t.Logf("echo %v after the interface was made again", took)
	st, _ := d.PortStats(2)
	if st.TxLinkDown == 0 {
		t.Errorf("no drop was counted as link down: %+v", st)
	}
}
