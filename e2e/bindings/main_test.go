package bindings_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/authn/bindings"
	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// What all tests use: one control plane, and its admin.
var (
	shared *harness.Cluster
	admin  *rest.Config
	kube   *kubernetes.Clientset
	own    client.Client
)

// No test runs beside another: every controller looks at all bindings and
// grants, whichever test's they are, and judges them by its own limits.
func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c, err := harness.Start(ctx, harness.Options{WithoutTipstaff: true})
	if err != nil {
		fmt.Fprintf(os.Stderr, "start the control plane: %v\n", err)
		return 1
	}
	defer c.Stop()
	shared = c
	if err := prepare(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "prepare the control plane: %v\n", err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "\n%s\n", c.Logs())
	}
	return code
}

func prepare(ctx context.Context) error {
	var err error
	if admin, err = clientcmd.BuildConfigFromFlags("", string(shared.Admin)); err != nil {
		return err
	}
	admin.QPS = -1
	if kube, err = kubernetes.NewForConfig(admin); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, clientgoscheme.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	if r := shared.Kubectl(ctx, shared.Admin, "create", "-f", filepath.Join(shared.Root, "manifests", "crds", "tipstaff.dev_grants.yaml")); !r.OK() {
		return fmt.Errorf("create the CRD: %s", r.Output())
	}
	if r := shared.Kubectl(ctx, shared.Admin, "wait", "--for=condition=Established", "--timeout=60s", "crd/grants.tipstaff.dev"); !r.OK() {
		return fmt.Errorf("wait for the CRD: %s", r.Output())
	}
	if own, err = client.New(admin, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	for name, rules := range map[string][]rbacv1.PolicyRule{
		reader:  {{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list"}}},
		writer:  {{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "delete"}}},
		named:   {{APIGroups: []string{"apps"}, Resources: []string{"deployments/scale"}, ResourceNames: []string{"web"}, Verbs: []string{"update"}}},
		paths:   {{NonResourceURLs: []string{"/tipstaff-test/*"}, Verbs: []string{"get"}}},
		empty:   nil,
		outside: {{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}}},
	} {
		_, err := kube.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	return nil
}

// Roles of the tests. The limits name all but outside, and one that isn't there.
const (
	reader  = "test-reader"
	writer  = "test-writer"
	named   = "test-named"
	paths   = "test-paths"
	empty   = "test-empty"
	missing = "test-missing"
	outside = "test-outside"
)

var limits = access.Limits{ClusterRoles: []string{reader, writer, named, paths, empty, missing}, ClusterWide: true}

// revocations stand for authn's: the tests are of what is made of them.
type revocations struct {
	mu   sync.Mutex
	list []v1alpha1.RevocationSpec
	subs map[int]func()
	next int
	err  error
}

func (r *revocations) Revoked(a v1alpha1.Agent) (string, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.list {
		if rev := (v1alpha1.Revocation{Spec: r.list[i]}); rev.Revokes(a, time.Now()) {
			return r.list[i].Reason, true, nil
		}
	}
	return "", false, r.err
}

func (r *revocations) Subscribe(f func()) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.subs == nil {
		r.subs = map[int]func(){}
	}
	r.next++
	id := r.next
	r.subs[id] = f
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subs, id)
	}
}

// set replaces what is revoked.
func (r *revocations) set(list ...v1alpha1.RevocationSpec) {
	r.mu.Lock()
	r.list = list
	subs := make([]func(), 0, len(r.subs))
	for _, f := range r.subs {
		subs = append(subs, f)
	}
	r.mu.Unlock()
	for _, f := range subs {
		f()
	}
}

// options say how a test's controller differs from the usual.
type options struct {
	as      *rest.Config
	limits  *access.Limits
	agents  *clusteragents.Config
	revoked *revocations
	// unguarded is where no admission webhook holds grants.
	unguarded bool
}

// start runs a controller until the test ends or stop is called.
func start(t *testing.T, o options) (c *bindings.Controller, stop func()) {
	t.Helper()
	began := time.Now()
	defer func() { t.Logf("in step after %s", time.Since(began)) }()
	if o.as == nil {
		o.as = admin
	}
	if o.limits == nil {
		o.limits = &limits
	}
	if o.revoked == nil {
		o.revoked = &revocations{}
	}
	c, err := bindings.New(o.as, *o.limits, o.agents, o.revoked, slog.New(slog.NewTextHandler(logOf(t), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if o.unguarded {
		c.Unguarded()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	eventually(t, 20*time.Second, func() error {
		if !c.HasSynced() {
			return fmt.Errorf("not in step")
		}
		return nil
	})
	return c, stop
}

// logWriter is t's log. It ends with the test.
type logWriter struct{ t *testing.T }

func logOf(t *testing.T) logWriter { return logWriter{t} }

func (w logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

var counter atomic.Int64

var notSlug = regexp.MustCompile("[^a-z0-9]+")

// unique is a name of its own that tells of t.
func unique(t *testing.T) string {
	s := strings.Trim(notSlug.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	return fmt.Sprintf("%s-%d", strings.Trim(s[:min(len(s), 40)], "-"), counter.Add(1))
}

func namespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unique(t)}}
	if _, err := kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func agent(t *testing.T) v1alpha1.Agent {
	return v1alpha1.Agent{User: "agent:platform:coder", Issuer: "platform", Run: unique(t), Owner: "ada", AccessKey: unique(t), CredentialID: "JTI=secret-looking"}
}

func in(role string, namespaces ...string) []v1alpha1.Access {
	return []v1alpha1.Access{{ClusterRole: role, Namespaces: namespaces, Path: v1alpha1.PathDirect}}
}

// as is a client that is a on the direct path, or with more groups.
func as(t *testing.T, a v1alpha1.Agent, groups ...string) *kubernetes.Clientset {
	t.Helper()
	cfg := rest.CopyConfig(admin)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: a.User, Groups: append(a.Groups(), groups...)}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lists tries what role reader gives.
func lists(ctx context.Context, c *kubernetes.Clientset, ns string) error {
	_, err := c.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
	return err
}

// of are the bindings in ns ("" for the whole cluster) with this label.
func of(t *testing.T, ns, label, value string) []rbacv1.RoleBinding {
	t.Helper()
	o := metav1.ListOptions{LabelSelector: label + "=" + value}
	if ns != "" {
		l, err := kube.RbacV1().RoleBindings(ns).List(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return l.Items
	}
	l, err := kube.RbacV1().ClusterRoleBindings().List(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var out []rbacv1.RoleBinding
	for _, b := range l.Items {
		out = append(out, rbacv1.RoleBinding(b))
	}
	return out
}

func ofRun(t *testing.T, ns string, a v1alpha1.Agent) []rbacv1.RoleBinding {
	t.Helper()
	return of(t, ns, v1alpha1.LabelRunKey, string(a.Key()))
}

// gone waits until no binding of a run is left in ns.
func gone(t *testing.T, within time.Duration, ns string, a v1alpha1.Agent) {
	t.Helper()
	eventually(t, within, func() error {
		if bs := ofRun(t, ns, a); len(bs) > 0 {
			return fmt.Errorf("%d bindings are left", len(bs))
		}
		return nil
	})
}

// eventually polls until check says nil.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, within, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("not within %s: %v", within, last)
	}
}
