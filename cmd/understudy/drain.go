// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// drainTimeout is how long drain waits for connections that nobody else holds.
const drainTimeout = time.Minute

func newDrain(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain SERVER",
		Short: "Put a server out of service without losing a connection",
		Long: `Put a server out of service: it gets no new role. If it is active it leaves as soon
as the backup holds all its connections; this command waits for that. What began
before the backup came has to end first. Refused while no backup follows or joins,
unless forced. It stays out of service until "undrain", also when the controller is
restarted.`,
		Example: "  understudy drain server1\n  understudy drain server1 --timeout 10m",
		Args:    cobra.ExactArgs(1),
	}
	output := outputFlag(cmd)
	force := cmd.Flags().Bool("force", false, "leave at once: connections may end, and nobody may be left to serve")
	timeout := cmd.Flags().Duration("timeout", drainTimeout, "how long to wait; the server stays drained after it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.administer(cmd, *output, args[0], *timeout, func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.ServerChange, error) {
			change, err := admin.DrainServer(ctx, &adminv1.DrainServerRequest{Server: args[0], Force: *force})
			if status.Code(err) == codes.DeadlineExceeded {
				return nil, fmt.Errorf("%s is drained, but has not left within %v: it leaves when the backup holds all its connections; "+
					"see understudy pairs, and wait with the same command, or end it with --force", args[0], *timeout)
			}
			return change, err
		})
	}
	return cmd
}

func newFence(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fence SERVER",
		Short: "Have a server not heard any more, at once",
		Long: `Have a server not heard any more, at once, whatever it says: for one that
misbehaves. The backup takes over; connections that only the fenced server holds
end. Refused while no backup could take over, unless forced. It stays so until
"undrain", also when the controller is restarted.`,
		Example: "  understudy fence server1",
		Args:    cobra.ExactArgs(1),
	}
	output := outputFlag(cmd)
	force := cmd.Flags().Bool("force", false, "even if nobody is left to serve")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.administer(cmd, *output, args[0], callTimeout, func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.ServerChange, error) {
			return admin.FenceServer(ctx, &adminv1.FenceServerRequest{Server: args[0], Force: *force})
		})
	}
	return cmd
}

func newUndrain(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "undrain SERVER",
		Short:   "Put a server that was drained or fenced into service again",
		Long:    "Put a server that was drained or fenced into service again: it joins as the backup\nwhen it is well. One that is in service stays so.",
		Example: "  understudy undrain server1",
		Args:    cobra.ExactArgs(1),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.administer(cmd, *output, args[0], callTimeout, func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.ServerChange, error) {
			return admin.UndrainServer(ctx, &adminv1.UndrainServerRequest{Server: args[0]})
		})
	}
	return cmd
}

// administer asks for a change of a server, and says what became of it.
func (c *controller) administer(cmd *cobra.Command, output format, server string, timeout time.Duration,
	ask func(context.Context, adminv1.AdminClient) (*adminv1.ServerChange, error)) error {
	return c.call(cmd.Context(), timeout, func(ctx context.Context, admin adminv1.AdminClient) error {
		change, err := ask(ctx, admin)
		if err != nil {
			return err
		}
		if output != asTable {
			return writeAs(cmd.OutOrStdout(), output, change)
		}
		text := server
		for _, s := range change.GetPair().GetServers() {
			if s.GetName() == server {
				text += " is " + adminName(s.GetAdminState())
			}
		}
		if f := change.GetFailover(); f != nil {
			text += fmt.Sprintf("; %s is active, %s was; epoch %d, written within %s", f.GetTo(), f.GetFrom(), f.GetEpoch(), ms(f.GetDecideToWritten().AsDuration()))
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
		return err
	})
}

// adminName is an administrative state for people.
func adminName(a adminv1.AdminState) string {
	switch a {
	case adminv1.AdminState_ADMIN_STATE_DRAINED:
		return "drained"
	case adminv1.AdminState_ADMIN_STATE_FENCED:
		return "fenced by an operator"
	}
	return "in service"
}
