package bindings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const (
	// statusSpacing is how long after a write of its own a replica lets a grant
	// be: two replicas with different configurations (one is being replaced)
	// would otherwise write by turns as fast as they can. Removals never wait.
	statusSpacing = 2 * time.Second
	// namespaceRetry is when a grant's missing namespaces are tried again, and
	// roleRetry when a role is looked at again that could not be bound.
	namespaceRetry = 10 * time.Second
	roleRetry      = time.Minute
)

// standing says how g stands at now, and why it isn't active.
//
// Expired and Revoked are final: access that was taken back doesn't come back by
// itself when the revocation ends; somebody must grant it anew. Refused is not:
// a changed configuration may allow it.
func (c *Controller) standing(g *v1alpha1.Grant, now time.Time) (v1alpha1.GrantPhase, string, error) {
	if p := g.Status.Phase; p == v1alpha1.GrantExpired || p == v1alpha1.GrantRevoked {
		return p, g.Status.Message, nil
	}
	if !now.Before(c.end(g)) {
		if g.Status.Phase == v1alpha1.GrantRefused {
			return v1alpha1.GrantRefused, g.Status.Message, nil
		}
		if g.Spec.TTL.Duration > 0 {
			return v1alpha1.GrantExpired, "its time is over", nil
		}
	}
	if c.unguarded {
		return v1alpha1.GrantRefused, "the configuration has no section webhook: nobody holds what agents ask for, so no grant is taken to be approved", nil
	}
	if err := c.limits.AllowsGrant(g); err != nil {
		return v1alpha1.GrantRefused, err.Error(), nil
	}
	if why := c.noTarget(g); why != "" {
		return v1alpha1.GrantRefused, why, nil
	}
	reason, revoked, err := c.revoked.Revoked(targetOf(g))
	if err != nil {
		return "", "", fmt.Errorf("check for revocations: %w", err)
	}
	if !revoked {
		reason, revoked = c.ended(g)
	}
	if revoked {
		return v1alpha1.GrantRevoked, "revoked: " + reason, nil
	}
	return v1alpha1.GrantActive, "", nil
}

// noTarget says why nobody can be given g; empty when somebody can (I1).
func (c *Controller) noTarget(g *v1alpha1.Grant) string {
	a := g.Spec.Agent
	switch {
	case a == "" && (g.Spec.Run == "" || g.Spec.Issuer == ""):
		return "it names neither a run with its issuer nor an agent"
	case a == "" && g.Spec.Issuer == v1alpha1.IssuerKubernetes:
		return "a pod's service account has no group of its run: name it by its username, as agent"
	case a == "":
		return ""
	case g.Spec.Run != "" || g.Spec.Issuer != "":
		return "it names both a run and an agent"
	}
	if rest, ok := strings.CutPrefix(a, v1alpha1.UserPrefix); ok {
		if issuer, subject, ok := strings.Cut(rest, ":"); !ok || issuer == "" || subject == "" {
			return "the agent is not agent:<issuer>:<subject>"
		}
		return ""
	}
	rest, _ := strings.CutPrefix(a, v1alpha1.ServiceAccountPrefix)
	ns, name, ok := strings.Cut(rest, ":")
	if rest == a || !ok || ns == "" || name == "" ||
		!c.agents.IsAgent(a, []string{"system:serviceaccounts", "system:serviceaccounts:" + ns, "system:authenticated"}) {
		return "the agent is no agent's username: agent:<issuer>:<subject>, or a service account that counts as an agent"
	}
	if g.Spec.Path != v1alpha1.PathDirect {
		return "a service account does not come through the proxy: its path must be direct"
	}
	return ""
}

// end is when g ends, whatever it asks for.
func (c *Controller) end(g *v1alpha1.Grant) time.Time {
	return g.CreationTimestamp.Add(min(max(g.Spec.TTL.Duration, 0), c.limits.GrantBound()))
}

// endGrantsOf ends the grants of a's run too. A grant knows its run, not the
// run's owner or subject, by whom the run may be revoked; its bindings told.
func (c *Controller) endGrantsOf(a v1alpha1.Agent, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, obj := range c.grants.GetStore().List() {
		if g, ok := obj.(*v1alpha1.Grant); ok && g.Spec.Run == a.Run && g.Spec.Issuer == a.Issuer {
			c.ending[string(g.UID)] = reason
		}
	}
}

func (c *Controller) ended(g *v1alpha1.Grant) (reason string, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reason, ended = c.ending[string(g.UID)]
	return reason, ended
}

// forget drops what was kept of a grant that is gone.
func (c *Controller) forget(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.wrote, uid)
	delete(c.ending, uid)
}

// soon is how long a grant must still be let be before its next write.
func (c *Controller) soon(uid string, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.wrote[uid]; ok {
		return last.Add(statusSpacing).Sub(now)
	}
	return 0
}

