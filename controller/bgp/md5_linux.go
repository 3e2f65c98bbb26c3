// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// checkMD5 tries what a session with a password needs. GoBGP only logs when a
// listener cannot have it, and then takes connections without a signature.
func checkMD5(a netip.Addr) error {
	family := unix.AF_INET
	sig := unix.TCPMD5Sig{Keylen: 1, Key: [80]byte{'x'}}
	if a.Is4() {
		sig.Addr.Family = unix.AF_INET
		b := a.As4()
		copy(sig.Addr.Data[2:], b[:])
	} else {
		family = unix.AF_INET6
		sig.Addr.Family = unix.AF_INET6
		b := a.As16()
		copy(sig.Addr.Data[6:], b[:])
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return errors.New("this kernel has no TCP MD5 signatures (CONFIG_TCP_MD5SIG); remove the password, or use another kernel")
	}
	if err != nil {
		return fmt.Errorf("TCP MD5 signatures: %w", err)
	}
	return nil
}
