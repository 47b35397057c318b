package approvals

import (
	"strings"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// State is where a stands at now, from its decisions, its use, its cancellation
// and its expiry; never from status.phase. Of several ends the first in this
// order stands: used, denied, cancelled, expired.
func State(a *v1alpha1.Approval, now time.Time) v1alpha1.Phase {
	if a.Status.Use != nil {
		return v1alpha1.PhaseUsed
	}
	yes, broken := map[string]bool{}, false
	for _, d := range a.Status.Decisions {
		if mayNotDecide(a, d.By) != "" {
			continue // the guard keeps these out; they count for nothing if it was away
		}
		if d.Verdict == v1alpha1.VerdictDeny {
			return v1alpha1.PhaseDenied
		}
		if d.BreakGlass && !breaksGlass(a, d) {
			continue
		}
		if d.Verdict == v1alpha1.VerdictApprove {
			yes[d.By] = true
			broken = broken || breaksGlass(a, d)
		}
	}
	switch {
	case a.Status.Cancelled != nil:
		return v1alpha1.PhaseCancelled
	case !now.Before(a.Spec.ExpiresAt.Time):
		return v1alpha1.PhaseExpired
	case broken, a.Spec.Quorum >= 1 && len(yes) >= int(a.Spec.Quorum):
		return v1alpha1.PhaseApproved
	default:
		return v1alpha1.PhasePending
	}
}

// breaksGlass reports whether d approves alone, past the quorum: an approval of
// a rule that knows break-glass, marked as such, with a reason. That its author
// is in one of the groups, the guard saw when it was added.
func breaksGlass(a *v1alpha1.Approval, d v1alpha1.Decision) bool {
	return d.BreakGlass && d.Verdict == v1alpha1.VerdictApprove && len(a.Spec.BreakGlass) > 0 && strings.TrimSpace(d.Reason) != ""
}

// Final reports whether nothing can change a phase any more.
func Final(p v1alpha1.Phase) bool {
	return p != v1alpha1.PhasePending && p != v1alpha1.PhaseApproved
}

// mayNotDecide says why a person can't decide a, whatever their groups; empty if nothing forbids it.
func mayNotDecide(a *v1alpha1.Approval, by string) string {
	switch {
	case by == "":
		return "a decision names no person"
	case strings.HasPrefix(by, v1alpha1.UserPrefix), by == a.Spec.Agent.User:
		return "an agent decides no approval"
	case strings.HasPrefix(by, v1alpha1.ServiceAccountPrefix), strings.HasPrefix(by, "system:node:"):
		return "people decide approvals, not programs"
	case a.Spec.Agent.Owner != "" && by == a.Spec.Agent.Owner && !a.Spec.OwnerMayDecide:
		return "the run's owner does not decide on the run's own request"
	}
	return ""
}

// finishedAt is when a final approval became final.
func finishedAt(a *v1alpha1.Approval) time.Time {
	if a.Status.Use != nil {
		return a.Status.Use.At.Time
	}
	for _, d := range a.Status.Decisions {
		if d.Verdict == v1alpha1.VerdictDeny && mayNotDecide(a, d.By) == "" {
			return d.At.Time
		}
	}
	if a.Status.Cancelled != nil {
		return a.Status.Cancelled.At.Time
	}
	return a.Spec.ExpiresAt.Time
}
