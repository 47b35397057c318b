package webhook

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const (
	createGrant = "CREATE tipstaff.dev/grants - "
	grantSpec   = "spec: {run: run-1, issuer: ci, clusterRole: edit, namespaces: [shop, bank], path: direct, ttl: 1800s, reason: the queue is stuck}"
)

// podUser is what the API server says of a pod whose service account counts as
// an agent (testAgents); without a uid its token is bound to none.
func podUser(uid string) authenticationv1.UserInfo {
	u := authenticationv1.UserInfo{
		Username: "system:serviceaccount:ops:bot",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:ops", "system:authenticated"},
		Extra:    map[string]authenticationv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"JTI=1"}},
	}
	if uid != "" {
		u.Extra["authentication.kubernetes.io/pod-uid"] = authenticationv1.ExtraValue{uid}
		u.Extra["authentication.kubernetes.io/pod-name"] = authenticationv1.ExtraValue{"bot-0"}
	}
	return u
}

func TestI2_AGrantIsAtLeastHeld(t *testing.T) {
	t.Parallel()
	hold := Rule{Name: "mine", Match: "request.resource.resource == 'grants'", Verdict: Hold, Approvers: []string{"sre"}}
	tests := []struct {
		name  string
		cfg   Config
		dry   bool
		code  int32 // 0: allowed
		rule  string
		holds bool
	}{
		{name: "the shipped rules hold it", code: 429, rule: "grant", holds: true},
		{name: "a rule of one's own holds it", cfg: Config{Rules: []Rule{hold}}, code: 429, rule: "mine", holds: true},
		{name: "a default of hold holds it", cfg: Config{Default: Hold, Rules: []Rule{{Name: "x", Match: "false", Verdict: Deny}}}, code: 429, rule: defaultRuleName, holds: true},
		{name: "rules that say nothing of grants let none through", cfg: Config{Rules: []Rule{{Name: "x", Match: "false", Verdict: Deny}}}, code: 403, rule: grantsRule},
		{name: "rules that allow everything let none through", cfg: allowAll, code: 403, rule: grantsRule},
		{name: "nor in a dry run", cfg: allowAll, dry: true, code: 403, rule: grantsRule},
		{name: "a rule that allows grants loses to one that holds them", cfg: Config{Rules: []Rule{allowAll.Rules[0], hold}}, code: 429, rule: "mine", holds: true},
		{name: "a rule that denies grants denies", cfg: Config{Rules: []Rule{{Name: "never", Match: "request.resource.resource == 'grants'", Verdict: Deny}, hold}}, code: 403, rule: "never"},
		{name: "a default of deny denies", cfg: Config{Default: Deny, Rules: []Rule{{Name: "x", Match: "false", Verdict: Allow}}}, code: 403, rule: defaultRuleName},
		{name: "a dry run of one that would be held opens no approval", dry: true, rule: "grant"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeApprovals{t: t}
			if tt.holds {
				f.ensure = inPhase(v1alpha1.PhasePending)
				f.wait = func(ctx context.Context) (*v1alpha1.Approval, error) {
					<-ctx.Done()
					return approvalOf(f.spec, v1alpha1.PhasePending), nil
				}
			}
			req := request(t, createGrant+"g", "{metadata: {name: g}, "+grantSpec+"}", "")
			req.DryRun = &tt.dry
			resp := post(t, newWebhook(t, f, notRevoked, tt.cfg), req)
			code := int32(0)
			if resp.Result != nil {
				code = resp.Result.Code
			}
			if resp.Allowed != (tt.code == 0) || code != tt.code || resp.AuditAnnotations[v1alpha1.AnnotationRule] != tt.rule {
				t.Errorf("allowed %v, code %d, annotations %v", resp.Allowed, code, resp.AuditAnnotations)
			}
		})
	}
}

