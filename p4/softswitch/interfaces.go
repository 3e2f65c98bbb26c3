// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"

	"github.com/understudy-net/understudy/internal/gnmiserver"
)

// An OperStatus is a value of OpenConfig's oper-status (module
// openconfig-interfaces), which are those of RFC 2863's ifOperStatus.
type OperStatus string

// Values of OperStatus.
const (
	OperUp         OperStatus = "UP"
	OperDown       OperStatus = "DOWN"
	OperTesting    OperStatus = "TESTING"
	OperUnknown    OperStatus = "UNKNOWN"
	OperDormant    OperStatus = "DORMANT"
	OperNotPresent OperStatus = "NOT_PRESENT"
	OperLowerDown  OperStatus = "LOWER_LAYER_DOWN"
)

// A LinkStatus is whether a link works.
type LinkStatus struct {
	Admin bool // it is meant to
	Oper  OperStatus
}

// A Watcher is a Link that knows its status.
type Watcher interface {
	// Watch calls report with the status, and again whenever it changes, until ctx
	// is done.
	Watch(ctx context.Context, report func(LinkStatus))
}

// models are the YANG modules whose paths are served, in the versions that have them.
var models = []*gnmipb.ModelData{
	{Name: "openconfig-interfaces", Organization: "OpenConfig working group", Version: "3.0.0"},
	{Name: "openconfig-p4rt", Organization: "OpenConfig working group", Version: "1.0.0"},
}

// newGNMI makes the gNMI server of the ports. As with Stratum, state/ifindex is the
// number that P4Runtime has for a port; state/id is so by openconfig-p4rt.
func (s *Switch) newGNMI() *gnmiserver.Server {
	return gnmiserver.New(gnmiserver.Config{Tree: &s.interfaces, Origins: []string{"openconfig"}, Models: models})
}

// nameInterfaces gives each port its name and puts what never changes into the tree.
func (s *Switch) nameInterfaces() error {
	taken := map[string]uint16{}
	for _, p := range s.ports {
		if p == nil {
			continue
		}
		if l, ok := p.Link.(*PacketLink); ok && p.Name == "" {
			p.Name = l.name
		}
		if p.Name == "" {
			p.Name = fmt.Sprint("port", p.Number)
		}
		if other, twice := taken[p.Name]; twice {
			return fmt.Errorf("softswitch: ports %d and %d have the same name %q", other, p.Number, p.Name)
		}
		taken[p.Name] = p.Number
		p.publish(&s.interfaces)
	}
	return nil
}

// under returns a path below an interface's.
func (p *port) under(names ...string) *gnmipb.Path {
	path := &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "interfaces"}, {Name: "interface", Key: map[string]string{"name": p.Name}}}}
	for _, n := range names {
		path.Elem = append(path.Elem, &gnmipb.PathElem{Name: n})
	}
	return path
}

// publish puts a port into the tree, as one of which nothing is known yet.
func (p *port) publish(tree *gnmiserver.Tree) {
	counter := func(name string, read func(*Stats) uint64) gnmiserver.Leaf {
		return gnmiserver.Leaf{Path: p.under("state", "counters", name), Read: func() any {
			st := p.stats.Snapshot()
			return read(&st)
		}}
	}
	tree.Set(
		gnmiserver.Leaf{Path: p.under("state", "name"), Value: p.Name},
		gnmiserver.Leaf{Path: p.under("state", "ifindex"), Value: uint64(p.Number)},
		gnmiserver.Leaf{Path: p.under("state", "id"), Value: uint64(p.Number)},
		gnmiserver.Leaf{Path: p.under("state", "counters", "carrier-transitions"), Read: func() any { return p.transitions.Load() }},
		counter("in-octets", func(s *Stats) uint64 { return s.RxBytes }),
		counter("in-pkts", func(s *Stats) uint64 { return s.RxPackets }),
		counter("in-unicast-pkts", func(s *Stats) uint64 { return s.RxPackets - min(s.RxPackets, s.RxMulticast+s.RxBroadcast) }),
		counter("in-multicast-pkts", func(s *Stats) uint64 { return s.RxMulticast }),
		counter("in-broadcast-pkts", func(s *Stats) uint64 { return s.RxBroadcast }),
		counter("in-errors", func(s *Stats) uint64 { return s.RxErrors }),
		counter("out-octets", func(s *Stats) uint64 { return s.TxBytes }),
		counter("out-pkts", func(s *Stats) uint64 { return s.TxPackets }),
		counter("out-unicast-pkts", func(s *Stats) uint64 { return s.TxPackets - min(s.TxPackets, s.TxMulticast+s.TxBroadcast) }),
		counter("out-multicast-pkts", func(s *Stats) uint64 { return s.TxMulticast }),
		counter("out-broadcast-pkts", func(s *Stats) uint64 { return s.TxBroadcast }),
		counter("out-discards", func(s *Stats) uint64 { return s.TxLinkDown + s.TxQueueFull }),
		counter("out-errors", func(s *Stats) uint64 { return s.TxTooLong + s.TxErrors }),
	)
	p.report(tree, LinkStatus{Oper: OperUnknown})
}

// report puts a port's status into the tree. It is called by one goroutine at a
// time.
func (p *port) report(tree *gnmiserver.Tree, st LinkStatus) {
	if p.status.Oper == st.Oper && p.status.Admin == st.Admin {
		return
	}
	if p.status.Oper != "" && p.status.Oper != OperUnknown && (p.status.Oper == OperUp) != (st.Oper == OperUp) {
		p.transitions.Add(1)
	}
	admin := "DOWN"
	if st.Admin {
		admin = "UP"
	}
	leaves := []gnmiserver.Leaf{
		{Path: p.under("state", "oper-status"), Value: string(st.Oper)},
		{Path: p.under("state", "admin-status"), Value: admin},
	}
	if p.status.Oper != st.Oper {
		// When oper-status became what it is.
		leaves = append(leaves, gnmiserver.Leaf{Path: p.under("state", "last-change"), Value: uint64(time.Now().UnixNano())})
	}
	p.status = st
	tree.Set(leaves...)
}

// report is told of a port's status, by one goroutine at a time.
func (s *Switch) report(p *port, st LinkStatus) {
	p.report(&s.interfaces, st)
	if down := st.Oper != OperUp && st.Oper != OperUnknown; p.down.Swap(down) != down {
		s.portChanged()
	}
}

// linkState is what is known of a port's link.
type linkState struct {
	down        atomic.Bool // it is known not to be up
	status      LinkStatus
	transitions atomic.Uint64 // between up and not up
}

// watchInterfaces keeps the tree up to date until ctx is done.
func (s *Switch) watchInterfaces(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	kernel := map[string]*port{}
	for _, p := range s.ports {
		if p == nil {
			continue
		}
		switch l := p.Link.(type) {
		case *PacketLink:
			kernel[l.name] = p
		case Watcher:
			wg.Go(func() { l.Watch(ctx, func(st LinkStatus) { s.report(p, st) }) })
		default:
			s.report(p, LinkStatus{Admin: true, Oper: OperUp})
		}
	}
	if len(kernel) == 0 {
		return
	}
	for {
		err := watchKernel(ctx, maps.Keys(kernel), func(name string, st LinkStatus) { s.report(kernel[name], st) })
		if ctx.Err() != nil {
			return
		}
		// There were more messages than fitted, most likely. What is true is asked
		// for again.
		s.log.Warn("the kernel's news of interfaces ended, asking again", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
	}
}
