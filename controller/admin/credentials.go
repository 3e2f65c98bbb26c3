// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/understudy-net/understudy/internal/pki"
)

// Credentials returns how those who come in by a listener say who they are: by the
// kernel's word on a unix socket, where who may open it may do everything; else by
// certificates of source. Without one, insecure lets in anyone as an operator; it is
// an error without that.
func Credentials(l net.Listener, source *pki.Source, insecure bool) (credentials.TransportCredentials, error) {
	switch {
	case l.Addr().Network() == "unix":
		return plain{protocol: "unix", info: socketPeer}, nil
	case source != nil:
		return pki.ServerCredentials(source), nil
	case insecure:
		return plain{protocol: "insecure", info: func(net.Conn) (credentials.AuthInfo, error) { return anyoneInfo{}, nil }}, nil
	}
	return nil, fmt.Errorf("admin: %s is open to anyone; configure tls, or listen on unix:PATH", l.Addr())
}

// anyoneInfo is a connection that nobody was asked on.
type anyoneInfo struct{ credentials.CommonAuthInfo }

func (anyoneInfo) AuthType() string { return "insecure" }

// socketInfo is a connection within this host.
type socketInfo struct {
	credentials.CommonAuthInfo
	who string
}

func (socketInfo) AuthType() string { return "unix" }

// plain are credentials of a server that does no handshake.
type plain struct {
	protocol string
	info     func(net.Conn) (credentials.AuthInfo, error)
}

func (p plain) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info, err := p.info(conn)
	return conn, info, err
}

func (p plain) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for servers")
}

func (p plain) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: p.protocol}
}

func (p plain) Clone() credentials.TransportCredentials { return p }

func (p plain) OverrideServerName(string) error { return nil }

// watched has those who do not get as far as a call be kept in the audit log.
type watched struct {
	credentials.TransportCredentials
	audit *Audit
}

func (w watched) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := w.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) { // a connection that was only tried
		w.audit.refused(time.Now(), caller{who: "unknown", from: conn.RemoteAddr().String()}, "handshake", nil,
			status.Error(codes.Unauthenticated, err.Error()))
	}
	return c, info, err
}

func (w watched) Clone() credentials.TransportCredentials { return w }
