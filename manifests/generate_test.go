package manifests

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

var inside = &clusteragents.Config{
	ServiceAccounts: []string{"ops/bot", "ops/other"},
	Namespaces:      []string{"agents"},
	Groups:          []string{"o'brien's \"team\" \\ [x]: #", "line\u2028separator"},
}

// What is installed by `kubectl apply -k` and what is generated can't drift.
func TestFilesAreWhatIsGeneratedForNoConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []*clusteragents.Config{nil, {}} {
		for name, tt := range map[string]struct {
			file []byte
			make func(*clusteragents.Config) ([]byte, error)
		}{"base/webhooks.yaml": {webhooks, Webhooks}, "apiserver/audit-policy.yaml": {AuditPolicy, AuditPolicyFor}, "base/flowcontrol.yaml": {flowControl, FlowControl}} {
			got, err := tt.make(c)
			if err != nil || !bytes.Equal(got, tt.file) {
				t.Errorf("%s: %v\n%s", name, err, got)
			}
		}
	}
	for _, limits := range []*access.Limits{nil, {ClusterWide: true}} {
		text, err := BindingRBAC(inside, limits)
		if err != nil {
			t.Fatal(err)
		}
		objs, err := Objects(text)
		if err != nil || len(objs) != 3 {
			t.Fatalf("%d objects, %v", len(objs), err)
		}
		var role rbacv1.ClusterRole
		var asks rbacv1.ClusterRoleBinding
		if json.Unmarshal(objs[0], &role) != nil || json.Unmarshal(objs[2], &asks) != nil || len(role.Rules) > 0 || len(asks.Subjects) > 0 {
			t.Errorf("nothing may be bound, and yet: %s", text)
		}
	}
}

func TestWebhooksForAgentsInsideTheCluster(t *testing.T) {
	t.Parallel()
	got, err := Webhooks(inside)
	if err != nil {
		t.Fatal(err)
	}
	var cfg, base admissionregistrationv1.ValidatingWebhookConfiguration
	if err := yaml.UnmarshalStrict(got, &cfg); err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	if err := yaml.UnmarshalStrict(webhooks, &base); err != nil {
		t.Fatal(err)
	}
	base.Webhooks[0].MatchConditions[0].Expression = inside.MatchExpression()
	if !reflect.DeepEqual(cfg, base) {
		t.Errorf("more than the condition differs, or it is not %q:\n%s", inside.MatchExpression(), got)
	}
	if !bytes.Contains(got, []byte("# Judges agents' changes.")) {
		t.Error("the comments are gone")
	}
}

func TestFlowControlNamesAllAgents(t *testing.T) {
	t.Parallel()
	text, err := FlowControl(inside)
	if err != nil {
		t.Fatal(err)
	}
	objs, err := Objects(text)
	if err != nil || len(objs) != 4 {
		t.Fatalf("%d objects, %v", len(objs), err)
	}
	levels := map[string]bool{}
	named := map[string][]flowcontrolv1.Subject{}
	for _, o := range objs {
		var level flowcontrolv1.PriorityLevelConfiguration
		var schema flowcontrolv1.FlowSchema
		if yaml.UnmarshalStrict(o, &level) == nil && level.Kind == "PriorityLevelConfiguration" {
			levels[level.Name] = true
		} else if err := yaml.UnmarshalStrict(o, &schema); err != nil {
			t.Fatalf("%v\n%s", err, o)
		} else if named[schema.Name] = schema.Spec.Rules[0].Subjects; !levels[schema.Spec.PriorityLevelConfiguration.Name] {
			t.Errorf("flow schema %s is of a level that isn't there", schema.Name)
		}
	}
	var got []string
	for _, s := range named["tipstaff-agents"] {
		if s.User != nil {
			got = append(got, s.User.Name)
		} else {
			got = append(got, s.Group.Name)
		}
	}
	users, groups := inside.Subjects()
	if want := append(users, groups...); !slices.Equal(got, want) {
		t.Errorf("agents are %q, want %q", got, want)
	}
}

