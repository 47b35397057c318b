package webhook

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Rules that allow everything: what is refused then is refused by no rule.
var allowAll = Config{Rules: []Rule{{Name: "all", Match: "true", Verdict: Allow}}}

func TestI2_NoConfigLetsAnAgentDecide(t *testing.T) {
	t.Parallel()
	const (
		group   = "agents change nothing in tipstaff.dev, nor what defines and serves it"
		roles   = "agents change nothing about tipstaff's roles, nor the bindings that it makes"
		place   = "agents change nothing where tipstaff runs"
		made    = "{metadata: {name: b, labels: {app.kubernetes.io/managed-by: tipstaff, tipstaff.dev/grant: u}, annotations: {tipstaff.dev/expires-at: x}}}"
		own     = "{metadata: {name: approvals.tipstaff.dev}, spec: {group: tipstaff.dev}}"
		foreign = "{metadata: {name: b, labels: {app.kubernetes.io/managed-by: Helm}}}"
	)
	tests := []struct {
		name             string
		req, object, old string
		want             string // part of the refusal; empty means allowed
	}{
		{"an approval", "CREATE tipstaff.dev/approvals - a", "{}", "", group},
		{"a decision", "UPDATE tipstaff.dev/approvals/status - a", "{}", "{}", group},
		{"an approval that goes", "DELETE tipstaff.dev/approvals - a", "", "{}", group},
		{"all approvals", "DELETE tipstaff.dev/approvals -", "", "{metadata: {name: a}}", group},
		{"a revocation", "CREATE tipstaff.dev/revocations - r", "{}", "", group},
		{"a revocation that is lifted", "DELETE tipstaff.dev/revocations - r", "", "{}", group},
		{"a grant that is changed", "UPDATE tipstaff.dev/grants - g", "{}", "{}", group},
		{"a grant that is made active", "UPDATE tipstaff.dev/grants/status - g", "{}", "{}", group},
		{"a grant that is created by its status", "CREATE tipstaff.dev/grants/status - g", "{}", "", group},
		{"a grant that goes", "DELETE tipstaff.dev/grants - g", "", "{}", group},
		{"a connection to a grant", "CONNECT tipstaff.dev/grants - g", "{}", "", group},
		{"the schema of grants", "UPDATE apiextensions.k8s.io/customresourcedefinitions - grants.tipstaff.dev", "{}", "{}", group},
		{"the schema's status", "UPDATE apiextensions.k8s.io/customresourcedefinitions/status - grants.tipstaff.dev", "{}", "{}", group},
		{"a schema whose name is drawn", "CREATE apiextensions.k8s.io/customresourcedefinitions -", "{metadata: {generateName: x}, spec: {group: tipstaff.dev}}", "", group},
		{"who serves the group", "CREATE apiregistration.k8s.io/apiservices - v1alpha1.tipstaff.dev", "{}", "", group},
		{"the schema of approvals, changed", "UPDATE apiextensions.k8s.io/customresourcedefinitions - approvals.tipstaff.dev", own, own, group},
		{"the schema of approvals, in a collection that is deleted", "DELETE apiextensions.k8s.io/customresourcedefinitions - -", "", own, group},
		{"a kind that joins the group", "CREATE apiextensions.k8s.io/customresourcedefinitions - things.tipstaff.dev", "{spec: {group: tipstaff.dev}}", "", group},
		{"an API service that takes the group over", "CREATE apiregistration.k8s.io/apiservices - v1.tipstaff.dev", "{spec: {group: tipstaff.dev}}", "", group},
		{"a group whose name only ends alike", "UPDATE apiextensions.k8s.io/customresourcedefinitions - things.nottipstaff.dev", "{spec: {group: nottipstaff.dev}}", "{}", ""},
		{"a config map of such a name", "UPDATE core/configmaps shop approvals.tipstaff.dev", own, own, ""},
		{"another schema", "UPDATE apiextensions.k8s.io/customresourcedefinitions - widgets.example.com", "{spec: {group: example.com}}", "{}", ""},
		{"a binding of a grant that loses its end", "UPDATE rbac.authorization.k8s.io/rolebindings shop b", foreign, made, roles},
		{"a binding that passes for tipstaff's", "CREATE rbac.authorization.k8s.io/rolebindings shop b", made, "", roles},
		{"a binding whose end is set", "CREATE rbac.authorization.k8s.io/rolebindings shop b", "{metadata: {annotations: {tipstaff.dev/expires-at: x}}}", "", roles},
		{"a binding that goes before its time", "DELETE rbac.authorization.k8s.io/clusterrolebindings - b", "", made, roles},
		{"who may approve", "UPDATE rbac.authorization.k8s.io/clusterrolebindings - tipstaff-approvers", "{}", "{}", roles},
		{"what tipstaff may", "UPDATE rbac.authorization.k8s.io/clusterroles - tipstaff", "{}", "{}", roles},
		{"another binding", "CREATE rbac.authorization.k8s.io/rolebindings shop b", foreign, "", ""},
		{"a role that is named alike", "CREATE rbac.authorization.k8s.io/roles shop tipstaffing", "{}", "", ""},
		{"a label of tipstaff's on something else", "CREATE core/configmaps shop c", made, "", ""},
		{"a pod beside tipstaff", "CREATE core/pods tipstaff-system p", "{}", "", place},
		{"a token of tipstaff", "CREATE core/serviceaccounts/token tipstaff-system tipstaff", "{}", "", place},
		{"a shell in tipstaff", "CONNECT core/pods/exec tipstaff-system tipstaff-0", "{}", "", place},
		{"tipstaff's namespace", "DELETE core/namespaces tipstaff-system tipstaff-system", "", "{}", place},
		{"tipstaff's namespace as one of all", "DELETE core/namespaces - -", "", "{metadata: {name: tipstaff-system}}", place},
		{"a namespace that is named alike", "CREATE core/pods tipstaff-systems p", "{}", "", ""},
	}
	inside := func(r *admissionv1.AdmissionRequest) {
		r.UserInfo = podUser("6f1c")
	}
	for _, tt := range tests {
		for who, as := range map[string]func(*admissionv1.AdmissionRequest){"a token's agent": func(*admissionv1.AdmissionRequest) {}, "an agent inside the cluster": inside} {
			t.Run(tt.name+", by "+who, func(t *testing.T) {
				t.Parallel()
				req := request(t, tt.req, tt.object, tt.old)
				as(req)
				resp := post(t, newWebhook(t, &fakeApprovals{t: t}, notRevoked, allowAll), req)
				if resp.Allowed != (tt.want == "") {
					t.Fatalf("allowed: %v, %+v", resp.Allowed, resp.Result)
				}
				if tt.want != "" && (resp.Result.Code != 403 || !strings.Contains(resp.Result.Message, tt.want) || resp.AuditAnnotations[v1alpha1.AnnotationRule] != ownObjectsRule) {
					t.Errorf("got %d %s", resp.Result.Code, resp.Result.Message)
				}
			})
		}
	}
}
