package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// ledger keeps audit events.
type ledger struct {
	mu     sync.Mutex
	events []auditv1.Event
	full   bool
	came   chan struct{}
}

func (l *ledger) StoreEvents(_ context.Context, list []byte) error {
	var got auditv1.EventList
	if err := json.Unmarshal(list, &got); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full {
		return errors.New("the ledger is full")
	}
	if got.Kind != "EventList" || got.APIVersion != "audit.k8s.io/v1" {
		return errors.New("it is no EventList")
	}
	l.events = append(l.events, got.Items...)
	select {
	case l.came <- struct{}{}:
	default:
	}
	return nil
}

func (l *ledger) all() []auditv1.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func audited(t *testing.T, mode string, backend http.HandlerFunc) (*httptest.Server, *Proxy, *ledger, *revocations) {
	t.Helper()
	p, revs := before(t, backend, twoTokens{})
	l := &ledger{came: make(chan struct{}, 1)}
	p.AuditWith(l, mode)
	srv := httptest.NewTLSServer(p.Handler())
	t.Cleanup(srv.Close)
	return srv, p, l, revs
}

func TestAStrictAuditComesBeforeTheRequest(t *testing.T) {
	t.Parallel()
	var l *ledger
	var auditID string
	srv, p, ledger, _ := audited(t, AuditBlockingStrict, func(w http.ResponseWriter, r *http.Request) {
		if n := len(l.all()); n != 1 {
			t.Errorf("%d events are kept when the API server is asked", n)
		}
		auditID = r.Header.Get("Audit-Id")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"kind":"ConfigMap"}`)
	})
	l = ledger
	body := `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"made"},"data":{"a":"b"}}`
	resp, text := call(t, srv, "POST", "/api/v1/namespaces/a/configmaps?fieldManager=x", http.Header{"Content-Type": {"application/json"}, "User-Agent": {"me"}}, body)
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	idle(t, p, 0)
	got := l.all()
	if len(got) != 2 || got[0].Stage != "RequestReceived" || got[1].Stage != "ResponseComplete" {
		t.Fatalf("events: %+v", got)
	}
	ev := got[1]
	if ev.User.Username != agent.User || !slices.Contains(ev.User.Groups, v1alpha1.GroupProxied) || ev.User.Extra["tipstaff.dev/run"][0] != "r1" ||
		ev.Verb != "create" || ev.ObjectRef.Resource != "configmaps" || ev.ObjectRef.Namespace != "a" || ev.ObjectRef.Name != "made" ||
		ev.ResponseStatus.Code != http.StatusCreated || string(ev.RequestObject.Raw) != body || ev.UserAgent != "me" ||
		ev.RequestURI != "/api/v1/namespaces/a/configmaps?fieldManager=x" || len(ev.SourceIPs) == 0 || string(ev.AuditID) != auditID {
		t.Errorf("the event is %+v, the API server's audit id %q", ev, auditID)
	}

	l.mu.Lock()
	l.full = true
	l.mu.Unlock()
	l = nil // the API server must not be asked
	if resp, text := call(t, srv, "GET", "/api/v1/pods", nil, ""); resp.StatusCode != http.StatusInternalServerError || !strings.Contains(text, "audit") {
		t.Errorf("nothing can be kept: %d %s", resp.StatusCode, text)
	}
}

func TestABatchedAuditLosesNothingAtAStop(t *testing.T) {
	t.Parallel()
	srv, p, l, revs := audited(t, AuditBatch, reply("application/json", `{"kind":"PodList","items":[]}`))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.RunAudit(ctx) }()
	for range 5 {
		call(t, srv, "GET", "/api/v1/pods", nil, "")
	}
	call(t, srv, "GET", "/api/v1/namespaces/a/pods/p/proxy/x", nil, "") // refused by the proxy itself
	revs.set(map[string]string{agent.Run: "enough"}, nil)
	call(t, srv, "GET", "/api/v1/pods", nil, "") // 401, as at the API server: nobody's
	idle(t, p, 0)
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	codes := map[int32]int{}
	for _, ev := range l.all() {
		if ev.Stage != "ResponseComplete" {
			t.Errorf("stage %s", ev.Stage)
		}
		codes[ev.ResponseStatus.Code]++
	}
	if codes[200] != 5 || codes[403] != 1 || len(codes) != 2 {
		t.Errorf("the events' codes are %v", codes)
	}
}

// A watch has an event when it begins, too: it may go on for hours.
func TestAWatchIsAuditedWhenItBegins(t *testing.T) {
	t.Parallel()
	gone := make(chan string, 1)
	srv, p, l, _ := audited(t, AuditBatch, watches(gone))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.RunAudit(ctx) }()
	resp, _ := open(t, srv, "good", "/api/v1/secrets?watch=true")
	select {
	case <-l.came:
	case <-time.After(20 * time.Second):
		t.Fatal("no event came while the watch was open")
	}
	if got := l.all(); len(got) != 1 || got[0].Stage != "ResponseStarted" || got[0].Verb != "watch" {
		t.Errorf("events %+v", got)
	}
	_ = resp.Body.Close()
	<-gone
	idle(t, p, 0)
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := l.all(); len(got) != 2 || got[1].Stage != "ResponseComplete" || got[1].ResponseStatus.Code != http.StatusOK {
		t.Errorf("in the end there are %+v", got)
	}
}

func TestI7_MarksStayMarksInTheAudit(t *testing.T) {
	t.Parallel()
	srv, _, l, _ := audited(t, AuditBlockingStrict, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, secret())
	})
	_, masked := call(t, srv, "GET", "/api/v1/namespaces/a/secrets/s", nil, "")
	if !mask.HasMark(masked) {
		t.Fatalf("nothing is masked: %s", masked)
	}
	if resp, text := call(t, srv, "PUT", "/api/v1/namespaces/a/secrets/s", http.Header{"Content-Type": {"application/json"}}, masked); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	for _, ev := range l.all() {
		if ev.Verb == "update" && ev.Stage == "ResponseComplete" {
			if strings.TrimSpace(string(ev.RequestObject.Raw)) != strings.TrimSpace(masked) {
				t.Errorf("the event holds %s", ev.RequestObject.Raw)
			}
			return
		}
	}
	t.Error("the update has no event")
}

func TestSessionsAreAudited(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		s := stageFor(t, apiServer(t, func(c container) int {
			_, _ = io.WriteString(c.stdout, "a "+planted)
			return 0
		}))
		l := &ledger{came: make(chan struct{}, 1)}
		s.p.AuditWith(l, AuditBlockingStrict)
		if err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
			t.Fatal(err)
		}
		idle(t, s.p, 0)
		var stages []string
		for _, ev := range l.all() {
			stages = append(stages, string(ev.Stage))
			if string(ev.AuditID) != s.shelf.sessions[0].ID {
				t.Errorf("the event's id is %s, the session's %s", ev.AuditID, s.shelf.sessions[0].ID)
			}
		}
		if !slices.Equal(stages, []string{"RequestReceived", "ResponseStarted", "ResponseComplete"}) {
			t.Errorf("stages %q", stages)
		}
		if code := l.all()[2].ResponseStatus.Code; code != http.StatusSwitchingProtocols {
			t.Errorf("it ended with code %d", code)
		}
	})
}
