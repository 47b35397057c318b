package webhook

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// fakeCluster is as much of an API server as rules ask. Zero knows no namespace
// and allows nothing.
type fakeCluster struct {
	namespaces []corev1.Namespace
	may        func(authorizationv1.SubjectAccessReviewSpec) bool
	refuse     bool // every question with 403
	hang       bool // every question

	mu    sync.Mutex
	gets  int // of one namespace
	asked []authorizationv1.SubjectAccessReviewSpec
}

func (f *fakeCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	failure := func(code int, reason metav1.StatusReason) {
		answer(code, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(code), Reason: reason})
	}
	name, one := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/")
	switch {
	case f.hang:
		_, _ = io.Copy(io.Discard, r.Body) // or the server doesn't see the client go
		<-r.Context().Done()
	case f.refuse:
		failure(http.StatusForbidden, metav1.StatusReasonForbidden)
	case one:
		f.mu.Lock()
		f.gets++
		f.mu.Unlock()
		for _, ns := range f.namespaces {
			if ns.Name == name {
				answer(http.StatusOK, ns)
				return
			}
		}
		failure(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.URL.Path == "/api/v1/namespaces" && r.URL.Query().Get("sendInitialEvents") != "":
		failure(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid) // no streamed lists: list and watch
	case r.URL.Path == "/api/v1/namespaces" && r.URL.Query().Get("watch") != "":
		w.Header().Set("Content-Type", "application/json")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case r.URL.Path == "/api/v1/namespaces":
		answer(http.StatusOK, corev1.NamespaceList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NamespaceList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: f.namespaces,
		})
	case r.URL.Path == "/apis/authorization.k8s.io/v1/subjectaccessreviews" && r.Method == http.MethodPost:
		var sar authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&sar); err != nil {
			failure(http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		f.mu.Lock()
		f.asked = append(f.asked, sar.Spec)
		f.mu.Unlock()
		sar.APIVersion, sar.Kind = "authorization.k8s.io/v1", "SubjectAccessReview"
		sar.Status.Allowed = f.may != nil && f.may(sar.Spec)
		answer(http.StatusCreated, sar)
	default:
		failure(http.StatusNotFound, metav1.StatusReasonNotFound)
	}
}

