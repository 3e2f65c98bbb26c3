// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/internal/version"
)

// newRoot returns the whole command.
func newRoot(getenv func(string) string) *cobra.Command {
	root := &cobra.Command{
		Use:   "understudy",
		Short: "Operate Understudy: connections that survive the death of their server",
		Long: `Understudy makes live TCP and HTTP connections survive the death of their
server. This command asks the controller how things are, tells it what to do, and
runs a laboratory of network namespaces on this host.` + exitHelp,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		// Without a command there is nothing to do; a wrong one is an error.
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	c := &controller{getenv: getenv, exists: exists}
	c.given.flags(root.PersistentFlags())
	c.addressGiven = func() bool { return root.PersistentFlags().Changed("address") }
	root.AddCommand(
		newPairs(c), newSwitches(c), newPeers(c), newServices(c), newServers(c), newFailovers(c), newWatch(c),
		newSwitchOver(c), newDrain(c), newFence(c), newUndrain(c),
		newConfig(c), newApply(c), newConfirm(c), newRollBack(c),
		newDoctor(c), newSupportBundle(c), newLogLevel(c), newCerts(), newLab(getenv), newVersion(),
	)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return seeHelp(cmd, err) })
	sayUsage(root)
	return root
}

// seeHelp adds to an error about the command line where to read how it is right.
func seeHelp(cmd *cobra.Command, err error) error {
	return withCode(exitUsage, fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
}

// sayUsage has a command and all below it say so when arguments are wrong.
func sayUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return seeHelp(cmd, err)
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		sayUsage(c)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
