package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/manifests"
)

// configChecks are what must hold on a live installation by what the
// configuration says; file is its name, for what to do.
func configChecks(kube kubernetes.Interface, s *sections, file string) []check {
	return []check{
		{"the API server knows the configuration's agents", func(ctx context.Context) error {
			return webhooksAreGenerated(ctx, kube, s, file)
		}},
		{"Tipstaff can bind what the configuration allows, and nothing else", func(ctx context.Context) error {
			who, err := s.identity(ctx)
			if err != nil {
				return err
			}
			return bindsJustEnough(ctx, kube, s, who, file)
		}},
		{"the cluster roles that may be bound exist", func(ctx context.Context) error {
			for _, name := range s.Access.ClusterRoles {
				if _, err := kube.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{}); err != nil {
					return fmt.Errorf("access.clusterRoles: %w", err)
				}
			}
			return nil
		}},
		{"no profile lets agents round the proxy to Secrets or other identities", func(ctx context.Context) error {
			return profilesKeepTheEscort(ctx, kube, s)
		}},
		{"those whom rules name may decide", func(ctx context.Context) error {
			return approversMayDecide(ctx, kube, s)
		}},
		{"agents inside the cluster can't get at Secrets or other identities", func(ctx context.Context) error {
			return insidersKeepTheEscort(ctx, kube, s)
		}},
	}
}

// webhooksAreGenerated compares the live webhooks with what the configuration
// gives: all that decides which requests reach them.
func webhooksAreGenerated(ctx context.Context, c kubernetes.Interface, s *sections, file string) error {
	want, err := manifests.WebhookConfiguration(&s.ClusterAgents, "", nil)
	if err != nil {
		return err
	}
	list, err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list webhook configurations: %w", err)
	}
	for _, w := range want.Webhooks {
		found := false
		for _, conf := range list.Items {
			for _, live := range conf.Webhooks {
				if live.Name != w.Name {
					continue
				}
				found = true
				if what := drift(live, w); what != "" {
					return fmt.Errorf("webhook %s in %s has other %s than the configuration gives: apply what `tipstaff manifests webhooks --config %s` prints", w.Name, conf.Name, what, file)
				}
			}
		}
		if !found {
			return fmt.Errorf("no webhook %s is registered: apply what `tipstaff manifests webhooks --config %s` prints", w.Name, file)
		}
	}
	return nil
}

// drift names what makes live choose other requests than want; empty if nothing does.
func drift(live, want admissionregistrationv1.ValidatingWebhook) string {
	empty := func(sel *metav1.LabelSelector) bool {
		return sel == nil || len(sel.MatchLabels)+len(sel.MatchExpressions) == 0
	}
	switch {
	case !apiequality.Semantic.DeepEqual(live.MatchConditions, want.MatchConditions):
		return "matchConditions"
	case !apiequality.Semantic.DeepEqual(live.Rules, want.Rules):
		return "rules"
	case !apiequality.Semantic.DeepEqual(live.MatchPolicy, want.MatchPolicy):
		return "ways to match versions (matchPolicy)"
	case !empty(live.NamespaceSelector), !empty(live.ObjectSelector):
		return "selectors"
	}
	return ""
}

// identity is Tipstaff's own: that of the configuration's kubeconfig, else its
// service account.
func (s *sections) identity(ctx context.Context) (identity, error) {
	if s.Kubeconfig == "" {
		return serviceAccount("tipstaff-system", "tipstaff"), nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		return identity{}, fmt.Errorf("be Tipstaff, by the configuration's kubeconfig: %w", err)
	}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return identity{}, fmt.Errorf("be Tipstaff, by the configuration's kubeconfig: %w", err)
	}
	r, err := c.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return identity{}, fmt.Errorf("ask who Tipstaff is, by the configuration's kubeconfig: %w", err)
	}
	return identity{r.Status.UserInfo.Username, r.Status.UserInfo.Groups}, nil
}

func serviceAccount(namespace, name string) identity {
	return identity{v1alpha1.ServiceAccountPrefix + namespace + ":" + name, []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}}
}

