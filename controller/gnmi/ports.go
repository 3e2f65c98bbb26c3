// SPDX-License-Identifier: Apache-2.0

package gnmi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	pb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// PortsOptions are what Ports need. Address and Changed are required.
type PortsOptions struct {
	// Switch is its name, for logs.
	Switch string
	// Address is host:port of the switch's gNMI server.
	Address string
	// Credentials are shown to the switch; nil is a connection in the clear.
	Credentials credentials.TransportCredentials
	// Changed is called with every port at the start of a session, and whenever one
	// changes, in the goroutine that reads it from the switch: it must not block. When
	// the session ends, it is called for every port with a status that is not known.
	Changed func(Port)
	// Logger may be nil.
	Logger *slog.Logger
	// Rand spreads the pauses between attempts; nil means a generator of its own.
	Rand *rand.Rand
	// MaxBackoff bounds the pause between attempts, 1 s by default. A switch without
	// gNMI is asked each Unsupported whether it has learnt it, 30 s by default.
	MaxBackoff, Unsupported time.Duration
	// Dial replaces the way to connect, for tests; nil means TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Status is where the subscription to a switch's ports stands.
type Status uint32

// The states of a subscription.
const (
	Connecting Status = iota
	// Subscribed: every port has been heard of, and changes are told as they come.
	Subscribed
	// Unsupported: the switch has no gNMI.
	Unsupported
)

func (s Status) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Subscribed:
		return "subscribed"
	case Unsupported:
		return "unsupported"
	}
	return fmt.Sprintf("status %d", uint32(s))
}

// Ports is a subscription to the state of one switch's ports: ON_CHANGE (gNMI
// specification, section 3.5.1.5.2) of
//
//	/interfaces/interface[name=*]/state/oper-status
//
// What P4Runtime calls an interface is asked for when its name is new.
type Ports struct {
	opts   PortsOptions
	status atomic.Uint32
	logged string // the last failure
}

// NewPorts does not connect.
func NewPorts(opts PortsOptions) *Ports {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Rand == nil {
		opts.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if opts.Credentials == nil {
		opts.Credentials = insecure.NewCredentials()
	}
	if opts.MaxBackoff == 0 {
		opts.MaxBackoff = time.Second
	}
	if opts.Unsupported == 0 {
		opts.Unsupported = 30 * time.Second
	}
	if opts.Dial == nil {
		opts.Dial = dialTCP
	}
	return &Ports{opts: opts}
}

// dialTCP lets the kernel notice within a few seconds that the other end is gone, as
// the session for P4Runtime does, and for the same reason not by pings of HTTP/2.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3,
	}}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", address)
}

func (p *Ports) String() string { return "port states of " + p.opts.Address }

// Status may be called from any goroutine.
func (p *Ports) Status() Status { return Status(p.status.Load()) }

const firstBackoff = 20 * time.Millisecond

