package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// doctorTimeout bounds one check.
const doctorTimeout = 15 * time.Second

// finding is what one check of a live installation says.
type finding struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	// Unknown means that the caller may not look.
	Unknown bool `json:"unknown,omitempty"`
	// Message says what is wrong and what mends it; empty when it is right.
	Message string `json:"message,omitempty"`
}

// check is one thing that must hold on a live installation.
type check struct {
	name string
	run  func(context.Context) error
}

func doctorCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check a live installation, as the cluster admin",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks, err := o.checks(cmd.Context())
			if err != nil {
				return err
			}
			findings := examine(cmd.Context(), checks)
			out := cmd.OutOrStdout()
			if o.forScripts() {
				if err := o.printAs(out, findings); err != nil {
					return err
				}
			} else {
				for _, f := range findings {
					word := "WRONG"
					switch {
					case f.OK:
						word = "ok   "
					case f.Unknown:
						word = "?    "
					}
					fmt.Fprintf(out, "%s %s\n", word, f.Check)
					if f.Message != "" {
						fmt.Fprintf(out, "      %s\n", strings.ReplaceAll(f.Message, "\n", "\n      "))
					}
				}
			}
			return verdictOf(findings)
		},
	}
}

// examine makes one finding of each check.
func examine(ctx context.Context, checks []check) []finding {
	findings := make([]finding, len(checks))
	for i, c := range checks {
		ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
		err := c.run(ctx)
		cancel()
		findings[i] = finding{Check: c.name, OK: err == nil}
		if err != nil {
			findings[i].Message = err.Error()
			findings[i].Unknown = apierrors.IsForbidden(err) || errors.Is(err, approvals.ErrForbidden)
		}
	}
	return findings
}

// verdictOf is nil if all is right.
func verdictOf(findings []finding) error {
	wrong, unknown := 0, 0
	for _, f := range findings {
		switch {
		case f.Unknown:
			unknown++
		case !f.OK:
			wrong++
		}
	}
	var parts []string
	if wrong > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d checks found something wrong", wrong, len(findings)))
	}
	if unknown > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d may not look: that takes the cluster admin", unknown, len(findings)))
	}
	if len(parts) == 0 {
		return nil
	}
	return errors.New(strings.Join(parts, ", "))
}

func (o *options) checks(ctx context.Context) ([]check, error) {
	c, err := o.client()
	if err != nil {
		return nil, err
	}
	cfg, err := o.kube.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	cfg.QPS = -1 // a few hundred questions at once; the API server's own priority and fairness is the limit
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	if _, err := kube.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx); err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	s, err := o.sections()
	if err != nil {
		return nil, err
	}
	checks := []check{
		{"the API server serves Tipstaff's types", func(ctx context.Context) error {
			_, err := approvals.List(ctx, c)
			if errors.Is(err, approvals.ErrNotFound) || meta.IsNoMatchError(err) {
				return fmt.Errorf("%w: apply manifests/crds", err)
			}
			return err
		}},
		{"agents' changes are sent to a webhook that fails closed", func(ctx context.Context) error {
			return webhookCloses(ctx, kube, v1alpha1.WebhookName)
		}},
		{"changes of Tipstaff's own objects are sent to a guard that fails closed", func(ctx context.Context) error {
			return webhookCloses(ctx, kube, v1alpha1.GuardWebhookName)
		}},
		{"Tipstaff answers the API server", func(ctx context.Context) error { return guardAnswers(ctx, c) }},
		{"agents can't read Secrets on the direct path", func(ctx context.Context) error {
			return agentsMayNot(ctx, kube, authorizationv1.ResourceAttributes{Verb: "get", Version: "v1", Resource: "secrets"})
		}},
		{"agents can't write Secrets on the direct path", func(ctx context.Context) error {
			return agentsMayNot(ctx, kube, authorizationv1.ResourceAttributes{Verb: "patch", Version: "v1", Resource: "secrets"})
		}},
		{"agents can't impersonate", func(ctx context.Context) error {
			return agentsMayNot(ctx, kube, authorizationv1.ResourceAttributes{Verb: "impersonate", Version: "v1", Resource: "users"})
		}},
		{"agents can't go round through nodes/proxy", func(ctx context.Context) error {
			return agentsMayNot(ctx, kube, authorizationv1.ResourceAttributes{Verb: "get", Version: "v1", Resource: "nodes", Subresource: "proxy"})
		}},
		{"agents can't change what the API server asks webhooks", func(ctx context.Context) error {
			for _, what := range switches() {
				if err := agentsMayNot(ctx, kube, what); err != nil {
					return err
				}
			}
			return nil
		}},
		{"where agents take all their seats of the API server, only agents queue", func(ctx context.Context) error {
			return agentsQueueApart(ctx, kube, &s.ClusterAgents, o.configFile)
		}},
	}
	if o.configFile != "" {
		checks = append(checks, configChecks(kube, s, o.configFile)...)
	}
	if o.clickhouse == "" && o.configFile == "" {
		return checks, nil
	}
	return append(checks, check{"ClickHouse answers, and its schema is this version's", func(ctx context.Context) error {
		cfg, err := o.store()
		if err != nil {
			return err
		}
		conn, err := cfg.Open(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // only read from
		return schema.Check(ctx, conn)
	}}), nil
}

