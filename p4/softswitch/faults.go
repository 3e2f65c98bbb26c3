// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	faultv1 "github.com/understudy-net/understudy/api/switchfault/v1"
	"github.com/understudy-net/understudy/p4/v1model"
)

// faults loses multicast copies on purpose. It implements
// understudy.switchfault.v1.Faults.
type faults struct {
	faultv1.UnimplementedFaultsServer
	rules   [v1model.MaxPort + 1]atomic.Pointer[dropRule]
	dropped [v1model.MaxPort + 1]atomic.Uint64
}

// A dropRule chooses copies.
type dropRule struct {
	mu    sync.Mutex
	oneIn uint32
	every bool
	n     uint32
	rng   *rand.Rand
}

func newFaults() *faults { return &faults{} }

// drop decides about one copy.
func (f *faults) drop(port uint16) bool {
	if int(port) >= len(f.rules) {
		return false
	}
	r := f.rules[port].Load()
	if r == nil || !r.next() {
		return false
	}
	f.dropped[port].Add(1)
	return true
}

func (r *dropRule) next() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.every {
		return r.rng.Uint32N(r.oneIn) == 0
	}
	r.n++
	if r.n < r.oneIn {
		return false
	}
	r.n = 0
	return true
}

// SetDrop implements Faults.
func (f *faults) SetDrop(_ context.Context, r *faultv1.SetDropRequest) (*faultv1.SetDropResponse, error) {
	if r.GetPort() > v1model.MaxPort {
		return nil, status.Errorf(codes.InvalidArgument, "port %d, the largest is %d", r.GetPort(), v1model.MaxPort)
	}
	var rule *dropRule
	if r.GetOneIn() > 0 {
		rule = &dropRule{oneIn: r.GetOneIn(), every: r.GetEveryNth(), rng: rand.New(rand.NewPCG(r.GetSeed(), 0))}
	}
	f.rules[r.GetPort()].Store(rule)
	return &faultv1.SetDropResponse{}, nil
}

// GetDrops implements Faults.
func (f *faults) GetDrops(context.Context, *faultv1.GetDropsRequest) (*faultv1.GetDropsResponse, error) {
	out := &faultv1.GetDropsResponse{Dropped: map[uint32]uint64{}}
	for i := range f.dropped {
		if n := f.dropped[i].Load(); n > 0 {
			out.Dropped[uint32(i)] = n
		}
	}
	return out, nil
}
