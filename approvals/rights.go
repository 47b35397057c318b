package approvals

import (
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// maxSkew is how far a decision's own time may be from ours: enough for
// unsynchronised laptops, too little to date a decision into another shift.
const maxSkew = 5 * time.Minute

// groupMasters is Kubernetes' group that RBAC does not bind.
const groupMasters = "system:masters"

// change is one request to change something in tipstaff's API group.
type change struct {
	operation             string // CREATE, UPDATE, DELETE or CONNECT
	resource, subresource string
	user                  authenticationv1.UserInfo
	old, new              *v1alpha1.Approval   // where resource is approvals
	oldGrant, newGrant    *v1alpha1.Grant      // where it is grants
	oldRev, newRev        *v1alpha1.Revocation // where it is revocations
}

// refusal says why a change is not allowed; empty means that it is. self is
// tipstaff's own username, empty while it is not known.
//
// Who may do what:
//   - an agent, by its token or by b: ask for a grant for itself, which the
//     changes webhook holds; nothing else in this group (I2);
//   - tipstaff itself: open and cancel approvals, set use and phase, remove
//     finished ones; say how grants stand;
//   - a member of spec.approvers, who is neither an agent nor the run's owner:
//     add one decision, as themselves, before it is final;
//   - system:masters: delete approvals, since somebody must be able to clean up;
//     the audit log keeps the record. They decide only as anyone else does.
//
// Grants and revocations are for people by RBAC, within b.
func refusal(c change, b Bounds, self string, now time.Time) string {
	isSelf := self != "" && c.user.Username == self
	if b.isAgent(c.user) {
		if c.resource == "grants" && c.subresource == "" && c.operation == "CREATE" {
			return refuseAgentsGrant(c, b)
		}
		return fmt.Sprintf("agents change nothing in %s", v1alpha1.Group)
	}
	switch c.resource {
	case "approvals":
		return refuseApproval(c, isSelf, now)
	case "grants":
		return refuseGrant(c, b, isSelf)
	case "revocations":
		return refuseRevocation(c)
	}
	return "not a change that tipstaff knows"
}

// isAgent knows an agent whose groups were lost by its name.
func (b Bounds) isAgent(u authenticationv1.UserInfo) bool {
	return b.Agents.IsAgent(u.Username, u.Groups) || strings.HasPrefix(u.Username, v1alpha1.UserPrefix)
}

func refuseApproval(c change, isSelf bool, now time.Time) string {
	switch {
	case c.operation == "CREATE" && c.subresource == "":
		return refuseCreate(c, isSelf)
	case c.operation == "DELETE" && c.subresource == "":
		if isSelf || slices.Contains(c.user.Groups, groupMasters) {
			return ""
		}
		return "approvals are removed by tipstaff when their time is over, or by system:masters"
	case c.operation == "UPDATE" && c.old != nil && c.new != nil:
		if c.old.Name != c.new.Name || c.old.UID != c.new.UID {
			return "an approval's identity never changes"
		}
		if !apiequality.Semantic.DeepEqual(c.old.Spec, c.new.Spec) {
			return "an approval's spec never changes"
		}
		if c.subresource == "" {
			return refuseMetadata(c)
		}
		if c.subresource == "status" {
			return refuseStatus(c, isSelf, now)
		}
	}
	return "not a change that tipstaff knows"
}

func refuseCreate(c change, isSelf bool) string {
	if !isSelf {
		return "approvals are opened by tipstaff only"
	}
	if c.new == nil {
		return "no approval in the request"
	}
	if s := c.new.Status; len(s.Decisions) > 0 || s.Use != nil || s.Cancelled != nil || len(s.Conditions) > 0 {
		return "an approval starts undecided"
	}
	return ""
}

// refuseMetadata keeps the labels by which tipstaff finds an approval, and
// nobody else's hands on it. The rest of the metadata is Kubernetes' own.
func refuseMetadata(c change) string {
	for _, key := range []string{v1alpha1.LabelFingerprint, v1alpha1.LabelRunKey} {
		if c.old.Labels[key] != c.new.Labels[key] {
			return "label " + key + " never changes"
		}
	}
	if !apiequality.Semantic.DeepEqual(c.old.Status, c.new.Status) {
		return "status changes through its subresource only"
	}
	return refuseMetadataChange(&c.old.ObjectMeta, &c.new.ObjectMeta)
}

func refuseStatus(c change, isSelf bool, now time.Time) string {
	was, is := c.old.Status, c.new.Status
	if len(is.Decisions) < len(was.Decisions) || !apiequality.Semantic.DeepEqual(was.Decisions, is.Decisions[:len(was.Decisions)]) {
		return "decisions are only added"
	}
	added := is.Decisions[len(was.Decisions):]
	if isSelf {
		return refuseOwnStatus(c, len(added) > 0, now)
	}
	if !apiequality.Semantic.DeepEqual(was.Use, is.Use) || !apiequality.Semantic.DeepEqual(was.Cancelled, is.Cancelled) || was.Phase != is.Phase ||
		!apiequality.Semantic.DeepEqual(was.Conditions, is.Conditions) {
		return "use, cancellation, phase and conditions are set by tipstaff only"
	}
	if len(added) == 0 {
		return ""
	}
	if was.Cancelled != nil {
		return "the approval is cancelled: the run that asked was revoked"
	}
	if len(added) > 1 {
		return "one person adds one decision"
	}
	return refuseDecision(c.old, added[0], c.user, now)
}

// refuseOwnStatus judges what tipstaff itself writes: use and cancellation end
// an approval, either of them once and not both. A use changes only as a retry,
// while the approval would still stand, and to say how it ended.
func refuseOwnStatus(c change, decides bool, now time.Time) string {
	was, is := c.old.Status, c.new.Status
	uses, cancels := !apiequality.Semantic.DeepEqual(was.Use, is.Use), !apiequality.Semantic.DeepEqual(was.Cancelled, is.Cancelled)
	phase := State(c.old, now)
	switch {
	case decides:
		return "tipstaff itself decides nothing"
	case uses && was.Use != nil:
		if !cancels && (isRetry(c.old, is.Use, now) || addsOutcome(was.Use, is.Use)) {
			return ""
		}
		return "an approval is used once"
	case uses && (is.Use.Tries != 0 || is.Use.Outcome != nil):
		return "a use starts without tries and outcome"
	case cancels && was.Cancelled != nil:
		return "a cancelled approval stays cancelled"
	case uses && (cancels || was.Cancelled != nil):
		return "an approval that is cancelled is not used"
	case uses && phase != v1alpha1.PhaseApproved:
		return fmt.Sprintf("an approval that is %s is not used", phase)
	case cancels && phase != v1alpha1.PhasePending && phase != v1alpha1.PhaseApproved:
		return fmt.Sprintf("an approval that is %s is not cancelled", phase)
	}
	return ""
}

// isRetry reports whether use is the next try under old, whose request the API
// server did not carry out. Which request that is, the guard can't see; that one
// may come at all, it can.
func isRetry(old *v1alpha1.Approval, use *v1alpha1.Use, now time.Time) bool {
	was := old.Status.Use
	return use != nil && use.RequestUID != "" && use.RequestUID != was.RequestUID && use.ObjectUID == was.ObjectUID &&
		use.Outcome == nil && use.Tries == was.Tries+1 && use.Tries <= maxTries &&
		phaseUnused(old, now) == v1alpha1.PhaseApproved
}

// addsOutcome reports whether is differs from was in its outcome alone, which
// had not been known.
func addsOutcome(was, is *v1alpha1.Use) bool {
	if is == nil || was.Outcome != nil || is.Outcome == nil {
		return false
	}
	unknown := *is
	unknown.Outcome = nil
	return apiequality.Semantic.DeepEqual(was, &unknown)
}

func refuseDecision(a *v1alpha1.Approval, d v1alpha1.Decision, user authenticationv1.UserInfo, now time.Time) string {
	if d.By != user.Username {
		return fmt.Sprintf("a decision is made in one's own name: by must be %q", user.Username)
	}
	if why := mayNotDecide(a, d.By); why != "" {
		return why
	}
	if why := refuseGroups(a, d, user); why != "" {
		return why
	}
	if p := State(a, now); Final(p) {
		return fmt.Sprintf("the approval is %s", describe(a, p))
	}
	for _, earlier := range a.Status.Decisions {
		// Who approved as one of several may still break the glass, once.
		if earlier.By == d.By && (!d.BreakGlass || earlier.BreakGlass) {
			return fmt.Sprintf("%s already decided; one person is one vote", d.By)
		}
	}
	switch d.Verdict {
	case v1alpha1.VerdictApprove:
	case v1alpha1.VerdictDeny:
		if strings.TrimSpace(d.Reason) == "" {
			return "a denial needs a reason"
		}
	default:
		return "a verdict is Approve or Deny"
	}
	if d.BreakGlass && !breaksGlass(a, d) {
		return "break-glass approves, with a reason"
	}
	if why := refuseReason(d.Reason); why != nil {
		return why.Error()
	}
	// The other ways are for who speaks for people, and there is none yet.
	if d.Via != v1alpha1.ViaKubectl {
		return fmt.Sprintf("a decision that a person writes came via %s", v1alpha1.ViaKubectl)
	}
	if skew := now.Sub(d.At.Time); skew > maxSkew || skew < -maxSkew {
		return "the decision's time is more than 5 minutes off"
	}
	return ""
}

// refuseGroups says why a person's groups don't let them make d.
func refuseGroups(a *v1alpha1.Approval, d v1alpha1.Decision, user authenticationv1.UserInfo) string {
	groups, what := a.Spec.Approvers, "approver"
	if d.BreakGlass {
		if len(a.Spec.BreakGlass) == 0 {
			return fmt.Sprintf("rule %q knows no break-glass", a.Spec.Rule)
		}
		groups, what = a.Spec.BreakGlass, "break-glass"
	}
	if slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(user.Groups, g) }) {
		return ""
	}
	return fmt.Sprintf("%s is in none of the %s groups %s", user.Username, what, strings.Join(groups, ", "))
}
