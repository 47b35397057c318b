package harness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tipstaff-dev/tipstaff/manifests"
)

const (
	clusterName    = "demo"
	clickhouseUser = "tipstaff"
	// IssuerName is what the config calls the run's OIDC provider: agents are
	// agent:<IssuerName>:<subject>.
	IssuerName = "platform"
	// ClusterAgents is the namespace whose service accounts count as agents.
	ClusterAgents = "cluster-agents"
	// ScopedProfile is the profile (claim profile) of a run that may view the
	// namespaces of the claim namespaces, and edit them through the proxy.
	ScopedProfile = "scoped"
)

// makeSecrets writes the mask key, the key of the audit log's heads and
// ClickHouse's password.
func (c *Cluster) makeSecrets() error {
	b := make([]byte, 48)
	_, _ = rand.Read(b) // never fails since Go 1.24
	password := hex.EncodeToString(b[32:])
	u := url.URL{Scheme: "http", Host: c.addr.clickhouse, Path: "/", User: url.UserPassword(clickhouseUser, password)}
	c.ClickHouseURL = u.String()
	if err := os.WriteFile(c.maskKeyFile(), b[:32], 0o600); err != nil {
		return fmt.Errorf("write the mask key: %w", err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of the audit log's heads: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("make the key of the audit log's heads: %w", err)
	}
	if err := os.WriteFile(c.chainKeyFile(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("write the key of the audit log's heads: %w", err)
	}
	if err := os.WriteFile(c.passwordFile(), []byte(password), 0o600); err != nil {
		return fmt.Errorf("write ClickHouse's password: %w", err)
	}
	return nil
}

func (c *Cluster) maskKeyFile() string  { return filepath.Join(c.Dir, "mask.key") }
func (c *Cluster) chainKeyFile() string { return filepath.Join(c.Dir, "chain.key") }

// CheckpointFile has the heads of the audit log.
func (c *Cluster) CheckpointFile() string { return filepath.Join(c.Dir, "checkpoints.jsonl") }

func (c *Cluster) passwordFile() string { return filepath.Join(c.Dir, "clickhouse.password") }

// ConfigFile is tipstaff's config.
func (c *Cluster) ConfigFile() string { return filepath.Join(c.Dir, "tipstaff.yaml") }

// writeConfig writes tipstaff's config, for the roles that listen at a. more are
// lines of the proxy's section.
func (c *Cluster) writeConfig(name string, a addresses, more string) error {
	lib, err := c.libchdb()
	if err != nil {
		return err
	}
	cert := c.certs.tipstaff
	// One CA signs everyone here, so the name says who may call.
	tls := fmt.Sprintf("{certFile: %q, keyFile: %q, clientCAFile: %q, clientNames: [kube-apiserver]}", cert.cert, cert.key, c.CAFile)
	inline := ""
	if c.opts.InlineWait > 0 {
		inline = "\n  inlineWait: " + c.opts.InlineWait.String()
	}
	rules := ""
	if c.opts.ExtraRules != "" {
		// The config's rules replace the default ones, so both are written out.
		rules = "\n" + indent(string(manifests.DefaultRules)) + "\n" + indent(c.opts.ExtraRules)
	}
	text := fmt.Sprintf(`apiVersion: tipstaff.dev/v1alpha1
kind: Config
cluster: %s
kubeconfig: %q
maskKeyFile: %q
masking:
  fields: # what tipstaff conformance --crd plants in a kind of its own
  - {resource: widgets, kind: Widget, paths: [spec.credential]}
health:
  listen: %q
clusterAgents:
  namespaces: [%s]
access:
  clusterRoles: [view, edit]
  clusterWide: true
  grace: 1s
authn:
  listen: %q
  tls: %s
%s      model: "has(claims.model) ? claims.model : ''"
      owner: "has(claims.act) ? claims.act.sub : ''"
      task: "has(claims.task) ? claims.task : ''"
      profile: "has(claims.profile) ? claims.profile : 'default'"%s
  profiles:
  # What a run with this profile may do in the namespaces that its token names.
  - name: %s
    access:
    - clusterRoles: [view]
      namespacesFrom: claims.namespaces
      path: direct
    - clusterRoles: [edit] # reads Secrets, so through the proxy only
      namespacesFrom: claims.namespaces
webhook:
  listen: %q
  tls: %s%s%s
proxy:
  listen: %q
  tls: {certFile: %q, keyFile: %q}%s
ingest:
  listen: %q
  tls: %s
  clusters: [%s, %s]
  jetStream:
    dir: %q
  chain:
    keyFile: %q
    checkpointFile: %q
clickhouse:
  url: %q
  username: %s
  passwordFile: %q
  embedded:
    dir: %q
    library: %q
`, clusterName, c.kubeconfig("tipstaff"), c.maskKeyFile(), a.health, ClusterAgents,
		a.authn, tls, c.ownIssuer(), c.otherIssuer(), ScopedProfile,
		a.webhook, tls, inline, rules,
		a.proxy, cert.cert, cert.key, more,
		a.ingest, tls, clusterName, AloneName, filepath.Join(c.Dir, "jetstream"), c.chainKeyFile(), c.CheckpointFile(),
		"http://"+a.clickhouse, clickhouseUser, c.passwordFile(), filepath.Join(c.Dir, "clickhouse"), lib)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write tipstaff's config: %w", err)
	}
	return nil
}

// ownIssuer begins a config's entry for the run's OIDC provider. What more its
// mapping gives follows.
func (c *Cluster) ownIssuer() string {
	return fmt.Sprintf(`  issuers:
  - name: %s
    url: %q
    caFile: %q
    audiences: [%s]
    algorithms: [ES256]
    maxTokenAge: 13h
    mappings:
    - run: claims.run
`, IssuerName, c.Issuer.URL, c.CAFile, audience)
}

// indent makes text a part of the config's webhook section.
func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}

