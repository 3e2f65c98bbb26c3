// SPDX-License-Identifier: Apache-2.0

// understudy-controller decides which server of a pair is active, and tells the
// switch and the servers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/controller"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/desired"
	"github.com/understudy-net/understudy/controller/p4rt"
	"github.com/understudy-net/understudy/controller/store"
	"github.com/understudy-net/understudy/internal/latency"
	"github.com/understudy-net/understudy/internal/systemd"
	"github.com/understudy-net/understudy/internal/version"
	"github.com/understudy-net/understudy/p4"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes, so that a script can tell them apart.
const (
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 3
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command(stdout, stderr)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	var faults config.Faults
	var failed failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &faults):
		for _, f := range faults {
			fmt.Fprintln(stderr, f)
		}
		return exitConfig
	case errors.As(err, &failed):
		fmt.Fprintln(stderr, "understudy-controller:", failed.err)
		return exitFailed
	}
	fmt.Fprintf(stderr, "understudy-controller: %v; see understudy-controller --help\n", err)
	return exitUsage
}

// failure is an error that is not about how the command was called.
type failure struct{ err error }

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

func command(stdout, stderr io.Writer) *cobra.Command {
	var file, level, logFormat string
	root := &cobra.Command{
		Use:   "understudy-controller --config FILE",
		Short: "Decide which server of a pair is active",
		Long: `understudy-controller keeps live TCP connections alive when their server dies.
It watches the servers of each pair, decides which one is active, and flips one
entry in a P4 switch when the active one fails.`,
		Args:          cobra.NoArgs,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return errors.New("no configuration; name one with --config FILE")
			}
			logger, at, err := newLogger(stderr, level, logFormat)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), file, logger, at)
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.Flags().StringVarP(&file, "config", "c", "", "configuration `FILE`")
	root.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error; understudy log-level changes it")
	root.Flags().StringVar(&logFormat, "log-format", "text", "text or json")
	root.AddCommand(check(stdout),
		print(stdout, "schema", "Print the JSON schema of the configuration, for editors", config.Schema),
		print(stdout, "example", "Print a configuration that has everything, with comments", config.Example))
	return root
}

func check(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration and say everything that is wrong with it",
		Long: `check reads a configuration as the controller would, and does nothing else. Every
fault is one line, FILE:line: what; what to do.

Exit codes: 0 the file is valid, 1 it cannot be read, 2 the command line is wrong,
3 the file has faults.`,
		Example: "  understudy-controller check /etc/understudy/controller.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := load(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(stdout, "%s: valid: %d pairs, %d services\n", args[0], len(cfg.Pairs), len(cfg.Services))
			return nil
		},
	}
}

// print is a command that prints a text that the program has with it.
func print(stdout io.Writer, name, short string, text []byte) *cobra.Command {
	return &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := stdout.Write(text)
			return err
		},
	}
}

func load(file string) (*config.Config, error) {
	cfg, err := config.Load(file)
	var faults config.Faults
	if err != nil && !errors.As(err, &faults) {
		return nil, failure{err}
	}
	return cfg, err
}

// open finds the configuration to begin with: see package desired.
func open(file string, logger *slog.Logger) (*desired.Desired, *store.Store, error) {
	text, readErr := config.ReadFile(file)
	dir := desired.StateDir(text)
	if _, err := os.Stat(filepath.Join(dir, store.File)); err != nil {
		// Nothing was in force before. What is wrong leaves no trace.
		if readErr != nil {
			return nil, nil, failure{readErr}
		}
		if _, err := config.Parse(file, text); err != nil {
			return nil, nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, failure{fmt.Errorf("state_dir: %w; create it, or name another one", err)}
	}
	s, err := store.Open(dir)
	if err != nil {
		return nil, nil, failure{err}
	}
	d, err := desired.Open(desired.Options{File: file, Store: s, Logger: logger, Now: time.Now})
	if err != nil {
		s.Close()
		var faults config.Faults
		if !errors.As(err, &faults) {
			err = failure{err}
		}
		return nil, nil, err
	}
	return d, s, nil
}

func serve(ctx context.Context, file string, logger *slog.Logger, level *slog.LevelVar) error {
	latency.Prepare()
	d, kept, err := open(file, logger)
	if err != nil {
		return err
	}
	defer kept.Close()
	cfg := d.Config()
	manager := systemd.New(logger)
	defer manager.Stopping()
	var c *controller.Controller
	c, err = controller.New(controller.Options{
		Desired:  d,
		Pipeline: p4rt.Pipeline{Info: p4.Info(), Device: p4.JSON()},
		Logger:   logger,
		Level:    level,
		Ready: func() {
			manager.Status("in charge of switch " + cfg.Switch.Name)
			logger.Info("ready", "agents", c.AgentAddr(), "admin", c.AdminAddr())
		},
	})
	if err != nil {
		return failure{err}
	}
	logger.Info("starting", "version", version.String(), "config", file, "config_version", d.Status().Version, "switch", cfg.Switch.Address)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	var reloads sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	reloads.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				manager.Reloading()
				d.Reload(ctx, "SIGHUP") // logs what it does
				manager.Ready()
			}
		}
	})
	// Not waited for: what is stuck keeps this from ending, too.
	go manager.Watch(ctx, c.Alive)
	// It serves; that a switch is away, or another controller in charge of it, is no
	// reason to start it again.
	manager.Status("waiting for switch " + cfg.Switch.Name)
	manager.Ready()
	err = c.Run(ctx)
	cancel()
	signal.Stop(hangups)
	reloads.Wait()
	if err != nil {
		return failure{err}
	}
	logger.Info("stopped")
	return nil
}

// newLogger returns a logger, and its level, which may be changed.
func newLogger(w io.Writer, level, format string) (*slog.Logger, *slog.LevelVar, error) {
	l := new(slog.LevelVar)
	if err := l.UnmarshalText([]byte(strings.ToLower(level))); err != nil {
		return nil, nil, fmt.Errorf("--log-level: %q is not a level; use debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), l, nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), l, nil
	}
	return nil, nil, fmt.Errorf("--log-format: %q is not a format; use text or json", format)
}
