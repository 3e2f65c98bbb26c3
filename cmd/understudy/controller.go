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
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// callTimeout is for calls that return when something is done or known.
const callTimeout = 10 * time.Second

// controller is the one that the commands speak to.
type controller struct{ address string }

// call connects, calls f, and makes of its error one for people. Without a
// timeout f ends with the context.
func (c *controller) call(ctx context.Context, timeout time.Duration, f func(context.Context, adminv1.AdminClient) error) error {
	if err := checkAddress(c.address); err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("address %q: %w", c.address, err)
	}
	defer conn.Close()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return c.explain(f(ctx, adminv1.NewAdminClient(conn)))
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
func (c *controller) explain(err error) error {
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
		return fmt.Errorf("the controller at %s does not answer: %s; start it, or name another one with --address or $%s",
			c.address, reason, addressVariable)
	case codes.DeadlineExceeded:
		return fmt.Errorf("the controller at %s did not answer in time; see its log", c.address)
	}
	return errors.New(s.Message())
}
