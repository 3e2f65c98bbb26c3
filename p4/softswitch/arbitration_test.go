// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// A controller is one stream to the switch. What it is told is noted as text, so
// that a story can be compared as a whole.
type controller struct {
	t      *testing.T
	name   string
	stream p4v1.P4Runtime_StreamChannelClient
	cancel context.CancelFunc
	got    chan string
}

func newController(t *testing.T, client p4v1.P4RuntimeClient, name string) *controller {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := client.StreamChannel(ctx)
	check(t, err)
	c := &controller{t: t, name: name, stream: stream, cancel: cancel, got: make(chan string, 64)}
	go func() {
		for {
			m, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF), status.Code(err) == codes.Canceled:
				return
			case err != nil:
				c.got <- status.Code(err).String()
				return
			}
			if a := m.GetArbitration(); a != nil {
				id := "unset"
				if e := a.GetElectionId(); e != nil {
					id = fmt.Sprint(e.GetLow())
				}
				role := ""
				if r := a.GetRole().GetName(); r != "" {
					role = " role " + r
					if a.GetRole().GetConfig() != nil {
						role += " configured"
					}
				}
				c.got <- fmt.Sprintf("%s: %v, highest %s%s", name, codes.Code(a.GetStatus().GetCode()), id, role)
			} else if e := m.GetError(); e != nil {
				c.got <- fmt.Sprintf("%s: error %v", name, codes.Code(e.GetCanonicalCode()))
			} else {
				c.got <- fmt.Sprintf("%s: %T", name, m.GetUpdate())
			}
		}
	}()
	return c
}

// arbitrate sends an update; election 0 leaves the id unset.
func (c *controller) arbitrate(m *p4v1.MasterArbitrationUpdate) {
	c.t.Helper()
	check(c.t, c.stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{Arbitration: m}}))
}

func (c *controller) elect(election uint64) {
	c.t.Helper()
	m := &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID}
	if election != 0 {
		m.ElectionId = &p4v1.Uint128{Low: election}
	}
	c.arbitrate(m)
}

// next returns what the controller is told next.
func (c *controller) next() string {
	c.t.Helper()
	select {
	case s := <-c.got:
		return s
	case <-time.After(5 * time.Second):
		c.t.Fatalf("%s was told nothing", c.name)
		return ""
	}
}

func (c *controller) silent() {
	c.t.Helper()
	select {
	case s := <-c.got:
		c.t.Errorf("%s was told %q", c.name, s)
	case <-time.After(20 * time.Millisecond):
	}
}

func told(t *testing.T, want string, c *controller) {
	t.Helper()
	if diff := cmp.Diff(want, c.next()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// bare starts a switch on which nobody has arbitrated.
func bare(t *testing.T) p4v1.P4RuntimeClient {
	t.Helper()
	return switchtest.StartIdle(t, softswitch.Config{}).Client
}

// P4Runtime 1.5, section 5.3, case 1: the first update of a stream.
func TestArbitrationFirstUpdate(t *testing.T) {
	client := bare(t)
	first := newController(t, client, "first")
	first.elect(200)
	told(t, "first: OK, highest 200", first)

	for _, tc := range []struct {
		name string
		m    *p4v1.MasterArbitrationUpdate
		want string
	}{
		{"case 1.1, unknown device", &p4v1.MasterArbitrationUpdate{DeviceId: 77, ElectionId: &p4v1.Uint128{Low: 300}}, "NotFound"},
		{"case 1.2, election id in use", &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, ElectionId: &p4v1.Uint128{Low: 200}}, "InvalidArgument"},
		{"case 1.3, role configuration", &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, Role: &p4v1.Role{Name: "r", Config: &anypb.Any{}}}, "InvalidArgument"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newController(t, client, "other")
			c.arbitrate(tc.m)
			told(t, tc.want, c)
		})
	}
	first.silent()
}

// Section 5.3, case 2: a later update of a stream.
func TestArbitrationLaterUpdate(t *testing.T) {
	client := bare(t)
	first := newController(t, client, "first")
	first.elect(200)
	told(t, "first: OK, highest 200", first)
	for _, tc := range []struct {
		name string
		m    *p4v1.MasterArbitrationUpdate
		want string
	}{
		{"case 2.1, another device", &p4v1.MasterArbitrationUpdate{DeviceId: 77}, "FailedPrecondition"},
		{"case 2.2, another role", &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, Role: &p4v1.Role{Name: "r"}}, "FailedPrecondition"},
		{"case 2.4, election id in use", &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, ElectionId: &p4v1.Uint128{Low: 200}}, "InvalidArgument"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newController(t, client, "other")
			c.elect(100)
			told(t, "other: AlreadyExists, highest 200", c)
			c.arbitrate(tc.m)
			told(t, tc.want, c)
		})
	}
}

