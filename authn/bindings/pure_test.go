package bindings

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// unasked is a server that no test here may reach.
var unasked = &rest.Config{Host: "http://127.0.0.1:0"}

type revoker func(v1alpha1.Agent) (string, bool, error)

func (f revoker) Revoked(a v1alpha1.Agent) (string, bool, error) { return f(a) }
func (revoker) Subscribe(func()) func()                          { return func() {} }

func nobody(v1alpha1.Agent) (string, bool, error) { return "", false, nil }

func newController(t testing.TB, r revoker) *Controller {
	c, err := New(unasked, access.Limits{ClusterRoles: []string{"view", "edit"}, ClusterWide: true},
		&clusteragents.Config{ServiceAccounts: []string{"work/builder"}}, r, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.queue.ShutDown)
	c.view.synced = [2]bool{true, true}
	return c
}

var coder = v1alpha1.Agent{User: "agent:platform:coder", Issuer: "platform", Run: "run:1/a", Owner: "ada", AccessKey: "00aa", CredentialID: "JTI=1"}

func TestI1_SubjectsOfARun(t *testing.T) {
	t.Parallel()
	bs := forRun(coder, []v1alpha1.Access{
		{ClusterRole: "view", Namespaces: []string{"a", "b"}},
		{ClusterRole: "view", Namespaces: []string{"b"}, Path: v1alpha1.PathProxy}, // once more
		{ClusterRole: "view", Namespaces: []string{"a"}, Path: v1alpha1.PathDirect},
		{ClusterRole: "edit", Namespaces: []string{"*"}, Path: v1alpha1.PathDirect},
	})
	want := []struct{ namespace, role, group string }{
		{"a", "view", "tipstaff:proxied:access:00aa"},
		{"b", "view", "tipstaff:proxied:access:00aa"},
		{"a", "view", "tipstaff:access:00aa"},
		{"", "edit", "tipstaff:access:00aa"},
	}
	if len(bs) != len(want) {
		t.Fatalf("%d bindings", len(bs))
	}
	seen := map[string]bool{}
	for i, b := range bs {
		o := b.object(time.Now())
		if o.Namespace != want[i].namespace || o.RoleRef.Name != want[i].role || o.RoleRef.Kind != "ClusterRole" {
			t.Errorf("binding %d is %s of %s", i, b.key, o.RoleRef.Name)
		}
		if len(validation.IsDNS1123Subdomain(o.Name)) > 0 {
			t.Errorf("name %q", o.Name)
		}
		probe := "tipstaff:binding:" + b.String()
		if len(o.Subjects) != 2 || o.Subjects[0] != group(want[i].group) || o.Subjects[1] != group(probe) {
			t.Errorf("subjects %+v", o.Subjects)
		}
		if seen[probe] {
			t.Errorf("%s proves two bindings", probe)
		}
		seen[probe] = true
		if text := o.Annotations[v1alpha1.AnnotationAgent]; strings.Contains(text, "JTI") || !strings.Contains(text, "ada") {
			t.Errorf("agent %s", text)
		}
		if !b.holds(newEntry(o), time.Now()) {
			t.Errorf("binding %d isn't what it was made as", i)
		}
	}
}

func TestNamesDiffer(t *testing.T) {
	t.Parallel()
	names := map[string]string{}
	for _, run := range []string{"1", "2"} {
		for _, issuer := range []string{"a", "b"} {
			for _, role := range []string{"view", "edit", "proxy", "direct"} {
				for _, p := range []v1alpha1.Path{v1alpha1.PathProxy, v1alpha1.PathDirect} {
					what := strings.Join([]string{issuer, run, role, string(p)}, " ")
					n := forRun(v1alpha1.Agent{Issuer: issuer, Run: run}, []v1alpha1.Access{{ClusterRole: role, Namespaces: []string{"x"}, Path: p}})[0].name
					if other, taken := names[n]; taken {
						t.Errorf("%s and %s are both %s", what, other, n)
					}
					names[n] = what
				}
			}
		}
	}
}

