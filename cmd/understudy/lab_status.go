// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import "github.com/spf13/cobra"

func newLabStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the lab: addresses, processes, roles, files",
		Long: `Show the lab's nodes with their addresses, processes and roles, where the admin
API is, and where state and logs are. Fails if the lab is not up.`,
		Example: "  understudy lab status\n  understudy lab status -o json",
		Args:    cobra.NoArgs,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := defaultLab(cmd)
		if err != nil {
			return err
		}
		s, err := l.Status(cmd.Context())
		if err != nil {
			return err
		}
		if *output != asTable {
			return writeValue(cmd.OutOrStdout(), *output, s)
		}
		return s.Write(cmd.OutOrStdout())
	}
	return cmd
}