// reconcile brings a grant's bindings and status to the truth. It returns when
// to look again; zero means at its next change.
func (c *Controller) reconcile(ctx context.Context, uid string) (time.Duration, error) {
	found, err := c.grants.GetIndexer().ByIndex(byUID, uid)
	if err != nil {
		return 0, err
	}
	if len(found) == 0 {
		// Not seen yet, or gone while nobody watched. The owner reference and
		// the expiry of its bindings end them.
		return 0, nil
	}
	g, ok := found[0].(*v1alpha1.Grant)
	if !ok || g.DeletionTimestamp != nil {
		return 0, nil
	}
	g = g.DeepCopy()
	now := c.now()
	phase, message, err := c.standing(g, now)
	if err != nil {
		return 0, err
	}

	var wanted []binding
	if phase == v1alpha1.GrantActive {
		wanted = forGrant(g)
	}
	spare := slices.DeleteFunc(c.view.of(uid), func(e *entry) bool {
		return among(wanted, e.key)
	})
	if err := c.removeAll(ctx, spare, removalOf(phase)); err != nil {
		return 0, err
	}

	ends := c.end(g)
	expires := metav1.NewTime(ends.Truncate(time.Second)) // as it is stored, or it would differ for ever
	over := ends                                          // of a final phase
	if phase == v1alpha1.GrantRevoked {
		if g.Status.Phase != phase {
			expires = metav1.NewTime(now.Truncate(time.Second))
		} else if g.Status.ExpiresAt != nil && g.Status.ExpiresAt.Time.Before(ends) {
			expires = *g.Status.ExpiresAt
		}
		over = expires.Time
	}
	if phase != v1alpha1.GrantActive {
		if gone := over.Add(c.limits.RetentionOrDefault()); !now.Before(gone) {
			return 0, c.removeGrant(ctx, g)
		}
	}
	status := v1alpha1.GrantStatus{Phase: phase, ExpiresAt: &expires, Message: message}
	inForce := c.inForce(wanted, ends, nil)
	if !inForce || !sameStatus(g.Status, status) {
		if wait := c.soon(uid, now); wait > 0 {
			return wait, nil
		}
	}

	var failed error
	next := time.Duration(0)
	if !inForce {
		making, cancel := context.WithTimeout(ctx, makeTimeout)
		defer cancel()
		var missing map[key]bool
		unmasked := (*unmaskedError)(nil)
		if missing, failed = c.make(making, wanted, ends, ends); errors.As(failed, &unmasked) {
			// Another role's rules may stand under the name tomorrow.
			status.Phase, status.Message, failed, next = v1alpha1.GrantRefused, unmasked.Error(), nil, roleRetry
		} else if failed != nil {
			// The cause is for our log; the person sees that it is not in force.
			status.Phase, status.Message = g.Status.Phase, "a binding could not be made yet: it is tried again"
		} else if len(missing) > 0 {
			status.Message, next = "missing namespaces: "+namespaces(missing), namespaceRetry
		}
	}
	if err := c.writeStatus(ctx, g, status); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	switch {
	case next > 0:
	case phase == v1alpha1.GrantActive:
		next = ends.Sub(now)
	default:
		next = over.Add(c.limits.RetentionOrDefault()).Sub(now)
	}
	return max(next, time.Millisecond), nil
}

func (c *Controller) writeStatus(ctx context.Context, g *v1alpha1.Grant, to v1alpha1.GrantStatus) error {
	if sameStatus(g.Status, to) {
		return nil
	}
	was := g.Status.Phase
	g.Status = to
	c.mu.Lock()
	c.wrote[string(g.UID)] = c.now()
	c.mu.Unlock()
	// The resourceVersion that was read goes with it: a write in between is a
	// conflict, and its event brings us back.
	err := c.tipstaff.Put().Resource("grants").Name(g.Name).SubResource("status").Body(g).Do(ctx).Error()
	switch {
	case err == nil && was != to.Phase:
		c.log.InfoContext(ctx, "grant changed", "grant", g.Name, "phase", to.Phase, "clusterRole", g.Spec.ClusterRole,
			"issuer", g.Spec.Issuer, "run", g.Spec.Run, "agent", g.Spec.Agent, "until", to.ExpiresAt)
	case err == nil, apierrors.IsConflict(err), apierrors.IsNotFound(err):
	case errors.Is(err, context.Canceled):
	default:
		return fmt.Errorf("write the grant's status: %w", err)
	}
	return nil
}

// removeGrant removes a grant that ended long enough ago.
func (c *Controller) removeGrant(ctx context.Context, g *v1alpha1.Grant) error {
	err := c.tipstaff.Delete().Resource("grants").Name(g.Name).Body(&metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &g.UID, ResourceVersion: &g.ResourceVersion},
	}).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove the grant: %w", err)
	}
	return nil
}

func sameStatus(a, b v1alpha1.GrantStatus) bool {
	return a.Phase == b.Phase && a.Message == b.Message && a.ExpiresAt != nil && b.ExpiresAt != nil && a.ExpiresAt.Equal(b.ExpiresAt)
}

func removalOf(p v1alpha1.GrantPhase) string {
	switch p {
	case v1alpha1.GrantExpired:
		return reasonExpired
	case v1alpha1.GrantRevoked:
		return reasonRevoked
	case v1alpha1.GrantRefused:
		return reasonRefused
	}
	return reasonMalformed // an active grant's that it doesn't ask for
}

func namespaces(of map[key]bool) string {
	names := make([]string, 0, len(of))
	for k := range of {
		names = append(names, k.namespace)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
