package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/authn"
)

func authnExportCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Write the issuers as Kubernetes' AuthenticationConfiguration",
		Long: "Write the issuers of the configuration as Kubernetes' AuthenticationConfiguration\n" +
			"(apiserver.config.k8s.io/v1), for an API server that shall verify agents' tokens itself.\n" +
			"The comment at the top of the file says which guarantees that gives up.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.loadConfig()
			if err != nil {
				return err
			}
			if c.Authn == nil {
				return errors.New("the configuration has no section authn")
			}
			file, notes, err := authn.Export(c.Authn)
			warn := cmd.ErrOrStderr()
			for _, note := range notes {
				if _, err := fmt.Fprintln(warn, "warning:", note); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintln(warn, "warning: an API server that uses this file gives up revocation by Tipstaff and the bindings of runs; its first lines say what else"); err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(file)
			return err
		},
	}
}
