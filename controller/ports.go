// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"time"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/gnmi"
)

// portChanged is called with what one of config.Switches says of a port. What follows
// from it for the servers behind that port is done when it returns.
func (l *loop) portChanged(sw int, p gnmi.Port) {
	l.post(input{do: func() {
		down := l.down[sw]
		if _, was := down[p.Number]; p.Down() == was {
			return
		}
		delete(down, p.Number)
		if p.Down() {
			down[p.Number] = fmt.Sprintf("%s is %s", p.Interface, p.Oper)
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

// portState is how the port to a server is: down if it is so at every switch that leads
// there. The caller holds l.mu.
func (l *loop) portState(s config.Server) failover.PortState {
	st := failover.PortState{Server: failover.Replica(s.Replica)}
	var reasons []string
	for _, down := range l.down {
		reason, ok := down[uint32(s.Port)]
		if !ok {
			return st
		}
		reasons = append(reasons, reason)
	}
	st.Down, st.Reason = true, strings.Join(reasons, ", ")
	return st
}