// webhookCloses checks that a webhook of that name is registered and that its
// failure refuses.
func webhookCloses(ctx context.Context, c kubernetes.Interface, name string) error {
	list, err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list webhook configurations: %w", err)
	}
	found := false
	for _, conf := range list.Items {
		for _, w := range conf.Webhooks {
			if w.Name != name {
				continue
			}
			found = true
			if w.FailurePolicy == nil || *w.FailurePolicy != admissionregistrationv1.Fail {
				return fmt.Errorf("webhook %s of %s has failurePolicy Ignore: set Fail, or changes pass while tipstaff is down", name, conf.Name)
			}
		}
	}
	if found {
		return nil
	}
	return fmt.Errorf("no webhook %s is registered: apply what `tipstaff manifests webhooks --config FILE` prints", name)
}

// identity is a user as the authorizer sees it.
type identity struct {
	user   string
	groups []string
}

// may asks the API server's authorizer what who may do; reason says by what.
func may(ctx context.Context, c kubernetes.Interface, who identity, what authorizationv1.ResourceAttributes) (allowed bool, reason string, err error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: who.user, Groups: append(slices.Clone(who.groups), "system:authenticated"), ResourceAttributes: &what,
	}}
	review, err = c.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, "", fmt.Errorf("ask what %s may do: %w", who.user, err)
	}
	return review.Status.Allowed, review.Status.Reason, nil
}

// guardAnswers asks for what the guard refuses to everyone but Tipstaff: to open
// an approval. It is a dry run.
func guardAnswers(ctx context.Context, c client.Client) error {
	a := &v1alpha1.Approval{ObjectMeta: metav1.ObjectMeta{Name: "doctor-probe"}, Spec: v1alpha1.ApprovalSpec{
		Fingerprint: v1alpha1.Fingerprint(strings.Repeat("0", 64)), Agent: v1alpha1.Agent{User: "doctor", Issuer: "doctor", Run: "doctor"},
		Request: v1alpha1.Request{Operation: "DELETE", Version: "v1", Resource: "namespaces"}, Action: "none: a question of doctor's", Rule: "doctor",
		Approvers: []string{"nobody"}, Quorum: 1, ExpiresAt: metav1.NewTime(time.Now().Add(time.Minute)),
	}}
	err := c.Create(ctx, a, client.DryRunAll)
	switch {
	case err == nil:
		return errors.New("an approval can be made by hand: the guard let it through; is it Tipstaff who answers as " + v1alpha1.GuardWebhookName + "?")
	case strings.Contains(err.Error(), v1alpha1.GuardWebhookName) && strings.Contains(err.Error(), "denied the request"):
		return nil
	case strings.Contains(err.Error(), "failed calling webhook"):
		return fmt.Errorf("it doesn't, so every change of agents is refused: start it, and look at its log: %w", err)
	}
	return fmt.Errorf("ask the guard: %w", err)
}

// agentsMayNot asks the API server what the group of all agents may do.
func agentsMayNot(ctx context.Context, c kubernetes.Interface, what authorizationv1.ResourceAttributes) error {
	allowed, reason, err := may(ctx, c, identity{v1alpha1.UserPrefix + "doctor:probe", []string{v1alpha1.GroupAgents}}, what)
	if err != nil {
		return err
	}
	if allowed {
		return fmt.Errorf("they can, by: %s: take that binding away from group %s", reason, v1alpha1.GroupAgents)
	}
	return nil
}
