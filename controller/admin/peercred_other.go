// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package admin

import (
	"net"

	"google.golang.org/grpc/credentials"
)

// socketPeer does not know who has connected.
func socketPeer(net.Conn) (credentials.AuthInfo, error) { return socketInfo{who: "local user"}, nil }
