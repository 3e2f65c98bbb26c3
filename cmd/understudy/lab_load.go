// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/internal/latency"
	"github.com/understudy-net/understudy/topologies/lab"
	"github.com/understudy-net/understudy/topologies/lab/load"
)

func newLabLoad() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Run the demo's load and its checks alone",
		Long: `Keep connections to the lab's first service busy from its client, check every byte
of every reply, and report. The application must be the lab's own (understudy lab
app). With --to, the load goes to any address where that listens, without a lab.

The exit status is 0 only if no request failed, no connection was reset and no byte
was wrong.`,
		Example: "  understudy lab load --duration 30s\n  understudy lab load --connections 12 --think 150ms --size 600000\n  understudy lab load --to 127.0.0.1:8080 -o json",
		Args:    cobra.NoArgs,
	}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	connections := flags.Int("connections", 50, "how many connections")
	duration := flags.Duration("duration", 10*time.Second, "how long; an interrupt ends it earlier")
	think := flags.Duration("think", load.DefaultThink, "mean time between a reply and the next request; negative: none")
	size := flags.Int("size", -1, "ask for replies of this many `bytes` only, instead of the demo's mix")
	to := flags.String("to", "", "an `address:port`, reached from here instead of from the lab's client")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		latency.Prepare()
		cfg := load.Config{Connections: *connections, Think: *think}
		if *size >= 0 {
			cfg.Mix = load.Uniform(*size)
		}
		if *connections < 1 {
			return errors.New("--connections: want at least 1")
		}
		defer lab.Hurry()()
		// The interrupt ends the load in good order.
		ctx := context.WithoutCancel(cmd.Context())
		var ld *load.Load
		if *to != "" {
			cfg.Host = *to
			cfg.Dial = func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", *to)
			}
			ld = load.Start(ctx, cfg)
		} else {
			l, err := defaultLab(cmd)
			if err != nil {
				return err
			}
			t, err := l.Topology()
			if err != nil {
				return err
			}
			if ld, err = l.Load(ctx, t, cfg); err != nil {
				return err
			}
		}
		begun := time.Now()
		select {
		case <-time.After(*duration):
		case <-cmd.Context().Done():
		}
		r := ld.Stop()
		return writeLoad(cmd.OutOrStdout(), *output, r, begun, time.Now())
	}
	return cmd
}
