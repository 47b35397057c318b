package webhook

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
	"github.com/tipstaff-dev/tipstaff/mask"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// fakeApprovals answers with what a test sets; what is not set must not be called.
type fakeApprovals struct {
	t      testing.TB
	ensure func(v1alpha1.ApprovalSpec) (*v1alpha1.Approval, error)
	wait   func(context.Context) (*v1alpha1.Approval, error)
	use    func(uid string) (*v1alpha1.Approval, error)
	spec   v1alpha1.ApprovalSpec
	try    v1alpha1.Try
}

func (f *fakeApprovals) Ensure(_ context.Context, s v1alpha1.ApprovalSpec, t v1alpha1.Try, show func(*v1alpha1.ApprovalSpec) error) (*v1alpha1.Approval, error) {
	if f.ensure == nil {
		f.t.Error("an approval was asked for")
		return nil, errors.New("must not be called")
	}
	if err := show(&s); err != nil {
		return nil, err
	}
	f.spec, f.try = s, t
	return f.ensure(s)
}

func (f *fakeApprovals) Wait(ctx context.Context, _ string) (*v1alpha1.Approval, error) {
	if f.wait == nil {
		f.t.Error("an approval was waited for")
		return nil, errors.New("must not be called")
	}
	return f.wait(ctx)
}

func (f *fakeApprovals) Use(_ context.Context, _ string, t v1alpha1.Try) (*v1alpha1.Approval, error) {
	if f.use == nil {
		f.t.Error("an approval was used")
		return nil, errors.New("must not be called")
	}
	return f.use(t.RequestUID)
}

// inPhase makes an Ensure that finds the approval in this phase.
func inPhase(p v1alpha1.Phase) func(v1alpha1.ApprovalSpec) (*v1alpha1.Approval, error) {
	return func(s v1alpha1.ApprovalSpec) (*v1alpha1.Approval, error) { return approvalOf(s, p), nil }
}

func approvalOf(s v1alpha1.ApprovalSpec, p v1alpha1.Phase) *v1alpha1.Approval {
	a := &v1alpha1.Approval{ObjectMeta: metav1.ObjectMeta{Name: "7f3a9c0011", CreationTimestamp: metav1.Now()}, Spec: s}
	a.Status.Phase = p
	switch p {
	case v1alpha1.PhaseCancelled:
		a.Status.Cancelled = &v1alpha1.Cancellation{Reason: "runaway."}
	case v1alpha1.PhaseDenied:
		a.Status.Decisions = []v1alpha1.Decision{{By: "alice", Verdict: v1alpha1.VerdictDeny, Reason: "not on a Friday"}}
	case v1alpha1.PhaseApproved, v1alpha1.PhaseUsed:
		a.Status.Decisions = []v1alpha1.Decision{{By: "alice", Verdict: v1alpha1.VerdictApprove}}
	}
	return a
}

type fakeRevoked func() (string, bool, error)

func (f fakeRevoked) Revoked(v1alpha1.Agent) (string, bool, error) { return f() }

var notRevoked = fakeRevoked(func() (string, bool, error) { return "", false, nil })

