package bindings

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

func TestI7_WhatTheDirectPathMayNotHave(t *testing.T) {
	t.Parallel()
	rule := func(verbs, groups, resources string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: strings.Split(verbs, " "), APIGroups: strings.Split(groups, " "), Resources: strings.Split(resources, " ")}
	}
	pods := rule("get list watch", "", "pods configmaps")
	for _, tc := range []struct {
		name string
		rule rbacv1.PolicyRule
		want string // part of the refusal; empty: it may
	}{
		{"pods may be read", pods, ""},
		{"secrets may not be read", rule("get", "", "pods secrets"), "secrets"},
		{"nor patched, since the answer is the object", rule("patch", "", "secrets"), "secrets"},
		{"nor one of them by name", rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"one"}}, "secrets"},
		{"the kubelet's own interface shows every pod's environment", rule("get", "", "nodes/proxy"), "proxy"},
		{"a token is another identity", rule("create", "", "serviceaccounts/token"), "token"},
		{"every subresource is both", rule("get", "", "*/*"), "proxy"},
		{"a pod's log is neither", rule("get", "", "pods/log pods/status"), ""},
		{"everything is secrets too", rule("get", "*", "*"), "secrets"},
		{"another group's secrets are no Secrets", rule("get", "example.com", "secrets"), ""},
		{"everything of batch has what is masked there", rule("*", "batch", "*"), "databases"},
		{"issued certificates are masked", rule("get", "certificates.k8s.io", "certificatesigningrequests"), "certificatesigningrequests"},
		{"so is what the configuration names", rule("patch", "example.com", "databases"), "databases"},
		{"and its status", rule("get", "example.com", "databases/status"), "databases"},
		{"others of its group are not", rule("get", "example.com", "databasesets"), ""},
		{"service accounts may be changed", rule("create update", "", "serviceaccounts"), ""},
		{"but not impersonated, as the role edit allows", rule("impersonate", "", "serviceaccounts"), "impersonate"},
		{"nor under a star", rule("*", "", "users"), "impersonate"},
		{"nor in the constrained manner", rule("impersonate:user-info", "authentication.k8s.io", "users"), "impersonate"},
		{"a rule without verbs gives nothing", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := unmasked([]rbacv1.PolicyRule{pods, tc.rule}, []string{"databases"})
			if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want it to hold %q", got, tc.want)
			}
		})
	}
}

func TestEverythingOfAGroupMayBeHadWhereNothingOfItIsMasked(t *testing.T) {
	t.Parallel()
	if got := unmasked([]rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"apps"}, Resources: []string{"*"}}}, nil); got != "" {
		t.Error(got)
	}
}