func TestI1_SubjectsOfAGrant(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		spec v1alpha1.GrantSpec
		want rbacv1.Subject
	}{
		{"a run on the direct path", v1alpha1.GrantSpec{Run: "1", Issuer: "i", Path: v1alpha1.PathDirect}, group("tipstaff:run:i:1")},
		{"a run through the proxy", v1alpha1.GrantSpec{Run: "1", Issuer: "i", Path: v1alpha1.PathProxy}, group("tipstaff:proxied:run:i:1")},
		{"no path is the proxy", v1alpha1.GrantSpec{Run: "1", Issuer: "i"}, group("tipstaff:proxied:run:i:1")},
		{"an agent on the direct path", v1alpha1.GrantSpec{Agent: "agent:i:x", Path: v1alpha1.PathDirect}, rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "agent:i:x"}},
		{"an agent through the proxy", v1alpha1.GrantSpec{Agent: "agent:i:x"}, group("tipstaff:proxied:agent:agent:i:x")},
	} {
		tc.spec.ClusterRole, tc.spec.Namespaces = "view", []string{"a"}
		g := &v1alpha1.Grant{ObjectMeta: metav1.ObjectMeta{Name: "g", UID: "u-1"}, Spec: tc.spec}
		bs := forGrant(g)
		if len(bs) != 1 || bs[0].subject != tc.want {
			t.Errorf("%s: %+v", tc.name, bs)
			continue
		}
		o := bs[0].object(time.Now())
		if o.Labels[v1alpha1.LabelGrant] != "u-1" || len(o.OwnerReferences) != 1 || o.OwnerReferences[0].UID != "u-1" {
			t.Errorf("%s: it doesn't go with its grant: %+v", tc.name, o.ObjectMeta)
		}
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := forRun(coder, []v1alpha1.Access{{ClusterRole: "view", Namespaces: []string{"a"}}})[0]
	for _, tc := range []struct {
		name  string
		spoil func(*rbacv1.RoleBinding)
		want  bool
	}{
		{"as it was made", func(*rbacv1.RoleBinding) {}, true},
		{"with more labels and annotations", func(o *rbacv1.RoleBinding) { o.Labels["team"], o.Annotations["note"] = "x", "y" }, true},
		{"told of another task", func(o *rbacv1.RoleBinding) {
			a := coder
			a.Task = "x"
			o.Annotations[v1alpha1.AnnotationAgent] = agentJSON(a)
		}, true},
		{"too short", func(o *rbacv1.RoleBinding) {
			o.Annotations[v1alpha1.AnnotationExpiresAt] = timeText(now.Add(-time.Minute))
		}, false},
		{"without an end", func(o *rbacv1.RoleBinding) { delete(o.Annotations, v1alpha1.AnnotationExpiresAt) }, false},
		{"one subject more", func(o *rbacv1.RoleBinding) { o.Subjects = append(o.Subjects, group("system:authenticated")) }, false},
		{"another subject", func(o *rbacv1.RoleBinding) { o.Subjects[0].Name = "system:authenticated" }, false},
		{"a user instead of a group", func(o *rbacv1.RoleBinding) { o.Subjects[0].Kind = "User" }, false},
		{"without its probe", func(o *rbacv1.RoleBinding) { o.Subjects[1].Name += "x" }, false},
		{"another role", func(o *rbacv1.RoleBinding) { o.RoleRef.Name = "edit" }, false},
		{"a Role of that name", func(o *rbacv1.RoleBinding) { o.RoleRef.Kind = "Role" }, false},
		{"not labelled as ours", func(o *rbacv1.RoleBinding) { delete(o.Labels, v1alpha1.LabelManagedBy) }, false},
		{"a grant's too", func(o *rbacv1.RoleBinding) { o.Labels[v1alpha1.LabelGrant] = "u" }, false},
		{"another run's agent", func(o *rbacv1.RoleBinding) {
			a := coder
			a.Run = "2"
			o.Annotations[v1alpha1.AnnotationAgent] = agentJSON(a)
		}, false},
		{"no agent", func(o *rbacv1.RoleBinding) { o.Annotations[v1alpha1.AnnotationAgent] = "{" }, false},
		{"on its way out", func(o *rbacv1.RoleBinding) { o.DeletionTimestamp = &metav1.Time{Time: now} }, false},
	} {
		o := b.object(now.Add(time.Minute))
		tc.spoil(o)
		if got := b.holds(newEntry(o), now); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
		if tc.want || o.DeletionTimestamp != nil || o.RoleRef != b.roleRef() {
			continue
		}
		fixed := b.repaired(newEntry(o.DeepCopy()), now.Add(time.Minute))
		if !b.holds(newEntry(fixed), now) {
			t.Errorf("%s: not put right: %+v", tc.name, fixed)
		}
	}
}

