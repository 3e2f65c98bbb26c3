// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
	"github.com/understudy-net/understudy/p4/softswitch"
)

type traceOptions struct {
	addr          string
	port          uint16
	watch         []uint
	follow        bool
	limit         uint32
	dropped       bool
	output        string
	ca, cert, key string
}

// traceTimeout bounds the wait for an answer about one frame.
const traceTimeout = 10 * time.Second

func traceCommand() *cobra.Command {
	var o traceOptions
	cmd := &cobra.Command{
		Use:   "trace [flags] FRAME | --follow",
		Short: "Tell what a packet meets in a running switch, and why it is dropped",
		Long: `trace asks a running understudy-switch what would happen to a frame that came in at
a port: parser states, tables with keys and entries, actions, copies, drops. Nothing is
sent or counted. FRAME is in hexadecimal, from the Ethernet header; - reads it from
standard input.

With --follow it tells of the packets that come in from now on instead.`,
		Example: `  understudy-switch trace --port 1 0200000000010200000000020800...
  understudy-switch trace --follow --dropped --on 1,2`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return trace(ctx, o, args, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.addr, "grpc-addr", "127.0.0.1:9559", "`ADDRESS` of the switch: HOST:PORT or unix:PATH")
	f.Uint16Var(&o.port, "port", 1, "`NUMBER` of the port where the frame comes in")
	f.BoolVar(&o.follow, "follow", false, "tell of packets that come in")
	f.UintSliceVar(&o.watch, "on", nil, "with --follow: only packets that come in at these ports, `NUMBER,...`")
	f.Uint32Var(&o.limit, "limit", 0, "with --follow: end after so many packets")
	f.BoolVar(&o.dropped, "dropped", false, "with --follow: only packets of which something was dropped")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	f.StringVar(&o.ca, "ca", "", "`FILE` of the authority that signed the switch's certificate, PEM; without it TLS is not used")
	f.StringVar(&o.cert, "cert", "", "certificate `FILE` to show to the switch, PEM")
	f.StringVar(&o.key, "key", "", "private key `FILE` to that, PEM")
	return cmd
}

func trace(ctx context.Context, o traceOptions, args []string, in io.Reader, out io.Writer) error {
	show, err := showTrace(o.output, out)
	if err != nil {
		return err
	}
	switch {
	case o.follow && len(args) > 0:
		return errors.New("--follow and a frame contradict each other: leave one out")
	case !o.follow && len(args) == 0:
		return errors.New("no frame: give one in hexadecimal, or - to read it, or --follow")
	case !o.follow && (len(o.watch) > 0 || o.limit > 0 || o.dropped):
		return errors.New("--on, --limit and --dropped need --follow")
	}
	var frame []byte
	if !o.follow {
		if frame, err = readFrame(args[0], in); err != nil {
			return err
		}
	}
	secure, err := o.credentials()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(o.addr, grpc.WithTransportCredentials(secure))
	if err != nil {
		return fmt.Errorf("--grpc-addr: %w", err)
	}
	defer conn.Close()
	client := switchv1.NewTracesClient(conn)
	if !o.follow {
		ctx, cancel := context.WithTimeout(ctx, traceTimeout)
		defer cancel()
		t, err := client.Trace(ctx, &switchv1.TraceRequest{Port: uint32(o.port), Frame: frame})
		if err != nil {
			return fmt.Errorf("%s: %s", o.addr, status.Convert(err).Message())
		}
		return show(t)
	}
	r := &switchv1.WatchRequest{Limit: o.limit, Dropped: o.dropped}
	for _, p := range o.watch {
		r.Ports = append(r.Ports, uint32(p))
	}
	stream, err := client.Watch(ctx, r)
	if err != nil {
		return fmt.Errorf("%s: %s", o.addr, status.Convert(err).Message())
	}
	for {
		t, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("%s: %s", o.addr, status.Convert(err).Message())
		}
		if err := show(t); err != nil {
			return err
		}
	}
}

// showTrace returns what prints a trace.
func showTrace(format string, out io.Writer) (func(*switchv1.PacketTrace) error, error) {
	switch format {
	case "text":
		return func(t *switchv1.PacketTrace) error {
			_, err := io.WriteString(out, softswitch.FormatTrace(t))
			return err
		}, nil
	case "json":
		return func(t *switchv1.PacketTrace) error {
			b, err := protojson.Marshal(t)
			if err == nil {
				_, err = out.Write(append(b, '\n'))
			}
			return err
		}, nil
	}
	return nil, fmt.Errorf("--output %q: want text or json", format)
}

// readFrame reads a frame in hexadecimal; spaces, line ends and colons do not matter.
func readFrame(arg string, in io.Reader) ([]byte, error) {
	if arg == "-" {
		b, err := io.ReadAll(io.LimitReader(in, 8*softswitch.MaxFrame))
		if err != nil {
			return nil, err
		}
		arg = string(b)
	}
	digits := strings.NewReplacer(" ", "", "\n", "", "\r", "", "\t", "", ":", "").Replace(arg)
	frame, err := hex.DecodeString(strings.TrimPrefix(digits, "0x"))
	if err != nil || len(frame) == 0 {
		return nil, errors.New("the frame is not hexadecimal: give an even number of digits")
	}
	return frame, nil
}

func (o *traceOptions) credentials() (credentials.TransportCredentials, error) {
	if o.ca == "" {
		if o.cert != "" || o.key != "" {
			return nil, errors.New("--cert and --key need --ca")
		}
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !c.RootCAs.AppendCertsFromPEM(bytes.TrimSpace(pem)) {
		return nil, fmt.Errorf("--ca: %s has no certificate in PEM form", o.ca)
	}
	if (o.cert == "") != (o.key == "") {
		return nil, errors.New("--cert and --key belong together: give both")
	}
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return nil, fmt.Errorf("--cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c), nil
}
