// SPDX-License-Identifier: Apache-2.0

// Package switchtest runs a P4 program in a test: frames in, frames out, and table
// entries through a real P4Runtime connection, without a network and without root.
//
//	h := switchtest.New(t, json, p4info)
//	h.Insert("active", switchtest.Match{"pair": 1}, "set_active", switchtest.Args{"replica": 1, "epoch": 7})
//	out := h.Send(1, frame)
package switchtest

import (
	"bytes"
	"context"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/understudy-net/understudy/p4/softswitch"
)

// The switch that New makes.
const (
	DeviceID = 1
	CPUPort  = 510
	// Ports is how many ports there are: 1 to Ports.
	Ports = 8
)

// timeout bounds every step, so that a test fails instead of hanging.
const timeout = 10 * time.Second

// A Frame is one that left the switch.
type Frame struct {
	Port uint16
	Data []byte
}

// A Harness is a running switch with this test as its primary controller.
type Harness struct {
	t      testing.TB
	Client p4v1.P4RuntimeClient
	Info   *p4config.P4Info
	Switch *softswitch.Switch // nil if it runs elsewhere
	Conn   *grpc.ClientConn   // as Client, for other services

	ctx    context.Context
	stream p4v1.P4Runtime_StreamChannelClient
	links  map[uint16]*softswitch.MemLink

	mu       sync.Mutex
	out      []Frame
	received chan *p4v1.StreamMessageResponse
}

// Build finds what p4c made of the program of that name in p4/build, looking
// upward from the test's directory, and skips the test if it is not there.
func Build(t testing.TB, name string) (json, p4info []byte) {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		base := filepath.Join(dir, "p4", "build", name)
		json, err1 := os.ReadFile(base + ".json")
		p4info, err2 := os.ReadFile(base + ".p4info.txtpb")
		if err1 == nil && err2 == nil {
			return json, p4info
		}
	}
	t.Skipf("p4/build/%s.json is not there: compile the P4 program first", name)
	return nil, nil
}

// New starts a switch with a program and connects to it. The test's end stops it.
func New(t testing.TB, json, p4info []byte) *Harness {
	t.Helper()
	config, err := softswitch.LoadConfig(json, p4info)
	if err != nil {
		t.Fatal(err)
	}
	h := Start(t, softswitch.Config{})
	h.Info = config.GetP4Info()
	_, err = h.Client.SetForwardingPipelineConfig(h.ctx, &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: DeviceID, ElectionId: Election(),
		Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT, Config: config,
	})
	if err != nil {
		t.Fatalf("SetForwardingPipelineConfig: %v", err)
	}
	return h
}

// Election is the election id of the harness.
func Election() *p4v1.Uint128 { return &p4v1.Uint128{High: 0, Low: 100} }

// Start starts a switch without a program and becomes its primary controller; cfg
// may add what the harness does not set itself.
func Start(t testing.TB, cfg softswitch.Config) *Harness {
	t.Helper()
	h := StartIdle(t, cfg)
	h.connect(h.Client)
	return h
}

// StartIdle is Start without a stream channel: only Client and Send can be used.
func StartIdle(t testing.TB, cfg softswitch.Config) *Harness {
	t.Helper()
	h := &Harness{t: t, links: map[uint16]*softswitch.MemLink{},
		received: make(chan *p4v1.StreamMessageResponse, 1024)}
	for n := uint16(1); n <= Ports; n++ {
		h.links[n] = softswitch.NewMemLink(func(b []byte) {
			h.mu.Lock()
			h.out = append(h.out, Frame{n, b})
			h.mu.Unlock()
		})
		cfg.Ports = append(cfg.Ports, softswitch.Port{Number: n, Link: h.links[n]})
	}
	lis := bufconn.Listen(1 << 20)
	cfg.DeviceID, cfg.CPUPort, cfg.Listener = DeviceID, CPUPort, lis
	sw, err := softswitch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Switch = sw
	ctx, cancel := context.WithCancel(context.Background())
	h.ctx = ctx
	done := make(chan error, 1)
	go func() { done <- sw.Run(ctx) }()
	conn, err := grpc.NewClient("passthrough:///switch",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		conn.Close()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(timeout):
			t.Errorf("the switch did not stop")
		}
	})
	h.Conn, h.Client = conn, p4v1.NewP4RuntimeClient(conn)
	return h
}

