package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// replica is a second tipstaff on the same cluster, started once.
var replica = sync.OnceValues(func() (*harness.Replica, error) { return shared.StartReplica(context.Background()) })

func secondReplica(t *testing.T) *harness.Replica {
	t.Helper()
	r, err := replica()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// scoped mints a token of a run that may edit in ns.
func scoped(t *testing.T, run, ns string, lifetime time.Duration) string {
	t.Helper()
	token, err := shared.Mint(t.Context(), run, issuer.Claims{Lifetime: lifetime, Private: map[string]any{
		"profile": harness.ScopedProfile, "namespaces": []string{ns},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// bindings are the role bindings of a run, as namespace/name.
func bindings(t *testing.T, run string) []string {
	t.Helper()
	out := must(t, shared.Admin, "get", "rolebindings", "-A", "-l", v1alpha1.LabelRunKey+"="+string(v1alpha1.KeyOf(harness.IssuerName, run)),
		"-o", `jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}`)
	return strings.Fields(out)
}

// noBindings waits until a run has none.
func noBindings(t *testing.T, run string, within time.Duration) {
	t.Helper()
	eventually(t, within, func() error {
		if left := bindings(t, run); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

// Nobody has read rights on the direct path but by the run's own bindings. Each
// run's very first request is one, while another replica reviews the same token.
func TestI1_FirstRequestOfARunIsAuthorised(t *testing.T) {
	t.Parallel()
	const n = 50
	ns, second := namespace(t), secondReplica(t)
	hc, asServer := client(t, ""), client(t, "apiserver-to-tipstaff")
	type answer struct {
		code int
		body string
		err  error
	}
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = scoped(t, fmt.Sprintf("first-%d", i), ns, 10*time.Minute)
	}
	answers, reviews := make([]answer, n), make([]answer, n)
	var group sync.WaitGroup
	for i, token := range tokens {
		review, err := json.Marshal(authenticationv1.TokenReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"},
			Spec:     authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"tipstaff"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			a := &answers[i]
			a.code, a.body, a.err = send(t.Context(), hc, http.MethodGet, shared.APIServerURL+"/api/v1/namespaces/"+ns+"/pods", token, "")
		})
		group.Go(func() {
			a := &reviews[i]
			a.code, a.body, a.err = send(t.Context(), asServer, http.MethodPost, second.AuthnURL, "", string(review))
		})
	}
	group.Wait()
	for i := range n {
		if a := answers[i]; a.err != nil || a.code != http.StatusOK {
			t.Errorf("run %d's first request: %d %s %v", i, a.code, a.body, a.err)
		}
		if a := reviews[i]; a.err != nil || !strings.Contains(a.body, `"authenticated":true`) {
			t.Errorf("run %d's review at the second replica: %d %s %v", i, a.code, a.body, a.err)
		}
	}
	if got := bindings(t, "first-0"); len(got) != 2 {
		t.Errorf("run 0 has the bindings %v, want one for each of its two roles", got)
	}
	// Elsewhere they are nobody.
	code, body, err := send(t.Context(), hc, http.MethodGet, shared.APIServerURL+"/api/v1/namespaces/default/pods", tokens[0], "")
	if err != nil || code != http.StatusForbidden {
		t.Errorf("in another namespace: %d %s %v", code, body, err)
	}
}

func TestI1_BindingsGoWithTheRun(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	hc := client(t, "")
	for _, tc := range []struct {
		name     string
		lifetime time.Duration
		end      func(run string)
	}{
		{"when its token has expired", 5 * time.Second, func(string) {}},
		{"when it is revoked", 10 * time.Minute, func(run string) {
			if r := tipstaff(t, shared.Alice, "revoke", run, "--reason", "over"); !r.OK() {
				t.Error(r.Output())
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			run := slug(t)
			code, body, err := send(t.Context(), hc, http.MethodGet, shared.APIServerURL+"/api/v1/namespaces/"+ns+"/pods", scoped(t, run, ns, tc.lifetime), "")
			if err != nil || code != http.StatusOK {
				t.Fatalf("first request: %d %s %v", code, body, err)
			}
			if len(bindings(t, run)) == 0 {
				t.Fatal("the run has no bindings")
			}
			tc.end(run)
			// The issuer's clock may differ by 30 s, so a token lives that much longer.
			noBindings(t, run, 60*time.Second)
		})
	}
}

// grantOf is a Grant for a run, or for an agent where run is empty.
func grantOf(name, run, agent, role, ns, ttl string) string {
	who := `"run":"` + run + `","issuer":"` + harness.IssuerName + `"`
	if run == "" {
		who = `"agent":"` + agent + `"`
	}
	return `{"apiVersion":"tipstaff.dev/v1alpha1","kind":"Grant","metadata":{"name":"` + name + `"},"spec":{` + who + `,
"clusterRole":"` + role + `","namespaces":["` + ns + `"],"path":"direct","ttl":"` + ttl + `","reason":"to mend it"}}`
}

func TestI2_GrantsAreHeld(t *testing.T) {
	t.Parallel()
	a, other := newAgent(t), newAgent(t)
	ns := namespace(t)
	refused(t, "forbidden", a.direct, "get", "pods", "-n", ns)

	// What an agent may not even ask for.
	refused(t, "", a.direct, "create", "-f", writeFile(t, grantOf("for-other", other.run, "", "edit", ns, "10m")))
	refused(t, "", a.direct, "create", "-f", writeFile(t, grantOf("too-much", a.run, "", "cluster-admin", ns, "10m")))
	refused(t, "", a.direct, "create", "-f", writeFile(t, grantOf("system", a.run, "", "edit", "kube-system", "10m")))
	refused(t, "", a.direct, "create", "-f", writeFile(t, grantOf("for-ever", a.run, "", "edit", ns, "10000h")))

	name := slug(t)
	cmd, ap, _ := a.hold(t, name, "create", "-f", writeFile(t, grantOf(name, a.run, "", "view", ns, "20s")))
	for _, want := range []string{"view", ns, "20s", "to mend it"} {
		if !strings.Contains(ap.Spec.Diff, want) {
			t.Errorf("the approver does not see %q:\n%s", want, ap.Spec.Diff)
		}
	}
	refused(t, "forbidden", a.direct, "get", "pods", "-n", ns) // not yet
	if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
		t.Fatal(r.Output())
	}
	if r := cmd.Wait(); !r.OK() {
		t.Fatalf("approved, and still: %s", r.Output())
	}
	eventually(t, 5*time.Second, func() error {
		if r := kubectl(t, a.direct, "get", "pods", "-n", ns); !r.OK() {
			return fmt.Errorf("granted, and still: %s", r.Output())
		}
		return nil
	})
	refused(t, "forbidden", other.direct, "get", "pods", "-n", ns)
	// What exists can't be made more by the agent.
	refused(t, "", a.direct, "delete", "grant", name)
	refused(t, "", a.direct, "patch", "grant", name, "--type=merge", "-p", `{"spec":{"ttl":"8h"}}`)
	refused(t, "", a.direct, "patch", "grant", name, "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Active"}}`)
	eventually(t, 40*time.Second, func() error {
		if r := kubectl(t, a.direct, "get", "pods", "-n", ns); r.OK() {
			return fmt.Errorf("it still holds")
		}
		return nil
	})
	eventually(t, 10*time.Second, func() error {
		if got := must(t, shared.Admin, "get", "grant", name, "-o", "jsonpath={.status.phase}"); got != "Expired" {
			return fmt.Errorf("the grant is %s", got)
		}
		return nil
	})
}

func TestGrantByAPerson(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	ns := namespace(t)
	refused(t, "", shared.Carol, "create", "-f", writeFile(t, grantOf("carols", a.run, "", "view", ns, "10m"))) // RBAC
	r := tipstaff(t, shared.Admin, "grant", a.run, "--issuer", harness.IssuerName, "--role", "view", "--in", ns, "--for", "10m", "--direct", "--reason", "debug")
	if !r.OK() {
		t.Fatal(r.Output())
	}
	eventually(t, 5*time.Second, func() error {
		if r := kubectl(t, a.direct, "get", "pods", "-n", ns); !r.OK() {
			return fmt.Errorf("granted, and still: %s", r.Output())
		}
		return nil
	})
	if r := tipstaff(t, shared.Admin, "grants"); !r.OK() || !strings.Contains(r.Stdout, a.run) || !strings.Contains(r.Stdout, "Active") {
		t.Errorf("tipstaff grants: %s", r.Output())
	}
	// A role that reads Secrets is never bound on the direct path, whoever grants it.
	must(t, shared.Admin, "create", "-f", writeFile(t, grantOf(slug(t)+"-edit", a.run, "", "edit", ns, "10m")))
	eventually(t, 5*time.Second, func() error {
		if got := must(t, shared.Admin, "get", "grant", slug(t)+"-edit", "-o", "jsonpath={.status.phase}: {.status.message}"); !strings.HasPrefix(got, "Refused") || !strings.Contains(got, "secrets") {
			return fmt.Errorf("the grant of edit is %s", got)
		}
		return nil
	})
	refused(t, "forbidden", a.direct, "get", "secrets", "-n", ns)
	// Taken away by hand, it ends at once: Kubernetes collects the bindings.
	names := must(t, shared.Admin, "get", "grants", "-o", `jsonpath={.items[?(@.spec.run=="`+a.run+`")].metadata.name}`)
	must(t, shared.Admin, append([]string{"delete", "grant"}, strings.Fields(names)...)...)
	eventually(t, 20*time.Second, func() error {
		if r := kubectl(t, a.direct, "get", "pods", "-n", ns); r.OK() {
			return fmt.Errorf("it still holds")
		}
		return nil
	})
}

// Not parallel: tipstaff is down when the grant and the run end.
func TestI1_WhatEndsWhileTipstaffIsDown(t *testing.T) {
	ns, run := namespace(t), slug(t)
	must(t, shared.Admin, "create", "-f", writeFile(t, grantOf(run, run, "", "view", ns, "8s")))
	code, body, err := send(t.Context(), client(t, ""), http.MethodGet, shared.APIServerURL+"/api/v1/namespaces/"+ns+"/pods", scoped(t, run, ns, 2*time.Second), "")
	if err != nil || code != http.StatusOK {
		t.Fatalf("first request: %d %s %v", code, body, err)
	}
	ofGrant := func() string {
		return must(t, shared.Admin, "get", "rolebindings", "-n", ns, "-l", v1alpha1.LabelGrant, "-o", "name")
	}
	eventually(t, 5*time.Second, func() error {
		if ofGrant() == "" {
			return fmt.Errorf("the grant has no binding yet")
		}
		return nil
	})
	shared.KillTipstaff()
	shared.StopReplica()
	eventually(t, time.Minute, func() error { // the run's bindings say when they end
		out := must(t, shared.Admin, "get", "rolebindings", "-n", ns, "-o", `jsonpath={range .items[*]}{.metadata.annotations.tipstaff\.dev/expires-at}{"\n"}{end}`)
		for _, at := range strings.Fields(out) {
			ends, err := time.Parse(time.RFC3339, at)
			if err != nil {
				return err
			}
			if time.Now().Before(ends) {
				return fmt.Errorf("one ends at %s", at)
			}
		}
		return nil
	})
	restart(t)
	noBindings(t, run, 10*time.Second)
	eventually(t, 10*time.Second, func() error {
		if left := ofGrant(); left != "" {
			return fmt.Errorf("left: %s", left)
		}
		return nil
	})
}
