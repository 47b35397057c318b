// Command devenv runs the harness for people: the demo, the environment of
// `make dev`, and tokens for it. It is no part of the product.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: devenv demo         run the whole story on a real control plane
       devenv dev          leave the whole environment running, described in .dev/
       devenv mint-token --run R [--claim k=v]...   print a token of the running dev environment
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	var err error
	switch {
	case len(args) == 1 && args[0] == "demo":
		err = demo(ctx)
	case len(args) == 1 && args[0] == "dev":
		err = dev(ctx)
	case len(args) > 0 && args[0] == "mint-token":
		err = mintToken(ctx, args[1:])
	default:
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintln(os.Stderr, "interrupted; everything was stopped")
			return 130 // 128 + SIGINT, as shells say it
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return 1
	}
	return 0
}
