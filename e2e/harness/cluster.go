package harness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// Options says how to run. The zero value is right for tests.
type Options struct {
	// Dir is the run's folder; what lies in it is removed. Empty is a new
	// temporary folder.
	Dir string
	// Progress hears what is being done, with the time since Start. It may be nil.
	Progress func(elapsed time.Duration, text string)
	// InlineWait is how long a held call waits within one request. Zero leaves
	// Tipstaff's default.
	InlineWait time.Duration
	// ExtraRules are risk rules, as YAML list items, beside the default ones.
	ExtraRules string
	// WithoutTipstaff starts the control plane and the issuer only.
	WithoutTipstaff bool
	// OtherCluster makes the service accounts of a second API server agents'
	// identities. Cluster.StartOther starts it.
	OtherCluster bool
	// Node runs a kubelet, so that pods run. It needs root; see NodeProblem.
	Node bool
}

// Kubeconfig is the path of a kubeconfig file: whom to be, where to connect.
type Kubeconfig string

// Cluster is a running control plane with Tipstaff beside it.
type Cluster struct {
	// Root is the repository, Dir the run's folder.
	Root, Dir string
	// CAFile verifies every server of the run.
	CAFile string
	// APIServerURL and ProxyURL are the two ways in: direct, and masked.
	APIServerURL, ProxyURL string
	// ClickHouseURL is ClickHouse's HTTP interface, with credentials.
	ClickHouseURL string
	// HealthURL is Tipstaff's health server.
	HealthURL string
	// Admin is in system:masters; Alice and Bob are approvers;
	// Carol is a person without any group.
	Admin, Alice, Bob, Carol Kubeconfig
	// AuditLog is the API server's own audit log: a second backend under the
	// same policy, to compare with. It is not masked.
	AuditLog string
	// Issuer gets tokens from the run's OIDC provider.
	Issuer *issuer.Client

	began    time.Time
	opts     Options
	place    *place
	ca       *authority
	ports    ports
	addr     addresses
	certs    certificates
	provider *issuer.Provider

	etcd, apiserver, kcm *process
	node                 *node

	mu       sync.Mutex
	tipstaff *process
	replica  *process
	others   []*process // replicas of tipstaff, other API servers
	stopped  bool
}

// ApproverGroup is the group that the default rules name.
const ApproverGroup = "tipstaff-approvers"

// addresses are the loopback ports of the parts, host:port.
type addresses struct {
	etcd, etcdPeer, apiserver, kcm                    string
	authn, webhook, proxy, ingest, health, clickhouse string
	other, kubelet                                    string
}

// certificates are the key pairs of the parts.
type certificates struct {
	etcd, apiserver, etcdClient, kcm, serviceAccounts, tipstaff, callback, issuer pair
}

// Start runs everything and returns when all of it is ready. On an error
// nothing is left behind.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	for attempt := 1; ; attempt++ {
		c, err := start(ctx, opts)
		if err == nil {
			return c, nil
		}
		c.Stop()
		if errors.Is(err, errPortInUse) && attempt < 3 {
			continue // other ports next time
		}
		return nil, err
	}
}

