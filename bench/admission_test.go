package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
)

// The admission scenario's sizes.
const (
	admissionRate    = 500
	admissionOpen    = 2 * admissionRate
	admissionWarm    = time.Second
	admissionThrough = 500 // requests of each kind through the API server, each round and side
)

// The metrics of admission, beside those of token reviews.
const (
	p50Open500 = "p50 at 500/s, µs"
	p99Open500 = "p99 at 500/s, µs"
	rssAfter   = "memory, MB"
	p50Through = "median, µs"
	p99Through = "p99, µs"
)

var admissionTables = [][]string{{perSecond, cpuEach, p50One, p50Open500, p99Open500, rssAfter}, {p50Through, p99Through}}

// side is one of those that are compared. Its webhook or policy is in force in
// the namespace bench-<name>, and nowhere else.
type side struct {
	name, row string
	target    target  // none where there is nothing to call
	server    *server // whose CPU is counted
}

const (
	sideNone       = "none"
	sideEmpty      = "empty"
	sideTipstaff   = "tipstaff"
	sideGatekeeper = "gatekeeper"
	sideKyverno    = "kyverno"
	sidePolicy     = "policy"
)

var sideRows = map[string]string{
	sideNone:       "no webhook",
	sideEmpty:      "(a) a webhook that allows everything",
	sideTipstaff:   "tipstaff, the shipped rules",
	sideGatekeeper: "(b) Gatekeeper, ten rules of CEL",
	sideKyverno:    "(c) Kyverno, ten rules of CEL",
	sidePolicy:     "(d) ten ValidatingAdmissionPolicies",
}

func namespaceOf(side string) string { return "bench-" + side }

// admission is everything that one run of the scenario has.
type admission struct {
	id         *identity
	cp         *controlPlane
	kubeconfig string
	sides      []*side
	started    []*server
	agent      http.Header // who is impersonated
}

// admissionScenario measures admission, directly and through the API server.
func admissionScenario(out string) (err error) {
	runtime.LockOSThread() // never unlocked: the parts die with this thread
	// The open loop's clock sits in a system call most of the time.
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	ctx := context.Background()
	dir, err := filepath.Abs(filepath.Join(out, "run"))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	defer func() {
		if err == nil { // the logs say what went wrong
			err = os.RemoveAll(dir)
		}
	}()
	b := &admission{}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.start(ctx, dir); err != nil {
		return err
	}
	bodies, err := b.bodies(ctx)
	if err != nil {
		return err
	}
	for _, s := range b.sides {
		if err := b.prove(ctx, s, bodies); err != nil {
			return fmt.Errorf("%s: %w", s.row, err)
		}
	}
	r := &results{}
	for round := range *scenarioRounds {
		say("round %d of %d", round+1, *scenarioRounds)
		for _, body := range bodies {
			for _, s := range b.sides {
				if s.server == nil {
					continue
				}
				if err := b.direct(s, body, r); err != nil {
					return fmt.Errorf("%s, %s: %w", s.row, body.name, err)
				}
			}
			if err := b.through(ctx, body, r); err != nil {
				return err
			}
		}
	}
	goals := admissionGoals(r, bodies)
	text := report("Admission", admissionHead(*scenarioRounds, bodies), r, admissionTables, goals, "")
	j, err := json.MarshalIndent(map[string]any{"rows": r.Rows, "goals": goals}, "", " ")
	if err != nil {
		return err
	}
	fmt.Println(text)
	return errors.Join(
		os.WriteFile(filepath.Join(out, "admission.md"), []byte(text), 0o600),
		os.WriteFile(filepath.Join(out, "admission.json"), j, 0o600))
}

