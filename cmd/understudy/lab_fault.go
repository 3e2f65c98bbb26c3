// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/topologies/lab"
)

func newLabFault() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fault KIND NODE",
		Short: "Break a server, or kill the controller or the switch",
		Long: `Break a server in one of these ways, and return when that is done:

  kill-agent  kill the agent's process
  kill-app    kill the local application, all of its processes
  cut-link    take the data link down, at the switch's end
  power-off   take both links down and kill every process
  freeze      stop every process (SIGSTOP); kernel and links stay alive

or kill a program of the switch's node, NODE being the switch:

  kill-controller  nothing but failover is missing until "lab heal NODE"
  kill-switch      its tables are lost; nobody hears anybody until "lab heal NODE"

With -o json: when, for comparison with the controller's records.`,
		Example: "  understudy lab fault power-off server1",
		Args:    cobra.ExactArgs(2),
	}
	var kinds []string
	for _, f := range append(lab.Faults(), lab.SwitchFaults()...) {
		kinds = append(kinds, string(f))
	}
	cmd.ValidArgsFunction = completeServers(1, kinds...)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := lab.ParseFault(args[0])
		if err != nil {
			return err
		}
		l, err := defaultLab(cmd)
		if err != nil {
			return err
		}
		in, err := l.Fault(f, args[1])
		if err != nil {
			return err
		}
		if *output != asTable {
			return writeValue(cmd.OutOrStdout(), *output, in)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s at %s, complete after %s\n",
			in.Fault, in.Server, in.At.Format("15:04:05.000000"), in.Done.Sub(in.At).Round(time.Microsecond))
		return err
	}
	return cmd
}
