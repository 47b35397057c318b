package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/client-go/util/cert"

	"github.com/tipstaff-dev/tipstaff/internal/config"
)

// files makes a folder with everything that the documented config names.
func files(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	crt, key, err := cert.GenerateSelfSignedCertKey("tipstaff", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"tls.crt": crt, "tls.key": key, "apiserver-ca.crt": crt,
		"mask.key": make([]byte, 32), "clickhouse.password": []byte("secret"), "chain.key": chainKey(t),
		"kubeconfig": []byte("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// documented is the config in docs/configuration.md, with its files in dir.
func documented(t *testing.T, dir string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(doc)
	if m == nil {
		t.Fatal("docs/configuration.md shows no config")
	}
	return strings.ReplaceAll(string(m[1]), "/etc/tipstaff", dir)
}

func TestDocumentedConfigHolds(t *testing.T) {
	t.Parallel()
	var c Config
	if err := config.Decode("config.yaml", []byte(documented(t, files(t))), &c); err != nil {
		t.Error(err)
	}
}

// Each entry of docs/issuers.md is what a person puts into the file.
func TestDocumentedIssuersHold(t *testing.T) {
	t.Parallel()
	entries, err := filepath.Glob("../../authn/testdata/platforms/*/issuer.yaml")
	if err != nil || len(entries) < 9 {
		t.Fatalf("%d platforms, %v: have they moved?", len(entries), err)
	}
	for _, name := range entries {
		t.Run(filepath.Base(filepath.Dir(name)), func(t *testing.T) {
			t.Parallel()
			entry, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text := documented(t, files(t))
			at := strings.Index(text, "  issuers:\n") + len("  issuers:\n")
			text = text[:at] + "  - " + strings.ReplaceAll(strings.TrimSpace(string(entry)), "\n", "\n    ") + "\n" + text[at:]
			var c Config
			if err := config.Decode("config.yaml", []byte(text), &c); err != nil {
				t.Error(err)
			} else if len(c.Authn.Issuers) != 2 {
				t.Errorf("%d issuers", len(c.Authn.Issuers))
			}
		})
	}
}

func TestI10_EveryFaultIsToldAtItsLineAndNothingStarts(t *testing.T) {
	dir := files(t)
	text := documented(t, dir)
	for _, r := range [][2]string{
		{"cluster: prod-eu ", "cluster: Prod_EU "},
		{"maskKeyFile: " + dir + "/mask.key ", "maskKeyFile: " + dir + "/none.key "},
		{"algorithms: [RS256, ES256]", "algorithms: [HS256, none]"},
		{"run: claims.run_id", "run: claims.run_id +"},
		{"inlineWait: 3s ", "inlineWait: 3 parsecs "},
		{"request.resource.resource == 'namespaces'", "request.nonsense("},
		{"clusters: [prod-eu] ", "clusterz: [prod-eu] "},
	} {
		if !strings.Contains(text, r[0]) {
			t.Fatalf("the documented config has no %q any more", r[0])
		}
		text = strings.Replace(text, r[0], r[1], 1)
	}
	var c Config
	err := config.Decode("config.yaml", []byte(text), &c)
	if err == nil {
		t.Fatal("no fault found")
	}
	lines := strings.Split(text, "\n")
	for _, want := range []struct{ field, onLine string }{
		{"cluster", "cluster: Prod_EU"},
		{"maskKeyFile", "none.key"},
		{"authn.issuers[0].algorithms[0]", "HS256"},
		{"authn.issuers[0].algorithms[1]", "none]"},
		{"authn.issuers[0].mappings[0].run", "claims.run_id +"},
		{"webhook.inlineWait", "parsecs"},
		{"webhook.rules[0].match", "request.nonsense("},
		{"ingest.clusterz", "clusterz"},
		{"ingest.clusters", "ingest:"},
	} {
		at := regexp.MustCompile(`config\.yaml:(\d+): ` + regexp.QuoteMeta(want.field) + `: `).FindStringSubmatch(err.Error())
		if at == nil {
			t.Errorf("%s isn't told in:\n%v", want.field, err)
			continue
		}
		if n := atoi(at[1]); !strings.Contains(lines[n-1], want.onLine) {
			t.Errorf("%s is told at line %d: %q", want.field, n, lines[n-1])
		}
	}

	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := run(t.Context(), []string{"serve", "--config", file}); code != exitConfig {
		t.Errorf("exit code %d, want %d", code, exitConfig)
	}
}

// chainKey is a private Ed25519 key, PEM.
func chainKey(t *testing.T) []byte {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func atoi(s string) int {
	n := 0
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}

func TestRolesKeepOnlyWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	load := func() *Config {
		c := &Config{}
		if err := config.Decode("config.yaml", []byte(documented(t, files(t))), c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := load()
	if err := c.keep([]string{"proxy"}); err != nil {
		t.Fatal(err)
	}
	if c.Proxy == nil || c.Webhook != nil || c.Ingest != nil || c.ClickHouse.Embedded != nil || c.Authn == nil || c.Authn.Listen != "" {
		t.Errorf("proxy alone kept %+v", c)
	}
	if err := load().keep([]string{"porxy"}); err == nil || !strings.Contains(err.Error(), "one of authn") {
		t.Errorf("an unknown role: %v", err)
	}
	c = load()
	c.Ingest = nil
	if err := c.keep([]string{"ingest"}); err == nil || !strings.Contains(err.Error(), "no section") {
		t.Errorf("a role without a section: %v", err)
	}
}

func TestWrongUseExitsWithOneLine(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		code int
	}{
		{"an unknown command", []string{"aprove", "x"}, exitFailed},
		{"a denial without a reason", []string{"deny", "x"}, exitFailed},
		{"no ClickHouse named", []string{"runs"}, exitFailed},
		{"an unknown output", []string{"version", "-o", "xml"}, exitFailed},
		{"a config that isn't there", []string{"serve", "--config", "/nonexistent/tipstaff.yaml"}, exitFailed},
		{"the version", []string{"version", "-o", "json"}, 0},
	} {
		if code := run(t.Context(), tc.args); code != tc.code {
			t.Errorf("%s: exit code %d, want %d", tc.name, code, tc.code)
		}
	}
}
