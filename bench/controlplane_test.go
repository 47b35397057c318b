package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// controlPlane is etcd and an API server that verifies the platform's tokens
// itself, by structured authentication.
type controlPlane struct {
	etcd, apiserver *server
	client          *http.Client
	url             string
}

// structuredAuthentication says the same as the scenario's authn configuration
// does: one issuer, seven expressions of CEL.
const structuredAuthentication = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: %q
    audiences: [%s]
    certificateAuthority: %q
  claimMappings:
    username: {expression: "'agent:platform:' + claims.sub"}
    groups: {expression: "['tipstaff:agents', 'tipstaff:profile:' + claims.profile, 'tipstaff:run:platform:' + claims.run_id]"}
    extra:
    - {key: tipstaff.dev/run, valueExpression: claims.run_id}
    - {key: tipstaff.dev/model, valueExpression: "has(claims.model) ? claims.model : ''"}
    - {key: tipstaff.dev/owner, valueExpression: "has(claims.act) ? claims.act.sub : ''"}
    - {key: tipstaff.dev/task, valueExpression: "has(claims.task) ? claims.task : ''"}
  claimValidationRules:
  - {expression: "has(claims.run_id)", message: a run}
`

// startControlPlane must be called by a goroutine that is locked to its thread.
func startControlPlane(ctx context.Context, id *identity, p *platform, flags ...string) (*controlPlane, error) {
	ports, err := freeAddresses(3)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(ports[2])
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(certFile(id.dir))
	if err != nil {
		return nil, err
	}
	auth := filepath.Join(id.dir, "authentication.yaml")
	if err := os.WriteFile(auth, fmt.Appendf(nil, structuredAuthentication, p.url, audience, ca), 0o600); err != nil {
		return nil, err
	}
	etcd, peer := "http://"+ports[0], "http://"+ports[1]
	c := &controlPlane{url: "https://" + ports[2], client: id.httpClient()}
	if c.etcd, err = startPart(id.dir, "etcd", "--data-dir="+filepath.Join(id.dir, "etcd"), "--log-level=error", "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer); err != nil {
		return c, err
	}
	if c.apiserver, err = startPart(id.dir, "kube-apiserver", append(flags,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+port, "--endpoint-reconciler-type=none",
		"--etcd-servers="+etcd, "--client-ca-file="+certFile(id.dir),
		"--tls-cert-file="+certFile(id.dir), "--tls-private-key-file="+keyFile(id.dir),
		"--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer="+c.url,
		"--service-account-key-file="+certFile(id.dir), "--service-account-signing-key-file="+keyFile(id.dir),
		"--api-audiences="+audience, "--authorization-mode=RBAC", "--authentication-config="+auth)...); err != nil {
		return c, err
	}
	c.apiserver.target = target{ports[2], "/apis/authentication.k8s.io/v1/tokenreviews", authenticated}
	if err := until(ctx, func() error { return c.do(ctx, http.MethodGet, "/readyz", nil) }); err != nil {
		log, _ := os.ReadFile(filepath.Join(id.dir, "kube-apiserver.log")) // only for the message
		return c, fmt.Errorf("kube-apiserver isn't ready: %w; the end of its log:\n%s", err, log[max(0, len(log)-4000):])
	}
	return c, nil
}

// freeAddresses are loopback addresses that nobody listens on at this moment.
func freeAddresses(n int) ([]string, error) {
	var all []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // held to the end, so that none is given twice
		all = append(all, l.Addr().String())
	}
	return all, nil
}

// revocations are in force while tipstaff is measured; none is of our runs.
const revocations = 1000

func (c *controlPlane) addRevocations(ctx context.Context) error {
	crd, err := os.ReadFile(filepath.Join("..", "manifests", "crds", "tipstaff.dev_revocations.yaml"))
	if err != nil {
		return err
	}
	crd, err = yaml.YAMLToJSON(crd)
	if err != nil {
		return err
	}
	if err := c.do(ctx, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd); err != nil {
		return err
	}
	for i := range revocations {
		body := fmt.Appendf(nil, `{"apiVersion":"tipstaff.dev/v1alpha1","kind":"Revocation","metadata":{"name":"other-%d"},"spec":{"issuer":"platform","run":"other-%d","reason":"bench"}}`, i, i)
		add := func() error { return c.do(ctx, http.MethodPost, "/apis/tipstaff.dev/v1alpha1/revocations", body) }
		if i == 0 { // the type takes a moment to be served
			err = until(ctx, add)
		} else {
			err = add()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// do makes one request, which must succeed.
func (c *controlPlane) do(ctx context.Context, method, path string, body []byte) error {
	return c.as(ctx, method, "application/json", path, body)
}

// as makes one with a body of that type.
func (c *controlPlane) as(ctx context.Context, method, contentType, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // to its end, so that the connection is kept
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %.600s", method, path, resp.Status, strings.TrimSpace(string(b)))
	}
	return nil
}

func (c *controlPlane) stop() error {
	c.client.CloseIdleConnections()
	var errs []error
	for _, s := range []*server{c.apiserver, c.etcd} {
		if s != nil {
			errs = append(errs, s.stop())
		}
	}
	return errors.Join(errs...)
}
