package ingest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// approvedEvent is the end of a request that an approval let through.
func approvedEvent(verb, stage, approval, use, status string) string {
	return fmt.Sprintf(`{"level":"Request","auditID":"a-%s-%s","stage":%q,"requestURI":"/api/v1/namespaces/shop","verb":%q,
		"user":{"username":"agent:ci:bot","groups":["tipstaff:agents"]},
		"objectRef":{"resource":"secrets","namespace":"shop","name":"s","apiVersion":"v1"},
		"responseStatus":%s,
		"requestReceivedTimestamp":"2026-11-23T09:00:00.000000Z","stageTimestamp":"2026-11-23T09:00:00.100000Z",
		"annotations":{"changes.tipstaff.dev/verdict":"approved","changes.tipstaff.dev/approval":%q,"changes.tipstaff.dev/use":%q}}`,
		verb, use, stage, verb, status, approval, use)
}

func eventList(events ...string) []byte {
	return []byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[` + strings.Join(events, ",") + `]}`)
}

func TestOutcomesArePassedOnceStored(t *testing.T) {
	t.Parallel()
	in, _, _ := start(t, t.TempDir(), away{})
	var got []Outcome
	full := false
	in.OnOutcome(func(o Outcome) bool { got = append(got, o); return !full })
	const refused = `{"code":403,"reason":"Forbidden","message":"exceeded\u001b[2J quota"}`
	const name = "0123456789"
	body := eventList(
		approvedEvent("update", "ResponseComplete", name, "u-1", refused),
		approvedEvent("update", "Panic", name, "u-2", `{"code":500}`),
		approvedEvent("update", "RequestReceived", name, "u-3", refused),
		approvedEvent("deletecollection", "ResponseComplete", name, "u-4", refused),
		approvedEvent("update", "ResponseComplete", "../pods/x", "u-5", refused),
		approvedEvent("update", "ResponseComplete", name, strings.Repeat("u", 65), refused),
		approvedEvent("update", "ResponseComplete", name, "u-6", `{}`),
		strings.Replace(approvedEvent("update", "ResponseComplete", name, "u-7", refused), `"approved"`, `"held"`, 1),
	)
	denied := func(use, status string) string {
		return strings.Replace(approvedEvent("create", "ResponseComplete", name, use, status), `"approved"`, `"denied"`, 1)
	}
	body = slices.Concat(body[:len(body)-2], []byte(","+denied("u-8", `{"code":500}`)+","+denied("u-9", `{"code":201}`)+"]}"))
	if w := post(in, "/audit/nobody", body); w.Code != http.StatusNotFound || got != nil {
		t.Fatalf("a batch that was not stored is told: %d, %v", w.Code, got)
	}
	mustPost(t, in, "demo", body)
	if len(got) == 3 && got[2].Use == "u-8" && got[2].Code == 403 { // refused by the webhook itself, however the API server calls that
		got = got[:2]
	}
	if len(got) != 2 || got[0].Use != "u-1" || got[0].Code != 403 || got[0].Approval != name || got[1].Use != "u-2" || got[1].Code != 500 {
		t.Fatalf("got %+v", got)
	}
	if strings.Contains(got[0].Message, "\x1b") {
		t.Errorf("a control character stands in %q", got[0].Message)
	}
	if n := counted(t, in.metrics.outcomes)["passed"]; n != 3 {
		t.Errorf("counted %v", n)
	}
	full = true
	mustPost(t, in, "demo", body)
	if n := counted(t, in.metrics.outcomes)["dropped"]; n != 3 {
		t.Errorf("counted %v as dropped", n)
	}
}

func TestAnOutcomesMessageIsMaskedAndFits(t *testing.T) {
	t.Parallel()
	const secret = "bmV3LXZhbHVl-s3cr3t"
	p, err := prepare(masker(t), nil, "demo", eventList(
		approvedEvent("update", "ResponseComplete", "0123456789", "u", `{"code":422,"reason":"Invalid","message":"data: Invalid value: \"`+secret+`\""}`),
	), time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC))
	if err != nil || len(p.outcomes) != 1 {
		t.Fatalf("got %+v, %v", p, err)
	}
	if strings.Contains(p.outcomes[0].Message, secret) {
		t.Errorf("the secret stands in %q", p.outcomes[0].Message)
	}
	if got := []rune(plain(strings.Repeat("é", 5000) + "\xff")); len(got) != maxOutcomeMessage {
		t.Errorf("%d characters", len(got))
	}
}

// counted are a counter's values by its one label.
func counted(t testing.TB, c prometheus.Collector) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return got
}
