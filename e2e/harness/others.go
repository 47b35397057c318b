package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// OtherIssuerName is what the config calls the second API server: agents are
// agent:<OtherIssuerName>:<namespace>/<service account>.
const OtherIssuerName = "other"

// otherIssuer is the config's entry for the second API server.
func (c *Cluster) otherIssuer() string {
	if !c.opts.OtherCluster {
		return ""
	}
	return fmt.Sprintf(`
  - name: %s
    url: %q
    caFile: %q
    audiences: [%s]
    algorithms: [RS256, ES256]
    mappings:
    - match: "has(claims['kubernetes.io'].pod)"
      subject: claims['kubernetes.io'].namespace + '/' + claims['kubernetes.io'].serviceaccount.name
      run: claims['kubernetes.io'].pod.uid
      task: "'pod ' + claims['kubernetes.io'].pod.name"`, OtherIssuerName, c.OtherURL(), c.CAFile, audience)
}

// OtherURL is where the second API server serves, and its tokens' issuer.
func (c *Cluster) OtherURL() string { return "https://" + c.addr.other }

// StartOther starts the second API server: a cluster of its own in the same
// etcd. args are further flags. It ends with the run.
func (c *Cluster) StartOther(ctx context.Context, args ...string) (Kubeconfig, error) {
	return c.startBare(ctx, "other", c.addr.other, args...)
}

// StartFresh starts an API server with nothing in it, called name. It ends with the run.
func (c *Cluster) StartFresh(ctx context.Context, name string) (Kubeconfig, error) {
	at, err := c.ports.take()
	if err != nil {
		return "", err
	}
	return c.startBare(ctx, name, at)
}

// startBare starts an API server that knows nothing of Tipstaff.
func (c *Cluster) startBare(ctx context.Context, name, at string, args ...string) (Kubeconfig, error) {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return "", err
	}
	k, url := c.kubeconfig(name+"-admin"), "https://"+at
	admin := c.userPair("admin")
	if err := writeKubeconfig(k, url, c.ca.pem, userCert(admin)); err != nil {
		return "", err
	}
	p, err := startProcess("kube-apiserver-"+name, c.logPath("kube-apiserver-"+name), c.bin("kube-apiserver"), nil, append([]string{
		"--bind-address=" + host, "--advertise-address=" + host, "--secure-port=" + port,
		"--endpoint-reconciler-type=none",
		"--etcd-prefix=/" + name, "--etcd-servers=https://" + c.addr.etcd, "--etcd-cafile=" + c.CAFile,
		"--etcd-certfile=" + c.certs.etcdClient.cert, "--etcd-keyfile=" + c.certs.etcdClient.key,
		"--client-ca-file=" + c.CAFile,
		"--tls-cert-file=" + c.certs.apiserver.cert, "--tls-private-key-file=" + c.certs.apiserver.key,
		"--service-cluster-ip-range=10.97.0.0/16",
		"--service-account-issuer=" + url,
		"--service-account-key-file=" + c.certs.serviceAccounts.cert,
		"--service-account-signing-key-file=" + c.certs.serviceAccounts.key,
		"--authorization-mode=RBAC",
	}, args...)...)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	c.others = append(c.others, p)
	c.mu.Unlock()
	return k, c.waitHTTP(ctx, p, url+"/readyz", admin)
}

// userPair is the client certificate of one of the run's users.
func (c *Cluster) userPair(name string) pair {
	return pair{cert: filepath.Join(c.Dir, "pki", name+".crt"), key: filepath.Join(c.Dir, "pki", name+".key")}
}

// Alone is a cluster whose API server takes no flags: only a proxy stands
// before it, which keeps its records with the first cluster's ingest.
type Alone struct {
	Admin Kubeconfig
	// Direct and Proxied are a run's ways there.
	Direct, Proxied func(name, token string) (Kubeconfig, error)
	ConfigFile      string
}

// AloneName is what it is called in the audit trail.
const AloneName = "alone"

