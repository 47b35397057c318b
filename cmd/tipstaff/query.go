package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/schema"
)

// formats are ClickHouse's, by what -o calls them; any other is a table.
var formats = map[string]string{"json": "JSONEachRow", "csv": "CSVWithNames"}

// questionName tells a question's name from SQL.
var questionName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

func queryCommand(o *options) *cobra.Command {
	var params map[string]string
	var show bool
	cmd := &cobra.Command{
		Use:   "query [NAME | SQL]",
		Short: "Ask the audit trail: a question by its name, or in SQL",
		Long: `Ask the audit trail: a question by its name, or in SQL. Without an argument the
questions are listed, each with what it must or may be told.

Tables are in the database tipstaff. SQL may have a FORMAT clause of its own.`,
		Example: `  tipstaff query
  tipstaff query run-timeline --param run=1234
  tipstaff query secret-reads --param since=24h -o csv
  tipstaff query approvals --sql
  tipstaff query "SELECT verb, count() FROM tipstaff.audit_events FINAL GROUP BY verb"`,
		Args:        cobra.MaximumNArgs(1),
		Annotations: map[string]string{outputsKey: "table,json,csv"},
		RunE: func(cmd *cobra.Command, args []string) error {
			questions, err := schema.Questions()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return o.listQuestions(cmd.OutOrStdout(), questions)
			}
			ask := func(ctx context.Context, c schema.ClickHouse) error {
				return schema.Query(ctx, c, args[0], formats[o.output], cmd.OutOrStdout())
			}
			if questionName.MatchString(args[0]) {
				i := slices.IndexFunc(questions, func(q schema.Question) bool { return q.Name == args[0] })
				if i < 0 {
					return fmt.Errorf("no question %q: `tipstaff query` lists those there are", args[0])
				}
				q := questions[i]
				if show {
					_, err := fmt.Fprintln(cmd.OutOrStdout(), q.SQL)
					return err
				}
				ask = func(ctx context.Context, c schema.ClickHouse) error {
					return q.Ask(ctx, c, params, formats[o.output], cmd.OutOrStdout())
				}
			} else if len(params) > 0 {
				return fmt.Errorf("--param is for questions by name")
			}
			cfg, err := o.store()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), queryTimeout)
			defer cancel()
			return ask(ctx, cfg)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			questions, _ := schema.Questions() // a build's fault: its test says so
			names := make([]string, len(questions))
			for i, q := range questions {
				names[i] = q.Name + "\t" + q.Title
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringToStringVar(&params, "param", nil, "what the question is to be told, `name=value`; may be given several times")
	cmd.Flags().BoolVar(&show, "sql", false, "print the question's SQL instead of asking it")
	return cmd
}

// listQuestions says what can be asked.
func (o *options) listQuestions(w io.Writer, questions []schema.Question) error {
	if o.output == "json" {
		return printJSON(w, questions)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, q := range questions {
		var params []string
		for _, p := range q.Own() {
			if p.Required {
				params = append(params, p.Name)
			} else {
				params = append(params, "["+p.Name+"]")
			}
		}
		if _, err := fmt.Fprintf(tw, "%s\t%s\t%s\n", q.Name, strings.Join(params, " "), q.Title); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(tw, "\nEach takes [since], a time or how long ago (7d), [until], [cluster] and [limit], too: --param since=24h"); err != nil {
		return err
	}
	return tw.Flush()
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
