package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// The SOC's questions are answered from what a real API server told.
func TestQuestionsAreAnswered(t *testing.T) {
	a := newAgent(t)
	ns := namespace(t)
	must(t, a.proxied, "get", "pods", "-n", ns)
	must(t, a.direct, "create", "configmap", "settings", "--from-literal=color=green", "-n", ns)
	if _, err := shared.WaitForEvents(t.Context(), a.run, time.Minute); err != nil {
		t.Fatal(err)
	}
	list := tipstaff(t, shared.Admin, "query", "-o", "json")
	var questions []struct {
		Name   string
		Params []struct {
			Name     string
			Required bool
		}
	}
	if err := json.Unmarshal([]byte(list.Stdout), &questions); err != nil || len(questions) < 12 {
		t.Fatalf("%d questions, %v: %s", len(questions), err, list.Output())
	}
	told := map[string]string{"run": a.run, "resource": "configmaps", "name": "settings", "namespace": ns, "owner": "ada"}
	for _, q := range questions {
		args := []string{"query", q.Name, "-o", "json"}
		for _, p := range q.Params {
			if v, ok := told[p.Name]; ok {
				args = append(args, "--param", p.Name+"="+v)
			} else if p.Required {
				t.Fatalf("%s needs %s", q.Name, p.Name)
			}
		}
		r := tipstaff(t, shared.Admin, args...)
		if !r.OK() {
			t.Errorf("%s: code %d: %s", q.Name, r.Code, r.Output())
			continue
		}
		switch q.Name {
		case "run-timeline", "object-history":
			if !strings.Contains(r.Stdout, `"verb":"create"`) || !strings.Contains(r.Stdout, `"verdict":"allowed"`) {
				t.Errorf("%s: %s", q.Name, r.Stdout)
			}
		case "top-talkers":
			if !strings.Contains(r.Stdout, `"agent":"agent:platform:agent"`) {
				t.Errorf("%s: %s", q.Name, r.Stdout)
			}
		}
	}
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"a question that isn't there": {[]string{"query", "nosuch"}, `no question "nosuch"`},
		"one that lacks something":    {[]string{"query", "run-timeline"}, "needs --param run=…"},
		"SQL with parameters":         {[]string{"query", "SELECT 1", "--param", "a=b"}, "--param is for questions by name"},
	} {
		if r := tipstaff(t, shared.Admin, tc.args...); r.Code != 1 || !strings.Contains(r.Stderr, tc.says) {
			t.Errorf("%s: code %d: %s", name, r.Code, r.Output())
		}
	}
}
