// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/internal/pki"
)

// viewing are the methods that only look; viewers may call them. All others are
// changes, which are for operators and are kept in the audit log: so is what is
// forgotten here.
var viewing = map[string]bool{
	adminv1.Admin_ListPairs_FullMethodName:        true,
	adminv1.Admin_ListFailovers_FullMethodName:    true,
	adminv1.Admin_WatchEvents_FullMethodName:      true,
	adminv1.Admin_GetConfiguration_FullMethodName: true,
	adminv1.Admin_ListServices_FullMethodName:     true,
	adminv1.Admin_ListSwitches_FullMethodName:     true,
	adminv1.Admin_ListPeers_FullMethodName:        true,
	adminv1.Admin_WatchPairs_FullMethodName:       true,
	adminv1.Admin_WatchServices_FullMethodName:    true,
	adminv1.Admin_WatchSwitches_FullMethodName:    true,
	adminv1.Admin_WatchPeers_FullMethodName:       true,
	adminv1.Admin_GetDiagnosis_FullMethodName:     true,
	adminv1.Admin_GetMetrics_FullMethodName:       true,
	adminv1.Admin_GetLogLevel_FullMethodName:      true,

	healthv1.Health_Check_FullMethodName: true,
	healthv1.Health_List_FullMethodName:  true,
	healthv1.Health_Watch_FullMethodName: true,

	"/gnmi.gNMI/Capabilities": true,
	"/gnmi.gNMI/Get":          true,
	"/gnmi.gNMI/Subscribe":    true,

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      true,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": true,
}

// caller is who makes a call.
type caller struct {
	// who is "operator alice", "uid 0", or "anyone" where nobody is asked.
	who string
	// from is an address, "" for a socket of this host.
	from string
	// operator may do everything, others may look.
	operator bool
}

// String is who changed something, as it is remembered with the change.
func (c caller) String() string {
	if c.from == "" {
		return c.who
	}
	return c.who + " from " + c.from
}

// errUnprotected should not be seen: it is for a listener whose credentials nobody
// thought of.
var errUnprotected = errors.New("the connection does not say who calls")

// callerOf says who calls, and why not if that cannot be told.
func callerOf(ctx context.Context, now time.Time) (caller, error) {
	c := caller{who: "unknown"}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return c, errUnprotected
	}
	switch info := p.AuthInfo.(type) {
	case socketInfo:
		c.who, c.operator = info.who, true
		return c, nil
	case anyoneInfo:
		c.who, c.from, c.operator = "anyone", p.Addr.String(), true
		return c, nil
	case pki.Peer:
		c.from = p.Addr.String()
		id, err := info.Identity(now)
		if err != nil {
			return c, err
		}
		c.who, c.operator = id.String(), id.Kind == pki.Operator
		if !c.operator && id.Kind != pki.Viewer {
			return c, fmt.Errorf("%s has no business here; use the certificate of an operator or a viewer", id)
		}
		return c, nil
	}
	return c, errUnprotected
}

// callerKey is where a call's context has its caller.
type callerKey struct{}

// callerIn returns the caller that the interceptors have let in.
func callerIn(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// Reasons of errors, in the ErrorInfo of their status.
const (
	errorDomain           = "understudy.admin.v1"
	reasonUnauthenticated = "UNAUTHENTICATED"
	reasonRole            = "ROLE_INSUFFICIENT"
	reasonNotFound        = "NOT_FOUND"
	reasonRefused         = "REFUSED"
	reasonForgotten       = "FORGOTTEN"
)

// admit decides whether a call may go on.
func admit(ctx context.Context, method string, now time.Time) (caller, error) {
	c, err := callerOf(ctx, now)
	if err != nil {
		return c, withInfo(codes.Unauthenticated, reasonUnauthenticated, err.Error())
	}
	if !c.operator && !viewing[method] {
		return c, withInfo(codes.PermissionDenied, reasonRole,
			fmt.Sprintf("%s may look, and not change anything; use the certificate of an operator", c.who))
	}
	return c, nil
}

func withInfo(code codes.Code, reason, message string) error {
	st, err := status.New(code, message).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain})
	if err != nil {
		return status.Error(code, message)
	}
	return st.Err()
}

// callPatience bounds a call whose caller has not said how long he waits. Who drains a
// server may say a longer time.
const callPatience = time.Minute

// count tells of a call that is over.
func (s *Server) count(method string, err error) {
	if s.called != nil {
		s.called(path.Base(method), status.Code(err).String())
	}
}

// unary lets in calls, and keeps an account of them.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
	defer func() { s.count(info.FullMethod, err) }()
	now := time.Now()
	message, _ := req.(proto.Message)
	c, err := admit(ctx, info.FullMethod, now)
	if err != nil {
		s.audit.refused(now, c, info.FullMethod, message, err)
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callPatience)
		defer cancel()
	}
	res, err = handler(context.WithValue(ctx, callerKey{}, c), req)
	if !viewing[info.FullMethod] {
		reply, _ := res.(proto.Message)
		s.audit.change(now, c, info.FullMethod, message, reply, err)
	}
	return res, err
}

// stream is unary for streams.
func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() { s.count(info.FullMethod, err) }()
	now := time.Now()
	c, err := admit(stream.Context(), info.FullMethod, now)
	if err != nil {
		s.audit.refused(now, c, info.FullMethod, nil, err)
		return err
	}
	err = handler(srv, admitted{stream, context.WithValue(stream.Context(), callerKey{}, c)})
	if !viewing[info.FullMethod] {
		s.audit.change(now, c, info.FullMethod, nil, nil, err)
	}
	return err
}

type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (a admitted) Context() context.Context { return a.ctx }
