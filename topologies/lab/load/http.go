// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits of what is accepted as a reply's head.
const (
	maxLine   = 8 << 10
	maxFields = 64
)

// malformed is an error for bytes that are not HTTP/1.1 as a server may send it.
type malformed struct{ what string }

func (m *malformed) Error() string { return "malformed reply: " + m.what }

func malformedf(format string, args ...any) error {
	return &malformed{fmt.Sprintf(format, args...)}
}

// stream is a connection's incoming bytes, read as HTTP/1.1 and in no more
// lenient way: lines end with CRLF, names have no blanks around them, nothing is
// said twice.
type stream struct {
	src io.Reader
	buf []byte
	// buf[r:w] was read and not consumed.
	r, w int
}

func newStream(src io.Reader) *stream {
	return &stream{src: src, buf: make([]byte, 64<<10)}
}

// buffered returns the number of bytes that were read and not consumed.
func (s *stream) buffered() int { return s.w - s.r }

// fill reads at least one more byte.
func (s *stream) fill() error {
	if s.r == s.w {
		s.r, s.w = 0, 0
	} else if s.w == len(s.buf) {
		if s.r == 0 {
			return malformedf("a line of more than %d bytes", len(s.buf))
		}
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	}
	for range 100 {
		n, err := s.src.Read(s.buf[s.w:])
		s.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// some returns 1 to limit bytes and consumes them. They are valid until the next
// call.
func (s *stream) some(limit int) ([]byte, error) {
	if s.buffered() == 0 {
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	b := s.buf[s.r:min(s.w, s.r+limit)]
	s.r += len(b)
	return b, nil
}

// line returns the next line without its CRLF.
func (s *stream) line() (string, error) {
	searched := 0
	for {
		if i := bytes.IndexByte(s.buf[s.r+searched:s.w], '\n'); i >= 0 {
			b := s.buf[s.r : s.r+searched+i]
			s.r += searched + i + 1
			if len(b) == 0 || b[len(b)-1] != '\r' {
				return "", malformedf("a line that ends without CR: %.40q", b)
			}
			b = b[:len(b)-1]
			for _, c := range b {
				if (c < ' ' && c != '\t') || c == 0x7f {
					return "", malformedf("a control character in %.40q", b)
				}
			}
			return string(b), nil
		}
		searched = s.buffered()
		if searched > maxLine {
			return "", malformedf("a line of more than %d bytes", maxLine)
		}
		if err := s.fill(); err != nil {
			return "", err
		}
	}
}

// head is the beginning of a reply. Field names are in lower case.
type head struct {
	status int
	fields map[string]string
}

// head reads a status line and the header fields after it.
func (s *stream) head() (head, error) {
	line, err := s.line()
	if err != nil {
		return head{}, err
	}
	rest, ok := strings.CutPrefix(line, "HTTP/1.1 ")
	if !ok || len(rest) < 4 || rest[3] != ' ' {
		return head{}, malformedf("status line %.60q", line)
	}
	status, err := strconv.ParseUint(rest[:3], 10, 16)
	if err != nil || status < 100 {
		return head{}, malformedf("status line %.60q", line)
	}
	fields, err := s.fields()
	return head{int(status), fields}, err
}

// fields reads header or trailer fields up to the empty line.
func (s *stream) fields() (map[string]string, error) {
	fields := make(map[string]string)
	for {
		line, err := s.line()
		if err != nil {
			return nil, err
		}
		if line == "" {
			return fields, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return nil, malformedf("field line %.60q", line)
		}
		name = strings.ToLower(name)
		if _, ok := fields[name]; ok {
			return nil, malformedf("field %s twice", name)
		}
		if len(fields) == maxFields {
			return nil, malformedf("more than %d fields", maxFields)
		}
		fields[name] = strings.Trim(value, " \t")
	}
}

// isToken reports whether name is a token of RFC 9110, section 5.6.2.
func isToken(name string) bool {
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return name != ""
}

// body hands the reply's body to take, piece by piece. It consumes exactly the
// body, chunk framing and trailers included. An error of take ends it.
func (s *stream) body(h head, take func([]byte) error) error {
	coding, chunked := h.fields["transfer-encoding"]
	length, sized := h.fields["content-length"]
	switch {
	case chunked && sized:
		return malformedf("both Content-Length and Transfer-Encoding")
	case chunked:
		if !strings.EqualFold(coding, "chunked") {
			return malformedf("transfer coding %.20q", coding)
		}
		return s.chunks(take)
	case sized:
		n, err := strconv.ParseUint(length, 10, 62)
		if err != nil {
			return malformedf("Content-Length %.20q", length)
		}
		return s.exactly(n, take)
	case h.status == 204 || h.status == 304:
		return nil
	}
	return malformedf("neither Content-Length nor Transfer-Encoding")
}

func (s *stream) exactly(n uint64, take func([]byte) error) error {
	for n > 0 {
		b, err := s.some(int(min(n, 1<<20)))
		if err != nil {
			return err
		}
		n -= uint64(len(b))
		if err := take(b); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) chunks(take func([]byte) error) error {
	for {
		line, err := s.line()
		if err != nil {
			return err
		}
		// A chunk extension would be allowed; nobody between us sends one.
		n, err := strconv.ParseUint(line, 16, 62)
		if err != nil {
			return malformedf("chunk size %.40q", line)
		}
		if n == 0 {
			_, err := s.fields()
			return err
		}
		if err := s.exactly(n, take); err != nil {
			return err
		}
		if line, err = s.line(); err != nil {
			return err
		} else if line != "" {
			return malformedf("%.40q after a chunk", line)
		}
	}
}
