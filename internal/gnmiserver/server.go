// SPDX-License-Identifier: Apache-2.0

// Package gnmiserver serves a tree of values by gNMI (OpenConfig's gRPC Network
// Management Interface, specification 0.10): Capabilities, Get, and Subscribe in
// all its modes. Nothing can be written: Set is refused.
//
// Who has something to show keeps a Tree up to date; the Server tells it to whom it
// concerns.
package gnmiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	pb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Version is that of the gNMI specification that is served.
const Version = "0.10.0"

// What bounds the memory that clients can take.
const (
	maxStreams       = 256  // Subscribe RPCs at a time
	maxSubscriptions = 1024 // in one of them
	maxElements      = 64   // in one path
)

// Config describes what a Server serves.
type Config struct {
	// Tree is served.
	Tree *Tree
	// Origins are the origins of paths that are accepted, beside none.
	Origins []string
	// Models are the YANG modules that describe the tree.
	Models []*pb.ModelData
}

// A Server is a gNMI service. Register it with gnmi.RegisterGNMIServer.
type Server struct {
	pb.UnimplementedGNMIServer
	cfg      Config
	slots    chan struct{} // taken by Subscribe RPCs
	stopping chan struct{}
	stop     func()
}

// New makes a Server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, slots: make(chan struct{}, maxStreams), stopping: make(chan struct{})}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	return s
}

// Stop ends all subscriptions with the code Unavailable, so that the gRPC server can
// stop. It may be called more than once.
func (s *Server) Stop() { s.stop() }

var encodings = []pb.Encoding{pb.Encoding_JSON, pb.Encoding_PROTO, pb.Encoding_JSON_IETF}

// Capabilities implements gnmi.gNMI (section 3.2).
func (s *Server) Capabilities(context.Context, *pb.CapabilityRequest) (*pb.CapabilityResponse, error) {
	return &pb.CapabilityResponse{GNMIVersion: Version, SupportedModels: s.cfg.Models, SupportedEncodings: encodings}, nil
}

// Set implements gnmi.gNMI: it refuses.
func (s *Server) Set(context.Context, *pb.SetRequest) (*pb.SetResponse, error) {
	return nil, status.Error(codes.Unimplemented, "nothing can be set by gNMI here: all values are state")
}

// Get implements gnmi.gNMI (section 3.3). The answer has one notification for each
// path, with one update for each leaf.
func (s *Server) Get(_ context.Context, r *pb.GetRequest) (*pb.GetResponse, error) {
	if err := s.check(r.GetEncoding(), r.GetUseModels()); err != nil {
		return nil, err
	}
	if len(r.GetPath()) > maxSubscriptions {
		return nil, status.Errorf(codes.InvalidArgument, "%d paths, at most %d are possible", len(r.GetPath()), maxSubscriptions)
	}
	out := &pb.GetResponse{}
	for _, p := range r.GetPath() {
		query, err := s.join(r.GetPrefix(), p)
		if err != nil {
			return nil, err
		}
		list := s.cfg.Tree.samples(func(n *node) bool {
			return matches(query, n.path.GetElem()) && ofType(r.GetType(), n.path.GetElem())
		})
		if len(list) == 0 && !wild(query) {
			return nil, status.Errorf(codes.NotFound, "there is nothing at %s", PathString(&pb.Path{Elem: query}))
		}
		n := &pb.Notification{Timestamp: time.Now().UnixNano(), Prefix: reply(r.GetPrefix())}
		for i := range list {
			n.Update = append(n.Update, list[i].update(r.GetEncoding()))
		}
		out.Notification = append(out.Notification, n)
	}
	return out, nil
}

// ofType filters by GetRequest.type: what lies below a container "config" is
// configuration, everything else state.
func ofType(t pb.GetRequest_DataType, path []*pb.PathElem) bool {
	if t == pb.GetRequest_ALL {
		return true
	}
	config := slices.ContainsFunc(path, func(e *pb.PathElem) bool { return e.GetName() == "config" })
	return config == (t == pb.GetRequest_CONFIG)
}

