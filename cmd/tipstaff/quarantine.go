package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/ingest"
)

// maxQuarantineBytes bounds a page.
const maxQuarantineBytes = 128 << 20

func quarantineCommand(o *options) *cobra.Command {
	var webhook string
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "List what was received but isn't in the audit trail, and why",
		Long: `List what was received but isn't in the audit trail, and why: events that could not be
understood, and batches that ClickHouse refused. Those can be replayed; of the events
only a form is kept in which every text is a mark, so for them send the API server's log
again when the cause is mended.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := receiver(webhook)
			if err != nil {
				return err
			}
			entries, err := quarantined(cmd, to)
			if err != nil {
				return err
			}
			if o.forScripts() {
				return o.printAs(cmd.OutOrStdout(), entries)
			}
			return writeQuarantine(cmd.OutOrStdout(), entries)
		},
	}
	replay := &cobra.Command{
		Use:   "replay SEQ... | --all",
		Short: "Have batches from the quarantine written again",
	}
	var all bool
	replay.Flags().BoolVar(&all, "all", false, "every batch that can be")
	replay.RunE = func(cmd *cobra.Command, args []string) error {
		to, err := receiver(webhook)
		if err != nil {
			return err
		}
		if all == (len(args) > 0) {
			return fmt.Errorf("give the numbers of what is to be replayed, or --all")
		}
		if all {
			entries, err := quarantined(cmd, to)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if e.Events > 0 {
					args = append(args, fmt.Sprint(e.Seq))
				}
			}
		}
		var failed failures
		for _, seq := range args {
			if _, err := callReceiver(cmd, to, http.MethodPost, "quarantine", "/"+seq); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", seq, err))
				continue
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s replayed\n", seq); err != nil {
				return err
			}
		}
		return failed.orNil()
	}
	cmd.AddCommand(replay)
	webhookFlag(cmd, &webhook)
	return cmd
}

// quarantined are all entries, in pages.
func quarantined(cmd *cobra.Command, to *ingest.Importer) ([]ingest.QuarantineEntry, error) {
	all := []ingest.QuarantineEntry{}
	for after := uint64(0); ; {
		body, err := callReceiver(cmd, to, http.MethodGet, "quarantine", fmt.Sprint("?after=", after))
		if err != nil {
			return nil, err
		}
		var page ingest.QuarantinePage
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, fmt.Errorf("the receiver's answer can't be read: %w", err)
		}
		all, after = append(all, page.Entries...), page.Next
		if after == 0 {
			return all, nil
		}
	}
}

// callReceiver asks for what the receiver has of the cluster.
func callReceiver(cmd *cobra.Command, to *ingest.Importer, method, what, rest string) ([]byte, error) {
	url := strings.Replace(to.URL, "/audit/", "/"+what+"/", 1) + rest
	req, err := http.NewRequestWithContext(cmd.Context(), method, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := to.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or as far as it is wanted
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxQuarantineBytes))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the receiver refuses: %d %s", resp.StatusCode, strings.TrimSpace(string(body[:min(len(body), 500)])))
	}
	return body, nil
}

func writeQuarantine(w io.Writer, entries []ingest.QuarantineEntry) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(w, "nothing is in quarantine")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if _, err := fmt.Fprintln(tw, "SEQ\tTIME\tWHAT\tREASON"); err != nil {
		return err
	}
	for _, e := range entries {
		what := fmt.Sprintf("an event of %d bytes", e.Bytes)
		if e.Events > 0 {
			what = fmt.Sprintf("a batch of %d, can be replayed", e.Events)
		}
		if _, err := fmt.Fprintf(tw, "%d\t%s\t%s\t%s\n", e.Seq, e.Time.UTC().Format(time.DateTime), what, forTerminal(e.Reason)); err != nil {
			return err
		}
	}
	return tw.Flush()
}
