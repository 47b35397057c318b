package bindings

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// key names one binding. An empty namespace means a ClusterRoleBinding.
type key struct{ namespace, name string }

// String is unique among all bindings.
func (k key) String() string {
	if k.namespace == "" {
		return v1alpha1.Everywhere + "/" + k.name
	}
	return k.namespace + "/" + k.name
}

// probeGroup is the group that only this binding names and nobody is in.
func (k key) probeGroup() string { return v1alpha1.GroupBindingPrefix + k.String() }

// isProbe reports whether s is the probe group. It is asked on every review,
// and makes no string.
func (k key) isProbe(s rbacv1.Subject) bool {
	rest, ok := strings.CutPrefix(s.Name, v1alpha1.GroupBindingPrefix)
	ns, name, cut := strings.Cut(rest, "/")
	if k.namespace == "" && ns == v1alpha1.Everywhere {
		ns = ""
	} else if k.namespace == "" {
		return false
	}
	s.Name = ""
	return ok && cut && ns == k.namespace && name == k.name && s == group("")
}

// binding is one that should be there.
type binding struct {
	key
	role    string
	subject rbacv1.Subject
	// label is LabelRunKey or LabelGrant, and owner its value.
	label, owner string
	agent        *v1alpha1.Agent
	direct       bool // holds on the direct path
	// grant makes the binding go with its Grant; nil for a run's.
	grant *metav1.OwnerReference
}

// forRun are the bindings of a's run, for those who carry a's access key: another
// agent of the run, or one with another profile, is another's. Every access must
// have been allowed.
func forRun(a v1alpha1.Agent, access []v1alpha1.Access) []binding {
	owner, n := string(a.Key()), 0
	for i := range access {
		n += len(access[i].Namespaces)
	}
	out := make([]binding, 0, n) // for every review: no growing
	for _, ac := range access {
		out = add(out, ac, binding{
			key:  key{name: "tipstaff-run-" + owner + "-" + digest(ac, a.AccessKey)},
			role: ac.ClusterRole, subject: group(accessGroup(a, ac.Path)),
			label: v1alpha1.LabelRunKey, owner: owner, agent: &a, direct: ac.Path == v1alpha1.PathDirect,
		})
	}
	return out
}

// forGrant are the bindings of g, which must have been allowed.
func forGrant(g *v1alpha1.Grant) []binding {
	a, ac, owner := targetOf(g), g.Access(), string(g.UID)
	b := binding{
		key:  key{name: "tipstaff-grant-" + owner + "-" + digest(ac, "")},
		role: ac.ClusterRole, label: v1alpha1.LabelGrant, owner: owner, agent: &a, direct: ac.Path == v1alpha1.PathDirect,
		grant: &metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Grant", Name: g.Name, UID: g.UID},
	}
	switch {
	case g.Spec.Agent == "":
		b.subject = group(runGroup(a, ac.Path))
	case ac.Path == v1alpha1.PathDirect:
		b.subject = rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: g.Spec.Agent}
	default:
		b.subject = group(v1alpha1.GroupProxiedAgentPrefix + g.Spec.Agent)
	}
	return add(nil, ac, b)
}

// add adds b once for each namespace of ac.
func add(to []binding, ac v1alpha1.Access, b binding) []binding {
	for _, ns := range ac.Namespaces {
		b.namespace = ns
		if ns == v1alpha1.Everywhere {
			b.namespace = ""
		}
		if !among(to, b.key) {
			to = append(to, b)
		}
	}
	return to
}

func among(bs []binding, k key) bool {
	for i := range bs {
		if bs[i].key == k {
			return true
		}
	}
	return false
}

// targetOf is who gets g, as far as g says it.
func targetOf(g *v1alpha1.Grant) v1alpha1.Agent {
	if g.Spec.Agent == "" {
		return v1alpha1.Agent{Issuer: g.Spec.Issuer, Run: g.Spec.Run}
	}
	a := v1alpha1.Agent{User: g.Spec.Agent, Issuer: v1alpha1.IssuerKubernetes}
	if rest, ok := strings.CutPrefix(a.User, v1alpha1.UserPrefix); ok {
		a.Issuer, _, _ = strings.Cut(rest, ":")
	}
	return a
}

func accessGroup(a v1alpha1.Agent, p v1alpha1.Path) string {
	if p == v1alpha1.PathDirect {
		return v1alpha1.GroupAccessPrefix + a.AccessKey
	}
	return v1alpha1.GroupProxiedAccessPrefix + a.AccessKey
}