func admissionHead(rounds int, bodies []body) string {
	load, _ := os.ReadFile("/proc/loadavg") // only told
	averages := strings.Fields(string(load))
	var sizes []string
	for _, b := range bodies {
		sizes = append(sizes, fmt.Sprintf("%s %d bytes", b.name, len(b.review)))
	}
	return fmt.Sprintf("%d cores for clients, servers and control plane together, %s, load %s. %d interleaved rounds. Reviews: %s. The first table is of direct calls, over TLS 1.3 on "+
		"kept-alive HTTP/1.1 connections, servers in processes of their own; at 500/s a latency counts from the time the review was due. The second is of requests with dryRun=All through a "+
		"real API server by one client, the sides in turn, request by request. Every side was seen to stop a privileged pod; every measured answer was a yes.",
		runtime.NumCPU(), runtime.Version(), strings.Join(averages[:min(3, len(averages))], " "), rounds, strings.Join(sizes, ", "))
}

// admissionGoals sets the rows of each round against each other.
func admissionGoals(r *results, bodies []body) []goal {
	var goals []goal
	for _, b := range bodies {
		ratio := func(metric, to string) []float64 {
			var out []float64
			own, other := r.values(b.row(sideTipstaff), metric), r.values(b.row(to), metric)
			for i := range min(len(own), len(other)) {
				out = append(out, own[i]/other[i])
			}
			return out
		}
		goals = append(goals,
			goal{b.name + ": reviews/s ÷ (b)'s", ratio(perSecond, sideGatekeeper), false, 2.5},
			goal{b.name + ": reviews/s ÷ (c)'s", ratio(perSecond, sideKyverno), false, 2.5},
			goal{b.name + ": p99 at 500/s ÷ (a)'s", ratio(p99Open500, sideEmpty), true, 3},
			goal{b.name + " through the API server: median ÷ (a)'s", ratio(p50Through, sideEmpty), true, 1.1},
			goal{b.name + " through the API server: p99 ÷ (a)'s", ratio(p99Through, sideEmpty), true, 1.1},
		)
	}
	return goals
}

// start brings up the control plane and every side.
func (b *admission) start(ctx context.Context, dir string) error {
	var err error
	if b.id, err = newIdentity(dir); err != nil {
		return err
	}
	p, err := newPlatform(b.id)
	if err != nil {
		return err
	}
	ports, err := freeAddresses(2)
	if err != nil {
		return err
	}
	// The API server shows tipstaff a client certificate; the peers ask for none.
	user := filepath.Join(dir, "admission-user.yaml")
	conf := filepath.Join(dir, "admission.yaml")
	if err := errors.Join(
		writeYAML(user, map[string]any{"apiVersion": "v1", "kind": "Config", "users": []any{map[string]any{
			"name": ports[0], "user": map[string]any{"client-certificate": certFile(dir), "client-key": keyFile(dir)},
		}}}),
		writeYAML(conf, map[string]any{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": []any{map[string]any{
			"name":          "ValidatingAdmissionWebhook",
			"configuration": map[string]any{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration", "kubeConfigFile": user},
		}}}),
	); err != nil {
		return err
	}
	say("starting etcd and kube-apiserver")
	if b.cp, err = startControlPlane(ctx, b.id, p, "--admission-control-config-file="+conf); err != nil {
		return err
	}
	b.kubeconfig = filepath.Join(dir, "kubeconfig")
	if err := writeYAML(b.kubeconfig, map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "bench",
		"clusters": []any{map[string]any{"name": "bench", "cluster": map[string]any{"server": b.cp.url, "certificate-authority": certFile(dir)}}},
		"users":    []any{map[string]any{"name": "bench", "user": map[string]any{"client-certificate": certFile(dir), "client-key": keyFile(dir)}}},
		"contexts": []any{map[string]any{"name": "bench", "context": map[string]any{"cluster": "bench", "user": "bench"}}},
	}); err != nil {
		return err
	}
	b.agent = http.Header{
		"Impersonate-User": {agentUser}, "Impersonate-Group": agentGroups,
	}
	for k, v := range agentExtra() {
		b.agent.Set("Impersonate-Extra-"+url.PathEscape(k), v[0])
	}
	if err := b.namespaces(ctx); err != nil {
		return err
	}
	add := func(name string, to target, s *server) {
		b.sides = append(b.sides, &side{name: name, row: sideRows[name], target: to, server: s})
	}
	add(sideNone, target{}, nil)
	empty, err := startServer("empty", "-serve.dir="+dir)
	if err != nil {
		return err
	}
	b.started = append(b.started, empty)
	add(sideEmpty, target{empty.address, "/", allowed}, empty)
	own, err := b.startTipstaff(ctx, ports)
	if err != nil {
		return err
	}
	add(sideTipstaff, own.target, own)
	if *admissionPeers {
		gatekeeper, err := b.startGatekeeper(ctx)
		if err != nil {
			return err
		}
		add(sideGatekeeper, gatekeeper.target, gatekeeper)
		kyverno, err := b.startKyverno(ctx)
		if err != nil {
			return err
		}
		add(sideKyverno, kyverno.target, kyverno)
	}
	add(sidePolicy, target{}, nil)
	var objects []any
	for _, s := range b.sides {
		if s.name != sideKyverno && s.server != nil { // Kyverno registers itself
			objects = append(objects, b.registration(s))
		}
	}
	return b.apply(ctx, append(objects, policies()...)...)
}

