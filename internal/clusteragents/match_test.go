package clusteragents

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	admissioncel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// matcher is the API server's own evaluation of c's matchConditions.
func matcher(t testing.TB, c *Config) matchconditions.Matcher {
	t.Helper()
	condition := matchconditions.MatchCondition{Name: "agents", Expression: c.MatchExpression()}
	compiler := admissioncel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	evaluator := compiler.CompileCondition([]admissioncel.ExpressionAccessor{&condition}, admissioncel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.StoredExpressions)
	if errs := evaluator.CompilationErrors(); len(errs) > 0 {
		t.Fatalf("%s: %v", c.MatchExpression(), errs)
	}
	fail := admissionregistrationv1.Fail
	return matchconditions.NewMatcher(evaluator, &fail, "webhook", "validating", "tipstaff")
}

func matches(t testing.TB, m matchconditions.Matcher, u user.Info) bool {
	t.Helper()
	attr := admission.NewAttributesRecord(nil, nil, schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, "shop", "c",
		schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "", admission.Create, nil, false, u)
	versioned, err := admission.NewVersionedAttributes(attr, attr.GetKind(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := m.Match(t.Context(), versioned, nil, nil)
	if got.Error != nil {
		t.Fatalf("the API server would refuse everyone: %v", got.Error)
	}
	return got.Matches
}

func TestMatchExpressionOfNoConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []*Config{nil, {}} {
		if got := c.MatchExpression(); got != "'tipstaff:agents' in request.userInfo.groups" {
			t.Errorf("got %s", got)
		}
	}
}

func TestI5_TheAPIServerMatchesAgentsAndNobodyElse(t *testing.T) {
	t.Parallel()
	authenticated := func(name string, groups ...string) user.Info {
		return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
	}
	m := matcher(t, conf)
	for name, tt := range map[string]struct {
		user user.Info
		want bool
	}{
		"a token's agent":                        {authenticated("agent:ci:bot", v1alpha1.GroupAgents), true},
		"a named service account":                {pod("ops", "bot"), true},
		"one of a named namespace":               {pod("agents", "x"), true},
		"a member of a named group":              {authenticated("carol", "ai-agents"), true},
		"a member of a group with a quote in it": {authenticated("dave", "o'brien's \\ \"team\""), true},
		"another service account":                {pod("ops", "bot2"), false},
		"a controller":                           {pod("kube-system", "namespace-controller"), false},
		"a person":                               {authenticated("alice"), false},
		"nobody":                                 {&user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, false},
	} {
		if got := matches(t, m, tt.user); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
		if got := conf.IsAgent(tt.user.GetName(), tt.user.GetGroups()); got != tt.want {
			t.Errorf("%s: IsAgent says %v", name, got)
		}
	}
}

// What costs the API server too much refuses everyone.
func TestI5_TheLargestConfigIsCheapEnoughForAPersonInAThousandGroups(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 50)
	c := &Config{ServiceAccounts: manyNames("ops/"+long, maxEntries), Namespaces: manyNames(long, maxEntries), Groups: manyNames(long+long, maxEntries)}
	if errs := c.Validate(nil); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	m := matcher(t, c)
	if matches(t, m, &user.DefaultInfo{Name: "alice", Groups: manyNames("ldap-group-", 1000)}) {
		t.Error("a person is an agent")
	}
	if last := c.Groups[maxEntries-1]; !matches(t, m, &user.DefaultInfo{Name: "alice", Groups: append(manyNames("ldap-group-", 1000), last)}) {
		t.Error("the last group of the config makes no agent")
	}
}

// Whatever a config may hold, the API server's own condition and IsAgent say
// the same: nothing in a name ends its quotes.
func FuzzMatchExpression(f *testing.F) {
	for _, s := range []string{"ai-agents", `a' || true || 'b`, `\`, `\'`, `\\'`, "a\nb", "'''", `"`, "é", "\u2028", "a\\u0027b", ""} {
		f.Add(s, s, "carol")
		f.Add(s, "ai-agents", s)
	}
	f.Fuzz(func(t *testing.T, group, of, name string) {
		for _, s := range []string{group, of, name} {
			if !utf8.ValidString(s) || len(s) > 1<<10 {
				t.Skip()
			}
		}
		if name == "" {
			t.Skip("no user of the API server is without a name")
		}
		c := &Config{Groups: []string{group}, ServiceAccounts: []string{"ops/bot"}}
		valid := len(c.Validate(nil)) == 0
		if valid && (group == "" || strings.ContainsFunc(group, unicode.IsControl) || strings.HasPrefix(group, "system:masters")) {
			t.Fatalf("%q is taken as a group", group)
		}
		if !valid {
			return
		}
		u := &user.DefaultInfo{Name: name, Groups: []string{of, user.AllAuthenticated}}
		if got, want := matches(t, matcher(t, c), u), c.IsAgent(u.Name, u.Groups); got != want {
			t.Errorf("%s is %v for %q in %q, IsAgent says %v", c.MatchExpression(), got, name, of, want)
		}
	})
}

// No username and no group make an agent of what the config doesn't name, and
// no extra makes a run where there is no pod.
func FuzzAgentOf(f *testing.F) {
	f.Add("system:serviceaccount:ops:bot", "system:serviceaccounts:ops", "6f1c", "web-0")
	f.Add("system:serviceaccount:agents:x", "system:serviceaccounts:agents", "", "web-0")
	f.Add("system:serviceaccount:ops:bot:x", "tipstaff:agents", "a\x00b", "")
	f.Add("carol", "ai-agents", "6f1c", "p")
	f.Fuzz(func(t *testing.T, name, group, uid, podName string) {
		a, ok := conf.AgentOf(name, []string{group}, map[string][]string{extraPodUID: {uid}, extraPodName: {podName}, v1alpha1.ExtraRun: {"r"}})
		if ok != conf.IsAgent(name, []string{group}) {
			t.Fatalf("AgentOf says %v", ok)
		}
		byToken := group == v1alpha1.GroupAgents
		named := name == "system:serviceaccount:ops:bot" || slices.Contains([]string{"system:serviceaccounts:agents", "ai-agents", conf.Groups[1]}, group)
		if ok != (byToken || named) {
			t.Fatalf("%q in %q: %v", name, group, ok)
		}
		if !ok && a != (v1alpha1.Agent{}) || ok && a.User != name {
			t.Fatalf("got %+v", a)
		}
		if ok && !byToken && (a.Issuer != v1alpha1.IssuerKubernetes || a.Run != "" && (a.Run != uid || !strings.HasPrefix(name, v1alpha1.ServiceAccountPrefix))) {
			t.Fatalf("got %+v", a)
		}
	})
}
