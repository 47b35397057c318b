package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

// plain is an agent that speaks HTTP and knows nothing of retries.
type plain struct {
	agent
	ns string
	hc *http.Client
}

// newPlain makes one with every right, and a namespace whose name begins with prefix.
func newPlain(t *testing.T, prefix string) *plain {
	t.Helper()
	p := &plain{agent: newAgent(t), ns: heldNamespace(t, prefix), hc: client(t, "")}
	p.mayAll(t)
	return p
}

// ask sends one request about something in the namespace.
func (p *plain) ask(t *testing.T, method, path, body string) (int, metav1.Status) {
	t.Helper()
	code, text, err := send(t.Context(), p.hc, method, shared.APIServerURL+"/api/v1/namespaces/"+p.ns+"/"+path, p.token, body)
	if err != nil {
		t.Fatal(err)
	}
	var status metav1.Status
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatalf("%s %s: %d %s: %v", method, path, code, text, err)
	}
	return code, status
}

// askHeld sends one that must be held, and returns its approval's name.
func (p *plain) askHeld(t *testing.T, method, path, body string) string {
	t.Helper()
	code, status := p.ask(t, method, path, body)
	if code != http.StatusTooManyRequests {
		t.Fatalf("%s %s: %d %s; want it held", method, path, code, status.Message)
	}
	return cause(status, webhook.CauseApproval)
}

func cause(status metav1.Status, of metav1.CauseType) string {
	if status.Details != nil {
		for _, c := range status.Details.Causes {
			if c.Type == of {
				return c.Message
			}
		}
	}
	return ""
}

