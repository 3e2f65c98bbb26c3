// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/desired"
	"github.com/understudy-net/understudy/controller/store"
)

// configured is a server whose configuration is that of the example.
func configured(t testing.TB) adminv1.AdminClient {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, config.Example, 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := desired.Open(desired.Options{File: file, Store: kept, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := Credentials(l, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Backend: &backend{}, Desired: d, Credentials: creds})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		kept.Close()
	})
	return adminv1.NewAdminClient(conn)
}

func TestApplyConfiguration(t *testing.T) {
	client, ctx := configured(t), t.Context()
	now, err := client.GetConfiguration(ctx, &adminv1.GetConfigurationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(config.Example), "port: 80 ", "port: 8000 ", 1)
	req := &adminv1.ApplyConfigurationRequest{Text: []byte(text), File: "new.yaml", DryRun: true, IfVersion: now.GetVersion()}
	plan, err := client.ApplyConfiguration(ctx, req)
	if err != nil || len(plan.GetChanges()) != 1 || plan.GetChanges()[0].GetPath() != "service web port" || plan.GetFromVersion() != now.GetVersion() {
		t.Fatalf("plan %v, %v", plan, err)
	}
	req.DryRun, req.Confirm = false, durationpb.New(time.Minute)
	if _, err = client.ApplyConfiguration(ctx, req); err != nil {
		t.Fatal(err)
	}
	code := func(what string, err error, want codes.Code) {
		t.Helper()
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	_, err = client.ApplyConfiguration(ctx, &adminv1.ApplyConfigurationRequest{Text: config.Example})
	code("another one while it waits", err, codes.FailedPrecondition)
	_, err = client.ConfirmConfiguration(ctx, &adminv1.ConfirmConfigurationRequest{Version: now.GetVersion()})
	code("confirm the wrong one", err, codes.Aborted)
	st, err := client.ConfirmConfiguration(ctx, &adminv1.ConfirmConfigurationRequest{})
	if err != nil || st.GetConfirmUntil() != nil || st.GetVersion() != plan.GetToVersion() || !strings.HasPrefix(st.GetBy(), "anyone from 127.0.0.1:") {
		t.Errorf("configuration %v, %v", st, err)
	}
	_, err = client.RollBackConfiguration(ctx, &adminv1.RollBackConfigurationRequest{})
	code("roll back nothing", err, codes.FailedPrecondition)
	_, err = client.ApplyConfiguration(ctx, &adminv1.ApplyConfigurationRequest{Text: config.Example, IfVersion: now.GetVersion()})
	code("a version that is over", err, codes.Aborted)
	_, err = client.ApplyConfiguration(ctx, &adminv1.ApplyConfigurationRequest{Text: config.Example, Confirm: durationpb.New(1)})
	code("no time to confirm", err, codes.InvalidArgument)

	_, err = client.ApplyConfiguration(ctx, &adminv1.ApplyConfigurationRequest{Text: []byte("{}"), File: "bad.yaml"})
	code("wrong", err, codes.InvalidArgument)
	var bad *errdetails.BadRequest
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok {
			bad = b
		}
	}
	if len(bad.GetFieldViolations()) < 4 || bad.GetFieldViolations()[0].GetField() != "bad.yaml:1" {
		t.Errorf("details %v", bad)
	}
	if st, err := client.GetConfiguration(ctx, &adminv1.GetConfigurationRequest{}); err != nil || !st.GetStale() || st.GetVersion() != plan.GetToVersion() {
		t.Errorf("configuration %v, %v", st, err)
	}
}

func TestServices(t *testing.T) {
	client, ctx := configured(t), t.Context()
	s := &adminv1.Service{Name: "api", Pair: "web", Vip: "198.51.100.20", Protocol: "tcp", Port: 80, Upstream: "127.0.0.1:80"}
	for i, changes := range []int{1, 0} { // twice: idempotent
		p, err := client.CreateService(ctx, &adminv1.CreateServiceRequest{Service: s})
		if err != nil || len(p.GetChanges()) != changes {
			t.Errorf("create %d: %v, %v", i, p, err)
		}
	}
	list, err := client.ListServices(ctx, &adminv1.ListServicesRequest{})
	if err != nil || len(list.GetServices()) != 4 {
		t.Fatalf("services %v, %v", list, err)
	}
	i := slices.IndexFunc(list.GetServices(), func(s *adminv1.Service) bool { return s.GetOrigin() == adminv1.Service_ORIGIN_API })
	if i < 0 || list.GetServices()[i].GetName() != "api" {
		t.Errorf("services %v", list)
	}
	s.Port = 81
	for what, tt := range map[string]struct {
		err  error
		want codes.Code
	}{
		"another of that name": {second(client.CreateService(ctx, &adminv1.CreateServiceRequest{Service: s})), codes.AlreadyExists},
		"no service":           {second(client.CreateService(ctx, &adminv1.CreateServiceRequest{})), codes.InvalidArgument},
		"a wrong one":          {second(client.CreateService(ctx, &adminv1.CreateServiceRequest{Service: &adminv1.Service{Name: "x"}})), codes.InvalidArgument},
		"delete the file's":    {second(client.DeleteService(ctx, &adminv1.DeleteServiceRequest{Name: "web"})), codes.NotFound},
		"delete":               {second(client.DeleteService(ctx, &adminv1.DeleteServiceRequest{Name: "api"})), codes.OK},
		"delete nothing":       {second(client.DeleteService(ctx, &adminv1.DeleteServiceRequest{Name: ""})), codes.NotFound},
	} {
		if status.Code(tt.err) != tt.want {
			t.Errorf("%s: %v, want %v", what, tt.err, tt.want)
		}
	}
}

func second(_ *adminv1.Plan, err error) error { return err }

// Whatever a service is said to be, the answer is a plan or says what is wrong, in a
// code that is for it.
func FuzzCreateService(f *testing.F) {
	client := configured(f)
	f.Add("api", "web", "198.51.100.20", "tcp", uint32(80), "127.0.0.1:80")
	f.Add("a: b", "&x", "*x", "<<", uint32(1<<31), "[]")
	f.Fuzz(func(t *testing.T, name, pair, vip, protocol string, port uint32, upstream string) {
		s := &adminv1.Service{Name: name, Pair: pair, Vip: vip, Protocol: protocol, Port: port, Upstream: upstream}
		_, err := client.CreateService(t.Context(), &adminv1.CreateServiceRequest{Service: s, DryRun: true})
		switch status.Code(err) {
		case codes.OK, codes.InvalidArgument:
		case codes.Internal:
			if !strings.Contains(err.Error(), "invalid UTF-8") { // gRPC's own answer
				t.Error(err)
			}
		default:
			t.Error(err)
		}
	})
}
