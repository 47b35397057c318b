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
	"github.com/tipstaff-dev/tipstaff/e2e/harness"
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

// So does a Deployment whose environment is masked in part: what is changed
// beside it is changed, and its value stays.
func TestI8_KubectlEditOfADeployment(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayChange(t, "deployments.apps")
	a.approving(t)
	ns := namespace(t)
	must(t, shared.Admin, "create", "-n", ns, "-f", writeFile(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"app"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},
		"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"example.invalid/app:1","args":["--password=`+realValue+`","--level=info"],
		"env":[{"name":"LEVEL","value":"info"},{"name":"DB_PASSWORD","value":"weak1"},{"name":"API_TOKEN","value":"`+realValue+`"}]}]}}}}`))
	read := must(t, a.proxied, "get", "deployment", "app", "-n", ns, "-o", "yaml")
	leaks(t, "the Deployment", read, realValue, "weak1")
	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i -e 's/value: info/value: debug/' -e 's/--level=info/--level=debug/' -e 's/app:1/app:2/' \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(shared.Root, "bin", "kubectl"), "edit", "deployment/app", "-n", ns)
	cmd.Env = append(shared.Env(a.proxied), "KUBE_EDITOR="+editor)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "edited") {
		t.Fatalf("%v: %s", err, out)
	}
	const show = "jsonpath={range .spec.template.spec.containers[*]}{.image} {.args} {.env}{end}"
	want := `example.invalid/app:2 ["--password=` + realValue + `","--level=debug"] [{"name":"LEVEL","value":"debug"},{"name":"DB_PASSWORD","value":"weak1"},{"name":"API_TOKEN","value":"` + realValue + `"}]`
	if got := must(t, shared.Admin, "get", "deployment", "app", "-n", ns, "-o", show); got != want {
		t.Errorf("it became %s, want %s", got, want)
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
	watched := shared.StartKubectl(t.Context(), a.proxied, "get", "configmap", "shown", "-n", ns, "-w", "-o", "jsonpath={.data}{\"\\n\"}", "--request-timeout=5s")
	eventually(t, 20*time.Second, func() error { // each try is a change, so that the watch has one to show
		must(t, shared.Admin, "patch", "configmap", "shown", "-n", ns, "--type=merge", "-p", fmt.Sprintf(`{"data":{"seen":"%d"}}`, time.Now().UnixNano()))
		select {
		case <-watched.Done():
			return nil
		default:
			return errors.New("the watch goes on")
		}
	})
	if r := watched.Wait(); !strings.Contains(r.Stdout, `"seen":`) || !strings.Contains(r.Stdout, "tipstaff-masked-") {
		t.Errorf("get -w: %s", r.Output())
	} else {
		leaks(t, "get -w", r.Output(), realValue)
	}
	// No controller makes the Deployment's pods here: its status comes by hand.
	rollout := shared.StartKubectl(t.Context(), a.proxied, "rollout", "status", "deployment/app", "-n", ns, "--timeout=30s")
	eventually(t, 20*time.Second, func() error {
		generation := must(t, shared.Admin, "get", "deployment", "app", "-n", ns, "-o", "jsonpath={.metadata.generation}")
		must(t, shared.Admin, "patch", "deployment", "app", "-n", ns, "--subresource=status", "--type=merge", "-p",
			`{"status":{"observedGeneration":`+generation+`,"replicas":3,"updatedReplicas":3,"readyReplicas":3,"availableReplicas":3}}`)
		select {
		case <-rollout.Done():
			return nil
		default:
			return errors.New("it isn't seen")
		}
	})
	if r := rollout.Wait(); !r.OK() || !strings.Contains(r.Stdout, "successfully rolled out") {
		t.Errorf("rollout status: code %d: %s", r.Code, r.Output())
	}
	// It ends with 1 where something differs.
	if r := kubectl(t, a.proxied, "diff", "-n", ns, "-f", writeFile(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"real","namespace":%q,"labels":{"a":"new"}},"stringData":{"pin":"9999"}}`, ns))); r.Code != 1 || !strings.Contains(r.Stdout, "a: new") {
		t.Errorf("diff of a Secret: code %d: %s", r.Code, r.Output())
	} else {
		leaks(t, "diff of a Secret", r.Output(), realValue)
	}
	if r := kubectl(t, a.proxied, "diff", "-n", ns, "-f", writeFile(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shown","namespace":%q},"data":{"level":"info"}}`, ns))); r.Code != 1 || !strings.Contains(r.Stdout, "level: info") {
		t.Errorf("diff: code %d: %s", r.Code, r.Output())
	} else {
		leaks(t, "diff", r.Output(), realValue)
	}
}

