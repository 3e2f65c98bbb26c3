// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/understudy-net/understudy/topologies/lab/app"
)

// made is a reply as the application would send it, for tests to spoil.
type made struct {
	status   string
	id       string
	token    string
	instance string
	sequence int
	hash     string
	extra    string
	size     int // of the body; also its Content-Length
	chunks   int // of that many bytes; 0: not chunked
}

func reply(id string, sequence int) made {
	return made{
		status: "HTTP/1.1 200 OK", id: id, token: fmt.Sprintf("%032x", sequence+1000),
		instance: "i1", sequence: sequence, size: 300,
	}
}

func (m made) head() string {
	framing := fmt.Sprintf("Content-Length: %d", m.size)
	if m.chunks > 0 {
		framing = "Transfer-Encoding: chunked"
	}
	s := m.status + "\r\nDate: today\r\n" + framing + "\r\n"
	for _, f := range [][2]string{
		{app.HeaderRequestID, m.id}, {app.HeaderToken, m.token}, {app.HeaderInstance, m.instance},
		{app.HeaderSequence, fmt.Sprint(m.sequence)}, {app.HeaderBodyHash, m.hash},
	} {
		if f[1] != "" {
			s += f[0] + ": " + f[1] + "\r\n"
		}
	}
	return s + m.extra + "\r\n"
}

func (m made) body() string {
	token, _ := hex.DecodeString(m.token)
	b := make([]byte, m.size)
	app.Body(token).Read(b)
	if m.chunks == 0 {
		return string(b)
	}
	var s strings.Builder
	for len(b) > 0 {
		n := min(len(b), m.chunks)
		fmt.Fprintf(&s, "%x\r\n%s\r\n", n, b[:n])
		b = b[n:]
	}
	return s.String() + "0\r\n\r\n"
}

func (m made) String() string { return m.head() + m.body() }

func (m made) with(change func(*made)) made {
	change(&m)
	return m
}

// The client has sent requests q1 and q2, both for 300 bytes, q2 with an upload
// of hash "cafe" where a case says so.
func TestChecker(t *testing.T) {
	one, two := reply("q1", 1), reply("q2", 2)
	other := reply("q1", 1).with(func(m *made) { m.instance, m.token = "i2", fmt.Sprintf("%032x", 7) })
	half := func(m made) string { return m.body()[:150] }
	for _, tc := range []struct {
		name string
		in   string
		end  error // after in; nil: io.EOF
		post bool
		// want is "" or the beginning of the first failure.
		want string
	}{
		{name: "right", in: one.String() + two.String()},
		{name: "chunked", in: one.with(func(m *made) { m.chunks = 77 }).String() + two.String()},
		{name: "after an interim reply", in: "HTTP/1.1 100 Continue\r\n\r\n" + one.String() + two.String()},
		{name: "another server's second", in: one.String() + two.with(func(m *made) { m.instance, m.sequence = "i2", 1 }).String()},
		{name: "upload", post: true, in: one.String() + two.with(func(m *made) { m.hash = "cafe" }).String()},

		{name: "stitched body", in: one.head() + half(one) + other.body()[150:], want: "corrupt: request q1: byte 150 of 300"},
		{name: "stitched after the head", in: one.head() + other.body(), want: "corrupt: request q1: byte 0 of 300"},
		{name: "stitched with a second head", in: one.head() + half(one) + other.String(), want: "corrupt: request q1: byte 150 of 300"},
		{name: "resumed too early", in: one.head() + half(one) + one.body()[140:], want: "corrupt: request q1: byte 150"},
		{name: "resumed too late", in: one.head() + half(one) + one.body()[160:] + two.String(), want: "corrupt: request q1: byte 150"},
		{name: "stitched chunks", in: one.with(func(m *made) { m.chunks = 100 }).head() +
			one.with(func(m *made) { m.chunks = 100 }).body()[:107] +
			other.with(func(m *made) { m.chunks = 100 }).body()[:107], want: "corrupt: request q1: byte 100"},
		{name: "duplicated", in: one.String() + one.String(), want: "corrupt: request q2: the reply to q1 again"},
		{name: "duplicated after the last", in: one.String() + two.String() + two.String(), want: "corrupt: "},
		{name: "both servers' replies", in: one.String() + other.String(), want: "corrupt: request q2: the reply to q1 again"},
		{name: "reordered", in: two.String() + one.String(), want: "corrupt: request q1: the reply to q2"},
		{name: "executed in another order", in: one.with(func(m *made) { m.sequence = 2 }).String() + two.with(func(m *made) { m.sequence = 1 }).String(),
			want: "corrupt: request q2: sequence number 1 after 2"},
		{name: "same sequence number", in: one.String() + two.with(func(m *made) { m.sequence = 1 }).String(), want: "corrupt: request q2 got the sequence number of request q1"},
		{name: "same token", in: one.String() + two.with(func(m *made) { m.token = one.token }).String(), want: "corrupt: request q2 got the token of request q1"},
		{name: "altered byte", in: one.head() + flip(one.body(), 299) + two.String(), want: "corrupt: request q1: byte 299 of 300"},
		{name: "altered upload", post: true, in: one.String() + two.with(func(m *made) { m.hash = "beef" }).String(), want: "corrupt: request q2: the server received"},
		{name: "upload without hash", post: true, in: one.String() + two.String(), want: "corrupt: request q2: the server received"},
		{name: "truncated, closed", in: one.head() + half(one), want: "reset: request q1, reply's body: closed early"},
		{name: "truncated, reset", in: one.head() + half(one), end: syscall.ECONNRESET, want: "reset: request q1, reply's body: connection reset"},
		{name: "truncated, said so", in: one.with(func(m *made) { m.size = 200 }).String(), want: "corrupt: request q1: 200 bytes instead of 300"},
		{name: "truncated, next reply follows", in: one.head() + half(one) + two.String(), want: "corrupt: request q1: byte 150"},
		{name: "truncated chunks", in: one.with(func(m *made) { m.chunks, m.size = 100, 200 }).String(), want: "corrupt: request q1: 200 bytes instead of 300"},
		{name: "too long", in: one.with(func(m *made) { m.size = 301 }).String(), want: "corrupt: request q1: more than the 300 bytes"},
		{name: "stray bytes between", in: one.String() + "\r\n" + two.String(), want: "corrupt: request q2, reply's head: malformed"},
		{name: "stray bytes after", in: one.String() + two.String() + "x", want: "corrupt: 1 bytes after the last reply"},
		{name: "head cut", in: one.head()[:40], want: "reset: request q1, reply's head: closed early"},
		{name: "nothing", end: syscall.ECONNRESET, want: "reset: request q1, reply's head: connection reset"},
		{name: "timeout", end: os.ErrDeadlineExceeded, want: "failed: request q1, reply's head: timeout"},
		{name: "502", in: "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", want: "failed: request q1: status 502"},
		{name: "redirect", in: "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", want: "failed: request q1: status 302"},
		{name: "somebody else's 200", in: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", want: "failed: request q1: a reply that names no request"},
		{name: "no token", in: one.with(func(m *made) { m.token = "" }).String(), want: "corrupt: request q1: token"},
		{name: "framed twice", in: one.with(func(m *made) { m.extra = "Transfer-Encoding: chunked\r\n" }).String(), want: "corrupt: request q1, reply's body: malformed"},
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
		} {
			t.Run(tc.name+"/"+how, func(t *testing.T) {
				end := tc.end
				if end == nil {
					end = io.EOF
				}
				c := newChecker(NewLedger(), wrap(io.MultiReader(strings.NewReader(tc.in), iotest.ErrReader(end))))
				second := expected{id: "q2", reply: app.Reply{Size: 300}}
				if tc.post {
					second.bodyHash = "cafe"
				}
				f := c.reply(expected{id: "q1", reply: app.Reply{Size: 300}})
				if f == nil {
					f = c.reply(second)
				}
				if f == nil {
					// What think does: listen once more.
					if err := c.in.fill(); err == nil || c.in.buffered() > 0 {
						f = c.quiet()
					}
				}
				switch {
				case tc.want == "" && f != nil:
					t.Errorf("got %v", f)
				case tc.want != "" && f == nil:
					t.Errorf("not noticed, want %s", tc.want)
				case tc.want != "" && !strings.HasPrefix(f.Error(), tc.want):
					t.Errorf("got %v, want %s", f, tc.want)
				}
			})
		}
	}
}

