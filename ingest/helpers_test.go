package ingest

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/tipstaff-dev/tipstaff/internal/chdb"
	"github.com/tipstaff-dev/tipstaff/mask"
	"github.com/tipstaff-dev/tipstaff/schema"
)

func TestMain(m *testing.M) {
	chdb.MaybeRunEngine()
	os.Exit(m.Run())
}

// library is where `make tools` puts the engine.
func library(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("TIPSTAFF_LIBCHDB"); p != "" {
		return p
	}
	p, err := filepath.Abs("../tools/chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// logs keeps what was logged, to be shown when a test fails and searched for secrets.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newLog(t testing.TB) (*slog.Logger, *logs) {
	l := &logs{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.String())
		}
	})
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})), l
}

// running starts run and gives what stops it and waits for its end.
func running(t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("ended with: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// engine starts a ClickHouse on dir; listen may be "127.0.0.1:0".
func engine(t testing.TB, dir, listen string) (store schema.ClickHouse, stop func()) {
	t.Helper()
	log, _ := newLog(t)
	s, err := chdb.New(chdb.Config{Dir: dir, Listen: listen, Library: library(t)}, log)
	if err != nil {
		t.Fatal(err)
	}
	stop = running(t, s.Run)
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the ClickHouse engine did not start")
	}
	return schema.ClickHouse{URL: "http://" + s.Addr()}, stop
}

func open(t testing.TB, store schema.ClickHouse) driver.Conn {
	t.Helper()
	conn, err := store.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func masker(t testing.TB) *mask.Masker {
	t.Helper()
	m, err := mask.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// start runs an Ingest on dir until the test ends or stop is called.
func start(t testing.TB, dir string, store Store) (in *Ingest, log *logs, stop func()) {
	t.Helper()
	sl, log := newLog(t)
	in, err := New(Config{Clusters: []string{"demo", "other"}, JetStream: JetStream{Dir: dir}}, nil, masker(t), store, sl)
	if err != nil {
		t.Fatal(err)
	}
	stop = running(t, in.Run)
	eventually(t, "the stream is ready", func() bool { return in.Ready() == nil })
	return in, log, stop
}

func post(in *Ingest, path string, body []byte) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	in.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)))
	return w
}

func mustPost(t testing.TB, in *Ingest, cluster string, body []byte) {
	t.Helper()
	if w := post(in, "/audit/"+cluster, body); w.Code != http.StatusOK {
		t.Fatalf("got %d %s, want 200", w.Code, w.Body)
	}
}

// eventually polls until ok, or fails with what did not come true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("never came true: " + what)
		}
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "batches", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// count gives a query's single number.
func count(t testing.TB, conn driver.Conn, sql string) uint64 {
	t.Helper()
	var n uint64
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		if strings.Contains(err.Error(), "UNKNOWN_DATABASE") || strings.Contains(err.Error(), "UNKNOWN_TABLE") {
			return 0 // the writer makes them
		}
		t.Fatal(err)
	}
	return n
}
