package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
)

// grantWait is how long `tipstaff grant` waits until the grant is in force.
const grantWait = 10 * time.Second

func grantsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "grants",
		Short: "List who was granted more access, until when and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			var list v1alpha1.GrantList
			if err := c.List(cmd.Context(), &list); err != nil {
				return fmt.Errorf("list grants: %w", err)
			}
			sort.SliceStable(list.Items, func(i, j int) bool { // those in force first, then the newest
				a, b := &list.Items[i], &list.Items[j]
				if x, y := a.Status.Phase == v1alpha1.GrantActive, b.Status.Phase == v1alpha1.GrantActive; x != y {
					return x
				}
				return b.CreationTimestamp.Before(&a.CreationTimestamp)
			})
			if o.forScripts() {
				list.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "GrantList"}
				for i := range list.Items {
					list.Items[i].TypeMeta, list.Items[i].ManagedFields = grantType, nil
				}
				return o.printAs(cmd.OutOrStdout(), &list)
			}
			return writeGrants(cmd.OutOrStdout(), list.Items)
		},
	}
}

// grantType is put back where a client leaves it out, for -o json.
var grantType = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Grant"}

func grantCommand(o *options) *cobra.Command {
	var spec v1alpha1.GrantSpec
	var ttl time.Duration
	var direct bool
	cmd := &cobra.Command{
		Use:   "grant RUN --issuer NAME | grant --agent USERNAME",
		Short: "Give a run or an agent a role in some namespaces for some time",
		Example: `  tipstaff grant 4711 --issuer github --role view --in shop --for 1h --reason "find out why checkout fails"
  tipstaff grant --agent agent:github:acme/shop --role edit --in shop --in shop-test --for 30m --reason "INC-312"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				spec.Run = args[0]
			}
			if err := checkGrantee(&spec); err != nil {
				return err
			}
			spec.TTL, spec.Path = metav1.Duration{Duration: ttl}, v1alpha1.PathProxy
			if direct {
				spec.Path = v1alpha1.PathDirect
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			g, err := makeGrant(cmd.Context(), c, spec)
			if err != nil {
				return err
			}
			if o.forScripts() {
				g.TypeMeta, g.ManagedFields = grantType, nil
				err = o.printAs(cmd.OutOrStdout(), g)
			} else if g.Status.Phase == v1alpha1.GrantActive {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "granted %s in %s to %s until %s (grant %s)\n",
					forTerminal(g.Spec.ClusterRole), grantPlaces(g), forTerminal(grantee(g)), g.Status.ExpiresAt.UTC().Format(time.RFC3339), g.Name)
				if err == nil && g.Status.Message != "" {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "but: %s\n", forTerminal(g.Status.Message))
				}
			}
			if err != nil {
				return err
			}
			switch g.Status.Phase {
			case v1alpha1.GrantActive:
				return nil
			case "":
				return fmt.Errorf("grant %s is made, but not in force after %s: does tipstaff run? %s", g.Name, grantWait, forTerminal(g.Status.Message))
			}
			return fmt.Errorf("grant %s is %s: %s", g.Name, g.Status.Phase, forTerminal(g.Status.Message))
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.Issuer, "issuer", "", "the run's issuer, by its name in Tipstaff's configuration")
	f.StringVar(&spec.Agent, "agent", "", "instead of a run: an agent's username, whatever its run")
	f.StringVar(&spec.ClusterRole, "role", "", "the cluster role, one of those that the configuration allows")
	f.StringSliceVar(&spec.Namespaces, "in", nil, "a namespace where it holds, or '*' for the whole cluster; may be repeated")
	f.DurationVar(&ttl, "for", time.Hour, "for how long, from now on")
	f.StringVar(&spec.Reason, "reason", "", "why; kept for the record")
	f.BoolVar(&direct, "direct", false, "also on the direct path, where nothing is masked; else through the proxy only")
	for _, name := range []string{"role", "in", "reason"} {
		_ = cmd.MarkFlagRequired(name) // fails only for a flag that doesn't exist
	}
	return cmd
}

// checkGrantee checks who is named, in the words of the command line. The rest is the
// API server's to check, and Tipstaff's.
func checkGrantee(spec *v1alpha1.GrantSpec) error {
	switch {
	case spec.Run == "" && spec.Agent == "":
		return errors.New("name a run and its --issuer, or an --agent")
	case spec.Run != "" && spec.Agent != "", spec.Agent != "" && spec.Issuer != "":
		return errors.New("name a run and its --issuer, or an --agent, not both")
	case spec.Run != "" && spec.Issuer == "":
		return errors.New("a run needs its --issuer: two issuers may have runs of the same id")
	}
	return nil
}

// makeGrant creates a grant and waits until Tipstaff says how it stands. An
// empty phase means that it didn't in time.
func makeGrant(ctx context.Context, c client.Client, spec v1alpha1.GrantSpec) (*v1alpha1.Grant, error) {
	g := &v1alpha1.Grant{ObjectMeta: metav1.ObjectMeta{GenerateName: "grant-"}, Spec: spec}
	if err := c.Create(ctx, g); err != nil {
		return nil, fmt.Errorf("create the grant: %w", err)
	}
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, grantWait, true, func(ctx context.Context) (bool, error) {
		if err := c.Get(ctx, client.ObjectKeyFromObject(g), g); err != nil {
			return false, fmt.Errorf("read grant %s: %w", g.Name, err)
		}
		return g.Status.Phase != "", nil
	})
	if err != nil && (!wait.Interrupted(err) || ctx.Err() != nil) {
		return nil, err
	}
	return g, nil
}

// writeGrants writes grants as a table for a terminal.
func writeGrants(w io.Writer, gs []v1alpha1.Grant) error {
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, "NAME\tPHASE\tROLE\tIN\tFOR\tPATH\tUNTIL\tREASON")
	for i := range gs {
		g := &gs[i]
		until := g.ExpiresAt()
		if g.Status.ExpiresAt != nil {
			until = g.Status.ExpiresAt.Time
		}
		reason := g.Spec.Reason
		if g.Status.Message != "" {
			reason += " (" + g.Status.Message + ")"
		}
		cells := []string{
			g.Name, string(g.Status.Phase), g.Spec.ClusterRole, grantPlaces(g), grantee(g), string(g.Spec.Path),
			until.UTC().Format(time.RFC3339), reason,
		}
		for j := range cells {
			cells[j] = forTerminal(cells[j])
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

func grantPlaces(g *v1alpha1.Grant) string { return strings.Join(g.Spec.Namespaces, ",") }

func grantee(g *v1alpha1.Grant) string {
	if g.Spec.Agent != "" {
		return g.Spec.Agent
	}
	return "run " + g.Spec.Run + " of " + g.Spec.Issuer
}

// forTerminal makes control and format characters visible: an agent may have written
// the text, and a terminal reads it.
func forTerminal(s string) string { return approvals.Plain(s) }
