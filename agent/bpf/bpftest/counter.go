// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// readCounter finds a counter in the kernel's pairs of lines: names, values.
func readCounter(name string) (int, error) {
	group, field, _ := strings.Cut(name, ":")
	for _, file := range []string{"/proc/thread-self/net/netstat", "/proc/thread-self/net/snmp"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		lines := strings.Split(string(b), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			if len(names) == 0 || names[0] != group+":" || len(names) != len(values) {
				continue
			}
			for j, n := range names {
				if n == field {
					return strconv.Atoi(values[j])
				}
			}
		}
	}
	return 0, fmt.Errorf("no counter %s", name)
}
