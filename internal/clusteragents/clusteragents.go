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
	for i, sa := range c.ServiceAccounts {
		ns, name, ok := strings.Cut(sa, "/")
		if !ok || len(validation.IsDNS1123Label(ns)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
			errs = append(errs, field.Invalid(at.Child("serviceAccounts").Index(i), sa, "must be namespace/name"))
		}
	}
	for i, ns := range c.Namespaces {
		for _, msg := range validation.IsDNS1123Label(ns) {
			errs = append(errs, field.Invalid(at.Child("namespaces").Index(i), ns, msg))
		}
	}
	for i, g := range c.Groups {
		at := at.Child("groups").Index(i)
		switch {
		case g == "":
			errs = append(errs, field.Required(at, "a group's name"))
		case strings.HasPrefix(g, v1alpha1.GroupPrefix):
			errs = append(errs, field.Invalid(at, g, "is one that Tipstaff itself gives out"))
		case slices.Contains(broadGroups, g):
			errs = append(errs, field.Invalid(at, g, "would make agents of people or of the cluster's own parts"))
		}
	}
	return errs
}

// broadGroups hold more than agents on every cluster: with one of them every
// controller would wait for Tipstaff (I5).
var broadGroups = []string{"system:authenticated", "system:unauthenticated", "system:masters", "system:nodes", "system:serviceaccounts", "system:serviceaccounts:kube-system"}

// users and groups are the usernames and groups that make an agent.
func (c *Config) users() []string {
	if c == nil {
		return nil
	}
	var out []string
	for _, sa := range c.ServiceAccounts {
		out = append(out, v1alpha1.ServiceAccountPrefix+strings.Replace(sa, "/", ":", 1))
	}
	return out
}

func (c *Config) groups() []string {
	out := []string{v1alpha1.GroupAgents}
	if c == nil {
		return out
	}
	for _, ns := range c.Namespaces {
		out = append(out, serviceAccountsGroup+ns)
	}
	return append(out, c.Groups...)
}

// Subjects are the usernames and groups of all agents, token agents included,
// for the API server's audit policy.
func (c *Config) Subjects() (users, groups []string) { return c.users(), c.groups() }

// IsAgent reports whether a user is an agent.
func (c *Config) IsAgent(username string, groups []string) bool {
	return slices.Contains(c.users(), username) ||
		slices.ContainsFunc(c.groups(), func(g string) bool { return slices.Contains(groups, g) })
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
	a := v1alpha1.Agent{
		User: username, Issuer: v1alpha1.IssuerKubernetes,
		Run: first(extraPodUID), CredentialID: first(v1alpha1.ExtraCredentialID),
	}
	if pod := first(extraPodName); pod != "" && a.Run != "" {
		a.Task = "pod " + pod
		if ns, _, ok := strings.Cut(strings.TrimPrefix(username, v1alpha1.ServiceAccountPrefix), ":"); ok {
			a.Task = fmt.Sprintf("pod %s/%s", ns, pod)
		}
	}
	return a, true
}

// MatchExpression is the CEL expression, for a webhook's matchConditions, that
// is true for agents and false for everyone else.
func (c *Config) MatchExpression() string {
	users, groups := c.Subjects()
	expression := quote(groups[0]) + " in request.userInfo.groups"
	for _, g := range groups[1:] {
		expression += " || " + quote(g) + " in request.userInfo.groups"
	}
	for _, u := range users {
		expression += " || request.userInfo.username == " + quote(u)
	}
	return expression
}

// quote is s as a CEL string literal.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`).Replace(s) + "'"
}
