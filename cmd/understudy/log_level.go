// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

func newLogLevel(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:       "log-level [LEVEL]",
		Short:     "Show, or change, what the controller logs while it runs",
		Long:      "Show, or change, what the controller logs while it runs: debug, info, warn or error.\nWhat is set is forgotten when it ends.",
		Example:   "  understudy log-level debug",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: []string{"debug", "info", "warn", "error"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.call(cmd.Context(), callTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			var res *adminv1.LogLevel
			var err error
			if len(args) == 0 {
				res, err = admin.GetLogLevel(ctx, &adminv1.GetLogLevelRequest{})
			} else {
				res, err = admin.SetLogLevel(ctx, &adminv1.SetLogLevelRequest{Level: args[0]})
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), res.GetLevel())
			return err
		})
	}
	return cmd
}
