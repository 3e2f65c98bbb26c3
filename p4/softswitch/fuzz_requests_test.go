// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"net"
	"testing"
	"time"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// What a script of FuzzRequests does; each step is a byte, a length and a message.
const (
	stepWrite = iota
	stepRead
	stepSet
	stepGet
	stepStream
	stepPacket
	stepTrace
	steps
)

// script appends one step.
func script(list []byte, kind byte, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return protowire.AppendBytes(append(list, kind), b)
}

// FuzzRequests sends whole P4Runtime requests of any shape, one after the other, with
// packets in between, to a switch with one of every object. Nothing may panic or hang.
func FuzzRequests(f *testing.F) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { lis.Close() })
	objectsConfig := objectsProgram(f)
	js, info := testProgram(f)
	configs := []*p4v1.ForwardingPipelineConfig{objectsConfig, loadConfig(f, js, info)}
	first, err := softswitch.ReadProgram(objectsConfig)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range requestSeeds(f, objectsConfig.GetP4Info()) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			requests(t, ctx, lis, first, configs, data)
		}()
		select {
		case <-done:
		case <-ctx.Done():
			t.Fatal("the switch hangs")
		}
	})
}

// requests runs a script on a new switch.
func requests(t *testing.T, ctx context.Context, lis net.Listener, first *softswitch.Program, configs []*p4v1.ForwardingPipelineConfig, data []byte) {
	sw, err := softswitch.NewWith(softswitch.Config{Listener: lis, DeviceID: switchtest.DeviceID, CPUPort: 510,
		Ports: []softswitch.Port{{Number: 1, Link: softswitch.NewMemLink(nil)}, {Number: 2, Link: softswitch.NewMemLink(nil)}}}, first)
	if err != nil {
		t.Error(err)
		return
	}
	join := &p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{
		Arbitration: &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election()}}}
	stream := sw.OpenStream(ctx)
	defer func() { stream.Close() }()
	stream.Put(join)
	for n := 0; n < 32 && len(data) > 0; n++ {
		kind := data[0] % steps
		b, size := protowire.ConsumeBytes(data[1:])
		if size < 0 {
			return
		}
		data = data[1+size:]
		switch kind {
		case stepWrite:
			r := &p4v1.WriteRequest{}
			if proto.Unmarshal(b, r) != nil {
				continue
			}
			r.DeviceId, r.ElectionId = switchtest.DeviceID, switchtest.Election()
			sw.Write(ctx, r)
		case stepRead:
			r := &p4v1.ReadRequest{}
			if proto.Unmarshal(b, r) != nil {
				continue
			}
			r.DeviceId = switchtest.DeviceID
			sw.Read(r, &softswitch.Answers{Ctx: ctx})
		case stepSet:
			r := &p4v1.SetForwardingPipelineConfigRequest{}
			if proto.Unmarshal(b, r) != nil {
				continue
			}
			r.DeviceId, r.ElectionId = switchtest.DeviceID, switchtest.Election()
			if r.Config != nil && len(r.Config.P4DeviceConfig) == 0 {
				c := configs[r.Config.GetCookie().GetCookie()%uint64(len(configs))]
				r.Config.P4DeviceConfig = c.P4DeviceConfig
				if r.Config.P4Info == nil {
					r.Config.P4Info = c.P4Info
				}
			}
			sw.SetForwardingPipelineConfig(ctx, r)
		case stepGet:
			r := &p4v1.GetForwardingPipelineConfigRequest{}
			if proto.Unmarshal(b, r) == nil {
				sw.GetForwardingPipelineConfig(ctx, r)
			}
		case stepStream:
			m := &p4v1.StreamMessageRequest{}
			if proto.Unmarshal(b, m) == nil && !stream.Put(m) {
				stream.Close() // the switch has ended it
				stream = sw.OpenStream(ctx)
				stream.Put(join)
			}
		case stepPacket:
			sw.Forward(1, b)
		case stepTrace:
			if p := sw.Trace(1, b); p != nil {
				softswitch.FormatTrace(p)
			}
		}
		sw.Timers()
	}
}