// Connect makes a harness for a switch that runs elsewhere and has its pipeline.
// Send and PacketOut do not work with it.
func Connect(t testing.TB, client p4v1.P4RuntimeClient, info *p4config.P4Info) *Harness {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	h := &Harness{t: t, Info: info, ctx: ctx, received: make(chan *p4v1.StreamMessageResponse, 1024)}
	h.connect(client)
	return h
}

// connect becomes the primary controller.
func (h *Harness) connect(client p4v1.P4RuntimeClient) {
	h.t.Helper()
	h.Client = client
	var err error
	if h.stream, err = client.StreamChannel(h.ctx); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		for {
			m, err := h.stream.Recv()
			if err != nil {
				close(h.received)
				return
			}
			select {
			case h.received <- m:
			case <-h.ctx.Done():
				return
			}
		}
	}()
	h.send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{
		Arbitration: &p4v1.MasterArbitrationUpdate{DeviceId: DeviceID, ElectionId: Election()}}})
	if got := h.Stream().GetArbitration().GetStatus(); got.GetCode() != 0 {
		h.t.Fatalf("arbitration: %v", got)
	}
}

func (h *Harness) send(m *p4v1.StreamMessageRequest) {
	h.t.Helper()
	if err := h.stream.Send(m); err != nil {
		h.t.Fatal(err)
	}
}

// SendStream sends any message on the stream channel.
func (h *Harness) SendStream(m *p4v1.StreamMessageRequest) {
	h.t.Helper()
	h.send(m)
}

// Stream returns the next message of the stream channel.
func (h *Harness) Stream() *p4v1.StreamMessageResponse {
	h.t.Helper()
	select {
	case m, ok := <-h.received:
		if !ok {
			h.t.Fatal("the stream channel ended")
		}
		return m
	case <-time.After(timeout):
		h.t.Fatal("nothing came on the stream channel")
		return nil
	}
}

// Send lets a frame come in at a port and returns what leaves, in order. Packets to
// the controller are not among it, see PacketIn.
func (h *Harness) Send(port uint16, frame []byte) []Frame {
	h.t.Helper()
	link := h.links[port]
	if link == nil {
		h.t.Fatalf("the harness has no port %d", port)
	}
	ctx, cancel := context.WithTimeout(h.ctx, timeout)
	defer cancel()
	if err := link.Inject(ctx, frame); err != nil {
		h.t.Fatalf("port %d: %v", port, err)
	}
	return h.take()
}

// SetDown lets the link of a port fail, or work again, as gNMI tells it.
func (h *Harness) SetDown(port uint16, down bool) { h.links[port].SetDown(down) }

func (h *Harness) take() []Frame {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.out
	h.out = nil
	return out
}

// PacketIn returns the next packet to the controller, with its metadata by name.
func (h *Harness) PacketIn() (payload []byte, metadata map[string]uint64) {
	h.t.Helper()
	m := h.Stream()
	p := m.GetPacket()
	if p == nil {
		h.t.Fatalf("not a packet: %v", m)
	}
	return p.GetPayload(), h.metadata("packet_in", p.GetMetadata())
}

// Pending returns the messages of the stream channel that have come, without
// waiting for more.
func (h *Harness) Pending() []*p4v1.StreamMessageResponse {
	time.Sleep(20 * time.Millisecond)
	var out []*p4v1.StreamMessageResponse
	for {
		select {
		case m, ok := <-h.received:
			if !ok {
				return out
			}
			out = append(out, m)
		default:
			return out
		}
	}
}

