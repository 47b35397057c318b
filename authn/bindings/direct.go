package bindings

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// unmaskedError says that a role can't be bound on the direct path. It may be
// told to whoever asked.
type unmaskedError struct{ role, why string }

func (e *unmaskedError) Error() string {
	return fmt.Sprintf("cluster role %s %s: bind it through the proxy only", e.role, e.why)
}

// checkDirect refuses b where its role gives, on the direct path, what only the
// proxy may carry (I7). It looks at the role as it is now; what a role becomes
// later is for `tipstaff doctor` to find.
func (c *Controller) checkDirect(ctx context.Context, b *binding) error {
	if !b.direct {
		return nil
	}
	rules, err := c.roleRules(ctx, b.role)
	if err != nil {
		return err
	}
	if why := unmasked(rules, c.masked); why != "" {
		return &unmaskedError{role: b.role, why: why}
	}
	return nil
}

// roleRules are a cluster role's rules; none where it is missing.
func (c *Controller) roleRules(ctx context.Context, role string) ([]rbacv1.PolicyRule, error) {
	return c.rules.read(ctx, role, func(ctx context.Context) ([]rbacv1.PolicyRule, error) {
		r, err := c.rbac.ClusterRoles().Get(ctx, role, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the role: %w", err)
		}
		return r.Rules, nil
	})
}

// unmasked says what rules give that may not be had on the direct path; empty
// when that is nothing. Any verb on Secrets counts: an empty patch answers with
// the whole object. So it does on the resources of masked, of any group. To
// impersonate is to stop being an agent, and no admission webhook sees it.
func unmasked(rules []rbacv1.PolicyRule, masked []string) string {
	for _, r := range rules {
		if len(r.Verbs) == 0 {
			continue
		}
		core := slices.Contains(r.APIGroups, "") || slices.Contains(r.APIGroups, "*")
		if core && (slices.Contains(r.Resources, "secrets") || slices.Contains(r.Resources, "*")) {
			return "covers secrets, which nothing masks on the direct path"
		}
		if core && slices.ContainsFunc(r.Resources, func(res string) bool {
			return res == "*/*" || strings.HasSuffix(res, "/proxy") || res == "serviceaccounts/token" || res == "*/token"
		}) {
			return "covers proxy or token subresources, which lead round Tipstaff to secrets and other identities"
		}
		if (slices.Contains(r.APIGroups, "certificates.k8s.io") || slices.Contains(r.APIGroups, "*")) && slices.Contains(r.Resources, "certificatesigningrequests") {
			return "covers certificatesigningrequests, which nothing masks on the direct path"
		}
		for _, m := range masked {
			if slices.ContainsFunc(r.Resources, func(res string) bool { return res == "*" || res == m || strings.HasPrefix(res, m+"/") }) {
				return fmt.Sprintf("covers %s, which the configuration masks, but nothing on the direct path", m)
			}
		}
		impersonates := slices.ContainsFunc(r.Verbs, func(v string) bool { return v == "*" || strings.HasPrefix(v, "impersonate") })
		identities := core && slices.ContainsFunc(r.Resources, func(res string) bool {
			return res == "users" || res == "groups" || res == "serviceaccounts"
		}) || slices.Contains(r.APIGroups, "authentication.k8s.io") || slices.Contains(r.APIGroups, "*")
		if impersonates && identities {
			return "allows to impersonate, which makes of an agent somebody else"
		}
	}
	return ""
}
