package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"slices"
	"strings"
)

// Names that an agent's identity is made of. RBAC rules, matchConditions and
// queries use them literally.
const (
	// UserPrefix starts every agent's username: agent:<issuer>:<subject>.
	UserPrefix = "agent:"
	// GroupPrefix starts every group that Tipstaff gives out.
	GroupPrefix = "tipstaff:"
	// GroupAgents is the group of every agent.
	GroupAgents = "tipstaff:agents"
	// GroupProxied is added by the proxy alone; a token never yields it. Only
	// it may read the kinds whose values are masked.
	GroupProxied = "tipstaff:proxied"
	// GroupProfilePrefix starts the group of a profile.
	GroupProfilePrefix = "tipstaff:profile:"
	// GroupRunPrefix starts the group of one run: tipstaff:run:<issuer>:<run>.
	GroupRunPrefix = "tipstaff:run:"
	// GroupAccessPrefix starts the group that a profile's bindings name:
	// tipstaff:access:<access key>. Two agents of one run that may do different
	// things are in different ones.
	GroupAccessPrefix = "tipstaff:access:"
	// GroupProxiedRunPrefix starts the group of one run on its way through the
	// proxy, and GroupProxiedAgentPrefix that of one agent (by its username).
	// As with GroupProxied, the proxy alone adds them; a token never yields them.
	GroupProxiedRunPrefix   = "tipstaff:proxied:run:"
	GroupProxiedAgentPrefix = "tipstaff:proxied:agent:"
	// GroupProxiedAccessPrefix starts that of GroupAccessPrefix through the proxy.
	GroupProxiedAccessPrefix = "tipstaff:proxied:access:"
	// GroupBindingPrefix starts the group of one RoleBinding of Tipstaff's. No
	// one is ever in it: by it Tipstaff asks whether the binding is in force.
	GroupBindingPrefix = "tipstaff:binding:"

	// IssuerKubernetes stands as the issuer of agents that use a service
	// account of this cluster. No configured issuer may be called so.
	IssuerKubernetes = "kubernetes"
	// ServiceAccountPrefix starts the username of a service account.
	ServiceAccountPrefix = "system:serviceaccount:"

	// Keys of the user's extra.
	ExtraIssuer       = "tipstaff.dev/issuer"
	ExtraRun          = "tipstaff.dev/run"
	ExtraModel        = "tipstaff.dev/model"
	ExtraOwner        = "tipstaff.dev/owner"
	ExtraTask         = "tipstaff.dev/task"
	ExtraCredentialID = "authentication.kubernetes.io/credential-id"
)

// Names of the audit annotations that the admission webhook sets. The API
// server puts the webhook's own name and a slash before each
// (Kubernetes, "Dynamic Admission Control", audit annotations).
const (
	// WebhookName is the name of the webhook that judges agents' changes.
	WebhookName = "changes.tipstaff.dev"
	// GuardWebhookName is the name of the webhook that guards Tipstaff's own objects.
	GuardWebhookName = "guard.tipstaff.dev"

	AnnotationVerdict   = "verdict"   // allowed, held, approved, denied; dryRun of what would be held
	AnnotationRule      = "rule"      // the rule that decided
	AnnotationApproval  = "approval"  // the Approval's name
	AnnotationApprovers = "approvers" // comma-separated usernames who approved (or denied) it
	AnnotationReason    = "reason"    // why it was denied
	AnnotationUse       = "use"       // the uid of the AdmissionReview that used the approval
)

// RunKey stands for one run of one issuer where free text can't: in object
// names and label values. It is 20 lower-case hex digits.
type RunKey string

// KeyOf gives the key of run as issuer names it.
func KeyOf(issuer, run string) RunKey {
	sum := sha256.Sum256([]byte(issuer + "\x00" + run))
	return RunKey(hex.EncodeToString(sum[:10]))
}

// Agent is who stands behind a request: one run of one agent.
type Agent struct {
	// User is the username: agent:<issuer>:<subject>, or that of a service
	// account that counts as an agent.
	User string `json:"user"`
	// Issuer is the configured name of the token's issuer, or [IssuerKubernetes].
	Issuer string `json:"issuer"`
	// Run is the run's id as its platform names it; for a service account the
	// uid of its pod.
	Run string `json:"run"`
	// Model, Owner (the human on whose behalf) and Task are what the token
	// says; empty where it says nothing.
	Model string `json:"model,omitempty"`
	Owner string `json:"owner,omitempty"`
	Task  string `json:"task,omitempty"`
	// Profile is the profile that the mapping chose.
	Profile string `json:"profile,omitempty"`
	// AccessKey stands for what the agent's profile gives it; empty where that is
	// nothing. See [AccessKeyOf].
	AccessKey string `json:"accessKey,omitempty"`
	// CredentialID names the token (JTI=…), never holds it.
	CredentialID string `json:"credentialID,omitempty"`
}

