package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/ingest/chain"
)

// What a run did is proven as it was written, until a row of it is removed or
// altered: that row is named.
func TestI6_VerifyNamesWhatWasChanged(t *testing.T) {
	a := newAgent(t)
	ns := namespace(t)
	must(t, a.proxied, "get", "pods", "-n", ns)
	must(t, a.direct, "create", "configmap", "settings", "--from-literal=color=green", "-n", ns)
	must(t, a.direct, "delete", "configmap", "settings", "-n", ns)
	if _, err := shared.WaitForEvents(t.Context(), a.run, time.Minute); err != nil {
		t.Fatal(err)
	}
	verify := func(more ...string) (chain.Report, int) {
		t.Helper()
		r := tipstaff(t, shared.Admin, append([]string{
			"verify", "--config=" + shared.ConfigFile(), "--clickhouse=" + shared.ClickHouseURL, "--run=" + a.run,
			"--checkpoint=" + shared.CheckpointFile(), "--audit-webhook-config-file=" + filepath.Join(shared.Dir, "audit-webhook.yaml"), "-ojson",
		}, more...)...)
		var reports []chain.Report
		if err := json.Unmarshal([]byte(r.Stdout), &reports); err != nil || len(reports) != 1 {
			t.Fatalf("exit %d, %v: %s", r.Code, err, r.Output())
		}
		return reports[0], r.Code
	}
	whole, code := verify()
	if code != 0 || len(whole.Findings) > 0 || whole.Rows == 0 || whole.Older > 0 {
		t.Fatalf("exit %d: %+v", code, whole)
	}
	for _, change := range []struct{ sql, kind string }{
		{"ALTER TABLE tipstaff.audit_events DELETE WHERE run = '" + a.run + "' AND verb = 'delete'", chain.Removed},
		{"ALTER TABLE tipstaff.audit_events UPDATE user = 'jane' WHERE run = '" + a.run + "' AND verb = 'create' AND resource = 'configmaps'", chain.Altered},
	} {
		if _, err := shared.Query(t.Context(), change.sql+" SETTINGS mutations_sync = 2"); err != nil {
			t.Fatal(err)
		}
		r, code := verify()
		if code != 1 {
			t.Errorf("exit %d after %s", code, change.sql)
		}
		found := false
		for _, f := range r.Findings {
			found = found || f.Kind == change.kind && f.AuditID != ""
		}
		if !found || r.Rows >= whole.Rows {
			t.Errorf("after %s: %+v", change.sql, r)
		}
	}
	r := tipstaff(t, shared.Admin, "verify", "--config="+shared.ConfigFile(), "--clickhouse="+shared.ClickHouseURL, "--run="+a.run)
	if r.Code != 1 || !strings.Contains(r.Stdout, "the row is not there any more") || !strings.Contains(r.Stdout, "the row is not as it was stored") || !strings.Contains(r.Stderr, "2 findings") {
		t.Errorf("exit %d: %s", r.Code, r.Output())
	}
	if r := tipstaff(t, shared.Admin, "verify", "--clickhouse="+shared.ClickHouseURL); r.Code != 1 || !strings.Contains(r.Stderr, "--public-key") {
		t.Errorf("without a key: exit %d: %s", r.Code, r.Output())
	}
}
