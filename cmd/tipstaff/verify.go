package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/ingest/chain"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// verifyTimeout bounds a whole verification.
const verifyTimeout = 24 * time.Hour

type verifyFlags struct {
	cluster, run, issuer, webhook string
	keys, checkpoints             []string
}

func verifyCommand(o *options) *cobra.Command {
	f := &verifyFlags{}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the audit trail in ClickHouse is what was written there",
		Long: `Compute the signed log of each cluster again from the rows in ClickHouse, and name every
row that was removed, altered or inserted since. The exit code is 1 where there is one.

The key is ingest.chain.keyFile of --config, or --public-key. That the log's end was
removed shows only against a head that is kept elsewhere: give --checkpoint FILE (what
ingest.chain.checkpointFile names, or one checkpoint), or have the receiver asked for
the one that JetStream has, with --audit-webhook-config-file.`,
		Example: `  tipstaff verify --config tipstaff.yaml --audit-webhook-config-file audit-webhook.yaml
  tipstaff verify --clickhouse http://127.0.0.1:8123 --public-key audit.pub --run fix-the-shop`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.verify(cmd, f) },
	}
	cmd.Flags().StringVar(&f.cluster, "cluster", "", "only this cluster (default: every one that has rows)")
	cmd.Flags().StringVar(&f.run, "run", "", "only the rows of this run, with the batches they are in")
	cmd.Flags().StringVar(&f.issuer, "issuer", "", "the run that this issuer names so; needed where no row of it is left")
	cmd.Flags().StringSliceVar(&f.keys, "public-key", nil, "`file` with the key that signs the log, and further ones that have (PEM)")
	cmd.Flags().StringSliceVar(&f.checkpoints, "checkpoint", nil, "`file` with heads of the log that were kept elsewhere")
	cmd.Flags().StringVar(&f.webhook, "audit-webhook-config-file", "", "the `file` that the API server has under this flag: the receiver is asked for the head that JetStream has")
	return cmd
}

