package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/library"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// The variables that the cluster is asked for, as Kubernetes' admission policies
// name them.
const (
	varNamespace       = plugincel.NamespaceVarName
	varAuthorizer      = plugincel.AuthorizerVarName
	varRequestResource = plugincel.RequestResourceAuthorizerVarName
)

// accessTTL is how long the API server's answer on what somebody may do is
// kept, either way: what is taken from them still counts that long in rules.
// The API server's own default for servers that delegate to it.
const accessTTL = 10 * time.Second

// askAgain is for an API server that is too busy to answer; the review's own
// deadline ends it sooner.
var askAgain = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 3}

// Cluster answers what rules read beside the request: the namespace that it is
// in, and what its user may do. What it can't answer is an error of the
// expression that asked.
type Cluster struct {
	namespaces kubernetes.Interface
	informer   cache.SharedIndexInformer // nil where no rule reads namespaces
	authorizer authorizer.Authorizer     // nil where none asks what somebody may do
	log        *slog.Logger
}

// Connect lets the rules ask the API server that kube names for what they read of
// it. It gives nil where they read nothing. It opens no connection, and comes
// before serving.
func (w *Webhook) Connect(kube *rest.Config) (*Cluster, error) {
	reads := w.rules.reads
	asks := reads[varAuthorizer] || reads[varRequestResource]
	if !asks && !reads[varNamespace] {
		return nil, nil
	}
	kube.QPS, kube.RateLimiter = -1, nil // reviews wait for it; what rules may cost bounds how often one asks
	client, err := kubernetes.NewForConfig(kube)
	if err != nil {
		return nil, fmt.Errorf("reach the API server for rules: %w", err)
	}
	c := &Cluster{log: w.log}
	if reads[varNamespace] {
		if err := c.watchNamespaces(client); err != nil {
			return nil, err
		}
	}
	if asks {
		c.authorizer, err = authorizerfactory.DelegatingAuthorizerConfig{
			SubjectAccessReviewClient: client.AuthorizationV1(),
			AllowCacheTTL:             accessTTL, DenyCacheTTL: accessTTL, WebhookRetryBackoff: &askAgain,
		}.New()
		if err != nil {
			return nil, fmt.Errorf("make the authorizer of rules: %w", err)
		}
	}
	w.rules.cluster = c
	return c, nil
}

func (c *Cluster) watchNamespaces(client kubernetes.Interface) error {
	c.namespaces = client
	c.informer = coreinformers.NewNamespaceInformer(client, 0, nil)
	if err := c.informer.SetTransform(func(obj any) (any, error) {
		if ns, ok := obj.(*corev1.Namespace); ok {
			return plugincel.CreateNamespaceObject(ns), nil
		}
		return obj, nil
	}); err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	if err := c.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		c.log.WarnContext(ctx, "watch of namespaces broke, trying again", "error", err)
	}); err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	return nil
}

// Run follows the namespaces until ctx is done. An API server that is away is
// waited for.
func (c *Cluster) Run(ctx context.Context) error {
	if c.informer == nil {
		<-ctx.Done()
		return nil
	}
	c.informer.RunWithContext(ctx)
	return nil
}

// HasSynced reports whether the namespaces that there are have been seen.
func (c *Cluster) HasSynced() bool { return c.informer == nil || c.informer.HasSynced() }

// namespace is the namespace of that name. One that isn't known is asked for:
// it may be a moment old.
func (c *Cluster) namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	if obj, ok, err := c.informer.GetStore().GetByKey(name); err == nil && ok {
		if ns, ok := obj.(*corev1.Namespace); ok {
			return ns, nil
		}
	}
	ns, err := c.namespaces.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get namespace: %w", err)
	}
	return plugincel.CreateNamespaceObject(ns), nil
}

// errNoCluster is why an expression that asks the cluster fails in a trial.
var errNoCluster = errors.New("can't be known here: only the webhook itself asks the cluster")

// namespaceVar is the variable namespaceObject: null where the request is in no
// namespace, or is about a namespace, as in Kubernetes' admission policies.
func (e *evaluation) namespaceVar() (any, error) {
	req := e.r.req
	if req.Namespace == "" || req.Kind.Group == "" && req.Kind.Version == "v1" && req.Kind.Kind == "Namespace" {
		return nil, nil
	}
	if e.cluster == nil || e.cluster.informer == nil {
		return nil, errNoCluster
	}
	ns, err := e.cluster.namespace(e.ctx, req.Namespace)
	if err != nil {
		e.cluster.log.WarnContext(e.ctx, "rules can't see the request's namespace", "error", err)
		return nil, err
	}
	return common.SchemalessTypedToVal(ns), nil
}

// authorizerVar is the variable authorizer, or authorizer.requestResource.
func (e *evaluation) authorizerVar(name string) (any, error) {
	if e.cluster == nil || e.cluster.authorizer == nil {
		return nil, errNoCluster
	}
	of := e.r.req.UserInfo
	extra := make(map[string][]string, len(of.Extra))
	for k, v := range of.Extra {
		extra[k] = v
	}
	who := &user.DefaultInfo{Name: of.Username, UID: of.UID, Groups: of.Groups, Extra: extra}
	if name == varRequestResource {
		return library.NewResourceAuthorizerVal(who, asking{e}, requested{e.r}), nil
	}
	return library.NewAuthorizerVal(who, asking{e}), nil
}

// asking is the authorizer of one review: it answers within the review's time,
// and what it can't answer fails the expression. The library alone would take an
// error for a no, by which a rule on what somebody may do would not match.
type asking struct{ e *evaluation }

func (a asking) Authorize(_ context.Context, attr authorizer.Attributes) (authorizer.Decision, string, error) {
	decision, reason, err := a.e.cluster.authorizer.Authorize(a.e.ctx, attr)
	if err != nil {
		a.e.cluster.log.WarnContext(a.e.ctx, "rules can't ask what a user may do", "error", err)
		a.e.unanswered = fmt.Errorf("ask what the user may do: %w", err)
	}
	return decision, reason, err
}

// requested is what the request itself is about.
type requested struct{ r *review }

func (q requested) GetName() string      { return q.r.req.Name }
func (q requested) GetNamespace() string { return q.r.req.Namespace }

func (q requested) GetResource() schema.GroupVersionResource {
	_, resource, _ := q.r.requested()
	return schema.GroupVersionResource{Group: resource.Group, Version: resource.Version, Resource: resource.Resource}
}

func (q requested) GetSubresource() string {
	_, _, sub := q.r.requested()
	return sub
}