func (b *admission) stop() error {
	var errs []error
	for _, s := range slices.Backward(b.started) {
		errs = append(errs, s.stop())
	}
	if b.cp != nil {
		errs = append(errs, b.cp.stop())
	}
	return errors.Join(errs...)
}

// program starts a program of ../bin, to be stopped with the others.
func (b *admission) program(name string, env []string, args ...string) (*server, error) {
	s, err := startProgram(b.id.dir, name, env, args...)
	if err == nil {
		b.started = append(b.started, s)
	}
	return s, err
}

// startTipstaff starts the product as it ships: `tipstaff serve` with the shipped rules.
func (b *admission) startTipstaff(ctx context.Context, ports []string) (*server, error) {
	dir := b.id.dir
	if err := b.kubectl(ctx, nil, "apply", "--server-side", "-k", filepath.Join("..", "manifests", "crds")); err != nil {
		return nil, err
	}
	key, conf := filepath.Join(dir, "mask.key"), filepath.Join(dir, "tipstaff.yaml")
	if err := errors.Join(
		os.WriteFile(key, bytes.Repeat([]byte{7}, 32), 0o600),
		writeYAML(conf, map[string]any{
			"apiVersion": "tipstaff.dev/v1alpha1", "kind": "Config", "cluster": "bench", "kubeconfig": b.kubeconfig, "maskKeyFile": key,
			"health": map[string]any{"listen": ports[1]},
			"webhook": map[string]any{"listen": ports[0], "tls": httpserve.TLS{
				CertFile: certFile(dir), KeyFile: keyFile(dir), ClientCAFile: certFile(dir), ClientNames: []string{callerName},
			}},
		})); err != nil {
		return nil, err
	}
	s, err := b.program("tipstaff", nil, "serve", "--config="+conf, "--log-level=error")
	if err != nil {
		return nil, err
	}
	s.target = target{ports[0], "/changes?timeout=10s", allowed}
	return s, until(ctx, func() error {
		resp, err := http.Get("http://" + ports[1] + "/readyz")
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			return errors.Join(err, fmt.Errorf("tipstaff isn't ready: %s", resp.Status))
		}
		return nil
	})
}

// registration is the webhook configuration of a side: as tipstaff ships it, for
// one namespace.
func (b *admission) registration(s *side) any {
	ca, err := os.ReadFile(certFile(b.id.dir))
	if err != nil {
		panic(err) // written a moment ago
	}
	return map[string]any{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": map[string]any{"name": namespaceOf(s.name)},
		"webhooks": []any{map[string]any{
			"name": s.name + ".bench.example", "admissionReviewVersions": []string{"v1"}, "sideEffects": "NoneOnDryRun", "failurePolicy": "Fail",
			"matchPolicy": "Exact", "timeoutSeconds": 10,
			"clientConfig":      map[string]any{"url": "https://" + s.target.address + strings.TrimSuffix(s.target.path, "?timeout=10s"), "caBundle": ca},
			"namespaceSelector": selector(s.name),
			"matchConditions":   []any{map[string]any{"name": "agents", "expression": "'tipstaff:agents' in request.userInfo.groups"}},
			"rules": []any{map[string]any{
				"apiGroups": []string{"*"}, "apiVersions": []string{"*"}, "operations": []string{"CREATE", "UPDATE", "DELETE", "CONNECT"}, "resources": []string{"*/*"},
			}},
		}},
	}
}

