package approvals

import (
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// bounds are a configuration with agents inside the cluster, and with grants.
var bounds = Bounds{
	Agents: &clusteragents.Config{ServiceAccounts: []string{"ops/bot"}, Namespaces: []string{"agents"}, Groups: []string{"ai-agents"}},
	Access: &access.Limits{ClusterRoles: []string{"edit"}},
}

func pending() *v1alpha1.Approval {
	return &v1alpha1.Approval{
		ObjectMeta: metav1.ObjectMeta{Name: "a1", UID: "u1", Labels: map[string]string{v1alpha1.LabelFingerprint: "f"}},
		Spec: v1alpha1.ApprovalSpec{
			Fingerprint: "f", Agent: v1alpha1.Agent{User: "agent:ci:bot", Issuer: "ci", Run: "r", Owner: "olga"}, Rule: "delete-namespace",
			Approvers: []string{"sre-oncall"}, Quorum: 1, ExpiresAt: metav1.NewTime(noon.Add(time.Hour)),
		},
	}
}

func decision(by string, v v1alpha1.Verdict) v1alpha1.Decision {
	return v1alpha1.Decision{By: by, Verdict: v, Reason: "because", At: metav1.NewTime(noon), Via: "kubectl"}
}

func person(name string, groups ...string) authenticationv1.UserInfo {
	return authenticationv1.UserInfo{Username: name, Groups: append(groups, "system:authenticated")}
}

func TestI2_WhoMayChangeWhat(t *testing.T) {
	t.Parallel()
	var (
		alice    = person("alice", "sre-oncall")
		bob      = person("bob", "sre-oncall")
		mallory  = person("mallory", "developers")
		olga     = person("olga", "sre-oncall")
		root     = person("root", groupMasters)
		agent    = person("agent:ci:bot", v1alpha1.GroupAgents, "sre-oncall")
		tipstaff = person("tipstaff")
		// Agents by the configuration, each in the approvers' group by mistake.
		inside    = person("system:serviceaccount:ops:bot", "system:serviceaccounts", "system:serviceaccounts:ops", "sre-oncall")
		neighbour = person("system:serviceaccount:agents:x", "system:serviceaccounts", "system:serviceaccounts:agents", "sre-oncall")
		member    = person("carol", "ai-agents", "sre-oncall")
		robot     = person("system:serviceaccount:ops:release", "system:serviceaccounts", "system:serviceaccounts:ops", "sre-oncall")
	)
	at := metav1.NewTime(noon)
	cancel := func(a *v1alpha1.Approval) { a.Status.Cancelled = &v1alpha1.Cancellation{At: at, Reason: "runaway"} }
	approve := decision("alice", v1alpha1.VerdictApprove)
	tests := []struct {
		name string
		user authenticationv1.UserInfo
		on   string // resource/subresource; empty means approvals/status
		op   string // empty means UPDATE
		old  func(*v1alpha1.Approval)
		new  func(*v1alpha1.Approval) // applied after old
		self string
		want string // part of the refusal; empty means allowed
	}{
		{name: "an approver approves", user: alice, new: decide(approve)},
		{name: "an approver denies with a reason", user: alice, new: decide(decision("alice", v1alpha1.VerdictDeny))},
		{name: "an agent approves nothing, in the approvers' group or not", user: agent, new: decide(decision("agent:ci:bot", v1alpha1.VerdictApprove)), want: "agents change nothing"},
		{name: "an agent whose groups were lost is known by its name", user: person("agent:ci:bot", "sre-oncall"), new: decide(decision("agent:ci:bot", v1alpha1.VerdictApprove)), want: "agents change nothing"},
		{name: "an agent opens no approval", user: agent, on: "approvals", op: "CREATE", want: "agents change nothing"},
		{name: "an agent deletes no approval", user: agent, on: "approvals", op: "DELETE", want: "agents change nothing"},
		{name: "an agent lifts no revocation", user: agent, on: "revocations", op: "DELETE", want: "agents change nothing"},
		{name: "an agent touches nothing that comes to this group later", user: agent, on: "somethings", op: "CREATE", want: "agents change nothing"},
		{name: "what comes to this group later is not open to anyone by that", user: root, on: "somethings", op: "CREATE", want: "not a change that tipstaff knows"},
		{name: "a service account that counts as an agent approves nothing, in the approvers' group or not", user: inside, new: decide(decision(inside.Username, v1alpha1.VerdictApprove)), want: "agents change nothing"},
		{name: "nor does one that counts by its namespace, for another agent's run", user: neighbour, new: decide(decision(neighbour.Username, v1alpha1.VerdictApprove)), want: "agents change nothing"},
		{name: "nor a member of a group that counts", user: member, new: decide(decision("carol", v1alpha1.VerdictApprove)), want: "agents change nothing"},
		{name: "a service account that counts as an agent denies nothing either", user: inside, new: decide(decision(inside.Username, v1alpha1.VerdictDeny)), want: "agents change nothing"},
		{name: "it opens no approval", user: inside, on: "approvals", op: "CREATE", want: "agents change nothing"},
		{name: "it deletes no approval", user: inside, on: "approvals", op: "DELETE", want: "agents change nothing"},
		{name: "it changes no approval's metadata", user: inside, on: "approvals", want: "agents change nothing"},
		{name: "it is not tipstaff, though it is called so", user: inside, self: inside.Username, on: "approvals", op: "CREATE", want: "agents change nothing"},
		{name: "no service account decides, whether it counts as an agent or not", user: robot, new: decide(decision(robot.Username, v1alpha1.VerdictApprove)), want: "people decide"},
		{name: "a person outside the approver groups decides nothing", user: mallory, new: decide(decision("mallory", v1alpha1.VerdictApprove)), want: "none of the approver groups"},
		{name: "a cluster admin decides nothing by that alone", user: root, new: decide(decision("root", v1alpha1.VerdictApprove)), want: "none of the approver groups"},
		{name: "the run's owner does not decide", user: olga, new: decide(decision("olga", v1alpha1.VerdictApprove)), want: "the run's owner"},
		{name: "nobody decides in another's name", user: bob, new: decide(approve), want: "one's own name"},
		{name: "one person is one vote", user: alice, old: both(quorum(2), decide(approve)), new: decide(approve), want: "one person is one vote"},
		{name: "a second person's vote is welcome", user: bob, old: both(quorum(2), decide(approve)), new: decide(decision("bob", v1alpha1.VerdictApprove))},
		{name: "two votes at once are refused", user: alice, new: both(decide(approve), decide(decision("bob", v1alpha1.VerdictApprove))), want: "one person adds one decision"},
		{name: "a denial needs a reason", user: alice, new: func(a *v1alpha1.Approval) {
			d := decision("alice", v1alpha1.VerdictDeny)
			d.Reason = " "
			decide(d)(a)
		}, want: "needs a reason"},
		{name: "a reason that hides something is refused", user: alice, new: func(a *v1alpha1.Approval) {
			d := approve
			d.Reason = "fine\u202e"
			decide(d)(a)
		}, want: "can't be seen"},
		{name: "nobody says that it came another way than it did", user: alice, new: func(a *v1alpha1.Approval) {
			d := approve
			d.Via = "slack"
			decide(d)(a)
		}, want: "came via kubectl"},
		{name: "a verdict of another word is refused", user: alice, new: decide(decision("alice", "Maybe")), want: "Approve or Deny"},
		{name: "a decision of yesterday is refused", user: alice, new: func(a *v1alpha1.Approval) {
			d := approve
			d.At = metav1.NewTime(noon.Add(-24 * time.Hour))
			decide(d)(a)
		}, want: "5 minutes off"},
		{name: "break-glass approves alone, past the quorum", user: mallory, old: both(quorum(2), glass("developers")), new: decide(alone("mallory"))},
		{name: "one of several approvers may still break the glass", user: alice, old: both(quorum(2), glass("sre-oncall"), decide(approve)), new: decide(alone("alice"))},
		{name: "the glass is broken once", user: mallory, old: both(glass("developers"), decide(alone("mallory"))), new: decide(alone("mallory")), want: "one person is one vote"},
		{name: "a rule without break-glass has none", user: alice, new: decide(alone("alice")), want: "knows no break-glass"},
		{name: "who is in none of its groups breaks no glass", user: mallory, old: glass("captains"), new: decide(alone("mallory")), want: "none of the break-glass groups"},
		{name: "an approver is not by that in its groups", user: alice, old: glass("captains"), new: decide(alone("alice")), want: "none of the break-glass groups"},
		{name: "the run's owner breaks no glass", user: olga, old: glass("sre-oncall"), new: decide(alone("olga")), want: "the run's owner"},
		{name: "an agent breaks no glass", user: agent, old: glass("sre-oncall"), new: decide(alone("agent:ci:bot")), want: "agents change nothing"},
		{name: "break-glass denies nothing", user: mallory, old: glass("developers"), new: func(a *v1alpha1.Approval) {
			d := alone("mallory")
			d.Verdict = v1alpha1.VerdictDeny
			decide(d)(a)
		}, want: "break-glass approves"},
		{name: "break-glass needs a reason", user: mallory, old: glass("developers"), new: func(a *v1alpha1.Approval) {
			d := alone("mallory")
			d.Reason = " "
			decide(d)(a)
		}, want: "with a reason"},
		{name: "the run's owner decides where the rule lets them", user: olga, old: func(a *v1alpha1.Approval) { a.Spec.OwnerMayDecide = true }, new: decide(decision("olga", v1alpha1.VerdictApprove))},
		{name: "an approver sets no condition", user: alice, new: func(a *v1alpha1.Approval) {
			a.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionApproved, Status: metav1.ConditionTrue}}
		}, want: "by tipstaff only"},
		{name: "a denied approval stays denied", user: bob, old: decide(decision("alice", v1alpha1.VerdictDeny)), new: decide(decision("bob", v1alpha1.VerdictApprove)), want: "denied by alice"},
		{name: "an expired approval is not decided", user: alice, old: expired, new: decide(approve), want: "expired"},
		{name: "a used approval is not decided", user: bob, old: both(decide(approve), use), new: decide(decision("bob", v1alpha1.VerdictDeny)), want: "used"},
		{name: "a decision is not taken back", user: alice, old: decide(approve), new: func(a *v1alpha1.Approval) { a.Status.Decisions = nil }, want: "only added"},
		{name: "a decision is not altered", user: alice, old: decide(approve), new: func(a *v1alpha1.Approval) { a.Status.Decisions[0].Verdict = v1alpha1.VerdictDeny }, want: "only added"},
		{name: "an approver sets no use", user: alice, old: decide(approve), new: use, want: "by tipstaff only"},
		{name: "an approver sets no phase", user: alice, new: func(a *v1alpha1.Approval) { a.Status.Phase = v1alpha1.PhaseApproved }, want: "by tipstaff only"},
		{name: "the spec never changes, by tipstaff neither", user: tipstaff, self: "tipstaff", new: quorum(0), want: "spec never changes"},
		{name: "the spec does not change through the main resource", user: alice, on: "approvals", new: quorum(9), want: "spec never changes"},
		{name: "the labels that tipstaff finds it by stay", user: alice, on: "approvals", new: func(a *v1alpha1.Approval) { a.Labels = nil }, want: "never changes"},
		{name: "a finalizer may go, as the garbage collector does", user: person("system:serviceaccount:kube-system:generic-garbage-collector"), on: "approvals", old: func(a *v1alpha1.Approval) { a.Finalizers = []string{"foregroundDeletion"} }, new: func(a *v1alpha1.Approval) { a.Finalizers = nil }},
		{name: "tipstaff opens an approval", user: tipstaff, self: "tipstaff", on: "approvals", op: "CREATE"},
		{name: "tipstaff opens none that is decided", user: tipstaff, self: "tipstaff", on: "approvals", op: "CREATE", new: decide(approve), want: "undecided"},
		{name: "while tipstaff's own name is unknown, nobody is tipstaff", user: person(""), on: "approvals", op: "CREATE", want: "by tipstaff only"},
		{name: "a person opens no approval", user: alice, on: "approvals", op: "CREATE", want: "by tipstaff only"},
		{name: "a cluster admin opens no approval", user: root, on: "approvals", op: "CREATE", want: "by tipstaff only"},
		{name: "tipstaff uses an approved one", user: tipstaff, self: "tipstaff", old: decide(approve), new: use},
		{name: "tipstaff uses none that is pending", user: tipstaff, self: "tipstaff", new: use, want: "not used"},
		{name: "tipstaff uses none twice", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: func(a *v1alpha1.Approval) { a.Status.Use = &v1alpha1.Use{RequestUID: "2"} }, want: "used once"},
		{name: "tipstaff uses one again, as its next try", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: retried},
		{name: "not while it changes the count", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: both(retried, func(a *v1alpha1.Approval) { a.Status.Use.Tries = 5 }), want: "used once"},
		{name: "not on another object", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: both(retried, func(a *v1alpha1.Approval) { a.Status.Use.ObjectUID = "p" }), want: "used once"},
		{name: "not past the bound", user: tipstaff, self: "tipstaff", old: both(decide(approve), use, func(a *v1alpha1.Approval) { a.Status.Use.Tries = maxTries }), new: retried, want: "used once"},
		{name: "not one that expired", user: tipstaff, self: "tipstaff", old: both(decide(approve), use, expired), new: retried, want: "used once"},
		{name: "not one that lacks votes", user: tipstaff, self: "tipstaff", old: use, new: retried, want: "used once"},
		{name: "not while it cancels", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: both(retried, cancel), want: "used once"},
		{name: "no use is taken back", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: func(a *v1alpha1.Approval) { a.Status.Use = nil }, want: "used once"},
		{name: "a first use has no outcome", user: tipstaff, self: "tipstaff", old: decide(approve), new: both(use, outcome), want: "starts without"},
		{name: "tipstaff says how a request ended", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: outcome},
		{name: "it says so once", user: tipstaff, self: "tipstaff", old: both(decide(approve), use, outcome), new: func(a *v1alpha1.Approval) { a.Status.Use.Outcome = &v1alpha1.Outcome{Code: 409} }, want: "used once"},
		{name: "it takes no outcome back", user: tipstaff, self: "tipstaff", old: both(decide(approve), use, outcome), new: func(a *v1alpha1.Approval) { a.Status.Use.Outcome = nil }, want: "used once"},
		{name: "it changes nothing else with that", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: both(outcome, func(a *v1alpha1.Approval) { a.Status.Use.At = metav1.NewTime(noon) }), want: "used once"},
		{name: "an approver says no outcome", user: alice, old: both(decide(approve), use), new: outcome, want: "by tipstaff only"},
		{name: "tipstaff itself decides nothing", user: tipstaff, self: "tipstaff", new: decide(decision("tipstaff", v1alpha1.VerdictApprove)), want: "decides nothing"},
		{name: "tipstaff cancels what is pending", user: tipstaff, self: "tipstaff", new: cancel},
		{name: "tipstaff cancels what is approved and unused", user: tipstaff, self: "tipstaff", old: decide(approve), new: cancel},
		{name: "tipstaff cancels nothing that was used", user: tipstaff, self: "tipstaff", old: both(decide(approve), use), new: cancel, want: "not cancelled"},
		{name: "tipstaff cancels nothing that was denied", user: tipstaff, self: "tipstaff", old: decide(decision("alice", v1alpha1.VerdictDeny)), new: cancel, want: "not cancelled"},
		{name: "tipstaff cancels nothing that expired", user: tipstaff, self: "tipstaff", old: expired, new: cancel, want: "not cancelled"},
		{name: "a cancellation is not taken back, by tipstaff neither", user: tipstaff, self: "tipstaff", old: cancel, new: func(a *v1alpha1.Approval) { a.Status.Cancelled = nil }, want: "stays cancelled"},
		{name: "a cancellation is not altered", user: tipstaff, self: "tipstaff", old: cancel, new: func(a *v1alpha1.Approval) {
			a.Status.Cancelled = &v1alpha1.Cancellation{At: at, Reason: "other"}
		}, want: "stays cancelled"},
		{name: "a cancelled approval is not used", user: tipstaff, self: "tipstaff", old: both(decide(approve), cancel), new: use, want: "not used"},
		{name: "an approval is not used and cancelled at once", user: tipstaff, self: "tipstaff", old: decide(approve), new: both(use, cancel), want: "not used"},
		{name: "tipstaff decides nothing while it cancels", user: tipstaff, self: "tipstaff", new: both(cancel, decide(decision("tipstaff", v1alpha1.VerdictDeny))), want: "decides nothing"},
		{name: "an approver cancels nothing", user: alice, new: cancel, want: "by tipstaff only"},
		{name: "an approver revives nothing", user: alice, old: cancel, new: func(a *v1alpha1.Approval) { a.Status.Cancelled = nil }, want: "by tipstaff only"},
		{name: "a cancelled approval is not decided", user: alice, old: cancel, new: decide(approve), want: "cancelled"},
		{name: "tipstaff opens none that is cancelled", user: tipstaff, self: "tipstaff", on: "approvals", op: "CREATE", new: cancel, want: "undecided"},
		{name: "nobody gives an approval an owner", user: alice, on: "approvals", new: func(a *v1alpha1.Approval) {
			a.OwnerReferences = []metav1.OwnerReference{{Kind: "Namespace", Name: "x", UID: "x"}}
		}, want: "ownerReferences"},
		{name: "tipstaff keeps the phase", user: tipstaff, self: "tipstaff", new: func(a *v1alpha1.Approval) { a.Status.Phase = v1alpha1.PhasePending }},
		{name: "tipstaff removes what is over", user: tipstaff, self: "tipstaff", on: "approvals", op: "DELETE"},
		{name: "a cluster admin may clean up", user: root, on: "approvals", op: "DELETE"},
		{name: "an approver removes nothing", user: alice, on: "approvals", op: "DELETE", want: "system:masters"},
		{name: "an unknown subresource is refused", user: alice, on: "approvals/scale", want: "not a change that tipstaff knows"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := change{operation: "UPDATE", resource: "approvals", subresource: "status", user: tt.user}
			if tt.op != "" {
				c.operation = tt.op
			}
			if tt.on != "" {
				c.resource, c.subresource, _ = strings.Cut(tt.on, "/")
			}
			old, is := pending(), pending()
			for _, a := range []*v1alpha1.Approval{old, is} {
				if tt.old != nil {
					tt.old(a)
				}
			}
			if tt.new != nil {
				tt.new(is)
			}
			if c.operation != "CREATE" {
				c.old = old
			}
			if c.operation != "DELETE" {
				c.new = is
			}
			got := refusal(c, bounds, tt.self, noon)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func decide(d v1alpha1.Decision) func(*v1alpha1.Approval) {
	return func(a *v1alpha1.Approval) { a.Status.Decisions = append(a.Status.Decisions, d) }
}

func quorum(n int32) func(*v1alpha1.Approval) {
	return func(a *v1alpha1.Approval) { a.Spec.Quorum = n }
}

func use(a *v1alpha1.Approval) { a.Status.Use = &v1alpha1.Use{RequestUID: "1"} }

func retried(a *v1alpha1.Approval) {
	was := a.Status.Use
	a.Status.Use = &v1alpha1.Use{RequestUID: "2", Tries: was.Tries + 1, ObjectUID: was.ObjectUID}
}

func outcome(a *v1alpha1.Approval) { a.Status.Use.Outcome = &v1alpha1.Outcome{Code: 403} }

func expired(a *v1alpha1.Approval) { a.Spec.ExpiresAt = metav1.NewTime(noon) }

func both(fs ...func(*v1alpha1.Approval)) func(*v1alpha1.Approval) {
	return func(a *v1alpha1.Approval) {
		for _, f := range fs {
			f(a)
		}
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	approve := decide(decision("alice", v1alpha1.VerdictApprove))
	tests := []struct {
		name string
		make func(*v1alpha1.Approval)
		want v1alpha1.Phase
	}{
		{"nothing decided is pending", both(), v1alpha1.PhasePending},
		{"one approval of one is approved", approve, v1alpha1.PhaseApproved},
		{"one approval of two is pending", both(quorum(2), approve), v1alpha1.PhasePending},
		{"one person twice is one vote", both(quorum(2), approve, approve), v1alpha1.PhasePending},
		{"two people of two are approved", both(quorum(2), approve, decide(decision("bob", v1alpha1.VerdictApprove))), v1alpha1.PhaseApproved},
		{"one denial ends it", both(approve, decide(decision("bob", v1alpha1.VerdictDeny))), v1alpha1.PhaseDenied},
		{"a denial stays one after the end", both(decide(decision("bob", v1alpha1.VerdictDeny)), expired), v1alpha1.PhaseDenied},
		{"approved and not used in time is expired", both(approve, expired), v1alpha1.PhaseExpired},
		{"undecided in time is expired", expired, v1alpha1.PhaseExpired},
		{"used is used for ever", both(approve, use, expired), v1alpha1.PhaseUsed},
		{"a quorum of zero approves nothing", quorum(0), v1alpha1.PhasePending},
		{"an agent's word that got past the guard counts for nothing", decide(decision("agent:ci:other", v1alpha1.VerdictApprove)), v1alpha1.PhasePending},
		{"the owner's word counts for nothing", decide(decision("olga", v1alpha1.VerdictApprove)), v1alpha1.PhasePending},
		{"a phase that somebody wrote counts for nothing", func(a *v1alpha1.Approval) { a.Status.Phase = v1alpha1.PhaseApproved }, v1alpha1.PhasePending},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := pending()
			tt.make(a)
			if got := State(a, noon); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// glass names the groups that may break it.
func glass(groups ...string) func(*v1alpha1.Approval) {
	return func(a *v1alpha1.Approval) { a.Spec.BreakGlass = groups }
}

// alone is an approval past the quorum.
func alone(by string) v1alpha1.Decision {
	d := decision(by, v1alpha1.VerdictApprove)
	d.BreakGlass = true
	return d
}
