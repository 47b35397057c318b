package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// spawn starts commands on one thread that lives as long as this process: the
// kernel sends the parent-death signal when the thread that forked ends, and
// Go ends threads as it likes (prctl(2), PR_SET_PDEATHSIG; golang.org/issue/27505).
var spawn = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread() // never unlocked
		for f := range work {
			f()
		}
	}()
	return work
})

// startCommand starts cmd so that it dies with this process, in a process
// group of its own: Ctrl-C reaches us alone and we end the parts in order.
func startCommand(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	done := make(chan error, 1)
	spawn() <- func() { done <- cmd.Start() }
	return <-done
}

// process is one running part.
type process struct {
	name    string
	logPath string
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended
	err     error         // how it ended; read after done
}

// startProcess starts a part whose output goes to a log file, at its end.
func startProcess(name, logPath, bin string, env []string, args ...string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	p := &process{name: name, logPath: logPath, cmd: exec.Command(bin, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = log, log, env
	if err := startCommand(p.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop ends a part: SIGTERM, after the grace SIGKILL, and SIGKILL to what is
// left of its group.
func (p *process) stop(grace time.Duration) {
	if p == nil {
		return
	}
	if p.running() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
		select {
		case <-p.done:
		case <-time.After(grace):
		}
	}
	p.kill()
}

// kill ends a part and its whole group at once, and waits.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // nobody left is fine
	<-p.done
}

// ended describes why a part is gone, in one line where the reason is known.
func (p *process) ended() error {
	tail := tailOf(p.logPath, 16<<10)
	switch {
	case strings.Contains(tail, "address already in use"):
		return fmt.Errorf("%s: %w", p.name, errPortInUse)
	case strings.Contains(tail, "no space left on device"):
		return fmt.Errorf("%s: the disk is full: make room in %s and run this again", p.name, os.TempDir())
	}
	return fmt.Errorf("%s ended (%w); the end of its log:\n%s", p.name, p.err, lastLines(tail, 25))
}

// errPortInUse says that somebody took a part's port after we looked.
var errPortInUse = errors.New("a port was taken meanwhile by another program: run this again")

// tailOf returns the last n bytes of a file, from the start of a line.
func tailOf(name string, n int64) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // read-only
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(0, st.Size()-n)
	b, err := io.ReadAll(io.NewSectionReader(f, from, n))
	if err != nil {
		return ""
	}
	if from > 0 {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(b)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Result is what a command did.
type Result struct {
	// Stdout and Stderr are all it wrote.
	Stdout, Stderr string
	// Code is its exit code, -1 when a signal or the context ended it.
	Code int
}

// OK reports whether the command succeeded.
func (r Result) OK() bool { return r.Code == 0 }

// Output is both streams, for messages.
func (r Result) Output() string { return strings.TrimSpace(r.Stdout + r.Stderr) }

// Command is a command under way.
type Command struct {
	cmd         *exec.Cmd
	out, stderr bytes.Buffer
	done        chan struct{}
	result      Result
}

// Done is closed when the command has ended.
func (c *Command) Done() <-chan struct{} { return c.done }

// Wait returns the command's result when it has ended.
func (c *Command) Wait() Result {
	<-c.done
	return c.result
}

// runCommand starts a short command. It is killed when ctx ends.
func runCommand(ctx context.Context, dir string, env []string, bin string, args ...string) *Command {
	c := &Command{cmd: exec.Command(bin, args...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Env, c.cmd.Dir = &c.out, &c.stderr, env, dir
	if err := startCommand(c.cmd); err != nil {
		c.result = Result{Stderr: err.Error(), Code: -1}
		close(c.done)
		return c
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) })
	go func() {
		defer close(c.done)
		_ = c.cmd.Wait() // the exit code says it
		stop()
		c.result = Result{Stdout: c.out.String(), Stderr: c.stderr.String(), Code: c.cmd.ProcessState.ExitCode()}
	}()
	return c
}
