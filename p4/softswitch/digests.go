// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/v1model"
)

// Digests are section 9.8 of P4Runtime 1.5.

// What bounds the memory that a digest takes: how many messages one list has at most,
// whatever max_list_size says, and how many messages wait for an acknowledgement.
// What comes beyond the second is lost, as the specification allows.
const (
	maxDigestList  = 1024
	maxDigestCache = 1 << 16
)

type digestSchema struct {
	id   uint32
	name string
	typ  *dataType
	list string // what the program calls it
}

func newDigestSchema(prog *bmv2.Program, info *p4config.P4Info, x *p4config.Digest) (*digestSchema, error) {
	ds := &digestSchema{id: x.GetPreamble().GetId(), name: x.GetPreamble().GetName()}
	var err error
	if ds.typ, err = newDataType(x.GetTypeSpec(), info.GetTypeInfo()); err != nil {
		return nil, err
	}
	// p4c has names of its own for digests of types without one; then it is the only
	// learn list of this shape.
	var same []*bmv2.FieldList
	for _, l := range prog.LearnLists {
		switch {
		case l.Name == ds.name && !ds.fits(l):
			return nil, fmt.Errorf("values of %v bits, which is not what the program sends", ds.typ.widths(nil))
		case l.Name == ds.name:
			return ds.use(l), nil
		case ds.fits(l):
			same = append(same, l)
		}
	}
	if len(same) != 1 {
		return nil, errors.New("the program has no such digest")
	}
	return ds.use(same[0]), nil
}

// fits tells whether a learn list has the values of the digest.
func (ds *digestSchema) fits(l *bmv2.FieldList) bool {
	want := ds.typ.widths(nil)
	if len(want) != len(l.Elements) {
		return false
	}
	for i := range want {
		if want[i] != 0 && want[i] != l.Elements[i].Width {
			return false
		}
	}
	return true
}

func (ds *digestSchema) use(l *bmv2.FieldList) *digestSchema {
	widths := make([]int, len(l.Elements))
	for i := range widths {
		widths[i] = l.Elements[i].Width
	}
	ds.typ.resolve(widths)
	ds.list = l.Name
	return ds
}

// A digest collects what packets tell the control plane. Packets call add, on their own
// goroutines; nothing here blocks.
type digest struct {
	schema *digestSchema
	// send hands a list to the primary controllers and tells whether one took it.
	send func(*p4v1.DigestList) bool
	// wake makes the one who calls tick look again.
	wake func()
	now  func() time.Time

	mu     sync.Mutex
	config *p4v1.DigestEntry_Config // nil: not enabled
	lists  uint64                   // how many were sent
	buffer []*p4v1.P4Data
	first  time.Time // when the buffer got its first message
	// seen holds the messages that are not to be sent again, as the packet's bytes:
	// those in the buffer and those in unacked.
	seen    map[string]bool
	waiting []string       // those in the buffer
	unacked []unackedEntry // by ascending time
}

// unackedEntry is a list that was sent and not acknowledged.
type unackedEntry struct {
	list uint64
	sent time.Time
	keys []string
}

func (d *digest) maxList() int {
	if n := int(d.config.GetMaxListSize()); n > 0 && n < maxDigestList {
		return n
	}
	return maxDigestList
}

// add takes one message of a packet.
func (d *digest) add(m *v1model.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config == nil {
		return
	}
	now := d.now()
	d.forget(now)
	if d.seen[string(m.Data)] || len(d.seen) >= maxDigestCache {
		return
	}
	key := string(m.Data)
	data, _ := d.schema.typ.message(m.Values())
	if len(d.buffer) == 0 {
		d.first = now
	}
	d.seen[key] = true
	d.buffer, d.waiting = append(d.buffer, data), append(d.waiting, key)
	switch {
	case d.config.GetMaxTimeoutNs() == 0 || len(d.buffer) >= d.maxList():
		d.flush(now)
	case len(d.buffer) == 1:
		d.wake()
	}
}

// flush sends what is in the buffer; d.mu is held.
func (d *digest) flush(now time.Time) {
	if len(d.buffer) == 0 {
		return
	}
	d.lists++
	sent := d.send(&p4v1.DigestList{DigestId: d.schema.id, ListId: d.lists, Data: d.buffer, Timestamp: now.UnixNano()})
	if sent && d.config.GetAckTimeoutNs() > 0 {
		d.unacked = append(d.unacked, unackedEntry{d.lists, now, d.waiting})
	} else {
		for _, key := range d.waiting {
			delete(d.seen, key)
		}
	}
	d.buffer, d.waiting = nil, nil
}

