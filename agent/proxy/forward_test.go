// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/understudy-net/understudy/agent/proxy/http1"
)

func lines(s ...string) string { return strings.Join(s, "\r\n") + "\r\n\r\n" }

func TestForwardHead(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.2:40000"), netip.MustParseAddrPort("[2001:db8::2]:40000")
	for name, c := range map[string]struct {
		in     string
		client netip.AddrPort
		f      forward
		want   string
	}{
		"plain": {
			lines("GET /a?b HTTP/1.1", "Host: x", "Accept: */*"), v4, forward{},
			lines("GET /a?b HTTP/1.1", "Host: x", "Accept: */*", "X-Forwarded-For: 192.0.2.2",
				"X-Forwarded-Host: x", "X-Forwarded-Proto: http", "Forwarded: for=192.0.2.2;host=x;proto=http", "Understudy-Request: c/1"),
		},
		"IPv6": {
			lines("GET / HTTP/1.1", "Host: x:8080"), v6, forward{},
			lines("GET / HTTP/1.1", "Host: x:8080", "X-Forwarded-For: 2001:db8::2", "X-Forwarded-Host: x:8080",
				"X-Forwarded-Proto: http", `Forwarded: for="[2001:db8::2]";host="x:8080";proto=http`, "Understudy-Request: c/1"),
		},
		"behind another proxy": {
			lines("GET / HTTP/1.1", "Host: x", "X-Forwarded-For: 10.0.0.1", "x-forwarded-for: 10.0.0.2",
				"X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "Forwarded: for=10.0.0.1", "Understudy-Replay: forged/1", "understudy-request: forged/1"), v4, forward{},
			lines("GET / HTTP/1.1", "Host: x", "X-Forwarded-For: 10.0.0.1, 10.0.0.2, 192.0.2.2", "X-Forwarded-Host: x",
				"X-Forwarded-Proto: http", "Forwarded: for=10.0.0.1, for=192.0.2.2;host=x;proto=http", "Understudy-Request: c/1"),
		},
		"hop by hop": {
			lines("POST / HTTP/1.1", "Host: x", "Connection: keep-alive, a, X-Forwarded-For", "A: b", "Keep-Alive: 5", "TE: trailers, gzip",
				"Content-Length: 3", "Expect: 100-continue"), v4, forward{},
			lines("POST / HTTP/1.1", "Host: x", "X-Forwarded-For: 192.0.2.2", "X-Forwarded-Host: x", "X-Forwarded-Proto: http",
				"Forwarded: for=192.0.2.2;host=x;proto=http", "Understudy-Request: c/1", "Content-Length: 3", "TE: trailers", "Connection: TE"),
		},
		"chunked, of HTTP/1.1": {
			lines("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "Trailer: a"), v4, forward{},
			lines("POST / HTTP/1.1", "Host: x", "X-Forwarded-For: 192.0.2.2", "X-Forwarded-Host: x", "X-Forwarded-Proto: http",
				"Forwarded: for=192.0.2.2;host=x;proto=http", "Understudy-Request: c/1", "Transfer-Encoding: chunked", "Trailer: a"),
		},
		"HTTP/1.0 without Host, a replay, a range": {
			lines("GET / HTTP/1.0", "Range: bytes=5-", "Connection: keep-alive"), v4,
			forward{replay: true, extra: http1.Header{{Name: "Range", Value: "bytes=7-"}}},
			lines("GET / HTTP/1.1", "Host: 198.51.100.10:80", "X-Forwarded-For: 192.0.2.2", "X-Forwarded-Host: 198.51.100.10:80",
				"X-Forwarded-Proto: http", `Forwarded: for=192.0.2.2;host="198.51.100.10:80";proto=http`, "Range: bytes=7-", "Understudy-Request: c/1", "Understudy-Replay: c/1"),
		},
	} {
		req, err := http1.ParseRequest(c.in, http1.Limits{Target: 100, Fields: 100})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c.f.client, c.f.vip, c.f.name = c.client, vip, "c/1"
		if got := string(c.f.head(req)); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func TestReplyHead(t *testing.T) {
	const date = "Date: Fri, 02 Jan 2026 03:04:05 GMT"
	for name, c := range map[string]struct {
		in, method string
		minor      int
		closing    bool
		want       string
		length     int64
		closes     bool
	}{
		"length":        {lines("HTTP/1.1 200 Fine", "A: b", "Content-Length: 3"), "GET", 1, false, lines("HTTP/1.1 200 Fine", "A: b", date, "Content-Length: 3"), 3, false},
		"dated, closes": {lines("HTTP/1.1 200 OK", "date: x", "Content-Length: 3", "Keep-Alive: 5"), "GET", 1, true, lines("HTTP/1.1 200 OK", "date: x", "Content-Length: 3", "Connection: close"), 3, true},
		"chunked":       {lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "Trailer: A"), "GET", 1, false, lines("HTTP/1.1 200 OK", date, "Transfer-Encoding: chunked", "Trailer: A"), http1.Chunked, false},
		"until close":   {lines("HTTP/1.0 200 OK"), "GET", 1, false, lines("HTTP/1.1 200 OK", date, "Transfer-Encoding: chunked"), http1.Chunked, false},
		"to 1.0":        {lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), "GET", 0, false, lines("HTTP/1.1 200 OK", date, "Connection: close"), http1.UntilClose, true},
		"to 1.0, kept":  {lines("HTTP/1.1 200 OK", "Content-Length: 0"), "GET", 0, false, lines("HTTP/1.1 200 OK", date, "Content-Length: 0", "Connection: keep-alive"), 0, false},
		"HEAD":          {lines("HTTP/1.1 200 OK", "Content-Length: 3"), "HEAD", 1, false, lines("HTTP/1.1 200 OK", date, "Content-Length: 3"), 0, false},
		"HEAD, chunked": {lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), "HEAD", 1, false, lines("HTTP/1.1 200 OK", date), 0, false},
		"not modified":  {lines("HTTP/1.1 304 Not Modified", "ETag: \"x\"", "Content-Length: 9"), "GET", 1, false, lines("HTTP/1.1 304 Not Modified", "ETag: \"x\"", date, "Content-Length: 9"), 0, false},
		"no content":    {lines("HTTP/1.1 204 No Content", "Content-Length: 0"), "PUT", 1, false, lines("HTTP/1.1 204 No Content", date), 0, false},
		"early hints":   {lines("HTTP/1.1 103 Early Hints", "Link: x"), "GET", 1, false, lines("HTTP/1.1 103 Early Hints", "Link: x"), 0, false},
		"empty":         {lines("HTTP/1.1 200 OK", "Content-Length: 0"), "GET", 1, false, lines("HTTP/1.1 200 OK", date, "Content-Length: 0"), 0, false},
	} {
		resp, err := http1.ParseResponse(c.in, c.method)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		head, length, closes := replyHead(resp, &http1.Request{Method: c.method, Minor: c.minor}, c.closing,
			time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		if string(head) != c.want || length != c.length || closes != c.closes {
			t.Errorf("%s:\n%s(%d, closes %v)\nwant\n%s(%d, closes %v)", name, head, length, closes, c.want, c.length, c.closes)
		}
	}
}
