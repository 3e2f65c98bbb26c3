// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("address %s: %w", c.address, err)
	}
	defer conn.Close()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return c.explain(f(ctx, adminv1.NewAdminClient(conn)))
}

// explain makes of what gRPC says a sentence; other errors pass.
func (c *controller) explain(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable:
		return fmt.Errorf("the controller at %s does not answer: %s", c.address, s.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("the controller at %s did not answer in time", c.address)
	}
	return errors.New(s.Message())
}
