package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const realValue = "the-real-value-4c1d"

// planted makes a namespace with a Secret whose values nobody else has.
func planted(t *testing.T) (ns string) {
	t.Helper()
	ns = namespace(t)
	must(t, shared.Admin, "create", "secret", "generic", "real", "-n", ns, "--from-literal=key="+realValue, "--from-literal=pin=1234")
	must(t, shared.Admin, "create", "configmap", "shown", "-n", ns, "--from-literal=password="+realValue, "--from-literal=level=debug")
	return ns
}

// approving approves all that is held of a until the test ends.
func (a agent) approving(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	t.Cleanup(func() { cancel(); done.Wait() })
	done.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		tried := map[string]bool{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			all, err := shared.Approvals(ctx, a.run)
			if err != nil {
				continue // the test's own wait ends it
			}
			for _, ap := range all {
				if ap.Status.Phase == v1alpha1.PhasePending && !tried[ap.Name] {
					tried[ap.Name] = shared.Tipstaff(ctx, shared.Alice, "approve", ap.Name).OK()
				}
			}
		}
	})
}

// counted counts the requests that a client makes.
type counted struct {
	mu   sync.Mutex
	urls []*url.URL
}

// wrap is for rest.Config.Wrap.
func (a *counted) wrap(next http.RoundTripper) http.RoundTripper {
	return transport.WrapperFunc(func(rt http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			a.mu.Lock()
			a.urls = append(a.urls, r.URL)
			a.mu.Unlock()
			return rt.RoundTrip(r)
		})
	})(next)
}

// with gives how many had all of params in their query.
func (a *counted) with(params ...string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, u := range a.urls {
		if !slices.ContainsFunc(params, func(p string) bool { return !strings.Contains(u.RawQuery, p) }) {
			n++
		}
	}
	return n
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// restConfig is how a Go program of the agent's connects.
func (a agent) restConfig(t *testing.T) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", string(a.proxied))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Informers as every controller has them: typed, in protobuf or JSON, by a
// streamed list or, as before it, by list and watch.
func TestInformersWorkThroughTheProxy(t *testing.T) {
	t.Parallel()
	for _, contentType := range []string{"application/vnd.kubernetes.protobuf", "application/json"} {
		t.Run(contentType, func(t *testing.T) {
			t.Parallel()
			ns := planted(t)
			cfg := newAgent(t).restConfig(t)
			cfg.ContentType = contentType
			var asked counted
			cfg.Wrap(asked.wrap)
			kube, err := kubernetes.NewForConfig(cfg)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(ns))
			secrets := factory.Core().V1().Secrets()
			events := make(chan string, 100)
			if _, err := secrets.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(o any) { events <- "added " + describe(o) },
				UpdateFunc: func(_, o any) { events <- "updated " + describe(o) },
				DeleteFunc: func(o any) { events <- "deleted " + describe(o) },
			}); err != nil {
				t.Fatal(err)
			}
			maps := factory.Core().V1().ConfigMaps().Lister()
			pods := factory.Core().V1().Pods().Informer()
			factory.StartWithContext(ctx)
			defer factory.Shutdown()
			defer cancel()
			for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
				if !ok {
					t.Fatalf("%v never came in step", kind)
				}
			}
			if n := asked.with("sendInitialEvents=true", "watch=true"); n < 3 {
				t.Errorf("%d streamed lists, want one for each kind: %v", n, asked.urls)
			}
			comes := func(want string) {
				t.Helper()
				for {
					select {
					case got := <-events:
						leaks(t, "an informer's event", got, realValue)
						if strings.Contains(got, want) {
							return
						}
					case <-ctx.Done():
						t.Fatalf("%q never came", want)
					}
				}
			}
			comes("added real ")
			must(t, shared.Admin, "label", "secret", "real", "-n", ns, "a=b")
			comes("updated real map[a:b]")
			must(t, shared.Admin, "delete", "secret", "real", "-n", ns)
			comes("deleted real ")
			shown, err := maps.ConfigMaps(ns).Get("shown")
			if err != nil || shown.Data["level"] != "debug" || !strings.HasPrefix(shown.Data["password"], "tipstaff-masked-") {
				t.Errorf("the cache has %v, %v", shown, err)
			}
			if !pods.HasSynced() {
				t.Error("pods aren't in step")
			}
			// By pages, as clients before streamed lists.
			list, err := kube.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{Limit: 1})
			if err != nil || len(list.Items) != 1 || list.Continue == "" {
				t.Errorf("a page: %v, %v", list, err)
			}
		})
	}
}

