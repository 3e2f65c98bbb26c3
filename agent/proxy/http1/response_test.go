// SPDX-License-Identifier: Apache-2.0

package http1

import "testing"

func TestResponses(t *testing.T) {
	for name, c := range map[string]struct {
		text, method string
		status       int
		length       int64
		keep         bool
	}{
		"length":             {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, true},
		"length twice":       {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, true},
		"two lengths":        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "GET", 0, 0, false},
		"chunked":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 200, Chunked, true},
		"chunked and length": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "GET", 200, Chunked, false},
		"unknown coding":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "GET", 0, 0, false},
		"neither":            {"HTTP/1.1 200 OK\r\n\r\n", "GET", 200, UntilClose, false},
		"no reason":          {"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, true},
		"HEAD":               {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200, 0, true},
		"not modified":       {"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", 304, 0, true},
		"no content":         {"HTTP/1.1 204 No Content\r\n\r\n", "POST", 204, 0, true},
		"interim":            {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", "GET", 103, 0, true},
		"closes":             {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, false},
		"1.0":                {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, false},
		"1.0 kept":           {"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, true},
		"LF alone":           {"HTTP/1.1 200 OK\nContent-Length: 5\n\n", "GET", 200, 5, true},
		"folded":             {"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5\r\n\r\n", "GET", 200, 5, true},
		"bad length":         {"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "GET", 0, 0, false},
		"no status":          {"HTTP/1.1 OK\r\n\r\n", "GET", 0, 0, false},
		"status too low":     {"HTTP/1.1 099 OK\r\n\r\n", "GET", 0, 0, false},
		"no HTTP":            {"hello\r\n\r\n", "GET", 0, 0, false},
		"another version":    {"HTTP/2 200 OK\r\n\r\n", "GET", 0, 0, false},
		"CR alone":           {"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", "GET", 0, 0, false},
	} {
		r, err := ParseResponse(c.text, c.method)
		switch {
		case (err == nil) != (c.status != 0):
			t.Errorf("%s: error %v", name, err)
		case err == nil && (r.Status != c.status || r.Length != c.length || r.KeepAlive != c.keep):
			t.Errorf("%s: %+v", name, r)
		}
	}
	r, err := ParseResponse("HTTP/1.1 200 OK\r\nA: b\r\n \t c\r\nContent-Length: 5\r\n\r\n", "GET")
	if err != nil || r.Header.Get("A") != "b c" {
		t.Errorf("folded: %v, %v", r, err)
	}
}
