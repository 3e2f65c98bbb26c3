// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/topologies/lab"
)

func newWatch(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch [PAIR]",
		Short: "Follow what happens, event by event",
		Long: `Show every pair, or one, as it is now, and then each event as it happens, until
interrupted. With -o json, one object per line. A stream that breaks is taken up
again where it was, for as long as the controller remembers.`,
		Example: "  understudy watch\n  understudy watch web -o json",
		Args:    cobra.MaximumNArgs(1),
	}
	output := outputFlag(cmd)
	after := cmd.Flags().Uint64("after", 0, "begin with what has happened since the event of this `sequence` (see -o json)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := &adminv1.WatchEventsRequest{Pair: strings.Join(args, ""), After: *after}
		out := cmd.OutOrStdout()
		return interrupted(cmd, c.call(cmd.Context(), 0, func(ctx context.Context, admin adminv1.AdminClient) error {
			for {
				before := req.GetAfter()
				err := followEvents(ctx, admin, req, func(e *adminv1.Event) error {
					if *output != asTable {
						return writeOneOf(out, *output, e)
					}
					return writeEvent(out, e)
				})
				// Too slow once, or a connection that broke: it goes on where it was.
				if code := status.Code(err); req.GetAfter() == before || code != codes.ResourceExhausted && code != codes.Unavailable {
					return err
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(resumePause):
				}
			}
		}))
	}
	return cmd
}

// resumePause is before a stream of events is resumed.
const resumePause = time.Second

// followEvents passes on events, and notes in the request where to go on.
func followEvents(ctx context.Context, admin adminv1.AdminClient, req *adminv1.WatchEventsRequest, each func(*adminv1.Event) error) error {
	stream, err := admin.WatchEvents(ctx, req)
	if err != nil {
		return err
	}
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errEnded
		}
		if err == nil {
			err = each(e)
		}
		if err != nil {
			return err
		}
		req.After = max(req.After, e.GetSequence())
	}
}

func writeEvent(out io.Writer, e *adminv1.Event) error {
	kind := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_")), "_", "-")
	line := fmt.Sprintf("%s  %-13s", e.GetTime().AsTime().Local().Format("15:04:05.000"), kind)
	if p := e.GetPair(); p != nil {
		line += fmt.Sprintf("  %s %s epoch %d", p.GetName(), lab.StateName(p.GetState()), p.GetEpoch())
		var servers []string
		for _, s := range p.GetServers() {
			servers = append(servers, s.GetName()+" "+lab.RoleName(s.GetRole()))
		}
		if len(servers) > 0 {
			line += " (" + strings.Join(servers, ", ") + ")"
		}
	}
	if f := e.GetFailover(); f != nil {
		line += fmt.Sprintf("  %s to %s: %s", f.GetFrom(), f.GetTo(), f.GetCause())
	}
	if e.GetMessage() != "" {
		line += "  " + e.GetMessage()
	}
	_, err := fmt.Fprintln(out, line)
	return err
}