// bindsJustEnough asks what Tipstaff may do about roles: bind those that the
// configuration allows and no other, and nothing that would make that moot.
func bindsJustEnough(ctx context.Context, c kubernetes.Interface, s *sections, who identity, file string) error {
	live, err := c.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list cluster roles: %w", err)
	}
	on := func(verb, resource, name string) authorizationv1.ResourceAttributes {
		return authorizationv1.ResourceAttributes{Verb: verb, Group: rbacv1.GroupName, Version: "v1", Resource: resource, Name: name}
	}
	type question struct {
		what authorizationv1.ResourceAttributes
		want bool
	}
	binds := len(s.Access.ClusterRoles) > 0
	var questions []question
	for _, name := range s.Access.ClusterRoles {
		questions = append(questions, question{on("bind", "clusterroles", name), true})
	}
	for _, resource := range []string{"rolebindings", "clusterrolebindings"} {
		questions = append(questions, question{on("watch", resource, ""), true}, question{on("delete", resource, ""), true})
	}
	if binds {
		questions = append(questions, question{on("create", "rolebindings", ""), true})
	}
	questions = append(questions,
		question{on("create", "clusterrolebindings", ""), binds && s.Access.ClusterWide},
		question{on("escalate", "clusterroles", ""), false},
		question{on("escalate", "roles", ""), false},
		question{on("bind", "roles", ""), false},
		question{authorizationv1.ResourceAttributes{Verb: "impersonate", Version: "v1", Resource: "users"}, false},
		question{authorizationv1.ResourceAttributes{Verb: "impersonate", Version: "v1", Resource: "groups"}, false},
		question{authorizationv1.ResourceAttributes{Verb: "impersonate", Version: "v1", Resource: "serviceaccounts"}, false},
	)
	for _, r := range live.Items {
		if !slices.Contains(s.Access.ClusterRoles, r.Name) {
			questions = append(questions, question{on("bind", "clusterroles", r.Name), false})
		}
	}
	for _, q := range questions {
		allowed, reason, err := may(ctx, c, who, q.what)
		switch {
		case err != nil:
			return err
		case q.want && !allowed:
			return fmt.Errorf("%s can't %s: apply manifests/base/rbac.yaml and what `tipstaff manifests rbac --config %s` prints", who.user, words(q.what), file)
		case !q.want && allowed:
			return fmt.Errorf("%s can %s, which the configuration doesn't allow, by: %s: take that right away", who.user, words(q.what), reason)
		}
	}
	return nil
}

// words names what is asked: get secrets in namespace "shop".
func words(what authorizationv1.ResourceAttributes) string {
	out := what.Verb + " " + what.Resource
	if what.Subresource != "" {
		out += "/" + what.Subresource
	}
	if what.Name != "" {
		out += fmt.Sprintf(" %q", what.Name)
	}
	if what.Namespace != "" {
		out += fmt.Sprintf(" in namespace %q", what.Namespace)
	}
	return out
}

// past are the rights that lead an agent past Tipstaff: to Secrets that nobody
// masks, to identities that nobody escorts, and to what admission webhooks never
// see: the kubelet by way of nodes/proxy, and the objects that say what they are
// asked (apiserver v0.37, admission/plugin/webhook/predicates/rules/rules.go:
// IsExemptAdmissionConfigurationResource).
func past() []authorizationv1.ResourceAttributes {
	var out []authorizationv1.ResourceAttributes
	for _, verb := range []string{"get", "list", "watch", "update", "patch", "delete", "deletecollection"} {
		out = append(out, authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "secrets"})
	}
	out = append(out, authorizationv1.ResourceAttributes{Verb: "create", Version: "v1", Resource: "serviceaccounts", Subresource: "token"})
	for _, who := range []string{"users", "groups", "serviceaccounts"} {
		out = append(out, authorizationv1.ResourceAttributes{Verb: "impersonate", Version: "v1", Resource: who})
	}
	// KEP-5284, constrained impersonation.
	for _, what := range [][2]string{{"impersonate:user-info", "users"}, {"impersonate:user-info", "groups"}, {"impersonate:serviceaccount", "serviceaccounts"}} {
		out = append(out, authorizationv1.ResourceAttributes{Verb: what[0], Group: "authentication.k8s.io", Version: "v1", Resource: what[1]})
	}
	out = append(out, authorizationv1.ResourceAttributes{Verb: "get", Version: "v1", Resource: "nodes", Subresource: "proxy"})
	return append(out, switches()...)
}