// The rules would take what isn't there for empty, and let it through.
func TestI4_AnIncompleteReviewIsRefused(t *testing.T) {
	t.Parallel()
	whole := map[string]string{"CREATE": `,"object":{}`, "UPDATE": `,"object":{},"oldObject":{}`, "DELETE": `,"oldObject":{}`, "CONNECT": `,"object":{}`}
	for _, tt := range []struct {
		operation, objects string
		allowed            bool
	}{
		{"CREATE", "", false}, {"CREATE", `,"object":null`, false}, {"CREATE", `,"oldObject":{}`, false},
		{"UPDATE", "", false}, {"UPDATE", `,"object":{}`, false}, {"UPDATE", `,"oldObject":{}`, false},
		{"DELETE", "", false}, {"DELETE", `,"object":{}`, false}, {"CONNECT", "", false},
		{"CREATE", whole["CREATE"], true}, {"UPDATE", whole["UPDATE"], true}, {"DELETE", whole["DELETE"], true}, {"CONNECT", whole["CONNECT"], true},
	} {
		body := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","resource":{"version":"v1","resource":"pods"},"name":"n","namespace":"shop",` +
			`"userInfo":{"username":"agent:ci:bot","groups":["tipstaff:agents"],"extra":{"tipstaff.dev/issuer":["ci"],"tipstaff.dev/run":["run-1"]}},"operation":"` + tt.operation + `"` + tt.objects + `}}`
		rec := httptest.NewRecorder()
		newWebhook(t, &fakeApprovals{t: t}, notRevoked, allowAll).Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/changes", strings.NewReader(body)))
		var out admissionv1.AdmissionReview
		if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || out.Response.Allowed != tt.allowed {
			t.Errorf("%s%s: %d %s", tt.operation, tt.objects, rec.Code, rec.Body)
		}
	}
}

func newWebhook(t testing.TB, ap Approvals, rv Revoked, cfg Config) *Webhook {
	t.Helper()
	m, err := mask.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	cfg.InlineWait.Duration = 50 * time.Millisecond
	w, err := New(cfg, ap, rv, testAgents, &access.Limits{ClusterRoles: []string{"edit"}}, m, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// post sends req through the handler.
func post(t testing.TB, w *Webhook, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	body := mustJSON(t, admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: req})
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "POST", "/changes?timeout=10s", bytes.NewReader(body)))
	if rec.Code != http.StatusOK {
		t.Fatalf("got HTTP %d: %s", rec.Code, rec.Body)
	}
	var out admissionv1.AdmissionReview
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || out.Response == nil {
		t.Fatalf("answer %q: %v", rec.Body, err)
	}
	if out.Response.UID != req.UID {
		t.Errorf("answer is for uid %q", out.Response.UID)
	}
	return out.Response
}

func causeOf(resp *admissionv1.AdmissionResponse, typ metav1.CauseType) string {
	if resp.Result == nil || resp.Result.Details == nil {
		return ""
	}
	for _, c := range resp.Result.Details.Causes {
		if c.Type == typ {
			return c.Message
		}
	}
	return ""
}

const deleteNamespace = "DELETE core/namespaces prod-eu prod-eu"

