package schema

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 23, 1, 0, 0, 123456000, time.UTC)

// sample is an agent's request, changed by each of change.
func sample(id string, change ...func(*Event)) Event {
	ev := Event{
		Cluster: "demo", AuditID: id, Stage: "ResponseComplete", Level: "Metadata", Received: t0, StageTime: t0.Add(time.Millisecond),
		Verb: "get", User: "agent:platform:coder", Groups: []string{"tipstaff:agents"}, Issuer: "platform", Run: "run-1", RunKey: "k1",
		Model: "model-x", Owner: "dana@example.com", Task: "FIX-12", Profile: "default", CredentialID: "JTI=1", SourceIPs: []string{"10.0.0.7"},
		UserAgent: "kubectl", APIGroup: "apps", APIVersion: "v1", Resource: "deployments", Namespace: "shop", Name: "web", URI: "/apis/apps/v1",
		Code: 200, Approvers: []string{}, Annotations: map[string]string{"a": "b"},
	}
	for _, c := range change {
		c(&ev)
	}
	return ev
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	_, conn := engine(t)
	ctx := t.Context()
	if err := Check(ctx, conn); !errors.Is(err, ErrNoSchema) {
		t.Errorf("an empty ClickHouse: got %v, want ErrNoSchema", err)
	}
	for range 2 {
		if err := Migrate(ctx, conn); err != nil {
			t.Fatal(err)
		}
	}
	if err := Check(ctx, conn); err != nil {
		t.Errorf("after Migrate: %v", err)
	}
	var applied uint64
	if err := conn.QueryRow(ctx, `SELECT count() FROM tipstaff.schema_migrations`).Scan(&applied); err != nil || applied != 1 {
		t.Errorf("%d migrations are noted, %v; want 1", applied, err)
	}

	// A step that was cut off before it was noted is run again whole.
	if err := conn.Exec(ctx, `TRUNCATE TABLE tipstaff.schema_migrations`); err != nil {
		t.Fatal(err)
	}
	if err := Migrate(ctx, conn); err != nil {
		t.Errorf("the same step again: %v", err)
	}

	steps, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	next := migration{version: uint32(len(steps)) + 1, name: "later", statements: []string{`ALTER TABLE tipstaff.audit_events ADD COLUMN IF NOT EXISTS later String`}}
	if err := migrate(ctx, conn, append(steps, next)); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"Check": Check(ctx, conn), "Migrate": Migrate(ctx, conn)} {
		if !errors.Is(err, ErrNewSchema) {
			t.Errorf("%s on a newer schema: got %v, want ErrNewSchema", what, err)
		}
	}
	if err := conn.Exec(ctx, `ALTER TABLE tipstaff.schema_migrations DELETE WHERE version > 0 SETTINGS mutations_sync = 1`); err != nil {
		t.Fatal(err)
	}
	if err := Check(ctx, conn); !errors.Is(err, ErrNoSchema) {
		t.Errorf("no migration noted: got %v, want ErrNoSchema", err)
	}
}

