package approvals

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Filter names approvals. Its zero value names all.
type Filter struct {
	// Run and Issuer are the agent's; empty means any.
	Run, Issuer string
	// Phases are those that it names; none means all.
	Phases []v1alpha1.Phase
}

// Match reports whether f names a as it stands at now.
func (f Filter) Match(a *v1alpha1.Approval, now time.Time) bool {
	return (f.Run == "" || a.Spec.Agent.Run == f.Run) && (f.Issuer == "" || a.Spec.Agent.Issuer == f.Issuer) &&
		(len(f.Phases) == 0 || slices.Contains(f.Phases, State(a, now)))
}

// Votes is how many different people's approvals of a count.
func Votes(a *v1alpha1.Approval) int {
	yes := map[string]bool{}
	for _, d := range a.Status.Decisions {
		if d.Verdict == v1alpha1.VerdictApprove && mayNotDecide(a, d.By) == "" {
			yes[d.By] = true
		}
	}
	return len(yes)
}

// Find reads one approval; its status.phase says where it stands now.
func Find(ctx context.Context, c client.Reader, name string) (*v1alpha1.Approval, error) {
	var a v1alpha1.Approval
	if err := c.Get(ctx, client.ObjectKey{Name: name}, &a); err != nil {
		return nil, wordError("read approval "+name, "you", err)
	}
	standing(&a, time.Now())
	return &a, nil
}

// List reads all approvals, undecided ones first, then the newest first.
// Each one's status.phase says where it stands now.
func List(ctx context.Context, c client.Reader) (*v1alpha1.ApprovalList, error) {
	return Select(ctx, c, Filter{})
}

// Select is List of the approvals that f names.
func Select(ctx context.Context, c client.Reader, f Filter) (*v1alpha1.ApprovalList, error) {
	var l v1alpha1.ApprovalList
	if err := c.List(ctx, &l); err != nil {
		return nil, wordError("list approvals", "you", err)
	}
	now := time.Now()
	l.Items = slices.DeleteFunc(l.Items, func(a v1alpha1.Approval) bool { return !f.Match(&a, now) })
	for i := range l.Items {
		standing(&l.Items[i], now)
	}
	inboxOrder(l.Items)
	return NewList(l.Items), nil
}

// NewList is items as a list that prints as Kubernetes' own.
func NewList(items []v1alpha1.Approval) *v1alpha1.ApprovalList {
	if items == nil {
		items = []v1alpha1.Approval{}
	}
	return &v1alpha1.ApprovalList{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ApprovalList"}, Items: items,
	}
}

// standing makes a say what it is and where it stands at now.
func standing(a *v1alpha1.Approval, now time.Time) {
	a.TypeMeta = typeMeta
	a.ManagedFields = nil
	a.Status.Phase = State(a, now)
}

// inboxOrder puts what waits for a decision first, then the newest.
func inboxOrder(as []v1alpha1.Approval) {
	sort.SliceStable(as, func(i, j int) bool {
		a, b := &as[i], &as[j]
		if pa, pb := a.Status.Phase == v1alpha1.PhasePending, b.Status.Phase == v1alpha1.PhasePending; pa != pb {
			return pa
		}
		if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return b.CreationTimestamp.Before(&a.CreationTimestamp)
		}
		return a.Name < b.Name
	})
}

// Watch shows the approvals that f names, in the order of List, and then each one
// again when it changes, until ctx is done; that is no error. One that f names no
// more is shown once more as it then stands. A watch that ends is opened again;
// warn hears why. It ends with an error if the caller may not read approvals, or
// with that of show.
func Watch(ctx context.Context, c client.WithWatch, f Filter, show func([]v1alpha1.Approval) error, warn func(error)) error {
	// An informer tries for ever what is refused; the first list tells.
	if err := c.List(ctx, &v1alpha1.ApprovalList{}, client.Limit(1)); err != nil {
		return wordError("watch approvals", "you", err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	v := &view{filter: f, show: show, stop: stop, seen: map[string]string{}, first: map[string]v1alpha1.Approval{}}
	informer := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l := &v1alpha1.ApprovalList{}
			return l, c.List(ctx, l, &client.ListOptions{Raw: &o})
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, &v1alpha1.ApprovalList{}, &client.ListOptions{Raw: &o})
		},
	}, c), &v1alpha1.Approval{}, 0, cache.Indexers{})
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: v.changed, UpdateFunc: func(_, obj any) { v.changed(obj) }, DeleteFunc: v.removed,
	})
	if err != nil {
		return fmt.Errorf("watch approvals: %w", err)
	}
	err = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF), apierrors.IsResourceExpired(err), apierrors.IsGone(err):
			// A watch ends now and then; the next one goes on.
		case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			stop(wordError("watch approvals", "you", err))
		default:
			warn(fmt.Errorf("the watch broke, trying again: %w", err))
		}
	})
	if err != nil {
		return fmt.Errorf("watch approvals: %w", err)
	}
	var group wait.Group
	group.StartWithContext(ctx, informer.RunWithContext)
	if cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		v.start()
	}
	<-ctx.Done()
	group.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// view is what a Watch has shown.
type view struct {
	filter Filter
	show   func([]v1alpha1.Approval) error
	stop   context.CancelCauseFunc

	mu      sync.Mutex
	started bool
	first   map[string]v1alpha1.Approval // what is there before start
	seen    map[string]string            // the resourceVersion shown of each
}

func (v *view) start() {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	var as []v1alpha1.Approval
	for _, a := range v.first {
		if v.filter.Match(&a, now) {
			v.seen[a.Name] = a.ResourceVersion
			standing(&a, now)
			as = append(as, a)
		}
	}
	inboxOrder(as)
	v.started, v.first = true, nil
	v.showAll(as)
}

func (v *view) showAll(as []v1alpha1.Approval) {
	if err := v.show(as); err != nil {
		v.stop(err)
	}
}

func (v *view) changed(obj any) {
	seen, ok := obj.(*v1alpha1.Approval)
	if !ok {
		return
	}
	a := *seen.DeepCopy() // the informer's own must stay as it is
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.started {
		v.first[a.Name] = a
		return
	}
	now := time.Now()
	version, shown := v.seen[a.Name]
	matches := v.filter.Match(&a, now)
	if !matches && !shown || version == a.ResourceVersion && a.ResourceVersion != "" {
		return // not asked for, or told again by a new list
	}
	if matches {
		v.seen[a.Name] = a.ResourceVersion
	} else {
		delete(v.seen, a.Name)
	}
	standing(&a, now)
	v.showAll([]v1alpha1.Approval{a})
}

func (v *view) removed(obj any) {
	name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.first, name)
	delete(v.seen, name)
}
