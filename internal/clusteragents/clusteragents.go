// Package clusteragents says which identities of the cluster itself count as
// agents: service accounts whose tokens the API server verifies on its own, so
// that they never pass the token webhook.
//
// One config answers everyone who must know: the webhook and the guard
// ([Config.AgentOf]), the audit trail, and the API server's own configuration,
// which is generated from it ([Config.MatchExpression], [Config.Subjects]), so
// that no two can drift. It opens nothing and asks nobody.
package clusteragents

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Keys of the extra that the API server puts into the identity of a service
// account whose token is bound to a pod
// (apiserver v0.37, pkg/authentication/serviceaccount/util.go).
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"
)

// serviceAccountsGroup starts the group of all service accounts of a namespace.
const serviceAccountsGroup = "system:serviceaccounts:"

// maxEntries bounds each list. The API server counts what an expression costs,
// and refuses everyone's changes where it costs too much: 256 groups in the
// config and a person in a thousand groups stay well below
// (apiserver v0.37, pkg/apis/cel/config.go, RuntimeCELCostBudgetMatchConditions).
const maxEntries = 128

// ownNamespaces hold the cluster's own parts and Tipstaff: with one of them as
// an agent every controller would wait for Tipstaff, or Tipstaff for itself (I5).
var ownNamespaces = []string{"kube-system", "tipstaff-system"}

// Config is the "clusterAgents" section of the file. Empty means that only
// tokens make agents. A nil Config is an empty one.
type Config struct {
	// ServiceAccounts count as agents, each namespace/name.
	ServiceAccounts []string `json:"serviceAccounts,omitempty"`
	// Namespaces whose service accounts all count as agents.
	Namespaces []string `json:"namespaces,omitempty"`
	// Groups whose members count as agents. A member without a pod of its own
	// has no run, and all its changes are refused.
	Groups []string `json:"groups,omitempty"`
}

// Validate reports everything wrong with c.
func (c *Config) Validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, l := range []struct {
		name    string
		entries []string
		wrong   func(string) string
	}{
		{"serviceAccounts", c.ServiceAccounts, wrongServiceAccount},
		{"namespaces", c.Namespaces, wrongNamespace},
		{"groups", c.Groups, wrongGroup},
	} {
		at := at.Child(l.name)
		if len(l.entries) > maxEntries {
			errs = append(errs, field.TooMany(at, len(l.entries), maxEntries))
		}
		for i, e := range l.entries {
			if why := l.wrong(e); why != "" {
				errs = append(errs, field.Invalid(at.Index(i), e, why))
			} else if slices.Index(l.entries, e) < i {
				errs = append(errs, field.Duplicate(at.Index(i), e))
			}
		}
	}
	return errs
}

func wrongServiceAccount(sa string) string {
	ns, name, ok := strings.Cut(sa, "/")
	if !ok || len(validation.IsDNS1123Label(ns)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "must be namespace/name"
	}
	return wrongNamespace(ns)
}

func wrongNamespace(ns string) string {
	if msgs := validation.IsDNS1123Label(ns); len(msgs) > 0 {
		return msgs[0]
	}
	if slices.Contains(ownNamespaces, ns) {
		return "holds the cluster's own parts: give agents a namespace of their own"
	}
	return ""
}

func wrongGroup(g string) string {
	ns, ofNamespace := strings.CutPrefix(g, serviceAccountsGroup)
	switch {
	case g == "":
		return "must be a group's name"
	case !utf8.ValidString(g) || strings.ContainsFunc(g, unicode.IsControl):
		return "holds control characters"
	case strings.HasPrefix(g, v1alpha1.GroupPrefix):
		return "is one that Tipstaff itself gives out"
	case ofNamespace:
		return wrongNamespace(ns)
	case strings.HasPrefix(g, "system:"):
		return "would make agents of people or of the cluster's own parts"
	}
	return ""
}

