// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"net"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/topologies/lab/app"
)

func newLabApp() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "app",
		Short: "Be the lab's web server",
		Long: `Serve the lab's application: every reply carries a token of its own, from which its
body follows, so that two servers never give the same reply. The lab runs it on
each server; the load checks against it.

  /reply?size=N&pieces=N&delay=DURATION&chunked=1   a reply of that size (GET, POST)
  any other path with a size                        the same
  anything else                                     a line of text`,
		Args:   cobra.NoArgs,
		Hidden: true,
	}
	listen := cmd.Flags().String("listen", "127.0.0.1:8080", "where to listen, `address:port`")
	name := cmd.Flags().String("name", "app", "what to call this server in its replies")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ln, err := net.Listen("tcp", *listen)
		if err != nil {
			return err
		}
		return app.Serve(cmd.Context(), ln, *name)
	}
	return cmd
}
