package approvals

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// ErrOtherRun means that an approval is not of the run that asks about it.
var ErrOtherRun = errors.New("the approval is another run's")

// Decided returns when the approval is no longer pending, or when ctx is done,
// with where it stood when last seen. It asks the API server only about one that
// the watch hasn't shown yet. An error means that nobody can tell, or that there
// is no such approval of agent's run ([ErrOtherRun]).
func (s *Store) Decided(ctx context.Context, name string, agent v1alpha1.Agent) (v1alpha1.Phase, error) {
	if !s.HasSynced() {
		return "", ErrNotReady
	}
	wake, stop := s.subscribe(name)
	defer stop()
	for {
		a, err := s.lastSeen(ctx, name)
		if err != nil {
			return "", err
		}
		if a.Spec.Agent.Key() != agent.Key() || a.Spec.Agent.User != agent.User {
			return "", fmt.Errorf("approval %s: %w", name, ErrOtherRun)
		}
		now := s.now()
		if phase := State(a, now); phase != v1alpha1.PhasePending {
			return phase, nil
		}
		// No event tells that its time is over, unless a replica writes it down.
		end := time.NewTimer(a.Spec.ExpiresAt.Sub(now) + time.Millisecond)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-end.C:
		}
		end.Stop()
		if ctx.Err() != nil {
			return v1alpha1.PhasePending, nil //nolint:nilerr // as Wait: the state last known
		}
	}
}

// lastSeen is the approval as the watch has shown it; a new one is read. It must
// not be changed.
func (s *Store) lastSeen(ctx context.Context, name string) (*v1alpha1.Approval, error) {
	obj, ok, err := s.informer.GetIndexer().GetByKey(name)
	if a, is := obj.(*v1alpha1.Approval); err == nil && ok && is {
		return a, nil
	}
	a := &v1alpha1.Approval{}
	if err := s.client.Get(ctx, client.ObjectKey{Name: name}, a); err != nil {
		return nil, fmt.Errorf("read approval %s: %w", name, err)
	}
	a.Spec.Diff = "" // up to 64 KiB that nobody who waits needs
	return a, nil
}
