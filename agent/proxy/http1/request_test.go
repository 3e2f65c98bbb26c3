// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bufio"
	"errors"
	"net/http"
	"strings"
	"testing"
)

var limits = Limits{Target: 4096, Fields: 100}

// parse is what a connection does with the bytes that begin it.
func parse(text string) (*Request, error) {
	b := []byte(text)
	b = b[EmptyLines(b):]
	n := HeadEnd(b, 0)
	if n == 0 {
		return nil, errors.New("no end")
	}
	return ParseRequest(string(b[:n]), limits)
}

// Shapes of which two readers make two different things, and plain mistakes.
func TestRequestsRefused(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: x\r\n"
	const post = "POST / HTTP/1.1\r\nHost: x\r\n"
	for name, c := range map[string]struct {
		text   string
		status int
	}{
		"length and chunked":            {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"chunked and length":            {post + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400},
		"two lengths":                   {post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400},
		"the same length twice":         {post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 400},
		"list of lengths":               {post + "Content-Length: 3, 3\r\n\r\n", 400},
		"signed length":                 {post + "Content-Length: +3\r\n\r\n", 400},
		"negative length":               {post + "Content-Length: -3\r\n\r\n", 400},
		"hexadecimal length":            {post + "Content-Length: 0x3\r\n\r\n", 400},
		"length with a space":           {post + "Content-Length: 1 2\r\n\r\n", 400},
		"length of another script":      {post + "Content-Length: ٣\r\n\r\n", 400},
		"empty length":                  {post + "Content-Length:\r\n\r\n", 400},
		"huge length":                   {post + "Content-Length: 99999999999999999999\r\n\r\n", 400},
		"space before the colon":        {post + "Content-Length : 3\r\n\r\n", 400},
		"tab before the colon":          {post + "Transfer-Encoding\t: chunked\r\n\r\n", 400},
		"unknown coding":                {post + "Transfer-Encoding: gzip\r\n\r\n", 501},
		"coding before chunked":         {post + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
		"chunked is not last":           {post + "Transfer-Encoding: chunked, identity\r\n\r\n", 501},
		"chunked twice":                 {post + "Transfer-Encoding: chunked, chunked\r\n\r\n", 400},
		"chunked in two lines":          {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"chunked in quotes":             {post + "Transfer-Encoding: \"chunked\"\r\n\r\n", 400},
		"chunked with a vertical tab":   {post + "Transfer-Encoding: \vchunked\r\n\r\n", 400},
		"almost chunked":                {post + "Transfer-Encoding: xchunked\r\n\r\n", 501},
		"empty coding":                  {post + "Transfer-Encoding: \r\n\r\n", 400},
		"coding with a parameter":       {post + "Transfer-Encoding: chunked;q=1\r\n\r\n", 400},
		"chunked in HTTP/1.0":           {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"folded line":                   {get + "A: b\r\n c\r\n\r\n", 400},
		"folded coding":                 {post + "Transfer-Encoding:\r\n chunked\r\n\r\n", 400},
		"first field folded":            {"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400},
		"LF alone":                      {"GET / HTTP/1.1\nHost: x\n\n", 400},
		"LF alone at the end":           {"GET / HTTP/1.1\r\nHost: x\r\n\n", 400},
		"LF alone within":               {get + "A: b\nContent-Length: 3\r\n\r\n", 400},
		"CR alone within":               {get + "A: b\rContent-Length: 3\r\n\r\n", 400},
		"CR in the first line":          {"GET /\r HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"NUL in a value":                {get + "A: b\x00c\r\n\r\n", 400},
		"NUL in a name":                 {get + "A\x00: b\r\n\r\n", 400},
		"DEL in a value":                {get + "A: \x7f\r\n\r\n", 400},
		"space in a name":               {get + "A b: c\r\n\r\n", 400},
		"empty name":                    {get + ": c\r\n\r\n", 400},
		"no colon":                      {get + "Abc\r\n\r\n", 400},
		"name of another script":        {get + "Contént: c\r\n\r\n", 400},
		"no Host":                       {"GET / HTTP/1.1\r\n\r\n", 400},
		"two Hosts":                     {get + "Host: y\r\n\r\n", 400},
		"Host with a path":              {"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400},
		"Host with a user":              {"GET / HTTP/1.1\r\nHost: a@x\r\n\r\n", 400},
		"Host with a space":             {"GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 400},
		"Host with a list":              {"GET / HTTP/1.1\r\nHost: x:1:2\r\n\r\n", 400},
		"Host with half an address":     {"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
		"Host with no address":          {"GET / HTTP/1.1\r\nHost: [x]\r\n\r\n", 400},
		"Host with a long port":         {"GET / HTTP/1.1\r\nHost: x:123456\r\n\r\n", 400},
		"user in the URL":               {"GET http://a@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"another scheme":                {"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"neither path nor URL":          {"GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"asterisk for GET":              {"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"fragment":                      {"GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"DEL in the target":             {"GET /\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"two spaces":                    {"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"space after the version":       {"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400},
		"tabs for spaces":               {"GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"no version":                    {"GET /\r\nHost: x\r\n\r\n", 400},
		"version in lower case":         {"GET / http/1.1\r\nHost: x\r\n\r\n", 400},
		"version with a long number":    {"GET / HTTP/1.10\r\nHost: x\r\n\r\n", 400},
		"method that is no token":       {"G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		"version 2":                     {"PRI * HTTP/2.0\r\n\r\n", 505},
		"version 0.9":                   {"GET / HTTP/0.9\r\n\r\n", 505},
		"CONNECT":                       {"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501},
		"expectation that nobody knows": {post + "Expect: 200-maybe\r\nContent-Length: 1\r\n\r\n", 417},
		"long target":                   {"GET /" + strings.Repeat("a", limits.Target) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
		"too many fields":               {get + strings.Repeat("A: b\r\n", limits.Fields) + "\r\n", 431},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parse(c.text)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("accepted as %+v, %v", r, err)
			}
			if e.Status != c.status {
				t.Errorf("status %d (%s), want %d", e.Status, e.Reason, c.status)
			}
		})
	}
}

func TestRequestsAccepted(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Request
	}{
		"plain":            {"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n", Request{Method: "GET", Target: "/a?b", Host: "x", Minor: 1, KeepAlive: true}},
		"empty line first": {"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", Request{Method: "GET", Target: "/", Host: "x", Minor: 1, KeepAlive: true}},
		"close":            {"GET / HTTP/1.1\r\nHost: x\r\nConnection: a, Close\r\n\r\n", Request{Method: "GET", Target: "/", Host: "x", Minor: 1}},
		"1.0":              {"GET / HTTP/1.0\r\n\r\n", Request{Method: "GET", Target: "/"}},
		"1.0 kept":         {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Request{Method: "GET", Target: "/", KeepAlive: true}},
		"a later 1.x":      {"GET / HTTP/1.7\r\nHost: x\r\n\r\n", Request{Method: "GET", Target: "/", Host: "x", Minor: 1, KeepAlive: true}},
		"length":           {"POST / HTTP/1.1\r\nHost: x:80\r\nContent-Length: 007\r\n\r\n", Request{Method: "POST", Target: "/", Host: "x:80", Minor: 1, Length: 7, KeepAlive: true}},
		"chunked":          {"POST / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding:CHUNKED \r\n\r\n", Request{Method: "POST", Target: "/", Host: "[::1]:80", Minor: 1, Length: Chunked, KeepAlive: true}},
		"expect":           {"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", Request{Method: "PUT", Target: "/", Host: "x", Minor: 1, Length: 1, KeepAlive: true, Continue: true}},
		"URL":              {"GET http://y:8/a HTTP/1.1\r\nHost: x\r\n\r\n", Request{Method: "GET", Target: "/a", Host: "y:8", Minor: 1, KeepAlive: true}},
		"URL without path": {"GET http://y?a HTTP/1.1\r\nHost: x\r\n\r\n", Request{Method: "GET", Target: "/?a", Host: "y", Minor: 1, KeepAlive: true}},
		"raw bytes":        {"GET /?a=µ HTTP/1.1\r\nHost: x\r\n\r\n", Request{Method: "GET", Target: "/?a=µ", Host: "x", Minor: 1, KeepAlive: true}},
		"asterisk":         {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", Request{Method: "OPTIONS", Target: "*", Host: "x", Minor: 1, KeepAlive: true}},
		"upgrade":          {"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n", Request{Method: "GET", Target: "/", Host: "x", Minor: 1, KeepAlive: true, Upgrade: "websocket"}},
		"upgrade unasked":  {"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", Request{Method: "GET", Target: "/", Host: "x", Minor: 1, KeepAlive: true}},
		"any method":       {"X-Y / HTTP/1.1\r\nHost: x\r\nA:\r\nB: \xe4\t \r\n\r\n", Request{Method: "X-Y", Target: "/", Host: "x", Minor: 1, KeepAlive: true}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parse(c.text)
			if err != nil {
				t.Fatal(err)
			}
			got := *r
			got.Header = nil
			if want := c.want; got.Method != want.Method || got.Target != want.Target || got.Host != want.Host ||
				got.Minor != want.Minor || got.Length != want.Length || got.KeepAlive != want.KeepAlive ||
				got.Continue != want.Continue || got.Upgrade != want.Upgrade {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// However the bytes of a head arrive, its end is where it is.
func TestHeadEnd(t *testing.T) {
	for text, want := range map[string]int{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest": 27,
		"a\n\nb":                                3,
		"a\r\n\nb":                              4,
		"a\n\r\nb":                              4,
		"a\n\rb\n":                              0,
		"a\r\nb\r\n":                            0,
		"":                                      0,
	} {
		if got := HeadEnd([]byte(text), 0); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
		seen, got := 0, 0
		for n := 1; n <= len(text) && got == 0; n++ {
			got = HeadEnd([]byte(text[:n]), seen)
			seen = n
		}
		if got != want {
			t.Errorf("%q byte by byte: %d, want %d", text, got, want)
		}
	}
}

func TestEndToEnd(t *testing.T) {
	r, err := parse("GET / HTTP/1.1\r\nHost: x\r\nConnection: a, host, keep-alive\r\nconnection: B\r\nKeep-Alive: 1\r\n" +
		"A: 1\r\nb: 2\r\nC: 3\r\nTE: trailers\r\nTrailer: d\r\nProxy-Connection: x\r\nUpgrade: x\r\nContent-Length: 0\r\nc: 4\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for f := range r.Header.EndToEnd() {
		got = append(got, f.Name+"="+f.Value)
	}
	if s := strings.Join(got, " "); s != "Host=x C=3 c=4" {
		t.Errorf("passes on %s", s)
	}
	if v := r.Header.Joined("c"); v != "3, 4" {
		t.Errorf("joined %q", v)
	}
}

// What is accepted here, net/http understands in the same way.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /a?b HTTP/1.1\r\nHost: x:1\r\nContent-Length: 3\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n",
		"GET http://x/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]\r\nA: b\r\na: c\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		n := HeadEnd(in, 0)
		if n == 0 {
			return
		}
		ours, err := ParseRequest(string(in[:n]), Limits{Target: 1000, Fields: 50})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Status < 400 || e.Status > 505 {
				t.Fatalf("error %v", err)
			}
			return
		}
		theirs, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(in[:n]))))
		if err != nil {
			// Escapes in a path are the application's business.
			if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "malformed HTTP version") {
				return
			}
			t.Fatalf("net/http refuses what is accepted here: %v", err)
		}
		length := theirs.ContentLength
		if len(theirs.TransferEncoding) > 0 {
			length = Chunked
		}
		if ours.Method != theirs.Method || ours.Length != length {
			t.Fatalf("%s with %d, to net/http %s with %d", ours.Method, ours.Length, theirs.Method, length)
		}
		if ours.Host != theirs.Host {
			t.Fatalf("host %q, to net/http %q", ours.Host, theirs.Host)
		}
		for name, values := range theirs.Header {
			if name != "Host" && strings.Join(values, ", ") != ours.Header.Joined(name) {
				t.Fatalf("%s: %q, to net/http %q", name, ours.Header.Joined(name), values)
			}
		}
	})
}
