package webhook

import (
	"strings"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// ownObject reports whether r touches tipstaff's own objects, or what defines
// and serves them: whoever changes the schema of approvals, say by a default
// for its status, decides approvals. No config can allow that to an agent (I2).
func ownObject(r *review) bool {
	res := r.req.Resource
	if res.Group == v1alpha1.Group {
		return true
	}
	if res.Group != "apiextensions.k8s.io" && res.Group != "apiregistration.k8s.io" {
		return false
	}
	if ownName(r.req.Name) {
		return true
	}
	for _, obj := range []map[string]any{r.object, r.oldObject} {
		meta, _ := obj["metadata"].(map[string]any)
		spec, _ := obj["spec"].(map[string]any)
		if ownName(stringOf(meta["name"])) || stringOf(spec["group"]) == v1alpha1.Group {
			return true
		}
	}
	return false
}

// ownName reports whether a definition of that name (approvals.tipstaff.dev,
// v1alpha1.tipstaff.dev) is of tipstaff's API group.
func ownName(name string) bool { return strings.HasSuffix(name, "."+v1alpha1.Group) }
