// SPDX-License-Identifier: Apache-2.0

// Understudy is the operator's command: it asks the controller, and runs the lab.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends it at once.
	context.AfterFunc(ctx, stop)
	if err := newRoot(os.Getenv).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "understudy:", err)
		os.Exit(exitCode(err))
	}
}
