// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Pipeline is a compiled P4 program.
type Pipeline struct {
	Info *p4configv1.P4Info
	// Device is what the target takes: for bmv2, the JSON of p4c.
	Device []byte
}

// Cookie identifies a pipeline, so that a switch that has it keeps it.
func (p Pipeline) Cookie() uint64 {
	h := sha256.New()
	info, err := proto.MarshalOptions{Deterministic: true}.Marshal(p.Info)
	if err != nil {
		info = nil // a P4Info that cannot be marshalled cannot be sent either
	}
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(info)))
	h.Write(n[:])
	h.Write(info)
	h.Write(p.Device)
	return binary.BigEndian.Uint64(h.Sum(nil)) | 1 // 0 means that there is none
}

// Status is where a session stands.
type Status uint8

// The states of a session.
//
//	connecting --arbitration won--> syncing --all written--> ready
//	     ^  |                                                 |
//	     |  +--arbitration lost--> standby <--arbitration lost+
//	     +------------------ stream ended ------------------- any
const (
	Connecting Status = iota
	Standby
	Syncing
	Ready
)

func (s Status) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Standby:
		return "standby"
	case Syncing:
		return "syncing"
	case Ready:
		return "ready"
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// ElectionID ranks the controllers of a switch: the highest is in charge.
type ElectionID struct{ High, Low uint64 }

// lowest is the bid of a session that stands by. When nobody is in charge it bids
// again, over the highest that was seen.
var lowest = ElectionID{Low: 1}

func byTime() ElectionID { return ElectionID{Low: uint64(time.Now().UnixNano())} }

// over returns an id that wins over the highest that a switch has seen.
func (id ElectionID) over(seen *p4v1.Uint128) ElectionID {
	high, low := seen.GetHigh(), seen.GetLow()
	if id.High > high || id.High == high && id.Low > low {
		return id
	}
	if low == 1<<64-1 {
		return ElectionID{High: high + 1, Low: id.Low}
	}
	return ElectionID{High: high, Low: max(id.Low, low+1)}
}

// Metadata is what the switch says beside a packet that it sends up.
type Metadata struct {
	// Port is where the packet came in.
	Port uint32
	// Released is the replica that the switch has released by itself in the sender's
	// pair, and Epoch in which; 0 for nobody.
	Released uint8
	Epoch    uint32
}

// Options are what a Session needs. Address, Pipeline and Wanted are required.
type Options struct {
	Address  string
	DeviceID uint64
	Pipeline Pipeline
	// ElectionID is called for each bid to be in charge. An id must not be used
	// twice: the switch may not know yet that the connection before has ended. nil
	// means by time: who comes later takes over.
	ElectionID func() ElectionID

	// Wanted is called each time that the session is in charge of the switch and
	// has read it. It returns what the switch shall have; what differs is written.
	Wanted func(ctx context.Context, have State) (want State, err error)
	// PacketIn is called for each packet that the switch sends up, in the order of
	// their arrival, in the goroutine that reads them: it must not block, and must
	// not keep the payload. nil drops them.
	PacketIn func(meta Metadata, payload []byte)
	// Changed is called whenever the status changes. It must not block.
	Changed func(Status)
	// Wrote is called after each write: how many updates it had, how long it took, and
	// what came of it. It must not block. nil is nobody.
	Wrote func(updates int, took time.Duration, err error)
	// Drift is called when the switch is found to have something else than what was
	// written, with the updates that put it right, before they are made. It must not
	// block. It may be nil.
	Drift func([]Update)
	// StandBy has the session bid below every other controller: it takes over only
	// when nobody is in charge.
	StandBy bool

	// Logger may be nil.
	Logger *slog.Logger
	// Rand spreads the pauses between attempts; nil means a generator of its own.
	Rand *rand.Rand
	// WriteTimeout bounds one write, 2 s by default; MaxBackoff bounds the pause
	// between attempts to connect, 300 ms by default. TakeOver is how long a session
	// that stands by waits for the one in charge to come back, and up to as long again
	// at random, 300 ms by default. Audit is how often a part of the switch is read and
	// compared with what was written, 1 s by default.
	WriteTimeout, MaxBackoff, TakeOver, Audit time.Duration
	// Dial replaces the way to connect, for tests; nil means TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Session is one controller's session with one switch. Run keeps it up; Put and
// the readers may be called from any goroutine, at any time.
type Session struct {
	opts   Options
	schema *Schema
	cookie uint64
	status atomic.Uint32
	// election is that of the present connection.
	election atomic.Pointer[p4v1.Uint128]

	// mu is held for reading while something is written, and for writing while
	// the whole state is brought about.
	mu     sync.RWMutex
	reader p4v1.P4RuntimeClient // both nil unless ready
	writer p4v1.P4RuntimeClient
	drift  chan struct{}
	// puts counts those that were begun, putting those that are under way.
	puts, putting atomic.Int64

	known   sync.Mutex // guards what follows: what the switch has
	entries map[string]Entry
	groups  map[uint32]Group
}

// New checks the pipeline. It does not connect.
func New(opts Options) (*Session, error) {
	schema, err := NewSchema(opts.Pipeline.Info)
	if err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Rand == nil {
		opts.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if opts.ElectionID == nil {
		opts.ElectionID = byTime
	}
	if opts.StandBy {
		opts.ElectionID = func() ElectionID { return lowest }
	}
	if opts.WriteTimeout == 0 {
		opts.WriteTimeout = 2 * time.Second
	}
	if opts.MaxBackoff == 0 {
		opts.MaxBackoff = 300 * time.Millisecond
	}
	if opts.TakeOver == 0 {
		opts.TakeOver = 300 * time.Millisecond
	}
	if opts.Audit == 0 {
		opts.Audit = time.Second
	}
	if opts.Dial == nil {
		opts.Dial = dialTCP
	}
	return &Session{
		opts: opts, schema: schema, cookie: opts.Pipeline.Cookie(),
		drift: make(chan struct{}, 1),
	}, nil
}

// dialTCP lets the kernel notice within a few seconds that the other end is
// gone, and does not wait for one that does not answer for longer than it takes
// to ask again. Pings by HTTP/2 are not used: servers written in C++ end a connection
// that has many of them.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3,
	}}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", address)
}

