// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/internal/heartbeat"
)

// The switch's answer makes a backup active, and nothing else does: not an answer to
// another process, of another epoch, in another role, or to a server that is no backup.
func TestSwitchAnswers(t *testing.T) {
	const instance = 77
	sw, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sw.Close()
	sw.SetReadDeadline(time.Now().Add(10 * time.Second))
	h := newHeartbeatSender()
	released := make(chan *agentv1.Assignment, 16)
	h.released = func(part *agentv1.Assignment) { released <- part }
	part := &agentv1.Assignment{
		Epoch: 9, Role: agentv1.Role_ROLE_BACKUP, Peer: &agentv1.Peer{Server: "other"},
		Heartbeat: &agentv1.Heartbeat{Destination: sw.LocalAddr().String(), Interval: durationpb.New(time.Millisecond)},
	}
	h.inStep.Store(true)
	h.set(part)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.run(ctx, instance, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	buf := make([]byte, 100)
	n, from, err := sw.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	beat, err := heartbeat.Decode(buf[:n])
	if err != nil || !beat.InStep || beat.Role != uint8(agentv1.Role_ROLE_BACKUP) {
		t.Fatalf("heartbeat %+v, %v", beat, err)
	}
	answer := func(change func(*heartbeat.Heartbeat)) {
		a := beat
		a.Role = uint8(agentv1.Role_ROLE_ACTIVE)
		change(&a)
		if _, err := sw.WriteTo(a.Append(nil), from); err != nil {
			t.Fatal(err)
		}
	}
	answer(func(a *heartbeat.Heartbeat) { a.Instance++ })
	answer(func(a *heartbeat.Heartbeat) { a.Epoch-- })
	answer(func(a *heartbeat.Heartbeat) { a.Role = uint8(agentv1.Role_ROLE_BACKUP) })
	sw.WriteTo([]byte("no heartbeat"), from)
	answer(func(*heartbeat.Heartbeat) {})
	select {
	case got := <-released:
		if got != part {
			t.Errorf("released: %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the answer was not heard")
	}
	// The wrong ones came first: they would have been heard first.
	if len(released) > 0 {
		t.Errorf("%d more were taken for the switch's answer", len(released))
	}

	if s := successor(part); s.GetRole() != agentv1.Role_ROLE_ACTIVE || !s.GetReleased() || s.GetPeer() != nil || s.GetEpoch() != 9 {
		t.Errorf("successor %v", s)
	}
	active := proto.CloneOf(part)
	active.Role = agentv1.Role_ROLE_ACTIVE
	if right := (heartbeat.Heartbeat{Role: uint8(agentv1.Role_ROLE_ACTIVE), Epoch: 9, Instance: instance}); releases(right, active, instance) || !releases(right, part, instance) {
		t.Error("only a backup can be released")
	}
}
