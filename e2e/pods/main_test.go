package pods

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// shared is the control plane that all tests use, with one node.
var shared *harness.Cluster

// value is in a Secret; the proxy has seen it by then.
const value = "correct-horse-7f2Kq9-battery"

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if os.Getenv("TIPSTAFF_NO_NODE") != "" {
		fmt.Fprintln(os.Stderr, "no pods are run: TIPSTAFF_NO_NODE is set")
		return 0
	}
	if err := harness.NodeProblem(); err != nil {
		fmt.Fprintf(os.Stderr, "%v; TIPSTAFF_NO_NODE=1 leaves out the tests that run pods\n", err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c, err := harness.Start(ctx, harness.Options{
		Node: true,
		Progress: func(d time.Duration, text string) {
			fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", d.Seconds(), text)
		},
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "start the control plane: %v\n", err)
		return 1
	}
	defer c.Stop()
	shared = c
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "\n%s\n", c.Logs())
	}
	return code
}

var names atomic.Int64

// pod runs script in a pod of its own, whose Secret holds value.
func pod(t *testing.T, script string) (ns, name string) {
	t.Helper()
	ns, name = fmt.Sprintf("pods-%d", names.Add(1)), "p"
	must(t, shared.Admin, "create", "namespace", ns)
	must(t, shared.Admin, "create", "secret", "generic", "s", "-n", ns, "--from-literal=password="+value)
	manifest := filepath.Join(t.TempDir(), "pod.yaml")
	text := fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec:
  nodeName: %s
  hostNetwork: true
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %s
    imagePullPolicy: Never
    stdin: true
    command: [/bin/sh, -c, %q]
    env:
    - name: PASSWORD
      valueFrom: {secretKeyRef: {name: s, key: password}}
`, name, ns, harness.NodeName, harness.NodeImage, script)
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, shared.Admin, "apply", "-f", manifest)
	must(t, shared.Admin, "wait", "--for=condition=Ready", "pod/"+name, "-n", ns, "--timeout=60s")
	return ns, name
}

// agent is one run that may do what is tested in one namespace.
type agent struct {
	run             string
	direct, proxied harness.Kubeconfig
}

func newAgent(t *testing.T, ns string) agent {
	t.Helper()
	a := agent{run: fmt.Sprintf("run-%d", names.Add(1))}
	token, err := shared.Mint(t.Context(), a.run, issuer.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	for path, to := range map[harness.Path]*harness.Kubeconfig{harness.Direct: &a.direct, harness.Proxied: &a.proxied} {
		if *to, err = shared.Agent(a.run, token, path); err != nil {
			t.Fatal(err)
		}
	}
	must(t, shared.Admin, "create", "role", a.run, "-n", ns, "--verb=get,list,watch,create", "--resource=pods,pods/log,pods/exec,pods/attach,pods/portforward")
	must(t, shared.Admin, "create", "rolebinding", a.run, "-n", ns, "--role="+a.run, "--group=tipstaff:run:"+harness.IssuerName+":"+a.run)
	return a
}

// seen has the proxy read the Secret, so that it knows the value.
func (a agent) seen(t *testing.T, ns string) {
	t.Helper()
	got := must(t, a.proxied, "get", "secret", "s", "-n", ns, "-o", "yaml")
	if strings.Contains(got, value) {
		t.Fatalf("the Secret isn't masked: %s", got)
	}
}

// command is a kubectl under way, with its streams.
type command struct {
	stdin  io.WriteCloser
	mu     sync.Mutex
	out    bytes.Buffer
	stderr bytes.Buffer
	cmd    *exec.Cmd
	ended  chan struct{}
}

// Write takes what it prints.
func (c *command) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(p)
}

type stderrOf struct{ c *command }

func (s stderrOf) Write(p []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.stderr.Write(p)
}

func (c *command) stdout() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

func (c *command) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String() + c.stderr.String()
}

// kubectl starts kubectl as somebody, with env beside what it needs.
func kubectl(t *testing.T, as harness.Kubeconfig, env []string, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c := &command{cmd: exec.CommandContext(ctx, filepath.Join(shared.Root, "bin", "kubectl"), args...), ended: make(chan struct{})}
	c.cmd.Env = append(shared.Env(as), env...)
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
	return c
}

// code waits for the command's end and gives its exit code.
func (c *command) code() int {
	<-c.ended
	return c.cmd.ProcessState.ExitCode()
}

// approved starts kubectl as an agent and has Alice approve all that is held of
// it until it ends: a copy is two commands.
func approved(t *testing.T, a agent, as harness.Kubeconfig, env []string, args ...string) *command {
	t.Helper()
	c := kubectl(t, as, env, args...)
	go a.approve(t, c)
	return c
}

// approve approves what is held of a until c has ended.
func (a agent) approve(t *testing.T, c *command) {
	done := map[string]bool{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-t.Context().Done():
			return
		case <-tick.C:
		}
		all, err := shared.Approvals(t.Context(), a.run)
		if err != nil {
			continue // the test's own wait ends it
		}
		for _, ap := range all {
			if ap.Status.Phase == v1alpha1.PhasePending && !done[ap.Name] {
				done[ap.Name] = shared.Tipstaff(t.Context(), shared.Alice, "approve", ap.Name).OK()
			}
		}
	}
}

// must runs kubectl and fails t when it does.
func must(t *testing.T, as harness.Kubeconfig, args ...string) string {
	t.Helper()
	c := kubectl(t, as, nil, args...)
	_ = c.stdin.Close() // nothing is typed
	if code := c.code(); code != 0 {
		t.Fatalf("kubectl %s: code %d: %s", strings.Join(args, " "), code, c.all())
	}
	return c.stdout()
}

// eventually polls until check says nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("never came true: %v", last)
	}
}

// prints waits until the command has printed text.
func (c *command) prints(t *testing.T, text string) {
	t.Helper()
	eventually(t, func() error {
		if got := c.all(); !strings.Contains(got, text) {
			return fmt.Errorf("%q isn't in %q", text, got)
		}
		return nil
	})
}
