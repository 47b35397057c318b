package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/internal/config"
	"github.com/tipstaff-dev/tipstaff/schema"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

const (
	// trialTimeout bounds one trial: reading a week of a busy cluster takes minutes.
	trialTimeout = time.Hour
	// maxTrialFiles bounds what is taken from folders.
	maxTrialFiles = 100_000
)

func rulesCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "List the rules that judge agents, or try rules on requests of the past",
		RunE:  onlySubcommands,
	}
	cmd.AddCommand(rulesListCommand(o), rulesTestCommand(o))
	return cmd
}

// print writes v as -o says, and for people by text where it says nothing.
func (o *options) print(w io.Writer, v any, text func(io.Writer) error) error {
	if o.forScripts() {
		return o.printAs(w, v)
	}
	return text(w)
}

// ruleSections is a Config of which only what judges must hold: who tries rules
// need not have the keys and certificates of who serves.
type ruleSections struct {
	Config `json:",inline"`
}

// Validate reports what is wrong with the rules and with who is an agent.
func (s *ruleSections) Validate(*field.Path) field.ErrorList {
	errs := s.ClusterAgents.Validate(field.NewPath("clusterAgents"))
	if s.Webhook == nil {
		return errs
	}
	for _, e := range s.Webhook.Validate(field.NewPath("webhook")) {
		serving := slices.ContainsFunc([]string{"webhook.listen", "webhook.tls", "webhook.inlineWait"}, func(f string) bool {
			return e.Field == f || strings.HasPrefix(e.Field, f+".")
		})
		if !serving {
			errs = append(errs, e)
		}
	}
	return errs
}

// Includes are the files that the configuration names.
func (c *Config) Includes() []config.Include {
	if c.Webhook == nil {
		return nil
	}
	return c.Webhook.Includes(field.NewPath("webhook"))
}

// ruleConfig is what judges under --config and --rules: the rules, and who is
// an agent. inForce are the config's own, the shipped ones without a config.
func (o *options) ruleConfig(rulesFile string) (candidate, inForce webhook.Config, agents *clusteragents.Config, err error) {
	if o.configFile != "" {
		c := &ruleSections{}
		if err := config.Load(o.configFile, c); err != nil {
			return candidate, inForce, nil, err
		}
		if c.Webhook != nil {
			inForce = *c.Webhook
		}
		agents = &c.ClusterAgents
	}
	candidate = inForce
	if rulesFile == "" {
		return candidate, inForce, agents, nil
	}
	var f webhook.RuleFile
	if err := config.Load(rulesFile, &f); err != nil {
		return candidate, inForce, nil, err
	}
	candidate.Variables, candidate.Rules, candidate.RuleFiles = f.Variables, f.Rules, nil
	return candidate, inForce, agents, nil
}

// listedRule is a rule as `rules list` shows it.
type listedRule struct {
	Name       string          `json:"name"`
	Verdict    webhook.Verdict `json:"verdict"`
	Risk       string          `json:"risk"`
	Approvers  []string        `json:"approvers,omitempty"`
	Quorum     int32           `json:"quorum"`
	TimeToLive metav1.Duration `json:"timeToLive"`
	Message    string          `json:"message,omitempty"`
}

func rulesListCommand(o *options) *cobra.Command {
	var rulesFile string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the rules of the configuration, the shipped ones where it has none",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, _, err := o.ruleConfig(rulesFile)
			if err != nil {
				return err
			}
			rules, err := webhook.RulesOf(cfg)
			if err != nil {
				return err
			}
			list := make([]listedRule, len(rules))
			for i, r := range rules {
				list[i] = listedRule{r.Name, r.Verdict, string(r.Risk), r.Approvers, r.Quorum, r.TimeToLive, r.Message}
			}
			return o.print(cmd.OutOrStdout(), list, func(w io.Writer) error {
				tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
				fmt.Fprintln(tw, "NAME\tVERDICT\tRISK\tAPPROVERS\tQUORUM\tMESSAGE")
				for _, r := range list {
					approvers, quorum := "-", "-"
					if r.Verdict == webhook.Hold {
						approvers, quorum = strings.Join(r.Approvers, ","), fmt.Sprint(r.Quorum)
					}
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", forTerminal(r.Name), r.Verdict, r.Risk, forTerminal(approvers), quorum, forTerminal(r.Message))
				}
				return tw.Flush()
			})
		},
	}
	cmd.Flags().StringVar(&rulesFile, "rules", "", "a file of rules in place of the configuration's")
	return cmd
}

