package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
)

// client reaches the API server as the caller's kubeconfig says.
func (o *options) client() (client.Client, error) {
	cfg, err := o.kube.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	cfg.UserAgent = "tipstaff/" + version
	return approvals.NewClient(cfg)
}

func approvalsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "approvals",
		Short: "List what waits for a decision, and what was decided",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := approvals.List(cmd.Context(), c)
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return approvals.WriteTable(cmd.OutOrStdout(), list.Items)
		},
	}
}

func approveCommand(o *options) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "approve NAME",
		Short: "Let the one request go through that this approval shows",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.decide(cmd, args[0], v1alpha1.VerdictApprove, reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; kept with the decision")
	return cmd
}

func denyCommand(o *options) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "deny NAME --reason TEXT",
		Short: "Refuse the request that this approval shows, for good",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.decide(cmd, args[0], v1alpha1.VerdictDeny, reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; the agent is told")
	_ = cmd.MarkFlagRequired("reason") // fails only for a flag that doesn't exist
	return cmd
}

func (o *options) decide(cmd *cobra.Command, name string, v v1alpha1.Verdict, reason string) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	a, err := approvals.Decide(cmd.Context(), c, name, v, reason, "kubectl")
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(cmd.OutOrStdout(), a)
	}
	word := map[v1alpha1.Verdict]string{v1alpha1.VerdictApprove: "approved", v1alpha1.VerdictDeny: "denied"}[v]
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s\n", word, a.Name, a.Spec.Action)
	return err
}
