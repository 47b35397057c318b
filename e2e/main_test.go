package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// shared is the control plane that all tests use.
var shared *harness.Cluster

// testRules hold config maps by name, so that a test can hold content, and all
// that is done in namespaces of some names; others ask the cluster.
const testRules = `
- name: test-held
  match: request.operation == 'CREATE' && request.resource.resource in ['configmaps', 'services'] && request.name.startsWith('held-')
  verdict: hold
  approvers: [tipstaff-approvers]
- name: test-two-people
  match: request.operation == 'CREATE' && request.resource.resource == 'configmaps' && request.name.startsWith('two-')
  verdict: hold
  quorum: 2
  approvers: [tipstaff-approvers]
  breakGlass: [tipstaff-captains]
- name: test-all-held
  match: request.namespace.startsWith('all-held-')
  verdict: hold
  approvers: [tipstaff-approvers]
- name: test-short
  match: request.namespace.startsWith('short-')
  verdict: hold
  timeToLive: 4s
  approvers: [tipstaff-approvers]
- name: test-production
  match: >-
    request.operation == 'CREATE' && request.resource.resource == 'configmaps' && request.name.startsWith('prod-') &&
    namespaceObject.metadata.?labels['tier'].orValue('') == 'production'
  verdict: deny
- name: test-who-may-not-force
  match: >-
    request.operation == 'CREATE' && request.resource.resource == 'configmaps' && request.name.startsWith('may-') &&
    !authorizer.requestResource.check('force').allowed()
  verdict: deny
`

// childEnv makes this binary a process that starts a control plane and waits
// to be killed.
const childEnv = "TIPSTAFF_E2E_CHILD"

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if os.Getenv(childEnv) != "" {
		return beKilled(ctx)
	}
	c, err := harness.Start(ctx, harness.Options{
		ExtraRules: testRules, InlineWait: time.Second, OtherCluster: true,
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
	if r := c.Kubectl(context.Background(), c.Admin, "create", "-f", filepath.Join(c.Root, "e2e", "testdata", "changes-directly.yaml")); !r.OK() {
		fmt.Fprintln(os.Stderr, r.Output())
		return 1
	}
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "\n%s\n", c.Logs())
	}
	return code
}

// agent is one run, with both ways to the API server.
type agent struct {
	run             string
	token           string
	direct, proxied harness.Kubeconfig
}

var runs atomic.Int64

// newAgent makes a run of its own for t, which may change things on the direct
// path too.
func newAgent(t *testing.T) agent {
	t.Helper()
	return agentOf(t, "changes-directly")
}

// agentOf makes a run of its own for t, of a profile. "default" has what the
// shipped RBAC gives to all agents.
func agentOf(t *testing.T, profile string) agent {
	t.Helper()
	a := agent{run: fmt.Sprintf("%s-%d", slug(t), runs.Add(1))}
	var err error
	if a.token, err = shared.Mint(t.Context(), a.run, issuer.Claims{Private: map[string]any{"act": map[string]any{"sub": "ada"}, "profile": profile}}); err != nil {
		t.Fatal(err)
	}
	if a.direct, err = shared.Agent(a.run, a.token, harness.Direct); err != nil {
		t.Fatal(err)
	}
	if a.proxied, err = shared.Agent(a.run, a.token, harness.Proxied); err != nil {
		t.Fatal(err)
	}
	return a
}

// group is the group of the agent's run alone.
func (a agent) group() string {
	return v1alpha1.RunGroup(harness.IssuerName, a.run)
}

// grant gives a group rights that the shipped RBAC doesn't.
func grant(t *testing.T, group string, args ...string) {
	t.Helper()
	name := fmt.Sprintf("%s-grant-%d", slug(t), runs.Add(1))
	must(t, shared.Admin, append([]string{"create", "clusterrole", name}, args...)...)
	must(t, shared.Admin, "create", "clusterrolebinding", name, "--clusterrole="+name, "--group="+group)
}

// namespace makes a namespace of its own for t.
func namespace(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("%s-%d", slug(t), runs.Add(1))
	must(t, shared.Admin, "create", "namespace", name)
	return name
}

var notSlug = regexp.MustCompile("[^a-z0-9]+")

// slug is the test's name as an object's.
func slug(t *testing.T) string {
	s := strings.Trim(notSlug.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	return strings.Trim(s[:min(len(s), 40)], "-")
}

// kubectl runs kubectl, bounded: a held call that nobody decides must not hold the tests.
func kubectl(t *testing.T, as harness.Kubeconfig, args ...string) harness.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return shared.Kubectl(ctx, as, args...)
}

// must runs kubectl and fails t when it does.
func must(t *testing.T, as harness.Kubeconfig, args ...string) string {
	t.Helper()
	r := kubectl(t, as, args...)
	if !r.OK() {
		t.Fatalf("kubectl %s: code %d: %s", strings.Join(args, " "), r.Code, r.Output())
	}
	return r.Stdout
}

// refused runs kubectl and fails t unless it is refused with a text that holds want.
func refused(t *testing.T, want string, as harness.Kubeconfig, args ...string) {
	t.Helper()
	r := kubectl(t, as, args...)
	if r.OK() || r.Code < 0 || !strings.Contains(r.Output(), want) {
		t.Errorf("kubectl %s: code %d: %s; want it refused with %q", strings.Join(args, " "), r.Code, r.Output(), want)
	}
}

// hold starts a call that is held, and returns its approval.
func (a agent) hold(t *testing.T, object string, args ...string) (*harness.Command, *v1alpha1.Approval, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := shared.StartKubectl(ctx, a.direct, args...)
	ap, err := shared.WaitForApproval(ctx, a.run, object, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, ap, cancel
}

// tipstaff runs the tipstaff command as somebody.
func tipstaff(t *testing.T, as harness.Kubeconfig, args ...string) harness.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return shared.Tipstaff(ctx, as, args...)
}

// eventually polls until check says nil.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, within, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("not within %s: %v", within, last)
	}
}

// phase is a namespace's phase as the admin sees it.
func phase(t *testing.T, namespace string) string {
	t.Helper()
	return must(t, shared.Admin, "get", "namespace", namespace, "-o", "jsonpath={.status.phase}")
}
