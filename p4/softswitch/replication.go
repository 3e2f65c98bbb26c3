// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"fmt"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-net/understudy/p4/v1model"
)

// Multicast groups and clone sessions are section 9.5 of P4Runtime 1.5.

// maxClass is the largest class_of_service: v1model's priority has three bits. There
// are no queues between ingress and egress, so that no class is served before another.
const maxClass = 7

func (p *pipeline) writeReplication(typ p4v1.Update_Type, e *p4v1.PacketReplicationEngineEntry) error {
	switch t := e.GetType().(type) {
	case *p4v1.PacketReplicationEngineEntry_MulticastGroupEntry:
		return p.writeMulticast(typ, t.MulticastGroupEntry)
	case *p4v1.PacketReplicationEngineEntry_CloneSessionEntry:
		return p.writeCloneSession(typ, t.CloneSessionEntry)
	}
	return errorf(codes.InvalidArgument, "a packet replication engine entry of no type")
}

// writeMulticast is section 9.5.1.
func (p *pipeline) writeMulticast(typ p4v1.Update_Type, e *p4v1.MulticastGroupEntry) error {
	id := e.GetMulticastGroupId()
	if id == 0 {
		return errorf(codes.InvalidArgument, "no multicast_group_id")
	}
	if typ == p4v1.Update_DELETE {
		return p.sw.DeleteGroup(id)
	}
	g, err := p.multicast(e)
	if err != nil {
		return &placedError{fmt.Sprintf("multicast group %d", id), err}
	}
	if typ == p4v1.Update_INSERT {
		return p.sw.InsertGroup(g)
	}
	return p.sw.ModifyGroup(g)
}

// multicast reads a group as it is while ports are as they are. It is read back as it
// was written, but for the form of the ports.
func (p *pipeline) multicast(e *p4v1.MulticastGroupEntry) (*v1model.Group, error) {
	e = proto.CloneOf(e)
	replicas, err := p.replicas(e.GetReplicas())
	if err != nil {
		return nil, err
	}
	return &v1model.Group{ID: e.GetMulticastGroupId(), Replicas: replicas, Opaque: e}, nil
}

// replicas reads replicas and makes the form of their ports canonical. Where a port is
// down its replica's first backup whose port is up takes over; if there is none, the
// copy goes to the replica's own port all the same.
func (p *pipeline) replicas(list []*p4v1.Replica) ([]v1model.Replica, error) {
	var out []v1model.Replica
	seen := map[v1model.Replica]bool{}
	once := func(r v1model.Replica) error {
		if r.RID > 0xffff {
			return errorf(codes.InvalidArgument, "instance %d, the largest is 65535", r.RID)
		}
		if seen[r] {
			return errorf(codes.InvalidArgument, "two replicas with port %d and instance %d", r.Port, r.RID)
		}
		seen[r] = true
		return nil
	}
	for i, r := range list {
		at := func(err error) error { return &placedError{fmt.Sprintf("replica %d", i), err} }
		port, err := replicaPort(r)
		if err != nil {
			return nil, at(err)
		}
		chosen := v1model.Replica{Port: port, RID: r.GetInstance()}
		if err := once(chosen); err != nil {
			return nil, at(err)
		}
		_, up := p.env.port(port)
		for _, b := range r.GetBackupReplicas() {
			v, err := parseBits(b.GetPort(), 9)
			if err != nil {
				return nil, at(&placedError{"backup", err})
			}
			backup := v1model.Replica{Port: uint16(v[0])<<8 | uint16(v[1]), RID: b.GetInstance()}
			if backup.Port == port {
				return nil, at(errorf(codes.InvalidArgument, "a backup has the same port %d", port))
			}
			if err := once(backup); err != nil {
				return nil, at(err)
			}
			b.Port = canonical(b.Port)
			if _, ok := p.env.port(backup.Port); ok && !up {
				chosen, up = backup, true
			}
		}
		if k, ok := r.GetPortKind().(*p4v1.Replica_Port); ok {
			k.Port = canonical(k.Port)
		}
		out = append(out, chosen)
	}
	return out, nil
}

