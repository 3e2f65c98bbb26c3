// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

func newSwitchOver(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "switch-over PAIR",
		Short: "Make a pair's backup the active server",
		Long: `Make a pair's backup the active server, on purpose, without losing a connection.
Refused if no backup holds the connections. Returns when the switch has released
the new active server.`,
		Example: "  understudy switch-over web",
		Args:    cobra.ExactArgs(1),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.call(cmd.Context(), callTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			res, err := admin.SwitchOver(ctx, &adminv1.SwitchOverRequest{Pair: args[0]})
			if err != nil {
				return err
			}
			if *output != asTable {
				return writeAs(cmd.OutOrStdout(), *output, res)
			}
			f := res.GetFailover()
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s is active, %s was; epoch %d, written within %s\n",
				args[0], f.GetTo(), f.GetFrom(), f.GetEpoch(), ms(f.GetDecideToWritten().AsDuration()))
			return err
		})
	}
	return cmd
}
