package approvals

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

// refuseAgentsGrant judges a grant that an agent asks for: it is for its own
// run, or for itself. That people approved it is the changes webhook's to see to.
func refuseAgentsGrant(c change, b Bounds) string {
	extra := make(map[string][]string, len(c.user.Extra))
	for k, v := range c.user.Extra {
		extra[k] = v
	}
	a, known := b.Agents.AgentOf(c.user.Username, c.user.Groups, extra)
	if !known || a.Run == "" || a.Issuer == "" {
		return "this identity names no run"
	}
	if why := refuseNewGrant(c.newGrant, b); why != "" {
		return why
	}
	spec := c.newGrant.Spec
	ownRun := spec.Run == a.Run && spec.Issuer == a.Issuer
	if !ownRun && spec.Agent != a.User {
		return "an agent asks for grants for itself only"
	}
	return ""
}

func refuseGrant(c change, b Bounds, isSelf bool) string {
	switch {
	case c.operation == "CREATE" && c.subresource == "":
		return refuseNewGrant(c.newGrant, b)
	case c.operation == "DELETE" && c.subresource == "":
		return "" // by RBAC: taking a grant away is always safe
	case c.operation == "UPDATE" && c.oldGrant != nil && c.newGrant != nil:
		if !apiequality.Semantic.DeepEqual(c.oldGrant.Spec, c.newGrant.Spec) {
			return "a grant's spec never changes"
		}
		if c.subresource == "status" {
			if !isSelf {
				return "a grant's status is set by tipstaff only"
			}
			return refuseIdentity(&c.oldGrant.ObjectMeta, &c.newGrant.ObjectMeta)
		}
		if c.subresource == "" {
			if !apiequality.Semantic.DeepEqual(c.oldGrant.Status, c.newGrant.Status) {
				return "status changes through its subresource only"
			}
			return refuseMetadataChange(&c.oldGrant.ObjectMeta, &c.newGrant.ObjectMeta)
		}
	}
	return "not a change that tipstaff knows"
}

func refuseRevocation(c change) string {
	switch {
	case c.subresource != "":
	case c.operation == "CREATE" && c.newRev != nil:
		return refuseMetadataChange(&metav1.ObjectMeta{Name: c.newRev.Name, UID: c.newRev.UID}, &c.newRev.ObjectMeta)
	case c.operation == "DELETE":
		return "" // by RBAC
	case c.operation == "UPDATE" && c.oldRev != nil && c.newRev != nil:
		if !apiequality.Semantic.DeepEqual(c.oldRev.Spec, c.newRev.Spec) {
			return "a revocation's spec never changes"
		}
		return refuseMetadataChange(&c.oldRev.ObjectMeta, &c.newRev.ObjectMeta)
	}
	return "not a change that tipstaff knows"
}

// refuseNewGrant judges a grant whoever creates it.
func refuseNewGrant(g *v1alpha1.Grant, b Bounds) string {
	if g == nil {
		return "no grant in the request"
	}
	if g.Status != (v1alpha1.GrantStatus{}) {
		return "a grant starts without a status"
	}
	if why := refuseMetadataChange(&metav1.ObjectMeta{Name: g.Name, UID: g.UID}, &g.ObjectMeta); why != "" {
		return why
	}
	if why := refuseGrantee(&g.Spec, b); why != "" {
		return why
	}
	limits := b.Access
	if limits == nil {
		limits = &access.Limits{}
	}
	if err := limits.AllowsGrant(g); err != nil {
		return fmt.Sprintf("the grant is not allowed: %v", err)
	}
	return ""
}

// refuseGrantee says why a grant's grantee can't be one: the binding would be
// for somebody else, or for nobody.
func refuseGrantee(s *v1alpha1.GrantSpec, b Bounds) string {
	if (s.Run == "") == (s.Agent == "") || (s.Run == "") != (s.Issuer == "") {
		return "a grant is for a run of an issuer, or for an agent"
	}
	if s.Run != "" {
		switch {
		case s.Issuer == v1alpha1.IssuerKubernetes:
			return "a service account is granted by spec.agent, its username: its token yields no group of the run"
		case len(validation.IsDNS1123Label(s.Issuer)) > 0:
			return "spec.issuer is no issuer's name"
		case strings.ContainsFunc(s.Run, notPlain):
			return "spec.run is no run's id"
		}
		return ""
	}
	if strings.ContainsFunc(s.Agent, notPlain) || !b.Agents.IsAgentName(s.Agent) {
		return "spec.agent is no agent's username"
	}
	if strings.HasPrefix(s.Agent, v1alpha1.ServiceAccountPrefix) && s.Path != v1alpha1.PathDirect {
		return "a service account doesn't come through the proxy: spec.path must be direct"
	}
	return ""
}

// notPlain tells what is in no name that a token yields: those are printable
// ASCII without spaces.
func notPlain(r rune) bool { return r <= ' ' || r > '~' }

// refuseIdentity keeps an object the one that it was.
func refuseIdentity(was, is *metav1.ObjectMeta) string {
	if was.Name != is.Name || was.UID != is.UID {
		return "the object's identity never changes"
	}
	return ""
}

// refuseMetadataChange keeps out of the metadata what makes somebody else act
// on the object: the marks that are tipstaff's own, owners with whom the
// garbage collector would remove it, and finalizers that would keep it.
// Finalizers may go.
func refuseMetadataChange(was, is *metav1.ObjectMeta) string {
	if why := refuseIdentity(was, is); why != "" {
		return why
	}
	if !maps.Equal(ownKeys(was.Labels), ownKeys(is.Labels)) || !maps.Equal(ownKeys(was.Annotations), ownKeys(is.Annotations)) {
		return fmt.Sprintf("labels and annotations of %s are tipstaff's own", v1alpha1.Group)
	}
	if !apiequality.Semantic.DeepEqual(was.OwnerReferences, is.OwnerReferences) {
		return "ownerReferences are not for objects of tipstaff"
	}
	for _, f := range is.Finalizers {
		if !slices.Contains(was.Finalizers, f) {
			return "finalizers are not for objects of tipstaff"
		}
	}
	return ""
}

// ownKeys are those entries that tipstaff reads or sets.
func ownKeys(m map[string]string) map[string]string {
	own := map[string]string{}
	for k, v := range m {
		prefix, _, _ := strings.Cut(k, "/")
		if prefix == v1alpha1.Group || strings.HasSuffix(prefix, "."+v1alpha1.Group) || k == v1alpha1.LabelManagedBy && v == v1alpha1.ManagedBy {
			own[k] = v
		}
	}
	return own
}
