// SPDX-License-Identifier: Apache-2.0

package p4rt

import (
	"errors"
	"fmt"
	"strings"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrNotReady is returned by Put while there is no switch that could take it.
// Whatever is wanted is written when there is one again.
var ErrNotReady = errors.New("the switch session is not ready")

// UpdateError is what became of one update that the switch refused.
type UpdateError struct {
	Update  string
	Code    codes.Code
	Message string
}

func (e UpdateError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("%s: %v", e.Update, e.Code)
	}
	return fmt.Sprintf("%s: %v: %s", e.Update, e.Code, e.Message)
}

// WriteError names the updates that a switch has refused.
type WriteError struct {
	Failed []UpdateError
	// Sent is how many updates the request had.
	Sent int
}

func (e *WriteError) Error() string {
	const most = 3
	parts := make([]string, 0, most+1)
	for i, f := range e.Failed {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(e.Failed)-most))
			break
		}
		parts = append(parts, f.Error())
	}
	return fmt.Sprintf("write: %d of %d updates failed: %s", len(e.Failed), e.Sent, strings.Join(parts, "; "))
}

// drifted says that the switch does not have what it was thought to have.
func (e *WriteError) drifted() bool {
	for _, f := range e.Failed {
		if f.Code == codes.NotFound || f.Code == codes.AlreadyExists {
			return true
		}
	}
	return false
}

// writeError unpacks what a Write returned. P4Runtime 1.5, section 12.3: one
// p4.v1.Error for each update, in order, or none when the request as a whole was
// refused.
func writeError(updates []Update, err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("write: %w", err)
	}
	var details []*p4v1.Error
	for _, d := range st.Details() {
		if one, ok := d.(*p4v1.Error); ok {
			details = append(details, one)
		}
	}
	w := &WriteError{Sent: len(updates)}
	if len(details) != len(updates) {
		if len(updates) == 1 && (st.Code() == codes.NotFound || st.Code() == codes.AlreadyExists) {
			w.Failed = []UpdateError{{Update: updates[0].String(), Code: st.Code(), Message: st.Message()}}
			return w
		}
		what := "an empty request"
		if len(updates) > 0 {
			what = updates[0].String()
		}
		if n := len(updates) - 1; n > 0 {
			what += fmt.Sprintf(" and %d more", n)
		}
		return fmt.Errorf("write %s: %w", what, err)
	}
	for i, d := range details {
		if code := codes.Code(d.GetCanonicalCode()); code != codes.OK {
			w.Failed = append(w.Failed, UpdateError{Update: updates[i].String(), Code: code, Message: d.GetMessage()})
		}
	}
	if len(w.Failed) == 0 {
		return fmt.Errorf("write %s: %w", updates[0], err)
	}
	return w
}
