package bindings_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// grant makes one of an hour, unless spec says otherwise.
func grant(t *testing.T, spec v1alpha1.GrantSpec) *v1alpha1.Grant {
	t.Helper()
	if spec.TTL.Duration == 0 {
		spec.TTL.Duration = time.Hour
	}
	spec.Reason = "a test"
	g := &v1alpha1.Grant{ObjectMeta: metav1.ObjectMeta{Name: unique(t)}, Spec: spec}
	if err := own.Create(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // while its controllers still run: nothing is left to the next test
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := own.Delete(ctx, g); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
		_ = wait.PollUntilContextCancel(ctx, 10*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			l, err := kube.RbacV1().RoleBindings("").List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelGrant + "=" + string(g.UID)})
			return err == nil && len(l.Items) == 0, nil
		}) // the garbage collector is still there
	})
	return g
}

func readGrant(t *testing.T, g *v1alpha1.Grant) (*v1alpha1.Grant, error) {
	t.Helper()
	var now v1alpha1.Grant
	return &now, own.Get(t.Context(), client.ObjectKeyFromObject(g), &now)
}

func waitPhase(t *testing.T, g *v1alpha1.Grant, want v1alpha1.GrantPhase) *v1alpha1.Grant {
	t.Helper()
	var now *v1alpha1.Grant
	eventually(t, 15*time.Second, func() error {
		var err error
		if now, err = readGrant(t, g); err != nil {
			return err
		}
		if now.Status.Phase != want {
			return fmt.Errorf("the grant's status is %+v, not %s", now.Status, want)
		}
		return nil
	})
	return now
}

func ofGrant(t *testing.T, ns string, g *v1alpha1.Grant) int {
	t.Helper()
	return len(of(t, ns, v1alpha1.LabelGrant, string(g.UID)))
}

func noBindings(t *testing.T, ns string, g *v1alpha1.Grant) {
	t.Helper()
	eventually(t, 15*time.Second, func() error {
		if n := len(of(t, ns, v1alpha1.LabelGrant, string(g.UID))); n > 0 {
			return fmt.Errorf("%d bindings are left", n)
		}
		return nil
	})
}

