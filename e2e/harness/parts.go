package harness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tipstaff-dev/tipstaff/manifests"
)

const (
	// audience is the one that tokens are for.
	audience = "tipstaff"
	// partTimeout bounds how long one part may take to be ready, on a busy machine too.
	partTimeout = 90 * time.Second
	pollEvery   = 50 * time.Millisecond
)

func (c *Cluster) startEtcd(ctx context.Context) error {
	url, peer, cert := "https://"+c.addr.etcd, "https://"+c.addr.etcdPeer, c.certs.etcd
	var err error
	c.etcd, err = startProcess("etcd", c.logPath("etcd"), c.bin("etcd"), nil,
		"--name=harness", "--data-dir="+filepath.Join(c.Dir, "etcd"), "--log-level=warn",
		// etcd's own durability isn't under test, and fsync costs seconds on slow disks.
		"--unsafe-no-fsync",
		"--listen-client-urls="+url, "--advertise-client-urls="+url,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=harness="+peer,
		"--cert-file="+cert.cert, "--key-file="+cert.key, "--trusted-ca-file="+c.CAFile, "--client-cert-auth",
		"--peer-cert-file="+cert.cert, "--peer-key-file="+cert.key, "--peer-trusted-ca-file="+c.CAFile, "--peer-client-cert-auth",
	)
	if err != nil {
		return err
	}
	return c.waitHTTP(ctx, c.etcd, url+"/health", c.certs.etcdClient)
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	policy, err := c.auditPolicyFile(ctx)
	if err != nil {
		return err
	}
	tokens, audit := filepath.Join(c.Dir, "token-webhook.yaml"), filepath.Join(c.Dir, "audit-webhook.yaml")
	for name, url := range map[string]string{
		tokens: "https://" + c.addr.authn + "/tokenreview",
		audit:  "https://" + c.addr.ingest + "/audit/" + clusterName,
	} {
		text, err := manifests.WebhookKubeconfig(url, c.CAFile, c.certs.callback.cert, c.certs.callback.key)
		if err != nil {
			return fmt.Errorf("render %s: %w", name, err)
		}
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	admission, err := c.admissionConfigFile()
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(c.addr.apiserver)
	if err != nil {
		return err
	}
	args := []string{
		"--bind-address=" + host, "--advertise-address=" + host, "--secure-port=" + port,
		"--endpoint-reconciler-type=none", // loopback can't be an Endpoints address
		"--etcd-servers=https://" + c.addr.etcd, "--etcd-cafile=" + c.CAFile,
		"--etcd-certfile=" + c.certs.etcdClient.cert, "--etcd-keyfile=" + c.certs.etcdClient.key,
		"--client-ca-file=" + c.CAFile,
		"--tls-cert-file=" + c.certs.apiserver.cert, "--tls-private-key-file=" + c.certs.apiserver.key,
		"--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.certs.serviceAccounts.cert,
		"--service-account-signing-key-file=" + c.certs.serviceAccounts.key,
		"--api-audiences=https://kubernetes.default.svc," + audience,
		"--authorization-mode=RBAC",
		"--admission-control-config-file=" + admission,
		"--audit-policy-file=" + policy,
		"--audit-log-path=" + c.AuditLog, "--audit-log-mode=blocking",
	}
	args = append(args, c.nodeFlags()...)
	if !c.opts.WithoutTipstaff {
		args = append(args,
			"--authentication-token-webhook-config-file="+tokens,
			"--authentication-token-webhook-version=v1", "--authentication-token-webhook-cache-ttl=10s",
			"--audit-webhook-config-file="+audit, "--audit-webhook-mode=batch",
			"--audit-webhook-batch-max-wait=500ms",
			// The default of 10 s would make every test with a restart wait as
			// long. Five tries from 2 s still bridge 16 s.
			"--audit-webhook-initial-backoff=2s",
		)
	}
	c.apiserver, err = startProcess("kube-apiserver", c.logPath("kube-apiserver"), c.bin("kube-apiserver"), nil, args...)
	if err != nil {
		return err
	}
	admin := pair{cert: filepath.Join(c.Dir, "pki", "admin.crt"), key: filepath.Join(c.Dir, "pki", "admin.key")}
	return c.waitHTTP(ctx, c.apiserver, c.APIServerURL+"/readyz", admin)
}

// admissionConfigFile tells the API server how to show itself to admission
// webhooks: with the client certificate that Tipstaff asks for.
func (c *Cluster) admissionConfigFile() (string, error) {
	k := c.kubeconfig("admission-webhook")
	host := c.addr.webhook
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
users:
- name: %q
  user: {client-certificate: %q, client-key: %q}
`, host, c.certs.callback.cert, c.certs.callback.key)
	if err := os.WriteFile(string(k), []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the admission webhook's kubeconfig: %w", err)
	}
	name := filepath.Join(c.Dir, "admission.yaml")
	text = fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: ValidatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: %q
`, string(k))
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the admission configuration: %w", err)
	}
	return name, nil
}

