package chdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	drainTimeout = 20 * time.Second
	// engineWait is how long a request waits for an engine that restarts.
	engineWait = 10 * time.Second
	// lockWait lets an engine whose parent was killed end first.
	lockWait = 5 * time.Second
	// steady is how long an engine must have run for the backoff to start anew.
	steady = time.Minute
)

// Server is the ClickHouse HTTP interface of one data directory.
type Server struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{}

	mu   sync.Mutex
	addr string
	up   *child
	back chan struct{} // closed when up is set; a new one when it is unset
}

// New checks cfg and finds the library. It errors with [ErrNoLibrary] when there is none.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := checkLoopback(cfg.Listen); err != nil {
		return nil, err
	}
	if cfg.Dir == "" {
		return nil, errors.New("ClickHouse data directory is not set")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("ClickHouse data directory: %w", err)
	}
	lib, err := findLibrary(cfg.Library)
	if err != nil {
		return nil, err
	}
	cfg.Dir, cfg.Library = dir, lib
	return &Server{cfg: cfg, log: log, ready: make(chan struct{}), back: make(chan struct{})}, nil
}

// Ready is closed when queries are answered.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr is the address served on, host:port; empty before Run has it.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Run serves until ctx ends, drains, and leaves the data directory closed.
// It returns an error when it cannot start; an engine that dies later is restarted.
// Call it once.
func (s *Server) Run(ctx context.Context) error {
	lock, err := prepareDir(ctx, s.cfg.Dir)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // closing is unlocking
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("ClickHouse can't listen on %s: %w: stop what holds that port, or name another in the config", s.cfg.Listen, err)
	}
	c, err := s.start(lock)
	if err != nil {
		_ = l.Close() // nothing was accepted
		return err
	}
	s.mu.Lock()
	s.addr = l.Addr().String()
	s.mu.Unlock()
	s.setUp(c)

	transport := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return s.dial(ctx) },
		DisableCompression: true, // coding is between the client and the engine
		MaxIdleConns:       maxQueries,
		IdleConnTimeout:    time.Minute,
	}
	srv := &http.Server{
		Handler:           s.front(transport),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	watch, stopWatch := context.WithCancel(context.WithoutCancel(ctx))
	watched := make(chan struct{})
	go func() { defer close(watched); s.supervise(watch, c, lock, transport) }()
	s.log.InfoContext(ctx, "serving", "server", "clickhouse", "address", l.Addr().String())
	close(s.ready)

	select {
	case err = <-served:
	case <-ctx.Done():
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			_ = srv.Close() // queries that outlast the drain are cut
		}
		err = <-served
	}
	stopWatch()
	<-watched
	transport.CloseIdleConnections()
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("ClickHouse: %w", err)
	}
	return nil
}

func (s *Server) start(lock *os.File) (*child, error) {
	if err := emptyTmp(s.cfg.Dir); err != nil {
		return nil, err
	}
	return startChild(orders{Dir: s.cfg.Dir, Library: s.cfg.Library}, lock, s.log)
}

// supervise restarts the engine when it dies, and stops it when ctx ends.
func (s *Server) supervise(ctx context.Context, c *child, lock *os.File, transport *http.Transport) {
	fresh := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 10, Cap: 10 * time.Second}
	backoff := fresh
	for {
		began := time.Now()
		select {
		case <-ctx.Done():
			s.setDown()
			c.stop()
			return
		case <-c.done:
		}
		s.setDown()
		transport.CloseIdleConnections()
		if time.Since(began) > steady {
			backoff = fresh
		}
		s.log.ErrorContext(ctx, "clickhouse engine ended, starting it again", "state", c.state)
		for {
			t := time.NewTimer(backoff.Step())
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
			next, err := s.start(lock)
			if err == nil {
				c = next
				break
			}
			s.log.ErrorContext(ctx, "clickhouse engine does not start", "error", err)
		}
		s.setUp(c)
		s.log.InfoContext(ctx, "clickhouse engine is back")
	}
}

func (s *Server) setUp(c *child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = c
	close(s.back)
}

func (s *Server) setDown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up, s.back = nil, make(chan struct{})
}

// dial connects to the engine, waiting a while for one that restarts.
func (s *Server) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, engineWait)
	defer cancel()
	for {
		s.mu.Lock()
		c, back := s.up, s.back
		s.mu.Unlock()
		if c != nil {
			return dial(c.control)
		}
		select {
		case <-back:
		case <-ctx.Done():
			return nil, fmt.Errorf("the ClickHouse engine is down: %w", ctx.Err())
		}
	}
}

// prepareDir makes the directory and takes its lock. The lock is the kernel's:
// it ends with the processes that hold it, however they end.
func prepareDir(ctx context.Context, dir string) (*os.File, error) {
	for _, d := range []string{dir, filepath.Join(dir, "data")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("ClickHouse data directory: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("ClickHouse data directory: %w", err)
	}
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, lockWait, true, func(context.Context) (bool, error) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if err == nil {
		return f, nil
	}
	_ = f.Close() // not ours
	if wait.Interrupted(err) && ctx.Err() == nil {
		return nil, fmt.Errorf("ClickHouse data directory %s is in use by another tipstaff: stop that one, or name another directory", dir)
	}
	return nil, fmt.Errorf("lock ClickHouse data directory %s: %w", dir, err)
}

// emptyTmp drops the inserts' data that a killed engine left.
func emptyTmp(dir string) error {
	tmp := filepath.Join(dir, "tmp")
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("ClickHouse data directory: %w", err)
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return fmt.Errorf("ClickHouse data directory: %w", err)
	}
	return nil
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Ok.\n") }