func TestGrantsOfEachKind(t *testing.T) {
	agents := &clusteragents.Config{ServiceAccounts: []string{"work/builder"}, Namespaces: []string{"bots"}}
	start(t, options{agents: agents})
	start(t, options{agents: agents})
	ns := namespace(t)
	run, other := agent(t), agent(t)
	other.User = "agent:platform:other"
	sameAgent := agent(t)
	account := v1alpha1.Agent{User: "system:serviceaccount:work:builder"}
	for _, tc := range []struct {
		name    string
		spec    v1alpha1.GrantSpec
		who     v1alpha1.Agent
		groups  []string
		nobody  v1alpha1.Agent
		nogroup []string
	}{
		{"a run, directly", v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, Path: v1alpha1.PathDirect}, run, nil, sameAgent, sameAgent.ProxiedGroups()},
		{"a run, through the proxy only", v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer}, run, run.ProxiedGroups(), run, nil},
		{"an agent, directly", v1alpha1.GrantSpec{Agent: run.User, Path: v1alpha1.PathDirect}, sameAgent, nil, other, other.ProxiedGroups()},
		{"an agent, through the proxy only", v1alpha1.GrantSpec{Agent: run.User, Path: v1alpha1.PathProxy}, sameAgent, sameAgent.ProxiedGroups(), sameAgent, nil},
		{"a service account that is an agent", v1alpha1.GrantSpec{Agent: account.User, Path: v1alpha1.PathDirect}, account, nil, other, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns := namespace(t)
			tc.spec.ClusterRole, tc.spec.Namespaces = reader, []string{ns}
			g := grant(t, tc.spec)
			now := waitPhase(t, g, v1alpha1.GrantActive)
			if now.Status.ExpiresAt == nil || !now.Status.ExpiresAt.Time.Equal(g.ExpiresAt()) {
				t.Errorf("it ends at %v, not %v", now.Status.ExpiresAt, g.ExpiresAt())
			}
			// Active says that it is in force.
			if err := lists(t.Context(), as(t, tc.who, tc.groups...), ns); err != nil {
				t.Errorf("the one who got it: %v", err)
			}
			if err := lists(t.Context(), as(t, tc.nobody, tc.nogroup...), ns); !apierrors.IsForbidden(err) {
				t.Errorf("another: %v", err)
			}
			if err := own.Delete(t.Context(), g); err != nil {
				t.Fatal(err)
			}
			noBindings(t, ns, g)
		})
	}
	for name, spec := range map[string]v1alpha1.GrantSpec{
		"a person":                            {Agent: "alice", Path: v1alpha1.PathDirect},
		"a system user":                       {Agent: "system:admin", Path: v1alpha1.PathDirect},
		"no whole username":                   {Agent: "agent:platform", Path: v1alpha1.PathDirect},
		"a service account that is no agent":  {Agent: "system:serviceaccount:work:other", Path: v1alpha1.PathDirect},
		"a service account through the proxy": {Agent: account.User},
		"a pod's run":                         {Run: "0b7e", Issuer: v1alpha1.IssuerKubernetes, Path: v1alpha1.PathDirect},
		"a role that isn't allowed":           {Run: run.Run, Issuer: run.Issuer, ClusterRole: outside},
		"a namespace that isn't allowed":      {Run: run.Run, Issuer: run.Issuer, Namespaces: []string{"kube-system"}},
		"longer than allowed":                 {Run: run.Run, Issuer: run.Issuer, TTL: metav1.Duration{Duration: 9 * time.Hour}},
		"for no time":                         {Run: run.Run, Issuer: run.Issuer, TTL: metav1.Duration{Duration: -time.Hour}},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			if spec.ClusterRole == "" {
				spec.ClusterRole = reader
			}
			if spec.Namespaces == nil {
				spec.Namespaces = []string{ns}
			}
			g := grant(t, spec)
			now := waitPhase(t, g, v1alpha1.GrantRefused)
			if now.Status.Message == "" {
				t.Error("it doesn't say why")
			}
			if n := ofGrant(t, spec.Namespaces[0], g); n > 0 {
				t.Errorf("%d bindings", n)
			}
		})
	}
}

func TestAGrantEnds(t *testing.T) {
	brief := limits
	brief.Retention = metav1.Duration{Duration: 2 * time.Second}
	start(t, options{limits: &brief})
	start(t, options{limits: &brief})
	ns, run := namespace(t), agent(t)
	g := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns}, TTL: metav1.Duration{Duration: 3 * time.Second}})
	waitPhase(t, g, v1alpha1.GrantActive)
	waitPhase(t, g, v1alpha1.GrantExpired)
	if time.Now().Before(g.ExpiresAt()) {
		t.Error("before its time")
	}
	noBindings(t, ns, g)
	eventually(t, 10*time.Second, func() error {
		if _, err := readGrant(t, g); !apierrors.IsNotFound(err) {
			return fmt.Errorf("after the retention: %w", err)
		}
		return nil
	})
	if time.Now().Before(g.ExpiresAt().Add(2 * time.Second)) {
		t.Error("it was removed before the retention was over")
	}
}

// Its end comes while no tipstaff runs.
func TestAGrantEndsWhileNobodyIsThere(t *testing.T) {
	_, stop := start(t, options{})
	ns, run := namespace(t), agent(t)
	g := grant(t, v1alpha1.GrantSpec{
		Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns}, Path: v1alpha1.PathDirect,
		TTL: metav1.Duration{Duration: 3 * time.Second},
	})
	waitPhase(t, g, v1alpha1.GrantActive)
	stop()
	for time.Now().Before(g.ExpiresAt().Add(100 * time.Millisecond)) {
		<-time.After(50 * time.Millisecond)
	}
	if ofGrant(t, ns, g) != 1 {
		t.Fatal("the binding went before the controller came back")
	}
	start(t, options{})
	noBindings(t, ns, g)
	waitPhase(t, g, v1alpha1.GrantExpired)
	eventually(t, 5*time.Second, func() error {
		if err := lists(t.Context(), as(t, run), ns); !apierrors.IsForbidden(err) {
			return fmt.Errorf("after its end: %w", err)
		}
		return nil
	})
}

