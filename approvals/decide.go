package approvals

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Errors of Decide, Find and Revoke. Callers show their text as it is.
var (
	// ErrNotFound means that no approval has that name.
	ErrNotFound = errors.New("not found")
	// ErrFinal means that the approval is decided, used, cancelled or expired.
	ErrFinal = errors.New("already final")
	// ErrVoted means that the caller has decided it before.
	ErrVoted = errors.New("one person is one vote")
	// ErrForbidden means that the API server (RBAC or the guard) refused the caller.
	ErrForbidden = errors.New("not allowed")
	// ErrChanged means that the name stands for another approval than was shown.
	ErrChanged = errors.New("it is not the approval that was shown: look again")
)

// typeMeta is put back where a client leaves it out, for -o json.
var typeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Approval"}

// Whoami is the username that the API server gives c.
func Whoami(ctx context.Context, c client.Client) (string, error) {
	var r authenticationv1.SelfSubjectReview
	if err := c.Create(ctx, &r); err != nil {
		return "", fmt.Errorf("ask the API server who is calling: %w", err)
	}
	if r.Status.UserInfo.Username == "" {
		return "", errors.New("the API server names no user for this client")
	}
	return r.Status.UserInfo.Username, nil
}

// maxReasonRunes is the CRD's cap of a decision's reason.
const maxReasonRunes = 1024

// Decision is one person's word, as a command line, page or message brings it.
type Decision struct {
	Verdict v1alpha1.Verdict
	// Reason is needed for a denial and for a broken glass.
	Reason string
	// Via is the way it came: kubectl, web or slack.
	Via string
	// BreakGlass approves alone, past the quorum, where the rule allows it.
	BreakGlass bool
}

// Validate reports what is wrong with d whatever it decides on.
func (d Decision) Validate() error {
	switch {
	case d.Verdict == v1alpha1.VerdictDeny && strings.TrimSpace(d.Reason) == "":
		return errors.New("a denial needs a reason: the agent and the record get it")
	case d.BreakGlass && d.Verdict != v1alpha1.VerdictApprove:
		return errors.New("break-glass approves: a denial needs none")
	case d.BreakGlass && strings.TrimSpace(d.Reason) == "":
		return errors.New("break-glass needs a reason: it is kept for ever")
	}
	return refuseReason(d.Reason)
}

// refuseReason says what is wrong with the reason of a decision: it goes to the
// agent, into events and the record.
func refuseReason(reason string) error {
	switch {
	case !utf8.ValidString(reason) || strings.ContainsFunc(reason, hidden):
		return errors.New("the reason is one line of text: it holds a line break or another character that can't be seen")
	case utf8.RuneCountInString(reason) > maxReasonRunes:
		return fmt.Errorf("the reason has %d characters: at most %d", utf8.RuneCountInString(reason), maxReasonRunes)
	}
	return nil
}

// Shown is what a person saw when they decided. A name alone could stand for
// something else by now; an approval's spec never changes under its uid.
type Shown struct {
	UID         types.UID
	Fingerprint v1alpha1.Fingerprint
}

// ShownAs is a as a person saw it.
func ShownAs(a *v1alpha1.Approval) *Shown { return &Shown{a.UID, a.Spec.Fingerprint} }

// Decide adds the caller's decision to the approval of that name and gives it
// back as it then stands. If shown isn't nil, the approval must still be that
// one, or it is ErrChanged. The guard in the API server checks the caller's
// right; Decide only words the refusals.
func Decide(ctx context.Context, c client.Client, name string, d Decision, shown *Shown) (*v1alpha1.Approval, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	by, err := Whoami(ctx, c)
	if err != nil {
		return nil, err
	}
	var a v1alpha1.Approval
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		a = v1alpha1.Approval{}
		if err := c.Get(ctx, client.ObjectKey{Name: name}, &a); err != nil {
			return err
		}
		if shown != nil && *shown != *ShownAs(&a) {
			return ErrChanged
		}
		now := time.Now()
		if p := State(&a, now); Final(p) {
			return fmt.Errorf("%s: %w", describe(&a, p), ErrFinal)
		}
		for _, earlier := range a.Status.Decisions {
			// Who approved as one of several may still break the glass, once.
			if earlier.By == by && (!d.BreakGlass || earlier.BreakGlass) {
				return fmt.Errorf("%s decided already (%s): %w", by, earlier.Verdict, ErrVoted)
			}
		}
		if d.BreakGlass && len(a.Spec.BreakGlass) == 0 {
			return fmt.Errorf("rule %s names nobody who may break the glass: %w", a.Spec.Rule, ErrForbidden)
		}
		a.Status.Decisions = append(a.Status.Decisions, v1alpha1.Decision{
			By: by, Verdict: d.Verdict, Reason: d.Reason, Via: d.Via, BreakGlass: d.BreakGlass,
			At: metav1.NewTime(now.UTC().Truncate(time.Second)),
		})
		return c.Status().Update(ctx, &a)
	})
	if err != nil {
		return nil, wordError("decide approval "+name, by, err)
	}
	standing(&a, time.Now())
	return &a, nil
}

// describe says in a few words what made p the phase of a.
func describe(a *v1alpha1.Approval, p v1alpha1.Phase) string {
	if p == v1alpha1.PhaseDenied {
		for _, d := range a.Status.Decisions {
			if d.Verdict == v1alpha1.VerdictDeny {
				return "denied by " + d.By
			}
		}
	}
	if p == v1alpha1.PhaseCancelled && a.Status.Cancelled != nil {
		return "cancelled, since the run that asked is revoked: " + strings.TrimRight(a.Status.Cancelled.Reason, ".")
	}
	if p == v1alpha1.PhaseExpired {
		return "expired since " + a.Spec.ExpiresAt.UTC().Format(time.RFC3339)
	}
	switch p {
	case v1alpha1.PhasePending:
		return fmt.Sprintf("%d of %d approved", Votes(a), a.Spec.Quorum)
	case v1alpha1.PhaseApproved:
		return "approved by " + strings.Join(approvedBy(a), ", ")
	}
	return "used"
}

// wordError puts what happened before the sentinel that a caller may test for.
func wordError(doing, who string, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: %w", doing, ErrNotFound)
	case apierrors.IsForbidden(err):
		// %v: the status error's text is the answer; its type is of no use above.
		return fmt.Errorf("%s as %s: %w: %v", doing, who, ErrForbidden, err) //nolint:errorlint // see above
	}
	return fmt.Errorf("%s: %w", doing, err)
}
