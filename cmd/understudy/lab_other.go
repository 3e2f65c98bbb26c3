// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newLab(func(string) string) *cobra.Command {
	return &cobra.Command{
		Use:   "lab",
		Short: "Run Understudy in network namespaces on this host (Linux only)",
		Long:  "The lab makes network namespaces. It needs Linux.",
		RunE:  func(*cobra.Command, []string) error { return errors.New("the lab needs Linux") },
	}
}
