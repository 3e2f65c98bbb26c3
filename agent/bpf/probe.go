// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// A FeatureError says what the host lacks. It is errors.ErrUnsupported.
type FeatureError struct {
	// Feature is what is missing.
	Feature string
	// Needs says what would bring it: a kernel version, an option, a right.
	Needs string
}

func (e *FeatureError) Error() string { return e.Feature + " is missing: needs " + e.Needs }

// Is makes errors.Is(err, errors.ErrUnsupported) true.
func (e *FeatureError) Is(target error) bool { return target == errors.ErrUnsupported }

// Probe reports what this host and the network namespace of the calling thread
// lack to run the programs, as a *FeatureError for the first thing that is
// missing. It changes nothing.
func Probe() error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return &FeatureError{"type information of the kernel (/sys/kernel/btf/vmlinux)", "CONFIG_DEBUG_INFO_BTF"}
	}
	for _, f := range []struct{ function, needs string }{
		{"bpf_cast_to_kern_ctx", "Linux 6.2 or later"},
		{"bpf_sk_assign_tcp_reqsk", "Linux 6.8 or later with CONFIG_SYN_COOKIES"},
	} {
		var fn *btf.Func
		if err := kernel.TypeByName(f.function, &fn); err != nil {
			return &FeatureError{"the kernel function " + f.function, f.needs}
		}
	}
	if !hasTCX(kernel) {
		return &FeatureError{"attaching programs by tcx", "Linux 6.6 or later with CONFIG_NET_XGRESS"}
	}
	if err := capabilities(); err != nil {
		return err
	}
	// The kernel refuses connections with options that it has switched off,
	// and looks at none if SYN cookies are.
	for _, name := range []string{"tcp_syncookies", "tcp_timestamps", "tcp_sack", "tcp_window_scaling"} {
		b, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		if err == nil && strings.TrimSpace(string(b)) == "0" {
			return &FeatureError{"net.ipv4." + name, fmt.Sprintf("sysctl -w net.ipv4.%s=1", name)}
		}
	}
	return nil
}

func hasTCX(kernel *btf.Spec) bool {
	var types *btf.Enum
	if kernel.TypeByName("bpf_attach_type", &types) != nil {
		return false
	}
	for _, v := range types.Values {
		if v.Name == "BPF_TCX_INGRESS" {
			return true
		}
	}
	return false
}

func capabilities() error {
	var (
		header = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		sets   [2]unix.CapUserData
	)
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	has := func(c int) bool { return sets[c/32].Effective&(1<<(c%32)) != 0 }
	for _, c := range []struct {
		name string
		bit  int
	}{
		{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN},
		{"CAP_BPF", unix.CAP_BPF},
		{"CAP_PERFMON", unix.CAP_PERFMON},
	} {
		if !has(c.bit) && !(has(unix.CAP_SYS_ADMIN) && c.bit != unix.CAP_NET_ADMIN) {
			return &FeatureError{"the capability " + c.name, "root or " + c.name}
		}
	}
	return nil
}