func TestRepairKeepsWhatOthersAdded(t *testing.T) {
	t.Parallel()
	b := forRun(coder, []v1alpha1.Access{{ClusterRole: "view", Namespaces: []string{"a"}}})[0]
	long := time.Now().Add(time.Hour)
	o := b.object(long)
	o.Labels["team"] = "x"
	o.Subjects = nil
	fixed := b.repaired(newEntry(o), time.Now())
	if fixed.Labels["team"] != "x" || fixed.Annotations[v1alpha1.AnnotationExpiresAt] != timeText(long) {
		t.Errorf("%+v", fixed.ObjectMeta)
	}
}

func TestExpiryIsRoundedUp(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC)
	if got := timeText(at); got != "2026-01-01T00:00:01Z" {
		t.Error(got)
	}
	if got := timeText(at.Truncate(time.Second)); got != "2026-01-01T00:00:00Z" {
		t.Error(got)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	run := forRun(coder, []v1alpha1.Access{{ClusterRole: "view", Namespaces: []string{"a"}}})[0]
	grant := forGrant(&v1alpha1.Grant{ObjectMeta: metav1.ObjectMeta{Name: "g", UID: "u"}, Spec: v1alpha1.GrantSpec{Agent: "agent:i:x", ClusterRole: "view", Namespaces: []string{"a"}}})[0]
	revoked := func(a v1alpha1.Agent) (string, bool, error) { return "x", a.Run == coder.Run, nil }
	unknown := func(v1alpha1.Agent) (string, bool, error) { return "", false, errors.New("unknown") }
	for _, tc := range []struct {
		name    string
		of      binding
		change  func(*rbacv1.RoleBinding)
		revoked revoker
		want    string
		repair  bool
		err     bool
	}{
		{name: "in its time", of: run},
		{name: "of a grant, in its time", of: grant},
		{name: "expired", of: run, change: end(now), want: reasonExpired},
		{name: "of a grant, expired", of: grant, change: end(now.Add(-time.Hour)), want: reasonExpired},
		{name: "revoked", of: run, revoked: revoked, want: reasonRevoked},
		{name: "nobody knows whether it is revoked", of: run, revoked: unknown, err: true},
		{name: "expired, whatever is revoked", of: run, change: end(now), revoked: unknown, want: reasonExpired},
		{name: "of a role that isn't allowed", of: run, change: func(o *rbacv1.RoleBinding) { o.RoleRef.Name = "cluster-admin" }, want: reasonNotAllowed},
		{name: "of a grant, of a role that isn't allowed", of: grant, change: func(o *rbacv1.RoleBinding) { o.RoleRef.Name = "cluster-admin" }, want: reasonNotAllowed},
		{name: "where nothing is allowed", of: run, change: func(o *rbacv1.RoleBinding) { o.Namespace = "kube-system" }, want: reasonNotAllowed},
		{name: "of a Role", of: run, change: func(o *rbacv1.RoleBinding) { o.RoleRef.Kind = "Role" }, want: reasonMalformed},
		{name: "of another allowed role than its name says", of: run, change: func(o *rbacv1.RoleBinding) { o.RoleRef.Name = "edit" }, want: reasonMalformed},
		{name: "without an end", of: run, change: func(o *rbacv1.RoleBinding) { o.Annotations[v1alpha1.AnnotationExpiresAt] = "" }, want: reasonMalformed},
		{name: "of nobody", of: run, change: func(o *rbacv1.RoleBinding) { delete(o.Annotations, v1alpha1.AnnotationAgent) }, want: reasonMalformed},
		{name: "of another run than its label says", of: run, change: func(o *rbacv1.RoleBinding) { o.Labels[v1alpha1.LabelRunKey] = "00" }, want: reasonMalformed},
		{name: "of a run and a grant", of: run, change: func(o *rbacv1.RoleBinding) { o.Labels[v1alpha1.LabelGrant] = "u" }, want: reasonMalformed},
		{name: "of somebody else's program", of: run, change: func(o *rbacv1.RoleBinding) { o.Labels = map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy} }},
		{name: "not ours at all", of: run, change: func(o *rbacv1.RoleBinding) { delete(o.Labels, v1alpha1.LabelManagedBy) }},
		{name: "with other subjects", of: run, change: func(o *rbacv1.RoleBinding) { o.Subjects[0].Name = "system:authenticated" }, repair: true},
	} {
		if tc.revoked == nil {
			tc.revoked = nobody
		}
		o := tc.of.object(now.Add(time.Hour))
		if tc.change != nil {
			tc.change(o)
		}
		v, err := newController(t, tc.revoked).judge(newEntry(o), now)
		if v.remove != tc.want || (v.repair != nil) != tc.repair || (err != nil) != tc.err {
			t.Errorf("%s: %+v, %v", tc.name, v, err)
		}
	}
}

