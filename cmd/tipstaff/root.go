package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/tipstaff-dev/tipstaff/internal/config"
)

// version is set by the linker.
var version = "unknown"

// options are the flags that every subcommand takes.
type options struct {
	kube       *genericclioptions.ConfigFlags
	configFile string
	clickhouse string
	output     string
}

func rootCommand() *cobra.Command {
	o := &options{kube: genericclioptions.NewConfigFlags(true)}
	name := "tipstaff"
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-") {
		name = "kubectl tipstaff"
	}
	root := &cobra.Command{
		Use:           "tipstaff",
		Short:         "Identity, approval, masking and audit for AI agents on Kubernetes",
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
	}
	f := root.PersistentFlags()
	o.kube.AddFlags(f)
	f.StringVar(&o.configFile, "config", os.Getenv("TIPSTAFF_CONFIG"), "the configuration file ($TIPSTAFF_CONFIG)")
	f.StringVar(&o.clickhouse, "clickhouse", os.Getenv("TIPSTAFF_CLICKHOUSE"), "ClickHouse URL, http://user:password@host:port ($TIPSTAFF_CLICKHOUSE; default: the config's)")
	f.StringVarP(&o.output, "output", "o", "", "json for scripts; default is for people")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if o.output != "" && o.output != "json" {
			return fmt.Errorf("-o %s: only json is known", o.output)
		}
		return nil
	}
	root.AddCommand(
		serveCommand(o), migrateCommand(o), versionCommand(o), doctorCommand(o),
		approvalsCommand(o), approveCommand(o), denyCommand(o),
		revokeCommand(o), revocationsCommand(o), grantCommand(o), grantsCommand(o),
		authnCommand(o), manifestsCommand(o), runsCommand(o), queryCommand(o),
		rulesCommand(o),
	)
	return root
}

func authnCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "authn",
		Short: "Try a token on the configuration, or hand it over to the API server",
		RunE:  onlySubcommands,
	}
	cmd.AddCommand(authnTestCommand(o), authnExportCommand(o))
	return cmd
}

// onlySubcommands is what a command does that does nothing itself.
func onlySubcommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown command %q: see %s --help", args[0], cmd.CommandPath())
	}
	return cmd.Help()
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// oneLine is the error as its reader at a terminal needs it. A config's faults
// stay a line each.
func oneLine(err error) string {
	if errors.As(err, new(*config.Faults)) {
		return err.Error()
	}
	return "tipstaff: " + strings.Join(strings.Fields(err.Error()), " ")
}
