package schema

import (
	"bytes"
	"flag"
	"os"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestWriteTimeline(t *testing.T) {
	t.Parallel()
	at := func(s int) func(*Event) {
		return func(e *Event) { e.Received = t0.Add(time.Duration(s) * time.Second) }
	}
	change := func(verb, ns string, code uint16, verdict, approval string) func(*Event) {
		return func(e *Event) {
			e.Verb, e.Resource, e.Namespace, e.Name, e.Code, e.Verdict, e.Approval = verb, "namespaces", ns, ns, code, verdict, approval
			e.Rule = "namespace-delete"
		}
	}
	by := func(who, why string) func(*Event) {
		return func(e *Event) { e.Approvers, e.DecisionReason = []string{who}, why }
	}
	events := []Event{
		sample("1"),
		sample("2", at(1), func(e *Event) { e.Verb, e.Name = "list", "" }),
		sample("3", at(2), func(e *Event) { e.Resource, e.Name, e.Namespace, e.URI, e.Verb = "", "", "", "/version?x=y", "get" }),
		sample("4", at(3), change("delete", "team-a", 429, "held", "ap-1")),
		sample("5", at(7), change("delete", "team-a", 429, "held", "ap-1")),
		sample("6", at(9), change("delete", "team-b", 429, "held", "ap-2")),
		sample("7", at(12), change("delete", "team-a", 200, "approved", "ap-1"), by("alice", "")),
		sample("8", at(14), change("delete", "team-b", 403, "denied", "ap-2"), by("bob", "not on a Friday")),
		sample("9", at(20), change("delete", "team-c", 429, "held", "ap-3")),
		sample("10", at(21), change("delete", "team-d", 403, "denied", ""), by("", "never"), func(e *Event) { e.Approvers = nil }),
		sample("11", at(22), func(e *Event) {
			e.Verb, e.Name, e.Verdict, e.Rule, e.DryRun = "patch", "\x1b[2Jweb", "dryRun", "scale-to-zero", true
		}),
		sample("12", at(86400), func(e *Event) {
			e.Resource, e.Subresource, e.Code, e.Truncated = "pods", "log", 404, true
		}),
	}
	var out bytes.Buffer
	if err := WriteTimeline(&out, events); err != nil {
		t.Fatal(err)
	}
	golden(t, "timeline.txt", out.Bytes())
	out.Reset()
	two := []Event{sample("1"), sample("2", func(e *Event) { e.Issuer, e.Model = "elsewhere", "" })}
	if err := WriteTimeline(&out, two); err != nil {
		t.Fatal(err)
	}
	golden(t, "timeline-two-issuers.txt", out.Bytes())
}

func TestWriteRuns(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := WriteRuns(&out, []Run{
		{Cluster: "demo", Run: "run-1", User: "agent:platform:coder", Model: "model-x", Owner: "dana@example.com", First: t0, Last: t0.Add(time.Hour), Requests: 12, Changes: 5, Held: 2, Approved: 1, Denied: 1},
		{Cluster: "demo", Run: "run-\x1b[2J", User: "agent:platform:coder", First: t0, Last: t0},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "runs.txt", out.Bytes())
}

func TestValidateClickHouse(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cfg  ClickHouse
		want string
	}{
		"HTTP is fine":              {ClickHouse{URL: "http://127.0.0.1:8123"}, ""},
		"native with TLS is fine":   {ClickHouse{URL: "clickhouses://db"}, ""},
		"no URL":                    {ClickHouse{}, `clickhouse.url: Required value: ClickHouse to write to, such as "http://127.0.0.1:8123"`},
		"another scheme":            {ClickHouse{URL: "mysql://u:secret@db"}, "clickhouse.url: Forbidden: ClickHouse's URL must be http[s]://host:port or clickhouse[s]://host:port"},
		"a path":                    {ClickHouse{URL: "http://db/x"}, "clickhouse.url: Forbidden: ClickHouse's URL must be http[s]://host:port or clickhouse[s]://host:port"},
		"a password in the URL":     {ClickHouse{URL: "http://u:secret@db"}, "clickhouse.url: Forbidden: must hold no password: name a file with it in passwordFile"},
		"a password file not there": {ClickHouse{URL: "http://db", PasswordFile: "nowhere"}, `clickhouse.passwordFile: Invalid value: "nowhere": can't be read`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if errs := row.cfg.Validate(field.NewPath("clickhouse")); len(errs) > 0 {
				got = errs.ToAggregate().Error()
			}
			if got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestCredentialsAndAddress(t *testing.T) {
	t.Parallel()
	c := ClickHouse{URL: "https://ann:p%40ss@db"}
	user, password, err := c.Credentials()
	if err != nil || user != "ann" || password != "p@ss" {
		t.Errorf("got %q, %q, %v", user, password, err)
	}
	if addr, err := c.Address(); err != nil || addr != "db:8443" {
		t.Errorf("got %q, %v", addr, err)
	}
}
