package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
)

// client reaches the API server as the caller's kubeconfig says.
func (o *options) client() (client.WithWatch, error) {
	cfg, err := o.kube.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	cfg.UserAgent = "tipstaff/" + version
	return approvals.NewClient(cfg)
}

func approvalsCommand(o *options) *cobra.Command {
	var filter approvals.Filter
	var phases []string
	var watch bool
	cmd := &cobra.Command{
		Use:   "approvals",
		Short: "List what waits for a decision, and what was decided",
		Long: `List what waits for a decision first, and then what was decided, the newest first.
VOTES is how many people approved out of how many must. LEFT is the time in which it can
still be decided or used.

With --watch it goes on until Ctrl-C, with a row for each change.`,
		Example: `  tipstaff approvals --phase Pending --watch
  tipstaff approvals --run 4711 -o wide`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{outputsKey: "json,yaml,wide,name"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if filter.Phases, err = parsePhases(phases); err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			show := o.shower(cmd.OutOrStdout())
			if watch {
				return approvals.Watch(cmd.Context(), c, filter, show, func(err error) {
					fmt.Fprintln(cmd.ErrOrStderr(), oneLine(err))
				})
			}
			list, err := approvals.Select(cmd.Context(), c, filter)
			if err != nil {
				return err
			}
			if o.forScripts() {
				return o.printAs(cmd.OutOrStdout(), list)
			}
			return show(list.Items)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&watch, "watch", "w", false, "go on, and show each change")
	f.StringVar(&filter.Run, "run", "", "only those of this run")
	f.StringVar(&filter.Issuer, "issuer", "", "only those of runs of this issuer")
	f.StringSliceVar(&phases, "phase", nil, "only those in these phases: "+phaseNames(", ")+" (default all)")
	_ = cmd.RegisterFlagCompletionFunc("run", o.completeRuns)                                                                                    // fails only for a flag that doesn't exist
	_ = cmd.RegisterFlagCompletionFunc("phase", cobra.FixedCompletions(strings.Split(phaseNames(","), ","), cobra.ShellCompDirectiveNoFileComp)) // the same
	return cmd
}

// allPhases are in the order of an approval's life.
var allPhases = []v1alpha1.Phase{
	v1alpha1.PhasePending, v1alpha1.PhaseApproved, v1alpha1.PhaseUsed, v1alpha1.PhaseDenied, v1alpha1.PhaseExpired, v1alpha1.PhaseCancelled,
}

func phaseNames(sep string) string {
	names := make([]string, len(allPhases))
	for i, p := range allPhases {
		names[i] = string(p)
	}
	return strings.Join(names, sep)
}

func parsePhases(words []string) ([]v1alpha1.Phase, error) {
	var out []v1alpha1.Phase
	for _, w := range words {
		i := slices.IndexFunc(allPhases, func(p v1alpha1.Phase) bool { return strings.EqualFold(string(p), w) })
		if i < 0 {
			return nil, fmt.Errorf("--phase %q: one of %s", w, phaseNames(", "))
		}
		out = append(out, allPhases[i])
	}
	return out, nil
}

// shower writes approvals as -o says, the next ones below those before.
func (o *options) shower(w io.Writer) func([]v1alpha1.Approval) error {
	columns, _ := o.isTerminal(w)
	table := &approvals.Table{Out: w, Wide: o.output == "wide", Columns: columns}
	documents := 0
	rows := map[string]string{} // what stands in the last row of each
	return func(as []v1alpha1.Approval) error {
		if !o.forScripts() && o.output != "name" {
			changed := slices.DeleteFunc(slices.Clone(as), func(a v1alpha1.Approval) bool {
				row := fmt.Sprint(a.Status.Phase, approvals.Votes(&a))
				same := rows[a.Name] == row
				rows[a.Name] = row
				return same
			})
			if len(changed) == 0 && len(as) > 0 {
				return nil
			}
			return table.Write(changed, time.Now())
		}
		for i := range as {
			if documents++; documents > 1 && o.output == "yaml" {
				if _, err := fmt.Fprintln(w, "---"); err != nil {
					return err
				}
			}
			if err := o.printOne(w, &as[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

// printOne writes one approval for scripts.
func (o *options) printOne(w io.Writer, a *v1alpha1.Approval) error {
	if o.output == "name" {
		_, err := fmt.Fprintf(w, "approval.%s/%s\n", v1alpha1.Group, a.Name)
		return err
	}
	return o.printAs(w, a)
}

// printSeveral writes one approval as itself, several as a list.
func (o *options) printSeveral(w io.Writer, as []v1alpha1.Approval, asked int) error {
	switch {
	case o.output == "name":
		return o.shower(w)(as)
	case asked == 1 && len(as) == 0:
		return nil // its error says it all
	case asked == 1:
		return o.printAs(w, &as[0])
	}
	return o.printAs(w, approvals.NewList(as))
}

// namesOf are approvals' names as kubectl and -o name write them too:
// approval.tipstaff.dev/NAME, approval/NAME, approvals/NAME, apr/NAME.
func namesOf(args []string) []string {
	names := slices.Clone(args)
	for i, arg := range args {
		kind, name, ok := strings.Cut(arg, "/")
		switch strings.TrimSuffix(kind, "."+v1alpha1.Group) {
		case "approval", "approvals", "apr":
			if ok {
				names[i] = name
			}
		}
	}
	return names
}

// checkNames refuses what can't be meant: a script's variable that is unset, or
// one approval twice.
func checkNames(names []string) error {
	seen := map[string]bool{}
	for _, name := range names {
		switch {
		case name == "":
			return errors.New("a name is empty")
		case seen[name]:
			return errors.New("a name is given twice")
		}
		seen[name] = true
	}
	return nil
}

func showCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME...",
		Short: "Show everything about approvals: who asks, for what, who decided, and the whole change",
		Long: `Show everything about approvals: who asks, for what, who decided, and the change.

A character that a terminal would not show as one is shown as its escape (\u202e), a tab as
an arrow. On a terminal a long line goes on behind "↪ ", so each line of the change starts
with its own sign and nothing else does.`,
		Args:              cobra.MinimumNArgs(1),
		Annotations:       map[string]string{outputsKey: "json,yaml,name"},
		ValidArgsFunction: o.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			names := namesOf(args)
			if err := checkNames(names); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			screen, err := o.screen(out)
			if err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			var failed failures
			var found []v1alpha1.Approval
			for _, name := range names {
				a, err := approvals.Find(cmd.Context(), c, name)
				if err != nil {
					failed = append(failed, err)
					continue
				}
				if found = append(found, *a); o.output != "" {
					continue
				}
				if len(found) > 1 {
					fmt.Fprintln(out)
				}
				if err := screen.Show(out, a, time.Now()); err != nil {
					return err
				}
			}
			if o.output != "" {
				if err := o.printSeveral(out, found, len(args)); err != nil {
					return err
				}
			}
			return failed.orNil()
		},
	}
	o.colorFlag(cmd)
	return cmd
}
