package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

const (
	demoRun     = "fix-checkout-4711"
	demoSecret  = "s3cr3t-payment-key"
	storyBudget = 4 * time.Minute
)

// demo tells the whole story on a real control plane, and fails at the first
// thing that doesn't happen as said.
func demo(ctx context.Context) error {
	fmt.Println("A real control plane (etcd, kube-apiserver, kube-controller-manager), an OIDC provider and tipstaff on this machine:")
	c, err := harness.Start(ctx, harness.Options{Progress: tellProgress})
	if err != nil {
		return err
	}
	defer c.Stop()
	s := &story{c: c}
	story, cancel := context.WithTimeout(ctx, storyBudget)
	defer cancel()
	for i, step := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"An agent platform gives one run of one agent a token; the agent uses plain kubectl with it", s.identity},
		{"The agent reads through the proxy: a Secret's values are masked", s.masked},
		{"The agent deletes a namespace: the call is held until a person decides", s.held},
		{"A second one is denied; and an agent can't approve", s.denied},
		{"Every request of the run is in ClickHouse", s.recorded},
		{"The run is over: revoked, it can do nothing more", s.revoked},
	} {
		fmt.Printf("\n== %d. %s\n", i+1, step.title)
		if err := step.tell(story); err != nil {
			if ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "\n%s\n", c.Logs())
			}
			return fmt.Errorf("step %d (%s): %w", i+1, step.title, err)
		}
	}
	s.where()
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		fmt.Println("\nAll of it happened as said. No terminal here, so everything stops now.")
		return nil
	}
	fmt.Println("\nAll of it happened as said. Everything stays up until Ctrl-C.")
	<-ctx.Done()
	fmt.Println("\nstopping")
	return nil
}

// story holds what the steps hand on.
type story struct {
	c              *harness.Cluster
	agent, proxied harness.Kubeconfig
}

func (s *story) identity(ctx context.Context) error {
	fmt.Printf("  token from %s, run %s, on behalf of ada@example.com\n", s.c.Issuer.URL, demoRun)
	if _, err := s.run(ctx, "admin", s.c.Admin, "kubectl", "create", "namespace", "shop"); err != nil {
		return err
	}
	token, err := s.c.Mint(ctx, demoRun, issuer.Claims{Subject: "coder", Lifetime: time.Hour, Private: map[string]any{
		"model": "demo-model", "task": "repair the checkout", "act": map[string]any{"sub": "ada@example.com"},
		"profile": harness.ScopedProfile, "namespaces": []string{"shop"},
	}})
	if err != nil {
		return err
	}
	if s.agent, err = s.c.Agent("demo-agent", token, harness.Direct); err != nil {
		return err
	}
	if s.proxied, err = s.c.Agent("demo-agent", token, harness.Proxied); err != nil {
		return err
	}
	out, err := s.run(ctx, "agent", s.agent, "kubectl", "auth", "whoami")
	if err != nil {
		return err
	}
	if err := holds(out, "agent:"+harness.IssuerName+":coder", "tipstaff:agents", "tipstaff:run:", demoRun, "ada@example.com"); err != nil {
		return err
	}
	fmt.Println("  its rights were made before it was answered, for this run alone; they go with it:")
	out, err = s.run(ctx, "admin", s.c.Admin, "kubectl", "get", "rolebindings", "-n", "shop", "-o",
		"custom-columns=ROLE:.roleRef.name,FOR:.metadata.annotations.tipstaff\\.dev/agent,UNTIL:.metadata.annotations.tipstaff\\.dev/expires-at")
	if err != nil {
		return err
	}
	return holds(out, "view", "edit", demoRun)
}