// plainMap is a config map as a request's body.
func plainMap(name, value string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"key":%q}}`, name, value)
}

func approve(t *testing.T, name string) {
	t.Helper()
	if r := tipstaff(t, shared.Alice, "approve", name); !r.OK() {
		t.Fatal(r.Output())
	}
}

func TestI3_TwoHundredIdenticalRequestsOneGoesThrough(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, method, path, body string }{
		{"create", http.MethodPost, "/api/v1/namespaces/%s/configmaps", plainMap("new", "v")},
		{"update", http.MethodPut, "/api/v1/namespaces/%s/configmaps/one", plainMap("one", "after")},
		{"scale", http.MethodPut, "/apis/apps/v1/namespaces/%s/deployments/one/scale", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"one"},"spec":{"replicas":3}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			const n = 200
			c, hc := newCaller(t), client(t, "")
			url := shared.APIServerURL + fmt.Sprintf(tc.path, c.ns)
			if code, body, err := send(t.Context(), hc, tc.method, url, c.token, tc.body); err != nil || code != http.StatusTooManyRequests {
				t.Fatalf("the first: %d %s %v", code, body, err)
			}
			all := approvalsOf(t, c.run)
			if len(all) != 1 {
				t.Fatalf("%d approvals", len(all))
			}
			approve(t, all[0].Name)
			codes, bodies, errs := make([]int, n), make([]string, n), make([]error, n)
			var group sync.WaitGroup
			start := make(chan struct{})
			for i := range n {
				group.Go(func() {
					<-start
					codes[i], bodies[i], errs[i] = send(t.Context(), hc, tc.method, url, c.token, tc.body)
				})
			}
			close(start)
			group.Wait()
			through := map[int]int{}
			for i, code := range codes {
				if errs[i] != nil {
					t.Error(errs[i])
				}
				through[code]++
				// On a busy machine one that can't be checked in time is refused (I4).
				unchecked := code == http.StatusInternalServerError && strings.Contains(bodies[i], webhook.ReasonUnchecked)
				if code/100 != 2 && code != http.StatusTooManyRequests && code != http.StatusConflict && !unchecked {
					t.Errorf("one of them: %d %s", code, bodies[i])
				}
			}
			t.Logf("answers by code: %v", through)
			if through[http.StatusOK]+through[http.StatusCreated] != 1 {
				t.Errorf("answers by code: %v; want one success", through)
			}
			if all := approvalsOf(t, c.run); countPhase(all, v1alpha1.PhaseUsed) != 1 {
				t.Errorf("%d of %d approvals are used, want one", countPhase(all, v1alpha1.PhaseUsed), len(all))
			}
		})
	}
}

// A client that knows nothing of Tipstaff gets all it needs in the answer.
func TestI4_WhatAPlainClientIsTold(t *testing.T) {
	t.Parallel()
	p := newPlain(t, "all-held-")
	body := plainMap("asked", "v")
	code, held := p.ask(t, http.MethodPost, "configmaps", body)
	if code != http.StatusTooManyRequests || held.Reason != metav1.StatusReasonTooManyRequests || held.Details == nil || held.Details.RetryAfterSeconds < 1 {
		t.Fatalf("held: %d %+v", code, held)
	}
	name := cause(held, webhook.CauseApproval)
	for of, want := range map[metav1.CauseType]string{
		webhook.CauseReason: webhook.ReasonHeld, webhook.CauseRule: "test-all-held",
		webhook.CauseState: string(v1alpha1.PhasePending), webhook.CauseFinal: "no",
	} {
		if got := cause(held, of); got != want {
			t.Errorf("held: %s is %q, want %q", of, got, want)
		}
	}
	if name == "" || !strings.Contains(held.Message, name) || !strings.Contains(held.Message, "is held by rule") {
		t.Errorf("approval %q, told: %s", name, held.Message)
	}
	approve(t, name)
	if code, status := p.ask(t, http.MethodPost, "configmaps", body); code != http.StatusCreated {
		t.Errorf("approved: %d %s", code, status.Message)
	}

	denied := plainMap("denied", "v")
	name = p.askHeld(t, http.MethodPost, "configmaps", denied)
	if r := tipstaff(t, shared.Bob, "deny", name, "--reason", "not on a Friday"); !r.OK() {
		t.Fatal(r.Output())
	}
	code, status := p.ask(t, http.MethodPost, "configmaps", denied)
	if code != http.StatusForbidden || cause(status, webhook.CauseFinal) != "yes" || cause(status, webhook.CauseReason) != webhook.ReasonDenied ||
		cause(status, webhook.CauseApproval) != name || !strings.Contains(status.Message, "not on a Friday") || !strings.Contains(status.Message, "bob") {
		t.Errorf("denied: %d %+v", code, status)
	}
	refused(t, "NotFound", shared.Admin, "get", "configmap", "denied", "-n", p.ns)
}

func TestI4_ADryRunAsksNobody(t *testing.T) {
	t.Parallel()
	p := newPlain(t, "all-held-")
	must(t, shared.Admin, "create", "configmap", "there", "-n", p.ns, "--from-literal=key=before")
	for _, args := range [][]string{
		{"create", "configmap", "new"},
		{"delete", "configmap", "there"},
		{"patch", "configmap", "there", "--type=merge", "-p", `{"data":{"key":"after"}}`},
	} {
		r := kubectl(t, p.direct, append(args, "-n", p.ns, "--dry-run=server")...)
		if !r.OK() || !strings.Contains(r.Stderr, "would be held by rule") {
			t.Errorf("kubectl %s --dry-run=server: code %d: %s", strings.Join(args, " "), r.Code, r.Output())
		}
	}
	if all := approvalsOf(t, p.run); len(all) != 0 {
		t.Errorf("a dry run opens %d approvals", len(all))
	}
	if got := must(t, shared.Admin, "get", "configmaps", "-n", p.ns, "-o", "jsonpath={.items[*].data.key}{.items[*].metadata.name}"); !strings.Contains(got, "before") || strings.Contains(got, "new") {
		t.Errorf("after dry runs: %s", got)
	}
}

// What was approved is looked at again when it is used.
func TestI3_AnApprovalThatNoLongerHolds(t *testing.T) {
	t.Parallel()
	t.Run("its run is revoked", func(t *testing.T) {
		t.Parallel()
		p := newPlain(t, "all-held-")
		body := plainMap("revoked", "v")
		name := p.askHeld(t, http.MethodPost, "configmaps", body)
		approve(t, name)
		if r := tipstaff(t, shared.Alice, "revoke", p.run, "--reason", "it went astray"); !r.OK() {
			t.Fatal(r.Output())
		}
		eventually(t, 5*time.Second, func() error {
			if ap := approvalsOf(t, p.run); len(ap) != 1 || ap[0].Status.Phase != v1alpha1.PhaseCancelled {
				return fmt.Errorf("the approved approval of a revoked run: %v", ap)
			}
			return nil
		})
		if code, status := p.ask(t, http.MethodPost, "configmaps", body); code != http.StatusForbidden && code != http.StatusUnauthorized {
			t.Errorf("a revoked run uses its approval: %d %s", code, status.Message)
		}
		refused(t, "NotFound", shared.Admin, "get", "configmap", "revoked", "-n", p.ns)
	})
	t.Run("its time is over", func(t *testing.T) {
		t.Parallel()
		p := newPlain(t, "short-")
		body := plainMap("late", "v")
		name := p.askHeld(t, http.MethodPost, "configmaps", body)
		approve(t, name)
		eventually(t, 20*time.Second, func() error {
			if ap := approvalsOf(t, p.run); len(ap) != 1 || ap[0].Status.Phase != v1alpha1.PhaseExpired {
				return fmt.Errorf("the approvals: %v", ap)
			}
			return nil
		})
		if next := p.askHeld(t, http.MethodPost, "configmaps", body); next == name {
			t.Errorf("approval %s is open again", name)
		}
		refused(t, "NotFound", shared.Admin, "get", "configmap", "late", "-n", p.ns)
	})
}

// megabyte is what the API server takes of data.
const megabyte = 1 << 20

func TestI3_OddObjects(t *testing.T) {
	t.Parallel()
	p := newPlain(t, "all-held-")

	t.Run("named like an approval", func(t *testing.T) {
		name := p.askHeld(t, http.MethodPost, "configmaps", plainMap("first", "v"))
		other := p.askHeld(t, http.MethodPost, "configmaps", plainMap(name, "v"))
		approve(t, name)
		if other == name {
			t.Errorf("two requests have the approval %s", name)
		}
		if again := p.askHeld(t, http.MethodPost, "configmaps", plainMap(name, "v")); again != other {
			t.Errorf("the same request has the approvals %s and %s", other, again)
		}
	})

	t.Run("in the name of tipstaff", func(t *testing.T) {
		for _, text := range []string{
			`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"mine","labels":{"app.kubernetes.io/managed-by":"tipstaff"}},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},"subjects":[]}`,
			`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"mine","annotations":{"tipstaff.dev/run":"x"}},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},"subjects":[]}`,
			`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"tipstaff-mine"},"rules":[]}`,
			`{"apiVersion":"tipstaff.dev/v1alpha1","kind":"Revocation","metadata":{"name":"mine"},"spec":{"run":"x","reason":"x"}}`,
			`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"tipstaff-system"}}`,
		} {
			r := kubectl(t, p.direct, "apply", "--server-side", "--force-conflicts", "-n", p.ns, "-f", writeFile(t, text))
			if r.OK() || !strings.Contains(r.Output(), "agents change nothing") {
				t.Errorf("%s: code %d: %s", text, r.Code, r.Output())
			}
		}
	})

	t.Run("too large to show whole", func(t *testing.T) {
		lines := strings.Repeat(strings.Repeat("words and ", 100)+"\n", megabyte/1001-10)
		body := plainMap("large", lines)
		name := p.askHeld(t, http.MethodPost, "configmaps", body)
		for _, ap := range approvalsOf(t, p.run) {
			if ap.Name == name && (!strings.Contains(ap.Spec.Diff, "+    words and words") || !strings.Contains(ap.Spec.Diff, "shortened here: the whole difference has") || ap.Spec.DiffBytes < megabyte/2 || len(ap.Spec.Diff) > megabyte/4) {
				t.Errorf("the difference has %d of %d bytes and ends %q", len(ap.Spec.Diff), ap.Spec.DiffBytes, ap.Spec.Diff[max(0, len(ap.Spec.Diff)-200):])
			}
		}
		approve(t, name)
		// Beyond the cut it is another request.
		if other := p.askHeld(t, http.MethodPost, "configmaps", plainMap("large", lines+"x")); other == name {
			t.Error("what was cut away is not part of what was signed")
		}
		if code, status := p.ask(t, http.MethodPost, "configmaps", body); code != http.StatusCreated {
			t.Errorf("approved: %d %s", code, status.Message)
		}
	})

	t.Run("what the API server refuses by itself", func(t *testing.T) {
		must(t, shared.Admin, "create", "-n", p.ns, "-f", writeFile(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"fixed"},"immutable":true,"data":{"key":"v"}}`))
		before := len(approvalsOf(t, p.run))
		if code, status := p.ask(t, http.MethodPut, "configmaps/fixed", plainMap("fixed", "w")); code != http.StatusUnprocessableEntity {
			t.Errorf("a change of what can't be changed: %d %s", code, status.Message)
		}
		if after := len(approvalsOf(t, p.run)); after != before {
			t.Errorf("people are asked %d times about what can't happen", after-before)
		}
	})

	t.Run("kept by a finalizer", func(t *testing.T) {
		finalizer := "example.com/keep"
		must(t, shared.Admin, "create", "-n", p.ns, "-f", writeFile(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kept","finalizers":["`+finalizer+`"]}}`))
		t.Cleanup(func() { // or the namespace never ends
			kubectl(t, shared.Admin, "patch", "configmap", "kept", "-n", p.ns, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		})
		name := p.askHeld(t, http.MethodDelete, "configmaps/kept", "")
		approve(t, name)
		if code, status := p.ask(t, http.MethodDelete, "configmaps/kept", ""); code != http.StatusOK {
			t.Errorf("approved: %d %s", code, status.Message)
		}
		// To take the finalizer off is another change.
		if next := p.askHeld(t, http.MethodPut, "configmaps/kept", plainMap("kept", "v")); next == name {
			t.Error("one approval for two changes")
		}
		if got := must(t, shared.Admin, "get", "configmap", "kept", "-n", p.ns, "-o", "jsonpath={.metadata.finalizers[0]}{.metadata.deletionTimestamp}"); !strings.HasPrefix(got, finalizer) || got == finalizer {
			t.Errorf("it has the finalizer and the end %q", got)
		}
	})

	t.Run("of a kind without a schema", func(t *testing.T) {
		must(t, shared.Admin, "create", "-f", writeFile(t, `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"oddities.test.example.com"},
"spec":{"group":"test.example.com","scope":"Namespaced","names":{"plural":"oddities","singular":"oddity","kind":"Oddity"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`))
		must(t, shared.Admin, "wait", "--for=condition=Established", "crd/oddities.test.example.com")
		url := shared.APIServerURL + "/apis/test.example.com/v1/namespaces/" + p.ns + "/oddities"
		body := `{"apiVersion":"test.example.com/v1","kind":"Oddity","metadata":{"name":"odd"},"spec":{"deep":[{"er":[1,2.5,null,"x"]}]},"other":true}`
		var code int
		var text string
		eventually(t, 10*time.Second, func() (err error) { // the API server begins to serve it
			if code, text, err = send(t.Context(), p.hc, http.MethodPost, url, p.token, body); err == nil && code == http.StatusNotFound {
				err = fmt.Errorf("%d %s", code, text)
			}
			return err
		})
		var held metav1.Status
		if err := json.Unmarshal([]byte(text), &held); err != nil || code != http.StatusTooManyRequests {
			t.Fatalf("%d %s %v", code, text, err)
		}
		approve(t, cause(held, webhook.CauseApproval))
		if code, text, err := send(t.Context(), p.hc, http.MethodPost, url, p.token, body); err != nil || code != http.StatusCreated {
			t.Fatalf("approved: %d %s %v", code, text, err)
		}
		if got := must(t, shared.Admin, "get", "oddity", "odd", "-n", p.ns, "-o", "json"); !strings.Contains(got, "2.5") || !strings.Contains(got, `"other": true`) {
			t.Errorf("stored: %s", got)
		}
	})
}

// The tests below pause or stop tipstaff, so they are not parallel.

func TestI5_ASlowWebhookSlowsNobodyElse(t *testing.T) {
	const runs, each = 4, 40
	p := newPlain(t, "all-held-")
	agents := []*plain{p}
	for range runs - 1 {
		more := &plain{agent: newAgent(t), ns: p.ns, hc: client(t, "")}
		more.mayAll(t)
		agents = append(agents, more)
	}
	for _, a := range agents {
		if code, status := a.ask(t, http.MethodGet, "configmaps", ""); code != http.StatusOK { // the API server knows the token now
			t.Fatal(code, status.Message)
		}
	}
	// Not the admin, whom the API server lets pass every queue.
	must(t, shared.Admin, "create", "rolebinding", "alice", "-n", p.ns, "--clusterrole=edit", "--user=alice")
	alice := client(t, "alice")
	call := func(method, path, body string) time.Duration {
		t.Helper()
		began := time.Now()
		code, text, err := send(t.Context(), alice, method, shared.APIServerURL+"/api/v1/namespaces/"+p.ns+"/"+path, "", body)
		if err != nil || code/100 != 2 {
			t.Errorf("a person's %s: %d %s %v", method, code, text, err)
		}
		return time.Since(began)
	}
	resume := sync.OnceFunc(func() {
		if err := shared.ResumeTipstaff(); err != nil {
			t.Error(err)
		}
	})
	if err := shared.PauseTipstaff(); err != nil {
		t.Fatal(err)
	}
	defer resume()
	type answer struct {
		code int
		body string
		err  error
	}
	answers := make(chan answer, runs*each)
	for _, ag := range agents {
		for i := range each {
			go func() {
				var a answer
				a.code, a.body, a.err = send(t.Context(), ag.hc, http.MethodPost, shared.APIServerURL+"/api/v1/namespaces/"+p.ns+"/configmaps", ag.token, plainMap(fmt.Sprintf("agents-%d", i), "v"))
				answers <- a
			}()
		}
	}
	// All seats that agents have are taken, and others of theirs queue.
	eventually(t, 8*time.Second, func() error {
		text := must(t, shared.Admin, "get", "--raw", "/metrics")
		if !strings.Contains(text, `apiserver_flowcontrol_current_inqueue_requests{flow_schema="tipstaff-agents",priority_level="tipstaff-agents"} `) ||
			strings.Contains(text, `apiserver_flowcontrol_current_inqueue_requests{flow_schema="tipstaff-agents",priority_level="tipstaff-agents"} 0`) {
			return errors.New("no agent's request queues")
		}
		return nil
	})
	var took []time.Duration
	for i := range 10 {
		took = append(took, call(http.MethodPost, "configmaps", plainMap(fmt.Sprintf("persons-%d", i), "v")), call(http.MethodGet, "configmaps", ""))
	}
	// Tipstaff's own requests don't queue behind those who wait for it.
	if code, text, err := send(t.Context(), client(t, "tipstaff"), http.MethodGet, shared.APIServerURL+"/apis/tipstaff.dev/v1alpha1/approvals?limit=1", "", ""); err != nil || code != http.StatusOK {
		t.Errorf("Tipstaff's own: %d %s %v", code, text, err)
	}
	if longest := slices.Max(took); longest > 3*time.Second {
		t.Errorf("a person's call takes %s", longest)
	}
	t.Logf("%d calls of a person took at most %s each", len(took), slices.Max(took))
	waited := 0
	for range runs * each {
		a := <-answers
		switch {
		case a.err != nil || a.code/100 == 2:
			t.Errorf("an agent's change: %d %s %v", a.code, a.body, a.err)
		case strings.Contains(a.body, "changes.tipstaff.dev"):
			waited++
		}
	}
	if waited < runs*each/4 {
		t.Errorf("only %d of the agents' changes waited for Tipstaff", waited)
	}
	resume()
	refused(t, "NotFound", shared.Admin, "get", "configmap", "agents-0", "-n", p.ns)
	eventually(t, 20*time.Second, func() error {
		if code, status := p.ask(t, http.MethodPost, "configmaps", plainMap("afterwards", "v")); code != http.StatusTooManyRequests {
			return fmt.Errorf("afterwards: %d %s", code, status.Message)
		}
		return nil
	})
}

func TestI3_AnApprovalEndsWhileNobodyWatches(t *testing.T) {
	p := newPlain(t, "short-")
	body := plainMap("late", "v")
	name := p.askHeld(t, http.MethodPost, "configmaps", body)
	shared.StopTipstaff()
	ends := approvalsOf(t, p.run)[0].Spec.ExpiresAt.Time
	eventually(t, 20*time.Second, func() error {
		if left := time.Until(ends); left > 0 {
			return fmt.Errorf("%s left", left)
		}
		return nil
	})
	restart(t)
	if next := p.askHeld(t, http.MethodPost, "configmaps", body); next == name {
		t.Errorf("approval %s, which ended, is asked again", name)
	}
	eventually(t, 20*time.Second, func() error {
		for _, ap := range approvalsOf(t, p.run) {
			if ap.Name == name && ap.Status.Phase != v1alpha1.PhaseExpired {
				return fmt.Errorf("approval %s is %s", name, ap.Status.Phase)
			}
		}
		return nil
	})
	refused(t, "NotFound", shared.Admin, "get", "configmap", "late", "-n", p.ns)
}
