package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// whoAs asks who one is with the proxy's own credential and these headers.
func whoAs(t *testing.T, header http.Header) (int, authenticationv1.UserInfo, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, shared.APIServerURL+"/apis/authentication.k8s.io/v1/selfsubjectreviews",
		strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := client(t, "tipstaff").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // read to its end
	if err != nil {
		t.Fatal(err)
	}
	var review authenticationv1.SelfSubjectReview
	if resp.StatusCode != http.StatusCreated {
		return resp.StatusCode, authenticationv1.UserInfo{}, string(b)
	}
	if err := json.Unmarshal(b, &review); err != nil {
		t.Fatalf("%d %s: %v", resp.StatusCode, b, err)
	}
	return resp.StatusCode, review.Status.UserInfo, string(b)
}

func extraHeader(key string) string { return "Impersonate-Extra-" + url.PathEscape(key) }

// identities are what the proxy's credential might be used for, and whether
// that works with the constrained role and with the legacy one. SECURITY.md says
// what each of them leaves open.
var identities = []struct {
	name                string
	header              http.Header
	constrained, legacy bool
}{
	{"an agent", http.Header{
		"Impersonate-User": {"agent:platform:x"}, "Impersonate-Group": {v1alpha1.GroupAgents, "tipstaff:run:platform:r", v1alpha1.GroupProxied},
		extraHeader(v1alpha1.ExtraIssuer): {"platform"}, extraHeader(v1alpha1.ExtraRun): {"r"}, extraHeader(v1alpha1.ExtraModel): {"m"},
		extraHeader(v1alpha1.ExtraOwner): {"o"}, extraHeader(v1alpha1.ExtraTask): {"t"}, extraHeader(v1alpha1.ExtraCredentialID): {"JTI=1"},
	}, true, true},
	{"another person: RBAC knows no prefixes", http.Header{"Impersonate-User": {"alice"}}, true, true},
	{"system:masters", http.Header{"Impersonate-User": {"agent:platform:x"}, "Impersonate-Group": {"system:masters"}}, false, true},
	{"system:masters among others", http.Header{"Impersonate-User": {"agent:platform:x"}, "Impersonate-Group": {"a", "b", "c", "d", "system:masters"}}, false, true},
	{"a node", http.Header{"Impersonate-User": {"system:node:n1"}, "Impersonate-Group": {"system:nodes"}}, false, true},
	{"a service account", http.Header{"Impersonate-User": {"system:serviceaccount:kube-system:namespace-controller"}}, false, false},
	{"a service account with groups", http.Header{"Impersonate-User": {"system:serviceaccount:kube-system:namespace-controller"}, "Impersonate-Group": {"x"}}, false, false},
	{"a uid", http.Header{"Impersonate-User": {"agent:platform:x"}, "Impersonate-Uid": {"1"}}, false, false},
	{"another extra", http.Header{"Impersonate-User": {"agent:platform:x"}, extraHeader("example.com/scopes"): {"all"}}, false, false},
	{"a pod's extra", http.Header{"Impersonate-User": {"agent:platform:x"}, extraHeader("authentication.kubernetes.io/pod-name"): {"p"}}, false, false},
}

// The test replaces the proxy's role, so it is not parallel.
func TestI1_WhoTheProxysCredentialMayBe(t *testing.T) {
	check := func(t *testing.T, may func(i int) bool) {
		t.Helper()
		for i, id := range identities {
			code, user, body := whoAs(t, id.header)
			if may(i) != (code == http.StatusCreated) || !may(i) && (code != http.StatusForbidden || !strings.Contains(body, "impersonat")) {
				t.Errorf("%s: %d %s", id.name, code, body)
			}
			if code == http.StatusCreated && user.Username != id.header.Get("Impersonate-User") {
				t.Errorf("%s: it is %s", id.name, user.Username)
			}
		}
	}
	whole := func(t *testing.T) {
		t.Helper()
		a, ns := newAgent(t), namespace(t)
		direct, r := userInfo(t, a.direct)
		if !r.OK() {
			t.Fatal(r.Output())
		}
		proxied, r := userInfo(t, a.proxied)
		if !r.OK() {
			t.Fatal(r.Output())
		}
		if direct.UID != "" || proxied.UID != "" {
			t.Errorf("uids %q and %q: the proxy may not impersonate any", direct.UID, proxied.UID)
		}
		ag, ok := v1alpha1.AgentOf(direct.Username, direct.Groups, extraOf(direct))
		if !ok {
			t.Fatalf("%+v", direct)
		}
		direct.Groups = append(direct.Groups, ag.ProxiedGroups()...)
		sameUser(t, proxied, direct)
		must(t, shared.Admin, "create", "configmap", "there", "-n", ns)
		if got := must(t, a.proxied, "get", "configmaps", "-n", ns, "-o", "name"); !strings.Contains(got, "configmap/there") {
			t.Errorf("reads %q", got)
		}
	}
	t.Run("constrained", func(t *testing.T) {
		check(t, func(i int) bool { return identities[i].constrained })
		whole(t)
	})

	role := func(impersonation string) {
		t.Helper()
		r := tipstaff(t, shared.Admin, "manifests", "rbac", "--config", shared.ConfigFile(), "--impersonation", impersonation)
		if !r.OK() {
			t.Fatal(r.Output())
		}
		must(t, shared.Admin, "apply", "--server-side", "--force-conflicts", "-f", writeFile(t, r.Stdout))
	}
	defer func() {
		role("constrained")
		eventually(t, 10*time.Second, func() error {
			if code, _, body := whoAs(t, identities[2].header); code != http.StatusForbidden {
				return fmt.Errorf("%d %s", code, body)
			}
			return nil
		})
	}()
	must(t, shared.Admin, "delete", "clusterrole", "tipstaff-proxy")
	t.Run("without the role nobody is served, and nothing as Tipstaff itself", func(t *testing.T) {
		a := newAgent(t)
		eventually(t, 20*time.Second, func() error { // the API server remembers for ten seconds whom it let impersonate
			if r := kubectl(t, a.proxied, "get", "namespaces"); r.OK() || !strings.Contains(r.Stderr, "orbidden") {
				return fmt.Errorf("code %d: %s", r.Code, r.Output())
			}
			return nil
		})
	})
	role("legacy")
	t.Run("legacy", func(t *testing.T) {
		eventually(t, 10*time.Second, func() error {
			if code, _, body := whoAs(t, identities[0].header); code != http.StatusCreated {
				return fmt.Errorf("%d %s", code, body)
			}
			return nil
		})
		// Those who are refused now must not have been let through from memory.
		check(t, func(i int) bool { return identities[i].legacy })
		whole(t)
	})
}

// extraOf is the extra as the API carries it.
func extraOf(u authenticationv1.UserInfo) map[string][]string {
	out := map[string][]string{}
	for k, v := range u.Extra {
		out[k] = slices.Clone(v)
	}
	return out
}
