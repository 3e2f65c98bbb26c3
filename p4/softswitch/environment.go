// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
)

// An environment is what a pipeline sees of the switch around it.
type environment struct {
	dropPort uint16
	// port tells whether there is a port with a number, and whether it is up.
	port func(uint16) (exists, up bool)
	// digest hands a list to the primary controllers and tells whether one took it. It
	// must not block.
	digest func(*p4v1.DigestList) bool
	// timers is called when something has a deadline. It must not block.
	timers func()
	now    func() time.Time
	// log takes what the program says with log_msg.
	log func(string)
}

func (s *Switch) environment() *environment {
	return &environment{
		dropPort: s.cfg.DropPort,
		port: func(n uint16) (exists, up bool) {
			if n == s.cfg.CPUPort && n != 0 {
				return true, true
			}
			if int(n) >= len(s.ports) || s.ports[n] == nil {
				return false, false
			}
			return true, !s.ports[n].down.Load()
		},
		digest: func(l *p4v1.DigestList) bool {
			return s.notify(l.GetDigestId(), &p4v1.StreamMessageResponse{Update: &p4v1.StreamMessageResponse_Digest{Digest: l}})
		},
		timers: s.wakeTimers,
		now:    time.Now,
		log:    func(msg string) { s.log.Info("log_msg", "text", msg) },
	}
}

// portChanged lets what watches ports follow one that went up or down.
func (s *Switch) portChanged() {
	s.control.Lock()
	defer s.control.Unlock()
	for _, p := range []*pipeline{s.configured, s.forwarding.Load()} {
		if p != nil {
			p.refreshReplication()
			p.refreshProfiles()
		}
	}
}
