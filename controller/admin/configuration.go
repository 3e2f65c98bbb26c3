// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/desired"
)

// configuration returns the configuration's owner, and who asks.
func (s *Server) configuration(ctx context.Context) (*desired.Desired, string, error) {
	if s.desired == nil {
		return nil, "", status.Error(codes.Unimplemented, "this controller's configuration does not change; start it with a file")
	}
	return s.desired, callerIn(ctx).String(), nil
}

// configError gives an error about the configuration its code and its details.
func configError(err error) error {
	var faults config.Faults
	switch {
	case err == nil:
		return nil
	case errors.As(err, &faults):
		st := status.New(codes.InvalidArgument, err.Error())
		bad := &errdetails.BadRequest{}
		for i, f := range faults {
			if i == maxViolations {
				break
			}
			field := fmt.Sprintf("%s:%d", f.File, f.Line)
			if f.Object != nil {
				field = f.Object.String()
			}
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: field, Description: f.What + "; " + f.Do,
			})
		}
		if more, err := st.WithDetails(bad); err == nil {
			st = more
		}
		return st.Err()
	case errors.Is(err, desired.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, desired.ErrExists):
		return status.Error(codes.AlreadyExists, err.Error())
	case errors.Is(err, desired.ErrVersion):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, desired.ErrRefused):
		return withInfo(codes.FailedPrecondition, reasonRefused, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

// maxViolations bounds the details of an error.
const maxViolations = 100

var ops = map[config.ChangeOp]adminv1.Change_Op{
	config.Add: adminv1.Change_OP_ADD, config.Remove: adminv1.Change_OP_REMOVE, config.Modify: adminv1.Change_OP_MODIFY,
}

func planProto(p desired.Plan, err error) (*adminv1.Plan, error) {
	if err != nil {
		return nil, configError(err)
	}
	out := &adminv1.Plan{FromVersion: p.From, ToVersion: p.To}
	for _, c := range p.Changes {
		out.Changes = append(out.Changes, &adminv1.Change{
			Op: ops[c.Op], Path: c.Path, Old: c.Old, New: c.New, NeedsRestart: c.Restart,
		})
	}
	return out, nil
}

// ConfigurationProto is a status as the API has it.
func ConfigurationProto(st desired.Status) *adminv1.Configuration {
	out := &adminv1.Configuration{
		Version: st.Version, File: st.File, By: st.By, Time: timestamppb.New(st.At), Stale: st.Stale, Problem: st.Problem,
	}
	if !st.Deadline.IsZero() {
		out.ConfirmUntil = timestamppb.New(st.Deadline)
	}
	return out
}

// GetConfiguration implements adminv1.AdminServer.
func (s *Server) GetConfiguration(ctx context.Context, _ *adminv1.GetConfigurationRequest) (*adminv1.Configuration, error) {
	d, _, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	return ConfigurationProto(d.Status()), nil
}

// ApplyConfiguration implements adminv1.AdminServer.
func (s *Server) ApplyConfiguration(ctx context.Context, req *adminv1.ApplyConfigurationRequest) (*adminv1.Plan, error) {
	d, by, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	r := desired.Request{File: req.GetFile(), Text: req.GetText(), IfVersion: req.GetIfVersion(), By: by}
	if r.File == "" {
		r.File = "configuration"
	}
	if c := req.GetConfirm(); c != nil {
		if r.Confirm = c.AsDuration(); !c.IsValid() || r.Confirm < desired.MinConfirm || r.Confirm > desired.MaxConfirm {
			return nil, status.Errorf(codes.InvalidArgument, "confirm: give a time from %v to %v", desired.MinConfirm, desired.MaxConfirm)
		}
	}
	if req.GetDryRun() {
		return planProto(d.Plan(r))
	}
	// It is carried out as a whole, even if the caller goes away.
	return planProto(d.Apply(context.WithoutCancel(ctx), r))
}

// ConfirmConfiguration implements adminv1.AdminServer.
func (s *Server) ConfirmConfiguration(ctx context.Context, req *adminv1.ConfirmConfigurationRequest) (*adminv1.Configuration, error) {
	d, _, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.Confirm(req.GetVersion()); err != nil {
		return nil, configError(err)
	}
	return ConfigurationProto(d.Status()), nil
}

// RollBackConfiguration implements adminv1.AdminServer.
func (s *Server) RollBackConfiguration(ctx context.Context, _ *adminv1.RollBackConfigurationRequest) (*adminv1.Configuration, error) {
	d, by, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.RollBack(context.WithoutCancel(ctx), by); err != nil {
		return nil, configError(err)
	}
	return ConfigurationProto(d.Status()), nil
}

// ListServices implements adminv1.AdminServer.
func (s *Server) ListServices(ctx context.Context, _ *adminv1.ListServicesRequest) (*adminv1.ListServicesResponse, error) {
	d, _, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	made := d.Names(config.Services)
	out := &adminv1.ListServicesResponse{}
	for _, x := range d.Config().Services {
		origin := adminv1.Service_ORIGIN_FILE
		if made[x.Name] {
			origin = adminv1.Service_ORIGIN_API
		}
		out.Services = append(out.Services, &adminv1.Service{
			Name: x.Name, Pair: x.Pair, Vip: x.VIP.String(), Protocol: x.Protocol.String(), Port: uint32(x.Port),
			Upstream: x.Upstream, Origin: origin,
		})
	}
	return out, nil
}

// CreateService implements adminv1.AdminServer.
func (s *Server) CreateService(ctx context.Context, req *adminv1.CreateServiceRequest) (*adminv1.Plan, error) {
	d, by, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	x := req.GetService()
	if x.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "the service has no name; give it one")
	}
	body, err := json.Marshal(map[string]any{
		"name": x.GetName(), "pair": x.GetPair(), "vip": x.GetVip(), "protocol": x.GetProtocol(),
		"port": x.GetPort(), "upstream": x.GetUpstream(),
	})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	o := config.Object{Kind: config.Services, Name: x.GetName(), Body: string(body)}
	return planProto(d.Create(context.WithoutCancel(ctx), o, by, req.GetDryRun()))
}

// DeleteService implements adminv1.AdminServer.
func (s *Server) DeleteService(ctx context.Context, req *adminv1.DeleteServiceRequest) (*adminv1.Plan, error) {
	d, by, err := s.configuration(ctx)
	if err != nil {
		return nil, err
	}
	return planProto(d.Delete(context.WithoutCancel(ctx), config.Services, req.GetName(), by, req.GetDryRun()))
}
