package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// forms are the ways a value may stand somewhere.
func forms(value string) []string {
	return []string{value, base64.StdEncoding.EncodeToString([]byte(value))}
}

func leaks(t *testing.T, where, text string, values ...string) {
	t.Helper()
	for _, v := range values {
		for _, f := range forms(v) {
			if strings.Contains(text, f) {
				t.Errorf("%s holds %q", where, f)
			}
		}
	}
}

func TestI7_NoSecretLeaks(t *testing.T) {
	t.Parallel()
	planted := fmt.Sprintf("planted-%d-Zx9#q", time.Now().UnixNano())
	tried := fmt.Sprintf("tried-%d-Kw3#p", time.Now().UnixNano())
	a := newAgent(t)
	grant(t, a.group(), "--verb=create,update,patch", "--resource=secrets")
	ns := namespace(t)
	manifest := writeFile(t, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"planted","namespace":"`+ns+`"},"stringData":{"password":"`+planted+`"}}`)
	must(t, shared.Admin, "apply", "-f", manifest) // with its last-applied annotation
	if got := must(t, shared.Admin, "get", "secret", "planted", "-n", ns, "-o", "yaml"); !strings.Contains(got, forms(planted)[1]) {
		t.Fatal("the secret isn't planted")
	}

	for _, args := range [][]string{
		{"get", "secret", "planted", "-n", ns, "-o", "yaml"},
		{"get", "secret", "planted", "-n", ns, "-o", "json", "--show-managed-fields"},
		{"get", "secrets", "-n", ns, "-o", "yaml"},
		{"get", "secrets", "-A", "-o", "json"},
		{"get", "secrets", "-n", ns},
		{"get", "--raw", "/api/v1/namespaces/" + ns + "/secrets?watch=true&timeoutSeconds=2"},
		{"get", "--raw", "/api/v1/watch/namespaces/" + ns + "/secrets?timeoutSeconds=2"},
		{"describe", "secret", "planted", "-n", ns},
	} {
		r := kubectl(t, a.proxied, args...)
		if r.OK() != true || !strings.Contains(r.Stdout, "planted") {
			t.Errorf("kubectl %s: code %d, without the secret's name: %s", strings.Join(args, " "), r.Code, r.Output())
		}
		leaks(t, "kubectl "+strings.Join(args, " "), r.Output(), planted)
	}
	// A table that carries whole objects.
	raw := "/api/v1/namespaces/" + ns + "/secrets?includeObject=Object"
	leaks(t, "a table with objects", kubectl(t, a.proxied, "get", "--raw", raw).Output(), planted)

	// Both ways, an agent's own write: held, seen by an approver, recorded.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := shared.StartKubectl(ctx, a.direct, "create", "secret", "generic", "tried", "-n", ns, "--from-literal=key="+tried)
	ap, err := shared.WaitForApproval(ctx, a.run, "tried", cmd)
	if err != nil {
		t.Fatal(err)
	}
	leaks(t, "the approval", must(t, shared.Alice, "get", "approval", ap.Name, "-o", "yaml"), planted, tried)
	if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
		t.Fatal(r.Output())
	}
	if r := cmd.Wait(); !r.OK() {
		t.Fatalf("the approved secret: %s", r.Output())
	}
	patch := kubectl(t, a.proxied, "patch", "secret", "tried", "-n", ns, "--type=merge", "-p", `{"stringData":{"key":"`+tried+`2"}}`, "--request-timeout=5s")
	leaks(t, "the answer to a patch", patch.Stdout, tried+"2")

	if _, err := shared.WaitForEvents(t.Context(), a.run, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	rows, err := shared.Query(t.Context(), "SELECT * FROM tipstaff.audit_events WHERE run = '"+a.run+"' FORMAT JSONEachRow")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"tried"`, `"planted"`} { // the reads through the proxy are there too
		if !strings.Contains(rows, want) {
			t.Errorf("ClickHouse has no row about %s", want)
		}
	}
	leaks(t, "ClickHouse", rows, planted, tried)
	log, err := shared.Log("tipstaff")
	if err != nil {
		t.Fatal(err)
	}
	leaks(t, "tipstaff's log", log, planted, tried)
	leaks(t, "an approval", must(t, shared.Alice, "get", "approvals", "-o", "json"), planted, tried)

	// What lies on disk, as far as it isn't compressed.
	for _, dir := range []string{"jetstream", "clickhouse"} {
		err := filepath.WalkDir(filepath.Join(shared.Dir, dir), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // ClickHouse merges its parts away meanwhile
			}
			b, err := os.ReadFile(name)
			if err != nil {
				return nil
			}
			leaks(t, name, string(b), planted, tried)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
