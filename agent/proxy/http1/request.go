// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
)

// Request is the head of a request.
type Request struct {
	Method string
	// Target is in origin form ("/path?query"), or "*" for OPTIONS.
	Target string
	// Host is from the target where that was in absolute form, else from the field;
	// "" in HTTP/1.0 without one.
	Host   string
	Minor  int // the version is HTTP/1.Minor
	Header Header
	// Length of the body in bytes, or Chunked.
	Length int64
	// KeepAlive: the client wants to send another request afterwards.
	KeepAlive bool
	// Continue: the client waits for 100 (Continue) before it sends the body.
	Continue bool
	// Upgrade is the protocol that the client asks for, "" for none.
	Upgrade string
}

// Limits of a head. What is longer is refused with 414 or 431.
type Limits struct {
	Target int // bytes of the request target
	Fields int // number of field lines
}

// HeadEnd returns how many bytes of b are a message head, its empty line included; 0
// if the empty line is not there yet. The first from bytes of b are known not to have
// it. A line that ends with LF alone counts here, so that it is refused rather than
// waited upon.
func HeadEnd(b []byte, from int) int {
	for i := max(from-2, 0); ; i++ {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return 0
		}
		i += j
		switch rest := b[i+1:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return i + 2
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return i + 3
		}
	}
}

// EmptyLines returns how many bytes at the beginning of b are empty lines, which a
// server ignores before a request (RFC 9112 section 2.2).
func EmptyLines(b []byte) (n int) {
	for len(b)-n >= 2 && b[n] == '\r' && b[n+1] == '\n' {
		n += 2
	}
	return n
}

// CouldBegin reports whether a request can begin with this byte. Another protocol is
// so refused without waiting for a line that it does not have.
func CouldBegin(c byte) bool { return tokenChar[c] || c == '\r' }

// ParseRequest parses the head of a request, from its first line to its empty one. The
// error is an *Error. The request refers to head.
func ParseRequest(head string, l Limits) (*Request, error) {
	r, err := parseRequest(head, l)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func parseRequest(head string, l Limits) (*Request, *Error) {
	line, rest, err := cutLine(head, false)
	if err != nil {
		return nil, err
	}
	r := &Request{}
	var version string
	var ok1, ok2 bool
	r.Method, r.Target, ok1 = strings.Cut(line, " ")
	r.Target, version, ok2 = strings.Cut(r.Target, " ")
	switch {
	case !ok1 || !ok2 || !isToken(r.Method):
		return nil, bad("the first line is not METHOD TARGET VERSION")
	case len(version) != 8 || version[:5] != "HTTP/" || !digit(version[5]) || version[6] != '.' || !digit(version[7]):
		return nil, bad("%.20q is not a version of HTTP", version)
	case version[5] != '1':
		return nil, &Error{Status: 505, Reason: "only HTTP/1.1 and HTTP/1.0 are spoken here"}
	case len(r.Target) > l.Target:
		return nil, &Error{Status: 414, Reason: "the request target is too long"}
	case r.Method == "CONNECT":
		return nil, &Error{Status: 501, Reason: "no tunnels to elsewhere"}
	}
	r.Minor = min(int(version[7]-'0'), 1)
	if r.Header, err = parseFields(rest, false, l.Fields); err != nil {
		return nil, err
	}
	if err := r.host(); err != nil {
		return nil, err
	}
	if err := r.framing(); err != nil {
		return nil, err
	}
	r.KeepAlive = !r.Header.Has("Connection", "close") && (r.Minor == 1 || r.Header.Has("Connection", "keep-alive"))
	if e := r.Header.Get("Expect"); e != "" && r.Minor == 1 {
		if !strings.EqualFold(e, "100-continue") || r.Header.Count("Expect") > 1 {
			return nil, &Error{Status: 417, Reason: "only 100-continue can be expected"}
		}
		r.Continue = r.Length != 0
	}
	if r.Minor == 1 && r.Header.Has("Connection", "upgrade") {
		r.Upgrade = r.Header.Get("Upgrade")
	}
	return r, nil
}

// host checks target and Host (RFC 9112 sections 3.2 and 3.3) and brings the target
// into origin form. Bytes beyond ASCII, which belong escaped, are passed on as they are:
// no reader sees an end in them.
func (r *Request) host() *Error {
	for i := range len(r.Target) {
		if c := r.Target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return bad("the request target has a character that must be escaped")
		}
	}
	switch n := r.Header.Count("Host"); {
	case n > 1:
		return bad("more than one Host")
	case n == 0 && r.Minor == 1:
		return bad("no Host")
	}
	r.Host = r.Header.Get("Host")
	if r.Host != "" && !validHost(r.Host) {
		return bad("Host is not a host and a port")
	}
	switch {
	case strings.HasPrefix(r.Target, "/"):
	case r.Target == "*" && r.Method == "OPTIONS":
	default:
		scheme, rest, ok := strings.Cut(r.Target, "://")
		if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return bad("the request target is neither a path nor a URL")
		}
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		r.Host, r.Target = rest[:end], rest[end:]
		if !strings.HasPrefix(r.Target, "/") {
			r.Target = "/" + r.Target
		}
		if !validHost(r.Host) {
			return bad("the URL's host is not a host and a port")
		}
	}
	return nil
}

// validHost accepts uri-host [ ":" port ] (RFC 9110 section 7.2), not empty.
func validHost(s string) bool {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		if a, err := netip.ParseAddr(s[1:end]); err != nil || !a.Is6() {
			return false
		}
		if host, port = "v6", s[end+1:]; port != "" && port[0] != ':' {
			return false
		}
		port = strings.TrimPrefix(port, ":")
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
	}
	for i := range len(port) {
		if !digit(port[i]) || i > 4 {
			return false
		}
	}
	for i := range len(host) {
		if !hostChar[host[i]] {
			return false
		}
	}
	return host != ""
}

// hostChar is what reg-name of RFC 3986 is made of.
var hostChar = func() (t [256]bool) {
	for _, c := range "-._~%!$&'()*+,;=0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

// framing finds out how long the body is (RFC 9112 section 6). Whatever another reader
// could understand differently is refused.
func (r *Request) framing() *Error {
	lengths, codings := r.Header.Count("Content-Length"), r.Header.Count("Transfer-Encoding")
	switch {
	case codings > 0 && lengths > 0:
		return bad("Transfer-Encoding and Content-Length together")
	case codings > 0 && r.Minor == 0:
		return bad("Transfer-Encoding in HTTP/1.0")
	case codings > 0:
		if err := onlyChunked(r.Header); err != nil {
			return err
		}
		r.Length = Chunked
	case lengths > 1:
		return bad("more than one Content-Length")
	case lengths == 1:
		n, ok := parseLength(r.Header.Get("Content-Length"))
		if !ok {
			return bad("Content-Length is not a number")
		}
		r.Length = n
	}
	return nil
}

func onlyChunked(h Header) *Error {
	if e := h.Joined("Transfer-Encoding"); !strings.EqualFold(e, "chunked") {
		n := 0
		for c := range h.Elements("Transfer-Encoding") {
			if !isToken(c) {
				return bad("Transfer-Encoding is not a list of codings")
			}
			if n++; !strings.EqualFold(c, "chunked") {
				return &Error{Status: 501, Reason: "chunked is the only transfer coding here"}
			}
		}
		return bad("Transfer-Encoding must be chunked, once")
	}
	return nil
}

// parseLength takes digits only: no sign, no space, no list.
func parseLength(s string) (int64, bool) {
	for i := range len(s) {
		if !digit(s[i]) {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
