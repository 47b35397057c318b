package pods

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/schema"
)

// dialects are the two ways in which kubectl runs commands.
var dialects = map[string][]string{
	"WebSocket": nil,
	"SPDY":      {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "KUBECTL_PORT_FORWARD_WEBSOCKETS=false"},
}

// each runs f as a test for every dialect.
func each(t *testing.T, f func(t *testing.T, env []string)) {
	t.Helper()
	t.Parallel()
	for name, env := range dialects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, env)
		})
	}
}

// mark is what a masked value looks like in a text.
var mark = regexp.MustCompile(`tipstaff-masked-[0-9a-f]{20}`)

// masked fails t unless text holds a mark and not the value.
func masked(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, value) || !mark.MatchString(text) {
		t.Errorf("not masked: %q", text)
	}
}

func TestI7_LogsAreMaskedAsTheyCome(t *testing.T) {
	t.Parallel()
	// The value comes in pieces, a while apart.
	ns, name := pod(t, `echo one $PASSWORD; read line; printf 'two corr'; read line; printf 'ect-horse-7f2Kq9'; read line; echo -battery.; read line; exit 0`)
	a := newAgent(t, ns)
	a.seen(t, ns)
	masked(t, must(t, a.proxied, "logs", name, "-n", ns))
	if got := must(t, shared.Admin, "logs", name, "-n", ns); got != "one "+value+"\n" {
		t.Errorf("what is there to be masked: %q", got)
	}
	follow := kubectl(t, a.proxied, nil, "logs", "-f", "--timestamps=false", name, "-n", ns)
	follow.prints(t, "one ")
	typing := kubectl(t, shared.Admin, nil, "attach", "-i", name, "-n", ns)
	for _, seen := range []string{"two corr", "horse-7f2Kq9", "-battery."} {
		if _, err := io.WriteString(typing.stdin, "\n"); err != nil {
			t.Fatal(err)
		}
		typing.prints(t, seen)
	}
	follow.prints(t, ".\n")
	if _, err := io.WriteString(typing.stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	if code := follow.code(); code != 0 || len(mark.FindAllString(follow.stdout(), -1)) != 2 {
		t.Errorf("code %d: %q", code, follow.all())
	}
	masked(t, follow.all())
}

func TestI7_WhatACommandPrintsIsMasked(t *testing.T) {
	each(t, func(t *testing.T, env []string) {
		ns, name := pod(t, "sleep 1000")
		a := newAgent(t, ns)
		a.seen(t, ns)
		c := approved(t, a, a.proxied, env, "exec", name, "-n", ns, "--", "sh", "-c", "echo out $PASSWORD; echo err $PASSWORD >&2; exit 3")
		if code := c.code(); code != 3 {
			t.Errorf("it ended with %d", code)
		}
		masked(t, c.stdout())
		masked(t, c.stderr.String())
	})
}

// sessions are those of a run that have ended, once there are n.
func sessions(t *testing.T, run string, n int) []schema.Session {
	t.Helper()
	var got []schema.Session
	eventually(t, func() error {
		r := shared.Tipstaff(t.Context(), shared.Admin, "runs", "sessions", run, "-o", "json", "--config", shared.ConfigFile())
		if !r.OK() {
			return errors.New(r.Output())
		}
		if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
			return fmt.Errorf("%w: %s", err, r.Stdout)
		}
		ended := 0
		for _, s := range got {
			if s.Ended {
				ended++
			}
		}
		if ended < n {
			return fmt.Errorf("%d of %d sessions have ended", ended, n)
		}
		return nil
	})
	return got
}

// cast gives a session's recording.
func cast(t *testing.T, session string) string {
	t.Helper()
	r := shared.Tipstaff(t.Context(), shared.Admin, "runs", "session", session, "--config", shared.ConfigFile())
	if !r.OK() {
		t.Fatal(r.Output())
	}
	return r.Stdout
}

