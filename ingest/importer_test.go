package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"k8s.io/apimachinery/pkg/util/wait"
)

// asLog writes a batch as the API server's log has it, an event a line.
func asLog(t testing.TB, batch []byte) []byte {
	t.Helper()
	events, err := split(batch)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	for _, ev := range events {
		line := jsontext.Value(strings.Replace(string(ev), "{", `{"kind":"Event","apiVersion":"audit.k8s.io/v1",`, 1))
		if err := line.Compact(); err != nil {
			t.Fatal(err)
		}
		log.Write(append(line, '\n'))
	}
	return log.Bytes()
}

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	if _, err := zw.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// importer sends to in over HTTP.
func importer(t testing.TB, handler http.Handler) *Importer {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	return &Importer{URL: srv.URL + "/audit/demo", Client: srv.Client()}
}

// A log adds what isn't there and nothing else, however often it is sent: each
// event has its row whether it came by the webhook, the log or both.
func TestI6_ALogClosesTheGap(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	in, _, _ := start(t, t.TempDir(), store)
	conn := open(t, store)
	batch := read(t, "recorded.json")
	log := asLog(t, batch)
	events, err := split(batch)
	if err != nil {
		t.Fatal(err)
	}
	half := len(events) / 2
	mustPost(t, in, "demo", join(events[:half])) // the rest is the gap
	rows := func() uint64 { return count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`) }
	eventually(t, "the first half is there", func() bool { return rows() == uint64(half) })
	im := importer(t, in.Handler())
	for i, log := range [][]byte{log, zipped(t, log), append(bytes.Clone(log), log...)} {
		done, err := im.Import(t.Context(), bytes.NewReader(log))
		if err != nil || done.Refused > 0 || done.Events == 0 || done.Events != done.Lines {
			t.Fatalf("%d: %+v, %v", i, done, err)
		}
		eventually(t, "all of it is written", func() bool { return backlog(t, in) == 0 })
		eventually(t, "each event has a row", func() bool { return rows() == uint64(len(events)) })
	}
	if n := count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL WHERE cluster = 'demo'`); n != uint64(len(events)) {
		t.Errorf("%d rows of the cluster in the path, want %d", n, len(events))
	}
}

