package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What the store has lost of a run, the API server's log brings back, and no more
// than that, however often it is sent.
func TestI6_TheAuditLogClosesTheGap(t *testing.T) {
	a := newAgent(t)
	ns := namespace(t)
	must(t, a.proxied, "get", "pods", "-n", ns)
	must(t, a.direct, "create", "configmap", "settings", "--from-literal=color=green", "-n", ns)
	n, err := shared.WaitForEvents(t.Context(), a.run, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Query(t.Context(), "ALTER TABLE tipstaff.audit_events DELETE WHERE run = '"+a.run+"' SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	if left, err := shared.StoredEvents(t.Context(), a.run); err != nil || len(left) > 0 {
		t.Fatalf("%d events are left, %v", len(left), err)
	}
	send := []string{"ingest", "--audit-webhook-config-file=" + filepath.Join(shared.Dir, "audit-webhook.yaml"), partOfLog(t, a.run)}
	for range 2 {
		if r := tipstaff(t, shared.Admin, send...); r.Code != 0 || !strings.Contains(r.Stdout, "events sent") {
			t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		back, err := shared.WaitForEvents(t.Context(), a.run, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if back != n {
			t.Errorf("%d events came back of %d", back, n)
		}
	}
	r := tipstaff(t, shared.Admin, "ingest", "--audit-webhook-config-file="+filepath.Join(shared.Dir, "token-webhook.yaml"), shared.AuditLog)
	if r.Code != 1 || !strings.Contains(r.Stderr, "its server must be tipstaff's receiver") {
		t.Errorf("another webhook's file: exit %d, %s", r.Code, r.Stderr)
	}
	quarantine := []string{"quarantine", "--audit-webhook-config-file=" + filepath.Join(shared.Dir, "audit-webhook.yaml")}
	if r := tipstaff(t, shared.Admin, quarantine...); !r.OK() || !strings.Contains(r.Stdout, "nothing is in quarantine") {
		t.Errorf("exit %d: %s", r.Code, r.Output())
	}
	if r := tipstaff(t, shared.Admin, append(quarantine, "replay", "7")...); r.Code != 1 || !strings.Contains(r.Stderr, "7: the receiver refuses: 404 there is no such entry") {
		t.Errorf("exit %d: %s", r.Code, r.Output())
	}
}

// partOfLog writes the API server's log without most of what other tests did.
func partOfLog(t *testing.T, run string) string {
	t.Helper()
	log, err := os.ReadFile(shared.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	var part []byte
	others := 0
	for line := range bytes.Lines(log) {
		if !bytes.Contains(line, []byte(run)) {
			if others++; others > 1000 {
				continue
			}
		}
		if bytes.HasSuffix(line, []byte("\n")) { // else it is still being written
			part = append(part, line...)
		}
	}
	return writeFile(t, string(part))
}