func (c *Cluster) startControllerManager(context.Context) error {
	host, port, err := net.SplitHostPort(c.addr.kcm)
	if err != nil {
		return err
	}
	k := string(c.kubeconfig("controller-manager"))
	c.kcm, err = startProcess("kube-controller-manager", c.logPath("kube-controller-manager"), c.bin("kube-controller-manager"), nil,
		"--kubeconfig="+k, "--authentication-kubeconfig="+k, "--authorization-kubeconfig="+k,
		"--authentication-skip-lookup=true", "--leader-elect=false", "--use-service-account-credentials=true",
		"--bind-address="+host, "--secure-port="+port,
		"--tls-cert-file="+c.certs.kcm.cert, "--tls-private-key-file="+c.certs.kcm.key,
		"--service-account-private-key-file="+c.certs.serviceAccounts.key, "--root-ca-file="+c.CAFile,
		// What makes namespaces end, accounts appear and deployments count.
		"--controllers=namespace-controller,garbage-collector-controller,serviceaccount-controller,"+
			"root-ca-certificate-publisher-controller,deployment-controller,replicaset-controller,"+
			"clusterrole-aggregation-controller", // fills view and edit
	)
	return err
}

// waitForControllers comes last: the controllers warm up while Tipstaff starts.
func (c *Cluster) waitForControllers(ctx context.Context) error {
	return c.waitHTTP(ctx, c.kcm, "https://"+c.addr.kcm+"/healthz", c.certs.callback)
}

// waitHTTP returns when url answers 200, or with the reason why p never did.
func (c *Cluster) waitHTTP(ctx context.Context, p *process, url string, as pair) error {
	hc, err := c.httpClient(as)
	if err != nil {
		return err
	}
	defer hc.CloseIdleConnections()
	return waitFor(ctx, p, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := hc.Do(req)
		if err != nil {
			return err
		}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // only for the message
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %.1000s", resp.Status, b)
		}
		return nil
	})
}

// waitFor polls until check says nil, p ends or the time is over.
func waitFor(ctx context.Context, p *process, check func(context.Context) error) error {
	last := errors.New("it was never asked")
	err := wait.PollUntilContextTimeout(ctx, pollEvery, partTimeout, true, func(ctx context.Context) (bool, error) {
		if !p.running() {
			return false, p.ended()
		}
		if err := check(ctx); err != nil {
			if ctx.Err() == nil {
				last = err
			}
			return false, nil
		}
		return true, nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return fmt.Errorf("%s isn't ready after %s: %w; the end of its log:\n%s", p.name, partTimeout, last, lastLines(tailOf(p.logPath, 16<<10), 25))
	}
	return err
}

func (c *Cluster) httpClient(as pair) (*http.Client, error) {
	cert, err := loadPair(as)
	if err != nil {
		return nil, err
	}
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: c.ca.pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	}}, nil
}

func loadPair(p pair) (tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read a certificate back: %w", err)
	}
	return cert, nil
}

func listenLoopback() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	return l, nil
}
