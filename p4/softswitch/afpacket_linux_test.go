// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/p4/packet"
	"github.com/understudy-net/understudy/p4/softswitch"
)

// A served is a PacketLink whose frames are collected.
type served struct {
	*softswitch.PacketLink
	stats  softswitch.PortStats
	frames chan []byte
}

// serve opens an interface. Unfinished checksums are filled in.
func serve(t *testing.T, name string) *served {
	t.Helper()
	link, err := softswitch.OpenPacketLink(name, nil)
	check(t, err)
	s := &served{PacketLink: link, frames: make(chan []byte, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- link.Serve(ctx, &s.stats, func(frame []byte, off *softswitch.Offload) {
			frame = bytes.Clone(frame)
			if off != nil {
				off.Complete(frame)
			}
			select {
			case s.frames <- frame:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			check(t, err)
		case <-time.After(10 * time.Second):
			t.Error("the link did not stop")
		}
	})
	return s
}

// next returns the next frame of an EtherType.
func (s *served) next(t *testing.T, etherType uint16) []byte {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case f := <-s.frames:
			if e, ok := packet.AsEthernet(f); ok && e.Type() == etherType {
				return f
			}
		case <-deadline:
			t.Fatalf("no frame of type %#04x came", etherType)
		}
	}
}

// TestVLAN sends frames with tags, which the kernel takes off for packet sockets.
func TestVLAN(t *testing.T) {
	if !privateNetns(t) {
		return
	}
	h := newHost(t, "a", "10.0.1.2/24", "10.0.1.1")
	link := serve(t, h.port)
	var raw int
	h.do(func() error {
		raw = rawSocket(t, "eth0")
		return nil
	})
	plain := packet.Build(&packet.EthernetLayer{Src: h.mac, Dst: net.HardwareAddr{2, 0, 0, 0, 1, 1}},
		&packet.IPv4Layer{Src: cmpClient, Dst: cmpVIP}, &packet.UDPLayer{SrcPort: 1, DstPort: 2}, packet.Bytes("odd"))
	tagged := func(tags string) []byte { return bytes.Join([][]byte{plain[:12], []byte(tags), plain[12:]}, nil) }
	for _, tc := range []struct {
		name  string
		frame []byte
		typ   uint16
	}{
		{"no tag", plain, packet.EtherTypeIPv4},
		{"VLAN 5", tagged("\x81\x00\x00\x05"), unix.ETH_P_8021Q},
		{"priority 3, no VLAN", tagged("\x81\x00\x60\x00"), unix.ETH_P_8021Q},
		{"service tag", tagged("\x88\xa8\x00\x07"), unix.ETH_P_8021AD},
		{"two tags", tagged("\x88\xa8\x00\x07\x81\x00\x00\x05"), unix.ETH_P_8021AD},
		{"no tag again", plain, packet.EtherTypeIPv4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			check(t, unix.Send(raw, tc.frame, 0))
			if diff := cmp.Diff(tc.frame, link.next(t, tc.typ)); diff != "" {
				t.Errorf("-sent +received:\n%s", diff)
			}
		})
	}

	// A checksum that is still to be filled in, behind the tag.
	check(t, unix.SetsockoptInt(raw, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	want := tagged("\x81\x00\x00\x05")
	unfinished := bytes.Clone(want)
	udp := packet.Parse(plain).UDP
	binary.BigEndian.PutUint16(unfinished[4+14+20+6:], ^packet.Checksum(nil, packet.PseudoHeader(cmpClient, cmpVIP, packet.ProtocolUDP, len(udp))))
	head := make([]byte, 10)
	head[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(head[6:], 4+14+20)
	binary.NativeEndian.PutUint16(head[8:], 6)
	check(t, unix.Send(raw, append(head, unfinished...), 0))
	if diff := cmp.Diff(want, link.next(t, unix.ETH_P_8021Q)); diff != "" {
		t.Errorf("unfinished checksum, -want +received:\n%s", diff)
	}
}

// TestFlap takes an interface down and up. From the moment when it is up again a
// frame can be sent and will be received, before anybody has noticed.
func TestFlap(t *testing.T) {
	if !privateNetns(t) {
		return
	}
	h := newHost(t, "a", "10.0.1.2/24", "10.0.1.1")
	link := serve(t, h.port)
	send := softswitch.Sender(link)
	frame := packet.Build(&packet.EthernetLayer{Src: h.mac, Dst: h.mac}, packet.Bytes(make([]byte, 60)))
	dev, err := netlink.LinkByName(h.port)
	check(t, err)
	for i := range 20 {
		check(t, send(frame))
		check(t, netlink.LinkSetDown(dev))
		if err := send(frame); !errors.Is(err, softswitch.ErrLinkDown) {
			t.Fatalf("flap %d: sent while down: %v", i, err)
		}
		time.Sleep(time.Duration(i%4) * 5 * time.Millisecond) // noticed or not
		check(t, netlink.LinkSetUp(dev))
		if err := send(frame); err != nil {
			t.Fatalf("flap %d: sent when up again: %v", i, err)
		}
	}
	if s := link.stats.Snapshot(); s.RxErrors != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSendWakesNobody sends many frames, and looks how often a thread of this process went
// to sleep meanwhile: nobody has anything to do but the one that sends.
func TestSendWakesNobody(t *testing.T) {
	if !privateNetns(t) {
		return
	}
	h := newHost(t, "a", "10.0.1.2/24", "10.0.1.1")
	send := softswitch.Sender(serve(t, h.port))
	frame := packet.Build(&packet.EthernetLayer{Src: h.mac, Dst: h.mac}, packet.Bytes(make([]byte, 60)))
	const frames = 2000
	sleeps := func() int64 {
		var u unix.Rusage
		check(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
		return u.Nvcsw
	}
	before := sleeps()
	for range frames {
		check(t, send(frame))
		// Time for a thread that was woken to go to sleep again.
		for start := time.Now(); time.Since(start) < 50*time.Microsecond; {
		}
	}
	n := sleeps() - before
	t.Logf("%d frames, %d sleeps", frames, n)
	if n > frames/4 {
		t.Errorf("%d sleeps while %d frames were sent", n, frames)
	}
}

// TestSendLengths sends frames of all lengths, whole ones and none at all.
func TestSendLengths(t *testing.T) {
	if !privateNetns(t) {
		return
	}
	h := newHost(t, "a", "10.0.1.2/24", "10.0.1.1") // MTU 1500
	link := serve(t, h.port)
	send := softswitch.Sender(link)
	for _, tc := range []struct {
		length int
		want   error
	}{
		{0, softswitch.ErrSend},
		{13, softswitch.ErrSend},
		{14, nil},
		{60, nil},
		{1514, nil},
		{1519, softswitch.ErrTooLong},
		{9014, softswitch.ErrTooLong},
		{softswitch.MaxFrame, softswitch.ErrTooLong},
	} {
		if err := send(make([]byte, tc.length)); !errors.Is(err, tc.want) {
			t.Errorf("%d bytes: %v, want %v", tc.length, err, tc.want)
		}
	}
}
