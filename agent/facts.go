// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
)

// factsInterval is how often the controller is told what this host is like.
const factsInterval = time.Second

// hostFacts is what was read of this host.
type hostFacts struct{ overflows uint64 }

// watchFacts reads them now and then: files, for which the loop shall not wait.
func (a *Agent) watchFacts(ctx context.Context) error {
	ticker := time.NewTicker(factsInterval)
	defer ticker.Stop()
	for {
		if text, err := readSome("/proc/net/netstat"); err == nil {
			n, _ := listenOverflows(text) // 0 where the kernel does not count
			if !a.post(ctx, hostFacts{n}) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// readSome reads a file of /proc, of which it takes no more than it may have.
func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// listenOverflows finds the counter in what /proc/net/netstat says: pairs of lines, the
// names and then the values of a group.
func listenOverflows(text []byte) (uint64, bool) {
	var names [][]byte
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) == 0 || string(fields[0]) != "TcpExt:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		i := slices.IndexFunc(names, func(n []byte) bool { return string(n) == "ListenOverflows" })
		if i < 0 || i >= len(fields) {
			return 0, false
		}
		n, err := strconv.ParseUint(string(fields[i]), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// reportFacts tells the controller. The loop calls it.
func (a *Agent) reportFacts(f hostFacts, now time.Time) {
	if a.part == nil {
		return
	}
	facts := &agentv1.Facts{Time: timestamppb.New(now), ListenOverflows: f.overflows}
	for _, s := range a.part.GetServices() {
		if vip, ok := netip.AddrFromSlice(s.GetVip()); ok && a.services[netip.AddrPortFrom(vip, uint16(s.GetPort()))] != nil {
			facts.Listening = append(facts.Listening, s.GetName())
		}
	}
	a.send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Facts{Facts: facts}})
}