func TestAnswers(t *testing.T) {
	t.Parallel()
	pendingWait := func(f *fakeApprovals) func(context.Context) (*v1alpha1.Approval, error) {
		return func(ctx context.Context) (*v1alpha1.Approval, error) {
			<-ctx.Done()
			return approvalOf(f.spec, v1alpha1.PhasePending), nil
		}
	}
	usedBy := func(f *fakeApprovals, who string) func(string) (*v1alpha1.Approval, error) {
		return func(uid string) (*v1alpha1.Approval, error) {
			a := approvalOf(f.spec, v1alpha1.PhaseUsed)
			if who != "" {
				uid = who
			}
			a.Status.Use = &v1alpha1.Use{RequestUID: uid}
			return a, nil
		}
	}
	tests := []struct {
		name    string
		setup   func(*fakeApprovals)
		revoked fakeRevoked
		req     func(t *testing.T) *admissionv1.AdmissionRequest
		code    int32 // 0: allowed
		text    string
		reason  string // cause
		verdict string // annotation
	}{
		{
			name: "a person's request is allowed untouched, whatever the rules say",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				r := request(t, deleteNamespace, "", "{}")
				r.UserInfo.Username, r.UserInfo.Groups = "alice", []string{"system:authenticated"}
				return r
			},
		},
		{
			name: "an agent without a run is refused",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				r := request(t, "CREATE core/configmaps shop c", "{}", "")
				delete(r.UserInfo.Extra, v1alpha1.ExtraRun)
				return r
			},
			code: 403, text: `create configmap "c" in namespace "shop" is refused: this identity names no run. Nothing has changed.`, reason: ReasonNoRun, verdict: "denied",
		},
		{
			name:    "a revoked run is refused at once, told why",
			revoked: func() (string, bool, error) { return "runaway", true, nil },
			code:    403, text: `delete namespace "prod-eu" is refused: run "run-1" is revoked: runaway. Nothing has changed.`, reason: ReasonRevoked, verdict: "denied",
		},
		{
			name: "an agent changes no approval",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				return request(t, "UPDATE tipstaff.dev/approvals/status - x", "{}", "{}")
			},
			code: 403, reason: ReasonRule, verdict: "denied", text: "agents change nothing in tipstaff.dev",
		},
		{
			name: "a mask is not written back (I8)",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				return request(t, "UPDATE core/configmaps shop c", "{data: {password: tipstaff-masked-0123456789abcdef0123456789abcdef}}", "{}")
			},
			code: 403, reason: ReasonMask, verdict: "denied", text: "data.password",
		},
		{
			name: "nor one within a release of helm's",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				return request(t, "UPDATE core/secrets shop sh.helm.release.v1.shop.v1", `{type: helm.sh/release.v1, data: {release: "`+packed(t, `{"config":{"a":"tipstaff-masked-0123456789abcdef0123456789abcdef"}}`)+`"}}`, "{}")
			},
			code: 403, reason: ReasonMask, verdict: "denied", text: "data.release",
		},
		{
			name: "a release of helm's without one is its own business",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				return request(t, "UPDATE core/secrets shop sh.helm.release.v1.shop.v1", `{type: helm.sh/release.v1, data: {release: "`+packed(t, `{"config":{"a":"b"}}`)+`"}}`, `{type: helm.sh/release.v1}`)
			},
			verdict: "allowed",
		},
		{
			name: "what no rule matches is allowed",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				return request(t, "CREATE core/configmaps shop c", "{}", "")
			},
			verdict: "allowed",
		},
		{
			name: "what a rule denies is denied, dry run or not",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				r := request(t, "CREATE core/serviceaccounts/token shop c", "{}", "")
				r.DryRun = new(bool)
				*r.DryRun = true
				return r
			},
			code: 403, reason: ReasonRule, verdict: "denied",
			text: `create serviceaccounts/token "c" in namespace "shop" is denied by rule "service-account-token": a token of another identity would leave this run's escort. Nothing has changed.`,
		},
		{
			name: "a dry run opens no approval and is told what would happen",
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				r := request(t, deleteNamespace, "", "{}")
				r.DryRun = new(bool)
				*r.DryRun = true
				return r
			},
			verdict: "dryRun", text: `would be held by rule "delete-namespace"`,
		},
		{
			name:  "an undecided request is told to come back",
			setup: func(f *fakeApprovals) { f.ensure = inPhase(v1alpha1.PhasePending); f.wait = pendingWait(f) },
			code:  429, reason: ReasonHeld, verdict: "held",
			text: `delete namespace "prod-eu" is held by rule "delete-namespace": approval 7f3a9c0011, decided by group "tipstaff-approvers", open until `,
		},
		{
			name:    "a request that was approved before goes through with the approver's name",
			setup:   func(f *fakeApprovals) { f.ensure = inPhase(v1alpha1.PhaseApproved); f.use = usedBy(f, "") },
			verdict: "approved", text: "approved by alice (approval 7f3a9c0011)",
		},
		{
			name: "a request that is approved while it waits goes through",
			setup: func(f *fakeApprovals) {
				f.ensure = inPhase(v1alpha1.PhasePending)
				f.wait = func(context.Context) (*v1alpha1.Approval, error) {
					return approvalOf(f.spec, v1alpha1.PhaseApproved), nil
				}
				f.use = usedBy(f, "")
			},
			verdict: "approved", text: "approved by alice (approval 7f3a9c0011)",
		},
		{
			name: "an update that is approved while it waits is sent back for a fresh object, where a conflict's retry can't be told",
			setup: func(f *fakeApprovals) {
				f.ensure = inPhase(v1alpha1.PhasePending)
				f.wait = func(context.Context) (*v1alpha1.Approval, error) {
					return approvalOf(f.spec, v1alpha1.PhaseApproved), nil
				}
			},
			req: func(t *testing.T) *admissionv1.AdmissionRequest {
				return request(t, "UPDATE core/secrets shop s", "{metadata: {uid: u, resourceVersion: '7'}, data: {a: b}}", "{metadata: {uid: u, resourceVersion: '7'}}")
			},
			code: 429, reason: ReasonHeld, verdict: "held",
			text: `is approved by alice (approval 7f3a9c0011) and goes through with the next identical request. Nothing has changed.`,
		},
		{
			name:    "one that is used answers where the store lets it be used again",
			setup:   func(f *fakeApprovals) { f.ensure = inPhase(v1alpha1.PhaseUsed); f.use = usedBy(f, "") },
			verdict: "approved", text: "approved by alice (approval 7f3a9c0011)",
		},
		{
			name:  "an approval that another request took lets nothing through",
			setup: func(f *fakeApprovals) { f.ensure = inPhase(v1alpha1.PhaseApproved); f.use = usedBy(f, "another") },
			code:  429, reason: ReasonHeld, verdict: "held",
		},
		{
			name:  "a denied request is told who and why",
			setup: func(f *fakeApprovals) { f.ensure = inPhase(v1alpha1.PhaseDenied) },
			code:  403, reason: ReasonDenied, verdict: "denied",
			text: `delete namespace "prod-eu" was denied by alice: not on a Friday (rule "delete-namespace", approval 7f3a9c0011). Nothing has changed.`,
		},
		{
			name: "one whose run is revoked while it waits is refused, for good",
			setup: func(f *fakeApprovals) {
				f.ensure = inPhase(v1alpha1.PhasePending)
				f.wait = func(context.Context) (*v1alpha1.Approval, error) {
					return approvalOf(f.spec, v1alpha1.PhaseCancelled), nil
				}
			},
			code: 403, reason: ReasonRevoked, verdict: "denied",
			text: `delete namespace "prod-eu" was held by rule "delete-namespace", and its approval 7f3a9c0011 is cancelled: the run is revoked: runaway. Nothing has changed.`,
		},
		{
			name: "one that expires while it waits is refused",
			setup: func(f *fakeApprovals) {
				f.ensure = inPhase(v1alpha1.PhasePending)
				f.wait = func(context.Context) (*v1alpha1.Approval, error) {
					return approvalOf(f.spec, v1alpha1.PhaseExpired), nil
				}
			},
			code: 403, reason: ReasonExpired, verdict: "denied",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeApprovals{t: t}
			if tt.setup != nil {
				tt.setup(f)
			}
			var rv Revoked = notRevoked
			if tt.revoked != nil {
				rv = tt.revoked
			}
			req := request(t, deleteNamespace, "", "{}")
			if tt.req != nil {
				req = tt.req(t)
			}
			resp := post(t, newWebhook(t, f, rv, Config{}), req)
			text, code := strings.Join(resp.Warnings, "\n"), int32(0)
			if resp.Result != nil {
				text, code = resp.Result.Message, resp.Result.Code
			}
			if resp.Allowed != (tt.code == 0) || code != tt.code {
				t.Errorf("allowed %v with code %d, want code %d: %s", resp.Allowed, code, tt.code, text)
			}
			if !strings.Contains(text, tt.text) {
				t.Errorf("text is  %s\nwant     %s", text, tt.text)
			}
			if got := causeOf(resp, CauseReason); got != tt.reason {
				t.Errorf("cause is %q, want %q", got, tt.reason)
			}
			if got := resp.AuditAnnotations[v1alpha1.AnnotationVerdict]; got != tt.verdict {
				t.Errorf("verdict annotation is %q, want %q", got, tt.verdict)
			}
			if used := resp.AuditAnnotations[v1alpha1.AnnotationUse]; (used == string(req.UID)) != (tt.verdict == "approved") {
				t.Errorf("use annotation is %q", used)
			}
			if tt.code == 429 && (resp.Result.Details.RetryAfterSeconds < 1 || resp.Result.Reason != metav1.StatusReasonTooManyRequests) {
				t.Errorf("held with %+v", resp.Result)
			}
		})
	}
}

