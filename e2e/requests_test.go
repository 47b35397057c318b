package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
	"github.com/tipstaff-dev/tipstaff/e2e/harness"
)

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// restConfig is how client-go connects as somebody.
func restConfig(t *testing.T, as harness.Kubeconfig) *rest.Config {
	t.Helper()
	c, err := clientcmd.BuildConfigFromFlags("", string(as))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// approvalsOf are the approvals of a run, as Alice reads them.
func approvalsOf(t *testing.T, run string) []v1alpha1.Approval {
	t.Helper()
	c, err := approvals.NewClient(restConfig(t, shared.Alice))
	if err != nil {
		t.Fatal(err)
	}
	var list v1alpha1.ApprovalList
	if err := c.List(t.Context(), &list, ctrl.MatchingLabels{v1alpha1.LabelRunKey: string(v1alpha1.KeyOf(harness.IssuerName, run))}); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// heldNamespace makes a namespace in which everything that agents do is held,
// and waits for its service account.
func heldNamespace(t *testing.T, prefix string) string {
	t.Helper()
	ns := fmt.Sprintf("%s%d", prefix, runs.Add(1))
	must(t, shared.Admin, "create", "namespace", ns)
	admin := kubernetes.NewForConfigOrDie(restConfig(t, shared.Admin))
	eventually(t, 20*time.Second, func() error {
		_, err := admin.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return ns
}

// mayAll makes an agent cluster admin, so that a test sees the rules and not RBAC.
func (a agent) mayAll(t *testing.T) {
	t.Helper()
	must(t, shared.Admin, "create", "clusterrolebinding", a.run, "--clusterrole=cluster-admin", "--group="+a.group())
}

// caller is a client of one agent in a namespace where everything is held.
type caller struct {
	agent
	ns    string
	typed kubernetes.Interface
	dyn   dynamic.Interface
	files func(text string) string
}

// kubectl gives a call by kubectl.
func (c *caller) kubectl(ctx context.Context, args ...string) error {
	r := shared.Kubectl(ctx, c.direct, append(args, "-n", c.ns)...)
	if !r.OK() {
		return fmt.Errorf("kubectl %s: code %d: %s", strings.Join(args, " "), r.Code, r.Output())
	}
	return nil
}

func configMap(name, value string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}, "data": map[string]any{"key": value},
	}}
}

// manifest writes a config map for kubectl.
func (c *caller) manifest(name, value string) string {
	return c.files(fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"key":%q}}`, name, value))
}

// objectsOfForms are what the forms change: two of each, for deletions. The
// pods are on a node, so that their deletion is graceful.
const objectsOfForms = `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","labels":{"of":"test"}},"data":{"key":"before"}},
{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"two","labels":{"of":"test"}},"data":{"key":"before"}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"one"},"spec":{"nodeName":"no-such-node","containers":[{"name":"c","image":"example.invalid/c"}]}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"two"},"spec":{"nodeName":"no-such-node","containers":[{"name":"c","image":"example.invalid/c"}]}},
{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"one"},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"one"}},"template":{"metadata":{"labels":{"app":"one"}},"spec":{"containers":[{"name":"c","image":"example.invalid/c"}]}}}},
{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"two"},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"two"}},"template":{"metadata":{"labels":{"app":"two"}},"spec":{"containers":[{"name":"c","image":"example.invalid/c"}]}}}}
]}`

// Each way to say a change is held, and its own retries, or the same call
// again, match what was signed. value is "one" at first, then "two": other
// content, or another object.
func TestI3_EveryFormOfCommandMatchesItsRetry(t *testing.T) {
	t.Parallel()
	for _, form := range []struct {
		name string
		do   func(ctx context.Context, c *caller, value string) error
		// uses is how many approvals one call needs. Zero means one.
		uses int
	}{
		{"kubectl apply", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "apply", "-f", c.manifest("one", value))
		}, 0},
		{"kubectl apply of something new", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "apply", "-f", c.manifest("new", value))
		}, 0},
		{"kubectl apply on the server", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-f", c.manifest("one", value))
		}, 0},
		{"kubectl apply of something new on the server", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "apply", "--server-side", "-f", c.manifest("new", value))
		}, 0},
		{"kubectl patch strategic", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "patch", "configmap", "one", "-p", `{"data":{"key":"`+value+`"}}`)
		}, 0},
		{"kubectl patch merge", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "patch", "configmap", "one", "--type=merge", "-p", `{"data":{"key":"`+value+`"}}`)
		}, 0},
		{"kubectl patch json", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "patch", "configmap", "one", "--type=json", "-p", `[{"op":"replace","path":"/data/key","value":"`+value+`"}]`)
		}, 0},
		{"kubectl replace", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "replace", "-f", c.manifest("one", value))
		}, 0},
		{"kubectl set image", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "set", "image", "deployment/one", "c=example.invalid/"+value)
		}, 0},
		{"kubectl annotate", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "annotate", "--overwrite", "configmap", "one", "note="+value)
		}, 0},
		{"kubectl scale", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "scale", "deployment", "one", "--replicas="+map[string]string{"one": "1", "two": "2"}[value])
		}, 0},
		{"kubectl run", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "run", "new-"+value, "--image=example.invalid/"+value)
		}, 0},
		{"kubectl create job", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "create", "job", "new-"+value, "--image=example.invalid/"+value)
		}, 0},
		{"kubectl delete with a grace period", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "delete", "pod", value, "--grace-period=5", "--wait=false")
		}, 0},
		{"kubectl delete of the workload alone", func(ctx context.Context, c *caller, value string) error {
			return c.kubectl(ctx, "delete", "deployment", value, "--cascade=orphan", "--wait=false")
		}, 0},
		{"kubectl delete by label", func(ctx context.Context, c *caller, value string) error {
			if value == "two" {
				return c.kubectl(ctx, "delete", "pod", "two", "--wait=false") // the config maps are gone
			}
			return c.kubectl(ctx, "delete", "configmaps", "-l", "of=test", "--wait=false")
		}, 2},
		{"client-go create the name drawn", func(ctx context.Context, c *caller, value string) error {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "drawn-"}, Data: map[string]string{"key": value}}
			_, err := c.typed.CoreV1().ConfigMaps(c.ns).Create(ctx, cm, metav1.CreateOptions{})
			return err
		}, 0},
		{"client-go create of a service", func(ctx context.Context, c *caller, value string) error {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "new-" + value}, Spec: corev1.ServiceSpec{
				Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
			}}
			_, err := c.typed.CoreV1().Services(c.ns).Create(ctx, svc, metav1.CreateOptions{})
			return err
		}, 0},
		{"client-go get and update", func(ctx context.Context, c *caller, value string) error {
			cm, err := c.typed.CoreV1().ConfigMaps(c.ns).Get(ctx, "one", metav1.GetOptions{})
			if err != nil {
				return err
			}
			cm.Data["key"] = value
			_, err = c.typed.CoreV1().ConfigMaps(c.ns).Update(ctx, cm, metav1.UpdateOptions{})
			return err
		}, 0},
		{"client-go delete of one uid", func(ctx context.Context, c *caller, value string) error {
			cm, err := c.typed.CoreV1().ConfigMaps(c.ns).Get(ctx, value, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return c.typed.CoreV1().ConfigMaps(c.ns).Delete(ctx, value, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &cm.UID}})
		}, 0},
		{"client-go delete of a collection", func(ctx context.Context, c *caller, value string) error {
			if value == "two" { // the first collection is gone
				return c.typed.CoreV1().Pods(c.ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=two"})
			}
			return c.typed.CoreV1().ConfigMaps(c.ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "of=test"})
		}, 2},
		{"client-go evict", func(ctx context.Context, c *caller, value string) error {
			return c.typed.PolicyV1().Evictions(c.ns).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: value, Namespace: c.ns}})
		}, 0},
		{"dynamic client apply", func(ctx context.Context, c *caller, value string) error {
			_, err := c.dyn.Resource(configMaps).Namespace(c.ns).Apply(ctx, "one", configMap("one", value), metav1.ApplyOptions{FieldManager: "agent", Force: true})
			return err
		}, 0},
		{"dynamic client update without a version", func(ctx context.Context, c *caller, value string) error {
			_, err := c.dyn.Resource(configMaps).Namespace(c.ns).Update(ctx, configMap("one", value), metav1.UpdateOptions{})
			return err
		}, 0},
	} {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			c := newCaller(t)
			first := make(chan error, 1)
			go func() { first <- form.do(t.Context(), c, "one") }()
			var opened []v1alpha1.Approval
			eventually(t, 20*time.Second, func() error {
				if opened = approvalsOf(t, c.run); len(opened) == 0 {
					return errors.New("no approval is opened")
				}
				return nil
			})
			select {
			case err := <-first:
				t.Fatalf("undecided, the call has ended: %v", err)
			default:
			}
			// Decided one by one, as they are opened.
			asked := map[string]bool{}
			ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
			defer cancel()
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for ended := false; !ended; {
				for _, ap := range approvalsOf(t, c.run) {
					if !asked[ap.Name] {
						asked[ap.Name] = true
						if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
							t.Fatal(r.Output())
						}
					}
				}
				select {
				case err := <-first:
					if err != nil {
						t.Errorf("approved, and still: %v", err)
					}
					ended = true
				case <-ctx.Done():
					t.Fatalf("approved, and the call still waits; it asked %d times:\n%s", len(asked), diffs(approvalsOf(t, c.run)))
				case <-tick.C:
				}
			}
			all := approvalsOf(t, c.run)
			want := max(form.uses, 1)
			if used := countPhase(all, v1alpha1.PhaseUsed); used != want || len(all) != want {
				t.Errorf("one call has %d approvals, %d of them used; want %d:\n%s", len(all), used, want, diffs(all))
			}

			second, stop := context.WithCancel(t.Context())
			defer stop()
			go func() { first <- form.do(second, c, "two") }()
			eventually(t, 20*time.Second, func() error {
				all := approvalsOf(t, c.run)
				if countPhase(all, v1alpha1.PhasePending) != 1 {
					return fmt.Errorf("of %d approvals none is open for the other request", len(all))
				}
				return nil
			})
			stop()
			if err := <-first; err == nil {
				t.Error("the other request went through")
			}
		})
	}
}

// newCaller makes an agent with every right and a namespace of its own where
// everything is held.
func newCaller(t *testing.T) *caller {
	t.Helper()
	c := &caller{agent: newAgent(t), files: func(text string) string { return writeFile(t, text) }}
	c.mayAll(t)
	c.ns = heldNamespace(t, "all-held-")
	must(t, shared.Admin, "create", "-n", c.ns, "-f", writeFile(t, objectsOfForms))
	// Their controllers have looked at them: what follows is the agent's.
	admin := kubernetes.NewForConfigOrDie(restConfig(t, shared.Admin))
	eventually(t, 20*time.Second, func() error {
		for _, name := range []string{"one", "two"} {
			d, err := admin.AppsV1().Deployments(c.ns).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || d.Status.ObservedGeneration != d.Generation || d.Annotations["deployment.kubernetes.io/revision"] == "" {
				return fmt.Errorf("deployment %s is new to its controller: %w", name, err)
			}
		}
		return nil
	})
	conf := restConfig(t, c.direct)
	c.typed, c.dyn = kubernetes.NewForConfigOrDie(conf), dynamic.NewForConfigOrDie(conf)
	return c
}

func countPhase(all []v1alpha1.Approval, phase v1alpha1.Phase) int {
	n := 0
	for i := range all {
		p := all[i].Status.Phase
		if p == phase || p == "" && phase == v1alpha1.PhasePending {
			n++
		}
	}
	return n
}

// diffs shows what approvals were for.
func diffs(all []v1alpha1.Approval) string {
	var b strings.Builder
	for _, ap := range all {
		fmt.Fprintf(&b, "%s %s %s\n%s\n", ap.Name, ap.Status.Phase, ap.Spec.Action, ap.Spec.Diff)
	}
	return b.String()
}

// kubectl doesn't retry an upgrade by itself: the same command again goes
// through, to a kubelet that isn't there.
func TestI3_ExecIsHeldByItsCommand(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	hc := client(t, "")
	exec := func(command string) (int, string) {
		t.Helper()
		code, body, err := send(t.Context(), hc, http.MethodPost,
			shared.APIServerURL+"/api/v1/namespaces/"+c.ns+"/pods/one/exec?container=c&stdout=true&command="+command, c.token, "")
		if err != nil {
			t.Fatal(err)
		}
		return code, body
	}
	refused(t, "is held by rule", c.direct, "exec", "-n", c.ns, "one", "-c", "c", "--", "true")
	before := approvalsOf(t, c.run)
	shown := map[string]bool{}
	for _, ap := range before {
		shown[ap.Name] = true
		if !strings.Contains(ap.Spec.Diff, "true") {
			t.Errorf("the approval doesn't show the command:\n%s", ap.Spec.Diff)
		}
	}
	if code, body := exec("id"); code != http.StatusTooManyRequests {
		t.Fatalf("an exec: %d %s", code, body)
	}
	for _, ap := range approvalsOf(t, c.run) {
		if shown[ap.Name] {
			continue
		}
		if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
			t.Fatal(r.Output())
		}
	}
	if code, body := exec("reboot"); code != http.StatusTooManyRequests {
		t.Errorf("another command: %d %s", code, body)
	}
	// Past admission the API server looks for the pod's node.
	if code, body := exec("id"); code/100 == 2 || code == http.StatusTooManyRequests || !strings.Contains(body, "no-such-node") {
		t.Errorf("the approved exec: %d %s", code, body)
	}
	if code, body := exec("id"); code != http.StatusTooManyRequests {
		t.Errorf("the same exec again: %d %s", code, body)
	}
}

// What an approval was signed for must still be what is there; what moves by
// itself may have moved.
func TestI3_WhatChangedMeanwhile(t *testing.T) {
	t.Parallel()
	c := newCaller(t)
	patch := func() (int, string) {
		t.Helper()
		_, err := c.typed.AppsV1().Deployments(c.ns).Patch(t.Context(), "one", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"by":"agent"}}}`), metav1.PatchOptions{})
		if err == nil {
			return http.StatusOK, ""
		}
		return http.StatusTooManyRequests, err.Error()
	}
	conf := restConfig(t, c.direct)
	conf.Wrap(func(rt http.RoundTripper) http.RoundTripper { return withoutRetryAfter{rt} })
	c.typed = kubernetes.NewForConfigOrDie(conf)
	approve := func(want int) {
		t.Helper()
		all := approvalsOf(t, c.run)
		if len(all) != want {
			t.Fatalf("%d approvals, want %d:\n%s", len(all), want, diffs(all))
		}
		for _, ap := range all {
			if ap.Status.Phase == v1alpha1.PhasePending || ap.Status.Phase == "" {
				if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
					t.Fatal(r.Output())
				}
			}
		}
	}
	if code, text := patch(); code != http.StatusTooManyRequests {
		t.Fatal(code, text)
	}
	approve(1)
	// A person changes what it is about.
	must(t, shared.Admin, "annotate", "deployment", "one", "-n", c.ns, "owner=somebody-else")
	if code, text := patch(); code != http.StatusTooManyRequests {
		t.Fatalf("an approval for another state of the object lets it through: %d %s", code, text)
	}
	approve(2)
	// Status, versions and field managers move.
	must(t, shared.Admin, "patch", "deployment", "one", "-n", c.ns, "--subresource=status", "--type=merge", "-p",
		`{"status":{"conditions":[{"type":"Seen","status":"True","reason":"ByAdmin"}]}}`)
	must(t, shared.Admin, "apply", "--server-side", "--field-manager=somebody", "-n", c.ns, "-f",
		writeFile(t, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"one","annotations":{"owner":"somebody-else"}}}`))
	if code, text := patch(); code != http.StatusOK {
		t.Errorf("approved, only its status has moved: %d %s\n%s", code, text, diffs(approvalsOf(t, c.run)))
	}
	if got := must(t, shared.Admin, "get", "deployment", "one", "-n", c.ns, "-o", "jsonpath={.metadata.labels.by}"); got != "agent" {
		t.Errorf("the label is %q", got)
	}
	if all := approvalsOf(t, c.run); len(all) != 2 || countPhase(all, v1alpha1.PhaseUsed) != 1 {
		t.Errorf("two approvals, one of them used: \n%s", diffs(all))
	}
}

// withoutRetryAfter makes client-go show a 429 instead of trying again.
type withoutRetryAfter struct{ http.RoundTripper }

func (rt withoutRetryAfter) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := rt.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Header.Del("Retry-After")
	}
	return resp, err
}
