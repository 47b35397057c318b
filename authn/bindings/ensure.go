package bindings

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const (
	// makeTimeout bounds one run's making, whoever waits for it.
	makeTimeout = 8 * time.Second
	// parallel is how many bindings of one run are made at once.
	parallel = 8
	// absentRetry is when a run's missing namespace is tried again.
	absentRetry = time.Second
	// ensureAttempts bounds how often one caller starts over because the
	// bindings that were just made are gone or shorter than it needs.
	ensureAttempts = 4
	// writeAttempts bounds the conflicts that one write sits out. Each is
	// another replica's write of the same binding.
	writeAttempts = 8
)

// errNoNamespace says that a binding's namespace is missing or ending.
var errNoNamespace = errors.New("the namespace is missing or ending")

// Ensure returns nil once everything in access is bound to a's run until at
// least until, and the API server's authorizer applies it. It is called on every
// authentication, and answers from memory when nothing is to do.
//
// Tests: [ErrNotSynced], [ErrRevoked]. Any error refuses the token.
func (c *Controller) Ensure(ctx context.Context, a v1alpha1.Agent, access []v1alpha1.Access, until time.Time) error {
	if len(access) == 0 {
		return nil
	}
	began := time.Now()
	outcome, err := c.ensure(ctx, a, access, until)
	if err != nil {
		outcome = outcomeRefused
	}
	c.metrics.ensured(outcome, time.Since(began))
	return err
}

func (c *Controller) ensure(ctx context.Context, a v1alpha1.Agent, access []v1alpha1.Access, until time.Time) (string, error) {
	if !c.view.hasSynced() {
		return "", ErrNotSynced
	}
	if a.Issuer == "" || a.Run == "" {
		return "", errors.New("an agent without a run can't be bound")
	}
	if a.AccessKey == "" {
		return "", errors.New("an agent without an access key can't be bound")
	}
	if err := c.notRevoked(a); err != nil {
		return "", err
	}
	for _, ac := range access {
		if err := c.limits.Allows(ac); err != nil {
			return "", fmt.Errorf("the access can't be bound: %w", err)
		}
	}
	wanted := forRun(a, access)
	// A run gets new tokens all the time. One write for half of the grace is
	// enough, and until is covered at any moment.
	grace := c.limits.GraceOrDefault()
	need, expires := until.Add(grace/2), until.Add(grace)
	if !need.After(c.now()) {
		return "", errors.New("the token's time is over")
	}
	outcome, skipped := outcomeKnown, c.recentlyAbsent(wanted)
	for range ensureAttempts {
		if c.inForce(wanted, need, skipped) {
			// Once more: a revocation that came meanwhile has swept, or will see
			// what was made.
			return outcome, c.notRevoked(a)
		}
		outcome = outcomeMade
		done := c.making.DoChan(flight(wanted), func() (any, error) {
			// For everyone who waits, so not for this caller's time only.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTimeout)
			defer cancel()
			return c.make(ctx, wanted, need, expires)
		})
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the run's bindings: %w", ctx.Err())
		case r := <-done:
			// A revocation may be why it failed.
			if err := c.notRevoked(a); err != nil {
				return "", err
			}
			if r.Err != nil {
				return "", r.Err
			}
			skipped, _ = r.Val.(map[key]bool)
		}
	}
	return "", errors.New("the run's bindings are removed as fast as they are made")
}

// recentlyAbsent are those of wanted whose namespace was missing moments ago: a
// request each must not cost the API server a try each.
func (c *Controller) recentlyAbsent(wanted []binding) map[key]bool {
	var absent map[key]bool
	for i := range wanted {
		if _, ok := c.absent.Get(wanted[i].key); ok {
			if absent == nil {
				absent = map[key]bool{}
			}
			absent[wanted[i].key] = true
		}
	}
	return absent
}

// flight is what callers who want the same share: the run and its bindings.
func flight(wanted []binding) string {
	h := sha256.New()
	for i := range wanted {
		h.Write([]byte(wanted[i].String() + "\n"))
	}
	return string(h.Sum(nil))
}

func (c *Controller) notRevoked(a v1alpha1.Agent) error {
	_, revoked, err := c.revoked.Revoked(a)
	switch {
	case err != nil:
		return fmt.Errorf("check for revocations: %w", err)
	case revoked:
		return ErrRevoked
	}
	return nil
}

// inForce reports whether all that is wanted is known to be there and applied.
func (c *Controller) inForce(wanted []binding, need time.Time, skipped map[key]bool) bool {
	for i := range wanted {
		b := &wanted[i]
		have := c.view.get(b.key)
		if have == nil && skipped[b.key] {
			continue
		}
		if have == nil || !b.holds(have, need) || !have.proof.Load() {
			return false
		}
	}
	return true
}

