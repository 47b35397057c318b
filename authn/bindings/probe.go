package bindings

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// proofTimeout bounds the wait for the authorizer, which learns of a binding
	// by a watch of its own, milliseconds later as a rule.
	proofTimeout = 3 * time.Second
	// roleFreshness is for how long a role's rules are asked about without
	// reading the role again.
	roleFreshness = 200 * time.Millisecond
)

// proveDelays are the pauses between two questions.
var proveDelays = wait.Backoff{Duration: 2 * time.Millisecond, Factor: 2, Cap: 100 * time.Millisecond, Steps: 20, Jitter: 0.1}

// prove returns once the authorizer applies b, as it stands in have.
func (c *Controller) prove(ctx context.Context, b *binding, have *entry) error {
	if have.proof.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	err := proveDelays.DelayFunc().Until(ctx, true, false, func(ctx context.Context) (bool, error) {
		if now := c.view.get(b.key); now == nil || !now.gives(have) {
			return false, errors.New("it was removed or changed meanwhile")
		}
		rules, err := c.roleRules(ctx, b.role)
		if err != nil {
			return false, err
		}
		spec, ok := question(rules, b.namespace)
		if !ok {
			c.log.WarnContext(ctx, "binding gives nothing: its role is missing or has no rule that holds there",
				"binding", b.String(), "clusterRole", b.role)
			return true, nil
		}
		spec.Groups = []string{b.probeGroup()}
		r, err := c.reviews.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("ask whether it is in force: %w", err)
		}
		return r.Status.Allowed, nil
	})
	if errors.Is(err, context.DeadlineExceeded) || wait.Interrupted(err) {
		return fmt.Errorf("the API server's authorizer was not seen to apply it within %s", proofTimeout)
	}
	if err != nil {
		return err
	}
	have.proof.Store(true)
	return nil
}

// question is one request that rules allow in namespace (empty: anywhere). False
// means that they allow none. It follows what RBAC's authorizer matches
// (k8s.io/kubernetes v1.37, pkg/apis/rbac/v1/evaluation_helpers.go).
func question(rules []rbacv1.PolicyRule, namespace string) (authorizationv1.SubjectAccessReviewSpec, bool) {
	first := func(of []string, any string) string {
		if of[0] == "*" {
			return any
		}
		return of[0]
	}
	for _, r := range rules {
		if len(r.Verbs) == 0 {
			continue
		}
		verb := first(r.Verbs, "get")
		if len(r.Resources) > 0 && len(r.APIGroups) > 0 {
			resource, sub, _ := strings.Cut(first(r.Resources, "pods"), "/")
			if resource == "*" { // */scale: that subresource of anything
				resource = "pods"
			}
			at := &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: verb, Group: first(r.APIGroups, ""), Resource: resource, Subresource: sub,
			}
			if len(r.ResourceNames) > 0 {
				at.Name = r.ResourceNames[0]
			}
			return authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: at}, true
		}
		// A RoleBinding gives no path: paths are of no namespace.
		if len(r.NonResourceURLs) > 0 && namespace == "" {
			path := strings.TrimRight(r.NonResourceURLs[0], "*")
			if path == "" {
				path = "/"
			}
			return authorizationv1.SubjectAccessReviewSpec{
				NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: verb},
			}, true
		}
	}
	return authorizationv1.SubjectAccessReviewSpec{}, false
}

// ruleCache spares fifty runs that arrive at once fifty reads of one role.
type ruleCache struct {
	mu    sync.Mutex
	roles map[string]cachedRules
}

type cachedRules struct {
	rules []rbacv1.PolicyRule
	until time.Time
}

func (c *ruleCache) read(ctx context.Context, role string, read func(context.Context) ([]rbacv1.PolicyRule, error)) ([]rbacv1.PolicyRule, error) {
	c.mu.Lock()
	known, ok := c.roles[role]
	c.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.rules, nil
	}
	rules, err := read(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roles == nil {
		c.roles = map[string]cachedRules{}
	}
	// Roles are those of the configuration: the map stays small.
	c.roles[role] = cachedRules{rules: rules, until: time.Now().Add(roleFreshness)}
	return rules, nil
}
