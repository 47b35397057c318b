package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// The lines of the files that follow from the configuration, as they stand
// there for one that names no agents of the cluster.
const (
	agentsCondition = `expression: "'tipstaff:agents' in request.userInfo.groups"`
	agentsGroups    = "userGroups: ['tipstaff:agents']\n"
	agentsSubjects  = `subjects: [{"kind":"Group","group":{"name":"tipstaff:agents"}}]`
)

// Names of the objects that [BindingRBAC] gives.
const (
	// BindingsRole is the cluster role by which Tipstaff binds roles.
	BindingsRole = "tipstaff-bindings"
	// GrantsRole is the cluster role (in base/rbac.yaml) by which agents ask for grants.
	GrantsRole = "tipstaff-agent-grants"
)

// Webhooks is base/webhooks.yaml with the condition that is true for agents.
func Webhooks(agents *clusteragents.Config) ([]byte, error) {
	expression, err := json.Marshal(agents.MatchExpression()) // a JSON string is a YAML string
	if err != nil {
		return nil, fmt.Errorf("write the match condition: %w", err)
	}
	return replaceOnce("base/webhooks.yaml", webhooks, agentsCondition, "expression: "+string(expression))
}

// FlowControl is base/flowcontrol.yaml with all agents, so that what waits for
// Tipstaff takes no seats of the API server from anyone else.
func FlowControl(agents *clusteragents.Config) ([]byte, error) {
	users, groups := agents.Subjects()
	var subjects []flowcontrolv1.Subject
	for _, u := range users {
		subjects = append(subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: u}})
	}
	for _, g := range groups {
		subjects = append(subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: g}})
	}
	list, err := json.Marshal(subjects)
	if err != nil {
		return nil, fmt.Errorf("write the flow schema's subjects: %w", err)
	}
	return replaceOnce("base/flowcontrol.yaml", flowControl, agentsSubjects, "subjects: "+string(list))
}

// AuditPolicyFor is [AuditPolicy] with all agents. A policy's rule that names
// users and groups is for users who are in both, so each has a rule.
func AuditPolicyFor(agents *clusteragents.Config) ([]byte, error) {
	users, groups := agents.Subjects()
	rules := "userGroups: " + flowList(groups) + "\n"
	if len(users) > 0 {
		rules += "# The same for service accounts that count as agents.\n" +
			"- level: RequestResponse\n  users: " + flowList(users) + "\n"
	}
	return replaceOnce("apiserver/audit-policy.yaml", AuditPolicy, agentsGroups, rules)
}

// replaceOnce keeps the file's comments, which decoding would lose.
func replaceOnce(name string, file []byte, from, to string) ([]byte, error) {
	if bytes.Count(file, []byte(from)) != 1 {
		return nil, fmt.Errorf("%s does not hold %q once", name, strings.TrimSpace(from))
	}
	return bytes.Replace(file, []byte(from), []byte(to), 1), nil
}

// flowList is a YAML list in one line.
func flowList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quoteYAML(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// quoteYAML quotes in YAML's single quotes, or in double quotes with escapes
// where a character could be more than itself (YAML 1.2.2 section 7.3).
func quoteYAML(s string) string {
	plain := func(r rune) bool { return r >= ' ' && r <= '~' }
	if strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		b, _ := json.Marshal(s) // a string can always be written
		return string(b)
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// BindingRBAC are the rights that Tipstaff needs beside base/rbac.yaml to bind
// what limits allow, and nothing else: `bind` on each allowed cluster role by
// its name, never `escalate`, and bindings that hold in the whole cluster only
// where they are allowed. Agents inside the cluster may then ask for grants, as
// the others may by base/rbac.yaml. The objects are always the same, so that
// applying them also takes back what an earlier configuration gave.
func BindingRBAC(agents *clusteragents.Config, limits *access.Limits) ([]byte, error) {
	asking := []rbacv1.Subject{}
	if limits != nil && len(limits.ClusterRoles) > 0 {
		asking = agentSubjects(agents)
	}
	var out [][]byte
	for _, o := range []any{
		&rbacv1.ClusterRole{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
			ObjectMeta: metav1.ObjectMeta{Name: BindingsRole}, Rules: bindingRules(limits),
		},
		clusterRoleBinding(BindingsRole, BindingsRole, []rbacv1.Subject{
			{Kind: rbacv1.ServiceAccountKind, Namespace: "tipstaff-system", Name: "tipstaff"},
			{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "tipstaff"},
		}),
		clusterRoleBinding(GrantsRole+"-inside", GrantsRole, asking),
	} {
		b, err := yaml.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("write RBAC: %w", err)
		}
		out = append(out, b)
	}
	return bytes.Join(out, []byte("---\n")), nil
}

// bindingRules are to make bindings. To see and to remove them is in
// base/rbac.yaml: what is not allowed any more must go.
func bindingRules(limits *access.Limits) []rbacv1.PolicyRule {
	if limits == nil || len(limits.ClusterRoles) == 0 {
		return []rbacv1.PolicyRule{}
	}
	roles := slices.Clone(limits.ClusterRoles)
	slices.Sort(roles)
	bindings := []string{"rolebindings"}
	if limits.ClusterWide {
		bindings = append(bindings, "clusterrolebindings")
	}
	return []rbacv1.PolicyRule{
		{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, ResourceNames: roles, Verbs: []string{"bind", "get"}},
		{APIGroups: []string{rbacv1.GroupName}, Resources: bindings, Verbs: []string{"create", "update"}},
		{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
	}
}

func clusterRoleBinding(name, role string, subjects []rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   subjects,
	}
}

// agentSubjects are the agents inside the cluster as RBAC names them.
func agentSubjects(agents *clusteragents.Config) []rbacv1.Subject {
	users, groups := agents.Subjects()
	out := []rbacv1.Subject{}
	for _, u := range users {
		out = append(out, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: u})
	}
	for _, g := range groups {
		if g != v1alpha1.GroupAgents { // base/rbac.yaml has it
			out = append(out, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: g})
		}
	}
	return out
}
