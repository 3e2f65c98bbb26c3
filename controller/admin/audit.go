// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// Audit is the account of what was changed, and of what was refused: one JSON object
// per line, with the time, what ("change" or "refused"), who, from where, the method,
// the request, and its result as a gRPC code. A full file is kept as PATH.1, and the
// one before is lost. What cannot be written is logged, and stops nobody: in an
// emergency a full disk must not be in the way. A nil Audit keeps nothing. It is safe
// for concurrent use.
type Audit struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	file  *os.File
	size  int64
	allow limiter
}

const (
	// maxAudit is how long a file may grow, in bytes.
	maxAudit = 16 << 20
	// maxAudited is how much of a request is kept, in bytes.
	maxAudited = 4 << 10
	// Refusals can be had by anyone who reaches the listener: so many at once, and
	// then one for each pause, are kept; the others are counted.
	refusalBurst = 100
	refusalPause = 100 * time.Millisecond
)

// OpenAudit opens the account, and makes it and its folder if there is none.
func OpenAudit(file string, log *slog.Logger) (*Audit, error) {
	a := &Audit{path: file, log: log, allow: limiter{left: refusalBurst}}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return nil, fmt.Errorf("audit log: %w; name a folder that can be made", err)
	}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("audit log: %w; name a file that can be written", err)
	}
	return a, nil
}

func (a *Audit) open() error {
	f, err := os.OpenFile(a.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	a.file, a.size = f, info.Size()
	return nil
}

// Close closes the file; nothing is kept after that.
func (a *Audit) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}

// change keeps what somebody did, or could not do.
func (a *Audit) change(at time.Time, c caller, method string, req, res proto.Message, err error) {
	if a == nil {
		return
	}
	attrs := []slog.Attr{}
	if p, ok := res.(*adminv1.Plan); ok && err == nil && p != nil {
		attrs = append(attrs, slog.String("from_version", p.GetFromVersion()), slog.String("to_version", p.GetToVersion()),
			slog.Int("changes", len(p.GetChanges())))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.write(at, "change", c, method, req, err, attrs...)
}

// refused keeps what somebody was not let do.
func (a *Audit) refused(at time.Time, c caller, method string, req proto.Message, err error) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ok, missed := a.allow.take(at)
	if !ok {
		return
	}
	attrs := []slog.Attr{}
	if missed > 0 {
		attrs = append(attrs, slog.Int("not_kept_before", missed))
	}
	a.write(at, "refused", c, method, req, err, attrs...)
}

// write appends a line. The caller holds a.mu.
func (a *Audit) write(at time.Time, what string, c caller, method string, req proto.Message, callErr error, more ...slog.Attr) {
	r := slog.NewRecord(at, slog.LevelInfo, what, 0)
	r.AddAttrs(slog.String("who", c.who))
	if c.from != "" {
		r.AddAttrs(slog.String("from", c.from))
	}
	r.AddAttrs(slog.String("method", path.Base(method)))
	if req != nil {
		r.AddAttrs(slog.Any("request", requestJSON(req)))
	}
	st := status.Convert(callErr)
	r.AddAttrs(slog.String("result", st.Code().String()))
	if callErr != nil {
		r.AddAttrs(slog.String("error", st.Message()))
	}
	r.AddAttrs(more...)
	if err := a.append(r); err != nil {
		a.log.Error("the audit log cannot be written", "path", a.path, "error", err, "lost", what, "who", c.who, "method", method)
	}
}

func (a *Audit) append(r slog.Record) error {
	if a.size >= maxAudit {
		if err := a.turn(); err != nil {
			return err
		}
	}
	if a.file == nil {
		return fs.ErrClosed
	}
	return slog.NewJSONHandler(a, nil).Handle(context.Background(), r)
}

// Write implements io.Writer, for the handler.
func (a *Audit) Write(line []byte) (int, error) {
	n, err := a.file.Write(line)
	a.size += int64(n)
	return n, err
}

// turn begins a new file.
func (a *Audit) turn() error {
	err := errors.Join(a.file.Close(), os.Rename(a.path, a.path+".1"))
	a.file = nil
	return errors.Join(err, a.open())
}

// requestJSON shows a request without its bytes: a configuration's text is in the
// store.
func requestJSON(req proto.Message) json.RawMessage {
	m := proto.Clone(req)
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if f.Kind() == protoreflect.BytesKind {
			m.ProtoReflect().Clear(f)
		}
		return true
	})
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil || len(text) > maxAudited {
		return json.RawMessage(`"too long to be kept"`)
	}
	return text
}

// limiter is a token bucket of refusalBurst tokens, one more for each refusalPause.
type limiter struct {
	left   int
	last   time.Time
	missed int
}

// take says whether there is a token, and how many were asked for in vain before.
func (l *limiter) take(now time.Time) (ok bool, missed int) {
	if n := int(now.Sub(l.last) / refusalPause); n > 0 {
		l.left = min(refusalBurst, l.left+n)
		l.last = now
	}
	if l.left == 0 {
		l.missed++
		return false, 0
	}
	l.left--
	missed, l.missed = l.missed, 0
	return true, missed
}
