package chdb_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tipstaff-dev/tipstaff/internal/chdb"
)

func TestMain(m *testing.M) {
	chdb.MaybeRunEngine()
	if dir := os.Getenv(serveEnv); dir != "" {
		serveForTest(dir)
	}
	os.Exit(m.Run())
}

// library is where `make tools` puts the engine.
func library(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("TIPSTAFF_LIBCHDB"); p != "" {
		return p
	}
	p, err := filepath.Abs("../../tools/chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// logTo is a test's log: shown when it fails.
type logTo struct {
	mu   sync.Mutex
	t    testing.TB
	done bool
}

func (l *logTo) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// start runs a server on dir until the test or the returned stop ends it.
func start(t testing.TB, cfg chdb.Config) (url string, stop func()) {
	t.Helper()
	cfg.Library, cfg.Listen = library(t), "127.0.0.1:0"
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	out := &logTo{t: t}
	s, err := chdb.New(cfg, slog.New(slog.NewTextHandler(out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ran; err != nil {
				t.Errorf("Run: %v", err)
			}
			out.mu.Lock()
			out.done = true
			out.mu.Unlock()
		})
	}
	t.Cleanup(stop)
	select {
	case <-s.Ready():
	case err := <-ran:
		ran <- nil
		t.Fatal(err)
	}
	return "http://" + s.Addr(), stop
}

func server(t *testing.T) string {
	t.Helper()
	base, _ := start(t, chdb.Config{})
	return base
}

type reply struct {
	status int
	header http.Header
	body   string
}

func do(t testing.TB, r *http.Request) reply {
	t.Helper()
	res, err := (&http.Transport{DisableCompression: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(b)}
}

func request(t testing.TB, method, base string, params url.Values, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, base+"/?"+params.Encode(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sql runs a query that must work.
func sql(t testing.TB, base, query string) string {
	t.Helper()
	r := do(t, request(t, "POST", base, nil, query))
	if r.status != 200 {
		t.Fatalf("%s: %d %s", query, r.status, r.body)
	}
	return r.body
}

func connect(t testing.TB, base string, compression clickhouse.CompressionMethod) clickhouse.Conn {
	t.Helper()
	c, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{strings.TrimPrefix(base, "http://")}, Protocol: clickhouse.HTTP,
		Compression: &clickhouse.Compression{Method: compression, Level: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
