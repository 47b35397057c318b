package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

// pastInline is long after the webhook has given up waiting (the tests' inline
// wait is a second).
const pastInline = 4 * time.Second

// holdProxied starts a call through the proxy that is held, and returns its
// approval when the webhook's inline wait is long over.
func (a agent) holdProxied(t *testing.T, object string, args ...string) (*harness.Command, *v1alpha1.Approval) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := shared.StartKubectl(ctx, a.proxied, args...)
	ap, err := shared.WaitForApproval(ctx, a.run, object, cmd)
	if err != nil {
		t.Fatal(err)
	}
	older(t, ap)
	return cmd, ap
}

// older returns when the approval has been pending past the inline wait.
func older(t *testing.T, ap *v1alpha1.Approval) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		if age := time.Since(ap.CreationTimestamp.Time); age < pastInline {
			return fmt.Errorf("%s old", age)
		}
		return nil
	})
}

// asked are the answers to requests of one verb, as kubectl -v=6 tells.
func asked(r harness.Result, verb string) []string {
	return regexp.MustCompile(`(?m)^.*"Response" verb="`+verb+`".*$`).FindAllString(r.Stderr, -1)
}

func TestI4_AHeldChangeWaitsInTheProxy(t *testing.T) {
	t.Parallel()
	t.Run("approved, kubectl's first try goes through", func(t *testing.T) {
		t.Parallel()
		a, ns := newAgent(t), namespace(t)
		cmd, ap := a.holdProxied(t, ns, "delete", "namespace", ns, "--wait=false", "-v=6")
		if got := phase(t, ns); got != "Active" {
			t.Errorf("the held namespace is %s", got)
		}
		approve(t, ap.Name)
		r := cmd.Wait()
		if tries := asked(r, "DELETE"); !r.OK() || len(tries) != 1 || !strings.Contains(tries[0], "200 OK") || strings.Contains(r.Stderr, "429") {
			t.Errorf("code %d, %d tries: %s", r.Code, len(tries), r.Output())
		}
		if got := phase(t, ns); got != "Terminating" {
			t.Errorf("the namespace is %s", got)
		}
		if all := approvalsOf(t, a.run); len(all) != 1 || all[0].Status.Phase != v1alpha1.PhaseUsed {
			t.Errorf("approvals: %v", all)
		}
	})
	t.Run("denied", func(t *testing.T) {
		t.Parallel()
		a, ns := newAgent(t), namespace(t)
		cmd, ap := a.holdProxied(t, ns, "delete", "namespace", ns, "--wait=false", "-v=6")
		if r := tipstaff(t, shared.Bob, "deny", ap.Name, "--reason", "not on a Friday"); !r.OK() {
			t.Fatal(r.Output())
		}
		r := cmd.Wait()
		if tries := asked(r, "DELETE"); r.OK() || len(tries) != 1 || !strings.Contains(tries[0], "403") || !strings.Contains(r.Stderr, "not on a Friday") {
			t.Errorf("code %d, %d tries: %s", r.Code, len(tries), r.Output())
		}
		if got := phase(t, ns); got != "Active" {
			t.Errorf("the namespace is %s", got)
		}
	})
	t.Run("an update, whose object is looked at anew after the wait", func(t *testing.T) {
		t.Parallel()
		p := newPlain(t, "all-held-")
		must(t, shared.Admin, "create", "configmap", "there", "-n", p.ns, "--from-literal=key=before")
		cmd, ap := p.holdProxied(t, "there", "patch", "configmap", "there", "-n", p.ns, "--type=merge", "-p", `{"data":{"key":"after"}}`, "-v=6")
		approve(t, ap.Name)
		if r := cmd.Wait(); !r.OK() || len(asked(r, "PATCH")) != 1 {
			t.Errorf("code %d: %s", r.Code, r.Output())
		}
		if got := must(t, shared.Admin, "get", "configmap", "there", "-n", p.ns, "-o", "jsonpath={.data.key}"); got != "after" {
			t.Errorf("its value is %q", got)
		}
	})
	t.Run("through another replica than the one that hears of the approval first", func(t *testing.T) {
		t.Parallel()
		second := secondReplica(t)
		p := newPlain(t, "all-held-")
		got := p.through(t, t.Context(), second.ProxyURL, "PUT", "", plainMap("there", "after"), func() {
			must(t, shared.Admin, "create", "configmap", "there", "-n", p.ns, "--from-literal=key=before")
		})
		older(t, p.pendingOne(t))
		approve(t, p.pendingOne(t).Name)
		if a := <-got; a.err != nil || a.code != http.StatusOK {
			t.Errorf("%d %s %v", a.code, a.body, a.err)
		}
	})
	t.Run("nobody decides", func(t *testing.T) {
		t.Parallel()
		p := newPlain(t, "short-")
		a := <-p.through(t, t.Context(), shared.ProxyURL, "POST", "", plainMap("late", "v"), nil)
		if a.err != nil || a.code != http.StatusForbidden || cause(a.status(t), webhook.CauseReason) != webhook.ReasonExpired || cause(a.status(t), webhook.CauseFinal) != "no" {
			t.Errorf("%d %s %v", a.code, a.body, a.err)
		}
		if all := approvalsOf(t, p.run); len(all) != 1 {
			t.Errorf("people are asked %d times", len(all))
		}
	})
}

