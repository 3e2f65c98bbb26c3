// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// applyTimeout is for changes: agents are given time to open new services.
const applyTimeout = 60 * time.Second

func newConfig(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show which configuration is in force",
		Long: `Show which configuration is in force, where it came from, and whether it waits to be
confirmed. It is stale when the controller's file, or what was to be applied last,
was refused; the last good one is in force then.`,
		Args: cobra.NoArgs,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.call(cmd.Context(), callTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			res, err := admin.GetConfiguration(ctx, &adminv1.GetConfigurationRequest{})
			if err != nil {
				return err
			}
			return writeConfiguration(cmd.OutOrStdout(), *output, res)
		})
	}
	return cmd
}

func writeConfiguration(out io.Writer, f format, res *adminv1.Configuration) error {
	if f != asTable {
		return writeAs(out, f, res)
	}
	confirm := ""
	if t := res.GetConfirmUntil(); t != nil {
		confirm = t.AsTime().Local().Format(time.DateTime)
	}
	err := table(out, [][]string{
		{"VERSION", "FILE", "BY", "SINCE", "STALE", "CONFIRM UNTIL"},
		{res.GetVersion(), res.GetFile(), res.GetBy(), res.GetTime().AsTime().Local().Format(time.DateTime),
			either(res.GetStale(), "stale", "no"), confirm},
	})
	if err == nil && res.GetProblem() != "" {
		_, err = fmt.Fprintf(out, "\nrefused:\n%s\n", res.GetProblem())
	}
	return err
}

func newApply(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Put a configuration in force, or say what that would change",
		Long: `Put a configuration in force while the controller runs, and show what changed. It is
refused whole when anything is wrong with it. With --confirm it is rolled back by
itself unless "understudy confirm" comes in time, even if the controller restarts
meanwhile.`,
		Example: "  understudy apply --dry-run new.yaml\n  understudy apply --confirm 60s new.yaml && understudy confirm",
		Args:    cobra.ExactArgs(1),
	}
	output := outputFlag(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "only show what would change")
	confirm := cmd.Flags().Duration("confirm", 0, "roll back after this time unless it is confirmed")
	version := cmd.Flags().String("if-version", "", "only if this `version` is in force (see understudy config)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		req := &adminv1.ApplyConfigurationRequest{Text: text, File: args[0], DryRun: *dry, IfVersion: *version}
		if cmd.Flags().Changed("confirm") {
			req.Confirm = durationpb.New(*confirm)
		}
		return c.plan(cmd, *output, *dry, func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.Plan, error) {
			return admin.ApplyConfiguration(ctx, req)
		})
	}
	return cmd
}

// plan carries out a change and shows it.
func (c *controller) plan(cmd *cobra.Command, f format, dry bool, do func(context.Context, adminv1.AdminClient) (*adminv1.Plan, error)) error {
	return c.call(cmd.Context(), applyTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
		p, err := do(ctx, admin)
		if err != nil {
			return err
		}
		if f != asTable {
			return writeAs(cmd.OutOrStdout(), f, p)
		}
		return writePlan(cmd.OutOrStdout(), p, dry)
	})
}

func writePlan(out io.Writer, p *adminv1.Plan, dry bool) error {
	for _, c := range p.GetChanges() {
		line := ""
		switch c.GetOp() {
		case adminv1.Change_OP_ADD:
			line = "+ " + c.GetPath() + ": " + c.GetNew()
		case adminv1.Change_OP_REMOVE:
			line = "- " + c.GetPath() + ": " + c.GetOld()
		default:
			line = "~ " + c.GetPath() + ": " + c.GetOld() + " -> " + c.GetNew()
		}
		if c.GetNeedsRestart() {
			line += "   (needs a restart of the controller)"
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	if len(p.GetChanges()) == 0 {
		_, err := fmt.Fprintf(out, "nothing changes; version %s\n", p.GetToVersion())
		return err
	}
	_, err := fmt.Fprintf(out, "version %s %s %s\n", p.GetFromVersion(), either(dry, "would become", "became"), p.GetToVersion())
	return err
}

func newConfirm(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "confirm [VERSION]",
		Short: "Keep a configuration that waits to be confirmed",
		Long:  "Keep a configuration that was applied with --confirm. With a version, only that one.",
		Args:  cobra.MaximumNArgs(1),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := &adminv1.ConfirmConfigurationRequest{}
		if len(args) > 0 {
			req.Version = args[0]
		}
		return c.call(cmd.Context(), callTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			res, err := admin.ConfirmConfiguration(ctx, req)
			if err != nil {
				return err
			}
			return writeConfiguration(cmd.OutOrStdout(), *output, res)
		})
	}
	return cmd
}

func newRollBack(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "roll-back",
		Short: "Take back a configuration that waits to be confirmed",
		Long:  "Take back a configuration that was applied with --confirm, before its time is over.",
		Args:  cobra.NoArgs,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.call(cmd.Context(), applyTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			res, err := admin.RollBackConfiguration(ctx, &adminv1.RollBackConfigurationRequest{})
			if err != nil {
				return err
			}
			return writeConfiguration(cmd.OutOrStdout(), *output, res)
		})
	}
	return cmd
}
