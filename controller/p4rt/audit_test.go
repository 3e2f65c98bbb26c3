// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is changed behind the session's back is found, told with table and key, and put
// right; of the rest nothing is written.
func TestAuditFindsDrift(t *testing.T) {
	active, route, other := activeOf(1, 1, 7), routeTo("192.0.2.0/24", 1), routeTo("203.0.113.0/24", 3)
	wrong := routeTo("192.0.2.0/24", 9)
	group := example().Groups[0]
	for _, tt := range []struct {
		name    string
		change  Update
		want    string
		resyncs bool
	}{
		{"removed", Update{Op: Delete, Entry: &route}, "insert " + route.String(), false},
		{"changed", Update{Op: Modify, Entry: &wrong}, "modify " + route.String(), false},
		{"added", Update{Op: Insert, Entry: &other}, "delete " + other.keyString(), false},
		{"group", Update{Op: Modify, Group: &Group{ID: 1, Replicas: []Replica{{2, 1}}}}, "modify " + group.String(), false},
		{"who is active", Update{Op: Delete, Entry: &active}, "insert " + active.String(), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkLeaks(t)
			d := newDevice(t, "127.0.0.1:0")
			found := make(chan []Update, 100)
			o := run(t, d, example(), func(opts *Options) {
				opts.Audit = 2 * time.Millisecond
				opts.Drift = func(u []Update) { found <- u }
			})
			o.await(t, Ready)
			d.taken()
			d.change(t, o.Session, tt.change)
			select {
			case got := <-found:
				if len(got) != 1 || got[0].String() != tt.want {
					t.Errorf("found %v, want %s", got, tt.want)
				}
			case <-time.After(deadline):
				t.Fatal("nothing was found")
			}
			for end := time.Now().Add(deadline); ; time.Sleep(time.Millisecond) {
				got, err := o.Read(t.Context())
				diff := cmp.Diff(example().String(), got.String())
				if err == nil && diff == "" {
					break
				}
				if err != nil && !errors.Is(err, ErrNotReady) || time.Now().After(end) {
					t.Fatalf("error %v; what the switch has (-want +got):\n%s", err, diff)
				}
			}
			updates := 0
			for _, w := range d.taken() {
				updates += len(w.GetUpdates())
			}
			if updates != 1 {
				t.Errorf("%d updates", updates)
			}
			select {
			case s := <-o.statuses:
				if !tt.resyncs {
					t.Errorf("the session became %v", s)
				}
			default:
				if tt.resyncs {
					t.Error("who is active was not decided anew")
				}
			}
		})
	}
}

// A Put that has failed, and will be repeated, is no drift.
func TestAuditAfterAFailedPut(t *testing.T) {
	checkLeaks(t)
	d := newDevice(t, "127.0.0.1:0")
	o := run(t, d, example())
	o.await(t, Ready)
	e := activeOf(1, 1, 7)
	o.putFailed([]Update{{Op: Modify, Entry: &e}}, errors.New("no answer"))
	if _, sure := o.written([]uint32{o.schema.tables["active"].id}); sure {
		t.Error("after a failed Put the session is sure of what the switch has")
	}
	if err := o.Put(t.Context(), []Entry{e}, nil); err != nil {
		t.Fatal(err)
	}
	if _, sure := o.written(nil); !sure {
		t.Error("after the Put was repeated it is not")
	}
}
