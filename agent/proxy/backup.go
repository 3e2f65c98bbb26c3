// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

// logReply applies a piece of a reply from the active server, on a backup.
func (c *conn) logReply(r *replicationv1.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil || c.active {
		return
	}
	if r.GetBegin() {
		c.discard()
	}
	c.log(r.GetData(), spanOf(r))
	switch {
	case r.GetInterim():
		c.interim = true
		c.out.seal(0)
	case r.GetEnd():
		c.partial, c.interim = nil, false
		c.out.seal(0)
		c.in.done(r.GetRequestEnd())
		c.answered++
	case r.GetStreamed():
		c.show(0)
	}
	if r.GetClose() {
		c.finishLocked()
		return
	}
	c.wake()
}

// spanOf takes a frame's word for what its bytes are, as far as that can be true.
func spanOf(r *replicationv1.Reply) span {
	n := uint64(len(r.GetData()))
	head, at, body := uint64(r.GetHead()), uint64(r.GetBodyAt()), uint64(r.GetBody())
	if head > n || at+body > n {
		return span{}
	}
	return span{head: int(head), at: int(at), body: int(body)}
}

// confirmable returns how much the active server may show, and whether that is news.
// A reply that is here only in part does not count: if the active server died now, it
// would be thrown away, and no client may have seen its beginning. Nor does what goes
// beyond the window: so much is held here and no more.
func (c *conn) confirmable() (logged uint64, news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil || c.active {
		return 0, false
	}
	logged = min(c.out.sealed, c.out.written+c.srv.window())
	if logged <= c.confirmed {
		return 0, false
	}
	c.confirmed = logged
	return logged, true
}

// behind reports whether much of what is logged waits for the client's
// acknowledgement, as far as that is known here.
func (c *conn) behind() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint64(c.out.held()) > c.srv.window()/4
}

// confirm takes the backup's word for how much of the replies it holds.
func (c *conn) confirm(logged uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.logged = max(c.out.logged, logged)
	c.wake()
}

// progress takes the backup's word for how much of the client's stream it has.
func (c *conn) progress(received uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peerReceived = max(c.peerReceived, received)
	c.wake()
}