func (o *options) verify(cmd *cobra.Command, f *verifyFlags) error {
	keys, err := o.chainKeys(f.keys)
	if err != nil {
		return err
	}
	kept, err := f.kept(cmd)
	if err != nil {
		return err
	}
	reports := []*chain.Report{}
	if err := o.withStoreFor(cmd.Context(), verifyTimeout, func(ctx context.Context, conn driver.Conn) error {
		clusters, err := f.clusters(ctx, conn, kept)
		if err != nil {
			return err
		}
		for _, cluster := range clusters {
			runs := []string{""}
			if f.run != "" {
				if runs, err = f.runKeys(ctx, conn, cluster); err != nil {
					return err
				}
			}
			for _, run := range runs {
				r, err := chain.Verify(ctx, conn, cluster, chain.Options{Keys: keys, Checkpoints: kept[cluster], RunKey: run})
				if err != nil {
					return err
				}
				reports = append(reports, r)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if len(reports) == 0 {
		if f.run != "" {
			return fmt.Errorf("no row of run %q is there: give its --issuer to have it looked for in the log", f.run)
		}
		return errors.New("there is nothing to verify: no cluster has a row")
	}
	if o.forScripts() {
		err = o.printAs(cmd.OutOrStdout(), reports)
	} else {
		err = writeReports(cmd.OutOrStdout(), reports)
	}
	if err != nil {
		return err
	}
	var failed failures
	for _, r := range reports {
		switch n := uint64(len(r.Findings)) + r.More; {
		case n > 0:
			failed = append(failed, fmt.Errorf("cluster %s: %d findings: the audit trail is not what was written", r.Cluster, n))
		case r.Leaves == 0:
			failed = append(failed, fmt.Errorf("cluster %s: there is no log, so nothing is proven: ingest.chain has one kept", r.Cluster))
		}
	}
	return failed.orNil()
}

// chainKeys are the keys that may have signed.
func (o *options) chainKeys(files []string) (chain.Keys, error) {
	if len(files) == 0 {
		if o.configFile == "" {
			return nil, errors.New("no key to verify with: name it with --public-key FILE, or with --config FILE the config that has ingest.chain")
		}
		c, err := o.loadConfig()
		if err != nil {
			return nil, err
		}
		if c.Ingest == nil || c.Ingest.Chain == nil {
			return nil, fmt.Errorf("%s has no ingest.chain: name the key with --public-key FILE", o.configFile)
		}
		files = append([]string{c.Ingest.Chain.KeyFile}, c.Ingest.Chain.FormerKeyFiles...)
	}
	return chain.ReadPublicKeys(files...)
}

// maxCheckpointsBytes bounds a line of a file of checkpoints.
const maxCheckpointsBytes = 64 << 10

// kept are the heads that were kept elsewhere, by cluster.
func (f *verifyFlags) kept(cmd *cobra.Command) (map[string][]string, error) {
	kept := map[string][]string{}
	add := func(text string) {
		first, _, _ := strings.Cut(text, "\n")
		cluster := first[strings.LastIndex(first, "/")+1:]
		kept[cluster] = append(kept[cluster], text)
	}
	for _, name := range f.checkpoints {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read the checkpoints: %w", err)
		}
		if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
			add(string(text))
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		lines.Buffer(nil, maxCheckpointsBytes)
		for n := 1; lines.Scan(); n++ {
			var line struct {
				Checkpoint string `json:"checkpoint"`
			}
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				return nil, fmt.Errorf("%s: line %d is no checkpoint: %w", name, n, err)
			}
			add(line.Checkpoint)
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	if f.webhook != "" {
		to, err := receiver(f.webhook)
		if err != nil {
			return nil, err
		}
		text, err := callReceiver(cmd, to, http.MethodGet, "checkpoint", "")
		if err != nil {
			return nil, err
		}
		add(string(text))
	}
	return kept, nil
}

// clusters are those that are looked at: one of which a head was kept, too, though
// it may have no row left.
func (f *verifyFlags) clusters(ctx context.Context, conn driver.Conn, kept map[string][]string) ([]string, error) {
	if f.cluster != "" {
		return []string{f.cluster}, nil
	}
	names, err := schema.Clusters(ctx, conn)
	if err != nil {
		return nil, err
	}
	for name := range kept {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// runKeys are the keys of the runs of that name.
func (f *verifyFlags) runKeys(ctx context.Context, conn driver.Conn, cluster string) ([]string, error) {
	if f.issuer != "" {
		return []string{string(v1alpha1.KeyOf(f.issuer, f.run))}, nil
	}
	return schema.RunKeys(ctx, conn, cluster, f.run)
}

func writeReports(w io.Writer, reports []*chain.Report) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range reports {
		since := ""
		if r.Began != nil {
			since = " since " + r.Began.UTC().Format(time.DateTime)
		}
		_, _ = fmt.Fprintf(tw, "cluster %s: %d rows are as they were written, %d batches are logged%s\n", forTerminal(r.Cluster), r.Rows, r.Leaves, since) // Flush tells
		if r.Older > 0 {
			_, _ = fmt.Fprintf(tw, "  %d rows from before then are in no log: nothing is proven of them\n", r.Older)
		}
		if r.Replaced > 0 {
			_, _ = fmt.Fprintf(tw, "  %d rows were written again with other content: the later is there\n", r.Replaced)
		}
		if len(r.Findings) > 0 {
			_, _ = fmt.Fprintln(tw, "FINDING\tLEAF\tTIME\tAUDIT ID\tSTAGE\tWHAT")
		}
		for _, f := range r.Findings {
			leaf, at := "", ""
			if f.Leaf != nil {
				leaf = fmt.Sprint(*f.Leaf)
			}
			if f.Time != nil {
				at = f.Time.UTC().Format("2006-01-02 15:04:05.000000")
			}
			_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Kind, leaf, at, forTerminal(f.AuditID), forTerminal(f.Stage), forTerminal(f.Detail))
		}
		if r.More > 0 {
			_, _ = fmt.Fprintf(tw, "and %d more\n", r.More)
		}
	}
	return tw.Flush()
}
