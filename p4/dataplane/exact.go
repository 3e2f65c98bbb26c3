// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"hash/maphash"
	"sync/atomic"
)

// An index is a hash table from keys to entries that readers use without a lock
// while one writer changes it. Chains are immutable: a change publishes a new
// head, or a new array of heads, with one atomic store.
type index struct {
	heads atomic.Pointer[[]atomic.Pointer[link]]
	n     int // written by the writer only
}

type link struct {
	hash  uint64
	key   []byte
	entry *Entry
	next  *link
}

var indexSeed = maphash.MakeSeed()

func newIndex() *index {
	x := &index{}
	x.resize(8)
	return x
}

func (x *index) find(key []byte) *Entry {
	heads := *x.heads.Load()
	h := maphash.Bytes(indexSeed, key)
	for l := heads[h&uint64(len(heads)-1)].Load(); l != nil; l = l.next {
		if l.hash == h && bytes.Equal(l.key, key) {
			return l.entry
		}
	}
	return nil
}

// insert adds a key that is not there. The index keeps the slice.
func (x *index) insert(key []byte, e *Entry) {
	heads := *x.heads.Load()
	if x.n >= len(heads) {
		x.resize(2 * len(heads))
		heads = *x.heads.Load()
	}
	h := maphash.Bytes(indexSeed, key)
	head := &heads[h&uint64(len(heads)-1)]
	head.Store(&link{h, key, e, head.Load()})
	x.n++
}

// remove takes out a key that is there.
func (x *index) remove(key []byte) {
	heads := *x.heads.Load()
	h := maphash.Bytes(indexSeed, key)
	head := &heads[h&uint64(len(heads)-1)]
	var before []*link
	for l := head.Load(); l != nil; l = l.next {
		if l.hash == h && bytes.Equal(l.key, key) {
			rest := l.next
			for i := len(before) - 1; i >= 0; i-- {
				b := before[i]
				rest = &link{b.hash, b.key, b.entry, rest}
			}
			head.Store(rest)
			x.n--
			return
		}
		before = append(before, l)
	}
}

// resize publishes an array of size heads, a power of two.
func (x *index) resize(size int) {
	next := make([]atomic.Pointer[link], size)
	if old := x.heads.Load(); old != nil {
		for i := range *old {
			for l := (*old)[i].Load(); l != nil; l = l.next {
				head := &next[l.hash&uint64(size-1)]
				head.Store(&link{l.hash, l.key, l.entry, head.Load()})
			}
		}
	}
	x.heads.Store(&next)
}