// trialFlags are the flags of `rules test`.
type trialFlags struct {
	rules, since, until, run, cluster string
	compare                           bool
}

func rulesTestCommand(o *options) *cobra.Command {
	var f trialFlags
	cmd := &cobra.Command{
		Use:   "test [FILE | FOLDER]...",
		Short: "Show what rules would have held or denied, on reviews in files or on the audit trail",
		Long: "Show what rules would have held or denied, for whom and how often. Requests are\n" +
			"AdmissionReviews in files (JSON or YAML, one or many; - is standard input), or with --since what\n" +
			"ClickHouse has recorded of agents. Nothing is changed and no cluster is asked.\n\n" +
			"An audit event is not the request itself: what it doesn't tell is named, and requests whose\n" +
			"verdict could hang on it are counted as approximate. The exit code is 1 when a file or a\n" +
			"request in it could not be read.",
		Example: "  tipstaff rules test --rules new-rules.yaml reviews/\n" +
			"  tipstaff rules test --config tipstaff.yaml --rules new-rules.yaml --compare --since 7d",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.testRules(cmd, f, args)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.rules, "rules", "", "a file of rules, such as manifests/rules/default.yaml, in place of the configuration's")
	fl.BoolVar(&f.compare, "compare", false, "with --rules: show what changes against the configuration's rules, the shipped ones where it has none")
	fl.StringVar(&f.since, "since", "", "take what ClickHouse has recorded since then: 7d, 12h, or a time (2006-01-02T15:04:05Z)")
	fl.StringVar(&f.until, "until", "", "with --since: up to then; default is now")
	fl.StringVar(&f.run, "run", "", "with --since: only requests of this run")
	fl.StringVar(&f.cluster, "cluster", "", "with --since: only requests to this cluster")
	return cmd
}

func (o *options) testRules(cmd *cobra.Command, f trialFlags, args []string) error {
	switch {
	case o.configFile == "" && f.rules == "":
		return errors.New("no rules: name them with --rules FILE, or the configuration with --config FILE")
	case f.compare && f.rules == "":
		return errors.New("--compare needs --rules FILE: the rules to compare with the present ones")
	case f.since == "" && (f.until != "" || f.run != "" || f.cluster != ""):
		return errors.New("--until, --run and --cluster go with --since")
	case f.since == "" && len(args) == 0:
		return errors.New("nothing to try rules on: name files with AdmissionReviews, or --since TIME for what is recorded")
	case f.since != "" && len(args) > 0:
		return errors.New("either files or --since, not both")
	}
	candidate, inForce, agents, err := o.ruleConfig(f.rules)
	if err != nil {
		return err
	}
	trial, err := webhook.NewTrial(candidate, inForce, f.compare)
	if err != nil {
		return err
	}
	var report *webhook.TrialReport
	if f.since == "" {
		report, err = trial.Run(cmd.Context(), fileRequests(args, cmd.InOrStdin(), agents))
	} else {
		report, err = o.testRecorded(cmd.Context(), trial, f, agents, cmd.ErrOrStderr())
	}
	if err != nil {
		return err
	}
	if err := o.print(cmd.OutOrStdout(), report, report.WriteText); err != nil {
		return err
	}
	if report.Unreadable > 0 {
		return fmt.Errorf("%d requests or files could not be read", report.Unreadable)
	}
	return nil
}

