package approvals

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// maxOrdinal bounds how many approvals one fingerprint may have at once,
// finished ones included; a run that repeats a request more often within the
// retention is refused.
const maxOrdinal = 1000

// useAttempts bounds the conflicts that one use sits out: each is somebody
// else's write on the same approval, and there are few who write.
const useAttempts = 10

// Revoked says whether an agent is revoked, and why. An error means that this
// can't be known now: nothing is used then.
type Revoked interface {
	Revoked(a v1alpha1.Agent) (reason string, revoked bool, err error)
	// Subscribe has f called after each change of what is revoked, or of whether
	// that can be known; never concurrently with itself.
	Subscribe(f func()) (cancel func())
}

// Store keeps approvals in the API server.
type Store struct {
	client    client.WithWatch
	retention time.Duration
	revoked   Revoked
	bounds    Bounds
	now       func() time.Time
	log       *slog.Logger
	metrics   *metrics
	broadcast events.EventBroadcaster // nil where nobody is told by events
	events    events.EventRecorder    // nil with it

	self   atomic.Pointer[string]
	synced atomic.Bool
	// informer holds every approval as last seen, without its difference.
	informer cache.SharedIndexInformer

	mu      sync.Mutex
	waiters map[string]map[chan struct{}]struct{} // by approval name

	reports chan report
}

// NewStore makes a store on the API server that kubeconfig names. It opens no
// connection: Run does, and until it has, every answer is an error.
func NewStore(kubeconfig *rest.Config, cfg Config, revoked Revoked, bounds Bounds, log *slog.Logger) (*Store, error) {
	if revoked == nil {
		return nil, errors.New("approvals: who is revoked must be known")
	}
	c, err := NewClient(kubeconfig)
	if err != nil {
		return nil, err
	}
	s := newStore(c, cfg, revoked, bounds, log)
	kubeconfig = rest.CopyConfig(kubeconfig)
	kubeconfig.QPS, kubeconfig.Burst = 50, 100
	sink, err := eventsv1.NewForConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("make a client for events: %w", err)
	}
	scheme, err := scheme()
	if err != nil {
		return nil, err
	}
	s.broadcast = events.NewBroadcaster(&events.EventSinkImpl{Interface: sink})
	s.events = s.broadcast.NewRecorder(scheme, "tipstaff.dev/approvals")
	return s, nil
}

func newStore(c client.WithWatch, cfg Config, revoked Revoked, bounds Bounds, log *slog.Logger) *Store {
	retention := cfg.Retention.Duration
	if retention == 0 {
		retention = DefaultRetention
	}
	return &Store{
		client: c, retention: retention, revoked: revoked, bounds: bounds, now: time.Now, log: log, metrics: newMetrics(),
		informer: newInformer(c), waiters: map[string]map[chan struct{}]struct{}{}, reports: make(chan report, maxReports),
	}
}

// Guard serves POST /guard: the validating webhook over the store's objects.
func (s *Store) Guard() http.Handler {
	return (&guard{mayApprove: s.mayApprove, self: s.whoami, bounds: s.bounds, now: s.now, log: s.log}).handler()
}

// HasSynced reports whether the store watches approvals and knows its own name.
func (s *Store) HasSynced() bool { return s.synced.Load() && s.whoami() != "" }

func (s *Store) whoami() string {
	if p := s.self.Load(); p != nil {
		return *p
	}
	return ""
}

// ErrNotReady means that the store does not watch yet. Refuse and let the caller try again.
var ErrNotReady = errors.New("approvals are not loaded yet")

