// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"context"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// APIVersion is the version of P4Runtime that the switch serves.
const APIVersion = "1.5.0"

// readChunk is how many entities one ReadResponse has at most.
const readChunk = 512

// maxRead is how many entities one Read may ask for.
const maxRead = 1 << 22

// Capabilities implements p4.v1.P4Runtime (section 17).
func (s *Switch) Capabilities(_ context.Context, r *p4v1.CapabilitiesRequest) (*p4v1.CapabilitiesResponse, error) {
	if r.GetDeviceId() != 0 { // 0 asks for the server's
		if err := s.checkDevice(r.GetDeviceId()); err != nil {
			return nil, err
		}
	}
	return &p4v1.CapabilitiesResponse{P4RuntimeApiVersion: APIVersion}, nil
}

func (s *Switch) checkDevice(id uint64) error {
	if id != s.cfg.DeviceID {
		return status.Errorf(codes.NotFound, "no device with id %d, this is %d", id, s.cfg.DeviceID)
	}
	return nil
}

// Write implements p4.v1.P4Runtime (P4Runtime 1.5, section 12). When it returns,
// every packet that was forwarded by what the tables said before has left.
func (s *Switch) Write(_ context.Context, r *p4v1.WriteRequest) (*p4v1.WriteResponse, error) {
	err := s.arbiter.asPrimary(r.GetDeviceId(), r.GetRole(), r.GetElectionId(), func(role *access) error {
		switch r.GetAtomicity() {
		case p4v1.WriteRequest_CONTINUE_ON_ERROR, p4v1.WriteRequest_ROLLBACK_ON_ERROR:
		default:
			return status.Errorf(codes.Unimplemented, "atomicity %v is not supported", r.GetAtomicity())
		}
		s.control.Lock()
		defer s.control.Unlock()
		p := s.configured
		if p == nil {
			return status.Error(codes.FailedPrecondition, "no forwarding pipeline is set")
		}
		one := func(u *p4v1.Update) error {
			if err := validUpdate(u); err != nil {
				return err
			}
			if !role.allows(u.GetEntity()) {
				return errorf(codes.PermissionDenied, "role %q may not write this %s", r.GetRole(), entityName(u.GetEntity()))
			}
			return p.update(u)
		}
		var errs []error
		if r.GetAtomicity() == p4v1.WriteRequest_ROLLBACK_ON_ERROR {
			errs = p.rollback(r.GetUpdates(), one)
		} else {
			errs = make([]error, len(r.GetUpdates()))
			for i, u := range r.GetUpdates() {
				errs[i] = one(u)
			}
		}
		p.sw.Barrier()
		s.wakeTimers()
		return batchStatus(errs)
	})
	if err != nil {
		return nil, err
	}
	return &p4v1.WriteResponse{}, nil
}

// Read implements p4.v1.P4Runtime (section 13).
func (s *Switch) Read(r *p4v1.ReadRequest, stream p4v1.P4Runtime_ReadServer) error {
	if err := s.checkDevice(r.GetDeviceId()); err != nil {
		return err
	}
	filter, err := s.arbiter.reader(r.GetRole())
	if err != nil {
		return err
	}
	parts, errs, err := s.read(r)
	if err != nil {
		return err
	}
	var list []*p4v1.Entity
	for _, part := range parts {
		for i := range part.n {
			e := part.at(i)
			if !filter.allows(e) {
				continue
			}
			if list = append(list, e); len(list) < readChunk {
				continue
			}
			if err := stream.Send(&p4v1.ReadResponse{Entities: list}); err != nil {
				return err
			}
			list = nil
		}
	}
	if len(list) > 0 {
		if err := stream.Send(&p4v1.ReadResponse{Entities: list}); err != nil {
			return err
		}
	}
	return batchStatus(errs)
}

// read copies the values of the answer while no write is in work. Neither a large
// answer nor a slow client must keep writers waiting, so messages are built and sent
// afterwards.
func (s *Switch) read(r *p4v1.ReadRequest) (out []part, errs []error, err error) {
	s.control.RLock()
	defer s.control.RUnlock()
	p := s.configured
	if p == nil {
		return nil, nil, status.Error(codes.FailedPrecondition, "no forwarding pipeline is set")
	}
	errs = make([]error, len(r.GetEntities()))
	total := 0
	for i, e := range r.GetEntities() {
		errs[i] = p.query(e, func(p part) {
			out = append(out, p)
			total += p.n
		})
		if total > s.maxRead {
			return nil, nil, status.Errorf(codes.ResourceExhausted,
				"the answer has more than %d entities: ask for less at once", s.maxRead)
		}
	}
	return out, errs, nil
}

