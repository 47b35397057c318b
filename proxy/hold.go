package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/audit"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Approvals says when the approval of a held request is decided.
type Approvals interface {
	// Decided returns when the approval is no longer pending, with where it
	// stands then, or when ctx is done. An error means that nobody can tell, or
	// that no such approval is agent's.
	Decided(ctx context.Context, name string, agent v1alpha1.Agent) (v1alpha1.Phase, error)
}

const (
	// maxRounds is how often a request is sent again. One round is the rule; a
	// second where its object has to be looked at anew; more where the webhook is
	// behind, or where identical requests take turns.
	maxRounds = 10
	// maxBlindRounds is the same where nobody tells of decisions: Retry-After
	// grows to a minute, so this is over an hour.
	maxBlindRounds = 100

	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 10 * time.Second
)

// How a wait ended: values of a metric's label.
const (
	endAnswered = "answered" // decided, and sent again
	endExpired  = "expired"  // its approval ended undecided
	endTimeout  = "timeout"  // the client's or the configuration's limit
	endToken    = "token"    // its token isn't taken any more
	endGone     = "gone"     // the client went away, or the run was revoked
	endUnknown  = "unknown"  // nobody could tell of its approval
	endRounds   = "rounds"   // held again and again
	endFailed   = "failed"   // the API server gave no answer
)

// holds are the held requests that wait in this replica.
type holds struct {
	approvals Approvals // nil where this process keeps none
	most      time.Duration
	room      room
	metrics   *holdMetrics
	log       *slog.Logger
}

func newHolds(most time.Duration, log *slog.Logger) *holds {
	return &holds{most: most, room: room{most: maxWaiting, mostPerRun: maxWaitingPerRun, mostBytes: maxWaitingBytes, mostBytesPerRun: maxWaitingBytesPerRun}, metrics: newHoldMetrics(), log: log}
}

// Follow has held requests sent again when a tells that they are decided.
// Without it they are sent again whenever the webhook's Retry-After says. It is
// called before the first request.
func (p *Proxy) Follow(a Approvals) { p.holds.approvals = a }

// holdTransport sends a request that the webhook holds again, with the same
// content and identity, once its approval is decided; the client gets the last
// answer. Whatever else is answered passes at once.
type holdTransport struct {
	next  http.RoundTripper
	holds *holds
	agent v1alpha1.Agent
	most  time.Duration // how long it waits at most; zero is never
	id    string        // the audit id of the first try
	again func() error  // whether the token still stands for agent
}

// RoundTrip sends the request.
func (h *holdTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	start := time.Now()
	resp, err := h.next.RoundTrip(req)
	if err != nil || h.most <= 0 || hasBody(req) && req.GetBody == nil {
		return resp, err
	}
	a := heldBy(resp)
	if a == nil {
		return resp, nil
	}
	leave, full := h.holds.room.enter(h.agent.Key(), max(req.ContentLength, 0)+int64(len(a.body)))
	if full != "" {
		h.holds.metrics.full.WithLabelValues(full).Inc()
		return a.answer(), nil
	}
	defer leave()
	h.holds.metrics.waiting.Inc()
	defer h.holds.metrics.waiting.Dec()
	ctx, cancel := context.WithDeadline(req.Context(), start.Add(h.most))
	defer cancel()
	resp, end, err := h.follow(ctx, req, a)
	took := time.Since(start)
	h.holds.metrics.ended(end, took)
	h.holds.log.InfoContext(ctx, "held change waited", "approval", a.approval, "run", h.agent.Run, "end", end, "seconds", took.Seconds())
	return resp, err
}

// follow waits within ctx for what holds req, and sends req again, until it is
// held no more. It says how that ended.
func (h *holdTransport) follow(ctx context.Context, req *http.Request, a *held) (_ *http.Response, end string, _ error) {
	rounds := maxRounds
	if h.holds.approvals == nil {
		rounds = maxBlindRounds
	}
	same := 0 // how often it was sent again under the same approval
	for round := range rounds {
		phase, err := h.await(ctx, a, same)
		switch {
		case req.Context().Err() != nil:
			return nil, endGone, req.Context().Err()
		case ctx.Err() != nil:
			return a.answer(), endTimeout, nil
		case err != nil:
			h.holds.log.WarnContext(ctx, "a held change is not waited for", "approval", a.approval, "run", h.agent.Run, "error", err)
			return a.answer(), endUnknown, nil
		case phase == v1alpha1.PhaseExpired:
			return a.expired(), endExpired, nil
		}
		if err := h.again(); err != nil {
			if req.Context().Err() != nil {
				return nil, endGone, req.Context().Err()
			}
			return a.instead(apierrors.NewUnauthorized(fmt.Sprintf("the change waited for approval %s, and its token is not taken any more: %s. Nothing has changed.", a.approval, err))), endToken, nil
		}
		resp, err := h.send(req, round+2)
		if err != nil {
			return nil, endFailed, err
		}
		next := heldBy(resp)
		if next == nil {
			return resp, endAnswered, nil
		}
		same++
		if next.approval != a.approval {
			if h.holds.approvals == nil {
				return next.answer(), endExpired, nil // the first has ended: the client may ask anew, or not
			}
			same = 0
		}
		a = next
	}
	return a.answer(), endRounds, nil
}

// await returns when req is worth sending again, with where its approval stands
// as far as that is known, or when ctx is done.
func (h *holdTransport) await(ctx context.Context, a *held, same int) (v1alpha1.Phase, error) {
	if h.holds.approvals == nil {
		return a.phase, pause(ctx, a.after+rand.N(a.after/4)) //nolint:gosec // spreads load, no secret
	}
	phase, err := h.holds.approvals.Decided(ctx, a.approval, h.agent)
	if err != nil || phase == v1alpha1.PhaseExpired {
		return phase, err
	}
	switch {
	case a.phase != v1alpha1.PhasePending: // decided, and there is another reason to come back later
		err = pause(ctx, a.after)
	case same > 0: // the webhook hasn't seen the decision
		backoff := min(firstBackoff<<(same-1), maxBackoff)
		err = pause(ctx, backoff+rand.N(backoff/4)) //nolint:gosec // as above
	}
	return phase, err
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// send sends req once more, as the given try.
func (h *holdTransport) send(req *http.Request, try int) (*http.Response, error) {
	again := req.Clone(req.Context())
	id := fmt.Sprintf("%s-%d", h.id, try)
	again.Header.Set(auditID, id)
	audit.WithAuditID(req.Context(), types.UID(id)) // of the event of our own, if there is one
	if hasBody(req) {
		body, err := req.GetBody()
		if err != nil {
			return nil, fmt.Errorf("send the held request again: %w", err)
		}
		again.Body = body
	}
	return h.next.RoundTrip(again)
}
