// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"iter"
	"strings"
)

// A Field is one line of a head.
type Field struct{ Name, Value string }

// A Header is the fields of a message in their order. Names compare without regard to
// case.
type Header []Field

func equal(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// Get returns the first value of a field, "" if there is none.
func (h Header) Get(name string) string {
	for _, f := range h {
		if equal(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Count returns how many lines a field has.
func (h Header) Count(name string) (n int) {
	for _, f := range h {
		if equal(f.Name, name) {
			n++
		}
	}
	return n
}

// Joined returns all values of a field as one list (RFC 9110 section 5.3).
func (h Header) Joined(name string) string {
	if h.Count(name) < 2 {
		return h.Get(name)
	}
	var values []string
	for _, f := range h {
		if equal(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return strings.Join(values, ", ")
}

// Elements yields the elements of a field that is a comma-separated list, without
// the empty ones (RFC 9110 section 5.6.1).
func (h Header) Elements(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, f := range h {
			if !equal(f.Name, name) {
				continue
			}
			for e := range strings.SplitSeq(f.Value, ",") {
				if e = strings.Trim(e, " \t"); e != "" && !yield(e) {
					return
				}
			}
		}
	}
}

// Has reports whether a list has an element, in any case.
func (h Header) Has(name, element string) bool {
	for e := range h.Elements(name) {
		if strings.EqualFold(e, element) {
			return true
		}
	}
	return false
}

// Append appends the fields in wire form.
func (h Header) Append(b []byte) []byte {
	for _, f := range h {
		b = AppendField(b, f.Name, f.Value)
	}
	return b
}

// AppendField appends one field in wire form.
func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// hop are the fields that concern one hop only (RFC 9110 section 7.6.1, and what
// older implementations send); framing is the gateway's own on each side.
var hop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Authentication-Info", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length",
}

// EndToEnd yields the fields that are passed on: without those of one hop, those that
// Connection names, and those that say where a body ends. Host cannot be named away.
func (h Header) EndToEnd() iter.Seq[Field] {
	return func(yield func(Field) bool) {
	next:
		for _, f := range h {
			for _, name := range hop {
				if equal(f.Name, name) {
					continue next
				}
			}
			if !equal(f.Name, "Host") && h.Has("Connection", f.Name) {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}

// parseFields parses the lines of a head after the first, the empty one included.
// With lenient, a line that continues the one before is joined with it by a space, as
// RFC 9112 section 5.2 lets a gateway do with a reply, and a line may end with LF alone.
func parseFields(s string, lenient bool, limit int) (Header, *Error) {
	h := make(Header, 0, min(limit, strings.Count(s, "\n")))
	for {
		line, rest, err := cutLine(s, lenient)
		if err != nil {
			return nil, err
		}
		s = rest
		if line == "" {
			if s != "" {
				return nil, bad("bytes after the head")
			}
			return h, nil
		}
		if line[0] == ' ' || line[0] == '\t' {
			if !lenient || len(h) == 0 {
				return nil, bad("a field line begins with white space")
			}
			last := &h[len(h)-1]
			if !validValue(line) {
				return nil, bad("field %q has a control character", last.Name)
			}
			last.Value = strings.Trim(last.Value+" "+strings.Trim(line, " \t"), " ")
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		switch {
		case !ok:
			return nil, bad("a field line has no colon")
		case !isToken(name):
			return nil, bad("%.40q is not a field name", name)
		case !validValue(value):
			return nil, bad("field %q has a control character", name)
		case len(h) == limit:
			return nil, &Error{Status: 431, Reason: "too many fields"}
		}
		h = append(h, Field{name, strings.Trim(value, " \t")})
	}
}

// cutLine returns the first line of s and what follows it.
func cutLine(s string, lenient bool) (line, rest string, err *Error) {
	i := strings.IndexByte(s, '\n')
	if i < 0 {
		return "", "", bad("the head is cut short")
	}
	line, rest = s[:i], s[i+1:]
	if strings.HasSuffix(line, "\r") {
		line = line[:len(line)-1]
	} else if !lenient {
		return "", "", bad("a line ends with LF alone")
	}
	return line, rest, nil
}

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenChar[s[i]] {
			return false
		}
	}
	return s != ""
}

// tokenChar is tchar of RFC 9110 section 5.6.2.
var tokenChar = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

// validValue refuses control characters, CR and NUL among them (RFC 9110 section 5.5).
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
