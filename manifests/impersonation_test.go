package manifests

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func proxyRole(t *testing.T, impersonation string) rbacv1.ClusterRole {
	t.Helper()
	b, err := ProxyRBAC(impersonation)
	if err != nil {
		t.Fatal(err)
	}
	var role rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict(b, &role); err != nil || role.Name != ProxyRole || role.Kind != "ClusterRole" || role.APIVersion != "rbac.authorization.k8s.io/v1" {
		t.Fatalf("%s %v", b, err)
	}
	return role
}

// TestI1_TheProxyMayImpersonateWhatAgentsAreMadeOf, by either verb, and nothing beside.
func TestI1_TheProxyMayImpersonateWhatAgentsAreMadeOf(t *testing.T) {
	t.Parallel()
	whole := v1alpha1.Agent{User: "u", Issuer: "i", Run: "r", Model: "m", Owner: "o", Task: "t", CredentialID: "c"}
	for impersonation, verb := range map[string]string{ImpersonationConstrained: "impersonate:user-info", ImpersonationLegacy: "impersonate"} {
		var got []string
		for _, r := range proxyRole(t, impersonation).Rules {
			if slices.Contains(r.Verbs, "*") || slices.ContainsFunc(r.Verbs, func(v string) bool { return !strings.HasPrefix(v, "impersonate") }) {
				t.Errorf("%s: %v", impersonation, r)
			}
			if slices.Equal(r.Verbs, []string{verb}) {
				got = append(got, r.Resources...)
			}
		}
		want := []string{"users", "groups"}
		for key := range whole.Extra() {
			want = append(want, "userextras/"+key)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: on %v, want %v", impersonation, got, want)
		}
	}
	for _, r := range proxyRole(t, ImpersonationConstrained).Rules {
		if slices.Contains(r.Verbs, "impersonate") {
			t.Errorf("the constrained role has the old verb: %v", r)
		}
	}
	if _, err := ProxyRBAC("both"); err == nil || !strings.Contains(err.Error(), "one of constrained, legacy") {
		t.Error(err)
	}
}
