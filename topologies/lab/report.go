// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/topologies/lab/load"
)

// DemoReport is what a demo has seen. Its JSON form is for scripts.
type DemoReport struct {
	Scenarios []Scenario `json:"scenarios"`
}

// Scenario is one fault under load.
type Scenario struct {
	Fault       Fault `json:"fault"`
	Connections int   `json:"connections"`
	Requests    int   `json:"requests"`
	// Failed, Reset and Corrupt count as load.Report's do.
	Failed  int `json:"failed"`
	Reset   int `json:"reset"`
	Corrupt int `json:"corrupt"`
	// MaxStallMS is the longest time in which a connection with an outstanding
	// request made no progress (load.Report.LongestStall says exactly what that
	// is), of those that overlap the stallWindow after the fault.
	MaxStallMS float64 `json:"max_stall_ms"`
	// DetectMS is from the fault until the controller had decided what to do
	// about it; null if it never did.
	DetectMS *float64 `json:"detect_ms"`
	// FlipMS is from there until the switch had confirmed its new entry; null if
	// there was nothing to flip, because the backup was struck.
	FlipMS *float64 `json:"flip_ms"`
	// Rounds is how often the fault was done; 0 for once, without the server coming
	// back. The times above are then the worst of all rounds.
	Rounds int `json:"rounds,omitempty"`
	// HeldMS is from when the pair was duplex again until every connection was held
	// twice.
	HeldMS *float64 `json:"held_ms,omitempty"`

	// Server is the one that was struck.
	Server string `json:"-"`
	// InProgress is the number of requests that were outstanding at the fault.
	InProgress int `json:"-"`
	// StallBefore is the longest stall before the fault: what load and host do by
	// themselves.
	StallBefore time.Duration `json:"-"`
	// CPU is the share of all of this host's processors that was busy under load,
	// before the fault, whoever it was.
	CPU float64 `json:"-"`
	// Dropped is the number of copies that the switch was made to drop.
	Dropped uint64 `json:"-"`
	// Load has the rest of what the client has seen.
	Load *load.Report `json:"-"`
	// Problem says what else went wrong.
	Problem string `json:"-"`

	struck time.Time // the last fault
}

// stallWindow is how long after a fault a stall may begin and be counted. The
// pause itself is far shorter; connections that were idle at the fault have
// sent a request by then, and show what they got of it.
const stallWindow = time.Second

// Clean reports that no request was lost, no connection broken, no byte wrong,
// and that the fault was found and answered.
func (s *Scenario) Clean() bool {
	return s.Failed == 0 && s.Reset == 0 && s.Corrupt == 0 && s.Problem == ""
}

// Clean reports that there are scenarios, and that all are clean.
func (r *DemoReport) Clean() bool {
	for i := range r.Scenarios {
		if !r.Scenarios[i].Clean() {
			return false
		}
	}
	return len(r.Scenarios) > 0
}

// milliseconds rounds to a hundredth.
func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Millisecond)*100) / 100
}

// count takes over what the load has seen.
func (s *Scenario) count(r *load.Report, ready, fault time.Time) {
	s.Load = r
	s.Connections, s.Requests = r.Connections, r.Requests
	s.Failed, s.Reset, s.Corrupt = r.Failed, r.Reset, r.Corrupt
	s.MaxStallMS = milliseconds(r.LongestStall(fault, fault.Add(stallWindow)))
	// A margin, so that none is counted on both sides.
	s.StallBefore = r.LongestStall(ready, fault.Add(-50*time.Millisecond))
}

// countRounds takes over what the load has seen of several faults.
func (s *Scenario) countRounds(r *load.Report, ready time.Time, faults []time.Time) {
	s.count(r, ready, faults[0])
	for _, at := range faults {
		s.MaxStallMS = max(s.MaxStallMS, milliseconds(r.LongestStall(at, at.Add(stallWindow))))
	}
}

// worse is the greater of two times that are known.
func worse(a, b *float64) *float64 {
	if a == nil || b != nil && *b > *a {
		return b
	}
	return a
}

