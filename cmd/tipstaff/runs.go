package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// queryTimeout bounds a question of the command line's own.
const queryTimeout = time.Minute

// withStore opens the ClickHouse to ask, checks its schema and hands it on.
func (o *options) withStore(ctx context.Context, ask func(context.Context, driver.Conn) error) error {
	return o.withStoreFor(ctx, queryTimeout, ask)
}

// withStoreFor is withStore for what may take longer.
func (o *options) withStoreFor(ctx context.Context, atMost time.Duration, ask func(context.Context, driver.Conn) error) error {
	cfg, err := o.store()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, atMost)
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
	cmd.AddCommand(runsShowCommand(o), runsSessionsCommand(o), runsSessionCommand(o))
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

func runsSessionsCommand(o *options) *cobra.Command {
	var issuer string
	cmd := &cobra.Command{
		Use:   "sessions [RUN]",
		Short: "List the recorded exec and attach sessions of a run, or of all",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run := ""
			if len(args) > 0 {
				run = args[0]
			}
			return o.withStore(cmd.Context(), func(ctx context.Context, conn driver.Conn) error {
				sessions, err := schema.Sessions(ctx, conn, run, issuer, "")
				if err != nil {
					return err
				}
				if o.forScripts() {
					return o.printAs(cmd.OutOrStdout(), sessions)
				}
				return schema.WriteSessions(cmd.OutOrStdout(), sessions)
			})
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "only runs that this issuer names")
	return cmd
}

func runsSessionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "session SESSION",
		Short: "Write a recorded session as an asciicast, for asciinema to play",
		Long: "Write a recorded session in asciicast v2 to standard output:\n\n" +
			"  tipstaff runs session SESSION > session.cast && asciinema play session.cast\n\n" +
			"What agents type and see is masked as it was for them. `tipstaff runs sessions` lists the sessions.",
		Args:        cobra.ExactArgs(1),
		Annotations: map[string]string{outputsKey: "cast"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.withStore(cmd.Context(), func(ctx context.Context, conn driver.Conn) error {
				sessions, err := schema.Sessions(ctx, conn, "", "", args[0])
				switch {
				case err != nil:
					return err
				case len(sessions) == 0:
					return fmt.Errorf("no session %q is recorded: `tipstaff runs sessions` lists those that are", args[0])
				case len(sessions) > 1:
					return fmt.Errorf("%d clusters have a session %q", len(sessions), args[0])
				}
				s := &sessions[0]
				frames, err := schema.Frames(ctx, conn, s.Cluster, s.Session)
				if err != nil {
					return err
				}
				return recording.WriteCast(cmd.OutOrStdout(), s.Recording(), frames)
			})
		},
	}
}