func TestI9_ARevokedGrantStaysRevoked(t *testing.T) {
	rev := &revocations{}
	c, _ := start(t, options{revoked: rev})
	start(t, options{revoked: rev})
	ns, run := namespace(t), agent(t)
	byRun := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns}})
	byAgent := grant(t, v1alpha1.GrantSpec{Agent: run.User, ClusterRole: reader, Namespaces: []string{ns}})
	waitPhase(t, byRun, v1alpha1.GrantActive)
	waitPhase(t, byAgent, v1alpha1.GrantActive)
	rev.set(v1alpha1.RevocationSpec{Run: run.Run, Reason: "went astray"})
	now := waitPhase(t, byRun, v1alpha1.GrantRevoked)
	if !strings.Contains(now.Status.Message, "went astray") || now.Status.ExpiresAt == nil || !now.Status.ExpiresAt.Time.Before(byRun.ExpiresAt()) {
		t.Errorf("status %+v", now.Status)
	}
	noBindings(t, ns, byRun)
	if now, err := readGrant(t, byAgent); err != nil || now.Status.Phase != v1alpha1.GrantActive {
		t.Errorf("the agent's: %+v, %v", now.Status, err)
	}
	rev.set(v1alpha1.RevocationSpec{Agent: run.User, Reason: "all of it"})
	waitPhase(t, byAgent, v1alpha1.GrantRevoked)
	noBindings(t, ns, byAgent)
	rev.set()
	// A later event has them judged again.
	if err := own.Patch(t.Context(), byRun.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"touched":"1"}}}`))); err != nil {
		t.Fatal(err)
	}
	if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err != nil { // one round through the queue
		t.Fatal(err)
	}
	if now, err := readGrant(t, byRun); err != nil || now.Status.Phase != v1alpha1.GrantRevoked || ofGrant(t, ns, byRun) != 0 {
		t.Errorf("after the revocation ended: %+v, %v", now.Status, err)
	}

	// By the owner, whom only the run's bindings tell.
	g := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: writer, Namespaces: []string{ns}})
	waitPhase(t, g, v1alpha1.GrantActive)
	rev.set(v1alpha1.RevocationSpec{Owner: run.Owner, Reason: "left the house"})
	waitPhase(t, g, v1alpha1.GrantRevoked)
	noBindings(t, ns, g)
	gone(t, 5*time.Second, ns, run)
}

func TestAGrantWaitsForItsNamespace(t *testing.T) {
	start(t, options{})
	run, ns, later := agent(t), namespace(t), unique(t)
	g := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns, later}, Path: v1alpha1.PathDirect})
	now := waitPhase(t, g, v1alpha1.GrantActive)
	if !strings.Contains(now.Status.Message, later) {
		t.Errorf("message %q", now.Status.Message)
	}
	if err := lists(t.Context(), as(t, run), ns); err != nil {
		t.Error(err)
	}
	if r := shared.Kubectl(t.Context(), shared.Admin, "create", "namespace", later); !r.OK() {
		t.Fatal(r.Output())
	}
	eventually(t, 20*time.Second, func() error { return lists(t.Context(), as(t, run), later) })
	eventually(t, 20*time.Second, func() error {
		if now, err := readGrant(t, g); err != nil || now.Status.Message != "" {
			return fmt.Errorf("%+v, %w", now.Status, err)
		}
		return nil
	})
}

// A binding of a grant that somebody deletes or changes comes back.
func TestAGrantsBindingByHand(t *testing.T) {
	start(t, options{})
	run, ns := agent(t), namespace(t)
	g := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns}, Path: v1alpha1.PathDirect})
	waitPhase(t, g, v1alpha1.GrantActive)
	b := of(t, ns, v1alpha1.LabelGrant, string(g.UID))[0]
	if len(b.OwnerReferences) != 1 || b.OwnerReferences[0].UID != g.UID {
		t.Errorf("owners %+v", b.OwnerReferences)
	}
	patch(t, b, `{"subjects":[{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"others"}]}`)
	eventually(t, 15*time.Second, func() error { return lists(t.Context(), as(t, run), ns) })
	if err := kube.RbacV1().RoleBindings(ns).Delete(t.Context(), b.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, func() error {
		if ofGrant(t, ns, g) != 1 {
			return fmt.Errorf("not back")
		}
		return nil
	})
	// One more under its label, that it doesn't ask for.
	extra := b.DeepCopy()
	extra.Name, extra.UID, extra.ResourceVersion = "extra", "", ""
	if _, err := kube.RbacV1().RoleBindings(ns).Create(t.Context(), extra, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, func() error {
		if bs := of(t, ns, v1alpha1.LabelGrant, string(g.UID)); len(bs) != 1 || bs[0].Name != b.Name {
			return fmt.Errorf("bindings %+v", bs)
		}
		return nil
	})
}

// Two replicas whose configurations differ, as while one is replaced, don't
// write by turns as fast as they can.
func TestReplicasThatDisagree(t *testing.T) {
	old := limits
	old.ClusterRoles = []string{writer}
	start(t, options{limits: &old})
	start(t, options{})
	run, ns := agent(t), namespace(t)
	g := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns}})
	waitPhase(t, g, v1alpha1.GrantActive)
	waitPhase(t, g, v1alpha1.GrantRefused)
	from, err := readGrant(t, g)
	if err != nil {
		t.Fatal(err)
	}
	_, versions := versionsIn(t, 5*time.Second, g)
	if versions > 8 {
		t.Errorf("%d versions of the grant in 5 s from %s on", versions, from.ResourceVersion)
	}
}

// versionsIn counts the versions of g that are seen in d.
func versionsIn(t *testing.T, d time.Duration, g *v1alpha1.Grant) (last string, n int) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		now, err := readGrant(t, g)
		if err != nil {
			t.Fatal(err)
		}
		if now.ResourceVersion != last {
			last = now.ResourceVersion
			n++
		}
	}
	return last, n
}

func TestAGrantIsWrittenOnce(t *testing.T) {
	var asked countingTransport
	cfg := rest.CopyConfig(admin)
	cfg.Wrap(asked.wrap)
	start(t, options{as: cfg})
	run, ns := agent(t), namespace(t)
	g := grant(t, v1alpha1.GrantSpec{
		Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns},
		TTL: metav1.Duration{Duration: time.Hour + 500*time.Millisecond}, // a status holds whole seconds
	})
	waitPhase(t, g, v1alpha1.GrantActive)
	if err := own.Patch(t.Context(), g.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"touched":"1"}}}`))); err != nil {
		t.Fatal(err)
	}
	versionsIn(t, 3*time.Second, g) // longer than two writes are kept apart
	if n := asked.count(http.MethodPut, "/grants/"+g.Name+"/status"); n != 1 {
		t.Errorf("%d writes of a grant that stands", n)
	}
}

