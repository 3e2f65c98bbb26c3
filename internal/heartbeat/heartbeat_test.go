// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var example = Heartbeat{
	ApplicationUp: true,
	PairID:        0x0102,
	ReplicaID:     2,
	Role:          1,
	Epoch:         7,
	Sequence:      0xfffffffe,
	Instance:      0x1122334455667788,
}

const exampleHex = "5544" + "01" + "01" + "0102" + "02" + "01" + "00000007" + "fffffffe" + "1122334455667788"

// A backup in step says so in the flags.
func TestInStep(t *testing.T) {
	h := example
	h.InStep = true
	wire := h.Append(nil)
	if wire[3] != 3 {
		t.Errorf("flags %#x, want 3", wire[3])
	}
	if got, err := Decode(wire); err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
}

// The example of docs/heartbeat.md, byte by byte.
func TestEncoding(t *testing.T) {
	got := example.Append(nil)
	if diff := cmp.Diff(exampleHex, hex.EncodeToString(got)); diff != "" {
		t.Errorf("encoding (-want +got):\n%s", diff)
	}
	if len(got) != Size {
		t.Errorf("encoded to %d bytes, want %d", len(got), Size)
	}
}

func TestDecode(t *testing.T) {
	wire, err := hex.DecodeString(exampleHex)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func([]byte) []byte) []byte { return f(bytes.Clone(wire)) }
	down := example
	down.ApplicationUp = false
	for _, tt := range []struct {
		name string
		wire []byte
		want Heartbeat
		err  error
	}{
		{"as written", wire, example, nil},
		{"longer than known", append(bytes.Clone(wire), 1, 2, 3), example, nil},
		{"unknown flags are ignored", edit(func(b []byte) []byte { b[3] |= 0xf0; return b }), example, nil},
		{"application down", edit(func(b []byte) []byte { b[3] = 0; return b }), down, nil},
		{"empty", nil, Heartbeat{}, ErrShort},
		{"one byte short", wire[:Size-1], Heartbeat{}, ErrShort},
		{"another magic", edit(func(b []byte) []byte { b[0] = 0; return b }), Heartbeat{}, ErrMagic},
		{"another version", edit(func(b []byte) []byte { b[2] = 2; return b }), Heartbeat{}, ErrVersion},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Decode(tt.wire)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("heartbeat (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	wire := example.Append(nil)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Decode(wire); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// What decodes is written back as it was, apart from what a later version may
// have added.
func FuzzDecode(f *testing.F) {
	f.Add(example.Append(nil))
	f.Add(Heartbeat{}.Append(nil))
	f.Add([]byte("UD"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		h, err := Decode(wire)
		if err != nil {
			if h != (Heartbeat{}) {
				t.Errorf("an error came with a heartbeat: %+v", h)
			}
			return
		}
		again := h.Append(nil)
		want := bytes.Clone(wire[:Size])
		want[3] &= flagApplicationUp
		if !bytes.Equal(again, want) {
			t.Errorf("%x became %x", wire, again)
		}
	})
}
