// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// ErrNotFound says that there is no such connection or service.
var ErrNotFound = errors.New("not found")

// Config says where the programs go.
type Config struct {
	// Interface is the name of the interface that faces the switch. It is
	// looked up in the network namespace of the calling thread.
	Interface string
	// PinDir is a directory in a BPF file system (mount -t bpf). It is made
	// if it is missing. Nothing else should be kept in it.
	PinDir string
	// MaxConnections is how many connections can be remembered; beyond it
	// those that were silent for longest are forgotten first. 65536 if 0.
	// A connection costs about 200 bytes of kernel memory, allocated at once.
	MaxConnections int
}

// Service is a listening address whose sockets belong to the agent.
type Service struct {
	VIP  netip.Addr
	Port uint16
}

func (s Service) String() string { return netip.AddrPortFrom(s.VIP, s.Port).String() }

// ServiceConfig says what the programs do for a service. Clamping and the
// fixes of a backup's output have no switch: they are right in every role.
type ServiceConfig struct {
	// Secret is the key of the initial sequence numbers. It must be the same
	// on all servers of the service, and nobody else may know it.
	Secret [16]byte
	// OtherSecret, unless zero, is accepted in handshakes as well, so that a
	// secret can be replaced: first every server gets the new one as its
	// other, then as its first with the old one as its other.
	OtherSecret [16]byte

	// Align makes the programs answer SYNs, so that all servers give the
	// same answer.
	Align bool
	// Guard holds back FIN and RST, except for connections that were
	// announced with MarkClosing.
	Guard bool
	// Gate holds back acknowledgements of what the backup does not have. It
	// must be on only where the backup's frames arrive: on the active server
	// of a duplex pair.
	Gate bool
	// Generation tells one period of gating from the next. It should grow
	// with every change of Gate from off to on (the pair's epoch will do):
	// connections that began while the gate was off, or under another
	// generation, are not gated. 0 stands for 1.
	Generation uint32

	// MSS is what clients are told that they may send in one segment, and the
	// most that is sent to them in one. It must be the same on all servers.
	// If 0, what fits the interface's MTU.
	MSS uint16
	// WindowScale is the scale of the windows that clients are told, at most
	// 14. It must be the same on all servers. If 0, it is 7: windows of up to
	// 8 MiB.
	WindowScale uint8
}

// Tuple names a connection.
type Tuple struct {
	Client, VIP netip.AddrPort
}

func (t Tuple) String() string { return t.Client.String() + "->" + t.VIP.String() }

// Programs are the attached programs and their maps. All methods may be called
// concurrently.
type Programs struct {
	objs connectionsObjects
	mss  uint16
}

// SetService begins or changes a service, by one update of one map entry: a
// packet sees either the old configuration or the new one.
func (p *Programs) SetService(s Service, c ServiceConfig) error {
	key, err := s.key()
	if err != nil {
		return err
	}
	v := connectionsService{
		Generation: max(c.Generation, 1),
		Mss:        c.MSS,
		Wscale:     c.WindowScale,
	}
	for i := range v.Secret {
		v.Secret[i] = binary.LittleEndian.Uint64(c.Secret[8*i:])
		v.OtherSecret[i] = binary.LittleEndian.Uint64(c.OtherSecret[8*i:])
	}
	if c.Align {
		if c.Secret == [16]byte{} {
			return fmt.Errorf("service %v: no secret", s)
		}
		v.Flags |= connectionsServiceFlagsSERVICE_ALIGN
	}
	if c.Guard {
		v.Flags |= connectionsServiceFlagsSERVICE_GUARD
	}
	if c.Gate {
		v.Flags |= connectionsServiceFlagsSERVICE_GATE
	}
	if v.Generation == gateArmed {
		return fmt.Errorf("service %v: generation %d is reserved", s, c.Generation)
	}
	if v.Mss == 0 {
		v.Mss = p.mss
	}
	if v.Mss < 536 {
		return fmt.Errorf("service %v: MSS %d is less than 536", s, v.Mss)
	}
	if v.Wscale == 0 {
		v.Wscale = 7
	}
	if v.Wscale > 14 {
		return fmt.Errorf("service %v: window scale %d is more than 14", s, v.Wscale)
	}
	if err := p.objs.Services.Put(key, v); err != nil {
		return fmt.Errorf("service %v: %w", s, err)
	}
	return nil
}

