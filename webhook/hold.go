package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Approvals finds, waits for and uses the approval of one exact request. The
// status.phase of what it returns says where the approval stands now. An error
// means that this could not be known, and the request is refused.
type Approvals interface {
	// Ensure finds the approval that answers for spec.Fingerprint, or opens one:
	// only then it has show fill in what people see of the change. A used one
	// answers where t may go through under it again, now or in a moment. Where too
	// many are pending to open another, the error is v1alpha1.ErrTooMany.
	Ensure(ctx context.Context, spec v1alpha1.ApprovalSpec, t v1alpha1.Try, show func(*v1alpha1.ApprovalSpec) error) (*v1alpha1.Approval, error)
	// Wait returns when it is no longer pending or ctx is done, then with the
	// state last known and no error.
	Wait(ctx context.Context, name string) (*v1alpha1.Approval, error)
	// Use takes an approved one for t, once; and again where the request that had
	// it was not carried out. Who got it stands in status.use.
	Use(ctx context.Context, name string, t v1alpha1.Try) (*v1alpha1.Approval, error)
}

// Two replicas with all their waiters leave agents a fifth of the seats that
// manifests/base/flowcontrol.yaml gives them in an API server of the usual size.
const (
	maxWaitersPerRun = 5
	maxWaiters       = 25
)

// waiters caps how many requests wait inline, per run and in all: each holds a
// seat of the API server. Past a cap the 429 comes at once.
type waiters struct {
	most, mostPerRun int

	mu    sync.Mutex
	total int
	byRun map[v1alpha1.RunKey]int
}

// enter counts one more in, unless a cap is reached: then full names it and leave is nil.
func (w *waiters) enter(run v1alpha1.RunKey) (leave func(), full string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.total >= w.most:
		return nil, "cluster"
	case w.byRun[run] >= w.mostPerRun:
		return nil, "run"
	}
	if w.byRun == nil {
		w.byRun = map[v1alpha1.RunKey]int{}
	}
	w.total++
	w.byRun[run]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.total--
		if w.byRun[run]--; w.byRun[run] == 0 {
			delete(w.byRun, run)
		}
	}, ""
}

// hold answers a request that a rule holds.
func (w *Webhook) hold(ctx context.Context, r *review, d decision) (*admissionv1.AdmissionResponse, error) {
	if err := showable(r.raw.object, r.raw.oldObject, r.raw.options); err != nil {
		rule := d.terms().Name
		return denied(forbidden(r.req, fmt.Sprintf("%s needs an approval (rule %q), and nobody can be shown it: %s. Nothing has changed.", r.action(), rule, err),
			causes(ReasonRule, rule, nil, true)), rule, "cannot be shown"), nil
	}
	t := tryOf(r)
	spec, a, err := w.ensure(ctx, r, d, t)
	switch {
	case errors.Is(err, v1alpha1.ErrTooMany):
		return w.tooMany(r, spec.Rule), nil
	case err != nil:
		return nil, fmt.Errorf("find the approval: %w", err)
	case a.Spec.Fingerprint != spec.Fingerprint:
		return nil, fmt.Errorf("approval %s is for another request", a.Name)
	}
	var waited time.Duration
	if a.Status.Phase == v1alpha1.PhasePending {
		a.Spec.Diff = ""
		r.release()
		if a, waited, err = w.wait(ctx, r.agent.Key(), a); err != nil {
			return nil, err
		}
		if a.Spec.Fingerprint != spec.Fingerprint {
			return nil, fmt.Errorf("approval %s is for another request", a.Name)
		}
	}
	switch {
	case a.Status.Phase == v1alpha1.PhaseApproved && waited > 0 && r.req.Operation == admissionv1.Update && t.Proof != v1alpha1.ProofGeneration:
		return w.freshFirst(r, a), nil
	case a.Status.Phase == v1alpha1.PhaseApproved, a.Status.Phase == v1alpha1.PhaseUsed:
		return w.use(ctx, r, d, a, t)
	}
	return w.notYet(r, d, a, waited), nil
}

// maxRendered is how many bytes of objects are compared and shown at once, which
// takes tens of times as much memory. Whoever comes then waits.
const maxRendered = 16 << 20

// ensure finds or opens the approval of a request that can be shown.
func (w *Webhook) ensure(ctx context.Context, r *review, d decision, t v1alpha1.Try) (v1alpha1.ApprovalSpec, *v1alpha1.Approval, error) {
	size := min(maxRendered, int64(len(r.raw.object.Raw())+len(r.raw.oldObject.Raw())+len(r.raw.options.Raw())))
	if err := w.rendering.Acquire(ctx, size); err != nil {
		return v1alpha1.ApprovalSpec{}, nil, fmt.Errorf("wait until other changes are shown: %w", err)
	}
	defer w.rendering.Release(size)
	spec, show, err := w.spec(r, d)
	if err != nil {
		return spec, nil, err
	}
	a, err := w.approvals.Ensure(ctx, spec, t, show)
	return spec, a, err
}

// maxOptions is how much of a request's options is shown. What the API server
// takes has a few words.
const maxOptions = 2048