// StartTipstaff starts `tipstaff serve` and returns when it is ready. Started
// again it finds its data where the last one left it.
func (c *Cluster) StartTipstaff(ctx context.Context) error {
	c.mu.Lock()
	if c.tipstaff != nil && c.tipstaff.running() {
		c.mu.Unlock()
		return errors.New("tipstaff is running already")
	}
	p, err := startProcess("tipstaff", c.logPath("tipstaff"), c.bin("tipstaff"), c.Env(""), "serve", "--config", c.ConfigFile())
	if err != nil {
		c.mu.Unlock()
		return err
	}
	c.tipstaff = p
	c.mu.Unlock()
	return c.waitHTTP(ctx, p, c.HealthURL+"/readyz", c.certs.callback)
}

// StopTipstaff ends tipstaff as an operator does (SIGTERM) and waits.
func (c *Cluster) StopTipstaff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tipstaff.stop(20 * time.Second)
}

// KillTipstaff ends tipstaff and its children with SIGKILL.
func (c *Cluster) KillTipstaff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tipstaff.kill()
}

// PauseTipstaff lets tipstaff answer nothing, with its connections open, until
// ResumeTipstaff.
func (c *Cluster) PauseTipstaff() error { return c.signalTipstaff(syscall.SIGSTOP) }

// ResumeTipstaff ends a pause.
func (c *Cluster) ResumeTipstaff() error { return c.signalTipstaff(syscall.SIGCONT) }

func (c *Cluster) signalTipstaff(s syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.tipstaff.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send tipstaff %s: %w", s, err)
	}
	return nil
}

// Tipstaff runs the tipstaff command as somebody. The commands that read
// ClickHouse get its URL.
func (c *Cluster) Tipstaff(ctx context.Context, as Kubeconfig, args ...string) Result {
	if len(args) > 0 && (args[0] == "runs" || args[0] == "query" || args[0] == "migrate") {
		args = append(args, "--clickhouse", c.ClickHouseURL)
	}
	return runCommand(ctx, c.Dir, c.Env(as), c.bin("tipstaff"), args...).Wait()
}

// Query sends SQL to ClickHouse and returns its answer in the format that the
// SQL asks for (TabSeparated if it doesn't).
func (c *Cluster) Query(ctx context.Context, sql string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.ClickHouseURL, strings.NewReader(sql))
	if err != nil {
		return "", fmt.Errorf("query ClickHouse: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("query ClickHouse: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("query ClickHouse: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("query ClickHouse: %s: %s", resp.Status, bytes.TrimSpace(b))
	}
	return string(b), nil
}
