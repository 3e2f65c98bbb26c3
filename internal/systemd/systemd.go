// SPDX-License-Identifier: Apache-2.0

// Package systemd tells the service manager how a program is: sd_notify(3). Without a
// manager that asks for it nothing happens.
package systemd

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier speaks to the manager that started the process. Its methods may be called
// from any goroutine.
type Notifier struct {
	log *slog.Logger
}

// New returns a Notifier. log may be nil.
func New(log *slog.Logger) Notifier {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return Notifier{log}
}

func (n Notifier) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("the service manager cannot be told", "error", err)
	}
}

// Ready says that the program does its work. It ends Reloading, too.
func (n Notifier) Ready() { n.notify(daemon.SdNotifyReady) }

// Reloading says that it takes up another configuration, until Ready.
func (n Notifier) Reloading() {
	state := daemon.SdNotifyReloading
	if t := monotonic(); t != "" {
		state += "\nMONOTONIC_USEC=" + t // asked for by Type=notify-reload
	}
	n.notify(state)
}

// Stopping says that it is about to end.
func (n Notifier) Stopping() { n.notify(daemon.SdNotifyStopping) }

// Status is a line for people, in systemctl status.
func (n Notifier) Status(text string) { n.notify("STATUS=" + text) }

// Watch shows the manager a sign of life, twice within the time that it asks for
// (WatchdogSec), for as long as alive returns nil; it may block, and is then no sign. It
// returns when ctx ends, or at once if nobody asks.
func (n Notifier) Watch(ctx context.Context, alive func(context.Context) error) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		if err != nil {
			n.log.Warn("the watchdog's time cannot be read", "error", err)
		}
		return nil
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		if err := alive(ctx); err != nil {
			n.log.Error("no sign of life for the watchdog", "error", err)
		} else {
			n.notify(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