func (s *Session) String() string { return "switch session to " + s.opts.Address }

// Schema translates names for this session's program.
func (s *Session) Schema() *Schema { return s.schema }

// Status returns where the session stands now.
func (s *Session) Status() Status { return Status(s.status.Load()) }

func (s *Session) become(st Status) {
	if Status(s.status.Swap(uint32(st))) != st && s.opts.Changed != nil {
		s.opts.Changed(st)
	}
}

const (
	firstBackoff = 20 * time.Millisecond
	// logEvery is how often the same failure to connect is logged.
	logEvery = 10 * time.Second
)

// Run connects, and connects again, until ctx ends, which is not an error. When
// it returns every goroutine that it started has ended.
func (s *Session) Run(ctx context.Context) error {
	pause := firstBackoff
	var logged time.Time
	said := ""
	for {
		began := time.Now()
		err := s.connect(ctx)
		s.become(Connecting)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > s.opts.MaxBackoff {
			pause = firstBackoff
		}
		// Between a half and the whole of it.
		wait := pause/2 + time.Duration(s.opts.Rand.Int64N(int64(pause/2)+1))
		if text := fmt.Sprint(err); text != said || time.Since(logged) > logEvery {
			said, logged = text, time.Now()
			s.opts.Logger.Warn("switch session ended", "address", s.opts.Address, "error", err, "again_in", wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		pause = min(2*pause, s.opts.MaxBackoff)
	}
}

// connect is the life of one connection, or rather two: writes have one of
// their own, on which nothing else is ever under way.
func (s *Session) connect(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()

	streamConn, err := s.dial()
	if err != nil {
		return err
	}
	defer streamConn.Close()
	// In this order: a write that the switch does not answer ends with its
	// connection, and nobody waits for it.
	defer s.unready()
	writeConn, err := s.dial()
	if err != nil {
		return err
	}
	defer writeConn.Close()
	writeConn.Connect()

	c := &connection{
		reader:      p4v1.NewP4RuntimeClient(streamConn),
		writer:      p4v1.NewP4RuntimeClient(writeConn),
		arbitration: make(chan *p4v1.MasterArbitrationUpdate, 16),
		ended:       make(chan error, 1),
	}
	if c.stream, err = c.reader.StreamChannel(ctx); err != nil {
		return fmt.Errorf("open the stream: %w", err)
	}
	if err := s.bid(c, s.opts.ElectionID()); err != nil {
		return err
	}
	readers.Go(func() { c.ended <- s.read(ctx, c) })
	return s.serve(ctx, c)
}

// connection is what a session has while it is connected. Only serve sends on
// the stream.
type connection struct {
	reader, writer p4v1.P4RuntimeClient
	stream         p4v1.P4Runtime_StreamChannelClient
	arbitration    chan *p4v1.MasterArbitrationUpdate
	ended          chan error
}

// bid asks to be in charge.
func (s *Session) bid(c *connection, id ElectionID) error {
	s.election.Store(&p4v1.Uint128{High: id.High, Low: id.Low})
	err := c.stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{
		Arbitration: &p4v1.MasterArbitrationUpdate{DeviceId: s.opts.DeviceID, ElectionId: s.election.Load()},
	}})
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: Recv has the reason
		return fmt.Errorf("arbitration: %w", err)
	}
	return nil
}