func selector(side string) any { return map[string]any{"matchLabels": map[string]any{"bench": side}} }

// The agent that every request is by.
const agentUser = "agent:platform:repo:example/shop:environment:production"

var agentGroups = []string{"tipstaff:agents", "tipstaff:profile:deploy", "tipstaff:run:platform:run-00000001", "system:authenticated"}

func agentExtra() map[string][]string {
	return map[string][]string{
		"tipstaff.dev/issuer": {"platform"}, "tipstaff.dev/run": {"run-00000001"}, "tipstaff.dev/model": {"some-model-4.5"},
		"tipstaff.dev/owner": {"alice@example.com"}, "tipstaff.dev/profile": {"deploy"}, "tipstaff.dev/task": {"bring the deployment to the release of this week"},
	}
}

// namespaces makes one for each side, in which the agent may do everything.
func (b *admission) namespaces(ctx context.Context) error {
	objects := []any{map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": "bench"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "tipstaff:agents"}},
	}}
	for name := range sideRows {
		objects = append(objects,
			map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespaceOf(name), "labels": map[string]any{"bench": name}}},
			// No controller makes it here.
			map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "default", "namespace": namespaceOf(name)}})
	}
	return b.apply(ctx, objects...)
}

// apply has kubectl apply the objects, on the server's side.
func (b *admission) apply(ctx context.Context, objects ...any) error {
	list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		return err
	}
	return b.kubectl(ctx, list, "apply", "--server-side", "--force-conflicts", "-f", "-")
}

func (b *admission) kubectl(ctx context.Context, in []byte, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join("..", "bin", "kubectl"), append([]string{"--kubeconfig=" + b.kubeconfig}, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func writeYAML(file string, v any) error {
	b, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// body is what is reviewed and requested: the same for all sides but for the
// namespace, whose name is as long everywhere as it takes.
type body struct {
	name         string
	method, path string // of the request, after the namespace's
	object       []byte // of the request, with anyNamespace for the namespace
	review       []byte // likewise
}

const anyNamespace = "bench-NAMESPACE"

func (b body) row(side string) string { return sideRows[side] + "; " + b.name }

func in(namespace string, b []byte) []byte {
	return bytes.ReplaceAll(b, []byte(anyNamespace), []byte(namespace))
}

// bodies makes what is measured from objects as the API server has them: with
// its defaults and managed fields.
func (b *admission) bodies(ctx context.Context) ([]body, error) {
	var all []body
	for _, kb := range []int{5, 30} {
		name := fmt.Sprintf("web-%d", kb)
		for s := range sideRows {
			if err := b.apply(ctx, deployment(namespaceOf(s), name, kb<<10)); err != nil {
				return nil, err
			}
		}
		old, err := b.request(ctx, b.cp.client, http.MethodGet, namespaceOf(sideNone), "apis/apps/v1", "deployments/"+name, nil)
		if err != nil {
			return nil, err
		}
		changed := bytes.ReplaceAll(old, []byte("registry.example/shop:1"), []byte("registry.example/shop:2"))
		all = append(all, newBody(fmt.Sprintf("Deployment update, %d KB", kb), http.MethodPut, "deployments/"+name, admissionv1.Update,
			schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, name, changed, old))
	}
	made, err := b.request(ctx, b.cp.client, http.MethodPost, namespaceOf(sideNone), "api/v1", "pods?dryRun=All", mustJSON(pod(namespaceOf(sideNone), false)))
	if err != nil {
		return nil, err
	}
	create := newBody("Pod create", http.MethodPost, "pods", admissionv1.Create, schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, "web", made, nil)
	create.object = mustJSON(pod(anyNamespace, false))
	return append(all, create), nil
}

// newBody makes the review of a change, as the API server writes it.
func newBody(name, method, path string, op admissionv1.Operation, kind schema.GroupVersionKind, object string, now, old []byte) body {
	resource, _, _ := strings.Cut(path, "/")
	gvk := metav1.GroupVersionKind(kind)
	gvr := metav1.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: resource}
	extra := map[string]authenticationv1.ExtraValue{}
	for k, v := range agentExtra() {
		extra[k] = v
	}
	dry := true
	options := `{"kind":"` + map[admissionv1.Operation]string{admissionv1.Update: "UpdateOptions", admissionv1.Create: "CreateOptions"}[op] +
		`","apiVersion":"meta.k8s.io/v1","dryRun":["All"],"fieldManager":"kubectl"}`
	template := func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte(namespaceOf(sideNone)), []byte(anyNamespace))
	}
	return body{
		name: name, method: method, path: path, object: withoutVersion(template(now)),
		review: mustJSON(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: "admission.k8s.io/v1"},
			Request: &admissionv1.AdmissionRequest{
				UID: "705ab4f5-6393-11e8-b7cc-42010a800002", Kind: gvk, Resource: gvr, RequestKind: &gvk, RequestResource: &gvr,
				Name: object, Namespace: anyNamespace, Operation: op, DryRun: &dry,
				UserInfo: authenticationv1.UserInfo{Username: agentUser, Groups: agentGroups, Extra: extra},
				Object:   kruntime.RawExtension{Raw: template(now)}, OldObject: kruntime.RawExtension{Raw: template(old)},
				Options: kruntime.RawExtension{Raw: []byte(options)},
			},
		}),
	}
}