// fileRequests reads the reviews in files and folders.
func fileRequests(names []string, stdin io.Reader, agents *clusteragents.Config) iter.Seq2[webhook.TrialRequest, error] {
	return func(yield func(webhook.TrialRequest, error) bool) {
		each := func(in io.Reader, name string) bool {
			for tr, err := range webhook.ReadReviews(in, name, agents) {
				if !yield(tr, err) {
					return false
				}
			}
			return true
		}
		fault := func(err error) bool {
			return yield(webhook.TrialRequest{}, fmt.Errorf("%w: %w", webhook.ErrUnreadable, err))
		}
		count := 0
		for _, name := range names {
			if name == "-" {
				if !each(stdin, "standard input") {
					return
				}
				continue
			}
			err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
				switch {
				case err != nil:
					if !fault(err) {
						return fs.SkipAll
					}
					return nil
				case d.IsDir(), path != name && (!d.Type().IsRegular() || !isReviewFile(path)):
					return nil
				}
				if count++; count > maxTrialFiles {
					return fmt.Errorf("more than %d files", maxTrialFiles)
				}
				in, err := os.Open(path) //nolint:gosec // whoever can change the folder chooses what is read anyway
				if err != nil {
					if !fault(err) {
						return fs.SkipAll
					}
					return nil
				}
				defer func() { _ = in.Close() }() // read-only, nothing to lose
				if !each(in, path) {
					return fs.SkipAll
				}
				return nil
			})
			if err != nil {
				yield(webhook.TrialRequest{}, err)
				return
			}
		}
	}
}

// isReviewFile tells the files that are taken from a folder.
func isReviewFile(path string) bool {
	switch filepath.Ext(path) {
	case ".json", ".ndjson", ".yaml", ".yml":
		return true
	}
	return false
}

// testRecorded tries the rules on what ClickHouse has recorded.
func (o *options) testRecorded(ctx context.Context, trial *webhook.Trial, f trialFlags, agents *clusteragents.Config, stderr io.Writer) (*webhook.TrialReport, error) {
	now := time.Now()
	since, err := schema.PastTime(f.since, now)
	if err != nil {
		return nil, fmt.Errorf("--since %w", err)
	}
	until := now
	if f.until != "" {
		if until, err = schema.PastTime(f.until, now); err != nil {
			return nil, fmt.Errorf("--until %w", err)
		}
	}
	if !since.Before(until) {
		return nil, errors.New("--since must be before --until")
	}
	cfg, err := o.store()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	conn, err := cfg.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // only read from
	if err := schema.Check(ctx, conn); err != nil {
		return nil, err
	}
	progress, end := progressTo(stderr, since, until)
	defer end()
	return trial.Run(ctx, recordedRequests(ctx, conn, since, until, f, agents, progress))
}

// errStop ends the reading of events that nobody wants any more.
var errStop = errors.New("enough")

func recordedRequests(ctx context.Context, conn driver.Conn, since, until time.Time, f trialFlags, agents *clusteragents.Config, progress func(time.Time)) iter.Seq2[webhook.TrialRequest, error] {
	return func(yield func(webhook.TrialRequest, error) bool) {
		recorded := webhook.NewRecorded(agents)
		err := schema.Changes(ctx, conn, since, until, f.cluster, progress, func(ev *schema.Event) error {
			tr, asked := recorded.Request(ev)
			if !asked || ev.Issuer == "" || f.run != "" && ev.Run != f.run {
				return nil
			}
			if !yield(tr, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(webhook.TrialRequest{}, err)
		}
	}
}

// progressTo tells on a terminal how far it is, and nothing elsewhere. end
// clears the line.
func progressTo(w io.Writer, since, until time.Time) (progress func(time.Time), end func()) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func(time.Time) {}, func() {}
	}
	return func(at time.Time) {
			fmt.Fprintf(w, "\rreading %s: %d%% ", at.UTC().Format("2006-01-02 15:04"), 100*at.Sub(since)/until.Sub(since))
		}, func() {
			fmt.Fprint(w, "\r\x1b[K")
		}
}
