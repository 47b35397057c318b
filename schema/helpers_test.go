package schema

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/tipstaff-dev/tipstaff/internal/chdb"
)

func TestMain(m *testing.M) {
	chdb.MaybeRunEngine()
	os.Exit(m.Run())
}

const (
	testUser     = "tester"
	testPassword = "p&ss'word"
)

// engine starts a ClickHouse of the test's own.
func engine(t *testing.T) (ClickHouse, driver.Conn) {
	t.Helper()
	lib := os.Getenv("TIPSTAFF_LIBCHDB")
	if lib == "" {
		var err error
		if lib, err = filepath.Abs("../tools/chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so"); err != nil {
			t.Fatal(err)
		}
	}
	s, err := chdb.New(chdb.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", Library: lib, Username: testUser, Password: testPassword,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the engine ended with: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the ClickHouse engine did not start")
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(testPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := ClickHouse{URL: "http://" + s.Addr(), Username: testUser, PasswordFile: password}
	conn, err := cfg.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return cfg, conn
}

// migrated is engine with the schema made.
func migrated(t *testing.T) (ClickHouse, driver.Conn) {
	t.Helper()
	cfg, conn := engine(t)
	if err := Migrate(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	return cfg, conn
}
