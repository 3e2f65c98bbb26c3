// SPDX-License-Identifier: Apache-2.0

// Understudy-agent runs on each server of a pair and keeps both copies of every
// client connection identical. See README.md beside this file.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/credentials"

	"github.com/understudy-net/understudy/agent"
	"github.com/understudy-net/understudy/agent/bpf"
	"github.com/understudy-net/understudy/agent/config"
	"github.com/understudy-net/understudy/agent/conn"
	"github.com/understudy-net/understudy/agent/proxy"
	"github.com/understudy-net/understudy/internal/latency"
	"github.com/understudy-net/understudy/internal/pki"
	"github.com/understudy-net/understudy/internal/systemd"
	"github.com/understudy-net/understudy/internal/version"
)

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "understudy-agent:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var file, level, pinDir string
	var detach bool
	cmd := &cobra.Command{
		Use:   "understudy-agent --config FILE",
		Short: "keep this server's copy of every connection identical to the other server's",
		Long: `Understudy-agent runs on each server of a pair. It answers clients on the
services' virtual addresses, in front of the local application, and keeps both
copies of every connection identical, so that either server can go on alone.

The configuration is a YAML file:

  server: server1                      # this server's name, as the controller knows it
  controller: 172.31.255.1:9400        # where the controller listens for agents
  interface: eth0                      # towards the switch
  pin_dir: /sys/fs/bpf/understudy      # where the eBPF programs outlive this process
  replication_listen: 10.0.1.2:9402    # where the other server's agent reaches this one
  tls:                                 # who it is; made by "understudy certs issue server server1"
    cert: /etc/understudy/tls/server1.crt
    key: /etc/understudy/tls/server1.key
    ca: /etc/understudy/tls/ca.crt`,
		Args:          cobra.NoArgs,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if detach {
				if pinDir == "" {
					return errors.New("--detach needs --pin-dir, the pin_dir of the configuration")
				}
				return bpf.Detach(pinDir)
			}
			if file == "" {
				return errors.New("no configuration: give --config FILE, see --help")
			}
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return run(ctx, file, log)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file")
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().BoolVar(&detach, "detach", false, "remove the eBPF programs that an agent left in --pin-dir, and exit")
	cmd.Flags().StringVar(&pinDir, "pin-dir", "", "with --detach: the pin_dir of the configuration")
	return cmd
}

func run(ctx context.Context, file string, log *slog.Logger) error {
	latency.Prepare()
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	var creds credentials.TransportCredentials
	var source *pki.Source
	if cfg.TLS != nil {
		source, err = pki.Open(*cfg.TLS, log)
		if err != nil {
			return fmt.Errorf("%s: tls: %w", file, err)
		}
		creds = pki.ClientCredentials(source, pki.Controller)
	} else {
		log.Warn("the session with the controller and the replication stream are not secured: insecure is true")
	}
	if err := bpf.Probe(); err != nil {
		return fmt.Errorf("this kernel cannot do it: %w", err)
	}
	programs, err := bpf.Load(bpf.Config{Interface: cfg.Interface, PinDir: cfg.PinDir})
	if err != nil {
		return err
	}
	defer programs.Close()
	// What a process before this one left behind guards its dead connections; no
	// gate must wait for anybody on its behalf.
	old, err := programs.Services()
	if err != nil {
		return err
	}
	for _, s := range old {
		c, err := programs.Service(s)
		if err != nil {
			return err
		}
		c.Gate = false
		if err := programs.SetService(s, c); err != nil {
			return err
		}
	}
	injector, err := conn.NewInjector(programs)
	if err != nil {
		return err
	}
	defer injector.Close()
	off := map[string]bool{}
	for _, f := range cfg.Disable {
		off[f] = true
		log.Warn("a feature is off: connections may break", "feature", f)
	}
	watched := cfg.Interface
	if off["carrier"] {
		watched = ""
	}
	manager := systemd.New(log)
	defer manager.Stopping()
	return agent.New(agent.Config{
		Server: cfg.Server, Controller: cfg.Controller, Credentials: creds, Identity: source,
		ReplicationListen: cfg.ReplicationListen,
		Interface:         watched, Version: version.String(), Ready: manager.Ready, Log: log,
		Kernel:     &agent.LinuxKernel{Programs: programs, Injector: injector, Off: off},
		Proxy:      proxy.Config{SpoolDir: cfg.SpoolDir},
		NoAdoption: off["adopt"],
	}).Run(ctx)
}
