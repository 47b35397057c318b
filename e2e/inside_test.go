package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
)

// pod is a pod of this cluster whose service account counts as an agent.
type pod struct {
	uid string
	as  harness.Kubeconfig
}

// newPod makes a service account with wide rights, and a pod's token of it.
func newPod(t *testing.T, ns string) pod {
	t.Helper()
	name := fmt.Sprintf("%s-%d", slug(t), runs.Add(1))
	must(t, shared.Admin, "create", "serviceaccount", name, "-n", ns)
	must(t, shared.Admin, "create", "clusterrolebinding", name, "--clusterrole=cluster-admin", "--serviceaccount="+ns+":"+name)
	must(t, shared.Admin, "create", "-f", writeFile(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"`+name+`","namespace":"`+ns+`"},
"spec":{"serviceAccountName":"`+name+`","automountServiceAccountToken":false,"containers":[{"name":"c","image":"none"}]}}`))
	p := pod{uid: must(t, shared.Admin, "get", "pod", name, "-n", ns, "-o", "jsonpath={.metadata.uid}")}
	token := must(t, shared.Admin, "create", "token", name, "-n", ns, "--bound-object-kind", "Pod", "--bound-object-name", name)
	var err error
	if p.as, err = shared.Agent(name, strings.TrimSpace(token), harness.Direct); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestI4_PodsThatAreAgents(t *testing.T) {
	t.Parallel()
	if r := kubectl(t, shared.Admin, "create", "namespace", harness.ClusterAgents); !r.OK() && !strings.Contains(r.Stderr, "AlreadyExists") {
		t.Fatal(r.Output())
	}
	p := newPod(t, harness.ClusterAgents)
	ns := namespace(t)

	t.Run("a risky change is held, approved, and goes through", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := shared.StartKubectl(ctx, p.as, "delete", "namespace", ns, "--wait=false")
		ap, err := shared.WaitForApproval(ctx, p.uid, ns, cmd)
		if err != nil {
			t.Fatal(err)
		}
		if ap.Spec.Agent.Issuer != "kubernetes" || !strings.HasPrefix(ap.Spec.Agent.User, "system:serviceaccount:"+harness.ClusterAgents+":") {
			t.Errorf("asked by %+v", ap.Spec.Agent)
		}
		if r := tipstaff(t, p.as, "approve", ap.Name); r.OK() { // it is cluster-admin, and still an agent (I2)
			t.Errorf("an agent approves: %s", r.Output())
		}
		if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
			t.Fatal(r.Output())
		}
		if r := cmd.Wait(); !r.OK() {
			t.Errorf("approved, and still: %s", r.Output())
		}
	})

	t.Run("a token of no pod names no run: nothing can be changed with it", func(t *testing.T) {
		must(t, shared.Admin, "create", "serviceaccount", "podless", "-n", harness.ClusterAgents)
		must(t, shared.Admin, "create", "clusterrolebinding", "podless", "--clusterrole=cluster-admin", "--serviceaccount="+harness.ClusterAgents+":podless")
		token := must(t, shared.Admin, "create", "token", "podless", "-n", harness.ClusterAgents)
		k, err := shared.Agent("podless", strings.TrimSpace(token), harness.Direct)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, "names no run", k, "create", "configmap", "x", "-n", "default")
	})

	t.Run("a service account of another namespace is nobody's agent", func(t *testing.T) {
		other := newPod(t, "default")
		gone := namespace(t)
		must(t, other.as, "delete", "namespace", gone, "--wait=false")
	})

	t.Run("the audit trail knows the run by its pod", func(t *testing.T) {
		eventually(t, 30*time.Second, func() error {
			out, err := shared.Query(t.Context(), "SELECT DISTINCT user, issuer, run FROM tipstaff.audit_events WHERE run = '"+p.uid+"'")
			if err != nil {
				return err
			}
			if !strings.Contains(out, "system:serviceaccount:"+harness.ClusterAgents+":") || !strings.Contains(out, "kubernetes") {
				return fmt.Errorf("recorded: %q", out)
			}
			return nil
		})
	})

	t.Run("revoked, its changes are refused", func(t *testing.T) {
		if r := tipstaff(t, shared.Alice, "revoke", p.uid, "--issuer", "kubernetes", "--reason", "it went astray"); !r.OK() {
			t.Fatal(r.Output())
		}
		eventually(t, 3*time.Second, func() error {
			if r := kubectl(t, p.as, "create", "configmap", "after", "-n", "default", "--dry-run=server"); r.OK() || !strings.Contains(r.Stderr, "revoked") {
				return fmt.Errorf("a revoked pod's change: %s", r.Output())
			}
			return nil
		})
	})
}
