package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Errors of [Revocations.Revoked]. Each means that nobody can say whether the
// agent is revoked: refuse.
var (
	// ErrNotSynced says that the revocations were never known yet.
	ErrNotSynced = errors.New("revocations are not known yet")
	// ErrStale says that the API server hasn't been heard for too long: there
	// may be revocations that aren't known here.
	ErrStale = errors.New("revocations can't be followed: the API server is out of reach")
)

// maxSilence is how long "not revoked" is said on what was last heard.
//
// In step, a revocation is known within milliseconds of its creation. A watch
// that broke is opened again within lastWatchRetry, one that hangs silently
// after watchTime+watchGrace: with any API server in reach, nothing is known
// later than about 9 s. Past maxSilence none is in reach, and this replica
// refuses every agent rather than let a revoked one through (I9). What is known
// stays in force for however long: a revoked agent is never let in by an outage.
//
// It costs agents nothing that they had: without an API server there is nothing
// to reach. It bites where tipstaff alone is cut off from it.
const maxSilence = 15 * time.Second

// Revocations knows the cluster's Revocation objects, by a watch of its own.
type Revocations struct {
	watch *shortWatches
	log   *slog.Logger
	store revocationStore
	subs  subscribers
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
	// The API server's own priority and fairness is the limit.
	c.QPS = -1
	// A connection of its own that is closed with the watch on it. Over HTTP/2
	// client-go shares one connection among all of a process's clients and
	// finds a dead one after 45 s (30 s idle, then 15 s for a ping's answer;
	// apimachinery, net/http.go); a new watch would go onto the same dead one.
	c.NextProtos = []string{"http/1.1"}
	r := &Revocations{log: log, store: revocationStore{now: time.Now}}
	r.store.changed = r.subs.notify
	c.Wrap(func(rt http.RoundTripper) http.RoundTripper { return &hearing{rt, r.store.heardNow} })
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make a client for revocations: %w", err)
	}
	r.watch = &shortWatches{client: client, bound: watchTime + watchGrace}
	return r, nil
}

// Times between attempts to watch. They are short, since every agent is refused
// until the first list.
const (
	firstWatchRetry = 100 * time.Millisecond
	lastWatchRetry  = 2 * time.Second
)

// Run watches until ctx ends. While the API server or the CRD isn't there it
// tries again.
func (r *Revocations) Run(ctx context.Context) error {
	// client-go logs through klog's context.
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(r.log.Handler()))
	silence := make(chan struct{})
	go func() {
		defer close(silence)
		r.watchSilence(ctx)
	}()
	defer func() { <-silence }()

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

// watchSilence says when agents begin to be refused for silence, and when that
// ends. Whoever subscribed looks again then: what runs already is no exception.
func (r *Revocations) watchSilence(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for was := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		is := r.store.stale()
		if is == was {
			continue
		}
		was = is
		if is {
			r.log.ErrorContext(ctx, "revocations can't be followed: every agent is refused until they can", "silentFor", maxSilence)
		} else {
			r.log.InfoContext(ctx, "revocations are followed again")
		}
		r.subs.notify()
	}
}

// HasSynced reports whether the revocations are known: false before the first
// list, and while nothing has been heard for too long.
func (r *Revocations) HasSynced() bool { return r.store.hasSynced() && !r.store.stale() }

// Revoked reports whether a is revoked, and why; of several revocations the
// first by name says it. [ErrNotSynced] and [ErrStale] mean that it can't be
// known: refuse. It is asked on every request: it takes no memory, and the same
// time with ten revocations and with ten thousand.
func (r *Revocations) Revoked(a v1alpha1.Agent) (reason string, revoked bool, err error) {
	return r.store.revoked(a)
}

// Subscribe has f called soon after each change of what is revoked, or of
// whether that can be known; several changes may share one call. It isn't called
// when a revocation's time is over. f is never called concurrently with itself,
// and however long it takes, it holds up neither the watch nor other
// subscribers. After cancel has returned f is not called any more; f itself must
// not call it.
func (r *Revocations) Subscribe(f func()) (cancel func()) { return r.subs.add(f) }

// Collectors are the metrics.
func (r *Revocations) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tipstaff_revocations", Help: "Revocations in force.",
		}, func() float64 { return float64(r.store.inForce()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tipstaff_revocations_silence_seconds",
			Help: fmt.Sprintf("Time since the API server was last heard about revocations; past %s every agent is refused.", maxSilence),
		}, func() float64 { return r.store.silence().Seconds() }),
	}
}
