package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/chdb"
	"github.com/tipstaff-dev/tipstaff/schema"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

func TestMain(m *testing.M) {
	chdb.MaybeRunEngine()
	os.Exit(m.Run())
}

// command runs tipstaff as a shell would.
func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	cmd := rootCommand()
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

const aReview = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"DELETE","kind":{"group":"","version":"v1","kind":"Namespace"},` +
	`"resource":{"group":"","version":"v1","resource":"namespaces"},"name":"prod","userInfo":{"username":"agent:ci:coder","groups":["tipstaff:agents"],` +
	`"extra":{"tipstaff.dev/run":["run-1"],"tipstaff.dev/issuer":["ci"]}}}}`

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRulesTestOnFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rules := writeFile(t, filepath.Join(dir, "rules.yaml"), "rules:\n- name: stop\n  match: request.operation == 'DELETE'\n  verdict: deny\n")
	reviews := filepath.Join(dir, "reviews")
	writeFile(t, filepath.Join(reviews, "a.json"), aReview)
	writeFile(t, filepath.Join(reviews, "deeper", "b.ndjson"), aReview+"\n"+strings.ReplaceAll(aReview, "tipstaff:agents", "devs"))
	writeFile(t, filepath.Join(reviews, "README"), "not a review, and not taken")

	out, err := command(t, "rules", "test", "--rules", rules, "--compare", "-o", "json", reviews)
	if err != nil {
		t.Fatal(err)
	}
	var r webhook.TrialReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if r.Judged != 2 || r.Denied != 2 || len(r.NotJudged) != 1 || r.Comparison == nil || r.Comparison.NewlyDenied != 2 {
		t.Errorf("got %s", out)
	}
	out, err = command(t, "rules", "test", "--rules", rules, "-o", "yaml", reviews)
	if err != nil {
		t.Fatal(err)
	}
	r = webhook.TrialReport{}
	if err := yaml.UnmarshalStrict([]byte(out), &r); err != nil || r.Denied != 2 || r.Comparison != nil {
		t.Errorf("got %v, %s", err, out)
	}

	writeFile(t, filepath.Join(reviews, "c.yaml"), "kind: Pod")
	out, err = command(t, "rules", "test", "--rules", rules, reviews, filepath.Join(dir, "nowhere"))
	if err == nil || err.Error() != "2 requests or files could not be read" || !strings.Contains(out, "2 requests judged") || !strings.Contains(out, "c.yaml, document 1") {
		t.Errorf("got %v, %s", err, out)
	}
}

// Whoever tries rules has the configuration, but not the files that it names.
func TestRulesTestTakesTheConfigWithoutItsFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := writeFile(t, filepath.Join(dir, "config.yaml"), strings.Replace(documented(t, "/nowhere"), "namespaces: [coding-agents]", "groups: [devs]", 1))
	reviews := writeFile(t, filepath.Join(dir, "a.ndjson"), aReview+strings.ReplaceAll(aReview, "tipstaff:agents", "devs"))
	out, err := command(t, "rules", "test", "--config", cfg, "-o", "json", reviews)
	if err != nil {
		t.Fatal(err)
	}
	var r webhook.TrialReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	// The second is an agent by the config's clusterAgents, without a run.
	if r.Judged != 2 || r.Held != 1 || r.Denied != 1 || len(r.NotJudged) != 0 {
		t.Errorf("got %s", out)
	}
	wrong := writeFile(t, filepath.Join(dir, "wrong.yaml"), strings.Replace(documented(t, "/nowhere"), "verdict: hold", "verdict: maybe", 1))
	if _, err := command(t, "rules", "list", "--config", wrong); err == nil || !strings.Contains(err.Error(), "webhook.rules[0].verdict") {
		t.Errorf("got %v", err)
	}
}

func TestRulesTestRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := writeFile(t, filepath.Join(dir, "bad.yaml"), "rules:\n- name: x\n  match: request.nope(\n  verdict: hold\n")
	none := writeFile(t, filepath.Join(dir, "none.yaml"), "rules: []\n")
	for want, args := range map[string][]string{
		"no rules: name them with --rules FILE":        {"x.json"},
		"--compare needs --rules FILE":                 {"--config", "c.yaml", "--compare", "x.json"},
		"go with --since":                              {"--rules", bad, "--run", "r", "x.json"},
		"nothing to try rules on":                      {"--rules", bad},
		"either files or --since":                      {"--rules", bad, "--since", "1h", "x.json"},
		"bad.yaml:3: rules[0].match":                   {"--rules", bad, "x.json"},
		"a file of rules needs one":                    {"--rules", none, "x.json"},
		`-o xml: only json or yaml is known here`:      {"--rules", bad, "-o", "xml", "x.json"},
		`--since "tomorrow": want such as 7d`:          {"--rules", "../../manifests/rules/default.yaml", "--since", "tomorrow"},
		"no ClickHouse: name it with --clickhouse URL": {"--rules", "../../manifests/rules/default.yaml", "--clickhouse", "", "--since", "1h"},
		"--since must be before --until":               {"--rules", "../../manifests/rules/default.yaml", "--since", "1h", "--until", "2h"},
	} {
		if _, err := command(t, append([]string{"rules", "test"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
}

func TestRulesList(t *testing.T) {
	t.Parallel()
	out, err := command(t, "rules", "list", "--config", "", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list []listedRule
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	rules, err := webhook.DefaultRules()
	if err != nil || len(list) != len(rules) || list[0].Name != rules[0].Name || list[0].Quorum != 1 || list[0].TimeToLive.Duration != webhook.DefaultTimeToLive {
		t.Errorf("got %s, %v", out, err)
	}
	if out, err := command(t, "rules", "list"); err != nil || !strings.Contains(out, "delete-namespace        hold") {
		t.Errorf("got %s, %v", out, err)
	}
}

// A week as ingest would have stored it, tried on the shipped rules and on others.
func TestRulesTestOnTheAuditTrail(t *testing.T) {
	t.Parallel()
	store := trialStore(t)
	now := time.Now().UTC().Truncate(time.Second)
	n := 0
	event := func(before time.Duration, verb, resource, name string, change ...func(*schema.Event)) schema.Event {
		n++
		at := now.Add(-before)
		ev := schema.Event{
			Cluster: "prod-eu", AuditID: fmt.Sprintf("0b4c-%d", n), Stage: "ResponseComplete", Level: "RequestResponse", Received: at, StageTime: at, Verb: verb,
			User: "agent:ci:deployer", Groups: []string{v1alpha1.GroupAgents}, Issuer: "ci", Run: "4711", RunKey: "k", APIVersion: "v1", Resource: resource,
			Namespace: "shop", Name: name, Code: 200, Verdict: "allowed",
		}
		for _, c := range change {
			c(&ev)
		}
		return ev
	}
	scaled := func(version string, replicas int) func(*schema.Event) {
		return func(e *schema.Event) {
			e.APIGroup = "apps"
			e.ResponseObject = fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":%q,"namespace":"shop","resourceVersion":%q},"spec":{"replicas":%d}}`, e.Name, version, replicas)
		}
	}
	sent := func(version string) func(*schema.Event) {
		return func(e *schema.Event) {
			e.RequestObject = fmt.Sprintf(`{"metadata":{"resourceVersion":%q}}`, version)
		}
	}
	held := func(code uint16, verdict string) func(*schema.Event) {
		return func(e *schema.Event) {
			e.Namespace, e.Code, e.Verdict, e.Approval, e.Rule = e.Name, code, verdict, "ap-1", "delete-namespace"
		}
	}
	d := 24 * time.Hour
	events := []schema.Event{
		event(8*d, "delete", "namespaces", "too-long-ago"),
		event(3*d, "get", "deployments", "web", scaled("7", 3)),
		event(3*d-time.Minute, "update", "deployments", "web", scaled("8", 0), sent("7")), // to zero, for sure
		event(2*d, "patch", "deployments", "api", scaled("20", 0)),                        // to zero, perhaps
		event(2*d-time.Minute, "delete", "namespaces", "team-a", held(429, "held")),
		event(2*d-2*time.Minute, "delete", "namespaces", "team-a", held(429, "held")),
		event(2*d-3*time.Minute, "delete", "namespaces", "team-a", held(200, "approved")),
		event(d, "create", "configmaps", "settings", func(e *schema.Event) {
			e.Code, e.ResponseObject, e.Run = 201, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings","namespace":"shop"}}`, "4712"
		}),
		event(d, "delete", "pods", "web-0", func(e *schema.Event) { e.Code, e.Verdict = 403, "" }),
		event(d, "delete", "pods", "theirs", func(e *schema.Event) { e.Issuer, e.Run, e.RunKey, e.User, e.Groups = "", "", "", "alice", nil }),
	}
	store.insert(t, events)

	ask := func(args ...string) (string, webhook.TrialReport) {
		t.Helper()
		args = append([]string{"rules", "test", "--clickhouse", store.url, "--since", "7d"}, args...)
		text, err := command(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		out, err := command(t, append(args, "-o", "json")...)
		if err != nil {
			t.Fatal(err)
		}
		var r webhook.TrialReport
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		return text, r
	}
	shipped := "../../manifests/rules/default.yaml"
	text, r := ask("--rules", shipped)
	t.Log(text)
	if r.Judged != 4 || r.Held != 3 || r.Allowed != 1 || r.Approximate != 1 || r.NotJudged["refused before the webhook was asked"] != 1 || r.Runs != 2 {
		t.Errorf("got %+v", r)
	}
	if _, r := ask("--rules", shipped, "--run", "4712"); r.Judged != 1 || r.Allowed != 1 {
		t.Errorf("of one run: got %+v", r)
	}
	if _, r := ask("--rules", shipped, "--cluster", "elsewhere"); r.Judged != 0 {
		t.Errorf("of another cluster: got %+v", r)
	}
	other := writeFile(t, filepath.Join(t.TempDir(), "rules.yaml"), "rules:\n- name: configmaps\n  match: request.resource.resource == 'configmaps'\n  verdict: hold\n  approvers: [sre-oncall]\n")
	text, r = ask("--rules", other, "--compare")
	t.Log(text)
	if c := r.Comparison; c == nil || c.NewlyHeld != 1 || c.NoLongerHeld != 3 || c.Same != 0 {
		t.Errorf("compared: got %+v", c)
	}
}

type trial struct {
	cfg schema.ClickHouse
	url string
}

// trialStore starts a ClickHouse of the test's own, with its tables.
func trialStore(t *testing.T) trial {
	t.Helper()
	lib := os.Getenv("TIPSTAFF_LIBCHDB")
	if lib == "" {
		var err error
		if lib, err = filepath.Abs("../../tools/chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so"); err != nil {
			t.Fatal(err)
		}
	}
	s, err := chdb.New(chdb.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Library: lib, Username: "tester", Password: "secret"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the engine ended with: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the ClickHouse engine did not start")
	}
	url := "http://tester:secret@" + s.Addr()
	return trial{schema.ClickHouse{URL: url}, url}
}

func (s trial) insert(t *testing.T, events []schema.Event) {
	t.Helper()
	conn, err := s.cfg.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := schema.Migrate(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if err := schema.Insert(t.Context(), conn, events); err != nil {
		t.Fatal(err)
	}
}