// NoPacketIn fails the test if a packet to the controller is there.
func (h *Harness) NoPacketIn() {
	h.t.Helper()
	select {
	case m, ok := <-h.received:
		if ok {
			h.t.Errorf("unexpected message on the stream channel: %v", m)
		}
	case <-time.After(20 * time.Millisecond):
	}
}

func (h *Harness) metadata(header string, list []*p4v1.PacketMetadata) map[string]uint64 {
	out := map[string]uint64{}
	for _, c := range h.Info.GetControllerPacketMetadata() {
		if c.GetPreamble().GetName() != header {
			continue
		}
		for _, f := range c.GetMetadata() {
			for _, m := range list {
				if m.GetMetadataId() == f.GetId() {
					out[f.GetName()] = new(big.Int).SetBytes(m.GetValue()).Uint64()
				}
			}
		}
	}
	return out
}

// PacketOut sends a packet as the controller, with the metadata of the program's
// packet_out header by name (what is left out is 0), and returns the first frame
// that leaves.
func (h *Harness) PacketOut(payload []byte, metadata Args) Frame {
	h.t.Helper()
	h.SendPacketOut(payload, metadata)
	for end := time.Now().Add(timeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if out := h.take(); len(out) > 0 {
			return out[0]
		}
	}
	h.t.Fatal("the packet did not leave")
	return Frame{}
}

// SendPacketOut is PacketOut without waiting for what leaves.
func (h *Harness) SendPacketOut(payload []byte, metadata Args) {
	h.t.Helper()
	p := &p4v1.PacketOut{Payload: payload}
	for _, c := range h.Info.GetControllerPacketMetadata() {
		if c.GetPreamble().GetName() == "packet_out" {
			for _, f := range c.GetMetadata() {
				p.Metadata = append(p.Metadata, &p4v1.PacketMetadata{MetadataId: f.GetId(), Value: h.value(metadata[f.GetName()])})
			}
		}
	}
	h.send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Packet{Packet: p}})
}

// Left returns what has left and was not returned yet, without waiting.
func (h *Harness) Left() []Frame { return h.take() }

// Match gives values for match fields by name: an int, []byte, netip.Addr,
// net.HardwareAddr, *big.Int for an exact or optional match, netip.Prefix or LPM
// for a prefix, Ternary for a mask, Range for a range. What is left out matches
// everything.
type Match map[string]any

// Args gives values for action parameters or packet metadata by name.
type Args map[string]any

// LPM is the first Len bits of Value.
type LPM struct {
	Value any
	Len   int
}

// Ternary is the bits of Value that Mask has.
type Ternary struct{ Value, Mask any }

// Range is all values from Low to High.
type Range struct{ Low, High any }

// value encodes v as a bytestring without leading zeros.
func (h *Harness) value(v any) []byte {
	h.t.Helper()
	var b []byte
	switch v := v.(type) {
	case nil:
	case int:
		b = big.NewInt(int64(v)).Bytes()
	case uint16:
		b = big.NewInt(int64(v)).Bytes()
	case uint32:
		b = big.NewInt(int64(v)).Bytes()
	case uint64:
		b = new(big.Int).SetUint64(v).Bytes()
	case *big.Int:
		b = v.Bytes()
	case []byte:
		b = v
	case net.HardwareAddr:
		b = v
	case netip.Addr:
		b = v.AsSlice()
	case string:
		if a, err := netip.ParseAddr(v); err == nil {
			b = a.AsSlice()
		} else if m, err := net.ParseMAC(v); err == nil {
			b = m
		} else {
			h.t.Fatalf("%q is neither an IP nor a MAC address", v)
		}
	default:
		h.t.Fatalf("a value of type %T", v)
	}
	if b = bytes.TrimLeft(b, "\x00"); len(b) == 0 {
		return []byte{0}
	}
	return b
}

func named(p *p4config.Preamble, name string) bool {
	return p.GetName() == name || p.GetAlias() == name || strings.HasSuffix(p.GetName(), "."+name)
}

