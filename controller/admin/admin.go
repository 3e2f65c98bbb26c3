// SPDX-License-Identifier: Apache-2.0

// Package admin serves the Admin API, with gRPC health and reflection beside it.
// It holds no state of its own: every request goes to its Backend, once it is known who
// makes it, and that they may (docs/security.md).
package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/desired"
)

// Errors of a Backend that have a meaning to a client; wrap them.
var (
	// ErrNotFound: there is no such pair.
	ErrNotFound = errors.New("no such pair")
	// ErrNoServer: there is no such server.
	ErrNoServer = errors.New("no such server")
	// ErrForgotten: events since then are not remembered.
	ErrForgotten = errors.New("not remembered")
	// ErrRefused: it cannot be done as things are.
	ErrRefused = errors.New("refused")
)

// Backend answers requests. What it returns belongs to the caller and is not
// changed any more. A pair's name is empty for all.
type Backend interface {
	Pairs(ctx context.Context, pair string) ([]*adminv1.Pair, error)
	SwitchOver(ctx context.Context, pair string) (*adminv1.Failover, error)
	// Administer returns when the server is what it shall be.
	Administer(ctx context.Context, server string, to adminv1.AdminState, force bool, by string) (*adminv1.ServerChange, error)
	Failovers(ctx context.Context, pair string) ([]*adminv1.Failover, error)
	// Watch begins with the snapshots, or with what happened since an event if after is
	// not 0; they are in the channel when it returns. The channel is closed when its
	// reader is too slow, and after stop.
	Watch(ctx context.Context, pair string, after uint64) (events <-chan *adminv1.Event, stop func(), err error)
}

// Server is the Admin service.
type Server struct {
	adminv1.UnimplementedAdminServer

	backend Backend
	desired *desired.Desired // nil: the configuration never changes
	audit   *Audit
	called  func(method, code string)
	// inspector and level may be nil
	inspector Inspector
	level     *slog.LevelVar
	grpc      *grpc.Server
	health    *health.Server
}

// Options are what a Server is made of. Backend and Credentials are required.
type Options struct {
	Backend Backend
	// Desired is nil where the configuration never changes: requests about it are
	// UNIMPLEMENTED then.
	Desired *desired.Desired
	// Inspector may be nil: requests that it answers are UNIMPLEMENTED then. So are those
	// about Level.
	Inspector Inspector
	Level     *slog.LevelVar
	// Credentials say who calls: see Credentials.
	Credentials credentials.TransportCredentials
	// Audit may be nil.
	Audit *Audit
	// Telemetry, if not nil, is served beside the Admin API, for the same callers.
	Telemetry gnmipb.GNMIServer
	// Called, if not nil, is told of each call that is over: its method, without the
	// service, and its gRPC code.
	Called func(method, code string)
}

// handshakeTimeout is how long a connection may take to say who it is.
const handshakeTimeout = 10 * time.Second

// New returns a Server that has not begun to serve. Its health is NOT_SERVING
// until SetServing.
func New(o Options) *Server {
	s := &Server{backend: o.Backend, desired: o.Desired, audit: o.Audit, called: o.Called, inspector: o.Inspector, level: o.Level, health: health.NewServer()}
	s.grpc = grpc.NewServer(
		grpc.Creds(watched{o.Credentials, o.Audit}), grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.ConnectionTimeout(handshakeTimeout), grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(maxMessage))
	adminv1.RegisterAdminServer(s.grpc, s)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	if o.Telemetry != nil {
		gnmipb.RegisterGNMIServer(s.grpc, o.Telemetry)
	}
	reflection.Register(s.grpc)
	s.SetServing(false)
	return s
}

// maxMessage has room for the largest configuration, in bytes.
const maxMessage = 17 << 20

// SetServing sets what the health service says: whether the controller is in
// charge of its switch.
func (s *Server) SetServing(serving bool) {
	st := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		st = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", st)
	s.health.SetServingStatus(adminv1.Admin_ServiceDesc.ServiceName, st)
}

// Serve serves until ctx ends, which is not an error, and closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		s.health.Shutdown()
		s.grpc.Stop()
	})
	defer stop()
	err := s.grpc.Serve(l)
	s.grpc.Stop()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("admin server: %w", err)
}

// Listen opens "unix:PATH" or "host:port". The socket of a controller that has
// died is replaced, that of a living one is not; its mode is 0660.
func Listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("admin: %w; free the address, or change listen.admin", err)
		}
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("admin: %w; create the folder, or change listen.admin", err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("admin: %s is not a socket; remove it, or change listen.admin", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("admin: another process listens on %s; stop it, or change listen.admin", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin: %w; remove it, or change listen.admin", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin: %w; change listen.admin", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("admin: %w", err)
	}
	return l, nil
}

// statusOf gives an error of the backend its gRPC code.
func statusOf(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrNoServer), errors.Is(err, ErrNoService):
		return withInfo(codes.NotFound, reasonNotFound, err.Error())
	case errors.Is(err, ErrForgotten):
		return withInfo(codes.OutOfRange, reasonForgotten, err.Error())
	case errors.Is(err, ErrRefused):
		return withInfo(codes.FailedPrecondition, reasonRefused, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}

// ListPairs implements adminv1.AdminServer.
func (s *Server) ListPairs(ctx context.Context, req *adminv1.ListPairsRequest) (*adminv1.ListPairsResponse, error) {
	pairs, err := s.backend.Pairs(ctx, req.GetPair())
	if err != nil {
		return nil, statusOf(err)
	}
	return &adminv1.ListPairsResponse{Pairs: pairs}, nil
}

// SwitchOver implements adminv1.AdminServer.
func (s *Server) SwitchOver(ctx context.Context, req *adminv1.SwitchOverRequest) (*adminv1.SwitchOverResponse, error) {
	if req.GetPair() == "" {
		return nil, status.Error(codes.InvalidArgument, "no pair is named; name one")
	}
	f, err := s.backend.SwitchOver(ctx, req.GetPair())
	if err != nil {
		return nil, statusOf(err)
	}
	return &adminv1.SwitchOverResponse{Failover: f}, nil
}

// ListFailovers implements adminv1.AdminServer.
func (s *Server) ListFailovers(ctx context.Context, req *adminv1.ListFailoversRequest) (*adminv1.ListFailoversResponse, error) {
	list, err := s.backend.Failovers(ctx, req.GetPair())
	if err != nil {
		return nil, statusOf(err)
	}
	return &adminv1.ListFailoversResponse{Failovers: list}, nil
}

// WatchEvents implements adminv1.AdminServer.
func (s *Server) WatchEvents(req *adminv1.WatchEventsRequest, stream adminv1.Admin_WatchEventsServer) error {
	events, stop, err := s.backend.Watch(stream.Context(), req.GetPair(), req.GetAfter())
	if err != nil {
		return statusOf(err)
	}
	defer stop()
	for {
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case e, ok := <-events:
			if !ok {
				return status.Error(codes.ResourceExhausted, "events came faster than they were read; watch again")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}