// SetForwardingPipelineConfig implements p4.v1.P4Runtime (section 14).
func (s *Switch) SetForwardingPipelineConfig(_ context.Context, r *p4v1.SetForwardingPipelineConfigRequest) (*p4v1.SetForwardingPipelineConfigResponse, error) {
	err := s.arbiter.asPrimary(r.GetDeviceId(), r.GetRole(), r.GetElectionId(), func(role *access) error {
		if !role.pipelines() {
			return status.Errorf(codes.PermissionDenied, "role %q may not set the pipeline", r.GetRole())
		}
		return s.setPipeline(r.GetAction(), r.GetConfig())
	})
	if err != nil {
		return nil, err
	}
	return &p4v1.SetForwardingPipelineConfigResponse{}, nil
}

func (s *Switch) setPipeline(action p4v1.SetForwardingPipelineConfigRequest_Action, config *p4v1.ForwardingPipelineConfig) error {
	s.control.Lock()
	defer s.control.Unlock()
	switch action {
	case p4v1.SetForwardingPipelineConfigRequest_COMMIT:
		if config != nil {
			return status.Error(codes.InvalidArgument, "COMMIT takes no configuration")
		}
		if s.configured == nil || s.configured == s.forwarding.Load() {
			return status.Error(codes.NotFound, "no configuration is saved")
		}
		s.commit(s.configured)
		return nil
	case p4v1.SetForwardingPipelineConfigRequest_VERIFY,
		p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_SAVE,
		p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT,
		p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT:
	default:
		return status.Errorf(codes.InvalidArgument, "action %v", action)
	}
	if config == nil {
		return status.Error(codes.InvalidArgument, "no configuration")
	}
	old := s.forwarding.Load()
	if action == p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT && old != nil && old.same(config) {
		s.commit(old.withCookie(config.GetCookie()))
		return nil
	}
	p, err := newPipeline(config, s.environment())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	switch action {
	case p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_SAVE:
		s.configured = p
	case p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT:
		s.commit(p)
	case p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT:
		if old != nil {
			if err := p.preserve(old); err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
		}
		s.commit(p)
	}
	return nil
}

// commit makes packets go through p; s.control is held.
func (s *Switch) commit(p *pipeline) {
	s.configured = p
	old := s.forwarding.Swap(p)
	if old != nil {
		old.sw.Barrier()
	}
	s.wakeTimers()
	s.log.Info("pipeline set", "program", p.sw.Engine().Program().Name, "tables", len(p.schema.tables),
		"cookie", p.config.GetCookie().GetCookie())
}

// GetForwardingPipelineConfig implements p4.v1.P4Runtime (section 15).
func (s *Switch) GetForwardingPipelineConfig(_ context.Context, r *p4v1.GetForwardingPipelineConfigRequest) (*p4v1.GetForwardingPipelineConfigResponse, error) {
	if err := s.checkDevice(r.GetDeviceId()); err != nil {
		return nil, err
	}
	s.control.RLock()
	p := s.configured
	s.control.RUnlock()
	if p == nil {
		return &p4v1.GetForwardingPipelineConfigResponse{}, nil
	}
	out := &p4v1.ForwardingPipelineConfig{Cookie: p.config.GetCookie()}
	switch r.GetResponseType() {
	case p4v1.GetForwardingPipelineConfigRequest_ALL:
		out.P4Info, out.P4DeviceConfig = p.config.GetP4Info(), p.config.GetP4DeviceConfig()
	case p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY:
	case p4v1.GetForwardingPipelineConfigRequest_P4INFO_AND_COOKIE:
		out.P4Info = p.config.GetP4Info()
	case p4v1.GetForwardingPipelineConfigRequest_DEVICE_CONFIG_AND_COOKIE:
		out.P4DeviceConfig = p.config.GetP4DeviceConfig()
	default:
		return nil, status.Errorf(codes.InvalidArgument, "response type %v", r.GetResponseType())
	}
	return &p4v1.GetForwardingPipelineConfigResponse{Config: out}, nil
}