func start(ctx context.Context, opts Options) (*Cluster, error) {
	c := &Cluster{opts: opts, began: time.Now()}
	if runtime.GOOS != "linux" {
		return c, fmt.Errorf("the harness runs on Linux (parent-death signals); this is %s", runtime.GOOS)
	}
	root, err := Root()
	if err != nil {
		return c, err
	}
	c.Root = root
	if err := c.checkTools(); err != nil {
		return c, err
	}
	if c.place, err = newPlace(opts.Dir); err != nil {
		return c, err
	}
	c.Dir = c.place.dir
	for _, sub := range []string{"logs", "home", "kubeconfig"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, sub), 0o700); err != nil {
			return c, fmt.Errorf("make the run's folder: %w", err)
		}
	}
	if err := c.prepare(); err != nil {
		return c, err
	}

	type step struct {
		text string
		do   func(context.Context) error
		own  bool // needs Tipstaff
	}
	steps := []step{
		{"starting etcd", c.startEtcd, false},
		{"starting kube-apiserver", c.startAPIServer, false},
		{"installing Tipstaff's types, rights and webhooks in the cluster", c.applyManifests, true},
		{"starting kube-controller-manager", c.startControllerManager, false},
		{"starting tipstaff serve (with JetStream and the ClickHouse engine inside)", c.StartTipstaff, true},
		{"waiting until the API server asks the admission webhooks", c.waitForWebhooks, true},
		{"waiting for kube-controller-manager", c.waitForControllers, false},
	}
	if opts.Node {
		steps = append(steps, step{"starting a kubelet and its containerd", c.startNode, false})
	}
	for _, s := range steps {
		if s.own && opts.WithoutTipstaff {
			continue
		}
		c.progress("%s", s.text)
		if err := s.do(ctx); err != nil {
			return c, err
		}
	}
	c.progress("ready")
	return c, nil
}

