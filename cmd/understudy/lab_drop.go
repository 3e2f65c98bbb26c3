// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func newLabDrop() *cobra.Command {
	return &cobra.Command{
		Use:   "drop SERVER N",
		Short: "Make the switch drop one copy in N toward a server; 0 ends it",
		Long: `Make the switch drop, at random, one in N of the copies of client packets that it
sends to a server; 0 ends that. Other packets are not touched.`,
		Example:           "  understudy lab drop server2 50\n  understudy lab drop server2 0",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeServers(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseUint(args[1], 10, 32)
			if err != nil {
				return fmt.Errorf("%q is no number of packets", args[1])
			}
			l, err := defaultLab(cmd)
			if err != nil {
				return err
			}
			return l.Drop(cmd.Context(), args[0], uint32(n))
		},
	}
}