// withoutVersion makes an update of whatever is there.
func withoutVersion(object []byte) []byte {
	var u unstructured.Unstructured
	if err := json.Unmarshal(object, &u.Object); err != nil {
		panic(err) // the API server's own
	}
	u.SetResourceVersion("")
	u.SetManagedFields(nil)
	u.SetUID("")
	return mustJSON(u.Object)
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data
	}
	return b
}

// deployment is an ordinary one, of about so many bytes as the API server has it.
func deployment(namespace, name string, size int) any {
	var env []any
	for i := range max(0, (size-2850)/118) { // a variable of env appears in the managed fields, too
		env = append(env, map[string]any{"name": fmt.Sprintf("SETTING_%03d", i), "value": "some value or other"})
	}
	return map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": name, "namespace": namespace, "labels": map[string]any{"app": "web", "team": "shop"}},
		"spec": map[string]any{
			"replicas": 3, "selector": map[string]any{"matchLabels": map[string]any{"app": "web"}},
			"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "web"}}, "spec": podSpec(env)},
		},
	}
}

func podSpec(env []any) map[string]any {
	return map[string]any{
		"securityContext": map[string]any{"runAsNonRoot": true, "seccompProfile": map[string]any{"type": "RuntimeDefault"}},
		"containers": []any{map[string]any{
			"name": "web", "image": "registry.example/shop:1", "env": env, "ports": []any{map[string]any{"containerPort": 8080, "name": "http"}},
			"resources":       map[string]any{"requests": map[string]any{"cpu": "100m", "memory": "128Mi"}, "limits": map[string]any{"memory": "256Mi"}},
			"readinessProbe":  map[string]any{"httpGet": map[string]any{"path": "/ready", "port": "http"}},
			"securityContext": map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []string{"ALL"}, "add": []string{"NET_BIND_SERVICE"}}},
			"volumeMounts":    []any{map[string]any{"name": "settings", "mountPath": "/etc/shop"}},
		}},
		"volumes": []any{map[string]any{"name": "settings", "configMap": map[string]any{"name": "shop"}}},
	}
}

func pod(namespace string, privileged bool) any {
	spec := podSpec(nil)
	if privileged {
		spec["containers"].([]any)[0].(map[string]any)["securityContext"] = map[string]any{"privileged": true}
	}
	return map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "web", "namespace": namespace, "labels": map[string]any{"app": "web"}}, "spec": spec,
	}
}

// request makes one request as the agent and returns the answer, which must be a
// yes without a warning.
func (b *admission) request(ctx context.Context, client *http.Client, method, namespace, group, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.cp.url+"/"+group+"/namespaces/"+namespace+"/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = b.agent.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if warning := resp.Header.Get("Warning"); resp.StatusCode/100 != 2 || warning != "" {
		return nil, fmt.Errorf("%s %s: %s: %s%.600s", method, path, resp.Status, warning, answer)
	}
	return answer, nil
}