func end(at time.Time) func(*rbacv1.RoleBinding) {
	return func(o *rbacv1.RoleBinding) { o.Annotations[v1alpha1.AnnotationExpiresAt] = timeText(at) }
}

func TestQuestion(t *testing.T) {
	t.Parallel()
	resource := func(a authorizationv1.ResourceAttributes) *authorizationv1.SubjectAccessReviewSpec {
		return &authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: &a}
	}
	path := func(p, verb string) *authorizationv1.SubjectAccessReviewSpec {
		return &authorizationv1.SubjectAccessReviewSpec{NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: p, Verb: verb}}
	}
	urls := rbacv1.PolicyRule{NonResourceURLs: []string{"/logs/*"}, Verbs: []string{"head"}}
	for _, tc := range []struct {
		name      string
		namespace string
		rules     []rbacv1.PolicyRule
		want      *authorizationv1.SubjectAccessReviewSpec
	}{
		{"a resource", "a", []rbacv1.PolicyRule{{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"list"}}},
			resource(authorizationv1.ResourceAttributes{Namespace: "a", Group: "apps", Resource: "deployments", Verb: "list"})},
		{"everything", "", []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}},
			resource(authorizationv1.ResourceAttributes{Resource: "pods", Verb: "get"})},
		{"a subresource of one name", "a", []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods/log"}, ResourceNames: []string{"web", "x"}, Verbs: []string{"get"}}},
			resource(authorizationv1.ResourceAttributes{Namespace: "a", Resource: "pods", Subresource: "log", Name: "web", Verb: "get"})},
		{"a subresource of everything", "a", []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*/scale"}, Verbs: []string{"update"}}},
			resource(authorizationv1.ResourceAttributes{Namespace: "a", Resource: "pods", Subresource: "scale", Verb: "update"})},
		{"a path, in the whole cluster", "", []rbacv1.PolicyRule{urls}, path("/logs/", "head")},
		{"every path", "", []rbacv1.PolicyRule{{NonResourceURLs: []string{"*"}, Verbs: []string{"*"}}}, path("/", "get")},
		{"a path, in a namespace, gives nothing", "a", []rbacv1.PolicyRule{urls}, nil},
		{"the first rule that holds there", "a", []rbacv1.PolicyRule{urls, {}, {Resources: []string{"x"}, Verbs: []string{"get"}}, {APIGroups: []string{""}, Resources: []string{"pods"}}, {APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"watch"}}},
			resource(authorizationv1.ResourceAttributes{Namespace: "a", Resource: "pods", Verb: "watch"})},
		{"no rule", "a", nil, nil},
	} {
		got, ok := question(tc.rules, tc.namespace)
		if ok != (tc.want != nil) {
			t.Errorf("%s: %+v", tc.name, got)
			continue
		}
		if ok {
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(tc.want)
			if string(g) != string(w) {
				t.Errorf("%s: %s, want %s", tc.name, g, w)
			}
		}
	}
}