// switches are the rights to switch admission webhooks off, or to change what
// they see before they see it.
func switches() []authorizationv1.ResourceAttributes {
	var out []authorizationv1.ResourceAttributes
	for _, resource := range []string{
		"validatingwebhookconfigurations", "mutatingwebhookconfigurations", "validatingadmissionpolicies",
		"validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings",
	} {
		for _, verb := range []string{"create", "update", "patch", "delete", "deletecollection"} {
			out = append(out, authorizationv1.ResourceAttributes{Verb: verb, Group: "admissionregistration.k8s.io", Version: "v1", Resource: resource})
		}
	}
	return out
}

// profilesKeepTheEscort looks into the roles that profiles give on the direct path.
func profilesKeepTheEscort(ctx context.Context, c kubernetes.Interface, s *sections) error {
	if s.Authn == nil {
		return nil
	}
	var wrong []error
	for _, p := range s.Authn.Profiles {
		for _, a := range p.Access {
			if a.Path != v1alpha1.PathDirect {
				continue
			}
			roles := slices.Clone(a.ClusterRoles)
			if a.ClusterRolesFrom != "" {
				roles = append(roles, s.Access.ClusterRoles...) // a claim may name any of them
			}
			slices.Sort(roles)
			for _, name := range slices.Compact(roles) {
				role, err := c.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					continue // the check of the roles says so
				}
				if err != nil {
					return fmt.Errorf("read the roles of profile %q: %w", p.Name, err)
				}
				for _, what := range past() {
					if gives(role.Rules, what) {
						wrong = append(wrong, fmt.Errorf("cluster role %s of profile %s lets agents %s on the direct path: set path: proxy, or name a role without", name, p.Name, words(what)))
						break
					}
				}
			}
		}
	}
	return errors.Join(wrong...)
}

// gives reports whether rules hold a right on all objects or on some.
func gives(rules []rbacv1.PolicyRule, what authorizationv1.ResourceAttributes) bool {
	covers := func(list []string, s string) bool { return slices.Contains(list, s) || slices.Contains(list, "*") }
	return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
		resource := what.Resource
		if what.Subresource != "" {
			resource += "/" + what.Subresource
		}
		return covers(r.Verbs, what.Verb) && covers(r.APIGroups, what.Group) && covers(r.Resources, resource)
	})
}

// maxNamedRights bounds how many rights of one binding are named.
const maxNamedRights = 6

// insidersKeepTheEscort asks what the agents inside the cluster may do, whose
// requests never pass the proxy: everywhere, and where they live.
func insidersKeepTheEscort(ctx context.Context, c kubernetes.Interface, s *sections) error {
	type insider struct {
		identity
		home string
	}
	var all []insider
	for _, sa := range s.ClusterAgents.ServiceAccounts {
		ns, name, _ := strings.Cut(sa, "/")
		all = append(all, insider{serviceAccount(ns, name), ns})
	}
	for _, ns := range s.ClusterAgents.Namespaces {
		list, err := c.CoreV1().ServiceAccounts(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list service accounts of namespace %s: %w", ns, err)
		}
		for _, sa := range list.Items {
			all = append(all, insider{serviceAccount(ns, sa.Name), ns})
		}
	}
	for _, g := range s.ClusterAgents.Groups {
		all = append(all, insider{identity{"tipstaff-doctor-probe", []string{g}}, ""})
	}
	var wrong []error
	for _, in := range all {
		who := in.user
		if in.home == "" {
			who = fmt.Sprintf("members of group %q", in.groups[0])
		}
		can, reasons := map[string][]string{}, []string(nil) // by reason, in their order
		for _, what := range past() {
			where := []string{""}
			if in.home != "" && (what.Resource == "secrets" || what.Resource == "serviceaccounts") {
				where = append(where, in.home)
			}
			for _, what.Namespace = range where {
				allowed, reason, err := may(ctx, c, in.identity, what)
				if err != nil {
					return err
				}
				if allowed {
					if can[reason] == nil {
						reasons = append(reasons, reason)
					}
					can[reason] = append(can[reason], words(what))
					break
				}
			}
		}
		for _, reason := range reasons {
			list := can[reason]
			if more := len(list) - maxNamedRights; more > 0 {
				list = append(list[:maxNamedRights:maxNamedRights], fmt.Sprintf("and %d more", more))
			}
			wrong = append(wrong, fmt.Errorf("%s can %s, by: %s: take that binding away", who, strings.Join(list, "; "), reason))
		}
	}
	return errors.Join(wrong...)
}
