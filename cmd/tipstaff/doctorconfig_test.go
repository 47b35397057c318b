package main

import (
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/authn"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/manifests"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

// rights are what the fake authorizer allows: "user verb resource/name
// namespace"; an empty name or namespace is a question about all.
type rights []string

// live is a cluster as it should be for the configuration that right gives.
func live(t *testing.T, s *sections, has rights, change func(*admissionregistrationv1.ValidatingWebhookConfiguration)) *fake.Clientset {
	t.Helper()
	hooks, err := manifests.WebhookConfiguration(&s.ClusterAgents, "https://127.0.0.1:8443", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range hooks.Webhooks { // as the API server fills in
		hooks.Webhooks[i].NamespaceSelector, hooks.Webhooks[i].ObjectSelector = &metav1.LabelSelector{}, &metav1.LabelSelector{}
	}
	if change != nil {
		change(hooks)
	}
	role := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	}
	c := fake.NewClientset(hooks,
		role("view", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods", "services"}, Verbs: []string{"get", "list"}}),
		role("deploy", rbacv1.PolicyRule{APIGroups: []string{"apps"}, Resources: []string{"*"}, Verbs: []string{"*"}}),
		role("edit", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}),
		role("acts-as", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"impersonate"}}),
		role("cluster-admin", rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "agents", Name: "coder"}},
	)
	c.PrependReactor("create", "subjectaccessreviews", func(a ktesting.Action) (bool, runtime.Object, error) {
		r := a.(ktesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		w := r.Spec.ResourceAttributes
		asked := strings.TrimSpace(r.Spec.User + " " + w.Verb + " " + w.Resource + "/" + w.Name + " " + w.Namespace)
		r.Status.Allowed = slices.Contains(has, asked)
		for _, g := range r.Spec.Groups {
			r.Status.Allowed = r.Status.Allowed || slices.Contains(has, strings.Replace(asked, r.Spec.User, g, 1))
		}
		r.Status.Reason = `RBAC: allowed by "x"`
		return true, r, nil
	})
	return c
}

// holding is a rule that waits for one group, and knows the others as break-glass.
func holding(approvers string, breakGlass ...string) func(*sections) {
	return func(s *sections) {
		s.Webhook = &webhook.Config{Rules: []webhook.Rule{{Name: "r", Verdict: webhook.Hold, Approvers: []string{approvers}, BreakGlass: breakGlass}}}
	}
}

