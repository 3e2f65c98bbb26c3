// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"errors"
	"fmt"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/understudy-net/understudy/p4/dataplane"
)

// A codedError is the failure of one update or one query of a batch.
type codedError struct {
	code codes.Code
	msg  string
}

func (e *codedError) Error() string { return e.msg }

func errorf(c codes.Code, format string, args ...any) error {
	return &codedError{c, fmt.Sprintf(format, args...)}
}

// codeOf finds the canonical code for an error.
func codeOf(err error) codes.Code {
	var ce *codedError
	switch {
	case err == nil:
		return codes.OK
	case errors.As(err, &ce):
		return ce.code
	case errors.Is(err, dataplane.ErrExists):
		return codes.AlreadyExists
	case errors.Is(err, dataplane.ErrNotFound):
		return codes.NotFound
	case errors.Is(err, dataplane.ErrFull):
		return codes.ResourceExhausted
	case errors.Is(err, dataplane.ErrConst):
		return codes.PermissionDenied
	case errors.Is(err, dataplane.ErrInUse):
		return codes.FailedPrecondition
	case errors.Is(err, dataplane.ErrArgument):
		return codes.InvalidArgument
	}
	return codes.Internal
}

// batchStatus builds the status of a batch (P4Runtime 1.5, sections 12.3 and 13.3):
// OK, or UNKNOWN with one p4.v1.Error per element in the order of the batch.
func batchStatus(errs []error) error {
	failed := 0
	details := make([]protoadapt.MessageV1, len(errs))
	var first error
	for i, err := range errs {
		e := &p4v1.Error{CanonicalCode: int32(codeOf(err))}
		if err != nil {
			if first == nil {
				first = err
			}
			failed++
			e.Message = err.Error()
		}
		details[i] = protoadapt.MessageV1Of(e)
	}
	if failed == 0 {
		return nil
	}
	st := status.Newf(codes.Unknown, "%d of %d failed, the first one: %v", failed, len(errs), first)
	if with, err := st.WithDetails(details...); err == nil {
		st = with
	}
	return st.Err()
}
