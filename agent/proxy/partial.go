// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-net/understudy/agent/proxy/http1"
	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
)

// errDiffers ends a reply that was shown in part: nothing proves that what another run
// of the request gives is the rest of it.
var errDiffers = errors.New("nothing proves that another reply continues the one that was begun")

// A span says what the bytes of a piece of a reply are: a head, the body's bytes, and
// around those what the chunked coding adds.
type span struct {
	head int // the first bytes are the reply's head, if there is any
	at   int // where bytes of the body begin
	body int // how many there are
}

// A partialReply is what both servers know of a reply that is shown in pieces and not
// yet complete: enough to recognise the rest of it in another run's reply.
//
// The proof is one of two (docs/http.md): a strong validator, which is the same only
// for the same bytes (RFC 9110 section 8.8.1), or that the other run's first bytes have
// the same SHA-256 as those that were shown.
type partialReply struct {
	status   int
	length   int64 // of the body, http1.Chunked or http1.UntilClose, as the client was told
	shown    int64 // bytes of the body that are logged
	etag     string
	rangeAt  int64 // what the body is of a representation, if status is 206
	rangeEnd int64
	kind     string    // Content-Type and Content-Encoding
	sum      hash.Hash // of the shown bytes; nil where the validator is the proof
	endless  bool      // events or a tunnel: another run has other bytes
}

// add takes a piece into account. The first one has the head.
func (p *partialReply) add(b []byte, s span) {
	if s.head > 0 {
		p.begin(string(b[:s.head]))
	}
	p.shown += int64(s.body)
	if p.sum != nil {
		p.sum.Write(b[s.at : s.at+s.body])
	}
}

func (p *partialReply) begin(head string) {
	resp, err := http1.ParseResponse(head, "GET")
	if err != nil {
		p.endless = true // of another version's making
		return
	}
	p.status, p.length = resp.Status, resp.Length
	p.endless = resp.Status == 101 || isEventStream(resp.Header)
	p.kind = kind(resp)
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		p.etag = tag
	}
	if resp.Status == 206 {
		var ok bool
		if p.rangeAt, p.rangeEnd, ok = contentRange(resp.Header.Get("Content-Range")); !ok {
			p.etag = ""
		}
	}
	if p.etag == "" && !p.endless {
		p.sum = sha256.New()
	}
}

func kind(r *http1.Response) string {
	return r.Header.Get("Content-Type") + "\n" + r.Header.Joined("Content-Encoding")
}

// contentRange takes "bytes FIRST-LAST/..." apart (RFC 9110 section 14.4).
func contentRange(v string) (first, last int64, ok bool) {
	v, ok = strings.CutPrefix(v, "bytes ")
	v, _, _ = strings.Cut(v, "/")
	a, b, _ := strings.Cut(v, "-")
	first, err := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	return first, last, ok && err == nil && err2 == nil && 0 <= first && first <= last
}

// describe returns what another server needs to know of it; nil of nil.
func (p *partialReply) describe() *replicationv1.Partial {
	if p == nil {
		return nil
	}
	d := &replicationv1.Partial{
		Status: uint32(p.status), Length: p.length, Shown: p.shown, Etag: p.etag,
		RangeAt: p.rangeAt, RangeEnd: p.rangeEnd, Kind: p.kind, Endless: p.endless,
	}
	if p.sum != nil {
		d.Sum, _ = p.sum.(encoding.BinaryMarshaler).MarshalBinary() // of SHA-256: no error
	}
	return d
}

// inheritPartial is describe's other end. What makes no sense cannot be continued.
func inheritPartial(d *replicationv1.Partial) *partialReply {
	if d == nil {
		return nil
	}
	p := &partialReply{
		status: int(d.GetStatus()), length: d.GetLength(), shown: d.GetShown(), etag: d.GetEtag(),
		rangeAt: d.GetRangeAt(), rangeEnd: d.GetRangeEnd(), kind: d.GetKind(), endless: d.GetEndless(),
	}
	p.endless = p.endless || p.shown < 0 || p.length < http1.UntilClose || p.length >= 0 && p.shown > p.length
	if len(d.GetSum()) > 0 {
		p.sum = sha256.New()
		p.endless = p.endless || p.sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(d.GetSum()) != nil
	}
	return p
}

// complete reports whether nothing of the body is missing.
func (p *partialReply) complete() bool { return p.length >= 0 && p.shown == p.length }

// rest is how the rest of the body is framed.
func (p *partialReply) rest() int64 {
	if p.length >= 0 {
		return p.length - p.shown
	}
	return p.length
}

// mute reports whether a close in order would pass for the reply's end.
func (p *partialReply) mute() bool { return p.length == http1.UntilClose && p.status != 101 }

// ask returns the fields that ask for the rest of the body only.
func (p *partialReply) ask(method string) http1.Header {
	if p.etag == "" || p.shown == 0 || method != "GET" {
		return nil
	}
	r := ""
	switch p.status {
	case 200:
		r = fmt.Sprintf("bytes=%d-", p.shown)
	case 206:
		r = fmt.Sprintf("bytes=%d-%d", p.rangeAt+p.shown, p.rangeEnd)
	default:
		return nil
	}
	return http1.Header{{Name: "Range", Value: r}, {Name: "If-Range", Value: p.etag}}
}

// skip brings another run's reply to where this one stands. The error is errDiffers, or
// the application's. Reading waits for at most silence.
func (p *partialReply) skip(resp *reply, asked http1.Header, silence time.Duration) error {
	sameTag := p.etag != "" && resp.Header.Get("ETag") == p.etag
	if len(asked) > 0 && resp.Status == 206 {
		first, last, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || !sameTag || first != p.rangeAt+p.shown ||
			p.length >= 0 && last-first+1 != p.rest() || resp.Length >= 0 && last-first+1 != resp.Length {
			return errDiffers
		}
		return nil
	}
	// A whole reply. A 206 to the client's own range is one, if nothing of it was shown.
	switch {
	case resp.Status != p.status || p.length >= 0 && resp.Length >= 0 && resp.Length != p.length:
		return errDiffers
	case p.status == 206 && len(asked) > 0:
		return errDiffers
	case sameTag:
	case p.sum == nil || kind(resp.Response) != p.kind:
		return errDiffers
	}
	h := sha256.New()
	var to io.Writer = h
	if sameTag {
		to = io.Discard
	}
	buf := make([]byte, 32<<10)
	for left := p.shown; left > 0; {
		resp.body.deadline(time.Now().Add(silence))
		n, err := resp.body.Read(buf[:min(left, int64(len(buf)))])
		to.Write(buf[:n])
		left -= int64(n)
		if err == io.EOF && left > 0 {
			return errDiffers
		} else if err != nil && err != io.EOF {
			return err
		}
	}
	if !sameTag && !bytes.Equal(h.Sum(nil), p.sum.Sum(nil)) {
		return errDiffers
	}
	return nil
}