// connected is a rule set that may ask f.
func connected(t *testing.T, f *fakeCluster, cfg Config) (*RuleSet, *Cluster) {
	t.Helper()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	set, err := NewRuleSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&Webhook{rules: set, log: quiet}).Connect(&rest.Config{Host: srv.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	return set, c
}

func denyIf(match string) Config {
	return Config{Rules: []Rule{{Name: "r", Match: match, Verdict: Deny}}}
}

func judged(t *testing.T, set *RuleSet, req *admissionv1.AdmissionRequest) string {
	t.Helper()
	j, err := set.Judge(t.Context(), req, testAgent)
	if err != nil {
		t.Fatal(err)
	}
	if j.Failed {
		return "failed, " + string(j.Verdict)
	}
	return string(j.Verdict)
}

func TestNamespaceObject(t *testing.T) {
	t.Parallel()
	shop := corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"env": "prod"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "x"}}},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}},
		Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
	}
	for _, tt := range []struct {
		name, match, req string
		want             string
	}{
		{"its labels", "namespaceObject.metadata.labels['env'] == 'prod'", "DELETE core/pods shop web", "deny"},
		{"its name, finalizers and phase", "namespaceObject.metadata.name == 'shop' && 'kubernetes' in namespaceObject.spec.finalizers && namespaceObject.status.phase == 'Active'", "DELETE core/pods shop web", "deny"},
		{"a label that it lacks", "namespaceObject.metadata.?labels['team'].orValue('') == 'x'", "DELETE core/pods shop web", "allow"},
		{"null for what is in none", "namespaceObject == null", "DELETE core/nodes - n1", "deny"},
		{"null for a namespace", "namespaceObject == null", "DELETE core/namespaces shop shop", "deny"},
		{"one that isn't there fails the rule", "namespaceObject.metadata.name == 'x'", "DELETE core/pods bank web", "failed, deny"},
		{"but not one that doesn't read it", "request.operation == 'CREATE' && namespaceObject.metadata.name == 'x'", "DELETE core/pods bank web", "allow"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set, _ := connected(t, &fakeCluster{namespaces: []corev1.Namespace{shop}}, denyIf(tt.match))
			if got := judged(t, set, request(t, tt.req, "", "{}")); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestNamespacesAreRemembered(t *testing.T) {
	t.Parallel()
	f := &fakeCluster{namespaces: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"env": "prod"}}}}}
	set, c := connected(t, f, Config{
		Variables: []Variable{{Name: "env", Expression: "namespaceObject.metadata.labels.env"}},
		Rules:     []Rule{{Name: "r", Match: "variables.env == 'prod'", Verdict: Deny}},
	})
	if c.HasSynced() {
		t.Error("in step before it ran")
	}
	if got := judged(t, set, request(t, "DELETE core/pods shop web", "", "{}")); got != "deny" || f.gets != 1 {
		t.Errorf("before: got %s with %d reads, want one", got, f.gets)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	if !cache.WaitForCacheSync(ctx.Done(), c.HasSynced) {
		t.Fatal("never in step")
	}
	if got := judged(t, set, request(t, "DELETE core/pods shop web", "", "{}")); got != "deny" || f.gets != 1 {
		t.Errorf("after: got %s with %d reads, want no more", got, f.gets)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTheAuthorizerAsksAboutTheRequestsUser(t *testing.T) {
	t.Parallel()
	f := &fakeCluster{may: func(s authorizationv1.SubjectAccessReviewSpec) bool {
		return s.ResourceAttributes != nil && s.ResourceAttributes.Verb == "impersonate" || s.NonResourceAttributes != nil
	}}
	// Two checks are what one expression may cost.
	set, _ := connected(t, f, Config{
		Variables: []Variable{
			{Name: "mayImpersonate", Expression: "authorizer.group('').resource('users').name('root').check('impersonate').allowed()"},
			{Name: "mayForce", Expression: "authorizer.requestResource.check('force').allowed()"},
			{Name: "maySeeMetrics", Expression: "authorizer.path('/metrics').check('get').allowed()"},
			{Name: "mayList", Expression: "authorizer.serviceAccount('shop', 'web').group('').resource('pods').check('list').allowed()"},
		},
		Rules: []Rule{{Name: "r", Match: "variables.mayImpersonate && !variables.mayForce && variables.maySeeMetrics && !variables.mayList", Verdict: Deny}},
	})
	req := request(t, "UPDATE apps/deployments/scale shop web", "{}", "{}")
	req.UserInfo.UID = "u-1"
	for range 2 { // the second time from what is remembered
		if got := judged(t, set, req); got != "deny" {
			t.Fatalf("got %s", got)
		}
	}
	if len(f.asked) != 4 {
		t.Fatalf("asked %d times, want 4: %+v", len(f.asked), f.asked)
	}
	for _, s := range f.asked[:3] {
		if s.User != req.UserInfo.Username || s.UID != "u-1" || !reflect.DeepEqual(s.Groups, req.UserInfo.Groups) || len(s.Extra) != len(req.UserInfo.Extra) {
			t.Errorf("asked about %+v", s)
		}
	}
	if got := *f.asked[1].ResourceAttributes; got.Group != "apps" || got.Resource != "deployments" || got.Subresource != "scale" || got.Namespace != "shop" || got.Name != "web" || got.Verb != "force" {
		t.Errorf("requestResource is %+v", got)
	}
	if got := f.asked[3].User; got != "system:serviceaccount:shop:web" {
		t.Errorf("asked about %q", got)
	}
}

// TestI4_WhatTheClusterDoesNotAnswerIsNoPass: the CEL library takes an error for
// "not allowed".
func TestI4_WhatTheClusterDoesNotAnswerIsNoPass(t *testing.T) {
	t.Parallel()
	const may = "authorizer.requestResource.check('force').allowed()"
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"a rule on what somebody may do", denyIf(may), "failed, deny"},
		{"a rule on what they may not", denyIf("!" + may), "failed, deny"},
		{"a rule that asks whether it went wrong", denyIf("authorizer.requestResource.check('force').errored() && false"), "failed, deny"},
		{"a variable", Config{
			Variables: []Variable{{Name: "may", Expression: may}},
			Rules: []Rule{
				{Name: "one", Match: "variables.may", Verdict: Hold, Approvers: []string{"sre"}},
				{Name: "two", Match: "variables.may", Verdict: Deny},
			},
		}, "failed, deny"},
		{"a variable that the rule gets by without", Config{
			Variables: []Variable{{Name: "may", Expression: may}},
			Rules:     []Rule{{Name: "one", Match: "variables.may && request.name == 'other'", Verdict: Deny}},
		}, "allow"},
		{"an allow rule", Config{Default: Deny, Rules: []Rule{{Name: "r", Match: "!" + may, Verdict: Allow}}}, "deny"},
		{"a namespace", denyIf("namespaceObject.metadata.name == 'x'"), "failed, deny"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set, _ := connected(t, &fakeCluster{refuse: true}, tt.cfg)
			if got := judged(t, set, request(t, updateLine, "{}", "{}")); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestI4_TheReviewsDeadlineEndsWhatRulesAsk(t *testing.T) {
	t.Parallel()
	for _, match := range []string{"authorizer.requestResource.check('force').allowed()", "namespaceObject.metadata.name == 'x'"} {
		set, _ := connected(t, &fakeCluster{hang: true}, denyIf(match))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if j, err := set.Judge(ctx, request(t, updateLine, "{}", "{}"), testAgent); err == nil {
			t.Errorf("%s: got %+v past the deadline", match, j)
		}
	}
}

func TestOnlyWhatRulesReadIsAsked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		match                  string
		namespaces, authorizer bool
	}{
		{"request.namespace == 'shop'", false, false},
		{"['namespaceObject', 'authorizer'].exists(x, x == request.name)", false, false},
		{"namespaceObject == null", true, false},
		{"authorizer.requestResource.check('get').allowed()", false, true},
		{"authorizer.path('/').check('get').allowed()", false, true},
	} {
		_, c := connected(t, &fakeCluster{}, denyIf(tt.match))
		if got := c != nil && c.informer != nil; got != tt.namespaces {
			t.Errorf("%s: namespaces %t", tt.match, got)
		}
		if got := c != nil && c.authorizer != nil; got != tt.authorizer {
			t.Errorf("%s: authorizer %t", tt.match, got)
		}
	}
}

func TestATrialCantAskTheCluster(t *testing.T) {
	t.Parallel()
	rules := Config{Rules: []Rule{
		{Name: "may", Match: "authorizer.requestResource.check('force').allowed()", Verdict: Hold, Approvers: []string{"sre"}},
		{Name: "env", Match: "namespaceObject == null", Verdict: Deny},
	}}
	trial, err := NewTrial(rules, rules, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := trial.Run(t.Context(), each(TrialRequest{Request: request(t, updateLine, "{}", "{}"), Agent: testAgent}))
	if err != nil {
		t.Fatal(err)
	}
	if may, env := ruleOf(t, r, "may"), ruleOf(t, r, "env"); may.Failed != 1 || env.Failed != 1 || env.Denied != 1 {
		t.Errorf("got %+v and %+v", may, env)
	}
}
