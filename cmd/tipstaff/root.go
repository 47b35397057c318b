package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/yaml"

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
	color      string

	// isTerminal is another in tests.
	isTerminal func(stream any) (width int, ok bool)
}

func rootCommand() *cobra.Command {
	o := &options{kube: genericclioptions.NewConfigFlags(true), isTerminal: isTerminal}
	name := "tipstaff"
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-") {
		name = "kubectl tipstaff"
	}
	root := &cobra.Command{
		Use:   "tipstaff",
		Short: "Identity, approval, masking and audit for AI agents on Kubernetes",
		Long: `Identity, approval, masking and audit for AI agents on Kubernetes.

Exit codes: 0 it is done; 1 it is not, or not all of it, and one line on standard
error for each fault says why; 2 the configuration doesn't hold, and nothing was started,
or what was to be checked couldn't be.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
	}
	f := root.PersistentFlags()
	o.kube.AddFlags(f)
	f.StringVar(&o.configFile, "config", os.Getenv("TIPSTAFF_CONFIG"), "the configuration file ($TIPSTAFF_CONFIG)")
	f.StringVar(&o.clickhouse, "clickhouse", os.Getenv("TIPSTAFF_CLICKHOUSE"), "ClickHouse URL, http://user:password@host:port ($TIPSTAFF_CLICKHOUSE; default: the config's)")
	f.Lookup("clickhouse").DefValue = "" // it holds a password, and help prints defaults
	f.StringVarP(&o.output, "output", "o", "", "json or yaml for scripts; default is for people")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return o.checkOutput(cmd) }
	root.AddCommand(
		serveCommand(o), migrateCommand(o), versionCommand(o), doctorCommand(o),
		approvalsCommand(o), showCommand(o), approveCommand(o), denyCommand(o),
		revokeCommand(o), revocationsCommand(o), grantCommand(o), grantsCommand(o),
		authnCommand(o), manifestsCommand(o), runsCommand(o), queryCommand(o),
		rulesCommand(o), conformanceCommand(o), ingestCommand(o), quarantineCommand(o),
		verifyCommand(o),
	)
	addCompletion(root)
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

// outputsKey is the annotation of a command that knows other forms of -o than
// the root does, parted by commas.
const outputsKey = "tipstaff.dev/outputs"

func (o *options) checkOutput(cmd *cobra.Command) error {
	forms := cmd.Annotations[outputsKey]
	if forms == "" {
		forms = "json,yaml"
	}
	known := strings.Split(forms, ",")
	if o.output != "" && !slices.Contains(known, o.output) {
		return fmt.Errorf("-o %s: only %s is known here", o.output, strings.Join(known, " or "))
	}
	return nil
}

// forScripts reports whether the whole object was asked for.
func (o *options) forScripts() bool { return o.output == "json" || o.output == "yaml" }

// printAs writes v as -o says: yaml, else JSON.
func (o *options) printAs(w io.Writer, v any) error {
	if o.output != "yaml" {
		return printJSON(w, v)
	}
	b, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// failures are the errors of those that failed out of several.
type failures []error

func (f failures) Error() string { return errors.Join(f...).Error() }

func (f failures) Unwrap() []error { return f }

// orNil is f as an error, if there is one.
func (f failures) orNil() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// oneLine is the error as its reader at a terminal needs it. A config's faults
// stay a line each, and so do the failures of several.
func oneLine(err error) string {
	if errors.As(err, new(*config.Faults)) {
		return err.Error()
	}
	var several failures
	if errors.As(err, &several) {
		lines := make([]string, len(several))
		for i, e := range several {
			lines[i] = oneLine(e)
		}
		return strings.Join(lines, "\n")
	}
	return "tipstaff: " + forTerminal(strings.Join(strings.Fields(err.Error()), " "))
}