// Ensure finds the approval that answers for spec's fingerprint, or opens one.
// Its status.phase says where it stands. Any number of callers and replicas
// converge on one: its name comes from the fingerprint, and the API server
// gives a name once.
//
// What is pending or approved answers. So does a denial until its approval
// would have expired: asking again at once is not a new question. So does one
// that was used where t may go through under it again, now or in a moment. After
// any other that was used, expired or cancelled, or under changed terms (rule,
// who decides), the next is opened, unless too many are pending ([v1alpha1.ErrTooMany]).
// Only then is show called: it fills in what people are shown of the change.
//
// One that is pending may be some moments old, and then lacks spec.diff:
// [Store.Wait] and [Store.Use] read it anew.
func (s *Store) Ensure(ctx context.Context, spec v1alpha1.ApprovalSpec, t v1alpha1.Try, show func(*v1alpha1.ApprovalSpec) error) (*v1alpha1.Approval, error) {
	if !s.HasSynced() {
		return nil, ErrNotReady
	}
	// Most calls are retries of what still waits: those ask nobody.
	known, err := s.informer.GetIndexer().ByIndex(indexFingerprint, spec.Fingerprint.Label())
	if err != nil {
		return nil, fmt.Errorf("find approvals for %s: %w", spec.Fingerprint.Label(), err)
	}
	seen := make([]*v1alpha1.Approval, 0, len(known))
	for _, obj := range known {
		if a, ok := obj.(*v1alpha1.Approval); ok {
			seen = append(seen, a)
		}
	}
	if a := s.answer(seen, spec, t); a != nil && State(a, s.now()) == v1alpha1.PhasePending {
		return s.seen(a.DeepCopy()), nil
	}
	var l v1alpha1.ApprovalList
	if err := s.client.List(ctx, &l, client.MatchingLabels{v1alpha1.LabelFingerprint: spec.Fingerprint.Label()}); err != nil {
		return nil, fmt.Errorf("find approvals for %s: %w", spec.Fingerprint.Label(), err)
	}
	all, taken := make([]*v1alpha1.Approval, len(l.Items)), map[string]bool{}
	for i := range l.Items {
		all[i] = &l.Items[i]
		taken[all[i].Name] = true
	}
	if a := s.answer(all, spec, t); a != nil {
		return s.seen(a), nil
	}
	if err := s.bounded(spec.Agent.Key()); err != nil {
		return nil, err
	}
	if err := show(&spec); err != nil {
		return nil, fmt.Errorf("show the change: %w", err)
	}
	for ordinal := range maxOrdinal {
		name := nameOf(spec.Fingerprint, ordinal)
		if taken[name] {
			continue
		}
		a := &v1alpha1.Approval{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
				v1alpha1.LabelFingerprint: spec.Fingerprint.Label(),
				v1alpha1.LabelRunKey:      string(spec.Agent.Key()),
			}},
			Spec: spec,
		}
		err := s.client.Create(ctx, a)
		if err == nil {
			s.metrics.opened.WithLabelValues(spec.Rule).Inc()
			s.log.InfoContext(ctx, "approval opened", "approval", name, "run", spec.Agent.Run, "rule", spec.Rule)
			return s.seen(a), nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("open approval %s: %w", name, err)
		}
		a = &v1alpha1.Approval{}
		if err := s.client.Get(ctx, client.ObjectKey{Name: name}, a); err != nil {
			return nil, fmt.Errorf("read approval %s: %w", name, err)
		}
		if s.answers(a, spec, t) {
			return s.seen(a), nil
		}
	}
	return nil, fmt.Errorf("request %s was opened %d times already", spec.Fingerprint.Label(), maxOrdinal)
}

// Bounds on how many approvals wait for a decision, since people read no more,
// and on what all that are kept take of etcd: it stops the whole cluster when it
// is full. They are counted as last seen, so that some more may come at once.
const (
	maxPendingPerRun = 100
	maxPending       = 10_000
	maxBytesPerRun   = 16 << 20
	maxBytes         = 128 << 20
)

// bounded is ErrTooMany where no further approval may be opened for run.
func (s *Store) bounded(run v1alpha1.RunKey) error {
	for _, bound := range []struct {
		of, key        string
		pending, bytes int
	}{{"run", string(run), maxPendingPerRun, maxBytesPerRun}, {"cluster", allRuns, maxPending, maxBytes}} {
		pending, err := s.informer.GetIndexer().IndexKeys(indexPending, bound.key)
		if err != nil {
			return fmt.Errorf("count what is pending: %w", err)
		}
		kept, err := s.informer.GetIndexer().ByIndex(indexRun, bound.key)
		if err != nil {
			return fmt.Errorf("count what is kept: %w", err)
		}
		bytes := 0
		for _, obj := range kept {
			if a, ok := obj.(*v1alpha1.Approval); ok {
				bytes += weight(a)
			}
		}
		if len(pending) >= bound.pending || bytes >= bound.bytes {
			s.metrics.full.WithLabelValues(bound.of).Inc()
			return fmt.Errorf("%w: %d of the %s wait, and all that are kept take up to %d bytes", v1alpha1.ErrTooMany, len(pending), bound.of, bytes)
		}
	}
	return nil
}