func TestASessionIsRecorded(t *testing.T) {
	each(t, func(t *testing.T, env []string) {
		ns, name := pod(t, "sleep 1000")
		a := newAgent(t, ns)
		a.seen(t, ns)
		c := approved(t, a, a.proxied, env, "exec", "-i", name, "-n", ns, "--", "sh")
		for _, line := range []string{"echo it is $PASSWORD", "export TOKEN=" + value + "; echo set", "exit 4"} {
			if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
				t.Fatal(err)
			}
			switch line {
			case "exit 4":
			default:
				c.prints(t, map[bool]string{true: "it is ", false: "set\n"}[strings.HasPrefix(line, "echo")])
			}
		}
		if code := c.code(); code != 4 {
			t.Errorf("it ended with %d: %s", code, c.all())
		}
		masked(t, c.stdout())
		got := sessions(t, a.run, 1)
		if len(got) != 1 {
			t.Fatalf("%d sessions", len(got))
		}
		s := got[0]
		if s.Run != a.run || s.Namespace != ns || s.Pod != name || s.Verb != "exec" || !slices.Equal(s.Command, []string{"sh"}) || s.Reason != "" || !strings.Contains(s.Status, `"4"`) {
			t.Errorf("the session is %+v", s)
		}
		recorded := cast(t, s.Session)
		masked(t, recorded)
		for _, want := range []string{`{"version":2,`, `"i","echo it is $PASSWORD\n"`, `"o","set\r\n"`, `"i","exit 4\n"`} {
			if !strings.Contains(recorded, want) {
				t.Errorf("%s isn't in\n%s", want, recorded)
			}
		}
		plays(t, recorded, "it is tipstaff-masked-")
		// The run's timeline names the session.
		eventually(t, func() error {
			r := shared.Tipstaff(t.Context(), shared.Admin, "runs", "show", a.run, "--config", shared.ConfigFile())
			if !strings.Contains(r.Stdout, "session "+s.Session) {
				return errors.New(r.Output())
			}
			return nil
		})
		// So does SQL, as the documentation has it.
		eventually(t, func() error {
			rows, err := shared.Query(t.Context(), documentedSQL(t, "monitoring.md"))
			if err != nil {
				t.Fatal(err)
			}
			for row := range strings.Lines(rows) {
				if strings.HasPrefix(row, a.run+"\t") && strings.Contains(row, name+"\t['sh']") && strings.Contains(row, "alice") {
					return nil
				}
			}
			return errors.New(rows)
		})
	})
}

// documentedSQL gives the SQL that stands by itself on a page.
func documentedSQL(t *testing.T, page string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, sql, found := strings.Cut(string(b), "```sql\n")
	sql, _, ended := strings.Cut(sql, "```\n")
	if !found || !ended {
		t.Fatalf("%s has no SQL", page)
	}
	return sql
}

// plays fails t unless asciinema, the players' own tool, shows the recording.
func plays(t *testing.T, recorded, want string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "session.cast")
	if err := os.WriteFile(file, []byte(recorded), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "script", "-qefc", "asciinema cat "+file, "/dev/null") // it wants a terminal
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("asciinema shows %q: %v", out, err)
	}
}

// A person's terminal, as script(1) makes one.
func TestATerminalIsRecordedWithItsSize(t *testing.T) {
	t.Parallel()
	ns, name := pod(t, "sleep 1000")
	a := newAgent(t, ns)
	a.seen(t, ns)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	line := fmt.Sprintf("stty rows 33 cols 111; %s exec -it %s -n %s -- sh", filepath.Join(shared.Root, "bin", "kubectl"), name, ns)
	c := &command{cmd: exec.CommandContext(ctx, "script", "-qefc", line, "/dev/null"), ended: make(chan struct{})}
	c.cmd.Env = append(shared.Env(a.proxied), "TERM=xterm")
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.WaitDelay = c, stderrOf{c}, time.Second
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		_ = c.cmd.Wait() // its exit code says it
	}()
	go a.approve(t, c)
	c.prints(t, "# ")
	if _, err := io.WriteString(c.stdin, "stty size; echo $PASSWORD; exit 5\n"); err != nil {
		t.Fatal(err)
	}
	if code := c.code(); code != 5 || !strings.Contains(c.all(), "33 111") {
		t.Errorf("code %d: %q", code, c.all())
	}
	masked(t, c.all())
	s := sessions(t, a.run, 1)[0]
	recorded := cast(t, s.Session)
	plays(t, recorded, "33 111")
	if !s.TTY || !strings.Contains(recorded, `"width":111,"height":33`) || !strings.Contains(recorded, "33 111") || strings.Contains(recorded, value) {
		t.Errorf("recorded as %s", recorded)
	}
}

func TestAttach(t *testing.T) {
	each(t, func(t *testing.T, env []string) {
		ns, name := pod(t, `while read line; do echo "got $line $PASSWORD"; done`)
		a := newAgent(t, ns)
		a.seen(t, ns)
		c := approved(t, a, a.proxied, env, "attach", "-i", name, "-n", ns)
		if _, err := io.WriteString(c.stdin, "this\n"); err != nil {
			t.Fatal(err)
		}
		c.prints(t, "got this ")
		masked(t, c.stdout())
	})
}

func TestCopy(t *testing.T) {
	each(t, func(t *testing.T, env []string) {
		ns, name := pod(t, "sleep 1000")
		a := newAgent(t, ns)
		dir := t.TempDir()
		want := make([]byte, 3<<20)
		_, _ = rand.Read(want) // never fails
		if err := os.WriteFile(filepath.Join(dir, "up"), want, 0o600); err != nil {
			t.Fatal(err)
		}
		if c := approved(t, a, a.proxied, env, "cp", filepath.Join(dir, "up"), ns+"/"+name+":/tmp/there"); c.code() != 0 {
			t.Fatal(c.all())
		}
		if c := approved(t, a, a.proxied, env, "cp", ns+"/"+name+":/tmp/there", filepath.Join(dir, "down")); c.code() != 0 {
			t.Fatal(c.all())
		}
		got, err := os.ReadFile(filepath.Join(dir, "down"))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back of %d, equal %t: %v", len(got), len(want), bytes.Equal(got, want), err)
		}
	})
}