func TestDoctorKnowsTheConfig(t *testing.T) {
	t.Parallel()
	const (
		self = "system:serviceaccount:tipstaff-system:tipstaff "
		bot  = "system:serviceaccount:ops:bot "
	)
	good := func() *sections {
		return &sections{Config: Config{
			ClusterAgents: clusteragents.Config{ServiceAccounts: []string{"ops/bot"}, Namespaces: []string{"agents"}, Groups: []string{"ai-agents"}},
			Access:        access.Limits{ClusterRoles: []string{"view", "deploy"}},
			Authn: &authn.Config{Profiles: []authn.Profile{{Name: "p", Access: []authn.ProfileAccess{
				{ClusterRoles: []string{"deploy"}, Path: v1alpha1.PathDirect}, {ClusterRoles: []string{"edit"}}, {ClusterRolesFrom: "claims.roles"},
			}}}},
		}}
	}
	sees := rights{self + "watch rolebindings/", self + "watch clusterrolebindings/", self + "delete rolebindings/", self + "delete clusterrolebindings/"}
	enough := rights{self + "bind clusterroles/view", self + "bind clusterroles/deploy", self + "create rolebindings/"}
	tests := []struct {
		name  string
		conf  func(*sections)
		live  func(*admissionregistrationv1.ValidatingWebhookConfiguration)
		has   rights
		lacks string // a right of those that are enough
		want  string // part of the only finding; empty means none
	}{
		{name: "an installation that is as its config wants it"},
		{
			name: "a webhook that was generated before the config changed", want: "webhook changes.tipstaff.dev in tipstaff has other matchConditions than the configuration gives: apply what `tipstaff manifests webhooks --config c.yaml` prints",
			live: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
				c.Webhooks[0].MatchConditions[0].Expression = (*clusteragents.Config)(nil).MatchExpression()
			},
		},
		{
			name: "a condition more, which keeps something away", want: "other matchConditions",
			live: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
				c.Webhooks[0].MatchConditions = append(c.Webhooks[0].MatchConditions, admissionregistrationv1.MatchCondition{Name: "x", Expression: "false"})
			},
		},
		{
			name: "a guard with a condition", want: "webhook guard.tipstaff.dev in tipstaff has other matchConditions",
			live: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
				c.Webhooks[1].MatchConditions = c.Webhooks[0].MatchConditions
			},
		},
		{
			name: "a webhook that is not asked about deletions", want: "other rules",
			live: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
				c.Webhooks[0].Rules[0].Operations = c.Webhooks[0].Rules[0].Operations[:2]
			},
		},
		{
			name: "a webhook that leaves namespaces out", want: "other selectors",
			live: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
				c.Webhooks[0].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
			},
		},
		{
			name: "no webhook", want: "no webhook changes.tipstaff.dev is registered",
			live: func(c *admissionregistrationv1.ValidatingWebhookConfiguration) { c.Webhooks = c.Webhooks[1:] },
		},
		{name: "a role that tipstaff can't bind", lacks: self + "bind clusterroles/deploy", want: `can't bind clusterroles "deploy": apply manifests/base/rbac.yaml and what ` + "`tipstaff manifests rbac --config c.yaml`"},
		{name: "no right to make bindings", lacks: self + "create rolebindings/", want: "can't create rolebindings"},
		{name: "a right to bind a role that the config doesn't allow", has: rights{self + "bind clusterroles/edit"}, want: `can bind clusterroles "edit", which the configuration doesn't allow, by: RBAC: allowed by "x"`},
		{name: "a right to bind cluster-admin", has: rights{self + "bind clusterroles/cluster-admin"}, want: `can bind clusterroles "cluster-admin"`},
		{name: "a right to escalate", has: rights{self + "escalate clusterroles/"}, want: "can escalate clusterroles"},
		{name: "a right to impersonate", has: rights{self + "impersonate groups/"}, want: "can impersonate groups"},
		{name: "bindings of the whole cluster that the config doesn't allow", has: rights{self + "create clusterrolebindings/"}, want: "can create clusterrolebindings"},
		{name: "bindings of the whole cluster that it allows", conf: func(s *sections) { s.Access.ClusterWide = true }, has: rights{self + "create clusterrolebindings/"}},
		{name: "bindings of the whole cluster that tipstaff can't make", conf: func(s *sections) { s.Access.ClusterWide = true }, want: "can't create clusterrolebindings"},
		{name: "nothing to bind needs nothing", conf: func(s *sections) { s.Access, s.Authn = access.Limits{}, nil }, lacks: "all"},
		{name: "leftovers that tipstaff can't remove", lacks: self + "delete clusterrolebindings/", want: "can't delete clusterrolebindings"},
		{name: "a role that is not there", conf: func(s *sections) { s.Access.ClusterRoles = append(s.Access.ClusterRoles, "gone") }, has: rights{self + "bind clusterroles/gone"}, want: `"gone" not found`},
		{
			name: "a profile that reads Secrets on the direct path", want: "cluster role edit of profile q lets agents get secrets on the direct path",
			conf: func(s *sections) {
				s.Authn.Profiles = append(s.Authn.Profiles, authn.Profile{Name: "q", Access: []authn.ProfileAccess{{ClusterRoles: []string{"edit"}, Path: v1alpha1.PathDirect}}})
			},
		},
		{
			name: "a claim that may name a role which acts as others", want: "cluster role acts-as of profile q lets agents impersonate serviceaccounts on the direct path",
			conf: func(s *sections) {
				s.Access.ClusterRoles = append(s.Access.ClusterRoles, "acts-as")
				s.Authn.Profiles = append(s.Authn.Profiles, authn.Profile{Name: "q", Access: []authn.ProfileAccess{{ClusterRolesFrom: "claims.roles", Path: v1alpha1.PathDirect}}})
			},
			has: rights{self + "bind clusterroles/acts-as"},
		},
		{name: "a service account that reads Secrets", has: rights{bot + "list secrets/"}, want: "system:serviceaccount:ops:bot can list secrets, by"},
		{name: "one that reads them where it lives", has: rights{bot + "get secrets/ ops"}, want: `system:serviceaccount:ops:bot can get secrets in namespace "ops"`},
		{name: "one of a namespace", has: rights{"system:serviceaccount:agents:coder patch secrets/ agents"}, want: `system:serviceaccount:agents:coder can patch secrets in namespace "agents"`},
		{name: "one by its namespace's group", has: rights{"system:serviceaccounts:ops impersonate users/"}, want: "system:serviceaccount:ops:bot can impersonate users"},
		{name: "approvers who may decide", conf: holding("sre"), has: rights{"sre approve approvals/", "sre update approvals/"}},
		{name: "approvers without the verb", conf: holding("sre"), has: rights{"sre update approvals/"}, want: `members of group "sre", whom rule "r" names, can't approve approvals: ` + "`kubectl create clusterrolebinding NAME --clusterrole=tipstaff-approver --group=\"sre\"`"},
		{name: "approvers who can't write it down", conf: holding("sre"), has: rights{"sre approve approvals/"}, want: `can't update approvals/status`},
		{name: "those who break the glass", conf: holding("sre", "leads"), has: rights{"sre approve approvals/", "sre update approvals/"}, want: `members of group "leads"`},
		{name: "those of the default", conf: func(s *sections) {
			s.Webhook = &webhook.Config{Default: webhook.Hold, Rules: []webhook.Rule{{Name: "a", Verdict: webhook.Allow}}}
		}, want: `members of group "tipstaff-approvers", whom rule "default" names`},
		{name: "a member of a group", has: rights{"ai-agents get secrets/"}, want: `members of group "ai-agents" can get secrets`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := good()
			if tt.conf != nil {
				tt.conf(s)
			}
			has := slices.Concat(sees, enough, tt.has)
			if tt.lacks == "all" {
				has = sees
			}
			has = slices.DeleteFunc(has, func(r string) bool { return r == tt.lacks })
			c := live(t, s, has, tt.live)
			var found []string
			for _, check := range configChecks(c, s, "c.yaml") {
				if err := check.run(t.Context()); err != nil {
					found = append(found, err.Error())
				}
			}
			if tt.want == "" && len(found) > 0 || tt.want != "" && (len(found) != 1 || !strings.Contains(found[0], tt.want)) {
				t.Errorf("found %q, want %q", found, tt.want)
			}
		})
	}
}
