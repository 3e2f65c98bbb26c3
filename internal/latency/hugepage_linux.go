// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// preferHugePages is a hint (madvise(2), MADV_HUGEPAGE); that the kernel does not
// take it is no error.
func preferHugePages(b []byte) {
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	skip := int(-begin % hugePage)
	if skip >= len(b) {
		return
	}
	b = b[skip:]
	if b = b[:len(b)/hugePage*hugePage]; len(b) > 0 {
		unix.Madvise(b, unix.MADV_HUGEPAGE)
	}
}
