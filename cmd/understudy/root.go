// SPDX-License-Identifier: Apache-2.0

package main

import (
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
		Args:          cobra.NoArgs,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	c := &controller{}
	root.PersistentFlags().StringVar(&c.address, "address", defaultAddress(getenv, exists),
		`the controller's admin API, "host:port" or "unix:PATH"; by default
$`+addressVariable+`, else the lab's if there is one, else
`+localController)
	root.PersistentFlags().Lookup("address").DefValue = "" // it is said already
	root.AddCommand(
		newPairs(c), newSwitchOver(c), newFailovers(c), newWatch(c),
		newLab(), newVersion(),
	)
	return root
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
