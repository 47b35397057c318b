package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
)

// peerRule is one of the ten rules that the peers have: what the shipped rules
// say about pods and workloads, as a validation (true lets through).
type peerRule struct{ name, expression string }

var peerRules = []peerRule{
	{"hostnamespaces", "!variables.spec.?hostPID.orValue(false) && !variables.spec.?hostIPC.orValue(false) && !variables.spec.?hostNetwork.orValue(false)"},
	{"hostpath", "variables.spec.?volumes.orValue([]).all(v, !has(v.hostPath))"},
	{"privileged", "variables.containers.all(c, !c.?securityContext.?privileged.orValue(false))"},
	{"capabilities", "variables.containers.all(c, c.?securityContext.?capabilities.?add.orValue([]).all(a, a in ['CHOWN', 'KILL', 'NET_BIND_SERVICE', 'SETGID', 'SETUID']))"},
	{"hostports", "variables.containers.all(c, c.?ports.orValue([]).all(p, p.?hostPort.orValue(0) == 0))"},
	{"seccomp", "variables.spec.?securityContext.?seccompProfile.?type.orValue('') != 'Unconfined' && variables.containers.all(c, c.?securityContext.?seccompProfile.?type.orValue('') != 'Unconfined')"},
	{"serviceaccount", "variables.spec.?serviceAccountName.orValue('default') == 'default'"},
	{"placement", "variables.spec.?nodeName.orValue('') == '' && !(variables.spec.?priorityClassName.orValue('') in ['system-cluster-critical', 'system-node-critical'])"},
	{"tolerations", "variables.spec.?tolerations.orValue([]).all(t, !(t.?key.orValue('') in ['', 'node-role.kubernetes.io/control-plane']))"},
	{"finalizers", "oldObject == null || oldObject.?metadata.?finalizers.orValue([]).all(f, f in object.?metadata.?finalizers.orValue([]))"},
}

// peerVariables are what the rules share.
func peerVariables() []any {
	return []any{
		map[string]any{"name": "spec", "expression": "object.kind == 'Pod' ? object.spec : object.spec.template.spec"},
		map[string]any{"name": "containers", "expression": "variables.spec.containers + variables.spec.?initContainers.orValue([])"},
	}
}

func validations(r peerRule) []any {
	return []any{map[string]any{"expression": r.expression, "message": "not allowed: " + r.name}}
}