// replicaPort reads the port as bytes or, as before 1.4.0, as a number.
func replicaPort(r *p4v1.Replica) (uint16, error) {
	switch k := r.GetPortKind().(type) {
	case *p4v1.Replica_Port:
		b, err := parseBits(k.Port, 9)
		if err != nil {
			return 0, err
		}
		return uint16(b[0])<<8 | uint16(b[1]), nil
	case *p4v1.Replica_EgressPort:
		if k.EgressPort > v1model.MaxPort {
			return 0, errorf(codes.InvalidArgument, "port %d, the largest is %d", k.EgressPort, v1model.MaxPort)
		}
		return uint16(k.EgressPort), nil
	}
	return 0, errorf(codes.InvalidArgument, "no port")
}

// writeCloneSession is section 9.5.2.
func (p *pipeline) writeCloneSession(typ p4v1.Update_Type, e *p4v1.CloneSessionEntry) error {
	id := e.GetSessionId()
	if id == 0 {
		return errorf(codes.InvalidArgument, "no session_id")
	}
	if typ == p4v1.Update_DELETE {
		return p.sw.DeleteCloneSession(id)
	}
	c, err := p.cloneSession(e)
	if err != nil {
		return &placedError{fmt.Sprintf("clone session %d", id), err}
	}
	if typ == p4v1.Update_INSERT {
		return p.sw.InsertCloneSession(c)
	}
	return p.sw.ModifyCloneSession(c)
}

func (p *pipeline) cloneSession(e *p4v1.CloneSessionEntry) (*v1model.CloneSession, error) {
	switch {
	case e.GetClassOfService() > maxClass:
		return nil, errorf(codes.InvalidArgument, "class_of_service %d, the largest is %d", e.GetClassOfService(), maxClass)
	case e.GetPacketLengthBytes() < 0:
		return nil, errorf(codes.InvalidArgument, "packet_length_bytes %d", e.GetPacketLengthBytes())
	}
	e = proto.CloneOf(e)
	replicas, err := p.replicas(e.GetReplicas())
	if err != nil {
		return nil, err
	}
	return &v1model.CloneSession{ID: e.GetSessionId(), Replicas: replicas, Length: int(e.GetPacketLengthBytes()), Opaque: e}, nil
}

func (p *pipeline) readReplication(q *p4v1.PacketReplicationEngineEntry, out func(part)) error {
	switch t := q.GetType().(type) {
	case *p4v1.PacketReplicationEngineEntry_MulticastGroupEntry:
		list := p.sw.Groups()
		if id := t.MulticastGroupEntry.GetMulticastGroupId(); id != 0 {
			list = nil
			if g := p.sw.Group(id); g != nil {
				list = append(list, g)
			}
		}
		out(part{len(list), func(i int) *p4v1.Entity {
			return replicationEntity(&p4v1.PacketReplicationEngineEntry{Type: &p4v1.PacketReplicationEngineEntry_MulticastGroupEntry{
				MulticastGroupEntry: list[i].Opaque.(*p4v1.MulticastGroupEntry)}})
		}})
		return nil
	case *p4v1.PacketReplicationEngineEntry_CloneSessionEntry:
		list := p.sw.CloneSessions()
		if id := t.CloneSessionEntry.GetSessionId(); id != 0 {
			list = nil
			if c := p.sw.CloneSession(id); c != nil {
				list = append(list, c)
			}
		}
		out(part{len(list), func(i int) *p4v1.Entity {
			return replicationEntity(&p4v1.PacketReplicationEngineEntry{Type: &p4v1.PacketReplicationEngineEntry_CloneSessionEntry{
				CloneSessionEntry: list[i].Opaque.(*p4v1.CloneSessionEntry)}})
		}})
		return nil
	}
	return errorf(codes.InvalidArgument, "a packet replication engine entry of no type")
}

func replicationEntity(e *p4v1.PacketReplicationEngineEntry) *p4v1.Entity {
	return &p4v1.Entity{Entity: &p4v1.Entity_PacketReplicationEngineEntry{PacketReplicationEngineEntry: e}}
}

// refreshReplication chooses replicas anew, after a port's status has changed.
func (p *pipeline) refreshReplication() {
	for _, g := range p.sw.Groups() {
		if next, err := p.multicast(g.Opaque.(*p4v1.MulticastGroupEntry)); err == nil {
			p.sw.ModifyGroup(next)
		}
	}
	for _, c := range p.sw.CloneSessions() {
		if next, err := p.cloneSession(c.Opaque.(*p4v1.CloneSessionEntry)); err == nil {
			p.sw.ModifyCloneSession(next)
		}
	}
}
