// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"testing"
	"time"
)

// The primary vanishes; the connections go on with the backup.
func TestFlip(t *testing.T) {
	for _, gso := range []bool{false, true} {
		t.Run(fmt.Sprintf("gso=%v", gso), func(t *testing.T) {
			var o options
			o.GSO = gso
			l := newLab(t, o)
			cs := l.dialN(50)
			for round := range 20 {
				checkAll(t, all(cs, func(_ int, c *client) error { return c.echo(fmt.Sprint("round ", round)) }))
			}
			checkAll(t, all(cs, func(_ int, c *client) error { return c.get(100000) }))
			l.Cut(0, true)
			l.Activate(1)
			begin := time.Now()
			checkAll(t, all(cs, func(_ int, c *client) error { return c.echo("after the flip") }))
			t.Logf("first round after the flip: %v; server 0:%s; server 1:%s", time.Since(begin), l.servers[0].nonzero(), l.servers[1].nonzero())
			checkAll(t, all(cs, func(_ int, c *client) error { return c.get(100000) }))
		})
	}
}
