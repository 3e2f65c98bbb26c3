// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/internal/latency"
	"github.com/understudy-net/understudy/topologies/lab"
)

// errNotClean is the demo's verdict; the report has the details.
var errNotClean = errors.New("not clean: clients noticed, or a fault was not answered (--keep leaves the lab up, with its logs)")

func newLabDemo(getenv func(string) string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show every fault under load, and what clients notice",
		Long: `Start the lab, keep connections busy, do each fault to the server that is active
at that moment, bring it back, and show a table; then end the lab. The client
checks every byte of every reply.

  max stall  the longest time in which a connection with an outstanding request
             made no progress, around the fault
  detect     from the fault until the controller had decided
  flip       from there until the switch had written

With --rounds the load goes on while the server comes back and adopts the
connections that live; then the next fault strikes whoever is active. The table
has the sums of all rounds and the worst times.

The exit status is 0 only if no request failed, no connection was reset and no byte
was wrong.`,
		Example: "  understudy lab demo\n  understudy lab demo --faults kill-agent,power-off --connections 20 -o json\n  understudy lab demo --target backup\n  understudy lab demo --rounds 10 --connections 1000",
		Args:    cobra.NoArgs,
	}
	var names []string
	for _, f := range lab.Faults() {
		names = append(names, string(f))
	}
	output := outputFlag(cmd)
	given := topologyFlags(cmd, getenv)
	flags := cmd.Flags()
	connections := flags.Int("connections", 50, "connections of the load")
	faults := flags.StringSlice("faults", names, "which faults, in this order")
	target := flags.String("target", "active", "whom to strike: active or backup")
	drop := flags.Uint32("drop-copies", 0, "drop one in `N` copies toward the backup, until the fault")
	keep := flags.Bool("keep", false, "leave the lab up")
	rounds := flags.Int("rounds", 0, "do each fault `N` times, under a load that goes on while the server comes back")
	duration := flags.Duration("duration", lab.DefaultDuration, "of the load, for each fault")
	cmd.RegisterFlagCompletionFunc("faults", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("target", cobra.FixedCompletions([]string{"active", "backup"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		latency.Prepare()
		cfg, err := demoConfig(*connections, *faults, *target)
		if err != nil {
			return err
		}
		cfg.DropCopies, cfg.Duration, cfg.Rounds = *drop, *duration, *rounds
		switch {
		case *rounds < 0:
			return errors.New("--rounds: want at least 1, or 0 for one fault without a server coming back")
		case *rounds > 0 && *drop > 0:
			return errors.New("--rounds and --drop-copies: want only one of them")
		}
		t, source, dir, err := given.read()
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
		if !*keep {
			defer func() { err = errors.Join(err, l.Down()) }()
		}
		report, err := l.Demo(cmd.Context(), cfg)
		if *output != asTable {
			err = errors.Join(err, writeValue(cmd.OutOrStdout(), *output, report), report.WriteProblems(cmd.ErrOrStderr()))
		} else {
			err = errors.Join(err, report.Write(cmd.OutOrStdout()))
		}
		if err == nil && !report.Clean() {
			err = errNotClean
		}
		if err != nil && !*keep && cmd.Context().Err() == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "\n%s\n", l.LogTails(15))
		}
		return err
	}
	return cmd
}

// demoConfig checks what the flags say.
func demoConfig(connections int, faults []string, target string) (lab.DemoConfig, error) {
	cfg := lab.DemoConfig{Connections: connections}
	if connections < 1 {
		return cfg, errors.New("--connections: want at least 1")
	}
	switch target {
	case "active":
	case "backup":
		cfg.StrikeBackup = true
	default:
		return cfg, fmt.Errorf("--target: want active or backup, not %q", target)
	}
	for _, name := range faults {
		f, err := lab.ParseFault(name)
		if err != nil {
			return cfg, fmt.Errorf("--faults: %w", err)
		}
		cfg.Faults = append(cfg.Faults, f)
	}
	if len(cfg.Faults) == 0 {
		return cfg, errors.New("--faults: none")
	}
	return cfg, nil
}
