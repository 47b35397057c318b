package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
)

// decider is what approve and deny were asked to do.
type decider struct {
	*options
	approvals.Decision
	run, issuer string
	yes         bool
}

const decideLong = `

Each approval is decided by itself: one that fails doesn't stop the others, and the exit
code is 1 if any failed.

With --run it shows all that this run has undecided, with each change, and asks once. It
decides only what it has shown. Without a terminal to ask on it needs --yes.`

func approveCommand(o *options) *cobra.Command {
	d := &decider{options: o, Decision: approvals.Decision{Verdict: v1alpha1.VerdictApprove, Via: "kubectl"}}
	cmd := d.command(&cobra.Command{
		Use:   "approve NAME... | approve --run RUN",
		Short: "Let the requests go through that these approvals show, each once",
		Long:  "Let the requests go through that these approvals show, each once." + decideLong,
		Example: `  tipstaff approve 7f3a9c0011 --reason "replaced by shop"
  tipstaff approve --run 4711 --issuer github
  tipstaff approve 7f3a9c0011 --break-glass --reason "INC-312, nobody else is up"`,
	}, "why; kept with the decision")
	cmd.Flags().BoolVar(&d.BreakGlass, "break-glass", false, "approve alone, past the quorum, where the rule lets you; needs a reason, and is marked for ever")
	cmd.MarkFlagsMutuallyExclusive("break-glass", "run")
	return cmd
}

func denyCommand(o *options) *cobra.Command {
	d := &decider{options: o, Decision: approvals.Decision{Verdict: v1alpha1.VerdictDeny, Via: "kubectl"}}
	cmd := d.command(&cobra.Command{
		Use:   "deny NAME... --reason TEXT | deny --run RUN --reason TEXT",
		Short: "Refuse the requests that these approvals show",
		Long: `Refuse the requests that these approvals show. A denial also ends what others approved and
nobody used yet. It answers the same request until the approval's time is up; asked again
after that, the request is a new question.` + decideLong,
		Example: `  tipstaff deny 7f3a9c0011 --reason "the ledger is audited this week"
  tipstaff deny --run 4711 --reason "wrong cluster"`,
	}, "why; the agent is told")
	_ = cmd.MarkFlagRequired("reason") // fails only for a flag that doesn't exist
	return cmd
}

// command adds what approve and deny have in common.
func (d *decider) command(cmd *cobra.Command, reason string) *cobra.Command {
	cmd.Annotations = map[string]string{outputsKey: "json,yaml,name"}
	cmd.ValidArgsFunction = d.completeNames
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		names := namesOf(args)
		if err := d.check(cmd, names); err != nil {
			return err
		}
		c, err := d.client()
		if err != nil {
			return err
		}
		if d.run != "" {
			return d.decideRun(cmd, c)
		}
		return d.decideAll(cmd, c, names, nil)
	}
	f := cmd.Flags()
	f.StringVar(&d.Reason, "reason", "", reason)
	f.StringVar(&d.run, "run", "", "instead of names: all that this run has undecided")
	f.StringVar(&d.issuer, "issuer", "", "with --run: the run's issuer, where two have a run of that id")
	f.BoolVarP(&d.yes, "yes", "y", false, "with --run: don't ask")
	d.colorFlag(cmd)
	_ = cmd.RegisterFlagCompletionFunc("run", d.completeRuns) // fails only for a flag that doesn't exist
	return cmd
}

// check refuses what can't be meant, before anybody is asked.
func (d *decider) check(cmd *cobra.Command, names []string) error {
	// A script's variable that is unset must not decide more, or less, than was meant.
	byRun := cmd.Flags().Changed("run")
	switch {
	case byRun && d.run == "":
		return errors.New("--run is empty: name a run")
	case byRun && len(names) > 0:
		return errors.New("name approvals or a --run, not both")
	case !byRun && len(names) == 0:
		return errors.New("name an approval or a --run: `tipstaff approvals` lists them")
	case !byRun && (d.yes || d.issuer != ""):
		return errors.New("--yes and --issuer go with --run")
	}
	if err := checkNames(names); err != nil {
		return err
	}
	return d.Validate()
}