// shownOptions are the options of a request that change what it does. Empty
// where there are none.
func shownOptions(options map[string]any) string {
	said := map[string]any{}
	for name, v := range options {
		switch name {
		case "kind", "apiVersion", "dryRun", "fieldManager", "fieldValidation":
		default:
			said[name] = v
		}
	}
	if len(said) == 0 {
		return ""
	}
	b, err := json.Marshal(said)
	if err != nil {
		return "(not JSON)"
	}
	text := visible(string(b))
	if len(text) > maxOptions {
		return fmt.Sprintf("%s... (%d bytes, sha256 %x)", shortened(text, maxOptions/2), len(text), sha256.Sum256([]byte(text)))
	}
	return text
}

// tooMany refuses for now what would need one approval too many.
func (w *Webhook) tooMany(r *review, rule string) *admissionv1.AdmissionResponse {
	text := fmt.Sprintf("%s needs an approval (rule %q), and too many approvals are pending for another to be opened. Nothing has changed.", r.action(), rule)
	resp := refusal(r.req, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, text, causes(ReasonTooMany, rule, nil, false))
	resp.Result.Details.RetryAfterSeconds = int32(maxRetryAfter / time.Second)
	return denied(resp, rule, "too many approvals are pending")
}

// freshFirst sends a request back that was approved while it waited and by now
// may be judged on an object of some seconds ago. Let through, it would meet a
// conflict if the object has moved on, and its kind shows nothing by which the
// API server's own retry could be told from a second request: the signature
// would be gone. The next try is judged on a fresh object.
func (w *Webhook) freshFirst(r *review, a *v1alpha1.Approval) *admissionv1.AdmissionResponse {
	text := fmt.Sprintf("%s is approved by %s (approval %s) and goes through with the next identical request. Nothing has changed.", r.action(), approvers(a), a.Name)
	return w.comeBack(r, a, text, minRetryAfter)
}

// comeBack refuses for now.
func (w *Webhook) comeBack(r *review, a *v1alpha1.Approval, text string, after time.Duration) *admissionv1.AdmissionResponse {
	resp := refusal(r.req, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, text, causes(ReasonHeld, a.Spec.Rule, a, false))
	resp.Result.Details.RetryAfterSeconds = int32(after / time.Second) //nolint:gosec // at most a minute, see retryAfter
	resp.AuditAnnotations = map[string]string{
		v1alpha1.AnnotationVerdict: "held", v1alpha1.AnnotationRule: a.Spec.Rule, v1alpha1.AnnotationApproval: a.Name,
	}
	return resp
}

// wait waits inline for a decision, within the time that the review has, and
// says how long it did. Where too many wait already it doesn't, and gives a and zero.
func (w *Webhook) wait(ctx context.Context, run v1alpha1.RunKey, a *v1alpha1.Approval) (*v1alpha1.Approval, time.Duration, error) {
	leave, full := w.waiters.enter(run)
	if full != "" {
		w.metrics.full.WithLabelValues(full).Inc()
		return a, 0, nil
	}
	start := time.Now()
	w.metrics.waiting.Inc()
	defer func() { // also of a panic, which becomes a refusal
		leave()
		w.metrics.waiting.Dec()
		w.metrics.waited.Observe(time.Since(start).Seconds())
	}()
	inline, cancel := context.WithTimeout(ctx, w.inlineWait(ctx))
	defer cancel()
	decided, err := w.approvals.Wait(inline, a.Name)
	switch {
	case err == nil:
		return decided, max(time.Since(start), 1), nil
	case inline.Err() != nil && ctx.Err() == nil:
		return a, max(time.Since(start), 1), nil // the wait was over before its first read; what Ensure saw stands
	default:
		return nil, 0, fmt.Errorf("wait for approval %s: %w", a.Name, err)
	}
}

// useReserve is left for using an approval after the inline wait.
const useReserve = time.Second

func (w *Webhook) inlineWait(ctx context.Context) time.Duration {
	d := w.inline
	if deadline, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(deadline)-useReserve)
	}
	return max(d, 0)
}

// use lets the request through if it gets the approval.
func (w *Webhook) use(ctx context.Context, r *review, d decision, a *v1alpha1.Approval, t v1alpha1.Try) (*admissionv1.AdmissionResponse, error) {
	// The run may have been revoked while the request waited (I9).
	if refused, err := w.revokedAnswer(r); refused != nil || err != nil {
		return refused, err
	}
	used, err := w.approvals.Use(ctx, a.Name, t)
	if err != nil {
		return nil, &unsureUse{a.Name, err}
	}
	if used.Status.Phase != v1alpha1.PhaseUsed || used.Status.Use == nil || used.Status.Use.RequestUID != string(r.req.UID) {
		return w.notYet(r, d, used, 0), nil
	}
	w.clients.done(a.Name)
	by := approvers(used)
	w.log.InfoContext(ctx, "change approved", "run", r.agent.Run, "rule", used.Spec.Rule, "approval", used.Name, "approvers", by)
	return &admissionv1.AdmissionResponse{
		UID: r.req.UID, Allowed: true,
		Warnings: []string{visible(fmt.Sprintf("approved by %s (approval %s)", by, used.Name))},
		AuditAnnotations: map[string]string{
			v1alpha1.AnnotationVerdict: "approved", v1alpha1.AnnotationRule: used.Spec.Rule,
			v1alpha1.AnnotationApproval: used.Name, v1alpha1.AnnotationApprovers: by,
			v1alpha1.AnnotationUse: string(r.req.UID),
		},
	}, nil
}

