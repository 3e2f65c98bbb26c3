// SPDX-License-Identifier: Apache-2.0

// Package bpf keeps the copies of a TCP connection on two servers equal, in
// the kernel.
//
// Two programs on the interface that faces the switch do it, one for each
// direction; the head of connections.bpf.c walks a connection through them.
// They work for services, (VIP, port) pairs whose sockets the agent owns, and
// let everything else pass.
//
// Programs, maps and their attachment are pinned in a directory of a BPF file
// system. They go on without the agent: that is what keeps a kernel from
// resetting the connections of an agent that was killed. A restarted agent
// calls [Load] again, which replaces the programs in place and keeps what the
// maps hold. [Detach] ends it all.
//
// # What the listener must be
//
// A listening socket of a service must not be an MPTCP socket (Go's default;
// see net.ListenConfig.SetMultipathTCP): the kernel refuses to give it
// connections. Its receive buffer must be set before it listens, to the same
// size on all servers, as connections inherit it. Its backlog must be large:
// a full backlog loses connections without a word.
//
// The compiled programs are committed. After a change of the C sources run
// go generate; it needs clang and the headers of libbpf.
package bpf
