// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func activeOf(pair uint16, replica uint8, epoch uint32) Entry {
	return Entry{
		Table:  "active",
		Key:    []Arg{Exact("pair", Uint(pair))},
		Action: "set_active",
		Params: []Arg{Exact("replica", Uint(replica)), Exact("epoch", Uint(epoch))},
	}
}

func routeTo(prefix string, port uint16) Entry {
	p := netip.MustParsePrefix(prefix)
	table, action := "route", "forward"
	if p.Addr().Is6() {
		table, action = "route6", "forward6"
	}
	return Entry{
		Table:  table,
		Key:    []Arg{Prefix("dst_addr", p)},
		Action: action,
		Params: []Arg{
			Exact("port", Uint(port)),
			Exact("dst_mac", MAC([6]byte{2, 0, 0, 0, 1, 2})),
			Exact("src_mac", MAC([6]byte{0, 0, 0, 0, 1, 1})),
		},
	}
}

func puntOf(addr string, port uint16) Entry {
	return Entry{
		Table: "punt",
		Key: []Arg{
			Exact("dst_addr", Addr(netip.MustParseAddr(addr))),
			Exact("protocol", Uint[uint8](17)),
			Exact("dst_port", Uint(port)),
		},
		Action: "to_controller",
	}
}

func TestValue(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  Value
		want string
	}{
		{"zero", Uint[uint32](0), "\x00"},
		{"small", Uint[uint64](7), "\x07"},
		{"two bytes", Uint[uint16](0x1ff), "\x01\xff"},
		{"address", Addr(netip.MustParseAddr("10.0.0.1")), "\x0a\x00\x00\x01"},
		{"address with leading zeros", Addr(netip.MustParseAddr("0.0.1.2")), "\x01\x02"},
		{"IPv6 address", Addr(netip.MustParseAddr("::1")), "\x01"},
		{"MAC", MAC([6]byte{0, 0, 1, 2, 3, 4}), "\x01\x02\x03\x04"},
		{"nothing", canonical(nil), "\x00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, string(tt.got)); diff != "" {
				t.Errorf("bytes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestString(t *testing.T) {
	state := State{
		Entries: []Entry{activeOf(1, 2, 8), routeTo("192.0.2.0/24", 1), routeTo("2001:db8::/32", 4), puntOf("10.0.1.1", 9401)},
		Groups:  []Group{{ID: 1, Replicas: []Replica{{Port: 3, Instance: 2}, {Port: 2, Instance: 1}}}},
	}
	want := strings.Join([]string{
		"active[pair=1] set_active(replica=2, epoch=8)",
		"group[1] (1@2, 2@3)",
		"punt[dst_addr=10.0.1.1, protocol=17, dst_port=9401] to_controller()",
		"route6[dst_addr=2001:db8::/32] forward6(port=4, dst_mac=02:00:00:00:01:02, src_mac=00:00:00:00:01:01)",
		"route[dst_addr=192.0.2.0/24] forward(port=1, dst_mac=02:00:00:00:01:02, src_mac=00:00:00:00:01:01)",
	}, "\n")
	if diff := cmp.Diff(want, state.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

func TestDiff(t *testing.T) {
	group := func(id uint32, rids ...uint32) Group {
		g := Group{ID: id}
		for _, r := range rids {
			g.Replicas = append(g.Replicas, Replica{Port: r + 1, Instance: r})
		}
		return g
	}
	for _, tt := range []struct {
		name       string
		have, want State
		updates    []string
	}{
		{name: "nothing at all"},
		{
			name: "first start: groups come before what refers to them",
			want: State{Entries: []Entry{activeOf(1, 1, 1)}, Groups: []Group{group(1, 1, 2)}},
			updates: []string{
				"insert group[1] (1@2, 2@3)",
				"insert active[pair=1] set_active(replica=1, epoch=1)",
			},
		},
		{
			name: "what is there is left alone",
			have: State{Entries: []Entry{activeOf(1, 1, 1), routeTo("192.0.2.0/24", 1)}, Groups: []Group{group(1, 2, 1)}},
			want: State{Entries: []Entry{routeTo("192.0.2.0/24", 1), activeOf(1, 1, 1)}, Groups: []Group{group(1, 1, 2)}},
		},
		{
			name: "a flip is one modification",
			have: State{Entries: []Entry{activeOf(1, 1, 7), activeOf(2, 1, 3)}},
			want: State{Entries: []Entry{activeOf(1, 2, 8), activeOf(2, 1, 3)}},
			updates: []string{
				"modify active[pair=1] set_active(replica=2, epoch=8)",
			},
		},
		{
			name: "another action",
			have: State{Entries: []Entry{{Table: "t", Key: []Arg{Exact("k", "\x01")}, Action: "a"}}},
			want: State{Entries: []Entry{{Table: "t", Key: []Arg{Exact("k", "\x01")}, Action: "b"}}},
			updates: []string{
				"modify t[k=1] b()",
			},
		},
		{
			name: "prefixes of different lengths are different entries; deletions come last, groups at the very end",
			have: State{Entries: []Entry{routeTo("192.0.0.0/16", 1)}, Groups: []Group{group(1, 1), group(2, 5)}},
			want: State{Entries: []Entry{routeTo("192.0.0.0/24", 1)}, Groups: []Group{group(1, 1, 2)}},
			updates: []string{
				"modify group[1] (1@2, 2@3)",
				"insert route[dst_addr=192.0.0.0/24] forward(port=1, dst_mac=02:00:00:00:01:02, src_mac=00:00:00:00:01:01)",
				"delete route[dst_addr=192.0.0.0/16]",
				"delete group[2] (5@6)",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, u := range Diff(tt.have, tt.want) {
				got = append(got, u.String())
			}
			if diff := cmp.Diff(tt.updates, got); diff != "" {
				t.Errorf("updates (-want +got):\n%s", diff)
			}
		})
	}
}
