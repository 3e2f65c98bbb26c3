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

func newSwitches(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "switches",
		Short: "Show the switches, and whether the controller is in charge of them",
		Long: `Show the switches: where they are, how the session with them is (connecting,
standby while another controller is in charge, syncing, ready), and how much they
are known to hold.`,
		Example: "  understudy switches\n  understudy switches --watch",
		Args:    cobra.NoArgs,
	}
	lister[*adminv1.ListSwitchesResponse]{
		once: func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.ListSwitchesResponse, error) {
			return admin.ListSwitches(ctx, &adminv1.ListSwitchesRequest{})
		},
		watch: func(ctx context.Context, admin adminv1.AdminClient) (receiver[*adminv1.ListSwitchesResponse], error) {
			return admin.WatchSwitches(ctx, &adminv1.ListSwitchesRequest{})
		},
		table: func(out io.Writer, list *adminv1.ListSwitchesResponse) error {
			rows := [][]string{{"SWITCH", "ADDRESS", "DEVICE", "SESSION", "ENTRIES", "GROUPS"}}
			for _, s := range list.GetSwitches() {
				rows = append(rows, []string{s.GetName(), s.GetAddress(), fmt.Sprint(s.GetDeviceId()), s.GetState(),
					fmt.Sprint(s.GetEntries()), fmt.Sprint(s.GetGroups())})
			}
			return table(out, rows)
		},
	}.add(cmd, c)
	return cmd
}

func newPeers(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "peers",
		Short:   "Show the BGP peers, and what they are told",
		Long:    "Show the BGP peers, whether the sessions with them are established, and the\nprefixes that are announced to them.",
		Example: "  understudy peers",
		Args:    cobra.NoArgs,
	}
	lister[*adminv1.ListPeersResponse]{
		once: func(ctx context.Context, admin adminv1.AdminClient) (*adminv1.ListPeersResponse, error) {
			return admin.ListPeers(ctx, &adminv1.ListPeersRequest{})
		},
		watch: func(ctx context.Context, admin adminv1.AdminClient) (receiver[*adminv1.ListPeersResponse], error) {
			return admin.WatchPeers(ctx, &adminv1.ListPeersRequest{})
		},
		table: func(out io.Writer, list *adminv1.ListPeersResponse) error {
			rows := [][]string{{"PEER", "ADDRESS", "ASN", "STATE"}}
			for _, p := range list.GetPeers() {
				rows = append(rows, []string{p.GetName(), p.GetAddress(), fmt.Sprint(p.GetAsn()), p.GetState()})
			}
			if err := table(out, rows); err != nil {
				return err
			}
			announced := "nothing"
			if len(list.GetRoutes()) > 0 {
				announced = strings.Join(list.GetRoutes(), ", ")
			}
			_, err := fmt.Fprintf(out, "\nannounced: %s\n", announced)
			return err
		},
	}.add(cmd, c)
	return cmd
}
