// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/internal/version"
)

// Where the controller is looked for, in this order.
const (
	addressVariable = "UNDERSTUDY_CONTROLLER"
	labSocket       = "/run/understudy/lab/controller.sock"
	localController = "localhost:9403"
)

// newRoot returns the whole command.
func newRoot(getenv func(string) string) *cobra.Command {
	root := &cobra.Command{
		Use:   "understudy",
		Short: "Operate Understudy: connections that survive the death of their server",
		Long: `Understudy makes live TCP and HTTP connections survive the death of their
server. This command asks the controller how things are, tells it what to do, and
runs a laboratory of network namespaces on this host.`,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		// Without a command there is nothing to do; a wrong one is an error.
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	c := &controller{}
	root.PersistentFlags().StringVar(&c.address, "address", defaultAddress(getenv, exists),
		`the controller's admin API, "host:port" or "unix:PATH"; by default
$`+addressVariable+`, else the lab's if there is one, else
`+localController)
	root.PersistentFlags().Lookup("address").DefValue = "" // it is said already
	root.AddCommand(
		newPairs(c), newServices(c), newSwitchOver(c), newFailovers(c), newWatch(c),
		newConfig(c), newApply(c), newConfirm(c), newRollBack(c),
		newLab(), newVersion(),
	)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return seeHelp(cmd, err) })
	sayUsage(root)
	return root
}

// seeHelp adds to an error about the command line where to read how it is right.
func seeHelp(cmd *cobra.Command, err error) error {
	return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
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

// defaultAddress says which controller is meant if none is named.
func defaultAddress(getenv func(string) string, exists func(string) bool) string {
	if a := getenv(addressVariable); a != "" {
		return a
	}
	if exists(labSocket) {
		return "unix:" + labSocket
	}
	return localController
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