// unsureUse means that the approval may stand used for a request that is refused.
type unsureUse struct {
	approval string
	err      error
}

func (e *unsureUse) Error() string { return fmt.Sprintf("use approval %s: %v", e.approval, e.err) }
func (e *unsureUse) Unwrap() error { return e.err }

// tooLate refuses what was let through, or may have been, too late for anybody
// to hear it. The audit trail is told whose use came to nothing, so that the
// approval is.
func tooLate(req *admissionv1.AdmissionRequest, approval string) *admissionv1.AdmissionResponse {
	resp := unchecked(req)
	resp.AuditAnnotations[v1alpha1.AnnotationApproval], resp.AuditAnnotations[v1alpha1.AnnotationUse] = approval, string(req.UID)
	return resp
}

// notYet refuses with what stands: still held, denied, expired, cancelled, or used by another.
func (w *Webhook) notYet(r *review, d decision, a *v1alpha1.Approval, waited time.Duration) *admissionv1.AdmissionResponse {
	notes := map[string]string{
		v1alpha1.AnnotationRule: a.Spec.Rule, v1alpha1.AnnotationApproval: a.Name,
	}
	var resp *admissionv1.AdmissionResponse
	switch a.Status.Phase {
	case v1alpha1.PhaseDenied:
		by, reason := denial(a)
		resp = forbidden(r.req, deniedText(r.action(), a), causes(ReasonDenied, a.Spec.Rule, a, true))
		notes[v1alpha1.AnnotationVerdict], notes[v1alpha1.AnnotationApprovers], notes[v1alpha1.AnnotationReason] = "denied", by, reason
	case v1alpha1.PhaseExpired:
		resp = forbidden(r.req, expiredText(r.action(), a), causes(ReasonExpired, a.Spec.Rule, a, false)) // the same request is a new question
		notes[v1alpha1.AnnotationVerdict], notes[v1alpha1.AnnotationReason] = "denied", "expired"
	case v1alpha1.PhaseCancelled:
		resp = forbidden(r.req, cancelledText(r.action(), a), causes(ReasonRevoked, a.Spec.Rule, a, true))
		notes[v1alpha1.AnnotationVerdict], notes[v1alpha1.AnnotationReason] = "denied", "run revoked"
	case v1alpha1.PhaseUsed:
		text := fmt.Sprintf("%s was let through a moment ago by an identical request (rule %q, approval %s). Nothing has changed by this one.", r.action(), a.Spec.Rule, a.Name)
		return w.comeBack(r, a, text, afterUse)
	default:
		after := w.clients.next(a.Name, a.CreationTimestamp.Time, a.Spec.ExpiresAt.Time, w.now(), waited)
		return w.comeBack(r, a, heldText(r.action(), a, d.failed), after)
	}
	resp.AuditAnnotations = notes
	return resp
}

// spec is the approval that this request needs, and show fills in what people
// see of it. That is computed from the same objects as the fingerprint, masked
// after they were hashed (I7); it costs more than all the rest, so only once.
func (w *Webhook) spec(r *review, d decision) (spec v1alpha1.ApprovalSpec, show func(*v1alpha1.ApprovalSpec) error, err error) {
	newObj, oldObj := normalised(r.req, r.object(), r.oldObject())
	fp, err := fingerprint(r.req, r.agent, newObj, oldObj, r.options())
	if err != nil {
		return v1alpha1.ApprovalSpec{}, nil, err
	}
	show = func(spec *v1alpha1.ApprovalSpec) error {
		scope := w.masker.Scope(r.agent.Key())
		for _, obj := range []map[string]any{newObj, oldObj} {
			if obj != nil {
				scope.Object(obj)
			}
		}
		spec.Diff, spec.DiffBytes = diff(oldObj, newObj)
		return nil
	}
	rule := d.terms()
	return v1alpha1.ApprovalSpec{
		Fingerprint: fp,
		Agent:       r.agent,
		Request: v1alpha1.Request{
			Operation: string(r.req.Operation),
			Group:     r.req.Resource.Group, Version: r.req.Resource.Version, Resource: r.req.Resource.Resource,
			Subresource: r.req.SubResource, Namespace: r.req.Namespace, Name: nameOf(r.req, r.object, r.oldObject),
			Options: shownOptions(r.options()),
		},
		Action: r.action(),
		Rule:   rule.Name, Risk: rule.Risk, Message: rule.Message,
		Approvers: rule.Approvers, Quorum: rule.Quorum, BreakGlass: rule.BreakGlass, OwnerMayDecide: rule.OwnerMayDecide,
		// Seconds are what the API server keeps.
		ExpiresAt: metav1.NewTime(w.now().Add(rule.TimeToLive.Duration).UTC().Truncate(time.Second)),
	}, show, nil
}
