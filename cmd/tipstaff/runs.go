package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/schema"
)

// queryTimeout bounds a question of the command line's own.
const queryTimeout = time.Minute

// withStore opens the ClickHouse to ask, checks its schema and hands it on.
func (o *options) withStore(ctx context.Context, ask func(context.Context, driver.Conn) error) error {
	cfg, err := o.store()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	conn, err := cfg.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read from
	if err := schema.Check(ctx, conn); err != nil {
		return err
	}
	return ask(ctx, conn)
}

func runsCommand(o *options) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "List the runs of agents, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.withStore(cmd.Context(), func(ctx context.Context, conn driver.Conn) error {
				runs, err := schema.Runs(ctx, conn, limit)
				if err != nil {
					return err
				}
				if o.forScripts() {
					return o.printAs(cmd.OutOrStdout(), runs)
				}
				return schema.WriteRuns(cmd.OutOrStdout(), runs)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at the most")
	cmd.AddCommand(runsShowCommand(o))
	return cmd
}

func runsShowCommand(o *options) *cobra.Command {
	var issuer string
	cmd := &cobra.Command{
		Use:   "show RUN",
		Short: "Print everything that one run did, in order",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.withStore(cmd.Context(), func(ctx context.Context, conn driver.Conn) error {
				events, err := schema.Timeline(ctx, conn, args[0], issuer)
				if err != nil {
					return err
				}
				if len(events) == 0 {
					return fmt.Errorf("no run %q in the audit trail: `tipstaff runs` lists those that are", args[0])
				}
				if o.forScripts() {
					return o.printAs(cmd.OutOrStdout(), events)
				}
				return schema.WriteTimeline(cmd.OutOrStdout(), events)
			})
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "only the run that this issuer names so")
	return cmd
}
