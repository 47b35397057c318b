package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tipstaff-dev/tipstaff/ingest"
)

func ingestCommand(o *options) *cobra.Command {
	var webhook string
	cmd := &cobra.Command{
		Use:   "ingest LOG...",
		Short: "Send audit log files to the receiver, as the API server would have",
		Long: `Send audit log files to the receiver, as the API server would have: to close a gap that
an outage of every receiver left, or to load history. What is there already stays as it
is, so a log can be sent twice. "-" is standard input.

A log has an event a line: the API server's own (--audit-log-path), or its record by
Amazon CloudWatch, Azure Monitor or Google Cloud Logging; see docs/audit.md. It may be
compressed with gzip. Lines that are no event are named and left out.`,
		Example: `  tipstaff ingest --audit-webhook-config-file /etc/kubernetes/tipstaff/audit-webhook.yaml /var/log/kubernetes/audit*.log`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := receiver(webhook)
			if err != nil {
				return err
			}
			return o.importLogs(cmd, to, args)
		},
	}
	webhookFlag(cmd, &webhook)
	return cmd
}

// webhookFlag says where the receiver is.
func webhookFlag(cmd *cobra.Command, file *string) {
	const name = "audit-webhook-config-file"
	cmd.PersistentFlags().StringVar(file, name, "", "the `file` that the API server has under this flag: where the receiver is, of which cluster, and the certificate to show it")
	_ = cmd.MarkPersistentFlagRequired(name) // there is such a flag
}

// receiver reads where to send to from what the API server reads.
func receiver(file string) (*ingest.Importer, error) {
	raw, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*raw, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	u, err := url.Parse(cfg.Host)
	if err != nil || u.Scheme != "https" || !strings.HasPrefix(u.Path, "/audit/") {
		return nil, fmt.Errorf("%s: its server must be tipstaff's receiver, https://host:port/audit/<cluster>", file)
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &ingest.Importer{URL: cfg.Host, Client: client}, nil
}

// importedLog is what was done of a file.
type importedLog struct {
	File string `json:"file"`
	ingest.Imported
	Error string `json:"error,omitempty"`
}

// importLogs sends one file after the other. Of what can't be sent it says so at
// the end, all of it.
func (o *options) importLogs(cmd *cobra.Command, to *ingest.Importer, files []string) error {
	var all []importedLog
	var failed failures
	for _, file := range files {
		done, err := o.importLog(cmd, to, file)
		one := importedLog{File: file, Imported: done}
		if err != nil {
			one.Error = err.Error()
			failed = append(failed, fmt.Errorf("%s: %w", file, err))
		}
		if done.Refused > 0 {
			failed = append(failed, fmt.Errorf("%s: %d events could not be taken", file, done.Refused))
		}
		all = append(all, one)
		if !o.forScripts() {
			if err := one.print(cmd.OutOrStdout()); err != nil {
				return err
			}
		}
		if errors.Is(err, context.Canceled) {
			break
		}
	}
	if o.forScripts() {
		if err := o.printAs(cmd.OutOrStdout(), all); err != nil {
			return err
		}
	}
	return failed.orNil()
}

func (l *importedLog) print(w io.Writer) error {
	for _, f := range l.Faults {
		if _, err := fmt.Fprintf(w, "%s: %s\n", l.File, f.Error()); err != nil {
			return err
		}
	}
	if more := l.Refused - len(l.Faults); more > 0 {
		if _, err := fmt.Fprintf(w, "%s: and %d more\n", l.File, more); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s: %d lines, %d events sent\n", l.File, l.Lines, l.Events)
	return err
}

func (o *options) importLog(cmd *cobra.Command, to *ingest.Importer, file string) (ingest.Imported, error) {
	if file == "-" {
		return to.Import(cmd.Context(), cmd.InOrStdin())
	}
	f, err := os.Open(file)
	if err != nil {
		return ingest.Imported{}, err
	}
	defer func() { _ = f.Close() }() // only read from
	log := io.Reader(f)
	if _, terminal := o.isTerminal(cmd.ErrOrStderr()); terminal {
		size := int64(-1)
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
		bar := progressbar.NewOptions64(size, progressbar.OptionSetWriter(cmd.ErrOrStderr()), progressbar.OptionSetDescription(file),
			progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
		defer func() { _ = bar.Finish() }() // only a picture
		reading := progressbar.NewReader(f, bar)
		log = &reading
	}
	return to.Import(cmd.Context(), log)
}
