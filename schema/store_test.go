package schema

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/recording"
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
	steps, err := migrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	var applied uint64
	if err := conn.QueryRow(ctx, `SELECT count() FROM tipstaff.schema_migrations`).Scan(&applied); err != nil || applied != uint64(len(steps)) {
		t.Errorf("%d migrations are noted, %v; want %d", applied, err, len(steps))
	}

	// Steps that were cut off before they were noted are run again whole.
	if err := conn.Exec(ctx, `TRUNCATE TABLE tipstaff.schema_migrations`); err != nil {
		t.Fatal(err)
	}
	if err := Migrate(ctx, conn); err != nil {
		t.Errorf("the same steps again: %v", err)
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
	_, conn := migrated(t)
	ctx := t.Context()
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
	runs, err := Runs(ctx, conn, Which{Limit: 10})
	if err != nil || len(runs) != 3 {
		t.Fatalf("got %d runs, %v; want 3", len(runs), err)
	}
	if r := runs[0]; r.Requests != 5 || r.Cluster != "demo" || r.Issuer != "platform" || r.Approved != 1 {
		t.Errorf("got %+v", r)
	}
	if runs, err := Runs(ctx, conn, Which{Limit: 1}); err != nil || len(runs) != 1 {
		t.Errorf("with limit 1: %d runs, %v", len(runs), err)
	}
}

// A proxied request of which both the API server and the proxy tell is one, and
// the API server tells more.
func TestARequestThatTwoTellOfIsOne(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	ctx := t.Context()
	created := func(e *Event) { e.Verb = "create" }
	byProxy := func(e *Event) {
		e.Verb, e.Proxied, e.Source = "create", true, SourceProxy
		e.Received = e.Received.Add(-time.Millisecond)
	}
	if err := Insert(ctx, conn, []Event{
		sample("both", created, func(e *Event) { e.Proxied, e.Verdict = true, "allowed" }), sample("both", byProxy),
		sample("only-the-proxy", byProxy),
		sample("only-the-proxy", byProxy, func(e *Event) { e.Stage = "ResponseStarted" }),
		// What a client chose on the direct path joins with nothing.
		sample("both", created, func(e *Event) { e.Received = e.Received.Add(time.Second) }),
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	timeline, err := Timeline(ctx, conn, "run-1", "")
	for _, ev := range timeline {
		got = append(got, fmt.Sprintf("%s %q %t %s", ev.AuditID, ev.Source, ev.Proxied, ev.Stage))
	}
	want := []string{`only-the-proxy "proxy" true ResponseComplete`, `both "" true ResponseComplete`, `both "" false ResponseComplete`}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("the timeline is %q, %v", got, err)
	}
	runs, err := Runs(ctx, conn, Which{Limit: 10})
	if err != nil || len(runs) != 1 || runs[0].Requests != 3 {
		t.Errorf("the runs are %+v, %v", runs, err)
	}
	n := 0
	if err := Changes(ctx, conn, t0.Add(-time.Hour), t0.Add(time.Hour), "", func(time.Time) {}, func(*Event) error { n++; return nil }); err != nil || n != 3 {
		t.Errorf("%d changes, %v", n, err)
	}
}

func TestRunsOfOneAgentOwnerAndTime(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	run := func(name, user, owner string, at time.Time) Event {
		e := sample(name)
		e.Run, e.RunKey, e.User, e.Owner, e.Received = name, name, user, owner, at
		return e
	}
	if err := Insert(t.Context(), conn, []Event{
		run("a", "agent:platform:bot", "ann", t0), run("b", "agent:platform:bot", "ben", t0.Add(time.Hour)), run("c", "agent:platform:robot", "ann", t0.Add(2*time.Hour)),
	}); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		which Which
		want  string
	}{
		"all":                    {Which{}, "cba"},
		"a subject":              {Which{Agent: "bot"}, "ba"},
		"a user":                 {Which{Agent: "agent:platform:robot"}, "c"},
		"an owner":               {Which{Owner: "ann"}, "ca"},
		"since":                  {Which{Since: t0.Add(time.Hour)}, "cb"},
		"an agent, since":        {Which{Agent: "bot", Since: t0.Add(time.Minute)}, "b"},
		"nobody's, with a quote": {Which{Owner: "o'neil"}, ""},
	} {
		row.which.Limit = 10
		runs, err := Runs(t.Context(), conn, row.which)
		got := ""
		for _, r := range runs {
			got += r.Run
		}
		if err != nil || got != row.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, row.want)
		}
	}
}

func TestSessionsAreThereOnceAndInOrder(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	ctx := t.Context()
	begun := &recording.Session{
		ID: "s-1", Started: t0, Verb: "exec", Namespace: "shop", Pod: "web-0", Command: []string{"sh", "-c", "it's"}, TTY: true,
		Agent: v1alpha1.Agent{User: "agent:platform:bot", Issuer: "platform", Run: "run-1", Owner: "ann"},
	}
	status := `{"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}`
	piece := &recording.Piece{Session: *begun, Frames: []recording.Frame{
		{Seq: 1, At: time.Millisecond, Stream: recording.Input, Data: []byte("ls\n")},
		{Seq: 2, At: time.Second, Stream: recording.Output, Data: []byte("a\xffb\x00")},
		{Seq: 3, At: 2 * time.Second, Stream: recording.Status, Data: []byte(status)},
		{Seq: 4, At: 2 * time.Second, Stream: recording.End},
	}}
	other := *begun
	other.ID, other.Agent.Run = "s-2", "run-2"
	for range 2 {
		if err := InsertSessions(ctx, conn, []Session{SessionOf("demo", begun), SessionOf("demo", &other)}, FramesOf("demo", piece)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Sessions(ctx, conn, "run-1", "", "")
	if err != nil || len(got) != 1 {
		t.Fatalf("%d sessions, %v", len(got), err)
	}
	want := SessionOf("demo", begun)
	want.Input, want.Output, want.Last, want.Status, want.Ended = 3, 4, 2_000_000, status, true
	if !reflect.DeepEqual(got[0], want) || got[0].ending() != "exit 3" {
		t.Errorf("got  %+v\nwant %+v", got[0], want)
	}
	if !reflect.DeepEqual(got[0].Recording(), begun) {
		t.Errorf("the recording is %+v", got[0].Recording())
	}
	if got, err := Sessions(ctx, conn, "", "", "s-2"); err != nil || len(got) != 1 || got[0].Run != "run-2" || got[0].Ended || got[0].ending() != "no" {
		t.Errorf("by its id: %+v, %v", got, err)
	}
	frames, err := Frames(ctx, conn, "demo", "s-1")
	if err != nil || !reflect.DeepEqual(frames[1], piece.Frames[1]) || len(frames) != 4 {
		t.Errorf("frames %+v, %v", frames, err)
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