func (b body) groupPath() string {
	if strings.HasPrefix(b.path, "deployments") {
		return "apis/apps/v1"
	}
	return "api/v1"
}

// prove waits until a side lets the bodies through and stops a privileged pod,
// through the API server, and called directly gives a yes.
func (b *admission) prove(ctx context.Context, s *side, bodies []body) error {
	for _, body := range bodies {
		if err := until(ctx, func() error {
			_, err := b.request(ctx, b.cp.client, body.method, namespaceOf(s.name), body.groupPath(), body.path+"?dryRun=All", in(namespaceOf(s.name), body.object))
			return err
		}); err != nil {
			return err
		}
	}
	if s.name == sideNone || s.name == sideEmpty {
		return nil
	}
	bad := mustJSON(pod(namespaceOf(s.name), true))
	return until(ctx, func() error {
		_, err := b.request(ctx, b.cp.client, http.MethodPost, namespaceOf(s.name), "api/v1", "pods?dryRun=All", bad)
		if err == nil {
			return errors.New("lets a privileged pod through")
		}
		if !strings.Contains(err.Error(), "privileged") && !strings.Contains(err.Error(), "held") {
			return fmt.Errorf("stops a privileged pod for another reason: %w", err)
		}
		return nil
	})
}

// direct measures one side called directly.
func (b *admission) direct(s *side, body body, r *results) error {
	conns, err := callers(openCallers, s.target, b.id.client())
	for _, conn := range conns {
		defer conn.close()
	}
	if err != nil {
		return err
	}
	next := again([][]byte{in(namespaceOf(s.name), body.review)})
	if _, _, err := closedLoop(conns, next, admissionWarm); err != nil {
		return err
	}
	before, err := s.server.cpu()
	if err != nil {
		return err
	}
	all, took, err := closedLoop(conns[:concurrent], next, closedTime)
	if err != nil {
		return err
	}
	after, err := s.server.cpu()
	if err != nil {
		return err
	}
	one, _, err := closedLoop(conns[:1], next, oneTime)
	if err != nil {
		return err
	}
	open, err := openLoop(conns, next, admissionRate, admissionOpen)
	if err != nil {
		return err
	}
	mb, err := s.server.rss()
	if err != nil {
		return err
	}
	row := body.row(s.name)
	r.add(row, perSecond, float64(len(all))/took.Seconds())
	r.add(row, cpuEach, micros(after-before)/float64(len(all)))
	r.add(row, p50One, micros(percentile(one, 50)))
	r.add(row, p50Open500, micros(percentile(open, 50)))
	r.add(row, p99Open500, micros(percentile(open, 99)))
	r.add(row, rssAfter, mb)
	return nil
}

// through measures all sides through the API server, in turn request by request,
// so that what disturbs one disturbs all.
func (b *admission) through(ctx context.Context, body body, r *results) error {
	clients := make([]*http.Client, len(b.sides))
	latencies := make([][]time.Duration, len(b.sides))
	for i := range clients {
		clients[i] = b.id.httpClient()
		defer clients[i].CloseIdleConnections()
	}
	for n := range admissionThrough + 10 {
		for turn := range b.sides {
			i := (turn + n) % len(b.sides)
			s := b.sides[i]
			object := in(namespaceOf(s.name), body.object)
			sent := time.Now()
			if _, err := b.request(ctx, clients[i], body.method, namespaceOf(s.name), body.groupPath(), body.path+"?dryRun=All", object); err != nil {
				return fmt.Errorf("%s: %w", body.row(s.name), err)
			}
			if n >= 10 {
				latencies[i] = append(latencies[i], time.Since(sent))
			}
		}
	}
	for i, s := range b.sides {
		r.add(body.row(s.name), p50Through, micros(percentile(latencies[i], 50)))
		r.add(body.row(s.name), p99Through, micros(percentile(latencies[i], 99)))
	}
	return nil
}
