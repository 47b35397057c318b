package webhook

import (
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	kjson "sigs.k8s.io/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// ownNamespace is where tipstaff runs. A pod or a token made there can be
// tipstaff, who acts as anybody.
const ownNamespace = "tipstaff-system"

// asksForGrant reports whether req creates a Grant: the one thing in tipstaff's
// group that an agent may ask for. It is held at least.
func asksForGrant(req *admissionv1.AdmissionRequest) bool {
	return req.Resource.Group == v1alpha1.Group && req.Resource.Resource == "grants" &&
		req.SubResource == "" && req.Operation == admissionv1.Create
}

// refuseGrant says why an agent can't ask for a grant at all: it is not for its
// own run or itself, or beyond what the configuration allows. The guard refuses
// those too; here they are refused before people are asked to sign them.
func (w *Webhook) refuseGrant(r *review) string {
	var g v1alpha1.Grant
	if err := kjson.UnmarshalCaseSensitivePreserveInts(r.req.Object.Raw, &g); err != nil {
		return "it is no grant"
	}
	ownRun := g.Spec.Run == r.agent.Run && g.Spec.Issuer == r.agent.Issuer && g.Spec.Agent == ""
	itself := g.Spec.Agent == r.agent.User && g.Spec.Run == ""
	if !ownRun && !itself {
		return "an agent asks for grants for itself only"
	}
	if err := w.limits.AllowsGrant(&g); err != nil {
		return err.Error()
	}
	return ""
}

// ownObject says where r touches what decides over agents: tipstaff's own
// objects, what defines and serves them (whoever changes the schema of
// approvals, say by a default for its status, decides approvals), its
// namespace, its roles, and the bindings that it makes and ends. Empty means that it
// doesn't. No config can allow that to an agent (I2).
func ownObject(r *review) string {
	const group = "in " + v1alpha1.Group + ", nor what defines and serves it"
	res := r.req.Resource
	switch res.Group {
	case v1alpha1.Group:
		if asksForGrant(r.req) {
			return ""
		}
		return group
	case "apiextensions.k8s.io", "apiregistration.k8s.io":
		if definesOwn(r) {
			return group
		}
	case "rbac.authorization.k8s.io":
		ofTipstaff := func(name string) bool { return name == "tipstaff" || strings.HasPrefix(name, "tipstaff-") }
		if r.named(ofTipstaff) || madeByTipstaff(r.object()) || madeByTipstaff(r.oldObject()) {
			return "about tipstaff's roles, nor the bindings that it makes"
		}
	}
	if r.req.Namespace == ownNamespace || res.Group == "" && res.Resource == "namespaces" && r.named(func(name string) bool { return name == ownNamespace }) {
		return "where tipstaff runs"
	}
	return ""
}

func definesOwn(r *review) bool {
	group := func(obj map[string]any) string {
		spec, _ := obj["spec"].(map[string]any)
		return stringOf(spec["group"])
	}
	return r.named(ownName) || group(r.object()) == v1alpha1.Group || group(r.oldObject()) == v1alpha1.Group
}

// named reports whether is holds for the object's name, wherever it stands.
func (r *review) named(is func(string) bool) bool {
	in := func(obj map[string]any) string {
		meta, _ := obj["metadata"].(map[string]any)
		return stringOf(meta["name"])
	}
	return is(r.req.Name) || is(in(r.object())) || is(in(r.oldObject()))
}

// ownName reports whether a definition of that name (approvals.tipstaff.dev,
// v1alpha1.tipstaff.dev) is of tipstaff's API group.
func ownName(name string) bool { return strings.HasSuffix(name, "."+v1alpha1.Group) }

// madeByTipstaff reports whether obj carries a label or annotation by which
// tipstaff knows its bindings.
func madeByTipstaff(obj map[string]any) bool {
	meta, _ := obj["metadata"].(map[string]any)
	for _, list := range []string{"labels", "annotations"} {
		m, _ := meta[list].(map[string]any)
		for k, v := range m {
			if strings.HasPrefix(k, v1alpha1.Group+"/") || k == v1alpha1.LabelManagedBy && stringOf(v) == v1alpha1.ManagedBy {
				return true
			}
		}
	}
	return false
}
