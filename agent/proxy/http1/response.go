// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"errors"
	"strconv"
	"strings"
)

// Response is the head of a reply.
type Response struct {
	Status int // 100 to 999
	Reason string
	Header Header
	// Length of the body in bytes, or Chunked, or UntilClose.
	Length int64
	// KeepAlive: the connection can carry another request afterwards.
	KeepAlive bool
}

// maxReplyFields bounds the fields of an application's reply.
const maxReplyFields = 1000

// ParseResponse parses the head of a reply to a request with the given method, from
// its first line to its empty one. Lines that end with LF alone and folded ones are
// taken, as applications send them. The response refers to head.
func ParseResponse(head, method string) (*Response, error) {
	line, rest, err := cutLine(head, true)
	if err != nil {
		return nil, err
	}
	version, status, _ := strings.Cut(line, " ")
	status, reason, _ := strings.Cut(status, " ")
	if version != "HTTP/1.1" && version != "HTTP/1.0" {
		return nil, errors.New("the reply does not begin with HTTP/1.1 or HTTP/1.0")
	}
	if len(status) != 3 || !digit(status[0]) || !digit(status[1]) || !digit(status[2]) || status[0] == '0' {
		return nil, errors.New("the reply has no status of three digits")
	}
	if !validValue(reason) {
		return nil, errors.New("the reply's reason phrase has a control character")
	}
	r := &Response{Reason: reason}
	r.Status, _ = strconv.Atoi(status)
	if r.Header, err = parseFields(rest, true, maxReplyFields); err != nil {
		return nil, err
	}
	r.KeepAlive = version == "HTTP/1.1" && !r.Header.Has("Connection", "close") ||
		version == "HTTP/1.0" && r.Header.Has("Connection", "keep-alive")
	return r, r.framing(method)
}

// Bodyless reports whether a reply with this status to this method has no body,
// whatever its fields say (RFC 9112 section 6.3).
func Bodyless(status int, method string) bool {
	return method == "HEAD" || status < 200 || status == 204 || status == 304
}

func (r *Response) framing(method string) error {
	codings := r.Header.Count("Transfer-Encoding")
	length, lengths := r.Header.Get("Content-Length"), r.Header.Count("Content-Length")
	for e := range r.Header.Elements("Content-Length") {
		if e != length {
			return errors.New("the reply has two lengths")
		}
	}
	switch {
	case Bodyless(r.Status, method):
		r.Length = 0
	case codings > 0:
		if err := onlyChunked(r.Header); err != nil {
			return err
		}
		r.Length = Chunked
		if lengths > 0 {
			r.KeepAlive = false // RFC 9112 section 6.3, point 3
		}
	case lengths > 0:
		n, ok := parseLength(length)
		if !ok {
			return errors.New("the reply's length is not a number")
		}
		r.Length = n
	default:
		r.Length, r.KeepAlive = UntilClose, false
	}
	return nil
}
