package main

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
)

// completionTimeout is how long a person waits for the Tab key at the most.
const completionTimeout = 3 * time.Second

// kubectlCompletion is what kubectl looks for as kubectl_complete-tipstaff.
const kubectlCompletion = `#!/bin/sh
# Put this as an executable file named kubectl_complete-tipstaff on $PATH:
# kubectl calls it to complete "kubectl tipstaff ...".
exec kubectl-tipstaff __complete "$@"
`

// addCompletion adds cobra's command of that name, and kubectl to its shells.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.AddCommand(&cobra.Command{
				Use:   "kubectl",
				Short: "Print the script by which kubectl completes `kubectl tipstaff`",
				Long: `Print the script by which kubectl completes "kubectl tipstaff". kubectl finds it
by its name on $PATH:

  tipstaff completion kubectl > ~/bin/kubectl_complete-tipstaff
  chmod +x ~/bin/kubectl_complete-tipstaff`,
				Args: cobra.NoArgs,
				RunE: func(cmd *cobra.Command, _ []string) error {
					_, err := fmt.Fprint(cmd.OutOrStdout(), kubectlCompletion)
					return err
				},
			})
		}
	}
}

// pendingFor reads what can be completed; it has no error to show to anybody.
func (o *options) pendingFor(cmd *cobra.Command) []v1alpha1.Approval {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	c, err := o.client()
	if err != nil {
		return nil
	}
	list, err := approvals.Select(ctx, c, approvals.Filter{Phases: []v1alpha1.Phase{v1alpha1.PhasePending}})
	if err != nil {
		return nil
	}
	return list.Items
}

// completeNames completes names of undecided approvals that aren't named yet.
func (o *options) completeNames(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	named := map[string]bool{}
	for _, name := range namesOf(args) {
		named[name] = true
	}
	var out []cobra.Completion
	for _, a := range o.pendingFor(cmd) {
		if !named[a.Name] {
			out = append(out, cobra.CompletionWithDesc(a.Name, forTerminal(a.Spec.Action)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// tame are the runs that may stand on a command line as they are. A run's id is
// its platform's, so it may hold what a shell would run: such a one is typed.
var tame = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:/@+-]*$`)

// completeRuns completes runs that have something undecided.
func (o *options) completeRuns(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	seen := map[string]bool{}
	var out []cobra.Completion
	for _, a := range o.pendingFor(cmd) {
		if run := a.Spec.Agent.Run; tame.MatchString(run) && !seen[run] {
			seen[run] = true
			out = append(out, cobra.CompletionWithDesc(run, forTerminal(a.Spec.Agent.User)))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
