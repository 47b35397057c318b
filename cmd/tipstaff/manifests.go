package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/internal/config"
	"github.com/tipstaff-dev/tipstaff/manifests"
)

// sections is a Config of which only what the manifests follow from must hold:
// who writes them need not have the keys and certificates of who serves.
type sections struct {
	Config `json:",inline"`
}

// Validate reports what is wrong with the sections that the manifests follow from.
func (s *sections) Validate(*field.Path) field.ErrorList {
	return append(s.ClusterAgents.Validate(field.NewPath("clusterAgents")), s.Access.Validate(field.NewPath("access"))...)
}

// sections reads them from the file that --config names; without one they are empty.
func (o *options) sections() (*sections, error) {
	s := &sections{}
	if o.configFile == "" {
		return s, nil
	}
	if err := config.Load(o.configFile, s); err != nil {
		return nil, err
	}
	return s, nil
}

func manifestsCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifests",
		Short: "Print what is installed into a cluster, as the configuration needs it",
		Long: `Print what is installed into a cluster and its API server, as the
configuration's sections clusterAgents and access need it. Without --config it
is what manifests/ holds. Print and apply it again when they change; "tipstaff
doctor --config FILE" tells when the cluster has fallen behind.`,
		RunE: onlySubcommands,
	}
	cmd.AddCommand(webhooksManifestCommand(o), auditPolicyManifestCommand(o), rbacManifestCommand(o), flowControlManifestCommand(o))
	return cmd
}

func webhooksManifestCommand(o *options) *cobra.Command {
	var url, caFile string
	cmd := &cobra.Command{
		Use:   "webhooks",
		Short: "The ValidatingWebhookConfiguration, whose conditions choose the agents",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.sections()
			if err != nil {
				return err
			}
			if url == "" && caFile == "" {
				return write(cmd)(manifests.Webhooks(&s.ClusterAgents))
			}
			var ca []byte
			if caFile != "" {
				if ca, err = os.ReadFile(caFile); err != nil {
					return fmt.Errorf("--ca-file: %w", err)
				}
			}
			cfg, err := manifests.WebhookConfiguration(&s.ClusterAgents, url, ca)
			if err != nil {
				return err
			}
			return write(cmd)(yaml.Marshal(cfg))
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "where tipstaff serves outside the cluster, https://host:port (default: its Service)")
	cmd.Flags().StringVar(&caFile, "ca-file", "", "PEM certificates that sign tipstaff's own (default: what the API server trusts)")
	return cmd
}

func auditPolicyManifestCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "audit-policy",
		Short: "The API server's --audit-policy-file, which records all of what agents do",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.sections()
			if err != nil {
				return err
			}
			return write(cmd)(manifests.AuditPolicyFor(&s.ClusterAgents))
		},
	}
}

func rbacManifestCommand(o *options) *cobra.Command {
	var impersonation string
	cmd := &cobra.Command{
		Use:   "rbac",
		Short: "The rights beside manifests/base/rbac.yaml to bind what the section access allows",
		Long: `The rights beside manifests/base/rbac.yaml that Tipstaff needs to bind what the
section access allows.

With --impersonation it is also the role tipstaff-proxy, by which the proxy acts
as agents. "constrained" is what manifests/base/rbac.yaml has, for API servers from
1.36 on. "legacy" takes its place on older ones; SECURITY.md says what that costs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.sections()
			if err != nil {
				return err
			}
			out, err := manifests.BindingRBAC(&s.ClusterAgents, &s.Access)
			if err != nil || impersonation == "" {
				return write(cmd)(out, err)
			}
			role, err := manifests.ProxyRBAC(impersonation)
			if err != nil {
				return fmt.Errorf("--impersonation: %w", err)
			}
			return write(cmd)(bytes.Join([][]byte{out, role}, []byte("---\n")), nil)
		},
	}
	cmd.Flags().StringVar(&impersonation, "impersonation", "", "also the role by which the proxy acts as agents: constrained or legacy")
	return cmd
}

func flowControlManifestCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "flow-control",
		Short: "The flow schemas by which only agents queue where agents take all seats",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.sections()
			if err != nil {
				return err
			}
			return write(cmd)(manifests.FlowControl(&s.ClusterAgents))
		},
	}
}

// write prints what was made, unless making it failed.
func write(cmd *cobra.Command) func([]byte, error) error {
	return func(b []byte, err error) error {
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(b)
		return err
	}
}
