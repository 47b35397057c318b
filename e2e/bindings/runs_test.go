package bindings_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/authn/bindings"
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

func hour() time.Time { return time.Now().Add(time.Hour) }

// Fifty runs at once, each asked for on two replicas at the same time: each
// one's very first request is authorised.
func TestFirstRequestIsAuthorised(t *testing.T) {
	one, _ := start(t, options{})
	two, _ := start(t, options{})
	a, b := namespace(t), namespace(t)
	const runs = 50
	var group sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	begin := make(chan struct{})
	for range runs {
		run := agent(t)
		ac := append(in(reader, a, b), in(writer, a)...)
		client := as(t, run) // ready before: only the request is left
		var once sync.Once
		for _, c := range []*bindings.Controller{one, two} {
			group.Go(func() {
				<-begin
				began := time.Now()
				if err := c.Ensure(t.Context(), run, ac, hour()); err != nil {
					t.Errorf("run %s: %v", run.Run, err)
					return
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
				for _, ns := range []string{a, b} {
					if err := lists(t.Context(), client, ns); err != nil {
						t.Errorf("the first request of run %s: %v", run.Run, err)
					}
				}
				once.Do(func() {
					err := client.CoreV1().ConfigMaps(b).Delete(t.Context(), "none", metav1.DeleteOptions{})
					if !apierrors.IsForbidden(err) {
						t.Errorf("run %s may write where it was given only reading: %v", run.Run, err)
					}
				})
			})
		}
	}
	close(begin)
	group.Wait()
	slices.Sort(took)
	if len(took) > 0 {
		t.Logf("%d Ensures of 3 bindings at once: median %s, last %s", len(took), took[len(took)/2], took[len(took)-1])
	}
}

func TestOneAfterTheOther(t *testing.T) {
	c, _ := start(t, options{})
	ns := namespace(t)
	var took []time.Duration
	for range 50 {
		run := agent(t)
		client := as(t, run)
		began := time.Now()
		if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		if err := lists(t.Context(), client, ns); err != nil {
			t.Fatalf("the first request: %v", err)
		}
	}
	slices.Sort(took)
	t.Logf("one binding: median %s, slowest %s", took[25], took[49])
}

func TestEachPathHasItsGroup(t *testing.T) {
	c, _ := start(t, options{})
	ns, run := namespace(t), agent(t)
	err := c.Ensure(t.Context(), run, []v1alpha1.Access{{ClusterRole: reader, Namespaces: []string{ns}}}, hour())
	if err != nil {
		t.Fatal(err)
	}
	if err := lists(t.Context(), as(t, run), ns); !apierrors.IsForbidden(err) {
		t.Errorf("on the direct path: %v", err)
	}
	if err := lists(t.Context(), as(t, run, run.ProxiedGroups()...), ns); err != nil {
		t.Errorf("through the proxy: %v", err)
	}
}

func TestTheWholeCluster(t *testing.T) {
	c, _ := start(t, options{})
	run := agent(t)
	ac := slices.Concat(in(reader, "*"), in(paths, "*"), in(named, "*"), in(empty, "*"), in(missing, "*"))
	if err := c.Ensure(t.Context(), run, ac, hour()); err != nil {
		t.Fatal(err)
	}
	if n := len(ofRun(t, "", run)); n != 5 {
		t.Errorf("%d bindings", n)
	}
	client := as(t, run)
	if err := lists(t.Context(), client, ""); err != nil {
		t.Error(err)
	}
	if err := client.RESTClient().Get().AbsPath("/tipstaff-test/x").Do(t.Context()).Error(); !apierrors.IsNotFound(err) {
		t.Errorf("a path that the role allows: %v", err)
	}
}

// A repeated Ensure asks nobody: it answers while the API server refuses us.
func TestRepeatedEnsureAsksNobody(t *testing.T) {
	var asked countingTransport
	cfg := rest.CopyConfig(admin)
	cfg.Wrap(asked.wrap)
	c, _ := start(t, options{as: cfg})
	ns, run := namespace(t), agent(t)
	ac, until := in(reader, ns), hour()
	if err := c.Ensure(t.Context(), run, ac, until); err != nil {
		t.Fatal(err)
	}
	before := asked.writes()
	for i := range 100 { // a token a second
		run.CredentialID = fmt.Sprint("JTI=", i)
		if err := c.Ensure(t.Context(), run, ac, until.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.writes() - before; n != 0 {
		t.Errorf("%d calls", n)
	}
	if err := c.Ensure(t.Context(), run, ac, until.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	bs := ofRun(t, ns, run)
	if len(bs) != 1 || !expires(t, bs[0]).After(until.Add(time.Hour)) {
		t.Errorf("not extended: %+v", bs)
	}
	if n := asked.writes() - before; n != 1 {
		t.Errorf("the extension took %d calls", n)
	}
}

func TestFiftyReviewsOfOneRunMakeItOnce(t *testing.T) {
	var asked countingTransport
	cfg := rest.CopyConfig(admin)
	cfg.Wrap(asked.wrap)
	c, _ := start(t, options{as: cfg})
	ns, run := namespace(t), agent(t)
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := asked.count(http.MethodPost, "/rolebindings"); n != 1 {
		t.Errorf("made %d times", n)
	}
}

func TestExpiry(t *testing.T) {
	short := limits
	short.Grace = metav1.Duration{Duration: time.Second}
	c, _ := start(t, options{limits: &short})
	ns, run, stays := namespace(t), agent(t), agent(t)
	until := time.Now().Add(time.Second)
	if err := c.Ensure(t.Context(), run, in(reader, ns), until); err != nil {
		t.Fatal(err)
	}
	if err := c.Ensure(t.Context(), stays, in(reader, ns), hour()); err != nil {
		t.Fatal(err)
	}
	gone(t, 10*time.Second, ns, run)
	if time.Now().Before(until.Add(time.Second)) {
		t.Error("it went before its time")
	}
	if len(ofRun(t, ns, stays)) != 1 {
		t.Error("another went too")
	}
	if err := c.Ensure(t.Context(), run, in(reader, ns), time.Now().Add(-time.Minute)); err == nil {
		t.Error("an expired token gets bindings")
	}
}

func TestI9_RevocationTakesBindings(t *testing.T) {
	rev := &revocations{}
	c, _ := start(t, options{revoked: rev})
	ns, run, stays := namespace(t), agent(t), agent(t)
	for _, r := range []v1alpha1.Agent{run, stays} {
		if err := c.Ensure(t.Context(), r, slices.Concat(in(reader, ns), in(writer, ns), in(reader, "*")), hour()); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	rev.set(v1alpha1.RevocationSpec{Run: run.Run, Reason: "test"})
	gone(t, 5*time.Second, ns, run)
	gone(t, 5*time.Second, "", run)
	t.Logf("revoked, and the bindings were gone after %s", time.Since(began))
	if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); !errors.Is(err, bindings.ErrRevoked) {
		t.Errorf("a revoked run: %v", err)
	}
	if len(ofRun(t, ns, run)) != 0 {
		t.Error("a revoked run gets bindings")
	}
	if len(ofRun(t, ns, stays)) != 2 {
		t.Error("another run's went too")
	}
	rev.set()
	if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err != nil {
		t.Fatalf("after the revocation ended: %v", err)
	}
	if err := lists(t.Context(), as(t, run), ns); err != nil {
		t.Fatal(err)
	}
}

// Revoked at any moment of the making, on any replica: nothing stays.
func TestI9_NothingStaysOfARevokedRun(t *testing.T) {
	rev := &revocations{}
	late := &revocations{} // a replica that hears of it later
	one, _ := start(t, options{revoked: rev})
	two, _ := start(t, options{revoked: late})
	ns := namespace(t)
	for i := range 30 {
		run := agent(t)
		spec := v1alpha1.RevocationSpec{Run: run.Run, Reason: "test"}
		var group sync.WaitGroup
		for _, c := range []*bindings.Controller{one, two} {
			group.Go(func() {
				err := c.Ensure(t.Context(), run, slices.Concat(in(reader, ns), in(writer, ns)), hour())
				_ = err // made or refused, by the moment
			})
		}
		<-time.After(time.Duration(i) * 500 * time.Microsecond) // another moment each time
		rev.set(spec)
		group.Wait()
		if err := one.Ensure(t.Context(), run, in(reader, ns), hour()); !errors.Is(err, bindings.ErrRevoked) {
			t.Fatalf("a revoked run: %v", err)
		}
		late.set(spec)
		gone(t, 5*time.Second, ns, run)
	}
}

func TestI9_UnknownRevocationsRefuse(t *testing.T) {
	c, _ := start(t, options{revoked: &revocations{err: errors.New("not known yet")}})
	ns, run := namespace(t), agent(t)
	if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err == nil {
		t.Error("bound without knowing whether it is revoked")
	}
	if len(ofRun(t, ns, run)) != 0 {
		t.Error("something was made")
	}
}

// What ended while nobody was there goes at the next start, and so does what
// the configuration doesn't allow any more.
func TestACrashLeavesNothing(t *testing.T) {
	short := limits
	short.Grace = metav1.Duration{Duration: time.Second}
	ns := namespace(t)
	c, stop := start(t, options{limits: &short})
	ended, stays := agent(t), agent(t)
	if err := c.Ensure(t.Context(), ended, slices.Concat(in(reader, ns), in(reader, "*")), time.Now().Add(500*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := c.Ensure(t.Context(), stays, slices.Concat(in(reader, ns), in(writer, ns)), hour()); err != nil {
		t.Fatal(err)
	}
	bad := put(t, ns, "tipstaff-run-unreadable", map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelRunKey: "00"}, nil)
	foreign := put(t, ns, "someone-elses", map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}, nil)
	stop()
	if len(ofRun(t, ns, ended)) != 1 {
		t.Fatal("the binding went before the controller was stopped")
	}
	for time.Now().Before(expires(t, ofRun(t, ns, ended)[0])) {
		<-time.After(100 * time.Millisecond)
	}
	fewer := short
	fewer.ClusterRoles = []string{reader}
	if _, stop = start(t, options{limits: &fewer}); stop == nil {
		t.Fatal()
	}
	gone(t, 10*time.Second, ns, ended)
	gone(t, 10*time.Second, "", ended)
	eventually(t, 10*time.Second, func() error {
		if bs := ofRun(t, ns, stays); len(bs) != 1 || bs[0].RoleRef.Name != reader {
			return fmt.Errorf("left of the other run: %d bindings", len(bs))
		}
		_, err := kube.RbacV1().RoleBindings(ns).Get(t.Context(), bad, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("a binding that says no end: %w", err)
		}
		return nil
	})
	if _, err := kube.RbacV1().RoleBindings(ns).Get(t.Context(), foreign, metav1.GetOptions{}); err != nil {
		t.Errorf("a binding that is no run's and no grant's: %v", err)
	}
}

func TestByHand(t *testing.T) {
	c, _ := start(t, options{})
	for _, tc := range []struct {
		name  string
		spoil func(*testing.T, rbacv1.RoleBinding)
	}{
		{"deleted", func(t *testing.T, b rbacv1.RoleBinding) {
			if err := kube.RbacV1().RoleBindings(b.Namespace).Delete(t.Context(), b.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
		{"given to another", func(t *testing.T, b rbacv1.RoleBinding) {
			patch(t, b, `{"subjects":[{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"others"}]}`)
		}},
		{"without its labels", func(t *testing.T, b rbacv1.RoleBinding) { patch(t, b, `{"metadata":{"labels":null}}`) }},
		{"of another run by its label", func(t *testing.T, b rbacv1.RoleBinding) {
			patch(t, b, `{"metadata":{"labels":{"tipstaff.dev/run-key":"0011"}}}`)
		}},
		{"without its end", func(t *testing.T, b rbacv1.RoleBinding) {
			patch(t, b, `{"metadata":{"annotations":{"tipstaff.dev/expires-at":"never"}}}`)
		}},
		{"replaced by one of another role", func(t *testing.T, b rbacv1.RoleBinding) {
			if err := kube.RbacV1().RoleBindings(b.Namespace).Delete(t.Context(), b.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			b.ResourceVersion, b.UID, b.RoleRef.Name = "", "", outside
			if _, err := kube.RbacV1().RoleBindings(b.Namespace).Create(t.Context(), &b, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ns, run := namespace(t), agent(t)
			if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err != nil {
				t.Fatal(err)
			}
			before := ofRun(t, ns, run)
			if len(before) != 1 {
				t.Fatalf("%d bindings", len(before))
			}
			tc.spoil(t, before[0])
			eventually(t, 5*time.Second, func() error {
				if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err != nil {
					return err
				}
				bs := ofRun(t, ns, run)
				if len(bs) != 1 || len(bs[0].Subjects) != 2 || bs[0].Subjects[0].Name != v1alpha1.GroupAccessPrefix+run.AccessKey || bs[0].RoleRef.Name != reader {
					return fmt.Errorf("the binding is not put right: %+v", bs)
				}
				_, err := time.Parse(time.RFC3339, bs[0].Annotations[v1alpha1.AnnotationExpiresAt])
				return err
			})
			if err := lists(t.Context(), as(t, run), ns); err != nil {
				t.Error(err)
			}
		})
	}
}

// What somebody gave to others is taken back before the run comes again.
func TestI1_GivenToOthersIsTakenBack(t *testing.T) {
	c, _ := start(t, options{})
	ns, run := namespace(t), agent(t)
	if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err != nil {
		t.Fatal(err)
	}
	patch(t, ofRun(t, ns, run)[0], `{"subjects":[{"kind":"Group","apiGroup":"rbac.authorization.k8s.io","name":"others"}]}`)
	eventually(t, 5*time.Second, func() error {
		bs := ofRun(t, ns, run)
		if len(bs) != 1 || len(bs[0].Subjects) != 2 || bs[0].Subjects[0].Name != v1alpha1.GroupAccessPrefix+run.AccessKey {
			return fmt.Errorf("bindings %+v", bs)
		}
		return nil
	})
}

// A name of ours taken by an object that isn't: nothing is bound by it.
func TestI1_AForeignObjectOfOurName(t *testing.T) {
	c, _ := start(t, options{})
	ns, run := namespace(t), agent(t)
	if err := c.Ensure(t.Context(), run, in(reader, ns), hour()); err != nil {
		t.Fatal(err)
	}
	name := ofRun(t, ns, run)[0].Name
	other := namespace(t)
	put(t, other, name, nil, nil) // role outside
	err := c.Ensure(t.Context(), run, in(reader, other), hour())
	if err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("a foreign object: %v", err)
	}
	if b, err := kube.RbacV1().RoleBindings(other).Get(t.Context(), name, metav1.GetOptions{}); err != nil || b.RoleRef.Name != outside {
		t.Errorf("it was replaced: %+v, %v", b, err)
	}
}

func TestMissingNamespaces(t *testing.T) {
	c, _ := start(t, options{})
	ns, run, later := namespace(t), agent(t), unique(t)
	ending := namespace(t)
	// A finalizer keeps it ending.
	_, err := kube.CoreV1().ConfigMaps(ending).Create(t.Context(), configMap("holds", "tipstaff.dev/test"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = kube.CoreV1().ConfigMaps(ending).Patch(context.Background(), "holds", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	})
	if err := kube.CoreV1().Namespaces().Delete(t.Context(), ending, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ac := in(reader, ns, later, ending)
	if err := c.Ensure(t.Context(), run, ac, hour()); err != nil {
		t.Fatal(err)
	}
	if err := lists(t.Context(), as(t, run), ns); err != nil {
		t.Errorf("where the namespace is there: %v", err)
	}
	if r := shared.Kubectl(t.Context(), shared.Admin, "create", "namespace", later); !r.OK() {
		t.Fatal(r.Output())
	}
	eventually(t, 5*time.Second, func() error { // it is tried again each second
		if err := c.Ensure(t.Context(), run, ac, hour()); err != nil {
			return err
		}
		return lists(t.Context(), as(t, run), later)
	})
}

func TestI1_OnlyWithinTheLimits(t *testing.T) {
	c, _ := start(t, options{limits: &access.Limits{ClusterRoles: []string{reader}}})
	ns := namespace(t)
	for name, ac := range map[string][]v1alpha1.Access{
		"a role that isn't listed":   in(outside, ns),
		"cluster-admin":              in("cluster-admin", ns),
		"the whole cluster":          in(reader, "*"),
		"kube-system":                in(reader, "kube-system"),
		"one good, one bad":          append(in(reader, ns), in(writer, ns)...),
		"a path that doesn't exist":  {{ClusterRole: reader, Namespaces: []string{ns}, Path: "both"}},
		"a name that isn't one":      in(reader, "../x"),
		"no namespace":               in(reader),
		"everywhere and a namespace": in(reader, "*", ns),
	} {
		run := agent(t)
		if err := c.Ensure(t.Context(), run, ac, hour()); err == nil {
			t.Errorf("%s: bound", name)
		}
		for _, where := range []string{ns, ""} {
			if bs := ofRun(t, where, run); len(bs) > 0 {
				t.Errorf("%s: %d bindings", name, len(bs))
			}
		}
	}
}

func TestNotInStepRefuses(t *testing.T) {
	c, err := bindings.New(admin, limits, nil, &revocations{}, newLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ensure(t.Context(), agent(t), in(reader, "default"), hour()); !errors.Is(err, bindings.ErrNotSynced) {
		t.Errorf("got %v", err)
	}
}

// ownRules are all that the controller needs, and what `tipstaff manifests` must give.
func ownRules(roles ...string) []rbacv1.PolicyRule {
	rbac := []string{rbacv1.GroupName}
	return []rbacv1.PolicyRule{
		{APIGroups: rbac, Resources: []string{"rolebindings", "clusterrolebindings"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}},
		{APIGroups: rbac, Resources: []string{"clusterroles"}, Verbs: []string{"bind", "get"}, ResourceNames: roles},
		{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{"grants"}, Verbs: []string{"list", "watch", "delete"}},
		{APIGroups: []string{v1alpha1.Group}, Resources: []string{"grants/status"}, Verbs: []string{"update"}},
	}
}

// limited is a config of somebody with ownRules and nothing else.
func limited(t *testing.T, roles ...string) *rest.Config {
	t.Helper()
	name := unique(t)
	_, err := kube.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: ownRules(roles...)}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.CopyConfig(admin)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: name}
	return cfg
}

func TestI1_OwnRightsAreEnoughAndNoMore(t *testing.T) {
	cfg := limited(t, reader, writer)
	// The configuration names more than the rights: that fails, closed.
	rev := &revocations{}
	c, _ := start(t, options{as: cfg, revoked: rev})
	ns, run := namespace(t), agent(t)
	if err := c.Ensure(t.Context(), run, slices.Concat(in(reader, ns, "absent"), in(writer, ns)), hour()); err != nil {
		t.Fatal(err)
	}
	if err := c.Ensure(t.Context(), run, in(reader, "*"), hour()); err != nil {
		t.Fatal(err)
	}
	if err := lists(t.Context(), as(t, run), ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Ensure(t.Context(), run, in(reader, ns), hour().Add(time.Hour)); err != nil {
		t.Fatalf("extend: %v", err)
	}
	err := c.Ensure(t.Context(), run, in(named, ns), hour())
	if !apierrors.IsForbidden(err) {
		t.Errorf("bind a role without the right to: %v", err)
	}
	g := grant(t, v1alpha1.GrantSpec{Run: run.Run, Issuer: run.Issuer, ClusterRole: writer, Namespaces: []string{ns}, Path: v1alpha1.PathDirect})
	waitPhase(t, g, v1alpha1.GrantActive)
	rev.set(v1alpha1.RevocationSpec{Run: run.Run, Reason: "test"})
	gone(t, 5*time.Second, ns, run)
	gone(t, 5*time.Second, "", run)
	waitPhase(t, g, v1alpha1.GrantRevoked)

	// And the rights give nothing of the sort to Tipstaff itself.
	tipstaff, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tipstaff.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "escape-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "anyone"}},
	}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("bind cluster-admin: %v", err)
	}
}

// What stands in the object says whose it is, and nothing of the token.
func TestWhatABindingTells(t *testing.T) {
	c, _ := start(t, options{})
	ns, run := namespace(t), agent(t)
	until := hour()
	if err := c.Ensure(t.Context(), run, in(reader, ns), until); err != nil {
		t.Fatal(err)
	}
	b := ofRun(t, ns, run)[0]
	var a v1alpha1.Agent
	if err := json.Unmarshal([]byte(b.Annotations[v1alpha1.AnnotationAgent]), &a); err != nil {
		t.Fatal(err)
	}
	want := run
	want.CredentialID = ""
	if a != want {
		t.Errorf("agent %+v", a)
	}
	if at := expires(t, b); at.Before(until.Add(limits.GraceOrDefault())) || at.After(until.Add(limits.GraceOrDefault()+2*time.Second)) {
		t.Errorf("expires at %s, the token at %s", at, until)
	}
}
