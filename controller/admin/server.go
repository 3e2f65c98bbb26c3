// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/config"
)

// DrainServer implements adminv1.AdminServer.
func (s *Server) DrainServer(ctx context.Context, req *adminv1.DrainServerRequest) (*adminv1.ServerChange, error) {
	return s.administer(ctx, req.GetServer(), adminv1.AdminState_ADMIN_STATE_DRAINED, req.GetForce())
}

// FenceServer implements adminv1.AdminServer.
func (s *Server) FenceServer(ctx context.Context, req *adminv1.FenceServerRequest) (*adminv1.ServerChange, error) {
	return s.administer(ctx, req.GetServer(), adminv1.AdminState_ADMIN_STATE_FENCED, req.GetForce())
}

// UndrainServer implements adminv1.AdminServer.
func (s *Server) UndrainServer(ctx context.Context, req *adminv1.UndrainServerRequest) (*adminv1.ServerChange, error) {
	return s.administer(ctx, req.GetServer(), adminv1.AdminState_ADMIN_STATE_IN_SERVICE, false)
}

func (s *Server) administer(ctx context.Context, server string, to adminv1.AdminState, force bool) (*adminv1.ServerChange, error) {
	if server == "" {
		return nil, status.Error(codes.InvalidArgument, "no server is named; name one")
	}
	change, err := s.backend.Administer(ctx, server, to, force, callerIn(ctx).String())
	if err != nil {
		return nil, statusOf(err)
	}
	return change, nil
}

// CreateServer implements adminv1.AdminServer.
func (s *Server) CreateServer(ctx context.Context, req *adminv1.CreateServerRequest) (*adminv1.Plan, error) {
	d, by, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "the server has no name; give it one")
	}
	body, err := json.Marshal(map[string]any{
		"pair": req.GetPair(), "name": req.GetName(), "port": req.GetPort(), "mac": req.GetMac(), "gateway": req.GetGateway(),
	})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	o := config.Object{Kind: config.Servers, Name: req.GetName(), Body: string(body)}
	return planProto(d.Create(context.WithoutCancel(ctx), o, by, req.GetDryRun()))
}

// DeleteServer implements adminv1.AdminServer.
func (s *Server) DeleteServer(ctx context.Context, req *adminv1.DeleteServerRequest) (*adminv1.Plan, error) {
	d, by, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	return planProto(d.Delete(context.WithoutCancel(ctx), config.Servers, req.GetName(), by, req.GetDryRun()))
}
