package approvals

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Reasons of the condition Used where the API server answered with an error.
const (
	reasonRefusedLater      = "RefusedLater"      // nothing was changed
	reasonAnsweredWithError = "AnsweredWithError" // it may have taken effect
)

// setConditions brings a's conditions to its phase, and reports whether that
// changed any. Their reasons are the words of the phases; nothing is decided
// from them.
func setConditions(a *v1alpha1.Approval, phase v1alpha1.Phase, now time.Time) bool {
	approved := metav1.Condition{Type: v1alpha1.ConditionApproved, Reason: string(phase), Message: describe(a, phase)}
	used := metav1.Condition{Type: v1alpha1.ConditionUsed, Status: metav1.ConditionFalse, Reason: "NotUsed", Message: "its request has not gone through"}
	switch phase {
	case v1alpha1.PhasePending:
		approved.Status = metav1.ConditionUnknown
	case v1alpha1.PhaseApproved, v1alpha1.PhaseUsed:
		approved.Status = metav1.ConditionTrue
		approved.Reason = "Quorum"
		if BrokenGlass(a) {
			approved.Reason = "BreakGlass"
		}
		approved.Message = "approved by " + strings.Join(approvedBy(a), ", ")
	default:
		approved.Status = metav1.ConditionFalse
	}
	if u := a.Status.Use; u != nil {
		used.Status, used.Reason, used.Message = metav1.ConditionTrue, "Used", "its request went through"
		if o := u.Outcome; o != nil {
			used.Message = fmt.Sprintf("its request went through; the API server answered it with %d", o.Code)
			switch {
			case refused(a.Spec.Request, o):
				used.Reason = reasonRefusedLater
				used.Message += ", " + effect(a)
			case o.Code >= 400:
				used.Reason = reasonAnsweredWithError
				used.Message += ", " + effect(a)
			}
		}
	}
	changed := false
	for _, c := range []metav1.Condition{approved, used} {
		c.LastTransitionTime = metav1.NewTime(now.UTC().Truncate(time.Second))
		changed = meta.SetStatusCondition(&a.Status.Conditions, c) || changed
	}
	return changed
}

// BrokenGlass reports whether one person approved a alone, past its quorum.
func BrokenGlass(a *v1alpha1.Approval) bool {
	for _, d := range a.Status.Decisions {
		if breaksGlass(a, d) && mayNotDecide(a, d.By) == "" {
			return true
		}
	}
	return false
}

// approvedBy are the people who approved, each once, in their order.
func approvedBy(a *v1alpha1.Approval) []string {
	var by []string
	seen := map[string]bool{}
	for _, d := range a.Status.Decisions {
		if d.Verdict == v1alpha1.VerdictApprove && mayNotDecide(a, d.By) == "" && !seen[d.By] {
			seen[d.By] = true
			by = append(by, d.By)
		}
	}
	return by
}

// maxNoteLength is what the API server takes in an event's note, in bytes.
const maxNoteLength = 1024

// conditions are what the conditions said before a write.
type conditions struct {
	approved, used metav1.ConditionStatus
	ended          string // the reason of used
}

func conditionsOf(a *v1alpha1.Approval) conditions {
	var st conditions
	if c := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionApproved); c != nil {
		st.approved = c.Status
	}
	if c := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionUsed); c != nil {
		st.used, st.ended = c.Status, c.Reason
	}
	return st
}

// report counts and tells what a write of ours changed. Each change of a
// condition is one conditional write, so one replica reports it, once; an
// approval that was used before anybody saw it approved is reported as both.
func (s *Store) report(was conditions, a *v1alpha1.Approval, phase v1alpha1.Phase) {
	is := conditionsOf(a)
	if is.approved != was.approved {
		came := phase
		if phase == v1alpha1.PhaseUsed {
			came = v1alpha1.PhaseApproved
		}
		s.metrics.came(a, came)
		if came == v1alpha1.PhaseApproved || came == v1alpha1.PhaseDenied {
			s.metrics.decided(a, came)
		}
		if came == v1alpha1.PhaseApproved && BrokenGlass(a) {
			s.log.Warn("glass broken: one person approved alone", "approval", a.Name, "run", a.Spec.Agent.Run, "rule", a.Spec.Rule, "approvers", approvedBy(a))
		}
		s.tell(a, came)
	}
	if is.used != was.used && is.used == metav1.ConditionTrue {
		s.metrics.came(a, v1alpha1.PhaseUsed)
		s.tell(a, v1alpha1.PhaseUsed)
	}
	if is.ended != was.ended && (is.ended == reasonRefusedLater || is.ended == reasonAnsweredWithError) {
		o := a.Status.Use.Outcome
		note := fmt.Sprintf("%s: the API server answered %d, %s", a.Spec.Action, o.Code, effect(a))
		if o.Message != "" {
			note += ": " + o.Message
		}
		s.note(a, corev1.EventTypeWarning, is.ended, note)
	}
}

// tell writes a Kubernetes event on what became of a.
func (s *Store) tell(a *v1alpha1.Approval, phase v1alpha1.Phase) {
	kind, reason, note := corev1.EventTypeNormal, string(phase), a.Spec.Action
	switch phase {
	case v1alpha1.PhasePending:
		reason = "Opened"
		note += fmt.Sprintf(" by run %s waits for %d of %s", a.Spec.Agent.Run, a.Spec.Quorum, strings.Join(a.Spec.Approvers, ", "))
	case v1alpha1.PhaseApproved, v1alpha1.PhaseUsed:
		note += ": approved by " + strings.Join(approvedBy(a), ", ")
		if phase == v1alpha1.PhaseApproved && BrokenGlass(a) {
			kind, reason = corev1.EventTypeWarning, "BreakGlass"
			note += " alone, past the quorum"
		}
	default:
		note += ": " + describe(a, phase)
	}
	s.note(a, kind, reason, note)
}

// note writes an event on a.
func (s *Store) note(a *v1alpha1.Approval, kind, reason, note string) {
	if s.events == nil {
		return
	}
	note = Plain(note)
	if len(note) > maxNoteLength {
		note = strings.ToValidUTF8(note[:maxNoteLength-len("…")], "") + "…"
	}
	s.events.Eventf(a, nil, kind, reason, "Decide", "%s", note)
}
