package approvals

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// userOf is how the API server reports an agent.
func userOf(a v1alpha1.Agent) authenticationv1.UserInfo {
	u := authenticationv1.UserInfo{Username: a.User, Groups: append(a.Groups(), "system:authenticated"), Extra: map[string]authenticationv1.ExtraValue{}}
	for k, v := range a.Extra() {
		u.Extra[k] = v
	}
	return u
}

// podOf is how the API server reports a service account's pod.
func podOf(namespace, name string) authenticationv1.UserInfo {
	return authenticationv1.UserInfo{
		Username: "system:serviceaccount:" + namespace + ":" + name,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
		Extra: map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {"web-0"}, "authentication.kubernetes.io/pod-uid": {"6f1c"},
		},
	}
}

// askGuard sends one review, its objects as YAML, through the guard's handler
// and gives the refusal; empty means allowed.
func askGuard(t *testing.T, on, operation string, u authenticationv1.UserInfo, oldObj, newObj string) string {
	t.Helper()
	raw := func(s string) runtime.RawExtension {
		if s == "" {
			return runtime.RawExtension{}
		}
		j, err := yaml.YAMLToJSON([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return runtime.RawExtension{Raw: j}
	}
	resource, sub, _ := strings.Cut(on, "/")
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "1", Operation: admissionv1.Operation(operation), UserInfo: u, SubResource: sub,
			Resource: metav1.GroupVersionResource{Group: v1alpha1.Group, Version: "v1alpha1", Resource: resource},
			Object:   raw(newObj), OldObject: raw(oldObj),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g := &guard{
		mayApprove: anybodyMay,
		self:       func() string { return "tipstaff" }, bounds: bounds,
		now: func() time.Time { return noon }, log: slog.New(slog.DiscardHandler),
	}
	rec := httptest.NewRecorder()
	g.handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/guard", bytes.NewReader(body)))
	var out admissionv1.AdmissionReview
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || out.Response == nil || rec.Code != http.StatusOK {
		t.Fatalf("HTTP %d %s: %v", rec.Code, rec.Body, err)
	}
	if out.Response.Allowed {
		return ""
	}
	if out.Response.Result == nil || out.Response.Result.Message == "" || out.Response.Result.Code < 400 {
		t.Fatalf("refused with %+v", out.Response.Result)
	}
	return out.Response.Result.Message
}

const (
	ownRun   = "{metadata: {name: g}, spec: {run: r, issuer: ci, clusterRole: edit, namespaces: [shop], path: proxy, ttl: 30m, reason: debug}}"
	ownAgent = "{metadata: {name: g}, spec: {agent: 'agent:ci:bot', clusterRole: edit, namespaces: [shop], path: direct, ttl: 30m, reason: debug}}"
	ownPod   = "{metadata: {name: g}, spec: {agent: 'system:serviceaccount:ops:bot', clusterRole: edit, namespaces: [shop], path: direct, ttl: 30m, reason: debug}}"
	revokesR = "{metadata: {name: v}, spec: {run: r, issuer: ci, reason: runaway}}"
)

func TestI2_WhoMayChangeGrantsAndRevocations(t *testing.T) {
	t.Parallel()
	var (
		alice    = person("alice", "sre-oncall")
		root     = person("root", groupMasters)
		tipstaff = person("tipstaff")
		collects = person("system:serviceaccount:kube-system:generic-garbage-collector")
		agent    = userOf(v1alpha1.Agent{User: "agent:ci:bot", Issuer: "ci", Run: "r", Owner: "olga", Profile: "p"})
		inside   = podOf("ops", "bot")
		podless  = podOf("ops", "bot")
		nameOnly = person("agent:ci:bot", "sre-oncall")
	)
	podless.Extra = nil
	runless := userOf(v1alpha1.Agent{User: "agent:ci:bot", Issuer: "ci"})
	is := func(s string, pairs ...string) string {
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(s, pairs[i]) {
				t.Fatalf("%q is not in %q", pairs[i], s)
			}
		}
		return strings.NewReplacer(pairs...).Replace(s)
	}
	with := func(s, metadata string) string { return is(s, "name: g", "name: g, "+metadata) }
	const phase = "spec: {"
	active := func(s string) string { return is(s, phase, "status: {phase: Active}, "+phase) }
	tests := []struct {
		name     string
		user     authenticationv1.UserInfo
		on       string // resource[/subresource]; empty means grants
		op       string // empty means CREATE
		old, new string
		want     string // part of the refusal; empty means allowed
	}{
		// What an agent may: ask for itself. That it is held is the changes webhook's.
		{name: "an agent asks for its own run", user: agent, new: ownRun},
		{name: "an agent asks for itself", user: agent, new: ownAgent},
		{name: "a service account that counts as an agent asks for itself", user: inside, new: ownPod},

		// What an agent may not: for somebody else.
		{name: "an agent asks for another run", user: agent, new: is(ownRun, "run: r,", "run: r2,"), want: "for itself only"},
		{name: "an agent asks for its run's id at another issuer", user: agent, new: is(ownRun, "issuer: ci", "issuer: corp"), want: "for itself only"},
		{name: "an agent asks for another agent", user: agent, new: is(ownAgent, "ci:bot", "ci:bot2"), want: "for itself only"},
		{name: "an agent asks for a service account", user: agent, new: ownPod, want: "for itself only"},
		{name: "a service account asks for its neighbour", user: inside, new: is(ownPod, "ops:bot", "agents:x"), want: "for itself only"},
		{name: "a service account asks for a token's run", user: inside, new: ownRun, want: "for itself only"},
		{name: "a service account asks for its pod, whose group no token has", user: inside, new: is(ownRun, "run: r, issuer: ci", "run: 6f1c, issuer: kubernetes"), want: "spec.agent"},
		{name: "an agent whose token names no run", user: runless, new: ownAgent, want: "names no run"},
		{name: "a service account without a pod", user: podless, new: ownPod, want: "names no run"},
		{name: "an agent whose groups were lost is still one, and has no run", user: nameOnly, new: ownAgent, want: "names no run"},
		{name: "an agent puts itself beside its run, to be one of the two", user: agent, new: is(ownRun, "run: r,", "run: r2, agent: 'agent:ci:bot',"), want: "for a run of an issuer, or for an agent"},

		// Nor by another way.
		{name: "an agent changes no grant", user: agent, op: "UPDATE", old: ownRun, new: ownRun, want: "agents change nothing"},
		{name: "an agent makes no grant active", user: agent, on: "grants/status", op: "UPDATE", old: ownRun, new: active(ownRun), want: "agents change nothing"},
		{name: "an agent deletes no grant", user: agent, op: "DELETE", old: ownRun, want: "agents change nothing"},
		{name: "an agent deletes no collection of grants", user: agent, op: "DELETE", want: "agents change nothing"},
		{name: "an agent connects to no grant", user: agent, op: "CONNECT", want: "agents change nothing"},
		{name: "a service account changes no grant", user: inside, op: "UPDATE", old: ownPod, new: with(ownPod, "labels: {a: b}"), want: "agents change nothing"},
		{name: "a service account makes no grant active", user: inside, on: "grants/status", op: "UPDATE", old: ownPod, new: active(ownPod), want: "agents change nothing"},
		{name: "a service account deletes no grant", user: inside, op: "DELETE", old: ownPod, want: "agents change nothing"},
		{name: "an agent revokes nobody", user: agent, on: "revocations", new: revokesR, want: "agents change nothing"},
		{name: "an agent lifts no revocation", user: agent, on: "revocations", op: "DELETE", old: revokesR, want: "agents change nothing"},
		{name: "an agent ends no revocation early", user: agent, on: "revocations", op: "UPDATE", old: revokesR, new: revokesR, want: "agents change nothing"},
		{name: "a service account revokes nobody", user: inside, on: "revocations", new: revokesR, want: "agents change nothing"},
		{name: "a service account lifts no revocation", user: inside, on: "revocations", op: "DELETE", old: revokesR, want: "agents change nothing"},

		// Whoever creates it: only what the configuration allows, for somebody there can be.
		{name: "a person grants, by RBAC", user: alice, new: ownRun},
		{name: "a person grants to an agent", user: alice, new: ownAgent},
		{name: "a cluster admin is held to the configuration too", user: root, new: is(ownRun, "clusterRole: edit", "clusterRole: admin"), want: "access.clusterRoles"},
		{name: "a role that the configuration doesn't allow", user: agent, new: is(ownRun, "clusterRole: edit", "clusterRole: cluster-admin"), want: "access.clusterRoles"},
		{name: "a namespace that it doesn't allow", user: agent, new: is(ownRun, "[shop]", "[shop, kube-system]"), want: "access.namespaces"},
		{name: "tipstaff's own namespace", user: alice, new: is(ownRun, "[shop]", "[tipstaff-system]"), want: "access.namespaces"},
		{name: "the whole cluster where it isn't allowed", user: agent, new: is(ownRun, "[shop]", "['*']"), want: "access.clusterWide"},
		{name: "longer than allowed", user: agent, new: is(ownRun, "ttl: 30m", "ttl: 8h1s"), want: "access.maxGrant"},
		{name: "no time at all", user: agent, new: is(ownRun, "ttl: 30m", "ttl: 0s"), want: "access.maxGrant"},
		{name: "a ttl that is no time", user: agent, new: is(ownRun, "ttl: 30m", "ttl: forever"), want: "could not read"},
		{name: "nobody", user: alice, new: is(ownRun, "run: r, issuer: ci, ", ""), want: "for a run of an issuer, or for an agent"},
		{name: "a run without its issuer", user: alice, new: is(ownRun, "issuer: ci, ", ""), want: "for a run of an issuer, or for an agent"},
		{name: "an issuer that holds a colon, and would be another's run", user: alice, new: is(ownRun, "issuer: ci", "issuer: 'ci:x'"), want: "no issuer's name"},
		{name: "a run's id that no token yields", user: alice, new: is(ownRun, "run: r,", "run: \"r\\u202e\","), want: "no run's id"},
		{name: "a pod as a run", user: alice, new: is(ownRun, "issuer: ci", "issuer: kubernetes"), want: "spec.agent"},
		{name: "a person as the agent", user: alice, new: is(ownAgent, "agent:ci:bot", "bob"), want: "no agent's username"},
		{name: "cluster admins as the agent", user: root, new: is(ownAgent, "agent:ci:bot", "system:masters"), want: "no agent's username"},
		{name: "a service account that doesn't count as an agent", user: alice, new: is(ownPod, "ops:bot", "ops:release"), want: "no agent's username"},
		{name: "tipstaff as the agent", user: alice, new: is(ownPod, "ops:bot", "tipstaff-system:tipstaff"), want: "no agent's username"},
		{name: "an issuer's name as the agent", user: alice, new: is(ownAgent, "agent:ci:bot", "agent:ci:"), want: "no agent's username"},
		{name: "a service account by way of the proxy, where it never comes", user: inside, new: is(ownPod, "path: direct", "path: proxy"), want: "must be direct"},
		{name: "a grant that says itself that it is active", user: alice, new: active(ownRun), want: "without a status"},
		{name: "an unknown field", user: agent, new: is(ownRun, "reason: debug", "reason: debug, escalate: true"), want: "could not read"},
		{name: "a grant that passes for a binding's owner", user: agent, new: with(ownRun, "labels: {tipstaff.dev/grant: x}"), want: "tipstaff's own"},
		{name: "a grant that passes for tipstaff's", user: alice, new: with(ownRun, "labels: {app.kubernetes.io/managed-by: tipstaff}"), want: "tipstaff's own"},
		{name: "a grant with tipstaff's annotation", user: agent, new: with(ownRun, "annotations: {tipstaff.dev/expires-at: '2099-01-01T00:00:00Z'}"), want: "tipstaff's own"},
		{name: "a grant with an owner", user: agent, new: with(ownRun, "ownerReferences: [{apiVersion: v1, kind: Namespace, name: x, uid: x}]"), want: "ownerReferences"},
		{name: "a grant with a finalizer", user: agent, new: with(ownRun, "finalizers: [example.com/stay]"), want: "finalizers"},
		{name: "labels and annotations of one's own are welcome", user: agent, new: with(ownRun, "labels: {team: a}, annotations: {kubectl.kubernetes.io/last-applied-configuration: x}")},
		{name: "no grant at all", user: alice, want: "no grant"},

		// After that: nothing but its status, by tipstaff.
		{name: "a grant's spec never changes", user: root, op: "UPDATE", old: ownRun, new: is(ownRun, "ttl: 30m", "ttl: 1h"), want: "spec never changes"},
		{name: "nor by way of its status", user: tipstaff, on: "grants/status", op: "UPDATE", old: ownRun, new: is(ownRun, "ttl: 30m", "ttl: 1h"), want: "spec never changes"},
		{name: "nor its identity", user: root, op: "UPDATE", old: ownRun, new: is(ownRun, "name: g", "name: h"), want: "identity never changes"},
		{name: "a person labels a grant", user: alice, op: "UPDATE", old: ownRun, new: with(ownRun, "labels: {a: b}")},
		{name: "a person gives a grant no owner", user: alice, op: "UPDATE", old: ownRun, new: with(ownRun, "ownerReferences: [{apiVersion: v1, kind: Namespace, name: x, uid: x}]"), want: "ownerReferences"},
		{name: "a person keeps no grant from going", user: alice, op: "UPDATE", old: ownRun, new: with(ownRun, "finalizers: [example.com/stay]"), want: "finalizers"},
		{name: "a finalizer may go, as the garbage collector does", user: collects, op: "UPDATE", old: with(ownRun, "finalizers: [foregroundDeletion]"), new: ownRun},
		{name: "a person sets no status", user: alice, on: "grants/status", op: "UPDATE", old: ownRun, new: active(ownRun), want: "by tipstaff only"},
		{name: "a cluster admin sets no status", user: root, on: "grants/status", op: "UPDATE", old: ownRun, new: active(ownRun), want: "by tipstaff only"},
		{name: "a person sets no status by the main resource", user: alice, op: "UPDATE", old: ownRun, new: active(ownRun), want: "through its subresource only"},
		{name: "tipstaff says how a grant stands", user: tipstaff, on: "grants/status", op: "UPDATE", old: ownRun, new: active(ownRun)},
		{name: "a person takes a grant away", user: alice, op: "DELETE", old: ownRun},
		{name: "tipstaff removes a grant", user: tipstaff, op: "DELETE", old: ownRun},
		{name: "an unknown subresource", user: root, on: "grants/scale", op: "UPDATE", old: ownRun, new: ownRun, want: "not a change that tipstaff knows"},

		{name: "a person revokes, by RBAC", user: alice, on: "revocations", new: revokesR},
		{name: "a revocation with an owner, who takes it along when it goes", user: alice, on: "revocations", new: is(revokesR, "name: v", "name: v, ownerReferences: [{apiVersion: v1, kind: Namespace, name: x, uid: x}]"), want: "ownerReferences"},
		{name: "a revocation's spec never changes", user: root, on: "revocations", op: "UPDATE", old: revokesR, new: is(revokesR, "reason: runaway", "reason: runaway, until: '2026-11-23T12:00:00Z'"), want: "spec never changes"},
		{name: "a person labels a revocation", user: alice, on: "revocations", op: "UPDATE", old: revokesR, new: is(revokesR, "name: v", "name: v, labels: {a: b}")},
		{name: "a person lifts a revocation, by RBAC", user: alice, on: "revocations", op: "DELETE", old: revokesR},
		{name: "a revocation has no subresource", user: root, on: "revocations/status", op: "UPDATE", old: revokesR, new: revokesR, want: "not a change that tipstaff knows"},
		{name: "a revocation that can't be read", user: alice, on: "revocations", new: is(revokesR, "reason: runaway", "reason: runaway, everyone: true"), want: "could not read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.on == "" {
				tt.on = "grants"
			}
			if tt.op == "" {
				tt.op = "CREATE"
			}
			got := askGuard(t, tt.on, tt.op, tt.user, tt.old, tt.new)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWithoutBoundsNothingIsGranted(t *testing.T) {
	t.Parallel()
	g, err := strictly[v1alpha1.Grant](mustJSON(t, ownRun))
	if err != nil {
		t.Fatal(err)
	}
	c := change{operation: "CREATE", resource: "grants", user: person("alice"), newGrant: g}
	if got := refusal(c, Bounds{}, "tipstaff", noon); !strings.Contains(got, "access.clusterRoles") {
		t.Errorf("got %q", got)
	}
}

func mustJSON(t testing.TB, text string) []byte {
	t.Helper()
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// Whatever an agent writes into a grant: what is let through to the changes
// webhook is for that agent, within the configuration, and has no status.
func FuzzAgentsGrant(f *testing.F) {
	for _, s := range []string{ownRun, ownAgent, ownPod, revokesR, `{"spec":{"run":"r","run":"x"}}`, `{"spec":null,"status":{}}`, `[]`, `{"spec":{"RUN":"r"}}`} {
		f.Add(mustJSON(f, s), true)
		f.Add(mustJSON(f, s), false)
	}
	agent := userOf(v1alpha1.Agent{User: "agent:ci:bot", Issuer: "ci", Run: "r"})
	inside := podOf("ops", "bot")
	f.Fuzz(func(t *testing.T, raw []byte, token bool) {
		c := change{operation: "CREATE", resource: "grants", user: inside}
		if token {
			c.user = agent
		}
		if c.decode(nil, raw) != nil || refusal(c, bounds, "tipstaff", noon) != "" {
			return
		}
		g := c.newGrant
		forItself := g.Spec.Agent == c.user.Username || token && g.Spec.Run == "r" && g.Spec.Issuer == "ci"
		if !forItself || g.Spec.Run != "" && g.Spec.Agent != "" || bounds.Access.AllowsGrant(g) != nil ||
			g.Status != (v1alpha1.GrantStatus{}) || len(g.OwnerReferences)+len(g.Finalizers) > 0 {
			t.Errorf("let through: %+v", g)
		}
	})
}
