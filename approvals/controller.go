package approvals

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// workers keep approvals up to date side by side: one revocation may end many.
const workers = 4

// What the informer's index finds approvals by.
const (
	indexFingerprint = "fingerprint" // by their label
	indexPending     = "pending"     // those that wait for a decision: by their run's key, and by allRuns
	indexRun         = "run"         // all of them: by their run's key, and by allRuns
	allRuns          = "*"
)

// newInformer watches approvals. It keeps them without the difference, which is
// up to 64 KiB and which only people need.
func newInformer(c client.WithWatch) cache.SharedIndexInformer {
	informer := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l := &v1alpha1.ApprovalList{}
			return l, c.List(ctx, l, &client.ListOptions{Raw: &o})
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, &v1alpha1.ApprovalList{}, &client.ListOptions{Raw: &o})
		},
	}, c), &v1alpha1.Approval{}, 0, cache.Indexers{
		indexFingerprint: func(obj any) ([]string, error) {
			if a, ok := obj.(*v1alpha1.Approval); ok {
				return []string{a.Labels[v1alpha1.LabelFingerprint]}, nil
			}
			return nil, nil
		},
		indexPending: func(obj any) ([]string, error) {
			if a, ok := obj.(*v1alpha1.Approval); ok && (a.Status.Phase == "" || a.Status.Phase == v1alpha1.PhasePending) {
				return []string{a.Labels[v1alpha1.LabelRunKey], allRuns}, nil
			}
			return nil, nil
		},
		indexRun: func(obj any) ([]string, error) {
			if a, ok := obj.(*v1alpha1.Approval); ok {
				return []string{a.Labels[v1alpha1.LabelRunKey], allRuns}, nil
			}
			return nil, nil
		},
	})
	if err := informer.SetTransform(func(obj any) (any, error) {
		if a, ok := obj.(*v1alpha1.Approval); ok {
			a.Spec.Diff, a.ManagedFields = "", nil
		}
		return obj, nil
	}); err != nil {
		panic(err) // only of an informer that runs
	}
	return informer
}

// Run watches approvals, wakes waiters, keeps status.phase true, cancels what a
// revoked agent asked for and removes what finished longer than the retention
// ago, until ctx is done. An API server that is away, or lacks the CRD, is
// waited for: Run never ends because of it. Several replicas may run it: every
// write is conditional.
func (s *Store) Run(ctx context.Context) error {
	if err := s.learnSelf(ctx); err != nil {
		return nil //nolint:nilerr // only a done ctx ends it: that is the clean end of Run
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	informer := s.informer
	changed := func(obj any) {
		if name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
			s.wake(name)
			queue.Add(name)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: changed,
	}); err != nil {
		return fmt.Errorf("watch approvals: %w", err)
	}
	err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		s.log.WarnContext(ctx, "watch of approvals broke, trying again", "error", err)
	})
	if err != nil {
		return fmt.Errorf("watch approvals: %w", err)
	}

	// Each approval is looked at when it is first seen, so one that stood at the
	// start is too; what wasn't known to be revoked then, comes by this.
	unsubscribe := s.revoked.Subscribe(func() { s.recheck(queue, informer.GetStore()) })
	defer unsubscribe()

	var group wait.Group
	if s.broadcast != nil {
		if err := s.broadcast.StartRecordingToSinkWithContext(ctx); err != nil {
			return fmt.Errorf("write events: %w", err)
		}
		defer s.broadcast.Shutdown()
	}
	group.StartWithContext(ctx, informer.RunWithContext)
	group.StartWithContext(ctx, func(ctx context.Context) {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			s.synced.Store(true)
			s.log.InfoContext(ctx, "approvals loaded", "user", s.whoami())
		}
	})
	for range workers {
		group.StartWithContext(ctx, func(ctx context.Context) {
			for s.work(ctx, queue, informer.GetStore()) {
			}
		})
	}
	<-ctx.Done()
	queue.ShutDown()
	group.Wait()
	return nil
}