// answered takes over when the controller decided, and wrote. It wants the first
// failover of the pair after the epoch, away from the server.
func (s *Scenario) answered(failovers []*adminv1.Failover, pair string, epoch uint64, fault time.Time) bool {
	for _, f := range failovers {
		if f.GetPair() != pair || f.GetEpoch() <= epoch || f.GetFrom() != s.Server {
			continue
		}
		s.decided(f.GetDecided().AsTime(), fault)
		flip := f.GetWritten().AsTime().Sub(f.GetDecided().AsTime())
		if d := f.GetDecideToWritten(); d != nil {
			flip = d.AsDuration() // not disturbed by a clock that is set
		}
		ms := milliseconds(flip)
		s.FlipMS = &ms
		return f.GetWritten() != nil
	}
	return false
}

func (s *Scenario) decided(at, fault time.Time) {
	ms := milliseconds(at.Sub(fault))
	s.DetectMS = &ms
}

// Write writes the report as a table, for people, and below it what there is to
// say besides.
func (r *DemoReport) Write(out io.Writer) error {
	w := &failing{out: out}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "fault\tstruck\tconnections\trequests\tin progress\tfailed\treset\tcorrupt\tmax stall\tdetect\tflip\tstall before\tcpu\t")
	for _, s := range r.Scenarios {
		fmt.Fprintf(tab, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f ms\t%s\t%s\t%.1f ms\t%.0f %%\t\n",
			s.Fault, s.Server, s.Connections, s.Requests, s.InProgress, s.Failed, s.Reset, s.Corrupt,
			s.MaxStallMS, orDash(s.DetectMS), orDash(s.FlipMS), milliseconds(s.StallBefore), 100*s.CPU)
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	for _, s := range r.Scenarios {
		if s.Rounds > 0 {
			w.printf("\n%s: %d rounds; %s after the server was back every connection was held twice\n", s.Fault, s.Rounds, orDash(s.HeldMS))
		}
		if s.Dropped > 0 {
			w.printf("\n%s: %d copies dropped toward the backup\n", s.Fault, s.Dropped)
		}
	}
	if w.err != nil {
		return w.err
	}
	return r.WriteProblems(out)
}

// WriteProblems writes what the JSON form has only as numbers: what went wrong.
func (r *DemoReport) WriteProblems(out io.Writer) error {
	w := &failing{out: out}
	for _, s := range r.Scenarios {
		if s.Problem != "" {
			w.printf("\n%s: %s\n", s.Fault, s.Problem)
		}
		if s.Load == nil {
			continue
		}
		if len(s.Load.Events) > 0 {
			w.printf("\n%s: the first failures\n", s.Fault)
		}
		for _, e := range s.Load.Events {
			w.printf("  %s connection %d, %v\n", e.Time.Format("15:04:05.000"), e.Connection, &e.Failure)
		}
		if s.Load.Unclosed > 0 {
			w.printf("\n%s: %d connections were not closed by the server\n", s.Fault, s.Load.Unclosed)
		}
	}
	return w.err
}

func orDash(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", *ms)
}

// cpuTimes is what /proc/stat has counted since boot, in ticks.
type cpuTimes struct{ busy, all uint64 }

// parseCPU reads the first line of /proc/stat.
func parseCPU(stat string) (cpuTimes, error) {
	line, _, _ := strings.Cut(stat, "\n")
	var t [8]uint64 // user nice system idle iowait irq softirq steal
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d %d", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]); err != nil {
		return cpuTimes{}, fmt.Errorf("%.40q: %w", line, err)
	}
	var c cpuTimes
	for i, v := range t {
		c.all += v
		if i != 3 && i != 4 {
			c.busy += v
		}
	}
	return c, nil
}

// since is the share that was busy in between.
func (c cpuTimes) since(before cpuTimes) float64 {
	if c.all <= before.all {
		return 0
	}
	return float64(c.busy-before.busy) / float64(c.all-before.all)
}
