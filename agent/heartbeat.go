// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/internal/heartbeat"
)

// heartbeatSender sends signs of life through the data path, as the assignment in force
// says. It has a thread of its own, with real-time priority where it may: three
// late datagrams cost a failover. (Corosync does the same, for the same reason.)
type heartbeatSender struct {
	part          atomic.Pointer[agentv1.Assignment]
	applicationUp atomic.Bool
	changed       chan struct{}
}

func newHeartbeatSender() *heartbeatSender {
	return &heartbeatSender{changed: make(chan struct{}, 1)}
}

// set puts an assignment in force.
func (h *heartbeatSender) set(n *agentv1.Assignment) {
	h.part.Store(n)
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// minInterval keeps a mistaken assignment from flooding the path.
const minInterval = time.Millisecond

func (h *heartbeatSender) run(ctx context.Context, instance uint64, log *slog.Logger) error {
	runtime.LockOSThread() // ends with the goroutine: the priority must not spread
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}, 0)
	if err != nil {
		log.Warn("no real-time priority for heartbeats; grant CAP_SYS_NICE", "error", err)
	}
	var (
		conn        net.Conn
		destination string
		sequence    uint32
		buf         []byte
	)
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for {
		n := h.part.Load()
		interval := n.GetHeartbeat().GetInterval().AsDuration()
		if n.GetHeartbeat().GetDestination() == "" || interval < minInterval {
			select {
			case <-ctx.Done():
				return nil
			case <-h.changed:
				continue
			}
		}
		if d := n.GetHeartbeat().GetDestination(); d != destination || conn == nil {
			if conn != nil {
				conn.Close()
			}
			destination = d
			if conn, err = net.Dial("udp", d); err != nil {
				conn = nil
				log.Warn("heartbeat destination", "address", d, "error", err)
			}
		}
		if conn != nil {
			sequence++
			buf = heartbeat.Heartbeat{
				ApplicationUp: h.applicationUp.Load(),
				PairID:        uint16(n.GetHeartbeat().GetPairId()),
				ReplicaID:     uint8(n.GetHeartbeat().GetReplicaId()),
				Role:          uint8(n.GetRole()),
				Epoch:         uint32(n.GetEpoch()),
				Sequence:      sequence,
				Instance:      instance,
			}.Append(buf[:0])
			conn.Write(buf) // an error here is silence, which the controller hears
		}
		// The thread itself sleeps: waking it up is then between it and the kernel,
		// and no other goroutine is in the way.
		ts := unix.NsecToTimespec(int64(interval))
		unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil)
		if ctx.Err() != nil {
			return nil
		}
	}
}