func TestStanding(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	revoked := func(v1alpha1.Agent) (string, bool, error) { return "gone astray", true, nil }
	unknown := func(v1alpha1.Agent) (string, bool, error) { return "", false, errors.New("unknown") }
	for _, tc := range []struct {
		name    string
		change  func(*v1alpha1.Grant)
		at      time.Duration // after its creation
		revoked revoker
		want    v1alpha1.GrantPhase
		err     bool
	}{
		{name: "in its time", want: v1alpha1.GrantActive},
		{name: "at its end", at: time.Hour, want: v1alpha1.GrantExpired},
		{name: "a moment before", at: time.Hour - 1, want: v1alpha1.GrantActive},
		{name: "revoked", revoked: revoked, want: v1alpha1.GrantRevoked},
		{name: "nobody knows whether it is revoked", revoked: unknown, err: true},
		{name: "revoked once, and the revocation is over", change: was(v1alpha1.GrantRevoked), want: v1alpha1.GrantRevoked},
		{name: "expired by another replica's clock", change: was(v1alpha1.GrantExpired), want: v1alpha1.GrantExpired},
		{name: "refused before, allowed now", change: was(v1alpha1.GrantRefused), want: v1alpha1.GrantActive},
		{name: "refused until its end", change: was(v1alpha1.GrantRefused), at: time.Hour, want: v1alpha1.GrantRefused},
		{name: "of a role that isn't allowed", change: func(g *v1alpha1.Grant) { g.Spec.ClusterRole = "cluster-admin" }, want: v1alpha1.GrantRefused},
		{name: "longer than allowed", change: func(g *v1alpha1.Grant) { g.Spec.TTL.Duration = 100 * time.Hour }, want: v1alpha1.GrantRefused},
		{name: "for no time", change: func(g *v1alpha1.Grant) { g.Spec.TTL.Duration = 0 }, want: v1alpha1.GrantRefused},
		{name: "ended before anybody looked", change: was(""), at: 2 * time.Hour, want: v1alpha1.GrantExpired},
		{name: "for a person", change: to("alice"), want: v1alpha1.GrantRefused},
		{name: "for a system user", change: to("system:kube-controller-manager"), want: v1alpha1.GrantRefused},
		{name: "for a service account that is no agent", change: to("system:serviceaccount:work:other"), want: v1alpha1.GrantRefused},
		{name: "for one that is", change: to("system:serviceaccount:work:builder"), want: v1alpha1.GrantActive},
		{name: "for one that is, of a longer name", change: to("system:serviceaccount:work:builder:x"), want: v1alpha1.GrantRefused},
		{name: "for half a username", change: to("agent:platform:"), want: v1alpha1.GrantRefused},
		{name: "for a pod's run", change: func(g *v1alpha1.Grant) { g.Spec.Issuer = v1alpha1.IssuerKubernetes }, want: v1alpha1.GrantRefused},
		{name: "for a run and an agent", change: func(g *v1alpha1.Grant) { g.Spec.Agent = "agent:a:b" }, want: v1alpha1.GrantRefused},
	} {
		if tc.revoked == nil {
			tc.revoked = nobody
		}
		g := &v1alpha1.Grant{
			ObjectMeta: metav1.ObjectMeta{Name: "g", UID: "u", CreationTimestamp: metav1.NewTime(now)},
			Spec:       v1alpha1.GrantSpec{Run: "1", Issuer: "platform", ClusterRole: "view", Namespaces: []string{"a"}, Path: v1alpha1.PathDirect, TTL: metav1.Duration{Duration: time.Hour}},
		}
		if tc.change != nil {
			tc.change(g)
		}
		got, message, err := newController(t, tc.revoked).standing(g, now.Add(tc.at))
		if got != tc.want || (err != nil) != tc.err {
			t.Errorf("%s: %s (%s), %v", tc.name, got, message, err)
		}
	}
}

func was(p v1alpha1.GrantPhase) func(*v1alpha1.Grant) {
	return func(g *v1alpha1.Grant) { g.Status.Phase = p }
}

func to(agent string) func(*v1alpha1.Grant) {
	return func(g *v1alpha1.Grant) { g.Spec.Run, g.Spec.Issuer, g.Spec.Agent = "", "", agent }
}

// at is a version of one binding.
func at(uid, version string) *rbacv1.RoleBinding {
	o := forRun(coder, []v1alpha1.Access{{ClusterRole: "view", Namespaces: []string{"a"}}})[0].object(time.Now().Add(time.Hour))
	o.UID, o.ResourceVersion = types.UID(uid), version
	return o
}