// Where no webhook holds what agents ask for, that a grant exists says nothing of
// anybody's consent.
func TestI2_WithoutAWebhookNoGrantIsGiven(t *testing.T) {
	start(t, options{unguarded: true})
	run, ns := agent(t), namespace(t)
	g := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns}, Path: v1alpha1.PathDirect})
	if now := waitPhase(t, g, v1alpha1.GrantRefused); !strings.Contains(now.Status.Message, "webhook") {
		t.Errorf("it doesn't say why: %q", now.Status.Message)
	}
	if n := ofGrant(t, ns, g); n > 0 {
		t.Errorf("%d bindings were made", n)
	}
}

// The configuration changes, one way and back.
func TestAGrantFollowsTheConfiguration(t *testing.T) {
	run, ns := agent(t), namespace(t)
	fewer := limits
	fewer.ClusterRoles = []string{writer}
	_, stop := start(t, options{})
	g := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: reader, Namespaces: []string{ns}, Path: v1alpha1.PathDirect})
	waitPhase(t, g, v1alpha1.GrantActive)
	stop()
	_, stop = start(t, options{limits: &fewer})
	waitPhase(t, g, v1alpha1.GrantRefused)
	noBindings(t, ns, g)
	stop()
	start(t, options{})
	waitPhase(t, g, v1alpha1.GrantActive)
	if err := lists(t.Context(), as(t, run), ns); err != nil {
		t.Error(err)
	}
}
