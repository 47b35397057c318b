package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// ProxyRole is the cluster role (in base/rbac.yaml) by which the proxy acts as agents.
const ProxyRole = "tipstaff-proxy"

// How the proxy may act as agents.
const (
	// ImpersonationConstrained is base/rbac.yaml's: API servers from 1.36 on.
	ImpersonationConstrained = "constrained"
	// ImpersonationLegacy is for API servers before 1.36. It bounds little.
	ImpersonationLegacy = "legacy"
)

const legacyNote = `# For API servers before 1.36 only. With the verb "impersonate" whoever holds
# Tipstaff's credential can be anybody but a service account, system:masters
# included: keep that credential as you keep a cluster admin's. It takes the
# place of the role of this name in base/rbac.yaml; apply it after that.
`

// ProxyRBAC is the cluster role by which the proxy acts as agents, in one of the
// two ways.
func ProxyRBAC(impersonation string) ([]byte, error) {
	role, err := constrainedRole()
	if err != nil {
		return nil, err
	}
	note := ""
	switch impersonation {
	case ImpersonationConstrained:
	case ImpersonationLegacy:
		role.Rules, note = legacyRules(role.Rules), legacyNote
	default:
		return nil, fmt.Errorf("impersonation %q: one of %s, %s", impersonation, ImpersonationConstrained, ImpersonationLegacy)
	}
	b, err := yaml.Marshal(role)
	if err != nil {
		return nil, fmt.Errorf("write the proxy's role: %w", err)
	}
	return append([]byte(note), b...), nil
}

// constrainedRole is base/rbac.yaml's.
func constrainedRole() (*rbacv1.ClusterRole, error) {
	objs, err := Objects(RBAC)
	if err != nil {
		return nil, fmt.Errorf("base/rbac.yaml: %w", err)
	}
	for _, raw := range objs {
		role := &rbacv1.ClusterRole{}
		if err := json.Unmarshal(raw, role); err == nil && role.Kind == "ClusterRole" && role.Name == ProxyRole {
			return role, nil
		}
	}
	return nil, errors.New("base/rbac.yaml has no cluster role " + ProxyRole)
}

// legacyRules allow the same by the old verb, which asks for users and groups in
// the core group, and knows nothing of what is done as them. No service accounts
// and no uids: no agent of the proxy has either.
func legacyRules(constrained []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	extras := rbacv1.PolicyRule{APIGroups: []string{"authentication.k8s.io"}, Verbs: []string{"impersonate"}}
	for _, r := range constrained {
		for _, res := range r.Resources {
			if strings.HasPrefix(res, "userextras/") && !slices.Contains(extras.Resources, res) {
				extras.Resources = append(extras.Resources, res)
			}
		}
	}
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"users", "groups"}, Verbs: []string{"impersonate"}},
		extras,
	}
}
