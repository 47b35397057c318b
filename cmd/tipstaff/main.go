// Command tipstaff gives AI agents' runs an identity of their own on
// Kubernetes, holds their risky changes until a person signs, masks the secrets
// in what they read, and keeps an audit trail that can be queried. It is also
// the kubectl plugin `kubectl tipstaff`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tipstaff-dev/tipstaff/internal/chdb"
	"github.com/tipstaff-dev/tipstaff/internal/config"
)

// Exit codes, beside 0.
const (
	exitFailed = 1 // what was asked could not be done
	exitConfig = 2 // the config doesn't hold; nothing was started
	exitNotRun = 2 // what was to be checked could not be
)

func main() {
	chdb.MaybeRunEngine() // a child of ours that holds the ClickHouse engine never returns
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	cmd := rootCommand()
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, oneLine(err))
	var faults *config.Faults
	if errors.As(err, &faults) {
		return exitConfig
	}
	if errors.As(err, new(notRun)) {
		return exitNotRun
	}
	return exitFailed
}
