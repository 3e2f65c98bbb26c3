// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

func newFailovers(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "failovers [PAIR]",
		Short: "List past failovers, and how long each step took",
		Long: `List what the controller remembers of past failovers, oldest first: what told it,
and the time from the last sign of life to the decision, from there to the switch's
confirmation, and from there until the new active server spoke.`,
		Example: "  understudy failovers\n  understudy failovers web -o json",
		Args:    cobra.MaximumNArgs(1),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := &adminv1.ListFailoversRequest{Pair: strings.Join(args, "")}
		return c.call(cmd.Context(), callTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			res, err := admin.ListFailovers(ctx, req)
			if err != nil {
				return err
			}
			if *output != asTable {
				return writeAs(cmd.OutOrStdout(), *output, res)
			}
			return writeFailovers(cmd.OutOrStdout(), res.GetFailovers())
		})
	}
	return cmd
}

func writeFailovers(out io.Writer, failovers []*adminv1.Failover) error {
	rows := [][]string{{"DECIDED", "PAIR", "EPOCH", "FROM", "TO", "CAUSE", "DETECT", "WRITE", "RELEASE"}}
	for _, f := range failovers {
		write := between(f.GetDecided(), f.GetWritten())
		if d := f.GetDecideToWritten(); d != nil {
			write = ms(d.AsDuration())
		}
		rows = append(rows, []string{
			f.GetDecided().AsTime().Local().Format(time.DateTime + ".000"), f.GetPair(), fmt.Sprint(f.GetEpoch()),
			f.GetFrom(), f.GetTo(), f.GetCause(),
			between(f.GetSuspected(), f.GetDecided()), write, between(f.GetWritten(), f.GetReleased()),
		})
	}
	return table(out, rows)
}
