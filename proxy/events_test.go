package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
)

// strictSink is what stores events in tests, with one try.
func strictSink(t *testing.T, to Events) *eventSink {
	t.Helper()
	p, _ := before(t, mustNotCall(t), twoTokens{})
	return &eventSink{to: to, tries: wait.Backoff{Steps: 1}, proxy: p}
}

func lostBy(p *Proxy) int {
	reg := prometheus.NewRegistry()
	reg.MustRegister(p.metrics.unaudited)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		return -1
	}
	return int(families[0].GetMetric()[0].GetCounter().GetValue())
}

func eventOf(id, body string) *auditinternal.Event {
	ev := &auditinternal.Event{AuditID: types.UID(id), Level: auditinternal.LevelRequest, Stage: auditinternal.StageResponseComplete, Verb: "update", ObjectRef: &auditinternal.ObjectReference{Resource: "configmaps"}}
	if body != "" {
		ev.RequestObject = &runtime.Unknown{Raw: []byte(body), ContentType: runtime.ContentTypeJSON}
	}
	return ev
}

func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth-1) + "[]" + strings.Repeat("}", depth-1)
}

func TestABodyThatIsTooMuchIsLeftOutOfItsEvent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		kept bool
	}{
		"as large as it may be":    {`{"metadata":{"name":"made"},"a":"` + strings.Repeat("<", maxEventBodyBytes-35) + `"}`, true},
		"larger":                   {`{"metadata":{"name":"made"},"a":"` + strings.Repeat("<", maxEventBodyBytes-34) + `"}`, false},
		"as deep as it may be":     {`{"metadata":{"name":"made"},"a":` + nested(maxEventBodyDepth-1) + `}`, true},
		"deeper":                   {`{"metadata":{"name":"made"},"a":` + nested(maxEventBodyDepth) + `}`, false},
		"deeper than ingest reads": {`{"metadata":{"name":"made"},"a":` + nested(9_998) + `}`, false},
		"with brackets in texts":   {`{"metadata":{"name":"made"},"a":"` + strings.Repeat(`\"[{`, 2000) + `"}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, p, l, _ := audited(t, AuditBlockingStrict, reply("application/json", `{"kind":"ConfigMap"}`))
			if resp, text := call(t, srv, "POST", "/api/v1/namespaces/a/configmaps", http.Header{"Content-Type": {"application/json"}}, tc.body); resp.StatusCode != http.StatusOK {
				t.Fatalf("%d %.200s", resp.StatusCode, text)
			}
			idle(t, p, 0)
			got := l.all()
			if len(got) != 2 {
				t.Fatalf("%d events", len(got))
			}
			ev := got[1]
			if tc.kept != (ev.RequestObject != nil && string(ev.RequestObject.Raw) == tc.body) || tc.kept == (ev.Annotations[annotationTruncated] == "true") || ev.ObjectRef.Name != "made" {
				t.Errorf("body %t, annotations %v, about %+v", ev.RequestObject != nil, ev.Annotations, ev.ObjectRef)
			}
		})
	}
}

// picky refuses lists that hold what it doesn't like.
type picky struct {
	ledger
	refuse func(list []byte) bool
	sizes  []int
}

func (p *picky) StoreEvents(ctx context.Context, list []byte) error {
	p.mu.Lock()
	p.sizes = append(p.sizes, len(list))
	p.mu.Unlock()
	if p.refuse != nil && p.refuse(list) {
		return fmt.Errorf("%w: something in it", recording.ErrRefused)
	}
	return p.ledger.StoreEvents(ctx, list)
}

func TestAnEventThatIsRefusedTakesNoOtherAlong(t *testing.T) {
	t.Parallel()
	l := &picky{refuse: func(list []byte) bool { return strings.Contains(string(list), `"bad`) }}
	s := strictSink(t, l)
	s.tries = auditTries // which are not used for what is refused
	var events []*auditinternal.Event
	for i := range 100 {
		id := fmt.Sprintf("good-%d", i)
		if i == 13 || i == 77 {
			id = "bad-" + id
		}
		events = append(events, eventOf(id, ""))
	}
	unwritable := eventOf("broken", "{") // no JSON: it can't even be sent
	if s.ProcessEvents(append(events, unwritable)...) {
		t.Error("all are said to be stored")
	}
	if got := len(l.all()); got != 98 || lostBy(s.proxy) != 3 {
		t.Errorf("%d are stored, %d counted as lost", got, lostBy(s.proxy))
	}
}

func TestListsOfEventsAreNoLargerThanIngestTakes(t *testing.T) {
	t.Parallel()
	l := &picky{}
	s := strictSink(t, l)
	var events []*auditinternal.Event
	for i := range 9 {
		events = append(events, eventOf(fmt.Sprint(i), `"`+strings.Repeat("<", maxEventBodyBytes-2)+`"`))
	}
	if !s.ProcessEvents(events...) || len(l.all()) != len(events) {
		t.Errorf("%d of %d are stored", len(l.all()), len(events))
	}
	for _, size := range l.sizes {
		if size > maxListBytes+1<<10 {
			t.Errorf("a list has %d bytes", size)
		}
	}
}

// blocked stores nothing until it is opened.
type blocked struct {
	ledger
	open chan struct{}
}

func (b *blocked) StoreEvents(ctx context.Context, list []byte) error {
	<-b.open
	return b.ledger.StoreEvents(ctx, list)
}

func TestEventsThatWaitAreBoundedAndEachThatIsLostIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &blocked{open: make(chan struct{})}
		p := &Proxy{metrics: newProxyMetrics()}
		var why []error
		q := newQueue(&eventSink{to: l, tries: wait.Backoff{Steps: 1}, proxy: p}, auditBatches)
		const most = 2 << 20
		q.most = most
		q.lost = func(err error, events ...*auditinternal.Event) {
			why = append(why, err)
			p.metrics.unaudited.Add(float64(len(events)))
		}
		stop := make(chan struct{})
		if err := q.Run(stop); err != nil {
			t.Fatal(err)
		}
		held := func() (count, bytes int) {
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.count, q.bytes
		}
		// Bodies get half of the room, what stands without one the rest.
		body := `"` + strings.Repeat("x", 60<<10) + `"`
		for i := range 100 {
			q.ProcessEvents(eventOf(fmt.Sprint("large-", i), body))
		}
		if _, bytes := held(); bytes > most/2+100*eventBytes || lostBy(p) != 0 {
			t.Errorf("%d bytes are held, %d events lost", bytes, lostBy(p))
		}
		for i := range 500 {
			q.ProcessEvents(eventOf(fmt.Sprint("small-", i), ""))
		}
		count, bytes := held()
		lost := lostBy(p)
		if bytes > most || lost == 0 || count+lost != 600 || !errors.Is(why[0], errNoRoom) {
			t.Errorf("%d held, %d bytes, %d lost: %v", count, bytes, lost, why)
		}
		close(l.open)
		<-time.After(time.Minute) // of the bubble: no time passes
		bodies := 0
		count, bytes = held()
		for _, ev := range l.all() {
			if ev.RequestObject != nil {
				bodies++
			} else if strings.HasPrefix(string(ev.AuditID), "large") && ev.Annotations[annotationTruncated] != "true" {
				t.Errorf("%s doesn't say that its body is left out", ev.AuditID)
			}
		}
		if len(l.all()) != 600-lost || bodies == 0 || bodies > most/2/len(body) || count != 0 || bytes != 0 {
			t.Errorf("%d are stored, %d bodies, %d and %d bytes still held", len(l.all()), bodies, count, bytes)
		}
		close(stop)
		q.Shutdown()
		q.ProcessEvents(eventOf("late", ""))
		if lostBy(p) != lost+1 || !errors.Is(why[len(why)-1], errStopped) {
			t.Errorf("after the end %d are lost: %v", lostBy(p), why[len(why)-1])
		}
	})
}

