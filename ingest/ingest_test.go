package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tipstaff-dev/tipstaff/schema"
)

// away is a store that can't be reached.
type away struct{}

func (away) Open(context.Context) (driver.Conn, error) { return nil, errors.New("away") }

func backlog(t testing.TB, in *Ingest) uint64 {
	t.Helper()
	return messages(t, in, streamName)
}

func messages(t testing.TB, in *Ingest, name string) uint64 {
	t.Helper()
	s, err := in.stream.Load().js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Msgs
}

func TestReceiveAnswers(t *testing.T) {
	t.Parallel()
	in, _, _ := start(t, t.TempDir(), away{})
	good := read(t, "recorded.json")
	for name, row := range map[string]struct {
		path string
		body []byte
		want int
	}{
		"a batch is stored":                       {"/audit/demo", good, http.StatusOK},
		"a cluster that isn't configured":         {"/audit/nobody", good, http.StatusNotFound},
		"no cluster":                              {"/audit/", good, http.StatusNotFound},
		"a batch cut in the middle":               {"/audit/demo", good[:len(good)/2], http.StatusBadRequest},
		"a batch that is too large":               {"/audit/demo", bytes.Repeat([]byte(" "), maxBodyBytes+1), http.StatusRequestEntityTooLarge},
		"a batch with bad events among good ones": {"/audit/demo", read(t, "bad-events.json"), http.StatusOK},
		"an empty batch":                          {"/audit/demo", read(t, "empty.json"), http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			if w := post(in, row.path, row.body); w.Code != row.want {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, row.want)
			}
		})
	}
	if got := backlog(t, in); got != 2 {
		t.Errorf("%d messages wait, want one for each batch with good events: 2", got)
	}
	if got := messages(t, in, quarantineName); got != 3 {
		t.Errorf("%d messages in quarantine, want 3", got)
	}
}

func TestNoStreamAnswers503(t *testing.T) {
	t.Parallel()
	in, _, stop := start(t, t.TempDir(), away{})
	stop()
	if w := post(in, "/audit/demo", read(t, "recorded.json")); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}
}

func TestAFullStreamAnswers503(t *testing.T) {
	t.Parallel()
	log, _ := newLog(t)
	in, err := New(Config{Clusters: []string{"demo"}, JetStream: JetStream{Dir: t.TempDir(), MaxBytes: 4 << 10}}, nil, masker(t), away{}, log)
	if err != nil {
		t.Fatal(err)
	}
	running(t, in.Run)
	eventually(t, "the stream is ready", func() bool { return in.Ready() == nil })
	body := read(t, "recorded.json")
	code := 0
	for i := range 20 {
		if code = post(in, "/audit/demo", append(body, strings.Repeat(" ", i)...)).Code; code != http.StatusOK {
			break
		}
	}
	if code != http.StatusServiceUnavailable {
		t.Errorf("got %d when full, want 503", code)
	}
}

func TestTheEmbeddedServerListensNowhereAndItsFolderIsItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in, _, _ := start(t, dir, away{})
	if addr := in.stream.Load().server.Addr(); addr != nil {
		t.Errorf("it listens on %s", addr)
	}
	log, _ := newLog(t)
	second, err := New(Config{Clusters: []string{"demo"}, JetStream: JetStream{Dir: dir}}, nil, masker(t), away{}, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second server in the folder ended with %v", err)
	}
}

func TestI6_ADuplicateBatchIsStoredOnce(t *testing.T) {
	t.Parallel()
	in, _, _ := start(t, t.TempDir(), away{})
	for range 3 {
		mustPost(t, in, "demo", read(t, "recorded.json"))
	}
	if got := backlog(t, in); got != 1 {
		t.Errorf("%d messages wait, want 1", got)
	}
	mustPost(t, in, "other", read(t, "recorded.json"))
	if got := backlog(t, in); got != 2 {
		t.Errorf("another cluster's same batch: %d messages wait, want 2", got)
	}
}

// TestI6_HeldWhileClickHouseIsAway takes ClickHouse away, restarts the
// receiver, and looks whether everything that was answered 200 arrives.
func TestI6_HeldWhileClickHouseIsAway(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close() // the engine takes it later
	store := schema.ClickHouse{URL: "http://" + addr}
	dir := t.TempDir()

	in, _, stop := start(t, dir, store)
	mustPost(t, in, "demo", read(t, "recorded.json"))
	stop()
	in, _, stop = start(t, dir, store)
	if got := backlog(t, in); got != 1 {
		t.Fatalf("%d messages wait after a restart, want 1", got)
	}
	mustPost(t, in, "demo", read(t, "agent.json"))
	mustPost(t, in, "other", read(t, "agent.json"))

	data := t.TempDir()
	store, stopEngine := engine(t, data, addr)
	conn := open(t, store)
	sent := uint64(eventsIn(t, "recorded.json") + 2*eventsIn(t, "agent.json"))
	all := func() bool { return count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`) == sent }
	eventually(t, "all that was sent is in ClickHouse", all)
	eventually(t, "all is acknowledged", func() bool { return backlog(t, in) == 0 })

	// And again, with ClickHouse going away under a living writer.
	_ = conn.Close()
	stopEngine()
	mustPost(t, in, "demo", read(t, "names-twice.json"))
	store, _ = engine(t, data, addr)
	conn, sent = open(t, store), sent+1
	eventually(t, "what came while ClickHouse was away is in it", all)
	stop()
}

func eventsIn(t testing.TB, name string) int {
	t.Helper()
	events, err := split(read(t, name))
	if err != nil || len(events) == 0 {
		t.Fatalf("%s has %d events, %v", name, len(events), err)
	}
	return len(events)
}

// TestI6_RedeliveredIsThereOnce stores a batch as if its acknowledgement had
// been lost: the same message comes again, past the stream's own window.
func TestI6_RedeliveredIsThereOnce(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	in, _, _ := start(t, t.TempDir(), store)
	p, err := prepare(in.masker, nil, "demo", read(t, "agent.json"), time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		p.id = fmt.Sprint("copy-", i)
		if err := in.store(t.Context(), "demo", "", p); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all three are written", func() bool { return backlog(t, in) == 0 })
	if got, want := count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`), uint64(eventsIn(t, "agent.json")); got != want {
		t.Errorf("got %d rows, want %d", got, want)
	}
	events, err := schema.Timeline(t.Context(), conn, "run-1", "")
	if err != nil || len(events) != eventsIn(t, "agent.json") {
		t.Errorf("the timeline has %d requests, %v; want %d", len(events), err, eventsIn(t, "agent.json"))
	}
	runs, err := schema.Runs(t.Context(), conn, schema.Which{Limit: 10})
	if err != nil || len(runs) != 1 {
		t.Fatalf("got %d runs, %v; want 1", len(runs), err)
	}
	if r := runs[0]; r.Requests != 11 || r.Held != 1 || r.Approved != 1 || r.Denied != 1 || r.Owner != "dana@example.com" {
		t.Errorf("got %+v", r)
	}
}

