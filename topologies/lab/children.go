// SPDX-License-Identifier: Apache-2.0

package lab

import "sync"

// children are the processes that this program has started itself.
type children struct {
	mu    sync.Mutex
	ended map[int]error
}

// end returns how a child of this program ended, if it did.
func (c *children) end(pid int) (error, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err, ok := c.ended[pid]
	return err, ok
}

// record notes that a child has ended, and how.
func (c *children) record(pid int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = make(map[int]error)
	}
	c.ended[pid] = err
}