// weight is what a takes of etcd at most: its difference has up to 64 KiB as JSON
// has it, where a byte may take six, and the rest of it some.
func weight(a *v1alpha1.Approval) int {
	const rest, most, escaped = 4 << 10, 64 << 10, 6
	return rest + int(min(most, escaped*min(a.Spec.DiffBytes, most)))
}

// answer picks the one of as that answers for spec, nil where none does.
func (s *Store) answer(as []*v1alpha1.Approval, spec v1alpha1.ApprovalSpec, t v1alpha1.Try) *v1alpha1.Approval {
	var best *v1alpha1.Approval
	for _, a := range as {
		if s.answers(a, spec, t) && (best == nil || s.before(a, best)) {
			best = a
		}
	}
	return best
}

// answers reports whether a is the answer to spec, given or to come.
func (s *Store) answers(a *v1alpha1.Approval, spec v1alpha1.ApprovalSpec, t v1alpha1.Try) bool {
	if a.Spec.Fingerprint != spec.Fingerprint || a.Spec.Rule != spec.Rule || a.Spec.Quorum != spec.Quorum ||
		!slices.Equal(a.Spec.Approvers, spec.Approvers) || !slices.Equal(a.Spec.BreakGlass, spec.BreakGlass) ||
		a.Spec.OwnerMayDecide != spec.OwnerMayDecide || a.DeletionTimestamp != nil {
		return false
	}
	now := s.now()
	switch State(a, now) {
	case v1alpha1.PhasePending, v1alpha1.PhaseApproved:
		return true
	case v1alpha1.PhaseDenied:
		return now.Before(a.Spec.ExpiresAt.Time)
	case v1alpha1.PhaseUsed:
		_, why := again(a, t, now)
		return why == ""
	}
	return false
}

// before orders answers of which there are several: a denial stands before any
// approval, and what was signed before what waits for it. The name makes it the
// same in every replica.
func (s *Store) before(a, b *v1alpha1.Approval) bool {
	rank := func(x *v1alpha1.Approval) int {
		return slices.Index([]v1alpha1.Phase{v1alpha1.PhaseDenied, v1alpha1.PhaseApproved, v1alpha1.PhaseUsed, v1alpha1.PhasePending}, State(x, s.now()))
	}
	if ra, rb := rank(a), rank(b); ra != rb {
		return ra < rb
	}
	return a.Name < b.Name
}

// seen gives a with its phase as of now.
func (s *Store) seen(a *v1alpha1.Approval) *v1alpha1.Approval {
	a.Status.Phase = State(a, s.now())
	return a
}

// nameOf is the same in every replica. Ten digits are short enough to say on
// the phone; two fingerprints that meet in one are told apart by the spec.
func nameOf(fp v1alpha1.Fingerprint, ordinal int) string {
	sum := sha256.Sum256([]byte(string(fp) + "/" + strconv.Itoa(ordinal)))
	return hex.EncodeToString(sum[:5])
}

// Wait returns when the approval is no longer pending or when ctx is done,
// with the state last read and no error. An error means that its state could
// not be read even once, or that it is gone. The answer lacks spec.diff.
func (s *Store) Wait(ctx context.Context, name string) (*v1alpha1.Approval, error) {
	wake, stop := s.subscribe(name)
	defer stop()
	var last *v1alpha1.Approval
	for {
		a := &v1alpha1.Approval{}
		if err := s.client.Get(ctx, client.ObjectKey{Name: name}, a); err != nil {
			if last != nil && ctx.Err() != nil {
				return s.seen(last), nil
			}
			return nil, fmt.Errorf("read approval %s: %w", name, err)
		}
		a.Spec.Diff = "" // up to 64 KiB that nobody who waits needs
		last = s.seen(a)
		if last.Status.Phase != v1alpha1.PhasePending {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return s.seen(last), nil
		case <-wake:
		}
	}
}

