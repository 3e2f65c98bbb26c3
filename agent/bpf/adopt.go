// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Adopted is what the programs must know of a connection whose beginning this
// host has not seen, to treat it as one that they have begun themselves.
type Adopted struct {
	IRS, ISS   uint32 // the initial sequence numbers of the client and of the servers
	ClientAck  uint32 // the highest ACK number of the client
	ClientNext uint32 // the next byte that the client will send, as far as is known
	SndNxt     uint32 // the next byte that this host will send
	// TSRecent is the client's clock and TSClock the connection's; 0 without
	// timestamps.
	TSRecent, TSClock    uint32
	ClientWindow         uint16 // as it stands in the client's segments
	SndWscale, RcvWscale uint8  // of the client's windows, and of ours
}

// Adopt begins the record of a connection, in place of any that there is for the
// same addresses and ports. Call it before the socket is there: a segment that
// meets the socket first would begin a record without the initial numbers. The
// connection is not gated; see Arm.
func (p *Programs) Adopt(t Tuple, a Adopted) error {
	key, err := t.key()
	if err != nil {
		return err
	}
	// A mark for an earlier connection would let this one's FIN pass the guard.
	if err := p.objs.Closing.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("adopt %v: %w", t, err)
	}
	told := a.SndNxt // as the socket begins with everything before acknowledged
	v := connectionsConn{
		Irs: a.IRS, Iss: a.ISS,
		ClAck: a.ClientAck, Told: told,
		ClNxt: a.ClientNext, ClTsval: a.TSRecent, ClWin: a.ClientWindow,
		OwnNxt: a.SndNxt, OwnTsval: a.TSClock,
		OwnTsecr: a.TSRecent, PeerTsecr: a.TSRecent,
		SndWscale: a.SndWscale, RcvWscale: a.RcvWscale,
		Flags: connectionsConnFlagsCONN_KNOWN | connectionsConnFlagsCONN_ESTABLISHED,
	}
	if err := p.objs.Conns.Put(key, v); err != nil {
		return fmt.Errorf("adopt %v: %w", t, err)
	}
	return nil
}

// Forget gives up the record of a connection, whose socket could not be made.
func (p *Programs) Forget(t Tuple) error {
	key, err := t.key()
	if err != nil {
		return err
	}
	if err := p.objs.Conns.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget %v: %w", t, err)
	}
	return nil
}