// forget drops the lists that have waited for their acknowledgement for long enough;
// d.mu is held.
func (d *digest) forget(now time.Time) {
	n := 0
	for n < len(d.unacked) && now.Sub(d.unacked[n].sent) >= time.Duration(d.config.GetAckTimeoutNs()) {
		for _, key := range d.unacked[n].keys {
			delete(d.seen, key)
		}
		n++
	}
	d.unacked = d.unacked[n:]
}

// ack is a DigestListAck. A list that nobody waits for is no error.
func (d *digest) ack(list uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.unacked, func(u unackedEntry) bool { return u.list == list })
	if i < 0 {
		return
	}
	for _, key := range d.unacked[i].keys {
		delete(d.seen, key)
	}
	d.unacked = slices.Delete(d.unacked, i, i+1)
}

// tick sends the buffer if its time has come, and returns how long it takes until that;
// 0 if there is nothing to wait for.
func (d *digest) tick() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.buffer) == 0 {
		return 0
	}
	now := d.now()
	left := d.first.Add(time.Duration(d.config.GetMaxTimeoutNs())).Sub(now)
	if left <= 0 {
		d.flush(now)
		return 0
	}
	return left
}

// configure enables the digest, changes its parameters, or, with nil, disables it.
// Enabled tells what it must be before.
func (d *digest) configure(c *p4v1.DigestEntry_Config, enabled bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case enabled && d.config == nil:
		return errorf(codes.NotFound, "digest %q is not enabled", d.schema.name)
	case !enabled && d.config != nil:
		return errorf(codes.AlreadyExists, "digest %q is enabled already", d.schema.name)
	}
	d.config = c
	if c == nil {
		d.buffer, d.waiting, d.unacked = nil, nil, nil
	}
	if d.seen == nil || c == nil {
		d.seen = map[string]bool{}
	}
	d.wake()
	return nil
}

// writeDigest is section 9.8.
func (p *pipeline) writeDigest(typ p4v1.Update_Type, e *p4v1.DigestEntry) error {
	ds, err := p.schema.digests.get(e.GetDigestId())
	if err != nil {
		return err
	}
	d := p.digests[ds.list]
	if typ == p4v1.Update_DELETE {
		return d.configure(nil, true)
	}
	c := proto.CloneOf(e.GetConfig())
	if c == nil {
		c = &p4v1.DigestEntry_Config{}
	}
	if c.GetMaxTimeoutNs() < 0 || c.GetMaxListSize() < 0 || c.GetAckTimeoutNs() < 0 {
		return errorf(codes.InvalidArgument, "digest %q: a negative max_timeout_ns, max_list_size or ack_timeout_ns", ds.name)
	}
	return d.configure(c, typ == p4v1.Update_MODIFY)
}

// readDigests is section 9.8: those that are enabled.
func (p *pipeline) readDigests(q *p4v1.DigestEntry, out func(part)) error {
	list, err := p.schema.digests.some(q.GetDigestId())
	if err != nil {
		return err
	}
	var entries []*p4v1.DigestEntry
	for _, ds := range list {
		d := p.digests[ds.list]
		d.mu.Lock()
		if d.config != nil {
			entries = append(entries, &p4v1.DigestEntry{DigestId: ds.id, Config: d.config})
		}
		d.mu.Unlock()
	}
	out(part{len(entries), func(i int) *p4v1.Entity {
		return &p4v1.Entity{Entity: &p4v1.Entity_DigestEntry{DigestEntry: entries[i]}}
	}})
	return nil
}

// digestAck is section 16.3.
func (s *Switch) digestAck(c *controller, a *p4v1.DigestListAck) error {
	role, ok := s.arbiter.primary(c)
	if !ok {
		return errorf(codes.PermissionDenied, "only the primary controller may acknowledge digests")
	}
	p := s.forwarding.Load()
	if p == nil {
		return errorf(codes.FailedPrecondition, "no pipeline is set")
	}
	ds := p.schema.digests.ids[a.GetDigestId()]
	if ds == nil {
		return errorf(codes.InvalidArgument, "no digest with id %#x", a.GetDigestId())
	}
	if !role.owns(ds.id) {
		return errorf(codes.PermissionDenied, "role %q may not acknowledge digest %q", c.role, ds.name)
	}
	p.digests[ds.list].ack(a.GetListId())
	return nil
}