func flip(s string, at int) string {
	b := []byte(s)
	b[at] ^= 1
	return string(b)
}

// One ledger serves all connections of a run.
func TestLedgerAcrossConnections(t *testing.T) {
	l := NewLedger()
	check := func(id string, m made) *Failure {
		return newChecker(l, strings.NewReader(m.String())).reply(expected{id: id, reply: app.Reply{Size: 300}})
	}
	if f := check("a1", reply("a1", 1)); f != nil {
		t.Fatal(f)
	}
	if f := check("b1", reply("b1", 1)); f == nil || f.Class != Corrupt {
		t.Errorf("one execution answered two requests: got %v", f)
	}
}

func TestMalformed(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, in := range []string{
		"HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 +20 OK\r\n\r\n", "HTTP/1.1 200\r\n\r\n",
		"HTTP/1.1 200 OK\n\r\n", "ICY 200 OK\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n",
		ok + "no colon\r\n\r\n", ok + "blank : x\r\n\r\n", ok + " folded: x\r\n\r\n", ok + ": x\r\n\r\n",
		ok + "a: x\r\nA: y\r\n\r\n", ok + "a: x\x00\r\n\r\n", ok + "a: " + strings.Repeat("x", 100_000) + "\r\n\r\n",
		ok + "a: x\n\r\n",
	} {
		h, err := newStream(strings.NewReader(in)).head()
		if f := classify("head", err); err == nil || f.Class != Corrupt {
			t.Errorf("%.60q: %v, %v", in, h, err)
		}
	}
	for _, body := range []string{"", "zz\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\nabc\r\n", "-1\r\n", "3;x=y\r\nabc\r\n0\r\n\r\n"} {
		s := newStream(strings.NewReader(body))
		err := s.body(head{200, map[string]string{"transfer-encoding": "chunked"}}, func([]byte) error { return nil })
		if err == nil {
			t.Errorf("%q passed", body)
		}
	}
}

func FuzzStream(f *testing.F) {
	f.Add([]byte(reply("q1", 1).String()))
	f.Add([]byte(reply("q1", 1).with(func(m *made) { m.chunks = 100 }).String()))
	f.Fuzz(func(t *testing.T, in []byte) {
		at := newStream(strings.NewReader(string(in)))
		piecemeal := newStream(iotest.OneByteReader(strings.NewReader(string(in))))
		read := func(s *stream) string {
			h, err := s.head()
			if err != nil {
				return "head: " + err.Error()
			}
			var n int
			err = s.body(h, func(b []byte) error { n += len(b); return nil })
			return fmt.Sprint(h, n, err)
		}
		if a, b := read(at), read(piecemeal); a != b {
			t.Errorf("read at once: %s\nread byte by byte: %s", a, b)
		}
	})
}
