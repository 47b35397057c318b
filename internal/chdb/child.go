package chdb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startTimeout bounds the engine's start; replaying a large data directory takes a while.
	startTimeout = 2 * time.Minute
	// stopTimeout bounds its end after the drain; then it is killed.
	stopTimeout = 15 * time.Second
)

// child is one running engine process.
type child struct {
	control *net.UnixConn
	process *os.Process
	done    chan struct{} // closed when it has ended
	state   string        // how it ended; after done
}

func startChild(o orders, lock *os.File, log *slog.Logger) (*child, error) {
	conn, theirs, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close() //nolint:errcheck // the child has its own copy
	control, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("socket pair is not of unix sockets")
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	env, err := engineEnviron(o)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: exe, Args: []string{"tipstaff-clickhouse-engine"}, Env: env, Dir: o.Dir,
		ExtraFiles: []*os.File{theirs, lock}, Stdout: in, Stderr: in,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	c := &child{control: control, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the thread that forked ends (golang.org/issue/27505).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		_ = in.Close() // the child has its own copy
		started <- err
		if err != nil {
			return
		}
		relay(out, log)
		_ = cmd.Wait() // state tells
		c.state = cmd.ProcessState.String()
		_ = control.Close() // its other end is gone
		close(c.done)
	}()
	if err := <-started; err != nil {
		_, _ = out.Close(), control.Close()
		return nil, fmt.Errorf("start the ClickHouse engine: %w", err)
	}
	c.process = cmd.Process
	if err := c.awaitReady(); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// awaitReady waits for the engine's first word.
func (c *child) awaitReady() error {
	if err := c.control.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	b := make([]byte, 4096)
	n, err := c.control.Read(b)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the ClickHouse engine is not ready after %s", startTimeout)
	case err != nil || n == 0:
		return errors.New("the ClickHouse engine ended while it started: see its lines in the log")
	case string(b[:n]) != readyMessage:
		return errors.New(string(b[:n]))
	}
	return nil
}

// stop lets the engine close its data and end; it is killed when it does not.
func (c *child) stop() {
	_ = c.control.Close() // is the signal
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-c.done:
		return
	case <-t.C:
	}
	_ = c.process.Kill() // may have ended just now
	<-c.done
}

// relay logs what the engine's process says, until it ends.
func relay(out io.ReadCloser, log *slog.Logger) {
	defer out.Close() //nolint:errcheck // read to its end
	r := bufio.NewReaderSize(out, 4096)
	for {
		line, _, err := r.ReadLine() // longer lines come in parts
		if len(line) > 0 {
			log.Info("clickhouse engine says", "line", string(line))
		}
		if err != nil {
			return
		}
	}
}