func (s *story) masked(ctx context.Context) error {
	if _, err := s.run(ctx, "admin", s.c.Admin, "kubectl", "create", "secret", "generic", "payments", "-n", "shop", "--from-literal=key="+demoSecret); err != nil {
		return err
	}
	get := []string{"kubectl", "get", "secret", "payments", "-n", "shop", "-o", "go-template={{range $k, $v := .data}}{{$k}}: {{base64decode $v}}{{\"\\n\"}}{{end}}"}
	out, err := s.run(ctx, "admin", s.c.Admin, get...)
	if err != nil {
		return err
	}
	if err := holds(out, demoSecret); err != nil {
		return err
	}
	out, err = s.run(ctx, "agent, through the proxy", s.proxied, get...)
	if err != nil {
		return err
	}
	if strings.Contains(out, demoSecret) {
		return errors.New("the agent sees the secret")
	}
	return holds(out, "key: ")
}

func (s *story) held(ctx context.Context) error {
	name, wait, err := s.hold(ctx, "old-checkout")
	if err != nil {
		return err
	}
	out, err := s.run(ctx, "alice, an approver", s.c.Alice, "kubectl", "get", "approvals")
	if err != nil {
		return err
	}
	if err := holds(out, name, "Pending", demoRun); err != nil {
		return err
	}
	if r := s.c.Kubectl(ctx, s.c.Admin, "get", "namespace", "old-checkout", "-o", "jsonpath={.status.phase}"); r.Stdout != "Active" {
		return fmt.Errorf("the held namespace is %q, not Active", r.Output())
	}
	fmt.Println("  (the namespace is still Active: nothing has changed)")
	if _, err := s.run(ctx, "alice", s.c.Alice, "kubectl", "tipstaff", "approve", name, "--reason", "replaced by shop"); err != nil {
		return err
	}
	fmt.Println("  the agent's kubectl, which has waited all the while, finishes by itself:")
	r := wait()
	show(r)
	if !r.OK() {
		return fmt.Errorf("the approved call ended with code %d", r.Code)
	}
	if err := holds(r.Stdout, `namespace "old-checkout" deleted`); err != nil {
		return err
	}
	return s.gone(ctx, "old-checkout")
}

func (s *story) denied(ctx context.Context) error {
	name, wait, err := s.hold(ctx, "ledger")
	if err != nil {
		return err
	}
	fmt.Printf("[agent] $ kubectl tipstaff approve %s\n", name)
	r := s.c.Kubectl(ctx, s.agent, "tipstaff", "approve", name)
	show(r)
	if r.OK() {
		return errors.New("an agent approved its own request")
	}
	if _, err := s.run(ctx, "alice", s.c.Alice, "kubectl", "tipstaff", "deny", name, "--reason", "the ledger is audited this week"); err != nil {
		return err
	}
	fmt.Println("  the agent's kubectl ends with the reason:")
	r = wait()
	show(r)
	if r.OK() {
		return errors.New("the denied call succeeded")
	}
	if err := holds(r.Stderr, "the ledger is audited this week"); err != nil {
		return err
	}
	if r := s.c.Kubectl(ctx, s.c.Admin, "get", "namespace", "ledger", "-o", "jsonpath={.status.phase}"); r.Stdout != "Active" {
		return fmt.Errorf("the denied namespace is %q, not Active", r.Output())
	}
	return nil
}

func (s *story) recorded(ctx context.Context) error {
	fmt.Println("  comparing with the API server's own audit log …")
	n, err := s.c.WaitForEvents(ctx, demoRun, 30*time.Second)
	if err != nil {
		return err
	}
	fmt.Printf("  the API server logged %d events of this run; ClickHouse holds the same %d, each once\n", n, n)
	fmt.Printf("[analyst] $ tipstaff runs show %s\n", demoRun)
	r := s.c.Tipstaff(ctx, "", "runs", "show", demoRun)
	show(r)
	if !r.OK() {
		return fmt.Errorf("tipstaff runs show ended with code %d", r.Code)
	}
	return holds(r.Stdout, "payments", "old-checkout", "ledger", "alice")
}