// window is how many bytes the switch may send before they are read.
const window = 1 << 20

func (s *Session) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+s.opts.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(s.opts.Dial),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		// A window of its own choice lets gRPC measure the path, with a ping for
		// nearly every packet-in.
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20), grpc.MaxCallSendMsgSize(256<<20)),
	)
}

// read takes everything that comes on the stream.
func (s *Session) read(ctx context.Context, c *connection) error {
	for {
		m, err := c.stream.Recv()
		if err != nil {
			return fmt.Errorf("stream: %w", err)
		}
		switch m := m.GetUpdate().(type) {
		case *p4v1.StreamMessageResponse_Packet:
			if s.opts.PacketIn != nil {
				s.packetIn(m.Packet)
			}
		case *p4v1.StreamMessageResponse_Arbitration:
			select {
			case c.arbitration <- m.Arbitration:
			case <-ctx.Done():
				return ctx.Err()
			}
		case *p4v1.StreamMessageResponse_Error:
			s.opts.Logger.Warn("the switch reports a stream error", "code", codes.Code(m.Error.GetCanonicalCode()), "message", m.Error.GetMessage())
		}
	}
}

func (s *Session) packetIn(p *p4v1.PacketIn) {
	var meta Metadata
	known := false
	for _, md := range p.GetMetadata() {
		var n uint32
		for _, b := range md.GetValue() {
			n = n<<8 | uint32(b)
		}
		switch md.GetMetadataId() {
		case s.schema.inPort:
			meta.Port, known = n, true
		case s.schema.inReleased:
			meta.Released = uint8(n)
		case s.schema.inEpoch:
			meta.Epoch = n
		}
	}
	if known {
		s.opts.PacketIn(meta, p.GetPayload())
	}
}

// serve waits for its turn, brings the switch into the wanted state, and then
// only minds what changes.
func (s *Session) serve(ctx context.Context, c *connection) error {
	answer := time.After(5 * time.Second)
	var vacant <-chan time.Time
	var seen *p4v1.Uint128
	audit := time.NewTicker(s.opts.Audit)
	defer audit.Stop()
	turn := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-c.ended:
			return err
		case <-answer:
			return errors.New("the switch does not answer the arbitration")
		case m := <-c.arbitration:
			answer, vacant = nil, nil
			seen = m.GetElectionId()
			switch codes.Code(m.GetStatus().GetCode()) {
			case codes.OK:
				if s.Status() == Ready {
					break
				}
				if err := s.sync(ctx, c); err != nil {
					return err
				}
			case codes.NotFound:
				// Nobody is in charge. Whoever was gets the time to come back.
				vacant = time.After(s.opts.TakeOver + time.Duration(s.opts.Rand.Int64N(int64(s.opts.TakeOver))))
				fallthrough
			default:
				s.unready()
				s.become(Standby)
			}
		case <-vacant:
			vacant = nil
			s.opts.Logger.Info("nobody is in charge of the switch; taking over", "address", s.opts.Address)
			if err := s.bid(c, s.opts.ElectionID().over(seen)); err != nil {
				return err
			}
		case <-audit.C:
			if s.Status() == Ready {
				if err := s.audit(ctx, c, &turn); err != nil {
					return err
				}
			}
		case <-s.drift:
			if s.Status() == Ready {
				s.opts.Logger.Warn("the switch does not have what was written; putting it right", "address", s.opts.Address)
				s.unready()
				if err := s.sync(ctx, c); err != nil {
					return err
				}
			}
		}
	}
}

func (s *Session) unready() {
	s.mu.Lock()
	s.reader, s.writer = nil, nil
	s.mu.Unlock()
}

// ---- the whole state ----

