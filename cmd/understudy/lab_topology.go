// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/topologies"
)

// switchVariable says which switch is meant where --switch is not given.
const switchVariable = "UNDERSTUDY_SWITCH"

// topologyGiven is the topology that a command line asks for.
type topologyGiven struct {
	file, target string
	getenv       func(string) string
}

func topologyFlags(cmd *cobra.Command, getenv func(string) string) *topologyGiven {
	g := &topologyGiven{getenv: getenv}
	flags := cmd.Flags()
	flags.StringVar(&g.file, "topology", "", "a topology file, YAML or JSON (default: one switch, two servers, one client)")
	flags.StringVar(&g.target, "switch", "", "which `switch`: embedded, or bmv2 (simple_switch_grpc, from the PATH); default: $"+switchVariable+", then what the topology says")
	cmd.MarkFlagFilename("topology", "yaml", "yml", "json")
	var targets []string
	for _, t := range topologies.Targets() {
		targets = append(targets, string(t))
	}
	cmd.RegisterFlagCompletionFunc("switch", cobra.FixedCompletions(targets, cobra.ShellCompDirectiveNoFileComp))
	return g
}

// read returns the topology, its source, and its directory.
func (g *topologyGiven) read() (*topologies.Topology, []byte, string, error) {
	t, source, err := topologies.Load(g.file)
	if err != nil {
		return nil, nil, "", err
	}
	if name := cmp.Or(g.target, g.getenv(switchVariable)); name != "" {
		target, err := topologies.ParseTarget(name)
		if err != nil {
			return nil, nil, "", fmt.Errorf("--switch: %w", err)
		}
		t.Retarget(target)
	}
	dir, err := filepath.Abs(filepath.Dir(g.file))
	return t, source, dir, err
}