// The buffer has room for so many: it would log one that it has none for.
func TestNoMoreEventsWaitThanTheBufferHolds(t *testing.T) {
	t.Parallel()
	q := newQueue(&eventSink{proxy: &Proxy{}}, auditBatches)
	for i := range maxEventsHeld + 1 {
		if q.enter(eventOf("", "")) != (i < maxEventsHeld) {
			t.Fatalf("event %d", i+1)
		}
	}
}

// The buffer's goroutines are not the server's: a panic in one ends the process.
func TestAPanicWhileEventsAreStoredLosesThemAlone(t *testing.T) {
	t.Parallel()
	s := strictSink(t, eventsFunc(func([]byte) error { panic("a bug") }))
	if s.ProcessEvents(eventOf("one", ""), eventOf("two", "")) || lostBy(s.proxy) != 2 {
		t.Errorf("%d are lost", lostBy(s.proxy))
	}
}

type eventsFunc func(list []byte) error

func (f eventsFunc) StoreEvents(_ context.Context, list []byte) error { return f(list) }

func TestAStrictAuditRefusesWhatCannotBeStored(t *testing.T) {
	t.Parallel()
	p, _ := before(t, mustNotCall(t), twoTokens{})
	p.AuditWith(eventsFunc(func([]byte) error { return recording.ErrRefused }), AuditBlockingStrict)
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	if resp, text := call(t, srv, "GET", "/api/v1/pods", nil, ""); resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	idle(t, p, 0)
	if lostBy(p) != 1 {
		t.Errorf("%d are counted", lostBy(p))
	}
}

func TestAnEventsAddressIsTheConnections(t *testing.T) {
	t.Parallel()
	srv, p, l, _ := audited(t, AuditBlockingStrict, reply("application/json", `{"kind":"PodList","items":[]}`))
	call(t, srv, "GET", "/api/v1/pods", http.Header{"X-Forwarded-For": {"192.0.2.1, 192.0.2.2"}, "X-Real-Ip": {"192.0.2.3"}, "Forwarded": {"for=192.0.2.4"}}, "")
	idle(t, p, 0)
	for _, ev := range l.all() {
		if fmt.Sprint(ev.SourceIPs) != "[127.0.0.1]" {
			t.Errorf("%s: %v", ev.Stage, ev.SourceIPs)
		}
	}
}

func TestWhatIngestRefusesIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	code := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(code)
	}))
	t.Cleanup(srv.Close)
	r := &Remote{client: srv.Client(), base: srv.URL, cluster: "c"}
	for answer, refused := range map[int]bool{http.StatusBadRequest: true, http.StatusRequestEntityTooLarge: true, http.StatusServiceUnavailable: false, http.StatusNotFound: false} {
		mu.Lock()
		code = answer
		mu.Unlock()
		list, _ := json.Marshal(auditv1.EventList{})
		if err := r.StoreEvents(t.Context(), list); err == nil || errors.Is(err, recording.ErrRefused) != refused {
			t.Errorf("%d: %v", answer, err)
		}
	}
}
