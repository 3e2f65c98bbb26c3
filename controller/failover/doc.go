// SPDX-License-Identifier: Apache-2.0

// Package failover decides who is active: a pure state machine for one pair of
// servers. Events go in, intents come out. It holds no clock, no socket and no
// goroutine; the time is a part of each step.
//
//	                     first server                 second server
//	          +------+  comes, write   +---------+  comes, epoch+1  +---------+
//	  ------> | down | --------------> | simplex | ---------------> | joining |
//	  |       +------+                 +---------+ <--------------- +---------+
//	  |          ^      last one dies   |  ^   ^    join fails, or       |
//	  |          +----------------------+  |   |    newcomer dies        | stream up
//	  |                                    |   |                         v
//	  |                         written    |   |    backup dies     +--------+
//	  |                   +----------------+   +------------------- | duplex |
//	  |                   |                         epoch+1         +--------+
//	  |            +--------------+                                      |
//	  |            | failing over | <------------------------------------+
//	  |            +--------------+        active dies, epoch+1
//	  |
//	+---------+  switch read,  +------------+  the active agent is back: simplex,
//	| unknown | -------------> | recovering |  with its backup: joining, then duplex
//	+---------+  has an entry  +------------+
//
// Two things are never done. A server that becomes active is not told that it is
// released before the switch has confirmed the entry. And nobody but the
// machine decides that a pair is simplex: the epoch of that decision is newer
// than any in which the other server held the connections.
package failover