func TestI2_NobodyIsAskedForAGrantThatCannotBe(t *testing.T) {
	t.Parallel()
	const ends = "clusterRole: edit, namespaces: [shop], ttl: 30m, reason: x}"
	for _, tt := range []struct {
		name, spec string
		user       *authenticationv1.UserInfo
	}{
		{"another run", "spec: {run: run-2, issuer: ci, " + ends, nil},
		{"its run's id at another issuer", "spec: {run: run-1, issuer: corp, " + ends, nil},
		{"its run at no issuer", "spec: {run: run-1, " + ends, nil},
		{"another agent", "spec: {agent: 'agent:ci:other', " + ends, nil},
		{"a pod's service account", "spec: {agent: 'system:serviceaccount:ops:bot', " + ends, nil},
		{"nobody", "spec: {" + ends, nil},
		{"its run and another agent at once", "spec: {run: run-1, issuer: ci, agent: 'agent:ci:other', " + ends, nil},
		{"more than the configuration allows", "spec: {run: run-1, issuer: ci, clusterRole: admin, namespaces: [shop], ttl: 30m, reason: x}", nil},
		{"for longer than the configuration allows", "spec: {run: run-1, issuer: ci, clusterRole: edit, namespaces: [shop], ttl: 300h, reason: x}", nil},
		{"by a pod, a token's agent", "spec: {agent: 'agent:ci:bot', " + ends, new(podUser("6f1c"))},
		{"by a pod, another pod", "spec: {run: 7a2b, issuer: kubernetes, " + ends, new(podUser("6f1c"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := request(t, createGrant+"g", "{metadata: {name: g}, "+tt.spec+"}", "")
			if tt.user != nil {
				req.UserInfo = *tt.user
			}
			resp := post(t, newWebhook(t, &fakeApprovals{t: t}, notRevoked, Config{}), req) // no approval is opened
			if resp.Allowed || resp.Result.Code != 403 || resp.AuditAnnotations[v1alpha1.AnnotationRule] != grantsRule {
				t.Errorf("%+v", resp)
			}
		})
	}
}

func TestTheApproverSeesWhatAGrantGives(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, spec, want string
	}{
		{
			"a run's grant on the direct path", grantSpec,
			`create grant "g": role "edit" for run "run-1" of issuer "ci" for 30m0s, on the direct path, unmasked, in 2 namespaces: "shop" "bank"`,
		},
		{
			"an agent's grant through the proxy, in the whole cluster", "spec: {agent: 'agent:ci:bot', clusterRole: view, namespaces: ['*'], path: proxy, ttl: 8h, reason: x}",
			`create grant "g": role "view" for every run of "agent:ci:bot" for 8h0m0s, through the proxy only, in the whole cluster`,
		},
		{
			"more namespaces than fit are counted", "spec: {agent: 'agent:ci:bot', clusterRole: view, namespaces: [a, b, c, d, e, f, g, h, i, j], ttl: 8h, reason: x}",
			`create grant "g": role "view" for every run of "agent:ci:bot" for 8h0m0s, through the proxy only, in 10 namespaces: "a" "b" "c" "d" "e" "f" "g" "h" …`,
		},
		{
			"what hides its reading direction is shown as it is", "spec: {agent: \"agent:ci:\\u202Etob\", clusterRole: \"vi\\new\", namespaces: [shop], path: both, ttl: soon, reason: x}",
			`create grant "g": role "vi\new" for every run of "agent:ci:\u202etob" for "soon", on path "both", in namespace "shop"`,
		},
		{
			"a grant that makes no sense panics nobody", "spec: [1]",
			`create grant "g": role "" for "", through the proxy only, in 0 namespaces:`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, err := open(request(t, createGrant+"g", "{metadata: {name: g}, "+tt.spec+"}", ""), testAgent)
			if err != nil {
				t.Fatal(err)
			}
			if r.action() != tt.want {
				t.Errorf("the action is\n%s, want\n%s", r.action(), tt.want)
			}
		})
	}
	f := &fakeApprovals{t: t, ensure: inPhase(v1alpha1.PhaseDenied)}
	post(t, newWebhook(t, f, notRevoked, Config{}), request(t, createGrant+"g", "{metadata: {name: g}, "+grantSpec+"}", ""))
	for _, line := range []string{"+  clusterRole: edit", "+  issuer: ci", "+  - shop", "+  - bank", "+  path: direct", "+  reason: the queue is stuck", "+  run: run-1", "+  ttl: 1800s"} {
		if !strings.Contains(f.spec.Diff, "\n"+line+"\n") {
			t.Errorf("%q is not in the difference:\n%s", line, f.spec.Diff)
		}
	}
	if f.spec.Action != tests[0].want || f.spec.Risk != "high" || f.spec.Rule != "grant" {
		t.Errorf("%+v", f.spec)
	}
}

