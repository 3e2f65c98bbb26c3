// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// record is one failover, as it is kept on disk: one JSON object per line.
type record struct {
	Pair      string     `json:"pair"`
	Epoch     uint64     `json:"epoch"`
	From      string     `json:"from"`
	To        string     `json:"to"`
	Cause     string     `json:"cause"`
	Cold      bool       `json:"connections_lost,omitempty"`
	Suspected time.Time  `json:"suspected"`
	Decided   time.Time  `json:"decided"`
	Written   time.Time  `json:"written"`
	Released  *time.Time `json:"released,omitempty"`
	// DecideToWritten is in nanoseconds.
	DecideToWritten time.Duration `json:"decide_to_written_ns"`
}

// history remembers failovers: the last ones in memory, and those that are over
// in a file that outlives the controller. The loop owns list; the task that Run
// is owns the file.
type history struct {
	path string
	log  *slog.Logger
	list []record
	out  chan record
}

const (
	historyKept = 1000
	// historyLines is how long the file may grow before it is cut to historyKept.
	historyLines = 2 * historyKept
)

func openHistory(dir string, log *slog.Logger) (*history, error) {
	h := &history{path: filepath.Join(dir, "failovers.jsonl"), log: log, out: make(chan record, 256)}
	list, err := readHistory(h.path)
	if err != nil {
		return nil, fmt.Errorf("failover history: %w; make it readable for the controller", err)
	}
	h.list = list[max(0, len(list)-historyKept):]
	return h, nil
}

// readHistory skips what it cannot read: the last line may have been cut off.
func readHistory(path string) ([]record, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []record
	for line := range bytes.Lines(text) {
		var r record
		if json.Unmarshal(line, &r) == nil && r.Pair != "" {
			list = append(list, r)
		}
	}
	return list, nil
}

// put adds a failover, or replaces what is known of it. When it is over it goes
// into the file.
func (h *history) put(r record, final bool) {
	i := len(h.list) - 1
	for i >= 0 && (h.list[i].Pair != r.Pair || h.list[i].Epoch != r.Epoch) {
		i--
	}
	if i >= 0 && !h.list[i].Decided.Equal(r.Decided) {
		i = -1 // the same epoch of another life of the switch
	}
	if i >= 0 {
		h.list[i] = r
	} else {
		h.list = append(h.list, r)
		if len(h.list) > historyKept {
			h.list = slices.Delete(h.list, 0, len(h.list)-historyKept)
		}
	}
	if !final {
		return
	}
	select {
	case h.out <- r:
	default:
		h.log.Error("the failover history is behind; a record is kept in memory only", "path", h.path)
	}
}

func (h *history) String() string { return "failover history in " + h.path }

// Run writes until ctx ends, and then what is left. That the disk fails is
// logged, and does not stop anything.
func (h *history) Run(ctx context.Context) error {
	for {
		select {
		case r := <-h.out:
			h.append(r)
		case <-ctx.Done():
			for {
				select {
				case r := <-h.out:
					h.append(r)
				default:
					return nil
				}
			}
		}
	}
}

func (h *history) append(r record) {
	if err := h.appendLine(r); err != nil {
		h.log.Error("the failover history cannot be written", "path", h.path, "error", err)
	}
}

func (h *history) appendLine(r record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(h.path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := 0
	whole := true
	scan := bufio.NewReader(f)
	for {
		text, err := scan.ReadBytes('\n')
		if err != nil {
			whole = len(text) == 0
			break
		}
		lines++
	}
	line = append(line, '\n')
	if !whole {
		line = append([]byte{'\n'}, line...) // a line that was cut off
	}
	if lines < historyLines {
		_, err := f.Write(line) // the reader stands at the end
		return err
	}
	list, err := readHistory(h.path)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, old := range list[max(0, len(list)-historyKept+1):] {
		text, err := json.Marshal(old)
		if err != nil {
			return err
		}
		b.Write(append(text, '\n'))
	}
	b.Write(bytes.TrimPrefix(line, []byte{'\n'}))
	return replaceFile(h.path, b.Bytes(), 0o640)
}