func TestI4_EveryFailureRefuses(t *testing.T) {
	t.Parallel()
	broken := errors.New("store is away: secret-detail")
	tests := []struct {
		name    string
		setup   func(*fakeApprovals)
		revoked fakeRevoked
		req     func(*admissionv1.AdmissionRequest)
		rules   []Rule
	}{
		{name: "the store can't be reached", setup: func(f *fakeApprovals) {
			f.ensure = func(v1alpha1.ApprovalSpec) (*v1alpha1.Approval, error) { return nil, broken }
		}},
		{name: "the wait fails", setup: func(f *fakeApprovals) {
			f.ensure = inPhase(v1alpha1.PhasePending)
			f.wait = func(context.Context) (*v1alpha1.Approval, error) { return nil, broken }
		}},
		{name: "the use fails", setup: func(f *fakeApprovals) {
			f.ensure = inPhase(v1alpha1.PhaseApproved)
			f.use = func(string) (*v1alpha1.Approval, error) { return nil, broken }
		}},
		{name: "the store panics", setup: func(f *fakeApprovals) {
			f.ensure = func(v1alpha1.ApprovalSpec) (*v1alpha1.Approval, error) { panic(broken) }
		}},
		{name: "the store answers with another request's approval", setup: func(f *fakeApprovals) {
			f.ensure = func(s v1alpha1.ApprovalSpec) (*v1alpha1.Approval, error) {
				s.Fingerprint = "other"
				return approvalOf(s, v1alpha1.PhaseApproved), nil
			}
		}},
		{name: "an approval in no known phase", setup: func(f *fakeApprovals) { f.ensure = inPhase("") }},
		{name: "revocations are not known", revoked: func() (string, bool, error) { return "", false, broken }},
		{name: "the object is no object", req: func(r *admissionv1.AdmissionRequest) { r.OldObject.Raw = []byte(`[1]`) }},
		{name: "a deny rule that can't be evaluated", rules: []Rule{{Name: "r", Match: "object.nothing.here == 1", Verdict: Deny}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeApprovals{t: t}
			if tt.setup != nil {
				tt.setup(f)
			}
			var rv Revoked = notRevoked
			if tt.revoked != nil {
				rv = tt.revoked
			}
			req := request(t, deleteNamespace, "", "{}")
			if tt.req != nil {
				tt.req(req)
			}
			resp := post(t, newWebhook(t, f, rv, Config{Rules: tt.rules}), req)
			if resp.Allowed || resp.Result == nil || resp.Result.Code < 400 || resp.Result.Message == "" {
				t.Fatalf("got %+v", resp)
			}
			if strings.Contains(resp.Result.Message, "secret-detail") {
				t.Errorf("the cause went to the agent: %s", resp.Result.Message)
			}
		})
	}
}

