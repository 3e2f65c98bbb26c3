// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// A list is sent when it is another one, heartbeats aside, and not for nothing.
func TestWatchList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var epoch, asked, sent atomic.Uint64
		get := func(context.Context) (*adminv1.ListPairsResponse, error) {
			asked.Add(1)
			return &adminv1.ListPairsResponse{Pairs: []*adminv1.Pair{{Epoch: epoch.Load(), Servers: []*adminv1.Server{{LastHeartbeat: timestamppb.Now()}}}}}, nil
		}
		send := func(l *adminv1.ListPairsResponse) error {
			if l.GetPairs()[0].GetServers()[0].GetLastHeartbeat() == nil {
				t.Error("what is sent has no heartbeats")
			}
			sent.Add(1)
			return nil
		}
		done := make(chan error)
		go func() { done <- watchList(ctx, get, send, withoutHeartbeats) }()
		for _, change := range []bool{true, false, true, true} {
			before := sent.Load()
			if change {
				epoch.Add(1)
			}
			time.Sleep(10 * watchPause)
			synctest.Wait()
			if (sent.Load() == before+1) != change {
				t.Errorf("sent %d times where it changed: %t", sent.Load()-before, change)
			}
		}
		if asked.Load() < 20 {
			t.Errorf("asked %d times", asked.Load())
		}
		cancel()
		if err := <-done; status.Code(err) != codes.Canceled {
			t.Error(err)
		}
	})
	broken := errors.New("broken")
	err := watchList(t.Context(), func(context.Context) (*adminv1.ListPairsResponse, error) { return nil, broken }, nil, withoutHeartbeats)
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestLogLevel(t *testing.T) {
	level := new(slog.LevelVar)
	s := &Server{level: level}
	ctx := t.Context()
	for _, name := range []string{"debug", "error", "info"} {
		if _, err := s.SetLogLevel(ctx, &adminv1.SetLogLevelRequest{Level: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := s.GetLogLevel(ctx, nil); err != nil || got.GetLevel() != name || level.Level() != levels[name] {
			t.Errorf("%s: %v, %v, %v", name, got, level, err)
		}
	}
	if _, err := s.SetLogLevel(ctx, &adminv1.SetLogLevelRequest{Level: "loud"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}
	if _, err := new(Server).SetLogLevel(ctx, &adminv1.SetLogLevelRequest{Level: "info"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("%v", err)
	}
}
