// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/internal/heartbeat"
)

// heartbeatSender sends signs of life through the data path, as the assignment in
// force says.
type heartbeatSender struct {
	part          atomic.Pointer[agentv1.Assignment]
	applicationUp atomic.Bool
	// inStep is that this server, a backup, has followed the stream in its epoch.
	inStep  atomic.Bool
	changed chan struct{}
	// released is called, in a goroutine of its own, when the switch has answered that
	// it has released this server, which was the backup of that assignment. It must
	// not block for long.
	released func(*agentv1.Assignment)
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

// run sends until ctx ends.
//
// It waits in Go's poller and sends without telling Go's scheduler. A thread that
// sleeps in a system call, as one with real-time priority would, keeps the thread
// that watches over blocked ones (sysmon) awake: that took more time than all else
// that an agent does.
func (h *heartbeatSender) run(ctx context.Context, instance uint64, log *slog.Logger) error {
	var (
		conn        *net.UDPConn
		raw         syscall.RawConn
		destination string
		every       time.Duration
		sequence    uint32
		buf         []byte
	)
	send := func(fd uintptr) bool {
		// An error here is silence, which the controller hears.
		unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		return true
	}
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	for {
		n := h.part.Load()
		d, interval := n.GetHeartbeat().GetDestination(), n.GetHeartbeat().GetInterval().AsDuration()
		if d == "" || interval < minInterval {
			select {
			case <-ctx.Done():
				return nil
			case <-h.changed:
				continue
			}
		}
		if d != destination || conn == nil {
			if conn != nil {
				conn.Close()
			}
			destination = d
			var err error
			if conn, raw, err = dialHeartbeat(d); err != nil {
				log.Warn("heartbeat destination", "address", d, "error", err)
			} else {
				go h.listen(conn, instance)
			}
		}
		if conn != nil {
			sequence++
			buf = heartbeat.Heartbeat{
				ApplicationUp: h.applicationUp.Load(),
				InStep:        h.inStep.Load(),
				PairID:        uint16(n.GetHeartbeat().GetPairId()),
				ReplicaID:     uint8(n.GetHeartbeat().GetReplicaId()),
				Role:          uint8(n.GetRole()),
				Epoch:         uint32(n.GetEpoch()),
				Sequence:      sequence,
				Instance:      instance,
			}.Append(buf[:0])
			raw.Write(send)
		}
		if interval != every {
			every = interval
			ticker.Reset(interval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.changed:
		case <-ticker.C:
		}
	}
}

// listen hears what the switch answers, until conn is closed. It answers only when
// it has released this server by itself (docs/watchdog.md): with the heartbeat that it
// got, and another role in it. The instance, which is random, shows that it got one.
func (h *heartbeatSender) listen(conn *net.UDPConn, instance uint64) {
	buf := make([]byte, 2*heartbeat.Size)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Nobody is there, as an ICMP message has said: not for every one of them.
			time.Sleep(minInterval)
			continue
		}
		answer, err := heartbeat.Decode(buf[:n])
		if part := h.part.Load(); err == nil && releases(answer, part, instance) {
			h.released(part)
		}
	}
}

// releases says that an answer makes the backup of an assignment the active server.
func releases(answer heartbeat.Heartbeat, part *agentv1.Assignment, instance uint64) bool {
	return answer.Instance == instance && agentv1.Role(answer.Role) == agentv1.Role_ROLE_ACTIVE &&
		part.GetRole() == agentv1.Role_ROLE_BACKUP && answer.Epoch == uint32(part.GetEpoch())
}

// dialHeartbeat opens a socket that sends to address, "host:port".
func dialHeartbeat(address string) (*net.UDPConn, syscall.RawConn, error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return nil, nil, err
	}
	conn := c.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, raw, nil
}
