package approvals

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	// ErrForbidden means that the API server (RBAC or the guard) refused the caller.
	ErrForbidden = errors.New("not allowed")
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

// Decide adds the caller's decision to the approval of that name and gives it
// back as it then stands. via is kubectl, web or slack. The guard in the API
// server checks the caller's right; Decide only words the refusals.
func Decide(ctx context.Context, c client.Client, name string, verdict v1alpha1.Verdict, reason, via string) (*v1alpha1.Approval, error) {
	if verdict == v1alpha1.VerdictDeny && reason == "" {
		return nil, errors.New("a denial needs a reason: the agent and the record get it")
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
		now := time.Now()
		if p := State(&a, now); Final(p) {
			return fmt.Errorf("approval %s is %s: %w", name, describe(&a, p), ErrFinal)
		}
		for _, d := range a.Status.Decisions {
			if d.By == by {
				return fmt.Errorf("%s already decided approval %s (%s): %w", by, name, d.Verdict, ErrFinal)
			}
		}
		a.Status.Decisions = append(a.Status.Decisions, v1alpha1.Decision{
			By: by, Verdict: verdict, Reason: reason, Via: via, At: metav1.NewTime(now.UTC().Truncate(time.Second)),
		})
		return c.Status().Update(ctx, &a)
	})
	if err != nil {
		return nil, wordError("decide approval "+name, by, err)
	}
	a.Status.Phase = State(&a, time.Now())
	a.TypeMeta = typeMeta
	return &a, nil
}

// describe names a final phase with who made it so.
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
		return "waiting for a decision"
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

// Find reads one approval; its status.phase says where it stands now.
func Find(ctx context.Context, c client.Reader, name string) (*v1alpha1.Approval, error) {
	var a v1alpha1.Approval
	if err := c.Get(ctx, client.ObjectKey{Name: name}, &a); err != nil {
		return nil, wordError("read approval "+name, "you", err)
	}
	a.Status.Phase = State(&a, time.Now())
	a.TypeMeta = typeMeta
	return &a, nil
}

// List reads all approvals, undecided ones first, then the newest first.
// Each one's status.phase says where it stands now.
func List(ctx context.Context, c client.Reader) (*v1alpha1.ApprovalList, error) {
	var l v1alpha1.ApprovalList
	if err := c.List(ctx, &l); err != nil {
		return nil, wordError("list approvals", "you", err)
	}
	now := time.Now()
	l.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ApprovalList"}
	for i := range l.Items {
		l.Items[i].Status.Phase = State(&l.Items[i], now)
		l.Items[i].TypeMeta = typeMeta
	}
	sort.SliceStable(l.Items, func(i, j int) bool {
		a, b := &l.Items[i], &l.Items[j]
		if pa, pb := a.Status.Phase == v1alpha1.PhasePending, b.Status.Phase == v1alpha1.PhasePending; pa != pb {
			return pa
		}
		if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return b.CreationTimestamp.Before(&a.CreationTimestamp)
		}
		return a.Name < b.Name
	})
	return &l, nil
}
