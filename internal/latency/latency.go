// SPDX-License-Identifier: Apache-2.0

// Package latency asks of the kernel and of the Go runtime what a process needs
// whose pauses are seen by clients: a heartbeat must not be late, and a reply not
// wait, for something that the runtime does for itself or that can wait.
package latency

import (
	"os"
	"runtime"
)

// heapFloor is how much a process can allocate before the garbage collector runs.
// Left to itself the runtime keeps the heap of a process that holds little at a
// few megabytes, collects with every second large reply, and gives pages back to
// the kernel that the next reply takes again. A page fault costs a fraction of a
// microsecond on a host, and 30 to 60 microseconds in some virtual machines: 10 ms
// for a reply of 1 MB.
const heapFloor = 32 << 20

var floor []byte

// Prepare is called once, at the start of main. What the environment says
// (GOMAXPROCS, GOGC) is left alone.
func Prepare() {
	askForShortSlices()
	if os.Getenv("GOMAXPROCS") == "" {
		// More processors than there are, in Go's terms: a thread that the kernel
		// has put aside keeps its one, and a goroutine that has become runnable
		// shall get another.
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 2)
	}
	if os.Getenv("GOGC") == "" {
		// Memory that is held and never touched costs no pages, and counts: the
		// collector runs when the heap has doubled. The memory behind it is touched
		// once and then free to be used.
		floor = make([]byte, heapFloor)
		warm()
		runtime.GC()
	}
}

// warm makes the kernel give the process heapFloor of memory that is free to be
// used afterwards: in huge pages where it can, which are also quickly taken back,
// so that a process that is killed has closed its connections in no time. What
// the heap has below that, and has not touched, is used first: it is filled up.
func warm() {
	small := make([][]byte, 8<<20/block)
	for i := range small {
		small[i] = make([]byte, block)
		touch(small[i])
	}
	large := make([]byte, heapFloor)
	preferHugePages(large)
	touch(large)
	runtime.KeepAlive(small)
	runtime.KeepAlive(large)
}

// block is the size of the smallest piece in which Go's heap gives out whole pages.
const block = 32<<10 + 1

func touch(b []byte) {
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
}
