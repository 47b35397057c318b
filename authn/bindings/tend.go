package bindings

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// verdict is what is to be done about one binding.
type verdict struct {
	// remove is the reason to; empty means that it may stay.
	remove string
	// repair is what it should be; nil means that it is.
	repair *binding
	// again is how long it may stay from now on.
	again time.Duration
}

// judge says what is to be done about e. It looks at e, the configuration and
// the revocations only; what a grant's binding must give is reconcile's to say.
func (c *Controller) judge(e *entry, now time.Time) (verdict, error) {
	o := e.object
	if !e.ours() || o.DeletionTimestamp != nil {
		return verdict{}, nil
	}
	if e.expires.IsZero() || (e.run() != "") == (e.grant() != "") || o.RoleRef.Kind != "ClusterRole" {
		return verdict{remove: reasonMalformed}, nil
	}
	if !now.Before(e.expires) {
		return verdict{remove: reasonExpired}, nil
	}
	ac := v1alpha1.Access{ClusterRole: o.RoleRef.Name, Namespaces: []string{e.namespace}}
	if e.namespace == "" {
		ac.Namespaces = []string{v1alpha1.Everywhere}
	}
	if c.limits.Allows(ac) != nil {
		return verdict{remove: reasonNotAllowed}, nil
	}
	stays := verdict{again: e.expires.Sub(now)}
	if e.grant() != "" {
		return stays, nil
	}
	want := c.runBinding(e, ac)
	if want == nil {
		return verdict{remove: reasonMalformed}, nil
	}
	_, revoked, err := c.revoked.Revoked(*e.agent)
	if err != nil {
		return verdict{}, fmt.Errorf("check for revocations: %w", err)
	}
	if revoked {
		return verdict{remove: reasonRevoked}, nil
	}
	if !want.holds(e, e.expires) {
		stays.repair = want
	}
	return stays, nil
}

// runBinding is the binding that e says it is; nil when its parts disagree: the
// label and the name with the run that the annotation tells, the name with the role.
func (c *Controller) runBinding(e *entry, ac v1alpha1.Access) *binding {
	if e.agent == nil || e.agent.Issuer == "" || e.agent.Run == "" || e.agent.AccessKey == "" || e.run() != string(e.agent.Key()) {
		return nil
	}
	for _, ac.Path = range []v1alpha1.Path{v1alpha1.PathProxy, v1alpha1.PathDirect} {
		if b := forRun(*e.agent, []v1alpha1.Access{ac})[0]; b.key == e.key {
			return &b
		}
	}
	return nil
}

// tend does what is to be done about one binding. It returns when to look again;
// zero means at its next change.
func (c *Controller) tend(ctx context.Context, k key) (time.Duration, error) {
	e := c.view.get(k)
	if e == nil {
		return 0, nil
	}
	v, err := c.judge(e, c.now())
	switch {
	case err != nil:
		return 0, err
	case v.remove != "":
		if v.remove == reasonRevoked && e.run() != "" {
			// The last that tells by whom the run's grants are revoked too.
			if reason, revoked, err := c.revoked.Revoked(*e.agent); err == nil && revoked {
				c.endGrantsOf(*e.agent, reason)
			}
		}
		return 0, c.remove(ctx, e, v.remove)
	case v.repair != nil:
		if err := c.put(ctx, v.repair, e.expires, e.expires); err != nil && !errors.Is(err, errNoNamespace) {
			return 0, fmt.Errorf("put right: %w", err)
		}
	}
	return v.again, nil
}

// remove deletes exactly the version that was judged. One that somebody else
// changed or removed meanwhile is no error: its event has it looked at again.
func (c *Controller) remove(ctx context.Context, e *entry, reason string) error {
	o := e.object
	err := c.deleteObject(ctx, e.key, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &o.UID, ResourceVersion: &o.ResourceVersion},
	})
	switch {
	case err == nil:
		c.metrics.removed.WithLabelValues(kindOf(e.grant() != ""), reason).Inc()
		who := []any{"binding", e.String(), "clusterRole", o.RoleRef.Name, "reason", reason}
		if e.agent != nil {
			who = append(who, "issuer", e.agent.Issuer, "run", e.agent.Run)
		}
		c.log.InfoContext(ctx, "binding removed", who...)
		if len(o.Finalizers) > 0 {
			return nil // it is only marked: its event tells
		}
		c.view.removed(e.key, o.UID)
	case apierrors.IsNotFound(err):
		c.view.removed(e.key, o.UID)
	case apierrors.IsConflict(err):
	default:
		return fmt.Errorf("remove (%s): %w", reason, err)
	}
	return nil
}

// removeAll removes what of es is there, and goes on where one fails.
func (c *Controller) removeAll(ctx context.Context, es []*entry, reason string) error {
	var errs []error
	for _, e := range es {
		if e.object.DeletionTimestamp == nil {
			errs = append(errs, c.remove(ctx, e, reason))
		}
	}
	return errors.Join(errs...)
}

// sweepRevoked has everything looked at that a change of the revocations may end.
func (c *Controller) sweepRevoked(ctx context.Context) {
	for _, e := range c.view.all() {
		if !e.ours() || e.agent == nil {
			continue
		}
		reason, revoked, err := c.revoked.Revoked(*e.agent)
		if err != nil {
			c.log.WarnContext(ctx, "revocations are not known", "error", err)
			return // the next change calls again
		}
		if revoked {
			if e.run() != "" {
				c.endGrantsOf(*e.agent, reason)
			}
			c.queue.Add(item{binding: e.key})
		}
	}
	for _, obj := range c.grants.GetStore().List() {
		c.grantChanged(obj, false)
	}
}
