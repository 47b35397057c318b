package bindings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	authorizationv1client "k8s.io/client-go/kubernetes/typed/authorization/v1"
	rbacv1client "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// Errors of Ensure that callers may test for.
var (
	// ErrNotSynced says that the bindings aren't known yet. Refuse.
	ErrNotSynced = errors.New("bindings are not known yet")
	// ErrRevoked says that the run is revoked, now or while its bindings were made.
	ErrRevoked = errors.New("the run is revoked")
)

// Revoked knows who is revoked. An error of Revoked means that it isn't known:
// nothing is made then, and nothing is removed for it. Subscribe's f is called
// after each change.
type Revoked interface {
	Revoked(a v1alpha1.Agent) (reason string, revoked bool, err error)
	Subscribe(f func()) (cancel func())
}

// maxAbsent bounds how many missing namespaces' bindings are remembered.
const maxAbsent = 4096

// Controller keeps the bindings of runs and of Grants.
type Controller struct {
	limits  access.Limits
	agents  *clusteragents.Config
	revoked Revoked
	log     *slog.Logger
	now     func() time.Time
	// masked are resources that aren't given on the direct path.
	masked    []string
	unguarded bool // no grant proves an approval

	rbac     rbacv1client.RbacV1Interface
	reviews  authorizationv1client.SubjectAccessReviewInterface
	tipstaff rest.Interface // Grants

	view    *view
	grants  cache.SharedIndexInformer
	queue   workqueue.TypedRateLimitingInterface[item]
	making  singleflight.Group
	rules   ruleCache
	absent  *utilcache.LRUExpireCache // keys of bindings whose namespace is missing
	metrics *metrics

	mu     sync.Mutex
	wrote  map[string]time.Time // by grant uid: when its status was last written
	ending map[string]string    // by grant uid: why its run is revoked
}

// item is one thing to look at: a binding, or a grant by its uid.
type item struct {
	binding key
	grant   string
	// over says that the grant is known to be deleted.
	over bool
}

// Mask names the resources, of any group, that are masked by their fields beside
// what is so in every cluster: none is given on the direct path (I7). It is
// called before Run.
func (c *Controller) Mask(resources ...string) { c.masked = resources }

// Unguarded says that no admission webhook holds the grants that agents ask for:
// that one exists proves no approval then, and none is given (I2). It is called
// before Run.
func (c *Controller) Unguarded() { c.unguarded = true }

// New makes a Controller on the API server of cfg. It asks nothing yet: Run
// does, and until it has, Ensure refuses. agents may be nil.
func New(cfg *rest.Config, limits access.Limits, agents *clusteragents.Config, revoked Revoked, log *slog.Logger) (*Controller, error) {
	// Many runs may come at once, and each waits for its bindings: the API
	// server's own fairness bounds us, not a client-side limit of 5 a second.
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.RateLimiter = -1, nil
	hc, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client for bindings: %w", err)
	}
	builtin := rest.CopyConfig(cfg)
	builtin.ContentType = runtime.ContentTypeProtobuf
	builtin.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	rbac, err := rbacv1client.NewForConfigAndClient(builtin, hc)
	if err != nil {
		return nil, fmt.Errorf("make a client for bindings: %w", err)
	}
	reviews, err := authorizationv1client.NewForConfigAndClient(builtin, hc)
	if err != nil {
		return nil, fmt.Errorf("make a client for access reviews: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register tipstaff's types: %w", err)
	}
	own, gv := rest.CopyConfig(cfg), v1alpha1.GroupVersion
	own.GroupVersion, own.APIPath = &gv, "/apis"
	own.ContentType, own.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	grants, err := rest.RESTClientForConfigAndClient(own, hc)
	if err != nil {
		return nil, fmt.Errorf("make a client for grants: %w", err)
	}
	c := &Controller{
		absent: utilcache.NewLRUExpireCache(maxAbsent),
		limits: limits, agents: agents, revoked: revoked, log: log, now: time.Now,
		rbac: rbac, reviews: reviews.SubjectAccessReviews(), tipstaff: grants,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[item](firstRetry, lastRetry)),
		wrote: map[string]time.Time{}, ending: map[string]string{},
	}
	c.view = newView(c.changed)
	c.metrics = newMetrics(c.view)
	return c, c.watchGrants()
}

// Times between attempts, at one object and at a watch. They are short: agents
// are refused, or keep what they shouldn't, until one succeeds.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 10 * time.Second

	firstWatchRetry = 100 * time.Millisecond
	lastWatchRetry  = 2 * time.Second
)

// workers is how many objects are looked at at once: a revocation of a whole
// issuer may end a thousand bindings, and each removal takes a few milliseconds.
const workers = 8

// HasSynced reports whether the bindings and the grants are known.
func (c *Controller) HasSynced() bool { return c.view.hasSynced() && c.grants.HasSynced() }

