// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/topologies"
)

func newLabUp(getenv func(string) string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab; return when its pairs are duplex",
		Long: `Make the topology's namespaces and links, start all programs, and return when
every pair is duplex. If that fails, nothing is left behind, and the last lines of
the log of the program that failed are shown. Understudy's own programs are taken
from the directory of this one.`,
		Example: "  understudy lab up\n  understudy lab up --topology my.yaml\n  understudy lab up --switch bmv2",
		Args:    cobra.NoArgs,
	}
	given := topologyFlags(cmd, getenv)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, source, dir, err := given.read()
		if err != nil {
			return err
		}
		l, err := defaultLab(cmd)
		if err != nil {
			return err
		}
		if err := l.Up(cmd.Context(), t, source, dir); err != nil {
			return err
		}
		client := l.Prefix + t.OfKind(topologies.Client)[0].Name
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "the lab is up; try: ip netns exec %s curl http://%s:%d/\n",
			client, t.Services[0].VIP, t.Services[0].Port)
		return err
	}
	return cmd
}
