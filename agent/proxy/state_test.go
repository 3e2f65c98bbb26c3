// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestRequestStream(t *testing.T) {
	r := &requestStream{limit: 10}
	r.append([]byte("0123456789abcdef"))
	if r.received() != 16 || r.unread() != 16 {
		t.Fatalf("received %d, unread %d", r.received(), r.unread())
	}
	// Nothing unread is ever dropped.
	r.overflow(r.pos)
	b := make([]byte, 8)
	n := copy(b, r.peek())
	if r.advance(n); n != 8 || string(b) != "01234567" {
		t.Fatalf("read %q", b[:n])
	}
	// Of what was read, the oldest beyond the limit goes, and with it the chance
	// to run the request again.
	r.overflow(r.pos)
	if len(r.data) != 10 || r.replayable() {
		t.Errorf("%d bytes held, replayable %v", len(r.data), r.replayable())
	}
	r.done(12)
	if !r.replayable() || r.base != 12 || r.pos != 12 {
		t.Errorf("after done: base %d, pos %d", r.base, r.pos)
	}
	// The other server can be ahead of what has arrived here.
	r.done(20)
	if r.replayable() != true || r.received() != 16 || r.need != 20 {
		t.Errorf("ahead: %+v", r)
	}
	r.append([]byte("ghijKLM"))
	r.done(20)
	if r.base != 20 || string(r.data) != "KLM" {
		t.Errorf("arrived: base %d, %q", r.base, r.data)
	}
}

// memoryFile is a spillFile that can be full, and counts itself.
type memoryFile struct {
	b    []byte
	full int
	open *int
}

func (f *memoryFile) WriteAt(b []byte, at int64) (int, error) {
	if int(at)+len(b) > f.full {
		return 0, errSpoolFull
	}
	f.b = append(f.b[:at], b...)
	return len(b), nil
}

func (f *memoryFile) ReadAt(b []byte, at int64) (int, error) { return copy(b, f.b[at:]), nil }

func (f *memoryFile) Close() error {
	*f.open--
	return nil
}

// Whatever is read, kept in a file, parsed, run again and answered: the parser sees the
// client's bytes, all of which are there from need on, unless the file was full.
func TestRequestStreamAtRandom(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, full := range []int{1 << 30, 2 << 20} {
		open := 0
		r := &requestStream{limit: 100 << 10}
		r.spill = func() (spillFile, error) {
			open++
			return &memoryFile{full: full, open: &open}, nil
		}
		var all []byte
		spilled := false
		for range 3000 {
			switch rnd.IntN(8) {
			case 0, 1, 2:
				b := make([]byte, rnd.IntN(64<<10))
				for i := 0; i < len(b); i += 100 {
					b[i] = byte(rnd.Uint32())
				}
				all = append(all, b...)
				r.append(b)
				r.overflow(r.pos)
			case 3, 4, 5:
				b := r.peek()
				if len(b) == 0 != (r.unread() == 0) || len(b) < min(r.unread(), spillChunk/2) {
					t.Fatalf("seed %d: %d bytes to parse of %d", seed, len(b), r.unread())
				}
				if !bytes.Equal(b, all[r.pos:r.pos+uint64(len(b))]) {
					t.Fatalf("seed %d: other bytes", seed)
				}
				r.advance(rnd.IntN(len(b) + 1))
				r.overflow(r.pos)
			case 6:
				if r.rewind(r.need) != r.replayable() {
					t.Fatalf("seed %d: %+v", seed, r)
				}
			case 7:
				if rnd.IntN(20) == 0 {
					r.done(r.need + rnd.Uint64N(r.pos-r.need+1))
				}
			}
			spilled = spilled || r.file != nil
			if r.received() != uint64(len(all)) || full == 1<<30 && !r.replayable() {
				t.Fatalf("seed %d: of %d bytes: %+v", seed, len(all), r)
			}
			if parsed := int(r.pos) - int(r.mem); parsed > r.limit {
				t.Fatalf("seed %d: %d parsed bytes are in memory", seed, parsed)
			}
		}
		r.done(r.received())
		if !spilled || open != 0 || len(r.data) != 0 {
			t.Errorf("seed %d: spilled %v, %d files left open, %d bytes", seed, spilled, open, len(r.data))
		}
	}
}

func TestReplyLog(t *testing.T) {
	l := &replyLog{}
	l.append([]byte("partial"), span{})
	if b := l.next(100, 100); b != nil {
		t.Errorf("a reply in the making is shown: %q", b)
	}
	l.discard()
	l.append([]byte("who"), span{})
	l.append([]byte("le"), span{})
	l.seal(50)
	if b := l.next(100, 49); b != nil {
		t.Errorf("shown before the backup has the request: %q", b)
	}
	if b := l.next(2, 50); string(b) != "wh" {
		t.Errorf("up to 2: %q", b)
	}
	l.wrote(2)
	if b := l.next(2, 50); b != nil {
		t.Errorf("up to 2 again: %q", b)
	}
	l.append([]byte("next"), span{})
	var out []byte
	for b := l.next(100, 50); b != nil; b = l.next(100, 50) {
		out = append(out, b...)
		l.wrote(len(b))
	}
	if string(out) != "ole" || l.empty() != true || l.held() != 4 {
		t.Errorf("wrote %q, empty %v, held %d", out, l.empty(), l.held())
	}
	l.discard()
	if l.held() != 0 || l.end != l.sealed {
		t.Errorf("after discard: %+v", l)
	}
}

// Whatever is appended, sealed, discarded and written in pieces: the client sees
// exactly the sealed bytes, in order.
func TestReplyLogAtRandom(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	l := &replyLog{}
	var want, got, making []byte
	for range 20000 {
		switch r.IntN(5) {
		case 0, 1:
			b := make([]byte, r.IntN(30))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			l.append(b, span{})
			making = append(making, b...)
		case 2:
			l.seal(0)
			want, making = append(want, making...), nil
		case 3:
			l.discard()
			making = nil
		case 4:
			limit := uint64(len(got) + r.IntN(60))
			if b := l.next(limit, 0); b != nil {
				n := 1 + r.IntN(len(b))
				got = append(got, b[:n]...)
				l.wrote(n)
				if uint64(len(got)) > limit {
					t.Fatalf("seed %d: beyond the limit", seed)
				}
			}
		}
		if !bytes.HasPrefix(want, got) {
			t.Fatalf("seed %d: the client sees something else", seed)
		}
		if l.held() != len(want)+len(making)-len(got) {
			t.Fatalf("seed %d: holds %d, not %d", seed, l.held(), len(want)+len(making)-len(got))
		}
	}
}

func TestIDOnTheWire(t *testing.T) {
	for _, id := range []ID{
		{netip.MustParseAddrPort("192.0.2.2:40000"), netip.MustParseAddrPort("198.51.100.10:80"), 0xdeadbeef},
		{netip.MustParseAddrPort("[2001:db8::2]:1"), netip.MustParseAddrPort("[2001:db8::10]:65535"), 0},
	} {
		got, err := parseID(id.bytes())
		if err != nil || got != id {
			t.Errorf("%v became %v (%v)", id, got, err)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 15), make([]byte, 17), make([]byte, 41)} {
		if _, err := parseID(b); err == nil {
			t.Errorf("%d bytes are accepted", len(b))
		}
	}
}