func TestStatementsAreCutAtSemicolonsThatEndALine(t *testing.T) {
	t.Parallel()
	got := statements("-- a; b\nSELECT ';';\n\nCREATE TABLE x\n(\n    a String -- why; not\n);\nSELECT 2")
	want := []string{"SELECT ';'", "CREATE TABLE x\n(\n    a String -- why; not\n)", "SELECT 2\n"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestI6_AnEventWrittenTwiceIsThereOnceAndWhole(t *testing.T) {
	t.Parallel()
	_, conn := engine(t)
	ctx := t.Context()
	if err := Migrate(ctx, conn); err != nil {
		t.Fatal(err)
	}
	whole := sample("a", func(e *Event) {
		e.Impersonator, e.Proxied, e.Subresource, e.DryRun, e.Reason, e.Message = "tipstaff", true, "scale", true, "OK", "it's\n\"quoted\"\t\\"
		e.Verdict, e.Rule, e.Approval, e.Approvers, e.DecisionReason = "approved", "r", "ap-1", []string{"alice", "bob"}, "fine"
		e.Truncated, e.RequestObject, e.ResponseObject = true, `{"a":"'; DROP TABLE tipstaff.audit_events; --"}`, "{}"
	})
	events := []Event{
		whole,
		// Stages of one request, the last reported first.
		sample("b", func(e *Event) { e.Received = t0.Add(time.Second) }),
		sample("b", func(e *Event) { e.Received = t0.Add(time.Second); e.Stage = "RequestReceived"; e.Code = 0 }),
		// Another request whose client chose the same audit id.
		sample("b", func(e *Event) { e.Received = t0.Add(2 * time.Second); e.Name = "hidden" }),
		// The same id on another cluster, and clocks that are wrong.
		sample("b", func(e *Event) { e.Cluster = "other"; e.Received = t0.Add(3 * time.Second) }),
		sample("old", func(e *Event) { e.Received = time.Unix(1, 0).UTC() }),
		sample("new", func(e *Event) { e.Received = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC) }),
		// Nobody's run.
		sample("c", func(e *Event) { e.Run, e.RunKey, e.User = "", "", "admin" }),
		sample("d", func(e *Event) { e.Issuer, e.RunKey = "elsewhere", "k2" }),
	}
	for range 3 {
		if err := Insert(ctx, conn, events); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Timeline(ctx, conn, "run-1", "platform")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, ev := range got {
		ids = append(ids, ev.Cluster+"/"+ev.AuditID+"/"+ev.Name+"/"+ev.Stage)
	}
	want := []string{
		"demo/old/web/ResponseComplete", "demo/a/web/ResponseComplete", "demo/b/web/ResponseComplete",
		"demo/b/hidden/ResponseComplete", "other/b/web/ResponseComplete", "demo/new/web/ResponseComplete",
	}
	if !reflect.DeepEqual(ids, want) {
		t.Fatalf("got  %q\nwant %q", ids, want)
	}
	if !reflect.DeepEqual(got[1], whole) {
		t.Errorf("got  %+v\nwant %+v", got[1], whole)
	}
	if got, err := Timeline(ctx, conn, "run-1", ""); err != nil || len(got) != 7 {
		t.Errorf("every issuer's run-1 has %d requests, %v; want 7", len(got), err)
	}
	if got, err := Timeline(ctx, conn, "a'\\\n\tb", ""); err != nil || len(got) != 0 {
		t.Errorf("a run that isn't there: %d requests, %v", len(got), err)
	}
	runs, err := Runs(ctx, conn, 10)
	if err != nil || len(runs) != 3 {
		t.Fatalf("got %d runs, %v; want 3", len(runs), err)
	}
	if r := runs[0]; r.Requests != 5 || r.Cluster != "demo" || r.Issuer != "platform" || r.Approved != 1 {
		t.Errorf("got %+v", r)
	}
	if runs, err := Runs(ctx, conn, 1); err != nil || len(runs) != 1 {
		t.Errorf("with limit 1: %d runs, %v", len(runs), err)
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	cfg, _ := engine(t)
	var out bytes.Buffer
	if err := Query(t.Context(), cfg, "SELECT 1 AS one", "", &out); err != nil || !strings.Contains(out.String(), "│   1 │") {
		t.Errorf("got %q, %v", &out, err)
	}
	out.Reset()
	if err := Query(t.Context(), cfg, "SELECT 1 AS one FORMAT CSV", "JSONEachRow", &out); err != nil || out.String() != "1\n" {
		t.Errorf("got %q, %v", &out, err)
	}
	if err := Query(t.Context(), cfg, "SELECT FROM WHERE", "", &out); err == nil || !strings.Contains(err.Error(), "Syntax error") {
		t.Errorf("got %v", err)
	}
	cfg.PasswordFile = ""
	if err := Query(t.Context(), cfg, "SELECT 1", "", &out); err == nil || !strings.HasPrefix(err.Error(), "ClickHouse refused: ") {
		t.Errorf("without a password: got %v", err)
	}
}