// helm keeps its records in Secrets, and reads and writes them: all of it works
// but to go back to a revision, which only who may read its values can.
func TestHelmThroughTheProxy(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayAll(t)
	a.approving(t)
	ns, charted := namespace(t), chart(t)
	const pin = "73519-pin"
	for name, text := range map[string]string{
		"secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: \"{{ .Release.Name }}\"}\nstringData: {pin: {{ .Values.pin | quote }}, fixed: " + realValue + "}\n",
		"NOTES.txt":   "The pin is {{ .Values.pin }}.\n",
	} {
		if err := os.WriteFile(filepath.Join(charted, "templates", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(as harness.Kubeconfig, args ...string) harness.Result {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return shared.Helm(ctx, as, append(args, "-n", ns)...)
	}
	for _, step := range []struct {
		line  string
		shows bool // what the client itself made of the chart
		want  string
	}{
		{"template shop CHART --set pin=PIN", true, "kind: Deployment"},
		{"install shop CHART --set pin=PIN", true, "STATUS: deployed"},
		{"list", false, "shop-0.1.0"}, {"list -o json", false, `"status":"deployed"`}, {"status shop", false, "STATUS: deployed"},
		{"history shop", false, "Install complete"}, {"get manifest shop", false, "kind: Deployment"}, {"get values shop", false, "pin: tipstaff-masked-"},
		{"get notes shop", false, "tipstaff-masked-"}, {"get hooks shop", false, ""}, {"get metadata shop", false, "CHART: shop"}, {"get all shop", false, "REVISION: 1"},
		{"upgrade shop CHART --set pin=PIN --set level=debug", true, "REVISION: 2"},
		{"history shop", false, "superseded"}, {"status shop", false, "REVISION: 2"},
		{"upgrade --install shop CHART --reset-values --set pin=PIN", true, "REVISION: 3"},
	} {
		r := run(a.proxied, strings.Fields(strings.NewReplacer("CHART", charted, "PIN", pin).Replace(step.line))...)
		if !r.OK() || !strings.Contains(r.Output(), step.want) {
			t.Fatalf("helm %s: %s; want %q", step.line, r.Output(), step.want)
		}
		if !step.shows {
			leaks(t, "helm "+step.line, r.Output(), realValue)
			leaks(t, "helm "+step.line, r.Output(), pin)
		}
	}
	// The records have taken no harm: who isn't masked sees what was installed.
	for revision := 1; revision <= 3; revision++ {
		for _, what := range []string{"values", "manifest", "notes"} {
			r := run(shared.Admin, "get", what, "shop", "--revision", fmt.Sprint(revision))
			if !r.OK() || !strings.Contains(r.Output(), pin) || strings.Contains(r.Output(), "tipstaff-masked-") {
				t.Errorf("the %s of revision %d: %s", what, revision, r.Output())
			}
		}
	}
	if got := must(t, shared.Admin, "get", "configmap", "shop", "-n", ns, "-o", "jsonpath={.data.level}"); got != "info" {
		t.Errorf("the level is %q", got)
	}
	// What it was made of is masked, so it can't be made again.
	for _, line := range []string{"rollback shop 2", "upgrade shop CHART --reuse-values --set level=warn"} {
		if r := run(a.proxied, strings.Fields(strings.ReplaceAll(line, "CHART", charted))...); r.OK() || !strings.Contains(r.Output(), "data.release") {
			t.Errorf("helm %s: code %d: %s", line, r.Code, r.Output())
		}
	}
	if got := must(t, shared.Admin, "get", "secret", "shop", "-n", ns, "-o", "jsonpath={.data.pin}"); got != base64.StdEncoding.EncodeToString([]byte(pin)) {
		t.Errorf("the pin is %q", got)
	}
	if r := run(a.proxied, "uninstall", "shop", "--keep-history"); !r.OK() {
		t.Fatalf("helm uninstall: %s", r.Output())
	}
	if r := run(shared.Admin, "get", "values", "shop", "--revision", "3"); !strings.Contains(r.Output(), pin) {
		t.Errorf("the record is harmed: %s", r.Output())
	}
	if r := run(a.proxied, "uninstall", "shop"); !r.OK() {
		t.Errorf("helm uninstall: %s", r.Output())
	}
	if got := must(t, shared.Admin, "get", "secrets,configmaps,deployments", "-n", ns, "-o", "name"); strings.Contains(got, "shop") {
		t.Errorf("left: %s", got)
	}
}