func TestI4_MalformedReviewsAreRefused(t *testing.T) {
	t.Parallel()
	const good = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","userInfo":{"username":"u"},"operation":"CREATE"`
	tests := []struct {
		name, body string
		want       int
	}{
		{"an empty body", "", 400},
		{"no JSON", "hello", 400},
		{"another kind", `{"apiVersion":"v1","kind":"Pod"}`, 400},
		{"no request", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, 400},
		{"the old version", strings.Replace(good, "/v1", "/v1beta1", 1) + "}}", 400},
		{"an unknown operation", strings.Replace(good, "CREATE", "PATCH", 1) + "}}", 400},
		{"a field of the object given twice", good + `,"object":{"a":{"b":1,"b":2}}}}`, 400},
		{"the user given twice", good + `,"userInfo":{"username":"u"}}}`, 400},
		{"no user", strings.Replace(good, `"u"`, `""`, 1) + `}}`, 400},
		{"text after the end", good + `}} x`, 400},
		{"more than the cap", good + `,"object":{"a":"` + strings.Repeat("x", maxReviewBytes) + `"}}}`, 413},
		{"the control: a good one is answered", good + `}}`, 200},
	}
	w := newWebhook(t, &fakeApprovals{t: t}, notRevoked, Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rec := httptest.NewRecorder()
			w.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "POST", "/changes", strings.NewReader(tt.body)))
			if rec.Code != tt.want {
				t.Errorf("got %d %s, want %d", rec.Code, rec.Body, tt.want)
			}
		})
	}
}

