package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/mask"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// testAgents are agents inside the cluster.
var testAgents = &clusteragents.Config{ServiceAccounts: []string{"ops/bot"}}

func TestSplitRefusesWhatIsNoList(t *testing.T) {
	t.Parallel()
	const head = `{"kind":"EventList","apiVersion":"audit.k8s.io/v1",`
	for name, row := range map[string]struct{ body, want string }{
		"nothing":                       {"", "the body is no JSON object at byte 0"},
		"an array":                      {"[]", "the body is no JSON object at byte 1"},
		"a batch cut in the middle":     {head + `"items":[{"a":1},{"a`, "the JSON is broken at byte 67"},
		"another kind":                  {`{"kind":"PodList","apiVersion":"v1","items":[]}`, "the body is no audit.k8s.io/v1 EventList at byte 47"},
		"an older version":              {`{"kind":"EventList","apiVersion":"audit.k8s.io/v1beta1","items":[]}`, "the body is no audit.k8s.io/v1 EventList at byte 67"},
		"two lists":                     {head + `"items":[]} {}`, "something follows the list at byte 64"},
		"items that are no array":       {head + `"items":{}}`, "the JSON is broken at byte 60"},
		"more events than are bearable": {head + `"items":[` + strings.Repeat("1,", maxEventsInBatch) + "1]}", "there are too many events at byte 40061"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events, err := split([]byte(row.body))
			if events != nil || !errors.As(err, new(*ParseError)) || err.Error() != row.want {
				t.Errorf("got %d events, %q; want %q", len(events), err, row.want)
			}
		})
	}
}