// Service returns how a service is configured, or ErrNotFound.
func (p *Programs) Service(s Service) (ServiceConfig, error) {
	key, err := s.key()
	if err != nil {
		return ServiceConfig{}, err
	}
	var v connectionsService
	if err := p.objs.Services.Lookup(key, &v); err != nil {
		return ServiceConfig{}, fmt.Errorf("service %v: %w", s, notFound(err))
	}
	c := ServiceConfig{
		Align:       v.Flags&connectionsServiceFlagsSERVICE_ALIGN != 0,
		Guard:       v.Flags&connectionsServiceFlagsSERVICE_GUARD != 0,
		Gate:        v.Flags&connectionsServiceFlagsSERVICE_GATE != 0,
		Generation:  v.Generation,
		MSS:         v.Mss,
		WindowScale: v.Wscale,
	}
	for i := range v.Secret {
		binary.LittleEndian.PutUint64(c.Secret[8*i:], v.Secret[i])
		binary.LittleEndian.PutUint64(c.OtherSecret[8*i:], v.OtherSecret[i])
	}
	return c, nil
}

// RemoveService makes the programs let the service's packets pass. It is no
// error if there is none.
func (p *Programs) RemoveService(s Service) error {
	key, err := s.key()
	if err != nil {
		return err
	}
	if err := p.objs.Services.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("service %v: %w", s, err)
	}
	return nil
}

// Services returns all services, in no order.
func (p *Programs) Services() ([]Service, error) {
	var (
		all []Service
		key connectionsServiceKey
		v   connectionsService
	)
	it := p.objs.Services.Iterate()
	for it.Next(&key, &v) {
		a := *(*[16]byte)(unsafe.Pointer(&key.Vip))
		all = append(all, Service{netip.AddrFrom16(a).Unmap(), ntohs(key.Port)})
	}
	return all, it.Err()
}

// MarkClosing lets FIN and RST of a connection pass the guard. Call it before
// the socket is closed or shut down. The mark ends when a new connection of
// the same addresses and ports begins.
func (p *Programs) MarkClosing(t Tuple) error {
	key, err := t.key()
	if err != nil {
		return err
	}
	if err := p.objs.Closing.Put(key, uint8(1)); err != nil {
		return fmt.Errorf("mark %v as closing: %w", t, err)
	}
	return nil
}

// ConnRecord is what the programs remember of a connection.
type ConnRecord struct {
	// Known says that the connection began here, so IRS and ISS are known:
	// the initial sequence numbers of the client and of the servers.
	Known    bool
	IRS, ISS uint32
	// ClientAck is the highest ACK number that the client has sent, on a
	// backup possibly beyond what this host has sent itself.
	ClientAck uint32
	// ClientNext is the highest sequence number that the client has used,
	// plus one.
	ClientNext uint32

	// Gated says that acknowledgements wait for the backup, Armed that they
	// will, as soon as the backup has caught up.
	Gated, Armed bool
	// OwnAck is the highest ACK number this host has emitted, PeerAck the
	// highest of the backup, ShownAck what the client has been told.
	// They are valid if OwnSeen and PeerSeen say so.
	OwnSeen, PeerSeen         bool
	OwnAck, PeerAck, ShownAck uint32
}

const gateArmed = 0xffffffff