func TestImportSaysWhichLinesItCouldNotTake(t *testing.T) {
	t.Parallel()
	in, _, _ := start(t, t.TempDir(), away{})
	im := importer(t, in.Handler())
	good := strings.TrimSpace(string(asLog(t, read(t, "agent.json"))))
	one, _, _ := strings.Cut(good, "\n")
	long := `{"kind":"Event","apiVersion":"audit.k8s.io/v1","x":"` + strings.Repeat("x", maxLineBytes) + `"}`
	log := strings.Join([]string{one, "", one[:len(one)/2], "no JSON", long, one, `{"kind":"Pod","apiVersion":"v1"}`, "[1]", "\x00\xff", one[:20]}, "\n")
	done, err := im.Import(t.Context(), strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	for _, f := range done.Faults {
		lines = append(lines, f.Line)
		if strings.Contains(f.Error(), "auditID") || len(f.Error()) > 100 {
			t.Errorf("%q quotes the log", f)
		}
	}
	if done.Lines != 9 || done.Events != 2 || done.Refused != 7 || fmt.Sprint(lines) != "[3 4 5 7 8 9 10]" {
		t.Errorf("%+v", done)
	}
}

func TestImportBreaksOff(t *testing.T) {
	t.Parallel()
	in, _, _ := start(t, t.TempDir(), away{})
	im := importer(t, in.Handler())
	log := asLog(t, read(t, "agent.json"))
	packed := zipped(t, log)
	if _, err := im.Import(t.Context(), bytes.NewReader(packed[:len(packed)-10])); err == nil || !strings.Contains(err.Error(), "can't be read on") {
		t.Errorf("a log that breaks off: %v", err)
	}
	broken := errors.New("disk gone")
	if done, err := im.Import(t.Context(), io.MultiReader(bytes.NewReader(log), iotest.ErrReader(broken))); !errors.Is(err, broken) || done.Events == 0 {
		t.Errorf("a disk that fails: %+v, %v", done, err)
	}
	im.URL = strings.Replace(im.URL, "/demo", "/nobody", 1)
	if _, err := im.Import(t.Context(), bytes.NewReader(log)); err == nil || !strings.Contains(err.Error(), "404 this cluster is not configured") {
		t.Errorf("another cluster: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	im = importer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	if _, err := im.Import(ctx, bytes.NewReader(log)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while the receiver is full: %v", err)
	}
}

// A receiver that can't store for a while gets all of it after that; one that
// refuses an event for what it is gets the others.
func TestImportTriesAgain(t *testing.T) {
	t.Parallel()
	in, _, _ := start(t, t.TempDir(), away{})
	var calls atomic.Int64
	const away = 12 // more than it takes to wait for the longest time
	im := importer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch {
		case calls.Add(1) <= away:
			w.WriteHeader(http.StatusServiceUnavailable)
		case bytes.Contains(body, []byte("unbearable")):
			http.Error(w, "too much", http.StatusRequestEntityTooLarge)
		default:
			in.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/audit/demo", bytes.NewReader(body)))
		}
	}))
	im.again = wait.Backoff{Duration: time.Millisecond, Factor: 2, Steps: 10, Cap: 4 * time.Millisecond}
	log := asLog(t, read(t, "recorded.json"))
	lines := bytes.Count(log, []byte("\n"))
	bad := `{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"unbearable"}` + "\n"
	done, err := im.Import(t.Context(), io.MultiReader(bytes.NewReader(log), strings.NewReader(bad), bytes.NewReader(log)))
	if err != nil || done.Events != 2*lines || done.Refused != 1 || done.Faults[0].Line != lines+1 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestClouds(t *testing.T) {
	t.Parallel()
	const event = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a1","stage":"ResponseComplete","requestURI":"/api/v1/pods","verb":"list","user":{"username":"ann"},"requestReceivedTimestamp":"2026-11-30T12:00:00.000001Z","stageTimestamp":"2026-11-30T12:00:00.000002Z"}`
	quoted := fmt.Sprintf("%q", event)
	for name, tc := range map[string]struct {
		line   string
		events int
		bad    bool
	}{
		"the API server's":                   {event, 1, false},
		"a webhook's batch":                  {`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[` + event + "," + event + `]}`, 2, false},
		"a list":                             {"[" + event + "]", 1, false},
		"CloudWatch, a subscription's":       {`{"messageType":"DATA_MESSAGE","owner":"1","logGroup":"/aws/eks/shop/cluster","logStream":"kube-apiserver-audit-1","logEvents":[{"id":"1","timestamp":1,"message":` + quoted + `},{"id":"2","timestamp":1,"message":"I1130 12:00:00 some.go:1] another log's"}]}`, 1, false},
		"CloudWatch, filter-log-events":      {`{"logStreamName":"kube-apiserver-audit-1","timestamp":1,"message":` + quoted + `,"ingestionTime":2,"eventId":"3"}`, 1, false},
		"CloudWatch, exported to S3":         {"2026-11-30T12:00:00.000Z " + event, 1, false},
		"CloudWatch, of another log":         {"2026-11-30T12:00:00.000Z I1130 12:00:00 some.go:1] text", 0, false},
		"Azure, a blob's":                    {`{"category":"kube-audit-admin","operationName":"Microsoft.ContainerService/managedClusters/diagnosticLogs/Read","properties":{"log":` + quoted + `,"stream":"stdout","pod":"kube-apiserver-1"},"time":"2026-11-30T12:00:00Z"}`, 1, false},
		"Azure, an Event Hub's":              {`{"records":[{"category":"kube-audit","properties":{"log":` + quoted + `}},{"category":"guard","properties":{"log":"text"}}]}`, 1, false},
		"Google":                             {googleEntry, 1, false},
		"Google, of another service":         {`{"protoPayload":{"serviceName":"container.googleapis.com","methodName":"google.container.v1.ClusterManager.GetCluster"},"timestamp":"2026-11-30T12:00:00Z"}`, 0, false},
		"one of two records that breaks off": {`{"records":[{"category":"kube-audit","properties":{"log":` + quoted + `}},{"category":"kube-audit","properties":{"log":"{\"kind\":"}}]}`, 1, true},
		"wrapped too often":                  {strings.Repeat(`{"records":[`, 6) + event + strings.Repeat(`]}`, 6), 0, true},
		"something else":                     {`{"level":"info"}`, 0, true},
		"a time before nothing":              {"2026-11-30T12:00:00.000Z ", 0, true},
		"a number":                           {"1", 0, true},
		"kinds of types nobody expects":      {`{"kind":1,"items":{}}`, 0, true},
		"nothing but a name":                 {`{"message":null}`, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events, err := eventsOfLine([]byte(tc.line))
			if len(events) != tc.events || (err != nil) != tc.bad {
				t.Errorf("%d events, %v", len(events), err)
			}
			for _, raw := range events {
				if _, err := decode(raw); err != nil {
					t.Errorf("the receiver would not understand it: %v: %s", err, raw)
				}
			}
		})
	}
}

