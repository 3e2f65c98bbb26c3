// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/understudy-net/understudy/topologies/lab/app"
)

// Class says in which of three ways something went wrong.
type Class int

const (
	// Failed: no reply, a wrong one (not 2xx, not the application's), or a
	// timeout.
	Failed Class = iota + 1
	// Reset: the connection was reset, or closed before the client was done.
	Reset
	// Corrupt: a byte differs, is missing or is too many; a reply is out of order
	// or came twice; an upload arrived altered; what came is not HTTP.
	Corrupt
)

func (c Class) String() string {
	switch c {
	case Failed:
		return "failed"
	case Reset:
		return "reset"
	case Corrupt:
		return "corrupt"
	}
	return fmt.Sprintf("class %d", int(c))
}

// Failure is one thing that went wrong.
type Failure struct {
	Class  Class
	Reason string
}

func (f *Failure) Error() string { return f.Class.String() + ": " + f.Reason }

func failure(c Class, format string, args ...any) *Failure {
	return &Failure{c, fmt.Sprintf(format, args...)}
}

// classify turns what reading from or writing to a connection returned into a
// failure.
func classify(doing string, err error) *Failure {
	var f *Failure
	var m *malformed
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &m):
		return failure(Corrupt, "%s: %v", doing, err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return failure(Failed, "%s: timeout", doing)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return failure(Reset, "%s: closed early", doing)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return failure(Reset, "%s: connection reset", doing)
	}
	return failure(Failed, "%s: %v", doing, err)
}

// Ledger remembers which replies a run has seen, on all of its connections, so
// that none counts twice. It is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	tokens  map[[app.TokenSize]byte]string
	replies map[instanceSequence]string
}

type instanceSequence struct {
	instance string
	sequence uint64
}

// NewLedger returns an empty Ledger.
func NewLedger() *Ledger {
	return &Ledger{
		tokens:  make(map[[app.TokenSize]byte]string),
		replies: make(map[instanceSequence]string),
	}
}

// enter records the reply to request id. A reply that was there already is a
// failure.
func (l *Ledger) enter(id string, token [app.TokenSize]byte, s instanceSequence) *Failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, ok := l.tokens[token]; ok {
		return failure(Corrupt, "request %s got the token of request %s", id, other)
	}
	if other, ok := l.replies[s]; ok {
		return failure(Corrupt, "request %s got the sequence number of request %s", id, other)
	}
	l.tokens[token], l.replies[s] = id, id
	return nil
}

// expected is a request that awaits its reply.
type expected struct {
	id    string
	reply app.Reply
	// bodyHash is the SHA-256 of what was uploaded, in hex; empty for a GET.
	bodyHash string
}

// checker checks the replies of one connection, in their order.
type checker struct {
	ledger *Ledger
	in     *stream
	// answered are the requests of this connection that have their reply.
	answered map[string]bool
	// last is the highest sequence number seen on this connection, by instance.
	last map[string]uint64
	want []byte
}

func newChecker(l *Ledger, src io.Reader) *checker {
	return &checker{
		ledger:   l,
		in:       newStream(src),
		answered: make(map[string]bool),
		last:     make(map[string]uint64),
		want:     make([]byte, 64<<10),
	}
}

// field returns the header field that an app.Header constant names.
func (h head) field(name string) string { return h.fields[strings.ToLower(name)] }

// reply reads one reply and compares it with what q must get: every byte of the
// body, the echo of the request, its place in the order. After a failure the
// connection is of no more use.
func (c *checker) reply(q expected) *Failure {
	h, err := c.in.head()
	for n := 0; err == nil && h.status/100 == 1; n++ {
		if n == 3 || h.status == 101 {
			return failure(Corrupt, "request %s: status %d", q.id, h.status)
		}
		h, err = c.in.head()
	}
	if err != nil {
		return classify("request "+q.id+", reply's head", err)
	}
	if h.status/100 != 2 {
		return failure(Failed, "request %s: status %d", q.id, h.status)
	}
	switch id := h.field(app.HeaderRequestID); {
	case id == "":
		return failure(Failed, "request %s: a reply that names no request", q.id)
	case c.answered[id]:
		return failure(Corrupt, "request %s: the reply to %s again", q.id, id)
	case id != q.id:
		return failure(Corrupt, "request %s: the reply to %s", q.id, id)
	}
	token, err := hex.DecodeString(h.field(app.HeaderToken))
	if err != nil || len(token) != app.TokenSize {
		return failure(Corrupt, "request %s: token %.40q", q.id, h.field(app.HeaderToken))
	}
	s := instanceSequence{instance: h.field(app.HeaderInstance)}
	s.sequence, err = strconv.ParseUint(h.field(app.HeaderSequence), 10, 64)
	if err != nil || s.instance == "" {
		return failure(Corrupt, "request %s: sequence %.20q of instance %.20q", q.id, h.field(app.HeaderSequence), s.instance)
	}
	if got := h.field(app.HeaderBodyHash); got != q.bodyHash {
		return failure(Corrupt, "request %s: the server received a body of hash %.64q, want %q", q.id, got, q.bodyHash)
	}
	if err := c.body(h, q, token); err != nil {
		return classify("request "+q.id+", reply's body", err)
	}
	if f := c.ledger.enter(q.id, [app.TokenSize]byte(token), s); f != nil {
		return f
	}
	if last := c.last[s.instance]; s.sequence <= last {
		return failure(Corrupt, "request %s: sequence number %d after %d", q.id, s.sequence, last)
	}
	c.last[s.instance] = s.sequence
	c.answered[q.id] = true
	return nil
}

func (c *checker) body(h head, q expected, token []byte) error {
	source := app.Body(token)
	at := 0
	err := c.in.body(h, func(got []byte) error {
		if at+len(got) > q.reply.Size {
			return failure(Corrupt, "request %s: more than the %d bytes of the reply", q.id, q.reply.Size)
		}
		for len(got) > 0 {
			want := c.want[:min(len(got), len(c.want))]
			source.Read(want)
			if !bytes.Equal(got[:len(want)], want) {
				i := 0
				for got[i] == want[i] {
					i++
				}
				return failure(Corrupt, "request %s: byte %d of %d is %#02x, want %#02x", q.id, at+i, q.reply.Size, got[i], want[i])
			}
			at += len(want)
			got = got[len(want):]
		}
		return nil
	})
	if err == nil && at < q.reply.Size {
		err = failure(Corrupt, "request %s: %d bytes instead of %d", q.id, at, q.reply.Size)
	}
	return err
}

// quiet checks that no byte has come that no request asked for.
func (c *checker) quiet() *Failure {
	if n := c.in.buffered(); n > 0 {
		return failure(Corrupt, "%d bytes after the last reply: %.40q", n, c.in.buf[c.in.r:c.in.w])
	}
	return nil
}
