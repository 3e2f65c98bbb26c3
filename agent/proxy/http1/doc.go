// SPDX-License-Identifier: Apache-2.0

// Package http1 is the syntax of HTTP/1.1 messages (RFC 9112) as a gateway needs it:
// heads, how long a body is, and the chunked coding. It is strict with requests, where
// two readers that understand one message differently are a hole (request smuggling),
// and as strict with replies as applications allow.
//
// Everything here is a function of bytes: nothing reads, waits or keeps time.
package http1

import "fmt"

// Error is what is wrong with a message, and the status code that says so to a client.
type Error struct {
	Status int
	Reason string
}

func (e *Error) Error() string { return e.Reason }

func bad(format string, args ...any) *Error {
	return &Error{Status: 400, Reason: fmt.Sprintf(format, args...)}
}

// Length of a body whose end only the body itself tells.
const (
	Chunked    = -1 // the chunked coding ends it
	UntilClose = -2 // the end of the connection does; replies only
)
