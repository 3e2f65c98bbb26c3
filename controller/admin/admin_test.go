// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// backend answers every request with err, or with a little.
type backend struct {
	err     error
	events  chan *adminv1.Event
	stopped chan struct{}
}

func (b *backend) Pairs(_ context.Context, pair string) ([]*adminv1.Pair, error) {
	return []*adminv1.Pair{{Name: pair}}, b.err
}

func (b *backend) SwitchOver(_ context.Context, pair string) (*adminv1.Failover, error) {
	return &adminv1.Failover{Pair: pair}, b.err
}

func (b *backend) Administer(_ context.Context, server string, to adminv1.AdminState, _ bool, _ string) (*adminv1.ServerChange, error) {
	return &adminv1.ServerChange{Pair: &adminv1.Pair{Servers: []*adminv1.Server{{Name: server, AdminState: to}}}}, b.err
}

func (b *backend) Failovers(_ context.Context, pair string) ([]*adminv1.Failover, error) {
	return []*adminv1.Failover{{Pair: pair}}, b.err
}

func (b *backend) Watch(context.Context, string, uint64) (<-chan *adminv1.Event, func(), error) {
	return b.events, func() { close(b.stopped) }, b.err
}

func serve(t *testing.T, b *backend) (*Server, *grpc.ClientConn) {
	t.Helper()
	address := "unix:" + filepath.Join(t.TempDir(), "sub", "admin.sock")
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := Credentials(l, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Backend: b, Credentials: creds})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, conn
}

// Whatever keeps a backend from answering has a code that a program can tell.
func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"none", nil, codes.OK},
		{"no such pair", fmt.Errorf("%w: web", ErrNotFound), codes.NotFound},
		{"no such server", fmt.Errorf("%w: server9", ErrNoServer), codes.NotFound},
		{"refused", fmt.Errorf("%w: simplex", ErrRefused), codes.FailedPrecondition},
		{"given up", context.Canceled, codes.Canceled},
		{"too late", context.DeadlineExceeded, codes.DeadlineExceeded},
		{"anything else", errors.New("the controller is stopping"), codes.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &backend{err: tt.err, events: make(chan *adminv1.Event, 1), stopped: make(chan struct{})}
			b.events <- &adminv1.Event{Message: "x"}
			_, conn := serve(t, b)
			client := adminv1.NewAdminClient(conn)
			ctx := t.Context()
			calls := map[string]func() error{
				"ListPairs": func() error {
					_, err := client.ListPairs(ctx, &adminv1.ListPairsRequest{Pair: "web"})
					return err
				},
				"SwitchOver": func() error {
					_, err := client.SwitchOver(ctx, &adminv1.SwitchOverRequest{Pair: "web"})
					return err
				},
				"DrainServer": func() error {
					_, err := client.DrainServer(ctx, &adminv1.DrainServerRequest{Server: "server1"})
					return err
				},
				"FenceServer": func() error {
					_, err := client.FenceServer(ctx, &adminv1.FenceServerRequest{Server: "server1"})
					return err
				},
				"UndrainServer": func() error {
					_, err := client.UndrainServer(ctx, &adminv1.UndrainServerRequest{Server: "server1"})
					return err
				},
				"ListFailovers": func() error {
					_, err := client.ListFailovers(ctx, &adminv1.ListFailoversRequest{Pair: "web"})
					return err
				},
				"WatchEvents": func() error {
					stream, err := client.WatchEvents(ctx, &adminv1.WatchEventsRequest{})
					if err != nil {
						return err
					}
					_, err = stream.Recv()
					return err
				},
			}
			for name, call := range calls {
				if err := call(); status.Code(err) != tt.want {
					t.Errorf("%s: %v, want %v", name, err, tt.want)
				}
			}
		})
	}
}

func TestSwitchOverOfNothing(t *testing.T) {
	_, conn := serve(t, &backend{})
	_, err := adminv1.NewAdminClient(conn).SwitchOver(t.Context(), &adminv1.SwitchOverRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("error %v, want InvalidArgument", err)
	}
	_, err = adminv1.NewAdminClient(conn).DrainServer(t.Context(), &adminv1.DrainServerRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("error %v, want InvalidArgument", err)
	}
}

// A reader that is too slow is told so, and its watcher is stopped; so is that of
// one who goes away.
func TestWatchEnds(t *testing.T) {
	t.Run("too slow", func(t *testing.T) {
		b := &backend{events: make(chan *adminv1.Event), stopped: make(chan struct{})}
		_, conn := serve(t, b)
		stream, err := adminv1.NewAdminClient(conn).WatchEvents(t.Context(), &adminv1.WatchEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		close(b.events)
		if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("error %v, want ResourceExhausted", err)
		}
		<-b.stopped
	})
	t.Run("gone", func(t *testing.T) {
		b := &backend{events: make(chan *adminv1.Event, 1), stopped: make(chan struct{})}
		b.events <- &adminv1.Event{Message: "x"}
		_, conn := serve(t, b)
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := adminv1.NewAdminClient(conn).WatchEvents(ctx, &adminv1.WatchEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
		<-b.stopped
	})
}

func TestHealthAndReflection(t *testing.T) {
	s, conn := serve(t, &backend{})
	check := func(service string) healthv1.HealthCheckResponse_ServingStatus {
		t.Helper()
		r, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetStatus()
	}
	const name = "understudy.admin.v1.Admin"
	if got := check(name); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("before it is in charge: %v", got)
	}
	s.SetServing(true)
	if got := []any{check(""), check(name)}; got[0] != healthv1.HealthCheckResponse_SERVING || got[1] != got[0] {
		t.Errorf("in charge: %v", got)
	}

	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil || !strings.Contains(r.String(), name) {
		t.Errorf("reflection: %v, %v", r, err)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.sock")

	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket %v, %v", info, err)
	}
	if _, err := Listen("unix:" + path); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("the socket of a living controller: %v", err)
	}
	// One that has died leaves its socket.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen("unix:" + path); err != nil {
		t.Fatalf("the socket of a dead controller: %v", err)
	}
	l.Close()

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + file); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a file: %v", err)
	}
	if text, _ := os.ReadFile(file); string(text) != "precious" {
		t.Error("the file was replaced")
	}

	if l, err = Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "change listen.admin") {
		t.Errorf("an address that is taken: %v", err)
	}
}
