// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package bgp

import (
	"errors"
	"net/netip"
)

func checkMD5(netip.Addr) error {
	return errors.New("TCP MD5 signatures need Linux; remove the password")
}
