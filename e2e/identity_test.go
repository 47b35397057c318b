package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// client is an HTTP client that trusts the run's servers. certificate names a
// key pair of the run's PKI to show; empty shows none.
func client(t *testing.T, certificate string) *http.Client {
	t.Helper()
	ca, err := os.ReadFile(shared.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	conf.RootCAs.AppendCertsFromPEM(ca)
	if certificate != "" {
		pki := filepath.Join(shared.Dir, "pki", certificate)
		cert, err := tls.LoadX509KeyPair(pki+".crt", pki+".key")
		if err != nil {
			t.Fatal(err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	tr := &http.Transport{TLSClientConfig: conf}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// send sends one request and reads its whole answer.
func send(ctx context.Context, hc *http.Client, method, url, token, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return answerOf(hc, req)
}

func answerOf(hc *http.Client, req *http.Request) (int, string, error) {
	resp, err := hc.Do(req)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // read to its end, or failed
	return resp.StatusCode, string(b), err
}

// userInfo is who an API server takes a kubeconfig's user for.
func userInfo(t *testing.T, as harness.Kubeconfig) (authenticationv1.UserInfo, harness.Result) {
	t.Helper()
	var review authenticationv1.SelfSubjectReview
	r := kubectl(t, as, "auth", "whoami", "-o", "json")
	if r.OK() {
		if err := json.Unmarshal([]byte(r.Stdout), &review); err != nil {
			t.Fatal(err)
		}
	}
	return review.Status.UserInfo, r
}

// sameUser compares but for what each API server adds itself.
func sameUser(t *testing.T, got, want authenticationv1.UserInfo) {
	t.Helper()
	slices.Sort(got.Groups)
	slices.Sort(want.Groups)
	if got.Username != want.Username || got.UID != want.UID || !slices.Equal(got.Groups, want.Groups) ||
		!maps.EqualFunc(got.Extra, want.Extra, func(a, b authenticationv1.ExtraValue) bool { return slices.Equal(a, b) }) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The second API server is the issuer of agents' tokens, and it verifies
// agents' tokens itself, by the configuration that `authn export` wrote.
func TestI1_AnotherAPIServer(t *testing.T) {
	t.Parallel()
	export := exportedConfig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// Until now the issuer was down: that stopped nobody.
	admin, err := shared.StartOther(ctx, "--authentication-config="+export)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("its service accounts are agents here and their pod is the run", func(t *testing.T) {
		must(t, admin, "create", "clusterrolebinding", "discovery", "--clusterrole=system:service-account-issuer-discovery", "--group=system:unauthenticated")
		must(t, admin, "create", "namespace", "work")
		must(t, admin, "create", "serviceaccount", "coder", "-n", "work")
		must(t, admin, "create", "-f", writeFile(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"run","namespace":"work"},
"spec":{"serviceAccountName":"coder","automountServiceAccountToken":false,"containers":[{"name":"c","image":"none"}]}}`))
		uid := must(t, admin, "get", "pod", "run", "-n", "work", "-o", "jsonpath={.metadata.uid}")
		token := strings.TrimSpace(must(t, admin, "create", "token", "coder", "-n", "work", "--audience", "tipstaff",
			"--bound-object-kind", "Pod", "--bound-object-name", "run"))
		k, err := shared.Agent("from-other", token, harness.Direct)
		if err != nil {
			t.Fatal(err)
		}
		var got authenticationv1.UserInfo
		eventually(t, time.Minute, func() error { // its keys were asked for while it was down
			var r harness.Result
			if got, r = userInfo(t, k); !r.OK() {
				return fmt.Errorf("%s", r.Output())
			}
			return nil
		})
		if got.Username != "agent:other:work/coder" || !slices.Contains(got.Groups, "tipstaff:run:other:"+uid) {
			t.Errorf("the pod is %+v", got)
		}
		unbound := strings.TrimSpace(must(t, admin, "create", "token", "coder", "-n", "work", "--audience", "tipstaff"))
		if k, err = shared.Agent("from-other-unbound", unbound, harness.Direct); err != nil {
			t.Fatal(err)
		}
		if got, r := userInfo(t, k); r.OK() {
			t.Errorf("a token of no pod is %+v", got)
		}
	})

	t.Run("it yields the same user from the exported configuration", func(t *testing.T) {
		token, err := shared.Mint(t.Context(), "exported-1", issuer.Claims{Subject: "coder", Private: map[string]any{
			"act": map[string]any{"sub": "ada"}, "model": "claude-x", "task": "T-1", "profile": "careful",
		}})
		if err != nil {
			t.Fatal(err)
		}
		here, err := shared.Agent("exported-here", token, harness.Direct)
		if err != nil {
			t.Fatal(err)
		}
		there := harness.Kubeconfig(filepath.Join(t.TempDir(), "there"))
		b, err := os.ReadFile(string(here))
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte(shared.APIServerURL), []byte(shared.OtherURL()))
		if err := os.WriteFile(string(there), b, 0o600); err != nil {
			t.Fatal(err)
		}
		want, r := userInfo(t, here)
		if !r.OK() {
			t.Fatal(r.Output())
		}
		got, r := userInfo(t, there)
		if !r.OK() {
			t.Fatal(r.Output())
		}
		sameUser(t, got, want)
		t.Logf("both say: %+v", got)

		// And it refuses what authn refuses.
		for i, private := range []map[string]any{{"run": ""}, {"run": "a b"}, {"run": "x", "profile": "system:masters"}, {"run": "x", "profile": ""}} {
			token, err := shared.Mint(t.Context(), "x", issuer.Claims{Private: private})
			if err != nil {
				continue // the provider itself leaves the claim out
			}
			for _, url := range []string{shared.APIServerURL, shared.OtherURL()} {
				code, body, err := send(t.Context(), client(t, ""), http.MethodGet, url+"/api", token, "")
				if err != nil {
					t.Fatal(err)
				}
				if code != http.StatusUnauthorized {
					t.Errorf("claims %d at %s: %d %s", i, url, code, body)
				}
			}
		}
	})
}

// exportedConfig is what `authn export` makes of the run's config. The second
// API server can't be its own token's issuer, so that one is left out.
func exportedConfig(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(shared.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	var conf map[string]any
	if err := yaml.Unmarshal(b, &conf); err != nil {
		t.Fatal(err)
	}
	authn, _ := conf["authn"].(map[string]any)
	issuers, _ := authn["issuers"].([]any)
	authn["issuers"] = slices.DeleteFunc(issuers, func(is any) bool {
		m, _ := is.(map[string]any)
		return m["name"] == harness.OtherIssuerName
	})
	if b, err = yaml.Marshal(conf); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "tipstaff.yaml")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r := tipstaff(t, "", "authn", "export", "--config", name)
	if !r.OK() {
		t.Fatal(r.Output())
	}
	out := filepath.Join(dir, "authentication.yaml")
	if err := os.WriteFile(out, []byte(r.Stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAuthnTestShowsAToken(t *testing.T) {
	t.Parallel()
	try := func(token string, args ...string) harness.Result {
		name := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(name, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := tipstaff(t, "", append([]string{"authn", "test", "--config", shared.ConfigFile(), "--token-file", name}, args...)...)
		if parts := strings.Split(token, "."); strings.Contains(r.Output(), parts[len(parts)-1]) {
			t.Error("the output holds the token's signature")
		}
		return r
	}
	good, err := shared.Mint(t.Context(), "shown-1", issuer.Claims{Subject: "coder", Private: map[string]any{"act": map[string]any{"sub": "ada"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := try(good)
	for _, want := range []string{"platform", "agent:platform:coder", "tipstaff:run:platform:shown-1", "ada"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("without %q: %s", want, r.Output())
		}
	}
	if !r.OK() {
		t.Errorf("a good token: code %d: %s", r.Code, r.Output())
	}
	t.Log(r.Output())
	elsewhere, err := shared.Mint(t.Context(), "shown-2", issuer.Claims{Audiences: []string{"elsewhere"}})
	if err != nil {
		t.Fatal(err)
	}
	if r := try(elsewhere); r.OK() || !strings.Contains(r.Output(), "audience") {
		t.Errorf("a token for somebody else: code %d: %s", r.Code, r.Output())
	}
	header, _, _ := strings.Cut(good, ".")
	if r := try(header + ".e30.c2ln"); r.OK() {
		t.Errorf("no token at all: %s", r.Output())
	}
	if r := try(good, "--offline"); !strings.Contains(r.Output(), "NOT verified") && !strings.Contains(r.Output(), "not verified") {
		t.Errorf("offline: %s", r.Output())
	}
}