func TestI4_AClientSaysHowLongItWaits(t *testing.T) {
	t.Parallel()
	p := newPlain(t, "all-held-")
	for wait, want := range map[string]struct {
		code        int
		least, most time.Duration
	}{
		"0":     {http.StatusTooManyRequests, 0, pastInline},
		"6s":    {http.StatusTooManyRequests, 6 * time.Second, 12 * time.Second},
		"never": {http.StatusBadRequest, 0, pastInline},
	} {
		t.Run(wait, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			a := <-p.through(t, t.Context(), shared.ProxyURL, "POST", wait, plainMap("for-"+wait, "v"), nil)
			took := time.Since(began)
			if a.err != nil || a.code != want.code || took < want.least || took > want.most {
				t.Errorf("after %s: %d %s %v", took, a.code, a.body, a.err)
			}
			if st := a.status(t); a.code == http.StatusTooManyRequests && (cause(st, webhook.CauseReason) != webhook.ReasonHeld || st.Details.RetryAfterSeconds < 1 || a.retryAfter == "") {
				t.Errorf("%+v, Retry-After %q", st, a.retryAfter)
			}
		})
	}
}

func TestI9_ARevokedRunWaitsNoLonger(t *testing.T) {
	t.Parallel()
	p := newPlain(t, "all-held-")
	got := p.through(t, t.Context(), shared.ProxyURL, "POST", "", plainMap("waits", "v"), nil)
	older(t, p.pendingOne(t))
	began := time.Now()
	if r := tipstaff(t, shared.Alice, "revoke", p.run, "--reason", "it went astray"); !r.OK() {
		t.Fatal(r.Output())
	}
	a := <-got
	t.Logf("answered %s after the revocation was asked for", time.Since(began))
	if a.err != nil || a.code != http.StatusUnauthorized || !strings.Contains(a.body, "it went astray") || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %d %s %v", time.Since(began), a.code, a.body, a.err)
	}
	refused(t, "NotFound", shared.Admin, "get", "configmap", "waits", "-n", p.ns)
}

// What a client that has left asked for doesn't happen behind its back; its
// approval stands, for the same request sent again.
func TestI4_AClientThatLeavesTakesItsRequestAlong(t *testing.T) {
	t.Parallel()
	p := newPlain(t, "all-held-")
	ctx, cancel := context.WithCancel(t.Context())
	got := p.through(t, ctx, shared.ProxyURL, "POST", "", plainMap("left", "v"), nil)
	ap := p.pendingOne(t)
	older(t, ap)
	cancel()
	if a := <-got; a.err == nil {
		t.Fatalf("%d %s", a.code, a.body)
	}
	gone := func() error {
		log, err := shared.Log("tipstaff")
		if err != nil {
			return err
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, `"held change waited"`) && strings.Contains(line, ap.Name) && strings.Contains(line, `"end":"gone"`) {
				return nil
			}
		}
		return fmt.Errorf("the wait for %s goes on", ap.Name)
	}
	eventually(t, 10*time.Second, gone)
	if now := p.pendingOne(t); now.Name != ap.Name {
		t.Errorf("approval %s became %s", ap.Name, now.Name)
	}
	approve(t, ap.Name)
	refused(t, "NotFound", shared.Admin, "get", "configmap", "left", "-n", p.ns)
	if a := <-p.through(t, t.Context(), shared.ProxyURL, "POST", "0", plainMap("left", "v"), nil); a.code != http.StatusCreated {
		t.Errorf("sent again: %d %s %v", a.code, a.body, a.err)
	}
}