// TestI7_NothingPlantedIsStored looks for the planted values everywhere that
// ingest writes to: the stream's files, quarantine, ClickHouse and the log.
func TestI7_NothingPlantedIsStored(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	dir := t.TempDir()
	in, log, stop := start(t, dir, store)
	sent := 0
	for _, name := range []string{"agent.json", "names-twice.json", "bad-events.json"} {
		mustPost(t, in, "demo", read(t, name))
	}
	sent = eventsIn(t, "agent.json") + eventsIn(t, "names-twice.json") + eventsIn(t, "bad-events.json") - 3
	eventually(t, "the good events are in ClickHouse", func() bool {
		return count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`) == uint64(sent)
	})
	var dump bytes.Buffer
	if err := schema.Query(t.Context(), store, `SELECT * FROM tipstaff.audit_events`, "JSONEachRow", &dump); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(dump.String(), "tipstaff-masked-") {
		t.Error("no mark is stored: was anything masked?")
	}
	stop()
	places := map[string]string{"ClickHouse": dump.String(), "the log": log.String()}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		places[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range places {
		for _, secret := range []string{"planted-secret", "cGxhbnRlZC1zZWNyZXQt", "4711471147"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %s", place, secret)
			}
		}
	}
}

func TestAMessageThatCanNotBeReadGoesToQuarantine(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	in, _, _ := start(t, t.TempDir(), store)
	s := in.stream.Load()
	for i, h := range []nats.Header{
		{headerFormat: {formatV1}, headerCluster: {"demo"}},
		{headerFormat: {"events/v9"}, headerCluster: {"demo"}},
		{},
	} {
		msg := &nats.Msg{Subject: subjectPrefix + "demo", Header: h, Data: []byte("poison")}
		if h == nil {
			msg.Header = nats.Header{}
		}
		if err := s.publish(t.Context(), msg, fmt.Sprint("poison-", i)); err != nil {
			t.Fatal(err)
		}
	}
	mustPost(t, in, "demo", read(t, "agent.json"))
	eventually(t, "the stream is empty", func() bool { return backlog(t, in) == 0 })
	if got := messages(t, in, quarantineName); got != 3 {
		t.Errorf("%d messages in quarantine, want 3", got)
	}
	if got := count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`); got != uint64(eventsIn(t, "agent.json")) {
		t.Errorf("%d rows, want those of the good batch", got)
	}
}

func TestANewerSchemaIsRefusedAndEventsWait(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	if err := schema.Migrate(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(t.Context(), `INSERT INTO tipstaff.schema_migrations (version, name) VALUES (999, 'later')`); err != nil {
		t.Fatal(err)
	}
	in, log, _ := start(t, t.TempDir(), store)
	mustPost(t, in, "demo", read(t, "agent.json"))
	eventually(t, "the log says why", func() bool { return strings.Contains(log.String(), schema.ErrNewSchema.Error()) })
	if got := backlog(t, in); got != 1 {
		t.Errorf("%d messages wait, want 1", got)
	}
}

// TestARemoteJetStreamWorksToo uses another Ingest's embedded server, opened
// to a port, as the remote one.
func TestARemoteJetStreamWorksToo(t *testing.T) {
	t.Parallel()
	remote := remoteJetStream(t)
	log, _ := newLog(t)
	in, err := New(Config{Clusters: []string{"demo"}, JetStream: JetStream{URL: remote}}, nil, masker(t), away{}, log)
	if err != nil {
		t.Fatal(err)
	}
	running(t, in.Run)
	eventually(t, "the stream is ready", func() bool { return in.Ready() == nil })
	mustPost(t, in, "demo", read(t, "agent.json"))
	c, err := in.stream.Load().js.Stream(t.Context(), streamName)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.GetLastMsgForSubject(t.Context(), subjectPrefix+"demo")
	if err != nil || msg.Header.Get(jetstream.MsgIDHeader) != batchID("demo", read(t, "agent.json"))+"-0" {
		t.Errorf("got %v, %v", msg, err)
	}
}
