// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// ErrNoService: there is no such service.
var ErrNoService = errors.New("no such service")

// Inspector says how things are around the pairs. What it returns belongs to the
// caller.
type Inspector interface {
	Switches(ctx context.Context) ([]*adminv1.Switch, error)
	Peers(ctx context.Context) (*adminv1.ListPeersResponse, error)
	// Diagnose walks the path of a service.
	Diagnose(ctx context.Context, service string) (*adminv1.Diagnosis, error)
	// Metrics are in Prometheus's text format.
	Metrics(ctx context.Context) ([]byte, error)
}

var errNoInspector = status.Error(codes.Unimplemented, "this controller does not say that")

// ListSwitches implements adminv1.AdminServer.
func (s *Server) ListSwitches(ctx context.Context, _ *adminv1.ListSwitchesRequest) (*adminv1.ListSwitchesResponse, error) {
	if s.inspector == nil {
		return nil, errNoInspector
	}
	list, err := s.inspector.Switches(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	return &adminv1.ListSwitchesResponse{Switches: list}, nil
}

// ListPeers implements adminv1.AdminServer.
func (s *Server) ListPeers(ctx context.Context, _ *adminv1.ListPeersRequest) (*adminv1.ListPeersResponse, error) {
	if s.inspector == nil {
		return nil, errNoInspector
	}
	list, err := s.inspector.Peers(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	return list, nil
}

// diagnosisTimeout bounds how long a diagnosis asks the switch.
const diagnosisTimeout = 5 * time.Second

// GetDiagnosis implements adminv1.AdminServer.
func (s *Server) GetDiagnosis(ctx context.Context, req *adminv1.GetDiagnosisRequest) (*adminv1.Diagnosis, error) {
	if s.inspector == nil {
		return nil, errNoInspector
	}
	if req.GetService() == "" {
		return nil, status.Error(codes.InvalidArgument, "no service is named; name one")
	}
	ctx, cancel := context.WithTimeout(ctx, diagnosisTimeout)
	defer cancel()
	d, err := s.inspector.Diagnose(ctx, req.GetService())
	if err != nil {
		return nil, statusOf(err)
	}
	return d, nil
}

// GetMetrics implements adminv1.AdminServer.
func (s *Server) GetMetrics(ctx context.Context, _ *adminv1.GetMetricsRequest) (*adminv1.GetMetricsResponse, error) {
	if s.inspector == nil {
		return nil, errNoInspector
	}
	text, err := s.inspector.Metrics(ctx)
	if err != nil {
		return nil, statusOf(err)
	}
	return &adminv1.GetMetricsResponse{Text: text}, nil
}

// levels are those that the API knows.
var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

var errNoLevel = status.Error(codes.Unimplemented, "the log level of this controller is fixed")

// GetLogLevel implements adminv1.AdminServer.
func (s *Server) GetLogLevel(context.Context, *adminv1.GetLogLevelRequest) (*adminv1.LogLevel, error) {
	if s.level == nil {
		return nil, errNoLevel
	}
	return &adminv1.LogLevel{Level: strings.ToLower(s.level.Level().String())}, nil
}

// SetLogLevel implements adminv1.AdminServer.
func (s *Server) SetLogLevel(ctx context.Context, req *adminv1.SetLogLevelRequest) (*adminv1.LogLevel, error) {
	if s.level == nil {
		return nil, errNoLevel
	}
	level, ok := levels[req.GetLevel()]
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "%q is no level; use debug, info, warn or error", req.GetLevel())
	}
	s.level.Set(level)
	return &adminv1.LogLevel{Level: req.GetLevel()}, nil
}

// watchPause is how often those who watch a list see it change, at most.
const watchPause = 100 * time.Millisecond

// watchList sends what get returns, now and whenever it is another one, until ctx ends.
// what is what of it counts.
func watchList[T proto.Message](ctx context.Context, get func(context.Context) (T, error), send func(T) error, what func(T) T) error {
	ticker := time.NewTicker(watchPause)
	defer ticker.Stop()
	var last T
	for first := true; ; first = false {
		now, err := get(ctx)
		if err != nil {
			return err
		}
		if counts := what(now); first || !proto.Equal(last, counts) {
			if err := send(now); err != nil {
				return err
			}
			last = counts
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-ticker.C:
		}
	}
}

// all of a list counts.
func all[T proto.Message](list T) T { return list }

// WatchPairs implements adminv1.AdminServer.
func (s *Server) WatchPairs(req *adminv1.ListPairsRequest, stream adminv1.Admin_WatchPairsServer) error {
	return watchList(stream.Context(), func(ctx context.Context) (*adminv1.ListPairsResponse, error) {
		return s.ListPairs(ctx, req)
	}, stream.Send, withoutHeartbeats)
}

// withoutHeartbeats is a copy in which nobody has been heard.
func withoutHeartbeats(list *adminv1.ListPairsResponse) *adminv1.ListPairsResponse {
	list = proto.CloneOf(list)
	for _, p := range list.GetPairs() {
		for _, s := range p.GetServers() {
			s.LastHeartbeat = nil
		}
	}
	return list
}

// WatchServices implements adminv1.AdminServer.
func (s *Server) WatchServices(req *adminv1.ListServicesRequest, stream adminv1.Admin_WatchServicesServer) error {
	return watchList(stream.Context(), func(ctx context.Context) (*adminv1.ListServicesResponse, error) {
		return s.ListServices(ctx, req)
	}, stream.Send, all)
}

// WatchSwitches implements adminv1.AdminServer.
func (s *Server) WatchSwitches(req *adminv1.ListSwitchesRequest, stream adminv1.Admin_WatchSwitchesServer) error {
	return watchList(stream.Context(), func(ctx context.Context) (*adminv1.ListSwitchesResponse, error) {
		return s.ListSwitches(ctx, req)
	}, stream.Send, all)
}

// WatchPeers implements adminv1.AdminServer.
func (s *Server) WatchPeers(req *adminv1.ListPeersRequest, stream adminv1.Admin_WatchPeersServer) error {
	return watchList(stream.Context(), func(ctx context.Context) (*adminv1.ListPeersResponse, error) {
		return s.ListPeers(ctx, req)
	}, stream.Send, all)
}