func resourceRules() []any {
	return []any{
		map[string]any{"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "operations": []string{"CREATE", "UPDATE"}, "resources": []string{"pods"}},
		map[string]any{"apiGroups": []string{"apps"}, "apiVersions": []string{"v1"}, "operations": []string{"CREATE", "UPDATE"}, "resources": []string{"deployments"}},
	}
}

// policies are the rules in the API server itself.
func policies() []any {
	var all []any
	for _, r := range peerRules {
		all = append(all,
			map[string]any{
				"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": map[string]any{"name": "bench-" + r.name},
				"spec": map[string]any{
					"failurePolicy": "Fail", "matchConstraints": map[string]any{"resourceRules": resourceRules(), "namespaceSelector": selector(sidePolicy)},
					"variables": peerVariables(), "validations": validations(r),
				},
			},
			map[string]any{
				"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": map[string]any{"name": "bench-" + r.name},
				"spec": map[string]any{"policyName": "bench-" + r.name, "validationActions": []string{"Deny"}},
			})
	}
	return all
}

// sources is where a peer's module lies, with the CRDs that it needs.
func sources(peer, module string) (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = filepath.Join("peers", peer)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the module of %s: %w", peer, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// applyCRDs applies the CRDs of a peer and waits until they are served.
func (b *admission) applyCRDs(ctx context.Context, dir string) error {
	if err := b.kubectl(ctx, nil, "apply", "--server-side", "--recursive", "-f", dir); err != nil {
		return err
	}
	return b.kubectl(ctx, nil, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
}

// startGatekeeper starts Gatekeeper's webhook with a template and a constraint for each rule.
func (b *admission) startGatekeeper(ctx context.Context) (*server, error) {
	say("starting Gatekeeper")
	dir, err := sources(sideGatekeeper, "github.com/open-policy-agent/gatekeeper/v3")
	if err != nil {
		return nil, err
	}
	if err := b.applyCRDs(ctx, filepath.Join(dir, "charts", "gatekeeper", "crds")); err != nil {
		return nil, err
	}
	if err := b.apply(ctx, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "gatekeeper-system"}}); err != nil {
		return nil, err
	}
	certs := filepath.Join(b.id.dir, "gatekeeper-certs")
	if err := errors.Join(os.Mkdir(certs, 0o700), copyFile(certFile(b.id.dir), filepath.Join(certs, "tls.crt")),
		copyFile(keyFile(b.id.dir), filepath.Join(certs, "tls.key")), copyFile(certFile(b.id.dir), filepath.Join(certs, "ca.crt"))); err != nil {
		return nil, err
	}
	ports, err := freeAddresses(2)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(ports[0])
	if err != nil {
		return nil, err
	}
	s, err := b.program("peers/gatekeeper", []string{"POD_NAMESPACE=gatekeeper-system", "POD_NAME=gatekeeper", "KUBECONFIG=" + b.kubeconfig},
		"--operation=webhook", "--operation=generate", // which makes the constraints' kinds
		"--default-create-vap-for-templates=false", "--default-create-vap-binding-for-constraints=false", // the webhook evaluates
		"--debug-use-fake-pod", "--disable-cert-rotation", "--cert-dir="+certs, "--host=127.0.0.1", "--port="+port,
		"--health-addr="+ports[1], "--log-level=ERROR", "--exempt-namespace=gatekeeper-system")
	if err != nil {
		return nil, err
	}
	s.target = target{ports[0], "/v1/admit", allowed}
	if err := b.listens(ctx, s, "peers/gatekeeper"); err != nil {
		return nil, err
	}
	var templates, constraints []any
	for _, r := range peerRules {
		kind := "Bench" + strings.ToUpper(r.name[:1]) + r.name[1:]
		templates = append(templates, map[string]any{
			"apiVersion": "templates.gatekeeper.sh/v1", "kind": "ConstraintTemplate", "metadata": map[string]any{"name": strings.ToLower(kind)},
			"spec": map[string]any{
				"crd": map[string]any{"spec": map[string]any{"names": map[string]any{"kind": kind}}},
				"targets": []any{map[string]any{"target": "admission.k8s.gatekeeper.sh", "code": []any{map[string]any{
					"engine": "K8sNativeValidation",
					"source": map[string]any{"variables": peerVariables(), "validations": validations(r)},
				}}}},
			},
		})
		constraints = append(constraints, map[string]any{
			"apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": kind, "metadata": map[string]any{"name": "bench"},
			"spec": map[string]any{"match": map[string]any{"kinds": []any{
				map[string]any{"apiGroups": []string{""}, "kinds": []string{"Pod"}},
				map[string]any{"apiGroups": []string{"apps"}, "kinds": []string{"Deployment"}},
			}}},
		})
	}
	if err := b.apply(ctx, templates...); err != nil {
		return nil, err
	}
	return s, until(ctx, func() error { return b.apply(ctx, constraints...) }) // their kinds take a moment
}

// startKyverno starts Kyverno's admission controller with a policy for each rule.
func (b *admission) startKyverno(ctx context.Context) (*server, error) {
	say("starting Kyverno")
	dir, err := sources(sideKyverno, "github.com/kyverno/kyverno")
	if err != nil {
		return nil, err
	}
	if err := b.applyCRDs(ctx, filepath.Join(dir, "config", "crds")); err != nil {
		return nil, err
	}
	meta := func(name string) map[string]any {
		return map[string]any{"name": name, "namespace": "kyverno"}
	}
	if err := b.apply(ctx, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "kyverno"}},
		map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("kyverno"), "data": map[string]any{}},
		map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("kyverno-metrics"), "data": map[string]any{}}); err != nil {
		return nil, err
	}
	ports, err := freeAddresses(1)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(ports[0])
	if err != nil {
		return nil, err
	}
	s, err := b.program("peers/kyverno", []string{"KYVERNO_NAMESPACE=kyverno", "KYVERNO_POD_NAME=kyverno", "KYVERNO_DEPLOYMENT=kyverno", "KYVERNO_SVC=kyverno-svc",
		"KYVERNO_SERVICEACCOUNT_NAME=kyverno", "KYVERNO_ROLE_NAME=kyverno", "INIT_CONFIG=kyverno", "METRICS_CONFIG=kyverno-metrics"},
		"--kubeconfig="+b.kubeconfig, "--serverIP="+ports[0], "--webhookServerHost=127.0.0.1", "--webhookServerPort="+port,
		"--caSecretName=kyverno-ca", "--tlsSecretName=kyverno-tls", "--admissionReports=false", "--disableMetrics", "--controllerRuntimeMetricsAddress=0",
		"--omitEvents=PolicyApplied,PolicyViolation,PolicyError,PolicySkipped", "--v=0")
	if err != nil {
		return nil, err
	}
	s.target = target{address: ports[0], yes: allowed}
	if err := b.listens(ctx, s, "peers/kyverno"); err != nil {
		return nil, err
	}
	var all []any
	for _, r := range peerRules {
		all = append(all, map[string]any{
			"apiVersion": "policies.kyverno.io/v1", "kind": "ValidatingPolicy", "metadata": map[string]any{"name": "bench-" + r.name},
			"spec": map[string]any{
				"validationActions": []string{"Deny"}, "failurePolicy": "Fail",
				"matchConstraints": map[string]any{"resourceRules": resourceRules(), "namespaceSelector": selector(sideKyverno)},
				"variables":        peerVariables(), "validations": validations(r),
				"autogen": map[string]any{"podControllers": map[string]any{"controllers": []string{}}}, // the rules look at both kinds themselves
			},
		})
	}
	if err := until(ctx, func() error { return b.apply(ctx, all...) }); err != nil { // its own webhook guards them
		return nil, err
	}
	return s, until(ctx, func() error { return b.findKyverno(ctx, s) })
}