// decideRun shows what the run has undecided, asks once, and decides just that.
func (d *decider) decideRun(cmd *cobra.Command, c client.Client) error {
	ctx := cmd.Context()
	by, err := approvals.Whoami(ctx, c)
	if err != nil {
		return err
	}
	list, err := approvals.Select(ctx, c, approvals.Filter{Run: d.run, Issuer: d.issuer, Phases: []v1alpha1.Phase{v1alpha1.PhasePending}})
	if err != nil {
		return err
	}
	issuers := map[string]bool{}
	for i := range list.Items {
		issuers[list.Items[i].Spec.Agent.Issuer] = true
	}
	if len(issuers) > 1 {
		var names []string
		for name := range issuers {
			names = append(names, strconv.Quote(name))
		}
		slices.Sort(names)
		return fmt.Errorf("run %q is a run of %s: say which by --issuer", d.run, strings.Join(names, " and "))
	}
	open := slices.DeleteFunc(list.Items, func(a v1alpha1.Approval) bool {
		return slices.ContainsFunc(a.Status.Decisions, func(e v1alpha1.Decision) bool { return e.By == by })
	})
	if len(open) == 0 {
		return fmt.Errorf("run %q has nothing that waits for %s: `tipstaff approvals --run` lists what it asked for", d.run, by)
	}
	out := cmd.OutOrStdout()
	if d.output != "" {
		out = cmd.ErrOrStderr() // what scripts read stays clean
	}
	if err := d.showAll(out, open); err != nil {
		return err
	}
	if err := d.ask(ctx, cmd.InOrStdin(), out, len(open)); err != nil {
		return err
	}
	names := make([]string, len(open))
	shown := map[string]*approvals.Shown{}
	for i := range open {
		names[i] = open[i].Name
		shown[open[i].Name] = approvals.ShownAs(&open[i])
	}
	return d.decideAll(cmd, c, names, shown)
}

func (d *decider) showAll(w io.Writer, as []v1alpha1.Approval) error {
	screen, err := d.screen(w)
	if err != nil {
		return err
	}
	for i := range as {
		if err := screen.Show(w, &as[i], time.Now()); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

// ask is nil if the person at the terminal, or --yes, says to go on.
func (d *decider) ask(ctx context.Context, in io.Reader, out io.Writer, n int) error {
	if d.yes {
		return nil
	}
	if _, ok := d.isTerminal(in); !ok {
		return errors.New("there is no terminal to ask on, nothing is decided: look at the above and say --yes")
	}
	what := "this 1"
	if n > 1 {
		what = fmt.Sprintf("these %d", n)
	}
	ok, err := confirm(ctx, in, out, strings.ToLower(string(d.Verdict))+" "+what+"?")
	if err == nil && !ok {
		err = errors.New("not confirmed: nothing is decided")
	}
	return err
}

// decideAll decides one after the other; shown is what each must still be.
func (d *decider) decideAll(cmd *cobra.Command, c client.Client, names []string, shown map[string]*approvals.Shown) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	var failed failures
	var done []v1alpha1.Approval
	for i, name := range names {
		if ctx.Err() != nil {
			failed = append(failed, fmt.Errorf("interrupted: not decided: %s", strings.Join(names[i:], " ")))
			break
		}
		a, err := approvals.Decide(ctx, c, name, d.Decision, shown[name])
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if done = append(done, *a); d.output != "" {
			continue
		}
		if _, err := fmt.Fprintf(out, "%s %s: %s\n", d.outcome(a), a.Name, forTerminal(a.Spec.Action)); err != nil {
			return err
		}
	}
	if d.output != "" {
		if err := d.printSeveral(out, done, len(names)); err != nil {
			return err
		}
	}
	return failed.orNil()
}

// outcome says what the decision has come to.
func (d *decider) outcome(a *v1alpha1.Approval) string {
	switch {
	case d.Verdict == v1alpha1.VerdictDeny:
		return "denied"
	case d.BreakGlass:
		return "approved by break-glass"
	case a.Status.Phase == v1alpha1.PhasePending:
		return fmt.Sprintf("approved (%d of %d, still waits)", approvals.Votes(a), a.Spec.Quorum)
	}
	return "approved"
}
