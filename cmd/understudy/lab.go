// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/topologies/lab"
)

func newLab(getenv func(string) string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run Understudy in network namespaces on this host",
		Long: `Run a topology on this host: a network namespace for every node, a virtual link
for every link, the switch, the controller, the agents and a web server in them.
While it is up, any program may be a client:

  ip netns exec us-client curl http://198.51.100.10/

The lab needs Linux 6.8 or later, and root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newLabUp(getenv), newLabDown(), newLabStatus(), newLabFault(), newLabHeal(),
		newLabDrop(), newLabDemo(getenv), newLabLoad(), newLabApp(), newLabPlan(getenv),
	)
	return cmd
}

// defaultLab returns the lab, with progress on the error output.
func defaultLab(cmd *cobra.Command) (*lab.Lab, error) {
	l, err := lab.Default()
	if err != nil {
		return nil, err
	}
	l.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
	return l, nil
}

// completeServers completes a server's name, if the lab is up.
func completeServers(skip int, before ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 && skip == 1 {
			return before, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) != skip {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		l, err := lab.Default()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return l.Servers(), cobra.ShellCompDirectiveNoFileComp
	}
}