// The API server's own reading of the policy decides.
func TestTheAuditPolicyRecordsAllAgents(t *testing.T) {
	t.Parallel()
	level := func(file []byte, u user.Info, verb, resource string) auditinternal.Level {
		p, err := policy.LoadPolicyFromBytes(file)
		if err != nil {
			t.Fatalf("%v\n%s", err, file)
		}
		return policy.NewPolicyRuleEvaluator(p).EvaluatePolicyRule(authorizer.AttributesRecord{
			User: u, Verb: verb, Resource: resource, APIVersion: "v1", ResourceRequest: true, Namespace: "shop",
		}).Level
	}
	file, err := AuditPolicyFor(inside)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string, groups ...string) user.Info { return &user.DefaultInfo{Name: name, Groups: groups} }
	for name, tt := range map[string]struct {
		user user.Info
		want auditinternal.Level
	}{
		"a token's agent":                        {in("agent:ci:bot", "tipstaff:agents"), auditinternal.LevelRequestResponse},
		"a named service account":                {in("system:serviceaccount:ops:bot", "system:serviceaccounts:ops"), auditinternal.LevelRequestResponse},
		"another named one":                      {in("system:serviceaccount:ops:other", "system:serviceaccounts:ops"), auditinternal.LevelRequestResponse},
		"one of a named namespace":               {in("system:serviceaccount:agents:x", "system:serviceaccounts:agents"), auditinternal.LevelRequestResponse},
		"a member of a group with quotes in it":  {in("carol", inside.Groups[0]), auditinternal.LevelRequestResponse},
		"a member of a group with a line's end":  {in("carol", inside.Groups[1]), auditinternal.LevelRequestResponse},
		"another service account of a namespace": {in("system:serviceaccount:ops:web", "system:serviceaccounts:ops"), auditinternal.LevelNone},
		"a person":                               {in("alice", "system:authenticated"), auditinternal.LevelNone},
	} {
		if got := level(file, tt.user, "list", "pods"); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := level(AuditPolicy, in("system:serviceaccount:ops:bot"), "list", "pods"); got != auditinternal.LevelNone {
		t.Errorf("without a config a service account is recorded: %s", got)
	}
}

func TestBindingRBACIsJustEnough(t *testing.T) {
	t.Parallel()
	// can tells what the role lets its holder do: on name, in the API group.
	can := func(role rbacv1.ClusterRole, verb, group, resource, name string) bool {
		covers := func(list []string, s string) bool { return slices.Contains(list, s) || slices.Contains(list, "*") }
		return slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return covers(r.Verbs, verb) && covers(r.APIGroups, group) && covers(r.Resources, resource) &&
				(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, name))
		})
	}
	const group = "rbac.authorization.k8s.io"
	for _, wide := range []bool{false, true} {
		text, err := BindingRBAC(inside, &access.Limits{ClusterRoles: []string{"view", "edit"}, ClusterWide: wide})
		if err != nil {
			t.Fatal(err)
		}
		objs, err := Objects(text)
		if err != nil || len(objs) != 3 {
			t.Fatalf("%d objects, %v:\n%s", len(objs), err, text)
		}
		var role rbacv1.ClusterRole
		var binding, asks rbacv1.ClusterRoleBinding
		for i, into := range []any{&role, &binding, &asks} {
			if err := json.Unmarshal(objs[i], into); err != nil {
				t.Fatal(err)
			}
		}
		for name, tt := range map[string]struct {
			verb, group, resource, name string
			want                        bool
		}{
			"binds an allowed role":                   {"bind", group, "clusterroles", "edit", true},
			"reads an allowed role":                   {"get", group, "clusterroles", "view", true},
			"binds no other":                          {"bind", group, "clusterroles", "admin", false},
			"binds no role of a namespace":            {"bind", group, "roles", "edit", false},
			"escalates nothing":                       {"escalate", group, "clusterroles", "edit", false},
			"changes no role":                         {"update", group, "clusterroles", "edit", false},
			"makes bindings":                          {"create", group, "rolebindings", "x", true},
			"puts bindings right":                     {"update", group, "rolebindings", "x", true},
			"makes bindings of the whole cluster":     {"create", group, "clusterrolebindings", "x", wide},
			"puts those of the whole cluster right":   {"update", group, "clusterrolebindings", "x", wide},
			"asks the authorizer":                     {"create", "authorization.k8s.io", "subjectaccessreviews", "", true},
			"impersonates nobody":                     {"impersonate", "", "users", "x", false},
			"reads no Secret":                         {"get", "", "secrets", "x", false},
			"makes no token":                          {"create", "", "serviceaccounts/token", "x", false},
			"changes nothing that the server asks by": {"update", "admissionregistration.k8s.io", "validatingwebhookconfigurations", "tipstaff", false},
		} {
			if got := can(role, tt.verb, tt.group, tt.resource, tt.name); got != tt.want {
				t.Errorf("cluster wide %v: %s: %v", wide, name, got)
			}
		}
		if binding.RoleRef.Name != BindingsRole || len(binding.Subjects) != 2 || binding.Subjects[0].Namespace != "tipstaff-system" {
			t.Errorf("%+v", binding)
		}
		var names []string
		for _, s := range asks.Subjects {
			names = append(names, s.Kind+" "+s.Name)
		}
		want := []string{
			"User system:serviceaccount:ops:bot", "User system:serviceaccount:ops:other",
			"Group system:serviceaccounts:agents", "Group " + inside.Groups[0], "Group " + inside.Groups[1],
		}
		if asks.RoleRef.Name != GrantsRole || !slices.Equal(names, want) {
			t.Errorf("%+v", asks)
		}
	}
}

