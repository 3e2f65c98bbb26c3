// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

func newServers(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "servers",
		Short: "Show servers; add them to pairs, and remove them, while they run",
		Long: `Show the servers of all pairs. Below it are commands that add servers to pairs, and
remove them, while the pairs run. Only servers that were made here can be removed
here: others stand in the configuration file.`,
		Example: "  understudy servers\n  understudy servers --watch",
		Args:    cobra.NoArgs,
	}
	lister[*adminv1.ListPairsResponse]{
		once: func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.ListPairsResponse, error) {
			return admin.ListPairs(ctx, &adminv1.ListPairsRequest{})
		},
		watch: func(ctx context.Context, admin adminv1.AdminClient) (receiver[*adminv1.ListPairsResponse], error) {
			return admin.WatchPairs(ctx, &adminv1.ListPairsRequest{})
		},
		table: func(out io.Writer, list *adminv1.ListPairsResponse) error {
			return writeServers(out, list.GetPairs(), time.Now())
		},
	}.add(cmd, c)
	cmd.AddCommand(newServerCreate(c), newServerDelete(c))
	return cmd
}

func newServerCreate(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Add a server to a pair: a new backup, or a spare",
		Long: `Add a server to a pair, which outlives the controller. It joins as the backup if
there is none, or is a spare. To add the same one again changes nothing.`,
		Args: cobra.ExactArgs(1),
	}
	s := &adminv1.CreateServerRequest{}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&s.Pair, "pair", "", "whose server it is")
	flags.Uint32Var(&s.Port, "port", 0, "the switch's port that leads to it")
	flags.StringVar(&s.Mac, "mac", "", "its MAC `address`")
	flags.StringVar(&s.Gateway, "gateway", "", "the `address` of its gateway, one of the configuration's")
	flags.BoolVar(&s.DryRun, "dry-run", false, "only show what would change")
	for _, name := range []string{"pair", "port", "mac", "gateway"} {
		cmd.MarkFlagRequired(name)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s.Name = args[0]
		return c.plan(cmd, *output, s.DryRun, func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.Plan, error) {
			return admin.CreateServer(ctx, s)
		})
	}
	return cmd
}

func newServerDelete(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Remove a server that was added here from its pair",
		Long: `Remove a server that was added with "servers create" from its pair. A backup is let
go first. The active server cannot be removed: drain it.`,
		Args: cobra.ExactArgs(1),
	}
	output := outputFlag(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "only show what would change")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.plan(cmd, *output, *dry, func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.Plan, error) {
			return admin.DeleteServer(ctx, &adminv1.DeleteServerRequest{Name: args[0], DryRun: *dry})
		})
	}
	return cmd
}
