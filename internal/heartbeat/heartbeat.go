// SPDX-License-Identifier: Apache-2.0

// Package heartbeat is the payload of the datagrams by which a server says that
// it lives (docs/heartbeat.md). Agents write them, the controller reads them.
package heartbeat

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Size is the length of an encoded heartbeat, in bytes. A longer payload is
// accepted: later versions may append.
const Size = 24

// Magic begins every heartbeat: "UD".
const Magic uint16 = 0x5544

// Version is the only version there is.
const Version = 1

const (
	flagApplicationUp = 1 << 0
	flagInStep        = 1 << 1
)

// Heartbeat is one sign of life.
type Heartbeat struct {
	// ApplicationUp is false when the local application cannot serve.
	ApplicationUp bool
	// InStep is true of a backup that has followed the active server's replication
	// stream in this epoch.
	InStep bool
	// PairID and ReplicaID are those of the assignment that the agent follows.
	PairID    uint16
	ReplicaID uint8
	// Role is an agentv1.Role.
	Role uint8
	// Epoch is the epoch of Role, its low 32 bits.
	Epoch uint32
	// Sequence counts the heartbeats of a process, and wraps.
	Sequence uint32
	// Instance is the random number of the process, as in its Hello.
	Instance uint64
}

// Errors that Decode returns.
var (
	ErrShort   = errors.New("heartbeat: payload too short")
	ErrMagic   = errors.New("heartbeat: wrong magic")
	ErrVersion = errors.New("heartbeat: unknown version")
)

// Append appends the encoding of h to b, Size bytes.
func (h Heartbeat) Append(b []byte) []byte {
	var flags byte
	if h.ApplicationUp {
		flags |= flagApplicationUp
	}
	if h.InStep {
		flags |= flagInStep
	}
	b = binary.BigEndian.AppendUint16(b, Magic)
	b = append(b, Version, flags)
	b = binary.BigEndian.AppendUint16(b, h.PairID)
	b = append(b, h.ReplicaID, h.Role)
	b = binary.BigEndian.AppendUint32(b, h.Epoch)
	b = binary.BigEndian.AppendUint32(b, h.Sequence)
	return binary.BigEndian.AppendUint64(b, h.Instance)
}

// Decode reads a heartbeat. It keeps no reference to b and does not allocate
// unless it fails. Flags that it does not know are ignored.
func Decode(b []byte) (Heartbeat, error) {
	if len(b) < Size {
		return Heartbeat{}, fmt.Errorf("%w: %d bytes, want %d", ErrShort, len(b), Size)
	}
	if m := binary.BigEndian.Uint16(b); m != Magic {
		return Heartbeat{}, fmt.Errorf("%w: %#04x", ErrMagic, m)
	}
	if b[2] != Version {
		return Heartbeat{}, fmt.Errorf("%w: %d", ErrVersion, b[2])
	}
	return Heartbeat{
		ApplicationUp: b[3]&flagApplicationUp != 0,
		InStep:        b[3]&flagInStep != 0,
		PairID:        binary.BigEndian.Uint16(b[4:]),
		ReplicaID:     b[6],
		Role:          b[7],
		Epoch:         binary.BigEndian.Uint32(b[8:]),
		Sequence:      binary.BigEndian.Uint32(b[12:]),
		Instance:      binary.BigEndian.Uint64(b[16:]),
	}, nil
}