func (s *Session) sync(ctx context.Context, c *connection) error {
	s.become(Syncing)
	if err := s.pipeline(ctx, c.reader); err != nil {
		return err
	}
	have, err := s.readAll(ctx, c.reader)
	if err != nil {
		return err
	}
	want, err := s.opts.Wanted(ctx, have)
	if err != nil {
		return fmt.Errorf("wanted state: %w", err)
	}
	updates := Diff(have, want)
	// Bounded, so that a switch with many entries can answer in time.
	for batch := range slices.Chunk(updates, 512) {
		if err := s.write(ctx, c.writer, batch); err != nil {
			return err
		}
	}
	s.opts.Logger.Info("the switch has what it shall have", "address", s.opts.Address,
		"entries", len(want.Entries), "groups", len(want.Groups), "updates", len(updates))

	s.known.Lock()
	s.entries = make(map[string]Entry, len(want.Entries))
	for _, e := range want.Entries {
		s.entries[e.id()] = e
	}
	s.groups = make(map[uint32]Group, len(want.Groups))
	for _, g := range want.Groups {
		s.groups[g.ID] = g
	}
	s.known.Unlock()
	s.mu.Lock()
	s.reader, s.writer = c.reader, c.writer
	s.mu.Unlock()
	s.become(Ready)
	return nil
}

// pipeline makes the switch run the program, and leaves it alone if it does.
func (s *Session) pipeline(ctx context.Context, client p4v1.P4RuntimeClient) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	got, err := client.GetForwardingPipelineConfig(ctx, &p4v1.GetForwardingPipelineConfigRequest{
		DeviceId:     s.opts.DeviceID,
		ResponseType: p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY,
	})
	switch status.Code(err) {
	case codes.OK:
		if got.GetConfig().GetCookie().GetCookie() == s.cookie {
			return nil
		}
	case codes.FailedPrecondition, codes.NotFound, codes.Unimplemented:
		// It has none, or cannot tell.
	default:
		return fmt.Errorf("read the pipeline: %w", err)
	}
	s.opts.Logger.Info("the switch gets its pipeline", "address", s.opts.Address)
	_, err = client.SetForwardingPipelineConfig(ctx, &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId:   s.opts.DeviceID,
		ElectionId: s.election.Load(),
		Action:     p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT,
		Config: &p4v1.ForwardingPipelineConfig{
			P4Info:         s.opts.Pipeline.Info,
			P4DeviceConfig: s.opts.Pipeline.Device,
			Cookie:         &p4v1.ForwardingPipelineConfig_Cookie{Cookie: s.cookie},
		},
	})
	if err != nil {
		return fmt.Errorf("set the pipeline: %w", err)
	}
	return nil
}

// readAll reads every table and group.
func (s *Session) readAll(ctx context.Context, client p4v1.P4RuntimeClient) (State, error) {
	return s.readTables(ctx, client, slices.Sorted(maps.Keys(s.schema.byID)))
}

// readTables reads some tables, and all groups.
func (s *Session) readTables(ctx context.Context, client p4v1.P4RuntimeClient, ids []uint32) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req := &p4v1.ReadRequest{DeviceId: s.opts.DeviceID}
	for _, id := range ids {
		req.Entities = append(req.Entities, &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: &p4v1.TableEntry{TableId: id}}})
	}
	req.Entities = append(req.Entities, encodeGroup(Group{}))
	var state State
	err := s.readEach(ctx, client, req, func(e *p4v1.Entity) error {
		if te := e.GetTableEntry(); te != nil && !te.GetIsDefaultAction() {
			entry, err := s.schema.decode(te)
			if err != nil {
				return err
			}
			state.Entries = append(state.Entries, entry)
		}
		if g := e.GetPacketReplicationEngineEntry().GetMulticastGroupEntry(); g != nil {
			state.Groups = append(state.Groups, decodeGroup(g))
		}
		return nil
	})
	return state, err
}

func (s *Session) readEach(ctx context.Context, client p4v1.P4RuntimeClient, req *p4v1.ReadRequest, each func(*p4v1.Entity) error) error {
	stream, err := client.Read(ctx, req)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		for _, e := range resp.GetEntities() {
			if err := each(e); err != nil {
				return err
			}
		}
	}
}

func (s *Session) write(ctx context.Context, client p4v1.P4RuntimeClient, updates []Update) error {
	req := &p4v1.WriteRequest{DeviceId: s.opts.DeviceID, ElectionId: s.election.Load()}
	for _, u := range updates {
		encoded, err := s.schema.encodeUpdate(u)
		if err != nil {
			return err
		}
		req.Updates = append(req.Updates, encoded)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.WriteTimeout)
	defer cancel()
	began := time.Now()
	_, err := client.Write(ctx, req)
	if s.opts.Wrote != nil {
		s.opts.Wrote(len(updates), time.Since(began), err)
	}
	if err != nil {
		return writeError(updates, err)
	}
	return nil
}