// TableID returns the id of a table by its full name, its alias or the end of its
// name.
func (h *Harness) TableID(name string) uint32 { return h.table(name).GetPreamble().GetId() }

func (h *Harness) table(name string) *p4config.Table {
	h.t.Helper()
	for _, t := range h.Info.GetTables() {
		if named(t.GetPreamble(), name) {
			return t
		}
	}
	h.t.Fatalf("the program has no table %q", name)
	return nil
}

// Entry builds a table entry; an empty action leaves it out, as for DELETE.
func (h *Harness) Entry(table string, match Match, priority int, action string, args Args) *p4v1.TableEntry {
	h.t.Helper()
	t := h.table(table)
	e := &p4v1.TableEntry{TableId: t.GetPreamble().GetId(), Priority: int32(priority)}
	known := 0
	for _, f := range t.GetMatchFields() {
		v, ok := match[f.GetName()]
		if !ok {
			continue
		}
		known++
		m := &p4v1.FieldMatch{FieldId: f.GetId()}
		switch f.GetMatchType() {
		case p4config.MatchField_EXACT:
			m.FieldMatchType = &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: h.value(v)}}
		case p4config.MatchField_OPTIONAL:
			m.FieldMatchType = &p4v1.FieldMatch_Optional_{Optional: &p4v1.FieldMatch_Optional{Value: h.value(v)}}
		case p4config.MatchField_LPM:
			l, isLPM := v.(LPM)
			switch v := v.(type) {
			case netip.Prefix:
				l = LPM{v.Masked().Addr(), v.Bits()}
			case string:
				p := netip.MustParsePrefix(v).Masked()
				l = LPM{p.Addr(), p.Bits()}
			default:
				if !isLPM {
					h.t.Fatalf("table %q: %s: a prefix given as %T", table, f.GetName(), v)
				}
			}
			if l.Len == 0 {
				continue
			}
			m.FieldMatchType = &p4v1.FieldMatch_Lpm{Lpm: &p4v1.FieldMatch_LPM{Value: h.value(l.Value), PrefixLen: int32(l.Len)}}
		case p4config.MatchField_TERNARY:
			tn := v.(Ternary)
			m.FieldMatchType = &p4v1.FieldMatch_Ternary_{Ternary: &p4v1.FieldMatch_Ternary{Value: h.value(tn.Value), Mask: h.value(tn.Mask)}}
		case p4config.MatchField_RANGE:
			r := v.(Range)
			m.FieldMatchType = &p4v1.FieldMatch_Range_{Range: &p4v1.FieldMatch_Range{Low: h.value(r.Low), High: h.value(r.High)}}
		}
		e.Match = append(e.Match, m)
	}
	if known != len(match) {
		h.t.Fatalf("table %q does not have all of the match fields %v", table, match)
	}
	if action != "" {
		e.Action = &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: h.Action(table, action, args)}}
	}
	return e
}

// Action builds an action of a table.
func (h *Harness) Action(table, action string, args Args) *p4v1.Action {
	h.t.Helper()
	for _, ref := range h.table(table).GetActionRefs() {
		i := slices.IndexFunc(h.Info.GetActions(), func(a *p4config.Action) bool { return a.GetPreamble().GetId() == ref.GetId() })
		if i < 0 || !named(h.Info.GetActions()[i].GetPreamble(), action) {
			continue
		}
		out := &p4v1.Action{ActionId: ref.GetId()}
		for _, p := range h.Info.GetActions()[i].GetParams() {
			out.Params = append(out.Params, &p4v1.Action_Param{ParamId: p.GetId(), Value: h.value(args[p.GetName()])})
		}
		if len(args) > len(out.Params) {
			h.t.Fatalf("action %q does not have all of the parameters %v", action, args)
		}
		return out
	}
	h.t.Fatalf("table %q has no action %q", table, action)
	return nil
}

