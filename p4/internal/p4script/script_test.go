// SPDX-License-Identifier: Apache-2.0

package p4script

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	s, err := Parse(`# a comment
let A 02:00:00:00:00:01
insert vip dst_addr=192.0.2.1 dst_port=0x50 -> duplicate group=1
group 1 2:1 3:2
== one   case
in 1 hex 01 02 # and a comment
out 2 hex 01
out 2 hex 02
packet-out 3 "a#b"
nothing
delete vip dst_addr=192.0.2.1 dst_port=80
count drop_counter 1 0
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Script{
		{Steps: []Step{
			&Entry{Line: 3, Verb: "insert", Table: "vip", Action: "duplicate",
				Match: map[string]any{"dst_addr": "192.0.2.1", "dst_port": 80}, Params: map[string]any{"group": 1}},
			&Group{Line: 4, ID: 1, Replicas: [][2]uint32{{2, 1}, {3, 2}}},
		}},
		{Name: "one case", Steps: []Step{
			&Exchange{Line: 6, Port: 1, In: []byte{1, 2}, Out: map[uint16][][]byte{2: {{1}, {2}}}, answered: true},
			&Exchange{Line: 9, Port: 3, FromController: true, In: []byte("a#b"), Out: map[uint16][][]byte{}, answered: true},
			&Entry{Line: 11, Verb: "delete", Table: "vip", Match: map[string]any{"dst_addr": "192.0.2.1", "dst_port": 80}, Params: map[string]any{}},
			&Count{Line: 12, Counter: "drop_counter", Index: 1},
		}},
	}
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(Exchange{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What is wrong in a script is said with its line, and is never passed over.
func TestWrongScripts(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"in 1 hex 00", `line 1: what comes of the packet of line 1?`},
		{"in 1 hex 00\nin 1 hex 00", `line 2: what comes of the packet of line 1?`},
		{"in 1 hex 00\n== next", `line 2: what comes of the packet of line 1?`},
		{"out 1 hex 00", `line 1: out without a packet in before it`},
		{"in 1 hex 00\ndrop ttl\nout 1 hex 00", `line 3: out: something else was said of the packet of line 1`},
		{"in 1 hex 00\nout 1 hex 00\nnothing", `line 3: nothing: something else was said`},
		{"in x hex 00", `line 1: port "x"`},
		{"in 1 hex 0", `line 1: hex 0`},
		{"in 1 eth 02:00:00:00:00:01 > $B", `line 1: $B was not let be anything`},
		{"in 1 eth 02:00:00:00:00:01 02:00:00:00:00:02", `where > was to come`},
		{"in 1 ip 1.2.3.4 > 1.2.3.4 tll=3", `"tll=3" is not known here`},
		{"in 1 ip 1.2.3.4 > 1.2.3.4 ttl=256", `"256" is no number of 8 bits`},
		{"in 1 ip 1.2.3.4 > 1.2.3.4 options=01", `IPv4 options of 1 bytes`},
		{"in 1 ip 1.2.3.4 > ::1", `line 1:`},
		{"in 1 tcp 1 > 2 flags=SX", `no TCP flag`},
		{"in 1 hex 00 | put 1 00", `the frame has only 1 bytes`},
		{"in 1 hex 00 | cut 2", `the frame has only 1 bytes`},
		{"in 1 hex 00 | ipsum", `no IPv4 header`},
		{"in 1 hex 00 |", `nothing after |`},
		{"in 1 hex 00 / ", `an empty layer`},
		{`in 1 "x`, `a quote without its end`},
		{"insert vip port=1", `line 1: an entry to insert or modify has an action`},
		{"delete vip port=1 -> x", `line 1: an entry to insert or modify has an action`},
		{"insert vip port -> x", `line 1: "port" is not KEY=VALUE`},
		{"group 1 2", `line 1: group ID PORT:RID`},
		{"group", `line 1: group ID PORT:RID`},
		{"count x", `line 1: count COUNTER INDEX N`},
		{"wait 3", `line 1: time: missing unit`},
		{"in 1 hex 00\npacket-in 1 x=y hex 00", `line 2: x: strconv`},
		{"let x", `line 1: let NAME VALUE`},
		{"jump", `line 1: "jump" is no step`},
	} {
		_, err := Parse(tc.text)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.text, err, tc.want)
		}
	}
}

func TestFrame(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"eth 02:00:00:00:00:01 > 02:00:00:00:00:02 / ip 1.2.3.4 > 5.6.7.8 ttl=0 id=7 df mf offset=1 / udp 1 > 2 nosum / zero 1",
			"020000000002" + "020000000001" + "0800" + "4500001d0007600100114ab50102030405060708" + "0001000200090000" + "00"},
		{"ip ::1 > ::2 ttl=255 tos=1 / icmp6 1 code=2 sum=3", "6010000000043aff" + strings.Repeat("00", 15) + "01" + strings.Repeat("00", 15) + "02" + "01020003"},
		{"tcp 1 > 2 flags=SA seq=3 ack=4 window=5 sum=6 options=01010101", "00010002" + "00000003" + "00000004" + "6012" + "0005" + "0006" + "0000" + "01010101"},
		{"arp reply 02:00:00:00:00:01 1.2.3.4 > 02:00:00:00:00:02 5.6.7.8", "0001080006040002" + "020000000001" + "01020304" + "020000000002" + "05060708"},
		{"hex 01 0203 | put 1 ff | cut 2", "01ff"},
	} {
		got, err := Frame(strings.Fields(tc.text))
		if err != nil || hex.EncodeToString(got) != tc.want {
			t.Errorf("%s:\n%x (%v), want\n%s", tc.text, got, err, tc.want)
		}
	}
}