func TestRolesOfPeopleAndAgentsOnGrants(t *testing.T) {
	t.Parallel()
	objs, err := Objects(RBAC)
	if err != nil {
		t.Fatal(err)
	}
	verbs := map[string][]string{} // by role and resource
	bound := map[string]bool{}
	for _, raw := range objs {
		var role rbacv1.ClusterRole
		if err := json.Unmarshal(raw, &role); err != nil {
			t.Fatal(err)
		}
		var binding rbacv1.ClusterRoleBinding
		switch role.Kind {
		case "ClusterRole":
			for _, r := range role.Rules {
				for _, res := range r.Resources {
					if !slices.Contains(r.APIGroups, "*") {
						verbs[role.Name+" "+res] = append(verbs[role.Name+" "+res], r.Verbs...)
					}
				}
			}
		case "ClusterRoleBinding":
			if err := json.Unmarshal(raw, &binding); err != nil {
				t.Fatal(err)
			}
			bound[binding.RoleRef.Name] = true
		}
	}
	if verbs["tipstaff clusterroles"] != nil || verbs["tipstaff-bindings clusterroles"] != nil {
		t.Error("without a configuration Tipstaff can bind roles")
	}
	for on, want := range map[string][]string{
		"tipstaff grants":              {"get", "list", "watch", "delete"},
		"tipstaff grants/status":       {"update"},
		"tipstaff rolebindings":        {"get", "list", "watch", "delete"},
		"tipstaff clusterrolebindings": {"get", "list", "watch", "delete"},
		"tipstaff-approver grants":     {"get", "list", "watch"},
		"tipstaff-granter grants":      {"get", "list", "watch", "create", "delete"},
		"tipstaff-agent-grants grants": {"create"},
		"tipstaff-agent-direct grants": nil,
	} {
		if !slices.Equal(verbs[on], want) {
			t.Errorf("%s: %v, want %v", on, verbs[on], want)
		}
	}
	if bound["tipstaff-granter"] || !bound[GrantsRole] {
		t.Errorf("bound are %v", bound)
	}
}

func TestKustomizationListsEveryCRD(t *testing.T) {
	t.Parallel()
	var k struct {
		Resources []string `json:"resources"`
	}
	b, err := os.ReadFile("crds/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &k); err != nil {
		t.Fatal(err)
	}
	files, err := CRDs.ReadDir("crds")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if !slices.Contains(k.Resources, f.Name()) {
			t.Errorf("%s is not in crds/kustomization.yaml", f.Name())
		}
	}
}

func TestWebhooksInTheClusterTrustAFileToo(t *testing.T) {
	t.Parallel()
	cfg, err := WebhookConfiguration(inside, "", []byte("pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range cfg.Webhooks {
		if w.ClientConfig.Service == nil || w.ClientConfig.URL != nil || string(w.ClientConfig.CABundle) != "pem" {
			t.Errorf("%s: %+v", w.Name, w.ClientConfig)
		}
	}
}
