// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/internal/pki"
)

// callTimeout is for calls that return when something is done or known.
const callTimeout = 10 * time.Second

// controller is the one that the commands speak to.
type controller struct {
	// given is what flags say.
	given target
	// addressGiven says whether it has an address, be it an empty one.
	addressGiven func() bool
	getenv       func(string) string
	exists       func(string) bool
}

// call connects, calls f, and makes of its error one for people. Without a
// timeout f ends with the context.
func (c *controller) call(ctx context.Context, timeout time.Duration, f func(context.Context, adminv1.AdminClient) error) error {
	t, conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return t.explain(f(ctx, adminv1.NewAdminClient(conn)))
}

// dial finds out which controller is meant. It does not connect yet.
func (c *controller) dial() (target, *grpc.ClientConn, error) {
	if c.addressGiven() && c.given.Address == "" {
		return c.given, nil, checkAddress("")
	}
	t, err := c.given.resolve(c.getenv, c.exists)
	if err != nil {
		return t, nil, err
	}
	creds, err := t.credentials()
	if err != nil {
		return t, nil, err
	}
	conn, err := grpc.NewClient(t.Address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	if err != nil {
		return t, nil, fmt.Errorf("address %q: %w", t.Address, err)
	}
	return t, conn, nil
}

// credentials are for the target's address: the kernel vouches for whoever opens a
// socket.
func (t target) credentials() (credentials.TransportCredentials, error) {
	if err := checkAddress(t.Address); err != nil {
		return nil, err
	}
	if strings.HasPrefix(t.Address, "unix:") || t.Insecure {
		return insecure.NewCredentials(), nil
	}
	if t.Cert == "" || t.Key == "" || t.CA == "" {
		return nil, fmt.Errorf("the controller at %s asks who you are; give --cert, --key and --ca (see understudy certs), or --insecure if it does not", t.Address)
	}
	source, err := pki.Open(t.Files, nil)
	if err != nil {
		return nil, err
	}
	return pki.ClientCredentials(source, pki.Controller), nil
}

// checkAddress refuses what gRPC would understand in a way of its own.
func checkAddress(address string) error {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		_, port, err := net.SplitHostPort(address)
		ok = err == nil && port != ""
	} else {
		ok = path != ""
	}
	if !ok || strings.ContainsFunc(address, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return fmt.Errorf("%q is not an address; give --address or $%s as host:port or unix:PATH", address, addressVariable)
	}
	return nil
}

// explain makes of what gRPC says a sentence; other errors pass.
func (t target) explain(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable:
		// What gRPC puts around the reason says nothing more.
		reason := s.Message()
		if _, inner, ok := strings.Cut(reason, "Error while dialing: "); ok {
			reason = strings.TrimSuffix(inner, `"`)
		}
		if _, inner, ok := strings.Cut(reason, "authentication handshake failed: "); ok {
			return withCode(exitNobody, fmt.Errorf("the controller at %s cannot be trusted: %s; correct the address, or --ca", t.Address, strings.TrimSuffix(inner, `"`)))
		}
		return withCode(exitNobody, fmt.Errorf("the controller at %s does not answer: %s; start it, or name another one with --address or $%s",
			t.Address, reason, addressVariable))
	case codes.DeadlineExceeded:
		return withCode(exitNobody, fmt.Errorf("the controller at %s did not answer in time; see its log", t.Address))
	}
	return withCode(codeOf(s.Code()), errors.New(s.Message()))
}