// describe gives a Secret's name, labels and values.
func describe(o any) string {
	s, ok := o.(*corev1.Secret)
	if !ok {
		return fmt.Sprintf("%T", o)
	}
	return fmt.Sprintf("%s %v %s", s.Name, s.Labels, s.Data)
}

// A controller that gets a Secret, changes something else in it and updates it
// does the values no harm.
func TestI8_AControllerThatUpdatesSecretsDoesNoHarm(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayChange(t, "secrets")
	a.approving(t)
	ns := planted(t)
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	mgr, err := ctrl.NewManager(a.restConfig(t), ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"},
		Cache: ctrlcache.Options{DefaultNamespaces: map[string]ctrlcache.Config{ns: {}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	kube := mgr.GetClient()
	done := make(chan struct{})
	var once sync.Once
	reconciler := reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
		var s corev1.Secret
		if err := kube.Get(ctx, req.NamespacedName, &s); err != nil {
			return reconcile.Result{}, ctrlclient.IgnoreNotFound(err)
		}
		if s.Annotations["controller"] == "was here" {
			once.Do(func() { close(done) })
			return reconcile.Result{}, nil
		}
		s.Annotations = map[string]string{"controller": "was here"}
		return reconcile.Result{}, kube.Update(ctx, &s)
	})
	if err := ctrl.NewControllerManagedBy(mgr).For(&corev1.Secret{}).Named(slug(t)).Complete(reconciler); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	select {
	case <-done:
	case err := <-ended:
		t.Fatalf("the manager ended: %v", err)
	case <-ctx.Done():
		t.Fatal("the Secret was never updated")
	}
	a.values(t, ns, realValue+"1234")

	// The other ways that controllers write.
	own := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "real", Namespace: ns}}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		_, err := controllerutil.CreateOrUpdate(ctx, kube, own, func() error {
			own.Annotations["controller"] = "was here"
			own.Labels = map[string]string{"create": "or-update"}
			return nil
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	before := own.DeepCopy()
	own.Labels["merge"] = "patch"
	if err := kube.Patch(ctx, own, ctrlclient.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	a.values(t, ns, realValue+"1234")
	if got := must(t, shared.Admin, "get", "secret", "real", "-n", ns, "-o", "jsonpath={.metadata.labels}{.metadata.annotations}"); got != `{"create":"or-update","merge":"patch"}{"controller":"was here"}` {
		t.Errorf("the Secret has %s", got)
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the manager ended: %v", err)
	}
}

// The Python client, in Debian's package python3-kubernetes.
func TestThePythonClientWorksThroughTheProxy(t *testing.T) {
	t.Parallel()
	const python = "/usr/bin/python3"
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import kubernetes").CombinedOutput(); err != nil {
		t.Fatalf("the Python client is missing, `make test` installs it (or apt-get install python3-kubernetes): %s", out)
	}
	a := newAgent(t)
	a.mayChange(t, "secrets")
	a.approving(t)
	ns := planted(t)
	must(t, shared.Admin, "create", "secret", "generic", "second", "-n", ns, "--from-literal=key="+realValue)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, filepath.Join("testdata", "client.py"), ns)
	cmd.Env = shared.Env(a.proxied)
	out, err := cmd.Output()
	if err != nil {
		if failed := new(exec.ExitError); errors.As(err, &failed) {
			t.Fatalf("%v: %s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	leaks(t, "what the Python client saw", string(out), realValue)
	var seen struct {
		Read     map[string]string
		Listed   []map[string]string
		Paged    int
		Config   map[string]string
		Replaced map[string]string
		Patched  map[string]string
		Watched  [][]any
		Missing  int
		Groups   []string
	}
	if err := json.Unmarshal(out, &seen); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if key, err := base64.StdEncoding.DecodeString(seen.Read["key"]); err != nil || !strings.HasPrefix(string(key), "tipstaff-masked-") {
		t.Errorf("it read %v", seen.Read)
	}
	if len(seen.Listed) != 2 || seen.Paged != 2 || len(seen.Watched) != 2 || seen.Watched[0][0] != "ADDED" || seen.Config["level"] != "debug" ||
		seen.Replaced["python"] != "replaced" || seen.Patched["python"] != "patched" || seen.Missing != http.StatusNotFound || !slices.Contains(seen.Groups, "apps") {
		t.Errorf("it saw %s", out)
	}
	a.values(t, ns, realValue+"1234")
}

// kubectl edit changes what it is told to, and nothing that is masked.
func TestI8_KubectlEdit(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayChange(t, "secrets,configmaps")
	a.approving(t)
	ns := planted(t)
	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i -e 's/^  name: \\(real\\|shown\\)$/&\\n  labels: {edited: by-hand}/' -e 's/level: debug/level: info/' \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, object := range []string{"secret/real", "configmap/shown"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, filepath.Join(shared.Root, "bin", "kubectl"), "edit", object, "-n", ns)
		cmd.Env = append(shared.Env(a.proxied), "KUBE_EDITOR="+editor)
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil || !strings.Contains(string(out), "edited") {
			t.Fatalf("edit %s: %v: %s", object, err, out)
		}
	}
	a.values(t, ns, realValue+"1234")
	if got := must(t, shared.Admin, "get", "configmap", "shown", "-n", ns, "-o", "jsonpath={.data.password} {.data.level} {.metadata.labels.edited}"); got != realValue+" info by-hand" {
		t.Errorf("the ConfigMap has %q", got)
	}
	if got := must(t, shared.Admin, "get", "secret", "real", "-n", ns, "-o", "jsonpath={.metadata.labels.edited}"); got != "by-hand" {
		t.Errorf("the Secret's label is %q", got)
	}
}

// An aggregated API, which the API server passes on to another: kubectl top and
// discovery work, and what it answers is masked too.
func TestAggregatedAPIsWorkThroughTheProxy(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	answers := map[string]string{
		"/apis/metrics.k8s.io/v1beta1": `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"metrics.k8s.io/v1beta1","resources":[
			{"name":"pods","singularName":"","namespaced":true,"kind":"PodMetrics","verbs":["get","list"]}]}`,
		"/apis/metrics.k8s.io/v1beta1/namespaces/" + ns + "/pods": `{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1","metadata":{},"items":[
			{"metadata":{"name":"busy","namespace":"` + ns + `","annotations":{"api-token":"` + realValue + `"}},"timestamp":"2026-11-24T00:00:00Z","window":"30s",
			"containers":[{"name":"c","usage":{"cpu":"250m","memory":"64Mi"}}]}]}`,
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, known := answers[r.URL.Path]
		w.Header().Set("Content-Type", "application/json")
		if !known {
			w.WriteHeader(http.StatusNotFound)
			body = `{"kind":"Status","apiVersion":"v1","status":"Failure","code":404}`
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	must(t, shared.Admin, "create", "-f", writeFile(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"List","items":[
		{"apiVersion":"v1","kind":"Service","metadata":{"name":"metrics","namespace":%q},"spec":{"type":"ExternalName","externalName":"localhost"}},
		{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1beta1.metrics.k8s.io"},"spec":{
			"group":"metrics.k8s.io","version":"v1beta1","groupPriorityMinimum":100,"versionPriority":100,"insecureSkipTLSVerify":true,
			"service":{"name":"metrics","namespace":%q,"port":%s}}}]}`, ns, ns, port)))
	defer func() { _ = kubectl(t, shared.Admin, "delete", "apiservice", "v1beta1.metrics.k8s.io") }()
	must(t, shared.Admin, "wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=30s")
	a := newAgent(t)
	eventually(t, 30*time.Second, func() error {
		if r := kubectl(t, a.proxied, "top", "pods", "-n", ns); !strings.Contains(r.Stdout, "250m") || !strings.Contains(r.Stdout, "64Mi") {
			return errors.New(r.Output())
		}
		return nil
	})
	eventually(t, 30*time.Second, func() error {
		if r := kubectl(t, a.proxied, "api-resources", "--api-group=metrics.k8s.io"); !strings.Contains(r.Stdout, "PodMetrics") {
			return errors.New(r.Output())
		}
		return nil
	})
	raw := must(t, a.proxied, "get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/"+ns+"/pods")
	leaks(t, "an aggregated API's answer", raw, realValue)
	if !strings.Contains(raw, "tipstaff-masked-") {
		t.Errorf("not masked: %s", raw)
	}
}

// Everything that kubectl reads with, and a rollout, through the proxy.
func TestKubectlWorksThroughTheProxy(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayAll(t)
	a.approving(t)
	ns := planted(t)
	file := writeFile(t, app)
	one := writeFile(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"made","namespace":%q},"data":{"a":"c"}}`, ns))
	for _, step := range []struct {
		line string
		want string
	}{
		{"apply -f FILE", "created"}, {"apply -f FILE", "unchanged"}, {"apply --server-side --force-conflicts -f FILE", "serverside-applied"},
		{"get all -o wide", "deployment.apps/app"}, {"get deployment app -o jsonpath={.metadata.name}", "app"},
		{"get deployment app -o custom-columns=N:.metadata.name,R:.spec.replicas", "app"}, {"get deployment app -o go-template={{.metadata.name}}", "app"},
		{"get deployments -o name", "deployment.apps/app"}, {"get deployments --sort-by=.metadata.name --show-labels", "app"},
		{"describe deployment app", "Pod Template"}, {"describe configmap shown", "tipstaff-masked-"}, {"describe secret real", "key"},
		{"get secrets -o wide", "real"}, {"get secret real -o yaml", "dGlwc3RhZmYtbWFza2Vk"}, {"get secret real -o json --show-managed-fields", "managedFields"},
		{"explain deployment.spec.replicas", "replicas"}, {"api-resources", "deployments"}, {"api-versions", "apps/v1"}, {"version", "Server Version"},
		{"auth can-i list pods", "yes"}, {"auth can-i --list", "Resources"}, {"auth whoami", a.run}, {"cluster-info", "is running at"},
		{"rollout status deployment/app --watch=false", ""}, {"rollout history deployment/app", "REVISION"},
		{"set image deployment/app c=example.invalid/app:9", "image updated"}, {"rollout restart deployment/app", "restarted"}, {"rollout undo deployment/app", "rolled back"},
		{"scale deployment app --replicas=3", "scaled"}, {"label deployment app a=b", "labeled"}, {"annotate deployment app a=b", "annotated"},
		{"wait --for=jsonpath={.spec.replicas}=3 deployment/app --timeout=20s", "condition met"}, {"events", ""}, {"get events -A", ""},
		{"create configmap made --from-literal=a=b", "created"}, {"replace -f MAP", "replaced"}, {"delete configmap made", "deleted"},
		{"get --raw /version", "gitVersion"}, {"get --raw /openapi/v2", "swagger"}, {"get --raw /openapi/v3", "paths"}, {"get --raw /livez", "ok"},
		{"get crd", "approvals.tipstaff.dev"}, {"get approvals", ""},
	} {
		args := strings.Fields(strings.NewReplacer("FILE", file, "MAP", one).Replace(step.line))
		r := kubectl(t, a.proxied, append(args, "-n", ns)...)
		if !r.OK() || !strings.Contains(r.Output(), step.want) {
			t.Errorf("kubectl %s: code %d: %.2000s; want %q", step.line, r.Code, r.Output(), step.want)
		}
		leaks(t, "kubectl "+step.line, r.Output(), realValue)
	}
	// It ends with 1 where something differs.
	if r := kubectl(t, a.proxied, "diff", "-n", ns, "-f", writeFile(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shown","namespace":%q},"data":{"level":"info"}}`, ns))); r.Code != 1 || !strings.Contains(r.Stdout, "level: info") {
		t.Errorf("diff: code %d: %s", r.Code, r.Output())
	} else {
		leaks(t, "diff", r.Output(), realValue)
	}
}

// helm reads its own records, which are Secrets: it installs and lists, says
// that it can't read them where it must, and breaks none.
func TestHelmThroughTheProxy(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayAll(t)
	a.approving(t)
	ns, charted := namespace(t), chart(t)
	run := func(as string, args ...string) (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		kubeconfig := a.proxied
		if as == "admin" {
			kubeconfig = shared.Admin
		}
		r := shared.Helm(ctx, kubeconfig, append(args, "-n", ns)...)
		return r.Output(), r.OK()
	}
	for _, args := range [][]string{{"template", "shop", charted}, {"install", "shop", charted}} {
		if out, ok := run("agent", args...); !ok {
			t.Fatalf("helm %v: %s", args, out)
		}
	}
	for _, args := range [][]string{{"upgrade", "shop", charted, "--set", "level=debug"}, {"get", "manifest", "shop"}} {
		if out, ok := run("agent", args...); ok {
			t.Errorf("helm %v read a masked record? %s", args, out)
		}
	}
	if out, ok := run("admin", "status", "shop"); !ok || !strings.Contains(out, "deployed") {
		t.Errorf("the release is harmed: %s", out)
	}
	if out, ok := run("admin", "upgrade", "shop", charted, "--set", "level=debug"); !ok {
		t.Errorf("the release is harmed: %s", out)
	}
}
