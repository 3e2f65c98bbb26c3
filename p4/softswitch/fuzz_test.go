// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"net"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// FuzzP4Info feeds a P4Info to a program that it may not belong to.
func FuzzP4Info(f *testing.F) {
	js, info := testProgram(f)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { lis.Close() })
	f.Add(info)
	binary, err := proto.Marshal(loadConfig(f, js, info).GetP4Info())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(binary)
	f.Fuzz(func(t *testing.T, info []byte) {
		config, err := softswitch.LoadConfig(js, info)
		if err != nil {
			return
		}
		// An error is fine, a panic is not.
		softswitch.New(softswitch.Config{Listener: lis, Pipeline: config})
	})
}

// FuzzUpdate writes an entity of any shape and asks for it. What was accepted must
// not trouble a packet.
func FuzzUpdate(f *testing.F) {
	js, info := testProgram(f)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { lis.Close() })
	config := loadConfig(f, js, info)
	h := switchtest.New(f, js, info) // builds entries
	for _, e := range []*p4v1.Entity{
		switchtest.TableEntity(h.Entry("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, 0, "copies", args{"group": 9})),
		switchtest.Group(9, [2]uint32{2, 11}, [2]uint32{3, 12}),
		{Entity: &p4v1.Entity_CounterEntry{CounterEntry: &p4v1.CounterEntry{CounterId: config.GetP4Info().GetCounters()[0].GetPreamble().GetId(),
			Index: &p4v1.Index{Index: 1}, Data: &p4v1.CounterData{PacketCount: 7}}}},
	} {
		b, err := proto.Marshal(&p4v1.Update{Type: p4v1.Update_INSERT, Entity: e})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, table := range config.GetP4Info().GetTables() {
		e := &p4v1.TableEntry{TableId: table.GetPreamble().GetId(), Priority: 1}
		for _, m := range table.GetMatchFields() {
			e.Match = append(e.Match, &p4v1.FieldMatch{FieldId: m.GetId(), FieldMatchType: &p4v1.FieldMatch_Exact_{Exact: &p4v1.FieldMatch_Exact{Value: []byte{1}}}})
		}
		b, err := proto.Marshal(&p4v1.Update{Type: p4v1.Update_MODIFY, Entity: switchtest.TableEntity(e)})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	frame := query(1, 1, 1, "")
	program, err := softswitch.ReadProgram(config)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		u := &p4v1.Update{}
		if proto.Unmarshal(data, u) != nil {
			return
		}
		sw, err := softswitch.NewWith(softswitch.Config{Listener: lis}, program)
		if err != nil {
			t.Fatal(err)
		}
		sw.Update(u)
		for _, e := range sw.Query(u.GetEntity()) {
			if e == nil {
				t.Error("an entity of nothing")
			}
		}
		sw.Forward(1, frame)
	})
}
