package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/semaphore"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// Revoked knows which runs are revoked. An error means that this is not known
// (yet), and the request is refused.
type Revoked interface {
	Revoked(a v1alpha1.Agent) (reason string, revoked bool, err error)
}

// Names of what decides where no rule of the config does.
const (
	ownObjectsRule  = "tipstaff-objects" // built in: agents change nothing of tipstaff's own
	grantsRule      = "tipstaff-grants"  // built in: agents get no grant that no rule holds
	defaultRuleName = "default"
)

// Webhook judges agents' changes.
type Webhook struct {
	rules     *RuleSet
	inline    time.Duration
	approvals Approvals
	revoked   Revoked
	agents    *clusteragents.Config
	limits    *access.Limits
	masker    *mask.Masker
	waiters   waiters
	rendering *semaphore.Weighted // bytes
	clients   clients
	metrics   *metrics
	now       func() time.Time
	log       *slog.Logger
}

// New compiles the rules. It opens nothing. agents are the identities of the
// cluster that count as agents, nil for none; limits bound what a grant may
// give, nil for nothing.
func New(cfg Config, approvals Approvals, revoked Revoked, agents *clusteragents.Config, limits *access.Limits, masker *mask.Masker, log *slog.Logger) (*Webhook, error) {
	if approvals == nil || revoked == nil || masker == nil {
		return nil, errors.New("webhook needs approvals, revocations and a masker")
	}
	if limits == nil {
		limits = &access.Limits{}
	}
	rules, err := NewRuleSet(cfg)
	if err != nil {
		return nil, err
	}
	w := &Webhook{
		rules: rules, inline: cfg.InlineWait.Duration,
		approvals: approvals, revoked: revoked, agents: agents, limits: limits, masker: masker, now: time.Now, log: log,
		metrics: newMetrics(), rendering: semaphore.NewWeighted(maxRendered),
		waiters: waiters{most: maxWaiters, mostPerRun: maxWaitersPerRun},
	}
	if w.inline == 0 {
		w.inline = DefaultInlineWait
	}
	return w, nil
}

// Handler serves POST /changes.
func (w *Webhook) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /changes", w.serve)
	return mux
}

func (w *Webhook) serve(rw http.ResponseWriter, hr *http.Request) {
	ctx, cancel := context.WithTimeout(hr.Context(), budget(hr.URL.Query().Get("timeout")))
	defer cancel()
	rev, err := admissionreview.Read(http.MaxBytesReader(rw, hr.Body, maxReviewBytes), hr.ContentLength)
	if err != nil {
		w.log.WarnContext(ctx, "review refused", "error", err)
		code := http.StatusBadRequest
		if errors.As(err, new(*http.MaxBytesError)) {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(rw, "not an admission review that can be judged", code)
		return
	}
	began := w.now()
	resp, counts := w.answer(ctx, rev)
	out, err := encode(resp)
	if err != nil {
		w.log.ErrorContext(ctx, "answer could not be encoded", "error", err)
		http.Error(rw, "answer could not be encoded", http.StatusInternalServerError)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Content-Length", strconv.Itoa(len(out)))
	_, _ = rw.Write(out) //nolint:gosec // JSON, to the API server; a caller that is gone refuses by itself (failurePolicy: Fail)
	if counts {
		took := w.now().Sub(began)
		_ = http.NewResponseController(rw).Flush() // nobody waits for our counting
		w.metrics.judged(resp, took)
	}
}

// encode is the review that answers with resp. Most answers are a plain yes,
// which is written by hand: it takes a fifth of the time.
func encode(resp *admissionv1.AdmissionResponse) ([]byte, error) {
	if resp.Allowed && resp.Result == nil && resp.Patch == nil && resp.PatchType == nil && len(resp.Warnings) == 0 {
		if out, err := encodeAllowed(resp); err == nil {
			return out, nil
		}
	}
	return json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"},
		Response: resp,
	})
}

func encodeAllowed(resp *admissionv1.AdmissionResponse) ([]byte, error) {
	out, err := jsontext.AppendQuote(append(make([]byte, 0, 512), `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":`...), string(resp.UID))
	out = append(out, `,"allowed":true`...)
	before := `,"auditAnnotations":{`
	for name, value := range resp.AuditAnnotations {
		var nameErr, valueErr error
		out, nameErr = jsontext.AppendQuote(append(out, before...), name)
		out, valueErr = jsontext.AppendQuote(append(out, ':'), value)
		before = ","
		err = errors.Join(err, nameErr, valueErr)
	}
	if len(resp.AuditAnnotations) > 0 {
		out = append(out, '}')
	}
	return append(out, "}}"...), err
}

