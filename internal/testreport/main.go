// SPDX-License-Identifier: Apache-2.0

// Testreport reads the output of `go test -json` and says what people want to
// know: what failed, with its output; what was skipped, and why; how many passed.
// It fails when a test failed, when none ran, and when a package that -must names
// had all of its tests skipped.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// event is what test2json writes (`go doc test2json`).
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

type result struct {
	passed, failed, skipped int
	failures, skips         []string
	packages                map[string]*tally
}

type tally struct{ passed, skipped int }

func main() {
	must := flag.String("must", "", "comma-separated suffixes of packages of which some test must run")
	flag.Parse()
	r, err := read(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.report(os.Stdout, strings.FieldsFunc(*must, func(c rune) bool { return c == ',' })) {
		os.Exit(1)
	}
}

// read collects the results of top-level tests; w gets a line per package as it
// ends, and the output of what fails.
func read(in io.Reader, w io.Writer) (*result, error) {
	r := &result{packages: map[string]*tally{}}
	output := map[string]*strings.Builder{}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				w.Write(line) // a build error, printed as it is
				continue
			}
			key := e.Package + " " + e.Test
			switch e.Action {
			case "output":
				if output[key] == nil {
					output[key] = &strings.Builder{}
				}
				if output[key].Len() < 1<<20 {
					output[key].WriteString(e.Output)
				}
				continue
			case "build-output":
				io.WriteString(w, e.Output)
				continue
			case "pass", "fail", "skip":
			default:
				continue
			}
			out := ""
			if output[key] != nil {
				out = output[key].String()
			}
			r.add(e, out, w)
			if e.Action != "fail" || e.Test == "" {
				delete(output, key)
			}
		}
		if err == io.EOF {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (r *result) add(e event, out string, w io.Writer) {
	if e.Test == "" {
		if e.Action != "skip" {
			fmt.Fprintf(w, "%-5s %s %s\n", e.Action, e.Package, time.Duration(e.Elapsed*float64(time.Second)).Round(10*time.Millisecond))
		}
		if e.Action == "fail" {
			io.WriteString(w, out)
			r.failed++
			r.failures = append(r.failures, e.Package)
		}
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &tally{}
		r.packages[e.Package] = p
	}
	sub := strings.Contains(e.Test, "/")
	name := e.Package[strings.LastIndex(e.Package, "/")+1:] + "." + e.Test
	switch e.Action {
	case "pass":
		if !sub {
			r.passed++
			p.passed++
		}
	case "fail":
		r.failed++
		r.failures = append(r.failures, name)
		io.WriteString(w, out)
	case "skip":
		r.skipped++
		p.skipped++
		r.skips = append(r.skips, name+": "+reason(out))
	}
}

// reason picks the skip message out of a test's output.
func reason(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			if _, text, ok := strings.Cut(line, ": "); ok {
				return text
			}
			return line
		}
	}
	return "no reason given"
}

// report prints the summary and says whether all is well.
func (r *result) report(w io.Writer, must []string) bool {
	ok := r.failed == 0
	if len(r.skips) > 0 {
		fmt.Fprintln(w, "\nskipped:")
		slices.Sort(r.skips)
		for _, s := range r.skips {
			fmt.Fprintln(w, " ", s)
		}
	}
	for _, suffix := range must {
		ran := false
		for name, p := range r.packages {
			ran = ran || strings.HasSuffix(name, suffix) && p.passed > 0
		}
		if !ran {
			fmt.Fprintf(w, "\nno test of %s ran, and it must\n", suffix)
			ok = false
		}
	}
	if len(r.failures) > 0 {
		fmt.Fprintln(w, "\nfailed:")
		for _, f := range r.failures {
			fmt.Fprintln(w, " ", f)
		}
	}
	if r.passed == 0 {
		fmt.Fprintln(w, "\nno test ran")
		ok = false
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return ok
}
