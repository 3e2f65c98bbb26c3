// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchCarrier posts whenever the data interface gains or loses its carrier, and
// what it is at the start. The kernel says so at once; heartbeats that no longer
// arrive would say it 30 ms later.
func (a *Agent) watchCarrier(ctx context.Context) error {
	if a.cfg.Interface == "" {
		<-ctx.Done()
		return nil
	}
	ifi, err := net.InterfaceByName(a.cfg.Interface)
	if err != nil {
		return fmt.Errorf("data interface %q: %w", a.cfg.Interface, err)
	}
	done := make(chan struct{})
	defer close(done)
	updates := make(chan netlink.LinkUpdate, 16)
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true}); err != nil {
		return fmt.Errorf("watch %s: %w", a.cfg.Interface, err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("watch %s: the kernel ended the subscription", a.cfg.Interface)
			}
			if int(u.Index) != ifi.Index {
				continue
			}
			up := u.Header.Type != unix.RTM_DELLINK && u.IfInfomsg.Flags&unix.IFF_RUNNING != 0
			if !a.post(ctx, carrierChanged{down: !up}) {
				return nil
			}
		}
	}
}
