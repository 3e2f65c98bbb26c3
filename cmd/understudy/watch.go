// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/topologies/lab"
)

func newWatch(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch [PAIR]",
		Short: "Follow what happens, event by event",
		Long: `Show every pair, or one, as it is now, and then each event as it happens, until
interrupted. With -o json, one object per line.`,
		Example: "  understudy watch\n  understudy watch web -o json",
		Args:    cobra.MaximumNArgs(1),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := &adminv1.WatchEventsRequest{Pair: strings.Join(args, "")}
		err := c.call(cmd.Context(), 0, func(ctx context.Context, admin adminv1.AdminClient) error {
			stream, err := admin.WatchEvents(ctx, req)
			if err != nil {
				return err
			}
			for {
				e, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return errors.New("the controller has ended the stream")
				}
				if err != nil {
					return err
				}
				if *output == asJSON {
					err = writeProto(cmd.OutOrStdout(), e, false)
				} else {
					err = writeEvent(cmd.OutOrStdout(), e)
				}
				if err != nil {
					return err
				}
			}
		})
		if cmd.Context().Err() != nil {
			return nil // interrupted, as intended
		}
		return err
	}
	return cmd
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
