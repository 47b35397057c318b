package chdb_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/internal/chdb"
)

// serveEnv makes the test binary a process that serves a directory until killed.
const serveEnv = "CHDB_TEST_SERVE"

func serveForTest(dir string) {
	s, err := chdb.New(chdb.Config{Dir: dir, Listen: "127.0.0.1:0", Library: os.Getenv("TIPSTAFF_LIBCHDB")}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err == nil {
		go func() { <-s.Ready(); fmt.Println("http://" + s.Addr()) }()
		err = s.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// engineOf finds the process that has dir open.
func engineOf(t testing.TB, dir string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	must(t, err)
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte("TIPSTAFF_CHDB_ENGINE=")) && bytes.Contains(b, []byte(`"dir":"`+dir+`"`)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			must(t, err)
			return pid
		}
	}
	return 0
}

func TestKilledEngineComesBackWithWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base, _ := start(t, chdb.Config{Dir: dir})
	sql(t, base, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	var acknowledged, refused atomic.Int64
	var wg sync.WaitGroup
	stop, some := make(chan struct{}), make(chan struct{}, 1000)
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				r := do(t, request(t, "POST", base, nil, fmt.Sprintf("INSERT INTO kept VALUES (%d)", w*1_000_000+i)))
				switch {
				case r.status == 200:
					acknowledged.Add(1)
					select {
					case some <- struct{}{}:
					default:
					}
				case r.status == 503 && r.header.Get("X-ClickHouse-Exception-Code") == "210":
					refused.Add(1)
				default:
					t.Errorf("an insert during a crash: %d %s", r.status, r.body)
				}
			}
		})
	}
	for range 2 {
		for range 10 {
			<-some
		}
		pid := engineOf(t, dir)
		if pid == 0 {
			t.Fatal("no engine process found")
		}
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		for do(t, request(t, "POST", base, nil, "SELECT 1")).status != 200 { // until the new one is up; a request waits for it
		}
	}
	for len(some) > 0 {
		<-some
	}
	<-some
	close(stop)
	wg.Wait()
	n, err := strconv.ParseInt(strings.TrimSpace(sql(t, base, "SELECT uniqExact(n) FROM kept")), 10, 64)
	must(t, err)
	// A refused insert may have been written: only its answer was lost.
	if n < acknowledged.Load() || n > acknowledged.Load()+refused.Load() {
		t.Errorf("%d rows; %d were acknowledged, %d refused", n, acknowledged.Load(), refused.Load())
	}
}

func TestDirectoryOpensAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base, stop := start(t, chdb.Config{Dir: dir})
	sql(t, base, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	sql(t, base, "INSERT INTO kept SELECT number FROM numbers(1000)")
	stop()
	if pid := engineOf(t, dir); pid != 0 {
		t.Errorf("engine %d outlived its server", pid)
	}
	base, _ = start(t, chdb.Config{Dir: dir})
	if n := sql(t, base, "SELECT count() FROM kept"); n != "1000\n" {
		t.Errorf("%q rows are left", n)
	}
	s, err := chdb.New(chdb.Config{Dir: dir, Listen: "127.0.0.1:0", Library: library(t)}, slog.New(slog.DiscardHandler))
	must(t, err)
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "is in use by another tipstaff") {
		t.Errorf("a second server on the directory: %v", err)
	}
}

func TestKilledServerTakesItsEngineAlongAndLeavesNoLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), serveEnv+"="+dir, "TIPSTAFF_LIBCHDB="+library(t))
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	base, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	base = strings.TrimSpace(base)
	sql(t, base, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	sql(t, base, "INSERT INTO kept SELECT number FROM numbers(1000)")
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	base, _ = start(t, chdb.Config{Dir: dir})
	if n := sql(t, base, "SELECT count() FROM kept"); n != "1000\n" {
		t.Errorf("%q rows are left", n)
	}
}

func TestWhatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	if _, err := chdb.New(chdb.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Library: "nosuch.so"}, log); !errors.Is(err, chdb.ErrNoLibrary) || !strings.Contains(err.Error(), "`make tools` brings it") {
		t.Errorf("no library: %v", err)
	}
	for _, listen := range []string{"0.0.0.0:0", ":8123", "example.com:1", "nonsense"} {
		if _, err := chdb.New(chdb.Config{Dir: t.TempDir(), Listen: listen, Library: library(t)}, log); err == nil {
			t.Errorf("%s is served", listen)
		}
	}
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = taken.Close() }()
	s, err := chdb.New(chdb.Config{Dir: t.TempDir(), Listen: taken.Addr().String(), Library: library(t)}, log)
	must(t, err)
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "name another in the config") {
		t.Errorf("a port in use: %v", err)
	}
	broken := filepath.Join(t.TempDir(), "libchdb.so")
	must(t, os.WriteFile(broken, []byte("not a library"), 0o600))
	s, err = chdb.New(chdb.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Library: broken}, log)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), "load ClickHouse engine") {
		t.Errorf("a broken library: %v", err)
	}
}
