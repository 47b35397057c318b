package harness

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// Path is a way to the API server.
type Path int

const (
	// Direct goes to the API server itself.
	Direct Path = iota
	// Proxied goes through Tipstaff's masking proxy.
	Proxied
)

// Kubectl runs kubectl as somebody until it ends.
func (c *Cluster) Kubectl(ctx context.Context, as Kubeconfig, args ...string) Result {
	return c.StartKubectl(ctx, as, args...).Wait()
}

// StartKubectl starts kubectl as somebody. It is killed when ctx ends.
func (c *Cluster) StartKubectl(ctx context.Context, as Kubeconfig, args ...string) *Command {
	return runCommand(ctx, c.Dir, c.Env(as), c.bin("kubectl"), args...)
}

// Helm runs helm as somebody, to its end. It is no part of the control plane:
// only who calls this needs it in bin/ (make helm).
func (c *Cluster) Helm(ctx context.Context, as Kubeconfig, args ...string) Result {
	return runCommand(ctx, c.Dir, c.Env(as), c.bin("helm"), args...).Wait()
}

// Env is the environment of a command that acts as somebody: bin/ comes first
// in its PATH, so `kubectl tipstaff` is found, and its caches stay in the
// run's folder.
func (c *Cluster) Env(as Kubeconfig) []string {
	return []string{
		"PATH=" + filepath.Join(c.Root, "bin") + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + filepath.Join(c.Dir, "home"),
		"KUBECONFIG=" + string(as),
	}
}

// Mint gets a token for one run from the issuer. claims are further claims and
// win over run.
func (c *Cluster) Mint(ctx context.Context, run string, claims issuer.Claims) (string, error) {
	private := map[string]any{"run": run}
	for k, v := range claims.Private {
		private[k] = v
	}
	claims.Private = private
	return c.Issuer.Mint(ctx, claims)
}

// Agent writes a kubeconfig that holds a token, for one of the two ways.
func (c *Cluster) Agent(name, token string, path Path) (Kubeconfig, error) {
	server, suffix := c.APIServerURL, ""
	if path == Proxied {
		server, suffix = c.ProxyURL, "-proxy"
	}
	k := c.kubeconfig(name + suffix)
	return k, writeKubeconfig(k, server, c.ca.pem, "token: "+fmt.Sprintf("%q", token))
}

// userCert is a kubeconfig's user with a client certificate.
func userCert(p pair) string {
	return fmt.Sprintf("client-certificate: %q, client-key: %q", p.cert, p.key)
}

// writeKubeconfig writes a kubeconfig with one server and one user.
func writeKubeconfig(name Kubeconfig, server string, ca []byte, user string) error {
	who := strings.TrimSuffix(filepath.Base(string(name)), ".kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: tipstaff
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: %q
  user: {%s}
contexts:
- name: %q
  context: {cluster: tipstaff, user: %q}
current-context: %q
`, server, base64.StdEncoding.EncodeToString(ca), who, user, who, who, who)
	if err := os.WriteFile(string(name), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the kubeconfig of %s: %w", who, err)
	}
	return nil
}