// check refuses what is asked for in a form that there is not.
func (s *Server) check(e pb.Encoding, models []*pb.ModelData) error {
	if !slices.Contains(encodings, e) {
		return status.Errorf(codes.Unimplemented, "encoding %v is not supported; there are %v", e, encodings)
	}
	for _, m := range models {
		if !slices.ContainsFunc(s.cfg.Models, func(have *pb.ModelData) bool { return have.GetName() == m.GetName() }) {
			return status.Errorf(codes.InvalidArgument, "model %q is not supported: leave use_models out", m.GetName())
		}
	}
	return nil
}

// join puts prefix and path together and checks them.
func (s *Server) join(prefix, path *pb.Path) ([]*pb.PathElem, error) {
	for _, p := range []*pb.Path{prefix, path} {
		switch {
		case len(p.GetElement()) > 0:
			return nil, status.Error(codes.InvalidArgument, "a path in the old form (element): give elem")
		case p.GetOrigin() != "" && !slices.Contains(s.cfg.Origins, p.GetOrigin()):
			return nil, status.Errorf(codes.InvalidArgument, "origin %q is not served here; %q are", p.GetOrigin(), s.cfg.Origins)
		}
	}
	if path.GetTarget() != "" {
		return nil, status.Error(codes.InvalidArgument, "a target in a path: it belongs in the prefix")
	}
	query := slices.Concat(prefix.GetElem(), path.GetElem())
	if len(query) > maxElements {
		return nil, status.Errorf(codes.InvalidArgument, "a path of %d elements, at most %d are possible", len(query), maxElements)
	}
	// It costs exponential time to find more than a few of them.
	if n := len(slices.DeleteFunc(slices.Clone(query), func(e *pb.PathElem) bool { return e.GetName() != "..." })); n > 2 {
		return nil, status.Errorf(codes.InvalidArgument, `a path with %d times "...", at most 2 are possible`, n)
	}
	if slices.ContainsFunc(query, func(e *pb.PathElem) bool { return e.GetName() == "" }) {
		return nil, status.Error(codes.InvalidArgument, "a path with an element that has no name")
	}
	return query, nil
}

// reply is the prefix of an answer: the target is told back (section 2.2.2.1), paths
// are whole.
func reply(prefix *pb.Path) *pb.Path {
	if prefix.GetTarget() == "" && prefix.GetOrigin() == "" {
		return nil
	}
	return &pb.Path{Target: prefix.GetTarget(), Origin: prefix.GetOrigin()}
}

func (s *sample) update(e pb.Encoding) *pb.Update {
	return &pb.Update{Path: s.node.path, Val: encode(s.value, e)}
}

// encode makes the message of a value (section 2.2.3).
func encode(v any, e pb.Encoding) *pb.TypedValue {
	switch e {
	case pb.Encoding_JSON:
		b, _ := json.Marshal(v)
		return &pb.TypedValue{Value: &pb.TypedValue_JsonVal{JsonVal: b}}
	case pb.Encoding_JSON_IETF:
		// RFC 7951, section 6.1: numbers of 64 bits are strings.
		switch x := v.(type) {
		case uint64:
			v = strconv.FormatUint(x, 10)
		case int64:
			v = strconv.FormatInt(x, 10)
		}
		b, _ := json.Marshal(v)
		return &pb.TypedValue{Value: &pb.TypedValue_JsonIetfVal{JsonIetfVal: b}}
	}
	switch x := v.(type) {
	case string:
		return &pb.TypedValue{Value: &pb.TypedValue_StringVal{StringVal: x}}
	case bool:
		return &pb.TypedValue{Value: &pb.TypedValue_BoolVal{BoolVal: x}}
	case int64:
		return &pb.TypedValue{Value: &pb.TypedValue_IntVal{IntVal: x}}
	case uint64:
		return &pb.TypedValue{Value: &pb.TypedValue_UintVal{UintVal: x}}
	case float64:
		return &pb.TypedValue{Value: &pb.TypedValue_DoubleVal{DoubleVal: x}}
	case []string:
		list := &pb.ScalarArray{}
		for _, s := range x {
			list.Element = append(list.Element, encode(s, e))
		}
		return &pb.TypedValue{Value: &pb.TypedValue_LeaflistVal{LeaflistVal: list}}
	}
	panic(fmt.Sprintf("gnmiserver: a leaf of type %T", v))
}
