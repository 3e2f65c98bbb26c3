// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	const rest = " T 7 8 9 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 0 0\n"
	for _, name := range []string{"nginx", "a b", "x) R 1 1 1 (y", "()", ")"} {
		got, err := parseStat([]byte("42 (" + name + ")" + rest))
		if want := (stat{state: 'T', parent: 7, group: 8, session: 9, start: 123456}); err != nil || got != want {
			t.Errorf("%q: got %+v, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "42 nginx R 1", "42 (nginx) R 1 2", "42 (nginx) R x 8 9 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	own, err := readStat(os.Getpid())
	if err != nil || own.parent != os.Getppid() || own.dead() {
		t.Errorf("own: %+v, %v", own, err)
	}
}

func TestDescend(t *testing.T) {
	all := map[int]stat{
		10: {parent: 1, group: 10, session: 10}, // the leader
		11: {parent: 10, group: 10, session: 10},
		12: {parent: 11, group: 12, session: 12}, // left the session
		13: {parent: 12, group: 12, session: 12},
		14: {parent: 1, group: 14, session: 10}, // an orphan of the session
		20: {parent: 1, group: 20, session: 20}, // the agent
		21: {parent: 20, group: 20, session: 20},
	}
	got := descend([]int{10}, all)
	slices.Sort(got)
	if want := []int{10, 11, 12, 13, 14}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	delete(all, 10)
	delete(all, 11)
	got = descend([]int{10, 11, 12}, all)
	slices.Sort(got)
	if want := []int{12, 13, 14}; !slices.Equal(got, want) {
		t.Errorf("after the leader's death: got %v, want %v", got, want)
	}
}

func TestMissing(t *testing.T) {
	good := host{uid: 0, filesystems: "nodev\tsysfs\nnodev\tbpf\n", symbols: true, assignReqsk: true}
	if err := good.missing(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*host){
		"needs root":              func(h *host) { h.uid = 1000 },
		"CONFIG_BPF_SYSCALL":      func(h *host) { h.filesystems = "nodev\tbpfx\n" },
		"bpf_sk_assign_tcp_reqsk": func(h *host) { h.assignReqsk = false },
	} {
		h := good
		spoil(&h)
		err := h.missing()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", want, err)
		}
	}
	unknown := good
	unknown.symbols, unknown.assignReqsk = false, false
	if err := unknown.missing(); err != nil {
		t.Errorf("where symbols are hidden: %v", err)
	}
}

func TestLacking(t *testing.T) {
	if err := lacking(nil, "bridges", "CONFIG_BRIDGE", "x"); err != nil {
		t.Error(err)
	}
	if err := lacking(unix.EOPNOTSUPP, "bridges", "CONFIG_BRIDGE", "x"); err == nil || err.Error() != "the lab needs bridges: this kernel has none (CONFIG_BRIDGE)" {
		t.Error(err)
	}
	if err := lacking(unix.EPERM, "bridges", "CONFIG_BRIDGE", "x"); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Error(err)
	}
}

func TestMountsBelow(t *testing.T) {
	const info = `22 1 0:20 / /run rw - tmpfs tmpfs rw
40 22 0:33 / /run/understudy/lab/bpf rw,nosuid - bpf bpf rw
41 22 0:33 / /run/understudy/laboratory rw - bpf bpf rw
42 40 0:34 / /run/understudy/lab/bpf/a\040b rw - bpf bpf rw
`
	got := mountsBelow(info, "/run/understudy/lab")
	if want := []string{"/run/understudy/lab/bpf", "/run/understudy/lab/bpf/a b"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestIsOffload(t *testing.T) {
	for feature, want := range map[string]bool{
		"tx-checksum-ip-generic": true, "tx-tcp-segmentation": true, "tx-tcp-accecn-segmentation": true,
		"tx-generic-segmentation": true, "rx-gro": true, "rx-gro-list": true, "tx-udp-segmentation": true,
		"tx-scatter-gather": false, "tx-vlan-hw-insert": false, "rx-checksum": false, "highdma": false, "": false,
	} {
		if got := isOffload(feature); got != want {
			t.Errorf("%q: %v", feature, got)
		}
	}
}

func TestAutogroup(t *testing.T) {
	for in, want := range map[string]int{"/autogroup-10 nice 0\n": 0, "/autogroup-7 nice -5\n": -5, "": 0, "x": 0} {
		if got := parseAutogroup(in); got != want {
			t.Errorf("%q: got %d", in, got)
		}
	}
}

func TestRootHurry(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	was, session := nice(), autogroup()
	restore := Hurry()
	if nice() != niceLoad {
		t.Errorf("nice %d", nice())
	}
	restore()
	if nice() != was || autogroup() != session {
		t.Errorf("nice %d, was %d; session %d, was %d", nice(), was, autogroup(), session)
	}
}
