package webhook

import (
	"encoding/json"
	"strings"
	"testing"

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

func judgeRules(t testing.TB, rules []rule, req *admissionv1.AdmissionRequest) decision {
	t.Helper()
	r, err := open(req, testAgent)
	if err != nil {
		t.Fatal(err)
	}
	return (&Webhook{rules: &RuleSet{rules: newIndex(rules), fallback: Allow}, log: quiet}).evaluate(t.Context(), r)
}

func TestDefaultRules(t *testing.T) {
	t.Parallel()
	loaded, err := DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	rules, errs := compileAll(loaded, field.NewPath("rules"))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	const deployment3 = "{kind: Deployment, spec: {replicas: 3, template: {spec: {containers: [{name: a, image: b}]}}}}"
	tests := []struct {
		name             string
		req, object, old string
		want             string // the rule; empty means allowed without any
	}{
		{"deleting a namespace is held", "DELETE core/namespaces prod prod", "", "{kind: Namespace}", "delete-namespace"},
		{"creating a namespace is allowed", "CREATE core/namespaces prod prod", "{kind: Namespace}", "", ""},
		{"deleting a config map is allowed", "DELETE core/configmaps shop c", "", "{kind: ConfigMap}", ""},
		{"deleting a CRD is held", "DELETE apiextensions.k8s.io/customresourcedefinitions - x.y", "", "{}", "delete-crd"},
		{"changing a CRD is held", "UPDATE apiextensions.k8s.io/customresourcedefinitions - x.y", "{}", "{}", "change-crd"},
		{"creating a CRD is allowed", "CREATE apiextensions.k8s.io/customresourcedefinitions - x.y", "{}", "", ""},
		{"deleting a volume claim is held", "DELETE core/persistentvolumeclaims shop data", "", "{}", "delete-data"},
		{"deleting a volume is held", "DELETE core/persistentvolumes - pv1", "", "{}", "delete-data"},
		{"deleting a StatefulSet is held", "DELETE apps/statefulsets shop db", "", "{}", "delete-data"},
		{"deleting a Deployment is allowed", "DELETE apps/deployments shop web", "", deployment3, ""},
		{"creating a volume claim is allowed", "CREATE core/persistentvolumeclaims shop data", "{}", "", ""},
		{"one of a deleted collection is held", "DELETE core/configmaps shop", "", "{metadata: {name: c}}", "delete-collection"},
		{"scaling to zero is held, though a Scale leaves zero out", "UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {}}", "{kind: Scale, spec: {replicas: 2}}", "scale-to-zero"},
		{"scaling from zero is allowed", "UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {replicas: 2}}", "{kind: Scale, spec: {}}", ""},
		{"scaling to one is allowed", "UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {replicas: 1}}", "{kind: Scale, spec: {replicas: 2}}", ""},
		{"zero replicas by way of the Deployment are held", "UPDATE apps/deployments shop web", "{spec: {replicas: 0}}", deployment3, "scale-to-zero"},
		{"an update that leaves zero at zero is allowed", "UPDATE apps/deployments shop web", "{spec: {replicas: 0}}", "{spec: {replicas: 0}}", ""},
		{"scaling down fourfold is held", "UPDATE apps/deployments/scale shop web", "{spec: {replicas: 2}}", "{spec: {replicas: 8}}", "scale-far"},
		{"scaling up far is held", "UPDATE apps/deployments/scale shop web", "{spec: {replicas: 40}}", "{spec: {replicas: 4}}", "scale-far"},
		{"scaling by half is allowed", "UPDATE apps/deployments/scale shop web", "{spec: {replicas: 4}}", "{spec: {replicas: 8}}", ""},
		{"exec is held", "CONNECT core/pods/exec shop web-0", "{kind: PodExecOptions, command: [sh]}", "", "exec"},
		{"attach is held", "CONNECT core/pods/attach shop web-0", "{}", "", "exec"},
		{"port-forward is held", "CONNECT core/pods/portforward shop web-0", "{}", "", "exec"},
		{"a node's proxy is denied", "CONNECT core/nodes/proxy - n1", "{}", "", "proxy"},
		{"a service's proxy is denied", "CONNECT core/services/proxy shop web", "{}", "", "proxy"},
		{"an ephemeral container is held", "UPDATE core/pods/ephemeralcontainers shop web-0", "{spec: {}}", "{spec: {}}", "exec"},
		{"an update of a pod's labels is allowed", "UPDATE core/pods shop web-0", "{spec: {containers: []}}", "{spec: {containers: []}}", ""},
		{"an eviction is held", "CREATE core/pods/eviction shop web-0", "{kind: Eviction}", "", "evict"},
		{"cordoning a node is held", "UPDATE core/nodes - n1", "{spec: {unschedulable: true}}", "{spec: {}}", "node-change"},
		{"a privileged pod is held", "CREATE core/pods shop p", "{spec: {containers: [{name: a, securityContext: {privileged: true}}]}}", "", "privileged-pod"},
		{"a host path in a Deployment is held", "CREATE apps/deployments shop p", "{spec: {template: {spec: {volumes: [{name: v, hostPath: {path: /}}]}}}}", "", "privileged-pod"},
		{"the host's network in a CronJob is held", "CREATE batch/cronjobs shop p", "{spec: {jobTemplate: {spec: {template: {spec: {hostNetwork: true}}}}}}", "", "privileged-pod"},
		{"a privileged init container is held", "CREATE core/pods shop p", "{spec: {initContainers: [{name: a, securityContext: {privileged: true}}]}}", "", "privileged-pod"},
		{"SYS_ADMIN is held", "CREATE core/pods shop p", "{spec: {containers: [{name: a, securityContext: {capabilities: {add: [SYS_ADMIN]}}}]}}", "", "privileged-pod"},
		{"an ordinary pod is allowed", "CREATE core/pods shop p", "{spec: {serviceAccountName: default, volumes: [{name: v, emptyDir: {}}], containers: [{name: a, securityContext: {privileged: false, capabilities: {drop: [ALL]}}}]}}", "", ""},
		{"an ordinary Deployment is allowed", "CREATE apps/deployments shop web", deployment3, "", ""},
		{"a pod with another service account is held", "CREATE core/pods shop p", "{spec: {serviceAccountName: admin}}", "", "borrow-service-account"},
		{"a Job with another service account is held", "CREATE batch/jobs shop p", "{spec: {template: {spec: {serviceAccountName: admin}}}}", "", "borrow-service-account"},
		{"a Deployment that gets a service account is held", "UPDATE apps/deployments shop p", "{spec: {template: {spec: {serviceAccountName: admin}}}}", "{spec: {template: {spec: {}}}}", "borrow-service-account"},
		{"a Deployment that keeps its service account is allowed", "UPDATE apps/deployments shop p", "{spec: {template: {spec: {serviceAccountName: web}}}}", "{spec: {template: {spec: {serviceAccountName: web}}}}", ""},
		{"a role binding is held", "CREATE rbac.authorization.k8s.io/rolebindings shop b", "{}", "", "rbac"},
		{"a service account is held", "CREATE core/serviceaccounts shop b", "{}", "", "service-account"},
		{"a service account's token is denied", "CREATE core/serviceaccounts/token shop b", "{}", "", "service-account-token"},
		{"a certificate request is denied", "CREATE certificates.k8s.io/certificatesigningrequests - b", "{}", "", "certificate-request"},
		{"a webhook configuration is denied", "CREATE admissionregistration.k8s.io/mutatingwebhookconfigurations - b", "{}", "", "webhook-registration"},
		{"an API service is denied", "UPDATE apiregistration.k8s.io/apiservices - b", "{}", "{}", "webhook-registration"},
		{"asking for a grant is held", "CREATE tipstaff.dev/grants - g", "{spec: {clusterRole: edit}}", "", "grant"},
		{"a kind of that name in another group is allowed", "CREATE example.com/grants - g", "{spec: {clusterRole: edit}}", "", ""},
		{"a Secret is held", "UPDATE core/secrets shop s", "{kind: Secret}", "{kind: Secret}", "secret-write"},
		{"a ConfigMap is allowed", "UPDATE core/configmaps shop s", "{}", "{}", ""},
		{"a ConfigMap in kube-system is denied", "UPDATE core/configmaps kube-system s", "{}", "{}", "system-namespaces"},
		{"anything in tipstaff's namespace is denied", "CREATE core/pods tipstaff-system s", "{}", "", "system-namespaces"},
		{"deleting kube-system is denied, not held", "DELETE core/namespaces kube-system kube-system", "", "{}", "system-namespaces"},
		{"a namespace that is named alike is allowed", "UPDATE core/configmaps kube-systems s", "{}", "{}", ""},
		{"asking for one's own rights is allowed", "CREATE authorization.k8s.io/selfsubjectaccessreviews -", "{}", "", ""},
	}
	used := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := judgeRules(t, rules, request(t, tt.req, tt.object, tt.old))
			got := ""
			if d.rule != nil {
				got = d.rule.Name
			}
			if got != tt.want || d.failed {
				t.Errorf("got rule %q (failed: %v), want %q", got, d.failed, tt.want)
			}
		})
		used[tt.want] = true
	}
	for _, r := range rules {
		if !used[r.Name] {
			t.Errorf("rule %q has no test for what it catches", r.Name)
		}
		for _, g := range r.Approvers {
			if g != DefaultApprovers {
				t.Errorf("rule %q names group %q", r.Name, g)
			}
		}
	}
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
	a, h, d := named(Allow), named(Hold), named(Deny)
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
		{"one that was evaluated speaks before one that failed", []finding{{rule: d, failed: true}, {rule: d}}, Allow, decision{verdict: Deny, rule: d}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := decide(tt.findings, tt.fallback); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
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
