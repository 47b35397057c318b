package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/tipstaff-dev/tipstaff/authn"
)

// testToken is a token and the config file under which it is looked at.
func testToken(t *testing.T, claims map[string]any) (configFile, token string) {
	t.Helper()
	dir := files(t)
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "k", Algorithm: "EdDSA", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	configFile = write("tipstaff.yaml", fmt.Appendf(nil, `apiVersion: tipstaff.dev/v1alpha1
kind: Config
cluster: test
maskKeyFile: %[1]s/mask.key
authn:
  listen: "127.0.0.1:8443"
  tls: {certFile: %[1]s/tls.crt, keyFile: %[1]s/tls.key, clientCAFile: %[1]s/apiserver-ca.crt, clientNames: [kube-apiserver]}
  issuers:
  - name: ci
    url: https://ci.example
    keySetFile: %[2]s
    audiences: [tipstaff]
    algorithms: [EdDSA]
    mappings:
    - {name: jobs, run: claims.run_id, owner: 'claims.?act.?sub.orValue("")'}
`, dir, write("keys.json", set)))
	opts := (&jose.SignerOptions{}).WithHeader("kid", "k")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: private}, opts)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	all := map[string]any{"iss": "https://ci.example", "aud": "tipstaff", "sub": "deployer", "run_id": "run-7", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	if token, err = jws.CompactSerialize(); err != nil {
		t.Fatal(err)
	}
	return configFile, token
}

func runAuthnTest(t *testing.T, o *options, token string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := authnTestCommand(o)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append([]string{"--token-file", "-"}, args...))
	cmd.SetIn(strings.NewReader(token + "\n"))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	for part := range strings.SplitSeq(token, ".") {
		if strings.Contains(out.String(), part) || err != nil && strings.Contains(err.Error(), part) {
			t.Error("it shows a part of the token")
		}
	}
	return out.String(), err
}

func TestAuthnTestShowsWhatATokenGives(t *testing.T) {
	t.Parallel()
	configFile, token := testToken(t, map[string]any{"act": map[string]any{"sub": "alice@example.com"}})
	out, err := runAuthnTest(t, &options{configFile: configFile}, token)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"Accepted.", "agent:ci:deployer", "tipstaff:run:ci:run-7", "jobs", "claims.act.sub", `"alice@example.com"`, "revoked"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
	out, err = runAuthnTest(t, &options{configFile: configFile, output: "json"}, token, "--offline")
	var r authn.Report
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || !r.Accepted || !r.SignatureVerified || r.User.Username != "agent:ci:deployer" {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAuthnTestFailsForARefusedToken(t *testing.T) {
	t.Parallel()
	configFile, token := testToken(t, map[string]any{"aud": "other\u202e", "run_id": "r"})
	out, err := runAuthnTest(t, &options{configFile: configFile}, token)
	if err == nil || err.Error() != "the token is refused" {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"FAILED", "token is for another audience", `wanted is one of ["tipstaff"]`} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\u202e") {
		t.Error("the token steers the terminal")
	}
	if _, err := runAuthnTest(t, &options{configFile: configFile}, "x"); err == nil {
		t.Error("what is no token is accepted")
	}
}