// What this process wrote and what the watch tells come in any order.
func TestTheLaterVersionStands(t *testing.T) {
	t.Parallel()
	k := key{at("", "").Namespace, at("", "").Name}
	for _, tc := range []struct {
		name string
		do   func(*view, feed)
		want string // uid@version; empty when there is none
	}{
		{"an old event after our write", func(v *view, f feed) { v.put(at("u", "5")); _ = f.Update(at("u", "4")) }, "u@5"},
		{"our answer after a later event", func(v *view, f feed) { _ = f.Add(at("u", "6")); v.put(at("u", "5")) }, "u@6"},
		{"an event after our removal", func(v *view, f feed) {
			v.put(at("u", "5"))
			v.removed(k, "u")
			_ = f.Update(at("u", "5"))
		}, ""},
		{"our removal, told, and made anew", func(v *view, f feed) {
			v.put(at("u", "5"))
			v.removed(k, "u")
			v.put(at("w", "8"))
			_ = f.Delete(at("u", "7"))
		}, "w@8"},
		{"our answer after the event of its end", func(v *view, f feed) {
			_ = f.Add(at("u", "5"))
			_ = f.Delete(at("u", "7"))
			v.put(at("u", "5"))
		}, ""},
		{"it lost its label, and we read it", func(v *view, f feed) {
			_ = f.Add(at("u", "5"))
			_ = f.Delete(at("u", "7"))
			v.put(at("u", "7"))
		}, "u@7"},
		{"the event of the end of one that came back", func(v *view, f feed) { v.put(at("w", "9")); _ = f.Delete(at("u", "7")) }, "w@9"},
		{"a list from before our write", func(v *view, f feed) { v.put(at("u", "5")); _ = f.Replace(nil, "4") }, "u@5"},
		{"a list from after it", func(v *view, f feed) { v.put(at("u", "5")); _ = f.Replace(nil, "6") }, ""},
		{"a list from before our removal", func(v *view, f feed) {
			v.put(at("u", "5"))
			v.removed(k, "u")
			_ = f.Replace([]any{at("u", "5")}, "6")
		}, ""},
		{"a list of the other kind", func(v *view, f feed) {
			v.put(at("u", "5"))
			_ = feed{view: v, wide: true}.Replace(nil, "9")
		}, "u@5"},
	} {
		v := newView(func(*entry) {})
		tc.do(v, feed{view: v})
		got := ""
		if e := v.get(k); e != nil {
			got = string(e.object.UID) + "@" + e.object.ResourceVersion
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if n := len(v.of(string(coder.Key()))); (n == 1) != (tc.want != "") {
			t.Errorf("%s: %d by their run", tc.name, n)
		}
	}
}

func TestLeftIsBounded(t *testing.T) {
	t.Parallel()
	v := newView(func(*entry) {})
	for i := range 3 * maxLeft {
		o := at(string(rune('a'+i%26))+time.Duration(i).String(), "5")
		if err := (feed{view: v}).Delete(o); err != nil {
			t.Fatal(err)
		}
	}
	if len(v.left) > maxLeft {
		t.Errorf("%d are remembered", len(v.left))
	}
}

// A proof is of what was proved.
func TestAProofIsOfItsSubjects(t *testing.T) {
	t.Parallel()
	v := newView(func(*entry) {})
	v.put(at("u", "5")).proof.Store(true)
	later := at("u", "6")
	later.Annotations["x"] = "y"
	if !v.put(later).proof.Load() {
		t.Error("an annotation undoes the proof")
	}
	other := at("u", "7")
	other.Subjects[0].Name = "x"
	if v.put(other).proof.Load() {
		t.Error("other subjects are taken for proved")
	}
	if v.put(at("w", "9")).proof.Load() {
		t.Error("another object is taken for proved")
	}
}

func FuzzAnnotations(f *testing.F) {
	f.Add(agentJSON(coder), timeText(time.Now().Add(time.Hour)), string(coder.Key()))
	f.Add(`{"issuer":"platform","run":"run:1/a","credentialID":"x"}`, "9999-12-31T23:59:59Z", "00")
	f.Add("{", "never", "")
	c := newController(f, nobody)
	f.Fuzz(func(t *testing.T, agent, expires, run string) {
		b := forRun(coder, []v1alpha1.Access{{ClusterRole: "view", Namespaces: []string{"a"}}})[0]
		o := b.object(time.Now())
		o.Annotations = map[string]string{v1alpha1.AnnotationAgent: agent, v1alpha1.AnnotationExpiresAt: expires}
		o.Labels[v1alpha1.LabelRunKey] = run
		e, now := newEntry(o), time.Now()
		v, err := c.judge(e, now)
		if err != nil {
			t.Fatal(err)
		}
		if !e.ours() || v.remove != "" {
			return
		}
		// What stays is of the run that its label and name tell, and has an end.
		if e.agent == nil || e.agent.Key() != coder.Key() || e.agent.CredentialID != "" || !e.expires.After(now) || v.again <= 0 {
			t.Errorf("it stays: %+v until %s", e.agent, e.expires)
		}
		if v.repair != nil && (v.repair.key != b.key || v.repair.subject != b.subject) {
			t.Errorf("it would become %+v", v.repair)
		}
	})
}

func BenchmarkEnsureKnown(b *testing.B) {
	c := newController(b, nobody)
	ac := []v1alpha1.Access{{ClusterRole: "view", Namespaces: []string{"a", "b"}}, {ClusterRole: "edit", Namespaces: []string{"a"}}}
	until := time.Now().Add(time.Hour)
	for _, w := range forRun(coder, ac) {
		o := w.object(until.Add(time.Hour))
		o.UID, o.ResourceVersion = types.UID(w.String()), "1"
		c.view.put(o).proof.Store(true)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Ensure(b.Context(), coder, ac, until); err != nil {
			b.Fatal(err)
		}
	}
}