const googleEntry = `{"insertId":"i1","labels":{"authorization.k8s.io/decision":"allow"},"logName":"projects/p/logs/cloudaudit.googleapis.com%2Factivity","operation":{"first":true,"id":"op-1","last":true,"producer":"k8s.io"},"protoPayload":{"@type":"type.googleapis.com/google.cloud.audit.AuditLog","authenticationInfo":{"principalEmail":"ann@example.com"},"methodName":"io.k8s.core.v1.pods.eviction.create","request":{"@type":"policy.k8s.io/v1.Eviction","kind":"Eviction"},"requestMetadata":{"callerIp":"203.0.113.7","callerSuppliedUserAgent":"kubectl/v1.37.2"},"resourceName":"core/v1/namespaces/prod/pods/web-1/eviction","response":{"code":429,"kind":"Status","message":"disruption budget","reason":"TooManyRequests"},"serviceName":"k8s.io","status":{"code":8}},"resource":{"type":"k8s_cluster"},"timestamp":"2026-11-30T12:00:00.123456Z"}`

func TestGoogleEntrySaysWhatAnEventDoes(t *testing.T) {
	t.Parallel()
	events, err := eventsOfLine([]byte(googleEntry))
	if err != nil || len(events) != 1 {
		t.Fatal(len(events), err)
	}
	ev, err := decode(events[0])
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(ev.AuditID, " ", ev.Verb, " ", ev.RequestURI, " ", *ev.ObjectRef, " ", ev.User.Username, " ", ev.SourceIPs, " ", ev.UserAgent, " ", ev.Annotations, " ", ev.Level, " ", ev.Stage, " ", ev.Received.UnixMicro(), " ", string(ev.ResponseStatus))
	const want = `op-1 create /api/v1/namespaces/prod/pods/web-1/eviction {pods prod web-1   v1  eviction} ann@example.com [203.0.113.7] kubectl/v1.37.2 map[authorization.k8s.io/decision:allow] RequestResponse ResponseComplete 1796040000123456 {"code":429,"reason":"TooManyRequests","message":"disruption budget"}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzEventsOfLine(f *testing.F) {
	for _, name := range []string{"recorded.json", "agent.json", "bad-events.json"} {
		f.Add(read(f, name))
	}
	f.Add([]byte(googleEntry))
	f.Add([]byte(`2026-11-30T12:00:00.000Z {"records":[{"category":"kube-audit","properties":{"log":"{\"kind\":\"Event\"}"}}]}`))
	f.Add([]byte(`{"logEvents":[{"message":"{\"auditID\":\"x\"}"}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		events, err := eventsOfLine(line)
		if err != nil && !errors.Is(err, errNotJSON) && !errors.Is(err, errNoEvents) {
			t.Errorf("an error of its own making: %v", err)
		}
		// What is sent is a list that the receiver takes, whatever the line was.
		got, err := split(join(events))
		if err != nil || len(got) != len(events) {
			t.Fatalf("%d events made a list of %d: %v", len(events), len(got), err)
		}
	})
}
