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
	old, new              *v1alpha1.Approval // where resource is approvals
}

// refusal says why a change is not allowed; empty means that it is. self is
// tipstaff's own username, empty while it is not known.
//
// Who may do what:
//   - an agent: nothing in this group (I2);
//   - tipstaff itself: open approvals, set use and phase, remove finished ones;
//   - a member of spec.approvers, who is neither an agent nor the run's owner:
//     add one decision, as themselves, before it is final;
//   - system:masters: delete approvals, since somebody must be able to clean up;
//     the audit log keeps the record. They decide only as anyone else does.
//
// Revocations are for humans by RBAC.
func refusal(c change, self string, now time.Time) string {
	if v1alpha1.IsAgent(c.user.Groups) || strings.HasPrefix(c.user.Username, v1alpha1.UserPrefix) {
		return fmt.Sprintf("agents change nothing in %s", v1alpha1.Group)
	}
	if c.resource != "approvals" {
		return ""
	}
	isSelf := self != "" && c.user.Username == self
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
	if len(c.new.Status.Decisions) > 0 || c.new.Status.Use != nil {
		return "an approval starts undecided"
	}
	return ""
}

// refuseMetadata keeps the labels by which tipstaff finds an approval. The rest
// of the metadata is Kubernetes' own (finalizers of a foreground deletion).
func refuseMetadata(c change) string {
	for _, key := range []string{v1alpha1.LabelFingerprint, v1alpha1.LabelRunKey} {
		if c.old.Labels[key] != c.new.Labels[key] {
			return "label " + key + " never changes"
		}
	}
	if !apiequality.Semantic.DeepEqual(c.old.Status, c.new.Status) {
		return "status changes through its subresource only"
	}
	return ""
}

func refuseStatus(c change, isSelf bool, now time.Time) string {
	was, is := c.old.Status, c.new.Status
	if len(is.Decisions) < len(was.Decisions) || !apiequality.Semantic.DeepEqual(was.Decisions, is.Decisions[:len(was.Decisions)]) {
		return "decisions are only added"
	}
	added := is.Decisions[len(was.Decisions):]
	if isSelf {
		if len(added) > 0 {
			return "tipstaff itself decides nothing"
		}
		if apiequality.Semantic.DeepEqual(was.Use, is.Use) {
			return ""
		}
		if was.Use != nil {
			return "an approval is used once"
		}
		if p := State(c.old, now); p != v1alpha1.PhaseApproved {
			return fmt.Sprintf("an approval that is %s is not used", p)
		}
		return ""
	}
	if !apiequality.Semantic.DeepEqual(was.Use, is.Use) || was.Phase != is.Phase {
		return "use and phase are set by tipstaff only"
	}
	if len(added) == 0 {
		return ""
	}
	if len(added) > 1 {
		return "one person adds one decision"
	}
	return refuseDecision(c.old, added[0], c.user, now)
}

func refuseDecision(a *v1alpha1.Approval, d v1alpha1.Decision, user authenticationv1.UserInfo, now time.Time) string {
	if d.By != user.Username {
		return fmt.Sprintf("a decision is made in one's own name: by must be %q", user.Username)
	}
	if why := mayNotDecide(a, d.By); why != "" {
		return why
	}
	if !slices.ContainsFunc(a.Spec.Approvers, func(g string) bool { return slices.Contains(user.Groups, g) }) {
		return fmt.Sprintf("%s is in none of the approver groups %s", user.Username, strings.Join(a.Spec.Approvers, ", "))
	}
	if p := State(a, now); Final(p) {
		return fmt.Sprintf("the approval is %s", describe(a, p))
	}
	for _, earlier := range a.Status.Decisions {
		if earlier.By == d.By {
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
	if skew := now.Sub(d.At.Time); skew > maxSkew || skew < -maxSkew {
		return "the decision's time is more than 5 minutes off"
	}
	return ""
}