// requestSeeds are scripts that reach every kind of entity.
func requestSeeds(f *testing.F, info *p4config.P4Info) [][]byte {
	id := func(p *p4config.Preamble) uint32 { return p.GetId() }
	actions := map[string]uint32{}
	for _, a := range info.GetActions() {
		actions[a.GetPreamble().GetAlias()] = id(a.GetPreamble())
	}
	tables := map[string]uint32{}
	for _, x := range info.GetTables() {
		tables[x.GetPreamble().GetAlias()] = id(x.GetPreamble())
	}
	answer := &p4v1.Action{ActionId: actions["answer"], Params: []*p4v1.Action_Param{{ParamId: 1, Value: []byte{2}}, {ParamId: 2, Value: []byte{9}}}}
	key := []*p4v1.FieldMatch{{FieldId: 1, FieldMatchType: &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: []byte{7}}}}}
	profile, selector := id(info.GetActionProfiles()[0].GetPreamble()), id(info.GetActionProfiles()[1].GetPreamble())
	bits := &p4v1.P4Data{Data: &p4v1.P4Data_Bitstring{Bitstring: []byte{1}}}
	port := &p4v1.Replica{PortKind: &p4v1.Replica_Port{Port: []byte{2}}, Instance: 1, BackupReplicas: []*p4v1.BackupReplica{{Port: []byte{1}}}}
	colour := &p4v1.TableAction{Type: &p4v1.TableAction_Action{Action: &p4v1.Action{ActionId: actions["colour"],
		Params: []*p4v1.Action_Param{{ParamId: 1, Value: []byte{2}}}}}}
	metered := &p4v1.TableEntry{TableId: tables["metered"], Match: key, Action: colour, IdleTimeoutNs: 1, MeterConfig: rates(1, 1),
		CounterData: &p4v1.CounterData{PacketCount: 1}, Metadata: []byte("m")}
	var out [][]byte
	one := func(kind byte, frame []byte, list ...*p4v1.Entity) {
		var s []byte
		for _, typ := range []p4v1.Update_Type{insert, modify} {
			w := &p4v1.WriteRequest{}
			for _, e := range list {
				w.Updates = append(w.Updates, &p4v1.Update{Type: typ, Entity: e})
			}
			s = script(s, stepWrite, w)
		}
		s = script(s, stepRead, &p4v1.ReadRequest{Entities: list})
		s = protowire.AppendBytes(append(s, stepPacket), frame)
		s = protowire.AppendBytes(append(s, stepTrace), frame)
		s = script(s, stepSet, &p4v1.SetForwardingPipelineConfigRequest{Action: p4v1.SetForwardingPipelineConfigRequest_RECONCILE_AND_COMMIT,
			Config: &p4v1.ForwardingPipelineConfig{Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: uint64(kind)}}})
		w := &p4v1.WriteRequest{}
		for _, e := range list {
			w.Updates = append(w.Updates, &p4v1.Update{Type: del, Entity: e})
		}
		out = append(out, script(s, stepWrite, w))
	}
	indirect := &p4v1.TableEntry{TableId: tables["indirect"], Match: key, Action: toMember(1)}
	one(0, ask(askIndirect, 0, 7, 0), profileMember(&p4v1.ActionProfileMember{ActionProfileId: profile, MemberId: 1, Action: answer}), switchtest.TableEntity(indirect))
	grouped := &p4v1.TableEntry{TableId: tables["group"], Match: key, Action: toGroup(3)}
	one(1, ask(askGroup, 0, 7, 0), profileMember(&p4v1.ActionProfileMember{ActionProfileId: selector, MemberId: 1, Action: answer}),
		profileGroup(&p4v1.ActionProfileGroup{ActionProfileId: selector, GroupId: 3, MaxSize: 8,
			Members: []*p4v1.ActionProfileGroup_Member{weighted(1, 1, 1)}}), switchtest.TableEntity(grouped))
	set := &p4v1.TableEntry{TableId: tables["small_group"], Match: key, Action: oneShot(&p4v1.ActionProfileActionSet{
		ActionSelectionMode: p4v1.ActionProfileActionSet_RANDOM, ActionProfileActions: []*p4v1.ActionProfileAction{{Action: answer, Weight: 1}}})}
	one(0, ask(askSmallGroup, 0, 7, 0), switchtest.TableEntity(set))
	one(0, ask(askMetered, 0, 7, 0), switchtest.TableEntity(metered),
		&p4v1.Entity{Entity: &p4v1.Entity_DirectMeterEntry{DirectMeterEntry: &p4v1.DirectMeterEntry{TableEntry: metered, Config: rates(1, 1)}}},
		&p4v1.Entity{Entity: &p4v1.Entity_DirectCounterEntry{DirectCounterEntry: &p4v1.DirectCounterEntry{TableEntry: metered, Data: &p4v1.CounterData{ByteCount: 1}}}})
	one(0, ask(askPacketMeter, 0, 7, 0), meter(&p4v1.MeterEntry{MeterId: id(info.GetMeters()[0].GetPreamble()), Index: &p4v1.Index{}, Config: rates(1, 1)}))
	one(0, ask(askRegister, 0, 7, 0), &p4v1.Entity{Entity: &p4v1.Entity_RegisterEntry{RegisterEntry: &p4v1.RegisterEntry{
		RegisterId: id(info.GetRegisters()[1].GetPreamble()), Index: &p4v1.Index{}, Data: bits}}})
	one(0, ask(askNothing, 0, 7, 0), &p4v1.Entity{Entity: &p4v1.Entity_ValueSetEntry{ValueSetEntry: &p4v1.ValueSetEntry{
		ValueSetId: id(info.GetValueSets()[0].GetPreamble()), Members: []*p4v1.ValueSetMember{{Match: key}}}}})
	one(0, ask(askDigest, 0, 7, 0), digest(id(info.GetDigests()[0].GetPreamble()), &p4v1.DigestEntry_Config{MaxListSize: 1, AckTimeoutNs: 1}))
	one(0, ask(askClone, 5, 7, 0), cloneSession(&p4v1.CloneSessionEntry{SessionId: 5, Replicas: []*p4v1.Replica{port}, PacketLengthBytes: 5}))
	mcast := switchtest.Group(7)
	mcast.GetPacketReplicationEngineEntry().GetMulticastGroupEntry().Replicas = []*p4v1.Replica{port}
	one(0, ask(askMulticast, 0, 7, 0), mcast)

	s := script(nil, stepStream, &p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_DigestAck{DigestAck: &p4v1.DigestListAck{
		DigestId: id(info.GetDigests()[0].GetPreamble()), ListId: 1}}})
	s = script(s, stepStream, &p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Packet{Packet: &p4v1.PacketOut{Payload: ask(1, 2, 3, 4)}}})
	s = script(s, stepStream, &p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{Arbitration: &p4v1.MasterArbitrationUpdate{
		DeviceId: switchtest.DeviceID, Role: &p4v1.Role{Name: "r"}, ElectionId: &p4v1.Uint128{Low: 1}}}})
	s = script(s, stepGet, &p4v1.GetForwardingPipelineConfigRequest{ResponseType: p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY})
	out = append(out, s)
	for a := range p4v1.SetForwardingPipelineConfigRequest_Action_name {
		action := p4v1.SetForwardingPipelineConfigRequest_Action(a)
		s := script(nil, stepSet, &p4v1.SetForwardingPipelineConfigRequest{Action: action, Config: &p4v1.ForwardingPipelineConfig{
			Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: 1}}})
		out = append(out, protowire.AppendBytes(append(s, stepPacket), ask(1, 2, 3, 4)))
	}
	return append(out, script(nil, stepRead, &p4v1.ReadRequest{Entities: everything()}))
}
