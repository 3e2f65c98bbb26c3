// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"time"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/gnmi"
)

// portChanged is called with what the switch says of a port. What follows from it for
// the servers behind that port is done when it returns.
func (l *loop) portChanged(p gnmi.Port) {
	l.post(input{do: func() {
		_, was := l.down[p.Number]
		if p.Down() == was {
			return
		}
		delete(l.down, p.Number)
		if p.Down() {
			l.down[p.Number] = fmt.Sprintf("%s is %s", p.Interface, p.Oper)
		}
		now := time.Now()
		for _, pair := range l.tables.Load().pairs {
			l.tellPorts(pair, now)
		}
	}})
}

// tellPorts tells a pair how the ports to its servers are. The caller holds l.mu.
func (l *loop) tellPorts(p *pair, now time.Time) {
	for _, s := range p.config.Servers {
		l.step(p, now, l.portState(s))
	}
}

// portState is how the port to a server is. The caller holds l.mu.
func (l *loop) portState(s config.Server) failover.PortState {
	reason, down := l.down[uint32(s.Port)]
	return failover.PortState{Server: failover.Replica(s.Replica), Down: down, Reason: reason}
}
