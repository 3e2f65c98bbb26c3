// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// setAutogroup sets the nice level of a process's session. Where the scheduler
// groups processes by session (sched_autogroup), a process's own level counts in
// its session only. Without such groups, or the right to do it, it does nothing.
func setAutogroup(pid string, level int) {
	// Not created where there is none.
	f, err := os.OpenFile("/proc/"+pid+"/autogroup", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	f.WriteString(strconv.Itoa(level))
}

// autogroup returns the nice level of this program's session, 0 without one.
func autogroup() int {
	b, err := os.ReadFile("/proc/self/autogroup")
	if err != nil {
		return 0
	}
	return parseAutogroup(string(b))
}

// parseAutogroup reads "/autogroup-10 nice 0".
func parseAutogroup(s string) int {
	_, level, _ := strings.Cut(s, " nice ")
	n, err := strconv.Atoi(strings.TrimSpace(level))
	if err != nil {
		return 0
	}
	return n
}

// setThreads sets the nice level of all of this program's threads. Threads that
// are made later have that of the thread that makes them.
func setThreads(level int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			unix.Setpriority(unix.PRIO_PROCESS, tid, level)
		}
	}
}

// Hurry gives this program, and the session that it runs in, the level of the
// lab's own load, until the function that it returns is called. A client that
// waits for a processor would count that as a stall.
func Hurry() (restore func()) {
	was, session := nice(), autogroup()
	setThreads(niceLoad)
	setAutogroup("self", niceLoad)
	return func() {
		setThreads(was)
		setAutogroup("self", session)
	}
}

// nice returns the level of the main thread.
func nice() int {
	// The system call returns 20 minus the level.
	n, err := unix.Getpriority(unix.PRIO_PROCESS, os.Getpid())
	if err != nil {
		return 0
	}
	return 20 - n
}

// setNice is for the thread that starts a process: the process inherits it.
// Without the right to be nicer it stays as it is.
func setNice(level int) error {
	err := unix.Setpriority(unix.PRIO_PROCESS, 0, level)
	if err != nil && err != unix.EACCES && err != unix.EPERM {
		return fmt.Errorf("nice %d: %w", level, err)
	}
	return nil
}
