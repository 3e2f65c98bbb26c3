// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands and sizes of the ioctl SIOCETHTOOL, from linux/ethtool.h.
const (
	ethtoolGetStrings   = 0x1b
	ethtoolGetSetInfo   = 0x37
	ethtoolSetFeatures  = 0x3b
	ethtoolSetOfFeature = 4 // ETH_SS_FEATURES
	ethtoolStringSize   = 32
)

// offloadsOff makes an interface of the calling thread's namespace send and
// receive packets as they are on a wire: checksums complete, no segment longer
// than the MTU. A program that reads the other end raw sees them so.
func offloadsOff(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	order := binary.NativeEndian

	// How many features the kernel knows, and what they are called. The numbers
	// differ between kernels, the names do not.
	info := make([]byte, 20) // command, reserved, mask (64 bits), length
	order.PutUint32(info, ethtoolGetSetInfo)
	order.PutUint64(info[8:], 1<<ethtoolSetOfFeature)
	if err := ethtool(fd, name, info); err != nil {
		return fmt.Errorf("%s: asking for its features: %w", name, err)
	}
	n := int(order.Uint32(info[16:]))
	get := make([]byte, 12+n*ethtoolStringSize) // command, set, length, strings
	order.PutUint32(get, ethtoolGetStrings)
	order.PutUint32(get[4:], ethtoolSetOfFeature)
	order.PutUint32(get[8:], uint32(n))
	if err := ethtool(fd, name, get); err != nil {
		return fmt.Errorf("%s: asking for its features' names: %w", name, err)
	}

	blocks := (n + 31) / 32
	set := make([]byte, 8+8*blocks) // command, blocks, then (valid, requested) each
	order.PutUint32(set, ethtoolSetFeatures)
	order.PutUint32(set[4:], uint32(blocks))
	for i := range n {
		feature, _, _ := bytes.Cut(get[12+i*ethtoolStringSize:][:ethtoolStringSize], []byte{0})
		if isOffload(string(feature)) {
			valid := set[8+8*(i/32):]
			order.PutUint32(valid, order.Uint32(valid)|1<<(i%32))
		}
	}
	if err := ethtool(fd, name, set); err != nil {
		return fmt.Errorf("%s: switching offloads off: %w", name, err)
	}
	return nil
}

// isOffload picks the features by which an interface, or the kernel for it,
// merges packets, or leaves checksums to somebody else.
func isOffload(feature string) bool {
	switch {
	case strings.HasPrefix(feature, "tx-checksum-"), strings.HasPrefix(feature, "rx-gro"), feature == "rx-lro":
		return true
	}
	return strings.HasPrefix(feature, "tx-") && strings.HasSuffix(feature, "-segmentation")
}

// ethtool hands a request to an interface's driver, which answers in its place.
func ethtool(fd int, name string, request []byte) error {
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of the kernel's union
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], name)
	ifreq.data = unsafe.Pointer(&request[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	runtime.KeepAlive(request)
	if errno != 0 {
		return errno
	}
	return nil
}