// Group builds a multicast group of (port, instance) pairs.
func Group(id uint32, replicas ...[2]uint32) *p4v1.Entity {
	g := &p4v1.MulticastGroupEntry{MulticastGroupId: id}
	for _, r := range replicas {
		g.Replicas = append(g.Replicas, &p4v1.Replica{
			PortKind: &p4v1.Replica_Port{Port: big.NewInt(int64(r[0])).Bytes()}, Instance: r[1]})
	}
	return &p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{
		PacketReplicationEngineEntry: &p4v1.PacketReplicationEngineEntry{
			Type: &p4v1.PacketReplicationEngineEntry_MulticastGroupEntry{MulticastGroupEntry: g}}}}
}

// TableEntity wraps a table entry.
func TableEntity(e *p4v1.TableEntry) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: e}}
}

// TryWrite writes one entity and returns the error.
func (h *Harness) TryWrite(typ p4v1.Update_Type, entities ...*p4v1.Entity) error {
	r := &p4v1.WriteRequest{DeviceId: DeviceID, ElectionId: Election()}
	for _, e := range entities {
		r.Updates = append(r.Updates, &p4v1.Update{Type: typ, Entity: e})
	}
	ctx, cancel := context.WithTimeout(h.ctx, timeout)
	defer cancel()
	_, err := h.Client.Write(ctx, r)
	return err
}

// Write writes entities and fails the test if it cannot.
func (h *Harness) Write(typ p4v1.Update_Type, entities ...*p4v1.Entity) {
	h.t.Helper()
	if err := h.TryWrite(typ, entities...); err != nil {
		h.t.Fatalf("Write %v: %v", typ, err)
	}
}

// Insert adds a table entry.
func (h *Harness) Insert(table string, match Match, action string, args Args) {
	h.t.Helper()
	h.Write(p4v1.Update_INSERT, TableEntity(h.Entry(table, match, 0, action, args)))
}

// Modify changes a table entry.
func (h *Harness) Modify(table string, match Match, action string, args Args) {
	h.t.Helper()
	h.Write(p4v1.Update_MODIFY, TableEntity(h.Entry(table, match, 0, action, args)))
}

// Delete removes a table entry.
func (h *Harness) Delete(table string, match Match) {
	h.t.Helper()
	h.Write(p4v1.Update_DELETE, TableEntity(h.Entry(table, match, 0, "", nil)))
}

// InsertGroup adds a multicast group of (port, instance) pairs.
func (h *Harness) InsertGroup(id uint32, replicas ...[2]uint32) {
	h.t.Helper()
	h.Write(p4v1.Update_INSERT, Group(id, replicas...))
}

// Read returns what queries find.
func (h *Harness) Read(queries ...*p4v1.Entity) ([]*p4v1.Entity, error) {
	ctx, cancel := context.WithTimeout(h.ctx, timeout)
	defer cancel()
	stream, err := h.Client.Read(ctx, &p4v1.ReadRequest{DeviceId: DeviceID, Entities: queries})
	if err != nil {
		return nil, err
	}
	var out []*p4v1.Entity
	for {
		m, err := stream.Recv()
		if err != nil {
			if err.Error() == "EOF" {
				return out, nil
			}
			return out, err
		}
		out = append(out, m.GetEntities()...)
	}
}

// Counter returns one count of an indirect counter by name.
func (h *Harness) Counter(name string, index int) (packets, bytes int64) {
	h.t.Helper()
	for _, c := range h.Info.GetCounters() {
		if !named(c.GetPreamble(), name) {
			continue
		}
		out, err := h.Read(&p4v1.Entity{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{
			CounterId: c.GetPreamble().GetId(), Index: &p4v1.Index{Index: int64(index)}}}})
		if err != nil || len(out) != 1 {
			h.t.Fatalf("counter %q: %v, %v", name, out, err)
		}
		d := out[0].GetCounterEntry().GetData()
		return d.GetPacketCount(), d.GetByteCount()
	}
	h.t.Fatalf("the program has no counter %q", name)
	return 0, 0
}