func TestPortForward(t *testing.T) {
	each(t, func(t *testing.T, env []string) {
		ns, name := pod(t, `mkdir -p /tmp/www; echo hello >/tmp/www/x; httpd -p 127.0.0.1:0 -h /tmp/www -f & httpd -f -p 127.0.0.1:18473 -h /tmp/www; wait`)
		a := newAgent(t, ns)
		c := approved(t, a, a.proxied, env, "port-forward", "pod/"+name, "-n", ns, ":18473")
		c.prints(t, "Forwarding from 127.0.0.1:")
		port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(c.all())[1]
		eventually(t, func() error {
			resp, err := http.Get("http://127.0.0.1:" + port + "/x") //nolint:noctx // bounded by the test
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != "hello\n" {
				return fmt.Errorf("%q: %w: %s", body, err, c.all())
			}
			return nil
		})
	})
}

func TestI9_ARevocationCutsWhatIsOpen(t *testing.T) {
	each(t, func(t *testing.T, env []string) {
		ns, name := pod(t, "while true; do echo tick; sleep 1; done")
		a := newAgent(t, ns)
		session := approved(t, a, a.proxied, env, "exec", "-i", name, "-n", ns, "--", "sh", "-c", "echo begun; cat")
		session.prints(t, "begun")
		logs := kubectl(t, a.proxied, env, "logs", "-f", name, "-n", ns)
		logs.prints(t, "tick")
		if r := shared.Tipstaff(t.Context(), shared.Admin, "revoke", a.run, "--reason", "it went astray"); !r.OK() {
			t.Fatal(r.Output())
		}
		if code := session.code(); code == 0 || !strings.Contains(session.all(), "it went astray") {
			t.Errorf("the session ended with %d: %s", code, session.all())
		}
		logs.code()
		if s := sessions(t, a.run, 1)[0]; !strings.Contains(s.Reason, "it went astray") {
			t.Errorf("the recording ends with %q", s.Reason)
		}
	})
}

// What was denied does not run, and who asked is told why.
func TestI4_ADeniedCommandDoesNotRun(t *testing.T) {
	each(t, func(t *testing.T, env []string) {
		ns, name := pod(t, "sleep 1000")
		a := newAgent(t, ns)
		c := kubectl(t, a.proxied, env, "exec", name, "-n", ns, "--", "touch", "/tmp/ran")
		eventually(t, func() error {
			all, err := shared.Approvals(t.Context(), a.run)
			if err != nil || len(all) != 1 {
				return fmt.Errorf("%d approvals: %w", len(all), err)
			}
			if r := shared.Tipstaff(t.Context(), shared.Alice, "deny", all[0].Name, "--reason", "not in this pod"); !r.OK() {
				return errors.New(r.Output())
			}
			return nil
		})
		if code := c.code(); code == 0 || !strings.Contains(c.all(), "not in this pod") {
			t.Errorf("it ended with %d: %s", code, c.all())
		}
		if got := must(t, shared.Admin, "exec", name, "-n", ns, "--", "ls", "/tmp"); strings.Contains(got, "ran") {
			t.Error("it ran")
		}
		for _, s := range sessions(t, a.run, 1) { // kubectl asks over SPDY too when it is refused over WebSocket
			if !strings.Contains(s.Reason, "not begun") {
				t.Errorf("a session is %+v", s)
			}
		}
	})
}

// Clients that leave a log that they follow harm none that comes after.
func TestALogThatIsLeftEnds(t *testing.T) {
	t.Parallel()
	ns, name := pod(t, "i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo line $i of many; done; sleep 1000")
	a := newAgent(t, ns)
	for range 3 {
		c := kubectl(t, a.proxied, nil, "logs", "-f", name, "-n", ns)
		c.prints(t, "line 1000 of many\n")
		if !strings.HasPrefix(c.stdout(), "line 1 of many\n") {
			t.Errorf("it begins with %.100q", c.stdout())
		}
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.code()
	}
	got := must(t, a.proxied, "logs", "--tail=5", name, "-n", ns)
	if strings.Count(got, "\n") != 5 {
		t.Errorf("got %q", got)
	}
}

// On the direct path a command is held by the same rule; it fails, and goes
// through when it is sent again after it was approved. Nothing there records it.
func TestADirectCommandIsHeld(t *testing.T) {
	t.Parallel()
	ns, name := pod(t, "sleep 1000")
	a := newAgent(t, ns)
	args := []string{"exec", name, "-n", ns, "--", "echo", "hi"}
	c := approved(t, a, a.direct, nil, args...)
	if code := c.code(); code == 0 { // approved within the inline wait
		return
	}
	if got := must(t, a.direct, args...); got != "hi\n" {
		t.Errorf("got %q", got)
	}
}
