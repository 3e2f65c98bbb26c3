// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

func newServices(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "services",
		Short: "Show what clients connect to; make and delete services",
		Long: `Show all services: those of the configuration file, and those that were made with
"services create". The latter outlive the controller, and only they can be deleted
here.`,
		Example: "  understudy services\n  understudy services -o json",
		Args:    cobra.NoArgs,
	}
	lister[*adminv1.ListServicesResponse]{
		once: func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.ListServicesResponse, error) {
			return admin.ListServices(ctx, &adminv1.ListServicesRequest{})
		},
		watch: func(ctx context.Context, admin adminv1.AdminClient) (receiver[*adminv1.ListServicesResponse], error) {
			return admin.WatchServices(ctx, &adminv1.ListServicesRequest{})
		},
		table: func(out io.Writer, list *adminv1.ListServicesResponse) error {
			rows := [][]string{{"SERVICE", "PAIR", "VIP", "PROTOCOL", "PORT", "UPSTREAM", "FROM"}}
			for _, s := range list.GetServices() {
				rows = append(rows, []string{s.GetName(), s.GetPair(), s.GetVip(), s.GetProtocol(), fmt.Sprint(s.GetPort()), s.GetUpstream(),
					strings.ToLower(strings.TrimPrefix(s.GetOrigin().String(), "ORIGIN_"))})
			}
			return table(out, rows)
		},
	}.add(cmd, c)
	cmd.AddCommand(newServiceCreate(c), newServiceDelete(c))
	return cmd
}

func newServiceCreate(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a service",
		Long:    "Make a service, which outlives the controller. To make the same one again changes\nnothing.",
		Example: "  understudy services create api --pair web --vip 10.1.1.1 --port 80 --upstream a:80",
		Args:    cobra.ExactArgs(1),
	}
	s := &adminv1.Service{}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&s.Pair, "pair", "", "who serves it")
	flags.StringVar(&s.Vip, "vip", "", "the `address` that clients connect to")
	flags.StringVar(&s.Protocol, "protocol", "tcp", "tcp or udp")
	flags.Uint32Var(&s.Port, "port", 0, "the port that clients connect to")
	flags.StringVar(&s.Upstream, "upstream", "", "the application on each server, `host:port`")
	dry := flags.Bool("dry-run", false, "only show what would change")
	for _, name := range []string{"pair", "vip", "port", "upstream"} {
		cmd.MarkFlagRequired(name)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s.Name = args[0]
		return c.plan(cmd, *output, *dry, func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.Plan, error) {
			return admin.CreateService(ctx, &adminv1.CreateServiceRequest{Service: s, DryRun: *dry})
		})
	}
	return cmd
}

func newServiceDelete(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a service that was made here; its connections end",
		Long:  "Delete a service that was made with \"services create\". Its connections end.",
		Args:  cobra.ExactArgs(1),
	}
	output := outputFlag(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "only show what would change")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.plan(cmd, *output, *dry, func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.Plan, error) {
			return admin.DeleteService(ctx, &adminv1.DeleteServiceRequest{Name: args[0], DryRun: *dry})
		})
	}
	return cmd
}