func TestSplitTakesKindAfterItemsAndNullItems(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{
		`{"items":[{"a":1}, 2],"apiVersion":"audit.k8s.io/v1","kind":"EventList"}`: 2,
		`{"items":null,"apiVersion":"audit.k8s.io/v1","kind":"EventList"}`:         0,
	} {
		events, err := split([]byte(body))
		if err != nil || len(events) != want {
			t.Errorf("%s: got %d events, %v; want %d", body, len(events), err, want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	names, _ := filepath.Glob("testdata/batches/*.json")
	if len(names) == 0 {
		f.Fatal("no seeds in testdata/batches: have they moved?")
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	m := masker(f)
	now := time.Unix(0, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := split(b)
		if err != nil {
			if events != nil || !errors.As(err, new(*ParseError)) {
				t.Errorf("got %d events with error %T", len(events), err)
			}
			return
		}
		again, err := split(join(events))
		if err != nil || len(again) != len(events) {
			t.Fatalf("joined again: %d events, %v; want %d", len(again), err, len(events))
		}
		for i := range events {
			if !bytes.Equal(events[i], again[i]) {
				t.Errorf("event %d changed", i)
			}
		}
		// Every event is stored or in quarantine, and what is stored can be read.
		p, err := prepare(m, testAgents, "demo", b, now)
		if err != nil {
			t.Fatal(err)
		}
		stored := 0
		for _, c := range p.chunks {
			evs, err := unpack(formatV1, c.data)
			if err != nil || len(evs) != c.events {
				t.Fatalf("stored chunk: %d events, %v; want %d", len(evs), err, c.events)
			}
			stored += len(evs)
			for _, ev := range evs {
				_ = row(testAgents, "demo", ev)
			}
		}
		if stored != p.events || stored+len(p.bad) != len(events) {
			t.Errorf("%d stored and %d in quarantine of %d", stored, len(p.bad), len(events))
		}
	})
}

// rowsOf gives the rows that a batch becomes.
func rowsOf(t *testing.T, body []byte) ([]schema.Event, []quarantined) {
	t.Helper()
	p, err := prepare(masker(t), testAgents, "demo", body, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	var rows []schema.Event
	for _, c := range p.chunks {
		events, err := unpack(formatV1, c.data)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			rows = append(rows, row(testAgents, "demo", ev))
		}
	}
	return rows, p.bad
}

func TestRowOfAnApprovedChange(t *testing.T) {
	t.Parallel()
	rows, bad := rowsOf(t, read(t, "agent.json"))
	if len(rows) != 11 || len(bad) != 0 {
		t.Fatalf("got %d rows and %d in quarantine", len(rows), len(bad))
	}
	want := schema.Event{
		Cluster: "demo", AuditID: "00000000-0000-4000-8000-000000000010", Stage: "ResponseComplete", Level: "RequestResponse",
		Received:  time.Date(2026, 11, 23, 1, 0, 10, 10_000, time.UTC),
		StageTime: time.Date(2026, 11, 23, 1, 0, 10, 510_000, time.UTC),
		Verb:      "delete", User: "agent:platform:coder",
		Groups: []string{"tipstaff:agents", "tipstaff:profile:default", "tipstaff:run:0123456789abcdef0123", "system:authenticated"},
		Issuer: "platform", Run: "run-1", RunKey: "d0bd88bb3e4a2d1f2c6b", Model: "model-x", Owner: "dana@example.com", Task: "FIX-12",
		Profile: "default", CredentialID: "JTI=abc", SourceIPs: []string{"10.0.0.7"}, UserAgent: "kubectl/v1.37.2 (linux/amd64)",
		APIVersion: "v1", Resource: "namespaces", Namespace: "team-a", Name: "team-a", URI: "/api/v1/namespaces/team-a", Code: 200,
		Verdict: "approved", Rule: "namespace-delete", Approval: "ap-1", Approvers: []string{"alice"},
		Annotations: map[string]string{
			"authorization.k8s.io/decision": "allow", "changes.tipstaff.dev/verdict": "approved", "changes.tipstaff.dev/rule": "namespace-delete",
			"changes.tipstaff.dev/approval": "ap-1", "changes.tipstaff.dev/approvers": "alice",
		},
	}
	want.RunKey = rows[9].RunKey // a hash: only that it is one of 20 digits is looked at
	if len(want.RunKey) != 20 || !reflect.DeepEqual(rows[9], want) {
		t.Errorf("got  %+v\nwant %+v", rows[9], want)
	}
	if r := rows[4]; r.User != "agent:platform:coder" || r.Impersonator != "tipstaff" || !r.Proxied || r.Run != "run-1" {
		t.Errorf("the proxied read is %s's by %s, proxied %v, of run %q", r.User, r.Impersonator, r.Proxied, r.Run)
	}
	if r := rows[10]; r.Verdict != "denied" || r.DecisionReason != "not on a Friday" || !reflect.DeepEqual(r.Approvers, []string{"bob"}) {
		t.Errorf("the denial is %q by %v, reason %q", r.Verdict, r.Approvers, r.DecisionReason)
	}
}

func TestRowsOfAgentsInsideTheCluster(t *testing.T) {
	t.Parallel()
	// As the API server writes them for a token bound to a pod, and for one bound to none.
	const (
		groups = `"groups":["system:serviceaccounts","system:serviceaccounts:ops","system:authenticated"]`
		bot    = `{"username":"system:serviceaccount:ops:bot","uid":"5b0f",` + groups
		pod    = `,"extra":{"authentication.kubernetes.io/credential-id":["JTI=1"],"authentication.kubernetes.io/node-name":["n1"],"authentication.kubernetes.io/pod-name":["bot-0"],"authentication.kubernetes.io/pod-uid":["6f1c"]}}`
		times  = `"requestReceivedTimestamp":"2026-11-23T01:00:10.000010Z","stageTimestamp":"2026-11-23T01:00:10.000510Z"`
	)
	event := func(id, users string) string {
		return `{"level":"Metadata","auditID":"` + id + `","stage":"ResponseComplete","requestURI":"/api/v1/pods","verb":"list",` + users + `,` + times + `}`
	}
	rows, bad := rowsOf(t, []byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[`+strings.Join([]string{
		event("pod", `"user":`+bot+pod),
		event("no-pod", `"user":`+bot+`}`),
		event("no-agent", `"user":`+strings.ReplaceAll(bot, "ops:bot", "ops:other")+pod),
		event("impersonated", `"user":{"username":"alice"},"impersonatedUser":`+bot+`}`),
		event("impersonates", `"user":`+bot+pod+`,"impersonatedUser":{"username":"alice"}`),
	}, ",")+`]}`))
	if len(rows) != 5 || len(bad) != 0 {
		t.Fatalf("got %d rows and %d in quarantine", len(rows), len(bad))
	}
	want := []schema.Event{
		{AuditID: "pod", Issuer: "kubernetes", Run: "6f1c", RunKey: string(v1alpha1.KeyOf("kubernetes", "6f1c")), Task: "pod ops/bot-0", CredentialID: "JTI=1"},
		{AuditID: "no-pod", Issuer: "kubernetes"},
		{AuditID: "no-agent"},
		{AuditID: "impersonated", Issuer: "kubernetes", Impersonator: "alice"},
		{AuditID: "impersonates", Issuer: "kubernetes", Run: "6f1c", RunKey: string(v1alpha1.KeyOf("kubernetes", "6f1c")), Task: "pod ops/bot-0", CredentialID: "JTI=1", Impersonator: "system:serviceaccount:ops:bot"},
	}
	for i, r := range rows {
		got := schema.Event{AuditID: r.AuditID, Issuer: r.Issuer, Run: r.Run, RunKey: r.RunKey, Task: r.Task, CredentialID: r.CredentialID, Impersonator: r.Impersonator}
		if !reflect.DeepEqual(got, want[i]) || r.Proxied {
			t.Errorf("got  %+v\nwant %+v", got, want[i])
		}
	}
}

func TestABodyThatCanNotBeReadIsLeftOutOfItsEvent(t *testing.T) {
	t.Parallel()
	rows, bad := rowsOf(t, read(t, "names-twice.json"))
	if len(rows) != 1 || len(bad) != 0 {
		t.Fatalf("got %d rows and %d in quarantine", len(rows), len(bad))
	}
	if r := rows[0]; r.RequestObject != "" || !r.Truncated || r.Annotations[annotationOmitted] != "requestObject" {
		t.Errorf("body %q, truncated %v, omitted %q", r.RequestObject, r.Truncated, r.Annotations[annotationOmitted])
	}
}

func TestABadEventDoesNotTakeTheOthersWithIt(t *testing.T) {
	t.Parallel()
	rows, bad := rowsOf(t, read(t, "bad-events.json"))
	if len(rows) != 2 {
		t.Errorf("got %d rows, want the 2 good ones", len(rows))
	}
	var reasons []string
	for _, q := range bad {
		reasons = append(reasons, q.Reason)
	}
	want := []string{"a field has the wrong type, ingest.userInfo is wanted", "the event is no object", "the event has no auditID"}
	if !reflect.DeepEqual(reasons, want) {
		t.Errorf("got  %q\nwant %q", reasons, want)
	}
}

func TestI7_NothingPlantedLeavesPrepare(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"agent.json", "names-twice.json", "bad-events.json"} {
		body := read(t, name)
		if !bytes.Contains(body, []byte("planted-secret")) && !bytes.Contains(body, []byte("cGxhbnRlZC1zZWNyZXQt")) {
			t.Fatalf("%s: nothing is planted", name)
		}
		p, err := prepare(masker(t), testAgents, "demo", body, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		var out []byte
		for _, c := range p.chunks {
			plain, err := decompressor.DecodeAll(c.data, nil)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, plain...)
		}
		for _, q := range p.bad {
			out = append(append(out, q.Event...), q.Reason...)
		}
		for _, secret := range []string{"planted-secret", "cGxhbnRlZC1zZWNyZXQt", "4711471147"} {
			if i := bytes.Index(out, []byte(secret)); i >= 0 {
				t.Errorf("%s: %s is stored: …%s…", name, secret, out[max(0, i-200):min(len(out), i+60)])
			}
		}
		if name == "agent.json" && !bytes.Contains(out, []byte(mask.MarkPrefix)) {
			t.Error("there are no marks: was anything masked?")
		}
	}
}

// A JSON patch may replace the whole object.
func TestI7_APatchOfTheWholeObjectIsMasked(t *testing.T) {
	t.Parallel()
	m, err := (&mask.Config{Fields: []mask.FieldRule{{Resource: "databases", Kind: "Database", Paths: []string{"spec.admin"}}}}).New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "/spec", "/spec/admin"} {
		value := map[string]string{"": `{"kind":"Database","spec":{"admin":"weak word"}}`, "/spec": `{"admin":"weak word"}`, "/spec/admin": `"weak word"`}[path]
		masked, omitted := maskBody(m.Scope("r"), objectRef{Resource: "databases"}, []byte(`[{"op":"replace","path":"`+path+`","value":`+value+`}]`), true)
		if omitted || !bytes.Contains(masked, []byte(mask.MarkPrefix)) || bytes.Contains(masked, []byte("weak")) {
			t.Errorf("at %q: %s", path, masked)
		}
	}
	for _, kind := range []string{`"Status"`, `"DatabaseList"`, `""`, `7`} {
		masked, omitted := maskBody(m.Scope("r"), objectRef{Resource: "databases"}, []byte(`[{"op":"add","path":"","value":{"kind":`+kind+`,"spec":{"admin":"weak word"}}}]`), true)
		if omitted || bytes.Contains(masked, []byte("weak")) {
			t.Errorf("called %s: %s", kind, masked)
		}
	}
}

// TestI7_WhatARequestIsAboutDecidesHowItsBodyIsMasked, not what the body calls itself.
func TestI7_WhatARequestIsAboutDecidesHowItsBodyIsMasked(t *testing.T) {
	t.Parallel()
	m, err := (&mask.Config{Fields: []mask.FieldRule{{Resource: "databases", Kind: "Database", Paths: []string{"spec.admin"}}}}).New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{`"Database"`, `"Status"`, `"Table"`, `"WatchEvent"`, `"PartialObjectMetadata"`, `"PartialObjectMetadataList"`, `"XList"`, `"List"`, `"DatabaseList"`, `""`, `null`, `7`, `["weak word"]`, `{"a":"weak word"}`} {
		for resource, body := range map[string]string{
			"databases":    `{"kind":%s,"spec":{"admin":"weak word"}}`,
			"tokenreviews": `{"kind":%s,"spec":{"token":"weak word"}}`,
			"secrets":      `{"kind":%s,"stringData":{"a":"weak word"}}`,
		} {
			masked, omitted := maskBody(m.Scope("r"), objectRef{Resource: resource}, []byte(fmt.Sprintf(body, kind)), true)
			if omitted || !bytes.Contains(masked, []byte(mask.MarkPrefix)) || bytes.Contains(masked, []byte("weak")) {
				t.Errorf("%s that call themselves %s: %s", resource, kind, masked)
			}
		}
	}
}

func TestMarksJoinWithThoseOfTheRun(t *testing.T) {
	t.Parallel()
	rows, _ := rowsOf(t, read(t, "agent.json"))
	mark := masker(t).Scope(v1alpha1.KeyOf("platform", "run-1")).String("planted-secret-2")
	if !strings.Contains(rows[0].RequestObject, `"token":"`+mark+`"`) {
		t.Errorf("no mark %s in %s", mark, rows[0].RequestObject)
	}
}

func TestMaskURI(t *testing.T) {
	t.Parallel()
	m := func(s string) string { return "<" + s + ">" }
	proxy := &objectRef{Resource: "services", Subresource: "proxy"}
	for name, row := range map[string]struct {
		uri, want string
		ref       *objectRef
	}{
		"a path alone stays":                                {uri: "/api/v1/pods", want: "/api/v1/pods"},
		"the API's own parameters stay":                     {uri: "/api/v1/pods?limit=500&watch=true&labelSelector=app%3Dx", want: "/api/v1/pods?limit=500&watch=true&labelSelector=app%3Dx"},
		"an exec's command is masked, argument by argument": {uri: "/x/exec?command=sh&command=-c%20id&tty=true", want: "/x/exec?command=<sh>&command=<-c id>&tty=true"},
		"a value without a name is masked":                  {uri: "/x?hunter2", want: "/x?<hunter2>"},
		"a name that is none is masked with its value":      {uri: "/x?a.b%20c=d", want: "/x?<a.b%20c=d>"},
		"an escape that is none is masked":                  {uri: "/x?limit=%zz", want: "/x?<limit=%zz>"},
		"what lies behind a proxied service is masked":      {uri: "/api/v1/namespaces/a/services/b/proxy/login/s3cret?p=q", want: "/api/v1/namespaces/a/services/b/proxy/<login/s3cret>?p=<q>", ref: proxy},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := maskURI(row.uri, row.ref, m); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestValidateReportsEveryFault(t *testing.T) {
	t.Parallel()
	c := Config{Clusters: []string{"demo", "Not a label", "demo"}, JetStream: JetStream{Dir: "x", URL: "nats://x,http://y", CAFile: "none", CertFile: "pure_test.go", MaxBytes: 1}}
	var got []string
	for _, err := range c.Validate(field.NewPath("ingest")) {
		got = append(got, err.Field)
	}
	want := []string{
		"ingest.listen", "ingest.tls.certFile", "ingest.tls.keyFile", "ingest.tls.clientCAFile", "ingest.tls.clientNames", "ingest.clusters[1]", "ingest.clusters[2]",
		"ingest.jetStream.url", "ingest.jetStream.caFile", "ingest.jetStream.keyFile", "ingest.jetStream.maxBytes",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestUnpackRefusesWhatItDidNotWrite(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		format string
		data   []byte
	}{
		"another format":  {"events/v2", nil},
		"no zstd":         {formatV1, []byte("{}")},
		"no event list":   {formatV1, compressor.EncodeAll([]byte("{}"), nil)},
		"an event broken": {formatV1, compressor.EncodeAll(join([]jsontext.Value{jsontext.Value("7")}), nil)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if events, err := unpack(row.format, row.data); events != nil || err == nil {
				t.Errorf("got %d events, %v", len(events), err)
			}
		})
	}
}

// An event that no JetStream would take is kept without its objects, or put aside
// when even that is too large; the others of its batch are not touched.
func TestAnEventTooLargeForAMessage(t *testing.T) {
	t.Parallel()
	// What doesn't compress.
	noise := make([]byte, 18<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	event := func(id, uri, object string) string {
		return `{"level":"RequestResponse","auditID":"` + id + `","stage":"ResponseComplete","requestURI":"` + uri + `","verb":"create","user":{"username":"u"},` +
			`"requestReceivedTimestamp":"2026-11-30T10:00:00.000000Z","stageTimestamp":"2026-11-30T10:00:00.000000Z","requestObject":{"lines":{"` + object + `":1}}}`
	}
	for i, b := range noise {
		if noise[i] = 'a' + b%26; i%7 == 6 {
			noise[i] = ' '
		}
	}
	var texts []string
	for part := range slices.Chunk(noise, 7*100) {
		texts = append(texts, string(part))
	}
	text := strings.Join(texts, `":1,"`) // texts would be masked: their names aren't
	body := `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[` + strings.Join([]string{
		event("small", "/api", "x"), event("large", "/api", text), event("hopeless", "/"+string(noise), ""), event("last", "/api", "x"),
	}, ",") + `]}`
	p, err := prepare(masker(t), nil, "demo", []byte(body), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p.events != 3 || len(p.bad) != 1 || !strings.Contains(p.bad[0].Reason, "too large") {
		t.Fatalf("%d events, put aside: %+v", p.events, p.bad)
	}
	for _, c := range p.chunks {
		if len(c.data) > maxEventBytes {
			t.Errorf("a message of %d bytes", len(c.data))
		}
		events, err := unpack(formatV1, c.data)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			if large := ev.AuditID == "large"; large != (len(ev.RequestObject) == 0) || large != (ev.Annotations[annotationTruncated] == "true") {
				t.Errorf("event %s: %d bytes of object, annotations %v", ev.AuditID, len(ev.RequestObject), ev.Annotations)
			}
		}
	}
}
