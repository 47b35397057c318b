package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tipstaff-dev/tipstaff/internal/conformance"
)

// notRun is the error of a check that could not be made: its exit code differs
// from one that found something.
type notRun struct{ error }

func (e notRun) Unwrap() error { return e.error }

func conformanceCommand(o *options) *cobra.Command {
	var opts conformance.Options
	var plant string
	var all bool
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Plant secrets, read them back as an agent by every way, and report each leak",
		Long: `Plant secrets, read them back as an agent by every way, and report each leak.

--kubeconfig is the agent's. --plant-kubeconfig makes a namespace with random
values in every hiding place, and removes it at the end. A check is ok only if
the answer held the object and nothing of its values; what could not be read is
skipped, with the reason.

Exit codes: 0 nothing leaked; 1 something did; 2 the checks could not be made.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if opts.Agent, err = o.kube.ToRESTConfig(); err != nil {
				return notRun{fmt.Errorf("kubeconfig: %w", err)}
			}
			opts.Plant = rest.CopyConfig(opts.Agent)
			if plant != "" {
				if opts.Plant, err = clientcmd.BuildConfigFromFlags("", plant); err != nil {
					return notRun{fmt.Errorf("plant kubeconfig: %w", err)}
				}
			}
			opts.Progress = func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), text) }
			report, err := conformance.Run(cmd.Context(), opts)
			if report == nil {
				return notRun{err}
			}
			if o.forScripts() {
				err = errors.Join(err, o.printAs(cmd.OutOrStdout(), report))
			} else {
				err = errors.Join(err, report.Write(cmd.OutOrStdout(), all))
			}
			return conformanceVerdict(report, err)
		},
	}
	f := cmd.Flags()
	f.StringVar(&plant, "plant-kubeconfig", "", "the kubeconfig that plants and removes (default: the agent's)")
	f.StringVar(&opts.NamespacePrefix, "namespace-prefix", "tipstaff-conformance", "how the name of the namespace that is made begins")
	f.StringSliceVar(&opts.Only, "only", nil, "only these places, or place/read (patterns: 'configmap-*', '*/watch*')")
	f.BoolVar(&opts.CRD, "crd", false, "also make a kind of its own; the proxy's configuration must mask spec.credential of widgets.conformance.tipstaff.dev")
	f.BoolVar(&all, "all", false, "print every check, not only what leaked")
	return cmd
}

// conformanceVerdict is the report as an error, if it isn't good. err is what
// kept the run from its end.
func conformanceVerdict(report *conformance.Report, err error) error {
	switch {
	case report.Leaks+report.Overwritten > 0:
		found := fmt.Errorf("%d leaks, %d values overwritten", report.Leaks, report.Overwritten)
		if err != nil {
			return failures{found, err}
		}
		return found
	case err != nil:
		return notRun{err}
	case report.OK == 0:
		return notRun{errors.New("nothing could be read: see why the checks were skipped")}
	}
	return nil
}
