package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/manifests"
)

// auditPolicyFile writes the policy for the run's config.
func (c *Cluster) auditPolicyFile(ctx context.Context) (string, error) {
	if c.opts.WithoutTipstaff {
		name := filepath.Join(c.Dir, "audit-policy.yaml")
		if err := os.WriteFile(name, manifests.AuditPolicy, 0o600); err != nil {
			return "", fmt.Errorf("write the audit policy: %w", err)
		}
		return name, nil
	}
	return c.generate(ctx, "audit-policy")
}

// generate writes what `tipstaff manifests` makes of the run's config.
func (c *Cluster) generate(ctx context.Context, what string, args ...string) (string, error) {
	args = append([]string{"manifests", what, "--config", c.ConfigFile()}, args...)
	r := runCommand(ctx, c.Dir, c.Env(""), c.bin("tipstaff"), args...).Wait()
	if !r.OK() {
		return "", fmt.Errorf("tipstaff %s: %s", strings.Join(args, " "), r.Output())
	}
	name := filepath.Join(c.Dir, what+".yaml")
	if err := os.WriteFile(name, []byte(r.Stdout), 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return name, nil
}

// applyManifests installs what an admin installs: types, rights, webhooks.
// Only the webhooks' address is this run's own.
func (c *Cluster) applyManifests(ctx context.Context) error {
	hooks, err := c.generate(ctx, "webhooks", "--url", "https://"+c.addr.webhook, "--ca-file", c.CAFile)
	if err != nil {
		return err
	}
	bindings, err := c.generate(ctx, "rbac")
	if err != nil {
		return err
	}
	flows, err := c.generate(ctx, "flow-control")
	if err != nil {
		return err
	}
	base, crds := filepath.Join(c.Root, "manifests", "base"), filepath.Join(c.Root, "manifests", "crds")
	for _, args := range [][]string{
		{"create", "-k", crds},
		{"create", "-f", filepath.Join(base, "namespace.yaml"), "-f", filepath.Join(base, "rbac.yaml"), "-f", bindings, "-f", flows, "-f", hooks},
		{"wait", "--for=condition=Established", "--timeout=60s", "crd/approvals.tipstaff.dev", "crd/grants.tipstaff.dev", "crd/revocations.tipstaff.dev"},
	} {
		if r := c.Kubectl(ctx, c.Admin, args...); !r.OK() {
			return fmt.Errorf("kubectl %s: %s", strings.Join(args, " "), r.Output())
		}
	}
	return nil
}

// waitForWebhooks returns when the API server asks Tipstaff's webhooks: the
// guard refuses an Approval that anyone but tipstaff would create. A dry run
// leaves no trace.
func (c *Cluster) waitForWebhooks(ctx context.Context) error {
	probe := fmt.Sprintf(`{"apiVersion":"tipstaff.dev/v1alpha1","kind":"Approval","metadata":{"name":"probe"},"spec":{
"fingerprint":"%064d","agent":{"user":"agent:x:y","issuer":"x","run":"r"},"request":{"operation":"DELETE","version":"v1","resource":"namespaces"},
"action":"probe","rule":"probe","approvers":["nobody"],"quorum":1,"expiresAt":%q}}`, 0, time.Now().Add(time.Minute).UTC().Format(time.RFC3339))
	hc, err := c.httpClient(pair{cert: filepath.Join(c.Dir, "pki", "admin.crt"), key: filepath.Join(c.Dir, "pki", "admin.key")})
	if err != nil {
		return err
	}
	defer hc.CloseIdleConnections()
	url := c.APIServerURL + "/apis/tipstaff.dev/v1alpha1/approvals?dryRun=All"
	return waitFor(ctx, c.apiserver, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(probe))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := hc.Do(req)
		if err != nil {
			return err
		}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // judged below
		_ = resp.Body.Close()
		if !bytes.Contains(b, []byte(`admission webhook \"`+v1alpha1.GuardWebhookName+`\" denied`)) {
			return fmt.Errorf("an admin's Approval is not refused by %s: %s: %.500s", v1alpha1.GuardWebhookName, resp.Status, b)
		}
		return nil
	})
}
