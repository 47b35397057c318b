package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
)

func revokeCommand(o *options) *cobra.Command {
	var spec v1alpha1.RevocationSpec
	var until string
	var allRuns bool
	var lasts time.Duration
	cmd := &cobra.Command{
		Use:   "revoke [RUN] --reason TEXT",
		Short: "End what runs may do: their tokens, changes and open streams through the proxy",
		Long: `End what runs may do: their tokens and changes are refused, their streams
through the proxy are cut, and what they asked for is cancelled.

Who is revoked must match all of RUN and the flags that are given. A revocation
ends when it is deleted (kubectl delete revocation NAME), or at --until.`,
		Example: `  tipstaff revoke 8731940 --issuer github --reason "deletes what it should not"
  tipstaff revoke --owner ann@example.com --for 2h --reason "laptop stolen"
  tipstaff revoke --credential-id JTI=0f3e… --reason "token leaked"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// A script's variable that is unset must not revoke more than was meant.
			if len(args) > 0 {
				if spec.Run = args[0]; spec.Run == "" {
					return errors.New("RUN is empty: leave it out to revoke every run that the flags name")
				}
			}
			if only := cmd.Flags().Changed("issuer") && spec == (v1alpha1.RevocationSpec{Issuer: spec.Issuer, Reason: spec.Reason}); only && !allRuns {
				return errors.New("--issuer alone revokes every run of that issuer: name a RUN, or say --all-runs")
			}
			for _, name := range []string{"issuer", "subject", "agent", "owner", "credential-id", "until"} {
				if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
					return fmt.Errorf("--%s is empty: leave it out", name)
				}
			}
			var err error
			if spec.Until, err = endOf(until, lasts, cmd.Flags().Changed("for"), time.Now()); err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			r, err := approvals.Revoke(cmd.Context(), c, spec)
			if err != nil {
				return err
			}
			if o.forScripts() {
				return o.printAs(cmd.OutOrStdout(), r)
			}
			when := ""
			if r.Spec.Until != nil {
				when = " until " + r.Spec.Until.UTC().Format(time.RFC3339)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "revoked %s%s (revocation %s)\n", approvals.Who(r.Spec), when, r.Name)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.Reason, "reason", "", "why; the run is told")
	f.StringVar(&spec.Issuer, "issuer", "", "runs of this issuer, by its name in the configuration")
	f.BoolVar(&allRuns, "all-runs", false, "with --issuer alone: every run of that issuer")
	f.StringVar(&spec.Subject, "subject", "", "runs of this subject, the last part of an agent's username")
	f.StringVar(&spec.Agent, "agent", "", "runs of the agent with this username")
	f.StringVar(&spec.Owner, "owner", "", "runs on behalf of this person")
	f.StringVar(&spec.CredentialID, "credential-id", "", "runs with this token, as audit events name it: JTI=…")
	f.DurationVar(&lasts, "for", 0, "for so long, such as 2h; the default is for good")
	f.StringVar(&until, "until", "", "until then, such as 2026-01-02T15:04:05Z")
	_ = cmd.MarkFlagRequired("reason") // fails only for a flag that doesn't exist
	cmd.MarkFlagsMutuallyExclusive("for", "until")
	return cmd
}

// endOf is when a revocation ends, by at most one of the two flags; nil means never.
func endOf(until string, lasts time.Duration, limited bool, now time.Time) (*metav1.Time, error) {
	at := now.Add(lasts)
	switch {
	case until != "":
		var err error
		if at, err = time.Parse(time.RFC3339, until); err != nil {
			return nil, fmt.Errorf("--until %s: a time such as %s", until, now.UTC().Format(time.RFC3339))
		}
	case !limited:
		return nil, nil
	case lasts < time.Second:
		return nil, fmt.Errorf("--for %s: at least a second", lasts)
	}
	t := metav1.NewTime(at)
	return &t, nil
}

func revocationsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "revocations",
		Short: "List who is revoked, for how long and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := approvals.ListRevocations(cmd.Context(), c)
			if err != nil {
				return err
			}
			if o.forScripts() {
				return o.printAs(cmd.OutOrStdout(), list)
			}
			return approvals.WriteRevocations(cmd.OutOrStdout(), list.Items, time.Now())
		},
	}
}