// Conn returns the record of a connection, or ErrNotFound.
func (p *Programs) Conn(t Tuple) (ConnRecord, error) {
	key, err := t.key()
	if err != nil {
		return ConnRecord{}, err
	}
	var v connectionsConn
	if err := p.objs.Conns.Lookup(key, &v); err != nil {
		return ConnRecord{}, fmt.Errorf("connection %v: %w", t, notFound(err))
	}
	r := ConnRecord{
		Known:      v.Flags&connectionsConnFlagsCONN_KNOWN != 0,
		IRS:        v.Irs,
		ISS:        v.Iss,
		ClientAck:  v.ClAck,
		ClientNext: v.ClNxt,
		OwnSeen:    v.Own != 0,
		PeerSeen:   v.Peer != 0,
		OwnAck:     uint32(v.Own >> 32),
		PeerAck:    uint32(v.Peer >> 32),
		ShownAck:   uint32(v.Out >> 32),
	}
	s, err := p.Service(Service{t.VIP.Addr(), t.VIP.Port()})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return ConnRecord{}, err
	}
	if err == nil && s.Gate {
		r.Gated = v.Gate == s.Generation
		r.Armed = v.Gate == gateArmed
	}
	return r, nil
}

// Ungate lets one connection's acknowledgements pass, as the backup does not
// have it or does not follow. What was held back goes out with conn.Kick.
func (p *Programs) Ungate(t Tuple) error { return p.operate(t, connectionsOperationOP_UNGATE) }

// Arm makes a connection gated as soon as the backup has acknowledged all that
// this host has: for connections that a joining server has just adopted. The
// service's gate must be on.
func (p *Programs) Arm(t Tuple) error { return p.operate(t, connectionsOperationOP_ARM) }

func (p *Programs) operate(t Tuple, op connectionsOperation) error {
	r, err := p.run(t, op)
	if err != nil {
		return err
	}
	if r.Flags&connectionsSocketFlagsSOCKET_CONN == 0 {
		return fmt.Errorf("connection %v: %w", t, ErrNotFound)
	}
	return nil
}

// CounterNames returns the names of the counters that Stats returns, in order.
// What they count is said in connections.bpf.c, at struct tally.
func CounterNames() []string { return slices.Clone(counterNames()) }

// Stats returns the counters by name, summed over all processors, since the
// programs were first loaded.
func (p *Programs) Stats() (map[string]uint64, error) {
	var each [][unsafe.Sizeof(connectionsTally{}) / 8]uint64
	if err := p.objs.Counters.Lookup(uint32(0), &each); err != nil {
		return nil, fmt.Errorf("counters: %w", err)
	}
	names := counterNames()
	sum := make(map[string]uint64, len(names))
	for _, cpu := range each {
		for i, name := range names {
			sum[name] += cpu[i]
		}
	}
	return sum, nil
}

// Close lets go of the programs, which stay attached and pinned.
func (p *Programs) Close() error { return p.objs.Close() }

// counterNames reads the names off the type information in the object.
var counterNames = sync.OnceValue(func() (names []string) {
	spec, err := loadConnections()
	if err != nil {
		panic(fmt.Sprintf("embedded object: %v", err))
	}
	t := btf.UnderlyingType(spec.Maps[connectionsMapCounters].Value).(*btf.Struct)
	for _, m := range t.Members {
		names = append(names, m.Name)
	}
	return names
})

func (s Service) key() (k connectionsServiceKey, err error) {
	if !s.VIP.Unmap().Is4() {
		return k, fmt.Errorf("service %v: only IPv4 is supported", s)
	}
	*(*[16]byte)(unsafe.Pointer(&k.Vip)) = s.VIP.As16()
	k.Port = htons(s.Port)
	return k, nil
}

func (t Tuple) key() (k connectionsTuple, err error) {
	if t.Client.Addr().Unmap().Is4() != t.VIP.Addr().Unmap().Is4() {
		return k, fmt.Errorf("connection %v: addresses of two families", t)
	}
	*(*[16]byte)(unsafe.Pointer(&k.Client)) = t.Client.Addr().As16()
	*(*[16]byte)(unsafe.Pointer(&k.Vip)) = t.VIP.Addr().As16()
	k.ClientPort = htons(t.Client.Port())
	k.VipPort = htons(t.VIP.Port())
	return k, nil
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func ntohs(v uint16) uint16 { return htons(v) }

func notFound(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return ErrNotFound
	}
	return err
}
