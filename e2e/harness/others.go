package harness

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
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
	host, port, err := net.SplitHostPort(c.addr.other)
	if err != nil {
		return "", err
	}
	k := c.kubeconfig("other-admin")
	admin := pair{cert: filepath.Join(c.Dir, "pki", "admin.crt"), key: filepath.Join(c.Dir, "pki", "admin.key")}
	if err := writeKubeconfig(k, c.OtherURL(), c.ca.pem, userCert(admin)); err != nil {
		return "", err
	}
	p, err := startProcess("kube-apiserver-other", c.logPath("kube-apiserver-other"), c.bin("kube-apiserver"), nil, append([]string{
		"--bind-address=" + host, "--advertise-address=" + host, "--secure-port=" + port,
		"--endpoint-reconciler-type=none",
		"--etcd-prefix=/other", "--etcd-servers=https://" + c.addr.etcd, "--etcd-cafile=" + c.CAFile,
		"--etcd-certfile=" + c.certs.etcdClient.cert, "--etcd-keyfile=" + c.certs.etcdClient.key,
		"--client-ca-file=" + c.CAFile,
		"--tls-cert-file=" + c.certs.apiserver.cert, "--tls-private-key-file=" + c.certs.apiserver.key,
		"--service-cluster-ip-range=10.97.0.0/16",
		"--service-account-issuer=" + c.OtherURL(),
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
	return k, c.waitHTTP(ctx, p, c.OtherURL()+"/readyz", admin)
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
