// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"path/filepath"

	"github.com/spf13/cobra"
)

func newLabPlan(getenv func(string) string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print what the lab would make of a topology, and make nothing",
		Long: `Print as JSON what there is to build, write and start for a topology: nodes and
links, files and processes. Another runner (topologies/mininet) makes the same
network of it by its own means.`,
		Example: "  understudy lab plan --run-dir /run/understudy/mininet --topology my.yaml",
		Args:    cobra.NoArgs,
	}
	given := topologyFlags(cmd, getenv)
	dir := cmd.Flags().String("run-dir", "", "the `directory` below which everything is to be written (default: the lab's)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, _, topologyDir, err := given.read()
		if err != nil {
			return err
		}
		l, err := defaultLab(cmd)
		if err != nil {
			return err
		}
		if *dir != "" {
			if l.RunDir, err = filepath.Abs(*dir); err != nil {
				return err
			}
		}
		p, err := l.Plan(t, topologyDir)
		if err != nil {
			return err
		}
		return writeValue(cmd.OutOrStdout(), asJSON, p)
	}
	return cmd
}