func (s *story) revoked(ctx context.Context) error {
	if _, err := s.run(ctx, "alice", s.c.Alice, "kubectl", "tipstaff", "revoke", demoRun, "--reason", "its work is done"); err != nil {
		return err
	}
	change := []string{"create", "configmap", "one-more", "-n", "shop"}
	var r harness.Result
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
		r = s.c.Kubectl(ctx, s.agent, append(change, "--dry-run=server")...)
		return !r.OK(), nil
	})
	if err != nil {
		return fmt.Errorf("the revoked run still changes things: %w", err)
	}
	fmt.Printf("[agent] $ kubectl %s\n", quote(change))
	r = s.c.Kubectl(ctx, s.agent, change...)
	show(r)
	if r.OK() {
		return errors.New("the revoked run still changes things")
	}
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
		r = s.c.Kubectl(ctx, s.c.Admin, "get", "rolebindings", "-n", "shop", "-o", "name")
		return r.OK() && r.Stdout == "", nil
	})
	if err != nil {
		return fmt.Errorf("the run's bindings are still there: %s", r.Output())
	}
	fmt.Println("  (and its role bindings are gone)")
	return nil
}

// hold has the agent delete a new namespace and returns its approval and how
// to wait for the agent's kubectl.
func (s *story) hold(ctx context.Context, namespace string) (string, func() harness.Result, error) {
	if _, err := s.run(ctx, "admin", s.c.Admin, "kubectl", "create", "namespace", namespace); err != nil {
		return "", nil, err
	}
	fmt.Printf("[agent] $ kubectl delete namespace %s     (waits, in the background)\n", namespace)
	cmd := s.c.StartKubectl(ctx, s.agent, "delete", "namespace", namespace)
	a, err := s.c.WaitForApproval(ctx, demoRun, namespace, cmd)
	if err != nil {
		return "", nil, err
	}
	return a.Name, cmd.Wait, nil
}

// gone waits until a namespace's end has gone through the controllers.
func (s *story) gone(ctx context.Context, namespace string) error {
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		r := s.c.Kubectl(ctx, s.c.Admin, "get", "namespace", namespace)
		return strings.Contains(r.Stderr, "NotFound"), nil
	})
	if err != nil {
		return fmt.Errorf("namespace %s is still there: %w", namespace, err)
	}
	fmt.Printf("  (namespace %s is gone)\n", namespace)
	return nil
}

// run shows a command and its output, and fails when it does.
func (s *story) run(ctx context.Context, who string, as harness.Kubeconfig, args ...string) (string, error) {
	fmt.Printf("[%s] $ %s\n", who, quote(args))
	r := s.c.Kubectl(ctx, as, args[1:]...)
	show(r)
	if !r.OK() {
		return "", fmt.Errorf("%s ended with code %d", quote(args), r.Code)
	}
	return r.Stdout, nil
}

// where says what is running, and how to look around.
func (s *story) where() {
	c := s.c
	fmt.Printf(`
== What is running where
  API server     %s   proxy %s
  kubeconfigs    %s (admin)
                 %s (agent, direct)
                 %s (agent, through the proxy)
                 %s, %s (approvers)
  OIDC provider  %s
  ClickHouse     %s
  config, logs   %s, %s/logs
  look around:   bin/kubectl --kubeconfig %s get approvals
                 bin/tipstaff runs --clickhouse '%s'
                 curl --data-binary 'SELECT verb, resource, name, code, verdict, approvers FROM tipstaff.audit_events FINAL ORDER BY 1' '%s'
`, c.APIServerURL, c.ProxyURL, c.Admin, s.agent, s.proxied, c.Alice, c.Bob, c.Issuer.URL, c.ClickHouseURL,
		c.ConfigFile(), c.Dir, c.Alice, c.ClickHouseURL, c.ClickHouseURL)
}

// holds checks that all of want stands in out.
func holds(out string, want ...string) error {
	for _, w := range want {
		if !strings.Contains(out, w) {
			return fmt.Errorf("the output above should hold %q", w)
		}
	}
	return nil
}

func show(r harness.Result) {
	for line := range strings.Lines(r.Output()) {
		fmt.Printf("    %s\n", strings.TrimRight(line, "\n"))
	}
}

// quote writes a command as one could type it.
func quote(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if strings.ContainsAny(a, " ${}'\"\\|") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}
