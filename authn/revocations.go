package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// ErrNotSynced says that the revocations aren't known yet. Refuse.
var ErrNotSynced = errors.New("revocations are not known yet")

// Revocations knows the cluster's Revocation objects, by a watch of its own.
type Revocations struct {
	watch cache.ListerWatcher
	log   *slog.Logger
	store revocationStore
}

// NewRevocations makes a Revocations that reads from the API server of cfg. It
// asks nothing yet: Run does.
func NewRevocations(cfg *rest.Config, log *slog.Logger) (*Revocations, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register tipstaff's types: %w", err)
	}
	c := rest.CopyConfig(cfg)
	gv := v1alpha1.GroupVersion
	c.GroupVersion, c.APIPath = &gv, "/apis"
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make a client for revocations: %w", err)
	}
	return &Revocations{
		watch: cache.NewListWatchFromClient(client, "revocations", "", fields.Everything()),
		log:   log,
	}, nil
}

// Times between attempts to watch. They are short, since every agent is refused
// until the first list.
const (
	firstWatchRetry = 100 * time.Millisecond
	lastWatchRetry  = 2 * time.Second
)

// Run watches until ctx ends. While the API server or the CRD isn't there it
// tries again; what was known before stays in force.
func (r *Revocations) Run(ctx context.Context) error {
	// client-go logs through klog's context.
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(r.log.Handler()))
	reflector := cache.NewReflectorWithOptions(r.watch, &v1alpha1.Revocation{}, &r.store, cache.ReflectorOptions{Name: "revocations"})
	// A loop of our own instead of the reflector's: that one backs off to 30 s.
	for retry := firstWatchRetry; ; {
		began := time.Now()
		err := reflector.ListAndWatchWithContext(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > 2*lastWatchRetry {
			retry = firstWatchRetry
		}
		if err != nil {
			r.log.WarnContext(ctx, "revocations cannot be watched", "error", err, "known", r.HasSynced(), "retryIn", retry)
		}
		timer := time.NewTimer(retry)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		retry = min(2*retry, lastWatchRetry)
	}
}

// HasSynced reports whether the revocations are known.
func (r *Revocations) HasSynced() bool { return r.store.hasSynced() }

// Revoked reports whether a's run is revoked, and why. [ErrNotSynced] means that
// it isn't known yet: refuse.
func (r *Revocations) Revoked(a v1alpha1.Agent) (reason string, revoked bool, err error) {
	return r.store.revoked(a)
}

// revocationStore is what the watch has seen, by run. It is the reflector's store.
type revocationStore struct {
	mu     sync.RWMutex
	synced bool
	byName map[string]*v1alpha1.Revocation
	byRun  map[string]map[string]*v1alpha1.Revocation // run, then name
}

func (s *revocationStore) hasSynced() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.synced
}

func (s *revocationStore) revoked(a v1alpha1.Agent) (string, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.synced {
		return "", false, ErrNotSynced
	}
	// Of several, the first by name: the same answer every time.
	var found *v1alpha1.Revocation
	for _, rev := range s.byRun[a.Run] {
		if rev.Revokes(a, time.Now()) && (found == nil || rev.Name < found.Name) {
			found = rev
		}
	}
	if found == nil {
		return "", false, nil
	}
	return found.Spec.Reason, true, nil
}

// Add puts one in.
func (s *revocationStore) Add(obj any) error {
	rev, err := asRevocation(obj)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(rev)
	return nil
}

// Update replaces one.
func (s *revocationStore) Update(obj any) error { return s.Add(obj) }

// Delete takes one out.
func (s *revocationStore) Delete(obj any) error {
	rev, err := asRevocation(obj)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(rev.Name)
	return nil
}

// Replace takes a whole list: from the first on, the revocations are known.
func (s *revocationStore) Replace(objs []any, _ string) error {
	revs := make([]*v1alpha1.Revocation, 0, len(objs))
	for _, obj := range objs {
		rev, err := asRevocation(obj)
		if err != nil {
			return err
		}
		revs = append(revs, rev)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byName, s.byRun = nil, nil
	for _, rev := range revs {
		s.put(rev)
	}
	s.synced = true
	return nil
}

// Resync has nothing to do.
func (s *revocationStore) Resync() error { return nil }

func (s *revocationStore) put(rev *v1alpha1.Revocation) {
	s.remove(rev.Name)
	if s.byName == nil {
		s.byName, s.byRun = map[string]*v1alpha1.Revocation{}, map[string]map[string]*v1alpha1.Revocation{}
	}
	s.byName[rev.Name] = rev
	run := s.byRun[rev.Spec.Run]
	if run == nil {
		run = map[string]*v1alpha1.Revocation{}
		s.byRun[rev.Spec.Run] = run
	}
	run[rev.Name] = rev
}

func (s *revocationStore) remove(name string) {
	rev := s.byName[name]
	if rev == nil {
		return
	}
	delete(s.byName, name)
	delete(s.byRun[rev.Spec.Run], name)
	if len(s.byRun[rev.Spec.Run]) == 0 {
		delete(s.byRun, rev.Spec.Run)
	}
}

func asRevocation(obj any) (*v1alpha1.Revocation, error) {
	rev, ok := obj.(*v1alpha1.Revocation)
	if !ok {
		return nil, fmt.Errorf("the revocation watch gave a %T", obj)
	}
	return rev, nil
}
