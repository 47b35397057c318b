package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// An API server that takes no flags, as managed ones do, and the proxy before
// it: what docs/managed.md says is kept.
func TestI1_TheProxyAlone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	alone, err := shared.StartAlone(ctx)
	if err != nil {
		t.Fatal(err)
	}
	run := fmt.Sprintf("alone-%d", runs.Add(1))
	token, err := shared.Mint(ctx, run, issuer.Claims{Private: map[string]any{"act": map[string]any{"sub": "ada"}}})
	if err != nil {
		t.Fatal(err)
	}
	proxied, err := alone.Proxied(run, token)
	if err != nil {
		t.Fatal(err)
	}
	direct, err := alone.Direct(run, token)
	if err != nil {
		t.Fatal(err)
	}
	must(t, alone.Admin, "create", "namespace", "shop")
	must(t, alone.Admin, "create", "secret", "generic", "real", "-n", "shop", "--from-literal=key="+realValue)
	must(t, alone.Admin, "create", "clusterrole", "changes-secrets", "--verb=get,list,watch,update,patch", "--resource=secrets")
	must(t, alone.Admin, "create", "rolebinding", "changes-secrets", "-n", "shop", "--clusterrole=changes-secrets", "--group="+agent{run: run}.group())

	// Identity: of the run, with what its profile gives and no more; nothing without the proxy.
	who := must(t, proxied, "auth", "whoami", "-o", "json")
	for _, want := range []string{"agent:" + harness.IssuerName + ":", "tipstaff:proxied", agent{run: run}.group(), "ada"} {
		if !strings.Contains(who, want) {
			t.Errorf("%q isn't in %s", want, who)
		}
	}
	must(t, proxied, "get", "pods", "-A")
	refused(t, "orbidden", proxied, "create", "clusterrole", "mine", "--verb=get", "--resource=pods")
	refused(t, "", direct, "get", "pods", "-A")
	refused(t, "nauthorized", direct, "get", "--raw", "/api")

	// Masking, both ways.
	read := must(t, proxied, "get", "secret", "real", "-n", "shop", "-o", "yaml")
	leaks(t, "a Secret", read, realValue)
	must(t, proxied, "replace", "-f", writeFile(t, strings.Replace(read, "  name: real", "  name: real\n  labels: {a: b}", 1)))
	if got := must(t, alone.Admin, "get", "secret", "real", "-n", "shop", "-o", "go-template={{base64decode .data.key}} {{.metadata.labels.a}}"); got != realValue+" b" {
		t.Errorf("it became %q", got)
	}

	// The audit trail, by the proxy's own word, refusals included.
	eventually(t, 30*time.Second, func() error {
		out, err := shared.Query(ctx, "SELECT verb, resource, code, owner FROM tipstaff.audit_events FINAL WHERE cluster = '"+harness.AloneName+"' AND run = '"+run+"' AND source = '"+schema.SourceProxy+"' AND stage = 'ResponseComplete'")
		if err != nil {
			return err
		}
		for _, want := range []string{"get\tsecrets\t200\tada", "update\tsecrets\t200\tada", "create\tclusterroles\t403\tada", "list\tpods\t200\tada"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("%q isn't in\n%s", want, out)
			}
		}
		return nil
	})

	// Revocation, at once.
	if r := tipstaff(t, alone.Admin, "revoke", run, "--reason", "it went astray"); !r.OK() {
		t.Fatal(r.Output())
	}
	eventually(t, 5*time.Second, func() error {
		if r := kubectl(t, proxied, "get", "--raw", "/api"); r.OK() || !strings.Contains(r.Output(), "it went astray") && !strings.Contains(r.Output(), "revoked") {
			return errors.New(r.Output())
		}
		return nil
	})
}