// Run watches, removes what is over and puts Grants in force, until ctx is
// done. An API server that is away, or lacks the CRD, is waited for: Run never
// ends because of it.
func (c *Controller) Run(ctx context.Context) error {
	// client-go logs through klog's context.
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(c.log.Handler()))
	revoked := make(chan struct{}, 1)
	defer c.revoked.Subscribe(func() {
		select {
		case revoked <- struct{}{}:
		default: // the sweep that is due will see this change too
		}
	})()

	ours := labels.SelectorFromSet(labels.Set{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}).String()
	var group wait.Group
	group.StartWithContext(ctx, func(ctx context.Context) {
		c.watch(ctx, "rolebindings", &rbacv1.RoleBinding{}, feed{view: c.view}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = ours
				return c.rbac.RoleBindings("").List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = ours
				return c.rbac.RoleBindings("").Watch(ctx, o)
			},
		})
	})
	group.StartWithContext(ctx, func(ctx context.Context) {
		c.watch(ctx, "clusterrolebindings", &rbacv1.ClusterRoleBinding{}, feed{view: c.view, wide: true}, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = ours
				return c.rbac.ClusterRoleBindings().List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = ours
				return c.rbac.ClusterRoleBindings().Watch(ctx, o)
			},
		})
	})
	group.StartWithContext(ctx, c.grants.RunWithContext)
	group.StartWithContext(ctx, func(ctx context.Context) {
		for {
			select {
			case <-ctx.Done():
				return
			case <-revoked:
				c.sweepRevoked(ctx)
			}
		}
	})
	for range workers {
		group.StartWithContext(ctx, func(ctx context.Context) {
			// Nothing is judged on half of what there is.
			if !cache.WaitForCacheSync(ctx.Done(), c.view.hasSynced) {
				return
			}
			for c.work(ctx) {
			}
		})
	}
	<-ctx.Done()
	c.queue.ShutDown()
	group.Wait()
	return nil
}

// watch feeds a view until ctx ends. What was known stays known while the API
// server is away.
func (c *Controller) watch(ctx context.Context, what string, of runtime.Object, to cache.ReflectorStore, lw *cache.ListWatch) {
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, c.rbac), of, to, cache.ReflectorOptions{Name: what})
	// A loop of our own instead of the reflector's: that one backs off to 30 s.
	for retry := firstWatchRetry; ; {
		began := time.Now()
		err := r.ListAndWatchWithContext(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*lastWatchRetry {
			retry = firstWatchRetry
		}
		if err != nil {
			c.log.WarnContext(ctx, "bindings cannot be watched", "resource", what, "error", err, "known", c.view.hasSynced(), "retryIn", retry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
		retry = min(2*retry, lastWatchRetry)
	}
}

// byUID is the index of grants by uid.
const byUID = "uid"

func (c *Controller) watchGrants() error {
	c.grants = cache.NewSharedIndexInformer(
		cache.NewListWatchFromClient(c.tipstaff, "grants", "", fields.Everything()), &v1alpha1.Grant{}, 0,
		cache.Indexers{byUID: func(obj any) ([]string, error) {
			g, ok := obj.(*v1alpha1.Grant)
			if !ok {
				return nil, fmt.Errorf("the watch of grants gave a %T", obj)
			}
			return []string{string(g.UID)}, nil
		}})
	if _, err := c.grants.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.grantChanged(obj, false) },
		UpdateFunc: func(_, obj any) { c.grantChanged(obj, false) },
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			c.grantChanged(obj, true)
		},
	}); err != nil {
		return fmt.Errorf("watch grants: %w", err)
	}
	err := c.grants.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		c.log.WarnContext(ctx, "watch of grants broke, trying again", "error", err)
	})
	if err != nil {
		return fmt.Errorf("watch grants: %w", err)
	}
	return nil
}

func (c *Controller) grantChanged(obj any, over bool) {
	if g, ok := obj.(*v1alpha1.Grant); ok {
		c.queue.Add(item{grant: string(g.UID), over: over})
	}
}

// changed has a binding looked at that came, changed or went, and the grant
// that it is of.
func (c *Controller) changed(e *entry) {
	if !e.ours() {
		return
	}
	c.queue.Add(item{binding: e.key})
	if uid := e.grant(); uid != "" {
		c.queue.Add(item{grant: uid})
	}
}

// work looks at one item; false means that the queue is shut.
func (c *Controller) work(ctx context.Context) bool {
	it, shut := c.queue.Get()
	if shut {
		return false
	}
	defer c.queue.Done(it)
	var again time.Duration
	var err error
	switch {
	case it.over:
		err = c.removeAll(ctx, c.view.of(it.grant), reasonDeleted)
		c.forget(it.grant)
	case it.grant != "":
		again, err = c.reconcile(ctx, it.grant)
	default:
		again, err = c.tend(ctx, it.binding)
	}
	switch {
	case err != nil && ctx.Err() == nil:
		c.log.WarnContext(ctx, "binding or grant could not be kept up to date, trying again", "binding", it.binding.String(), "grant", it.grant, "error", err)
		c.queue.AddRateLimited(it)
	case again > 0:
		c.queue.Forget(it)
		c.queue.AddAfter(it, again)
	default:
		c.queue.Forget(it)
	}
	return true
}

// Collectors are the controller's metrics.
func (c *Controller) Collectors() []prometheus.Collector { return c.metrics.collectors() }