// Subjects are the usernames and groups of all agents, token agents included,
// for the API server's audit policy.
func (c *Config) Subjects() (users, groups []string) {
	groups = []string{v1alpha1.GroupAgents}
	if c == nil {
		return nil, groups
	}
	for _, sa := range c.ServiceAccounts {
		users = append(users, v1alpha1.ServiceAccountPrefix+strings.Replace(sa, "/", ":", 1))
	}
	for _, ns := range c.Namespaces {
		groups = append(groups, serviceAccountsGroup+ns)
	}
	return users, append(groups, c.Groups...)
}

// IsAgent reports whether a user is an agent.
func (c *Config) IsAgent(username string, groups []string) bool {
	if v1alpha1.IsAgent(groups) {
		return true
	}
	if c == nil {
		return false
	}
	for _, g := range groups {
		if ns, ok := strings.CutPrefix(g, serviceAccountsGroup); ok && slices.Contains(c.Namespaces, ns) || slices.Contains(c.Groups, g) {
			return true
		}
	}
	ns, name, ok := splitServiceAccount(username)
	return ok && slices.ContainsFunc(c.ServiceAccounts, func(sa string) bool {
		n, rest, _ := strings.Cut(sa, "/")
		return n == ns && rest == name
	})
}

// IsAgentName reports whether a username alone says that its user is an agent:
// one that a token yields, or a service account that counts as one. What only
// its groups would make an agent is not known by name.
func (c *Config) IsAgentName(username string) bool {
	if rest, ok := strings.CutPrefix(username, v1alpha1.UserPrefix); ok {
		issuer, subject, _ := strings.Cut(rest, ":")
		return issuer != "" && subject != ""
	}
	ns, _, ok := splitServiceAccount(username)
	return ok && c.IsAgent(username, []string{serviceAccountsGroup + ns})
}

// splitServiceAccount takes a service account's username apart.
func splitServiceAccount(username string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(username, v1alpha1.ServiceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	return namespace, name, ok && namespace != "" && name != ""
}

// AgentOf reads the agent back from a user that the API server reports (in an
// AdmissionReview or an audit event). False means that the user is no agent. An
// agent without a run, such as a service account whose token is bound to no
// pod, is still an agent: the caller must refuse it where a run is needed.
func (c *Config) AgentOf(username string, groups []string, extra map[string][]string) (v1alpha1.Agent, bool) {
	if a, ok := v1alpha1.AgentOf(username, groups, extra); ok {
		return a, true
	}
	if !c.IsAgent(username, groups) {
		return v1alpha1.Agent{}, false
	}
	first := func(key string) string {
		if v := extra[key]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	a := v1alpha1.Agent{User: username, Issuer: v1alpha1.IssuerKubernetes, CredentialID: first(v1alpha1.ExtraCredentialID)}
	// Only service accounts have pods: the same extra beside another name is
	// somebody else's word.
	if ns, _, ok := splitServiceAccount(username); ok {
		a.Run = first(extraPodUID)
		if pod := first(extraPodName); pod != "" && a.Run != "" {
			a.Task = fmt.Sprintf("pod %s/%s", ns, pod)
		}
	}
	return a, true
}

// MatchExpression is the CEL expression, for a webhook's matchConditions, that
// is true for agents and false for everyone else. It reads username and groups
// without asking whether they are there: the API server knows nobody without a
// name, and everybody is at least in system:authenticated or
// system:unauthenticated.
func (c *Config) MatchExpression() string {
	users, groups := c.Subjects()
	terms := make([]string, 0, len(groups)+1)
	for _, g := range groups {
		terms = append(terms, quote(g)+" in request.userInfo.groups")
	}
	if len(users) > 0 {
		quoted := make([]string, len(users))
		for i, u := range users {
			quoted[i] = quote(u)
		}
		terms = append(terms, "request.userInfo.username in ["+strings.Join(quoted, ", ")+"]")
	}
	return strings.Join(terms, " || ")
}

// quote is s as a CEL string literal (CEL language definition, "String and
// bytes values").
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`).Replace(s) + "'"
}