// make makes what is wanted and waits until it is applied. It gives those that
// were left out because their namespace is missing or ending.
func (c *Controller) make(ctx context.Context, wanted []binding, need, expires time.Time) (map[key]bool, error) {
	var mu sync.Mutex
	skipped := map[key]bool{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i := range wanted {
		b := &wanted[i]
		g.Go(func() error {
			err := c.put(ctx, b, need, expires)
			kind := kindOf(b.grant != nil)
			switch {
			case errors.Is(err, errNoNamespace):
				c.metrics.made.WithLabelValues(kind, madeSkipped).Inc()
				c.log.WarnContext(ctx, "binding left out: its namespace is missing or ending",
					"binding", b.String(), "clusterRole", b.role, "issuer", b.agent.Issuer, "run", b.agent.Run)
				mu.Lock()
				skipped[b.key] = true
				mu.Unlock()
				c.absent.Add(b.key, nil, absentRetry)
				return nil
			case err != nil:
				c.metrics.made.WithLabelValues(kind, madeFailed).Inc()
				return fmt.Errorf("bind cluster role %s by %s: %w", b.role, b.String(), err)
			}
			return nil
		})
	}
	return skipped, g.Wait()
}

// put brings one binding to the API server as it should be, and proves it.
func (c *Controller) put(ctx context.Context, b *binding, need, expires time.Time) error {
	if err := c.checkDirect(ctx, b); err != nil {
		return err
	}
	for range writeAttempts {
		have := c.view.get(b.key)
		var err error
		switch {
		case have == nil:
			have, err = c.create(ctx, b, expires)
		case have.object.DeletionTimestamp != nil:
			return errors.New("it is being removed, and something holds it")
		case have.object.RoleRef != b.roleRef():
			// The reference of a binding never changes (Kubernetes, "Using RBAC
			// Authorization", RoleBinding): only another object can have the right one.
			if !have.ours() {
				// Nobody tells of objects without our label: look whether it is still there.
				if now, err := c.read(ctx, b.key); err != nil {
					return err
				} else if now == nil {
					continue
				}
				return errors.New("an object that is not ours has the name and binds another role")
			}
			err = c.remove(ctx, have, reasonReplaced)
			have = nil
		case !b.holds(have, need):
			have, err = c.update(ctx, b, have, expires)
		}
		if err != nil {
			return err
		}
		if have == nil || !b.holds(have, need) {
			continue // somebody else wrote: look again
		}
		return c.prove(ctx, b, have)
	}
	return errors.New("others change it all the time")
}

// create gives what then stands under the name; nil means look again.
func (c *Controller) create(ctx context.Context, b *binding, expires time.Time) (*entry, error) {
	o, err := c.createObject(ctx, b.object(expires))
	switch {
	case err == nil:
		c.metrics.made.WithLabelValues(kindOf(b.grant != nil), madeCreated).Inc()
		c.log.InfoContext(ctx, "binding made", "binding", b.String(), "clusterRole", b.role,
			"issuer", b.agent.Issuer, "run", b.agent.Run, "agent", b.agent.User, "until", o.Annotations[v1alpha1.AnnotationExpiresAt])
		return c.view.put(o), nil
	case apierrors.IsAlreadyExists(err):
		return c.read(ctx, b.key)
	case noNamespace(err):
		return nil, errNoNamespace
	}
	return nil, err
}

// update gives what then stands under the name; nil means look again.
func (c *Controller) update(ctx context.Context, b *binding, have *entry, expires time.Time) (*entry, error) {
	o, err := c.updateObject(ctx, b.repaired(have, expires))
	switch {
	case err == nil:
		c.metrics.made.WithLabelValues(kindOf(b.grant != nil), madeUpdated).Inc()
		c.log.InfoContext(ctx, "binding extended or put right", "binding", b.String(), "clusterRole", b.role,
			"issuer", b.agent.Issuer, "run", b.agent.Run, "until", o.Annotations[v1alpha1.AnnotationExpiresAt])
		return c.view.put(o), nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return c.read(ctx, b.key)
	}
	return nil, err
}

// read takes what stands under a name into the view; nil means nothing does.
func (c *Controller) read(ctx context.Context, k key) (*entry, error) {
	o, err := c.getObject(ctx, k)
	if apierrors.IsNotFound(err) {
		if have := c.view.get(k); have != nil {
			c.view.removed(k, have.object.UID)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c.view.put(o), nil
}

// noNamespace reports whether a creation failed because its namespace is
// missing or ending (apiserver v0.37, admission/plugin/namespace/lifecycle).
func noNamespace(err error) bool {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return true
	}
	var s apierrors.APIStatus
	return apierrors.IsNotFound(err) && errors.As(err, &s) && s.Status().Details != nil && s.Status().Details.Kind == "namespaces"
}

// The two kinds of binding, told apart by the namespace.

func (c *Controller) createObject(ctx context.Context, o *rbacv1.RoleBinding) (*rbacv1.RoleBinding, error) {
	if o.Namespace != "" {
		return c.rbac.RoleBindings(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
	}
	wide := rbacv1.ClusterRoleBinding(*o)
	return narrow(c.rbac.ClusterRoleBindings().Create(ctx, &wide, metav1.CreateOptions{}))
}

func (c *Controller) updateObject(ctx context.Context, o *rbacv1.RoleBinding) (*rbacv1.RoleBinding, error) {
	if o.Namespace != "" {
		return c.rbac.RoleBindings(o.Namespace).Update(ctx, o, metav1.UpdateOptions{})
	}
	wide := rbacv1.ClusterRoleBinding(*o)
	return narrow(c.rbac.ClusterRoleBindings().Update(ctx, &wide, metav1.UpdateOptions{}))
}

func (c *Controller) getObject(ctx context.Context, k key) (*rbacv1.RoleBinding, error) {
	if k.namespace != "" {
		return c.rbac.RoleBindings(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
	}
	return narrow(c.rbac.ClusterRoleBindings().Get(ctx, k.name, metav1.GetOptions{}))
}

func (c *Controller) deleteObject(ctx context.Context, k key, o metav1.DeleteOptions) error {
	if k.namespace != "" {
		return c.rbac.RoleBindings(k.namespace).Delete(ctx, k.name, o)
	}
	return c.rbac.ClusterRoleBindings().Delete(ctx, k.name, o)
}

func narrow(o *rbacv1.ClusterRoleBinding, err error) (*rbacv1.RoleBinding, error) {
	if err != nil {
		return nil, err
	}
	b := rbacv1.RoleBinding(*o)
	return &b, nil
}