func TestI3_AGrantWithADrawnNameIsOneRequest(t *testing.T) {
	t.Parallel()
	try := func(drawn, spec string) v1alpha1.Fingerprint {
		// As the API server posts it: the drawn name stands in the request too.
		return fingerprintOf(t, request(t, createGrant+"debug-"+drawn, "{metadata: {generateName: debug-, name: debug-"+drawn+", uid: u"+drawn+", creationTimestamp: '2026-01-01T00:00:00Z', generation: 1}, "+spec+"}", ""), testAgent)
	}
	first := try("lvdgb", grantSpec)
	if try("2x9zw", grantSpec) != first {
		t.Error("a retry has another fingerprint")
	}
	for _, asked := range []string{"admin", "lvdg", "lvdgbb", "LVDGB", "lv-gb"} {
		if try(asked, grantSpec) == first {
			t.Errorf("debug-%s was asked for, and has the fingerprint of a drawn name", asked)
		}
	}
	for _, change := range [][2]string{{"edit", "admin"}, {"bank", "vault"}, {"1800s", "28800s"}, {"run-1", "run-2"}, {"direct", "proxy"}, {"the queue", "a queue"}} {
		if try("2x9zw", strings.Replace(grantSpec, change[0], change[1], 1)) == first {
			t.Errorf("%s for %s has the same fingerprint", change[1], change[0])
		}
	}
}

