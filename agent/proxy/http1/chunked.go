// SPDX-License-Identifier: Apache-2.0

package http1

import "bytes"

const (
	// maxExtension bounds what follows a chunk's size on its line.
	maxExtension = 256
	// maxTrailer bounds the trailer section in bytes, maxTrailerFields in lines.
	maxTrailer       = 16 << 10
	maxTrailerFields = 64
)

// A Decoder takes the chunked coding apart (RFC 9112 section 7.1). The zero value is
// ready. It needs no more of the stream than it is given: it can stop and go on at any
// byte.
type Decoder struct {
	state   chunkState
	remain  uint64 // of a chunk's data
	digits  int    // of a chunk's size; then bytes of its extension
	trailer []byte
	header  Header
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkDone
)

// Done reports whether the body is complete, trailer and all.
func (d *Decoder) Done() bool { return d.state == chunkDone }

// Trailer returns the trailer fields of a complete body.
func (d *Decoder) Trailer() Header { return d.header }

// Decode moves data from src to dst, which do not overlap. It returns how much of each
// was used: all of src, unless dst is full or the body is complete. An error is an
// *Error, and final.
func (d *Decoder) Decode(dst, src []byte) (nd, ns int, err error) {
	for ns < len(src) {
		c := src[ns]
		switch d.state {
		case chunkSize:
			v, ok := unhex(c)
			switch {
			case ok && d.digits < 15:
				d.remain = d.remain<<4 | v
				d.digits++
			case ok:
				return nd, ns, bad("a chunk's size has too many digits")
			case d.digits == 0:
				return nd, ns, bad("a chunk has no size")
			case c == '\r':
				d.state = chunkSizeLF
			case c == ';':
				d.state, d.digits = chunkExtension, 0
			default:
				return nd, ns, bad("a chunk's size is not a number")
			}
			ns++
		case chunkExtension:
			switch d.digits++; {
			case d.digits > maxExtension:
				return nd, ns, bad("a chunk's extension is too long")
			case c == '\r':
				d.state = chunkSizeLF
			case c < ' ' && c != '\t' || c == 0x7f:
				return nd, ns, bad("a chunk's extension has a control character")
			}
			ns++
		case chunkSizeLF:
			if c != '\n' {
				return nd, ns, bad("a chunk's size ends with CR alone")
			}
			ns++
			d.digits = 0
			if d.state = chunkData; d.remain == 0 {
				d.state = chunkTrailer
			}
		case chunkData:
			k := copy(dst[nd:], src[ns:min(uint64(len(src)), uint64(ns)+d.remain)])
			if k == 0 {
				return nd, ns, nil // dst is full
			}
			nd, ns = nd+k, ns+k
			if d.remain -= uint64(k); d.remain == 0 {
				d.state = chunkDataCR
			}
		case chunkDataCR:
			if c != '\r' {
				return nd, ns, bad("a chunk is longer than its size")
			}
			d.state = chunkDataLF
			ns++
		case chunkDataLF:
			if c != '\n' {
				return nd, ns, bad("a chunk ends with CR alone")
			}
			d.state = chunkSize
			ns++
		case chunkTrailer:
			n, err := d.takeTrailer(src[ns:])
			ns += n
			if err != nil {
				return nd, ns, err
			}
		case chunkDone:
			return nd, ns, nil
		}
	}
	return nd, ns, nil
}

// takeTrailer takes lines up to the empty one.
func (d *Decoder) takeTrailer(src []byte) (n int, err error) {
	for n < len(src) {
		k := len(src)
		if i := bytes.IndexByte(src[n:], '\n'); i >= 0 {
			k = n + i + 1
		}
		if len(d.trailer)+k-n > maxTrailer {
			return n, &Error{Status: 431, Reason: "the trailer is too long"}
		}
		d.trailer = append(d.trailer, src[n:k]...)
		n = k
		t := d.trailer
		if string(t) == "\r\n" || bytes.HasSuffix(t, []byte("\n\r\n")) || string(t) == "\n" || bytes.HasSuffix(t, []byte("\n\n")) {
			h, perr := parseFields(string(t), false, maxTrailerFields)
			if perr != nil {
				return n, perr
			}
			d.header, d.trailer, d.state = h, nil, chunkDone
			return n, nil
		}
	}
	return n, nil
}

func unhex(c byte) (uint64, bool) {
	switch {
	case '0' <= c && c <= '9':
		return uint64(c - '0'), true
	case 'a' <= c && c <= 'f':
		return uint64(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return uint64(c-'A') + 10, true
	}
	return 0, false
}

// Chunks with at most MaxChunk bytes have a size line of ChunkHead bytes here, and
// ChunkTail bytes after their data: who fills a buffer can leave room for both.
const (
	MaxChunk  = 0xffff
	ChunkHead = len("ffff\r\n")
	ChunkTail = len("\r\n")
)

// PutChunkHead writes the size line of a chunk with n bytes to b.
func PutChunkHead(b []byte, n int) {
	const hex = "0123456789abcdef"
	b[0], b[1], b[2], b[3] = hex[n>>12&15], hex[n>>8&15], hex[n>>4&15], hex[n&15]
	b[4], b[5] = '\r', '\n'
}

// AppendLastChunk appends what ends a chunked body.
func AppendLastChunk(b []byte, trailer Header) []byte {
	b = append(b, "0\r\n"...)
	b = trailer.Append(b)
	return append(b, "\r\n"...)
}

// Trailing returns those of a trailer's fields that may be passed on: nothing that says
// where a message ends or where it goes (RFC 9110 section 6.5.1).
func (h Header) Trailing() (t Header) {
	for f := range h.EndToEnd() {
		switch {
		case equal(f.Name, "Host"), equal(f.Name, "Content-Encoding"), equal(f.Name, "Content-Type"),
			equal(f.Name, "Content-Range"), equal(f.Name, "Authorization"), equal(f.Name, "Set-Cookie"),
			equal(f.Name, "Expect"), equal(f.Name, "Range"):
		default:
			t = append(t, f)
		}
	}
	return t
}