// Run subscribes, and subscribes again, until ctx ends, which is not an error. When it
// returns every goroutine that it started has ended.
func (p *Ports) Run(ctx context.Context) error {
	pause := firstBackoff
	for {
		err := p.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if p.Status() == Subscribed {
			pause = firstBackoff
		}
		wait := pause/2 + time.Duration(p.opts.Rand.Int64N(int64(pause/2)+1))
		if status.Code(err) == codes.Unimplemented {
			p.status.Store(uint32(Unsupported))
			wait = p.opts.Unsupported
			p.say(slog.LevelInfo, "the switch does not tell of its ports by gNMI; links are judged by heartbeats and agents alone", err)
		} else {
			p.status.Store(uint32(Connecting))
			p.say(slog.LevelWarn, "the switch's ports are not heard of by gNMI", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		pause = min(2*pause, p.opts.MaxBackoff)
	}
}

// say logs a failure, unless it is the one before.
func (p *Ports) say(level slog.Level, what string, err error) {
	if text := what + err.Error(); text != p.logged {
		p.logged = text
		p.opts.Logger.Log(context.Background(), level, what, "switch", p.opts.Switch, "address", p.opts.Address, "error", err)
	}
}

// session is the life of one connection. It returns an error.
func (p *Ports) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+p.opts.Address,
		grpc.WithTransportCredentials(p.opts.Credentials),
		grpc.WithContextDialer(p.opts.Dial),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := pb.NewGNMIClient(conn)

	var t table
	defer func() { p.tell(t.lost(), nil) }()
	if err := p.tell(p.learn(ctx, client, &t)); err != nil {
		return err
	}
	stream, err := client.Subscribe(ctx)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if err := send(stream, pb.SubscriptionList_STREAM, leafOper); err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		switch {
		case err != nil:
			return fmt.Errorf("subscription: %w", err)
		case r.GetSyncResponse():
			p.status.Store(uint32(Subscribed))
			p.logged = ""
			p.opts.Logger.Info("the switch tells of its ports by gNMI", "switch", p.opts.Switch, "interfaces", len(t.interfaces))
			continue
		}
		if err := p.tell(t.apply(r.GetUpdate())); err != nil {
			return err
		}
		if t.strange {
			if err := p.tell(p.learn(ctx, client, &t)); err != nil {
				return err
			}
		}
	}
}

// tell passes ports on.
func (p *Ports) tell(ports []Port, err error) error {
	for _, port := range ports {
		p.opts.Changed(port)
	}
	return err
}

// learnTimeout is for a switch to list its interfaces.
const learnTimeout = 10 * time.Second

// learn asks for the numbers of all interfaces. A switch that does not know the leaf of
// openconfig-p4rt refuses it, or has none; then it is asked as Stratum wants to be.
func (p *Ports) learn(ctx context.Context, client pb.GNMIClient, t *table) ([]Port, error) {
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	found, err := once(ctx, client, leafID)
	if len(found) == 0 && retriable(err) {
		found, err = once(ctx, client, leafIfindex)
	}
	if err != nil {
		return nil, err
	}
	return t.numbers(found)
}

// retriable says that the same switch may answer another question.
func retriable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unauthenticated, codes.PermissionDenied:
		return false
	}
	return true
}

// once reads a numeric leaf of all interfaces, by name, by a subscription of mode ONCE:
// of Get, switches have versions of their own.
func once(ctx context.Context, client pb.GNMIClient, leaf string) (map[string]uint32, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Subscribe(ctx)
	if err != nil {
		return nil, fmt.Errorf("state/%s of interfaces: %w", leaf, err)
	}
	if err := send(stream, pb.SubscriptionList_ONCE, leaf); err != nil {
		return nil, err
	}
	found := map[string]uint32{}
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) || err == nil && r.GetSyncResponse():
			return found, nil
		case err != nil:
			return nil, fmt.Errorf("state/%s of interfaces: %w", leaf, err)
		}
		n := r.GetUpdate()
		for _, u := range n.GetUpdate() {
			name, ok := interfaceOf(join(n.GetPrefix(), u.GetPath()), leaf)
			if !ok {
				continue
			}
			if found[name], err = number(u.GetVal()); err != nil {
				return nil, fmt.Errorf("state/%s of %s: %w", leaf, name, err)
			}
			if len(found) > maxInterfaces {
				return nil, errInterfaces
			}
		}
	}
}

// send asks for a leaf of all interfaces.
func send(stream pb.GNMI_SubscribeClient, mode pb.SubscriptionList_Mode, leaf string) error {
	sub := &pb.Subscription{Path: leafPath(leaf)}
	if mode == pb.SubscriptionList_STREAM {
		sub.Mode = pb.SubscriptionMode_ON_CHANGE
	}
	err := stream.Send(&pb.SubscribeRequest{Request: &pb.SubscribeRequest_Subscribe{Subscribe: &pb.SubscriptionList{
		Mode: mode, Encoding: pb.Encoding_PROTO, Subscription: []*pb.Subscription{sub},
	}}})
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: Recv has the reason
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}
