package webhook

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// testAgents are agents inside the cluster.
var testAgents = &clusteragents.Config{ServiceAccounts: []string{"ops/bot"}, Groups: []string{"ai-agents"}}

var testAgent = v1alpha1.Agent{User: "agent:ci:bot", Issuer: "ci", Run: "run-1", Owner: "olga", Profile: "default"}

// request makes an agent's request: op group/resource[/subresource] namespace name, objects as YAML.
func request(t testing.TB, line, object, oldObject string) *admissionv1.AdmissionRequest {
	t.Helper()
	f := strings.Fields(line)
	for len(f) < 4 {
		f = append(f, "-")
	}
	empty := func(s string) string { return strings.TrimPrefix(s, "-") }
	res := strings.Split(f[1], "/") // group/resource/sub, "core" for the core group
	group := res[0]
	if group == "core" {
		group = ""
	}
	req := &admissionv1.AdmissionRequest{
		UID: "uid-1", Operation: admissionv1.Operation(f[0]),
		Kind:      metav1.GroupVersionKind{Group: group, Version: "v1", Kind: strings.ToUpper(res[1][:1]) + strings.TrimSuffix(res[1][1:], "s")},
		Resource:  metav1.GroupVersionResource{Group: group, Version: "v1", Resource: res[1]},
		Namespace: empty(f[2]), Name: empty(f[3]),
		UserInfo: authenticationv1.UserInfo{Username: testAgent.User, Groups: testAgent.Groups(), Extra: map[string]authenticationv1.ExtraValue{}},
	}
	if len(res) > 2 {
		req.SubResource = res[2]
	}
	for k, v := range testAgent.Extra() {
		req.UserInfo.Extra[k] = v
	}
	raw := func(s string) runtime.RawExtension {
		if s == "" {
			return runtime.RawExtension{}
		}
		j, err := yaml.YAMLToJSONStrict([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return runtime.RawExtension{Raw: j}
	}
	req.Object, req.OldObject = raw(object), raw(oldObject)
	return req
}

func TestRuleValidation(t *testing.T) {
	t.Parallel()
	hold := Rule{Name: "r", Match: "true", Verdict: Hold, Approvers: []string{"sre"}}
	with := func(f func(*Rule)) Rule { r := hold; f(&r); return r }
	tests := []struct {
		name string
		rule Rule
		want string // part of the message; empty means fine
	}{
		{"a complete rule is fine", hold, ""},
		{"a rule without a name is refused", with(func(r *Rule) { r.Name = "" }), "rules[0].name"},
		{"a typo in CEL is refused with its place", with(func(r *Rule) { r.Match = "request.operation = 'X'" }), "rules[0].match"},
		{"an unknown variable is refused", with(func(r *Rule) { r.Match = "objct.x" }), "undeclared reference"},
		{"an expression that yields text is refused", with(func(r *Rule) { r.Match = "'x'" }), "must yield true or false"},
		{"a rule that holds needs approvers", with(func(r *Rule) { r.Approvers = nil }), "rules[0].approvers"},
		{"agents' groups don't approve", with(func(r *Rule) { r.Approvers = []string{"tipstaff:agents"} }), "groups are agents'"},
		{"an unknown verdict is refused", with(func(r *Rule) { r.Verdict = "maybe" }), "rules[0].verdict"},
		{"an unknown risk is refused", with(func(r *Rule) { r.Risk = "huge" }), "rules[0].risk"},
		{"a negative quorum is refused", with(func(r *Rule) { r.Quorum = -1 }), "rules[0].quorum"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, errs := compileAll([]Rule{tt.rule}, field.NewPath("rules"))
			got := ""
			if agg := errs.ToAggregate(); agg != nil {
				got = agg.Error()
			}
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
	if _, errs := compileAll([]Rule{hold, hold}, field.NewPath("rules")); len(errs) != 1 {
		t.Errorf("two rules of one name: got %v", errs)
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	named := func(v Verdict) *rule { return &rule{Rule: Rule{Name: string(v), Verdict: v}} }
	a, h, d, e := named(Allow), named(Hold), named(Deny), named(Deny)
	critical, two := named(Hold), named(Hold)
	critical.Risk, h.Risk, two.Risk, two.Quorum, e.Name = "critical", "low", "low", 2, "e"
	tests := []struct {
		name     string
		findings []finding
		fallback Verdict
		want     decision
	}{
		{"nothing matched: the default decides", nil, Hold, decision{verdict: Hold}},
		{"an allow rule beats a default of deny", []finding{{rule: a}}, Deny, decision{verdict: Allow, rule: a}},
		{"hold beats allow", []finding{{rule: a}, {rule: h}}, Allow, decision{verdict: Hold, rule: h}},
		{"deny beats hold", []finding{{rule: h}, {rule: d}, {rule: a}}, Allow, decision{verdict: Deny, rule: d}},
		{"a hold rule that failed holds", []finding{{rule: h, failed: true}, {rule: a}}, Allow, decision{verdict: Hold, rule: h, failed: true}},
		{"a deny rule that failed denies", []finding{{rule: h}, {rule: d, failed: true}}, Allow, decision{verdict: Deny, rule: d, failed: true}},
		{"an allow rule that failed allows nothing", []finding{{rule: a, failed: true}}, Deny, decision{verdict: Deny}},
		{"one that was evaluated speaks before one that failed", []finding{{rule: d, failed: true}, {rule: e}}, Allow, decision{verdict: Deny, rule: e, others: []finding{{rule: d, failed: true}}}},
		{"the higher risk speaks", []finding{{rule: h}, {rule: critical}}, Allow, decision{verdict: Hold, rule: critical, others: []finding{{rule: h}}}},
		{"the larger quorum speaks", []finding{{rule: h}, {rule: two}, {rule: a}}, Allow, decision{verdict: Hold, rule: two, others: []finding{{rule: h}}}},
		{"of equals the first speaks", []finding{{rule: d}, {rule: e}}, Allow, decision{verdict: Deny, rule: d, others: []finding{{rule: e}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := decide(tt.findings, tt.fallback); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// An agent must not choose who decides by what it adds to a change.
func TestTermsAreTheStrictestOfAllRulesThatHold(t *testing.T) {
	t.Parallel()
	rule := func(r Rule) finding {
		r.Verdict = Hold
		return finding{rule: &rule{Rule: r.withDefaults()}}
	}
	devs := rule(Rule{Name: "big", Risk: "low", Approvers: []string{"devs", "leads"}, BreakGlass: []string{"oncall"}, OwnerMayDecide: true, Message: "many replicas"})
	security := rule(Rule{Name: "privileged", Risk: "critical", Quorum: 2, Approvers: []string{"security"}, TimeToLive: metav1.Duration{Duration: time.Minute}, Message: "owns the node"})
	leads := rule(Rule{Name: "odd", Risk: "medium", Approvers: []string{"leads"}, BreakGlass: []string{"oncall", "chief"}})
	leads.failed = true
	for _, tt := range []struct {
		name     string
		findings []finding
		want     Rule
	}{
		{"one rule is as it is", []finding{devs}, devs.rule.Rule},
		{"who decides on the worst decides, no quicker and not the owner", []finding{devs, security}, Rule{
			Name: "privileged", Verdict: Hold, Risk: "critical", Quorum: 2, Approvers: []string{"security"}, TimeToLive: metav1.Duration{Duration: time.Minute},
			Message: "owns the node; also held by big (low): many replicas"}},
		{"who may decide on both decides", []finding{devs, leads}, Rule{
			Name: "big", Verdict: Hold, Risk: "low", Quorum: 1, Approvers: []string{"leads"}, BreakGlass: []string{"oncall"}, TimeToLive: metav1.Duration{Duration: DefaultTimeToLive},
			Message: "many replicas; also held by odd (medium" + failedText(true) + ")"}},
	} {
		if got := decide(tt.findings, Allow).terms(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	if got := (decision{verdict: Hold}).terms(); got.Name != defaultRuleName || got.Quorum != 1 || len(got.Approvers) != 1 {
		t.Errorf("the default holds under %+v", got)
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheActionSaysWhatIsDone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, object, want string }{
		{"UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {}}", `update deployments/scale "web" in namespace "shop" to 0 replicas`},
		{"UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {replicas: 4}}", `update deployments/scale "web" in namespace "shop" to 4 replicas`},
		{"CONNECT core/pods/exec shop web", `{container: app, command: [sh, -c, "rm -rf /data; echo \"done\""]}`, `connect pods/exec "web" in namespace "shop", container "app": "sh" "-c" "rm -rf /data; echo \"done\""`},
		{"CONNECT core/pods/exec shop web", "{command: [echo, " + strings.Repeat("x", 300) + "]}", `connect pods/exec "web" in namespace "shop": "echo" …`},
		{"CONNECT core/pods/attach shop web", "{container: app}", `connect pods/attach "web" in namespace "shop", container "app"`},
		{"CONNECT core/pods/portforward shop web", "{}", `connect pods/portforward "web" in namespace "shop" to any of its ports`},
		{"CONNECT core/pods/portforward shop web", "{ports: [80]}", `connect pods/portforward "web" in namespace "shop" to any of its ports`},
	} {
		r, err := open(request(t, tt.line, tt.object, ""), testAgent)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.action(); got != tt.want {
			t.Errorf("%s %s: got\n%s, want\n%s", tt.line, tt.object, got, tt.want)
		}
	}
}

// A Scale leaves zero out: people read the number all the same.
func TestAScaleToZeroShowsItsZero(t *testing.T) {
	t.Parallel()
	req := request(t, "UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {}}", "{kind: Scale, spec: {replicas: 2}}")
	r, err := open(req, testAgent)
	if err != nil {
		t.Fatal(err)
	}
	newObj, oldObj := normalised(req, r.object(), r.oldObject())
	for what, obj := range map[string]map[string]any{"0": newObj, "2": oldObj} {
		if got := fmt.Sprint(obj["spec"].(map[string]any)["replicas"]); got != what {
			t.Errorf("replicas %s, want %s", got, what)
		}
	}
}