// ---- parts of it ----

// Put makes the switch have these entries and groups, in one request, beside
// what it has. What it is known to have is not written again: a change of one
// entry's action is one MODIFY, on a connection on which nothing else is under
// way. Two calls at a time must not be about the same entry.
//
// The error is ErrNotReady, or a *WriteError when the switch has refused it, or
// that of the call. After any of them what the switch has is unknown: Put it
// again.
func (s *Session) Put(ctx context.Context, entries []Entry, groups []Group) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.writer == nil {
		return ErrNotReady
	}
	updates := make([]Update, 0, len(entries)+len(groups))
	s.known.Lock()
	for _, g := range groups {
		switch old, ok := s.groups[g.ID]; {
		case !ok:
			updates = append(updates, Update{Op: Insert, Group: &g})
		case !old.same(g):
			updates = append(updates, Update{Op: Modify, Group: &g})
		}
	}
	for _, e := range entries {
		switch old, ok := s.entries[e.id()]; {
		case !ok:
			updates = append(updates, Update{Op: Insert, Entry: &e})
		case !old.same(e):
			updates = append(updates, Update{Op: Modify, Entry: &e})
		}
	}
	s.known.Unlock()
	if len(updates) == 0 {
		return nil
	}
	s.puts.Add(1)
	s.putting.Add(1)
	defer s.putting.Add(-1)
	if err := s.write(ctx, s.writer, updates); err != nil {
		s.putFailed(updates, err)
		return err
	}
	s.known.Lock()
	defer s.known.Unlock()
	for _, u := range updates {
		if u.Group != nil {
			s.groups[u.Group.ID] = *u.Group
		} else {
			s.entries[u.Entry.id()] = *u.Entry
		}
	}
	return nil
}

// putFailed forgets what the updates were about, unless an entry was there
// before: then it still is, with one content or the other, and a MODIFY is right
// the next time, too.
func (s *Session) putFailed(updates []Update, err error) {
	s.known.Lock()
	for _, u := range updates {
		if u.Op != Modify {
			continue
		}
		if u.Group != nil {
			s.groups[u.Group.ID] = u.Group.forgotten()
		} else {
			s.entries[u.Entry.id()] = u.Entry.forgotten()
		}
	}
	s.known.Unlock()
	if w := new(WriteError); errors.As(err, &w) && w.drifted() {
		s.Resync()
	}
}

// Size is how many entries and groups the switch is known to have.
func (s *Session) Size() (entries, groups int) {
	s.known.Lock()
	defer s.known.Unlock()
	return len(s.entries), len(s.groups)
}

// Known returns what the switch was last told under an entry's key, false for nothing.
// After a Put that has failed that is not known: the entry has no action then.
func (s *Session) Known(e Entry) (Entry, bool) {
	s.known.Lock()
	defer s.known.Unlock()
	old, ok := s.entries[e.id()]
	return old, ok
}

// Resync has the switch read and put right again, soon.
func (s *Session) Resync() {
	select {
	case s.drift <- struct{}{}:
	default:
	}
}

// Read returns what the switch has now.
func (s *Session) Read(ctx context.Context) (State, error) {
	s.mu.RLock()
	client := s.reader
	s.mu.RUnlock()
	if client == nil {
		return State{}, ErrNotReady
	}
	return s.readAll(ctx, client)
}

// Count is the value of one counter.
type Count struct{ Packets, Bytes uint64 }

// Counters returns the cells of an indirect counter of the program that are not
// zero, by index.
func (s *Session) Counters(ctx context.Context, name string) (map[int64]Count, error) {
	id, ok := s.schema.counters[name]
	if !ok {
		return nil, fmt.Errorf("no counter %q in the P4 program", name)
	}
	s.mu.RLock()
	client := s.reader
	s.mu.RUnlock()
	if client == nil {
		return nil, ErrNotReady
	}
	counts := map[int64]Count{}
	req := &p4v1.ReadRequest{DeviceId: s.opts.DeviceID, Entities: []*p4v1.Entity{
		{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{CounterId: id}}},
	}}
	err := s.readEach(ctx, client, req, func(e *p4v1.Entity) error {
		c := e.GetCounterEntry()
		if n := (Count{uint64(c.GetData().GetPacketCount()), uint64(c.GetData().GetByteCount())}); n != (Count{}) {
			counts[c.GetIndex().GetIndex()] = n
		}
		return nil
	})
	return counts, err
}
