// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
)

// Exit codes, so that a script can tell what happened.
const (
	exitFailed = 1 // it failed, or was refused as things are
	exitUsage  = 2 // the command line is wrong
	exitNobody = 3 // the controller does not answer, or cannot be trusted
	exitDenied = 4 // the controller does not know who asks, or does not let him
	exitUnwell = 5 // doctor has found a failure
)

const exitHelp = `

Exit codes: 0 it is done, 1 it failed or was refused, 2 the command line is wrong, 3
the controller does not answer or cannot be trusted, 4 it does not let you, 5 doctor
has found a failure.`

// coded is an error with its exit code.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

func withCode(code int, err error) error { return coded{err, code} }

// exitCode is that of an error.
func exitCode(err error) int {
	var c coded
	switch {
	case err == nil:
		return 0
	case errors.As(err, &c):
		return c.code
	case strings.HasPrefix(err.Error(), "required flag"): // by cobra
		return exitUsage
	}
	return exitFailed
}

// codeOf is that of a gRPC code.
func codeOf(c codes.Code) int {
	switch c {
	case codes.Unauthenticated, codes.PermissionDenied:
		return exitDenied
	case codes.Unavailable, codes.DeadlineExceeded:
		return exitNobody
	}
	return exitFailed
}