func TestI4_PastTheDeadlineNothingIsAllowed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rev, err := admissionreview.Of(request(t, "CREATE core/configmaps shop c", "{}", ""))
	if err != nil {
		t.Fatal(err)
	}
	resp, _ := newWebhook(t, &fakeApprovals{t: t}, notRevoked, Config{}).answer(ctx, rev)
	if resp.Allowed {
		t.Error("allowed after the deadline")
	}
}

func TestI9_RevokedWhileItWaited(t *testing.T) {
	t.Parallel()
	calls := 0
	rv := fakeRevoked(func() (string, bool, error) { calls++; return "stop", calls > 1, nil })
	f := &fakeApprovals{t: t, ensure: inPhase(v1alpha1.PhaseApproved)} // Use must not be called
	if resp := post(t, newWebhook(t, f, rv, Config{}), request(t, deleteNamespace, "", "{}")); resp.Allowed || causeOf(resp, CauseReason) != ReasonRevoked {
		t.Errorf("got %+v", resp)
	}
}

func TestI7_NoSecretInAnApproval(t *testing.T) {
	t.Parallel()
	f := &fakeApprovals{t: t, ensure: inPhase(v1alpha1.PhaseDenied)}
	post(t, newWebhook(t, f, notRevoked, Config{}), request(t, "UPDATE core/secrets shop s",
		"{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {password: bmV3LXZhbHVl}}",
		"{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {password: b2xkLXZhbHVl}}"))
	out := string(mustJSON(t, f.spec))
	for _, secret := range []string{"bmV3LXZhbHVl", "b2xkLXZhbHVl"} {
		if strings.Contains(out, secret) {
			t.Errorf("%s stands in the approval: %s", secret, out)
		}
	}
	// In a Secret's data the mark stands in base64, as any value there.
	mark := base64.StdEncoding.EncodeToString([]byte(mask.MarkPrefix))
	if strings.Count(f.spec.Diff, "password: "+mark[:20]) != 2 {
		t.Errorf("diff shows neither field nor mark:\n%s", f.spec.Diff)
	}
}

func TestWaitersAreCapped(t *testing.T) {
	t.Parallel()
	w := waiters{most: maxWaiters, mostPerRun: maxWaitersPerRun}
	leave := func() {}
	enter := func(run v1alpha1.RunKey) (full string) {
		var l func()
		if l, full = w.enter(run); full == "" {
			leave = l
		}
		return full
	}
	for range maxWaitersPerRun {
		if full := enter("a"); full != "" {
			t.Fatal("refused below the cap: " + full)
		}
	}
	if full := enter("a"); full != "run" {
		t.Errorf("one run has more than its share: %q", full)
	}
	leave()
	if full := enter("a"); full != "" {
		t.Error("a place that was left is not free")
	}
	for i := 0; w.total < maxWaiters; i++ {
		if full := enter(v1alpha1.RunKey(fmt.Sprint(i))); full != "" {
			t.Fatalf("another run can't wait: %s", full)
		}
	}
	if full := enter("b"); full != "cluster" {
		t.Errorf("more wait than may: %q", full)
	}
}

