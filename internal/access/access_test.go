package access

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func TestAllows(t *testing.T) {
	t.Parallel()
	roles := []string{"edit", "view"}
	in := func(namespaces ...string) v1alpha1.Access {
		return v1alpha1.Access{ClusterRole: "edit", Namespaces: namespaces}
	}
	many := make([]string, maxNamespaces+1)
	for i := range many {
		many[i] = "ns" + strings.Repeat("x", i)
	}
	tests := []struct {
		name   string
		limits Limits
		access v1alpha1.Access
		want   string // part of the refusal; empty means allowed
	}{
		{name: "an allowed role in any namespace", limits: Limits{ClusterRoles: roles}, access: in("shop", "bank")},
		{name: "no config allows nothing", access: in("shop"), want: "none of access.clusterRoles"},
		{name: "another role", limits: Limits{ClusterRoles: roles}, access: v1alpha1.Access{ClusterRole: "admin", Namespaces: []string{"shop"}}, want: "none of access.clusterRoles"},
		{name: "a role of another case", limits: Limits{ClusterRoles: roles}, access: v1alpha1.Access{ClusterRole: "Edit", Namespaces: []string{"shop"}}, want: "none of access.clusterRoles"},
		{name: "no namespace at all", limits: Limits{ClusterRoles: roles}, access: in(), want: "names no namespace"},
		{name: "too many namespaces", limits: Limits{ClusterRoles: roles}, access: in(many...), want: "more than 32 namespaces"},
		{name: "the cluster's own namespaces are out by default", limits: Limits{ClusterRoles: roles}, access: in("shop", "kube-system"), want: "does not allow a namespace"},
		{name: "tipstaff's namespace is out by default", limits: Limits{ClusterRoles: roles}, access: in("tipstaff-system"), want: "does not allow a namespace"},
		{name: "tipstaff's namespace is out, though a pattern matches it", limits: Limits{ClusterRoles: roles, Namespaces: []string{"*", "tipstaff-system"}}, access: in("tipstaff-system"), want: "does not allow a namespace"},
		{name: "a namespace that a pattern matches", limits: Limits{ClusterRoles: roles, Namespaces: []string{"team-*"}}, access: in("team-a")},
		{name: "a namespace that no pattern matches", limits: Limits{ClusterRoles: roles, Namespaces: []string{"team-*"}}, access: in("team-a", "shop"), want: "does not allow a namespace"},
		{name: "a pattern is for the whole name", limits: Limits{ClusterRoles: roles, Namespaces: []string{"team"}}, access: in("team-a"), want: "does not allow a namespace"},
		{name: "the whole cluster needs its own word", limits: Limits{ClusterRoles: roles, Namespaces: []string{"*"}}, access: in("*"), want: "access.clusterWide"},
		{name: "the whole cluster where it is allowed", limits: Limits{ClusterRoles: roles, ClusterWide: true}, access: in("*")},
		{name: "the whole cluster beside a namespace", limits: Limits{ClusterRoles: roles, ClusterWide: true}, access: in("shop", "*"), want: "stand alone"},
		{name: "a pattern in place of a namespace", limits: Limits{ClusterRoles: roles, Namespaces: []string{"*"}}, access: in("team-*"), want: "what is no namespace"},
		{name: "a path in place of a namespace", limits: Limits{ClusterRoles: roles, Namespaces: []string{"*"}}, access: in("../x"), want: "what is no namespace"},
		{name: "an unknown path", limits: Limits{ClusterRoles: roles}, access: v1alpha1.Access{ClusterRole: "edit", Namespaces: []string{"shop"}, Path: "both"}, want: "neither proxy nor direct"},
		{name: "the direct path", limits: Limits{ClusterRoles: roles}, access: v1alpha1.Access{ClusterRole: "edit", Namespaces: []string{"shop"}, Path: v1alpha1.PathDirect}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if err := tt.limits.Allows(tt.access); err != nil {
				got = err.Error()
			}
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}

func TestAllowsGrant(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		max  time.Duration
		ttl  time.Duration
		want string
	}{
		{"the default bound is eight hours", 0, 8 * time.Hour, ""},
		{"longer than the default bound", 0, 8*time.Hour + 1, "between 1s and 8h0m0s"},
		{"as long as the bound", time.Hour, time.Hour, ""},
		{"longer than the bound", time.Hour, time.Hour + time.Nanosecond, "between 1s and 1h0m0s"},
		{"no time at all", 0, 0, "between 1s"},
		{"less than no time", 0, -time.Hour, "between 1s"},
		{"less than a second", 0, time.Millisecond, "between 1s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Limits{ClusterRoles: []string{"edit"}, MaxGrant: metav1.Duration{Duration: tt.max}}
			g := &v1alpha1.Grant{Spec: v1alpha1.GrantSpec{ClusterRole: "edit", Namespaces: []string{"shop"}, TTL: metav1.Duration{Duration: tt.ttl}}}
			got := ""
			if err := l.AllowsGrant(g); err != nil {
				got = err.Error()
			}
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
			g.Spec.ClusterRole = "admin"
			if l.AllowsGrant(g) == nil {
				t.Error("a grant of a role that the config doesn't allow")
			}
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	d := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	tests := []struct {
		name   string
		limits Limits
		want   string // part of the fault; empty means fine
	}{
		{"nothing is fine", Limits{}, ""},
		{"roles and patterns are fine", Limits{ClusterRoles: []string{"edit", "team:x"}, Namespaces: []string{"team-?", "[a-c]*"}, Grace: d(time.Hour)}, ""},
		{"an empty role", Limits{ClusterRoles: []string{""}}, "clusterRoles[0]"},
		{"a role twice", Limits{ClusterRoles: []string{"edit", "edit"}}, "clusterRoles[1]"},
		{"cluster-admin", Limits{ClusterRoles: []string{"edit", "cluster-admin"}}, "clusterRoles[1]"},
		{"a role of Kubernetes' own parts", Limits{ClusterRoles: []string{"system:node"}}, "clusterRoles[0]"},
		{"a path", Limits{ClusterRoles: []string{"a/b"}}, "is no cluster role's name"},
		{"the folder above", Limits{ClusterRoles: []string{".."}}, "is no cluster role's name"},
		{"an empty pattern", Limits{Namespaces: []string{""}}, "namespaces[0]"},
		{"a broken pattern", Limits{Namespaces: []string{"a", "[b"}}, "namespaces[1]"},
		{"a negative grace", Limits{Grace: d(-1)}, "grace"},
		{"a grace of a week", Limits{Grace: d(7 * 24 * time.Hour)}, "grace"},
		{"a grant of a year", Limits{MaxGrant: d(365 * 24 * time.Hour)}, "maxGrant"},
		{"a negative retention", Limits{Retention: d(-1)}, "retention"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if agg := tt.limits.Validate(field.NewPath("access")).ToAggregate(); agg != nil {
				got = agg.Error()
			}
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	var none Limits
	if none.GrantBound() != 8*time.Hour || none.GraceOrDefault() != 5*time.Minute || none.RetentionOrDefault() != 24*time.Hour {
		t.Errorf("%s %s %s", none.GrantBound(), none.GraceOrDefault(), none.RetentionOrDefault())
	}
}
