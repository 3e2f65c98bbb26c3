// SPDX-License-Identifier: Apache-2.0

package gnmiserver

import (
	"slices"
	"strings"
	"sync"
	"time"

	pb "github.com/openconfig/gnmi/proto/gnmi"
)

// A Leaf is a value with its place in the tree.
type Leaf struct {
	// Path is where it is, without wildcards. It is not modified, nor may it be.
	Path *pb.Path
	// Value is a string, bool, int64, uint64, float64 or []string.
	Value any
	// Read returns the value of a leaf that changes too often to be told each time,
	// such as a counter; Value is not used then. It must be quick, and may be called
	// from any goroutine.
	Read func() any
}

// A Tree is what a Server serves: a set of leaves. The zero Tree is empty. Its
// methods may be called from any goroutine and do not block.
type Tree struct {
	mu       sync.Mutex
	leaves   map[string]*node
	order    []*node // all leaves by path; nil if it must be made again
	watchers map[*watcher]struct{}
}

// A node is a leaf of the tree. Its fields but the path and read are under the
// tree's lock.
type node struct {
	key     string
	path    *pb.Path
	read    func() any
	value   any
	changed time.Time // when value became what it is
	gone    bool
}

// A sample is what a node was at some time.
type sample struct {
	node  *node
	value any
	time  time.Time
}

// Set adds leaves or changes their values; who watches one that has changed is
// told. It panics if a value has a type that there is no encoding for.
func (t *Tree) Set(leaves ...Leaf) {
	now := time.Now()
	for _, l := range leaves {
		if l.Read == nil {
			encode(l.Value, pb.Encoding_PROTO)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range leaves {
		key := PathString(l.Path)
		n := t.leaves[key]
		switch {
		case n == nil:
			n = &node{key: key, path: l.Path, read: l.Read, value: l.Value, changed: now}
			if t.leaves == nil {
				t.leaves = map[string]*node{}
			}
			t.leaves[key] = n
			t.order = nil
		case n.read != nil || l.Read != nil:
			n.read = l.Read
			continue
		case same(n.value, l.Value):
			continue
		default:
			n.value, n.changed = l.Value, now
		}
		for w := range t.watchers {
			w.changed(n)
		}
	}
}

// Delete removes all leaves at or below a path, in which there may be wildcards.
func (t *Tree) Delete(path *pb.Path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, n := range t.leaves {
		if !matches(path.GetElem(), n.path.GetElem()) {
			continue
		}
		delete(t.leaves, key)
		t.order = nil
		n.gone = true
		for w := range t.watchers {
			w.changed(n)
		}
	}
}

func same(a, b any) bool {
	x, ok := a.([]string)
	y, ok2 := b.([]string)
	if ok || ok2 {
		return ok && ok2 && slices.Equal(x, y)
	}
	return a == b
}

// samples returns the leaves that f accepts, in the order of their paths.
func (t *Tree) samples(f func(*node) bool) []sample {
	now := time.Now()
	var out []sample
	t.mu.Lock()
	if t.order == nil {
		for _, n := range t.leaves {
			t.order = append(t.order, n)
		}
		slices.SortFunc(t.order, func(a, b *node) int { return strings.Compare(a.key, b.key) })
	}
	for _, n := range t.order {
		if f(n) {
			out = append(out, n.sample(now))
		}
	}
	t.mu.Unlock()
	// Outside the lock: a Read is somebody else's code.
	for i := range out {
		if s := &out[i]; s.value == nil && s.node.read != nil {
			s.value = s.node.read()
		}
	}
	return out
}

// sample is called with the tree's lock; the value of a leaf that is read is left
// open.
func (n *node) sample(now time.Time) sample {
	if n.read != nil {
		return sample{node: n, time: now}
	}
	return sample{n, n.value, n.changed}
}

// A watcher collects what changes until somebody takes it. A leaf that changes
// again before that is kept once, with its latest value; so a watcher never holds
// more than the tree.
type watcher struct {
	tree    *Tree
	match   func(*node) bool
	pending map[*node]uint32 // how often it changed
	order   []*node
	wake    chan struct{} // 1: there may be something
}

// watch returns a watcher of the leaves that match accepts. It must be closed.
func (t *Tree) watch(match func(*node) bool) *watcher {
	w := &watcher{tree: t, match: match, pending: map[*node]uint32{}, wake: make(chan struct{}, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watchers == nil {
		t.watchers = map[*watcher]struct{}{}
	}
	t.watchers[w] = struct{}{}
	return w
}

func (w *watcher) close() {
	w.tree.mu.Lock()
	defer w.tree.mu.Unlock()
	delete(w.tree.watchers, w)
}

// changed is called with the tree's lock.
func (w *watcher) changed(n *node) {
	if !w.match(n) {
		return
	}
	if w.pending[n]++; w.pending[n] == 1 {
		w.order = append(w.order, n)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// A change is the latest state of a leaf that has changed.
type change struct {
	sample
	duplicates uint32 // changes that are not told, because this one is later
	gone       bool
}

// take returns what has changed since it was called before, oldest first.
func (w *watcher) take() []change {
	now := time.Now()
	w.tree.mu.Lock()
	defer w.tree.mu.Unlock()
	out := make([]change, 0, len(w.order))
	for _, n := range w.order {
		s := n.sample(now)
		if n.gone {
			s.time = now
		}
		out = append(out, change{s, w.pending[n] - 1, n.gone})
	}
	clear(w.pending)
	w.order = w.order[:0]
	return out
}