func TestAPanicWhileWaitingLeavesNoWaiter(t *testing.T) {
	t.Parallel()
	f := &fakeApprovals{t: t, ensure: inPhase(v1alpha1.PhasePending), wait: func(context.Context) (*v1alpha1.Approval, error) { panic("oh") }}
	w := newWebhook(t, f, notRevoked, Config{})
	if resp := post(t, w, request(t, "DELETE core/namespaces shop", "", "{metadata: {name: shop}}")); resp.Allowed || causeOf(resp, CauseReason) != ReasonUnchecked {
		t.Errorf("got %+v", resp)
	}
	if w.waiters.total != 0 || len(w.waiters.byRun) != 0 {
		t.Errorf("%d wait still", w.waiters.total)
	}
}

func TestTooManyPendingIsToldAsSuch(t *testing.T) {
	t.Parallel()
	f := &fakeApprovals{t: t, ensure: func(v1alpha1.ApprovalSpec) (*v1alpha1.Approval, error) {
		return nil, fmt.Errorf("open: %w", v1alpha1.ErrTooMany)
	}}
	resp := post(t, newWebhook(t, f, notRevoked, Config{}), request(t, "DELETE core/namespaces shop", "", "{metadata: {name: shop}}"))
	if resp.Allowed || resp.Result.Code != http.StatusTooManyRequests || resp.Result.Details.RetryAfterSeconds != 60 {
		t.Errorf("got %+v", resp.Result)
	}
	if causeOf(resp, CauseReason) != ReasonTooMany || causeOf(resp, CauseFinal) != "no" || resp.AuditAnnotations[v1alpha1.AnnotationVerdict] != "denied" {
		t.Errorf("causes %+v, annotations %v", resp.Result.Details.Causes, resp.AuditAnnotations)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"10s": 9500 * time.Millisecond, "1s": 500 * time.Millisecond, "": 9500 * time.Millisecond,
		"-1s": 9500 * time.Millisecond, "1h": 9500 * time.Millisecond, "x": 9500 * time.Millisecond,
	} {
		if got := budget(in); got != want {
			t.Errorf("budget(%q) = %s, want %s", in, got, want)
		}
	}
}

// A plain yes is written by hand, and reads as the library's.
func TestEncode(t *testing.T) {
	t.Parallel()
	for _, resp := range []*admissionv1.AdmissionResponse{
		{UID: "u", Allowed: true},
		{UID: "\"}\u2028<\\", Allowed: true, AuditAnnotations: map[string]string{"verdict": "allowed", "rule": "a \"rule\"\n<é>"}},
		{UID: "\xff", Allowed: true, AuditAnnotations: map[string]string{"rule": "\xfe"}},
		{UID: "u", Allowed: true, Warnings: []string{"w"}},
		{UID: "u", Allowed: true, Result: &metav1.Status{Message: "m"}},
		{UID: "u", Result: &metav1.Status{Message: "m", Code: 403}, AuditAnnotations: map[string]string{"verdict": "denied"}},
	} {
		out, err := encode(resp)
		if err != nil {
			t.Fatal(err)
		}
		want := mustJSON(t, admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Response: resp})
		var got, expected admissionv1.AdmissionReview
		if err := errors.Join(json.Unmarshal(out, &got), json.Unmarshal(want, &expected)); err != nil || !reflect.DeepEqual(got, expected) {
			t.Errorf("got %s, want %s (%v)", out, want, err)
		}
	}
}

// packed is a text as helm keeps a release in a Secret.
func packed(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write([]byte(text)) // to a buffer
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(b.Bytes())))
}
