package authn

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

var testLimits = access.Limits{ClusterRoles: []string{"view", "edit"}, Namespaces: []string{"team-*"}}

// TestI1_AProfileGivesOnlyWhatTheLimitsAllow changes what a token asks for.
func TestI1_AProfileGivesOnlyWhatTheLimitsAllow(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	profiles := []Profile{{Name: "default", Access: []ProfileAccess{
		{ClusterRoles: []string{"view"}, Namespaces: []string{"team-a"}, Path: v1alpha1.PathDirect},
		{ClusterRolesFrom: "claims.?roles.orValue([])", Namespaces: []string{"team-a"}, NamespacesFrom: "claims.?namespaces.orValue([])"},
	}}, {Name: "narrow", Access: []ProfileAccess{{ClusterRoles: []string{"edit"}, NamespacesFrom: "[claims.environment]"}}}}
	view := v1alpha1.Access{ClusterRole: "view", Namespaces: []string{"team-a"}, Path: v1alpha1.PathDirect}
	edit := func(namespaces ...string) v1alpha1.Access {
		return v1alpha1.Access{ClusterRole: "edit", Namespaces: namespaces, Path: v1alpha1.PathProxy}
	}
	const from = `issuer "ci": profile "default": access[1]`
	for _, row := range []struct {
		name    string
		changes claims
		want    []v1alpha1.Access
		reason  string
	}{
		{"fixed access alone", claims{}, []v1alpha1.Access{view}, ""},
		{"roles and namespaces of claims are added", claims{"roles": []string{"edit"}, "namespaces": []string{"team-b", "team-a"}},
			[]v1alpha1.Access{view, edit("team-a", "team-b")}, ""},
		{"a profile that isn't configured gives nothing", claims{"profile": "other"}, nil, ""},
		{"a namespace of a claim", claims{"profile": "narrow", "environment": "team-x"}, []v1alpha1.Access{edit("team-x")}, ""},
		{"a role beyond the limits refuses", claims{"roles": []string{"cluster-admin"}}, nil, from + ": the cluster role is none of access.clusterRoles"},
		{"a namespace beyond the limits refuses", claims{"roles": []string{"edit"}, "namespaces": []string{"kube-system"}}, nil,
			from + ": access.namespaces does not allow a namespace that it names"},
		{"everywhere refuses", claims{"roles": []string{"edit"}, "namespaces": []string{"*"}}, nil, from + ".namespacesFrom gives '*': the whole cluster is for the configuration to give, not for a claim"},
		{"everywhere alone refuses", claims{"profile": "narrow", "environment": "*"}, nil,
			`issuer "ci": profile "narrow": access[0].namespacesFrom gives '*': the whole cluster is for the configuration to give, not for a claim`},
		{"what is no namespace refuses", claims{"profile": "narrow", "environment": "team-a/../kube-system"}, nil,
			`issuer "ci": profile "narrow": access[0]: it names what is no namespace`},
		{"a list of other things refuses", claims{"roles": []int{1}}, nil, from + ".clusterRolesFrom is not a list of strings"},
		{"a string where a list belongs refuses", claims{"roles": "edit"}, nil, from + ".clusterRolesFrom is not a list of strings"},
		{"a long list refuses", claims{"roles": slices.Repeat([]string{"edit"}, maxListLength+1)}, nil, from + ".clusterRolesFrom is longer than 64"},
		{"a missing claim refuses", claims{"profile": "narrow"}, nil, `issuer "ci": profile "narrow": access[0].namespacesFrom ` + errCannot.Error()},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := &ensured{}
			a := withProfiles(t, b, &logs{}, testLimits, profiles, p.issuer())
			c := claimsOf(p.good()).but(row.changes)
			_, reason := authenticate(t, a, k.token(t, c))
			if reason != row.reason {
				t.Fatalf("got %q, want %q", reason, row.reason)
			}
			if reason != "" {
				if b.count() != 0 {
					t.Error("something is bound for a refused token")
				}
				return
			}
			exp, _ := c["exp"].(int64)
			want := time.Unix(exp, 0).Add(defaultClockSkew)
			if got := b.calls[0]; !reflect.DeepEqual(got.access, row.want) || !got.until.Equal(want) || got.agent.Run != "run-7" {
				t.Errorf("ensured %+v, want %+v until %s", got, row.want, want)
			}
		})
	}
}

func TestARevokedRunGetsNoBindings(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	b := &ensured{}
	a := withProfiles(t, b, &logs{}, testLimits, nil, p.issuer())
	if _, reason := authenticate(t, a, k.token(t, claimsOf(p.good()).but(claims{"run_id": "run-revoked"}))); reason == "" || b.count() != 0 {
		t.Errorf("%q, ensured %d times", reason, b.count())
	}
}

