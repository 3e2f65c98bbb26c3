// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/understudy-net/understudy/p4"
)

func schemaOf(t testing.TB) *Schema {
	t.Helper()
	s, err := NewSchema(p4.Info())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSchemaRoundTrip(t *testing.T) {
	s := schemaOf(t)
	for _, e := range []Entry{
		activeOf(1, 2, 1<<32-1),
		routeTo("192.0.2.0/24", 509),
		routeTo("0.0.0.0/0", 1),
		routeTo("2001:db8::/32", 0),
		routeTo("::/0", 0),
		puntOf("10.0.1.1", 9401),
		{Table: "nd_reply", Key: []Arg{Exact("target_ip", Addr(netip.MustParseAddr("fe80::1")))},
			Action: "nd_answer", Params: []Arg{Exact("mac", MAC([6]byte{2}))}},
	} {
		t.Run(e.String(), func(t *testing.T) {
			te, err := s.encode(e)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.decode(te)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(e, got); diff != "" {
				t.Errorf("came back otherwise (-want +got):\n%s", diff)
			}
			// Older targets send values at full width.
			for _, m := range te.GetMatch() {
				if x := m.GetExact(); x != nil {
					x.Value = append([]byte{0, 0}, x.GetValue()...)
				}
			}
			for _, p := range te.GetAction().GetAction().GetParams() {
				p.Value = append([]byte{0}, p.GetValue()...)
			}
			if got, err = s.decode(te); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(e, got); diff != "" {
				t.Errorf("with padding it came back otherwise (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := schemaOf(t)
	edit := func(f func(*Entry)) Entry {
		e := activeOf(1, 2, 3)
		f(&e)
		return e
	}
	for _, tt := range []struct {
		name  string
		entry Entry
		want  string
	}{
		{"table", edit(func(e *Entry) { e.Table = "actve" }), `no table "actve"`},
		{"field", edit(func(e *Entry) { e.Key[0].Name = "par" }), "field pair is missing"},
		{"too many fields", edit(func(e *Entry) { e.Key = append(e.Key, e.Key[0]) }), "2 fields in the key, want 1"},
		{"value too wide", edit(func(e *Entry) { e.Key[0].Value = Uint[uint32](1 << 16) }), "does not fit into 16 bits"},
		{"no value", edit(func(e *Entry) { e.Key[0].Value = "" }), "does not fit"},
		{"prefix of an exact field", edit(func(e *Entry) { e.Key[0].PrefixLen = 3 }), "cannot have a prefix"},
		{"action", edit(func(e *Entry) { e.Action = "forward" }), `no action "forward"`},
		{"no action", edit(func(e *Entry) { e.Action = "" }), `no action ""`},
		{"parameter", edit(func(e *Entry) { e.Params[0].Name = "x" }), "parameter replica is missing"},
		{"too few parameters", edit(func(e *Entry) { e.Params = e.Params[:1] }), "1 parameters, want 2"},
		{"parameter too wide", edit(func(e *Entry) { e.Params[0].Value = Uint[uint16](256) }), "does not fit into 8 bits"},
		{"port of ten bits", routeTo("192.0.2.0/24", 512), "does not fit into 9 bits"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.Check(tt.entry); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestSchemaOfAnotherProgram(t *testing.T) {
	info := p4.Info()
	info.ControllerPacketMetadata = nil
	if _, err := NewSchema(info); err == nil {
		t.Error("a program without packet_in was taken")
	}
	info = p4.Info()
	info.GetTables()[0].GetMatchFields()[0].Match = &p4configv1.MatchField_MatchType_{MatchType: p4configv1.MatchField_TERNARY}
	if _, err := NewSchema(info); err == nil {
		t.Error("a ternary match was taken")
	}
}

func TestGroupPorts(t *testing.T) {
	got := decodeGroup(&p4v1.MulticastGroupEntry{MulticastGroupId: 1, Replicas: []*p4v1.Replica{
		{PortKind: &p4v1.Replica_Port{Port: []byte{0, 1, 2}}, Instance: 1},
		{PortKind: &p4v1.Replica_EgressPort{EgressPort: 3}, Instance: 2},
	}})
	want := Group{ID: 1, Replicas: []Replica{{Port: 258, Instance: 1}, {Port: 3, Instance: 2}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("group (-want +got):\n%s", diff)
	}
}

func TestCookie(t *testing.T) {
	a := Pipeline{Info: p4.Info(), Device: p4.JSON()}
	if a.Cookie() != (Pipeline{Info: p4.Info(), Device: p4.JSON()}).Cookie() {
		t.Error("the same pipeline has two cookies")
	}
	if a.Cookie() == (Pipeline{Info: p4.Info(), Device: p4.JSON()[1:]}).Cookie() {
		t.Error("another device config has the same cookie")
	}
	info := p4.Info()
	info.Tables = info.GetTables()[1:]
	if a.Cookie() == (Pipeline{Info: info, Device: p4.JSON()}).Cookie() {
		t.Error("another P4Info has the same cookie")
	}
}

func TestWriteError(t *testing.T) {
	updates := []Update{
		{Op: Insert, Entry: &[]Entry{activeOf(1, 1, 1)}[0]},
		{Op: Modify, Entry: &[]Entry{activeOf(2, 1, 1)}[0]},
	}
	details := func(list ...*p4v1.Error) error {
		st := &rpcstatus.Status{Code: int32(codes.Unknown), Message: "some failed"}
		for _, e := range list {
			d, err := anypb.New(e)
			if err != nil {
				t.Fatal(err)
			}
			st.Details = append(st.Details, d)
		}
		return status.FromProto(st).Err()
	}
	ok := &p4v1.Error{CanonicalCode: int32(codes.OK)}
	for _, tt := range []struct {
		name    string
		updates []Update
		err     error
		want    string
		drifted bool
	}{
		{"one of two", updates, details(ok, &p4v1.Error{CanonicalCode: int32(codes.NotFound), Message: "no such entry"}),
			"write: 1 of 2 updates failed: modify active[pair=2] set_active(replica=1, epoch=1): NotFound: no such entry", true},
		{"full", updates[:1], details(&p4v1.Error{CanonicalCode: int32(codes.ResourceExhausted)}),
			"write: 1 of 1 updates failed: insert active[pair=1] set_active(replica=1, epoch=1): ResourceExhausted", false},
		{"no details", updates[:1], status.Error(codes.AlreadyExists, "it is there"),
			"write: 1 of 1 updates failed: insert active[pair=1] set_active(replica=1, epoch=1): AlreadyExists: it is there", true},
		{"the request as a whole", updates, status.Error(codes.PermissionDenied, "not primary"),
			"write insert active[pair=1] set_active(replica=1, epoch=1) and 1 more: rpc error: code = PermissionDenied desc = not primary", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := writeError(tt.updates, tt.err)
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			w, _ := err.(*WriteError)
			if drifted := w != nil && w.drifted(); drifted != tt.drifted {
				t.Errorf("drifted %t, want %t", drifted, tt.drifted)
			}
		})
	}
}
