// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// netnsDir is where "ip netns" looks for namespaces.
const netnsDir = "/run/netns"

// namespacePath returns the file by which a node's namespace is known.
func (l *Lab) namespacePath(node string) string { return filepath.Join(netnsDir, l.Prefix+node) }

// namespaces returns the nodes whose namespaces there are, of whatever topology,
// in whatever state.
func (l *Lab) namespaces() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var nodes []string
	for _, e := range entries {
		if node, ok := strings.CutPrefix(e.Name(), l.Prefix); ok {
			nodes = append(nodes, node)
		}
	}
	return nodes, err
}

// createNamespace makes a network namespace that "ip netns" sees too.
func (l *Lab) createNamespace(node string) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	path := l.namespacePath(node)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return onThread(func() error {
		switch err := unix.Unshare(unix.CLONE_NEWNET); {
		case errors.Is(err, unix.EPERM):
			return errors.New("the lab needs the capability CAP_SYS_ADMIN to make network namespaces")
		case errors.Is(err, unix.EINVAL):
			return errors.New("the lab needs network namespaces: this kernel has none (CONFIG_NET_NS)")
		case err != nil:
			return fmt.Errorf("making a network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("naming a network namespace: mount on %s: %w", path, err)
		}
		return nil
	})
}

// removeNamespace takes the name away, and with it the namespace if nothing else
// holds it.
func (l *Lab) removeNamespace(node string) error {
	path := l.namespacePath(node)
	// EINVAL: a file that nothing is mounted on.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// onThread runs f on a thread of its own, which ends with it: whatever f does to
// the thread stays there. Goroutines that f starts run elsewhere; a process
// that it starts inherits the thread's state.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end, and is what others take for the whole
			// process. While it is held here, f runs on another one.
			err := onThread(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// in runs f on a thread inside a node's namespace: sockets that f itself opens
// are the node's, wherever they are used later.
func (l *Lab) in(node string, f func() error) error {
	ns, err := os.Open(l.namespacePath(node))
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	defer ns.Close()
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the namespace of %s: %w", node, err)
		}
		return f()
	})
}

// ownSysfs shows the calling thread, and what it starts, the network interfaces of its
// own namespace in /sys, instead of those of the namespace in which /sys was mounted.
func ownSysfs() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	// What is unmounted outside later is unmounted here as well, but not the other way
	// round.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting /sys: %w", err)
	}
	return nil
}

// Dial connects from inside a node. The address must be numeric.
func (l *Lab) Dial(ctx context.Context, node, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := l.in(node, func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// nsID identifies a namespace, whatever it is called.
type nsID struct{ dev, ino uint64 }

func namespaceID(path string) (nsID, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nsID{}, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return nsID{uint64(st.Dev), st.Ino}, nil
}
