package approvals

import (
	"fmt"
	"net/http"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const (
	// retryWindow is how long after a use the same request may come again. It is
	// counted from the use, or from when the audit log told how it ended.
	retryWindow = time.Minute
	// settle is how long the one request is left alone before another at the same
	// resourceVersion may try: longer than a request takes as a rule.
	settle = 5 * time.Second
	// maxTries bounds how often one signature lets a request through, whatever is proven.
	maxTries = 10
)

// again says how long from now t may go through under a, which was used: zero
// is now. Where why isn't empty it never may, and why says the reason.
//
// One signature takes effect at most once (I3), so t goes through again only
// where no earlier try under a took effect, and at most one of all that were let
// through still can. t has a's fingerprint: the same agent, operation, object,
// options and content, and an old object with the same uid and content, its
// deletionTimestamp included. What the proofs rest on: the API server calls
// validating admission inside the transaction's attempt, and commits only if the
// object still has the resourceVersion that admission saw (apiserver v0.37,
// storage/etcd3/store.go, GuaranteedUpdate and conditionalDelete). So of all
// requests that were let through at one (uid, resourceVersion) at most one is
// carried out, and none once the object has moved on.
//
//   - DELETE: what was deleted is gone or carries a deletionTimestamp, and a uid
//     never comes back. An old object without one is proof in itself. A later
//     resourceVersion is a conflict's retry; at the same one the first is left
//     alone for a while, since there it may be under way.
//   - UPDATE at the same resourceVersion: nothing was written to the object since.
//   - UPDATE at another resourceVersion, where the request moves the generation:
//     the API server sets the generation itself, before admission, and it only
//     grows (registry/rest/update.go). Each try was let through at this
//     generation and would have moved it; the first that does ends all others.
//   - any other: the audit log told that the API server refused the only request
//     that can still take effect ([refused]). For UPDATE that is known only of the
//     first try, since one before the last may be under way; so a later try needs
//     one of the proofs above. For what has no other proof every earlier try was
//     refused in the same way.
//
// An aggregated API server that keeps none of this is outside of it.
func again(a *v1alpha1.Approval, t v1alpha1.Try, now time.Time) (wait time.Duration, why string) {
	use := a.Status.Use
	switch {
	case use == nil:
		return 0, "it was not used"
	case phaseUnused(a, now) != v1alpha1.PhaseApproved:
		return 0, "it no longer stands"
	case use.Outcome != nil && use.Outcome.Code < http.StatusBadRequest:
		return 0, "its request was carried out"
	case use.Tries >= maxTries:
		return 0, fmt.Sprintf("it was tried %d times", use.Tries)
	}
	inTime := now.Sub(use.At.Time) <= retryWindow
	same := t.ObjectUID != "" && t.ObjectUID == use.ObjectUID && t.ResourceVersion != "" && use.ResourceVersion != ""
	moved := t.ResourceVersion != use.ResourceVersion
	ready := max(0, use.At.Add(settle).Sub(now))
	told := refused(a.Spec.Request, use.Outcome) && now.Sub(use.Outcome.At.Time) <= retryWindow
	switch {
	case t.Proof == v1alpha1.ProofDelete && same && (inTime || told):
		if moved || told {
			return 0, ""
		}
		return ready, ""
	case (t.Proof == v1alpha1.ProofVersion || t.Proof == v1alpha1.ProofGeneration) && same && !moved && (inTime || told):
		if told {
			return 0, ""
		}
		return ready, ""
	case t.Proof == v1alpha1.ProofGeneration && same && t.Generation > 0 && t.Generation == use.Generation && (inTime || told):
		return 0, ""
	case told && (t.Proof == v1alpha1.ProofNone || use.Tries == 0):
		return 0, ""
	case inTime:
		return 0, "nothing shows that its request was not carried out"
	}
	return 0, "its request went through too long ago"
}

// phaseUnused is where a would stand had it not been used: approved, unless it
// expired or was ended since.
func phaseUnused(a *v1alpha1.Approval, now time.Time) v1alpha1.Phase {
	unused := *a
	unused.Status.Use = nil
	return State(&unused, now)
}

// refused reports whether the API server's answer proves that nothing was
// carried out. Not every 4xx does: a client chooses by its Accept header and
// query how the answer is written, and one that can't be written is 400 or 406
// after the change was stored (apiserver v0.37, endpoints/handlers/response.go,
// optionsForTransform). What is left comes from admission, quota, validation and
// conflicts, all before. A CONNECT's code is its backend's word, and the agent
// may run the backend.
func refused(r v1alpha1.Request, o *v1alpha1.Outcome) bool {
	if o == nil || r.Operation == "CONNECT" {
		return false
	}
	switch o.Code {
	case http.StatusForbidden, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusTooManyRequests:
		return true
	}
	return false
}
