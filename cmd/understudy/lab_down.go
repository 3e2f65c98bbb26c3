// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import "github.com/spf13/cobra"

func newLabDown() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab and leave nothing behind",
		Long: `End every process in the lab's namespaces, remove the namespaces, the links, the
mounts and the lab's directory. Works after a crash too, and is no error if there
is no lab.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := defaultLab(cmd)
			if err != nil {
				return err
			}
			return l.Down()
		},
	}
}