// recheck queues what a revoked agent has open. It asks nobody, and a name is in
// the queue once however often it is put there.
func (s *Store) recheck(queue workqueue.TypedRateLimitingInterface[string], seen cache.Store) {
	now := s.now()
	for _, obj := range seen.List() {
		a, ok := obj.(*v1alpha1.Approval)
		if !ok || Final(State(a, now)) {
			continue
		}
		if _, revoked, err := s.revoked.Revoked(a.Spec.Agent); revoked && err == nil {
			queue.Add(a.Name)
		}
	}
}

// learnSelf asks for tipstaff's own username until it is told.
func (s *Store) learnSelf(ctx context.Context) error {
	backoff := wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Cap: 5 * time.Second, Steps: 6, Jitter: 0.1}
	return backoff.DelayFunc().Until(ctx, true, false, func(ctx context.Context) (bool, error) {
		name, err := Whoami(ctx, s.client)
		if err != nil {
			s.log.WarnContext(ctx, "own identity is not known yet, trying again", "error", err)
			return false, nil
		}
		s.self.Store(&name)
		return true, nil
	})
}

// work takes one name from the queue; false means that the queue is shut.
func (s *Store) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], seen cache.Store) bool {
	name, shut := queue.Get()
	if shut {
		return false
	}
	defer queue.Done(name)
	obj, ok, err := seen.GetByKey(name)
	if err != nil || !ok {
		queue.Forget(name)
		return true
	}
	a, ok := obj.(*v1alpha1.Approval)
	if !ok {
		queue.Forget(name)
		return true
	}
	again, err := s.reconcile(ctx, a.DeepCopy())
	switch {
	case err != nil && ctx.Err() == nil:
		s.log.WarnContext(ctx, "approval could not be kept up to date, trying again", "approval", name, "error", err)
		queue.AddRateLimited(name)
	case again > 0:
		queue.Forget(name)
		queue.AddAfter(name, again)
	default:
		queue.Forget(name)
	}
	return true
}

// reconcile brings status.phase to the truth, cancels what a revoked agent has
// open and removes what is over. It returns when to look again; zero means at the next change. a may be old: its
// resourceVersion makes a write on a newer one a conflict.
func (s *Store) reconcile(ctx context.Context, a *v1alpha1.Approval) (time.Duration, error) {
	now := s.now()
	phase := State(a, now)
	if Final(phase) {
		if over := finishedAt(a).Add(s.keep(a, phase)); !now.Before(over) {
			err := s.client.Delete(ctx, a, client.Preconditions{UID: &a.UID, ResourceVersion: &a.ResourceVersion})
			if err = ignore(err); err != nil {
				return 0, fmt.Errorf("remove: %w", err)
			}
			return 0, nil
		}
	} else if reason, revoked, err := s.revoked.Revoked(a.Spec.Agent); err == nil && revoked {
		if err := ignore(s.cancel(ctx, a, reason)); err != nil {
			return 0, fmt.Errorf("cancel: %w", err)
		}
		return 0, nil // the event of that write, or of whose came first, brings it back
	} // where it isn't known, recheck brings it back
	was := conditionsOf(a)
	if changed := setConditions(a, phase, now); changed || a.Status.Phase != phase {
		a.Status.Phase = phase
		err := s.client.Status().Update(ctx, a)
		if err == nil {
			s.report(was, a, phase)
		} else if ignore(err) != nil {
			return 0, fmt.Errorf("set phase %s: %w", phase, err)
		}
	}
	if Final(phase) {
		return finishedAt(a).Add(s.keep(a, phase)).Sub(now) + time.Second, nil
	}
	return a.Spec.ExpiresAt.Sub(now) + time.Millisecond, nil
}

// maxUndecided is how long one stays that expired without a decision: nobody
// looked for it in time, and an agent can have as many as it likes.
const maxUndecided = time.Hour

// keep is how long a finished approval stays.
func (s *Store) keep(a *v1alpha1.Approval, phase v1alpha1.Phase) time.Duration {
	if phase == v1alpha1.PhaseExpired && len(a.Status.Decisions) == 0 {
		return min(s.retention, maxUndecided)
	}
	return s.retention
}

// ignore drops what the next watch event settles: somebody else wrote or removed it.
func ignore(err error) error {
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