// Sections 5.3 and 5.4: who becomes primary, and who is told.
func TestArbitrationStory(t *testing.T) {
	client := bare(t)
	a, b, c := newController(t, client, "a"), newController(t, client, "b"), newController(t, client, "c")

	c.elect(0) // an unset id never becomes primary (section 16.2.1)
	told(t, "c: NotFound, highest unset", c)

	a.elect(110)
	told(t, "c: AlreadyExists, highest 110", c)
	told(t, "a: OK, highest 110", a)

	b.elect(105) // a lower one: backup, and nobody else is told
	told(t, "b: AlreadyExists, highest 110", b)
	a.silent()
	c.silent()

	b.elect(120) // takes over
	told(t, "a: AlreadyExists, highest 120", a)
	told(t, "c: AlreadyExists, highest 120", c)
	told(t, "b: OK, highest 120", b)

	b.elect(120) // repeats itself: stays primary, all are told
	told(t, "a: AlreadyExists, highest 120", a)
	told(t, "c: AlreadyExists, highest 120", c)
	told(t, "b: OK, highest 120", b)

	b.elect(90) // steps down: there is no primary, and 120 remains the highest
	told(t, "a: NotFound, highest 120", a)
	told(t, "c: NotFound, highest 120", c)
	told(t, "b: NotFound, highest 120", b)

	a.elect(115) // more than all who are there, less than the highest ever
	told(t, "a: NotFound, highest 120", a)

	a.elect(120)
	told(t, "b: AlreadyExists, highest 120", b)
	told(t, "c: AlreadyExists, highest 120", c)
	told(t, "a: OK, highest 120", a)

	a.cancel() // disconnects
	told(t, "b: NotFound, highest 120", b)
	told(t, "c: NotFound, highest 120", c)

	d := newController(t, client, "d") // the same id after a reconnection
	d.elect(120)
	told(t, "b: AlreadyExists, highest 120", b)
	told(t, "c: AlreadyExists, highest 120", c)
	told(t, "d: OK, highest 120", d)
	b.cancel() // a backup that leaves is nobody's concern
	d.silent()
	c.silent()
}

// Section 5.1: roles have primaries of their own.
func TestArbitrationRoles(t *testing.T) {
	client := bare(t)
	a, b := newController(t, client, "a"), newController(t, client, "b")
	a.elect(10)
	told(t, "a: OK, highest 10", a)
	b.arbitrate(&p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, ElectionId: &p4v1.Uint128{Low: 10}, Role: &p4v1.Role{Name: "monitor"}})
	told(t, "b: OK, highest 10 role monitor", b)
	a.silent()
}

// What controllers can make the switch remember is bounded.
func TestArbitrationBounds(t *testing.T) {
	client := bare(t)
	role := func(election uint64, name string) *p4v1.MasterArbitrationUpdate {
		m := &p4v1.MasterArbitrationUpdate{DeviceId: switchtest.DeviceID, Role: &p4v1.Role{Name: name}}
		if election != 0 {
			m.ElectionId = &p4v1.Uint128{Low: election}
		}
		return m
	}
	long := newController(t, client, "long")
	long.arbitrate(role(1, strings.Repeat("x", 257)))
	told(t, "InvalidArgument", long)

	for i := range 64 {
		c := newController(t, client, "c")
		c.arbitrate(role(1, fmt.Sprint(i)))
		told(t, fmt.Sprintf("c: OK, highest 1 role %d", i), c)
	}
	late := newController(t, client, "late")
	late.arbitrate(role(1, "one more"))
	told(t, "ResourceExhausted", late)
	plain := newController(t, client, "plain") // the default role is always there
	plain.elect(1)
	told(t, "plain: OK, highest 1", plain)

	for range 63 { // role 0 has one already
		c := newController(t, client, "c")
		c.arbitrate(role(0, "0"))
		told(t, "c: AlreadyExists, highest 1 role 0", c)
	}
	full := newController(t, client, "full")
	full.arbitrate(role(0, "0"))
	told(t, "ResourceExhausted", full)
}

// Sections 12 and 14: requests of others than the primary.
func TestOnlyPrimaryWrites(t *testing.T) {
	js, info := testProgram(t)
	h := switchtest.New(t, js, info)
	backup := newController(t, h.Client, "backup")
	backup.elect(50)
	told(t, "backup: AlreadyExists, highest 100", backup)
	ctx := context.Background()
	for _, tc := range []struct {
		name     string
		device   uint64
		role     string
		election *p4v1.Uint128
		want     codes.Code
	}{
		{"primary", switchtest.DeviceID, "", switchtest.Election(), codes.OK},
		{"unknown device", 77, "", switchtest.Election(), codes.NotFound},
		{"unknown role", switchtest.DeviceID, "nobody", switchtest.Election(), codes.NotFound},
		{"backup", switchtest.DeviceID, "", &p4v1.Uint128{Low: 50}, codes.PermissionDenied},
		{"stranger", switchtest.DeviceID, "", &p4v1.Uint128{High: 1, Low: 50}, codes.PermissionDenied},
		{"no election id", switchtest.DeviceID, "", nil, codes.PermissionDenied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := h.Client.Write(ctx, &p4v1.WriteRequest{DeviceId: tc.device, Role: tc.role, ElectionId: tc.election})
			if got := status.Code(err); got != tc.want {
				t.Errorf("Write: %v, want %v", err, tc.want)
			}
			_, err = h.Client.SetForwardingPipelineConfig(ctx, &p4v1.SetForwardingPipelineConfigRequest{DeviceId: tc.device, Role: tc.role,
				ElectionId: tc.election, Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY, Config: loadConfig(t, js, info)})
			if got := status.Code(err); got != tc.want {
				t.Errorf("SetForwardingPipelineConfig: %v, want %v", err, tc.want)
			}
		})
	}
	// Section 16.1: a PacketOut of a backup is dropped, and it is told.
	check(t, backup.stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Packet{Packet: &p4v1.PacketOut{Payload: []byte("x")}}}))
	told(t, "backup: error PermissionDenied", backup)
	// So is a stream that did not arbitrate.
	silent := newController(t, h.Client, "silent")
	check(t, silent.stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Packet{Packet: &p4v1.PacketOut{Payload: []byte("x")}}}))
	told(t, "silent: error PermissionDenied", silent)
}