func runGroup(a v1alpha1.Agent, p v1alpha1.Path) string {
	if p == v1alpha1.PathDirect {
		return v1alpha1.RunGroup(a.Issuer, a.Run)
	}
	return v1alpha1.GroupProxiedRunPrefix + a.Issuer + ":" + a.Run
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
}

// digest tells apart what one run or grant may hold in one namespace, and those
// of one run who hold it.
func digest(ac v1alpha1.Access, accessKey string) string {
	p := ac.Path
	if p == "" {
		p = v1alpha1.PathProxy
	}
	sum := sha256.Sum256([]byte(string(p) + "\x00" + ac.ClusterRole + "\x00" + accessKey))
	return hex.EncodeToString(sum[:10])
}

func (b *binding) subjects() []rbacv1.Subject {
	return []rbacv1.Subject{b.subject, group(b.probeGroup())}
}

func (b *binding) roleRef() rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: b.role}
}

// object is b as it is created. A ClusterRoleBinding has the same shape.
func (b *binding) object(expires time.Time) *rbacv1.RoleBinding {
	o := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: b.name},
		RoleRef:    b.roleRef(),
	}
	b.write(o, expires)
	return o
}

// repaired is a copy of have as it should be. What others added stays.
func (b *binding) repaired(have *entry, expires time.Time) *rbacv1.RoleBinding {
	o := have.object.DeepCopy()
	agent, keep := o.Annotations[v1alpha1.AnnotationAgent], have.agent != nil && have.agent.Key() == b.agent.Key() && have.agent.AccessKey == b.agent.AccessKey
	if b.grant == nil && have.expires.After(expires) {
		expires = have.expires
	}
	b.write(o, expires)
	if keep && b.grant == nil {
		// The run's first token named its agent; a later one may say another
		// task, and two replicas must not write by turns.
		o.Annotations[v1alpha1.AnnotationAgent] = agent
	}
	return o
}

func (b *binding) write(o *rbacv1.RoleBinding, expires time.Time) {
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	delete(o.Labels, v1alpha1.LabelRunKey)
	delete(o.Labels, v1alpha1.LabelGrant)
	o.Labels[v1alpha1.LabelManagedBy], o.Labels[b.label] = v1alpha1.ManagedBy, b.owner
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	o.Annotations[v1alpha1.AnnotationAgent] = agentJSON(*b.agent)
	o.Annotations[v1alpha1.AnnotationExpiresAt] = timeText(expires)
	o.Subjects = b.subjects()
	if b.grant != nil && !b.owned(o) {
		o.OwnerReferences = append(o.OwnerReferences, *b.grant)
	}
}

func (b *binding) owned(o *rbacv1.RoleBinding) bool {
	return slices.ContainsFunc(o.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == b.grant.UID })
}

// holds reports whether have is b and lasts until need; a grant's lasts exactly
// until then.
func (b *binding) holds(have *entry, need time.Time) bool {
	o := have.object
	other := v1alpha1.LabelGrant
	if b.label == other {
		other = v1alpha1.LabelRunKey
	}
	_, both := o.Labels[other]
	switch {
	case o.DeletionTimestamp != nil, both,
		o.RoleRef != b.roleRef(),
		o.Labels[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy,
		o.Labels[b.label] != b.owner,
		have.expires.IsZero(), have.expires.Before(need),
		len(o.Subjects) != 2, o.Subjects[0] != b.subject, !b.isProbe(o.Subjects[1]):
		return false
	case b.grant != nil:
		return b.owned(o) && !have.expires.After(ceil(need))
	}
	return have.agent != nil && have.agent.Issuer == b.agent.Issuer && have.agent.Run == b.agent.Run && have.agent.AccessKey == b.agent.AccessKey
}

// agentJSON is a as an annotation: without the token, since a binding is the
// run's. An Agent holds strings only: it can't fail.
func agentJSON(a v1alpha1.Agent) string {
	a.CredentialID = ""
	b, _ := json.Marshal(a) //nolint:errchkjson,gosec // see above; the access key is a hash, no secret
	return string(b)
}

// timeText rounds up: what is promised until t must hold until t.
func timeText(t time.Time) string { return ceil(t).UTC().Format(time.RFC3339) }

func ceil(t time.Time) time.Time {
	if c := t.Truncate(time.Second); c.Before(t) {
		return c.Add(time.Second)
	}
	return t
}