func TestRequiredClaimsAndRules(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	is := p.issuer()
	is.RequiredClaims = map[string]string{"tenant": "ours"}
	is.ClaimValidationRules = []ValidationRule{{Expression: `claims.?event.orValue("") != "pull_request"`, Message: "not for pull requests"}, {Expression: `claims.n > 1`}}
	is.UserValidationRules = []ValidationRule{
		{Expression: `user.username.startsWith("agent:ci:")`}, {Expression: `user.groups.exists(g, g == "tipstaff:agents") && user.uid == ""`},
		{Expression: `!("tipstaff.dev/task" in user.extra) || user.extra["tipstaff.dev/task"][0] != "forbidden"`, Message: "no such task"},
	}
	is.Mappings[0].Name = "jobs"
	a := connected(t, &logs{}, is)
	good := claims{"tenant": "ours", "n": 2}
	for _, row := range []struct {
		name    string
		changes claims
		want    string
	}{
		{"all hold", claims{}, ""},
		{"a required claim is missing", claims{"tenant": nil}, "requiredClaims[tenant]: the claim is missing or has another value"},
		{"a required claim has another value", claims{"tenant": "OURS"}, "requiredClaims[tenant]: the claim is missing or has another value"},
		{"a required claim is a list", claims{"tenant": []string{"ours"}}, "requiredClaims[tenant]: the claim is missing or has another value"},
		{"a rule does not hold", claims{"event": "pull_request"}, "claimValidationRules[0]: not for pull requests"},
		{"a rule without a message shows itself", claims{"n": 1}, "claimValidationRules[1]: expression does not hold: claims.n > 1"},
		{"a rule fails", claims{"n": "many"}, "claimValidationRules[1]: " + errCannot.Error()},
		{"a rule on the user does not hold", claims{"task": "forbidden"}, "userValidationRules[2]: no such task"},
		{"a mapping is called by its name", claims{"run_id": ""}, "jobs: run is empty: an agent without a run is refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := claimsOf(claimsOf(p.good()).but(good)).but(row.changes)
			want := row.want
			if want != "" {
				want = `issuer "ci": ` + want
			}
			if _, reason := authenticate(t, a, k.token(t, c)); reason != want {
				t.Errorf("got %q, want %q", reason, want)
			}
		})
	}
}

// TestEveryFaultOfTheNewerFieldsIsReported is TestEveryFaultIsReportedAtItsField
// for profiles, rules, key-set files and names.
func TestEveryFaultOfTheNewerFieldsIsReported(t *testing.T) {
	t.Parallel()
	ok := []Mapping{{Run: "'r'"}}
	bad := Config{
		Listen: ":8443",
		Issuers: []Issuer{
			{
				Name: "kubernetes", URL: "https://a.example", Audiences: []string{"a"},
				RequiredClaims:       map[string]string{"": "x"},
				ClaimValidationRules: []ValidationRule{{}, {Expression: "claims.ok"}, {Expression: "user.username == ''"}, {Expression: "true"}, {Expression: "true"}},
				UserValidationRules:  []ValidationRule{{Expression: "claims.sub == ''"}, {Expression: "user.name == ''"}, {Expression: "user.username"}},
				Mappings:             []Mapping{{Name: "one", Run: "'r'"}, {Name: "one", Run: "'r'"}, {Name: "Two", Run: "'r'"}},
			},
			{Name: "b", URL: "https://b.example", KeySetFile: "/nowhere/keys.json", CAFile: "/nowhere/ca.pem", Audiences: []string{"a"}, Mappings: ok},
			{Name: "c", URL: "has space", KeySetFile: "/nowhere/keys.json", Audiences: []string{"a"}, Mappings: ok},
			{Name: "d", URL: "https://b.example", Audiences: []string{"a"}, Mappings: ok},
		},
		Profiles: []Profile{
			{},
			{Name: "A", Access: []ProfileAccess{{}}},
			{Name: "p", Access: []ProfileAccess{
				{ClusterRoles: []string{"view", "cluster-admin"}, Namespaces: []string{"team-a", "kube-system"}, Path: "sideways"},
				{ClusterRoles: []string{"view"}, Namespaces: []string{"*"}, NamespacesFrom: "claims.ns"},
				{ClusterRolesFrom: "claims.", NamespacesFrom: "'x'"},
				{ClusterRolesFrom: "[1]", NamespacesFrom: "[claims.ns]"},
			}},
			{Name: "p", Access: []ProfileAccess{{ClusterRoles: []string{"view"}, Namespaces: []string{"team-a"}}}},
		},
	}
	got := map[string]string{}
	for _, e := range bad.Validate(field.NewPath("authn"), &testLimits) {
		if !strings.HasPrefix(e.Field, "authn.tls") {
			got[strings.TrimPrefix(e.Field, "authn.")+" "+string(e.Type)] = e.Detail
		}
	}
	want := map[string]string{
		"issuers[0].name FieldValueInvalid":                                 "reserved",
		"issuers[0].requiredClaims[] FieldValueRequired":                    "claim",
		"issuers[0].claimValidationRules[0].expression FieldValueRequired":  "condition",
		"issuers[0].claimValidationRules[1].expression FieldValueInvalid":   "must give a bool whatever the claims are",
		"issuers[0].claimValidationRules[2].expression FieldValueInvalid":   "undeclared reference",
		"issuers[0].claimValidationRules[4].expression FieldValueDuplicate": "",
		"issuers[0].userValidationRules[0].expression FieldValueInvalid":    "undeclared reference",
		"issuers[0].userValidationRules[1].expression FieldValueInvalid":    "undefined field",
		"issuers[0].userValidationRules[2].expression FieldValueInvalid":    "must evaluate to bool",
		"issuers[0].mappings[1].name FieldValueDuplicate":                   "",
		"issuers[0].mappings[2].name FieldValueInvalid":                     "lower-case",
		"issuers[1].keySetFile FieldValueInvalid":                           "no such file",
		"issuers[1].caFile FieldValueForbidden":                             "never asked",
		"issuers[1].caFile FieldValueInvalid":                               "no such file",
		"issuers[2].keySetFile FieldValueInvalid":                           "no such file",
		"issuers[2].url FieldValueInvalid":                                  "without spaces",
		"issuers[3].url FieldValueDuplicate":                                "",
		"profiles[0].name FieldValueRequired":                               "mapping",
		"profiles[0].access FieldValueRequired":                             "what runs",
		"profiles[1].name FieldValueInvalid":                                "characters",
		"profiles[1].access[0].clusterRoles FieldValueRequired":             "clusterRolesFrom",
		"profiles[1].access[0].namespaces FieldValueRequired":               "namespacesFrom",
		"profiles[2].access[0].clusterRoles[1] FieldValueInvalid":           "none of access.clusterRoles",
		"profiles[2].access[0].namespaces[1] FieldValueInvalid":             "does not allow",
		"profiles[2].access[0].path FieldValueNotSupported":                 "direct",
		"profiles[2].access[1].namespaces[0] FieldValueInvalid":             "clusterWide",
		"profiles[2].access[1].namespacesFrom FieldValueForbidden":          "already",
		"profiles[2].access[2].clusterRolesFrom FieldValueInvalid":          "Syntax error",
		"profiles[2].access[2].namespacesFrom FieldValueInvalid":            "must give a list(string), gives string",
		"profiles[2].access[3].clusterRolesFrom FieldValueInvalid":          "must give a list(string), gives list(int)",
		"profiles[3].name FieldValueDuplicate":                              "",
	}
	for _, at := range slices.Sorted(maps.Keys(want)) {
		if detail, ok := got[at]; !ok || !strings.Contains(detail, want[at]) {
			t.Errorf("%s: got %q (reported: %t), want %q in it", at, detail, ok, want[at])
		}
		delete(got, at)
	}
	for at, detail := range got {
		t.Errorf("also reported: %s: %s", at, detail)
	}
	if _, err := New(Config{Profiles: []Profile{{Name: "p", Access: bad.Profiles[3].Access}}}, testLimits, revokedRuns{}, nil, discard()); err == nil {
		t.Error("profiles without bindings: accepted")
	}
}