// checkTools names what is missing before anything starts.
func (c *Cluster) checkTools() error {
	var missing []string
	tools := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kubectl"}
	if !c.opts.WithoutTipstaff {
		tools = append(tools, "tipstaff")
	}
	for _, name := range tools {
		st, err := os.Stat(c.bin(name))
		if err != nil || st.IsDir() || st.Mode()&0o111 == 0 {
			missing = append(missing, "bin/"+name)
		}
	}
	if c.opts.Node {
		if _, err := os.Stat(c.bin("kubelet")); err != nil {
			missing = append(missing, "bin/kubelet (make node)")
		}
	}
	if !c.opts.WithoutTipstaff {
		if _, err := c.libchdb(); err != nil {
			missing = append(missing, err.Error())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing in %s: %s; run `make build tools` there first", c.Root, strings.Join(missing, ", "))
	}
	return nil
}

// libchdb finds the ClickHouse engine that `make lib` installs.
func (c *Cluster) libchdb() (string, error) {
	const pattern = "tools/chdb/node_modules/@chdb/lib-*/libchdb.so"
	found, err := filepath.Glob(filepath.Join(c.Root, pattern))
	if err != nil || len(found) == 0 {
		return "", errors.New(pattern)
	}
	return found[0], nil
}

// prepare makes the ports, certificates, kubeconfigs and the issuer.
func (c *Cluster) prepare() error {
	a := &c.addr
	for _, p := range []*string{
		&a.etcd, &a.etcdPeer, &a.apiserver, &a.kcm,
		&a.authn, &a.webhook, &a.proxy, &a.ingest, &a.health, &a.clickhouse, &a.other, &a.kubelet,
	} {
		addr, err := c.ports.take()
		if err != nil {
			return err
		}
		*p = addr
	}
	c.APIServerURL, c.ProxyURL = "https://"+a.apiserver, "https://"+a.proxy
	c.HealthURL = "http://" + a.health
	c.AuditLog = filepath.Join(c.Dir, "logs", "audit.log")

	ca, err := newAuthority(filepath.Join(c.Dir, "pki"))
	if err != nil {
		return err
	}
	c.ca, c.CAFile = ca, ca.file()
	if err := c.makeCertificates(); err != nil {
		return err
	}
	if err := c.makeSecrets(); err != nil {
		return err
	}
	if err := c.startIssuer(); err != nil || c.opts.WithoutTipstaff {
		return err
	}
	return c.writeConfig(c.ConfigFile(), c.addr, "")
}

func (c *Cluster) makeCertificates() error {
	for _, s := range []struct {
		to   *pair
		name string
	}{
		{&c.certs.etcd, "etcd"},
		{&c.certs.apiserver, "kube-apiserver"},
		{&c.certs.kcm, "kube-controller-manager"},
		{&c.certs.serviceAccounts, "service-accounts"}, // only its key is used
		{&c.certs.tipstaff, "tipstaff-serving"},
		{&c.certs.issuer, "issuer"},
	} {
		p, err := c.ca.serving(s.name)
		if err != nil {
			return err
		}
		*s.to = p
	}
	var err error
	if c.certs.etcdClient, err = c.ca.client("etcd-client", "kube-apiserver-etcd-client"); err != nil {
		return err
	}
	// How the API server shows itself to Tipstaff's webhooks.
	if c.certs.callback, err = c.ca.client("apiserver-to-tipstaff", "kube-apiserver"); err != nil {
		return err
	}
	for _, p := range []struct {
		to         *Kubeconfig
		file, user string
		groups     []string
	}{
		{&c.Admin, "admin", "admin", []string{"system:masters"}},
		{&c.Alice, "alice", "alice", []string{ApproverGroup}},
		{&c.Bob, "bob", "bob", []string{ApproverGroup}},
		{&c.Carol, "carol", "carol", nil},
		{nil, "controller-manager", "system:kube-controller-manager", nil},
		{nil, "tipstaff", "tipstaff", nil},
	} {
		cert, err := c.ca.client(p.file, p.user, p.groups...)
		if err != nil {
			return err
		}
		k := c.kubeconfig(p.file)
		if p.to != nil {
			*p.to = k
		}
		if err := writeKubeconfig(k, c.APIServerURL, c.ca.pem, userCert(cert)); err != nil {
			return err
		}
	}
	return nil
}

// startIssuer serves the OIDC provider within this process.
func (c *Cluster) startIssuer() error {
	cert, err := loadPair(c.certs.issuer)
	if err != nil {
		return err
	}
	l, err := listenLoopback()
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(c.logPath("issuer"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the issuer's log: %w", err)
	}
	// The file stays open as long as the process: requests may log late.
	c.provider, err = issuer.Start(l, cert, []string{audience}, slog.New(slog.NewTextHandler(logFile, nil)))
	if err != nil {
		return err
	}
	c.Issuer = &issuer.Client{URL: c.provider.URL, AdminSecret: c.provider.AdminSecret, Roots: c.ca.pool}
	return nil
}

// Stop ends every part in order (so that the API server's last audit events
// still reach Tipstaff), then removes the folder. It may be called twice.
func (c *Cluster) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	c.stopped = true
	const grace = 10 * time.Second
	for _, p := range c.others {
		p.stop(grace)
	}
	c.node.stop(c, grace)
	c.kcm.stop(grace)
	c.apiserver.stop(grace)
	c.tipstaff.stop(grace)
	c.etcd.stop(grace)
	if c.provider != nil {
		_ = c.provider.Close() // it is ours, and about to go
	}
	c.ports.release()
	if c.place != nil {
		c.place.remove()
	}
}

// Logs returns the end of every part's log.
func (c *Cluster) Logs() string {
	names, err := filepath.Glob(filepath.Join(c.Dir, "logs", "*.log"))
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, name := range names {
		if name == c.AuditLog {
			continue // unmasked
		}
		fmt.Fprintf(&b, "--- %s (end)\n%s\n", filepath.Base(name), lastLines(tailOf(name, 16<<10), 40))
	}
	return b.String()
}

// Log returns everything that a part has logged: etcd, kube-apiserver,
// kube-controller-manager, tipstaff or issuer.
func (c *Cluster) Log(part string) (string, error) {
	b, err := os.ReadFile(c.logPath(part))
	if err != nil {
		return "", fmt.Errorf("read the log of %s: %w", part, err)
	}
	return string(b), nil
}

func (c *Cluster) bin(name string) string     { return filepath.Join(c.Root, "bin", name) }
func (c *Cluster) logPath(part string) string { return filepath.Join(c.Dir, "logs", part+".log") }

func (c *Cluster) kubeconfig(name string) Kubeconfig {
	return Kubeconfig(filepath.Join(c.Dir, "kubeconfig", name+".kubeconfig"))
}

func (c *Cluster) progress(format string, args ...any) {
	if c.opts.Progress != nil {
		c.opts.Progress(time.Since(c.began), fmt.Sprintf(format, args...))
	}
}