// Use takes the approval for t: one conditional update, so that of any number
// of callers one gets it. It got it if the answer's status.use names
// t.RequestUID; otherwise the answer says what stands instead. One that was used
// is taken again only where its request was not carried out ([again]).
// One whose agent is revoked is cancelled instead, whatever people decided.
// An error means that nothing is known: refuse.
func (s *Store) Use(ctx context.Context, name string, t v1alpha1.Try) (*v1alpha1.Approval, error) {
	for range useAttempts {
		a := &v1alpha1.Approval{}
		if err := s.client.Get(ctx, client.ObjectKey{Name: name}, a); err != nil {
			return nil, fmt.Errorf("read approval %s: %w", name, err)
		}
		phase := State(a, s.now())
		retry := false
		if phase == v1alpha1.PhaseUsed {
			wait, why := again(a, t, s.now())
			retry = why == "" && wait == 0
		}
		if phase != v1alpha1.PhaseApproved && !retry {
			return s.seen(a), nil
		}
		// Asked after the read, so that what is revoked before the update isn't
		// let through on what was known before the wait (I9).
		reason, revoked, err := s.revoked.Revoked(a.Spec.Agent)
		switch {
		case err != nil:
			return nil, fmt.Errorf("use approval %s: look up whether the run is revoked: %w", name, err)
		case revoked && retry:
			return s.seen(a), nil // it ended with its first use
		case revoked:
			err = s.cancel(ctx, a, reason)
		default:
			err = s.use(ctx, a, t)
		}
		if err == nil {
			return s.seen(a), nil
		}
		if !apierrors.IsConflict(err) {
			return nil, fmt.Errorf("use approval %s: %w", name, err)
		}
	}
	return nil, fmt.Errorf("use approval %s: too many conflicts", name)
}

// maxReasonLength is what the CRD takes, in characters.
const maxReasonLength = 1024

// use marks a, which is approved or may be used again, as used by t. The
// resourceVersion of a's read goes with it: any write in between is a conflict.
func (s *Store) use(ctx context.Context, a *v1alpha1.Approval, t v1alpha1.Try) error {
	tries := int32(0)
	if a.Status.Use != nil {
		tries = a.Status.Use.Tries + 1
	}
	a.Status.Use = &v1alpha1.Use{
		RequestUID: t.RequestUID, At: s.stamp(), Tries: tries,
		ObjectUID: t.ObjectUID, ResourceVersion: t.ResourceVersion, Generation: t.Generation,
	}
	a.Status.Phase = v1alpha1.PhaseUsed
	if err := s.client.Status().Update(ctx, a); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "approval used", "approval", a.Name, "run", a.Spec.Agent.Run, "rule", a.Spec.Rule, "tries", tries)
	return nil
}

// cancel ends a, which isn't final, in the same way.
func (s *Store) cancel(ctx context.Context, a *v1alpha1.Approval, reason string) error {
	if r := []rune(reason); len(r) > maxReasonLength {
		reason = string(r[:maxReasonLength])
	}
	a.Status.Cancelled = &v1alpha1.Cancellation{At: s.stamp(), Reason: reason}
	a.Status.Phase = v1alpha1.PhaseCancelled
	if err := s.client.Status().Update(ctx, a); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "approval cancelled", "approval", a.Name, "run", a.Spec.Agent.Run, "rule", a.Spec.Rule, "reason", reason)
	return nil
}

// stamp is now as the API server keeps it.
func (s *Store) stamp() metav1.Time { return metav1.NewTime(s.now().UTC().Truncate(time.Second)) }

// subscribe gives a channel that gets a token whenever the approval changes.
func (s *Store) subscribe(name string) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters[name] == nil {
		s.waiters[name] = map[chan struct{}]struct{}{}
	}
	s.waiters[name][ch] = struct{}{}
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.waiters[name], ch)
		if len(s.waiters[name]) == 0 {
			delete(s.waiters, name)
		}
	}
}

func (s *Store) wake(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.waiters[name] {
		select {
		case ch <- struct{}{}:
		default: // it has a token already
		}
	}
}