// findKyverno reads where Kyverno has registered its policies.
func (b *admission) findKyverno(ctx context.Context, s *server) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.cp.url+"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", nil)
	if err != nil {
		return err
	}
	resp, err := b.cp.client.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	var list admissionregistrationv1.ValidatingWebhookConfigurationList
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	var paths []string
	for _, c := range list.Items {
		for _, w := range c.Webhooks {
			if w.ClientConfig.URL == nil {
				continue
			}
			if _, path, ok := strings.Cut(*w.ClientConfig.URL, "/vpol"); ok {
				paths = append(paths, "/vpol"+path)
				b.id.pool.AppendCertsFromPEM(w.ClientConfig.CABundle) // its own
			}
		}
	}
	if len(paths) != 1 || strings.Count(paths[0], "bench-") < len(peerRules) && !strings.HasSuffix(paths[0], "fail") {
		return fmt.Errorf("the policies are registered at %q", paths)
	}
	s.path = paths[0] + "?timeout=10s"
	conn, err := tls.Dial("tcp", s.address, b.id.client()) // its certificate takes a moment
	if err != nil {
		return fmt.Errorf("call Kyverno: %w", err)
	}
	return conn.Close()
}

// listens waits until a peer takes connections.
func (b *admission) listens(ctx context.Context, s *server, name string) error {
	if err := until(ctx, func() error {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			return err
		}
		return conn.Close()
	}); err != nil {
		log, _ := os.ReadFile(logFile(b.id.dir, name)) // only for the message
		return fmt.Errorf("%s isn't ready: %w; the end of its log:\n%s", name, err, log[max(0, len(log)-4000):])
	}
	return nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// emptyWebhook is the least that an admission webhook does: read the review, and
// answer a yes with its UID, which stands first.
func emptyWebhook(w http.ResponseWriter, r *http.Request) {
	review := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, review); err != nil {
		http.Error(w, "no AdmissionReview", http.StatusBadRequest)
		return
	}
	_, rest, _ := bytes.Cut(review, []byte(`"uid":"`))
	uid, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		http.Error(w, "no AdmissionReview", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":"%s","allowed":true}}`, uid) // the caller has gone
}
