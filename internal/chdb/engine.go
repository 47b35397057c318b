package chdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// engineEnv marks the child process and carries its orders.
const engineEnv = "TIPSTAFF_CHDB_ENGINE"

// Files the child inherits.
const (
	controlFD = 3 // the pair with the parent
	lockFD    = 4 // the data directory's lock, held as long as either process lives
)

// readyMessage is the engine's first word when it can answer; anything else is why it cannot.
const readyMessage = "ready"

type orders struct {
	Dir      string `json:"dir"`
	Library  string `json:"library"`
	Confined bool   `json:"confined"`
}

// MaybeRunEngine runs the engine and never returns when this process was
// started to be one; else it does nothing. Call it first in main, and in the
// TestMain of tests that use this package.
func MaybeRunEngine() {
	raw := os.Getenv(engineEnv)
	if raw == "" {
		return
	}
	var o orders
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		fmt.Fprintf(os.Stderr, "%s is set, but not by tipstaff: unset it\n", engineEnv)
		os.Exit(2)
	}
	if err := runEngine(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runEngine(o orders) error {
	// Ctrl-C reaches the whole process group; the parent decides when we stop.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	f := os.NewFile(controlFD, "control")
	c, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("engine has no parent: %w", err)
	}
	control, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("engine has no parent")
	}
	tell := func(err error) error {
		_, _ = control.Write([]byte(strings.ReplaceAll(err.Error(), "\n", " "))) // the parent may be gone; the log has it too
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if !o.Confined {
		return tell(confineAndExec(o, log))
	}
	_ = f.Close() // FileConn has its own copy
	syscall.CloseOnExec(lockFD)
	lib, err := loadLibrary(o.Library)
	if err != nil {
		return tell(err)
	}
	data := filepath.Join(o.Dir, "data")
	// Held to the end: the engine shuts down with its last connection.
	base, err := lib.open(data)
	if err != nil {
		return tell(err)
	}
	defer base.close()
	h, err := newHandler(lib, base, o.Dir, log)
	if err != nil {
		return tell(err)
	}
	if _, err := control.Write([]byte(readyMessage)); err != nil {
		return nil // the parent is gone
	}
	return serveEngine(control, h)
}

// serveEngine answers until the parent closes its end.
func serveEngine(control *net.UnixConn, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	if err := srv.Serve(&listener{control: control}); !errors.Is(err, net.ErrClosed) {
		return err
	}
	// The parent has drained before it closed. What still runs is killed: its
	// context ends with its connection.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		_ = srv.Close() // ends the connections
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx) // waits for the handlers, bounded
	}
	return nil
}

func newHandler(lib *library, base *conn, dir string, log *slog.Logger) (*handler, error) {
	r, err := base.query("SELECT version(), timezone(), displayName()", "TabSeparated")
	if err != nil {
		return nil, err
	}
	defer r.free()
	facts := strings.Split(strings.TrimSpace(string(r.bytes())), "\t")
	if len(facts) != 3 {
		return nil, errors.New("the ClickHouse engine does not say its version")
	}
	return &handler{
		lib: lib, data: filepath.Join(dir, "data"), tmp: filepath.Join(dir, "tmp"),
		version: facts[0], zone: facts[1], name: headerSafe(facts[2]), slots: make(chan struct{}, maxQueries), log: log,
	}, nil
}

// confineAndExec starts this process anew, confined: rules laid on a running
// program bind only the thread that lays them. It returns only on failure.
func confineAndExec(o orders, log *slog.Logger) error {
	runtime.LockOSThread()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	err = confine(o.Dir, exe, filepath.Dir(o.Library))
	if errors.Is(err, errNoLandlock) {
		log.Warn("the ClickHouse engine is not confined: SQL of authenticated callers can read this user's files", "reason", err)
	} else if err != nil {
		return err
	}
	o.Confined = true
	env, err := engineEnviron(o)
	if err != nil {
		return err
	}
	return fmt.Errorf("start the ClickHouse engine: %w", syscall.Exec(exe, os.Args[:1], env)) //nolint:gosec // this very program
}

// engineEnviron is all the environment the engine gets: SQL can read it.
func engineEnviron(o orders) ([]string, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	env := []string{engineEnv + "=" + string(b), "HOME=" + o.Dir, "TMPDIR=" + filepath.Join(o.Dir, "tmp")}
	if tz, ok := os.LookupEnv("TZ"); ok {
		env = append(env, "TZ="+tz)
	}
	return env, nil
}