const (
	// defaultBudget is taken where the API server says no timeout: Kubernetes' default is 10 s.
	defaultBudget = 10 * time.Second
	// budgetReserve lets our own refusal arrive before the API server gives up.
	budgetReserve = 500 * time.Millisecond
)

// budget is how long a review may take. The API server puts the webhook's
// timeoutSeconds into the query (apiserver v1.37, webhook/validating/dispatcher.go).
func budget(timeout string) time.Duration {
	d, err := time.ParseDuration(timeout)
	if err != nil || d <= 0 || d > 30*time.Second {
		d = defaultBudget
	}
	return d - min(budgetReserve, d/2)
}

// answer judges one request and always gives an answer; what can't be known is
// a refusal (I4). counts tells whether it is about an agent.
func (w *Webhook) answer(ctx context.Context, rev *admissionreview.Review) (resp *admissionv1.AdmissionResponse, counts bool) {
	req := rev.Request
	defer func() {
		if p := recover(); p != nil {
			// The panic's value may hold what was being judged: only its type goes to the log.
			w.log.ErrorContext(ctx, "review panicked", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			resp = unchecked(req)
		}
	}()
	extra := make(map[string][]string, len(req.UserInfo.Extra))
	for k, v := range req.UserInfo.Extra {
		extra[k] = v
	}
	agent, is := w.agents.AgentOf(req.UserInfo.Username, req.UserInfo.Groups, extra)
	if !is {
		// matchConditions send agents only: one that this config doesn't count
		// among them means that the two have drifted apart.
		w.metrics.strangers.Inc()
		w.log.WarnContext(ctx, "a review of somebody who is no agent by this config was let through: bring the webhook configuration and clusterAgents in step",
			"user", req.UserInfo.Username)
		return &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true, AuditAnnotations: map[string]string{v1alpha1.AnnotationReason: "not an agent"}}, false
	}
	counts = true
	resp, err := w.judge(ctx, rev, agent)
	if err == nil && ctx.Err() != nil && resp.Allowed {
		err = ctx.Err() // the API server has given up or is about to: don't say yes to nobody
	}
	if err != nil {
		w.log.ErrorContext(ctx, "change could not be checked, refused", "run", agent.Run,
			"operation", string(req.Operation), "resource", req.Resource.Resource, "subresource", req.SubResource, "error", err)
		var unsure *unsureUse
		switch {
		case errors.As(err, &unsure):
			return tooLate(req, unsure.approval), true
		case resp != nil && resp.AuditAnnotations[v1alpha1.AnnotationUse] != "":
			return tooLate(req, resp.AuditAnnotations[v1alpha1.AnnotationApproval]), true
		}
		return unchecked(req), true
	}
	return resp, true
}

