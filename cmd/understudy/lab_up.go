// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/topologies"
)

func newLabUp() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab; return when its pairs are duplex",
		Long: `Make the topology's namespaces and links, start all programs, and return when
every pair is duplex. If that fails, nothing is left behind, and the last lines of
the log of the program that failed are shown. Understudy's own programs are taken
from the directory of this one.`,
		Example: "  understudy lab up\n  understudy lab up --topology my.yaml",
		Args:    cobra.NoArgs,
	}
	file := topologyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, source, dir, err := readTopology(*file)
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

func topologyFlag(cmd *cobra.Command) *string {
	file := cmd.Flags().String("topology", "", "a topology file, YAML or JSON (default: one switch, two servers, one client)")
	cmd.MarkFlagFilename("topology", "yaml", "yml", "json")
	return file
}

// readTopology returns a topology, its source, and its directory.
func readTopology(file string) (*topologies.Topology, []byte, string, error) {
	t, source, err := topologies.Load(file)
	if err != nil {
		return nil, nil, "", err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	return t, source, dir, err
}
