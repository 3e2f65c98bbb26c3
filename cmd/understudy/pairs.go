// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/topologies/lab"
)

func newPairs(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pairs [PAIR]",
		Short: "Show pairs: who is active, who knows the lines",
		Long: `Show every pair of servers, or one: its state, its epoch, how many connections
its active server has and how many of them the backup holds too; and its servers.`,
		Example: "  understudy pairs\n  understudy pairs web -o json\n  understudy pairs --watch",
		Args:    cobra.MaximumNArgs(1),
	}
	request := func() *adminv1.ListPairsRequest {
		return &adminv1.ListPairsRequest{Pair: strings.Join(cmd.Flags().Args(), "")}
	}
	lister[*adminv1.ListPairsResponse]{
		once: func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.ListPairsResponse, error) {
			return admin.ListPairs(ctx, request())
		},
		watch: func(ctx context.Context, admin adminv1.AdminClient) (receiver[*adminv1.ListPairsResponse], error) {
			return admin.WatchPairs(ctx, request())
		},
		table: func(out io.Writer, list *adminv1.ListPairsResponse) error {
			return writePairs(out, list.GetPairs(), time.Now())
		},
	}.add(cmd, c)
	return cmd
}

func writePairs(out io.Writer, pairs []*adminv1.Pair, now time.Time) error {
	rows := [][]string{{"PAIR", "STATE", "EPOCH", "CONNECTIONS", "PROTECTED", "SERVICES"}}
	servers := 0
	for _, p := range pairs {
		var services []string
		for _, s := range p.GetServices() {
			services = append(services, net.JoinHostPort(s.GetVip(), strconv.Itoa(int(s.GetPort())))+"/"+s.GetProtocol())
		}
		rows = append(rows, []string{
			p.GetName(), lab.StateName(p.GetState()), fmt.Sprint(p.GetEpoch()),
			fmt.Sprint(p.GetConnections()), fmt.Sprint(p.GetProtected()), strings.Join(services, ", "),
		})
		servers += len(p.GetServers())
	}
	if err := table(out, rows); err != nil || servers == 0 {
		return err
	}
	if _, err := fmt.Fprintln(out); err != nil {
		return err
	}
	return writeServers(out, pairs, now)
}

func writeServers(out io.Writer, pairs []*adminv1.Pair, now time.Time) error {
	rows := [][]string{{"PAIR", "SERVER", "ROLE", "AGENT", "APPLICATION", "LAST HEARTBEAT"}}
	for _, p := range pairs {
		for _, s := range p.GetServers() {
			heartbeat := ""
			if t := s.GetLastHeartbeat(); t != nil {
				heartbeat = now.Sub(t.AsTime()).Round(time.Millisecond).String() + " ago"
			}
			role := lab.RoleName(s.GetRole())
			if a := s.GetAdminState(); a > adminv1.AdminState_ADMIN_STATE_IN_SERVICE {
				role = strings.TrimPrefix(role+", "+adminName(a), ", ")
			}
			rows = append(rows, []string{
				p.GetName(), s.GetName(), role,
				either(s.GetAttached(), "attached", "gone"), either(s.GetApplicationUp(), "up", "down"), heartbeat,
			})
		}
	}
	return table(out, rows)
}

func either(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}
