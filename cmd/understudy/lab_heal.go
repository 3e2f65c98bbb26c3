// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import "github.com/spf13/cobra"

func newLabHeal() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "heal SERVER",
		Short: "Bring a server back, whatever was done to it",
		Long: `Bring a server back to full health: links up, processes continued or started
again, no copies dropped. Of the switch, which may be named in place of a server,
what was killed is started again. Returns when every pair is duplex.`,
		Example:           "  understudy lab heal server1",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeServers(0),
	}
	noWait := cmd.Flags().Bool("no-wait", false, "return when everything runs, before the pair is duplex")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := defaultLab(cmd)
		if err != nil {
			return err
		}
		return l.Heal(cmd.Context(), args[0], !*noWait)
	}
	return cmd
}
