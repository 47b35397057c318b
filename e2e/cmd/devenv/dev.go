package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// devTokenLife is a working day: dev's kubeconfigs can't renew their tokens.
const devTokenLife = 12 * time.Hour

// What dev writes into .dev/, and removes when it ends.
const (
	fileAdmin      = "admin.kubeconfig"
	fileAgent      = "agent.kubeconfig"
	fileAgentProxy = "agent-proxy.kubeconfig"
	fileApprover   = "approver.kubeconfig"
	fileClickHouse = "clickhouse.url"
	fileIssuer     = "issuer.url"
	fileCA         = "ca.crt"
	fileSecret     = "issuer.secret"
	fileMint       = "mint-token"
)

// mintScript finds its way from where it lies.
const mintScript = `#!/bin/sh
# Prints a token for one run: mint-token --run R [--claim k=v]... [--subject S] [--lifetime 12h]
dir=$(cd "$(dirname "$0")" && pwd) || exit 1
exec "$dir/../bin/devenv" mint-token --dir "$dir" "$@"
`

// dev keeps an environment running until a signal.
func dev(ctx context.Context) error {
	root, err := harness.Root()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, ".dev")
	c, err := harness.Start(ctx, harness.Options{Dir: filepath.Join(dir, "state"), Progress: tellProgress})
	if err != nil {
		return err
	}
	defer c.Stop()
	files, err := devFiles(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		for name := range files {
			_ = os.Remove(filepath.Join(dir, name)) // what it describes is gone
		}
	}()
	for name, content := range files {
		mode := os.FileMode(0o600)
		if name == fileMint {
			mode = 0o700
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, mode); err != nil {
			return fmt.Errorf("describe the environment: %w", err)
		}
	}
	fmt.Printf(`
in .dev/: %s, %s, %s, %s; %s, %s, mint-token
  bin/kubectl --kubeconfig .dev/%s auth whoami
  bin/tipstaff runs --clickhouse "$(cat .dev/%s)"
  curl --data-binary 'SELECT * FROM tipstaff.audit_events FINAL LIMIT 5 FORMAT Vertical' "$(cat .dev/%s)"
  .dev/mint-token --run R --claim model=m --claim 'act={"sub":"ada"}'
logs: .dev/state/logs
ready
`, fileAdmin, fileAgent, fileAgentProxy, fileApprover, fileClickHouse, fileIssuer, fileAgent, fileClickHouse, fileClickHouse)
	<-ctx.Done()
	fmt.Println("stopping")
	return nil
}

// devFiles is what stands in .dev/.
func devFiles(ctx context.Context, c *harness.Cluster) (map[string][]byte, error) {
	token, err := c.Mint(ctx, "dev", issuer.Claims{Subject: "coder", Lifetime: devTokenLife, Private: map[string]any{
		"model": "demo-model", "task": "look around", "act": map[string]any{"sub": "ada@example.com"},
	}})
	if err != nil {
		return nil, err
	}
	direct, err := c.Agent("agent", token, harness.Direct)
	if err != nil {
		return nil, err
	}
	proxied, err := c.Agent("agent", token, harness.Proxied)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		fileClickHouse: []byte(c.ClickHouseURL + "\n"),
		fileIssuer:     []byte(c.Issuer.URL + "\n"),
		fileSecret:     []byte(c.Issuer.AdminSecret),
		fileMint:       []byte(mintScript),
	}
	for name, from := range map[string]string{
		fileAdmin: string(c.Admin), fileApprover: string(c.Alice), fileAgent: string(direct), fileAgentProxy: string(proxied), fileCA: c.CAFile,
	} {
		b, err := os.ReadFile(from)
		if err != nil {
			return nil, fmt.Errorf("describe the environment: %w", err)
		}
		files[name] = b
	}
	return files, nil
}

// tellProgress prints one line a step.
func tellProgress(elapsed time.Duration, text string) {
	fmt.Printf("%6.1f s  %s\n", elapsed.Seconds(), text)
}

var errNoDev = errors.New("no environment is running: start it with `make dev`")
