// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"context"
	"log/slog"

	"github.com/osrg/gobgp/v3/pkg/log"
)

// logger has GoBGP log by slog. What it calls Info is for those who debug it:
// state changes are logged by Speaker.
type logger struct{ to *slog.Logger }

func (l *logger) log(level slog.Level, msg string, fields log.Fields) {
	ctx := context.Background()
	if !l.to.Enabled(ctx, level) {
		return
	}
	args := make([]any, 0, 2*len(fields))
	for k, v := range fields {
		args = append(args, k, v)
	}
	l.to.Log(ctx, level, msg, args...)
}

func (l *logger) Panic(msg string, fields log.Fields) {
	l.log(slog.LevelError, msg, fields)
	panic("gobgp: " + msg)
}

func (l *logger) Fatal(msg string, fields log.Fields) { l.Panic(msg, fields) }
func (l *logger) Error(msg string, fields log.Fields) { l.log(slog.LevelError, msg, fields) }
func (l *logger) Warn(msg string, fields log.Fields)  { l.log(slog.LevelWarn, msg, fields) }
func (l *logger) Info(msg string, fields log.Fields)  { l.log(slog.LevelDebug, msg, fields) }
func (l *logger) Debug(msg string, fields log.Fields) { l.log(slog.LevelDebug, msg, fields) }

// SetLevel does nothing: the level is the handler's.
func (l *logger) SetLevel(log.LogLevel) {}

// GetLevel lets everything through to the handler.
func (l *logger) GetLevel() log.LogLevel { return log.DebugLevel }
