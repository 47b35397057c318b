package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
)

const approvePatch = `{"status":{"phase":"Approved","decisions":[{"by":"alice","verdict":"Approve","at":"2026-01-01T00:00:00Z","via":"kubectl"}]}}`

func TestI2_AgentsDecideNothing(t *testing.T) {
	t.Parallel()
	asks, other := newAgent(t), newAgent(t)
	for _, a := range []agent{asks, other} { // RBAC alone would let them
		grant(t, a.group(), "--verb=*", "--resource=approvals.tipstaff.dev,approvals.tipstaff.dev/status,revocations.tipstaff.dev")
	}
	ns := namespace(t)
	cmd, ap, _ := asks.hold(t, ns, "delete", "namespace", ns)
	for _, as := range []harness.Kubeconfig{asks.direct, other.direct, asks.proxied} {
		if r := tipstaff(t, as, "approve", ap.Name); r.OK() {
			t.Errorf("an agent approves: %s", r.Output())
		}
		refused(t, "", as, "patch", "approval", ap.Name, "--subresource=status", "--type=merge", "-p", approvePatch)
		refused(t, "", as, "delete", "approval", ap.Name)
		refused(t, "", as, "create", "-f", writeFile(t, `{"apiVersion":"tipstaff.dev/v1alpha1","kind":"Revocation","metadata":{"name":"by-agent"},"spec":{"run":"`+other.run+`","reason":"mine"}}`))
	}
	// The schema of approvals: its defaults would be everybody's decisions.
	refused(t, "agents change nothing in tipstaff.dev", asks.proxied, "patch", "crd", "approvals.tipstaff.dev", "--type=json", "-p",
		`[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/status/default","value":{"phase":"Approved"}}]`)
	if got := phase(t, ns); got != "Active" {
		t.Errorf("the namespace is %s", got)
	}
	if r := tipstaff(t, shared.Alice, "deny", ap.Name, "--reason", "only a test"); !r.OK() {
		t.Fatal(r.Output())
	}
	if r := cmd.Wait(); r.OK() || !strings.Contains(r.Stderr, "only a test") {
		t.Errorf("the denied call ends with code %d: %s", r.Code, r.Output())
	}
}

func TestI2_OnePersonIsOneVote(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	grant(t, "carols-friends", "--verb=get", "--resource=pods") // carol is in no group at all
	ns := namespace(t)
	cmd, ap, _ := a.hold(t, "two-keys", "create", "configmap", "two-keys", "-n", ns)
	if r := tipstaff(t, shared.Carol, "approve", ap.Name); r.OK() {
		t.Errorf("somebody who is no approver approves: %s", r.Output())
	}
	if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
		t.Fatal(r.Output())
	}
	if r := tipstaff(t, shared.Alice, "approve", ap.Name); r.OK() {
		t.Errorf("alice votes twice: %s", r.Output())
	}
	// A forged vote in another's name.
	forged := strings.ReplaceAll(approvePatch, "alice", "bob")
	refused(t, "", shared.Alice, "patch", "approval", ap.Name, "--subresource=status", "--type=merge", "-p", forged)
	refused(t, "NotFound", shared.Admin, "get", "configmap", "two-keys", "-n", ns)
	if r := tipstaff(t, shared.Bob, "approve", ap.Name); !r.OK() {
		t.Fatal(r.Output())
	}
	if r := cmd.Wait(); !r.OK() {
		t.Errorf("approved by two, and still: %s", r.Output())
	}
	must(t, shared.Admin, "get", "configmap", "two-keys", "-n", ns)
}

func TestI3_OneSignatureOneRequest(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	ns := namespace(t)
	create := func(value string) []string {
		return []string{"create", "configmap", "held-a", "-n", ns, "--from-literal=value=" + value}
	}
	cmd, ap, stop := a.hold(t, "held-a", create("shown")...)
	stop() // the agent goes away before the decision
	cmd.Wait()
	if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
		t.Fatal(r.Output())
	}

	// Other content under the same name is another request.
	cmd, second, stop := a.hold(t, "held-a", create("something else")...)
	if second.Name == ap.Name {
		t.Fatalf("approval %s is shown for other content", ap.Name)
	}
	stop()
	cmd.Wait()
	refused(t, "NotFound", shared.Admin, "get", "configmap", "held-a", "-n", ns)

	// So is the same content from another run.
	b := newAgent(t)
	cmd, _, stop = b.hold(t, "held-a", create("shown")...)
	stop()
	cmd.Wait()
	refused(t, "NotFound", shared.Admin, "get", "configmap", "held-a", "-n", ns)

	// The one that was shown goes through, once.
	must(t, a.direct, create("shown")...)
	if got := must(t, shared.Admin, "get", "configmap", "held-a", "-n", ns, "-o", "jsonpath={.data.value}"); got != "shown" {
		t.Errorf("the config map holds %q", got)
	}
	must(t, shared.Admin, "delete", "configmap", "held-a", "-n", ns)
	_, third, stop := a.hold(t, "held-a", create("shown")...)
	defer stop()
	if third.Name == ap.Name {
		t.Errorf("approval %s is used twice", ap.Name)
	}
	refused(t, "NotFound", shared.Admin, "get", "configmap", "held-a", "-n", ns)
}

// The API server draws another name at each retry of one create.
func TestI3_ADrawnNameIsNotTheAgentsWord(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	ns := namespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := shared.StartKubectl(ctx, a.direct, "create", "-n", ns, "-f",
		writeFile(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"held-drawn-"},"data":{"k":"v"}}`))
	var names []string
	eventually(t, 20*time.Second, func() error {
		list, err := shared.Approvals(t.Context(), a.run)
		if err != nil || len(list) == 0 {
			return fmt.Errorf("no approval yet: %w", err)
		}
		names = nil
		for _, ap := range list {
			names = append(names, ap.Name)
		}
		return nil
	})
	if r := tipstaff(t, shared.Alice, "approve", names[0]); !r.OK() {
		t.Fatal(r.Output())
	}
	if r := cmd.Wait(); !r.OK() || !strings.Contains(r.Stdout, "held-drawn-") {
		t.Errorf("approved, and still: %s", r.Output())
	}
	list, err := shared.Approvals(t.Context(), a.run)
	if err != nil || len(list) != 1 {
		t.Errorf("one create has %d approvals, %v", len(list), err)
	}
}

// The API server allocates another node port and address at each retry of one create.
func TestI3_AnAllocatedPortIsNotTheAgentsWord(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	ns := namespace(t)
	cmd, ap, _ := a.hold(t, "held-service", "create", "service", "nodeport", "held-service", "--tcp=80", "-n", ns)
	if strings.Contains(ap.Spec.Diff, "clusterIP:") || strings.Contains(ap.Spec.Diff, "nodePort:") {
		t.Errorf("what will be allocated anew is shown: %s", ap.Spec.Diff)
	}
	if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
		t.Fatal(r.Output())
	}
	if r := cmd.Wait(); !r.OK() {
		t.Errorf("approved, and still: %s", r.Output())
	}
	list, err := shared.Approvals(t.Context(), a.run)
	if err != nil || len(list) != 1 {
		t.Errorf("one create has %d approvals, %v", len(list), err)
	}
}