// Key is the key of the agent's run.
func (a Agent) Key() RunKey { return KeyOf(a.Issuer, a.Run) }

// Groups are the groups that an agent's token yields, in a fixed order.
func (a Agent) Groups() []string {
	gs := []string{GroupAgents}
	if a.Profile != "" {
		gs = append(gs, GroupProfilePrefix+a.Profile)
	}
	gs = append(gs, RunGroup(a.Issuer, a.Run))
	if a.AccessKey != "" {
		gs = append(gs, GroupAccessPrefix+a.AccessKey)
	}
	return gs
}

// AccessKeyOf is the key of what a's profile gives: 20 hex digits of who a is
// (issuer, run, user, profile) and of access.
func AccessKeyOf(a Agent, access []Access) string {
	h := sha256.New()
	for _, s := range []string{a.Issuer, a.Run, a.User, a.Profile} {
		_, _ = io.WriteString(h, s+"\x00") // a hash never fails
	}
	for _, ac := range access {
		_, _ = io.WriteString(h, ac.ClusterRole+"\x00"+string(ac.Path)+"\x00"+strings.Join(slices.Sorted(slices.Values(ac.Namespaces)), ",")+"\x00")
	}
	return hex.EncodeToString(h.Sum(nil)[:10])
}

// RunGroup is the group of one run. An issuer's name holds no colon, so two
// runs never share one.
func RunGroup(issuer, run string) string { return GroupRunPrefix + issuer + ":" + run }

// ProxiedGroups are the groups that the proxy adds to [Agent.Groups].
func (a Agent) ProxiedGroups() []string {
	gs := []string{GroupProxied, GroupProxiedRunPrefix + a.Issuer + ":" + a.Run, GroupProxiedAgentPrefix + a.User}
	if a.AccessKey != "" {
		gs = append(gs, GroupProxiedAccessPrefix+a.AccessKey)
	}
	return gs
}

// Subject is the agent's name at its issuer, the last part of its username; a
// service account's is its username (RFC 7519 section 4.1.2, sub).
func (a Agent) Subject() string {
	if s, ok := strings.CutPrefix(a.User, UserPrefix+a.Issuer+":"); ok {
		return s
	}
	return a.User
}

// Extra is the user's extra as a TokenReview answer or impersonation carries it.
func (a Agent) Extra() map[string][]string {
	extra := make(map[string][]string, 6)
	for _, e := range [...]struct{ key, value string }{
		{ExtraIssuer, a.Issuer}, {ExtraRun, a.Run}, {ExtraModel, a.Model}, {ExtraOwner, a.Owner},
		{ExtraTask, a.Task}, {ExtraCredentialID, a.CredentialID},
	} {
		if e.value != "" {
			extra[e.key] = []string{e.value}
		}
	}
	return extra
}

// IsAgent reports whether a user with these groups is an agent.
func IsAgent(groups []string) bool {
	for _, g := range groups {
		if g == GroupAgents {
			return true
		}
	}
	return false
}

// AgentOf reads the agent back from a user that the API server reports (in an
// AdmissionReview or an audit event). False means that the user is no agent.
// An agent whose run is missing is still an agent: the caller must refuse it
// where a run is needed.
func AgentOf(username string, groups []string, extra map[string][]string) (Agent, bool) {
	if !IsAgent(groups) {
		return Agent{}, false
	}
	first := func(key string) string {
		if v := extra[key]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	a := Agent{
		User: username, Issuer: first(ExtraIssuer), Run: first(ExtraRun), Model: first(ExtraModel),
		Owner: first(ExtraOwner), Task: first(ExtraTask), CredentialID: first(ExtraCredentialID),
	}
	for _, g := range groups {
		if p, ok := strings.CutPrefix(g, GroupProfilePrefix); ok {
			a.Profile = p
		}
		if k, ok := strings.CutPrefix(g, GroupAccessPrefix); ok {
			a.AccessKey = k
		}
	}
	return a, true
}
