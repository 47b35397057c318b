package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// tokenCacheTTL is the harness's --authentication-token-webhook-cache-ttl.
const tokenCacheTTL = 10 * time.Second

func TestI9_RevocationBites(t *testing.T) {
	t.Parallel()
	ns, second := namespace(t), secondReplica(t)
	run, otherRun := slug(t), slug(t)+"-other"
	token, other := scoped(t, run, ns, time.Hour), scoped(t, otherRun, ns, time.Hour)
	hc := client(t, "")
	hc.Timeout = time.Minute
	get := func(base, token string) (int, string) {
		code, body, err := send(t.Context(), hc, http.MethodGet, base+"/api/v1/namespaces/"+ns+"/configmaps", token, "")
		if err != nil {
			t.Fatal(err)
		}
		return code, body
	}
	// Leases: a right of the run's that Tipstaff didn't make.
	for _, r := range []string{run, otherRun} {
		grant(t, v1alpha1.RunGroup(harness.IssuerName, r), "--verb=list", "--resource=leases.coordination.k8s.io")
	}
	standing := func(token string) (int, string) {
		code, body, err := send(t.Context(), hc, http.MethodGet, shared.APIServerURL+"/apis/coordination.k8s.io/v1/namespaces/"+ns+"/leases", token, "")
		if err != nil {
			t.Fatal(err)
		}
		return code, body
	}
	change := func(token string) (int, string) {
		code, body, err := send(t.Context(), hc, http.MethodPost, shared.APIServerURL+"/api/v1/namespaces/"+ns+"/configmaps?dryRun=All", token,
			`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`)
		if err != nil {
			t.Fatal(err)
		}
		return code, body
	}
	ways := []struct {
		name string
		try  func(token string) (int, string)
		// within is how late the first refusal may come.
		within time.Duration
	}{
		{"change", change, 2 * time.Second},
		{"read through the proxy", func(token string) (int, string) { return get(shared.ProxyURL, token) }, 2 * time.Second},
		{"read through the other replica's proxy", func(token string) (int, string) { return get(second.ProxyURL, token) }, 2 * time.Second},
		{"direct read by the run's own bindings", func(token string) (int, string) { return get(shared.APIServerURL, token) }, 2 * time.Second},
		{"direct read by a right that stands", standing, tokenCacheTTL + 3*time.Second},
	}
	for _, w := range ways {
		for _, token := range []string{token, other} {
			if code, body := w.try(token); code/100 != 2 {
				t.Fatalf("%s before the revocation: %d %s", w.name, code, body)
			}
		}
	}
	cut := watch(t, hc, shared.ProxyURL, ns, token)
	stays := watch(t, hc, shared.ProxyURL, ns, other)
	// A held call of the run waits meanwhile.
	k, err := shared.Agent(run, token, harness.Direct)
	if err != nil {
		t.Fatal(err)
	}
	a := agent{run: run, token: token, direct: k}
	held, ap, _ := a.hold(t, "held-"+run, "create", "configmap", "held-"+run, "-n", ns)

	began := time.Now()
	if r := tipstaff(t, shared.Alice, "revoke", run, "--reason", "it went astray"); !r.OK() {
		t.Fatal(r.Output())
	}
	revoked := time.Now()
	// Each way is tried until it is refused, and must then stay refused.
	for _, w := range ways {
		for {
			code, body := w.try(token)
			if code == http.StatusUnauthorized || code == http.StatusForbidden {
				t.Logf("%s: first refusal (%d) at most %s after the revocation", w.name, code, time.Since(revoked).Round(time.Millisecond))
				break
			}
			if time.Since(revoked) > w.within+time.Second { // a second for a busy machine
				t.Errorf("%s: %s after the revocation still %d %s", w.name, time.Since(revoked), code, body)
				break
			}
		}
		if code, body := w.try(token); code/100 == 2 {
			t.Errorf("%s: refused, then %d %s", w.name, code, body)
		}
	}
	select {
	case end := <-cut:
		t.Logf("the open watch ended %s after the revocation was asked for", end.at.Sub(began).Round(time.Millisecond))
		if end.err != nil || !strings.Contains(end.last, `"type":"ERROR"`) || !strings.Contains(end.last, "it went astray") {
			t.Errorf("its last event is %q, %v", end.last, end.err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the revoked run's watch is still open")
	}
	if r := held.Wait(); r.OK() || !strings.Contains(r.Stderr, "revoked") {
		t.Errorf("the held call of the revoked run ends with code %d: %s", r.Code, r.Output())
	}
	eventually(t, 5*time.Second, func() error {
		if got := must(t, shared.Alice, "get", "approval", ap.Name, "-o", "jsonpath={.status.phase}"); got != string(v1alpha1.PhaseCancelled) {
			return fmt.Errorf("the pending approval is %s", got)
		}
		return nil
	})
	if r := tipstaff(t, shared.Alice, "approve", ap.Name); r.OK() {
		t.Errorf("a cancelled approval is approved: %s", r.Output())
	}
	noBindings(t, run, 5*time.Second)

	select {
	case end := <-stays:
		t.Errorf("another run's watch ended: %v", end.err)
	default:
	}
	for _, w := range ways {
		if code, body := w.try(other); code/100 != 2 {
			t.Errorf("%s of another run: %d %s", w.name, code, body)
		}
	}
}

// end is how a watch ended.
type end struct {
	at   time.Time
	last string // the last line that came
	err  error
}

// watch opens a watch, and returns when its first event has come.
func watch(t *testing.T, hc *http.Client, base, ns, token string) <-chan end {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/namespaces/"+ns+"/configmaps?watch=true&timeoutSeconds=50&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(resp.Body)
	first, err := body.ReadString('\n')
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("open a watch: %d %s %v", resp.StatusCode, first, err)
	}
	ended, read := make(chan end, 1), make(chan struct{})
	t.Cleanup(func() { cancel(); <-read })
	go func() {
		defer close(read)
		var e end
		for e.err == nil {
			var line string
			if line, e.err = body.ReadString('\n'); line != "" {
				e.last = line
			}
		}
		if errors.Is(e.err, io.EOF) {
			e.err = nil
		}
		if e.at = time.Now(); ctx.Err() == nil {
			ended <- e
		}
		_ = resp.Body.Close() // read to its end, or broken
	}()
	return ended
}

func TestI9_EachWayToNameARun(t *testing.T) {
	t.Parallel()
	// Names that nobody can have are no revocation, whatever the tool.
	for _, args := range [][]string{{"--agent", "coder"}, {"--credential-id", "abc"}, {"--owner", ""}, {}} {
		if r := tipstaff(t, shared.Alice, append([]string{"revoke", "--reason", "x"}, args...)...); r.OK() {
			t.Errorf("revoke %q: %s", args, r.Output())
		}
	}
	ns := namespace(t)
	hc := client(t, "")
	for _, tc := range []struct {
		name string
		args func(run string, claims map[string]any) []string
	}{
		{"owner", func(run string, _ map[string]any) []string { return []string{"--owner", "owner-" + run} }},
		{"agent", func(run string, _ map[string]any) []string {
			return []string{"--agent", "agent:platform:subject-" + run}
		}},
		{"subject", func(run string, _ map[string]any) []string {
			return []string{"--subject", "subject-" + run, "--issuer", harness.IssuerName}
		}},
		{"credential", func(_ string, user map[string]any) []string {
			return []string{"--credential-id", fmt.Sprint(user["credential"])}
		}},
		{"run, for a while", func(run string, _ map[string]any) []string { return []string{run, "--for", "5s"} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			run := slug(t)
			token, err := shared.Mint(t.Context(), run, issuer.Claims{Subject: "subject-" + run, Private: map[string]any{"act": map[string]any{"sub": "owner-" + run}}})
			if err != nil {
				t.Fatal(err)
			}
			k, err := shared.Agent(run, token, harness.Direct)
			if err != nil {
				t.Fatal(err)
			}
			user, r := userInfo(t, k)
			if !r.OK() {
				t.Fatal(r.Output())
			}
			facts := map[string]any{}
			if ids := user.Extra[v1alpha1.ExtraCredentialID]; len(ids) == 1 {
				facts["credential"] = ids[0]
			}
			change := func() error {
				code, body, err := send(t.Context(), hc, http.MethodPost, shared.APIServerURL+"/api/v1/namespaces/"+ns+"/configmaps?dryRun=All", token,
					`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`)
				if err != nil {
					return err
				}
				var status struct{ Message string }
				if code/100 != 2 {
					_ = json.Unmarshal([]byte(body), &status) // the whole body is shown otherwise
					return errors.New(status.Message)
				}
				return nil
			}
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if r := tipstaff(t, shared.Alice, append([]string{"revoke", "--reason", "by its " + tc.name}, tc.args(run, facts)...)...); !r.OK() {
				t.Fatal(r.Output())
			}
			eventually(t, 4*time.Second, func() error {
				if err := change(); err == nil || !strings.Contains(err.Error(), "by its "+tc.name) && !strings.Contains(err.Error(), "Unauthorized") {
					return fmt.Errorf("a revoked run's change: %w", err)
				}
				return nil
			})
			if strings.Contains(tc.name, "for a while") {
				// It ends by itself; a refused token is not cached by the API server.
				eventually(t, 20*time.Second, change)
			}
		})
	}
}