// FuzzMapping signs whatever a token may say to a mapping with every field, and
// profiles that take names from claims.
func FuzzMapping(f *testing.F) {
	k := ecKey(f, "k1")
	p := newProvider(f, k)
	is := p.issuer()
	is.Mappings[0].Run = `claims.?run_id.orValue("r")`
	b := &ensured{}
	a := withProfiles(f, b, &logs{}, testLimits, []Profile{{Name: "default", Access: []ProfileAccess{
		{ClusterRolesFrom: "claims.?roles.orValue([])", NamespacesFrom: "claims.?namespaces.orValue([])"}}}}, is)
	f.Add("deployer", []byte(`{"roles":["edit"],"namespaces":["team-a"]}`))
	f.Add("system:admin", []byte(`{"roles":["cluster-admin"],"namespaces":["*"]}`))
	f.Add("a\x00", []byte(`{"roles":["edit"],"namespaces":["team-a/../kube-system"]}`))
	f.Add("x", []byte(`{"roles":{"edit":1},"namespaces":[["team-a"]]}`))
	f.Add("x", []byte(`{"act":{"sub":"system:masters"},"task":"\u202e","profile":"tipstaff:x"}`))
	f.Add("x", []byte(strings.Repeat(`{"a":`, 500)))
	f.Fuzz(func(t *testing.T, subject string, more []byte) {
		extra, err := decodeObject(more)
		if err != nil {
			return
		}
		c := claimsOf(extra).but(p.good())
		c["sub"] = subject
		if run, ok := extra["run_id"]; ok {
			c["run_id"] = run
		}
		b.calls = nil
		agent, reason := authenticate(t, a, k.token(t, c))
		if reason != "" {
			if len(b.calls) > 0 || len(reason) > 400 {
				t.Errorf("%d bindings, a reason of %d bytes", len(b.calls), len(reason))
			}
			return
		}
		checkScope(t, agent)
		for _, x := range b.calls[0].access {
			if err := testLimits.Allows(x); err != nil {
				t.Errorf("beyond the limits: %+v", x)
			}
		}
		if s := fmt.Sprint(agent); strings.Contains(strings.ToLower(s), "{system:") || agent.User != "agent:ci:"+subject {
			t.Errorf("out of scope: %s", s)
		}
	})
}