func TestDrawnName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 80)
	for _, tt := range []struct{ name, line, object, want string }{
		{"a name that the API server drew", "CREATE core/pods shop web-lvdgb", "{metadata: {generateName: web-, name: web-lvdgb}}", "web-*"},
		{"a name that it draws later", "CREATE core/pods shop -", "{metadata: {generateName: web-}}", "web-*"},
		{"a long base is cut", "CREATE core/pods shop " + long[:58] + "lvdgb", "{metadata: {generateName: " + long + "}}", long + "*"},
		{"a name that was asked for, base or not", "CREATE core/pods shop web-admin", "{metadata: {generateName: web-, name: web-admin}}", ""},
		{"a name without a base", "CREATE core/pods shop web-lvdgb", "{metadata: {name: web-lvdgb}}", ""},
		{"another base", "CREATE core/pods shop api-lvdgb", "{metadata: {generateName: web-, name: api-lvdgb}}", ""},
		{"an update keeps its name", "UPDATE core/pods shop web-lvdgb", "{metadata: {generateName: web-, name: web-lvdgb}}", ""},
		{"so does what is made in an object", "CREATE core/pods/eviction shop web-lvdgb", "{metadata: {generateName: web-, name: web-lvdgb}}", ""},
	} {
		r, err := open(request(t, tt.line, tt.object, ""), testAgent)
		if err != nil {
			t.Fatal(err)
		}
		if got := drawnName(r.req, r.object()); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestAgentsInsideTheCluster(t *testing.T) {
	t.Parallel()
	secret := Rule{Name: "by-agent", Match: "agent.issuer == 'kubernetes' && agent.run == '6f1c' && agent.user == 'system:serviceaccount:ops:bot' && agent.task == 'pod ops/bot-0' && request.resource.resource == 'secrets'", Verdict: Deny}
	tests := []struct {
		name    string
		user    authenticationv1.UserInfo
		req     string
		cfg     Config
		revoked fakeRevoked
		code    int32 // 0: allowed
		text    string
		holds   bool
	}{
		{name: "its risky change is held", user: podUser("6f1c"), req: deleteNamespace, code: 403, text: "was denied by alice", holds: true},
		{name: "its other changes are allowed", user: podUser("6f1c"), req: "DELETE core/configmaps shop c"},
		{name: "rules see who it is", user: podUser("6f1c"), req: "DELETE core/secrets shop s", cfg: Config{Rules: []Rule{secret}}, code: 403, text: `denied by rule "by-agent"`},
		{name: "another pod is another run", user: podUser("7a2b"), req: "DELETE core/secrets shop s", cfg: Config{Rules: []Rule{secret}}},
		{name: "without a pod nothing is allowed", user: podUser(""), req: "DELETE core/configmaps shop c", code: 403, text: `delete configmap "c" in namespace "shop" is refused: this identity names no run. Nothing has changed.`},
		{name: "a member of a group has no run", user: authenticationv1.UserInfo{Username: "carol", Groups: []string{"ai-agents"}}, req: "DELETE core/configmaps shop c", code: 403, text: "names no run"},
		{
			name: "its revocation refuses", user: podUser("6f1c"), req: "DELETE core/configmaps shop c",
			revoked: func() (string, bool, error) { return "runaway", true, nil },
			code:    403, text: `run "6f1c" is revoked: runaway`,
		},
		{name: "another service account is nobody's agent", user: authenticationv1.UserInfo{Username: "system:serviceaccount:ops:other", Groups: podUser("").Groups}, req: deleteNamespace},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeApprovals{t: t}
			if tt.holds {
				f.ensure = inPhase(v1alpha1.PhaseDenied)
			}
			var rv Revoked = notRevoked
			if tt.revoked != nil {
				rv = tt.revoked
			}
			req := request(t, tt.req, "", "{}")
			req.UserInfo = tt.user
			resp := post(t, newWebhook(t, f, rv, tt.cfg), req)
			text, code := "", int32(0)
			if resp.Result != nil {
				text, code = resp.Result.Message, resp.Result.Code
			}
			if resp.Allowed != (tt.code == 0) || code != tt.code || !strings.Contains(text, tt.text) {
				t.Errorf("allowed %v, code %d: %s", resp.Allowed, code, text)
			}
			if tt.holds && (f.spec.Agent.Run != "6f1c" || f.spec.Agent.Issuer != v1alpha1.IssuerKubernetes || f.spec.Agent.User != tt.user.Username) {
				t.Errorf("the approval is for %+v", f.spec.Agent)
			}
		})
	}
	one := request(t, deleteNamespace, "", "{}")
	a, _ := testAgents.AgentOf(podUser("6f1c").Username, nil, map[string][]string{"authentication.kubernetes.io/pod-uid": {"6f1c"}})
	b, _ := testAgents.AgentOf(podUser("7a2b").Username, nil, map[string][]string{"authentication.kubernetes.io/pod-uid": {"7a2b"}})
	if fingerprintOf(t, one, a) == fingerprintOf(t, one, b) {
		t.Error("two pods share a fingerprint: one's approval would be the other's")
	}
}

// The first lock is the API server's (matchConditions), the second is ours: a
// user who is no agent is never judged.
func TestI5_WhoIsNoAgentIsNotJudged(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, &fakeApprovals{t: t}, fakeRevoked(func() (string, bool, error) {
		t.Error("asked whether somebody is revoked who is no agent")
		return "", true, nil
	}), Config{Default: Deny})
	for _, u := range []authenticationv1.UserInfo{
		{Username: "alice", Groups: []string{"system:authenticated"}},
		{Username: "system:serviceaccount:kube-system:namespace-controller", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:kube-system"}},
		{Username: "system:serviceaccount:ops:bot2", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ops"}},
	} {
		req := request(t, "DELETE core/pods shop p", "", "{}")
		req.UserInfo = u
		if resp := post(t, w, req); !resp.Allowed || len(resp.Warnings) > 0 || len(resp.AuditAnnotations) != 1 || resp.AuditAnnotations[v1alpha1.AnnotationReason] != "not an agent" {
			t.Errorf("%s: %+v", u.Username, resp)
		}
	}
}
