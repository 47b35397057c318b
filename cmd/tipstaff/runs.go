package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/mask"
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
	var which schema.Which
	var since string
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "List the runs of agents, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since != "" {
				var err error
				if which.Since, err = schema.PastTime(since, time.Now()); err != nil {
					return fmt.Errorf("--since %w", err)
				}
			}
			return o.withStore(cmd.Context(), func(ctx context.Context, conn driver.Conn) error {
				runs, err := schema.Runs(ctx, conn, which)
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
	cmd.Flags().IntVar(&which.Limit, "limit", 50, "how many at the most")
	cmd.Flags().StringVar(&which.Agent, "agent", "", "only runs of this agent: its `user` (agent:<issuer>:<subject>) or the token's subject")
	cmd.Flags().StringVar(&which.Owner, "owner", "", "only runs of this `person`'s agents")
	cmd.Flags().StringVar(&since, "since", "", "only runs that acted since then: how long `ago`, such as 24h or 7d, or a time such as 2006-01-02T15:04:05Z")
	cmd.AddCommand(runsShowCommand(o), runsExportCommand(o), runsSessionsCommand(o), runsSessionCommand(o))
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

func runsExportCommand(o *options) *cobra.Command {
	var issuer, cluster string
	cmd := &cobra.Command{
		Use:   "export RUN DIR",
		Short: "Write what one run changed as a script and manifests that repeat it",
		Long: `Write what one run changed into a new folder: run.sh, which has a kubectl command for
each change in their order, and the manifests that it needs. Run against another cluster
it makes the same changes there. What can't be repeated (sessions, bodies that the audit
trail has not whole) is left out and says so; where a manifest holds marks instead of
masked values, the script says so too.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			run, dir := args[0], args[1]
			return o.withStore(cmd.Context(), func(ctx context.Context, conn driver.Conn) error {
				events, err := schema.Timeline(ctx, conn, run, issuer)
				if err != nil {
					return err
				}
				if cluster != "" {
					events = slices.DeleteFunc(events, func(e schema.Event) bool { return e.Cluster != cluster })
				}
				if len(events) == 0 {
					return fmt.Errorf("no run %q in the audit trail: `tipstaff runs` lists those that are", run)
				}
				for i := range events {
					if events[i].Cluster != events[0].Cluster || events[i].Issuer != events[0].Issuer {
						return fmt.Errorf("several runs are called %q: say which with --issuer and --cluster", run)
					}
				}
				x := schema.Export(run, events, mask.HasMark)
				if err := writeExport(dir, x); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d changes in %s, %d left out\n", x.Steps, filepath.Join(dir, "run.sh"), x.Left)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "only the run that this issuer names so")
	cmd.Flags().StringVar(&cluster, "cluster", "", "only the run on this cluster")
	return cmd
}

// writeExport writes into a folder of its own: what is in another's stays as it is.
func writeExport(dir string, x *schema.Exported) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("name a folder that isn't there yet: %w", err)
	}
	for _, f := range x.Files {
		mode := os.FileMode(0o600)
		if f.Script {
			mode = 0o700
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, mode); err != nil {
			return fmt.Errorf("write the export: %w", err)
		}
	}
	return nil
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
