// SPDX-License-Identifier: Apache-2.0

// Command understudy-switch is a software switch: it executes a P4 program, as
// p4c's bmv2 backend compiled it, on Linux network interfaces, and serves
// P4Runtime. Its flags are those of simple_switch_grpc where they mean the same.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
	"github.com/understudy-net/understudy/internal/latency"
	"github.com/understudy-net/understudy/internal/systemd"
	"github.com/understudy-net/understudy/internal/version"
	"github.com/understudy-net/understudy/p4/softswitch"
)

func main() {
	cmd := command()
	cmd.SetArgs(joinTarget(os.Args[1:]))
	if err := cmd.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "understudy-switch:", err)
		os.Exit(1)
	}
}

// joinTarget removes the "--" behind which simple_switch_grpc wants the flags of its
// target, so that the same command line does for both.
func joinTarget(args []string) []string {
	if i := slices.Index(args, "--"); i >= 0 {
		return slices.Delete(slices.Clone(args), i, i+1)
	}
	return args
}

type options struct {
	interfaces []string
	deviceID   uint64
	addr       string
	cpuPort    uint16
	dropPort   uint16
	p4info     string
	noP4       bool
	logLevel   string
	faults     bool
	trace      bool
	tls        tlsOptions
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "understudy-switch [flags] [PROGRAM.json]",
		Short: "A software switch that executes P4 programs and serves P4Runtime",
		Long: `understudy-switch executes a P4 program, as p4c's bmv2 backend compiled it for
v1model, on Linux network interfaces, and serves P4Runtime.

Without PROGRAM.json it drops all packets until a controller has set a pipeline.
SIGUSR1 logs what the ports have done so far; SIGINT and SIGTERM end it.`,
		Example: `  understudy-switch -i 1@veth1 -i 2@veth2 --cpu-port 510
  understudy-switch -i 1@veth1 --p4info prog.p4info.txtpb prog.json`,
		Args:          cobra.MaximumNArgs(1),
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return run(ctx, o, args)
		},
	}
	cmd.SetContext(context.Background())
	f := cmd.Flags()
	f.StringArrayVarP(&o.interfaces, "interface", "i", nil, "attach `PORT@INTERFACE`, such as 1@veth1 (repeatable)")
	f.Uint64Var(&o.deviceID, "device-id", 0, "P4Runtime device `ID`")
	f.StringVar(&o.addr, "grpc-server-addr", "0.0.0.0:9559", "serve P4Runtime on `ADDRESS`: IP:PORT or unix:PATH")
	f.Uint16Var(&o.cpuPort, "cpu-port", 510, "port `NUMBER` of the controllers, 0 for none")
	f.Uint16Var(&o.dropPort, "drop-port", 511, "port `NUMBER` that drops packets")
	f.StringVar(&o.p4info, "p4info", "", "P4Info `FILE` of PROGRAM.json, in text or binary form")
	f.BoolVar(&o.noP4, "no-p4", false, "start without a program (the default if none is given)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&o.tls.on, "grpc-server-ssl", false, "serve with TLS")
	f.StringVar(&o.tls.cert, "grpc-server-cert", "", "certificate `FILE` of the server, PEM")
	f.StringVar(&o.tls.key, "grpc-server-key", "", "private key `FILE` of the server, PEM")
	f.StringVar(&o.tls.ca, "grpc-server-cacert", "", "`FILE` of the authorities that sign clients' certificates, PEM")
	f.BoolVar(&o.tls.clients, "grpc-server-with-client-auth", false, "let only clients in that have a certificate of --grpc-server-cacert")
	f.BoolVar(&o.trace, "trace", false, "write to standard error what each packet meets; slow")
	f.BoolVar(&o.faults, "enable-fault-injection", false, "serve understudy.switchfault.v1.Faults too, for tests")
	cmd.AddCommand(traceCommand())
	cmd.CompletionOptions.DisableDefaultCmd = true
	return cmd
}

