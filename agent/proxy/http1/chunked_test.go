// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
)

// decode gives in to the decoder in pieces of the given size.
func decode(in []byte, size int) (out []byte, used int, d *Decoder, err error) {
	d = &Decoder{}
	buf := make([]byte, max(size, 1))
	for used < len(in) && !d.Done() {
		nd, ns, err := d.Decode(buf, in[used:min(len(in), used+size)])
		out, used = append(out, buf[:nd]...), used+ns
		if err != nil {
			return out, used, d, err
		}
	}
	return out, used, d, nil
}

func TestChunked(t *testing.T) {
	const text = "5\r\nhello\r\n0b;a=\"b\"\r\n, world and\r\n00\r\nA: b\r\nC:d\r\n\r\nnext"
	for size := 1; size <= len(text); size++ {
		out, used, d, err := decode([]byte(text), size)
		if err != nil || string(out) != "hello, world and" || !d.Done() {
			t.Fatalf("in pieces of %d: %q, %v", size, out, err)
		}
		if rest := text[used:]; rest != "next" {
			t.Errorf("in pieces of %d: leaves %q", size, rest)
		}
		if h := d.Trailer(); len(h) != 2 || h.Get("a") != "b" || h.Get("c") != "d" {
			t.Errorf("in pieces of %d: trailer %v", size, h)
		}
	}
}

func TestChunkedRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no size":               "\r\nhello",
		"no number":             "x\r\n",
		"space after the size":  "5 \r\nhello\r\n",
		"prefix":                "0x5\r\nhello\r\n",
		"sign":                  "-1\r\n",
		"too many digits":       "0000000000000005\r\nhello\r\n",
		"size ended by LF":      "5\nhello\r\n",
		"size ended by CR":      "5\rhello",
		"data ended by LF":      "5\r\nhello\n0\r\n\r\n",
		"too much data":         "5\r\nhello!\r\n",
		"data ended by CR":      "5\r\nhello\rx",
		"LF in an extension":    "5;a\nb\r\nhello\r\n",
		"CR in an extension":    "5;a\rb\r\nhello\r\n",
		"endless extension":     "5;" + strings.Repeat("a", 300) + "\r\n",
		"endless trailer":       "0\r\nA: " + strings.Repeat("a", 20000) + "\r\n\r\n",
		"endless trailers":      "0\r\n" + strings.Repeat("A: b\r\n", 100) + "\r\n",
		"trailer without colon": "0\r\nabc\r\n\r\n",
		"trailer ended by LF":   "0\r\nA: b\n\n",
		"folded trailer":        "0\r\nA: b\r\n c\r\n\r\n",
	} {
		for _, size := range []int{1, 1 << 16} {
			if out, _, _, err := decode([]byte(text), size); err == nil {
				t.Errorf("%s: accepted as %q", name, out)
			}
		}
	}
}

func TestChunkHead(t *testing.T) {
	for _, n := range []int{1, 0x10, 0xabcd, MaxChunk} {
		b := make([]byte, ChunkHead, ChunkHead+n+100)
		PutChunkHead(b, n)
		b = append(b, bytes.Repeat([]byte("x"), n)...)
		b = AppendLastChunk(append(b, "\r\n"...), Header{{"A", "b"}})
		out, used, d, err := decode(b, len(b))
		if err != nil || len(out) != n || used != len(b) || d.Trailer().Get("A") != "b" {
			t.Errorf("%d bytes became %d: %v", n, len(out), err)
		}
	}
}

func TestTrailing(t *testing.T) {
	h := Header{{"A", "b"}, {"content-length", "3"}, {"Transfer-Encoding", "chunked"}, {"Host", "x"}, {"Authorization", "y"}}
	if got := h.Trailing(); len(got) != 1 || got[0].Name != "A" {
		t.Errorf("passes on %v", got)
	}
}

// Whatever the pieces, the result is the same; and what is accepted here, net/http
// decodes to the same bytes.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), 1)
	f.Add([]byte("5;a=b\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\nrest"), 3)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if size < 1 || size > 1<<16 {
			return
		}
		out, used, d, err := decode(in, size)
		out2, used2, d2, err2 := decode(in, len(in)+1)
		if !bytes.Equal(out, out2) || used != used2 || (err == nil) != (err2 == nil) || d.Done() != d2.Done() {
			t.Fatalf("in pieces of %d: %q (%v), whole: %q (%v)", size, out, err, out2, err2)
		}
		if err != nil || !d.Done() {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in)))
		if err != nil || !bytes.Equal(theirs, out) {
			t.Fatalf("%q, to net/http %q, %v", out, theirs, err)
		}
	})
}
