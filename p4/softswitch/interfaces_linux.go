// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netlinkBytes is the receive buffer for news of interfaces: thousands of them.
const netlinkBytes = 4 << 20

// watchKernel calls report with the status of each interface, and again whenever
// the kernel tells that one has changed, until ctx is done or it fails.
func watchKernel(ctx context.Context, names iter.Seq[string], report func(name string, st LinkStatus)) error {
	done := make(chan struct{})
	updates := make(chan netlink.LinkUpdate)
	failed := make(chan error, 1)
	defer func() {
		close(done)
		for range updates { // until the library's goroutine has ended
		}
	}()
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ReceiveBufferSize: netlinkBytes,
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	if err != nil {
		close(updates)
		return fmt.Errorf("netlink: %w", err)
	}
	index := map[string]int{}
	for name := range names {
		l, err := netlink.LinkByName(name)
		if err != nil {
			report(name, LinkStatus{Oper: OperNotPresent})
			index[name] = 0
			continue
		}
		index[name] = l.Attrs().Index
		report(name, statusOf(l.Attrs()))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				select {
				case err := <-failed:
					return err
				default:
					return errors.New("netlink: the subscription ended")
				}
			}
			if u.IfInfomsg.Family != unix.AF_UNSPEC {
				continue // such as news of a bridge's ports, which look alike
			}
			a := u.Attrs()
			_, ours := index[a.Name]
			gone := u.Header.Type == unix.RTM_DELLINK
			for name, i := range index {
				// Removed, moved to another namespace, or renamed.
				if i != 0 && i == int(u.Index) && (gone || a.Name != name) {
					index[name] = 0
					report(name, LinkStatus{Oper: OperNotPresent})
				}
			}
			if ours && !gone {
				index[a.Name] = int(u.Index)
				report(a.Name, statusOf(a))
			}
		}
	}
}

// statusOf translates the kernel's words (Documentation/networking/operstates.rst).
func statusOf(a *netlink.LinkAttrs) LinkStatus {
	st := LinkStatus{Admin: a.RawFlags&unix.IFF_UP != 0}
	switch a.OperState {
	case netlink.OperUp:
		st.Oper = OperUp
	case netlink.OperTesting:
		st.Oper = OperTesting
	case netlink.OperDormant:
		st.Oper = OperDormant
	case netlink.OperNotPresent:
		st.Oper = OperNotPresent
	case netlink.OperLowerLayerDown:
		st.Oper = OperLowerDown
	case netlink.OperDown:
		st.Oper = OperDown
	default:
		// Drivers that do not tell, such as those of dummy and tap devices: what they
		// say by their flags is all there is.
		st.Oper = OperDown
		if a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0 {
			st.Oper = OperUp
		}
	}
	return st
}
