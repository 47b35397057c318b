package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/schema"
)

func queryCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:         "query SQL",
		Short:       "Ask the audit trail in SQL",
		Long:        "Ask the audit trail in SQL. Tables are in the database tipstaff; add a FORMAT clause, or -o json, for other shapes than a table.",
		Args:        cobra.ExactArgs(1),
		Annotations: map[string]string{outputsKey: "json"},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := o.store()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), queryTimeout)
			defer cancel()
			format := "PrettyCompactMonoBlock"
			if o.output == "json" {
				format = "JSONEachRow"
			}
			return schema.Query(ctx, cfg, args[0], format, cmd.OutOrStdout())
		},
	}
}

func migrateCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring ClickHouse's tables to this version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.store()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), queryTimeout)
			defer cancel()
			conn, err := cfg.Open(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }() // every statement was answered
			if err := schema.Migrate(ctx, conn); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the schema is current")
			return err
		},
	}
}
