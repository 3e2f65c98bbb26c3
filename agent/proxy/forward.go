// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-net/understudy/agent/proxy/http1"
)

// RequestHeader names every request: "CONN/N", the client's address and port with the
// connection's number, and which request of that connection it is. Both servers give a
// request the same name, and no two requests have the same. ReplayHeader has the same
// value and marks a request that may have been run before (docs/http.md).
const (
	RequestHeader = "Understudy-Request"
	ReplayHeader  = "Understudy-Replay"
)

// forward is what a request that is passed on carries besides its own.
type forward struct {
	client, vip netip.AddrPort
	name        string // value of RequestHeader
	replay      bool
	extra       http1.Header // takes the place of the client's fields of the same names
}

// head returns the head of the request as the application is to see it (docs/http.md).
func (f *forward) head(req *http1.Request) []byte {
	host := req.Host
	if host == "" {
		host = f.vip.String() // HTTP/1.0
	}
	b := make([]byte, 0, 512)
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, req.Target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = http1.AppendField(b, "Host", host)
	forwardedFor, forwarded := "", ""
	for e := range req.Header.EndToEnd() {
		switch name := e.Name; {
		case strings.EqualFold(name, "Host"), strings.EqualFold(name, "Expect"),
			strings.EqualFold(name, RequestHeader), strings.EqualFold(name, ReplayHeader), strings.EqualFold(name, "X-Forwarded-Host"),
			strings.EqualFold(name, "X-Forwarded-Proto"), strings.EqualFold(name, "HTTP2-Settings"):
		case strings.EqualFold(name, "X-Forwarded-For"):
			forwardedFor += e.Value + ", "
		case strings.EqualFold(name, "Forwarded"):
			forwarded += e.Value + ", "
		case f.extra.Count(name) > 0:
		default:
			b = http1.AppendField(b, name, e.Value)
		}
	}
	client := f.client.Addr().Unmap()
	b = http1.AppendField(b, "X-Forwarded-For", forwardedFor+client.String())
	b = http1.AppendField(b, "X-Forwarded-Host", host)
	b = http1.AppendField(b, "X-Forwarded-Proto", "http")
	b = http1.AppendField(b, "Forwarded", forwarded+forwardedElement(client, host))
	b = f.extra.Append(b)
	b = http1.AppendField(b, RequestHeader, f.name)
	if f.replay {
		b = http1.AppendField(b, ReplayHeader, f.name)
	}
	switch {
	case req.Length == http1.Chunked:
		b = http1.AppendField(b, "Transfer-Encoding", "chunked")
		for t := range req.Header.Elements("Trailer") {
			b = http1.AppendField(b, "Trailer", t)
		}
	case req.Length > 0 || req.Header.Count("Content-Length") > 0:
		b = http1.AppendField(b, "Content-Length", strconv.FormatInt(req.Length, 10))
	}
	switch {
	case upgradable(req):
		b = http1.AppendField(b, "Upgrade", req.Upgrade)
		b = http1.AppendField(b, "Connection", "Upgrade")
	case req.Header.Has("TE", "trailers"):
		b = http1.AppendField(b, "TE", "trailers")
		b = http1.AppendField(b, "Connection", "TE")
	}
	return append(b, "\r\n"...)
}

// forwardedElement is one hop in RFC 7239's form. What is no token is quoted.
func forwardedElement(client netip.Addr, host string) string {
	node := client.String()
	if client.Is6() {
		node = `"[` + node + `]"`
	}
	if strings.ContainsAny(host, ":[]%()',;=\"/") {
		host = `"` + host + `"`
	}
	return "for=" + node + ";host=" + host + ";proto=http"
}

// replyHead returns the head of a reply as the client is to see it, and the length of
// its body: bytes, http1.Chunked or http1.UntilClose. The connection is closed after
// the reply if closing, or if nothing else can end the body.
func replyHead(resp *http1.Response, req *http1.Request, closing bool, now time.Time) (head []byte, length int64, closes bool) {
	length = resp.Length
	if length < 0 {
		if length = http1.Chunked; req.Minor == 0 {
			length, closing = http1.UntilClose, true
		}
	}
	b := make([]byte, 0, 512)
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(resp.Status), 10)
	b = append(b, ' ')
	b = append(b, resp.Reason...)
	b = append(b, "\r\n"...)
	dated := false
	for f := range resp.Header.EndToEnd() {
		dated = dated || strings.EqualFold(f.Name, "Date")
		b = http1.AppendField(b, f.Name, f.Value)
	}
	if !dated && resp.Status >= 200 {
		b = http1.AppendField(b, "Date", now.UTC().Format(dateFormat))
	}
	switch {
	case resp.Status < 200 || resp.Status == 204:
	case http1.Bodyless(resp.Status, req.Method):
		if v := resp.Header.Get("Content-Length"); v != "" {
			b = http1.AppendField(b, "Content-Length", v)
		}
	case length == http1.Chunked:
		b = http1.AppendField(b, "Transfer-Encoding", "chunked")
		for t := range resp.Header.Elements("Trailer") {
			b = http1.AppendField(b, "Trailer", t)
		}
	case length >= 0:
		b = http1.AppendField(b, "Content-Length", strconv.FormatInt(length, 10))
	}
	switch {
	case resp.Status == 101:
		b = http1.AppendField(b, "Upgrade", resp.Header.Get("Upgrade"))
		b = http1.AppendField(b, "Connection", "Upgrade")
	case resp.Status < 200:
	case closing:
		b = http1.AppendField(b, "Connection", "close")
	case req.Minor == 0:
		b = http1.AppendField(b, "Connection", "keep-alive")
	}
	return append(b, "\r\n"...), length, closing
}

// dateFormat is IMF-fixdate (RFC 9110 section 5.6.7).
const dateFormat = "Mon, 02 Jan 2006 15:04:05 GMT"