// StartAlone starts one, and installs what docs/managed.md says. It ends with
// the run.
func (c *Cluster) StartAlone(ctx context.Context) (*Alone, error) {
	var apiserver, proxy, health string
	for _, p := range []*string{&apiserver, &proxy, &health} {
		addr, err := c.ports.take()
		if err != nil {
			return nil, err
		}
		*p = addr
	}
	admin, err := c.startBare(ctx, AloneName, apiserver)
	if err != nil {
		return nil, err
	}
	own := c.kubeconfig("tipstaff-" + AloneName)
	if err := writeKubeconfig(own, "https://"+apiserver, c.ca.pem, userCert(c.userPair("tipstaff"))); err != nil {
		return nil, err
	}
	name := filepath.Join(c.Dir, AloneName+".yaml")
	text := fmt.Sprintf(`apiVersion: tipstaff.dev/v1alpha1
kind: Config
cluster: %s
kubeconfig: %q
maskKeyFile: %q
health: {listen: %q}
access: {clusterRoles: [view], clusterWide: true}
authn:
%s      owner: "has(claims.act) ? claims.act.sub : ''"
      profile: "'viewer'"
  profiles:
  - name: viewer
    access:
    - {clusterRoles: [view], namespaces: ['*']}
proxy:
  listen: %q
  tls: {certFile: %q, keyFile: %q}
  audit: {mode: blocking-strict}
  records: {url: %q, caFile: %q, certFile: %q, keyFile: %q}
`, AloneName, own, c.maskKeyFile(), health, c.ownIssuer(),
		proxy, c.certs.tipstaff.cert, c.certs.tipstaff.key, "https://"+c.addr.ingest, c.CAFile, c.certs.callback.cert, c.certs.callback.key)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write the config: %w", err)
	}
	rbac := runCommand(ctx, c.Dir, c.Env(""), c.bin("tipstaff"), "manifests", "rbac", "--config", name).Wait()
	if !rbac.OK() {
		return nil, fmt.Errorf("tipstaff manifests rbac: %s", rbac.Output())
	}
	bindings := filepath.Join(c.Dir, AloneName+"-rbac.yaml")
	if err := os.WriteFile(bindings, []byte(rbac.Stdout), 0o600); err != nil {
		return nil, fmt.Errorf("write the bindings: %w", err)
	}
	base := filepath.Join(c.Root, "manifests", "base")
	for _, args := range [][]string{
		{"create", "-k", filepath.Join(c.Root, "manifests", "crds")},
		{"create", "-f", filepath.Join(base, "namespace.yaml"), "-f", filepath.Join(base, "rbac.yaml"), "-f", bindings},
		{"wait", "--for=condition=Established", "--timeout=60s", "crd/grants.tipstaff.dev", "crd/revocations.tipstaff.dev"},
	} {
		if r := c.Kubectl(ctx, admin, args...); !r.OK() {
			return nil, fmt.Errorf("kubectl %s: %s", strings.Join(args, " "), r.Output())
		}
	}
	p, err := startProcess("tipstaff-"+AloneName, c.logPath("tipstaff-"+AloneName), c.bin("tipstaff"), c.Env(""), "serve", "--config", name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.others = append(c.others, p)
	c.mu.Unlock()
	way := func(suffix, at string) func(name, token string) (Kubeconfig, error) {
		return func(name, token string) (Kubeconfig, error) {
			k := c.kubeconfig(name + suffix)
			return k, writeKubeconfig(k, "https://"+at, c.ca.pem, fmt.Sprintf("token: %q", token))
		}
	}
	return &Alone{Admin: admin, Direct: way("-alone-direct", apiserver), Proxied: way("-alone", proxy), ConfigFile: name},
		c.waitHTTP(ctx, p, "http://"+health+"/readyz", c.certs.callback)
}

// Replica is one more tipstaff, with the roles authn, webhook and proxy. Its
// proxy keeps its records with the first one's ingest, audit events of its own
// among them.
type Replica struct {
	// AuthnURL takes TokenReviews, ProxyURL what agents ask.
	AuthnURL, ProxyURL string
}

// StartReplica starts one more tipstaff on the same cluster. It ends with the run.
func (c *Cluster) StartReplica(ctx context.Context) (*Replica, error) {
	a := c.addr
	for _, p := range []*string{&a.authn, &a.webhook, &a.proxy, &a.health} {
		addr, err := c.ports.take()
		if err != nil {
			return nil, err
		}
		*p = addr
	}
	name := filepath.Join(c.Dir, "replica.yaml")
	records := fmt.Sprintf("\n  records: {url: %q, caFile: %q, certFile: %q, keyFile: %q}\n  audit: {mode: blocking-strict}",
		"https://"+a.ingest, c.CAFile, c.certs.callback.cert, c.certs.callback.key)
	if err := c.writeConfig(name, a, records); err != nil {
		return nil, err
	}
	p, err := startProcess("tipstaff-replica", c.logPath("tipstaff-replica"), c.bin("tipstaff"), c.Env(""),
		"serve", "--config", name, "--roles", "authn,webhook,proxy")
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.others, c.replica = append(c.others, p), p
	c.mu.Unlock()
	return &Replica{AuthnURL: "https://" + a.authn + "/tokenreview", ProxyURL: "https://" + a.proxy},
		c.waitHTTP(ctx, p, "http://"+a.health+"/readyz", c.certs.callback)
}

// StopReplica ends the replica, if one runs.
func (c *Cluster) StopReplica() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replica.stop(20 * time.Second)
}
