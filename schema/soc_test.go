package schema

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// asked gives the answer to a question as lines of TSV.
func asked(t *testing.T, cfg ClickHouse, name string, told map[string]string) []string {
	t.Helper()
	all, err := Questions()
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all {
		if q.Name != name {
			continue
		}
		var out bytes.Buffer
		if err := q.Ask(t.Context(), cfg, told, "TabSeparated", &out); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if out.Len() == 0 {
			return nil
		}
		return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	}
	t.Fatalf("no question %s", name)
	return nil
}

// Each question is asked of a week in which what it asks about happened once, and
// much happened that is none of it.
func TestQuestionsFindWhatTheyAskAbout(t *testing.T) {
	t.Parallel()
	cfg, conn := migrated(t)
	ctx := t.Context()
	now := time.Now().UTC().Truncate(time.Microsecond)
	n := 0
	ev := func(change ...func(*Event)) Event {
		n++
		e := sample(fmt.Sprintf("id-%03d", n), change...)
		e.Received = now.Add(-48*time.Hour + time.Duration(n)*time.Minute)
		e.StageTime = e.Received.Add(time.Millisecond)
		for _, c := range change { // those that set a time have the last word
			c(&e)
		}
		return e
	}
	ago := func(d time.Duration) func(*Event) {
		return func(e *Event) { e.Received = now.Add(-d); e.StageTime = e.Received }
	}
	run := func(name string) func(*Event) { return func(e *Event) { e.Run, e.RunKey = name, "key-"+name } }
	of := func(verb, group, resource, ns, name string) func(*Event) {
		return func(e *Event) { e.Verb, e.APIGroup, e.Resource, e.Namespace, e.Name = verb, group, resource, ns, name }
	}
	human := func(user string) func(*Event) {
		return func(e *Event) {
			e.User, e.Issuer, e.Run, e.RunKey, e.Model, e.Owner, e.Task, e.CredentialID = user, "", "", "", "", "", "", ""
		}
	}
	verdict := func(v, approval string, code uint16, approvers ...string) func(*Event) {
		return func(e *Event) {
			e.Verdict, e.Rule, e.Approval, e.Code, e.Approvers = v, "guard", approval, code, approvers
		}
	}
	with := func(request, response string) func(*Event) {
		return func(e *Event) { e.RequestObject, e.ResponseObject = request, response }
	}
	events := []Event{
		// Ordinary days, before and in the week.
		ev(ago(20 * 24 * time.Hour)), ev(ago(10 * 24 * time.Hour)), ev(), ev(func(e *Event) { e.Stage = "RequestReceived" }),
		// Secrets through the proxy, of which two tell; and one refused.
		ev(run("reader"), of("list", "", "secrets", "shop", ""), func(e *Event) { e.AuditID, e.Proxied = "two-tell", true }),
		ev(run("reader"), of("list", "", "secrets", "shop", ""), func(e *Event) { e.AuditID, e.Proxied, e.Source = "two-tell", true, SourceProxy }),
		ev(run("reader"), of("list", "", "secrets", "shop", ""), func(e *Event) { e.Code = 403 }),
		// Held, signed by alice after 90 s, and used.
		ev(run("deployer"), of("delete", "apps", "deployments", "shop", "web"), ago(20*time.Hour), verdict("held", "ap-1", 429)),
		ev(human("alice"), of("patch", "tipstaff.dev", "approvals", "", "ap-1"), ago(20*time.Hour-90*time.Second), func(e *Event) { e.Subresource, e.URI = "status", "/apis/tipstaff.dev/v1alpha1/approvals/ap-1/status" }),
		ev(run("deployer"), of("delete", "apps", "deployments", "shop", "web"), ago(20*time.Hour-2*time.Minute), verdict("approved", "ap-1", 200, "alice")),
		// What tipstaff itself notes is nobody's decision; and one that nobody decided.
		ev(human("tipstaff"), of("update", "tipstaff.dev", "approvals", "", "ap-1"), ago(20*time.Hour-time.Minute), func(e *Event) { e.Subresource = "status" }),
		ev(human("tipstaff"), of("update", "tipstaff.dev", "approvals", "", "ap-2"), ago(19*time.Hour-time.Minute), func(e *Event) { e.Subresource = "status" }),
		ev(run("washer"), of("delete", "", "pods", "shop", "x"), ago(19*time.Hour), verdict("held", "ap-2", 429)),
		// Denied by a rule.
		ev(run("deployer"), of("delete", "", "namespaces", "", "shop"), verdict("denied", "", 403)),
		// One token, two addresses.
		ev(func(e *Event) { e.CredentialID, e.SourceIPs = "JTI=stolen", []string{"10.0.0.7"} }),
		ev(func(e *Event) { e.CredentialID, e.SourceIPs = "JTI=stolen", []string{"192.0.2.1"} }),
		// Revoked, and acting on.
		ev(human("alice"), of("create", "tipstaff.dev", "revocations", "", "stop-1"), ago(10*time.Hour), func(e *Event) { e.Code = 201 }, with("", `{"spec":{"run":"rogue","reason":"x"}}`)),
		ev(run("rogue"), ago(11*time.Hour)), ev(run("rogue"), ago(9*time.Hour)), ev(run("rogue"), ago(8*time.Hour), func(e *Event) { e.Code = 401 }),
		// By somebody's name, until a while ago; tried only; and of an issuer that has nobody here.
		ev(human("alice"), of("create", "tipstaff.dev", "revocations", "", "stop-2"), ago(5*time.Hour), func(e *Event) { e.Code = 201 }, with("", `{"spec":{"owner":"eve@example.com","reason":"x","until":"`+now.Add(-3*time.Hour).Format(time.RFC3339)+`"}}`)),
		ev(human("alice"), of("create", "tipstaff.dev", "revocations", "", "tried"), ago(5*time.Hour), func(e *Event) { e.Code, e.DryRun = 201, true }, with("", `{"spec":{"owner":"eve@example.com","reason":"x"}}`)),
		ev(human("alice"), of("create", "tipstaff.dev", "revocations", "", "nobody"), ago(40*time.Hour), func(e *Event) { e.Code = 201 }, with("", `{"spec":{"issuer":"elsewhere","reason":"x"}}`)),
		ev(run("eves"), ago(4*time.Hour), func(e *Event) { e.Owner, e.User = "eve@example.com", "agent:platform:eve" }),
		ev(run("eves"), ago(2*time.Hour), func(e *Event) { e.Owner, e.User = "eve@example.com", "agent:platform:eve" }),
		// A pod for a service account, which then reads Secrets.
		ev(run("washer"), of("create", "apps", "deployments", "shop", "tool"), ago(7*time.Hour), func(e *Event) { e.Code = 201 }, with("", `{"spec":{"template":{"spec":{"serviceAccountName":"robot","containers":[{"securityContext":{"privileged":true}}],"volumes":[{"hostPath":{"path":"/"}}]}}}}`)),
		ev(human("system:serviceaccount:shop:robot"), of("get", "", "secrets", "shop", "keys"), ago(6*time.Hour)),
		ev(human("system:serviceaccount:shop:robot"), of("get", "", "secrets", "shop", "keys"), ago(9*time.Hour)),
		// A pod that was refused, of which two stages tell.
		ev(run("washer"), of("create", "", "pods", "shop", "no"), ago(7*time.Hour), func(e *Event) { e.AuditID, e.Stage, e.Code = "refused", "RequestReceived", 0 }, with(`{"spec":{"serviceAccountName":"keeper","hostNetwork":true,"containers":[]}}`, "")),
		ev(run("washer"), of("create", "", "pods", "shop", "no"), ago(7*time.Hour), func(e *Event) { e.AuditID, e.Code = "refused", 403 }),
		ev(human("system:serviceaccount:shop:keeper"), of("get", "", "secrets", "shop", "keys"), ago(6*time.Hour)),
		// One change that waits in the proxy: three tries.
		ev(run("waiter"), of("delete", "", "pods", "shop", "y"), func(e *Event) { e.AuditID, e.Proxied = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", true }, verdict("held", "ap-3", 429)),
		ev(run("waiter"), of("delete", "", "pods", "shop", "y"), func(e *Event) { e.AuditID, e.Proxied = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6-2", true }, verdict("held", "ap-3", 429)),
		// A shell, and what the alerts are for.
		ev(run("shell"), of("create", "", "pods", "shop", "web-1"), func(e *Event) { e.Subresource, e.Code = "exec", 101 }),
		ev(human("mallory"), of("create", "rbac.authorization.k8s.io", "clusterrolebindings", "", "mine"), func(e *Event) { e.Code = 201 }, with(`{"roleRef":{"name":"cluster-admin"}}`, "")),
		ev(human("mallory"), of("create", "rbac.authorization.k8s.io", "clusterroles", "", "all"), func(e *Event) { e.Code = 201 }, with(`{"rules":[{"verbs":["*"],"resources":["pods/exec"]}]}`, "")),
		ev(human("mallory"), of("create", "", "pods", "shop", "refused"), func(e *Event) { e.Code = 403 }, with(`{"spec":{"hostNetwork":true}}`, "")),
	}
	for range 2 { // and all of it comes twice
		if err := Insert(ctx, conn, events); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		question string
		told     map[string]string
		want     []string // of each row, what stands in it; the rows in order
	}{
		{"run-timeline", map[string]string{"run": "deployer"}, []string{"delete\tnamespaces", "delete\tdeployments\t\tshop\tweb\t429\theld", "200\tapproved\tguard\tap-1\t['alice']"}},
		{"run-timeline", map[string]string{"run": "x'; DROP TABLE tipstaff.audit_events; --"}, nil},
		{"run-timeline", map[string]string{"run": "deployer", "cluster": "other"}, nil},
		{"run-timeline", map[string]string{"run": "deployer", "limit": "1"}, []string{"namespaces"}},
		{"object-history", map[string]string{"resource": "deployments", "name": "web", "namespace": "shop"}, []string{"deployer\tdana@example.com\tmodel-x\tdelete\t\t429\theld", "\t200\tapproved\tap-1\t['alice']"}},
		{"owner-activity", map[string]string{"owner": "dana@example.com", "since": "12h"}, []string{"washer", "rogue"}},
		{"secret-reads", nil, []string{"reader\tagent:platform:coder\tdana@example.com\tshop\tlist\t2\t1\t1"}},
		{"denied-and-held", nil, []string{"guard\theld\t3\t3\t3\t['delete deployments/web','delete pods/x','delete pods/y']", "guard\tdenied\t1\t0\t1\t['delete namespaces/shop']"}},
		{"approvals", nil, []string{"ap-3\twaiter", "ap-1\tdeployer\tdana@example.com\tdelete deployments/web\tguard", "ap-2\twasher\tdana@example.com\tdelete pods/x\tguard"}},
		{"first-time", map[string]string{"agent": "agent:platform:coder"}, []string{"list\t\tsecrets", "delete\t\tnamespaces", "delete\t\tpods", "create\t\tpods\texec", "delete\tapps\tdeployments", "create\tapps\tdeployments", "create\t\tpods"}},
		{"token-two-addresses", nil, []string{"JTI=stolen\trun-1\tagent:platform:coder\tdana@example.com\t['10.0.0.7','192.0.2.1']"}},
		{"after-revocation", nil, []string{"eves\tagent:platform:eve\tstop-2\talice", "rogue\tagent:platform:coder\tstop-1\talice"}},
		{"laundering", nil, []string{"washer\tagent:platform:coder\tshop\trobot"}},
		{"top-talkers", map[string]string{"limit": "1"}, []string{"agent:platform:coder\t7\t17\t2\t8\t7\t3"}},
		{"exec", nil, []string{"shell\tdana@example.com\tcreate\tpods\texec\tshop\tweb-1\t101"}},
		{"suspicious", nil, []string{"['exec or attach']", "['bound to cluster-admin']", "['role with a wildcard','role with exec']", "['privileged pod','pod with a path of the host']"}},
		{"suspicious", map[string]string{"agents": "1"}, []string{"['exec or attach']", "['privileged pod','pod with a path of the host']"}},
	} {
		t.Run(tc.question, func(t *testing.T) {
			rows := asked(t, cfg, tc.question, tc.told)
			ok := len(rows) == len(tc.want)
			for i := range min(len(rows), len(tc.want)) {
				ok = ok && strings.Contains(rows[i], tc.want[i])
			}
			if !ok {
				t.Errorf("told %v:\n%s\nwant rows with\n%s", tc.told, strings.Join(rows, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
	if rows := asked(t, cfg, "approvals", nil); len(rows) != 3 || !strings.Contains(rows[1], "\t90\t['alice']\tapproved") || !strings.Contains(rows[2], "\t\\N\t\\N\t[]\theld") {
		t.Errorf("the times to decide are wrong: %s", rows)
	}
	all, err := Questions()
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../docs/questions.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all {
		if !bytes.Contains(docs, []byte("`"+q.Name+"`")) || !bytes.Contains(docs, []byte(q.Title)) {
			t.Errorf("docs/questions.md doesn't tell of %s as it is: %s", q.Name, q.Title)
		}
	}
}

func TestQuestionsSayWhatTheyNeed(t *testing.T) {
	t.Parallel()
	all, err := Questions()
	if err != nil {
		t.Fatal(err)
	}
	q := all[0]
	for i := range all {
		if all[i].Name == "run-timeline" {
			q = all[i]
		}
	}
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		told map[string]string
		says string
	}{
		{nil, "question run-timeline needs --param run=…: the run's id"},
		{map[string]string{"run": "1", "who": "me"}, "question run-timeline has no param who: it has cluster, issuer, limit, run, since, until"},
		{map[string]string{"run": "1", "limit": "-1"}, "it must be a whole number"},
		{map[string]string{"run": "1", "limit": "1; SELECT 2"}, "it must be a whole number"},
		{map[string]string{"run": "1", "since": "yesterday"}, "it must be a time such as"},
		{map[string]string{"run": "1", "since": "99999999999d"}, "it must be a time such as"},
		{map[string]string{"run": "1", "since": "60000d"}, "it must be a time such as"},
		{map[string]string{"run": "1", "until": "9999-01-01T00:00:00Z"}, "it must be a time such as"},
	} {
		if _, err := q.values(tc.told, now); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%v: got %v, want %q", tc.told, err, tc.says)
		}
	}
	values, err := q.values(map[string]string{"run": "1", "since": "2026-11-30T13:00:00+02:00", "until": "1h30m"}, now)
	if err != nil || values["since"] != "2026-11-30 11:00:00.000000" || values["until"] != "2026-11-30 10:30:00.000000" || values["limit"] != "1000" {
		t.Errorf("%v, %v", values, err)
	}
	for _, text := range []string{"SELECT 1", "-- what\n-- @x\nSELECT 1", "-- what\n-- @x date: help\nSELECT 1"} {
		if _, err := parseQuestion("x", text); err == nil {
			t.Errorf("%q is taken for a question", text)
		}
	}
}

func TestPastTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]string{
		"7d": "2026-11-16T12:00:00Z", "90m": "2026-11-23T10:30:00Z", "2026-01-02T03:04:05Z": "2026-01-02T03:04:05Z",
		"": "", "d": "", "-1h": "", "-1d": "", "1.5d": "", "yesterday": "",
	} {
		at, err := PastTime(s, now)
		if got := at.Format(time.RFC3339); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%q: got %s, %v; want %q", s, got, err, want)
		}
	}
}
