package ingest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

func ask(in *Ingest, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	in.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func listed(t *testing.T, in *Ingest, path string) []QuarantineEntry {
	t.Helper()
	w := ask(in, http.MethodGet, path)
	var page QuarantinePage
	if err := json.Unmarshal(w.Body.Bytes(), &page); w.Code != http.StatusOK || err != nil || page.Next != 0 {
		t.Fatalf("got %d %s, %v", w.Code, w.Body, err)
	}
	return page.Entries
}

// What was put aside is listed with why, of the asker's cluster only; a batch that
// ClickHouse would take now is written when it is replayed.
func TestQuarantineIsListedAndReplayed(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	in, _, _ := start(t, t.TempDir(), store)
	mustPost(t, in, "demo", read(t, "bad-events.json")) // three that can't be understood
	good := count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`)
	eventually(t, "the good ones are there", func() bool {
		good = count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`)
		return good == uint64(eventsIn(t, "bad-events.json")-3)
	})
	// As if ClickHouse had refused a batch before it was mended.
	p, err := prepare(in.masker, nil, "demo", read(t, "agent.json"), in.now())
	if err != nil {
		t.Fatal(err)
	}
	aside := nats.NewMsg(storedSubject)
	aside.Data = p.chunks[0].data
	aside.Header = nats.Header{headerCluster: {"demo"}, headerFormat: {formatV1}, headerEvents: {fmt.Sprint(p.events)}, headerReason: {"no such column"}}
	if err := in.stream.Load().publish(t.Context(), aside, "aside"); err != nil {
		t.Fatal(err)
	}
	entries := listed(t, in, "/quarantine/demo")
	if len(entries) != 4 || entries[0].Events != 0 || entries[0].Reason == "" || entries[0].SHA256 == "" || entries[3].Events != p.events || entries[3].Reason != "no such column" {
		t.Fatalf("%+v", entries)
	}
	if strings.Contains(string(entries[0].Event), "planted-secret") {
		t.Error("the list shows a secret")
	}
	if more := listed(t, in, fmt.Sprint("/quarantine/demo?after=", entries[1].Seq)); len(more) != 2 || more[0].Seq != entries[2].Seq {
		t.Errorf("after the second one: %+v", more)
	}
	if others := listed(t, in, "/quarantine/other"); len(others) != 0 {
		t.Errorf("another cluster sees %d", len(others))
	}
	last := entries[3].Seq
	for path, code := range map[string]int{
		"/quarantine/demo/x":                            http.StatusBadRequest,
		"/quarantine/demo/99999":                        http.StatusNotFound,
		"/quarantine/nobody/1":                          http.StatusNotFound,
		fmt.Sprint("/quarantine/other/", last):          http.StatusNotFound,
		fmt.Sprint("/quarantine/demo/", entries[0].Seq): http.StatusConflict,
	} {
		if w := ask(in, http.MethodPost, path); w.Code != code {
			t.Errorf("%s: got %d %s, want %d", path, w.Code, w.Body, code)
		}
	}
	if w := ask(in, http.MethodPost, fmt.Sprint("/quarantine/demo/", last)); w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	eventually(t, "the batch is written", func() bool {
		return count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`) == good+uint64(p.events)
	})
	if left := listed(t, in, "/quarantine/demo"); len(left) != 3 {
		t.Errorf("%d are left, want 3", len(left))
	}
	if w := ask(in, http.MethodPost, fmt.Sprint("/quarantine/demo/", last)); w.Code != http.StatusNotFound {
		t.Errorf("a second time: %d", w.Code)
	}
	if w := ask(in, http.MethodGet, "/quarantine/demo?after=-1"); w.Code != http.StatusBadRequest {
		t.Errorf("after=-1: %d", w.Code)
	}
}

func TestQuarantineWithoutAStream(t *testing.T) {
	t.Parallel()
	in, _, stop := start(t, t.TempDir(), away{})
	stop()
	for _, w := range []*httptest.ResponseRecorder{ask(in, http.MethodGet, "/quarantine/demo"), ask(in, http.MethodPost, "/quarantine/demo/1")} {
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	}
}
