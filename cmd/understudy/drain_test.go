// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// stuck is a server whose connections do not end.
const stuck = "server9"

func changed(server string, to adminv1.AdminState, f *adminv1.Failover) *adminv1.ServerChange {
	return &adminv1.ServerChange{Pair: &adminv1.Pair{Name: "web", Servers: []*adminv1.Server{{Name: server, AdminState: to}}}, Failover: f}
}

func (fakeAdmin) DrainServer(ctx context.Context, r *adminv1.DrainServerRequest) (*adminv1.ServerChange, error) {
	if r.GetServer() == stuck && !r.GetForce() {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return changed(r.GetServer(), adminv1.AdminState_ADMIN_STATE_DRAINED, webFailover()), nil
}

func (fakeAdmin) FenceServer(_ context.Context, r *adminv1.FenceServerRequest) (*adminv1.ServerChange, error) {
	if !r.GetForce() {
		return nil, status.Error(codes.FailedPrecondition, "refused: it is alone")
	}
	return changed(r.GetServer(), adminv1.AdminState_ADMIN_STATE_FENCED, nil), nil
}

func (fakeAdmin) UndrainServer(_ context.Context, r *adminv1.UndrainServerRequest) (*adminv1.ServerChange, error) {
	return changed(r.GetServer(), adminv1.AdminState_ADMIN_STATE_IN_SERVICE, nil), nil
}

func (fakeAdmin) CreateServer(_ context.Context, r *adminv1.CreateServerRequest) (*adminv1.Plan, error) {
	return &adminv1.Plan{FromVersion: "1", ToVersion: "2", Changes: []*adminv1.Change{
		{Op: adminv1.Change_OP_ADD, Path: "pair " + r.GetPair() + " server " + r.GetName(), New: r.GetMac()},
	}}, nil
}

func (fakeAdmin) DeleteServer(context.Context, *adminv1.DeleteServerRequest) (*adminv1.Plan, error) {
	return nil, status.Error(codes.NotFound, "not found: servers/s3 was not made through the API")
}

func TestServerVerbs(t *testing.T) {
	address := startAdmin(t)
	for _, tc := range []struct {
		args          string
		want, wantErr string
	}{
		{"drain server1", "server1 is drained; server2 is active, server1 was; epoch 7, written within 0.75 ms\n", ""},
		{"drain server1 -o json", `"admin_state": "ADMIN_STATE_DRAINED"`, ""},
		{"drain " + stuck + " --timeout 50ms", "", "server9 is drained, but has not left within 50ms"},
		{"drain " + stuck + " --force", "server9 is drained", ""},
		{"drain", "", "accepts 1 arg"},
		{"fence server1", "", "it is alone"},
		{"fence server1 --force", "server1 is fenced by an operator\n", ""},
		{"undrain server1", "server1 is in service\n", ""},
		{"servers create s3 --pair web --port 4 --mac 02:00:00:00:02:03 --gateway 10.0.2.1", "pair web server s3", ""},
		{"servers create s3 --pair web", "", "required flag"},
		{"servers delete s3", "", "was not made through the API"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			out, err := run(t, append([]string{"--address", address}, strings.Fields(tc.args)...)...)
			if !strings.Contains(out, tc.want) {
				t.Errorf("no %q in\n%s", tc.want, out)
			}
			if tc.wantErr == "" && err != nil || tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)) {
				t.Errorf("error %v, want %q", err, tc.wantErr)
			}
		})
	}
}
