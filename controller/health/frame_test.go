// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/internal/heartbeat"
)

var serverMAC = [6]byte{2, 0, 0, 0, 1, 2}

// frame is a heartbeat as a server sends it.
func frame(payload []byte) []byte {
	b := []byte{
		2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 8, 0, // Ethernet
		0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 1, 2, 10, 0, 1, 1, // IPv4
		0xc0, 0, 0x24, 0xb9, 0, 0, 0, 0, // UDP
	}
	binary.BigEndian.PutUint16(b[16:], uint16(28+len(payload)))
	binary.BigEndian.PutUint16(b[38:], uint16(8+len(payload)))
	return append(b, payload...)
}

var beat = heartbeat.Heartbeat{ApplicationUp: true, PairID: 1, ReplicaID: 2, Role: 1, Epoch: 7, Sequence: 9, Instance: 5}

func TestPacket(t *testing.T) {
	type counts struct{ Malformed, Unknown, Mismatched uint64 }
	good := frame(beat.Append(nil))
	edit := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	other := beat
	other.ReplicaID = 1
	for _, tt := range []struct {
		name  string
		port  uint32
		frame []byte
		seen  bool
		want  counts
	}{
		{"a heartbeat", 3, good, true, counts{}},
		{"with Ethernet padding", 3, append(bytes.Clone(good), 0, 0, 0), true, counts{}},
		{"with more in it", 3, frame(append(beat.Append(nil), 1, 2, 3)), true, counts{}},
		{"from another port", 2, good, false, counts{Unknown: 1}},
		{"from another MAC", 3, edit(11, 3), false, counts{Unknown: 1}},
		{"of another replica", 3, frame(other.Append(nil)), false, counts{Mismatched: 1}},
		{"another magic", 3, edit(42, 0), false, counts{Malformed: 1}},
		{"not IPv4", 3, edit(13, 6), false, counts{Malformed: 1}},
		{"not version 4", 3, edit(14, 0x65), false, counts{Malformed: 1}},
		{"not UDP", 3, edit(23, 6), false, counts{Malformed: 1}},
		{"a fragment", 3, edit(20, 0x20), false, counts{Malformed: 1}},
		{"another UDP port", 3, edit(37, 0), false, counts{Malformed: 1}},
		{"an IPv4 header too short", 3, edit(14, 0x44), false, counts{Malformed: 1}},
		{"an IPv4 header too long", 3, edit(14, 0x4f), false, counts{Malformed: 1}},
		{"an IPv4 length beyond the frame", 3, edit(17, 0xff), false, counts{Malformed: 1}},
		{"a UDP length beyond the packet", 3, edit(39, 0xff), false, counts{Malformed: 1}},
		{"a UDP length too short", 3, edit(39, 7), false, counts{Malformed: 1}},
		{"truncated", 3, good[:50], false, counts{Malformed: 1}},
		{"empty", 3, nil, false, counts{Malformed: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var seen []heartbeat.Heartbeat
			h := NewHeartbeats(9401, map[Place]Server{{3, serverMAC}: {1, 2}}, func(s Server, b heartbeat.Heartbeat, from Origin) {
				if s != (Server{1, 2}) || from != (Origin{Port: tt.port, Released: 2, Epoch: 7}) {
					t.Errorf("of server %+v, from %+v", s, from)
				}
				seen = append(seen, b)
			})
			h.Packet(Origin{Port: tt.port, Released: 2, Epoch: 7}, tt.frame)
			var want []heartbeat.Heartbeat
			if tt.seen {
				want = append(want, beat)
			}
			if diff := cmp.Diff(want, seen); diff != "" {
				t.Errorf("seen (-want +got):\n%s", diff)
			}
			got := counts{h.Malformed.Load(), h.Unknown.Load(), h.Mismatched.Load()}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPacketDoesNotAllocate(t *testing.T) {
	h := NewHeartbeats(9401, map[Place]Server{{3, serverMAC}: {1, 2}}, func(Server, heartbeat.Heartbeat, Origin) {})
	f := frame(beat.Append(nil))
	if n := testing.AllocsPerRun(100, func() { h.Packet(Origin{Port: 3}, f) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// Whatever comes up from the switch, it is taken or counted, once.
func FuzzPacket(f *testing.F) {
	f.Add(frame(beat.Append(nil)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var n uint64
		h := NewHeartbeats(9401, map[Place]Server{{3, serverMAC}: {1, 2}}, func(Server, heartbeat.Heartbeat, Origin) { n++ })
		h.Packet(Origin{Port: 3}, b)
		if n += h.Malformed.Load() + h.Unknown.Load() + h.Mismatched.Load(); n != 1 {
			t.Errorf("counted %d times", n)
		}
	})
}
