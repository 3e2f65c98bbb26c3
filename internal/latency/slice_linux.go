// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// slice is the shortest time slice that a thread can ask for, in nanoseconds. Since
// Linux 6.12 a thread that becomes runnable, and asked for a shorter slice than the
// one that runs, takes its place at once, where it would wait for milliseconds
// (kernel/sched/fair.c, PREEMPT_SHORT). It gets no more of the processor by that.
const slice = 100_000

// askForShortSlices does so for every thread of this process, and those that they
// start. That it cannot be is no error: older kernels ignore it.
func askForShortSlices() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil || attr.Policy != unix.SCHED_NORMAL {
			continue
		}
		attr.Runtime = slice
		unix.SchedSetAttr(tid, attr, 0)
	}
}
