package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Approvals are the approvals of one run, as an approver sees them.
func (c *Cluster) Approvals(ctx context.Context, run string) ([]v1alpha1.Approval, error) {
	r := c.Kubectl(ctx, c.Alice, "get", "approvals", "-o", "json")
	if !r.OK() {
		return nil, fmt.Errorf("kubectl get approvals: %s", r.Output())
	}
	var list v1alpha1.ApprovalList
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		return nil, fmt.Errorf("kubectl get approvals: %w", err)
	}
	var of []v1alpha1.Approval
	for _, a := range list.Items {
		if a.Spec.Agent.Run == run {
			of = append(of, a)
		}
	}
	return of, nil
}

// WaitForApproval returns the pending approval of a run for an object's name.
// It gives up early when the agent's command, which should wait, ends.
func (c *Cluster) WaitForApproval(ctx context.Context, run, object string, waiting *Command) (*v1alpha1.Approval, error) {
	var found *v1alpha1.Approval
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		list, err := c.Approvals(ctx, run)
		if err != nil {
			return false, err
		}
		for i := range list {
			a := &list[i]
			if a.Spec.Request.Name == object && (a.Status.Phase == v1alpha1.PhasePending || a.Status.Phase == "") {
				found = a
				return true, nil
			}
		}
		if waiting != nil {
			select {
			case <-waiting.Done():
				return false, fmt.Errorf("the call was not held, it ended with code %d: %s", waiting.Wait().Code, waiting.Wait().Output())
			default:
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the approval of %s in run %s: %w", object, run, err)
	}
	return found, nil
}
