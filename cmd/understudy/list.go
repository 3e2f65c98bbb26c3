// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// lister is a command that shows a list, once or whenever it changes.
type lister[T proto.Message] struct {
	once func(context.Context, adminv1.AdminClient) (T, error)
	// watch is nil where the list cannot be watched.
	watch func(context.Context, adminv1.AdminClient) (receiver[T], error)
	table func(io.Writer, T) error
}

// receiver is the end of a stream.
type receiver[T any] interface{ Recv() (T, error) }

// add gives a command the flags and the work of a lister.
func (l lister[T]) add(cmd *cobra.Command, c *controller) {
	output := outputFlag(cmd)
	watch := cmd.Flags().BoolP("watch", "w", false, "show it again whenever it changes, until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out := cmd.OutOrStdout()
		if *watch {
			return interrupted(cmd, c.call(cmd.Context(), 0, func(ctx context.Context, admin adminv1.AdminClient) error {
				return l.follow(ctx, admin, out, *output)
			}))
		}
		return c.call(cmd.Context(), callTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			list, err := l.once(ctx, admin)
			if err != nil {
				return err
			}
			if *output != asTable {
				return writeAs(out, *output, list)
			}
			return l.table(out, list)
		})
	}
}

// follow writes the list until the stream ends.
func (l lister[T]) follow(ctx context.Context, admin adminv1.AdminClient, out io.Writer, f format) error {
	stream, err := l.watch(ctx, admin)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		list, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errEnded
		case err != nil:
			return err
		case f != asTable:
			err = writeOneOf(out, f, list)
		default:
			if !first {
				fmt.Fprintln(out)
			}
			fmt.Fprintf(out, "-- %s\n", time.Now().Format(time.TimeOnly))
			err = l.table(out, list)
		}
		if err != nil {
			return err
		}
	}
}

var errEnded = errors.New("the controller has ended the stream")

// interrupted is nil if a command that goes on until it is interrupted was.
func interrupted(cmd *cobra.Command, err error) error {
	if cmd.Context().Err() != nil {
		return nil
	}
	return err
}
