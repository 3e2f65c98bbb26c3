// SPDX-License-Identifier: Apache-2.0

// Package conn works on one TCP connection of a service from outside its
// socket. It puts segments into the kernel as if the client had sent them, and
// builds on this host the socket of a connection that another host describes.
//
// Segments go in through a raw IP socket and are routed to the loopback device,
// whatever rp_filter says. They are in the socket when the system call returns,
// or if the application holds the socket's lock in that moment, as soon as it
// lets go. They do not pass the programs of package bpf.
package conn