func run(ctx context.Context, o options, args []string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return fmt.Errorf("--log-level %q: want debug, info, warn or error", o.logLevel)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	secure, err := o.tls.config()
	if err != nil {
		return err
	}
	latency.Prepare()
	cfg := softswitch.Config{DeviceID: o.deviceID, CPUPort: o.cpuPort, DropPort: o.dropPort,
		FaultInjection: o.faults, TLS: secure, Log: log}
	if o.trace {
		cfg.Trace = func(t *switchv1.PacketTrace) { io.WriteString(os.Stderr, softswitch.FormatTrace(t)) }
	}

	switch {
	case len(args) == 1 && o.noP4:
		return errors.New("--no-p4 and a program contradict each other: leave one out")
	case len(args) == 1 && o.p4info == "":
		return errors.New("a program needs its P4Info: give --p4info FILE as well")
	case len(args) == 0 && o.p4info != "":
		return errors.New("--p4info needs a program: give PROGRAM.json as well")
	case len(args) == 1:
		device, err := readFile(args[0])
		if err != nil {
			return err
		}
		info, err := readFile(o.p4info)
		if err != nil {
			return err
		}
		if cfg.Pipeline, err = softswitch.LoadConfig(device, info); err != nil {
			return fmt.Errorf("%s: %w", o.p4info, err)
		}
	}
	var names []string
	for _, spec := range o.interfaces {
		number, name, err := parsePort(spec)
		if err != nil {
			return err
		}
		if slices.Contains(names, name) {
			return fmt.Errorf("--interface %q: %s is a port already: give each interface once", spec, name)
		}
		names = append(names, name)
		cfg.Ports = append(cfg.Ports, softswitch.Port{Number: number})
	}
	for i, name := range names {
		link, err := softswitch.OpenPacketLink(name, log)
		if err != nil {
			if errors.Is(err, os.ErrPermission) {
				return fmt.Errorf("%w: run as root or with CAP_NET_RAW and CAP_NET_ADMIN", err)
			}
			return err
		}
		cfg.Ports[i].Link = link
	}
	if os.Getenv("GOMAXPROCS") == "" {
		// A goroutine per port may be busy at the same time. With more room than
		// that, the kernel and not Go's scheduler decides who runs, and a packet or
		// a Write that comes in under full load waits microseconds instead of Go's
		// time slice of 10 ms.
		runtime.GOMAXPROCS(max(runtime.NumCPU(), len(cfg.Ports)+4))
	}
	if cfg.Listener, err = listen(o.addr); err != nil {
		return err
	}
	sw, err := softswitch.New(cfg)
	if err != nil {
		cfg.Listener.Close()
		if errors.Is(err, softswitch.ErrPipeline) {
			return fmt.Errorf("%s with --p4info %s: %w: give the two files that one run of p4c-bm2-ss wrote", args[0], o.p4info, err)
		}
		return err
	}
	manager := systemd.New(log)
	defer manager.Stopping()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	defer signal.Stop(usr1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ready := sw.Ready()
		for {
			select {
			case <-ready:
				ready = nil
				manager.Ready()
				log.Info("ready", "device", o.deviceID, "p4runtime", cfg.Listener.Addr().String(), "ports", len(cfg.Ports))
			case <-usr1:
				sw.LogStats()
			case <-ctx.Done():
				return
			}
		}
	}()
	err = sw.Run(ctx)
	cancel()
	<-done
	sw.LogStats()
	return err
}

// maxFile is more than any program takes.
const maxFile = 64 << 20

// readFile reads a file of at most maxFile bytes.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s has more than %d MB: it is no P4 program", name, maxFile>>20)
	}
	return b, nil
}

// parsePort reads PORT@INTERFACE.
func parsePort(spec string) (uint16, string, error) {
	num, name, ok := strings.Cut(spec, "@")
	n, err := strconv.ParseUint(num, 10, 16)
	if !ok || err != nil || name == "" {
		return 0, "", fmt.Errorf("--interface %q: want PORT@INTERFACE, such as 1@veth1", spec)
	}
	return uint16(n), name, nil
}

func listen(addr string) (net.Listener, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
		// A socket that a dead process left behind would be in the way.
		if fi, err := os.Stat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
			if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
				c.Close()
				return nil, fmt.Errorf("--grpc-server-addr: another process serves %s", path)
			}
			os.Remove(path)
		}
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("--grpc-server-addr: %w", err)
	}
	return l, nil
}
