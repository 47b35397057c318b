package webhook

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
)

// holdAll holds everything.
var holdAll = Config{Rules: []Rule{{Name: "all", Match: "true", Verdict: Hold, Approvers: []string{"people"}}}}

// The options of a request are bound to its signature, so people are shown them.
func TestI3_OptionsAreShown(t *testing.T) {
	t.Parallel()
	for options, want := range map[string]string{
		`{}`: "", `null`: "",
		`{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1","fieldManager":"kubectl","fieldValidation":"Strict"}`: "",
		`{"kind":"DeleteOptions","propagationPolicy":"Orphan","gracePeriodSeconds":0,"preconditions":{"uid":"u"}}`:   `{"gracePeriodSeconds":0,"preconditions":{"uid":"u"},"propagationPolicy":"Orphan"}`,
		`{"force":true,"fieldManager":"kubectl"}`:     `{"force":true}`,
		`{"odd":"` + strings.Repeat("x", 5000) + `"}`: `... (5010 bytes, sha256 `,
		`{"odd":"a\u202eb"}`:                          `\u202e`,
	} {
		f := &fakeApprovals{t: t, ensure: inPhase(v1alpha1.PhaseDenied)}
		req := request(t, "DELETE apps/deployments shop web", "", "{}")
		req.Options.Raw = []byte(options)
		if resp := post(t, newWebhook(t, f, notRevoked, holdAll), req); resp.Allowed {
			t.Fatalf("%s: %+v", options, resp)
		}
		if got := f.spec.Request.Options; got != want && (want == "" || !strings.Contains(got, want)) || len(got) > 4096 {
			t.Errorf("%s is shown as %q, want %q", options, got, want)
		}
	}
}

func TestWhatNobodyCanBeShownIsRefused(t *testing.T) {
	t.Parallel()
	req := request(t, "CREATE core/configmaps shop c", "{}", "")
	req.Object.Raw = []byte(strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000))
	resp := post(t, newWebhook(t, &fakeApprovals{t: t}, notRevoked, holdAll), req)
	if resp.Allowed || resp.Result.Code != http.StatusForbidden || !strings.Contains(resp.Result.Message, "nobody can be shown it: it is nested deeper than 100 levels. Nothing has changed.") {
		t.Errorf("got %+v %+v", resp, resp.Result)
	}
	if !slices.ContainsFunc(resp.Result.Details.Causes, func(c metav1.StatusCause) bool { return c.Type == CauseFinal && c.Message == "yes" }) {
		t.Errorf("the same request would fare better: %+v", resp.Result.Details)
	}
}

// Many changes at once are shown one after the other, in the time that each has.
func TestShowingWaitsItsTurn(t *testing.T) {
	t.Parallel()
	w := newWebhook(t, &fakeApprovals{t: t}, notRevoked, holdAll)
	if err := w.rendering.Acquire(t.Context(), maxRendered); err != nil {
		t.Fatal(err)
	}
	r, err := open(request(t, "CREATE core/configmaps shop c", "{}", ""), testAgent)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.hold(ctx, r, decision{verdict: Hold}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.rendering.Release(maxRendered)
	if !w.rendering.TryAcquire(maxRendered) {
		t.Error("room is lost")
	}
}

// The API server issues a token even in a dry run.
func TestI4_ADryRunOfATokenIsNone(t *testing.T) {
	t.Parallel()
	for line, allowed := range map[string]bool{
		"CREATE core/serviceaccounts/token shop sa": false, "CREATE core/serviceaccounts shop sa": true, "CREATE core/pods/eviction shop p": true,
	} {
		req := request(t, line, "{}", "")
		req.DryRun = new(bool)
		*req.DryRun = true
		if resp := post(t, newWebhook(t, &fakeApprovals{t: t}, notRevoked, holdAll), req); resp.Allowed != allowed {
			t.Errorf("%s: %+v %+v", line, resp, resp.Result)
		}
	}
}

// A signature whose request we refuse after all is told so by the audit trail.
func TestAUseThatComesToNothingIsTold(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(cancel func(), a *v1alpha1.Approval) (*v1alpha1.Approval, error){
		"the update timed out": func(func(), *v1alpha1.Approval) (*v1alpha1.Approval, error) { return nil, errors.New("timeout") },
		"it came back too late": func(cancel func(), a *v1alpha1.Approval) (*v1alpha1.Approval, error) {
			cancel()
			return a, nil
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		req := request(t, "CREATE core/configmaps shop c", "{}", "")
		f := &fakeApprovals{t: t}
		f.ensure = inPhase(v1alpha1.PhaseApproved)
		f.use = func(uid string) (*v1alpha1.Approval, error) {
			a := approvalOf(f.spec, v1alpha1.PhaseUsed)
			a.Status.Use = &v1alpha1.Use{RequestUID: uid}
			return use(cancel, a)
		}
		resp := answerTo(ctx, t, newWebhook(t, f, notRevoked, holdAll), req)
		cancel()
		if resp.Allowed || resp.AuditAnnotations[v1alpha1.AnnotationVerdict] != "denied" ||
			resp.AuditAnnotations[v1alpha1.AnnotationApproval] != "7f3a9c0011" || resp.AuditAnnotations[v1alpha1.AnnotationUse] != string(req.UID) {
			t.Errorf("%s: %+v", name, resp)
		}
	}
}

// answerTo is the answer to req, within ctx.
func answerTo(ctx context.Context, t *testing.T, w *Webhook, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	r, err := open(req, testAgent)
	if err != nil {
		t.Fatal(err)
	}
	resp, _ := w.answer(ctx, &admissionreview.Review{Request: req, Object: r.raw.object, OldObject: r.raw.oldObject, Options: r.raw.options})
	return resp
}