// As many as may wait do, the others are answered at once; all that wait go
// through, each once.
func TestI4_ManyWaitInTheProxy(t *testing.T) {
	t.Parallel()
	const n, may = 60, 50
	p := newPlain(t, "all-held-")
	all := make(chan proxyAnswer, n)
	for i := range n {
		got := p.through(t, t.Context(), shared.ProxyURL, "POST", "", plainMap(fmt.Sprintf("many-%d", i), "v"), nil)
		go func() { all <- <-got }()
	}
	full := 0
	for ; full < n-may; full++ {
		if a := <-all; a.err != nil || a.code != http.StatusTooManyRequests {
			t.Fatalf("past the bound: %d %s %v", a.code, a.body, a.err)
		}
	}
	eventually(t, 20*time.Second, func() error {
		if got := len(approvalsOf(t, p.run)); got != n {
			return fmt.Errorf("%d approvals", got)
		}
		return nil
	})
	select {
	case a := <-all:
		t.Fatalf("one more: %d %s %v", a.code, a.body, a.err)
	default:
	}
	if r := tipstaff(t, shared.Alice, "approve", "--run", p.run, "--yes"); !r.OK() {
		t.Fatal(r.Output())
	}
	for range may {
		if a := <-all; a.err != nil || a.code != http.StatusCreated {
			t.Errorf("one of those who wait: %d %s %v", a.code, a.body, a.err)
		}
	}
	if used := countPhase(approvalsOf(t, p.run), v1alpha1.PhaseUsed); used != may {
		t.Errorf("%d approvals are used", used)
	}
}

// proxyAnswer is what a client of the proxy gets.
type proxyAnswer struct {
	code             int
	body, retryAfter string
	err              error
}

func (a proxyAnswer) status(t *testing.T) metav1.Status {
	t.Helper()
	var st metav1.Status
	if err := json.Unmarshal([]byte(a.body), &st); err != nil {
		t.Fatalf("%d %s: %v", a.code, a.body, err)
	}
	return st
}

// through sends a config map through a proxy, with the header Tipstaff-Wait
// unless that is empty; first prepares.
func (p *plain) through(t *testing.T, ctx context.Context, proxy, method, wait, body string, first func()) <-chan proxyAnswer { //nolint:revive // t first, as everywhere here
	t.Helper()
	if first != nil {
		first()
	}
	url := proxy + "/api/v1/namespaces/" + p.ns + "/configmaps"
	if method == http.MethodPut {
		var m struct{ Metadata metav1.ObjectMeta }
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			t.Fatal(err)
		}
		url += "/" + m.Metadata.Name
	}
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	if wait != "" {
		req.Header.Set("Tipstaff-Wait", wait)
	}
	hc := *p.hc
	hc.Timeout = time.Minute
	out := make(chan proxyAnswer, 1)
	go func() {
		resp, err := hc.Do(req)
		if err != nil {
			out <- proxyAnswer{err: err}
			return
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // read to its end
		out <- proxyAnswer{resp.StatusCode, string(b), resp.Header.Get("Retry-After"), err}
	}()
	return out
}

// pendingOne is the run's one approval, which is pending.
func (p *plain) pendingOne(t *testing.T) *v1alpha1.Approval {
	t.Helper()
	var one *v1alpha1.Approval
	eventually(t, 20*time.Second, func() error {
		all := approvalsOf(t, p.run)
		if len(all) != 1 || all[0].Status.Phase != v1alpha1.PhasePending {
			return fmt.Errorf("approvals: %v", all)
		}
		one = &all[0]
		return nil
	})
	return one
}