// judge is the order of the checks, from what no rule can change to the rules.
func (w *Webhook) judge(ctx context.Context, rev *admissionreview.Review, agent v1alpha1.Agent) (*admissionv1.AdmissionResponse, error) {
	req := rev.Request
	r, err := openReview(rev, agent)
	if err == nil {
		err = r.complete()
	}
	if err != nil {
		return nil, err
	}
	if agent.Run == "" || agent.Issuer == "" {
		return denied(forbidden(req, r.action()+" is refused: this identity names no run. Nothing has changed.",
			causes(ReasonNoRun, "", nil, true)), "", "no run"), nil
	}
	if resp, err := w.revokedAnswer(r); resp != nil || err != nil {
		return resp, err
	}
	if what := ownObject(r); what != "" {
		return denied(forbidden(req, fmt.Sprintf("%s is denied by rule %q: agents change nothing %s. Nothing has changed.", r.action(), ownObjectsRule, what),
			causes(ReasonRule, ownObjectsRule, nil, true)), ownObjectsRule, ""), nil
	}
	if asksForGrant(req) {
		if why := w.refuseGrant(r); why != "" {
			return denied(forbidden(req, fmt.Sprintf("%s is denied by rule %q: %s. Nothing has changed.", r.action(), grantsRule, why),
				causes(ReasonRule, grantsRule, nil, true)), grantsRule, ""), nil
		}
	}
	if path, found := r.mark(); found {
		return denied(forbidden(req, fmt.Sprintf("%s is refused: field %s holds a mask in place of its value. Nothing has changed.", r.action(), path),
			causes(ReasonMask, "", nil, true)), "", "holds a mask"), nil
	}
	d := w.evaluate(ctx, r)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("evaluate the rules: %w", err)
	}
	if asksForGrant(req) && d.verdict == Allow {
		return denied(forbidden(req, fmt.Sprintf("%s is denied by rule %q: no rule holds grants. Nothing has changed.", r.action(), grantsRule),
			causes(ReasonRule, grantsRule, nil, true)), grantsRule, ""), nil
	}
	name := defaultRuleName
	if d.rule != nil {
		name = d.rule.Name
	}
	switch d.verdict {
	case Allow:
		notes := map[string]string{v1alpha1.AnnotationVerdict: "allowed"}
		if d.rule != nil {
			notes[v1alpha1.AnnotationRule] = name
		}
		return &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true, AuditAnnotations: notes}, nil
	case Hold:
		if req.DryRun != nil && *req.DryRun {
			if req.Resource.Group == "" && req.Resource.Resource == "serviceaccounts" && req.SubResource == "token" {
				// The API server issues it all the same (kubernetes v1.37, registry/core/serviceaccount/storage/token.go).
				return denied(forbidden(req, fmt.Sprintf("%s is held by rule %q, and a dry run of it gives a real token. Nothing has changed.", r.action(), name),
					causes(ReasonRule, name, nil, true)), name, "a dry run that is none"), nil
			}
			return &admissionv1.AdmissionResponse{
				UID: req.UID, Allowed: true,
				Warnings:         []string{visible(fmt.Sprintf("%s would be held by rule %q", r.action(), name))},
				AuditAnnotations: map[string]string{v1alpha1.AnnotationVerdict: "dryRun", v1alpha1.AnnotationRule: name},
			}, nil
		}
		return w.hold(ctx, r, d)
	default:
		why := ""
		if d.rule != nil && d.rule.Message != "" {
			why = ": " + strings.TrimRight(d.rule.Message, ".")
		}
		return denied(forbidden(req, fmt.Sprintf("%s is denied by rule %q%s%s. Nothing has changed.", r.action(), name, failedText(d.failed), why),
			causes(ReasonRule, name, nil, true)), name, ""), nil
	}
}

// revokedAnswer is a refusal where the run is revoked, nil where it isn't.
func (w *Webhook) revokedAnswer(r *review) (*admissionv1.AdmissionResponse, error) {
	reason, revoked, err := w.revoked.Revoked(r.agent)
	if err != nil {
		return nil, fmt.Errorf("look up whether the run is revoked: %w", err)
	}
	if !revoked {
		return nil, nil
	}
	return denied(forbidden(r.req, fmt.Sprintf("%s is refused: run %q is revoked: %s. Nothing has changed.", r.action(), r.agent.Run, reason),
		causes(ReasonRevoked, "", nil, true)), "", "run revoked"), nil
}

// evaluate runs every rule over the request.
func (w *Webhook) evaluate(ctx context.Context, r *review) decision {
	findings := w.rules.findings(ctx, r)
	for _, f := range findings {
		if f.failed {
			// Not the error itself: CEL's quote keys and values of the object.
			w.log.WarnContext(ctx, "rule could not be evaluated, counts as matching", "rule", f.rule.Name, "run", r.agent.Run,
				"resource", r.req.Resource.Resource, "operation", string(r.req.Operation))
		}
	}
	return decide(findings, w.rules.fallback)
}

// denied adds the audit annotations of a refusal.
func denied(resp *admissionv1.AdmissionResponse, rule, reason string) *admissionv1.AdmissionResponse {
	resp.AuditAnnotations = map[string]string{v1alpha1.AnnotationVerdict: "denied"}
	if rule != "" {
		resp.AuditAnnotations[v1alpha1.AnnotationRule] = rule
	}
	if reason != "" {
		resp.AuditAnnotations[v1alpha1.AnnotationReason] = reason
	}
	return resp
}
