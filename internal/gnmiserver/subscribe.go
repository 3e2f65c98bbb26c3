// SPDX-License-Identifier: Apache-2.0

package gnmiserver

import (
	"errors"
	"io"
	"math"
	"time"

	pb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// How often values are looked at.
const (
	// shortest is the shortest interval that a client may ask for, and what it gets
	// if it leaves the choice.
	shortest = 10 * time.Millisecond
	// defined is the target's choice for values that are read (TARGET_DEFINED).
	defined = 10 * time.Second
	// glance is how often a value that is read is compared with the one before, for
	// those who want to know when it changes.
	glance = time.Second
)

// Subscribe implements gnmi.gNMI (section 3.5).
//
// In a STREAM, ON_CHANGE is told at once. Values that change too often for that
// (see Leaf.Read) are compared with the last ones each second; where the choice is
// the target's, they are sampled every ten.
func (s *Server) Subscribe(rpc pb.GNMI_SubscribeServer) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return status.Errorf(codes.ResourceExhausted, "there are %d subscriptions, no more are possible", maxStreams)
	}
	// A server that stops must not wait for its clients to hang up.
	type incoming struct {
		r   *pb.SubscribeRequest
		err error
	}
	in := make(chan incoming)
	go func() {
		for {
			r, err := rpc.Recv() // ends when the handler returns
			select {
			case in <- incoming{r, err}:
			case <-rpc.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	var sub *subscriber
	var poll bool
	for {
		var timer <-chan time.Time
		var wake <-chan struct{}
		if sub != nil && !poll {
			timer, wake = sub.timer(), sub.watch.wake
		}
		select {
		case got := <-in:
			switch {
			case errors.Is(got.err, io.EOF):
				if sub != nil && !poll {
					in = nil // it sends no more; it may still listen
					continue
				}
				return nil
			case got.err != nil:
				return got.err
			case sub == nil:
				list := got.r.GetSubscribe()
				if list == nil {
					return status.Error(codes.InvalidArgument, "the first message must have a subscription list")
				}
				var err error
				if sub, err = s.subscriber(rpc, list); err != nil {
					return err
				}
				defer sub.close()
				if err := sub.initial(); err != nil || list.GetMode() == pb.SubscriptionList_ONCE {
					return err
				}
				poll = list.GetMode() == pb.SubscriptionList_POLL
			case poll && got.r.GetPoll() != nil:
				if err := sub.initial(); err != nil {
					return err
				}
			case got.r.GetPoll() != nil:
				return status.Error(codes.InvalidArgument, "a poll, but the subscription is not of mode POLL")
			default:
				return status.Error(codes.InvalidArgument, "a second subscription list: open another stream for it")
			}
		case <-timer:
			if err := sub.tick(time.Now()); err != nil {
				return err
			}
		case <-wake:
			if err := sub.changes(); err != nil {
				return err
			}
		case <-rpc.Context().Done():
			return status.FromContextError(rpc.Context().Err()).Err()
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the server is shutting down")
		}
	}
}

// A subscriber is one Subscribe RPC. It belongs to one goroutine.
type subscriber struct {
	rpc      pb.GNMI_SubscribeServer
	tree     *Tree
	encoding pb.Encoding
	prefix   *pb.Path
	paths    [][]*pb.PathElem
	onChange [][]*pb.PathElem // those of paths whose changes are told at once
	jobs     []*job
	watch    *watcher
	updates  bool // without the first values
	clock    *time.Timer
}

// A job is something to do from time to time.
type job struct {
	path     []*pb.PathElem
	interval time.Duration
	next     time.Time
	read     bool          // look at leaves that are read only
	suppress bool          // tell what is not as it was last time only
	last     map[*node]any // if suppress
}

func (j *job) selects(n *node) bool {
	return (!j.read || n.read != nil) && matches(j.path, n.path.GetElem())
}

func (s *Server) subscriber(rpc pb.GNMI_SubscribeServer, list *pb.SubscriptionList) (*subscriber, error) {
	if err := s.check(list.GetEncoding(), list.GetUseModels()); err != nil {
		return nil, err
	}
	if n := len(list.GetSubscription()); n == 0 || n > maxSubscriptions {
		return nil, status.Errorf(codes.InvalidArgument, "%d subscriptions, want 1 to %d", n, maxSubscriptions)
	}
	switch list.GetMode() {
	case pb.SubscriptionList_ONCE, pb.SubscriptionList_POLL, pb.SubscriptionList_STREAM:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "mode %v", list.GetMode())
	}
	sub := &subscriber{rpc: rpc, tree: s.cfg.Tree, encoding: list.GetEncoding(), prefix: reply(list.GetPrefix()), updates: list.GetUpdatesOnly()}
	for _, x := range list.GetSubscription() {
		path, err := s.join(list.GetPrefix(), x.GetPath())
		if err != nil {
			return nil, err
		}
		sub.paths = append(sub.paths, path)
		if list.GetMode() == pb.SubscriptionList_STREAM {
			if err := sub.stream(path, x); err != nil {
				return nil, err
			}
		}
	}
	if list.GetMode() == pb.SubscriptionList_STREAM {
		sub.watch = s.cfg.Tree.watch(func(n *node) bool {
			if n.gone {
				return anyOf(sub.paths, n)
			}
			return anyOf(sub.onChange, n)
		})
	}
	return sub, nil
}

// anyOf tells whether one of the queries names the leaf.
func anyOf(queries [][]*pb.PathElem, n *node) bool {
	for _, q := range queries {
		if matches(q, n.path.GetElem()) {
			return true
		}
	}
	return false
}

// stream adds what has to be done for one subscription of mode STREAM (section
// 3.5.1.5.2).
func (sub *subscriber) stream(path []*pb.PathElem, x *pb.Subscription) error {
	interval, err := intervalOf("sample_interval", x.GetSampleInterval())
	if err != nil {
		return err
	}
	heartbeat, err := intervalOf("heartbeat_interval", x.GetHeartbeatInterval())
	if err != nil {
		return err
	}
	add := func(j job) {
		j.path = path
		if j.suppress {
			j.last = map[*node]any{}
		}
		sub.jobs = append(sub.jobs, &j)
	}
	switch x.GetMode() {
	case pb.SubscriptionMode_ON_CHANGE:
		sub.onChange = append(sub.onChange, path)
		add(job{interval: glance, read: true, suppress: true})
	case pb.SubscriptionMode_TARGET_DEFINED:
		sub.onChange = append(sub.onChange, path)
		add(job{interval: defined, read: true})
	case pb.SubscriptionMode_SAMPLE:
		add(job{interval: max(interval, shortest), suppress: x.GetSuppressRedundant()})
		if !x.GetSuppressRedundant() {
			heartbeat = 0 // it would add nothing
		}
	default:
		return status.Errorf(codes.InvalidArgument, "subscription mode %v", x.GetMode())
	}
	if heartbeat > 0 {
		add(job{interval: heartbeat})
	}
	return nil
}

// intervalOf reads a number of nanoseconds; 0 is none.
func intervalOf(name string, v uint64) (time.Duration, error) {
	if v != 0 && v < uint64(shortest) {
		return 0, status.Errorf(codes.InvalidArgument, "%s of %v, the shortest is %v", name, time.Duration(v), shortest)
	}
	return time.Duration(min(v, math.MaxInt64/4)), nil
}

// close ends the subscription.
func (sub *subscriber) close() {
	if sub.watch != nil {
		sub.watch.close()
	}
	if sub.clock != nil {
		sub.clock.Stop()
	}
}

// initial sends all values and the word that they were all.
func (sub *subscriber) initial() error {
	if !sub.updates {
		for _, s := range sub.tree.samples(func(n *node) bool { return anyOf(sub.paths, n) }) {
			if err := sub.update(&s, 0); err != nil {
				return err
			}
		}
	}
	now := time.Now()
	for _, j := range sub.jobs {
		j.next = now.Add(j.interval)
		if j.suppress {
			for _, s := range sub.tree.samples(j.selects) {
				j.last[s.node] = s.value
			}
		}
	}
	return sub.rpc.Send(&pb.SubscribeResponse{Response: &pb.SubscribeResponse_SyncResponse{SyncResponse: true}})
}

// timer returns a channel that says when a job is due; nil if there is none.
func (sub *subscriber) timer() <-chan time.Time {
	if len(sub.jobs) == 0 {
		return nil
	}
	next := sub.jobs[0].next
	for _, j := range sub.jobs {
		if j.next.Before(next) {
			next = j.next
		}
	}
	if sub.clock == nil {
		sub.clock = time.NewTimer(time.Until(next))
	} else {
		sub.clock.Reset(time.Until(next))
	}
	return sub.clock.C
}

// tick does what is due.
func (sub *subscriber) tick(now time.Time) error {
	for _, j := range sub.jobs {
		if j.next.After(now) {
			continue
		}
		// Ticks that were missed, because the client is slow, are left out.
		if j.next = j.next.Add(j.interval); j.next.Before(now) {
			j.next = now.Add(j.interval)
		}
		for _, s := range sub.tree.samples(j.selects) {
			if j.suppress {
				if old, ok := j.last[s.node]; ok && same(old, s.value) {
					continue
				}
				j.last[s.node] = s.value
			}
			s.time = now // when it was looked at
			if err := sub.update(&s, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// changes tells what has changed since the last time.
func (sub *subscriber) changes() error {
	for _, c := range sub.watch.take() {
		if c.gone {
			for _, j := range sub.jobs {
				delete(j.last, c.node)
			}
			if err := sub.send(&pb.Notification{Timestamp: c.time.UnixNano(), Delete: []*pb.Path{c.node.path}}); err != nil {
				return err
			}
			continue
		}
		if c.node.read != nil {
			c.value = c.node.read()
		}
		if err := sub.update(&c.sample, c.duplicates); err != nil {
			return err
		}
	}
	return nil
}

func (sub *subscriber) update(s *sample, duplicates uint32) error {
	u := s.update(sub.encoding)
	u.Duplicates = duplicates
	return sub.send(&pb.Notification{Timestamp: s.time.UnixNano(), Update: []*pb.Update{u}})
}

func (sub *subscriber) send(n *pb.Notification) error {
	n.Prefix = sub.prefix
	return sub.rpc.Send(&pb.SubscribeResponse{Response: &pb.SubscribeResponse_Update{Update: n}})
}
