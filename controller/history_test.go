// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"testing"
	"time"
)

func testRecord(epoch uint64) record {
	at := time.Unix(1000, int64(epoch)).UTC()
	return record{Pair: "web", Epoch: epoch, From: "a", To: "b", Cause: "operator", Suspected: at, Decided: at, Written: at}
}

// flush runs the history's task until what was put is written.
func flush(t *testing.T, h *history) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := h.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestHistory(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	h, err := openHistory(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	h.put(testRecord(1), false)
	released := time.Unix(2000, 0).UTC()
	full := testRecord(1)
	full.Released = &released
	h.put(full, true) // the same failover, completed
	h.put(testRecord(2), true)
	again := testRecord(2)
	again.Decided = again.Decided.Add(time.Hour)
	h.put(again, true) // the same epoch, of another life of the switch
	flush(t, h)

	// A line that was cut off costs that line.
	f, err := os.OpenFile(h.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"pair":"web","ep`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if h, err = openHistory(dir, log); err != nil {
		t.Fatal(err)
	}
	h.put(testRecord(3), true)
	flush(t, h)
	if h, err = openHistory(dir, log); err != nil {
		t.Fatal(err)
	}
	var epochs []uint64
	for _, r := range h.list {
		epochs = append(epochs, r.Epoch)
	}
	if len(epochs) != 4 || epochs[0] != 1 || epochs[3] != 3 {
		t.Errorf("epochs %v, want 1 2 2 3", epochs)
	}
	if h.list[0].Released == nil || !h.list[0].Released.Equal(released) {
		t.Errorf("the first was released %v", h.list[0].Released)
	}
}

// Neither memory nor the file grow without bound.
func TestHistoryIsBounded(t *testing.T) {
	h, err := openHistory(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	const n = historyLines + 100
	for i := range uint64(n) {
		h.put(testRecord(i+1), true)
		if i%200 == 199 {
			flush(t, h)
		}
	}
	flush(t, h)
	if len(h.list) != historyKept {
		t.Errorf("%d in memory, want %d", len(h.list), historyKept)
	}
	text, err := os.ReadFile(h.path)
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(text, []byte("\n")); lines > historyLines || lines < historyKept {
		t.Errorf("%d lines in the file", lines)
	}
	list, err := readHistory(h.path)
	if err != nil || list[len(list)-1].Epoch != n {
		t.Errorf("the last one is %+v (%v)", list[len(list)-1], err)
	}
}
