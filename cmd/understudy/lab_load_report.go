// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/understudy-net/understudy/topologies/lab/load"
)

// loadReport is the JSON form of a load's report.
type loadReport struct {
	Connections   int     `json:"connections"`
	Seconds       float64 `json:"seconds"`
	Requests      int     `json:"requests"`
	Replies       int     `json:"replies"`
	Failed        int     `json:"failed"`
	Reset         int     `json:"reset"`
	Corrupt       int     `json:"corrupt"`
	Unclosed      int     `json:"unclosed"`
	ReceivedBytes int64   `json:"received_bytes"`
	SentBytes     int64   `json:"sent_bytes"`
	P50MS         float64 `json:"p50_ms"`
	P99MS         float64 `json:"p99_ms"`
	MaxMS         float64 `json:"max_ms"`
	MaxStallMS    float64 `json:"max_stall_ms"`
	// Failures describes the first ones.
	Failures []string `json:"failures,omitempty"`
}

func writeLoad(out io.Writer, f format, r *load.Report, from, to time.Time) error {
	j := loadReport{
		Connections: r.Connections, Seconds: to.Sub(from).Seconds(), Requests: r.Requests, Replies: r.Replies,
		Failed: r.Failed, Reset: r.Reset, Corrupt: r.Corrupt, Unclosed: r.Unclosed,
		ReceivedBytes: r.Received, SentBytes: r.Sent,
		P50MS: toMS(r.Quantile(0.5)), P99MS: toMS(r.Quantile(0.99)), MaxMS: toMS(r.Quantile(1)),
		MaxStallMS: toMS(r.LongestStall(from, to)),
	}
	for _, e := range r.Events {
		j.Failures = append(j.Failures, fmt.Sprintf("%s connection %d, %v", e.Time.Format("15:04:05.000"), e.Connection, &e.Failure))
	}
	var err error
	if f != asTable {
		err = writeValue(out, f, j)
	} else {
		_, err = fmt.Fprintf(out, "%v\n%.0f requests/s, %.2f MB/s received, %.2f MB/s sent\nlatency: median %.1f ms, 99 %% %.1f ms, longest %.1f ms; longest stall %.1f ms\n",
			r, float64(j.Replies)/j.Seconds, float64(j.ReceivedBytes)/j.Seconds/1e6, float64(j.SentBytes)/j.Seconds/1e6,
			j.P50MS, j.P99MS, j.MaxMS, j.MaxStallMS)
		for _, line := range j.Failures {
			fmt.Fprintln(out, " ", line)
		}
	}
	if err == nil && !r.Clean() {
		err = errors.New("not clean")
	}
	return err
}

func toMS(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
